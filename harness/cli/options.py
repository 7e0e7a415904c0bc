"""Options that several commands have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import completion


class Switch(StrEnum):
    """The values of an option that is on or off."""

    on = "on"
    off = "off"


Plugin = Annotated[list[str] | None, typer.Option("--plugin", help="Module that registers methods or tasks; may be given again.")]
RunFolder = Annotated[Path, typer.Argument(help="Run folder.", autocompletion=completion.runs)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Option(help="Embedded model, local folder or hub id.", autocompletion=completion.models)]
Task = Annotated[
    str, typer.Option(help="Task, or a file or folder of questions; see `list tasks`.", autocompletion=completion.tasks)
]
NoSelfCheck = Annotated[
    bool, typer.Option("--no-self-check", help="Do not hold the model against generate of transformers first.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Kernels = Annotated[
    str,
    typer.Option(
        help="Greedy selection: torch, triton (kernels that no GPU has timed yet) or auto (those on CUDA where they can be)."
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
DeviceMap = Annotated[str | None, typer.Option(help="Spread over devices, as accelerate does it; such as auto.")]
Quantize = Annotated[int | None, typer.Option(help="4 or 8 bits a weight of the LLM (bitsandbytes).")]
ChatTemplate = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Chat template (Jinja, or JSON that holds it) in place of the checkpoint's own."),
]
Companion = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="CLIP of the model's tower, for methods that read text and image in one space."),
]
MaxPixels = Annotated[int | None, typer.Option(help="Pixels of an image at most; one of more is shrunk, its aspect kept.")]
ImageSize = Annotated[
    str | None, typer.Option(metavar="N|WxH", help="Pixels that every image is brought to first: its longer side, or both sides.")
]
