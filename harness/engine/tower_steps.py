"""Tokens leave or merge inside the vision tower: a step selects among those present in a block."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from harness.engine.tower_signals import TokenPlaces, block_signals, probe_of
from harness.models.adapter import Adapter
from harness.models.tower_probes import TowerProbe
from methods.types import VISION_SIGNALS, Selection, Signals, Step, TowerRead

_BEHIND = {"vision_features": "vision_features_first", "cls_feature": "cls_feature_first"}


def steps_by_block(steps: tuple[Step, ...]) -> dict[tuple[int, bool], Step]:
    """Return the steps inside the tower by their block, and whether they act behind it."""
    return {(step.site.layer, step.behind): step for step in steps if step.site.stage == 0}


def reads_inside(step: Step) -> frozenset[TowerRead]:
    """Return what a step inside the tower reads in its own block; the states are those of the moment when it acts."""
    said = {read.signal: read.joined for read in step.reads}
    states = {*_BEHIND, *_BEHIND.values()}
    return frozenset(TowerRead(name, step.site.layer, said.get(name, False)) for name in step.needs & VISION_SIGNALS - states)


def probe_inside(*steps: Step | None) -> TowerProbe | None:
    """Return the probe of a block inside or behind which steps act; None where they ask nothing of its attention."""
    return probe_of(read for step in steps if step is not None for read in reads_inside(step))


@dataclass
class TokensInside:
    """The tokens in a tower on their way through its blocks; steps change it.

    Args:
        hidden: [B, cls + n, Dv].
        cls: whether a CLS stands before the tokens, 0 or 1; it always stays.
        grid: rows and columns of the tokens where they are a full grid, which they are until one leaves.
    """

    hidden: torch.Tensor
    cls: int
    grid: tuple[int, int] | None = None
    source: torch.Tensor = field(init=False)  # int64 [B, n0] the token that each original one ended in; -1 of one that left
    lowest: torch.Tensor = field(init=False)  # int64 [B, n] lowest original token of each
    sizes: torch.Tensor = field(init=False)  # [B, n] how many original tokens each stands for
    bias: torch.Tensor | None = field(default=None, init=False)  # [B, 1, cls + n, cls + n] of attention in proportion to sizes
    carry: torch.Tensor | None = field(default=None, init=False)  # what the step before handed on
    merged: bool = field(default=False, init=False)  # whether a token may stand for several

    def __post_init__(self) -> None:
        count = self.hidden.shape[1] - self.cls
        self.source = torch.arange(count, device=self.hidden.device).expand(len(self.hidden), -1)
        self.lowest = self.source
        self.sizes = torch.ones(self.source.shape, dtype=self.hidden.dtype, device=self.hidden.device)

    def move(self, device: torch.device) -> None:
        """Go on, on the device of the next block."""
        if self.hidden.device == device:
            return
        for name in ("hidden", "source", "lowest", "sizes", "bias", "carry"):
            table: torch.Tensor | None = getattr(self, name)
            setattr(self, name, None if table is None else table.to(device))

    @property
    def tokens(self) -> torch.Tensor:
        """The states without CLS, [B, n, Dv]."""
        return self.hidden[:, self.cls :]

    def apply(self, adapter: Adapter, step: Step, probe: TowerProbe | None) -> None:
        """Let a step select among the tokens present, and leave what it chose."""
        count = self.tokens.shape[1]
        reads = reads_inside(step)
        found = block_signals(adapter, reads, self.hidden, probe, TokenPlaces(self.cls))
        given: dict[str, Any] = {read.signal: found[read.key] for read in reads}
        for name, behind in _BEHIND.items():
            state = self.tokens if name == "vision_features" else self.hidden[:, 0]
            given |= {name: state, **({behind: state} if step.behind else {})}
        signals = Signals.collected(
            **given, sizes=self.sizes, carry=self.carry, count=count, batch=len(self.hidden), device=self.hidden.device,
            grid=self.grid,
        )  # fmt: skip
        chosen = step.select(signals.only(step.needs), min(step.keep, count))
        if chosen.tokens is None:
            self._prune(chosen.indices.sort(-1).values)
        else:
            self._merge(chosen, proportional="sizes" in step.needs)
        self.carry = chosen.carry
        self.grid = self.grid if chosen.tokens is None and self.tokens.shape[1] == count else None

    def _prune(self, kept: torch.Tensor) -> None:
        """Leave the tokens at some places, int64 [B, K] rising, in their order."""
        pick = kept[..., None].expand(-1, -1, self.hidden.shape[-1])
        self.hidden = torch.cat([self.hidden[:, : self.cls], self.tokens.gather(1, pick)], dim=1)
        place = torch.full_like(self.sizes, -1, dtype=torch.int64)
        place.scatter_(1, kept, torch.arange(kept.shape[1], device=kept.device).expand_as(kept))
        self.source = place.gather(1, self.source.clamp_min(0)).masked_fill(self.source < 0, -1)
        self.lowest, self.sizes = self.lowest.gather(1, kept), self.sizes.gather(1, kept)
        if self.bias is not None:
            self._attend_in_proportion()

    def _merge(self, chosen: Selection, proportional: bool) -> None:
        """Put the tokens that a merger made, in its order, in the place of those present.

        One that weighs tokens by the sizes that it reads wants attention in proportion to them (ToMe, arXiv:2210.09461,
        equation 1); to plain means attention stays as it is.
        """
        assert chosen.tokens is not None and chosen.source is not None, "a merger says what it made tokens of"
        members = chosen.source
        self.hidden = torch.cat([self.hidden[:, : self.cls], chosen.tokens.to(self.hidden.dtype)], dim=1)
        self.sizes = chosen.sizes if proportional and chosen.sizes is not None else _joined(members, self.sizes)
        place = members.long().argmax(1).masked_fill(~members.any(1), -1)
        self.source = place.gather(1, self.source.clamp_min(0)).masked_fill(self.source < 0, -1)
        self.lowest, self.merged = _lowest(chosen, self.lowest), True
        if proportional or self.bias is not None:
            self._attend_in_proportion()

    def _attend_in_proportion(self) -> None:
        padded = torch.cat([self.sizes.new_ones(len(self.sizes), self.cls), self.sizes], dim=1)
        self.bias = padded.log()[:, None, None, :].expand(-1, 1, self.hidden.shape[1], -1)


def _joined(members: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Original tokens that each new token stands for, [B, K], from what it was made of, bool [B, K, n]."""
    return torch.where(members, sizes[:, None], 0).sum(-1)


def _lowest(chosen: Selection, lowest: torch.Tensor) -> torch.Tensor:
    """Lowest original token of each new one, int64 [B, K]; -1 where it is of no single place."""
    return lowest.gather(1, chosen.indices.clamp_min(0)).masked_fill(chosen.indices < 0, -1)
