"""The figures of kept tokens in a summary: what their tests say one by one, together, and of runs that ranked otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from harness.results.kept_token_figures import adjust_for_chance, kept_token_figures
from harness.store.arrays import pack
from metrics.chance import centre_p
from metrics.figures import BIAS, COVERAGE, FIGURES, LAYERS, MATCHED, SCORES, SKEWED, TIED
from metrics.intervals import mean_interval
from metrics.resampling import sign_flip
from metrics.statistics import holm

GRID, IMAGES, QUESTIONS = (4, 4), 12, 2


def columns(rng: np.random.Generator, shift: float = 0.0) -> dict[str, np.ndarray]:
    """Return columns as of `RunFolder.analysis`, with percentiles moved by a shift."""
    count = IMAGES * QUESTIONS
    names = [*FIGURES, *(f"z_{n}" for n in FIGURES), *BIAS, *SCORES, *(f"row_z_{n}" for n in MATCHED)]
    found = {name: rng.random(count) for name in names}
    found |= {f"percentile_{name}": np.clip(np.round(64 * (rng.random(count) + shift)) / 64, 0, 1) for name in FIGURES}
    found["image"] = np.repeat([f"image {i}" for i in range(IMAGES)], QUESTIONS)
    kept = rng.random((count, 16)).argsort(1) < 5
    found["kept"] = np.array([pack(row) for row in kept], dtype=object)
    found["layers"] = rng.random((count, 3, len(LAYERS))).astype(np.float32)
    return found


def cell(method: str, seed: int, shift: float = 0.0, ranked: bool = True, **facts: bool) -> dict:
    facts = {"method": method, "reference": False, "removes_nothing": False, "merges": False} | facts
    drawn = columns(np.random.default_rng(seed), shift)
    grids = dict.fromkeys(drawn["image"], GRID)
    return facts | kept_token_figures(drawn, facts, grids, 0, ranked)


def test_what_a_cell_says():
    found, drawn = cell("fastv", 3), columns(np.random.default_rng(3))
    codes = np.repeat(np.arange(IMAGES), QUESTIONS)
    assert set(found["collapse"]["z"]) == set(FIGURES)
    for name, entry in found["collapse"]["z"].items():
        assert set(entry) == {"value", "lo", "hi", "percentile", "share_below_chance", "p"}
        assert (entry["value"] is None) == (entry["lo"] is None) == (entry["hi"] is None) == (name in SKEWED), name
        assert entry["percentile"]["value"] == pytest.approx(drawn[f"percentile_{name}"].mean())
        assert entry["p"] == centre_p(drawn[f"percentile_{name}"], codes, 0.5)
    for name in ("row_position", "lower_half"):
        assert found["bias"][name]["value"] == pytest.approx(drawn[name].mean())
        assert found["bias"][name]["p"] == centre_p(drawn[name], codes, 0.5)
    for name, entry in found["bias"]["row_z"].items():
        z = drawn[f"row_z_{name}"]
        assert {**mean_interval(z, codes).as_dict(), "p": sign_flip(np.bincount(codes, z), 0, 4000)} == entry
    assert found["layers"]["entropy"][2]["value"] == pytest.approx(drawn["layers"][:, 2, LAYERS.index("entropy")].mean())
    assert found["bias"]["overlap"]["chance"] == pytest.approx(5 / 16)


def test_runs_that_counted_ties_half_have_no_test_of_figures_with_ties():
    whole, earlier = cell("fastv", 3)["collapse"], cell("fastv", 3, ranked=False)["collapse"]
    assert whole["why_no_rank"] is None and "counted ties half" in earlier["why_no_rank"] and earlier["why_no_z"] is None
    new, old = whole["z"], earlier["z"]
    assert set(COVERAGE) | {"rank99", "clusters_visited", "largest_cluster"} == set(TIED)
    for name in FIGURES:
        if name in TIED:
            assert old[name]["percentile"] is old[name]["share_below_chance"] is old[name]["p"] is None, name
            assert {end: old[name][end] for end in ("value", "lo", "hi")} == {
                end: new[name][end] for end in ("value", "lo", "hi")
            }
        else:
            assert old[name] == new[name], name


def test_tests_of_a_run_are_adjusted_over_the_cells_that_compete():
    cells = [
        cell("fastv", 1, -0.25), cell("sts", 2, -0.2), cell("sparsevlm", 3),
        cell("random", 4, -0.3), cell("oracle", 5, -0.3, reference=True), cell("fastv", 6, removes_nothing=True),
        cell("fastv", 7, ranked=False),
    ]  # fmt: skip
    merger = {"method": "tome", "reference": False, "collapse": {"z": None}, "bias": None}
    blind = {"method": "blind", "reference": True, "collapse": None, "bias": None}
    adjust_for_chance([*cells, merger, blind])
    competing = [cells[i] for i in (0, 1, 2, 6)]
    for name in FIGURES:
        entries = [one["collapse"]["z"][name] for one in competing]
        assert [entry["p_adjusted"] for entry in entries] == holm([entry["p"] for entry in entries])
        assert all(one["collapse"]["z"][name]["p_adjusted"] is None for one in cells[3:6])
    entries = [one["bias"]["lower_half"] for one in competing]
    assert [entry["p_adjusted"] for entry in entries] == holm([entry["p"] for entry in entries])
    assert cells[3]["bias"]["lower_half"]["p_adjusted"] is None
    tests = 6 * len(FIGURES) + len(FIGURES) - len(TIED)
    assert [one["collapse"]["tests"] for one in (*cells, merger)] == [tests] * 8 and blind["collapse"] is None


def test_nothing_to_say():
    empty = columns(np.random.default_rng(0))
    empty = {name: column[:0] for name, column in empty.items()}
    assert set(kept_token_figures(empty, {"merges": False}, {}, 0).values()) == {None}
    merged = columns(np.random.default_rng(0))
    merged |= {name: np.full(len(merged["image"]), np.nan) for name in (*FIGURES, *SCORES)}
    merged["layers"] = merged["layers"][:, :0]
    found = kept_token_figures(merged, {"merges": True}, dict.fromkeys(merged["image"], GRID), 0)
    assert found["collapse"]["z"] is None and "no subset" in found["collapse"]["why_no_z"]
    assert found["collapse"]["why_no_rank"] is None
    assert found["diversity"] is found["scores"] is found["layers"] is found["bias"] is None
