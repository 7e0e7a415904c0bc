"""How the answers of a cell were scored: by which rule, how often others differ, and what was read in them. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.errors import RequestError
from harness.results.leading_figure import CellScores, LeadingFigure
from harness.results.sample_columns import YES, RunQuestions, read_columns, wanted_answers
from harness.results.types import Floats, Integers, JsonObject
from harness.store.later_columns import has_rulings
from harness.store.runs import RunFolder
from harness.tasks.rule_names import RULES

_SAID, _UNDECIDED = "said", "undecided"


@dataclass(frozen=True, eq=False)
class Rulings:
    """What is read of a run's samples beside their scores, to tell how these came about."""

    expressions: Mapping[str, str]  # by name, in SQL, of the table of samples
    rule: str | None  # that leads; None of a run that does not say
    others: tuple[str, ...]  # the other rules of the task
    wanted: Floats | None  # [Q] by place: whether yes or no is right; None where the leading figure does not read it

    @classmethod
    def of(cls, run: RunFolder, manifest: JsonObject, questions: RunQuestions, leading: LeadingFigure) -> Rulings:
        """Return what is to be read of a run; nothing of one that is older than such columns.

        Args:
            run: finished or not.
            manifest: of it.
            questions: of it.
            leading: the figure by which its cells are ranked.

        Raises:
            RequestError: where the figure needs what the samples lack.
        """
        scoring = manifest.get("scoring")
        if scoring is None or not has_rulings(run.connection):
            if leading.reads_answers:
                raise lacking_what_was_read(run, leading.figure.name)
            return cls({}, None, (), None)
        others = tuple(name for name in RULES if name in scoring["rules"] and name != scoring["rule"])
        expressions = {_UNDECIDED: "undecided", **{name: f"{name} <> score" for name in others}}
        if not leading.reads_answers:
            return cls(expressions, scoring["rule"], others, None)
        return cls({**expressions, _SAID: YES.format("read")}, scoring["rule"], others, wanted_answers(run, questions))

    def answers(self, columns: Mapping[str, Floats], place: Integers) -> tuple[Floats | None, Floats | None]:
        """Return what is right and what was read, yes or no, [n] each; None where the leading figure does not read it.

        Args:
            columns: [n] each, by the names of ``expressions``.
            place: [n] of the questions.
        """
        return (None, None) if self.wanted is None else (self.wanted[place], columns[_SAID].copy())

    def scores(self, run: RunFolder, cell: int, questions: RunQuestions) -> CellScores:
        """Return the scores of a cell by place of the question, [Q] each; those of questions that it has no sample of are nan.

        Args:
            run: finished or not.
            cell: its id in the run.
            questions: of the run.
        """
        names = ("score", "answered", *self.expressions)
        found = read_columns(run, cell, questions, ("score", "failed IS NULL", *self.expressions.values()))
        columns = {name: np.full(len(questions.image), np.nan) for name in names}
        for name, column in zip(names, found.table.T, strict=True):
            columns[name][found.place] = column
        answers = self.answers(columns, np.arange(len(questions.image)))
        return CellScores(columns["score"], questions.image, questions.family, columns["answered"] > 0, *answers)

    def counts(self, columns: Mapping[str, Floats]) -> JsonObject | None:
        """Return ``scoring`` of a cell of ``summary.json``; None of a run that does not say.

        Args:
            columns: [n] each: ``score``, and those of ``expressions``.

        Returns:
            ``rule``; ``n`` answers with a score; by other rule how many of them it scores otherwise (``differ``); and how many
            the rule's own code could not decide (``undecided``).
        """
        if self.rule is None:
            return None
        return {
            "rule": self.rule,
            "n": int(np.isfinite(columns["score"]).sum()),
            "differ": {name: int(np.nansum(columns[name])) for name in self.others},
            "undecided": int(np.nansum(columns[_UNDECIDED])),
        }


def lacking_what_was_read(run: RunFolder, figure: str) -> RequestError:
    """Return the error to raise where a figure is made of what was read in answers, and a run does not say.

    Args:
        run: of a version without such columns, or edited.
        figure: its name.
    """
    lacks = f"the samples lack what was read in the answers, of which {figure} is made"
    return RequestError(f"{run.folder / 'results.sqlite'}: {lacks}")
