"""`regress`: whether a candidate run is worse than a baseline, cell by cell and rule by rule. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.errors import RequestError
from harness.results.pairing import MatchedCell, RunPair
from harness.results.rules import EACH, bad
from harness.results.thresholds import Thresholds, default_thresholds
from harness.store.runs import RunFolder
from harness.store.schema import HANDLING_OPTIONS
from harness.store.verdicts import RULES, Comparison, Verdict
from metrics import familywise
from metrics.figures import FIGURES

Table = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(totals of the baseline, of the candidate), (sizes of the baseline, of the candidate), each [I]."""


def regress(
    baseline: RunFolder | Path | str, candidate: RunFolder | Path | str, thresholds: Thresholds | None = None
) -> Comparison:
    """Compare two finished runs.

    Cells are matched by identity, the seed left aside; weights, code and versions may differ, and the notes say so.

    Args:
        baseline: the run that is held to be right.
        candidate: the run that must not be worse.
        thresholds: from `thresholds.read_thresholds`; the defaults where not given.

    Returns:
        One verdict a cell and rule, and ``exit_code`` 1 where any failed.

    Raises:
        RequestError: where one is no finished run, or they have no cell in common.
    """
    limits = thresholds or default_thresholds()
    runs = [run if isinstance(run, RunFolder) else RunFolder(Path(run), read_only=True) for run in (baseline, candidate)]
    pair = RunPair(*runs)
    if not set(pair.baseline.cells) & set(pair.candidate.cells):
        what = [f"{side.manifest['model']} on {side.manifest['task']}" for side in (pair.baseline, pair.candidate)]
        raise RequestError(
            f"{runs[1].folder}: has no cell in common with {runs[0].folder} ({what[1]} against {what[0]}); "
            "compare runs of one model, task, prompt and budget mode"
        )
    answers = TestFamily.of(pair, [(cell.totals, cell.sizes) for cell in pair.matched], limits.accuracy.level)
    found = [*_presence(pair, limits), *_accuracy(pair, answers, limits), *_diversity(pair, limits)]
    found += [verdict for cell in pair.matched for rule in EACH if (verdict := rule(pair, cell, limits)) is not None]
    places, order = {pair.labels[key]: i for i, key in enumerate(pair.keys)}, list(RULES)
    found.sort(key=lambda verdict: (order.index(verdict.rule), places[verdict.cell]))
    names = [str(run.folder) for run in runs]
    return Comparison(names[0], names[1], tuple(found), _facts(pair), _notes(pair, answers, limits))


@dataclass(frozen=True)
class TestFamily:
    """What many columns lost, tested together."""

    means: tuple[np.ndarray, np.ndarray]  # [M] of the baseline and of the candidate, on what compares
    losses: familywise.ColumnLosses
    images: tuple[int, int]
    questions: int  # of the first column of the candidate
    paired: bool
    level: float

    @classmethod
    def of(cls, pair: RunPair, tables: list[Table], level: float) -> TestFamily:
        if not tables:
            nothing = np.zeros(0)
            return cls((nothing, nothing), familywise.ColumnLosses(nothing, nothing, nothing, 0.0), (0, 0), 0, pair.paired, level)
        totals, sizes = ([np.stack([t[which][side] for t in tables], 1) for side in (0, 1)] for which in (0, 1))
        told = [size.any(1) for size in sizes]  # images that say nothing must not change sides, nor count
        totals, sizes = [t[rows] for t, rows in zip(totals, told)], [n[rows] for n, rows in zip(sizes, told)]
        with np.errstate(divide="ignore", invalid="ignore"):
            means = tuple(t.sum(0) / n.sum(0) for t, n in zip(totals, sizes))
        if pair.paired:
            losses = familywise.paired(totals[0] - totals[1], sizes[0], level)
        else:
            losses = familywise.unpaired((totals[0], sizes[0]), (totals[1], sizes[1]), level)
        return cls(means, losses, (len(totals[0]), len(totals[1])), int(sizes[1][:, 0].sum()), pair.paired, level)

    @property
    def few(self) -> bool:
        """Whether no loss, however large, could be significant on so few images."""
        least = familywise.least_p(self.images[0]) if self.paired else familywise.least_p(*self.images)
        return least > self.level

    @property
    def on(self) -> str:
        """The samples, in words."""
        if self.paired:
            return f"on the same {self.questions} questions of {self.images[0]} images"
        return f"on {self.images[0]} and {self.images[1]} different images"

    @property
    def too_few(self) -> str:
        return f"{min(self.images)} images are too few to tell that from chance"


