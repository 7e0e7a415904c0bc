"""Two runs side by side: their cells matched by identity, their samples by question. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.results.current_summary import current_summary
from harness.results.regression.shared_scoring import SharedScoring
from harness.results.regression.timed_rounds import TimedRounds
from harness.results.rulings import lacking_what_was_read
from harness.results.sample_columns import wanted_by_question, with_tokens
from harness.results.types import Columns, Floats, Integers, JsonObject
from harness.store.later_columns import has_rulings
from harness.store.open_runs import database
from harness.store.runs import RunFolder
from harness.tasks.own_figures import ScoredAnswers, sums_of
from methods.keep import Keep

_BITS = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)
_SAID = {"yes": 1.0, "no": 0.0}
_DRAWN = frozenset({"random", "oracle"})  # methods whose choice depends on the seed

PLANNED = ("schedule", "grid", "tower")
"""What is known of a cell's tokens before it runs: at every LLM layer, of a shrunken image, at every tower block."""

Rows = tuple[Integers, Integers]
"""Rows of the columns of the baseline and of the candidate."""
ImageSums = tuple[tuple[Floats, Floats], tuple[Floats, Floats]]
"""(sums over an image's questions of the baseline, of the candidate), (how many questions each sums), float64 [I] each."""
FigureSums = tuple[Floats, Floats]
"""What images add to the sums of which a figure is made, of the baseline and of the candidate: float64 [I, k] each."""
SizeOfImage = tuple[int, tuple[int, int] | None]
"""Visual tokens of an image, and their grid (h, w) where they are one."""


@dataclass(frozen=True)
class CellIdentity:
    """The settings that make cells of two runs the same cell; the seed is not part of it, nor are weights and code."""

    model: str
    task: str
    method: str
    keep: Keep | None
    budget: str
    positions: str
    prompt: str


@dataclass(frozen=True, eq=False)
class StoredCell:
    """A cell of one run, as it is stored and as it is summed up."""

    ident: int  # in the database
    facts: JsonObject  # as planned, and as measured where only that tells
    summary: JsonObject  # its entry of summary.json; empty where it has none

    @property
    def skipped(self) -> str | None:
        """The reason why the cell was not measured; None where it was."""
        reason: str | None = self.facts["skipped"]
        return reason

    @property
    def depends_on_seed(self) -> bool:
        """Whether the kept tokens depend on the seed."""
        return any(part.partition("[")[0] in _DRAWN for part in self.facts["method"].split("+"))


