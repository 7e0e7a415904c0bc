"""Times of a run: those of cells that were left out of some rounds pair by place, and those of older runs read as ever."""

from __future__ import annotations

import numpy as np
import pytest

from harness.store.runs import RunFolder
from harness.store.schema import SCHEMA_VERSION
from tests.store.test_older_runs import OLDER


@pytest.fixture
def run(tmp_path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    made.folder.mkdir()
    base = RunFolder(OLDER, read_only=True).manifest()
    made.create({**base, "schema_version": SCHEMA_VERSION})
    assert made.add_cells((f"cell {number}", {}) for number in range(2)) == {"cell 0": 1, "cell 1": 2}
    return made


def test_a_cell_that_was_left_out_of_a_round_has_nan_there(run):
    run.add_timings(0, [(1, again, turn, "ttft", 2.0 + turn) for again in (0, 1) for turn in range(4)])
    run.add_timings(0, [(2, 0, turn, "ttft", 1.0 + turn) for turn in (0, 1)] + [(c, 0, 0, "decode", 0.5) for c in (1, 2)])
    run.add_timings(1, [(1, 0, 0, "ttft", 7.0)])
    found, again = run.timings(), run.timings(1)
    assert set(found) == {(0, 1), (0, 2), (1, 1)} and set(again) == {(0, 1)}
    assert found[0, 1]["ttft"].tolist() == again[0, 1]["ttft"].tolist() == [2, 3, 4, 5]
    assert found[0, 2]["ttft"][:2].tolist() == [1, 2] and np.isnan(found[0, 2]["ttft"][2:]).tolist() == [True, True]
    assert found[0, 1]["decode"].tolist() == found[0, 2]["decode"].tolist() == [0.5]
    assert found[1, 1]["ttft"].tolist() == [7.0] and set(found[1, 1]) == {"ttft"}


def test_times_of_an_older_version_are_read_as_it_wrote_them(run):
    """Every cell in every round, and no time to first token."""
    rng, stages = np.random.default_rng(0), ("vision", "projector", "selection", "prefill", "decode", "total")
    slots = [(1, 0), (1, 1), (2, 0)]
    for number in range(2):
        rows = [(*slot, turn, stage, float(rng.random())) for slot in slots for turn in range(6) for stage in stages]
        run.add_timings(number, [rows[place] for place in rng.permutation(len(rows))])
    query = "SELECT seconds FROM timings WHERE pass = ? AND cell = ? AND repeat = ? AND stage = ? ORDER BY round"
    for repeat, cells in ((0, (1, 2)), (1, (1,))):
        found = run.timings(repeat)
        assert set(found) == {(number, cell) for number in range(2) for cell in cells}
        for (number, cell), own in found.items():
            assert set(own) == set(stages)
            for stage, values in own.items():
                assert values.tolist() == [s for (s,) in run.connection.execute(query, (number, cell, repeat, stage))]


def test_a_run_without_times_has_none():
    run = RunFolder(OLDER, read_only=True)
    assert run.timings() == run.timings(1) == {}
    run.close()
