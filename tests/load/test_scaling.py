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


@pytest.mark.slow
def test_the_page_has_the_tables_that_its_command_prints():
    done = subprocess.run(
        [sys.executable, "tests/load/scaling.py", "sweep"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    text = PAGE.read_text(encoding="utf-8")
    printed = re.split(r"\n\n", done.stdout.strip())
    assert len(printed) == 5
    for part in printed:
        assert part.replace("\n", " ") in text.replace("\n", " "), part
