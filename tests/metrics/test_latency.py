from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from metrics import latency, memory


def _times(scale: float, rounds: int = 20, seed: int = 0) -> dict[str, np.ndarray]:
    drift = 1.0 + np.random.default_rng(seed).random(rounds)
    return {name: scale * drift * ms / 1e3 for name, ms in zip(latency.FIRST_TOKEN, (10, 1, 0.5, 30))}


def test_drift_that_hits_both_alike_cancels_in_the_paired_ratio():
    found = latency.summarise(_times(0.5), _times(1.0), flops_ratio_promised=4.0)
    assert found["ratio"] == pytest.approx({"value": 2.0, "lo": 2.0, "hi": 2.0})
    assert found["realised_gain"] == pytest.approx({"value": 0.5, "lo": 0.5, "hi": 0.5})
    assert found["noisy"] is True  # the drift itself is wide


def test_stages_are_medians_in_milliseconds():
    times = {**_times(1.0), "decode": np.full(20, 0.002), "total": np.full(20, 0.1)}
    found = latency.summarise(times, times)
    assert set(latency.STAGES) | {"ratio", "cv", "noisy", "realised_gain"} == set(found)
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
    assert one["ttft"]["lo"] is None and one["realised_gain"] is None
    one = latency.summarise({"prefill": np.array([0.1])}, {"prefill": np.array([0.2])}, 2.0)
    assert one["realised_gain"]["value"] == pytest.approx(1.0) and one["cv"] is None


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
    assert memory.device_peak_bytes("cpu") is None
    assert memory.reset_device_peak("cpu") is None


def test_figures_for_reports_need_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import metrics; from metrics import accuracy, statistics, evidence;"
        "from metrics import latency, flops, memory, pareto, explain, figures, familywise, ranks, chance, overlap;"
        "print(metrics.accuracy.retention(1, 2))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "0.5"
    import metrics

    with pytest.raises(AttributeError, match="it has accuracy"):
        _ = metrics.nothing
    assert "flops" in dir(metrics)
