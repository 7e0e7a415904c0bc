"""The command line. Heavy imports happen inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from harness import cli_results
from harness.config import DEFAULT_KEEP, DEFAULT_METHODS, CompareConfig, load_plugins, read_file
from harness.errors import RequestError, nearest

app = typer.Typer(
    name="harness",
    help="Measure visual token pruning methods on vision-language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_BASE = CompareConfig()


class Switch(StrEnum):
    on = "on"
    off = "off"


class Kind(StrEnum):
    methods = "methods"
    models = "models"
    tasks = "tasks"
    metrics = "metrics"


Plugin = Annotated[list[str] | None, typer.Option("--plugin", help="Module that registers methods; may be given again.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def compare(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Embedded model, local folder or hub id.")] = _BASE.model,
    task: Annotated[str, typer.Option(help="Task, or a file or folder of questions; see `list tasks`.")] = _BASE.task,
    methods: Annotated[str, typer.Option(help="Method expressions, comma-separated; see `list methods`.")] = ",".join(
        DEFAULT_METHODS
    ),
    keep: Annotated[str, typer.Option(help="Visual tokens to keep: counts or fractions.")] = ",".join(DEFAULT_KEEP),
    budget: Annotated[str, typer.Option(help="How they are counted: average (over LLM layers), final or flops.")] = _BASE.budget,
    samples: Annotated[int, typer.Option(help="Images; all their questions come with them.")] = _BASE.samples,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default runs/<time>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    extend: Annotated[
        Path | None, typer.Option(help="Add --methods, at --keep or the run's budgets, to this finished run.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of these options; the command line goes first.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of samples, random methods and intervals.")] = _BASE.seed,
    batch_size: Annotated[int, typer.Option(help="Images a batch.")] = _BASE.batch_size,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = _BASE.device,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = _BASE.dtype,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    device_map: Annotated[str | None, typer.Option(help="Spread over devices, as accelerate does it; such as auto.")] = None,
    quantize: Annotated[int | None, typer.Option(help="4 or 8 bits a weight of the LLM (bitsandbytes).")] = None,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Leave the latency pass out.")] = False,
    sharing: Annotated[Switch, typer.Option(help="Compute once what the questions of an image share.")] = Switch.on,
    memory: Annotated[
        bool, typer.Option("--memory", help="Peak resident memory too, one process a cell (on a GPU always).")
    ] = False,
    analyse: Annotated[
        int, typer.Option(help="Images whose kept tokens are analysed: diversity, evidence swap, layers.")
    ] = _BASE.analyse,
    seeds: Annotated[int, typer.Option(help="Seeds of random, whose spread is reported.")] = _BASE.seeds,
    margin: Annotated[float, typer.Option(help="Loss of accuracy that counts as none, for non-inferiority.")] = _BASE.margin,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Answer tokens at most; by default as many as the task's need.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What the model is asked; {question} stands for the question.")] = _BASE.prompt,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Run methods on a model and a task; write results and report.html."""
    from methods.registry import split

    asked = CompareConfig(
        model=model, task=task, methods=tuple(split(methods)), keep=tuple(k.strip() for k in keep.split(",") if k.strip()),
        budget=budget, samples=samples, out=out, resume=resume, extend=extend, seed=seed, batch_size=batch_size, device=device,
        dtype=dtype, revision=revision, device_map=device_map, quantize=quantize,
        latency=not no_latency, sharing=sharing is Switch.on, memory=memory,
        analyse=analyse, seeds=seeds, margin=margin, max_new_tokens=max_new_tokens, prompt=prompt,
        plugin=tuple(plugin or ()),
    )  # fmt: skip
    given = _given(context)
    if config is not None:
        asked = replace(asked, **{name: value for name, value in read_file(config).items() if name not in given})
    if extend is not None and (fixed := given - {"extend", "methods", "keep", "plugin", "as_json", "config"}):
        option = min(fixed).replace("_", "-")
        raise RequestError(f"--{option}: --extend takes --methods, --keep and --plugin; all else is the run's own")
    if extend is not None and asked.methods == CompareConfig.methods:
        raise RequestError("--extend: name the methods to add with --methods")
    _check_dtype(asked.dtype)
    from harness.comparison import compare as run_compare

    run = run_compare(asked)
    if as_json:
        print(json.dumps({"folder": str(run.folder), "report": str(run.report), **run.summary}))
        return
    from reports.markdown import table

    print(table(run.summary["cells"]))
    print(f"\nreport: {run.report}")


