"""Measured speed as a family: only cells that compete are corrected, each figure by itself."""

from __future__ import annotations

import pytest

from harness.results.speed_family import adjust_speed


def cell(method: str, ratio: float | None, gain: float | None, reference: bool = False) -> dict:
    figures = {"ratio": ratio, "realised_gain": gain}
    latency = {name: {"value": 1.2, "lo": 1.1, "hi": 1.3, "p": p} for name, p in figures.items()}
    return {"method": method, "reference": reference, "removes_nothing": False, "latency": latency}


def test_holm_over_the_cells_that_compete():
    cells = [
        cell("none", 1e-9, None, True), cell("sts", 0.01, 0.02), cell("fastv", 0.02, 0.5), cell("random", 1e-9, 1e-9),
        cell("tome", None, 0.01), {"method": "scope", "reference": False, "removes_nothing": False, "latency": None},
        {"method": "cls", "reference": False, "removes_nothing": False, "latency": {"ratio": None, "realised_gain": None}},
    ]  # fmt: skip
    adjust_speed(cells)
    of = lambda name: [c["latency"][name]["p_adjusted"] for c in cells[:5]]
    assert of("ratio") == [None, pytest.approx(0.02), pytest.approx(0.02), None, None]
    assert of("realised_gain") == [None, pytest.approx(0.04), pytest.approx(0.5), None, pytest.approx(0.03)]
    assert cells[5]["latency"] is None and cells[6]["latency"]["ratio"] is None
