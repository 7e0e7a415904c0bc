"""The table of cells: its columns, each with unit, definition and raw value, so that text and numbers cannot part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from methods.keep import Keep
from reports import wording
from reports.cells import Cell, Interval, Stratum, dig, in_order, interval, keep, measured, method, number, p_value, role


@dataclass(frozen=True)
class Column:
    """One column of the table; ``path`` is where its figure stands in a cell of summary.json."""

    group: str
    title: str
    unit: str
    path: str
    meaning: str
    text: Callable[[float | None], str]
    detail: Callable[[Cell], str] = lambda cell: ""
    doubt: Callable[[Cell], str] = lambda cell: ""  # stands in place of digits that would claim too much


@dataclass(frozen=True)
class TableEntry:
    """One figure of one row: raw, as text, and the small print below it."""

    raw: float | None
    text: str
    detail: str = ""
    lo: float | None = None  # of its 95 % interval
    hi: float | None = None


@dataclass(frozen=True)
class Bar:
    """The interval graphic of a row; all positions in percent of its width."""

    at: float
    lo: float
    hi: float
    none: float | None


@dataclass(frozen=True)
class TableRow:
    """One measured cell as a row of the table."""

    model: str
    task: str
    method: str
    role: str
    keep: Keep | None
    budget: str
    bar: Bar | None
    entries: tuple[TableEntry, ...]
    note: str = ""
    order: int = 0  # of the budget among all of the table, rising


@dataclass(frozen=True)
class CellTable:
    """The table of all measured cells."""

    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    budgets: tuple[Keep, ...]  # falling
    several: bool  # more than one model or task: then both are columns too
    first: frozenset[str] = frozenset()  # column groups that a reader sees before choosing others

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The column groups, and how many columns each spans."""
        spans: dict[str, int] = {}
        for column in self.columns:
            spans[column.group] = spans.get(column.group, 0) + 1
        return list(spans.items())


_OPTIONAL = frozenset({"memory.working_bytes", "pareto.latency.share", "evidence.swap_gain"})
"""Columns that are left out where no cell has their figure."""

_FIRST = frozenset({"Accuracy", "Tokens", "Cost"})


def _share_range(path: str) -> Callable[[Cell], str]:
    def detail(cell: Cell) -> str:
        found = interval(cell, path)
        return wording.percent_range(found) if found and found.hi > found.lo else ""

    return detail


def _test(path: str) -> Callable[[Cell], str]:
    def detail(cell: Cell) -> str:
        gap = interval(cell, path)
        if gap is None:
            return ""
        p, holm = p_value(cell, path)
        return f"{wording.points_range(gap)}; {'' if holm or p is None else 'raw '}{wording.p_text(p)}"

    return detail


def _range(path: str, text: Callable[[float | None], str]) -> Callable[[Cell], str]:
    def detail(cell: Cell) -> str:
        found = interval(cell, path)
        return f"{text(found.lo)} to {text(found.hi)}" if found and found.hi > found.lo else ""

    return detail


def _noisy(cell: Cell) -> str:
    """What stands in place of a time whose rounds vary too much for digits."""
    return "noisy" if dig(cell, "latency.noisy") else ""


def _ttft_detail(cell: Cell) -> str:
    spread, cv = _range("latency.ttft", wording.milliseconds)(cell), number(cell, "latency.cv")
    return f"{spread}; rounds vary by {wording.percent(cv, 0)} %" if _noisy(cell) and cv is not None else spread


def _swap_detail(cell: Cell) -> str:
    gain, share = interval(cell, "evidence.swap_gain"), number(cell, "evidence.swap_share")
    spread = wording.points_range(gain) if gain else ""
    return f"{spread}; {wording.percent(share, 0)} % of the loss" if share is not None else spread


def _kv_detail(cell: Cell) -> str:
    found, predicted = number(cell, "memory.kv_measured"), number(cell, "memory.kv_predicted")
    if found is None or predicted is None or found == predicted:
        return ""
    return f"measured {wording.plain(found / 1e6)} for {wording.plain(predicted / 1e6)}"


def _peak_detail(cell: Cell) -> str:
    peak = number(cell, "memory.peak_bytes")
    return "" if peak is None else f"peak {wording.plain(peak / 1e6, 0)}"


def _front(cell: Cell) -> str:
    shares = {name: number(cell, f"pareto.{name}.share") for name in ("latency", "flops")}
    return ", ".join(f"{wording.percent(share, 0)} % by {name}" for name, share in shares.items() if share is not None)


def _front_text(cell: Cell) -> str:
    on = [name for name in ("latency", "flops") if dig(cell, f"pareto.{name}.on")]
    return {0: "", 1: f"by {on[0]}" if on else "", 2: "yes"}[len(on)]


