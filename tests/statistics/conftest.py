"""A fixture that checks a promise and notes it for the table at the end of the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.statistics.promises import Rate

Promise = Callable[..., Rate]


@pytest.fixture
def tell(record_property) -> Callable[[str, str, str, str], None]:
    """Note a row of the table at the end: claim, design, promised, measured."""
    return lambda claim, design, promised, measured: record_property("promise", (claim, design, promised, measured))


@pytest.fixture
def promise(record_property) -> Promise:
    """Note a simulated rate, and fail where its 99 % interval contradicts the promise."""

    def keep(
        claim: str, design: str, hits: int, worlds: int, at_least: float | None = None, at_most: float | None = None
    ) -> Rate:
        rate = Rate(int(hits), int(worlds))
        low, high = rate.interval
        promised = f">= {at_least:g}" if at_least is not None else f"<= {at_most:g}" if at_most is not None else "told"
        record_property("promise", (claim, design, promised, f"{rate.value:.4f} [{low:.4f} to {high:.4f}] of {worlds:,}"))
        assert at_least is None or rate.at_least(at_least), (
            f"{claim}, {design}: {rate.value:.4f}, at least {at_least} was promised"
        )
        assert at_most is None or rate.at_most(at_most), f"{claim}, {design}: {rate.value:.4f}, at most {at_most} was promised"
        return rate

    return keep
