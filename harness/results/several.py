"""Several runs side by side: the same cells aligned, differences where the samples are the same. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.files import named, write_named
from harness.results.sample_columns import RunQuestions, read_columns
from harness.store.runs import RunFolder
from methods.keep import Keep
from metrics.statistics import PairedDifference, holm, paired_difference
from reports.several import Aligned, Difference, Setting, Several, Shown

SharedPlaces = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Of the same questions the places in the first run, and those in another."""

_LEAST = 0.5  # of the smaller run's questions; fewer in common are not compared


class CellRow(NamedTuple):
    """The facts that put cells of different runs into the same row; model, task and seed may differ."""

    method: str
    keep: Keep | None
    budget: str
    positions: str


class RunColumn:
    """One of several runs: its cells by row, and the places of its questions."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.manifest, self.summary = run, run.manifest(), run.summary()
        self.questions = RunQuestions.of(run)
        entries = {_row(entry): entry for entry in self.summary["cells"]}
        self.cells = {_row(facts): (ident, facts, entries.get(_row(facts), {})) for ident, _, facts in run.cells()}
        place = dict(zip(self.questions.sorted_ids, self.questions.place.tolist(), strict=True))
        asked = run.connection.execute("SELECT id, question, target FROM questions ORDER BY id")
        self.asked = {question: place[question[0]] for question in asked if question[0] in place}

    def scores(self, row: CellRow) -> NDArray[np.float64]:
        """Return a cell's scores of all questions, float64 [questions] by place; nan is missing."""
        found = read_columns(self.run, self.cells[row][0], self.questions, ("score",))
        scores = np.full(len(self.questions.image), np.nan)
        scores[found.place] = found.table[:, 0]
        return scores


def _row(facts: Mapping[str, Any]) -> CellRow:
    return CellRow(facts["method"], Keep.stored(facts), facts.get("budget") or "average", facts.get("positions") or "original")


def write_several(runs: Sequence[RunFolder], out: Path) -> Path:
    """Write one page for several finished runs and return its path; every other run is compared with the first.

    Args:
        runs: two or more; models and tasks may differ.
        out: the page to write.

    Raises:
        RequestError: where one is no finished run, one is named twice, or the page cannot be written.
    """
    from reports.several import render

    named("--out", out)
    write_named("--out", out, render(side_by_side(runs)))
    return out


def side_by_side(runs: Sequence[RunFolder], seed: int = 0) -> Several:
    """Align the cells of several runs in rows, and find what differs between the runs themselves.

    Args:
        runs: two or more finished ones.
        seed: of the intervals and tests.
    """
    folders = [run.folder.resolve() for run in runs]
    twice = next((run.folder for i, run in enumerate(runs) if folders[i] in folders[:i]), None)
    if twice is not None:
        raise RequestError(f"{twice}: named twice; give each run once")
    sides = [RunColumn(run) for run in runs]
    names = _names([str(run.folder) for run in runs])
    shared = [_shared(sides[0], side) for side in sides[1:]]
    rows = list(dict.fromkeys(row for side in sides for row in side.cells))
    found: dict[tuple[CellRow, int], PairedDifference] = {}
    for row in rows:
        if row not in sides[0].cells or not any(
            common is not None and row in side.cells for side, common in zip(sides[1:], shared)
        ):
            continue
        first = sides[0].scores(row)
        for number, (side, common) in enumerate(zip(sides[1:], shared, strict=True), 1):
            if common is not None and row in side.cells:
                mine, theirs = common
                gap = paired_difference(side.scores(row)[theirs], first[mine], sides[0].questions.image[mine], seed=seed)
                if gap.value is not None:
                    found[row, number] = gap
    adjusted = dict(zip(found, holm([gap.p for gap in found.values()]), strict=True))
    aligned = [
        Aligned(
            row.method, row.keep, row.budget, _apart(row, rows),
            tuple(_shown(side, row) for side in sides),
            tuple(_difference(found.get((row, i)), adjusted.get((row, i))) for i in range(1, len(sides))),
            _other_work(sides, row),
        )
        for row in rows
    ]  # fmt: skip
    return Several(tuple(names), tuple(s.manifest for s in sides), tuple(aligned), _settings(sides), _notes(sides, names, shared))


