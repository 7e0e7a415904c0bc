"""Greedy decoding on caches that differ in length between layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.engine.layout import SequenceLayout
from harness.errors import SampleError

_ROOM = 8  # columns a cache grows by at a time, times the columns that are appended


class KVCache:
    """Keys and values of the layers of one span; what a decoder layer sees as its cache.

    Each layer's tensors are [G, Hkv, columns, head_dim]; a layer's length is its own. What a prompt gave is never written
    to: appending moves it once to a place with room behind it.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.roomy: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # what layers look into once they were appended to

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *args, **kwargs):
        """Append new columns to layer ``layer`` and return all of its keys and values."""
        index = layer - self.first
        if index == len(self.layers):
            self.layers.append((keys, values))
            return keys, values
        before, new = self.layers[index][0].shape[2], keys.shape[2]
        if index not in self.roomy or self.roomy[index][0].shape[2] < before + new:
            self.roomy[index] = tuple(_with_room(table, _ROOM * new) for table in self.layers[index])
        for roomy, table in zip(self.roomy[index], (keys, values), strict=True):
            roomy[:, :, before : before + new] = table
        self.layers[index] = tuple(roomy[:, :, : before + new] for roomy in self.roomy[index])
        return self.layers[index]

    def keep(self, sequences: torch.Tensor) -> None:
        """Let go of all other sequences, int64 [G']."""
        self.layers = [(keys[sequences], values[sequences]) for keys, values in self.layers]
        self.roomy = {}

    def fork(self) -> KVCache:
        """The same keys and values by reference; what is appended to one is not to the other."""
        forked = KVCache(self.first)
        forked.layers = list(self.layers)
        return forked

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)


def _with_room(table: torch.Tensor, columns: int) -> torch.Tensor:
    """A copy of [G, H, L, D] in front of unwritten columns."""
    roomy = table.new_empty(*table.shape[:2], table.shape[2] + columns, table.shape[3])
    roomy[:, :, : table.shape[2]] = table
    return roomy


