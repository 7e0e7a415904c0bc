"""The runs that reproduce a published table: one for each task and budget mode, with exactly the cells that the table has.

Needs no torch, so that what a reproduction would cost is told at once.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.errors import RequestError, nearest
from harness.literature.figures import UNKNOWN, PublishedFigure
from harness.literature.selection import hub_id
from harness.literature.tables import PublishedTable, Reproduction, names, table
from harness.models.catalogue import EMBEDDED, plugged
from harness.models.shapes import one_size, shape_name_of, shape_of
from harness.run.config import CompareConfig, check_dtype, load_plugins, restored
from harness.store.schema import ANSWERING_OPTIONS, HANDLING_OPTIONS
from harness.tasks.base import attribute
from methods.registry import MethodError, canonical, create, entries, split
from reports.cells import imitated

EVERY_IMAGE = 10_000_000
"""Images to ask for where all are wanted: the most that a request may, and tasks give all they have where they have fewer."""
ALL_TOKENS = "100%"
"""The budget to ask for where no cell of a run has one."""
_SETTLED = ("model", "task", "methods", "keep", "budget", "samples", "seed", "latency", "analyse", "references")
"""Options of `compare` that follow from a table's rows, and stand nowhere else."""
_ASKED = (*sorted(HANDLING_OPTIONS | ANSWERING_OPTIONS), "device", "self_check")
"""Options of `compare` that say where and by whom a run is made, which is no part of a table."""
_LONGEST_NAME = 100  # characters of a folder's name


@dataclass(frozen=True)
class ReproductionRequest:
    """Everything that the command `reproduce` can be told; what is left open is as the table settles it."""

    table: str
    out: Path | None = None  # None of a dry run alone
    resume: bool = False
    tasks: tuple[str, ...] = ()  # of the table; none are all
    methods: tuple[str, ...] = ()  # of the table, under its names
    keep: tuple[str, ...] = ()  # of the table
    samples: int | None = None  # images of each task
    model: str | None = None  # the same weights elsewhere
    seed: int | None = None
    device: str = "auto"
    device_map: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    workers: int | None = None
    ray: str | None = None
    self_check: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """What must agree of two requests for them to share a folder: all but who answers, how, and which tasks."""
        aside = {"out", "resume", "tasks", "workers", "ray", "self_check"}
        found = {name: value for name, value in asdict(self).items() if name not in aside and value not in (None, ())}
        for name in ("methods", "keep"):
            if name in found:
                found[name] = sorted(found[name])
        return found

    @property
    def command(self) -> str:
        """The command line that goes on with the reproduction."""
        words = [f"python -m harness reproduce {shlex.quote(self.table)}"]
        base = ReproductionRequest(self.table)
        for name, value in asdict(self).items():
            if name in ("table", "resume") or value == getattr(base, name):
                continue
            if name == "self_check":
                words.append("--no-self-check")
            else:
                text = ",".join(value) if isinstance(value, tuple) else str(value)
                words.append(f"--{name.replace('_', '-')} {shlex.quote(text)}")
        return " ".join([*words, "--resume"])


@dataclass(frozen=True)
class PlannedRun:
    """One run of a reproduction: the cells of one task and budget mode."""

    folder: str  # its name in the folder of the reproduction
    task: str  # as the table has it
    config: CompareConfig
    figures: tuple[PublishedFigure, ...]  # of the table, that its cells are held against, each with the expression of its cell


@dataclass(frozen=True)
class ReproductionPlan:
    """All runs of a table, and what of it cannot be run, with the reason."""

    table: PublishedTable
    reproduction: Reproduction
    model: str  # the table's
    runs: tuple[PlannedRun, ...]
    left_out: tuple[str, ...]  # sentences


