"""`compare`: the whole story from a request to a finished run folder.

A request begins a run, resumes one that was interrupted, or extends a finished one by further cells. The three differ in
what must hold beforehand; from there on they are one: `execute` runs the cells that the folder does not hold yet.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import notices
from harness.errors import RequestError
from harness.run.as_begun import as_begun
from harness.run.config import CompareConfig, load_plugins, restored, writable_folder
from harness.run.manifest import (
    MOST_REASONS,
    add_notes,
    beside_weights,
    code_digest,
    command,
    digest_of,
    identity,
    manifest_of,
    plain,
)
from harness.run.needed_images import known_correlation, say_where_too_few
from harness.run.prepare import PreparedRun, prepare
from harness.run.selection_kernels import check_asked
from harness.store.budgets import asked_budgets, in_present_terms, read_keep
from harness.store.lock import locked
from harness.store.older_runs import modernise
from harness.store.open_runs import examined
from harness.store.runs import RunFolder
from harness.tasks.rules import scored_by
from methods.kernels import using

if TYPE_CHECKING:
    import pandas

    from harness.tasks.base import Task


class Run:
    """A finished run: its folder, its summary, and its cells as a frame.

    The summary of a run of an older version is made anew by the rules of this one.

    Args:
        folder: the run's files.
    """

    def __init__(self, folder: RunFolder) -> None:
        from harness.results.current_summary import current_summary

        self.folder = folder.folder
        self.store = folder
        self.summary = current_summary(folder)
        self.failures: int = folder.manifest().get("failures", 0)  # samples without an answer

    @property
    def report(self) -> Path:
        """The path of the report."""
        return self.folder / "report.html"

    def frame(self) -> pandas.DataFrame:
        """Return all cells as a pandas frame, nested figures as dotted columns."""
        import pandas

        from harness.results.summary import flat

        return pandas.DataFrame([flat(cell) for cell in self.summary["cells"]])


def compare(config: CompareConfig | None = None, /, **options: object) -> Run:
    """Run methods on a model and a task and write a run folder.

    Args:
        config: the request, or its fields as keywords: ``compare(model="tiny", methods=["sts"])``.

    Returns:
        A `Run` with the summary, ``frame()`` and the folder.

    Raises:
        RequestError: where the request is wrong; nothing already computed is touched.
    """
    config = _request(options) if config is None else config
    if (address := config.checked().ray) is not None:
        from harness.run.executors.ray import check

        check(address)
    started = time.time()
    with notices.collecting():
        if config.extend is not None:
            return extend(config, RunFolder(config.extend), started)
        from harness.tasks import registry

        load_plugins(config.plugin)
        task = scored_by(registry.create(config.task), config.scoring)
        run = RunFolder(config.out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S"))
        return resume(config, run, task, started) if run.exists else begin(config, run, task, started)


def _request(options: dict[str, Any]) -> CompareConfig:
    """The request that keywords make: one method may stand for a list of them, and a text for a path."""
    for name in ("methods", "keep", "plugin"):
        if name in options:
            options[name] = _listed(options[name])
    for name in ("chat_template", "companion", "image_size"):
        if isinstance(value := options.get(name), (tuple, list)):
            options[name] = "x".join(map(str, value))
        elif isinstance(value, (Path, int)):
            options[name] = str(value)
    for name in ("out", "extend"):
        if isinstance(options.get(name), str):
            options[name] = Path(options[name])
    try:
        return CompareConfig(**options)
    except TypeError as error:
        raise RequestError(f"compare: {str(error).partition(') ')[2] or error}") from None


def _listed(values: object) -> tuple[str, ...]:
    """One value, a list of values, or a comma-separated string of them, as strings."""
    if isinstance(values, str):
        from methods.registry import split

        return tuple(split(values))
    return tuple(map(str, values)) if isinstance(values, (list, tuple)) else (str(values),)


def begin(config: CompareConfig, run: RunFolder, task: Task, started: float) -> Run:
    """Begin a run in a folder that holds none.

    Args:
        config: the request, its plug-ins loaded.
        run: the folder, which need not exist.
        task: of the request.
        started: when, in seconds since the epoch.

    Raises:
        RequestError: where the request cannot be met, or nothing can be written there.
    """
    prepared = prepare(config, task=task)
    checked = _checked(config, prepared)
    manifest = manifest_of(config, prepared.adapter, prepared.task) | {"self_check": checked}
    writable_folder(run.folder)
    with locked(run.folder, "--out"), _resumable(run, _resuming(config, run)):
        if run.exists:
            raise RequestError(f"--out {run.folder}: another process has begun a run there meanwhile; name another folder")
        run.create(manifest)
        return execute(config, run, prepared, started)


def resume(config: CompareConfig, run: RunFolder, task: Task, started: float) -> Run:
    """Go on with a run, or answer its failed samples again where the request asks for that; a finished one is done at once.

    Args:
        config: the request, its plug-ins loaded.
        run: the folder of the run.
        task: of the request.
        started: when, in seconds since the epoch.

    Raises:
        RequestError: where the request does not resume, or is not the one of the run.
    """
    folder = run.folder
    if not config.resume:
        raise RequestError(f"--out {folder}: holds a run already; add --resume to go on with it, or name another folder")
    manifest = run.manifest()
    restored(str(folder / "manifest.json"), in_present_terms(manifest)["config"])
    before, now = identity(in_present_terms(manifest)["config"]), identity(plain(config))
    if before != now:
        _check_meaning(manifest, config, folder)
        differ = ", ".join(f"--{name.replace('_', '-')}" for name in {**before, **now} if before.get(name) != now.get(name))
        raise RequestError(
            f"--out {folder}: its run had another configuration ({differ} differs); repeat that one, or name another folder"
        )
    check_asked(manifest, config, f"--out {folder}")
    if run.finished and (folder / "report.html").exists() and not config.retry_failed:
        return Run(run)
    with locked(folder, "--out"), _resumable(run, _resuming(config, run)):
        if run.finished and not config.retry_failed:
            _report(run)
            return Run(run)
        run.check()
        config = as_begun(run, config, task)
        prepared = prepare(config, task=scored_by(task, config.scoring))
        _check_same(run, prepared, "--out")
        modernise(run)
        rho = known_correlation(run)
        digest, code = code_digest(config.plugin), manifest["fingerprints"].get("code")
        if config.retry_failed:
            run.forget_failed(config.batch_size)
        if code not in (None, digest):
            add_notes(run, [f"the run was resumed with code of another version ({digest})"])
        _note_check(run, _checked(config, prepared))
        return execute(config, run, prepared, started, rho)


def _check_meaning(manifest: dict[str, Any], config: CompareConfig, folder: Path) -> None:
    """`RequestError` where a budget is written as in an older run and means something else by now."""
    stored = manifest["config"].get("keep")
    meant = asked_budgets(manifest, stored)
    for text, then in zip(stored or (), meant):
        if text in config.keep and (now := read_keep(text)) != then:
            meant_now = f"{text} meant {then.phrase} to the version that began its run, and is {now.phrase} now"
            raise RequestError(f"--out {folder}: {meant_now}; write --keep {','.join(map(str, meant))}")


def extend(config: CompareConfig, run: RunFolder, started: float) -> Run:
    """Add cells to a finished run: everything but methods, budgets and plug-ins is the run's own.

    Args:
        config: the request.
        run: the folder of the run.
        started: when, in seconds since the epoch.

    Raises:
        RequestError: where there is no finished run, or its weights or data are no longer the same.
    """
    from harness.tasks import registry

    run.summary()  # of a finished run
    with locked(run.folder, "--extend"), _resumable(run, _extending(config, run)):
        manifest = in_present_terms(run.manifest())
        own = restored(str(run.folder / "manifest.json"), manifest["config"])
        keep = config.keep if config.keep != CompareConfig.keep else own.keep
        plugin = tuple(dict.fromkeys((*own.plugin, *config.plugin)))
        added = replace(own, out=config.extend, methods=config.methods, keep=keep, plugin=plugin)
        added = replace(added, workers=config.workers, ray=config.ray, self_check=config.self_check).checked()
        run.check()
        load_plugins(plugin)
        task = registry.create(added.task)
        added = as_begun(run, added, task)
        prepared = prepare(added, task=scored_by(task, added.scoring))
        _check_same(run, prepared, "--extend")
        checked = _checked(added, prepared)
        modernise(run)
        manifest = run.manifest()
        digest = code_digest(plugin)
        extension = {"methods": list(config.methods), "keep": [str(read_keep(one)) for one in keep], "code": digest}
        if extension not in manifest.setdefault("extensions", []):
            manifest["extensions"].append(extension)
            run.write_json("manifest.json", manifest)
            if digest != manifest["fingerprints"].get("code"):
                add_notes(run, [f"cells of {', '.join(config.methods)} were added by code of another version ({digest})"])
        _note_check(run, checked)
        return execute(added, run, prepared, started, known_correlation(run))


def execute(config: CompareConfig, run: RunFolder, prepared: PreparedRun, started: float, rho: float | None = None) -> Run:
    """Run the cells that the folder does not hold yet, pass by pass, and write what it now says.

    Args:
        config: the request.
        run: the folder, which holds a manifest.
        prepared: what the request needs, loaded.
        started: when, in seconds since the epoch.
        rho: correlation of the changes of an image, where an earlier summary of the run tells it.
    """
    from harness.run.accuracy_pass import run_accuracy_pass
    from harness.run.calibration import calibrate
    from harness.run.cell_facts import measured_facts, planned_facts

    with using(config.kernels):
        calibrate(config, run, prepared)
    ids = run.add_cells((cell.key, planned_facts(cell, prepared)) for cell in prepared.cells)
    add_notes(run, [*notices.collected(), *prepared.notes])
    say_where_too_few(run, prepared, config.margin, rho)
    try:
        run_accuracy_pass(config, run, prepared, ids)
        for cell in prepared.active:
            if cell.adaptive:
                run.set_facts(ids[cell.key], **measured_facts(cell, run.columns(ids[cell.key]), prepared))
        if config.latency:
            from harness.run.latency_pass import run_latency_pass

            with using(config.kernels):
                run_latency_pass(config, run, prepared, ids)
        if config.memory:
            from harness.run.memory_pass import run_memory_pass

            with using(config.kernels):
                run_memory_pass(config, run, prepared, ids)
    finally:
        add_notes(run, notices.collected())
    finish(run, prepared.task, started)
    return Run(run)


def finish(run: RunFolder, task: Task, started: float) -> None:
    """Complete the manifest of a run whose cells are all answered, and write its summary and report.

    Args:
        run: the folder.
        task: of the run.
        started: when, in seconds since the epoch.
    """
    from harness.results.summary import write
    from harness.tasks.base import aggregates, attribute

    if attribute(task, "aggregate") is not None:
        for ident, _, _ in run.cells():
            run.set_facts(ident, task_figures=aggregates(task, run.answered(ident)))

    manifest = run.manifest()
    manifest["duration_s"] = round(time.time() - started, 1)
    manifest["questions"] = run.connection.execute("SELECT count(*) FROM questions").fetchone()[0]
    failed = Counter(why for _, _, why in run.failed())
    manifest["failures"] = failed.total()
    manifest["failed"] = [{"reason": why, "samples": count} for why, count in failed.most_common(MOST_REASONS)]
    manifest["digest"] = digest_of(run)
    run.write_json("manifest.json", manifest)
    (run.folder / "report.html").unlink(missing_ok=True)  # a run without is no more than summarised
    write(run)
    _report(run)


def _report(run: RunFolder) -> None:
    from harness.results.report import write_report

    write_report(run)


def _check_same(run: RunFolder, prepared: PreparedRun, option: str) -> None:
    """Raise a `RequestError` where the weights or the data are no longer those of the run."""
    from harness.tasks.base import attribute

    known, adapter = run.manifest()["fingerprints"], prepared.adapter
    if known.get("weights") != adapter.digest:
        raise RequestError(f"{option} {run.folder}: its run had other weights of {adapter.name!r}; name another folder")
    beside = beside_weights(adapter)
    for part, what in (("companion", "another companion"), ("chat_template", "another chat template")):
        if known.get(part, digest := beside[part]) != digest:
            raise RequestError(f"{option} {run.folder}: its run had {what} of {adapter.name!r}; name another folder")
    if known.get("data") != attribute(prepared.task, "digest"):
        raise RequestError(f"{option} {run.folder}: its run had other data of {prepared.task.info.name!r}; name another folder")


def _checked(config: CompareConfig, prepared: PreparedRun) -> dict[str, Any]:
    """What the self-check of the model came to; it computes with as many threads as one of the processes that will answer."""
    from harness.run.accuracy_pass import threads_here
    from harness.run.self_check import run_self_check

    threads = threads_here(config, prepared)
    return asdict(run_self_check(config.model, prepared.adapter, config.self_check, config.plugin, threads))


def _note_check(run: RunFolder, checked: dict[str, Any]) -> None:
    """Write a self-check into the manifest of a run that was begun before; one that was left out replaces none that was made."""
    manifest = run.manifest()
    if checked["outcome"] != "off" or "self_check" not in manifest:
        run.write_json("manifest.json", manifest | {"self_check": checked})


@contextmanager
def _resumable(run: RunFolder, again: str) -> Iterator[None]:
    """Let an interruption say what goes on with the run; what is wrong with its files is a `RequestError`."""
    try:
        with examined(run):
            yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is stored stays; this goes on with it: {again}") from None
    finally:
        run.close()


def _resuming(config: CompareConfig, run: RunFolder) -> str:
    """The command that goes on with a run of this request."""
    return f"{command(config)} --out {shlex.quote(str(run.folder))} --resume"


def _extending(config: CompareConfig, run: RunFolder) -> str:
    """The command that goes on with an extension of a run."""
    words = [f"--extend {shlex.quote(str(run.folder))}", f"--methods {shlex.quote(','.join(config.methods))}"]
    words += [f"--keep {','.join(map(str, config.keep))}"] if config.keep != CompareConfig.keep else []
    words += [f"--plugin {shlex.quote(module)}" for module in config.plugin]
    return " ".join(["python -m harness compare", *words])
