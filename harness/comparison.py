"""`compare`: the whole story from a request to a finished run folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config import CompareConfig, load_plugins, writable_folder
from harness.errors import RequestError
from harness.manifest import code_digest, identity, manifest_of, plain
from harness.progress import progress
from harness.runs import RunFolder

if TYPE_CHECKING:
    from harness.models.hf import Adapter
    from harness.plan import Cell
    from harness.tasks.base import ImageSample, Task


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
    return _run(config.checked())


def _listed(values) -> tuple[str, ...]:
    """One value, a list of values, or a comma-separated string of them, as strings."""
    if isinstance(values, str):
        from methods.registry import split

        return tuple(split(values))
    return tuple(map(str, values)) if isinstance(values, (list, tuple)) else (str(values),)


@dataclass(frozen=True)
class Prepared:
    """A request with everything loaded that its cells need."""

    task: Task
    adapter: Adapter
    samples: list[ImageSample]
    text_tokens: float  # of a prompt, before and after the image, on average
    cells: list[Cell]

    def answer_tokens(self, config: CompareConfig) -> int:
        """Answer tokens at most."""
        return self.task.info.answer_tokens if config.max_new_tokens is None else config.max_new_tokens

    @property
    def active(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.skipped is None]


def prepare(config: CompareConfig, samples: int | None = None, task: Task | None = None) -> Prepared:
    """Load task, model and samples, and plan the cells.

    Args:
        config: the request, its plug-ins loaded.
        samples: images to make ready; all that the request asks for where not given.
        task: of the request, where it is made already.
    """
    from harness.models import hf
    from harness.plan import make_cells
    from harness.tasks import registry

    task = task if task is not None else registry.create(config.task)
    adapter = hf.load(config.model, pick_device(config.device), config.dtype)
    found = list(islice(task.samples(config.samples, config.seed), samples or config.samples))
    text_tokens = _text_tokens(adapter, found, config.prompt)
    cells = make_cells(config, adapter.shape, task.info.knows_evidence, adapter.gives, text_tokens, adapter.cannot)
    return Prepared(task, adapter, found, text_tokens, cells)


def _run(config: CompareConfig):
    from harness.tasks import registry

    if config.extend is not None:
        return _extend(config)
    started = time.time()
    load_plugins(config.plugin)
    task = registry.create(config.task)
    folder = config.out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    run = RunFolder(folder)
    if run.exists and not config.resume:
        raise RequestError(f"--out {folder}: holds a run already; add --resume to go on with it, or name another folder")
    if run.exists and identity(run.manifest()["config"]) != identity(plain(config)):
        raise RequestError(f"--out {folder}: its run had another configuration; repeat that one, or name another folder")
    if run.exists and run.finished:
        return Run(run)
    ready = prepare(config, task=task)
    writable_folder(folder)
    if run.exists:
        _same_weights(run, ready.adapter, "--out")
    else:
        run.create(manifest_of(config, ready.adapter, ready.task))
    return _execute(config, run, ready, started)


def _extend(config: CompareConfig):
    """Add cells to a finished run: everything but methods, budgets and plug-ins is the run's own."""
    started, run = time.time(), RunFolder(config.extend)
    run.summary()  # of a finished run
    manifest = run.manifest()
    own = {name: tuple(value) if isinstance(value, list) else value for name, value in manifest["config"].items()}
    keep = config.keep if config.keep != CompareConfig.keep else own["keep"]
    plugin = tuple(dict.fromkeys((*own["plugin"], *config.plugin)))
    added = CompareConfig(**{**own, "out": config.extend, "methods": config.methods, "keep": keep, "plugin": plugin}).checked()
    load_plugins(plugin)
    ready = prepare(added)
    _same_weights(run, ready.adapter, "--extend")
    digest, note = code_digest(plugin), {"methods": list(config.methods), "keep": list(keep), "code": code_digest(plugin)}
    if note not in manifest.setdefault("extensions", []):
        manifest["extensions"].append(note)
        if digest != manifest["fingerprints"]["code"]:
            manifest["notes"].append(f"cells of {', '.join(config.methods)} were added by code of another version ({digest})")
        run.write_json("manifest.json", manifest)
    return _execute(added, run, ready, started)


def _same_weights(run: RunFolder, adapter: Adapter, option: str) -> None:
    if run.manifest()["fingerprints"]["weights"] != adapter.digest:
        raise RequestError(f"{option} {run.folder}: its run had other weights of {adapter.name!r}; name another folder")


def _execute(config: CompareConfig, run: RunFolder, ready: Prepared, started: float):
    """Run the cells that the folder does not hold yet, and write what it now says."""
    shape = ready.adapter.shape
    ids = run.add_cells((cell.key, _facts(cell, shape, ready.text_tokens)) for cell in ready.cells)
    _answer(config, run, ready, ids)
    for cell in ready.active:
        if cell.adaptive:
            counts = run.columns(ids[cell.key])["kept_count"]
            run.set_facts(ids[cell.key], **_measured(cell, counts, shape, ready.text_tokens))
    if config.latency:
        _time(config, run, ready, ids)
    if config.memory:
        from harness.peak import peaks

        for key, memory in peaks(config).items():
            run.set_facts(ids[key], peak=memory)
    _finish(run, ready.task, started)
    return Run(run)


