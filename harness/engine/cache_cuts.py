"""Caches of earlier layers lose what a later step dropped: answers are then decoded as if those tokens had never been there."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import torch

from harness.engine.decoding import KVCache, LayerSpan
from harness.engine.layout import build_layout, old_columns
from harness.engine.prefill_state import PrefillState, SpanLink
from harness.models.adapter import Adapter
from methods.types import Step


def cut_caches(adapter: Adapter, state: PrefillState, steps: Iterable[Step]) -> list[LayerSpan]:
    """Return the decoder layers as they are decoded on, once the prompt has run through all of them.

    A layer is cut by the last step behind it that cuts it. Its keys and values of the tokens that are left are copied, so other
    cells that go on from the same caches keep theirs. Where the rows of a sequence kept different tokens, each has a sequence
    of its own from then on.

    Args:
        adapter: the model.
        state: the batch behind the last layer.
        steps: of the method.
    """
    cuts = [(step.cuts_cache_from, step.site.layer) for step in steps if step.site.stage == 2]
    starts = [span.first_layer for span in state.spans]

    def cut_by(layer: int) -> int | None:
        """The number of the span whose tokens a layer keeps; None where it keeps its own."""
        found = [before for first, before in cuts if first is not None and first <= layer < before]
        return starts.index(max(found)) if found else None

    left: list[LayerSpan] = []
    for number, (span, end) in enumerate(zip(state.spans, [*starts[1:], adapter.shape.layers], strict=True)):
        for target, layers in groupby(range(span.first_layer, end), cut_by):
            kept = list(layers)
            if target is None:
                left.append(_some_layers(span, kept))
            else:
                left.append(_cut(_some_layers(span, kept), state.spans[target], _linked(state.links[number:target])))
    return left


def _linked(links: list[SpanLink]) -> SpanLink:
    """Several links in a row as one: where the last one's sequences and tokens were before the first."""
    origin, indices = links[-1].origin, links[-1].indices
    for link in reversed(links[:-1]):
        indices = link.indices[origin].gather(1, indices.clamp_min(0)).masked_fill(indices < 0, -1)
        origin = link.origin[origin]
    return SpanLink(origin, indices)


def _some_layers(span: LayerSpan, layers: list[int]) -> LayerSpan:
    """Some consecutive layers of a span."""
    if len(layers) == len(span.cache.layers):
        return span
    first = layers[0] - span.first_layer
    cache = KVCache(layers[0])
    cache.layers = span.cache.layers[first : first + len(layers)]
    return LayerSpan(layers[0], span.layout, span.masks, span.rotary, cache)


def _cut(span: LayerSpan, later: LayerSpan, link: SpanLink) -> LayerSpan:
    """The layers of a span with the sequences and the visual tokens that a later span has, at the positions that they had."""
    old, origin = span.layout.host, link.origin
    lengths: list[list[int]] = [[] for _ in range(len(origin))]
    for length, sequence in zip(old.lengths.tolist(), later.layout.host.group.tolist(), strict=True):
        lengths[sequence].append(length)
    new = build_layout(old.token_positions.keep(origin, link.indices), lengths)
    new.segments.scatter_(1, new.visual, torch.where(link.indices < 0, -1, 0))  # what was merged later has no column here
    columns = old_columns(old, new, origin, link.indices)
    layout, (sequences, columns) = new.send(span.layout.segments.device, origin[:, None], columns)

    def of_columns(table: torch.Tensor) -> torch.Tensor:
        """Keys or values, [G, H, L, head_dim], at the columns of the new sequences."""
        return table.transpose(1, 2)[sequences, columns].transpose(1, 2)

    cache = KVCache(span.first_layer)
    cache.layers = [(of_columns(keys), of_columns(values)) for keys, values in span.cache.layers]
    return LayerSpan(span.first_layer, layout, {}, {}, cache)
