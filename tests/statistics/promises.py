"""What a simulation of a promise comes to: it holds where a 99 % interval of the simulated rate does not contradict it."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import binomtest

WORLDS = 2000
SEED = 0


@dataclass(frozen=True)
class Rate:
    """How often something happened in so many simulated worlds."""

    hits: int
    worlds: int

    @property
    def value(self) -> float:
        return self.hits / self.worlds

    @property
    def interval(self) -> tuple[float, float]:
        found = binomtest(self.hits, self.worlds).proportion_ci(0.99, method="exact")
        return float(found.low), float(found.high)

    def at_least(self, promised: float) -> bool:
        return self.interval[1] >= promised

    def at_most(self, promised: float) -> bool:
        return self.interval[0] <= promised


def table(rows: list[tuple[str, str, str, str]]) -> list[str]:
    """Rows of claim, design, promised and measured as lines of equal columns."""
    every = [("claim", "design", "promised", "measured"), *rows]
    widths = [max(len(row[i]) for row in every) for i in range(4)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in every]
