"""`compare`: the whole story from a request to a finished run folder."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import RequestError
from harness.progress import progress
from harness.run.config import CompareConfig, load_plugins, restored, writable_folder
from harness.run.manifest import MOST_REASONS, code_digest, command, digest_of, identity, manifest_of, plain
from harness.run.prepare import PreparedRun, prepare
from harness.store.lock import locked
from harness.store.open_runs import examined
from harness.store.runs import RunFolder

if TYPE_CHECKING:
    from harness.run.plan import Cell
    from harness.tasks.base import Task
    from methods.types import ModelShape, Schedule


def compare(config: CompareConfig | None = None, /, **options):
    """Run methods on a model and a task and write a run folder.

    Args:
        config: the request, or its fields as keywords: ``compare(model="tiny", methods=["sts"])``.

    Returns:
        A `Run` with the summary, ``frame()`` and the folder.

    Raises:
        RequestError: where the request is wrong; nothing already computed is touched.
    """
    if config is None:
        for name in ("methods", "keep", "plugin"):
            if name in options:
                options[name] = _listed(options[name])
        for name in ("out", "extend"):
            if isinstance(options.get(name), str):
                options[name] = Path(options[name])
        try:
            config = CompareConfig(**options)
        except TypeError as error:
            raise RequestError(f"compare: {str(error).partition(') ')[2] or error}") from None
    if config.checked().ray is not None:
        from harness.run.executors.ray import check

        check(config.ray)
    return _run(config)


def _listed(values) -> tuple[str, ...]:
    """One value, a list of values, or a comma-separated string of them, as strings."""
    if isinstance(values, str):
        from methods.registry import split

        return tuple(split(values))
    return tuple(map(str, values)) if isinstance(values, (list, tuple)) else (str(values),)


def _run(config: CompareConfig):
    from harness.tasks import registry

    if config.extend is not None:
        return _extend(config)
    started = time.time()
    load_plugins(config.plugin)
    task = registry.create(config.task)
    folder = config.out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    run = RunFolder(folder)
    again = f"{command(config)} --out {shlex.quote(str(folder))} --resume"
    if not run.exists:
        ready = prepare(config, task=task)
        manifest = manifest_of(config, ready.adapter, ready.task)
        writable_folder(folder)
        with locked(folder, "--out"), _resumable(run, again):
            if run.exists:
                raise RequestError(f"--out {folder}: another process has begun a run there meanwhile; name another folder")
            run.create(manifest)
            return _execute(config, run, ready, started)
    if not config.resume:
        raise RequestError(f"--out {folder}: holds a run already; add --resume to go on with it, or name another folder")
    manifest = run.manifest()
    restored(str(folder / "manifest.json"), manifest["config"])
    if identity(manifest["config"]) != identity(plain(config)):
        raise RequestError(f"--out {folder}: its run had another configuration; repeat that one, or name another folder")
    if run.finished and (folder / "report.html").exists() and not config.retry_failed:
        return Run(run)
    with locked(folder, "--out"), _resumable(run, again):
        if run.finished and not config.retry_failed:
            _report(run)
            return Run(run)
        run.check()
        ready = prepare(config, task=task)
        _same(run, ready, "--out")
        digest, code = code_digest(config.plugin), manifest["fingerprints"].get("code")
        if config.retry_failed:
            run.forget_failed(config.batch_size)
        _note(run, [f"the run was resumed with code of another version ({digest})"] if code not in (None, digest) else [])
        return _execute(config, run, ready, started)


@contextmanager
def _resumable(run: RunFolder, again: str) -> Iterator[None]:
    """Where a run is interrupted, the exception says what goes on with it; what is wrong with its files is a `RequestError`."""
    try:
        with examined(run):
            yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is stored stays; this goes on with it: {again}") from None
    finally:
        run.close()


def _extend(config: CompareConfig):
    """Add cells to a finished run: everything but methods, budgets and plug-ins is the run's own."""
    started, run = time.time(), RunFolder(config.extend)
    run.summary()  # of a finished run
    words = [f"--extend {shlex.quote(str(config.extend))}", f"--methods {shlex.quote(','.join(config.methods))}"]
    words += [f"--keep {','.join(config.keep)}"] if config.keep != CompareConfig.keep else []
    words += [f"--plugin {shlex.quote(module)}" for module in config.plugin]
    with locked(run.folder, "--extend"), _resumable(run, " ".join(["python -m harness compare", *words])):
        return _extended(config, run, started)


