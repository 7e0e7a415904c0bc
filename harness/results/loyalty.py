"""How far the answers of a cell are those of the unpruned model, right or wrong. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.results.types import Floats, Integers, JsonObject
from metrics.design_effect import IntraclassCorrelation
from metrics.intervals import mean_interval, proportion
from metrics.statistics import Estimate

ALL = Estimate(1.0, 1.0, 1.0)
"""A share that is all by definition, such as the answers of `none` that are those of `none`: there is nothing to estimate."""


@dataclass(frozen=True, eq=False)
class LoyaltyColumns:
    """What is kept of a cell until all cells are read."""

    agree: NDArray[np.float32]  # [n] whether the answer is that of `none`; nan is not known
    image: Integers  # [n], not falling
    kl: Estimate  # of the first answer token, in nats
    itself: bool  # whether the answers are those of `none` by definition

    @classmethod
    def of(cls, columns: Mapping[str, Floats], image: Integers, itself: bool) -> LoyaltyColumns | None:
        """Return the columns of a cell; None where its loyalty was not measured.

        Args:
            columns: [n] each, of `sample_columns.NUMBER_COLUMNS`: ``agree`` (share), ``kl`` (nats).
            image: [n], not falling.
            itself: whether the answers are those of `none` by definition.
        """
        if not np.isfinite(columns["agree"]).any():
            return None
        return cls(columns["agree"].astype(np.float32), image, mean_interval(columns["kl"], image), itself)


def agreement_correlation(cells: Sequence[LoyaltyColumns]) -> float:
    """Return how far the answers of an image agree together, pooled over cells."""
    pooled = IntraclassCorrelation()
    for cell in cells:
        if not cell.itself:
            pooled.add(cell.agree, cell.image)
    return pooled.rho


def loyalty_figures(columns: LoyaltyColumns | None, rho: float) -> JsonObject | None:
    """Return ``agreement`` and ``kl`` of a cell of ``summary.json``; None where that was not measured.

    Args:
        columns: of the cell.
        rho: from `agreement_correlation`.

    Source: EffiVLM-Bench, arXiv:2506.00479.
    """
    if columns is None:
        return None
    agreement = proportion(columns.agree, columns.image, rho)
    kl = None if columns.kl.value is None else columns.kl
    return {"agreement": ALL if columns.itself and agreement.value == 1 else agreement, "kl": kl}
