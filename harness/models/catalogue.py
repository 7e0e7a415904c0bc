"""Which models can be named: those that ship with prunescope, and those of other packages. Needs no torch."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

TINY = Path(__file__).parent / "tiny" / "weights"
EMBEDDED = {"tiny": TINY}
"""Folders of the embedded models, by name."""
GROUP = "prunescope.models"
"""Entry points of other packages: a name, and a function (device: str, dtype: torch.dtype) that gives an `Adapter`."""


def plugged() -> dict[str, EntryPoint]:
    """Return the entry points of models that other packages bring, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}
