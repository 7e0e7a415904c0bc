"""`reproduce`: runs exactly the cells of a published table, one `compare` after another, and holds what comes out against it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RequestError
from harness.files import read_json, write_whole
from harness.literature.tables import COLUMNS, PublishedTable
from harness.notices import remark
from harness.run.comparison import compare
from harness.run.config import writable_folder
from harness.run.manifest import identity, plain
from harness.run.reproduction_plan import PlannedRun, ReproductionPlan, ReproductionRequest, chosen, plan_reproduction
from harness.store.budgets import in_present_terms
from harness.store.runs import RunFolder

if TYPE_CHECKING:
    from reports.reproduction import ReproductionPage

REQUEST = "request.json"
"""The file that says which table a folder reproduces, and with which settings."""
DIGEST = "digest"
"""Its entry that tells the table's rows and settings from others."""
RESULT, PAGE = "reproduction.json", "reproduction.html"


@dataclass(frozen=True)
class Reproduced:
    """A reproduction as far as it has come: what its page says, and how many samples failed in the runs of this request."""

    page: ReproductionPage
    out: Path
    failures: int
    failed_in: tuple[Path, ...]  # folders of runs with failed samples


def reproduce(request: ReproductionRequest) -> Reproduced:
    """Run the cells of a table task by task, and write the comparison with what was published into the folder.

    Every run is one of `compare`: it is resumed, shared among workers and refused as there. Runs of other requests for the
    same table and settings in the folder, such as other machines' with ``--tasks``, are part of the comparison.

    Args:
        request: with a folder.

    Raises:
        RequestError: where the folder holds something else, or a task cannot be begun; what is stored stays.
        KeyboardInterrupt: where it was interrupted; the message says how to go on.
    """
    plan = plan_reproduction(request)
    runs = chosen(plan, request.tasks)
    out = request.out
    if out is None:
        raise RequestError("--out: name the folder of the reproduction, or say --dry-run")
    _claim(request, plan, out, runs)
    failed: dict[Path, int] = {}
    for number, run in enumerate(runs, 1):
        remark(f"reproduce {plan.table.name}: {run.folder}, run {number} of {len(runs)}")
        folder = out / run.folder
        try:
            done = compare(run.config)
            if done.failures:
                failed[folder] = done.failures
            done.store.close()
        except RequestError as error:
            raise RequestError(f"{run.folder}: {error}{_without(request, plan, run)}") from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"what is stored stays; this goes on with it: {request.command}") from None
    return Reproduced(write_comparison(plan, out), out, sum(failed.values()), tuple(failed))


def write_comparison(plan: ReproductionPlan, out: Path) -> ReproductionPage:
    """Hold the finished runs of a folder against the table, and write ``reproduction.json`` and ``reproduction.html``.

    Args:
        plan: of the reproduction, all its tasks.
        out: the folder.
    """
    from harness.results.reproduced import StoredRun, hold
    from reports.reproduction import as_dict, render

    foreign = {run.folder: why for run in plan.runs if (why := _foreign(run, out / run.folder))}
    stored = [
        StoredRun(run.folder, run.task, run.config.budget, out / run.folder, run.figures, run.folder in foreign)
        for run in plan.runs
    ]
    told = tuple(f"What lies in {name} is left out: {why}." for name, why in foreign.items())
    page = hold(plan.table, plan.model, stored, plan.reproduction.notes, (*plan.left_out, *told))
    for name, text in ((RESULT, json.dumps(as_dict(page), allow_nan=False, indent=1) + "\n"), (PAGE, render(page))):
        write_whole(out / name, text, f"--out {out}: cannot write {name} there")
    return page


def _foreign(run: PlannedRun, folder: Path) -> str:
    """Why the run in a folder is not the planned one; empty where it is, or there is none."""
    if not RunFolder(folder).exists:
        return ""
    try:
        stored = in_present_terms(RunFolder(folder, read_only=True).manifest())["config"]
    except (RequestError, KeyError) as error:
        return f"its manifest.json cannot be read ({error})"
    before, planned = identity(stored), identity(plain(run.config))
    differ = [name for name in {**before, **planned} if before.get(name) != planned.get(name)]
    return f"it is a run of another request ({', '.join(map(_option, differ))} differs)" if differ else ""


def _claim(request: ReproductionRequest, plan: ReproductionPlan, out: Path, runs: tuple[PlannedRun, ...]) -> None:
    """Say in the folder what it reproduces, or make sure that it is this; what no run has followed is replaced.

    Raises:
        RequestError: where it holds a run, another reproduction, or a run of one of these tasks that is not to be resumed.
    """
    if RunFolder(out).exists:
        raise RequestError(f"--out {out}: holds a run; name another folder, in which each task gets one of its own")
    writable_folder(out)
    settings = request.settings | {"table": plan.table.name, DIGEST: digest_of_table(plan.table)}
    path = out / REQUEST
    if not path.exists() or not any(RunFolder(folder).exists for folder in out.iterdir()):
        write_whole(path, json.dumps(settings, indent=1) + "\n", f"--out {out}: cannot write there")
    stored: Any = read_json(path)
    if not isinstance(stored, dict) or "table" not in stored:
        raise RequestError(f"--out {out}: its {REQUEST} is not one of a reproduction; name another folder")
    if stored["table"] != settings["table"]:
        raise RequestError(f"--out {out}: holds a reproduction of table {stored['table']!r}; name another folder")
    if stored.get(DIGEST) != settings[DIGEST]:
        raise RequestError(
            f"--out {out}: holds another table {stored['table']!r}, or its rows or settings have changed since; "
            "name another folder"
        )
    differ = [name for name in {**stored, **settings} if stored.get(name) != settings.get(name)]
    if differ:
        told = ", ".join(f"{_option(name)} {_shown(stored.get(name))} there" for name in differ)
        raise RequestError(f"--out {out}: its reproduction has other settings ({told}); repeat those, or name another folder")
    begun = next((run for run in runs if RunFolder(out / run.folder).exists), None)
    if begun is not None and not request.resume:
        raise RequestError(
            f"--out {out}: its task {begun.task} was begun already; add --resume to go on with it, or name another folder"
        )


def digest_of_table(table: PublishedTable) -> str:
    """Return the SHA-256 of a table's figures and of how they are repeated, 16 digits; notes and where it lies do not matter.

    Args:
        table: with settings for reproduce.
    """
    rows = [[getattr(figure, column) for column in COLUMNS] for figure in table.figures]
    settings = {} if table.reproduction is None else asdict(replace(table.reproduction, notes=()))
    return hashlib.sha256(json.dumps([rows, settings], sort_keys=True, default=str).encode()).hexdigest()[:16]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(value: object) -> str:
    return "not given" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _without(request: ReproductionRequest, plan: ReproductionPlan, failed: PlannedRun) -> str:
    """How to leave a task out that cannot be begun."""
    others = list(dict.fromkeys(run.task for run in chosen(plan, request.tasks) if run.task != failed.task))
    return f"; --tasks {','.join(others)} leaves it out" if others else ""
