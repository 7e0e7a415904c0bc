"""Several runs side by side: the same cells aligned, differences where the samples are the same. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.files import named, write_named
from harness.results.cell_kinds import CellRow
from harness.results.current_summary import current_summary, version_note
from harness.results.leading_figure import CellScores, LeadingFigure
from harness.results.rulings import Rulings
from harness.results.sample_columns import RunQuestions
from harness.results.types import JsonObject
from harness.store.older_runs import rounding_on_gpu
from harness.store.runs import RunFolder
from metrics.design_effect import IntraclassCorrelation
from reports import wording
from reports.scoring import named as rule_named
from reports.several import Aligned, Difference, Setting, Several, Shown

SharedPlaces = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Of the same questions the places in the first run, and those in another."""

_LEAST = 0.5  # of the smaller run's questions; fewer in common are not compared


class RunColumn:
    """One of several runs: its cells by row, and the places of its questions."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.manifest, self.summary = run, run.manifest(), current_summary(run)
        self.questions = RunQuestions.of(run)
        self.leading = LeadingFigure.of(self.manifest, self.questions.families)
        self.rulings = Rulings.of(run, self.manifest, self.questions, self.leading)
        entries = {CellRow.of(entry): entry for entry in self.summary["cells"]}
        self.cells = {CellRow.of(facts): (ident, facts, entries.get(CellRow.of(facts), {})) for ident, _, facts in run.cells()}
        place = dict(zip(self.questions.sorted_ids, self.questions.place.tolist(), strict=True))
        asked = run.connection.execute("SELECT id, question, target FROM questions ORDER BY id")
        self.asked = {question: place[question[0]] for question in asked if question[0] in place}

    @property
    def scoring(self) -> Mapping[str, Any] | None:
        """What the manifest tells of the rules; None of a run of an older version, and of a task without answers."""
        found: Mapping[str, Any] | None = self.manifest.get("scoring")
        return found

    @property
    def older(self) -> bool:
        """Whether the run is of a version that stored no rule; one that was extended since bears a newer version's number."""
        return "scoring" not in self.manifest

    @property
    def unanswered(self) -> bool:
        """Whether the task has no right answers, so that nothing is scored."""
        return self.scoring is None and not self.older

    @property
    def task(self) -> str:
        """The name of the task, without its options: where its files are, a split."""
        return str((self.manifest.get("task_info") or {}).get("name") or self.manifest.get("task"))

    def scores(self, row: CellRow) -> CellScores:
        """Return a cell's scores of all questions, [questions] each by place; nan is missing."""
        return self.rulings.scores(self.run, self.cells[row][0], self.questions)


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
        seed: of the tests.
    """
    folders = [run.folder.resolve() for run in runs]
    twice = next((run.folder for i, run in enumerate(runs) if folders[i] in folders[:i]), None)
    if twice is not None:
        raise RequestError(f"{twice}: named twice; give each run once")
    sides = [RunColumn(run) for run in runs]
    names = _names([str(run.folder) for run in runs])
    shared = [_shared(sides[0], side) for side in sides[1:]]
    unlike = [_unlike(sides[0], side, common, (names[0], name)) for side, name, common in zip(sides[1:], names[1:], shared)]
    shared = [None if reason else common for common, reason in zip(shared, unlike, strict=True)]
    rows = list(dict.fromkeys(row for side in sides for row in side.cells))
    pairs: dict[tuple[CellRow, int], tuple[CellScores, CellScores]] = {}
    for row in rows:
        if row not in sides[0].cells or not any(
            common is not None and row in side.cells for side, common in zip(sides[1:], shared)
        ):
            continue
        first = sides[0].scores(row)
        for number, (side, common) in enumerate(zip(sides[1:], shared, strict=True), 1):
            if common is not None and row in side.cells:
                pairs[row, number] = _same_questions(first.at(common[0]), side.scores(row).at(common[1]))
    differences = _differences(sides[0].leading, pairs, seed)
    aligned = [
        Aligned(
            row.method, row.keep, row.budget, _apart(row, rows),
            tuple(_shown(side, row) for side in sides),
            tuple(differences.get((row, i)) for i in range(1, len(sides))),
            _other_work(sides, row),
        )
        for row in rows
    ]  # fmt: skip
    notes = _notes(sides, names, shared, unlike)
    return Several(tuple(names), tuple(s.manifest for s in sides), tuple(aligned), _settings(sides), notes)


def _same_questions(first: CellScores, other: CellScores) -> tuple[CellScores, CellScores]:
    """A cell of another run and that of the first one, of the same questions in the same order, under the first run's images."""
    return replace(other, image=first.image, family=first.family), first


def _differences(
    leading: LeadingFigure, pairs: Mapping[tuple[CellRow, int], tuple[CellScores, CellScores]], seed: int
) -> dict[tuple[CellRow, int], Difference]:
    """The figure of a cell of another run less that of the first run; p of all cells and runs as one family, see `step_down`.

    Whole images of the first run flip their signs, alike in all columns; where a run lacks an image nothing flips.
    """
    changes = IntraclassCorrelation()
    for other, first in pairs.values():
        changes.add(other.score - first.score, first.image)
    leading = replace(leading, of_changes=changes)
    found = {key: gap for key, pair in pairs.items() if (gap := leading.difference(*pair)) is not None}
    test = leading.tested([pairs[key] for key in found], np.ones(len(found), bool), seed)
    return {
        key: Difference(gap.value, gap.lo, gap.hi, float(p)) for (key, gap), p in zip(found.items(), test.p_adjusted, strict=True)
    }


