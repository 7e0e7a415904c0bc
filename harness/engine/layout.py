"""Where tokens stand in a batch of sequences: columns, segments, positions, and who may look at whom.

A sequence is ``[prefix] [segment 1] [segment 2] ... [padding]``; the prefix is the text before the image and the visual
tokens, with the text that stands among them. The questions of one image are segments of one sequence; a block mask lets
each see the prefix and itself alone, so what they share is computed once.

All of it follows from whole numbers that the host knows: a layout is built there, stays there, and is sent to the device of
the layers that read it in one copy. Whoever asks for a number asks the host's (`SequenceLayout.host`), so nobody waits.

Padding stands behind, and makes widths that need it a multiple of `LANES`: attention adds up a row's columns in lanes and
blocks counted from the first, so what a token comes to is rounded alike whatever stands beside its sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch

from harness.engine.transfer import send
from harness.models.attention_kind import AttentionKind
from harness.models.probes import turns
from harness.models.prompt import PromptPrefix

LANES = 8
"""Columns to a multiple of which sequences with padding are widened."""


@dataclass(frozen=True)
class TokenPositions:
    """Where the tokens of G prefixes stand: P tokens of text and K visual tokens each, and their positions; all on the host.

    Positions are [G, ...], or [A, G, ...] where they have several axes.
    """

    prefix: PromptPrefix  # as it is with all its visual tokens
    visual_before: torch.Tensor  # int64 [G, P] visual tokens before each token of text
    text: torch.Tensor  # int64 [..., G, P] positions
    visual: torch.Tensor  # int64 [..., G, K] positions
    question_start: torch.Tensor  # int64 [G] position of the first token of a question
    image: torch.Tensor  # int64 [G, K] the image that each visual token is of
    ids: torch.Tensor  # int64 [G, K] original token of each; -1 of no single place

    @classmethod
    def of(cls, prefix: PromptPrefix, indices: torch.Tensor, ids: torch.Tensor | None = None) -> TokenPositions:
        """Return the positions of some of a prefix's visual tokens, in the order given, as if none had left.

        Args:
            prefix: all that stands before the questions.
            indices: int64 [G, K], on the CPU. A token stands behind all text that the prefix has before it; one of no
                single place is -1: it stands behind the token before it, and is numbered like the image's first.
            ids: int64 [G, K] original token of each, where that is not its place in the prompt.
        """
        sequences, known = len(indices), indices.clamp_min(0)
        visual, text = prefix.positions[..., prefix.is_visual], prefix.positions[..., ~prefix.is_visual]
        if indices.shape[1]:
            before = torch.searchsorted(known.cummax(1).values, prefix.visual_before.repeat(sequences, 1))
        else:
            before = torch.zeros(sequences, text.shape[-1], dtype=torch.int64)
        return cls(
            prefix,
            before,
            _of_sequences(text, sequences),
            _of_sequences(visual, sequences).gather(-1, known.expand(*visual.shape[:-1], *known.shape)),
            torch.full((sequences,), prefix.question_start),
            prefix.image.expand(sequences, -1).gather(1, known),
            indices if ids is None else ids,
        )

    def keep(self, group: torch.Tensor, indices: torch.Tensor) -> TokenPositions:
        """Return the positions of what rows keep of their sequences' visual tokens.

        Args:
            group: int64 [R] sequence of each row.
            indices: int64 [R, K'] into the K present; -1 for a token of no single place, which is numbered like the last
                place before the question.
        """
        known, nowhere = indices.clamp_min(0), indices < 0
        take = known.expand(*self.visual.shape[:-2], *known.shape)
        last = (self.question_start[group] - 1)[:, None]
        before = self.visual_before[group]
        if indices.shape[1]:
            behind = torch.where(nowhere, self.visual.shape[-1] - 1, known).cummax(1).values
            before = torch.searchsorted(behind, before)
        else:
            before = torch.zeros_like(before)
        return replace(
            self,
            visual_before=before,
            text=self.text[..., group, :],
            visual=torch.where(nowhere, last, self.visual[..., group, :].gather(-1, take)),
            question_start=self.question_start[group],
            image=self.image[group].gather(1, known),
            ids=self.ids[group].gather(1, known).masked_fill(nowhere, -1),
        )

    def contiguous(self) -> TokenPositions:
        """Return the same tokens numbered as if the others had never been.

        With one axis, tokens are counted. With three, rows and columns of an image that hold no token any more vanish:
        on every axis, the values that are left are counted from the image's start, and the text goes on behind the
        largest count.
        """
        text_columns, visual_columns = self.columns()
        if self.prefix.axes == 1:
            width = self.visual_before.shape[1] + self.visual.shape[-1]
            start = torch.full_like(self.question_start, width)
            return replace(self, text=text_columns, visual=visual_columns, question_start=start)
        text, visual = torch.zeros_like(self.text), torch.zeros_like(self.visual)
        start = torch.zeros_like(self.question_start)
        ends = torch.tensor([span.count for span in self.prefix.spans], dtype=torch.int64).cumsum(0)
        images_before = torch.searchsorted(ends, self.prefix.visual_before, right=True)  # each token of text
        for image in range(len(self.prefix.spans) + 1):
            words = (images_before == image).nonzero()[:, 0]
            text[..., words] = start[:, None] + torch.arange(len(words))
            start = start + len(words)
            if image == len(self.prefix.spans):
                break
            mine = self.image == image
            extent = torch.zeros_like(start)
            for axis in range(self.prefix.axes):
                values = torch.where(mine, self.visual[axis], 0)
                there = torch.zeros(len(start), int(values.max()) + 1 if values.numel() else 1, dtype=torch.int64)
                there.scatter_reduce_(1, values, mine.long(), "amax")
                rank = there.cumsum(1)
                visual[axis] = torch.where(mine, start[:, None] + rank.gather(1, values) - 1, visual[axis])
                extent = torch.maximum(extent, rank[:, -1])
            start = start + extent
        return replace(self, text=text, visual=visual, question_start=start)

    def columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the columns of the text, int64 [G, P], and of the visual tokens, int64 [G, K], counted from the first."""
        sequences, count = len(self.visual_before), self.visual.shape[-1]
        text = self.visual_before + torch.arange(self.visual_before.shape[1])
        order = torch.arange(count).expand(sequences, -1).contiguous()
        return text, order + torch.searchsorted(self.visual_before.contiguous(), order, right=True)


def _of_sequences(row: torch.Tensor, sequences: int) -> torch.Tensor:
    """[..., n] for each of G sequences: [..., G, n]."""
    return row.unsqueeze(-2).expand(*row.shape[:-1], sequences, row.shape[-1])


@dataclass(frozen=True)
class SequenceLayout:
    """Where the tokens of G sequences of length L stand, which hold R rows (questions).

    ``segments`` is -1 on padding, 0 on what all questions of a sequence share, 1.. on questions. ``slots`` counts a
    token's place in what one question sees: what a sliding window is measured in.
    ``text`` lists each row's instruction columns, its last column repeated where rows are unequal.

    A layout lies on the host as it is built; what `send` returns has its tables on a device, and holds the host's.
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
    turn: torch.Tensor  # int64 [R] the how-manieth of its sequence's rows each is, from 0
    ids: torch.Tensor  # int64 [G, K] original token of each visual token; -1 of no single place
    token_positions: TokenPositions  # of what stands before the questions; on the host
    host_layout: SequenceLayout | None = None  # None where this one is the host's

    @property
    def host(self) -> SequenceLayout:
        """The same layout on the host, where its numbers can be read without waiting for a device."""
        return self if self.host_layout is None else self.host_layout

    @property
    def last(self) -> torch.Tensor:
        """Column of each row's last instruction token: int64 [R]."""
        return self.text[:, -1]

    @property
    def before_image(self) -> torch.Tensor:
        """Columns of the text before the first visual token: int64 [G, S]; tokens that have left still count as there."""
        return self.prefix[:, : int((self.token_positions.prefix.visual_before == 0).sum())]

    @cached_property
    def causal_only(self) -> bool:
        """Whether causality alone is the mask: one question a sequence, no padding."""
        segments = self.host.segments
        return bool((segments >= 0).all() and (segments <= 1).all())

    @cached_property
    def causal_prefill(self) -> bool:
        """Whether causality alone is the mask of the prompt: one question a sequence, padded behind if at all."""
        there = self.host.segments >= 0
        return bool((self.host.segments <= 1).all() and (there[:, :-1] | ~there[:, 1:]).all())

    @cached_property
    def row_per_sequence(self) -> bool:
        """Whether sequences and rows are the same, in the same order."""
        return self.host.group.tolist() == list(range(len(self.segments)))

    @cached_property
    def most_rows(self) -> int:
        """Rows of the sequence that has the most."""
        return int(self.host.turn.max()) + 1

    def of_rows(self, table: torch.Tensor) -> torch.Tensor:
        """Return what a table of the sequences, [G, ...], has for each row, [R, ...]; it is not copied where it is the same."""
        return table if self.row_per_sequence else table[self.group]

    def send(self, device: torch.device, *others: torch.Tensor) -> tuple[SequenceLayout, list[torch.Tensor]]:
        """Return the same layout on a device, and tables of the host that travel with it: all of them in one copy."""
        host = self.host
        names = [field.name for field in fields(host) if isinstance(getattr(host, field.name), torch.Tensor)]
        sent = send([*(getattr(host, name) for name in names), *others], device)
        if device.type == "cpu":
            return host, sent[len(names) :]
        there: dict[str, Any] = dict(zip(names, sent))
        return replace(host, **there, host_layout=host), sent[len(names) :]

    def to(self, device: torch.device) -> SequenceLayout:
        """Return the same layout on a device."""
        return self if self.segments.device == device else self.send(device)[0]

    def select(self, rows: list[int]) -> SequenceLayout:
        """Return the same sequences for some of the rows; what the others are asked stays where it is."""
        host = self.host
        lengths = host.lengths[rows]
        text = host.text[rows, : int(lengths.max())]
        group = host.group[rows]
        some = replace(host, text=text, lengths=lengths, group=group, number=host.number[rows], turn=turns(group)[0])
        return some.send(self.segments.device)[0]

    def seen_by(self, kind: AttentionKind) -> tuple[int | None, bool, bool]:
        """Return the arguments of `mask` for layers of a kind; what changes nothing in these sequences is left out."""
        if kind.bidirectional_prompt:
            return None, False, True
        narrow = kind.window is not None and kind.window < self.segments.shape[1]
        return kind.window if narrow else None, kind.bidirectional_images and self.visual.shape[1] > 0, False

    def mask(
        self, window: int | None = None, bidirectional_images: bool = False, bidirectional_prompt: bool = False
    ) -> torch.Tensor | None:
        """Return which columns may look at which.

        Args:
            window: how many slots back a column sees, itself included. Slots count the tokens that are present: where
                tokens leave, the window reaches as many others further back.
            bidirectional_images: whether the visual tokens of one image see each other, later ones too.
            bidirectional_prompt: whether all tokens of a prompt see each other, those out of the window too. A sequence then
                holds one question, since what stands before it depends on it.

        Returns:
            Bool [G, 1, L, L], True where a column may look; None where plain causality does.
        """
        length = self.segments.shape[1]
        if bidirectional_prompt:
            there = self.segments >= 0
            itself = torch.eye(length, dtype=torch.bool, device=there.device)
            return ((there[:, :, None] & there[:, None, :]) | itself)[:, None]
        narrow = window is not None and window < length
        if self.causal_prefill and not narrow and not (bidirectional_images and self.visual.shape[1]):
            return None
        keys, queries = self.segments[:, None, :], self.segments[:, :, None]
        allowed = ((keys == 0) | (keys == queries)) & (keys >= 0) & (queries >= 0)
        causal = torch.ones(length, length, dtype=torch.bool, device=keys.device).tril()
        if bidirectional_images:
            causal = causal | ((self.image[:, None, :] == self.image[:, :, None]) & (self.image >= 0)[:, None, :])
        allowed = allowed & causal
        if window is not None and narrow:
            allowed &= self.slots[:, None, :] > self.slots[:, :, None] - window
        itself = torch.eye(length, dtype=torch.bool, device=keys.device)
        return (allowed | itself)[:, None]


def build_layout(prefixes: TokenPositions, questions: Sequence[Sequence[int]]) -> SequenceLayout:
    """Lay out G sequences, on the host.

    Args:
        prefixes: what stands before the questions of each sequence.
        questions: of every sequence, the lengths of its questions in tokens.
    """
    sequences, rows = len(questions), [length for lengths in questions for length in lengths]
    shared_text, shared_visual = prefixes.columns()
    shared = shared_text.shape[1] + shared_visual.shape[1]
    widths = [shared + sum(lengths) for lengths in questions]
    total = widths[0] if len(questions) == len(rows) and len(set(widths)) == 1 else -(-max(widths) // LANES) * LANES
    segments = torch.full((sequences, total), -1, dtype=torch.int64)
    positions = torch.zeros(*prefixes.visual.shape[:-2], sequences, total, dtype=torch.int64)
    slots = torch.zeros(sequences, total, dtype=torch.int64)
    image = torch.full((sequences, total), -1, dtype=torch.int64)
    text = torch.zeros(len(rows), max(rows), dtype=torch.int64)
    segments[:, :shared] = 0
    slots[:, :shared] = torch.arange(shared)
    group: list[int] = []
    number: list[int] = []
    row, starts = 0, prefixes.question_start.tolist()
    for sequence, lengths in enumerate(questions):
        column = shared
        for segment, length in enumerate(lengths, 1):
            columns = torch.arange(column, column + length)
            segments[sequence, columns] = segment
            slots[sequence, columns] = torch.arange(shared, shared + length)
            positions[..., sequence, columns] = torch.arange(starts[sequence], starts[sequence] + length)
            text[row, :length], text[row, length:] = columns, column + length - 1
            group.append(sequence)
            number.append(segment)
            column, row = column + length, row + 1
    for columns, values in ((shared_text, prefixes.text), (shared_visual, prefixes.visual)):
        positions.scatter_(-1, columns.expand(values.shape), values)
    image.scatter_(1, shared_visual, prefixes.image)
    return SequenceLayout(
        segments=segments,
        positions=positions,
        slots=slots,
        image=image,
        visual=shared_visual,
        prefix=shared_text,
        text=text,
        lengths=torch.tensor(rows),
        group=torch.tensor(group),
        number=torch.tensor(number),
        turn=turns(torch.tensor(group))[0],
        ids=prefixes.ids,
        token_positions=prefixes,
    )


def old_columns(old: SequenceLayout, new: SequenceLayout, origin: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Return where what stands in each column stood before some visual tokens left; everything is on the host.

    Args:
        old: the layout before.
        new: that of the G' sequences afterwards, of the same rows.
        origin: int64 [G'] the sequence that each comes from.
        indices: int64 [G', K'] which of its visual tokens each has; -1 of no single place.

    Returns:
        int64 [G', L'] columns of the sequences before; 0 for padding, any of them for a token of no single place.
    """
    columns = torch.zeros_like(new.segments)
    columns.scatter_(1, new.prefix, old.prefix[origin])
    columns.scatter_(1, new.visual, old.visual[origin].gather(1, indices.clamp_min(0)))
    columns[new.group[:, None], new.text] = old.text
    return columns
