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


@dataclass
class Phase:
    """Consecutive decoder layers that see one layout."""

    first: int  # layer
    layout: Layout
    mask: torch.Tensor | None  # of the prefill
    rotary: tuple[torch.Tensor, torch.Tensor]
    store: Store

    def begin(self) -> None:
        """Prepare for decoding: which columns a new token of each segment may see."""
        layout = self.layout
        self.slots = int(layout.number.max())  # new columns a step appends to each sequence
        self.plain = layout.plain
        device = layout.segments.device
        self.appended = torch.full((len(layout.segments), self.slots), -1, dtype=torch.int64, device=device)
        self.appended[layout.group, layout.number - 1] = layout.number
        self.segments = layout.segments
        self.next = torch.zeros(len(layout.segments), self.slots, dtype=torch.int64, device=device)
        self.next[layout.group, layout.number - 1] = layout.positions[layout.group, layout.last] + 1

    def step(self, adapter, hidden: torch.Tensor, last_layer: int) -> torch.Tensor:
        """Run one new token a row, hidden [R, D], through the phase's layers."""
        layout = self.layout
        states = torch.zeros(*self.appended.shape, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
        states[layout.group, layout.number - 1] = hidden
        self.segments = torch.cat([self.segments, self.appended], 1)
        mask = None
        if not self.plain:
            keys, queries = self.segments[:, None, :], self.appended[:, :, None]
            mask = (((keys == 0) | (keys == queries)) & (keys >= 0))[:, None]
            mask[..., -self.slots :] |= torch.eye(self.slots, dtype=torch.bool, device=mask.device)
        rotary = adapter.rotary(states, self.next)
        for layer in range(self.first, last_layer):
            states = adapter.layer(layer, states, mask, self.next, rotary, self.store)
        self.next = self.next + 1
        return states[layout.group, layout.number - 1]


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
