"""Runs of one request on two devices, held against each other choice by choice.

Rounding differs between devices, and one near tie in a selector gives all later layers other tokens: two outputs then tell
nothing. So the second run is handed what the first one chose, call by call. What its selectors were given is held against what
the first run's were given, and each of them chooses once more, on what the first was given and in float64, where rounding decides
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from methods.types import Selection, Signals, Site, Step


@dataclass(frozen=True)
class NotedChoice:
    """One call of a selector: what it was given and what it chose, both on the host."""

    site: Site
    signals: Signals
    keep: int
    selection: Selection


@dataclass(frozen=True)
class HeldChoice:
    """One call of a selector beside the noted call in its place."""

    site: Site
    distances: dict[str, float]  # by signal: largest difference, over the largest magnitude; 0 of what is no number
    other_tokens: int  # rows times tokens that it keeps and the noted call did not, each on its own signals: ties, or faults
    other_exactly: int  # the same of both on the noted signals in float64: no rounding of signals is left to excuse it


def noting(steps: Sequence[Step], notes: list[NotedChoice]) -> tuple[Step, ...]:
    """Return steps that choose as they did, and note what they are given and choose.

    Args:
        steps: of a method.
        notes: takes one entry a call, in the order of the calls.
    """

    def noted(step: Step) -> Step:
        def select(signals: Signals, keep: int) -> Selection:
            chosen = step.select(signals, keep)
            notes.append(NotedChoice(step.site, signals.to("cpu"), keep, chosen.to("cpu")))
            return chosen

        return replace(step, select=select)

    return tuple(map(noted, steps))


def replaying(steps: Sequence[Step], notes: Sequence[NotedChoice], held: list[HeldChoice]) -> tuple[Step, ...]:
    """Return steps that hand on what was noted, whatever they would choose themselves, and say how far they are from it.

    Args:
        steps: of the same method, for the same batch.
        notes: of its run elsewhere.
        held: takes one entry a call, in the order of the calls.

    Raises:
        ValueError: from within the run, where it calls a selector that the noted run did not call then.
    """

    def replayed(step: Step) -> Step:
        def select(signals: Signals, keep: int) -> Selection:
            place = len(held)
            if place >= len(notes) or (notes[place].site, notes[place].keep) != (step.site, keep):
                raise ValueError(f"call {place + 1} of a selector, at {step.site}, was not noted")
            note = notes[place]
            own = step.select(signals, keep).to("cpu")
            exact = [
                step.select(note.signals.to(device, torch.float64).only(step.needs), keep).to("cpu")
                for device in ("cpu", signals.device)
            ]
            held.append(
                HeldChoice(
                    step.site,
                    {name: _distance(getattr(note.signals, name), getattr(signals, name)) for name in sorted(step.needs)},
                    _others(note.selection, own),
                    _others(*exact),
                )
            )
            return note.selection.to(signals.device)

        return replace(step, select=select)

    return tuple(map(replayed, steps))


def _distance(noted: torch.Tensor | None, here: torch.Tensor | None) -> float:
    """Largest difference over the largest magnitude; infinite where shapes, or what is no finite number, differ."""
    if noted is None or here is None:
        return 0.0 if noted is here else float("inf")
    one, other = noted.double(), here.detach().cpu().double()
    if one.shape != other.shape:
        return float("inf")
    finite = one.isfinite()
    if not torch.equal(one[~finite].nan_to_num(), other[~finite].nan_to_num()):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    one, other = one[finite], other[finite]
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-30))


def _others(one: Selection, other: Selection) -> int:
    """How many tokens the second keeps and the first does not, over all rows; more than there are where counts differ."""
    if one.indices.shape != other.indices.shape:
        return one.indices.numel() + other.indices.numel()
    kept = [{(row, token) for row, tokens in enumerate(each.indices.tolist()) for token in tokens} for each in (one, other)]
    merged = 0
    if one.source is not None and other.source is not None:  # which tokens the merged ones are made of
        merged = int((one.source.cpu() ^ other.source.cpu()).any(1).sum())
    return max(len(kept[1] - kept[0]), merged)