def _seeds(cell: Cell) -> str:
    if number(cell, "seeds.sd") is None:
        return _share_range("accuracy")(cell)
    low, high = (wording.percent(number(cell, f"seeds.{end}")) for end in ("lowest", "highest"))
    return f"{_share_range('accuracy')(cell)}; {number(cell, 'seeds.seeds')} seeds {low} to {high}"


def _marks(cell: Cell) -> str:
    found = number(cell, "tokens.marks")
    return "" if not found else f"and {found:,.4g} marks, which always stay"


def _leave(cell: Cell) -> str:
    """Before which decoder layers tokens leave; nothing where none do."""
    present = dig(cell, "schedule") or []
    layers = [str(layer) for layer in range(1, len(present)) if present[layer] < present[layer - 1]]
    return f"before layer{'s' if len(layers) > 1 else ''} {wording.listed(layers)}" if layers else ""


def columns(unit: tuple[float, str]) -> tuple[Column, ...]:
    """Return the columns of the table.

    Args:
        unit: the divisor and the name of the unit in which FLOPs are written, from `wording.flops_unit`.
    """
    divisor, name = unit

    def scaled(value: float | None) -> str:
        return wording.plain(None if value is None else value / divisor)

    cosine, cells_hit = "diversity.mean_cosine", "coverage.cells"
    return (
        Column("Accuracy", "Accuracy", "%", "accuracy",
               "share of questions scored right, with the 95 % interval of a bootstrap over images; of random also the lowest "
               "and the highest of several seeds",
               wording.percent, _seeds),
        Column("Accuracy", "Retention", "%", "retention",
               "accuracy as a share of the unpruned model's; the small print takes off what the blind model answers",
               wording.percent,
               lambda c: "" if number(c, "retention_adjusted") is None
               else f"{wording.percent(number(c, 'retention_adjusted'))} above blind"),
        Column("Accuracy", "To none", "points", "difference_none",
               "accuracy minus the unpruned model's on the same questions; interval and sign-flip permutation "
               "test over "
               "images, p Holm-corrected over all competing cells; of references and random tokens uncorrected, raw",
               wording.points, _test("difference_none")),
        Column("Accuracy", "To random", "points", "difference_like",
               "accuracy minus that of random tokens on the same schedule and numbered alike (the row random[...] or random): "
               "what the ranking is worth; tested likewise",
               wording.points, _test("difference_like")),
        Column("Accuracy", "To best", "points", "difference_winner",
               "accuracy minus that of the most accurate method at this budget; tested likewise. The best was chosen from these "
               "data, so small p values flatter it", wording.points, _test("difference_winner")),
        Column("Loyalty", "Agreement", "%", "loyalty.agreement",
               "share of answers equal to the unpruned model's, right or wrong",
               wording.percent, _share_range("loyalty.agreement")),
        Column("Loyalty", "KL", "nats", "loyalty.kl",
               "mean Kullback-Leibler divergence of the first answer token from the unpruned model's; 0 is no change",
               lambda v: wording.plain(v, 3), _range("loyalty.kl", lambda v: wording.plain(v, 3))),
        Column("Evidence", "Recall", "%", "evidence.recall",
               "share of the tokens that hold the answer which are still among the kept, mean over questions "
               "with evidence",
               wording.percent, _share_range("evidence.recall")),
        Column("Evidence", "Swap", "points", "evidence.swap_gain",
               "accuracy gained when the evidence is forced into the kept set and random kept tokens leave, at the same K, over "
               "questions with evidence; the small print is its share of the loss to none", wording.points, _swap_detail),
        Column("Tokens", "Average", "", "tokens.average",
               "visual tokens present, mean over the LLM's layers; newline and mark tokens of an image are not among them",
               wording.count, _marks),
        Column("Tokens", "Final", "", "tokens.final",
               "visual tokens present in the LLM's last layer; the small print says before which of its layers tokens leave, "
               "counted from 0 and scaled to this model's depth", wording.count, _leave),
        Column("Cost", "Compute", name, "flops.total",
               "counted from the schedule, 2 per multiply-add: tower, projector, selection and prefill", scaled),
        Column("Cost", "TTFT", "ms", "latency.ttft",
               "time to first token: tower, projector, selection and prefill; median of synchronised, "
               "interleaved rounds",
               wording.milliseconds, _ttft_detail, _noisy),
        Column("Cost", "Speed-up", "×", "latency.ratio",
               "TTFT of the unpruned model over this cell's: the median of the ratios of single rounds, not the ratio of medians",
               wording.plain, _range("latency.ratio", wording.plain)),
        Column("Cost", "Front", "", "pareto.latency.share",
               "whether the cell is on the Pareto front of accuracy against TTFT (latency) and against compute (flops), and how "
               "often it stays there when images and rounds are drawn again", lambda v: wording.MISSING, _front,
               lambda c: _front_text(c) or "no" if dig(c, "pareto.flops") or dig(c, "pareto.latency") else ""),
        Column("Cost", "KV cache", "MB", "memory.kv_bytes",
               "keys and values of all layers after the prompt, by formula over all prompts; where a prompt was timed, its cache "
               "was measured too, and a difference stands in the small print",
               lambda v: wording.plain(None if v is None else v / 1e6), _kv_detail),
        Column("Cost", "Memory", "MB", "memory.working_bytes",
               "peak resident memory that running the cell adds to the loaded model, one process a cell (--memory); on a GPU the "
               "small print has the allocator's peak", lambda v: wording.plain(None if v is None else v / 1e6, 0), _peak_detail),
        Column("Cost", "Realised", "", "latency.realised_gain",
               "measured prefill speed-up over the one the FLOPs promise; 1 is all of it", wording.plain, doubt=_noisy),
        Column("Kept tokens", "Effective rank", "", "diversity.effective_rank",
               "exponential of the entropy of the kept tokens' spectrum (Roy & Vetterli 2007), in the projected space, "
               "L2-normalised, uncentred",
               lambda v: wording.plain(v, 1), _range("diversity.effective_rank", lambda v: wording.plain(v, 1))),
        Column("Kept tokens", "Mean cosine", "", cosine,
               "mean pairwise cosine of the kept tokens; high is redundant",
               lambda v: wording.plain(v, 3), _range(cosine, lambda v: wording.plain(v, 3))),
        Column("Kept tokens", "Cells hit", "%", cells_hit,
               "share of the cells of a coarse grid over the image that hold a kept token",
               wording.percent, _share_range(cells_hit)),
    )  # fmt: skip


