"""Commands that run methods, or count what they cost: `compare`, `select`, `capture` and `flops`.

Heavy imports happen inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from harness import interrupts
from harness.cli import completion
from harness.cli.options import (
    ChatTemplate,
    Companion,
    Device,
    DeviceMap,
    ImageSize,
    Json,
    Kernels,
    MaxPixels,
    Model,
    NoSelfCheck,
    Plugin,
    Precision,
    Quantize,
    Revision,
    Switch,
    Task,
)
from harness.errors import RequestError
from harness.models.load_options import LoadOptions
from harness.run.config import DEFAULT_KEEP, DEFAULT_METHODS, LARGEST_SEED, CompareConfig, check_dtype, load_plugins, read_file

_BASE = CompareConfig()
_EXTENDING = frozenset({"extend", "methods", "keep", "plugin", "workers", "ray", "self_check", "as_json", "config"})
"""Options that may stand beside ``--extend``."""
_KEEP = "Visual tokens to keep: counts, or shares written 0.34 or 34%. 1 is one token, 1.0 all of them."


def compare(
    context: typer.Context,
    model: Model = _BASE.model,
    task: Task = _BASE.task,
    methods: Annotated[
        str,
        typer.Option(help="Method expressions, comma-separated; see `list methods`.", autocompletion=completion.methods),
    ] = ",".join(DEFAULT_METHODS),
    keep: Annotated[str, typer.Option(help=_KEEP)] = ",".join(DEFAULT_KEEP),
    budget: Annotated[str, typer.Option(help="How they are counted: average (over LLM layers), final or flops.")] = _BASE.budget,
    samples: Annotated[int, typer.Option(help="Images; all their questions come with them.")] = _BASE.samples,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default runs/<time>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: answer the batches in which samples failed again.")
    ] = False,
    extend: Annotated[
        Path | None, typer.Option(help="Add --methods, at --keep or the run's budgets, to this finished run.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of these options; the command line goes first.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of samples, random methods and intervals.")] = _BASE.seed,
    batch_size: Annotated[int, typer.Option(help="Images a batch.")] = _BASE.batch_size,
    device: Device = _BASE.device,
    dtype: Precision = _BASE.dtype,
    revision: Revision = None,
    device_map: DeviceMap = None,
    quantize: Quantize = None,
    chat_template: ChatTemplate = None,
    companion: Companion = None,
    max_pixels: MaxPixels = None,
    image_size: ImageSize = None,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Leave the latency pass out.")] = False,
    time_limit: Annotated[
        float,
        typer.Option(
            help="Seconds that the latency pass may take; it ends sooner where every speed-up is known to 5 %, and later where "
            "the least that it takes is longer."
        ),
    ] = _BASE.time_limit,
    rounds: Annotated[int, typer.Option(help="Rounds of the latency pass that time stages and decoding.")] = _BASE.rounds,
    decode_tokens: Annotated[
        int | None, typer.Option(help="Tokens decoded in each of these; by default 16 on an embedded model, else 64.")
    ] = None,
    sharing: Annotated[Switch, typer.Option(help="Compute once what the questions of an image share.")] = Switch.on,
    references: Annotated[
        Switch,
        typer.Option(help="Run reference cells too; off: none and what --methods names."),
    ] = Switch.on,
    memory: Annotated[
        bool,
        typer.Option(
            "--memory",
            help="Peak memory too: resident, one process a cell; a GPU's own is always told.",
        ),
    ] = False,
    kernels: Kernels = _BASE.kernels,
    workers: Annotated[
        int | None, typer.Option(help="Processes that answer; by default one a core for a small model on a CPU, else one.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Answer on a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT; --workers actors.")
    ] = None,
    analyse: Annotated[
        int, typer.Option(help="Images whose kept tokens are analysed: diversity, evidence swap, layers.")
    ] = _BASE.analyse,
    seeds: Annotated[int, typer.Option(help="Seeds of random, whose spread is reported.")] = _BASE.seeds,
    margin: Annotated[
        float,
        typer.Option(
            help="Loss that counts as none, for non-inferiority: a share of the scale of the figure that leads (prints how many "
            "images that takes, where the run has fewer)."
        ),
    ] = _BASE.margin,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Answer tokens at most; by default as many as the task's need.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What the model is asked; {question} stands for the question.")] = _BASE.prompt,
    scoring: Annotated[
        str | None,
        typer.Option(help="Rule that leads: ours, official (lmms-eval's; the default where the task has it) or authors."),
    ] = None,
    plugin: Plugin = None,
    no_self_check: NoSelfCheck = False,
    as_json: Json = False,
) -> None:
    """Run methods on a model and a task; write results and report.html.

    Reference cells run beside them, but for --references off: none (no pruning), blind (no image), downsample, oracle where the
    task knows the evidence, and random tokens on the schedule of every method inside the LLM. The run folder holds
    manifest.json, results.sqlite, summary.json, summary.csv and report.html.

    A cell that cannot be is skipped with its reason. What an interrupted run has stored stays: the same command with
    --resume goes on. A method is a name, name[param=value,...], or two of them as a+b; `all` is every method.
    """
    from methods.registry import split

    asked = CompareConfig(
        model=model, task=task, methods=tuple(split(methods)), keep=tuple(k.strip() for k in keep.split(",") if k.strip()),
        budget=budget, samples=samples, out=out, resume=resume, retry_failed=retry_failed, extend=extend, seed=seed,
        batch_size=batch_size, device=device, dtype=dtype, revision=revision, device_map=device_map, quantize=quantize,
        chat_template=chat_template, companion=companion, max_pixels=max_pixels, image_size=image_size,
        latency=not no_latency, rounds=rounds, time_limit=time_limit, decode_tokens=decode_tokens,
        sharing=sharing is Switch.on, memory=memory, kernels=kernels, workers=workers, ray=ray, analyse=analyse,
        seeds=seeds, margin=margin, max_new_tokens=max_new_tokens, prompt=prompt, scoring=scoring, plugin=tuple(plugin or ()),
        self_check=not no_self_check, references=references is Switch.on,
    )  # fmt: skip
    given = _given(context)
    if config is not None:
        asked = replace(asked, **{name: value for name, value in read_file(config).items() if name not in given})
    if extend is not None and (fixed := given - _EXTENDING):
        option = min(fixed).replace("_", "-")
        raise RequestError(f"--{option}: --extend takes --methods, --keep, --plugin, --workers, --ray; the rest is the run's own")
    if extend is not None and asked.methods == CompareConfig.methods:
        raise RequestError("--extend: name the methods to add with --methods")
    check_dtype(asked.dtype)
    from harness.run.comparison import compare as run_compare

    with interrupts.told():
        run = run_compare(asked)
    if as_json:
        print(json.dumps({"folder": str(run.folder), "report": str(run.report), **run.summary}))
    else:
        from reports.markdown import table

        print(f"{table(run.summary['cells'], run.store.manifest())}\n\nreport: {run.report}")
    if run.failures:
        print(f"{run.failures:,} samples failed; python -m harness samples {run.folder} --failed says why", file=sys.stderr)
        raise typer.Exit(3)


def select(
    method: Annotated[str, typer.Argument(help="Method expression.", autocompletion=completion.method)],
    cases: Annotated[list[Path], typer.Argument(help=".npz files of signals; `capture` writes such files.")],
    keep: Annotated[str, typer.Option(help="Tokens to keep: a count, or a share of each file's such as 34%.")],
    out: Annotated[Path, typer.Option(help="Folder, or for one case a name that ends in .npz.")],
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of random methods.")] = _BASE.seed,
    kernels: Annotated[
        str,
        typer.Option(help="Greedy selection in torch, or in Triton (triton; on a CPU its interpreter, with TRITON_INTERPRET=1)."),
    ] = _BASE.kernels,
    device: Annotated[str, typer.Option(help="Where selections run: cpu, cuda or auto.")] = "cpu",
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Run a method's selection on tensors from files; write one file a case under its own name.

    A case is an .npz file of signals without a batch axis, as `capture` writes them. A result holds `kept` [K] in the order
    of selection and, for mergers, `tokens` [K, D], `sizes` [K] and `source` [K, N].
    """
    load_plugins(plugin or ())
    from harness.run.cases import select as run_select

    _print_paths(run_select(method, cases, keep, out, seed, kernels, device), as_json)