def _extended(config: CompareConfig, run: RunFolder, started: float):
    manifest = run.manifest()
    own = restored(str(run.folder / "manifest.json"), manifest["config"])
    keep = config.keep if config.keep != CompareConfig.keep else own.keep
    plugin = tuple(dict.fromkeys((*own.plugin, *config.plugin)))
    added = replace(own, out=config.extend, methods=config.methods, keep=keep, plugin=plugin)
    added = replace(added, workers=config.workers, ray=config.ray).checked()
    run.check()
    load_plugins(plugin)
    ready = prepare(added)
    _same(run, ready, "--extend")
    digest = code_digest(plugin)
    note = {"methods": list(config.methods), "keep": list(keep), "code": digest}
    if note not in manifest.setdefault("extensions", []):
        manifest["extensions"].append(note)
        if digest != manifest["fingerprints"].get("code"):
            manifest["notes"].append(f"cells of {', '.join(config.methods)} were added by code of another version ({digest})")
        run.write_json("manifest.json", manifest)
    return _execute(added, run, ready, started)


def _same(run: RunFolder, ready: PreparedRun, option: str) -> None:
    """`RequestError` where the weights or the data are no longer those of the run."""
    known = run.manifest()["fingerprints"]
    if known.get("weights") != ready.adapter.digest:
        raise RequestError(f"{option} {run.folder}: its run had other weights of {ready.adapter.name!r}; name another folder")
    if known.get("data") != getattr(ready.task, "digest", None):
        raise RequestError(f"{option} {run.folder}: its run had other data of {ready.task.info.name!r}; name another folder")


def _execute(config: CompareConfig, run: RunFolder, ready: PreparedRun, started: float):
    """Run the cells that the folder does not hold yet, and write what it now says."""
    from harness.run.accuracy_pass import run_accuracy_pass

    ids = run.add_cells((cell.key, _facts(cell, ready)) for cell in ready.cells)
    _note(run, ready.notes)
    run_accuracy_pass(config, run, ready, ids)
    for cell in ready.active:
        if cell.adaptive:
            run.set_facts(ids[cell.key], **_measured(cell, run.columns(ids[cell.key]), ready))
    if config.latency:
        _time(config, run, ready, ids)
    if config.memory:
        from harness.run.memory_pass import peaks

        for key, memory in peaks(config).items():
            run.set_facts(ids[key], peak=memory)
    _finish(run, ready.task, started)
    return Run(run)


def _time(config: CompareConfig, run: RunFolder, ready: PreparedRun, ids: dict[str, int]) -> None:
    """The latency pass over the cells that were not timed yet, and `none` beside them; shares nothing."""
    from harness.engine.engine import Engine
    from harness.run.latency_pass import time_cells
    from metrics.flops import flops

    before = run.timings()
    timed_before = {cell for _, cell in before}
    cells = [cell for cell in ready.active if cell.method == "none" or ids[cell.key] not in timed_before]
    if before and len(cells) == 1:
        return
    place, cells = _timed(run, ready, cells, ids)
    if place is None:
        _note(run, ["no times: there is no image on which no cell failed"])
        return
    with progress("latency", config.rounds + 1) as advance:
        engine = Engine(ready.adapter, ready.answer_tokens(config))
        sample = ready.samples[place]
        timed = time_cells(
            engine, ready.task, sample, cells, config.seed, config.rounds, template=config.prompt, advance=lambda: advance(1)
        )
    facts: dict[int, dict] = {}
    for number, measured in timed.kv_bytes.items():
        cell, shape = cells[number], ready.shape_on(place)
        kv = {"measured": measured, "predicted": None}
        if cell.schedule is not None and not cell.adaptive:
            planned = cell.plan(shape)[1] if cell.varies else cell.schedule
            kv["predicted"] = round(flops(shape, planned, timed.text_tokens[number]).kv_bytes)
        facts[ids[cell.key]] = {"kv": kv}
        if number in timed.peak_bytes:
            facts[ids[cell.key]]["peak"] = {"peak_bytes": timed.peak_bytes[number]}
    number = 1 + max((number for number, _ in before), default=-1)
    run.add_timings(number, ((ids[cells[place].key], *rest) for place, *rest in timed.rows), facts)


