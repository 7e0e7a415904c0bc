"""The figure that a benchmark reports, named: how it is made stands in `harness.tasks.own_figures`. Needs no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class OwnFigure:
    """A benchmark's own figure: its name, as papers print it, how it is made, and what a perfect model reaches."""

    kind: str  # a key of `own_figures.KINDS`
    name: str  # "F1", "MME total", "circular accuracy"
    scale: float = 100.0  # 100 is percent
    options: tuple[tuple[str, Any], ...] = ()  # of the kind

    def stored(self) -> dict[str, Any]:
        """Return the form that a manifest holds."""
        return asdict(self) | {"options": dict(self.options)}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> OwnFigure:
        """Return the figure that a manifest tells."""
        return cls(stored["kind"], stored["name"], stored["scale"], tuple(sorted(stored["options"].items())))


ACCURACY = OwnFigure("mean", "accuracy")
