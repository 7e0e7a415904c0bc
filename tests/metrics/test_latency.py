from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch

from metrics import latency, memory


def _times(scale: float, rounds: int = 20, seed: int = 0) -> dict[str, np.ndarray]:
    drift = 1.0 + np.random.default_rng(seed).random(rounds)
    return {name: scale * drift * ms / 1e3 for name, ms in zip(latency.FIRST_TOKEN, (10, 1, 0.5, 30))}


def test_drift_that_hits_both_alike_cancels_in_the_paired_ratio():
    found = latency.summarise(_times(0.5), _times(1.0), flops_ratio_promised=4.0)
    assert {**found["ratio"], "p": 0} == pytest.approx({"value": 2.0, "lo": 2.0, "hi": 2.0, "p": 0})
    assert {**found["realised_gain"], "p": 0} == pytest.approx({"value": 0.5, "lo": 0.5, "hi": 0.5, "p": 0})
    assert found["ratio"]["p"] is None and found["realised_gain"]["p"] is None  # nothing spreads, so that no chance is known
    assert found["noisy"] is False and found["cv"] > 0.1 and found["rounds"] == 20  # drift is wide, and leaves the ratio as it is
    none = latency.summarise(_times(1.0), _times(1.0))
    assert none["noisy"] is True and none["ratio"]["p"] is None  # its own time is not known, whatever its ratio to itself


def test_stages_are_medians_in_milliseconds():
    times = {**_times(1.0), "decode": np.full(20, 0.002), "total": np.full(20, 0.1)}
    found = latency.summarise(times, times)
    assert set(latency.STAGES) | {"rounds", "ratio", "cv", "noisy", "realised_gain"} == set(found)
    assert found["decode"] == pytest.approx({"value": 2.0, "lo": 2.0, "hi": 2.0})
    assert found["total"]["value"] == pytest.approx(100.0)
    assert found["prefill"]["value"] == pytest.approx(np.median(times["prefill"]) * 1e3)
    assert found["ttft"]["value"] == pytest.approx(np.median(sum(times[s] for s in latency.FIRST_TOKEN)) * 1e3)
    assert found["ttft"]["lo"] < found["ttft"]["value"] < found["ttft"]["hi"]
    ttft = sum(times[s] for s in latency.FIRST_TOKEN)
    assert found["cv"] == pytest.approx(np.std(ttft, ddof=1) / np.mean(ttft))
    assert found["ratio"]["value"] == 1.0 and found["realised_gain"] is None


def test_what_was_not_measured_is_none():
    found = latency.summarise({"prefill": np.array([0.1, 0.1])}, {}, 2.0)
    assert found["vision"] is None and found["ttft"] is None and found["ratio"] is None
    assert found["cv"] is None and found["noisy"] is None and found["realised_gain"] is None
    one = latency.summarise({"ttft": np.array([0.1])}, {"ttft": np.array([0.2])}, 2.0)
    assert one["ttft"]["lo"] is None and one["realised_gain"] is None and one["noisy"] is True
    one = latency.summarise({"prefill": np.array([0.1])}, {"prefill": np.array([0.2])}, 2.0)
    assert one["realised_gain"]["value"] == pytest.approx(1.0) and one["cv"] is None
    assert one["rounds"] == 1 and one["realised_gain"]["p"] is None and one["noisy"] is None, "no time to first token"
    nothing = latency.summarise({}, {})
    assert nothing["rounds"] == 0 and nothing["ratio"] is None and nothing["noisy"] is None


def test_rounds_too_few_for_an_interval_claim_nothing():
    rng = np.random.default_rng(2)
    for rounds, tested, known in ((2, False, False), (3, True, False), (5, True, False), (6, True, True)):
        times, none = ({"ttft": rng.lognormal(0, 0.02, rounds)} for _ in range(2))
        found = latency.summarise(times, none)
        assert found["rounds"] == rounds and (found["ratio"]["p"] is not None) == tested
        assert (found["ratio"]["lo"] is not None) == known and found["noisy"] is (rounds < latency.LEAST_KNOWN)


