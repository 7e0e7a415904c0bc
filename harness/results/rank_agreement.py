"""Whether a run ranks methods as a published table does: retention in both, rank for rank. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import factorial
from typing import Any

from harness.errors import RequestError
from harness.literature.figures import UNKNOWN, PublishedFigure
from harness.literature.retention import published_retention
from harness.literature.tables import PublishedTable, printed, table
from harness.results.published_match import parameters_apart
from harness.results.types import JsonObject
from methods.expressions import MethodError, bare
from methods.keep import Keep
from methods.registry import canonical
from metrics.rank_agreement import RankAgreement, rank_agreement, without_each

_FEWEST = 4  # methods: of three, no order is rarer than one in three
_DIGITS = 9  # of a retention: what differs in the last bits of a mean alone ties
_LEVEL = 0.05  # of the two-sided test, uncorrected: each entry by itself


@dataclass(frozen=True)
class RankedMethod:
    """A method in a published table and in a run."""

    method: str  # the table's name of it
    cell: str  # canonical expression of the run's cell
    published: float  # mean over the table's columns of its value over the unpruned model's
    ours: float  # the run's leading figure over the unpruned model's


@dataclass(frozen=True)
class TableRanks:
    """How a run and a published table rank the same methods at one budget."""

    table: str
    model: str  # the table's
    beside: str  # what is ranked beside it: the run's model, task, images and what its budget counts, or another table
    keep: str  # the budget, as ``--keep`` takes it
    columns: tuple[str, ...]  # tasks of the table over which retention is the mean
    methods: tuple[RankedMethod, ...]  # in the table's order, best first
    agreement: RankAgreement
    without: tuple[tuple[str, RankAgreement], ...]  # the same without each method in turn
    variant: str = ""  # a cell of the run that stands for its method in place of the usual one
    left_out: tuple[str, ...] = ()  # methods of the table that are not ranked, each with the reason
    differs: tuple[str, ...] = ()  # what is known to be another in the table than beside it, a clause each


def rank_tables(cells: Sequence[JsonObject], tables: Sequence[str] = (), of: str = "the run") -> list[TableRanks]:
    """Return how a run ranks methods beside published tables, one entry for each table, budget and variant.

    Retention of a table is the mean over its columns of value over the unpruned model's; a method with gaps is left out. Of a
    run it is that of its leading figure. A method is the run's cell that the table's entry ``reproduce`` names, else the one of
    default parameters; further cells of a method stand in its place once each, as variants.

    Args:
        cells: the entries of a run's summary.
        tables: names, or paths of own tables; all tables of the package where none is given.
        of: the run in words, such as "tiny on shapes, 96 images".

    Returns:
        Entries with at least four methods, in the order of tables and falling budgets.

    Raises:
        RequestError: for an unknown table, or where none of those that are named has four methods in common with the run.
    """
    asked = [table(name) for name in tables or printed()]
    found = [one for known in asked for one in _of_table(known, cells, of)]
    if tables and not found:
        raise RequestError(
            f"--ranks: the run has no budget at which {_FEWEST} methods of {', '.join(tables)} have a retention; "
            f"its budgets are {', '.join(sorted({str(k) for k in map(Keep.stored, cells) if k is not None})) or 'none'}"
        )
    return found


def rank_tables_alike(first: str, second: str) -> list[TableRanks]:
    """Return how two published tables of one model rank the methods that both have, over the tasks that both have.

    It says how well papers about one model agree, which is something to hold a run's agreement beside.

    Args:
        first: a table's name, or the path of an own one.
        second: another one, which stands in a run's place.

    Returns:
        Entries with at least four methods, in the order of falling budgets; none where the tables share no model, or no budget
        with so many methods. Tasks that are known to have another metric in the other table do not count.

    Raises:
        RequestError: for an unknown table.
    """
    one, other = table(first), table(second)
    found: list[TableRanks] = []
    for model in dict.fromkeys(figure.model for figure in one.figures):
        mine, theirs = ([f for f in known.figures if f.model == model] for known in (one, other))
        budgets = {str(f.budget): f.budget for f in mine if f.budget is not None}
        for keep in sorted(budgets.values(), reverse=True):
            metrics = [_metrics_at(figures, keep) for figures in (mine, theirs)]
            tasks = {task for task in metrics[0].keys() & metrics[1].keys() if _alike(metrics[0][task], metrics[1][task])}
            retained = published_retention(theirs, keep, tasks).of
            facts = {"skipped": None, **keep.facts()}
            cells = [{"method": method, "retention": {"value": value}, **facts} for method, value in retained.items()]
            found += _at_budget(replace(one, reproduction=None), model, mine, keep, cells, f"table {other.name}", tasks)
    return found


def _metrics_at(figures: Sequence[PublishedFigure], keep: Keep) -> dict[str, set[str]]:
    """The metrics of each task of which there is a value at a budget."""
    found: dict[str, set[str]] = {}
    for figure in figures:
        if figure.budget == keep and figure.number is not None:
            found.setdefault(figure.task, set()).add(figure.metric)
    return found


def _alike(one: set[str], other: set[str]) -> bool:
    """Whether metrics of a task in two tables may be the same; what is unknown may be any."""
    return UNKNOWN in one | other or one == other


def as_rows(found: Sequence[TableRanks]) -> list[dict[str, Any]]:
    """Return entries as JSON holds them."""
    return [asdict(one) for one in found]


def _of_table(known: PublishedTable, cells: Sequence[JsonObject], of: str) -> Iterator[TableRanks]:
    """The entries of one table, model by model and budget by budget."""
    for model in dict.fromkeys(figure.model for figure in known.figures):
        figures = [figure for figure in known.figures if figure.model == model]
        budgets = {str(figure.budget): figure.budget for figure in figures if figure.budget is not None}
        for keep in sorted(budgets.values(), reverse=True):
            yield from _at_budget(known, model, figures, keep, cells, of)


def _at_budget(
    known: PublishedTable,
    model: str,
    figures: Sequence[PublishedFigure],
    keep: Keep,
    cells: Sequence[JsonObject],
    of: str,
    tasks: Collection[str] | None = None,
) -> Iterator[TableRanks]:
    """The entries of one budget: with every method's usual cell, then with each further cell in its method's place."""
    retained = published_retention(figures, keep, tasks)
    settled = known.reproduction.methods if known.reproduction is not None else {}
    here = [cell for cell in cells if Keep.stored(cell) == keep]
    usual: dict[str, JsonObject] = {}
    variants: list[tuple[str, JsonObject]] = []
    reasons: dict[str, str] = {}
    for method in retained.of:
        wanted = _canonical(settled.get(method, method))
        own = [cell for cell in here if bare(str(cell["method"])) == method]
        reasons[method] = f"no cell of {wanted}" if own else "not beside the table"
        for cell in own:
            if (cell.get("retention") or {}).get("value") is None:
                reasons[method] = str(cell.get("skipped") or "has no retention")
            elif (other := _other_version(figures, method, keep, cell)) is not None:
                reasons[method] = other
            elif cell["method"] == wanted:
                usual[method] = cell
            else:
                variants.append((method, cell))
    left = (*retained.left_out, *(f"{method}: {reasons[method]}" for method in retained.of if method not in usual))
    for name, chosen in (("", usual), *((cell["method"], {**usual, method: cell}) for method, cell in variants)):
        if len(chosen) < _FEWEST:
            continue
        ranked = [RankedMethod(m, c["method"], retained.of[m], float(c["retention"]["value"])) for m, c in chosen.items()]
        ranked.sort(key=lambda method: -method.published)
        both = [round(m.published, _DIGITS) for m in ranked], [round(m.ours, _DIGITS) for m in ranked]
        modes = {str(cell["budget"]) for cell in chosen.values() if cell.get("budget")}
        yield TableRanks(
            table=known.name, model=model, beside=f"{of} ({', '.join(sorted(modes))})" if modes else of, keep=str(keep),
            columns=retained.tasks, methods=tuple(ranked), agreement=rank_agreement(*both),
            without=tuple(zip((m.method for m in ranked), without_each(*both), strict=True)), variant=name,
            left_out=tuple(reason for reason in left if reason.partition(":")[0] not in chosen),
            differs=tuple(_counted_otherwise(figures, keep, chosen, modes)),
        )  # fmt: skip


def _other_version(figures: Sequence[PublishedFigure], method: str, keep: Keep, cell: JsonObject) -> str | None:
    """Say what a cell is another form of its method in than the table's, where both are known; None where nothing is."""
    for version in sorted({f.version for f in figures if f.method == method and f.budget == keep}):
        if differ := parameters_apart(version, str(cell["method"])):
            return "; ".join(f"{name}={there} in the table, {here} here" for name, here, there in differ)
    return None


