"""`compare`: the whole story from a request to a finished run folder."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace
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
    from harness.models.frames import Block
    from harness.models.hf import Adapter
    from harness.plan import Cell
    from harness.tasks.base import ImageSample, Task
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
    text_tokens: float  # of a prompt beside the visual tokens, on average
    cells: list[Cell]
    shapes: list[ModelShape] = field(default_factory=list)  # on each image, where images differ
    notes: list[str] = field(default_factory=list)

    def answer_tokens(self, config: CompareConfig) -> int:
        """Answer tokens at most."""
        return self.task.info.answer_tokens if config.max_new_tokens is None else config.max_new_tokens

    @property
    def first_shape(self) -> ModelShape:
        """The model's shape on the first image."""
        return self.shapes[0] if self.shapes else self.adapter.shape

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
    adapter = hf.load(
        config.model, pick_device(config.device), config.dtype,
        revision=config.revision, device_map=config.device_map, quantize=config.quantize,
    )  # fmt: skip
    found = list(islice(task.samples(config.samples, config.seed), samples or config.samples))
    fixed = adapter.cutter.fixed
    blocks = [adapter.block_of((64, 64) if fixed else sample.image.size) for sample in found]
    text_tokens = _text_tokens(adapter, found, config.prompt, blocks)
    shapes = [] if fixed else [adapter.shape_for((block,)) for block in blocks]
    asked = Counter(shape for shape, sample in zip(shapes, found) for _ in sample.questions)
    notes = _notes(config, task, blocks, not fixed) if samples is None else []
    knows = task.info.knows_evidence and all(block.grid is not None for block in blocks)
    cells = make_cells(config, adapter.shape, knows, adapter.gives, text_tokens, adapter.cannot, asked or None)
    return Prepared(task, adapter, found, text_tokens, cells, shapes, notes)


def _notes(config: CompareConfig, task: Task, blocks: list[Block], differ: bool) -> list[str]:
    """What is to be said of images that differ; `RequestError` where none has as many tokens as a budget."""
    from harness.config import read_keep

    counts, notes = [block.count for block in blocks], []
    for text in config.keep if differ else ():
        fewer = sum(count < read_keep(text) for count in counts)
        if fewer == len(counts):
            raise RequestError(f"--keep {text}: these images yield {max(counts)} visual tokens at the most")
        if fewer:
            notes.append(f"{fewer} of {len(counts)} images have fewer than {text} visual tokens; they keep all of them there")
    tiled = sum(block.grid is None for block in blocks)
    if tiled and task.info.knows_evidence:
        notes.append(f"evidence is left out on {tiled} of {len(blocks)} images, whose visual tokens are no one full grid")
    return notes


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
    digest = code_digest(plugin)
    note = {"methods": list(config.methods), "keep": list(keep), "code": digest}
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
    from harness.answers import Answering

    ids = run.add_cells((cell.key, _facts(cell, ready)) for cell in ready.cells)
    _note(run, ready.notes)
    Answering(config, run, ready, ids).answer()
    for cell in ready.active:
        if cell.adaptive:
            run.set_facts(ids[cell.key], **_measured(cell, run.columns(ids[cell.key]), ready))
    if config.latency:
        _time(config, run, ready, ids)
    if config.memory:
        from harness.peak import peaks

        for key, memory in peaks(config).items():
            run.set_facts(ids[key], peak=memory)
    _finish(run, ready.task, started)
    return Run(run)


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
            shape = ready.first_shape
            planned = cell.plan(shape)[1] if cell.varies else cell.schedule
            kv["predicted"] = round(flops(shape, planned, timed.text_tokens[place]).kv_bytes)
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


def _note(run: RunFolder, notes: list[str]) -> None:
    """Write notes into the manifest that are not there yet."""
    manifest = run.manifest()
    new = [note for note in notes if note not in manifest["notes"]]
    if new:
        manifest["notes"] += new
        run.write_json("manifest.json", manifest)


def _facts(cell: Cell, ready: Prepared) -> dict:
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
    asked = Counter(shape for shape, sample in zip(ready.shapes, ready.samples) for _ in sample.questions)
    return facts | _figures([(shape, cell.plan(shape)[1], n) for shape, n in asked.items()], ready.text_tokens)


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


def _measured(cell: Cell, columns: dict, ready: Prepared) -> dict:
    """What there is to know of a cell whose counts were decided from the images: means over its answers."""
    from methods.schedule import schedule

    known = {sample.image_id: shape for sample, shape in zip(ready.samples, ready.shapes)}
    kept = Counter((known.get(i, ready.adapter.shape), int(n)) for i, n in zip(columns["image"], columns["kept_count"]))
    planned = []
    for (shape, count), answers in kept.items():
        steps = [replace(step, after=count) for step in (cell.steps_for(shape) if cell.varies else cell.steps)]
        planned.append((shape, schedule(shape, steps), answers))
    return _figures(planned, ready.text_tokens)


def _text_tokens(adapter: Adapter, samples: list[ImageSample], template: str, blocks: list[Block]) -> float:
    """Mean tokens of a prompt that are not visual: before, after and among the visual ones."""
    from harness.measure import ask

    lengths = []
    for sample, block in list(zip(samples, blocks))[:50]:
        for question in sample.questions:
            before, after = adapter.prompt(ask(template, question.text))
            lengths.append(len(before) + block.marks + len(after))
    return sum(lengths) / len(lengths)


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