class RunSide:
    """A finished run as one side of a comparison: its cells by identity, and its questions.

    Args:
        run: finished, and open to read.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run, self.manifest, self.summary = run, run.manifest(), current_summary(run)
        prompt = self.manifest["config"].get("prompt", "{question}")
        entries = {_identity(entry, prompt): entry for entry in self.summary["cells"]}
        with database(run) as connection:
            stored = run.cells()
            self.questions: dict[str, tuple[str, tuple[str, str]]] = {  # by id: image, and (text, target)
                name: (image, (text, target))
                for name, image, text, target in connection.execute(
                    "SELECT questions.id, image, question, target FROM questions JOIN images ON images.id = questions.image "
                    f"WHERE {with_tokens(run)} ORDER BY images.place, questions.place"  # nosec B608
                )
            }
        self.cells: dict[CellIdentity, StoredCell] = {}
        for ident, _, facts in stored:
            found = _identity(facts, prompt)
            self.cells.setdefault(found, StoredCell(ident, facts, entries.get(found, {})))

    @cached_property
    def images(self) -> list[str]:
        """The images of the questions, in their order."""
        return list(dict.fromkeys(image for image, _ in self.questions.values()))

    @cached_property
    def families(self) -> list[str]:
        """The families of the questions, sorted."""
        with database(self.run) as connection:
            return [name for (name,) in connection.execute("SELECT DISTINCT family FROM questions ORDER BY family")]

    @cached_property
    def wanted(self) -> dict[str, float]:
        """By question 1 where yes is right and 0 where no is; nan of others."""
        with database(self.run):
            return wanted_by_question(self.run)

    @cached_property
    def sizes(self) -> dict[str, SizeOfImage]:
        """The visual tokens and the grid of each image; empty for a model whose images are all of one size."""
        return {image: (layout.tokens, layout.grid) for image, layout in self.run.layouts().items()}

    @cached_property
    def rounds(self) -> TimedRounds:
        """The rounds in which the run was timed."""
        return TimedRounds.of(self.run)

    def counts_by_size(self, columns: Columns) -> dict[SizeOfImage, set[float]]:
        """Return how many tokens a cell kept of images of each size.

        Args:
            columns: of the cell, from `RunFolder.columns`.
        """
        found: dict[SizeOfImage, set[float]] = {}
        for image, count in zip(columns["image"], columns["kept_count"]):
            if image in self.sizes and not np.isnan(count):
                found.setdefault(self.sizes[image], set()).add(float(count))
        return found

    def reference(self, like: CellIdentity, method: str) -> StoredCell | None:
        """Return the reference cell beside a cell, of the same model and task; None where the run has none.

        Args:
            like: the cell.
            method: ``none`` or ``blind``.
        """
        found = (cell for key, cell in self.cells.items() if (key.model, key.task, key.method) == (like.model, like.task, method))
        return next(found, None)


def _identity(facts: JsonObject, prompt: str) -> CellIdentity:
    known: JsonObject = {name: facts.get(name) for name in ("model", "task", "method", "budget", "positions")}
    return CellIdentity(**known, keep=Keep.stored(facts), prompt=prompt)


@dataclass(frozen=True, eq=False)
class MatchedCell:
    """A cell that both runs measured, and what its samples say, image by image."""

    key: CellIdentity
    label: str
    baseline: StoredCell
    candidate: StoredCell
    totals: tuple[Floats, Floats]  # [I] each: sum of scores over an image's questions
    sizes: tuple[Floats, Floats]  # [I] each: how many questions that sums
    figure_sums: FigureSums | None  # of the runs' own figure; None where that is the mean score
    failed: tuple[float, float]  # share of samples
    common: int  # questions that both answered
    agreement: float | None  # share of equal answers among them
    jaccard: float | None  # mean of the kept sets among them
    recounted: int  # of them, those where another number of tokens was kept
    means: bool  # whether schedule and FLOPs are means over images of sizes that differ between the runs
    sizes_of_both: int  # then, sizes of image that both runs saw
    resized: int  # and of them, those where another number of tokens was kept

    @property
    def same_schedule(self) -> bool:
        """Whether both runs kept as many tokens, so that FLOPs, KV bytes, diversity and kept tokens compare.

        True of adaptive methods, whose counts follow from the images and have a tolerance of their own.
        """
        return self.adaptive or (self.replanned is None and not self.recounted and not self.resized)

    @property
    def replanned(self) -> str | None:
        """The first entry of `PLANNED` that differs; one that either run does not tell, or that is a mean, is left aside."""
        mine, theirs = self.baseline.facts, self.candidate.facts
        told = [name for name in PLANNED if name in mine and name in theirs and not (self.means and name == "schedule")]
        return next((name for name in told if mine[name] != theirs[name]), None)

    @property
    def adaptive(self) -> bool:
        """Whether the method's token counts follow from the images in either run."""
        return bool(self.baseline.facts["adaptive"] or self.candidate.facts["adaptive"])


