"""Evidence swap: a method's own kept set with the evidence forced in and random kept tokens out, at the same K.

What accuracy rises by is the part of the method's loss that came from throwing evidence away: a cause, where
accuracy by recall is an association.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from methods.random import mix
from methods.similarity import take
from methods.types import ModelShape, Selection, Selector, Signals, Step

_STREAM = 500_009  # keeps the draws apart from those of `random`


def swapped(steps: tuple[Step, ...], entered: torch.Tensor) -> tuple[Step, ...]:
    """Return the steps with the evidence forced into every selection.

    Args:
        steps: of a pruner that hands over no tokens before the LLM; a selection inside it may add recycled tokens (index -1),
            which stay.
        entered: int64 [R, K0] the tokens that entered the LLM when the method ran as it is; a step before the LLM is
            not run again but takes them from here.
    """
    made = []
    for step in steps:
        if step.site.stage == 1:
            made.append(replace(step, select=EvidenceSwap(FixedSelection(entered)), needs=_NEEDS))
        else:
            made.append(replace(step, select=EvidenceSwap(step.select), needs=step.needs | _NEEDS | {"hidden_states"}))
    return tuple(made)


@dataclass(frozen=True)
class SwappedSteps:
    """The steps of `swapped` where images differ, so that they follow from each image's shape."""

    steps: Callable[[ModelShape], tuple[Step, ...]]
    entered: torch.Tensor  # int64 [R, K0], -1 behind the tokens of images that let fewer enter

    def of(self, rows: list[int]) -> SwappedSteps:
        """Return the steps for some of the questions.

        Args:
            rows: places of the questions.
        """
        return SwappedSteps(self.steps, narrowed(self.entered[rows]))

    def __call__(self, shape: ModelShape) -> tuple[Step, ...]:
        return swapped(self.steps(shape), self.entered)


def placed(entered: torch.Tensor, counts: torch.Tensor) -> list[bool]:
    """Return of each question whether all tokens that entered the LLM have a place, so that any can be put in another's.

    Args:
        entered: int64 [R, K0], -1 of no place.
        counts: int64 [R, layers] tokens in each layer.
    """
    own: list[bool] = ((entered >= 0).sum(-1).cpu() == counts[:, 0].cpu()).tolist()
    return own


def narrowed(ids: torch.Tensor) -> torch.Tensor:
    """Return token ids [R, K] without the columns that hold none, since other images may have kept more."""
    return ids[:, (ids >= 0).any(0)]


_NEEDS = frozenset({"evidence", "seeds"})


@dataclass(frozen=True)
class FixedSelection:
    """A selection that is known already."""

    indices: torch.Tensor  # int64 [R, K]

    def __call__(self, signals: Signals, keep: int) -> Selection:
        return Selection(self.indices)


@dataclass(frozen=True)
class EvidenceSwap:
    """Wraps a selector: evidence tokens that it would drop take the place of random kept ones, at the same count.

    Later steps choose among the set that was swapped.
    """

    select: Selector

    def of(self, rows: list[int]) -> EvidenceSwap:
        """Return the selector for some of the questions, whose images are alike.

        Args:
            rows: places of the questions.
        """
        if not isinstance(self.select, FixedSelection):
            return self
        return EvidenceSwap(FixedSelection(narrowed(self.select.indices[rows])))

    def __call__(self, signals: Signals, keep: int) -> Selection:
        chosen = self.select(signals, keep)
        assert signals.evidence is not None and signals.seeds is not None, "the step declares that it needs them"
        indices = exchange(chosen.indices, signals.evidence, signals.seeds)
        if chosen.tokens is None:
            return replace(chosen, indices=indices, scores=None)
        assert signals.hidden_states is not None, "the step declares that it needs them"
        own = take(signals.hidden_states, indices.clamp_min(0)).to(chosen.tokens.dtype)
        tokens = torch.where((indices < 0)[..., None], chosen.tokens, own)
        return replace(chosen, indices=indices, tokens=tokens, scores=None)


def exchange(indices: torch.Tensor, evidence: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Put the missing evidence in the place of random kept tokens that are none.

    Args:
        indices: int64 [B, K] kept tokens, -1 for recycled ones, which are neither moved nor replaced.
        evidence: bool [B, N].
        seeds: int64 [B] one random stream a row.

    Returns:
        int64 [B, K], the kept in position order before the recycled. Where there is more evidence than kept tokens,
        a random part of it.
    """
    batch, count = evidence.shape
    real = indices >= 0
    kept = torch.zeros(batch, count + 1, dtype=torch.bool, device=indices.device)
    kept = kept.scatter_(1, indices.masked_fill(~real, count), True)[:, :count]
    luck = mix(seeds[:, None] + mix(torch.arange(count, device=indices.device) + _STREAM)).double()
    # evidence above all, then what the method kept, then the rest: the top is what stays
    rank = luck + kept * 2.0**33 + evidence * 2.0**34
    order = rank.argsort(dim=-1, descending=True, stable=True)
    place = order.argsort(dim=-1)
    inside = place < real.sum(-1, keepdim=True)
    out = torch.full_like(indices, -1)
    row, token = inside.nonzero(as_tuple=True)
    column = (inside.cumsum(-1) - 1)[row, token]
    out[row, column] = token
    return out
