"""A run that is killed goes on to the figures of one that was not, wherever it was killed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from harness.run.comparison import compare
from tests.faults.conftest import REQUEST, STORED, Clock, compare_until, digest, figures, forked, made_quick, same, tables

WORDS = "compare --methods random,fastv --keep 64 --samples 6 --batch-size 1 --analyse 2 --seeds 2 --max-new-tokens 3"


@pytest.fixture(scope="module")
def ticks(tmp_path_factory, undisturbed, adapter) -> list[str]:
    """Every kind of tick of a run, one entry a tick."""
    folder = tmp_path_factory.mktemp("ticks")

    def run() -> None:
        made_quick(pytest.MonkeyPatch(), adapter)  # in a process that ends with it
        with (folder / "log").open("w") as log:
            Clock(lambda kind: log.write(f"{kind}\n")).install()
            compare(**REQUEST, out=folder / "run")

    assert forked(run) == 0
    assert same(folder / "run", undisturbed)
    return (folder / "log").read_text().splitlines()


def test_a_run_killed_at_every_kind_of_step_ends_as_one_that_was_not(tmp_path, undisturbed, ticks):
    """One run, killed again and again: at the first statement of every kind, before every file, in every cell."""
    kinds = list(dict.fromkeys(ticks))
    assert any(kind.startswith("INSERT OR REPLACE INTO samples") for kind in kinds)
    assert {"COMMIT", "replace summary.json.partial", "opened report.html.partial", "run fastv"} <= set(kinds)
    killed = [kind for kind in kinds if compare_until(tmp_path / "run", lambda tick, kind=kind: tick == kind) == -signal.SIGKILL]
    assert len(killed) > 0.7 * len(kinds)
    assert compare_until(tmp_path / "run", lambda tick: False) == 0
    assert same(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_random_steps_ends_as_one_that_was_not(tmp_path, undisturbed, ticks, seed):
    """Three times over, each time at some step of what is left; and the lock keeps nobody out."""
    luck, kills = random.Random(seed), 0
    for _ in range(3):
        left = [luck.randint(1, len(ticks))]

        def at(kind: str, left=left) -> bool:
            left[0] -= 1
            return left[0] == 0

        kills += compare_until(tmp_path / "run", at) == -signal.SIGKILL
    assert compare_until(tmp_path / "run", lambda tick: False) == 0
    assert kills
    assert same(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_twenty_random_kills(tmp_path):
    """Real command lines, killed by the clock; the latency pass and several processes are part of them."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(folder: Path, workers: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "harness", *WORDS.split(), "--out", str(folder), "--resume", "--workers", str(workers)]
        return subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(folder: Path, workers: int) -> float:
        began = time.monotonic()
        process = start(folder, workers)
        said = process.communicate()[1]
        assert process.returncode == 0, said
        return time.monotonic() - began

    whole = finish(tmp_path / "whole", 1)
    luck, kills, number = random.Random(20), [], 0
    while len(kills) < 20:
        number += 1
        folder, workers = tmp_path / f"run{number}", 1 + number % 2
        for _ in range(4):
            process = start(folder, workers)
            with suppress(subprocess.TimeoutExpired):
                process.wait(luck.uniform(0.1, 0.8) * whole)
            process.kill()
            process.communicate()
            if process.returncode != -signal.SIGKILL:
                break  # it was done before
            kills.append(_state(folder))
        finish(folder, workers)
        assert figures(folder) == figures(tmp_path / "whole")
        assert tables(folder, STORED) == tables(tmp_path / "whole", STORED)
        assert digest(folder) == digest(tmp_path / "whole")
    print(f"{len(kills)} kills of {number} runs:", *kills, sep="\n")
    assert len(set(kills)) >= 4, "at different moments"


def _state(folder: Path) -> str:
    """How far a run had come when it was killed."""
    if not (folder / "results.sqlite").exists():
        return "before there was a run"
    if (folder / "summary.json").exists():
        return "with its summary written"
    try:
        counts = [len(tables(folder, (name,))[name]) for name in ("done", "timings")]
    except sqlite3.Error:
        return "before there were tables"
    return f"with {counts[0]} batches of cells answered" + (", and timed" if counts[1] else "")
