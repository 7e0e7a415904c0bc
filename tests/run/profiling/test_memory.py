"""Peak memory of what runs, and the largest batch that is predicted from it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from harness.models import published
from harness.models.published import llava
from harness.run.profiling.config import ProfileConfig
from harness.run.profiling.memory import SPARED, PeakMeter, free_bytes, largest_batch
from harness.run.profiling.model import ProfiledModel
from harness.run.profiling.rounds import CellTimer

GB = 10**9
CPU = {"cpu": 10 * GB}


@pytest.mark.skipif(sys.platform != "linux", reason="a process begins a new peak on Linux alone")
def test_a_resident_peak_begins_anew():
    meter = PeakMeter([torch.device("cpu")])
    assert meter.kind == "resident" and not meter.on_gpu
    for megabytes in (400, 100):  # the second is not hidden by the first
        meter.begin()
        taken = np.ones(megabytes * 125_000)
        del taken
        found = meter.end()
        assert sum(found.working.values()) == pytest.approx(megabytes * 1e6, rel=0.15)
        assert found.as_dict()["peak_bytes"] > found.as_dict()["working_bytes"]


def test_where_nothing_can_be_measured_it_says_so(monkeypatch):
    monkeypatch.setattr("harness.run.profiling.memory._begin_anew", lambda: False)
    monkeypatch.setattr("harness.run.profiling.memory._begins_anew", lambda: False)
    meter = PeakMeter([torch.device("cpu")])
    meter.begin()
    assert meter.end() is None and meter.kind == "not measured"
    found = largest_batch({}, CPU, {}, meter.kind)
    assert found.batch is None and found.how == "unknown" and found.said == "memory was not measured here"


def test_a_straight_line_is_continued_to_what_is_free():
    peaks = {1: {"cpu": 3 * GB // 10}, 4: {"cpu": 6 * GB // 10}}  # 0.2 GB, and 0.1 GB a prompt
    found = largest_batch(peaks, CPU, {}, "resident")
    assert found.batch == (SPARED * 10 - 0.2) // 0.1 and found.how == "predicted"
    assert found.said == (
        "a straight line through the resident working memory of batch 1 and 4, in 90 % of the 10.0 GB that were free beside the "
        "weights"
    )


def test_of_one_batch_size_memory_is_taken_in_proportion():
    found = largest_batch({2: {"cpu": GB}}, CPU, {}, "resident")
    assert found.batch == 18 and found.said.startswith("in proportion to the resident working memory of batch 2")


def test_a_prompt_takes_no_less_than_its_cache():
    flat = {1: {"cpu": GB}, 4: {"cpu": GB}}
    assert largest_batch(flat, CPU, {}, "resident", cache=GB).batch == 9
    loose = largest_batch({1: {"cpu": 1000}}, CPU, {}, "resident")
    assert loose.batch is None and "does not bound it below 1,000,000 prompts" in loose.said


def test_the_fullest_of_several_devices_bounds():
    peaks = {1: {"cuda:0": GB, "cuda:1": 2 * GB}}
    assert largest_batch(peaks, {"cuda:0": 20 * GB, "cuda:1": 20 * GB}, {}, "allocated").batch == 9


def test_what_did_not_fit_bounds_it_too():
    peaks = {1: {"cuda:0": GB}, 4: {"cuda:0": 2 * GB}}
    found = largest_batch(peaks, {"cuda:0": 40 * GB}, {16: "out of memory"}, "allocated")
    assert (found.batch, found.how) == (4, "measured") and "batch 4 ran and batch 16 did not fit" in found.said
    low = largest_batch(peaks, {"cuda:0": GB}, {}, "allocated")
    assert (low.batch, low.how) == (4, "measured") and "though less was predicted" in low.said
    none = largest_batch({}, {"cuda:0": GB}, {1: "out of memory"}, "allocated")
    assert none.batch is None and none.said == "batch 1 did not fit, and no smaller one was measured"
    assert largest_batch(peaks, {}, {}, "allocated").said == "this platform does not tell how much memory is free"


def test_what_is_free_here():
    found = free_bytes([torch.device("cpu")])
    assert set(found) <= {"cpu"} and all(0 < value < 2**46 for value in found.values())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a process begins a new peak on Linux alone")
def test_what_is_predicted_from_two_batches_is_about_what_a_third_takes(monkeypatch):
    """If just what 16 prompts take were free, about 16 are predicted from 1 and 4, or from 4 and 8; resident memory is rough."""
    made = llava((256, 512, 6, 8, 336, 14), (512, 1024, 4, 8, 8, 32_000))
    monkeypatch.setitem(published.PUBLISHED, "llava-1.5-7b", lambda: made)
    model = ProfiledModel.loaded(ProfileConfig(random_weights=True, answer_tokens=3, self_check=False, dtype="float32"))
    meter, cell = PeakMeter([torch.device("cpu")]), next(cell for cell in model.cells(64) if cell.method == "none")
    CellTimer(model, cell, 1, 64).in_one_piece()  # what is done once
    peaks, cache = {}, 0.0
    for batch in (1, 4, 8, 16):
        timer = CellTimer(model, cell, batch, 64)
        timer.first_run(meter)
        peaks[batch], cache = timer.times.peak.working, timer.times.kv_bytes / batch
    free = {"cpu": int(peaks[16]["cpu"] / SPARED) + 1}
    for used in ((1, 4), (4, 8), (1, 4, 8)):
        found = largest_batch({batch: peaks[batch] for batch in used}, free, {}, "resident", cache)
        assert found.how == "predicted" and 8 <= found.batch <= 32
    assert peaks[16]["cpu"] > 16 * cache
