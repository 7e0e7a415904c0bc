"""A model on a device held against the same one on the CPU, choice by choice; see `harness.engine.replay`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import torch

from harness.engine.engine import Engine
from harness.engine.replay import HeldChoice, NotedChoice, noting, replaying
from harness.engine.request import EngineRequest
from harness.engine.self_check import GROSS, tolerance
from harness.models.adapter import Adapter
from methods.registry import create
from methods.types import BudgetError
from tests.models.tiny_families import FAMILIES, Family, build
from tests.simdevice import placing

TIES = 0.02
"""Share of the kept tokens that rounding may exchange in float32; fixed before any card was seen."""


@dataclass
class Held:
    """What came of a family: what differs by method, how many methods ran, and how far the furthest signal was."""

    faults: dict[str, str] = field(default_factory=dict)
    compared: int = 0
    furthest: float = 0.0
    exchanged: int = 0
    kept: int = 0


@cache
def family_at(name: str, device: str, dtype: torch.dtype) -> Family:
    """A family's tiny random model, the same numbers on every device."""
    config, processor = FAMILIES[name]
    return Family(name, Adapter(build(config()).to(dtype).to(device), processor(), name))


def held_against_the_cpu(name: str, device: str, dtype: torch.dtype, images=placing.alike, limit: int = 3) -> Held:
    """Run every method of a family on the CPU, and on a device with what was chosen there.

    Args:
        name: of the family.
        device: such as ``cuda``.
        dtype: of the weights on both.
        images: makes a batch.
        limit: answer tokens.
    """
    here, there, found = family_at(name, "cpu", dtype), family_at(name, device, dtype), Held()
    on_cpu, on_device = images(here).batch, images(there).batch
    near = tolerance(dtype)
    for method in placing.METHODS:
        rule, positions = placing.rule_of(method), create(method).positions
        notes: list[NotedChoice] = []
        held: list[HeldChoice] = []
        try:
            wanted = Engine(here.adapter, limit).run(EngineRequest(on_cpu, lambda shape: noting(rule(shape), notes), positions))
        except BudgetError:
            continue
        got = Engine(there.adapter, limit).run(
            EngineRequest(on_device, lambda shape: replaying(rule(shape), notes, held), positions)
        )
        found.compared += 1
        far = max([0.0, *(value for choice in held for value in choice.distances.values())])
        logits = got.first_logits.cpu().double(), wanted.first_logits.double()
        apart = float((logits[0] - logits[1]).abs().max() / logits[1].abs().max())
        lead = logits[1].topk(2).values
        clear = (lead[:, 0] - lead[:, 1]) > near * lead.abs().amax(-1)
        exchanged, exactly = (sum(getattr(choice, kind) for choice in held) for kind in ("other_tokens", "other_exactly"))
        kept = sum(note.selection.indices.numel() for note in notes)
        found.furthest = max(found.furthest, far, apart)
        found.exchanged, found.kept = found.exchanged + exchanged, found.kept + kept
        said = []
        if far > GROSS * near:
            said.append(f"signals differ by {far:.2g}")
        if apart > GROSS * near:
            said.append(f"logits differ by {apart:.2g}")
        if exactly:
            said.append(f"{exactly} tokens differ though the signals are the same")
        if dtype == torch.float32 and exchanged > max(1, TIES * kept):
            said.append(f"{exchanged} of {kept} tokens differ")
        if not torch.equal(got.kept.cpu(), wanted.kept):
            said.append("what was handed on is not what is present")
        if any(bool(sure) and one[:1] != other[:1] for sure, one, other in zip(clear, got.tokens, wanted.tokens, strict=True)):
            said.append("a clear first answer token differs")
        if said:
            found.faults[method] = "; ".join(said)
    return found