def plan_reproduction(request: ReproductionRequest) -> ReproductionPlan:
    """Return the runs of all tasks of a table for a request; ``--tasks`` chooses among them later.

    Cells that do not form a full grid of methods and budgets are spread over several runs, so that none runs beside them.

    Args:
        request: its table, and the subset of methods and budgets.

    Raises:
        RequestError: for a table that is not made for it, a method, task or budget that it does not have, or other weights.
    """
    found, own = _table(request.table)
    models = sorted({figure.model for figure in found.figures})
    if len(models) != 1:
        raise RequestError(f"table {found.name}: has figures of {len(models)} models ({', '.join(models)}); reproduce takes one")
    if request.model is not None:
        check_weights(request.model, models[0])
    base = _base(request, found, own, models[0])
    _named("--tasks", request.tasks, {figure.task for figure in found.figures})
    _named("--methods", request.methods, {figure.method for figure in found.figures})
    _named("--keep", request.keep, {figure.keep for figure in found.figures if figure.budget is not None})
    left_out: dict[str, None] = {}
    runs: list[PlannedRun] = []
    taken: set[str] = set()
    for task in dict.fromkeys(figure.task for figure in found.figures):
        expression = _task(own, task)
        if expression is None:
            left_out[f"Task {task} is not among ours, so its figures are not run."] = None
            continue
        rows = [figure for figure in found.figures if figure.task == task]
        planned = _rows(rows, request, own, models[0], left_out)
        if planned and base.samples >= EVERY_IMAGE:
            _check_ends(found.name, expression)
        runs += _runs_of(replace(base, task=expression), task, planned, request, own, taken)
    if not runs:
        why = " ".join(["none of its cells is left to run; name other --methods, --keep or --tasks.", *left_out])
        raise RequestError(f"table {found.name}: {why}")
    return ReproductionPlan(found, own, models[0], tuple(runs), tuple(left_out))


def _table(asked: str) -> tuple[PublishedTable, Reproduction]:
    """The table of a request, and its settings for reproduce.

    Raises:
        RequestError: where it is none, or has no settings.
    """
    made = [name for name in names() if table(name).reproduction is not None]
    if not asked.endswith(".toml") and asked not in names():
        raise RequestError(f"table {asked!r}: there is none of this name; {nearest(asked, made)}; one of your own ends in .toml")
    found = table(asked)
    if found.reproduction is None:
        raise RequestError(f"table {asked!r}: has no settings for reproduce; {nearest(asked, made)}")
    return found, found.reproduction


def check_weights(asked: str, model: str) -> None:
    """Refuse weights that are known to be others than those of a table; a folder of unknown origin is taken at the user's word.

    Args:
        asked: embedded model, local folder or hub id.
        model: of the table.

    Raises:
        RequestError: where it is another model, or nothing.
    """
    meant, place = hub_id(model), Path(asked)
    if hub_id(asked) == meant:
        return
    folder = place.is_dir()
    if asked in EMBEDDED:
        other = "the embedded model"
    elif folder:
        place = place.resolve()
        cached = next(
            (part.removeprefix("models--").replace("--", "/", 1) for part in place.parts if part.startswith("models--")), ""
        )
        other = next((name for name, weights in EMBEDDED.items() if weights.resolve() == place), cached)
    else:
        on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", asked) is not None
        other = "" if asked in plugged() else "no folder here, and another model of the hub" if on_hub else "no folder here"
    if not other or hub_id(other) == meant:
        return
    what = f"holds {other}" if folder else f"is {other}"
    raise RequestError(f"--model {asked!r}: {what}; the table's figures are of {model}: name a folder of these weights")


def _check_ends(name: str, expression: str) -> None:
    """Refuse to ask a task for all its images that makes as many as one likes.

    Raises:
        RequestError: where it does.
    """
    from harness.tasks import registry

    if not registry.is_public(expression) and attribute(registry.create(expression), "whole") is None:
        raise RequestError(
            f"table {name}: reproduce: samples is left away, and task {expression!r} makes as many images as one asks for; "
            "settle it there, or say --samples"
        )


