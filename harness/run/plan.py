"""The plan of a run: from a request to its cells, methods by budgets and the reference cells, each possible or with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from harness.errors import RequestError
from harness.models.signal_sources import given_by
from harness.run.config import CompareConfig, tokens_of
from harness.store.budgets import cell_key, read_keep
from methods.keep import Keep
from methods.random import Random
from methods.registry import MethodError, canonical, create, is_reference
from methods.schedule import plan, schedule
from methods.types import (
    OPTIONAL_SIGNALS,
    SIGNAL_NAMES,
    Budget,
    BudgetError,
    BudgetMode,
    Method,
    ModelShape,
    Schedule,
    Step,
)

HIGHEST = 1.0
"""The level of a tuned method at which the fewest tokens stay."""
Plan = tuple[tuple[Step, ...], Schedule, tuple[int, int] | None]
"""Steps, their schedule, and the grid to which the image is shrunk."""


@dataclass(frozen=True)
class Cell:
    """One method at one budget on one model and task."""

    model: str
    task: str
    method: str  # canonical expression
    keep: Keep | None  # None where a budget means nothing
    mode: str
    seed: int
    reference: bool
    object: Method = field(repr=False, compare=False)
    steps: tuple[Step, ...] = field(default=(), repr=False, compare=False)
    schedule: Schedule | None = field(default=None, repr=False, compare=False)
    grid: tuple[int, int] | None = None  # of a shrunken image; (0, 0) without an image
    skipped: str | None = None
    text_tokens: float = 64.0  # of a prompt
    varies: bool = False  # whether images differ in their tokens; steps, schedule and grid are then those of the largest
    plans: dict[ModelShape, Plan] = field(default_factory=dict, repr=False, compare=False)  # by the shape of an image
    level: float | None = None  # of a method that is tuned: the one that was found for the budget, the highest until then
    calibration: dict[str, Any] | None = field(default=None, repr=False, compare=False)  # on what the level was found

    @property
    def ready(self) -> Method:
        """The method as it runs: one that is tuned has its level."""
        return self.object if self.level is None else self.object.calibrated(self.level)

    def at_level(self, level: float) -> Cell:
        """Return the cell of a tuned method with another level.

        Args:
            level: as `Method.calibrated` takes it.
        """
        made = replace(self, level=level, plans={})
        for shape in self.plans:
            made.plan(shape)
        steps, planned, grid = made.plan(next(iter(self.plans)))
        return replace(made, steps=steps, schedule=planned, grid=grid)

    def tokens(self, shape: ModelShape) -> int:
        """Return the budget in tokens on an image of this shape; all tokens where there are fewer than asked for."""
        count = shape.visual_tokens
        return count if self.keep is None else self.keep.tokens(count)

    def plan(self, shape: ModelShape) -> Plan:
        """Return what the method does to an image of this shape.

        Raises:
            BudgetError: where the budget cannot be met on it.
        """
        if shape not in self.plans:
            count = self.tokens(shape)
            if self.keep is not None and count == shape.visual_tokens:
                self.plans[shape] = (), schedule(shape, ()), None  # all are kept
            else:
                budget = self._budget(count)
                steps, planned = plan(self.ready, shape, budget)
                self.plans[shape] = steps, planned, self.object.image_grid(shape, budget)
        return self.plans[shape]

    def grids(self, shape: ModelShape, images: Sequence[ModelShape]) -> list[tuple[int, int] | None]:
        """Return the grid to which each of several images is shrunk: its part of the budget is its part of the tokens.

        Args:
            shape: for the prompt.
            images: for each image alone.
        """
        count, whole = self.tokens(shape), shape.visual_tokens
        return [self.object.image_grid(one, self._budget(max(1, count * one.visual_tokens // whole))) for one in images]

    def _budget(self, count: int) -> Budget:
        """What so many tokens are for the method; where a share was asked for, it is told."""
        share = self.keep.value if self.keep is not None and self.keep.share else None
        return Budget(count, cast(BudgetMode, self.mode if self.keep is not None else "average"), self.text_tokens, share)

    def steps_for(self, shape: ModelShape) -> tuple[Step, ...]:
        """Return the steps on an image of this shape."""
        return self.plan(shape)[0]

    @property
    def given(self) -> tuple[Step, ...] | Callable[[ModelShape], tuple[Step, ...]]:
        """The steps as the engine takes them: themselves, or how they follow from an image's shape."""
        return self.steps_for if self.varies else self.steps

    @property
    def key(self) -> str:
        """The identity of the cell, under which its results are stored."""
        return cell_key(self.model, self.task, self.method, self.keep, self.mode, self.object.positions, self.seed)

    @property
    def params(self) -> dict[str, Any]:
        """The method's parameters by name."""
        return asdict(self.ready)

    @property
    def blind(self) -> bool:
        """Whether the image is left out."""
        return self.grid == (0, 0)

    @property
    def in_tower(self) -> bool:
        """Whether a step acts inside the vision tower."""
        return any(step.site.stage == 0 for step in self.steps)

    @property
    def merges(self) -> bool:
        """Whether tokens are merged, so that a kept token may stand for several."""
        return any(map(_merging, self.steps))

    @property
    def adaptive(self) -> bool:
        """Whether counts are decided from the image, so that its figures are measured means."""
        return any(step.adaptive for step in self.steps)

    @property
    def removes_nothing(self) -> bool:
        """Whether the budget is all tokens of every image: then the cell is `none` under another name, and no competitor."""
        whole = (not steps and grid is None for steps, _, grid in self.plans.values())
        return self.keep is not None and self.skipped is None and all(whole)

    @property
    def needs(self) -> frozenset[str]:
        """The signals that the cell cannot do without."""
        return frozenset[str]().union(*(step.needs for step in self.steps)) - OPTIONAL_SIGNALS

    @property
    def prunes(self) -> bool:
        """Whether the kept tokens are a subset of the original ones, so that chance has a meaning."""
        return any(step.after for step in self.steps) and not self.merges

    @property
    def swaps(self) -> bool:
        """Whether its loss can be told apart by evidence swap: a competing pruner whose tokens all have a place.

        One that hands over tokens of the tower has others beside them: a mean, or CLS.
        """
        known = (
            step.site.stage == 2 or (step.site.stage == 1 and step.after == step.keep and step.space == "llm")
            for step in self.steps
        )
        return self.prunes and not self.reference and all(known)

    @property
    def reads_text(self) -> bool:
        """Whether what is kept depends on the question."""
        return any(step.reads_text for step in self.steps)

    @property
    def like(self) -> str | None:
        """The yardstick of the cell's ranking: random tokens on the same sites, counts and positions.

        Where a method chooses inside the tower alone, they are those that are as many in the LLM. Of one that merges there
        and prunes behind it, what it merges stays and chance prunes.
        """
        sites = {step.site.stage for step in self.steps}
        merging = {step.site.stage for step in self.steps if _merging(step)}
        if self.method.startswith(("random", "oracle")) or not any(step.after for step in self.steps) or merging - {0}:
            return None
        if sites == {0}:
            return None if merging or self.steps[-1].adaptive else self._random
        planned = sites == {1} and not self.adaptive and not self._counts_otherwise
        return self._random if planned else f"random[like={self.method}]"

    @property
    def _random(self) -> str:
        return "random" if self.object.positions == "original" else f"random[positions={self.object.positions}]"

    @property
    def _counts_otherwise(self) -> bool:
        """Whether, of an image in tiles, it holds other counts than random tokens do at the budget: equal parts of each tile."""
        plain = create(self._random)
        return any(
            shape.tiles > 1 and steps != () and planned.llm != plan(plain, shape, self._budget(self.tokens(shape)))[1].llm
            for shape, (steps, planned, _) in self.plans.items()
        )

    @property
    def copies(self) -> str | None:
        """The method whose measured counts the cell takes question by question, where it is random tokens in its place."""
        return self.object.like if isinstance(self.object, Random) and self.object.like and self.adaptive else None


