"""Greedy decoding on caches that differ in length between layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.layout import Layout


class Store:
    """Keys and values of the layers of one phase; what a decoder layer sees as its cache.

    Each layer's tensors are [G, Hkv, columns, head_dim]; a layer's length is its own.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *args, **kwargs):
        """Append new columns to layer ``layer`` and return all of its keys and values."""
        index = layer - self.first
        if index == len(self.layers):
            self.layers.append((keys, values))
        else:
            old_keys, old_values = self.layers[index]
            self.layers[index] = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
        return self.layers[index]

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)


@dataclass(frozen=True)
class Kind:
    """How some of the decoder's layers attend."""

    name: str = "full_attention"
    window: int | None = None  # slots, where it slides
    together: bool = False  # whether the visual tokens of one image see each other


@dataclass
class Phase:
    """Consecutive decoder layers that see one layout. Masks and rotary angles are kept for every kind of layer."""

    first: int  # layer
    layout: Layout
    masks: dict[str, torch.Tensor | None]  # of the prefill
    rotary: dict[str, tuple[torch.Tensor, torch.Tensor]]
    store: Store

    @classmethod
    def starting(cls, adapter, first: int, layout: Layout, hidden: torch.Tensor) -> Phase:
        """From layer ``first`` on, sequences have this layout."""
        kinds = {adapter.kind(layer).name: adapter.kind(layer) for layer in range(first, adapter.shape.layers)}
        masks = {name: layout.mask(kind.window, kind.together) for name, kind in kinds.items()}
        rotary = {name: adapter.rotary(hidden, layout.positions, name) for name in kinds}
        return cls(first, layout, masks, rotary, Store(first))

    def begin(self) -> None:
        """Prepare for decoding: which columns a new token of each segment may see."""
        layout = self.layout
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

    def step(self, adapter, hidden: torch.Tensor, last_layer: int) -> torch.Tensor:
        """Run one new token a row, hidden [R, D], through the phase's layers."""
        layout = self.layout
        states = torch.zeros(*self.appended.shape, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
        states[layout.group, layout.number - 1] = hidden
        self.segments = torch.cat([self.segments, self.appended], 1)
        self.slots = torch.cat([self.slots, self.slot], 1)
        kinds = [adapter.kind(layer) for layer in range(self.first, last_layer)]
        masks = {kind.name: self._mask(kind.window) for kind in dict.fromkeys(kinds)}
        rotary = {kind.name: adapter.rotary(states, self.next, kind.name) for kind in dict.fromkeys(kinds)}
        for layer, kind in enumerate(kinds, self.first):
            states = adapter.layer(layer, states, masks[kind.name], self.next, rotary[kind.name], self.store)
        self.next, self.slot = self.next + 1, self.slot + 1
        return states[layout.group, layout.number - 1]

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


def decode(adapter, phases: list[Phase], logits: torch.Tensor, limit: int) -> list[list[int]]:
    """Greedy answers from the first token's logits [R, V]; ends leave their end token out."""
    rows = len(logits)
    answers: list[list[int]] = [[] for _ in range(rows)]
    done = torch.zeros(rows, dtype=torch.bool, device=logits.device)
    ends = torch.tensor(sorted(adapter.end_ids), device=logits.device)
    for phase in phases:
        phase.begin()
    bounds = [phase.first for phase in phases[1:]] + [adapter.shape.layers]
    for count in range(limit):
        token = logits.argmax(-1)
        done = done | torch.isin(token, ends)
        for row, (value, finished) in enumerate(zip(token.tolist(), done.tolist())):
            if not finished:
                answers[row].append(value)
        if bool(done.all()) or count == limit - 1:
            break
        hidden = adapter.embed(token)
        for phase, bound in zip(phases, bounds):
            hidden = phase.step(adapter, hidden, bound)
        logits = adapter.logits(hidden)
    return answers
