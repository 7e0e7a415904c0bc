"""What the engine notes on its way for the analysis, where it is given a recorder: it changes nothing it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from methods.types import Selection


@dataclass
class Recorder:
    """Tokens and attention layer by layer, and the scores of the first step that ranked by attention; R rows.

    Args:
        attention: whether every layer is asked for the attention row of the last instruction token.
    """

    attention: bool = False
    device: torch.device | None = None  # where all that is noted is kept; where it comes from, if none
    ids: list[torch.Tensor] = field(default_factory=list)  # a layer: int64 [R, K] original tokens present, -1 of no single place
    attention_rows: list[torch.Tensor] = field(default_factory=list)  # a layer: float32 [R, K] attention, mean over heads
    scores: torch.Tensor | None = None  # [R, N]
    scored_ids: torch.Tensor | None = None  # int64 [R, N] the original tokens that the scores belong to
    source: torch.Tensor | None = None  # int64 [R, N] the merged token that each original one went into, -1 for none

    def note_step(self, chosen: Selection, ids: torch.Tensor, row: torch.Tensor) -> None:
        """Note what a step chose.

        Args:
            chosen: G choices.
            ids: int64 [G, N] original tokens among which it chose.
            row: int64 [R] the choice that is each question's.
        """
        if self.scores is None and chosen.scores is not None:
            self.scores, self.scored_ids = self._kept(chosen.scores[row]), self._kept(ids[row])
        if chosen.source is not None:
            went = chosen.source.long().argmax(1).masked_fill(~chosen.source.any(1), -1)
            self.source = self._kept(went[row])

    def copy(self) -> Recorder:
        """Return a recorder of what has been noted so far."""
        made = Recorder(self.attention, self.device)
        made.follow(self)
        return made

    def follow(self, other: Recorder) -> None:
        """Go on from what another recorder noted of the same rows."""
        self.ids, self.attention_rows = list(other.ids), list(other.attention_rows)
        self.scores, self.scored_ids, self.source = other.scores, other.scored_ids, other.source

    def note_layer(self, attention: torch.Tensor | None, columns: torch.Tensor, ids: torch.Tensor) -> None:
        """Note that a decoder layer ran.

        Args:
            attention: its rows [R, H, T, L], of which the last is noted; None where the recorder wants none.
            columns: int64 [R, K] columns of the visual tokens.
            ids: int64 [R, K] original tokens that these are.
        """
        self.ids.append(self._kept(ids))
        if self.attention:
            assert attention is not None, "the layer was not probed"
            self.attention_rows.append(self._kept(attention[:, :, -1].mean(1).gather(1, columns)))

    def _kept(self, table: torch.Tensor) -> torch.Tensor:
        return table if self.device is None else table.to(self.device)


def part(whole: Recorder, rows: list[int]) -> Recorder:
    """Return what was noted of some rows, without the columns that only longer rows have."""
    found = Recorder(whole.attention)
    for layer, ids in enumerate(whole.ids):
        own = ids[rows]
        there = own >= 0
        if whole.attention:
            attention = whole.attention_rows[layer][rows]
            there = there | (attention > 0)  # a token of no single place
            found.attention_rows.append(attention[:, there.any(0)])
        found.ids.append(own[:, there.any(0)])
    if whole.scores is not None and whole.scored_ids is not None:
        there = (whole.scored_ids[rows] >= 0).any(0)
        found.scores, found.scored_ids = whole.scores[rows][:, there], whole.scored_ids[rows][:, there]
    if whole.source is not None:
        found.source = whole.source[rows]
    return found


def merged(whole: Recorder, parts: list[Recorder], rows: list[list[int]]) -> None:
    """Put what was noted of parts of a batch into one recorder; where a part has fewer tokens, ids are -1 and figures 0.

    Args:
        whole: is filled.
        parts: one for each part.
        rows: of every part, the indices of its rows in the whole.
    """
    order = torch.tensor([row for part in rows for row in part]).argsort()

    def together(tensors: list[torch.Tensor], fill: int) -> torch.Tensor:
        widest = max(tensor.shape[1] for tensor in tensors)
        return torch.cat([torch.nn.functional.pad(t, (0, widest - t.shape[1]), value=fill) for t in tensors])[order]

    whole.ids = [together(list(layer), -1) for layer in zip(*(part.ids for part in parts), strict=True)]
    whole.attention_rows = [together(list(layer), 0) for layer in zip(*(part.attention_rows for part in parts), strict=True)]
    scores = [part.scores for part in parts if part.scores is not None]
    scored_ids = [part.scored_ids for part in parts if part.scored_ids is not None]
    if len(scores) == len(parts):
        whole.scores, whole.scored_ids = together(scores, 0), together(scored_ids, -1)
    sources = [part.source for part in parts if part.source is not None]
    if len(sources) == len(parts):
        whole.source = together(sources, -1)