def ready_mask(mask: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor | None:
    """A mask as SDPA takes it fastest: on a CPU it turns a bool one into what it adds to scores, in every layer anew."""
    if mask is None or hidden.device.type != "cpu":
        return mask
    return torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill_(~mask, -torch.inf)


@dataclass
class LayerSpan:
    """Consecutive decoder layers that see one layout. Masks and rotary angles are kept for every kind of layer."""

    first: int  # layer
    layout: SequenceLayout
    masks: dict[str, torch.Tensor | None]  # of the prefill, as `ready_mask` leaves them
    rotary: dict[str, tuple[torch.Tensor, torch.Tensor]]
    cache: KVCache

    @classmethod
    def starting(cls, adapter, first: int, layout: SequenceLayout, hidden: torch.Tensor) -> LayerSpan:
        """From layer ``first`` on, sequences have this layout."""
        kinds = {adapter.kind(layer).name: adapter.kind(layer) for layer in range(first, adapter.shape.layers)}
        masks = {name: ready_mask(layout.mask(kind.window, kind.together), hidden) for name, kind in kinds.items()}
        rotary = {name: adapter.rotary(hidden, layout.positions, name) for name in kinds}
        return cls(first, layout, masks, rotary, KVCache(first))

    def fork(self, rows: list[int] | None = None) -> LayerSpan:
        """The same layers for another walk, of some of the rows."""
        layout = self.layout if rows is None else self.layout.rows(rows)
        return LayerSpan(self.first, layout, self.masks, self.rotary, self.cache.fork())

    def begin(self) -> None:
        """Prepare for decoding: which columns a new token of each segment may see."""
        layout = self.layout
        self.group, self.number = layout.group, layout.number  # of each row, as long as it is not done
        self.width = int(layout.number.max())  # new columns a step appends to each sequence
        self.plain = layout.plain
        device = layout.segments.device
        spread = lambda values, fill: torch.full(
            (len(layout.segments), self.width), fill, dtype=torch.int64, device=device
        ).index_put((layout.group, layout.number - 1), values)
        self.appended = spread(layout.number, -1)
        self.segments, self.slots = layout.segments, layout.slots
        # text has one number on all axes
        positions = layout.positions if layout.positions.dim() == 2 else layout.positions[0]
        self.next = spread(positions[layout.group, layout.last] + 1, 0)
        self.slot = spread(layout.slots[layout.group, layout.last] + 1, 0)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the rows, int64 [R']; sequences without one leave, once they are the most of them."""
        self.group, self.number = self.group[rows], self.number[rows]
        sequences, group = self.group.unique(return_inverse=True)
        if 2 * len(sequences) > len(self.segments):
            return
        self.group = group
        self.segments, self.slots, self.appended, self.next, self.slot = (
            table[sequences] for table in (self.segments, self.slots, self.appended, self.next, self.slot)
        )
        self.cache.keep(sequences)

    def step(self, adapter, hidden: torch.Tensor, last_layer: int) -> torch.Tensor:
        """Run one new token a row, hidden [R, D], through the span's layers."""
        states = torch.zeros(*self.appended.shape, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
        states[self.group, self.number - 1] = hidden
        self.segments = torch.cat([self.segments, self.appended], 1)
        self.slots = torch.cat([self.slots, self.slot], 1)
        kinds = [adapter.kind(layer) for layer in range(self.first, last_layer)]
        masks = {kind.name: ready_mask(self._mask(kind.window), states) for kind in dict.fromkeys(kinds)}
        rotary = {kind.name: adapter.rotary(states, self.next, kind.name) for kind in dict.fromkeys(kinds)}
        for layer, kind in enumerate(kinds, self.first):
            states = adapter.layer(layer, states, masks[kind.name], self.next, rotary[kind.name], self.cache)
        self.next, self.slot = self.next + 1, self.slot + 1
        return states[self.group, self.number - 1]

    def _mask(self, window: int | None) -> torch.Tensor | None:
        """Which columns the new ones may look at: bool [G, 1, width, columns], None for all."""
        narrow = window is not None and window < self.segments.shape[1]
        if self.plain and not narrow:
            return None
        keys, queries = self.segments[:, None, :], self.appended[:, :, None]
        mask = ((keys == 0) | (keys == queries)) & (keys >= 0)
        if narrow:
            mask &= self.slots[:, None, :] > self.slot[:, :, None] - window
        mask[..., -self.width :] |= torch.eye(self.width, dtype=torch.bool, device=mask.device)
        return mask[:, None]


def decode(
    adapter, spans: list[LayerSpan], logits: torch.Tensor, limit: int, ends: frozenset[int], strict: bool = False
) -> tuple[list[list[int]], list[int | None]]:
    """Greedy answers from the first token's logits [R, V]; a row leaves with its end token.

    Args:
        ends: tokens that end an answer.
        strict: whether logits that are not finite are a `SampleError`.

    Returns:
        Token ids of each answer without its end token, and that token; None where the limit ended it.
    """
    answers: list[list[int]] = [[] for _ in range(len(logits))]
    ended: list[int | None] = [None] * len(logits)
    alive = torch.arange(len(logits), device=logits.device)
    last = torch.tensor(sorted(ends), device=logits.device)
    for span in spans:
        span.begin()
    bounds = [span.first for span in spans[1:]] + [adapter.shape.layers]
    for count in range(limit):
        if strict and not bool(logits.isfinite().all()):
            raise SampleError(f"logits of answer token {count + 1} are not finite")
        token = logits.argmax(-1)
        done = torch.isin(token, last)
        if bool(done.any()):
            on = (~done).nonzero()[:, 0]
            for row, value in zip(alive[done].tolist(), token[done].tolist()):
                ended[row] = value
            alive, token = alive[on], token[on]
            for span in spans if len(on) else ():
                span.keep(on)
        for row, value in zip(alive.tolist(), token.tolist()):
            answers[row].append(value)
        if not len(alive) or count == limit - 1:
            break
        hidden = adapter.embed(token)
        for span, bound in zip(spans, bounds):
            hidden = span.step(adapter, hidden, bound)
        logits = adapter.logits(hidden)
    return answers, ended
