"""What the runs of a reproduction come to, counted from public figures: cells, questions and FLOPs. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from harness.errors import RequestError
from harness.literature.selection import hub_id
from harness.models.shapes import one_size, shape_name_of, shape_of
from harness.run.config import CompareConfig, tokens_of
from harness.run.flops import count
from harness.run.reproduction_plan import EVERY_IMAGE, PlannedRun, ReproductionPlan
from harness.store.budgets import read_keep
from harness.tasks import registry
from harness.tasks.base import attribute
from methods.registry import create
from methods.schedule import plan
from methods.types import Budget, BudgetError, BudgetMode, ModelShape

TEXT_TOKENS = 64.0
"""LLM tokens of a prompt that are not visual, where nothing else is said; the default of `flops`."""
MOST_TEXT_TOKENS = 10**6


@dataclass(frozen=True)
class PlannedCost:
    """What one run comes to; None is not known before the data are read, or without a formula."""

    run: PlannedRun
    cells: int  # that can be
    images: int | None
    questions: int | None
    flops_a_question: float | None  # of all cells whose FLOPs a formula gives, tower through prefill
    impossible: tuple[str, ...]  # further cells whose budget cannot be met, with the reason; they will be skipped
    uncounted: tuple[str, ...]  # cells without a formula, with the reason

    @property
    def answers(self) -> int | None:
        """How many answers the run gives: cells times questions."""
        return None if self.questions is None else self.cells * self.questions

    @property
    def flops(self) -> float | None:
        """The FLOPs of all counted cells on all questions."""
        if self.questions is None or self.flops_a_question is None:
            return None
        return self.questions * self.flops_a_question

    def as_dict(self) -> dict[str, Any]:
        """Return the run as ``reproduce --dry-run --json`` prints it."""
        config = self.run.config
        return {
            "folder": self.run.folder, "task": self.run.task, "expression": config.task, "budget": config.budget,
            "methods": list(config.methods), "keep": list(config.keep), "cells": self.cells, "images": self.images,
            "questions": self.questions, "answers": self.answers, "flops_a_question": self.flops_a_question, "flops": self.flops,
            "impossible": list(self.impossible), "uncounted": list(self.uncounted),
        }  # fmt: skip


@dataclass(frozen=True)
class ReproductionCost:
    """What all runs of a reproduction come to, by a public shape."""

    plan: ReproductionPlan
    shape: str | None  # None where that of the model is not known
    text_tokens: float
    runs: tuple[PlannedCost, ...]

    @property
    def cells(self) -> int:
        """The cells of all runs."""
        return sum(run.cells for run in self.runs)

    @property
    def remarks(self) -> list[str]:
        """What a reader of the numbers must know, in sentences."""
        found = []
        if self.shape is not None:
            found.append(
                f"FLOPs are tower through prefill of every cell on every question, with {self.text_tokens:g} text tokens a "
                "prompt and nothing shared between the questions of an image or between cells; answer tokens, loading and "
                "scoring are not in them."
            )
        if any(run.questions is None for run in self.runs):
            found.append("Questions of a subset of images are not known before the data are read.")
        for word, of in (
            ("cannot be, and will be skipped", "impossible"),
            ("not in the FLOPs, since no formula gives them by the public shape", "uncounted"),
        ):
            by_reason: dict[str, list[str]] = {}
            for run in self.runs:
                for reason in getattr(run, of):
                    by_reason.setdefault(reason, []).append(run.run.folder)
            found += [f"{word[0].upper()}{word[1:]}: {reason} (in {', '.join(where)})." for reason, where in by_reason.items()]
        return [*found, *self.plan.left_out]

    @property
    def whole(self) -> bool:
        """Whether the FLOPs of every cell are counted on a known number of questions."""
        return all(run.flops is not None and not run.uncounted for run in self.runs)

    @property
    def flops(self) -> float | None:
        """The FLOPs that are known, of all runs together; None where there are none."""
        known = [run.flops for run in self.runs if run.flops is not None]
        return sum(known) if known else None

    @property
    def answers(self) -> int | None:
        """The answers of all runs; None where one does not tell."""
        told = [run.answers for run in self.runs if run.answers is not None]
        return sum(told) if len(told) == len(self.runs) else None

    def as_dict(self) -> dict[str, Any]:
        """Return what ``reproduce --dry-run --json`` prints."""
        return {
            "table": self.plan.table.name, "model": self.plan.model, "shape": self.shape, "text_tokens": self.text_tokens,
            "runs": [run.as_dict() for run in self.runs], "cells": self.cells, "answers": self.answers, "flops": self.flops,
            "whole": self.whole, "left_out": list(self.plan.left_out), "notes": list(self.plan.reproduction.notes),
        }  # fmt: skip


def reproduction_cost(
    planned: ReproductionPlan, runs: Sequence[PlannedRun], text_tokens: float = TEXT_TOKENS
) -> ReproductionCost:
    """Return what runs come to, without loading or downloading anything.

    Args:
        planned: the reproduction.
        runs: of the plan, those that are asked for.
        text_tokens: LLM tokens of a prompt that are not visual.

    Raises:
        RequestError: for a number of text tokens that cannot be, or a local task that cannot be read.
    """
    if not 0 < text_tokens <= MOST_TEXT_TOKENS:
        raise RequestError(f"--text-tokens {text_tokens:g}: must be above 0, such as 64, and at most {MOST_TEXT_TOKENS:,}")
    shape = shape_name_of(hub_id(planned.model))
    counted = tuple(_cost(run, shape, text_tokens) for run in runs)
    return ReproductionCost(planned, shape, text_tokens, counted)


def _cost(run: PlannedRun, shape: str | None, text_tokens: float) -> PlannedCost:
    cells = _cells(run.config)
    images, questions = _size(run.config)
    if shape is None:
        return PlannedCost(run, len(cells), images, questions, None, (), ())
    total, impossible, uncounted = 0.0, [], []
    for method, keep in cells:
        name = method if keep is None else f"{method} at {keep}"
        if (reason := _impossible(method, keep, run.config, shape_of(shape), text_tokens)) is not None:
            impossible.append(f"{name}: {reason}")
            continue
        try:
            total += count(shape, method, keep, run.config.budget, text_tokens, "flops")["total"]
        except RequestError as error:
            uncounted.append(f"{name}: {error}")
    return PlannedCost(run, len(cells) - len(impossible), images, questions, total, tuple(impossible), tuple(uncounted))


def _impossible(method: str, keep: str | None, config: CompareConfig, shape: ModelShape, text_tokens: float) -> str | None:
    """Why a budget cannot be met on a shape; None where it can, or where that follows from the images or their sizes."""
    made, asked = create(method), None if keep is None else read_keep(keep)
    if asked is None or made.tuned or one_size(shape) is None:
        return None  # of images of several sizes others may meet it
    share = asked.value if asked.share else None
    try:
        tokens = tokens_of(asked, shape.visual_tokens)
        plan(made, shape, Budget(tokens, cast(BudgetMode, config.budget), text_tokens, share))
    except (BudgetError, RequestError) as error:
        return str(error)
    return None


def _cells(config: CompareConfig) -> list[tuple[str, str | None]]:
    """Methods with their budgets; a method without a budget is one cell."""
    budgeted = {method: create(method).budgeted for method in config.methods}
    pairs = [(method, keep) for method in config.methods for keep in (config.keep if budgeted[method] else (None,))]
    return list(dict.fromkeys(pairs))


def _size(config: CompareConfig) -> tuple[int | None, int | None]:
    """How many images and questions a run has, as far as that is known without a download."""
    every = config.samples >= EVERY_IMAGE
    if registry.is_public(config.task):
        return (None, registry.published_questions(config.task)) if every else (config.samples, None)
    task = registry.create(config.task)
    if every:
        whole = attribute(task, "whole") or {}
        return whole.get("images"), whole.get("questions")
    asked = [len(sample.questions) for sample in islice(task.samples(config.samples, config.seed), config.samples)]
    return len(asked), sum(asked)
