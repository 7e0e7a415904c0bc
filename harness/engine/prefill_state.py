"""A batch between two decoder layers: hidden states, what they stand for, and the caches of the layers behind."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from harness.engine.decoding import LayerSpan
from harness.engine.layout import SequenceLayout


@dataclass
class PrefillState:
    """The batch on its way through the decoder, as G sequences."""

    hidden: torch.Tensor  # [G, L, D]
    layout: SequenceLayout
    ids: torch.Tensor  # int64 [G, K] original token of each visual token; -1 of no single place
    features: torch.Tensor | None  # [G, K, D] projected, of those present; None once tokens left inside the decoder
    deepstack: list[torch.Tensor]  # [G, K, D] each, to be added to those present behind the first layers
    carry: torch.Tensor | None = None  # [G, ...] what the method's last step handed on to its next
    spans: list[LayerSpan] = field(default_factory=list)  # of the layers behind, with their caches

    def fork(self, rows: list[int] | None = None) -> PrefillState:
        """Return the same batch for another cell, of some of the rows; nothing is copied."""
        layout = self.layout if rows is None else self.layout.select(rows)
        return replace(self, layout=layout, deepstack=list(self.deepstack), spans=[span.fork(rows) for span in self.spans])
