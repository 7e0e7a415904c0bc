"""Where tokens stand in a batch of sequences: columns, segments, positions, and who may look at whom.

A sequence is ``[frame] [segment 1] [segment 2] ... [padding]``; the frame is the text before the image and the visual
tokens, with the text that stands among them. The questions of one image are segments of one sequence; a block mask lets
each see the frame and itself alone, so what they share is computed once.

Padding stands behind, and makes widths that need it a multiple of `LANES`: attention adds up a row's columns in lanes and
blocks counted from the first, so what a token comes to is rounded alike whatever stands beside its sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from harness.models.prompt import PromptPrefix

LANES = 8


@dataclass(frozen=True)
class TokenPositions:
    """What G sequences hold of a frame: P tokens of text and K visual tokens, and their positions.

    Positions are [G, ...], or [A, G, ...] where they have several axes.
    """

    frame: PromptPrefix
    ahead: torch.Tensor  # int64 [G, P] visual tokens before each token of text
    text: torch.Tensor  # int64 [..., G, P] positions
    visual: torch.Tensor  # int64 [..., G, K] positions
    after: torch.Tensor  # int64 [G] position of the first token of a question
    image: torch.Tensor  # int64 [G, K] the image that each visual token is of

    @classmethod
    def of(cls, frame: PromptPrefix, indices: torch.Tensor, positions: torch.Tensor | None = None) -> TokenPositions:
        """Some of the frame's visual tokens, in the order given, with their original positions.

        Args:
            indices: int64 [G, K], on the CPU. A token stands behind all text that the frame has before it; one of no
                single place is -1: it stands behind the token before it, and is numbered like the image's first.
        """
        sequences, known = len(indices), indices.clamp_min(0)
        spread = lambda row: row.unsqueeze(-2).expand(*row.shape[:-1], sequences, row.shape[-1])
        visual, text = frame.positions[..., frame.is_visual], frame.positions[..., ~frame.is_visual]
        ahead = torch.searchsorted(known.cummax(1).values, frame.ahead.repeat(sequences, 1)) if indices.shape[1] else None
        return cls(
            frame,
            torch.zeros(sequences, text.shape[-1], dtype=torch.int64) if ahead is None else ahead,
            spread(text),
            spread(visual).gather(-1, known.expand(*visual.shape[:-1], *known.shape)),
            torch.full((sequences,), frame.after),
            frame.image.expand(sequences, -1).gather(1, known),
        )

    def keep(self, group: torch.Tensor, indices: torch.Tensor) -> TokenPositions:
        """What rows keep of their sequences' visual tokens.

        Args:
            group: int64 [R] sequence of each row.
            indices: int64 [R, K'] into the K present; -1 for a token of no single place, which is numbered like the last
                place before the question.
        """
        known, nowhere = indices.clamp_min(0), indices < 0
        take = known.expand(*self.visual.shape[:-2], *known.shape)
        last = (self.after[group] - 1)[:, None]
        ahead = self.ahead[group]
        if indices.shape[1]:
            behind = torch.where(nowhere, self.visual.shape[-1] - 1, known).cummax(1).values
            ahead = torch.searchsorted(behind, ahead)
        else:
            ahead = torch.zeros_like(ahead)
        visual = torch.where(nowhere, last, self.visual[..., group, :].gather(-1, take))
        image = self.image[group].gather(1, known)
        return replace(self, ahead=ahead, text=self.text[..., group, :], visual=visual, after=self.after[group], image=image)

    def contiguous(self) -> TokenPositions:
        """The same tokens numbered as if the others had never been.

        With one axis, tokens are counted. With three, rows and columns of an image that hold no token any more vanish:
        on every axis, the values that are left are counted from the image's start, and the text goes on behind the
        largest count.
        """
        text_columns, visual_columns = self.columns()
        if self.frame.axes == 1:
            width = self.ahead.shape[1] + self.visual.shape[-1]
            return replace(self, text=text_columns, visual=visual_columns, after=torch.full_like(self.after, width))
        text, visual = torch.zeros_like(self.text), torch.zeros_like(self.visual)
        start = torch.zeros_like(self.after)
        ends = torch.tensor([block.count for block in self.frame.blocks], dtype=torch.int64).cumsum(0)
        turn = torch.searchsorted(ends, self.frame.ahead, right=True)  # images before each token of text
        for image in range(len(self.frame.blocks) + 1):
            words = (turn == image).nonzero()[:, 0]
            text[..., words] = start[:, None] + torch.arange(len(words))
            start = start + len(words)
            if image == len(self.frame.blocks):
                break
            mine = self.image == image
            extent = torch.zeros_like(start)
            for axis in range(self.frame.axes):
                values = torch.where(mine, self.visual[axis], 0)
                there = torch.zeros(len(start), int(values.max()) + 1 if values.numel() else 1, dtype=torch.int64)
                there.scatter_reduce_(1, values, mine.long(), "amax")
                rank = there.cumsum(1)
                visual[axis] = torch.where(mine, start[:, None] + rank.gather(1, values) - 1, visual[axis])
                extent = torch.maximum(extent, rank[:, -1])
            start = start + extent
        return replace(self, text=text, visual=visual, after=start)

    def columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Columns of the text [G, P] and of the visual tokens [G, K], counted from the frame's first."""
        sequences, count = len(self.ahead), self.visual.shape[-1]
        text = self.ahead + torch.arange(self.ahead.shape[1])
        places = torch.arange(count).expand(sequences, -1).contiguous()
        return text, places + torch.searchsorted(self.ahead.contiguous(), places, right=True)


@dataclass(frozen=True)
class SequenceLayout:
    """G sequences of length L that hold R rows (questions).

    ``segments`` is -1 on padding, 0 on what all questions of a sequence share, 1.. on questions. ``slots`` counts a
    token's place in what one question sees: what a sliding window is measured in.
    ``text`` lists each row's instruction columns, its last column repeated where rows are unequal.
    """

    segments: torch.Tensor  # int64 [G, L]
    positions: torch.Tensor  # int64 [G, L], or [A, G, L] where positions have several axes
    slots: torch.Tensor  # int64 [G, L]
    image: torch.Tensor  # int64 [G, L] image that a visual token is of, -1 on all else
    visual: torch.Tensor  # int64 [G, K] columns of the visual tokens
    prefix: torch.Tensor  # int64 [G, P] columns of the text that all questions share
    text: torch.Tensor  # int64 [R, T]
    lengths: torch.Tensor  # int64 [R] instruction tokens
    group: torch.Tensor  # int64 [R] sequence of each row
    number: torch.Tensor  # int64 [R] segment of each row
    places: TokenPositions  # on the CPU

    @property
    def last(self) -> torch.Tensor:
        """Column of each row's last instruction token: int64 [R]."""
        return self.text[:, -1]

    @cached_property
    def plain(self) -> bool:
        """Whether causality alone is the mask: one question a sequence, no padding."""
        return bool((self.segments >= 0).all() and (self.segments <= 1).all())

    def rows(self, places: list[int]) -> SequenceLayout:
        """The same sequences for some of the rows; what the others are asked stays where it is."""
        lengths = self.lengths[places]
        text = self.text[places, : int(lengths.max())]
        return replace(self, text=text, lengths=lengths, group=self.group[places], number=self.number[places])

    def mask(self, window: int | None = None, together: bool = False) -> torch.Tensor | None:
        """Bool [G, 1, L, L], True where a column may look; None where plain causality does.

        Args:
            window: how many slots back a column sees, itself included. Slots count the tokens that are present: where
                tokens leave, the window reaches as many others further back.
            together: whether the visual tokens of one image see each other, later ones too.
        """
        length = self.segments.shape[1]
        narrow = window is not None and window < length
        if self.plain and not narrow and not (together and self.visual.shape[1]):
            return None
        keys, queries = self.segments[:, None, :], self.segments[:, :, None]
        allowed = ((keys == 0) | (keys == queries)) & (keys >= 0) & (queries >= 0)
        causal = torch.ones(length, length, dtype=torch.bool, device=keys.device).tril()
        if together:
            causal = causal | ((self.image[:, None, :] == self.image[:, :, None]) & (self.image >= 0)[:, None, :])
        allowed = allowed & causal
        if narrow:
            allowed &= self.slots[:, None, :] > self.slots[:, :, None] - window
        itself = torch.eye(length, dtype=torch.bool, device=keys.device)
        return (allowed | itself)[:, None]


def build(places: TokenPositions, questions: list[list[int]], device: torch.device) -> SequenceLayout:
    """The layout of G sequences.

    Args:
        places: what stands before the questions.
        questions: of every sequence, the lengths of its questions.
    """
    sequences, rows = len(questions), [length for lengths in questions for length in lengths]
    shared_text, shared_visual = places.columns()
    shared = shared_text.shape[1] + shared_visual.shape[1]
    widths = [shared + sum(lengths) for lengths in questions]
    total = widths[0] if len(questions) == len(rows) and len(set(widths)) == 1 else -(-max(widths) // LANES) * LANES
    segments = torch.full((sequences, total), -1, dtype=torch.int64)
    positions = torch.zeros(*places.visual.shape[:-2], sequences, total, dtype=torch.int64)
    slots = torch.zeros(sequences, total, dtype=torch.int64)
    image = torch.full((sequences, total), -1, dtype=torch.int64)
    text = torch.zeros(len(rows), max(rows), dtype=torch.int64)
    segments[:, :shared] = 0
    slots[:, :shared] = torch.arange(shared)
    group, number, row, after = [], [], 0, places.after.tolist()
    for sequence, lengths in enumerate(questions):
        column = shared
        for segment, length in enumerate(lengths, 1):
            columns = torch.arange(column, column + length)
            segments[sequence, columns] = segment
            slots[sequence, columns] = torch.arange(shared, shared + length)
            positions[..., sequence, columns] = torch.arange(after[sequence], after[sequence] + length)
            text[row, :length], text[row, length:] = columns, column + length - 1
            group.append(sequence)
            number.append(segment)
            column, row = column + length, row + 1
    for columns, values in ((shared_text, places.text), (shared_visual, places.visual)):
        positions.scatter_(-1, columns.expand(values.shape), values)
    image.scatter_(1, shared_visual, places.image)
    to = lambda tensor: tensor.to(device)
    return SequenceLayout(
        to(segments), to(positions), to(slots), to(image), to(shared_visual), to(shared_text), to(text), to(torch.tensor(rows)),
        to(torch.tensor(group)), to(torch.tensor(number)), places,
    )  # fmt: skip