def _answer(config: CompareConfig, run: RunFolder, ready: Prepared, ids: dict[str, int]) -> None:
    """The accuracy pass: batches of images through all cells that have no answers yet, one transaction a batch."""
    from harness.engine import Engine
    from harness.measure import Work

    cells, samples = ready.active, ready.samples
    engine, done = Engine(ready.adapter, ready.answer_tokens(config)), run.done()
    wanted = frozenset().union(*(cell.needs for cell in cells))
    further = tuple(range(config.seed + 1, config.seed + config.seeds))
    with progress("answers", len(samples) * len(cells)) as advance:
        for place in range(0, len(samples), config.batch_size):
            group = samples[place : place + config.batch_size]
            todo = [cell for cell in cells if (ids[cell.key], place) not in done]
            advance(len(group) * (len(cells) - len(todo)))
            if not todo:
                continue
            work = Work(engine, ready.task, group, config.seed, config.sharing, wanted, config.prompt)
            if todo[0].method != "none":
                work.refer_to(cells[0])
            found, analysed = {}, place < config.analyse
            for cell in todo:
                found[ids[cell.key]] = work.run(cell, analysed, further if cell.method == "random" else ())
                advance(len(group))
            run.add_batch(place, work.images(place, analysed), work.questions(), found)


def _time(config: CompareConfig, run: RunFolder, ready: Prepared, ids: dict[str, int], rounds: int = 12) -> None:
    """The latency pass over the cells that were not timed yet, and `none` beside them; shares nothing."""
    from harness.engine import Engine
    from harness.timing import time_cells
    from metrics.flops import flops

    before = run.timings()
    timed_before = {cell for _, cell in before}
    cells = [cell for cell in ready.active if cell.method == "none" or ids[cell.key] not in timed_before]
    if before and len(cells) == 1:
        return
    with progress("latency", rounds + 1) as advance:
        engine = Engine(ready.adapter, ready.answer_tokens(config))
        timed = time_cells(
            engine, ready.task, ready.samples[0], cells, config.seed, rounds, template=config.prompt, advance=lambda: advance(1)
        )
    number = 1 + max((number for number, _ in before), default=-1)
    run.add_timings(number, ((ids[cells[place].key], *rest) for place, *rest in timed.rows))
    for place, measured in timed.kv_bytes.items():
        cell = cells[place]
        kv = {"measured": measured, "predicted": None}
        if cell.schedule is not None and not cell.adaptive:
            kv["predicted"] = round(flops(ready.adapter.shape, cell.schedule, timed.text_tokens[place]).kv_bytes)
        facts = {"kv": kv}
        if place in timed.peak_bytes:
            facts["peak"] = {"peak_bytes": timed.peak_bytes[place]}
        run.set_facts(ids[cell.key], **facts)


def _finish(run: RunFolder, task: Task, started: float) -> None:
    from harness.summary import write
    from harness.tasks.base import aggregates

    if hasattr(task, "aggregate"):
        for ident, _, _ in run.cells():
            run.set_facts(ident, task_figures=aggregates(task, run.answered(ident)))

    manifest = run.manifest()
    manifest["duration_s"] = round(time.time() - started, 1)
    manifest["questions"] = run.connection.execute("SELECT count(*) FROM questions").fetchone()[0]
    manifest["failures"] = run.connection.execute("SELECT count(*) FROM samples WHERE failed IS NOT NULL").fetchone()[0]
    run.write_json("manifest.json", manifest)
    write(run)
    from harness.report import write_report

    write_report(run)


def _facts(cell, shape, text_tokens: float) -> dict:
    """What is known of a cell before it runs."""
    from methods.registry import family
    from metrics.flops import flops

    facts = {
        "model": cell.model, "task": cell.task, "method": cell.method, "params": cell.params, "keep": cell.keep,
        "budget": cell.mode, "positions": cell.object.positions, "seed": cell.seed, "reference": cell.reference,
        "ranks_by": family(cell.method),
        "skipped": cell.skipped, "like": cell.like, "prunes": cell.prunes, "adaptive": cell.adaptive,
        "merges": cell.merges, "grid": cell.grid, "tokens": None, "flops": None, "schedule": None,
    }  # fmt: skip
    if cell.schedule is not None and cell.skipped is None:
        counted = flops(shape, cell.schedule, text_tokens)
        facts["tokens"] = {"final": cell.schedule.final, "average": cell.schedule.average}
        facts["flops"] = {**counted.as_dict(), "total": counted.total}
        facts["schedule"] = list(cell.schedule.llm)
    return facts


def _measured(cell, counts, shape, text_tokens: float) -> dict:
    """What there is to know of a cell whose counts were decided from the images: means over its answers."""
    from methods.schedule import schedule
    from metrics.flops import flops

    each = []
    for count in counts:
        steps = [replace(step, after=int(count)) for step in cell.steps]
        each.append(flops(shape, schedule(shape, steps), text_tokens))
    mean = sum(map(float, counts)) / len(counts)
    cost = {name: sum(one.as_dict()[name] for one in each) / len(each) for name in each[0].as_dict()}
    return {
        "tokens": {"final": mean, "average": mean}, "schedule": [mean] * shape.layers,
        "flops": {**cost, "total": sum(one.total for one in each) / len(each)},
    }  # fmt: skip


def _text_tokens(adapter, samples, template: str) -> float:
    """Mean text tokens of a prompt, before and after the image."""
    from harness.measure import ask

    prompts = [adapter.prompt(ask(template, q.text)) for sample in samples[:50] for q in sample.questions]
    return sum(len(before) + len(after) for before, after in prompts) / len(prompts)


def pick_device(text: str) -> str:
    import torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        raise RequestError(f"--device {text!r}: no such device; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RequestError(f"--device {text}: no CUDA device is usable here; use cpu")
    return text


class Run:
    """A finished run."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder.folder
        self.store = folder
        self.summary = folder.summary()

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def frame(self):
        """All cells as a pandas frame, nested figures as dotted columns."""
        import pandas

        from harness.summary import flat

        return pandas.DataFrame([flat(cell) for cell in self.summary["cells"]])