def chosen(plan: ReproductionPlan, tasks: Iterable[str]) -> tuple[PlannedRun, ...]:
    """Return the runs of some tasks of a table; of all where none is named."""
    wanted = set(tasks)
    found = tuple(run for run in plan.runs if not wanted or run.task in wanted)
    if not found:
        raise RequestError(f"--tasks {','.join(sorted(wanted))}: none of its cells can be run; {' '.join(plan.left_out)}")
    return found


def _base(request: ReproductionRequest, found: PublishedTable, own: Reproduction, model: str) -> CompareConfig:
    """What all runs of a table have in common."""
    where = f"table {found.name}: reproduce"
    if settled := sorted(set(own.options) & set(_SETTLED)):
        raise RequestError(f"{where}: option {settled[0]!r} follows from the table's rows and entries; leave it away")
    if asked := sorted(set(own.options) & set(_ASKED)):
        raise RequestError(f"{where}: option {asked[0]!r} is settled on the command line, not in a table; leave it away")
    takes = [one.name for one in fields(CompareConfig) if one.name not in (*_SETTLED, *_ASKED)]
    if unknown := sorted(set(own.options) - set(takes)):
        raise RequestError(f"{where}: unknown option of compare {unknown[0]!r}; {nearest(unknown[0], takes)}")
    given = {name: getattr(request, name) for name in ("dtype", "batch_size", "device_map") if getattr(request, name) is not None}
    samples = request.samples if request.samples is not None else own.samples
    base = restored(where, {**own.options, **given})
    check_dtype(base.dtype)
    load_plugins(base.plugin)
    return replace(
        base, model=request.model or model, samples=EVERY_IMAGE if samples is None else samples, latency=False, analyse=0,
        seed=own.seed if request.seed is None else request.seed, device=request.device, workers=request.workers, ray=request.ray,
        self_check=request.self_check, resume=request.resume, references=False, budget=own.budget, methods=("none",),
    ).checked()  # fmt: skip


def _named(option: str, given: tuple[str, ...], known: Iterable[str]) -> None:
    known = sorted(known)
    for name in given:
        if name not in known:
            raise RequestError(f"{option} {name!r}: not in the table; {nearest(name, known)}")


def _task(own: Reproduction, task: str) -> str | None:
    """Our expression for a task of a table; None where we have no such task."""
    from harness.tasks import registry

    return own.tasks.get(task) or (task if task in registry.names() else None)


def _method(own: Reproduction, figure: PublishedFigure) -> tuple[str, str]:
    """Our canonical expression for the method of a figure, or, in the second place, why there is none."""
    method = figure.method
    expression = own.methods.get(method) or (method if split(method)[0].partition("[")[0] in entries() else None)
    if expression is None:
        return "", f"Method {method} is not among ours, so its figures are not run."
    try:
        found, budgeted = canonical(expression), create(expression).budgeted
    except MethodError as error:
        return "", f"Method {method} cannot be run, so its figures are left out: {error}."
    if (like := imitated(found)) is not None:
        return "", f"Method {method} is random tokens in the place of {like}, a control, so its figures are not run."
    if budgeted and figure.budget is None:
        return "", f"The budget of {method} on {figure.task} is {figure.keep}, so that figure is not run."
    if not budgeted and figure.budget is not None:
        return "", f"{found} takes no budget, so the figures of {method} at one are not run."
    return found, ""


def _rows(
    rows: Sequence[PublishedFigure], request: ReproductionRequest, own: Reproduction, model: str, left_out: dict[str, None]
) -> list[PublishedFigure]:
    """The figures of one task that can be run and are asked for, each with our expression; why others cannot is added."""
    found = []
    for figure in rows:
        if figure.method == "none":
            found.append(replace(figure, expression="none"))
            continue
        if (request.methods and figure.method not in request.methods) or (request.keep and figure.keep not in request.keep):
            continue
        expression, reason = _method(own, figure)
        reason = reason or _too_many(figure, model)
        if reason:
            left_out[reason] = None
        else:
            found.append(replace(figure, expression=expression))
    asked = not request.keep and (not request.methods or "none" in request.methods)
    return found if asked or any(figure.method != "none" for figure in found) else []


