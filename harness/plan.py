"""From a request to cells: methods x budgets, the reference cells, and reasons for what cannot be."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from harness.config import CompareConfig, tokens_of
from harness.errors import RequestError
from methods.registry import MethodError, canonical, create, entry, parse
from methods.schedule import plan
from methods.types import Budget, BudgetError, Method, ModelShape, Schedule, Step


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
    def merges(self) -> bool:
        return any(step.site.stage == 0 for step in self.steps)

    @property
    def prunes(self) -> bool:
        """Whether the kept tokens are a subset of the original ones, so that chance has a meaning."""
        return bool(self.steps) and not self.merges

    @property
    def reads_text(self) -> bool:
        return any(step.reads_text for step in self.steps)

    @property
    def like(self) -> str | None:
        """The cell's yardstick on the same schedule, if it acts inside the LLM."""
        acts_inside = any(step.site.stage == 2 for step in self.steps)
        return f"random[like={self.method}]" if acts_inside and not self.method.startswith("random") else None


def make_cells(config: CompareConfig, shape: ModelShape, knows_evidence: bool) -> list[Cell]:
    """All cells of a request, reference cells first; those that cannot be carry their reason.

    Raises:
        RequestError: for an unknown method, parameter or budget.
    """
    try:
        asked = [canonical(text) for text in expand(config.methods)]
    except MethodError as error:
        raise RequestError(str(error)) from None
    budgets = sorted({tokens_of(text, shape.visual_tokens) for text in config.keep}, reverse=True)
    cells: dict[str, Cell] = {}

    def add(method: str, keep: int | None, reference: bool) -> None:
        cell = _cell(config, shape, method, keep, reference)
        if "evidence" in entry(parse(method)[0]).needs and not knows_evidence:
            cell = replace(cell, steps=(), schedule=None, skipped=f"task {config.task!r} does not know its evidence")
        cells.setdefault(cell.key, cell)

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
            add(method, keep, entry(parse(method)[0]).reference)
            like = _cell(config, shape, method, keep, False).like
            if like is not None:
                add(canonical(like), keep, True)
    return list(cells.values())


def expand(methods: tuple[str, ...]) -> list[str]:
    """Replace ``all`` by every registered method, and drop repetitions."""
    from methods.registry import entries

    names: list[str] = []
    for text in methods:
        names += list(entries()) if text == "all" else [text]
    return list(dict.fromkeys(names))


def _cell(config: CompareConfig, shape: ModelShape, method: str, keep: int | None, reference: bool) -> Cell:
    made = create(method)
    budget = Budget(shape.visual_tokens if keep is None else keep, config.budget)
    base = Cell(config.model, config.task, method, keep, config.budget, config.seed, reference, made)
    try:
        steps, schedule = plan(made, shape, budget)
    except BudgetError as error:
        return replace(base, skipped=str(error))
    return replace(base, steps=steps, schedule=schedule, grid=made.image_grid(shape, budget))
