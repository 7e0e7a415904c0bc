"""Greedy decoding on caches that differ in length between layers.

Which columns there are, who may look at them and where the next one stands are whole numbers that the host keeps. Hidden states,
logits and caches lie on the device; a token is read from there once a step, for all rows together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness.engine.layout import LANES, SequenceLayout
from harness.engine.transfer import Places, send
from harness.errors import SampleError
from harness.models.adapter import Adapter
from harness.models.probes import Rotary

_ROOM = 8  # columns a cache grows by at a time, times the columns that are appended

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of a layer, [G, Hkv, columns, head_dim] each."""


class KVCache:
    """Keys and values of the layers of one span; what a decoder layer sees as its cache.

    Each layer's tensors are [G, Hkv, columns, head_dim]; a layer's length is its own. What a prompt gave is never written
    to: appending moves it once to a place with room behind it.

    Args:
        first_layer: index of the first decoder layer that it holds.
    """

    def __init__(self, first_layer: int) -> None:
        self.first_layer = first_layer
        self.layers: list[KeysValues] = []
        self._buffers: dict[int, KeysValues] = {}  # with room, what layers look into once they were appended to

    def update(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        layer: int,
        *args: Any,  # what decoder layers of transformers hand to any cache
        **kwargs: Any,
    ) -> KeysValues:
        """Append new columns to a decoder layer, and return all of its keys and values.

        Args:
            keys: [G, Hkv, new columns, head_dim].
            values: of the same shape.
            layer: index of the decoder layer.
            args: not read.
            kwargs: not read.
        """
        index = layer - self.first_layer
        if index == len(self.layers):
            self.layers.append((keys, values))
            return keys, values
        own_keys, own_values = self.layers[index]
        before, new = own_keys.shape[2], keys.shape[2]
        if index not in self._buffers or self._buffers[index][0].shape[2] < before + new:
            self._buffers[index] = _with_room(own_keys, keys), _with_room(own_values, values)
            key_buffer, value_buffer = self._buffers[index]
        else:
            key_buffer, value_buffer = self._buffers[index]
            key_buffer[:, :, before : before + new] = keys
            value_buffer[:, :, before : before + new] = values
        self.layers[index] = key_buffer[:, :, : before + new], value_buffer[:, :, : before + new]
        return self.layers[index]

    def keep(self, sequences: torch.Tensor) -> None:
        """Let go of all sequences but some, int64 [G']."""
        self.layers = [(keys[sequences], values[sequences]) for keys, values in self.layers]
        self._buffers = {}

    def fork(self) -> KVCache:
        """Return a cache of the same keys and values by reference; what is appended to one is not to the other."""
        forked = KVCache(self.first_layer)
        forked.layers = list(self.layers)
        return forked

    @property
    def bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(table.numel() * table.element_size() for pair in self.layers for table in pair)