def _merging(step: Step) -> bool:
    """Whether tokens are merged by a step; one behind a tower block always does."""
    return step.merges or (step.site.stage == 0 and step.behind)


def make_cells(
    config: CompareConfig,
    shape: ModelShape,
    knows_evidence: bool,
    gives: frozenset[str] = SIGNAL_NAMES,
    text_tokens: float = 64.0,
    cannot: Callable[[tuple[Step, ...], tuple[int, int] | None], str | None] = lambda steps, grid: None,
    shapes: Counter[ModelShape] | None = None,
) -> list[Cell]:
    """Return all cells of a request, reference cells first; those that cannot be carry their reason.

    Where the request leaves reference cells out, those that it names run, and ``none``, which every loss is measured from.

    Args:
        config: the request.
        shape: the model's.
        knows_evidence: whether the task does.
        gives: signals that the model gives.
        text_tokens: of a prompt, on average; budgets in FLOPs need them.
        cannot: why the model cannot run steps or shrink images to a grid.
        shapes: of the images, where they differ: a cell must be possible on each, and a share of the tokens is one of each.

    Raises:
        RequestError: for an unknown method, parameter or budget.
    """
    asked = asked_for(config.methods)
    budgets = sorted({read_keep(text) for text in config.keep}, reverse=True)
    for keep in () if shapes else budgets:
        tokens_of(keep, shape.visual_tokens)  # no more than there are
    largest = sorted(shapes or [shape], key=lambda one: -one.visual_tokens)
    cells: dict[str, Cell] = {}

    def add(method: str, keep: Keep | None, reference: bool) -> Cell:
        cell = _cell(config, largest, method, keep, reference, text_tokens, bool(shapes))
        lacking = sorted(cell.needs - gives - {"evidence"})
        reason = None
        if "evidence" in cell.needs and not knows_evidence:
            where = " among the tokens of all these images" if shapes else ""
            reason = f"task {config.task!r} does not know its evidence{where}"
        elif lacking:
            reason = f"model {config.model!r} gives no {', '.join(lacking)}{given_by(lacking)}"
        else:
            reason = cannot(tuple(s for s in cell.steps if "evidence" not in s.needs), cell.grid)
        if reason is not None:
            cell = replace(cell, steps=(), schedule=None, skipped=reason)
        return cells.setdefault(cell.key, cell)

    for method in ("none", "blind"):
        if config.references or method == "none" or method in asked:
            add(method, None, True)
    for keep in budgets if config.references else ():
        if all(keep.tokens(one.visual_tokens) == one.visual_tokens for one in largest):
            continue  # a reference that removes nothing is none
        add("downsample", keep, True)
        if knows_evidence:
            add("oracle", keep, True)
    for keep in budgets:
        for method in asked:
            if method in ("none", "blind"):
                continue
            own = keep if create(method).budgeted else None
            cell = add(method, own, is_reference(method))
            if cell.copies is not None:
                add(cell.copies, own, is_reference(cell.copies))  # its counts are measured where it runs
            if config.references and cell.like is not None and cell.like not in asked:
                add(canonical(cell.like), own if cell.like.startswith("random[like=") else keep, True)
    return originals_first(list(cells.values()))