class RunPair:
    """A baseline and a candidate, and the samples by which they compare.

    They are paired, question by question, where at least half the images of the smaller run are in both; a question is the
    same where its id, text and answer are. Else they compare as two samples of images, those in both left out.

    Args:
        baseline: the run that is held to be right.
        candidate: the run that must not be worse.
    """

    def __init__(self, baseline: RunFolder, candidate: RunFolder) -> None:
        self.baseline, self.candidate = RunSide(baseline), RunSide(candidate)
        mine, theirs = self.baseline.questions, self.candidate.questions
        self.shared = {name for name, what in mine.items() if theirs.get(name, (None, None))[1] == what[1]}
        both = {mine[name][0] for name in self.shared}
        self.paired = bool(both) and 2 * len(both) >= min(len(self.baseline.images), len(self.candidate.images))
        self.same_questions = self.paired and len(self.shared) == len(mine) == len(theirs)
        if self.paired:
            shared_places = _numbered(image for image in self.baseline.images if image in both)
            self.places = shared_places, shared_places
        else:
            self.places = (
                _numbered(image for image in self.baseline.images if image not in both),
                _numbered(image for image in self.candidate.images if image not in both),
            )
        self.labels = _labels([*self.baseline.cells, *self.candidate.cells])
        names = str(baseline.folder), str(candidate.folder)
        self.scoring = SharedScoring.of(self.baseline.manifest, self.candidate.manifest, names)

    @property
    def keys(self) -> list[CellIdentity]:
        """The identities of all cells, the baseline's first."""
        return list(dict.fromkeys((*self.baseline.cells, *self.candidate.cells)))

    @cached_property
    def same_sizes(self) -> bool:
        """Whether both asked about images of the same sizes, each as often: then means over them compare exactly."""
        mine, theirs = (set(side.sizes.values()) for side in (self.baseline, self.candidate))
        return self.same_questions or (mine == theirs and len(mine) < 2)

    @cached_property
    def same_seed(self) -> bool:
        """Whether both runs had one seed."""
        return bool(self.baseline.manifest["config"]["seed"] == self.candidate.manifest["config"]["seed"])

    @cached_property
    def matched(self) -> list[MatchedCell]:
        """The cells that both runs measured."""
        return [
            self._match(key, self.baseline.cells[key], self.candidate.cells[key])
            for key in self.baseline.cells
            if key in self.candidate.cells and not self.baseline.cells[key].skipped and not self.candidate.cells[key].skipped
        ]

    def _match(self, key: CellIdentity, baseline: StoredCell, candidate: StoredCell) -> MatchedCell:
        sides = ((self.baseline, baseline), (self.candidate, candidate))
        columns = [side.run.columns(cell.ident) for side, cell in sides]
        failed = [float(np.mean([f is not None for f in c["failed"]])) if len(c["failed"]) else 0.0 for c in columns]
        rows = self.rows(columns)
        totals, sizes = self.by_image(columns, rows, "score")
        sums = None if self.scoring.figure.kind == "mean" else self.figure_sums(columns, rows)
        agreement = jaccard = None
        common, recounted = 0, 0
        if self.paired:
            first, second = ({name: column[r] for name, column in c.items()} for c, r in zip(columns, rows))
            common = len(first["score"])
            if common:
                equal = first["prediction"] == second["prediction"]
                agreement = float(np.mean(equal.astype(bool)))
                jaccard = mean_jaccard(first["kept"], second["kept"])
                counts = first["kept_count"], second["kept_count"]
                recounted = int(((counts[0] != counts[1]) & ~np.isnan(counts[0]) & ~np.isnan(counts[1])).sum())
        mine, theirs = (side.counts_by_size(c) for (side, _), c in zip(sides, columns))
        both = mine.keys() & theirs.keys() if not self.same_sizes else ()
        return MatchedCell(
            key, self.labels[key], baseline, candidate, totals, sizes, sums, (failed[0], failed[1]), common, agreement, jaccard,
            recounted, not self.same_sizes, len(both), sum(mine[size] != theirs[size] for size in both),
        )  # fmt: skip

    def rows(self, columns: Sequence[Columns]) -> Rows:
        """Return the rows of both sides' columns that compare: the same questions in the same order, or all unshared images.

        Args:
            columns: of one cell, of the baseline and of the candidate.
        """
        if not self.paired:
            chosen = [np.flatnonzero([image in p for image in c["image"]]) for c, p in zip(columns, self.places)]
            return chosen[0], chosen[1]
        where = {name: i for i, name in enumerate(columns[1]["question"])}
        both = [(i, where[name]) for i, name in enumerate(columns[0]["question"]) if name in self.shared and name in where]
        table = np.array(both, dtype=np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def by_image(self, columns: Sequence[Columns], rows: Rows, name: str) -> ImageSums:
        """Return a column of both sides by image: sums over its questions, and how many; float64 [I] each, baseline first.

        Of paired questions those count that both sides know, and images go by the baseline's names.

        Args:
            columns: of one cell, of the baseline and of the candidate.
            rows: of them that compare, from `rows`.
            name: of a column of numbers.
        """
        values, images, known = self._known(columns, rows, name)
        totals: list[Floats] = []
        sizes: list[Floats] = []
        for places, image, value, there in zip(self.places, images, values, known):
            codes = image[there]
            totals.append(np.bincount(codes, weights=value[there], minlength=len(places)).astype(np.float64, copy=False))
            sizes.append(np.bincount(codes, minlength=len(places)).astype(np.float64))
        return (totals[0], totals[1]), (sizes[0], sizes[1])

    def figure_sums(self, columns: Sequence[Columns], rows: Rows) -> FigureSums:
        """Return what each image adds to the figure that both runs report, of the questions that `by_image` counts.

        Args:
            columns: of one cell, of the baseline and of the candidate.
            rows: of them that compare, from `rows`.

        Raises:
            RequestError: where the figure needs what the samples lack.
        """
        values, images, known = self._known(columns, rows, "score")
        made, categories = sums_of(self.scoring.figure), sorted({*self.baseline.families, *self.candidate.families})
        number = {name: place for place, name in enumerate(categories)}
        found: list[Floats] = []
        for side, c, r, places, image, value, there in zip(
            (self.baseline, self.candidate), columns, rows, self.places, images, values, known
        ):
            wanted = said = np.full(len(value), np.nan)
            if made.reads_answers:
                if not has_rulings(side.run.connection):
                    raise lacking_what_was_read(side.run, self.scoring.figure.name)
                wanted = np.array([side.wanted[question] for question in c["question"][r]], dtype=np.float64)
                said = np.array([_SAID.get(str(read).strip().lower(), np.nan) for read in c["read"][r]], dtype=np.float64)
            family = np.array([number[name] for name in c["family"][r]], dtype=np.int64)
            answers = ScoredAnswers(np.where(there, value, np.nan), image, family, categories, wanted, said)
            found.append(made.by_image(answers, len(places)))
        return found[0], found[1]

    def _known(
        self, columns: Sequence[Columns], rows: Rows, name: str
    ) -> tuple[list[Floats], list[Integers], list[NDArray[np.bool_]]]:
        """A column of both sides, the places of its images, and which rows count: of paired questions, those that both know."""
        values = [np.asarray(c[name], dtype=np.float64)[r] for c, r in zip(columns, rows)]
        known = [~np.isnan(v) for v in values]
        images: list[Iterable[str]] = [c["image"][r] for c, r in zip(columns, rows)]
        if self.paired:
            known = [known[0] & known[1]] * 2
            images = [[self.baseline.questions[question][0] for question in columns[0]["question"][rows[0]]]] * 2
        codes = [np.array([places[image] for image in names], dtype=np.int64) for places, names in zip(self.places, images)]
        return values, codes, known


def mean_jaccard(first: NDArray[np.object_], second: NDArray[np.object_]) -> float | None:
    """Return the mean over rows of |A and B| / |A or B|; two empty sets are equal.

    Args:
        first: [n] packed masks of `harness.store.arrays.pack`, or None.
        second: [n] the same.

    Returns:
        None where no row has two masks of one size.
    """
    by_size: dict[int, tuple[list[bytes], list[bytes]]] = {}
    for a, b in zip(first, second):
        if a is not None and b is not None and len(a) == len(b):
            group = by_size.setdefault(len(a), ([], []))
            group[0].append(a)
            group[1].append(b)
    found = []
    for size, group in by_size.items():
        left, right = (np.frombuffer(b"".join(side), np.uint8).reshape(len(side), size) for side in group)
        union, both = (_BITS[bits].sum(1, dtype=np.int64) for bits in (left | right, left & right))
        found.append(np.divide(both, union, out=np.ones(len(left)), where=union > 0))
    return float(np.concatenate(found).mean()) if found else None


def _numbered(images: Iterable[str]) -> dict[str, int]:
    return {image: place for place, image in enumerate(images)}


def _labels(keys: Iterable[CellIdentity]) -> dict[CellIdentity, str]:
    """Names for readers: the method and its budget, and whatever else tells cells of this comparison apart."""
    keys = list(dict.fromkeys(keys))
    differing = [name for name in ("model", "task", "budget", "positions", "prompt") if len({getattr(k, name) for k in keys}) > 1]
    short = {key: key.method + ("" if key.keep is None else f" at {key.keep.shown}") for key in keys}
    if len(set(short.values())) < len(keys):
        return {key: ", ".join([name, *(f"{what} {getattr(key, what)}" for what in differing)]) for key, name in short.items()}
    return short