def _with_room(table: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """A copy of [G, H, L, D] and, behind it, of new columns [G, H, n, D], in front of unwritten ones."""
    room = table.new_empty(*table.shape[:2], (_ROOM - 1) * new.shape[2], table.shape[3])
    return torch.cat([table, new, room], 2)


def ready_mask(mask: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor | None:
    """Return a mask as SDPA takes it fastest, for hidden states of some dtype and device.

    SDPA turns a bool mask into what it adds to scores, in every layer anew; this does it once. On a GPU its rows begin at whole
    lanes, without which every layer copies it to where they do.

    Args:
        mask: bool [G, 1, L, columns], on the host or where the states are; None for none.
        hidden: the states.
    """
    if mask is None:
        return None
    columns, on_device = mask.shape[-1], hidden.device.type != "cpu"
    room = -(-columns // LANES) * LANES if on_device else columns
    whole = torch.zeros(*mask.shape[:-1], room, dtype=hidden.dtype, device=mask.device)
    whole[..., :columns].masked_fill_(~mask, -torch.inf)
    if mask.device != hidden.device:
        whole = send([whole], hidden.device)[0]
    return whole[..., :columns]


@dataclass
class LayerSpan:
    """Consecutive decoder layers that see one layout.

    Masks and rotary angles are kept for every kind of layer, until the prompt has run through all of them.
    """

    first_layer: int
    layout: SequenceLayout
    masks: dict[str, torch.Tensor | None]  # of the prefill by kind of layer, as `ready_mask` leaves them
    rotary: dict[str, Rotary]  # by kind of layer
    cache: KVCache

    @classmethod
    def starting(cls, adapter: Adapter, first_layer: int, layout: SequenceLayout, hidden: torch.Tensor) -> LayerSpan:
        """Return the span of the decoder layers from one on, whose sequences have a layout.

        Args:
            adapter: the model.
            first_layer: index of the first layer.
            layout: of the sequences.
            hidden: [G, L, D], their states; only dtype and device matter.
        """
        kinds = {adapter.kind(layer).name: adapter.kind(layer) for layer in range(first_layer, adapter.shape.layers)}
        made = {seen: ready_mask(layout.mask(*seen), hidden) for seen in {layout.seen_by(kind) for kind in kinds.values()}}
        masks = {name: made[layout.seen_by(kind)] for name, kind in kinds.items()}
        known = layout.host.positions
        rotary = {name: adapter.angles.look_up(hidden, known, layout.positions, name) for name in kinds}
        return cls(first_layer, layout, masks, rotary, KVCache(first_layer))

    def fork(self, rows: list[int] | None = None) -> LayerSpan:
        """Return the same layers for another cell, of some of the rows; caches are forked by reference."""
        layout = self.layout if rows is None else self.layout.select(rows)
        return LayerSpan(self.first_layer, layout, self.masks, self.rotary, self.cache.fork())


class SpanDecoder:
    """Runs new tokens through the layers of one span; what it knows of a row goes when the row is done.

    Its tables are on the host. What layers read of them is sent in one copy a step; in a batch of one question there is nothing.

    Args:
        adapter: the model.
        span: layers and their cache, to which new tokens are appended.
        end_layer: index of the layer behind the span's last.
    """

    def __init__(self, adapter: Adapter, span: LayerSpan, end_layer: int) -> None:
        self.adapter, self.cache, self.first_layer = adapter, span.cache, span.first_layer
        self.device, layout = span.layout.segments.device, span.layout.host
        self.kinds = [adapter.kind(layer) for layer in range(span.first_layer, end_layer)]
        self.group, self.number = layout.group, layout.number  # of each row, as long as it is not done
        self.new_columns = int(layout.number.max())  # that a step appends to each sequence
        self.causal_only = layout.causal_only
        self.segments, self.slots = layout.segments, layout.slots  # int64 [G, columns]

        def by_segment(values: torch.Tensor, fill: int) -> torch.Tensor:
            """Values of rows, int64 [R], as [G, new columns]."""
            table = torch.full((len(layout.segments), self.new_columns), fill, dtype=torch.int64)
            return table.index_put((layout.group, layout.number - 1), values)

        self.new_segments = by_segment(layout.number, -1)  # int64 [G, new columns], as the next two
        # text has one number on all axes
        positions = layout.positions if layout.positions.dim() == 2 else layout.positions[0]
        self.next_positions = by_segment(positions[layout.group, layout.last] + 1, 0)
        self.next_slots = by_segment(layout.slots[layout.group, layout.last] + 1, 0)
        self.places = self._places()

    def _places(self) -> Places:
        """Of each row, the place of its new column among those of all sequences."""
        places = (self.group * self.new_columns + self.number - 1).tolist()
        return Places.several([places], self.new_segments.numel(), self.device)[0]

    def keep(self, rows: list[int]) -> None:
        """Drop the rows that have ended, and free their sequences once at least half of them have no row left.

        Args:
            rows: indices of the rows to go on with.
        """
        self.group, self.number = self.group[rows], self.number[rows]
        sequences, group = self.group.unique(return_inverse=True)
        if 2 * len(sequences) <= len(self.segments):
            self.group = group
            self.segments, self.slots = self.segments[sequences], self.slots[sequences]
            self.new_segments = self.new_segments[sequences]
            self.next_positions, self.next_slots = self.next_positions[sequences], self.next_slots[sequences]
            self.cache.keep(send([sequences], self.device)[0])
        self.places = self._places()

    def step(self, hidden: torch.Tensor) -> torch.Tensor:
        """Run one new token a row, [R, D], through the span's layers: [R, D]."""
        hidden = hidden.to(self.device)
        if self.places.index is None:
            states = hidden
        else:
            states = hidden.new_zeros(self.new_segments.numel(), hidden.shape[-1]).index_copy_(0, self.places.index, hidden)
        states = states.view(*self.new_segments.shape, -1)
        self.segments = torch.cat([self.segments, self.new_segments], 1)
        self.slots = torch.cat([self.slots, self.next_slots], 1)
        positions = self.adapter.angles.numbers(self.next_positions, self.device)
        if positions is None:
            positions = send([self.next_positions], self.device)[0]
        kinds = dict.fromkeys(self.kinds)
        made = {window: ready_mask(self._mask(window), states) for window in {self._narrow(kind.window) for kind in kinds}}
        masks = {kind.name: made[self._narrow(kind.window)] for kind in kinds}
        rotary = {kind.name: self.adapter.angles.look_up(states, self.next_positions, positions, kind.name) for kind in kinds}
        for layer, kind in enumerate(self.kinds, self.first_layer):
            states = self.adapter.layer(layer, states, masks[kind.name], positions, rotary[kind.name], self.cache)
        self.next_positions, self.next_slots = self.next_positions + 1, self.next_slots + 1
        return self.places.of(states.flatten(0, 1))

    def _narrow(self, window: int | None) -> int | None:
        """A window, where it hides any column there is."""
        return window if window is not None and window < self.segments.shape[1] else None

    def _mask(self, window: int | None) -> torch.Tensor | None:
        """Which columns the new ones may look at: bool [G, 1, new columns, columns] on the host, None for all."""
        if self.causal_only and window is None:
            return None
        keys, queries = self.segments[:, None, :], self.new_segments[:, :, None]
        mask = ((keys == 0) | (keys == queries)) & (keys >= 0)
        if window is not None:
            mask &= self.slots[:, None, :] > self.next_slots[:, :, None] - window
        mask[..., -self.new_columns :] |= torch.eye(self.new_columns, dtype=torch.bool)
        return mask[:, None]


def decode(
    adapter: Adapter, spans: list[LayerSpan], logits: torch.Tensor, limit: int, ends: frozenset[int], strict: bool = False
) -> tuple[list[list[int]], list[int | None]]:
    """Decode greedy answers; a row leaves with its end token.

    Args:
        adapter: the model.
        spans: all decoder layers, with the caches of the prefill.
        logits: of the first token, float32 [R, V].
        limit: answer tokens at most.
        ends: tokens that end an answer.
        strict: whether logits that are not finite are an error.

    Returns:
        Token ids of each answer without its end token, and that token; None where the limit ended it.

    Raises:
        SampleError: where logits are not finite, if ``strict``.
    """
    answers: list[list[int]] = [[] for _ in range(len(logits))]
    ended: list[int | None] = [None] * len(logits)
    alive = list(range(len(logits)))
    decoders: list[SpanDecoder] = []
    for count in range(limit):
        token = logits.argmax(-1)
        told = torch.cat([token, (~logits.isfinite()).any().view(1).long()]) if strict else token
        said: list[int] = told.tolist()  # all that the host waits for
        if strict and said.pop():
            raise SampleError(f"logits of answer token {count + 1} are not finite")
        going = [place for place, value in enumerate(said) if value not in ends]
        for row, value in zip(alive, said, strict=True):
            if value in ends:
                ended[row] = value
            else:
                answers[row].append(value)
        if not going or count == limit - 1:
            break
        if not decoders:
            end_layers = [span.first_layer for span in spans[1:]] + [adapter.shape.layers]
            decoders = [SpanDecoder(adapter, span, end) for span, end in zip(spans, end_layers, strict=True)]
        if len(going) < len(said):
            alive = [alive[place] for place in going]
            token = Places.several([going], len(said), token.device)[0].of(token)
            for decoder in decoders:
                decoder.keep(going)
        hidden = adapter.enter(adapter.embed(token))
        for decoder in decoders:
            hidden = decoder.step(hidden)
        logits = adapter.logits(hidden)
    return answers, ended
