"""Make the stored results anew: ``python -m harness.run.machine_check.regenerate [--out FOLDER]``.

Run it on a CPU that you trust, after a change of the engine or of a method that is meant to change what they compute; the log
beside the results says on what they were made.
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from harness.progress import progress
from harness.run.machine_check.choices import ReferenceChoice, noting
from harness.run.machine_check.machine_facts import machine_facts
from harness.run.machine_check.reference_cases import (
    DTYPES,
    KEEP,
    METHODS,
    MODEL,
    QUESTIONS,
    SEED,
    TASK,
    ReferenceQuestions,
)
from harness.run.machine_check.rounding import DRAWS, LIMIT, NOISE, Fingerprint
from harness.run.machine_check.stored_results import (
    FOLDER,
    REGENERATE,
    RESULTS,
    ReferenceAnswer,
    ReferenceResults,
    write,
)
from harness.run.manifest import code_digest

FIRST_ALONE = ("bfloat16",)
"""Precisions in which the first question is stored alone: there most mergers are near ties, whose tokens take much room."""


def regenerate(folder: Path, methods: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Compute all results on this machine's CPU and write them with a log; return the log.

    Args:
        folder: to write into.
        methods: expressions of `reference_cases.METHODS`; all of them where not given.

    Raises:
        RequestError: where nothing can be written there.
    """
    began, answers = time.perf_counter(), list[ReferenceAnswer]()
    prompts, pixels, weights = list[list[int]](), list[Fingerprint](), dict[str, str]()
    for name, dtype in DTYPES.items():
        questions = ReferenceQuestions("cpu", name)
        cells = [cell for cell in questions.cells if methods is None or cell.method in methods]
        assert not [cell.skipped for cell in cells if cell.skipped], "every method can run on the embedded model"
        weights[name] = questions.adapter.digest
        if not prompts:
            prompts = [run.batch.questions[0] for run in questions.runs]
            pixels = [Fingerprint.of(run.batch.pixels.tensors[0]) for run in questions.runs]
        with progress(f"methods in {name}", len(cells)) as advance:
            for cell in cells:
                for place, run in enumerate(questions.runs[:1] if name in FIRST_ALONE else questions.runs):
                    notes: list[ReferenceChoice] = []
                    found = questions.answer(run, cell, lambda steps, n=notes, d=dtype: noting(steps, n, d))  # type: ignore[misc]
                    kept, heard = found.output.kept.cpu(), torch.stack(found.logits[: len(found.tokens)]).float()
                    answers.append(ReferenceAnswer(name, cell.method, place, notes, found.tokens, heard, kept))
                advance(1)
    log = log_of_this_machine(time.perf_counter() - began, methods or METHODS)
    write(ReferenceResults(weights, prompts, pixels, answers), log, folder)
    return log


def log_of_this_machine(seconds: float, methods: tuple[str, ...]) -> dict[str, Any]:
    """Return on what results are made here, and by which rules they are meant to be compared.

    Args:
        seconds: that it took.
        methods: that were run.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": REGENERATE,
        "device": f"cpu, {torch.get_num_threads()} threads",
        **machine_facts(),
        "code": code_digest(),
        "model": MODEL, "task": TASK, "seed": SEED, "keep": KEEP, "questions": [list(each) for each in QUESTIONS],
        "dtypes": list(DTYPES), "methods": list(methods),
        "first_question_alone_in": list(FIRST_ALONE),
        "noise": {name: NOISE[dtype] for name, dtype in DTYPES.items()},
        "limit": {name: LIMIT[dtype] for name, dtype in DTYPES.items()},
        "draws": DRAWS,
        "seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Make the stored results of `harness selfcheck` anew, on this machine's CPU.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder; that of the package by default")
    folder = parser.parse_args().out
    log = regenerate(folder)
    on = f"{log['device']}, torch {log['versions']['torch']}"
    print(f"{folder / RESULTS}: {len(log['methods'])} methods, {log['seconds']} s, {on}")


if __name__ == "__main__":
    main()
