"""Where two runs of one cell first part on a question, and how near to a tie they were there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from unittest.mock import patch

import torch

import harness.engine.engine
from harness.engine.engine import Engine
from harness.run.batch_run import BatchRun
from harness.run.plan import Cell
from harness.tasks.base import ImageSample, Task
from methods.sparsevlm import SparseVLMSelector
from methods.sts import Spread
from methods.types import Selection, Selector, Signals, Step
from tests.determinism import sparse
from tests.determinism.decision import Decision, apart, first


@dataclass(frozen=True)
class Choice:
    """What a selector chose for one row."""

    indices: torch.Tensor  # int64 [K]
    scores: torch.Tensor | None  # [N] that it ranked by
    energies: Callable[[int], torch.Tensor] | None = None  # of all tokens before its nth choice, where it chose one by one
    before: tuple[Decision, ...] = ()  # taken on the way to the scores, in turn
    behind: tuple[Decision, ...] = ()  # taken once the tokens were chosen


@dataclass(frozen=True)
class Watched:
    """A selector that tells what it chose for whom."""

    select: Selector
    needs: frozenset[str]
    told: list[dict[int, Choice]] = field(default_factory=list, compare=False)  # one entry a call, by random stream

    def __call__(self, signals: Signals, keep: int) -> Selection:
        chosen = self.select(signals.only(self.needs), keep)
        found = {}
        for row, stream in enumerate(signals.seeds.tolist()):
            scores = None if chosen.scores is None else chosen.scores[row].double()
            energies = None
            if isinstance(self.select, Spread):
                distance = self.select.distance(signals)[row]
                energies = _energies(distance, self.select.exponent, chosen.indices[row])
            before, behind = (
                sparse.decisions(signals, chosen, keep, row) if isinstance(self.select, SparseVLMSelector) else ((), ())
            )
            found[stream] = Choice(chosen.indices[row].clone(), scores, energies, before, behind)
        self.told.append(found)
        return chosen


def _energies(distance: torch.Tensor, exponent: float, order: torch.Tensor) -> Callable[[int], torch.Tensor]:
    """Potential energy against the tokens chosen so far, straight from its definition; of the first against all."""
    floor = distance.max().clamp_min(1e-12) * 1e-3
    kernel = (distance.clamp_min(floor) / floor).double() ** -exponent
    kernel.fill_diagonal_(0)
    return lambda place: kernel.sum(-1) if place == 0 else kernel[:, order[:place]].sum(-1)


Decoded = tuple[list[torch.Tensor], frozenset[int]]
"""Of one call of the decoder, the logits [R, V] of every step, and the tokens that end an answer."""


@dataclass(frozen=True)
class Account:
    """How a run came to one answer."""

    answer: list[int]  # token ids, its end included where it has one
    choices: list[Choice]  # step by step
    logits: list[torch.Tensor]  # [V] of each answer token


def accounts(
    engine: Engine, task: Task, samples: Sequence[ImageSample], cells: Sequence[Cell], key: str, sharing: bool
) -> dict[str, Account]:
    """Run a batch as `compare` does, with an eye on one cell; gives its accounts by the ``sample_id`` of the questions.

    Args:
        samples: of the batch.
        cells: of the run, in its order.
        key: of the cell.
    """
    watch: list[Watched] = []
    cells = tuple(cell if cell.key != key else replace(cell, steps=watched(cell.steps, watch)) for cell in cells)
    wanted = frozenset().union(*(cell.needs for cell in cells))
    batch_run = BatchRun(engine, task, list(samples), cells[0].seed, sharing, wanted, cells=cells)
    questions = [q.sample_id for sample in samples for q in sample.questions]
    decoded: list[Decoded] = []
    for cell in cells:
        decoded.clear()
        with listening(decoded):
            batch_run.run(cell)
        if cell.key == key:
            break
    return {question: told(batch_run, watch, decoded, row) for row, question in enumerate(questions)}


def watched(steps: Sequence[Step], watch: list[Watched]) -> tuple[Step, ...]:
    """Steps whose selectors tell what they chose; ``watch`` is given those selectors."""
    watch.extend(Watched(step.select, step.needs) for step in steps)
    return tuple(replace(step, select=one, needs=step.needs | {"seeds"}) for step, one in zip(steps, watch, strict=True))


def told(batch_run: BatchRun, watch: Sequence[Watched], decoded: Sequence[Decoded], row: int) -> Account:
    """How a question was answered, by its place in the batch; it was decoded alone or with all others."""
    streams = int(batch_run.batch.question_seeds[row]), int(batch_run.batch.image_seeds[batch_run.batch.image[row]])
    choices = [next(heard[s] for heard in one.told for s in streams if s in heard) for one in watch]
    steps, ends = decoded[row] if len(decoded) > 1 else decoded[0]
    answer, logits = _of_row(steps, ends, 0 if len(decoded) > 1 else row)
    return Account(answer, choices, logits)


def listening(decoded: list[Decoded]):
    """Note the logits of all rows of every step of decoding."""
    own = harness.engine.engine.decode
    signature = inspect.signature(own)

    def decode(*arguments, **words):
        given = signature.bind(*arguments, **words).arguments
        adapter, steps = given["adapter"], [given["logits"]]
        logits = type(adapter).logits

        def noted(self, hidden):
            steps.append(logits(self, hidden))
            return steps[-1]

        with patch.object(type(adapter), "logits", noted):
            found = own(*arguments, **words)
        decoded.append((steps, frozenset(given["ends"])))
        return found

    return patch.object(harness.engine.engine, "decode", decode)


def _of_row(steps: list[torch.Tensor], ends: frozenset[int], row: int) -> tuple[list[int], list[torch.Tensor]]:
    """The tokens of one row, and their logits; rows leave with their end."""
    alive, answer, logits = list(range(len(steps[0]))), [], []
    for step in steps:
        tokens = step.argmax(-1).tolist()
        if row not in alive:
            break
        place = alive.index(row)
        answer.append(tokens[place])
        logits.append(step[place].double())
        alive = [one for one, token in zip(alive, tokens, strict=True) if token not in ends]
    return answer, logits


def gap(one: Account, other: Account) -> float | None:
    """The largest relative difference between the figures that decided where two accounts first part.

    Returns:
        None where they do not part. inf where they part without a figure that says why.
    """
    for mine, theirs in zip(one.choices, other.choices, strict=True):
        if (found := first(mine.before, theirs.before)) is not None:
            return found
        if sorted(mine.indices.tolist()) == sorted(theirs.indices.tolist()):
            if (found := first(mine.behind, theirs.behind)) is not None:
                return found
            continue
        if mine.energies is not None:
            order = list(zip(mine.indices.tolist(), theirs.indices.tolist(), strict=True))
            place, (a, b) = next((place, pair) for place, pair in enumerate(order) if pair[0] != pair[1])
            return max(apart(choice.energies(place)[[a, b]]) for choice in (mine, theirs))
        if mine.scores is None:
            return torch.inf
        a, b = (set(choice.indices.tolist()) for choice in (mine, theirs))
        return max(apart(choice.scores[sorted(a ^ b)]) for choice in (mine, theirs))
    for place, (a, b) in enumerate(zip(one.answer, other.answer)):
        if a != b:
            return max(apart(account.logits[place][[a, b]]) for account in (one, other))
    return None


def batches(samples: Sequence[ImageSample], size: int) -> list[Sequence[ImageSample]]:
    edges = [*range(0, len(samples), size), len(samples)]
    return [samples[a:b] for a, b in pairwise(edges)]
