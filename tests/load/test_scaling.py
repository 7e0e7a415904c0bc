"""The simulated sweep: what must hold of it, and that the page shows what its command prints."""

from __future__ import annotations

import importlib.util
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "scaling.md"


def loaded():
    spec = importlib.util.spec_from_file_location("scaling", Path(__file__).with_name("scaling.py"))
    module = sys.modules["scaling"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scaling = loaded()
FREE = replace(scaling.QUIET, load=0, begin=0, end=0, take=0, store=0)  # nothing costs but answering
RUN = scaling.Cost(alone=2000.0, shared=1200.0, shards=120, rows=120_000)
seeded = lambda: random.Random(0)


@pytest.mark.parametrize("workers, rounds", [(1, 120), (7, 18), (60, 2), (120, 1), (500, 1)])
def test_without_losses_a_run_takes_its_rounds(workers, rounds):
    assert scaling.run_time(RUN, workers, FREE, seeded()) == pytest.approx(rounds * RUN.shard)


@pytest.mark.parametrize("workers", [1, 8, 64])
def test_each_loss_comes_on_top(workers):
    free = scaling.run_time(RUN, workers, FREE, seeded())
    fixed = scaling.run_time(RUN, workers, replace(FREE, begin=7, load=11, end=13), seeded())
    assert fixed == pytest.approx(free + 31)
    for world in (replace(FREE, jitter=0.5, late=0.2), replace(FREE, slow=1.0), replace(FREE, failures=60, detect=30, load=30)):
        assert scaling.run_time(RUN, workers, world, seeded()) > free + RUN.shard / 2


def test_half_speed_takes_twice_as_long():
    assert scaling.run_time(RUN, 4, replace(FREE, slow=1.0), seeded()) == pytest.approx(
        2 * scaling.run_time(RUN, 4, FREE, seeded())
    )


def test_a_worker_that_dies_loses_one_shard_and_its_loading():
    """With one death for certain in each shard but few: 3600 failures an hour on shards of 10 s end; the run does too."""
    often = replace(FREE, failures=3600 / 20, load=5, detect=2)
    spans = [scaling.run_time(RUN, 1, often, random.Random(seed)) for seed in range(20)]
    answered, deaths = 10 * RUN.shards, (sum(spans) / 20 - 5 - 10 * RUN.shards)
    expected = RUN.shards * (2.718281828**0.5 - 1)  # of exponential lives of 20 s and shards of 10 s
    lost = 20 - 10 / (2.718281828**0.5 - 1)  # mean age at such a death
    assert deaths == pytest.approx(expected * (lost + 7), rel=0.1) and answered > deaths > 0


def test_the_writer_bounds_what_workers_gain():
    """A second a shard: beyond ten workers on shards of 10 s nothing is gained."""
    slow = replace(FREE, store=1.0)
    assert scaling.run_time(RUN, 5, slow, seeded()) == pytest.approx(24 * RUN.shard, rel=0.1)
    for workers in (20, 100):
        assert scaling.run_time(RUN, workers, slow, seeded()) == pytest.approx(RUN.shards * 1.0, rel=0.15)


def test_lanes_share_the_runs():
    costs = [RUN] * 16
    assert scaling.sweep(costs, 16, FREE) == pytest.approx(30 * RUN.shard)  # one run each, on 4 GPUs
    assert scaling.sweep(costs, 1, FREE) == pytest.approx(16 * 2 * RUN.shard)  # 64 workers, two rounds each
    assert scaling.sweep(costs, 8, scaling.World(), 1) == scaling.sweep(costs, 8, scaling.World(), 1)


def test_costs_follow_flops_and_sharing():
    card, model = scaling.CARDS[0], "llava-1.5-7b"
    cost = lambda task, budgets=scaling.ONE: scaling.cost(card, model, task, budgets)
    assert all(1 < cost(task).alone / cost(task).shared < 50 for task in scaling.TASKS)
    assert cost("gqa").alone / cost("gqa").shared > cost("ocrbench").alone / cost("ocrbench").shared  # 32 questions an image, 1
    assert 2.5 < cost("gqa", scaling.THREE).rows / cost("gqa").rows < 3
    bare = next(cell for cell in scaling.cells_of(model, scaling.ONE) if cell.method == "none")
    times = scaling.stages(card, scaling.shape_of(model), bare)
    tokens, weights = 576 + scaling.TEXT, 6.476e9  # of the 32 layers
    by_hand = 2 * weights * tokens + 4 * tokens**2 * 4096 * 32
    assert times["prefill"] == pytest.approx(by_hand / (card.peak * card.used), rel=0.01)
    assert {m for m in scaling.METHODS if any(cell.method == m for cell in scaling.cells_of(model, scaling.THREE))} == set(
        scaling.METHODS
    )


def test_the_page_states_what_the_simulation_takes_for_granted():
    text = PAGE.read_text(encoding="utf-8")
    world, card = scaling.World(), scaling.CARDS[0]
    for said in (
        f"{card.used:.0%}".replace("%", " %"), f"{card.reading:.0%}".replace("%", " %"), f"{card.launch * 1e3:.0f} ms a pass",
        f"{scaling.ROWS} questions a batch", f"{world.load:.0f} s to load", f"one failure in {1 / world.failures:.0f} h",
        f"{world.take + world.store:.3f} s".rstrip("0"),
    ):  # fmt: skip
        assert said in text, said


def test_the_writer_stores_what_it_is_given():
    found = scaling.writer(shards=4, questions=8, cells=3)
    assert found["take"] > 0 and found["store"] > 0 and 50 < found["sent"] < 2000 and 50 < found["stored"] < 5000


def stage(name, measured, explained=0.8, bound=None, flops=0.0):
    return {"stage": name, "measured_ms": measured, "flops": flops, "explained": explained, "bound": bound}


def cell(method, batch, *bounds):
    return {"method": method, "batch_size": batch, "bounds": list(bounds)}


FOUND = {
    "model": "llava-1.5-7b", "device": "cuda:0 NVIDIA H100 80GB HBM3", "dtype": "bfloat16", "layers": 8,
    "rates": {"flops": 7e14, "bytes": 3e12, "launch": 4e-6},
    "cells": [
        cell("none", 1, stage("vision", 9, flops=1e12), stage("prefill", 9, flops=1e12)),
        cell("none", 32, stage("vision", 50, flops=7e12), stage("projector", 10, flops=1e12), stage("prefill", 40, flops=27e12)),
        cell("sts", 32, stage("selection", 10, flops=7e10)), cell("fastv", 32, stage("selection", 10, flops=21e10)),
        cell("tome", 32, stage("selection", 10, flops=14e10)), cell("vtw", 32, stage("selection", 1, flops=0.0)),
        cell("blind", 1, stage("decode", 2.0, bound="launches")), cell("blind", 32, stage("decode", 9.0)), {"method": "late"},
    ],
}  # fmt: skip


def test_a_profile_takes_the_place_of_assumptions():
    card = scaling.card_of(FOUND)
    assert (card.peak, card.bandwidth, card.number) == (7e14, 3e12, 2)
    assert card.used == pytest.approx(35e12 / 0.1 / 7e14) and card.selecting == pytest.approx(14e10 / 0.01 / 7e14)
    assert card.launch == 0.002 and card.layers == 8 and card.reading == scaling.Card.reading
    assert card.least(scaling.shape_of("llava-1.5-7b")) == pytest.approx(0.008)  # of 32 layers
    told = {row.split("|")[1].strip(): row.split("|")[3].strip() for row in scaling.assumptions(card, FOUND)}
    assert told["reached in tower and prefill"] == "measured: none, batch 32"
    assert (
        told["reached in selection"] == "measured: the median of 4 cells, batch 32" or "3 cells" in told["reached in selection"]
    )
    assert told["a pass through the LLM at the least"] == "measured: decoding without an image, batch 1"
    assert told["reached in decode"] == told["loading, stragglers, failures"] == "assumed"
    assert told["products at best"] == "measured: a large product" and told["copies at best"].startswith("measured: a large copy")


def test_decoding_that_bandwidth_bounds_tells_the_share_of_it():
    read = {**FOUND, "dtype": "float32", "cells": [cell("blind", 1, stage("decode", 20.0, 0.7, "bandwidth"))]}
    card = scaling.card_of(read)
    assert (card.reading, card.launch, card.layers, card.number) == (0.7, scaling.Card.launch, None, 4)
    assert (card.used, card.selecting) == (scaling.Card.used, scaling.Card.selecting)
    shape, bare = scaling.shape_of("llava-1.5-7b"), scaling.cells_of("llava-1.5-7b", scaling.ONE)[0]
    quiet = replace(card, launch=0.0)
    weights = scaling.flops(shape, bare.schedule, scaling.TEXT).decode_per_token * 2  # bytes in float32
    assert scaling.stages(quiet, shape, bare)["decode"] == pytest.approx(scaling.ANSWER * weights / (0.7 * 3e12) / scaling.ROWS)


def test_without_a_profile_all_is_assumed_or_of_a_data_sheet():
    rows = list(scaling.assumptions(scaling.CARDS[0]))
    assert len(rows) == 9 and all(row.endswith(("| assumed |", "| data sheet |")) for row in rows[2:])
    text = PAGE.read_text(encoding="utf-8")
    assert "\n".join(rows) in text


@pytest.mark.parametrize(
    ("text", "said"), [("{}", "is no profile, it has no rates, cells"), ("[1]", "is no profile"), ("{", "JSON")]
)
def test_what_is_no_profile_is_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as stop:
        scaling.main(["sweep", "--profile", str(path)])
    assert said in str(stop.value.code) and str(path) in str(stop.value.code) and len(str(stop.value.code).splitlines()) == 1


@pytest.mark.slow
def test_a_profile_of_a_small_model_is_taken(monkeypatch):
    """One that was measured here, from its JSON: every figure that costs need is there."""
    import json

    from harness.models import published
    from harness.run.profiling.config import ProfileConfig
    from harness.run.profiling.profile import profile
    from tests.run.profiling.test_profile import SMALL

    monkeypatch.setitem(published.PUBLISHED, "llava-1.5-7b", SMALL["llava-1.5-7b"])
    short = {"batch_size": (1, 4), "answer_tokens": 3, "rounds": 1, "break_even": False}
    found = profile(ProfileConfig(random_weights=True, methods=("sts",), keep=("8",), **short))
    card = scaling.card_of(json.loads(json.dumps(found)))
    assert {"peak", "bandwidth", "used", "selecting"} <= set(card.measured) and len(
        {"launch", "reading"} & set(card.measured)
    ) == 1
    assert 0 < card.used < 3 and 0 < card.selecting < 3
    costs = scaling.cost(card, "llava-1.5-7b", "pope", scaling.ONE)
    assert costs.alone > costs.shared > 0


@pytest.mark.slow
def test_the_page_has_the_tables_that_its_command_prints():
    done = subprocess.run(
        [sys.executable, "tests/load/scaling.py", "sweep"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    text = PAGE.read_text(encoding="utf-8")
    printed = re.split(r"\n\n", done.stdout.strip())
    assert len(printed) == 6
    for part in printed:
        assert part.replace("\n", " ") in text.replace("\n", " "), part
