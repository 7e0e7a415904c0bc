"""The command `profile`: what a deployment asks of a model and of methods, with no task.

Heavy imports happen inside the command, so that ``--help`` is quick.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import interrupts
from harness.cli import completion
from harness.cli.options import (
    Companion,
    Device,
    DeviceMap,
    ImageSize,
    Json,
    Kernels,
    MaxPixels,
    NoSelfCheck,
    Plugin,
    Precision,
    Quantize,
    Revision,
    Switch,
)
from harness.errors import RequestError
from harness.files import write_named
from harness.run.config import LARGEST_SEED, writable_folder
from harness.run.profiling.config import ProfileConfig, whole_numbers

_BASE = ProfileConfig()


def profile(
    model: Annotated[
        str,
        typer.Option(
            help="Public shape with --random-weights (see `list models`); else folder or hub id.",
            autocompletion=completion.models_and_shapes,
        ),
    ],
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Make the model with random weights; no download.")
    ] = False,
    methods: Annotated[
        str, typer.Option(help="Method expressions, comma-separated.", autocompletion=completion.methods)
    ] = ",".join(_BASE.methods),
    keep: Annotated[
        str, typer.Option(help="Visual tokens to keep: counts, or shares written 0.34 or 34%. 1 is one token, 1.0 all of them.")
    ] = ",".join(_BASE.keep),
    budget: Annotated[str, typer.Option(help="How they are counted: average, final or flops.")] = _BASE.budget,
    layers: Annotated[int | None, typer.Option(help="LLM layers, with --random-weights; all by default.")] = None,
    batch_size: Annotated[str, typer.Option(help="Prompts a batch, one image and one question each: one number or several.")] = (
        ",".join(map(str, _BASE.batch_size))
    ),
    text_tokens: Annotated[str, typer.Option(help="Tokens of a prompt beside the image: one number or several.")] = (
        ",".join(map(str, _BASE.text_tokens))
    ),
    answer_tokens: Annotated[int, typer.Option(help="Tokens of every answer; no end token stops it.")] = _BASE.answer_tokens,
    break_even: Annotated[
        Switch, typer.Option(help="Look for the most kept tokens at which each method is faster than none.")
    ] = Switch.on,
    rounds: Annotated[int, typer.Option(help="Timed rounds at most, at each batch size and length of text.")] = _BASE.rounds,
    time_limit: Annotated[
        float, typer.Option(help="Seconds of all measuring, loading apart; what they do not suffice for is left out, and said.")
    ] = _BASE.time_limit,
    out: Annotated[Path | None, typer.Option(help="Folder for profile.json and profile.html, a page with figures.")] = None,
    device: Device = _BASE.device,
    dtype: Precision = _BASE.dtype,
    revision: Revision = None,
    device_map: DeviceMap = None,
    quantize: Quantize = None,
    companion: Companion = None,
    max_pixels: MaxPixels = None,
    image_size: ImageSize = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of weights, image and random methods.")] = _BASE.seed,
    kernels: Kernels = _BASE.kernels,
    plugin: Plugin = None,
    no_self_check: NoSelfCheck = False,
    as_json: Json = False,
) -> None:
    """Measure throughput, latency, memory and break-even by batch and length of text, and what bounds each stage; no task.

    With --random-weights nothing is downloaded: FLOPs and times depend on shapes alone. --layers makes a model of fewer LLM
    layers that a laptop can hold; figures are of that model, and say so. All devices of --device-map are synchronised.
    """
    from harness.run.profiling.profile import profile as run_profile
    from harness.run.profiling.text import as_text
    from methods.registry import split

    asked = ProfileConfig(
        model=model, random_weights=random_weights, methods=tuple(split(methods)),
        keep=tuple(k.strip() for k in keep.split(",") if k.strip()), budget=budget, layers=layers,
        batch_size=whole_numbers("--batch-size", batch_size), text_tokens=whole_numbers("--text-tokens", text_tokens),
        answer_tokens=answer_tokens, rounds=rounds, time_limit=time_limit, break_even=break_even is Switch.on, device=device,
        dtype=dtype, seed=seed, plugin=tuple(plugin or ()), revision=revision, device_map=device_map, quantize=quantize,
        companion=companion, max_pixels=max_pixels, image_size=image_size, kernels=kernels, self_check=not no_self_check,
    ).checked()  # fmt: skip
    folder = None if out is None else writable_folder(out)
    if folder is not None and (folder / "profile.json").exists():
        raise RequestError(f"--out {str(out)!r}: holds the profile.json of another profile; choose another folder, or delete it")
    known: dict[str, Any] = {}

    def keep_found(found: dict[str, Any]) -> None:
        """Write what is known by now, so that an interrupted profile leaves what it measured."""
        known.update(found)
        if folder is not None:
            from reports.profile_page import render

            write_named("--out", folder / "profile.json", json.dumps(found, indent=1, allow_nan=False) + "\n")
            write_named("--out", folder / "profile.html", render(found))

    def show(found: dict[str, Any]) -> None:
        print(json.dumps(found, allow_nan=False) if as_json else as_text(found), flush=True)
        if folder is not None:
            print(f"page: {folder / 'profile.html'}", file=sys.stderr if as_json else sys.stdout)

    with interrupts.told():
        try:
            found = run_profile(asked, keep_found)
        except KeyboardInterrupt:
            if not known:
                raise
            show(known)
            where = "is shown" if folder is None else f"is shown, and stands in {folder / 'profile.json'}"
            raise KeyboardInterrupt(f"what was measured by then {where}; repeat the command for the rest") from None
    show(found)
