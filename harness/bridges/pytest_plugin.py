"""A pytest fixture for projects that prune: ``prunescope.compare(...)`` and assertions on what it measured.

Loaded by pytest itself (entry point ``pytest11``), so nothing heavy is imported until a test asks for the fixture.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from harness.results.regression.pairing import MatchedCell
    from harness.run.comparison import Run
    from harness.store.runs import RunFolder


@pytest.fixture(scope="session")
def prunescope(tmp_path_factory: pytest.TempPathFactory) -> PrunescopeFixture:
    """Return what compares pruning methods in a test, and asserts what must hold of them."""
    return PrunescopeFixture(tmp_path_factory)


class PrunescopeFixture:
    """What the fixture ``prunescope`` gives: runs, and assertions on them.

    A run is what `compare` returned, or the folder of a stored one.

    Args:
        folders: of pytest, for temporary runs.
    """

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders

    def compare(self, methods: Any = None, keep: Any = None, **options: Any) -> Run:
        """Run methods into a temporary folder; arguments are those of `harness.compare`.

        Args:
            methods: expressions, a list or comma-separated.
            keep: budgets: whole numbers are counts, numbers with a point and texts such as ``"34%"`` shares.
            options: the rest, such as ``samples=16, latency=False``; ``out`` names a folder that stays.

        Raises:
            ValueError: where the request is wrong; the message says what.
        """
        from harness.run.comparison import compare

        given = {name: value for name, value in (("methods", methods), ("keep", keep)) if value is not None}
        if "extend" not in options:
            options.setdefault("out", self._folders.mktemp("prunescope") / "run")
        run: Run = compare(**given, **options)
        return run

    def assert_retention(self, run: Run | Path | str, method: str, keep: float | str | None = None, *, at_least: float) -> None:
        """Fail where a method keeps less than asked of what `none` reaches in the task's own figure, such as accuracy or F1.

        The figure of these images is judged, not its interval, which the message tells.

        Args:
            run: a run or its folder.
            method: its full expression, as reports print it.
            keep: the budget, as it was asked for; may be left out where the method has one budget alone.
            at_least: the figure over that of `none`, such as 0.95.

        Raises:
            AssertionError: where it does; the message says by how much.
        """
        __tracebackhide__ = True
        cell = _cell(run, method, keep)
        found, span = _retention(cell)
        if found is None:
            _fail(f"{_name(cell)}: no retention was measured; `none` must have answers that are right")
        if found < at_least:
            name, told = _figure(cell)
            _fail(
                f"{_name(cell)} keeps {found:.1%}{span} of the {name} of none, at least {at_least:.1%} is asked; "
                f"{told} on {cell['n']} questions of {cell['n_images']} images"
            )

    def assert_flops(self, run: Run | Path | str, method: str, keep: float | str | None = None, *, at_most: float) -> None:
        """Fail where a method costs more FLOPs to the first token than asked.

        Args:
            run: a run or its folder.
            method: its full expression.
            keep: the budget, as it was asked for.
            at_most: FLOPs; up to 1 it is a share of those of `none`.

        Raises:
            AssertionError: where it does; the message says by how much.
        """
        __tracebackhide__ = True
        cell = _cell(run, method, keep)
        total = cell["flops"]["total"]
        if at_most > 1:
            if total > at_most:
                _fail(f"{_name(cell)} costs {total:.4g} FLOPs to the first token, at most {at_most:.4g} are asked")
            return
        share = total / _cell(run, "none", None)["flops"]["total"]
        if share > at_most:
            _fail(f"{_name(cell)} costs {share:.1%} of the FLOPs of none to the first token, at most {at_most:.1%} are asked")

    def assert_no_drift(
        self,
        run: Run | Path | str,
        baseline: Run | Path | str,
        method: str,
        keep: float | str | None = None,
        jaccard: float = 0.9,
    ) -> None:
        """Fail where a method keeps other tokens than it did in a baseline, on the same questions.

        Args:
            run: a run or its folder.
            baseline: the run that is held to be right.
            method: its full expression.
            keep: the budget, as it was asked for.
            jaccard: the least mean Jaccard index of the kept tokens.

        Raises:
            AssertionError: where it does; the message says by how much.
        """
        __tracebackhide__ = True
        found, same_seed = _match(run, baseline, method, keep)
        if found.baseline.facts["merges"]:
            _fail(f"{found.label}: merged tokens are no subset of the image's tokens, so drift has no meaning for them")
        if found.jaccard is None:
            _fail(f"{found.label}: {_store(baseline).folder} holds no kept tokens of the same questions")
        if found.jaccard < jaccard:
            drawn = found.baseline.depends_on_seed and not same_seed
            luck = "; its choice depends on the seed, and the seeds differ" if drawn else ""
            _fail(f"{found.label} drifted: kept tokens of {found.common} questions agree to {found.jaccard:.3f} (Jaccard) with "
                  f"{_store(baseline).folder}, at least {jaccard:g} is asked{luck}")  # fmt: skip

    def assert_no_regression(self, run: Run | Path | str, baseline: Run | Path | str, thresholds: Path | None = None) -> None:
        """Fail where `harness regress` would; where it cannot tell a drop from chance, pytest lists a warning.

        Args:
            run: a run or its folder.
            baseline: the run that is held to be right.
            thresholds: a TOML file; what it leaves out keeps its default.

        Raises:
            AssertionError: where it does; the message says by how much.
        """
        __tracebackhide__ = True
        from warnings import warn

        from harness.results.regression.regress import regress
        from harness.results.regression.thresholds import read_thresholds

        found = regress(_store(baseline), _store(run), read_thresholds(thresholds))
        for verdict in found.of("not judged"):
            if verdict.rule == "accuracy":
                warn(f"{found.candidate}: accuracy, {verdict.cell} is not judged: {verdict.text}", stacklevel=2)
        if found.failed:
            lines = [f"{v.rule}, {v.cell}: {v.text}" for v in found.failed]
            _fail(f"{found.candidate} is worse than {found.baseline}:\n" + "\n".join(lines))


def _fail(message: str) -> NoReturn:
    __tracebackhide__ = True
    raise AssertionError(message)


def _store(run: Run | RunFolder | Path | str) -> RunFolder:
    from harness.store.runs import RunFolder

    if isinstance(run, RunFolder):
        return run
    return RunFolder(Path(run)) if isinstance(run, (str, Path)) else run.store


def _name(cell: dict[str, Any]) -> str:
    """A cell of a summary, as messages name it."""
    from methods.keep import Keep

    return str(cell["method"]) + ("" if (keep := Keep.stored(cell)) is None else f" at {keep.shown}")


def _retention(cell: dict[str, Any]) -> tuple[float | None, str]:
    """The retention of a cell of a summary, and its interval in words, which is empty where there is none."""
    found = cell["retention"]
    if not isinstance(found, dict):  # a number, without an interval
        return found, ""
    value, lo, hi = (found.get(name) for name in ("value", "lo", "hi"))
    return value, "" if lo is None or hi is None else f" [{lo:.1%} to {hi:.1%}]"


def _figure(cell: dict[str, Any]) -> tuple[str, str]:
    """The figure that leads in a cell of a summary: its name, and its value with interval and mark in its own unit."""
    from reports.cells import known_leading
    from reports.leading import unit_of
    from reports.wording import NO_INTERVAL

    unit, found = unit_of(cell), known_leading(cell)
    percent, scale = ("%", "") if unit.scale == 100 else ("", f" {unit.sign}")
    span = " to ".join(unit.digits(bound) + percent for bound in (found.lo, found.hi)) if found.known else NO_INTERVAL
    mark = " (partial)" if unit.partial else ""
    return unit.name, f"{unit.name} {unit.digits(found.value)}{percent}{scale} [{span}]{mark}"


def _cell(run: Run | Path | str, method: str, keep: float | str | None) -> dict[str, Any]:
    """The one cell of a method and budget that was measured; a failure says which there are."""
    __tracebackhide__ = True
    from harness.results.current_summary import current_summary
    from harness.store.budgets import read_keep
    from methods.keep import Keep

    store = _store(run)
    cells, wanted = current_summary(store)["cells"], None if keep is None else read_keep(keep)
    mine = [c for c in cells if c["method"] == method and wanted in (None, Keep.stored(c))]
    if len(mine) != 1:
        there = ", ".join(_name(c) for c in (mine or cells))
        what = method if wanted is None else f"{method} at {wanted.shown}"
        _fail(f"{store.folder} has {len(mine) or 'no'} cell{'s' if len(mine) > 1 else ''} {what}; it has {there}")
    if mine[0]["skipped"]:
        _fail(f"{_name(mine[0])} was skipped: {mine[0]['skipped']}")
    found: dict[str, Any] = mine[0]
    return found


def _match(run: Run | Path | str, baseline: Run | Path | str, method: str, keep: float | str | None) -> tuple[MatchedCell, bool]:
    """The cell in both runs, and whether they had one seed."""
    __tracebackhide__ = True
    from harness.results.regression.pairing import RunPair
    from harness.store.budgets import read_keep

    stores, names = (_store(baseline), _store(run)), []
    for store in stores:
        names.append(_name(_cell(store.folder, method, keep)))
    pair = RunPair(*stores)
    found = [m for m in pair.matched if m.key.method == method and (keep is None or m.key.keep == read_keep(keep))]
    if len(found) != 1:
        _fail(f"{names[0]} is no cell that {stores[0].folder} and {stores[1].folder} have in common")
    return found[0], pair.same_seed
