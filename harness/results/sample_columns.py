"""The numeric columns of a run's samples, read by the million: one pass over the table, a few bytes a sample. Needs no torch."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from harness.results.types import Floats, Integers
from harness.store.runs import RunFolder

NUMBER_COLUMNS = ("score", "agree", "kl", "recall", "recall_before", "swap_score")
"""The columns of the table of samples from which the figures of a cell's answers are made."""


def with_tokens(run: RunFolder) -> str:
    """Return the condition, in SQL, on rows of ``images`` that have visual tokens: all but those of questions of text alone."""
    return "images.id NOT IN (SELECT image FROM layouts WHERE cell = 0 AND tokens = 0)" if run.has("layouts") else "1"


@dataclass(frozen=True, eq=False)
class RunQuestions:
    """All questions of a run that have an image, in the order of images and questions.

    Of text alone nothing can be pruned: all cells answer as the unpruned model does, so such questions tell none from another.
    """

    sorted_ids: list[str]  # [Q] in the order in which a cell's samples are stored
    place: Integers  # [Q] of each of `sorted_ids` in the order of images and questions
    image: Integers  # [Q] by place: the image, counted from 0 in their order
    family: Integers  # [Q] by place, counted from 0 in the order of their names
    families: list[str]  # their names, sorted

    @cached_property
    def every(self) -> Integers:
        """The places 0 to Q - 1, [Q]: one array, which all cells share that have a sample of every question."""
        return np.arange(len(self.sorted_ids))

    @classmethod
    def of(cls, run: RunFolder) -> RunQuestions:
        """Read the questions of a run whose images are stored.

        Args:
            run: finished or not.
        """
        known = run.connection.execute(f"SELECT id FROM images WHERE {with_tokens(run)} ORDER BY place")  # nosec B608
        images = {name: i for i, (name,) in enumerate(known)}
        families = [name for (name,) in run.connection.execute("SELECT DISTINCT family FROM questions ORDER BY family")]
        number = {name: i for i, name in enumerate(families)}
        query = "SELECT questions.id, image, place, family FROM questions ORDER BY id"
        ids: list[str] = []
        codes: list[tuple[int, int, int]] = []
        for question, image_name, inside_image, family_name in run.connection.execute(query):
            if image_name in images:
                ids.append(question)
                codes.append((images[image_name], inside_image, number[family_name]))
        image, inside, family = np.array(codes, dtype=np.int64).reshape(-1, 3).T
        order = np.lexsort((inside, image))
        place = np.empty(len(ids), dtype=np.int64)
        place[order] = np.arange(len(ids))
        return cls(ids, place, image[order], family[order], families)


@dataclass(frozen=True, eq=False)
class SampleColumns:
    """The samples of one cell, in the order of images and questions."""

    place: Integers  # [n], rising: the question, counted in the order of images and questions
    image: Integers  # [n], not falling
    family: Integers  # [n], places in `RunQuestions.families`
    table: Floats  # [n, names]; nan is missing


YES = "CASE lower(trim({})) WHEN 'yes' THEN 1 WHEN 'no' THEN 0 END"
"""An expression in SQL of a column of texts: 1 for yes, 0 for no, NULL for neither."""


def wanted_answers(run: RunFolder, questions: RunQuestions) -> Floats:
    """Return for every question whether yes or no is right, 1 or 0 [Q] by place; nan where it is neither.

    Args:
        run: finished or not.
        questions: of the run.
    """
    known = wanted_by_question(run)
    wanted = np.empty(len(questions.sorted_ids))
    wanted[questions.place] = [known[name] for name in questions.sorted_ids]
    return wanted


def wanted_by_question(run: RunFolder) -> dict[str, float]:
    """Return by the id of a question 1 where yes is right, 0 where no is, and nan where it is neither.

    Args:
        run: finished or not.
    """
    query = f"SELECT id, {YES.format('target')} FROM questions"  # nosec B608
    return {name: float("nan") if yes is None else float(yes) for name, yes in run.connection.execute(query)}


def read_repeats(run: RunFolder, cell: int, questions: RunQuestions, what: str = "score") -> dict[int, Floats]:
    """Read the scores of a cell under each further seed, or another number of each.

    Args:
        run: finished or not.
        cell: its id in the run.
        questions: of the run.
        what: a column of the table of repeats, or an SQL expression of its columns, that is a number.

    Returns:
        By seed the numbers [Q] by place of the question; nan is missing.
    """
    known = dict(zip(questions.sorted_ids, questions.place.tolist()))
    found: dict[int, Floats] = {}
    query = f"SELECT question, repeat, {what} FROM repeats WHERE cell = ?"  # nosec B608
    for name, seed, score in run.connection.execute(query, (cell,)):
        scores = found.setdefault(seed, np.full(len(known), np.nan))
        if name in known and score is not None:
            scores[known[name]] = score
    return dict(sorted(found.items()))


def read_columns(run: RunFolder, cell: int, questions: RunQuestions, names: Sequence[str] = NUMBER_COLUMNS) -> SampleColumns:
    """Read numeric columns of the samples of one cell, in the order of images and questions.

    Args:
        run: finished or not.
        cell: its id in the run.
        questions: of the run.
        names: columns of the table of samples, or SQL expressions of them, that are numbers.

    Returns:
        One row a stored sample; samples of questions that `questions` does not hold are left out.
    """
    query = "SELECT {} FROM samples WHERE cell = ? ORDER BY question"

    def read(what: str) -> sqlite3.Cursor:
        return run.connection.execute(query.format(what), (cell,))

    table = np.fromiter(chain.from_iterable(read(", ".join(names))), np.float64).reshape(-1, len(names))
    if len(table) == len(questions.sorted_ids):  # a cell has a question once, so it has them all
        inverse = np.empty_like(table)
        inverse[questions.place] = table
        return SampleColumns(questions.every, questions.image, questions.family, inverse)
    known = dict(zip(questions.sorted_ids, questions.place.tolist()))
    place = np.array([known.get(name, -1) for (name,) in read("question")], dtype=np.int64)
    order = np.argsort(place, kind="stable")[(place < 0).sum() :]
    place = place[order]
    return SampleColumns(place, questions.image[place], questions.family[place], table[order])
