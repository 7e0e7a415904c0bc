"""Every wrong input is refused with exit code 2 and one clear message, and leaves all files as they were."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.fuzz import cases, command_lines, expressions, model_folders, run_folders, settings, task_files
from tests.fuzz.inputs import Wrong, snapshot, workspace

GROUPS: dict[str, Callable[[], Iterator[Wrong]]] = {
    "command lines": command_lines.command_lines, "budgets": command_lines.budgets, "expressions": expressions.expressions,
    "task files": task_files.task_files, "parquet files": task_files.parquet_files, "cases": cases.cases,
    "run folders": run_folders.run_folders, "settings": settings.settings, "benchmark files": settings.benchmarks,
    "model folders": model_folders.model_folders,
}  # fmt: skip
STRIDE = {"run folders": 8, "model folders": 8}
"""By default every so many-th input of a group is tried, else every fourth; all of them with ``-m slow``."""


@cache
def inputs(group: str, every: bool) -> list[Wrong]:
    found = list({one.identity: one for one in (GROUPS[group]() if every else inputs(group, True))}.values())
    return found if every else found[:: STRIDE.get(group, 4)]


def test_how_many_there_are():
    """At least 500 by default, none twice."""
    counts = {every: sum(len(inputs(group, every)) for group in GROUPS) for every in (False, True)}
    assert counts[False] >= 500 and counts[True] >= 2500, counts


@pytest.mark.parametrize("group", GROUPS)
def test_wrong_inputs_are_refused(group, attempt, finished_run, tmp_path, monkeypatch):
    refuse(inputs(group, every=False), attempt, finished_run, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_all_wrong_inputs_are_refused(group, attempt, finished_run, tmp_path, monkeypatch):
    refuse(inputs(group, every=True), attempt, finished_run, tmp_path, monkeypatch)


def refuse(wrongs: list[Wrong], attempt, run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    faults = []
    for number, one in enumerate(wrongs):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(workspace(folder, run))
        one.lay_out(folder)
        before = snapshot(folder)
        outcome = attempt(*one.words)
        problem = outcome.refused or ("" if snapshot(folder) == before else "changed files")
        if problem:
            faults.append(f"{' '.join(one.words)[:120]!r} {one.what}: {problem}: {outcome.err[:300]}")
    assert not faults, f"{len(faults)} of {len(wrongs)}:\n" + "\n".join(faults)


@pytest.mark.parametrize(
    "words",
    [
        ("compair",), ("flops", "--shape", "llava-1.5-7b", "--method", "fastv["),
        ("report", "nowhere"), ("regress", "nowhere", "nowhere"), ("compare", "--config", "nowhere.toml"),
    ],
)  # fmt: skip
def test_as_processes(words, tmp_path):
    done = subprocess.run([sys.executable, "-m", "harness", *words], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and done.stdout == "" and not list(tmp_path.iterdir())
    assert 1 <= len(done.stderr.strip().splitlines()) <= 3 and done.stderr.startswith("error: ")