def originals_first(cells: Sequence[Cell]) -> list[Cell]:
    """Return cells in the order in which they run: random tokens on the counts of another cell behind it, and skipped with it.

    Args:
        cells: of a request.
    """
    made, skipped = [], {(cell.method, cell.keep): cell.skipped for cell in cells}
    for cell in cells:
        reason = skipped.get((cell.copies, cell.keep)) if cell.copies is not None else None
        if cell.skipped is None and reason is not None:
            cell = replace(
                cell, steps=(), schedule=None, skipped=f"takes the counts of {cell.copies}, which is skipped: {reason}"
            )
        made.append(cell)
    return sorted(made, key=lambda cell: cell.copies is not None)


def asked_for(methods: tuple[str, ...]) -> list[str]:
    """Return the canonical expressions of a request, which are known before a model is loaded.

    Raises:
        RequestError: for an unknown method or parameter.
    """
    try:
        return [canonical(text) for text in expand(methods)]
    except MethodError as error:
        raise RequestError(str(error)) from None


def expand(methods: tuple[str, ...]) -> list[str]:
    """Return the methods with ``all`` replaced by every registered one, and without repetitions."""
    from methods.registry import entries

    names: list[str] = []
    for text in methods:
        names += list(entries()) if text == "all" else [text]
    return list(dict.fromkeys(names))


def _cell(
    config: CompareConfig,
    shapes: list[ModelShape],
    method: str,
    keep: Keep | None,
    reference: bool,
    text_tokens: float,
    varies: bool,
) -> Cell:
    """A cell, planned on the first and largest of the shapes and possible on all; one that is tuned has yet to find its level."""
    base = Cell(config.model, config.task, method, keep, config.budget, config.seed, reference, create(method))
    base = replace(base, text_tokens=text_tokens, varies=varies, level=HIGHEST if base.object.tuned else None)
    for shape in shapes:
        try:
            base.plan(shape)
        except BudgetError as error:
            on = f"an image of {shape.visual_tokens} tokens: " if varies else ""
            return replace(base, skipped=f"{on}{error}")
        if shape.tiles > 1 and any(step.site.stage == 0 for step in base.steps_for(shape)):
            return replace(base, skipped="of several images in a prompt, no token can leave inside the tower")
    steps, planned, grid = base.plan(shapes[0])
    return replace(base, steps=steps, schedule=planned, grid=grid)