def _unlike(first: RunColumn, other: RunColumn, common: SharedPlaces | None, names: tuple[str, str]) -> str:
    """Say why the figures of two runs do not compare even on the same questions, as a clause; nothing where they do.

    Of different tasks without common questions neither the rule nor the figure is the reason: one rule would not help.
    """
    if common is None and first.task != other.task:
        return ""
    blank = [name for side, name in zip((first, other), names) if side.unanswered]
    if len(blank) == 1:
        return f"{blank[0]} has no right answers to score"
    reason = _scored_unlike(first, other)
    return f"{names[1]} and {names[0]} are {reason}" if reason else ""


def _scored_unlike(first: RunColumn, other: RunColumn) -> str:
    """Say how two runs are scored otherwise, in words that follow ``are``; nothing where they are scored alike."""
    mine, theirs = first.scoring, other.scoring
    if mine is None and theirs is None:
        return ""
    if mine is None or theirs is None:
        told = mine or theirs or {}
        if told["rule"] == "ours" and told["figure"]["kind"] == "mean":
            return ""
        return f"scored by {rule_named(told['rule'])} and by that of an older version"
    if mine["rule"] != theirs["rule"]:
        return f"scored by {rule_named(theirs['rule'])} and by {rule_named(mine['rule'])}"
    figures = (first.leading.figure, other.leading.figure)
    if len({(figure.kind, figure.scale, figure.options) for figure in figures}) > 1:
        return f"summed up by {figures[1].name} and by {figures[0].name}"
    return ""


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
    {
        *("config.out", "config.resume", "config.extend", "created", "command", "duration_s", "schema_version", "begun_by"),
        *("notes", "timing.used", "timing.stage_rounds", "timing.ttft_rounds", "timing.known", "timing.of", "timing.before"),
    }
)


def _settings(sides: Sequence[RunColumn]) -> tuple[Setting, ...]:
    """Every entry of the manifests that is not the same in all runs."""
    flat = [_flat({"config": {"references": True}}) | _flat(side.manifest) for side in sides]  # older versions always ran them
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


def _notes(
    sides: Sequence[RunColumn], names: Sequence[str], shared: Sequence[SharedPlaces | None], unlike: Sequence[str]
) -> tuple[str, ...]:
    """What a reader must know before trusting a difference."""
    found = []
    for side, name, common, reason in zip(sides[1:], names[1:], shared, unlike, strict=True):
        first = sides[0]
        if reason:
            found.append(f"{reason}, so their figures are not compared.")
        elif common is None:
            plain = all(one.leading.is_mean and not one.unanswered for one in (first, side))
            what = "accuracies" if plain else "figures"
            found.append(f"{name} and {names[0]} share too few questions, so their {what} are not compared.")
        elif len(common[0]) < max(len(first.asked), len(side.asked)):
            found.append(
                f"{name} is compared with {names[0]} on the {len(common[0]):,} questions that both asked, of "
                f"{len(side.asked):,} and {len(first.asked):,}."
            )
        if common is not None and (differs := _other_rule(first, side, (names[0], name))):
            found.append(differs)
        weights = [s.manifest["fingerprints"].get("weights") for s in (first, side)]
        if weights[0] != weights[1]:
            found.append(f"{name} and {names[0]} ran other weights: what differs may be the model's.")
        if _cards(side.manifest) != _cards(first.manifest):
            found.append(f"{name} and {names[0]} ran on different devices: times compare only as ratios to none within a run.")
        rounded = [rounding_on_gpu(s.manifest) for s in (first, side)]
        if None not in rounded and rounded[0] != rounded[1]:
            found.append(
                f"float32 on the GPU is {rounded[1]} in {name} and {rounded[0]} in {names[0]}: rounding may tell answers apart."
            )
    timed = [{cell.get("latency", {}).get("in_one_piece") for cell in _timed(side)} for side in sides]
    if len(set().union(*timed)) > 1:
        some = zip(names, timed, strict=True)
        summed = wording.listed([name if len(kinds) == 1 else f"some cells of {name}" for name, kinds in some if False in kinds])
        found.append(
            f"Time to first token of {summed} is summed from stages, as older versions did, and taken in one piece elsewhere: "
            "speed-ups of one sort do not compare with those of the other."
        )
    told = zip(names, (version_note(side.manifest) for side in sides))
    found += [f"{name} {older}." for name, older in told if older is not None]
    return tuple(found)


def _timed(side: RunColumn) -> list[JsonObject]:
    """The cells of a run whose time to first token is known."""
    return [entry for _, _, entry in side.cells.values() if (entry.get("latency") or {}).get("ttft") is not None]


def _cards(manifest: Mapping[str, Any]) -> list[str]:
    """The devices of a run by what they are, not by their place in the machine, which an older version did not write."""
    return sorted(re.sub(r"^cuda:\d+ ", "", name) for name in str(manifest.get("device")).split(", "))


def _other_rule(first: RunColumn, other: RunColumn, names: tuple[str, str]) -> str:
    """Say that two runs which compare were scored by other code; nothing where it is the same."""
    told = [side.scoring for side in (first, other)]
    if first.older != other.older:
        older = names[0] if first.older else names[1]
        return f"{older} is of an older version, whose rule that scores answers may be another: what differs may be the rule's."
    functions = [None if scoring is None else scoring["rules"].get(scoring["rule"]) for scoring in told]
    if None in functions or functions[0] == functions[1]:
        return ""
    return f"{names[1]} is scored by {functions[1]}, {names[0]} by {functions[0]}: what differs may be the rule's."
