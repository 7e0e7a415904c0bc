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
    ids: list[torch.Tensor] = field(default_factory=list)  # a layer: int64 [R, K] original tokens present, -1 of no single place
    rows: list[torch.Tensor] = field(default_factory=list)  # a layer: float32 [R, K] attention to them, mean over heads
    scores: torch.Tensor | None = None  # [R, N]
    scored: torch.Tensor | None = None  # int64 [R, N] the original tokens that the scores belong to
    source: torch.Tensor | None = None  # int64 [R, N] the merged token that each original one went into, -1 for none

    def step(self, chosen: Selection, ids: torch.Tensor, row: torch.Tensor) -> None:
        """A step chose among tokens ``ids`` [G, N]; ``row`` int64 [R] says which of its choices is whose."""
        if self.scores is None and chosen.scores is not None:
            self.scores, self.scored = chosen.scores[row], ids[row]
        if chosen.source is not None:
            went = chosen.source.long().argmax(1).masked_fill(~chosen.source.any(1), -1)
            self.source = went[row]

    def copy(self) -> Recorder:
        """What has been noted so far."""
        made = Recorder(self.attention)
        made.follow(self)
        return made

    def follow(self, other: Recorder) -> None:
        """Go on from what another recorder noted of the same rows."""
        self.ids, self.rows = list(other.ids), list(other.rows)
        self.scores, self.scored, self.source = other.scores, other.scored, other.source

    def layer(self, attention: torch.Tensor | None, columns: torch.Tensor, ids: torch.Tensor) -> None:
        """A layer ran: its rows [R, H, T, L], the last of which is asked for, and the columns [R, K] of its visual tokens."""
        self.ids.append(ids)
        if self.attention:
            assert attention is not None, "the layer was not probed"
            self.rows.append(attention[:, :, -1].mean(1).gather(1, columns))


def part(whole: Recorder, rows: list[int]) -> Recorder:
    """What was noted of some rows, without the columns that only longer rows have."""
    found = Recorder(whole.attention)
    for layer, ids in enumerate(whole.ids):
        own = ids[rows]
        there = own >= 0
        if whole.attention:
            there = there | (whole.rows[layer][rows] > 0)  # a token of no single place
            found.rows.append(whole.rows[layer][rows][:, there.any(0)])
        found.ids.append(own[:, there.any(0)])
    if whole.scores is not None:
        there = (whole.scored[rows] >= 0).any(0)
        found.scores, found.scored = whole.scores[rows][:, there], whole.scored[rows][:, there]
    if whole.source is not None:
        found.source = whole.source[rows]
    return found


def merged(whole: Recorder, parts: list[Recorder], rows: list[list[int]]) -> None:
    """Put what was noted of parts of a batch into one recorder; where a part has fewer tokens, ids are -1 and figures 0.

    Args:
        rows: of every part, the places of its rows in the whole.
    """
    order = torch.tensor([place for part in rows for place in part]).argsort()

    def together(tensors: list[torch.Tensor], fill: int) -> torch.Tensor:
        widest = max(tensor.shape[1] for tensor in tensors)
        return torch.cat([torch.nn.functional.pad(t, (0, widest - t.shape[1]), value=fill) for t in tensors])[order]

    whole.ids = [together(list(layer), -1) for layer in zip(*(part.ids for part in parts), strict=True)]
    whole.rows = [together(list(layer), 0) for layer in zip(*(part.rows for part in parts), strict=True)]
    if all(part.scores is not None for part in parts):
        whole.scores = together([part.scores for part in parts], 0)
        whole.scored = together([part.scored for part in parts], -1)
    if all(part.source is not None for part in parts):
        whole.source = together([part.source for part in parts], -1)
