"""The command `regress`: whether a candidate run is worse than a baseline, cell by cell and rule by rule. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.errors import RequestError
from harness.results.current_summary import version_note
from harness.results.regression.cell_rules import CELL_RULES
from harness.results.regression.family_rules import (
    FamilywiseTest,
    accuracy,
    accuracy_test,
    diversity,
    power_in_words,
    untold_drops,
)
from harness.results.regression.pairing import RunPair
from harness.results.regression.speed_rule import latency
from harness.results.regression.thresholds import Thresholds, default_thresholds
from harness.results.types import JsonObject
from harness.store.older_runs import rounding_on_gpu
from harness.store.runs import RunFolder
from harness.store.schema import ANSWERING_OPTIONS, HANDLING_OPTIONS
from harness.store.verdicts import RULES, Comparison, Verdict


def regress(
    baseline: RunFolder | Path | str, candidate: RunFolder | Path | str, thresholds: Thresholds | None = None
) -> Comparison:
    """Judge whether a finished run is worse than another.

    Cells are matched by identity, the seed left aside; weights, code and versions may differ, and the notes say so.

    Args:
        baseline: the run that is held to be right.
        candidate: the run that must not be worse.
        thresholds: from `thresholds.read_thresholds`; the defaults where not given.

    Returns:
        One verdict a cell and rule, and ``exit_code`` 1 where any failed.

    Raises:
        RequestError: where one is no finished run, they have no cell in common, or other rules score their answers.
    """
    thresholds = thresholds or default_thresholds()
    runs = [run if isinstance(run, RunFolder) else RunFolder(Path(run), read_only=True) for run in (baseline, candidate)]
    pair = RunPair(*runs)
    if not set(pair.baseline.cells) & set(pair.candidate.cells):
        what = [f"{side.manifest['model']} on {side.manifest['task']}" for side in (pair.baseline, pair.candidate)]
        raise RequestError(
            f"{runs[1].folder}: has no cell in common with {runs[0].folder} ({what[1]} against {what[0]}); "
            "compare runs of one model, task, prompt and budget mode"
        )
    if pair.scoring.refusal is not None:
        raise RequestError(f"regress: {pair.scoring.refusal}")
    test = accuracy_test(pair, thresholds)
    verdicts = [*_presence(pair, thresholds), *accuracy(pair, test, thresholds), *diversity(pair, thresholds)]
    verdicts += latency(pair, thresholds)
    verdicts += [verdict for cell in pair.matched for rule in CELL_RULES if (verdict := rule(pair, cell, thresholds)) is not None]
    places, order = {pair.labels[key]: i for i, key in enumerate(pair.keys)}, list(RULES)
    verdicts.sort(key=lambda verdict: (order.index(verdict.rule), places[verdict.cell]))
    names = [str(run.folder) for run in runs]
    return Comparison(names[0], names[1], tuple(verdicts), _facts(pair), _notes(pair, test, thresholds))


def _presence(pair: RunPair, thresholds: Thresholds) -> Iterator[Verdict]:
    """Cells that are on one side alone, or measured on one side alone."""
    for key in pair.keys:
        label, mine, theirs = pair.labels[key], pair.baseline.cells.get(key), pair.candidate.cells.get(key)
        was = mine is not None and not mine.skipped
        if was and theirs is None:
            yield Verdict("vanished", label, thresholds.status("vanished"), "the candidate has no such cell")
        elif was and theirs is not None and theirs.skipped:
            yield Verdict("skipped", label, thresholds.status("skipped"), f"measured before, skipped now: {theirs.skipped}")
        elif not was and theirs is not None and not theirs.skipped:
            text = "the baseline has no such cell" if mine is None else f"measured now, skipped before: {mine.skipped}"
            yield Verdict("new", label, "noted", text)


def _facts(pair: RunPair) -> tuple[tuple[str, str], ...]:
    """What was compared with what."""
    both = [(side.manifest, len(side.images), len(side.questions)) for side in (pair.baseline, pair.candidate)]
    samples = (
        f"paired: {len(pair.shared)} questions of {len(pair.places[0])} images are in both runs"
        if pair.paired
        else "unpaired: the runs saw different images"
    )
    named = [
        ("Model", _differing(*(m["model"] for m, _, _ in both))),
        ("Task", _differing(*(m["task"] for m, _, _ in both))),
        ("Images", _differing(*(images for _, images, _ in both))),
        ("Questions", _differing(*(questions for _, _, questions in both))),
        ("Samples", samples),
        *_figure_facts(pair),
        ("Cells", f"{len(pair.matched)} measured in both"),
        ("Code", _differing(*(m["fingerprints"].get("code") for m, _, _ in both))),
        ("Weights", _differing(*(str(m["fingerprints"].get("weights"))[:16] for m, _, _ in both))),
        ("Device", _differing(*(m.get("device") for m, _, _ in both))),
    ]
    return tuple(named)


def _figure_facts(pair: RunPair) -> Iterator[tuple[str, str]]:
    """By what the runs' answers are scored, where either tells."""
    scoring, figure, sides = pair.scoring, pair.scoring.figure, (pair.baseline, pair.candidate)
    if scoring.scored_by is None:
        return
    questions = len(pair.shared) if pair.paired else min(len(side.questions) for side in sides)
    images = min(map(len, pair.places)) if pair.paired else min(len(side.images) for side in sides)
    part = scoring.part_in_words(questions, images)
    partial = "" if part is None else f", partial: {part}"
    yield "Figure", figure.name + ("" if figure.scale == 100 else f" of {figure.scale:,g}") + partial
    yield "Scored by", scoring.scored_by


