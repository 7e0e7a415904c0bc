"""A batch between two decoder layers: hidden states, what they stand for, and the caches of the layers behind."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from harness.engine.decoding import LayerSpan
from harness.engine.entered_tokens import EnteredTokens
from harness.engine.layout import SequenceLayout


@dataclass(frozen=True)
class SpanLink:
    """What tokens leaving between two spans of decoder layers made of the visual tokens, as G' sequences."""

    origin: torch.Tensor  # int64 [G'] the sequence that each comes from
    indices: torch.Tensor  # int64 [G', K'] into the visual tokens that were present; -1 of no single place


@dataclass
class PrefillState:
    """The batch on its way through the decoder, as G sequences."""

    hidden: torch.Tensor  # [G, L, D]
    layout: SequenceLayout
    ids: torch.Tensor  # int64 [G, K] original token of each visual token; -1 of no single place
    features: torch.Tensor | None  # [G, K, D] projected, of those present; None once tokens left inside the decoder
    deepstack: list[torch.Tensor]  # [G, K, D] each, to be added to those present behind the first layers
    carry: torch.Tensor | None = None  # [G, ...] what the method's last step handed on to its next
    carry_widths: torch.Tensor | None = None  # int64 [G] how much of its second axis each sequence was given; None without one
    tower: EnteredTokens | None = None  # what the tower gave for those present; None once tokens left inside the decoder
    inputs: torch.Tensor | None = None  # [G, L, D] at the input of the layer behind, where it was asked for
    spans: list[LayerSpan] = field(default_factory=list)  # of the layers behind, with their caches
    links: list[SpanLink] = field(default_factory=list)  # between each span and the next

    def fork(self, rows: list[int] | None = None) -> PrefillState:
        """Return the same batch for another cell, of some of the rows; nothing is copied."""
        layout = self.layout if rows is None else self.layout.select(rows)
        spans = [span.fork(rows) for span in self.spans]
        return replace(self, layout=layout, deepstack=list(self.deepstack), spans=spans, links=list(self.links))
