"""From a request to cells: methods x budgets, the reference cells, and reasons for what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import cast

from harness.config import CompareConfig, tokens_of
from harness.errors import RequestError
from methods.registry import MethodError, canonical, create, is_reference
from methods.schedule import plan
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


@dataclass(frozen=True)
class Cell:
    """One method at one budget on one model and task."""

    model: str
    task: str
    method: str  # canonical expression
    keep: int | None  # None where a budget means nothing
    mode: str
    seed: int
    reference: bool
    object: Method = field(repr=False, compare=False)
    steps: tuple[Step, ...] = field(default=(), repr=False, compare=False)
    schedule: Schedule | None = field(default=None, repr=False, compare=False)
    grid: tuple[int, int] | None = None  # of a shrunken image; (0, 0) without an image
    skipped: str | None = None

    @property
    def key(self) -> str:
        """The identity under which results are stored."""
        keep = "" if self.keep is None else f"@{self.keep}"
        return f"{self.model}|{self.task}|{self.method}{keep}|{self.mode}|{self.object.positions}|{self.seed}"

    @property
    def params(self) -> dict:
        return asdict(self.object)

    @property
    def blind(self) -> bool:
        return self.grid == (0, 0)

    @property
    def in_tower(self) -> bool:
        return any(step.site.stage == 0 for step in self.steps)

    @property
    def merges(self) -> bool:
        return any(step.site.stage == 0 or step.merges for step in self.steps)

    @property
    def adaptive(self) -> bool:
        """Whether counts are decided from the image, so that its figures are measured means."""
        return any(step.adaptive for step in self.steps)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(step.needs for step in self.steps)) - OPTIONAL_SIGNALS

    @property
    def prunes(self) -> bool:
        """Whether the kept tokens are a subset of the original ones, so that chance has a meaning."""
        return any(step.after for step in self.steps) and not self.merges

    @property
    def swaps(self) -> bool:
        """Whether its loss can be told apart by evidence swap: a competing pruner whose tokens all have a place."""
        return self.prunes and not self.reference and all(step.site.stage == 2 or step.after == step.keep for step in self.steps)

    @property
    def reads_text(self) -> bool:
        return any(step.reads_text for step in self.steps)

    @property
    def like(self) -> str | None:
        """The yardstick of the cell's ranking: random tokens on the same sites, counts and positions."""
        if not self.prunes or self.method.startswith(("random", "oracle")):
            return None
        if any(step.site.stage == 2 for step in self.steps):
            return f"random[like={self.method}]"
        return "random" if self.object.positions == "original" else f"random[positions={self.object.positions}]"


def make_cells(
    config: CompareConfig,
    shape: ModelShape,
    knows_evidence: bool,
    gives: frozenset[str] = SIGNAL_NAMES,
    text_tokens: float = 64.0,
    cannot: Callable[[tuple[Step, ...], tuple[int, int] | None], str | None] = lambda steps, grid: None,
) -> list[Cell]:
    """All cells of a request, reference cells first; those that cannot be carry their reason.

    Args:
        config: the request.
        shape: the model's.
        knows_evidence: whether the task does.
        gives: signals that the model gives.
        text_tokens: of a prompt, on average; budgets in FLOPs need them.
        cannot: why the model cannot run steps or shrink images to a grid.

    Raises:
        RequestError: for an unknown method, parameter or budget.
    """
    try:
        asked = [canonical(text) for text in expand(config.methods)]
    except MethodError as error:
        raise RequestError(str(error)) from None
    budgets = sorted({tokens_of(text, shape.visual_tokens) for text in config.keep}, reverse=True)
    cells: dict[str, Cell] = {}

    def add(method: str, keep: int | None, reference: bool) -> Cell:
        cell = _cell(config, shape, method, keep, reference, text_tokens)
        lacking = sorted(cell.needs - gives - {"evidence"})
        reason = None
        if "evidence" in cell.needs and not knows_evidence:
            reason = f"task {config.task!r} does not know its evidence"
        elif lacking:
            reason = f"model {config.model!r} gives no {', '.join(lacking)}"
        else:
            reason = cannot(tuple(s for s in cell.steps if "evidence" not in s.needs), cell.grid)
        if reason is not None:
            cell = replace(cell, steps=(), schedule=None, skipped=reason)
        return cells.setdefault(cell.key, cell)

    for method in ("none", "blind"):
        add(method, None, True)
    for keep in budgets:
        add("downsample", keep, True)
        if knows_evidence:
            add("oracle", keep, True)
    for keep in budgets:
        for method in asked:
            if method in ("none", "blind"):
                continue
            cell = add(method, keep if create(method).budgeted else None, is_reference(method))
            if cell.like is not None and cell.like not in asked:
                add(canonical(cell.like), keep, True)
    return list(cells.values())


def expand(methods: tuple[str, ...]) -> list[str]:
    """Replace ``all`` by every registered method, and drop repetitions."""
    from methods.registry import entries

    names: list[str] = []
    for text in methods:
        names += list(entries()) if text == "all" else [text]
    return list(dict.fromkeys(names))


def _cell(config: CompareConfig, shape: ModelShape, method: str, keep: int | None, reference: bool, text_tokens: float) -> Cell:
    made = create(method)
    mode = cast(BudgetMode, config.budget if keep is not None else "average")
    budget = Budget(shape.visual_tokens if keep is None else keep, mode, text_tokens)
    base = Cell(config.model, config.task, method, keep, config.budget, config.seed, reference, made)
    try:
        steps, schedule = plan(made, shape, budget)
    except BudgetError as error:
        return replace(base, skipped=str(error))
    return replace(base, steps=steps, schedule=schedule, grid=made.image_grid(shape, budget))