def _counted_otherwise(
    figures: Sequence[PublishedFigure], keep: Keep, chosen: Collection[str], modes: Collection[str]
) -> Iterator[str]:
    """Which methods' budgets are known to count something else in the table than beside it."""
    for method in chosen if modes else ():
        counts = {f.counts for f in figures if f.method == method and f.budget == keep} - {UNKNOWN, "every", *modes}
        if counts:
            yield f"{method}: the table counts {', '.join(sorted(counts))}, {', '.join(sorted(modes))} beside it"


def as_text(found: Sequence[TableRanks]) -> str:
    """Return entries as a terminal shows them: the agreement in a sentence, then each method with both its ranks."""
    if not found:
        return f"no published table has {_FEWEST} methods in common with it at one of its budgets"
    told = [_told(one) for one in found]
    if len(found) > 1:
        told.append(f"{len(found)} comparisons; p is of each by itself, corrected for nothing.")
    return "\n\n".join(told)


def _told(one: TableRanks) -> str:
    stands = f", {one.variant} in the place of its method" if one.variant else ""
    lines = [
        f"{one.table}, {one.model} at {Keep.parse(one.keep).phrase}; beside it {one.beside}{stands}",
        f"  {_verdict(one.agreement)}; retention over {', '.join(one.columns)}",
    ]
    known = [(method, found) for method, found in one.without if found.rho is not None]
    if known:
        low, high = (extreme(known, key=lambda entry: entry[1].rho or 0.0) for extreme in (min, max))
        lines.append(f"  without one method: {_short(low[1])} without {low[0]} to {_short(high[1])} without {high[0]}")
    theirs, ours = _ranks([m.published for m in one.methods]), _ranks([m.ours for m in one.methods])
    width = max(len(m.cell) for m in one.methods)
    lines.append(f"  {'method':<{width}}  published %  rank  here %  rank  rho without it")
    without = dict(one.without)
    for m, their, our in zip(one.methods, theirs, ours):
        figures = f"{100 * m.published:11.1f}  {their:>4}  {100 * m.ours:6.1f}  {our:>4}"
        lines.append(f"  {m.cell:<{width}}  {figures}  {_short(without[m.method])}")
    lines += [f"  not ranked: {reason}" for reason in one.left_out]
    lines += [f"  known to differ: {clause}" for clause in one.differs]
    return "\n".join(lines)