def capture(
    out: Annotated[Path, typer.Option(help="Folder.")],
    model: Model = _BASE.model,
    task: Task = _BASE.task,
    samples: Annotated[int, typer.Option(max=10_000_000, help="Images; all their questions come with them.")] = 4,
    layer: Annotated[int | None, typer.Option(help="LLM layer before which text signals are taken; default 2 of 32.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Read signals where this method's first step reads them, so that `select` keeps what the engine keeps.",
            autocompletion=completion.method,
        ),
    ] = None,
    plugin: Plugin = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the samples.")] = _BASE.seed,
    device: Device = _BASE.device,
    dtype: Precision = _BASE.dtype,
    revision: Revision = None,
    device_map: DeviceMap = None,
    quantize: Quantize = None,
    chat_template: ChatTemplate = None,
    companion: Companion = None,
    max_pixels: MaxPixels = None,
    image_size: ImageSize = None,
    no_self_check: NoSelfCheck = False,
    as_json: Json = False,
) -> None:
    """Write the signals of a real model, one file a question, for `select`.

    Each file holds features, keys, attention rows, positions and grid of one question, as float32 without a batch axis, and
    where in the model they were read: `select` refuses a method that reads them elsewhere, unless --method named it.
    """
    from harness.models.devices import pick_device
    from harness.run.capture import capture as run_capture

    load_plugins(plugin or ())
    options = LoadOptions(revision, device_map, quantize, chat_template, companion, max_pixels, image_size)
    files = run_capture(model, task, samples, out, layer, seed, pick_device(device), options, not no_self_check, method, dtype)
    _print_paths(files, as_json)