def _check_dtype(dtype: str) -> None:
    known = ("auto", "float32", "bfloat16", "float16")
    if dtype not in known:
        raise RequestError(f"--dtype {dtype!r}: {nearest(dtype, known)}")


def _given(context: typer.Context) -> set[str]:
    """Options that stand on the command line, under the names of `CompareConfig`."""
    named = {"no_latency": "latency"}
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {named.get(name, name) for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


@app.command()
def report(runs: Annotated[list[Path], typer.Argument(help="Run folders.")], as_json: Json = False) -> None:
    """Write the report of a run again from its folder."""
    from harness.report import write_report
    from harness.runs import RunFolder

    paths = [str(write_report(RunFolder(folder))) for folder in runs]
    print(json.dumps({"reports": paths}) if as_json else "\n".join(paths))


@app.command()
def explain(run: Annotated[Path, typer.Argument(help="Run folder.")], as_json: Json = False) -> None:
    """What predicts accuracy in a run, and which family of methods wins on simple and on complex images."""
    from harness.explain import as_text
    from harness.explain import explain as run_explain
    from harness.runs import RunFolder

    found = run_explain(RunFolder(run))
    print(json.dumps(found) if as_json else as_text(found))


@app.command()
def select(
    method: Annotated[str, typer.Argument(help="Method expression.")],
    cases: Annotated[list[Path], typer.Argument(help=".npz files of signals; `capture` writes such files.")],
    keep: Annotated[int, typer.Option(help="Tokens to keep.")],
    out: Annotated[Path, typer.Option(help="Folder, or for one case a name that ends in .npz.")],
    seed: Annotated[int, typer.Option(help="Seed of random methods.")] = _BASE.seed,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Run a method's selection on tensors from files; write one file a case under its own name."""
    load_plugins(plugin or ())
    from harness.cases import select as run_select

    _print_paths(run_select(method, cases, keep, out, seed), as_json)


@app.command()
def capture(
    out: Annotated[Path, typer.Option(help="Folder.")],
    model: Annotated[str, typer.Option(help="Embedded model, local folder or hub id.")] = _BASE.model,
    task: Annotated[str, typer.Option(help="Task, or a file or folder of questions; see `list tasks`.")] = _BASE.task,
    samples: Annotated[int, typer.Option(help="Images; all their questions come with them.")] = 4,
    layer: Annotated[int | None, typer.Option(help="LLM layer before which text signals are taken; default 2 of 32.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = _BASE.seed,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = _BASE.device,
    as_json: Json = False,
) -> None:
    """Write the signals of a real model, one file a question, for `select`."""
    from harness.cases import capture as run_capture
    from harness.comparison import pick_device

    _print_paths(run_capture(model, task, samples, out, layer, seed, pick_device(device)), as_json)


@app.command()
def profile(
    model: Annotated[str, typer.Option(help="Public shape with --random-weights (see `list models`); else folder or hub id.")],
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Make the model with random weights; no download.")
    ] = False,
    methods: Annotated[str, typer.Option(help="Method expressions, comma-separated.")] = "sts,fastv,sparsevlm",
    keep: Annotated[str, typer.Option(help="Visual tokens to keep: counts or fractions.")] = ",".join(DEFAULT_KEEP),
    budget: Annotated[str, typer.Option(help="How they are counted: average, final or flops.")] = _BASE.budget,
    layers: Annotated[int | None, typer.Option(help="LLM layers, with --random-weights; all by default.")] = None,
    batch_size: Annotated[int, typer.Option(help="Prompts a batch, one image and one question each.")] = 1,
    text_tokens: Annotated[int, typer.Option(help="Tokens of a prompt beside the image.")] = 64,
    rounds: Annotated[int, typer.Option(help="Timed rounds.")] = 10,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = _BASE.device,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = _BASE.dtype,
    seed: Annotated[int, typer.Option(help="Seed of weights, image and random methods.")] = _BASE.seed,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """FLOPs, latency by stage, memory, selection share and the gain of shared work on a model of true size; no task."""
    from harness.profile import ProfileConfig, as_text
    from harness.profile import profile as run_profile
    from methods.registry import split

    _check_dtype(dtype)
    asked = ProfileConfig(
        model=model, random_weights=random_weights, methods=tuple(split(methods)),
        keep=tuple(k.strip() for k in keep.split(",") if k.strip()), budget=budget, layers=layers, batch_size=batch_size,
        text_tokens=text_tokens, rounds=rounds, device=device, dtype=dtype, seed=seed, plugin=tuple(plugin or ()),
    )  # fmt: skip
    found = run_profile(asked)
    print(json.dumps(found) if as_json else as_text(found))


@app.command()
def flops(
    shape: Annotated[str, typer.Option(help="Public model; see `list models`.")],
    method: Annotated[str, typer.Option(help="Method expression.")] = "none",
    keep: Annotated[str | None, typer.Option(help="Visual tokens to keep: a count or a fraction.")] = None,
    budget: Annotated[str, typer.Option(help="How they are counted: average, final or flops.")] = _BASE.budget,
    text_tokens: Annotated[float, typer.Option(help="LLM tokens that are not visual; may be fractional.")] = 64.0,
    convention: Annotated[str, typer.Option(help="flops, macs, paper, paper-gated or visual-only.")] = "flops",
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """FLOPs and KV bytes of a method on a public model, by formula; nothing is loaded."""
    load_plugins(plugin or ())
    from harness.counting import count

    counted = count(shape, method, keep, budget, text_tokens, convention)
    if as_json:
        print(json.dumps(counted))
        return
    for name, value in counted.items():
        print(f"{name:<18} {value if isinstance(value, (str, list)) else f'{value:,.6g}'}")


def _print_paths(paths: list[Path], as_json: bool) -> None:
    print(json.dumps({"files": [str(path) for path in paths]}) if as_json else "\n".join(map(str, paths)))


@app.command("list")
def list_(
    what: Annotated[Kind, typer.Argument(help="methods, models, tasks or metrics.")], plugin: Plugin = None, as_json: Json = False
) -> None:
    """List what can be named."""
    load_plugins(plugin or ())
    from harness.listing import rows

    entries = rows(what.value)
    if as_json:
        print(json.dumps(entries))
        return
    from rich.console import Console
    from rich.table import Table

    if what is Kind.tasks:  # JSON has the rest
        entries = [{name: entry[name] for name in ("name", "summary", "metric", "source")} for entry in entries]
    table = Table(*(entries[0] if entries else ()), box=None, pad_edge=False)
    for entry in entries:
        table.add_row(*(", ".join(map(str, v)) if isinstance(v, list) else str(v) for v in entry.values()))
    width = None if sys.stdout.isatty() else 160
    Console(width=width, markup=False, highlight=False).print(table)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Versions, device, and what is usable here."""
    from harness.listing import doctor as examine

    findings = examine()
    if as_json:
        print(json.dumps(findings))
        return
    for name, value in findings.items():
        print(f"{name:<16} {value}")


cli_results.attach(app)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 a gate failed, 2 wrong request, 130 interrupted."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    usage = typer.BadParameter.__mro__[2]  # typer's ClickException, wherever its click lives
    try:
        code = app(args=arguments, standalone_mode=False, prog_name="python -m harness")
    except RequestError as error:
        _fail(str(error))
    except usage as error:
        _fail(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; what is stored stays: repeat the command with --resume and the same --out", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    lines = [line.strip() for line in message.splitlines() if line.strip()][:3]
    print("error: " + "\n".join(lines), file=sys.stderr)
    sys.exit(2)