def table(cells: list[Cell], groups: list[Stratum]) -> CellTable:
    """Return the table of the measured cells.

    Args:
        cells: the entries of summary.json; skipped ones are left to `skipped`.
        groups: their strata, which give each row the scale of its interval graphic.
    """
    shown = measured(cells)
    found = columns(wording.flops_unit([v for c in shown if (v := number(c, "flops.total")) is not None]))
    found = tuple(c for c in found if c.path not in _OPTIONAL or any(number(cell, c.path) is not None for cell in shown))
    scored = any(number(cell, "accuracy") is not None for cell in shown)
    if not scored and shown:
        found = tuple(c for c in found if c.group != "Accuracy")
    bars = _bars(groups)
    budgets = tuple(sorted({k for cell in shown if (k := keep(cell)) is not None}, reverse=True))
    rows = tuple(
        TableRow(
            model=str(cell.get("model") or wording.MISSING),
            task=str(cell.get("task") or wording.MISSING),
            method=method(cell),
            role=role(cell),
            keep=keep(cell),
            budget=str(cell.get("budget") or ""),
            bar=bars.get(id(cell)),
            entries=tuple(_entry(cell, c) for c in found),
            note=_counts(cell),
            order=0 if (k := keep(cell)) is None else budgets[::-1].index(k),
        )
        for cell in shown
    )
    first = _FIRST if scored else _FIRST - {"Accuracy"} | {"Loyalty"}
    return CellTable(found, rows, budgets, several=len({(r.model, r.task) for r in rows}) > 1, first=first)


def _entry(cell: Cell, column: Column) -> TableEntry:
    raw = number(cell, column.path)
    lo, hi = (number(cell, f"{column.path}.{end}") for end in ("lo", "hi"))
    return TableEntry(raw, column.doubt(cell) or column.text(raw), column.detail(cell), lo, hi)


def skipped(cells: list[Cell]) -> list[Cell]:
    """Return the cells that could not be measured; each holds its reason under ``skipped``."""
    return in_order([c for c in cells if c.get("skipped")])


def _counts(cell: Cell) -> str:
    n, images = number(cell, "n"), number(cell, "n_images")
    told = "" if n is None or images is None else f"{n:,.0f} questions about {images:,.0f} images"
    return "; ".join(part for part in (told, "removes nothing" if cell.get("removes_nothing") else "") if part)


def _bars(groups: list[Stratum]) -> dict[int, Bar]:
    """Interval graphics on one scale a stratum, from its lowest bound to its highest, the blind model left out."""
    bars: dict[int, Bar] = {}
    for group in groups:
        known = [(c, i) for c in group.cells if (i := interval(c, "accuracy"))]
        if not known:
            continue
        pruned = [i for c, i in known if method(c) != "blind"] or [i for _, i in known]
        low, high = min(i.lo for i in pruned), max(i.hi for i in pruned)
        none = interval(group.none, "accuracy") if group.none else None

        def place(value: float, low: float = low, width: float = (high - low) or 1.0) -> float:
            return round(3 + 94 * (value - low) / width, 2)

        for cell, i in known:
            if i in pruned:  # the blind model would press all others together
                bars[id(cell)] = _bar(i, none, place)
    return bars


def _bar(found: Interval, none: Interval | None, place: Callable[[float], float]) -> Bar:
    return Bar(place(found.value), place(found.lo), place(found.hi), place(none.value) if none else None)
