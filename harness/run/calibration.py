"""Levels of tuned methods, found on images of the task that are not scored: no answer is looked at, only how many tokens stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.engine.sharing import SharedPrefill
from harness.progress import progress
from harness.run.accuracy_pass import threads_here
from harness.run.batch_run import BatchRun
from harness.run.executors.local import threads
from harness.run.failures import of_sample
from harness.run.manifest import add_notes
from harness.run.plan import HIGHEST, Cell, originals_first
from methods.types import BudgetError, Step

if TYPE_CHECKING:
    from harness.run.config import CompareConfig
    from harness.run.prepare import PreparedRun
    from harness.store.runs import RunFolder
    from harness.tasks.base import ImageSample

IMAGES = 16
"""Images on which a level is found, at the most."""
QUESTIONS = 2
"""Questions of each of them, at the most."""
FEWEST = 4
"""Images on which a level is found, at the least; with fewer the cell is skipped."""
HALVINGS = 12
"""How often the interval of the level's logarithm is halved: what remains of [log 1e-6, 0] is a factor of 1.0034."""
LOWEST = 1e-6
"""The level at which the most tokens stay."""


def calibrate(config: CompareConfig, run: RunFolder, prepared: PreparedRun) -> None:
    """Give the cells of tuned methods their levels: those that the run holds, or the ones that are found now.

    A level is the lowest at which the mean tokens of the calibration images, over their questions, do not exceed what the
    budget asks for. What is found is noted in the manifest.

    Args:
        config: the request.
        run: the folder, which may hold levels from before it was interrupted.
        prepared: what the request needs, loaded; its cells are replaced, and skipped where there is no level.
    """
    waiting = [cell for cell in prepared.active if cell.object.tuned and not cell.removes_nothing]
    if not waiting:
        return
    run.complete()
    known = {key: facts for _, key, facts in run.cells()}
    found: dict[str, Cell] = {}
    for cell in waiting:
        facts = known.get(cell.key, {})
        if facts.get("calibration"):
            found[cell.key] = replace(cell.at_level(facts["calibration"]["level"]), calibration=facts["calibration"])
        elif facts.get("skipped"):
            found[cell.key] = _skipped(cell, facts["skipped"])
    if len(found) < len(waiting):
        images = CalibrationImages(config, prepared)
        left = [cell for cell in waiting if cell.key not in found]
        with threads(threads_here(config, prepared)), progress("calibration", len(left)) as advance:
            for cell in left:
                found[cell.key] = images.calibrated(cell)
                advance(1)
    prepared.cells[:] = originals_first([found.get(cell.key, cell) for cell in prepared.cells])
    _note(run, [cell for cell in prepared.active if cell.calibration is not None])


def _note(run: RunFolder, cells: Sequence[Cell]) -> None:
    """Write levels into the manifest, and what a reader must know of them."""
    manifest = run.manifest()
    listed = {(entry["method"], entry["keep"]): entry for entry in manifest.get("calibrations", [])}
    notes = []
    for cell in cells:
        assert cell.calibration is not None, "its level was found"
        listed[cell.method, str(cell.keep)] = {"method": cell.method, "keep": str(cell.keep), **cell.calibration}
        level, images, tokens = (cell.calibration[name] for name in ("level", "images", "tokens"))
        where = f"{images} other images of the task that are not scored"
        notes.append(
            f"{cell.method} at {cell.keep}: level {level:.4g}, found on {where}, where {tokens:.1f} tokens stay ({cell.mode})"
        )
    run.write_json("manifest.json", manifest | {"calibrations": list(listed.values())})
    add_notes(run, notes)


def _skipped(cell: Cell, reason: str) -> Cell:
    return replace(cell, steps=(), schedule=None, skipped=reason)