def test_few_rounds_that_spread_are_noisy_whether_or_not_their_median_has_an_interval():
    rng, flagged = np.random.default_rng(6), {}
    for rounds in (1, 2, 3, 4, 5, 6):
        found = [latency.summarise(*({"ttft": rng.lognormal(0, 0.3, rounds)} for _ in range(2))) for _ in range(200)]
        assert all(isinstance(one["noisy"], bool) for one in found)
        flagged[rounds] = sum(one["noisy"] for one in found)
    assert flagged[1] == flagged[2] == flagged[3] == 200 and min(flagged.values()) >= 196, flagged
    alone = latency.summarise({"ttft": np.array([1.0, 1.5, 0.8, 1.2, 2.0])}, {})
    assert alone["ratio"] is None and alone["noisy"] is True, "by its own times where there is no other to stand beside"


def test_the_interval_of_six_rounds_is_from_the_least_to_the_greatest():
    found = latency.summarise({"prefill": np.array([4.0, 1, 3, 6, 2, 5]) / 1e3}, {})["prefill"]
    assert found == pytest.approx({"value": 3.5, "lo": 1.0, "hi": 6.0})


def test_p_is_students_on_logarithms():
    rng = np.random.default_rng(3)
    none, times = rng.lognormal(0.2, 0.1, 12), rng.lognormal(0, 0.1, 12)
    found = latency.summarise({"ttft": times, "prefill": times}, {"ttft": none, "prefill": none}, 1.3)
    for figure, against in (("ratio", 1.0), ("realised_gain", 1.3)):
        assert found[figure]["p"] == pytest.approx(scipy.stats.ttest_1samp(np.log(none / times), np.log(against)).pvalue)
    assert found["realised_gain"]["value"] == pytest.approx(np.median(none / times) / 1.3)
    assert latency.mean_log_p(none / times, 1.3) == pytest.approx(latency.mean_log_p(times / none, 1 / 1.3))


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


def test_what_is_noisy():
    """By the narrower of two intervals: many rounds of which few stray are known, and few rounds that agree."""
    steady, rng = np.full(24, 2.0), np.random.default_rng(5)
    agreed = steady * rng.lognormal(0, 0.02, 24)
    strays = agreed * np.where(np.arange(24) < 3, 2.5, 1.0)
    assert latency.reach(agreed[:6]) < latency.NOISY and latency.reach(strays) < latency.NOISY
    assert latency.reach(strays[:6]) > latency.NOISY and latency.reach(steady * rng.lognormal(0, 0.3, 24)) > latency.NOISY
    assert latency.reach(agreed[:3]) is None and latency.reach(None) is None
    logs = np.log(agreed[:5])
    half = scipy.stats.t.ppf(0.975, 4) * logs.std(ddof=1) / 5**0.5
    assert latency.reach(agreed[:5]) == pytest.approx(np.expm1(half)), "the median of five has no interval"
    assert latency.reach(agreed) == pytest.approx(latency.reach(1000 * agreed))


def test_bad_times_are_refused():
    with pytest.raises(ValueError, match="no stage warmup"):
        latency.summarise({"warmup": np.ones(2)}, {})
    with pytest.raises(ValueError, match="different rounds"):
        latency.summarise({"prefill": np.ones(2), "vision": np.ones(3)}, {})
    with pytest.raises(ValueError, match="paired by round"):
        latency.summarise({"ttft": np.ones(2)}, {"ttft": np.ones(3)})
    with pytest.raises(ValueError, match="below 0"):
        latency.summarise({"ttft": np.array([-1.0])}, {})


def test_columns_of_rounds():
    table = latency.columns([latency.Timing(1, 2, 3, 4, total=11), latency.Timing(1, 2, 3, None, total=12)])
    assert table["ttft"][0] == 10 and np.isnan(table["ttft"][1]) and "decode" not in table
    assert table["total"].tolist() == [11, 12]


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