def flops(
    shape: Annotated[str, typer.Option(help="Public model; see `list models`.", autocompletion=completion.shapes)],
    method: Annotated[str | None, typer.Option(help="Method expression; none.", autocompletion=completion.method)] = None,
    keep: Annotated[str | None, typer.Option(help="Visual tokens to keep: a count, or a share such as 0.34 or 34%.")] = None,
    budget: Annotated[str, typer.Option(help="How they are counted: average, final or flops.")] = _BASE.budget,
    text_tokens: Annotated[float, typer.Option(help="LLM tokens that are not visual; may be fractional.")] = 64.0,
    convention: Annotated[str, typer.Option(help="flops, macs, paper, paper-gated or visual-only.")] = "flops",
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Count FLOPs and KV bytes of a method on a public model, by formula; nothing is loaded.

    Tower, projector, selection, prefill and decode of one prompt with one image, and the visual tokens at every layer.
    Conventions: flops (2 a multiply-add), macs, paper (4nd^2 + 2n^2d + 2ndm a layer), paper-gated (3ndm), visual-only.
    Of a method that decides its counts from the image they are planned ones, and it says so; `compare` measures them.
    """
    if plugin:
        load_plugins(plugin)
    from harness.run.flops import count

    if method is None and keep is not None:
        raise RequestError(f"--keep {keep}: says how many tokens a method keeps; name it with --method, such as --method random")
    counted = count(shape, "none" if method is None else method, keep, budget, text_tokens, convention)
    if as_json:
        print(json.dumps(counted, allow_nan=False))
        return
    adaptive = counted.pop("adaptive")
    for name, value in counted.items():
        print(f"{name:<18} {value if isinstance(value, (str, list)) else f'{value:,.6g}'}")
    if adaptive:
        print(f"{'adaptive':<18} counts follow from the image; those above are planned, a typical case or at most so many")


def _given(context: typer.Context) -> set[str]:
    """Options that stand on the command line, under the names of `CompareConfig`."""
    named = {"no_latency": "latency", "no_self_check": "self_check"}
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {named.get(name, name) for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _print_paths(paths: list[Path], as_json: bool) -> None:
    print(json.dumps({"files": [str(path) for path in paths]}) if as_json else "\n".join(map(str, paths)))
