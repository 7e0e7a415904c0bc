"""A batch between two decoder layers: hidden states, what they stand for, and the caches of the layers behind."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from harness.engine.decoding import LayerSpan
from harness.engine.entered_tokens import EnteredTokens
from harness.engine.layout import SequenceLayout


@dataclass(frozen=True)
class SpanLink:
    """What tokens leaving between two spans of decoder layers made of the visual tokens, as G' sequences; on the host."""

    origin: torch.Tensor  # int64 [G'] the sequence that each comes from
    indices: torch.Tensor  # int64 [G', K'] into the visual tokens that were present; -1 of no single place


@dataclass
class PrefillState:
    """The batch on its way through the decoder, as G sequences; its tensors lie on the device of the next layer."""

    hidden: torch.Tensor  # [G, L, D]
    layout: SequenceLayout
    features: torch.Tensor | None  # [G, K, D] projected, of those present; None once tokens left inside the decoder
    deepstack: list[torch.Tensor]  # [G, K, D] each, to be added to those present behind the first layers
    carry: torch.Tensor | None = None  # [G, ...] what the method's last step handed on to its next
    carry_widths: list[int] | None = None  # how much of its second axis each sequence was given; None without one
    tower: EnteredTokens | None = None  # what the tower gave for those present; None once tokens left inside the decoder
    inputs: torch.Tensor | None = None  # [G, L, D] at the input of the layer behind, where it was asked for
    spans: list[LayerSpan] = field(default_factory=list)  # of the layers behind, with their caches
    links: list[SpanLink] = field(default_factory=list)  # between each span and the next

    @property
    def ids(self) -> torch.Tensor:
        """Original token of each visual token present, int64 [G, K]; -1 of no single place."""
        return self.layout.ids

    def move(self, device: torch.device) -> None:
        """Go on, on another device, with what the next layers meet; spans behind stay where their layers are."""
        if self.hidden.device == device:
            return
        self.hidden, self.layout = self.hidden.to(device), self.layout.to(device)
        self.deepstack = [table.to(device) for table in self.deepstack]
        for name in ("features", "carry", "inputs"):
            table: torch.Tensor | None = getattr(self, name)
            setattr(self, name, None if table is None else table.to(device))

    def leave_span(self) -> None:
        """Let go of the last span's masks and rotary angles, which nobody reads once the prompt has run through its layers.

        A checkpoint inside the span holds its own span, and keeps them.
        """
        if self.spans:
            self.spans[-1].masks, self.spans[-1].rotary = {}, {}

    def link_unchanged(self) -> None:
        """Note that all tokens go on from the last span to the next."""
        sequences, count = self.ids.shape
        self.links.append(SpanLink(torch.arange(sequences), torch.arange(count).expand(sequences, -1)))

    def fork(self, rows: list[int] | None = None) -> PrefillState:
        """Return the same batch for another cell, of some of the rows; nothing is copied."""
        layout = self.layout if rows is None else self.layout.select(rows)
        spans = [span.fork(rows) for span in self.spans]
        return replace(self, layout=layout, deepstack=list(self.deepstack), spans=spans, links=list(self.links))
