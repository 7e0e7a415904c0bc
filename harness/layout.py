"""Where tokens stand in a batch of sequences: columns, segments and positions.

A sequence is ``[padding] [prefix] [visual tokens] [segment 1] [segment 2] ...``. The questions of one
image are segments of one sequence; a block mask lets each see the image and itself alone, so what
they share is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Layout:
    """G sequences of length L that hold R rows (questions).

    ``segments`` is -1 on padding, 0 on what all questions of a sequence share, 1.. on questions.
    ``text`` lists each row's instruction columns, its last column repeated where rows are unequal.
    """

    segments: torch.Tensor  # int64 [G, L]
    positions: torch.Tensor  # int64 [G, L]
    visual: torch.Tensor  # int64 [G, K] columns of the visual tokens
    prefix: torch.Tensor  # int64 [G, P] columns of the text before the image
    text: torch.Tensor  # int64 [R, T]
    lengths: torch.Tensor  # int64 [R] instruction tokens
    group: torch.Tensor  # int64 [R] sequence of each row
    number: torch.Tensor  # int64 [R] segment of each row

    @property
    def last(self) -> torch.Tensor:
        """Column of each row's last instruction token: int64 [R]."""
        return self.text[:, -1]

    @property
    def plain(self) -> bool:
        """Whether causality alone is the mask: one question a sequence, no padding."""
        return len(self.group) == len(self.segments) and bool((self.segments >= 0).all())

    def mask(self) -> torch.Tensor | None:
        """Bool [G, 1, L, L], True where a column may look; None where plain causality does."""
        if self.plain:
            return None
        length = self.segments.shape[1]
        keys, queries = self.segments[:, None, :], self.segments[:, :, None]
        allowed = ((keys == 0) | (keys == queries)) & (keys >= 0)
        causal = torch.ones(length, length, dtype=torch.bool, device=keys.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=keys.device)
        return ((allowed & causal) | itself)[:, None]


def build(
    prefix: int, visual: int, places: torch.Tensor | None, after: int, questions: list[list[int]], device: torch.device
) -> Layout:
    """The layout of G sequences.

    Args:
        prefix: P, tokens before the image.
        visual: K, visual tokens.
        places: int64 [G, K] position of each visual token, counted from the image's first.
        after: position of the first instruction token.
        questions: of every sequence, the lengths of its questions.
    """
    sequences, rows = len(questions), [length for lengths in questions for length in lengths]
    total = prefix + visual + max(sum(lengths) for lengths in questions)
    segments = torch.full((sequences, total), -1, dtype=torch.int64)
    positions = torch.zeros(sequences, total, dtype=torch.int64)
    text = torch.zeros(len(rows), max(rows), dtype=torch.int64)
    starts, group, number, row = [], [], [], 0
    for sequence, lengths in enumerate(questions):
        column = total - prefix - visual - sum(lengths)
        starts.append(column)
        segments[sequence, column : column + prefix + visual] = 0
        positions[sequence, column : column + prefix] = torch.arange(prefix)
        column += prefix + visual
        for segment, length in enumerate(lengths, 1):
            columns = torch.arange(column, column + length)
            segments[sequence, columns] = segment
            positions[sequence, columns] = torch.arange(after, after + length)
            text[row, :length], text[row, length:] = columns, column + length - 1
            group.append(sequence)
            number.append(segment)
            column, row = column + length, row + 1
    first = torch.tensor(starts)[:, None]
    columns = first + prefix + torch.arange(visual)
    if visual:
        positions.scatter_(
            1, columns, prefix + (places.cpu() if places is not None else torch.arange(visual).expand(sequences, -1))
        )
    to = lambda tensor: tensor.to(device)
    return Layout(
        to(segments), to(positions), to(columns), to(first + torch.arange(prefix)), to(text),
        to(torch.tensor(rows)), to(torch.tensor(group)), to(torch.tensor(number)),
    )  # fmt: skip