def _ranks(values: Sequence[float]) -> list[str]:
    """The rank of each value, the highest first; equal ones share the mean of theirs."""
    rounded = [round(value, _DIGITS) for value in values]
    return [f"{sum(v > own for v in rounded) + (rounded.count(own) + 1) / 2:g}" for own in rounded]


def _verdict(found: RankAgreement) -> str:
    orders = f"of all {factorial(found.n):,} orders" if found.exact else "of orders that were drawn"
    if found.rho is None or found.p is None:
        return f"{found.n} methods that tie cannot be ranked"
    shown = "they agree in rank" if found.rho > 0 else "they are ranked the other way round"
    settled = f"{shown} more than chance would" if found.p <= _LEVEL else "agreement in rank is not shown"
    if found.least_p > _LEVEL:
        settled = f"so few cannot show agreement: p is {_p(found.least_p).removeprefix('= ')} at the least"
    return f"{found.n} methods: Spearman's rho {_rho(found.rho)}, p {_p(found.p)} ({orders}); {settled}"


def _short(found: RankAgreement) -> str:
    return "cannot be ranked" if found.rho is None or found.p is None else f"{_rho(found.rho)} (p {_p(found.p)})"


def _rho(rho: float) -> str:
    return f"{round(rho, 2) + 0.0:.2f}"  # never -0.00


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}" if p < 0.1 else f"= {p:.2f}"


def _canonical(expression: str) -> str:
    """An expression as cells are called by; what no method of ours is, as it stands."""
    try:
        return canonical(expression)
    except MethodError:
        return expression