def _presence(pair: RunPair, limits: Thresholds) -> Iterator[Verdict]:
    """Cells that are on one side alone, or measured on one side alone."""
    for key in pair.keys:
        label, mine, theirs = pair.labels[key], pair.baseline.cells.get(key), pair.candidate.cells.get(key)
        was = mine is not None and not mine.skipped
        if was and theirs is None:
            yield Verdict("vanished", label, bad(limits, "vanished"), "the candidate has no such cell")
        elif was and theirs is not None and theirs.skipped:
            yield Verdict("skipped", label, bad(limits, "skipped"), f"measured before, skipped now: {theirs.skipped}")
        elif not was and theirs is not None and not theirs.skipped:
            text = "the baseline has no such cell" if mine is None else f"measured now, skipped before: {mine.skipped}"
            yield Verdict("new", label, "noted", text)


def _accuracy(pair: RunPair, family: TestFamily, limits: Thresholds) -> Iterator[Verdict]:
    """A drop fails where it is over the tolerance and significant over all cells."""
    rule, losses = limits.accuracy, family.losses
    for column, cell in enumerate(pair.matched):
        before, after = (float(mean[column]) for mean in family.means)
        make = lambda status, text: Verdict("accuracy", cell.label, status, text, before, after, "accuracy", "share")
        loss = float(losses.value[column])
        if np.isnan(loss):
            yield Verdict("accuracy", cell.label, "not judged", "no answers compare")
            continue
        low, high = losses.interval(column)
        value, least, most = (0.0 - 100 * part for part in (loss, high, low))  # of 0 no -0
        told = f"{value:+.1f} points [{least:+.1f} to {most:+.1f}] {family.on}"
        if loss <= rule.tolerance + 1e-12:
            yield make("passed", told)
        elif family.few:
            yield make("not judged", f"{told}; {family.too_few}")
        elif losses.p[column] > rule.level:
            yield make("passed", f"{told}; chance gives such a drop in some cell with p = {losses.p[column]:.2g}")
        else:
            yield make(
                bad(limits, "accuracy"),
                f"{told}, p = {losses.p[column]:.1g} over all cells; {100 * rule.tolerance:g} points are tolerated",
            )


def _diversity(pair: RunPair, limits: Thresholds) -> Iterator[Verdict]:
    """A loss of any figure fails where it is over the tolerance and significant over all cells and figures."""
    rule, places, tables = limits.diversity, [], []
    for cell in pair.matched:
        if not cell.same_schedule:
            if cell.baseline.facts["prunes"]:
                yield Verdict("diversity", cell.label, "not judged", "the schedule differs, and diversity with it")
            continue
        columns = [side.run.analysis(c.ident) for side, c in ((pair.baseline, cell.baseline), (pair.candidate, cell.candidate))]
        rows = pair.rows(columns)
        for name in rule.figures:
            totals, sizes = pair.by_image(columns, rows, name)
            if sizes[0].any() and sizes[1].any():
                sign = 1.0 if FIGURES[name] else -1.0  # so that a loss is a loss of diversity
                places.append((cell, name, sign))
                tables.append(((sign * totals[0], sign * totals[1]), sizes))
    family = TestFamily.of(pair, tables, rule.level)
    for cell in dict.fromkeys(cell for cell, _, _ in places):
        columns_of = [(i, name, sign) for i, (owner, name, sign) in enumerate(places) if owner is cell]
        yield _worst(cell, family, columns_of, limits)


