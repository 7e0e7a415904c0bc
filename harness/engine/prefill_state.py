"""A batch between two decoder layers: hidden states, what they stand for, and the caches of the layers behind."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from harness.engine.decoding import LayerSpan
from harness.engine.layout import SequenceLayout


@dataclass
class PrefillState:
    """The batch on its way through the decoder."""

    hidden: torch.Tensor  # [G, L, D]
    layout: SequenceLayout
    ids: torch.Tensor  # int64 [G, K] original token of each visual token
    features: torch.Tensor | None  # [G, K, D] projected, of those present
    deep: list[torch.Tensor]  # [G, K, D] each, to be added to those present behind the first layers
    carry: torch.Tensor | None = None  # [G, ...]
    spans: list[LayerSpan] = field(default_factory=list)

    def fork(self, rows: list[int] | None = None) -> PrefillState:
        """The same batch for another cell, of some of the rows; nothing is copied."""
        layout = self.layout if rows is None else self.layout.rows(rows)
        return replace(self, layout=layout, deep=list(self.deep), spans=[span.fork(rows) for span in self.spans])