def _differing(before: object, after: object) -> str:
    return str(before) if before == after else f"{before} → {after}"


def _with_length(manifest: JsonObject) -> JsonObject:
    """The settings of a run, with how long answers may be where the task said that."""
    settings: JsonObject = manifest["config"]
    length = settings.get("max_new_tokens") or manifest.get("task_info", {}).get("answer_tokens")
    return settings if length is None else {**settings, "max_new_tokens": length}


_ASIDE = frozenset(
    {
        *HANDLING_OPTIONS,
        *ANSWERING_OPTIONS,
        "methods",
        "keep",
        "plugin",
        "samples",
        "seed",
        "analyse",
        "memory",
        "latency",
        "scoring",
        "kernels",
    }
)
"""Settings whose change is told elsewhere, or makes no cell another."""


def _other_kernels(base: JsonObject, cand: JsonObject) -> tuple[str, str] | None:
    """Which code ran the greedy loops of each run, where it was another in one that both ran; None where nothing tells that.

    A run of a version that does not say selected in torch: its loops are taken to be those of the other.
    """
    ran: list[dict[str, set[str]] | None] = []
    for manifest in (base, cand):
        kernels = manifest.get("kernels")
        loops: dict[str, set[str]] = {}
        for one in (kernels or {}).get("loops") or ():
            loops.setdefault(one["loop"], set()).add(one["ran"])
        ran.append(None if kernels is None else loops)
    every = set[str]().union(*(found or {} for found in ran))
    sides = [{loop: {"torch"} for loop in every} if found is None else found for found in ran]
    other = sorted(loop for loop in every if all(loop in side for side in sides) and sides[0][loop] != sides[1][loop])
    if not other:
        return None
    before, after = (" and ".join(sorted(set[str]().union(*(side[loop] for loop in other)))) for side in sides)
    return before, after


def _timed_otherwise(pair: RunPair) -> list[str]:
    """Say where times to first token of one run were taken in another way than those of the other."""
    kinds = {"baseline": pair.baseline.rounds.kinds, "candidate": pair.candidate.rounds.kinds}
    if not all(kinds.values()) or kinds["baseline"] == kinds["candidate"]:
        return []
    older = "summed from stages, as older versions did"
    if mixed := next((name for name, both in kinds.items() if len(both) > 1), None):
        return [
            f"Times to first token of some cells of the {mixed} are {older}; those of others were taken in one piece, with "
            "preprocessing and layout: speed-ups compare where both runs took them alike."
        ]
    summed = next(name for name, one in kinds.items() if False in one)
    return [
        f"Times to first token of the {summed} are {older}; those of the other run were taken in one piece, with preprocessing "
        "and layout: speed-ups of one sort do not compare with those of the other."
    ]


def _notes(pair: RunPair, test: FamilywiseTest, thresholds: Thresholds) -> tuple[str, ...]:
    """What a reader must know before trusting the verdicts."""
    base, cand = pair.baseline.manifest, pair.candidate.manifest
    versions = (("baseline", version_note(base)), ("candidate", version_note(cand)))
    found = [f"The {name} {older}." for name, older in versions if older is not None]
    if base["fingerprints"].get("weights") != cand["fingerprints"].get("weights"):
        found.append("The runs had different weights: what differs may be the model's, not the code's.")
    data = [manifest["fingerprints"].get("data") for manifest in (base, cand)]
    if None not in data and data[0] != data[1]:
        found.append("The runs had different data: what differs may be the questions', not the code's.")
    found += pair.scoring.notes
    always: JsonObject = {"references": True}  # of older versions, whose runs do not say it
    settings = [always | _with_length(manifest) for manifest in (base, cand)]
    changed = sorted(name for name in {*settings[0], *settings[1]} - _ASIDE if settings[0].get(name) != settings[1].get(name))
    if base.get("dtype") != cand.get("dtype") and "dtype" not in changed:
        changed.append("dtype")
        settings = [{**s, "dtype": m.get("dtype")} for s, m in zip(settings, (base, cand))]
    if (ran := _other_kernels(base, cand)) is not None:
        changed.append("kernels")
        settings = [{**s, "kernels": code} for s, code in zip(settings, ran)]
    rounded = [rounding_on_gpu(manifest) for manifest in (base, cand)]
    if None not in rounded and rounded[0] != rounded[1]:
        changed.append("float32 on the GPU")
        settings = [{**s, "float32 on the GPU": how} for s, how in zip(settings, rounded)]
    if changed:
        told = ", ".join(f"{name} {settings[0].get(name)} → {settings[1].get(name)}" for name in changed)
        found.append(f"Settings differ: {told}.")
    found += _timed_otherwise(pair)
    if not pair.paired:
        found.append(
            f"The runs share too few questions: {pair.scoring.figure.name} compares as that of two samples, drift and agreement "
            "not at all."
        )
        if pair.scoring.figure.kind == "mme" and pair.baseline.families != pair.candidate.families:
            found.append("The runs asked questions of different categories, and each run's total is of its own.")
    figure, untold = pair.scoring.figure, untold_drops(pair, test, thresholds)
    if (power := power_in_words(pair, test, thresholds)) is not None:
        found.append(power)
    if untold and not test.underpowered:
        cells = "one cell" if untold == 1 else f"{untold} cells"
        found.append(
            f"In {cells}, {figure.name} fell by more than is tolerated, and these images cannot tell that from chance; use more."
        )
    return tuple(found)
