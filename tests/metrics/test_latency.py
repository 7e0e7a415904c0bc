from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch

from metrics import latency, memory
from metrics.medians import median
from metrics.paired_ratio import ratio_interval, ratio_p


def _times(scale: float, rounds: int = 20, seed: int = 0) -> dict[str, np.ndarray]:
    """Stages of an older run, whose sum is the time to first token."""
    drift = 1.0 + np.random.default_rng(seed).random(rounds)
    return {name: scale * drift * ms / 1e3 for name, ms in zip(latency.FIRST_TOKEN, (10, 1, 0.5, 30))}


def _in_one_piece(scale: float, rounds: int = 20, staged: int = 3, seed: int = 0, gap: float = 0.02) -> dict[str, np.ndarray]:
    """Rounds of time to first token, and others of stages that sum to a share more than its median."""
    whole = scale * 0.04 * (1.0 + np.random.default_rng(seed).random(rounds))
    own = (1 + gap) * np.median(whole) * np.linspace(0.99, 1.01, staged)
    shares = zip(latency.BEFORE_FIRST_TOKEN, (0.04, 0.2, 0.05, 0.06, 0.05, 0.6))
    return {**{name: share * own for name, share in shares}, "decode": 0.1 * own, "total": 2 * own, "ttft": whole}


def test_drift_that_hits_both_alike_cancels_in_the_paired_ratio():
    found = latency.summarise(_times(0.5), _times(1.0), flops_ratio_promised=4.0)
    assert {**found["ratio"], "p": 0} == pytest.approx({"value": 2.0, "lo": 2.0, "hi": 2.0, "p": 0})
    assert {**found["realised_gain"], "p": 0} == pytest.approx({"value": 0.5, "lo": 0.5, "hi": 0.5, "p": 0})
    assert found["ratio"]["p"] < 0.05 and found["realised_gain"]["p"] is None  # nothing spreads, so that Student knows no chance
    assert found["wide"] is False and found["cv"] > 0.1 and found["rounds"] == 20  # drift is wide, and leaves the ratio as it is
    none = latency.summarise(_times(1.0), _times(1.0))
    assert none["wide"] is None and none["ratio"] == {"value": 1.0, "lo": 1.0, "hi": 1.0, "p": None}, "to itself it is no figure"


def test_stages_are_medians_in_milliseconds():
    times = {**_times(1.0), "decode": np.full(20, 0.002), "total": np.full(20, 0.1)}
    found = latency.summarise(times, times)
    figures = {"rounds", "stage_rounds", "ratio", "ttft_none", "cv", "wide", "in_one_piece", "sum_gap", "realised_gain"}
    assert set(latency.STAGES) | figures == set(found)
    assert found["decode"] == pytest.approx({"value": 2.0, "lo": 2.0, "hi": 2.0})
    assert found["total"]["value"] == pytest.approx(100.0)
    assert found["prefill"]["value"] == pytest.approx(np.median(times["prefill"]) * 1e3)
    ttft = sum(times[s] for s in latency.FIRST_TOKEN)
    assert found["ttft"]["value"] == pytest.approx(np.median(ttft) * 1e3)
    assert found["ttft"]["lo"] < found["ttft"]["value"] < found["ttft"]["hi"]
    assert found["cv"] == pytest.approx(np.std(ttft, ddof=1) / np.mean(ttft))
    assert found["ratio"]["value"] == 1.0 and found["realised_gain"] is None
    assert found["in_one_piece"] is False and found["sum_gap"] is None and found["layout"] is None


def test_time_to_first_token_in_one_piece_stands_beside_stages_of_other_rounds():
    """It is not their sum, has rounds of its own, and says how far off their sum is."""
    found = latency.summarise(_in_one_piece(0.5), _in_one_piece(1.0), 2.0)
    assert found["in_one_piece"] is True and (found["rounds"], found["stage_rounds"]) == (20, 3)
    assert found["sum_gap"] == pytest.approx(0.02)
    assert found["ttft"]["value"] == pytest.approx(np.median(_in_one_piece(0.5)["ttft"]) * 1e3)
    assert found["ratio"]["value"] == pytest.approx(2.0) and found["wide"] is False
    assert found["layout"]["value"] == pytest.approx(0.06 * 1.02 * found["ttft"]["value"]) and found["layout"]["lo"] is None
    assert found["realised_gain"]["value"] == pytest.approx(1.0), "from the rounds of stages alone"
    without = {name: column for name, column in _in_one_piece(0.5).items() if name != "preprocess"}
    assert latency.summarise(without, _in_one_piece(1.0))["sum_gap"] is None, "a stage is missing"


