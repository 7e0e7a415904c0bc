"""Families on a device held against the CPU as `harness selfcheck` does it, with all methods and in any precision."""

from __future__ import annotations

from functools import cache

import torch

from harness.engine.self_check import GROSS, tolerance
from harness.models.adapter import Adapter
from harness.models.random_families.building import FAMILIES, build
from harness.run.machine_check.against_cpu import HeldFamily, Sides, hold_family
from tests.models.tiny_families import Family
from tests.simdevice import placing

TIES = 0.02
"""Share of the kept tokens that rounding may exchange in float32; fixed before any card was seen."""


@cache
def family_at(name: str, device: str, dtype: torch.dtype) -> Family:
    """A family's tiny random model, the same numbers on every device."""
    config, processor = FAMILIES[name]
    return Family(name, Adapter(build(config()).to(dtype).to(device), processor(), name))


def held_against_the_cpu(name: str, device: str, dtype: torch.dtype, images=placing.alike) -> HeldFamily:
    """Run every method of a family on the CPU, and on a device with what was chosen there.

    Args:
        name: of the family.
        device: such as ``cuda``.
        dtype: of the weights on both.
        images: makes a batch.
    """
    families = {id(found.adapter): found for found in (family_at(name, place, dtype) for place in ("cpu", device))}
    here, there = (family_at(name, place, dtype).adapter for place in ("cpu", device))
    sides = Sides(here, there, lambda adapter: images(families[id(adapter)]).batch)
    return hold_family(sides, placing.METHODS, GROSS * tolerance(dtype))