def _worst(cell: MatchedCell, family: TestFamily, columns: Iterable[tuple[int, str, float]], limits: Thresholds) -> Verdict:
    """The verdict on a cell's figures: that on the one that lost most, significant ones first."""
    rule, losses, seen = limits.diversity, family.losses, []
    for column, name, sign in columns:
        before, after = (sign * float(mean[column]) for mean in family.means)
        loss = float(losses.value[column]) / abs(before) if before else 0.0
        over = loss > rule.tolerance
        significant = over and not family.few and losses.p[column] <= rule.level
        seen.append((significant, over, loss, name, before, after, float(losses.p[column])))
    significant, over, loss, name, before, after, p = max(seen)
    told = f"{name} {before:.4g} → {after:.4g} {family.on}"
    make = lambda status, text: Verdict("diversity", cell.label, status, text, before, after, name, "number")
    if significant:
        said = f"{told}, {100 * loss:.1f} % less diverse, p = {p:.1g} over all cells"
        return make(bad(limits, "diversity"), f"{said}; {100 * rule.tolerance:g} % are tolerated")
    if over and family.few:
        return make("not judged", f"{told}, {100 * loss:.1f} % less diverse; {family.too_few}")
    return make("passed", told)


def _facts(pair: RunPair) -> tuple[tuple[str, str], ...]:
    """What was compared with what."""
    both = [(side.manifest, len(side.images), len(side.questions)) for side in (pair.baseline, pair.candidate)]
    differing = lambda a, b: str(a) if a == b else f"{a} → {b}"
    samples = (
        f"paired: {len(pair.shared)} questions of {len(pair.places[0])} images are in both runs"
        if pair.paired
        else "unpaired: the runs saw different images"
    )
    named = [
        ("Model", differing(*(m["model"] for m, _, _ in both))),
        ("Task", differing(*(m["task"] for m, _, _ in both))),
        ("Images", differing(*(images for _, images, _ in both))),
        ("Questions", differing(*(questions for _, _, questions in both))),
        ("Samples", samples),
        ("Cells", f"{len(pair.matched)} measured in both"),
        ("Code", differing(*(m["fingerprints"].get("code") for m, _, _ in both))),
        ("Weights", differing(*(str(m["fingerprints"].get("weights"))[:16] for m, _, _ in both))),
        ("Device", differing(*(m.get("device") for m, _, _ in both))),
    ]
    return tuple((name, str(value)) for name, value in named)


_ASIDE = frozenset({*HANDLING_OPTIONS, "methods", "keep", "plugin", "samples", "seed", "analyse", "memory", "latency"})
"""Settings whose change is told elsewhere, or makes no cell another."""


def _notes(pair: RunPair, answers: TestFamily, limits: Thresholds) -> tuple[str, ...]:
    """What a reader must know before trusting the verdicts."""
    base, cand, found = pair.baseline.manifest, pair.candidate.manifest, []
    if base["fingerprints"].get("weights") != cand["fingerprints"].get("weights"):
        found.append("The runs had different weights: what differs may be the model's, not the code's.")
    settings = [base["config"], cand["config"]]
    changed = sorted(name for name in {*settings[0], *settings[1]} - _ASIDE if settings[0].get(name) != settings[1].get(name))
    if base.get("dtype") != cand.get("dtype") and "dtype" not in changed:
        changed.append("dtype")
        settings = [{**s, "dtype": m.get("dtype")} for s, m in zip(settings, (base, cand))]
    if changed:
        told = ", ".join(f"{name} {settings[0].get(name)} → {settings[1].get(name)}" for name in changed)
        found.append(f"Settings differ: {told}.")
    if not pair.paired:
        found.append(
            "The runs share too few questions: accuracy compares as that of two samples, drift and agreement not at all."
        )
    seen = answers.losses.detectable()
    seen = seen[np.isfinite(seen)]
    if answers.few:
        found.append(f"{min(answers.images)} images are too few for any drop of accuracy to be significant; use more.")
    elif len(seen) and float(np.median(seen)) > limits.accuracy.tolerance:
        found.append(
            f"In half of the cells, a drop under {100 * float(np.median(seen)):.1f} points would be missed more than one time in "
            "five; more images see smaller ones."
        )
    return tuple(found)