def _shared(first: RunColumn, other: RunColumn) -> SharedPlaces | None:
    """Return the places of the questions that both runs asked, with the same answer; None where there are too few."""
    both = [(place, other.asked[question]) for question, place in first.asked.items() if question in other.asked]
    if not both or len(both) < _LEAST * min(len(first.asked), len(other.asked)):
        return None
    mine, theirs = np.array(sorted(both)).T
    return mine, theirs


def _shown(side: RunColumn, row: CellRow) -> Shown | None:
    if row not in side.cells:
        return None
    _, facts, entry = side.cells[row]
    return Shown(facts["skipped"], entry)


def _difference(gap: PairedDifference | None, p: float | None) -> Difference | None:
    return None if gap is None or gap.value is None else Difference(gap.value, gap.lo, gap.hi, p)


def _apart(row: CellRow, rows: Sequence[CellRow]) -> str:
    """Return what else tells a row from another of the same method and budget."""
    alike = [other for other in rows if other[:2] == row[:2] and other != row]
    return ", ".join(
        dict.fromkeys(str(getattr(row, name)) for other in alike for name in ("budget", "positions")
                      if getattr(other, name) != getattr(row, name))
    )  # fmt: skip


def _other_work(sides: Sequence[RunColumn], row: CellRow) -> str:
    """Say whether a cell had another schedule in some of the runs of one model."""
    facts = [side.cells[row][1] for side in sides if row in side.cells and not side.cells[row][1]["skipped"]]
    if len({fact["model"] for fact in facts}) > 1:
        return ""
    schedules = {str(fact.get("schedule")) for fact in facts}
    return "another schedule" if len(schedules) > 1 else ""


def _names(folders: list[str]) -> list[str]:
    """Short names, as long as they differ."""
    short = [Path(folder).resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else folders


_ASIDE = frozenset(
    {"config.out", "config.resume", "config.extend", "created", "command", "duration_s", "schema_version", "notes"}
)


def _settings(sides: Sequence[RunColumn]) -> tuple[Setting, ...]:
    """Every entry of the manifests that is not the same in all runs."""
    flat = [_flat(side.manifest) for side in sides]
    every = dict.fromkeys(name for one in flat for name in one)
    names = [n for n in every if n not in _ASIDE and (not n.startswith("self_check.") or n == "self_check.outcome")]
    found = [Setting(name, tuple(one.get(name) for one in flat)) for name in names]
    return tuple(setting for setting in found if len(set(setting.values)) > 1)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, str | None]:
    out: dict[str, str | None] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = (
                ", ".join(map(str, value)) if isinstance(value, list) else None if value is None else str(value)
            )
    return out


def _notes(sides: Sequence[RunColumn], names: Sequence[str], shared: Sequence[SharedPlaces | None]) -> tuple[str, ...]:
    """What a reader must know before trusting a difference."""
    found = []
    for side, name, common in zip(sides[1:], names[1:], shared, strict=True):
        first = sides[0]
        if common is None:
            found.append(f"{name} and {names[0]} share too few questions, so their accuracies are not compared.")
        elif len(common[0]) < max(len(first.asked), len(side.asked)):
            found.append(
                f"{name} is compared with {names[0]} on the {len(common[0]):,} questions that both asked, of "
                f"{len(side.asked):,} and {len(first.asked):,}."
            )
        weights = [s.manifest["fingerprints"].get("weights") for s in (first, side)]
        if weights[0] != weights[1]:
            found.append(f"{name} and {names[0]} ran other weights: what differs may be the model's.")
        if side.manifest.get("device") != first.manifest.get("device"):
            found.append(f"{name} and {names[0]} ran on different devices: times compare only as ratios to none within a run.")
    return tuple(found)