def test_rounds_that_a_cell_was_left_out_of_are_no_rounds_of_it():
    """A machine that becomes twice as slow when the cell is known already changes none of the cell's figures."""
    none, cell = _in_one_piece(1.0), _in_one_piece(0.5)
    none["ttft"] = none["ttft"] * np.where(np.arange(20) < 8, 1.0, 2.0)
    cell["ttft"] = np.where(np.arange(20) < 8, cell["ttft"], np.nan)
    found = latency.summarise(cell, none)
    assert found["rounds"] == 8 and found["ratio"]["value"] == pytest.approx(2.0)
    assert found["ttft_none"] == pytest.approx(np.median(none["ttft"][:8]) * 1e3)
    assert found["ttft_none"] == pytest.approx(2 * found["ttft"]["value"]), "of the very rounds of the cell"
    assert latency.summarise(none, none)["ttft"]["value"] > found["ttft_none"]
    gone = latency.summarise({**cell, "ttft": np.full(20, np.nan)}, none)
    assert gone["ttft"] is None and gone["ratio"] is None and gone["wide"] is None and gone["rounds"] == 0


def test_what_was_not_measured_is_none():
    found = latency.summarise({"prefill": np.array([0.1, 0.1])}, {}, 2.0)
    assert found["vision"] is None and found["ttft"] is None and found["ratio"] is None and found["in_one_piece"] is None
    assert found["cv"] is None and found["wide"] is None and found["realised_gain"] is None
    one = latency.summarise({"ttft": np.array([0.1])}, {"ttft": np.array([0.2])}, 2.0)
    assert one["ttft"]["lo"] is None and one["realised_gain"] is None and one["wide"] is True
    one = latency.summarise({"prefill": np.array([0.1])}, {"prefill": np.array([0.2])}, 2.0)
    assert one["realised_gain"] == {"value": pytest.approx(1.0), "lo": None, "hi": None, "p": None} and one["cv"] is None
    assert (one["rounds"], one["stage_rounds"]) == (0, 1) and one["wide"] is None, "no time to first token"
    alone = latency.summarise({"ttft": np.array([1.0, 1.5, 0.8, 1.2, 2.0])}, {})
    assert alone["ratio"] is None and alone["wide"] is None, "there is no ratio that could be wide"
    nothing = latency.summarise({}, {})
    assert nothing["rounds"] == 0 and nothing["ratio"] is None and nothing["wide"] is None
    staged = {stage: np.ones(3) for stage in latency.BEFORE_FIRST_TOKEN}
    assert latency.known_ttft(staged) is None, "stages of this version are no time to first token: older ones had no layout"


def test_the_ratio_is_that_of_the_confidence_sequence():
    rng = np.random.default_rng(2)
    times, none = ({"ttft": rng.lognormal(0, 0.02, 30)} for _ in range(2))
    found, known = latency.summarise(times, none), ratio_interval(none["ttft"] / times["ttft"])
    assert found["ratio"] == {**known.as_dict(), "p": ratio_p(none["ttft"] / times["ttft"])}
    for spread, wide in ((0.01, False), (0.3, True)):
        times, none = ({"ttft": rng.lognormal(0, spread, 30)} for _ in range(2))
        assert latency.summarise(times, none)["wide"] is wide


def test_the_interval_of_six_rounds_is_from_the_least_to_the_greatest():
    found = latency.summarise({"prefill": np.array([4.0, 1, 3, 6, 2, 5]) / 1e3}, {})["prefill"]
    assert found == pytest.approx({"value": 3.5, "lo": 1.0, "hi": 6.0})