def _too_many(figure: PublishedFigure, model: str) -> str:
    """Why a budget cannot be kept: it counts more tokens than an image has; empty where it does not, or that is not known."""
    keep, shape = figure.budget, shape_name_of(hub_id(model))
    if keep is None or keep.share:
        return ""
    most = int(figure.tokens) if figure.tokens != UNKNOWN else None
    if shape is not None and (whole := one_size(shape_of(shape))) is not None:
        most = whole
    if most is None or keep.value <= most:
        return ""
    return f"{figure.method} at {keep} on {figure.task}: an image has {most:,} visual tokens, so that figure is not run."


def _runs_of(
    base: CompareConfig,
    task: str,
    rows: Sequence[PublishedFigure],
    request: ReproductionRequest,
    own: Reproduction,
    taken: set[str],
) -> list[PlannedRun]:
    """The runs of one task: a mode has one, or several where not every method has every budget.

    Figures of methods without a budget, the unpruned model's among them, stand in the run with most cells, once.

    Args:
        taken: names of folders, to which those of these runs are added.
    """
    alone = [figure for figure in rows if figure.budget is None]
    modes: dict[str, dict[str, dict[str, list[PublishedFigure]]]] = {}
    for figure in rows:
        if figure.budget is not None:
            mode = figure.counts if figure.counts in ("average", "final") else own.budget
            cells = modes.setdefault(mode, {}).setdefault(figure.expression, {})
            cells.setdefault(str(figure.budget), []).append(figure)
    planned: list[tuple[list[str], CompareConfig, list[PublishedFigure]]] = []
    for mode, by_method in modes.items():
        for number, (keeps, methods) in enumerate(_grids(by_method).items()):
            parts = [task, *([mode] if len(modes) > 1 else []), *([str(number + 1)] if number else [])]
            figures = [figure for method in methods for cells in by_method[method].values() for figure in cells]
            planned.append((parts, replace(base, budget=mode, methods=("none", *methods), keep=keeps), figures))
    if rows and not planned:
        planned.append(([task], replace(base, keep=(ALL_TOKENS,)), []))
    runs = []
    sizes = [len(config.methods) * len(config.keep) for _, config, _ in planned]
    for number, (parts, config, figures) in enumerate(planned):
        if number == sizes.index(max(sizes)):
            every = tuple(dict.fromkeys((*config.methods, *(figure.expression for figure in alone))))
            config, figures = replace(config, methods=every), [*figures, *alone]
        folder = _folder("-".join(parts), taken)
        out = None if request.out is None else request.out / folder
        by_line = tuple(sorted(figures, key=lambda figure: figure.line))
        runs.append(PlannedRun(folder, task, replace(config, out=out).checked(), by_line))
    return runs


def _folder(name: str, taken: set[str]) -> str:
    """A name that any file system takes and no other run has: ``../forms`` becomes ``forms``, a second one ``forms-2``."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:_LONGEST_NAME] or "task"
    found, number = safe, 1
    while found.lower() in taken:
        number += 1
        found = f"{safe}-{number}"
    taken.add(found.lower())
    return found


def _grids(by_method: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, ...], list[str]]:
    """Budgets, and the methods that have exactly these; in the order in which methods stand in the table."""
    grids: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for method, cells in by_method.items():
        grids[tuple(sorted(cells, key=lambda keep: list(_every(by_method)).index(keep)))].append(method)
    return dict(grids)


def _every(by_method: Mapping[str, Mapping[str, Any]]) -> dict[str, None]:
    return {keep: None for cells in by_method.values() for keep in cells}
