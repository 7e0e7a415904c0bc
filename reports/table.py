"""The table of cells: its columns, each with unit, definition and raw value, so that text and numbers cannot part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reports import wording
from reports.cells import Interval, Stratum, dig, in_order, interval, keep, measured, method, number, p_value, role


@dataclass(frozen=True)
class Column:
    """One column: ``path`` is where the figure stands in a cell of summary.json."""

    group: str
    title: str
    unit: str
    path: str
    meaning: str
    text: Callable[[float | None], str]
    detail: Callable[[dict], str] = lambda cell: ""


@dataclass(frozen=True)
class Entry:
    """One figure of one row: raw, as text, and the small print below it."""

    raw: float | None
    text: str
    detail: str = ""


@dataclass(frozen=True)
class Bar:
    """The interval graphic: all positions in percent of its width."""

    at: float
    lo: float
    hi: float
    none: float | None


@dataclass(frozen=True)
class Row:
    model: str
    task: str
    method: str
    role: str
    keep: int | None
    budget: str
    bar: Bar | None
    entries: tuple[Entry, ...]
    note: str = ""


@dataclass(frozen=True)
class Table:
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    several: bool  # more than one model or task: then both are columns too

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Column groups and how many columns each spans."""
        spans: dict[str, int] = {}
        for column in self.columns:
            spans[column.group] = spans.get(column.group, 0) + 1
        return list(spans.items())


def _share_range(path: str) -> Callable[[dict], str]:
    def detail(cell: dict) -> str:
        found = interval(cell, path)
        return wording.percent_range(found) if found and found.hi > found.lo else ""

    return detail


def _test(path: str) -> Callable[[dict], str]:
    def detail(cell: dict) -> str:
        gap = interval(cell, path)
        if gap is None:
            return ""
        p, holm = p_value(cell, path)
        return f"{wording.points_range(gap)}; {wording.p_text(p)}{'' if holm or p is None else ' (uncorrected)'}"

    return detail


def _range(path: str, text: Callable[[float | None], str]) -> Callable[[dict], str]:
    def detail(cell: dict) -> str:
        found = interval(cell, path)
        return f"{text(found.lo)} to {text(found.hi)}" if found and found.hi > found.lo else ""

    return detail


def _ttft_detail(cell: dict) -> str:
    spread = _range("latency.ttft", wording.milliseconds)(cell)
    return f"{spread} (noisy)".strip() if dig(cell, "latency.noisy") else spread


def columns(unit: tuple[float, str]) -> tuple[Column, ...]:
    """The columns, given the divisor and name of the FLOPs unit."""
    divisor, name = unit

    def scaled(value: float | None) -> str:
        return wording.plain(None if value is None else value / divisor)

    cosine, cells_hit = "diversity.mean_cosine", "coverage.cells"
    return (
        Column("Accuracy", "Accuracy", "%", "accuracy",
               "share of questions scored right, with the 95 % interval of a bootstrap over images",
               wording.percent, _share_range("accuracy")),
        Column("Accuracy", "Retention", "%", "retention",
               "accuracy as a share of the unpruned model's; the small print takes off what the blind model answers",
               wording.percent,
               lambda c: "" if number(c, "retention_adjusted") is None
               else f"{wording.percent(number(c, 'retention_adjusted'))} above blind"),
        Column("Accuracy", "To none", "points", "difference_none",
               "accuracy minus the unpruned model's on the same questions; interval and sign-flip permutation "
               "test over "
               "images, p Holm-corrected over all cells",
               wording.points, _test("difference_none")),
        Column("Accuracy", "To random", "points", "difference_like",
               "accuracy minus that of random tokens on the same schedule: what the ranking is worth; tested likewise",
               wording.points, _test("difference_like")),
        Column("Evidence", "Recall", "%", "evidence.recall",
               "share of the tokens that hold the answer which are still among the kept, mean over questions "
               "with evidence",
               wording.percent, _share_range("evidence.recall")),
        Column("Tokens", "Average", "", "tokens.average",
               "visual tokens present, mean over the LLM's layers", wording.count),
        Column("Tokens", "Final", "", "tokens.final",
               "visual tokens present in the LLM's last layer", wording.count),
        Column("Cost", "Compute", name, "flops.total",
               "counted from the schedule, 2 per multiply-add: tower, projector, selection and prefill", scaled),
        Column("Cost", "TTFT", "ms", "latency.ttft",
               "time to first token: tower, projector, selection and prefill; median of synchronised, "
               "interleaved rounds",
               wording.milliseconds, _ttft_detail),
        Column("Cost", "Speed-up", "×", "latency.ratio",
               "TTFT of the unpruned model over this cell's, paired by round",
               wording.plain, _range("latency.ratio", wording.plain)),
        Column("Cost", "Realised", "", "latency.realised_gain",
               "measured prefill speed-up over the one the FLOPs promise; 1 is all of it", wording.plain),
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


def table(cells: list[dict], groups: list[Stratum]) -> Table:
    """The table of the measured cells.

    Args:
        cells: the entries of summary.json; skipped ones are left to `skipped`.
        groups: their strata, which give each row the scale of its interval graphic.
    """
    shown = measured(cells)
    found = columns(wording.flops_unit([v for c in shown if (v := number(c, "flops.total")) is not None]))
    bars = _bars(groups)
    rows = tuple(
        Row(
            model=str(cell.get("model") or wording.MISSING),
            task=str(cell.get("task") or wording.MISSING),
            method=method(cell),
            role=role(cell),
            keep=keep(cell),
            budget=str(cell.get("budget") or ""),
            bar=bars.get(id(cell)),
            entries=tuple(Entry(raw := number(cell, c.path), c.text(raw), c.detail(cell)) for c in found),
            note=_counts(cell),
        )
        for cell in shown
    )
    return Table(found, rows, several=len({(r.model, r.task) for r in rows}) > 1)


def skipped(cells: list[dict]) -> list[dict]:
    """The cells that could not be, with their reasons."""
    return in_order([c for c in cells if c.get("skipped")])


def _counts(cell: dict) -> str:
    n, images = number(cell, "n"), number(cell, "n_images")
    return "" if n is None or images is None else f"{n:,.0f} questions about {images:,.0f} images"


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