def _timed(run: RunFolder, ready: PreparedRun, cells: list[Cell], ids: dict[str, int]) -> tuple[int | None, list[Cell]]:
    """The image to take times on, by its place, and the cells to time: of both only such as did not fail.

    A cell without any answer is left out; then the first image is taken whose first question all cells answered.
    """
    failed = {(cell, question) for cell, question, _ in run.failed()}
    asked = sum(len(sample.questions) for sample in ready.samples)
    lost = Counter(cell for cell, _ in failed)
    cells = [cell for cell in cells if lost[ids[cell.key]] < asked]
    there = {ids[cell.key] for cell in cells}
    bad = {question for cell, question in failed if cell in there}
    good = (place for place, sample in enumerate(ready.samples) if sample.questions[0].sample_id not in bad)
    return (next(good, None) if cells and cells[0].method == "none" else None), cells


def _finish(run: RunFolder, task: Task, started: float) -> None:
    from harness.results.summary import write
    from harness.tasks.base import aggregates

    if hasattr(task, "aggregate"):
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


def _note(run: RunFolder, notes: list[str]) -> None:
    """Write notes into the manifest that are not there yet."""
    manifest = run.manifest()
    new = [note for note in notes if note not in manifest["notes"]]
    if new:
        manifest["notes"] += new
        run.write_json("manifest.json", manifest)


def _facts(cell: Cell, ready: PreparedRun) -> dict:
    """What is known of a cell before it runs."""
    from methods.registry import family

    facts = {
        "model": cell.model, "task": cell.task, "method": cell.method, "params": cell.params, "keep": cell.keep,
        "budget": cell.mode, "positions": cell.object.positions, "seed": cell.seed, "reference": cell.reference,
        "ranks_by": family(cell.method),
        "skipped": cell.skipped, "like": cell.like, "prunes": cell.prunes, "adaptive": cell.adaptive,
        "merges": cell.merges, "grid": cell.grid, "tokens": None, "flops": None, "schedule": None,
    }  # fmt: skip
    if cell.skipped is not None or cell.schedule is None:
        return facts
    if not cell.varies:
        facts["tower"] = [*cell.schedule.vision_attention, *cell.schedule.vision_mlp]
        return facts | _figures([(ready.adapter.shape, cell.schedule, 1)], ready.text_tokens)
    return facts | _figures([(shape, cell.plan(shape)[1], n) for shape, n in ready.asked.items()], ready.text_tokens)


def _figures(planned: list[tuple[ModelShape, Schedule, int]], text_tokens: float) -> dict:
    """Tokens, FLOPs and schedule of a cell: means over images, each as often as it is asked about."""
    from metrics.flops import flops

    total = sum(n for _, _, n in planned)
    mean = lambda values: next(iter(values)) if len(values) == 1 else sum(v * p[2] for v, p in zip(values, planned)) / total
    counted = [flops(shape, one, text_tokens) for shape, one, _ in planned]
    names = counted[0].as_dict()
    return {
        "tokens": {"final": mean([p[1].final for p in planned]), "average": mean([p[1].average for p in planned])},
        "flops": {**{n: mean([c.as_dict()[n] for c in counted]) for n in names}, "total": mean([c.total for c in counted])},
        "schedule": [mean(layer) for layer in zip(*(p[1].llm for p in planned))],
    }


def _measured(cell: Cell, columns: dict, ready: PreparedRun) -> dict:
    """What there is to know of a cell whose counts were decided from the images: means over its answers."""
    from methods.schedule import schedule

    known = {sample.image_id: ready.shape_on(place) for place, sample in enumerate(ready.samples)}
    answered = zip(columns["image"], columns["kept_count"], columns["failed"])
    kept = Counter((known[image], int(count)) for image, count, failed in answered if failed is None)
    if not kept:
        return {}
    planned = []
    for (shape, count), answers in kept.items():
        steps = [replace(step, after=count) for step in (cell.steps_for(shape) if cell.varies else cell.steps)]
        planned.append((shape, schedule(shape, steps), answers))
    return _figures(planned, ready.text_tokens)


class Run:
    """A finished run."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder.folder
        self.store = folder
        self.summary = folder.summary()
        self.failures: int = folder.manifest().get("failures", 0)  # samples without an answer

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def frame(self):
        """All cells as a pandas frame, nested figures as dotted columns."""
        import pandas

        from harness.results.summary import flat

        return pandas.DataFrame([flat(cell) for cell in self.summary["cells"]])