@dataclass
class CalibrationImages:
    """The images of a task, behind those that are scored, on which levels are found.

    Args:
        config: the request.
        prepared: what it needs, loaded.
    """

    config: CompareConfig
    prepared: PreparedRun

    def __post_init__(self) -> None:
        task, seed, template = self.prepared.task, self.config.seed, self.config.prompt
        wanted = frozenset[str]().union(*(cell.needs for cell in self.prepared.active if cell.object.tuned))
        self.engine = Engine(self.prepared.adapter, 1)  # nothing is read of an answer
        self.seen: dict[tuple[int, tuple[Step, ...]], SharedPrefill] = {}  # what left the tower, by the steps inside it
        self.runs = [
            BatchRun(self.engine, task, [one], seed, wanted=wanted, template=template)
            for one in unscored(self.config, self.prepared)
        ]

    def calibrated(self, cell: Cell) -> Cell:
        """Return a cell at the level that was found for it, or skipped with the reason why there is none.

        Args:
            cell: of a tuned method.
        """
        if cell.mode == "flops":
            return _skipped(cell, "its level is found for a count of tokens; ask for it with --budget average or final")
        self.seen.clear()
        try:
            return self._found(cell)
        except BudgetError as error:
            return _skipped(cell, str(error))

    def _found(self, cell: Cell) -> Cell:
        usable, asked, fewest = [], list[float](), list[float]()
        for batch_run in self.runs:
            try:
                fewest += self._tokens(cell.at_level(HIGHEST), batch_run)
            except BudgetError:
                raise
            except Exception as error:  # what cannot be measured on is left out
                if not of_sample(error):
                    raise
                batch_run.forget()
                continue
            usable.append(batch_run)
            shape = batch_run.shapes[0] if cell.varies else self.engine.adapter.shape
            asked += [cell.tokens(shape)] * len(batch_run.samples[0].questions)
        if len(usable) < FEWEST:
            where = f"images of the task that are not scored; there are {len(usable)}"
            raise BudgetError(f"its level is found on {FEWEST} {where}")
        limit, least = _mean(asked), _mean(fewest)
        if least > limit:
            where = "on images that are not scored"
            raise BudgetError(f"keeps {least:.1f} tokens ({cell.mode}) at the least, {where}; {limit:g} asked")

        def kept_at(level: float) -> float:
            return _mean([count for one in usable for count in self._tokens(cell.at_level(level), one)])

        low, high, tokens = LOWEST, HIGHEST, least  # too many stay at ``low``, and ``tokens``, few enough, at ``high``
        most = kept_at(LOWEST)
        if most <= limit:
            low, high, tokens = LOWEST, LOWEST, most
        for _ in range(HALVINGS if low < high else 0):
            middle = math.sqrt(low * high)
            kept = kept_at(middle)
            low, high, tokens = (low, middle, kept) if kept <= limit else (middle, high, tokens)
        return replace(cell.at_level(high), calibration={"level": high, "images": len(usable), "tokens": tokens})

    def _tokens(self, cell: Cell, batch_run: BatchRun) -> list[float]:
        """The visual tokens that a cell leaves of an image on each of its questions, as the budget counts them."""
        steps = cell.steps_for(batch_run.shapes[0]) if cell.varies else cell.steps
        key = id(batch_run), tuple(step for step in steps if step.site.stage == 0)
        if key not in self.seen:  # no level changes what the tower gives, unless its own steps have one
            vision = self.engine.encode_images(batch_run.batch.pixels, steps)
            self.seen[key] = SharedPrefill(self.engine.adapter, vision)
        request = EngineRequest(batch_run.batch, steps, cell.object.positions, self.seen[key])
        counts = self.engine.run(request).layer_counts
        found: list[float] = (counts[:, -1] if cell.mode == "final" else counts.double().mean(1)).tolist()
        return found


def unscored(config: CompareConfig, prepared: PreparedRun) -> list[ImageSample]:
    """Return images of a task that a run does not score: those that a larger run would score next, each with two questions.

    Which two goes round from image to image, so that all kinds of questions come in where every image has the same kinds.

    Args:
        config: the request.
        prepared: what it needs, loaded.
    """
    scored = {sample.image_id for sample in prepared.samples}
    drawn = prepared.task.samples(config.samples + IMAGES, config.seed)
    found = [sample for sample in drawn if sample.image_id not in scored and sample.count]
    if not prepared.shapes:  # all that are scored have one image, and as many tokens
        found = [sample for sample in found if sample.count == 1]
    return [_with_some_questions(sample, place) for place, sample in enumerate(found[:IMAGES])]


def _with_some_questions(sample: ImageSample, place: int) -> ImageSample:
    """An image with at most so many of its questions, from a place on that goes round."""
    asked = len(sample.questions)
    first = place * QUESTIONS % max(asked, 1)
    some = [sample.questions[(first + i) % asked] for i in range(min(QUESTIONS, asked))]
    return replace(sample, questions=tuple(some))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