@pytest.mark.parametrize("rounds", [2, 3, 5, 6, 12])
def test_the_interval_of_a_realised_gain_is_students_where_the_median_has_none(rounds):
    """And its p is Student's on the logarithms of any number of rounds from three on."""
    rng = np.random.default_rng(3)
    gains = rng.lognormal(0.2, 0.1, rounds)
    found = latency.realised_gain(gains, 1.3)
    assert found["value"] == pytest.approx(np.median(gains) / 1.3)
    if rounds < 3:
        assert found["lo"] is None and found["p"] is None
        return
    logs = np.log(gains / 1.3)
    assert found["p"] == pytest.approx(scipy.stats.ttest_1samp(logs, 0).pvalue)
    whole = median(gains / 1.3)
    ends = (whole.lo, whole.hi) if rounds >= 6 else np.exp(scipy.stats.ttest_1samp(logs, 0).confidence_interval())
    assert (found["lo"], found["hi"]) == pytest.approx(tuple(ends))
    assert found["lo"] <= found["value"] <= found["hi"]
    assert latency.mean_log_p(gains, 1.3) == pytest.approx(latency.mean_log_p(1 / gains, 1 / 1.3))


@pytest.mark.parametrize("counts", [(12, 7), (24, 12), (6, 6), (3, 40)])
def test_a_change_of_speed_is_yuens(counts):
    """Against SciPy; of under ten rounds nothing is trimmed."""
    rng = np.random.default_rng(4)
    before, after = rng.lognormal(1, 0.05, counts[0]), rng.lognormal(0.9, 0.1, counts[1])
    found, settings = latency.speed_change(before, after), {"equal_var": False, "trim": 0.1}
    known = scipy.stats.ttest_ind(np.log(after), np.log(before), **settings, alternative="less")
    assert found.p == pytest.approx(known.pvalue)
    gap = scipy.stats.trim_mean(np.log(after), 0.1) - scipy.stats.trim_mean(np.log(before), 0.1)
    assert found.change == pytest.approx(np.exp(gap) - 1)
    assert np.log1p(found.half) == pytest.approx(scipy.stats.t.ppf(0.975, known.df) * gap / known.statistic)
    assert latency.speed_change(before[:2], after) is None and latency.speed_change(np.ones(6), after) is None


def test_bad_times_are_refused():
    with pytest.raises(ValueError, match="no stage warmup"):
        latency.summarise({"warmup": np.ones(2)}, {})
    with pytest.raises(ValueError, match="paired by round"):
        latency.summarise({"ttft": np.ones(2)}, {"ttft": np.ones(3)})
    with pytest.raises(ValueError, match="below 0"):
        latency.summarise({"ttft": np.array([-1.0])}, {})


def test_resident_memory_follows_an_allocation():
    code = (
        "from metrics.memory import peak_resident_bytes as p; a = p(); x = bytearray(b'1') * 80_000_000; b = p();"
        "del x; print(b - a, p() - b)"
    )
    grown, later = map(int, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert grown == pytest.approx(80e6, rel=0.1)
    assert later > -1e6  # freeing does not lower it; the kernel sums its counters late


def test_kv_bytes_of_layers_of_different_lengths():
    layers = [(torch.zeros(2, 3, n, 4), torch.zeros(2, 3, n, 4, dtype=torch.bfloat16)) for n in (5, 7)]
    assert memory.kv_bytes(layers) == 2 * 3 * 4 * (5 + 7) * (4 + 2)
    assert memory.kv_bytes([]) == 0


def test_a_cpu_has_no_allocator_peak():
    assert memory.device_peaks(["cpu"]) == {}
    assert memory.reset_device_peaks(["cpu"]) == {}


def test_figures_for_reports_need_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import metrics; from metrics import accuracy, statistics, evidence;"
        "from metrics import latency, flops, memory, pareto, explain, figures, familywise, ranks, chance, overlap;"
        "print(metrics.statistics.holm([0.5])[0])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "0.5"
    import metrics

    with pytest.raises(AttributeError, match="it has accuracy"):
        _ = metrics.nothing
    assert "flops" in dir(metrics)
