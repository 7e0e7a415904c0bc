"""The command `reproduce`: the cells of a published table, run here and held against it.

Heavy imports happen inside the command, so that ``--help`` is quick.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness import interrupts
from harness.cli import completion
from harness.cli.options import Device, DeviceMap, Json, NoSelfCheck
from harness.errors import RequestError

if TYPE_CHECKING:
    from harness.run.reproduction_cost import ReproductionCost


def reproduce(
    table: Annotated[
        str, typer.Argument(help="Table with settings for it, or the path of a .toml file.", autocompletion=completion.tables)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder, in which every task gets a run folder of its own.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the reproduction in --out.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say runs, cells, questions and FLOPs; load and download nothing.")
    ] = False,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks of the table; all share one --out.")] = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods of the table; none runs the whole model alone.")] = None,
    keep: Annotated[str | None, typer.Option(help="Only these budgets of the table.")] = None,
    samples: Annotated[int | None, typer.Option(help="Images of each task; by default as many as the table settles.")] = None,
    model: Annotated[str | None, typer.Option(help="The same weights elsewhere, such as a local folder.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of samples and random methods; by default the table's.")] = None,
    device: Device = "auto",
    device_map: DeviceMap = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16; by default the table's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a batch.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that answer, as of `compare`.")] = None,
    ray: Annotated[str | None, typer.Option(help="Answer on a Ray cluster, as `compare` does.")] = None,
    text_tokens: Annotated[
        float | None, typer.Option(help="With --dry-run: tokens of a prompt that are not visual; 64 where nothing is said.")
    ] = None,
    no_self_check: NoSelfCheck = False,
    as_json: Json = False,
) -> None:
    """Run exactly the cells of a published table, and hold them against it.

    One run of `compare` for each task and budget mode, without the reference cells that the table does not have, scored by the
    official rules. What the source leaves open is settled by the table's settings, which the page repeats. The folder
    holds a run folder a task, reproduction.json and reproduction.html.

    The same command with --resume goes on. Several machines share a folder by --tasks; a last --resume renders all. `published`
    lists the tables' figures.
    """
    from harness.run.reproduction_plan import ReproductionRequest, chosen, plan_reproduction

    lists = (_listed("--tasks", tasks), _listed("--methods", methods), _listed("--keep", keep))
    request = ReproductionRequest(
        table, out, resume, *lists, samples, model, seed, device, device_map, dtype,
        batch_size, workers, ray, not no_self_check,
    )  # fmt: skip
    if dry_run:
        from harness.run.reproduction_cost import TEXT_TOKENS, reproduction_cost

        plan = plan_reproduction(request)
        cost = reproduction_cost(plan, chosen(plan, request.tasks), TEXT_TOKENS if text_tokens is None else text_tokens)
        print(json.dumps(cost.as_dict(), allow_nan=False) if as_json else _cost_text(cost))
        return
    if text_tokens is not None:
        raise RequestError("--text-tokens: goes with --dry-run; a run counts the tokens of its own prompts")
    from harness.run.reproduction import PAGE
    from harness.run.reproduction import reproduce as run_reproduce
    from reports.reproduction import as_dict, as_text

    with interrupts.told():
        done = run_reproduce(request)
    if as_json:
        print(json.dumps({"folder": str(done.out), "report": str(done.out / PAGE), **as_dict(done.page)}, allow_nan=False))
    else:
        print(f"{as_text(done.page)}\n\nreport: {done.out / PAGE}")
    if done.failures:
        where = "; ".join(f"python -m harness samples {folder} --failed" for folder in done.failed_in)
        print(f"{done.failures:,} samples failed; {where} says why", file=sys.stderr)
        raise typer.Exit(3)


def _listed(option: str, text: str | None) -> tuple[str, ...]:
    """The names that an option gives; none where it is left away.

    Raises:
        RequestError: where it is given and names nothing.
    """
    from methods.registry import split

    found = () if text is None else tuple(split(text))
    if text is not None and not found:
        raise RequestError(f"{option} {text!r}: names nothing; leave it away for all of the table")
    return found


def _cost_text(cost: ReproductionCost) -> str:
    """What a reproduction comes to, as a terminal shows it."""
    shape = f"shape {cost.shape}" if cost.shape else "whose public shape is not known here, so that FLOPs are not counted"
    lines = [f"{cost.plan.table.name} on {cost.plan.model}, {shape}: {len(cost.runs)} runs, {cost.cells} cells", ""]
    rows = [("run", "task", "budget", "methods", "keep", "cells", "questions", "answers", "TFLOPs a question", "PFLOPs")]
    rows += [
        (one.run.folder, one.run.config.task, one.run.config.budget, str(len(one.run.config.methods)),
         ",".join(one.run.config.keep), str(one.cells), _number(one.questions), _number(one.answers),
         _number(one.flops_a_question, 1e12, 3), _number(one.flops, 1e15, 3)) for one in cost.runs
    ]  # fmt: skip
    rows.append(("all", "", "", "", "", str(cost.cells), "", _number(cost.answers), "", _number(cost.flops, 1e15, 3)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", *cost.remarks]
    return "\n".join(lines)


def _number(value: float | None, unit: float = 1.0, digits: int = 0) -> str:
    return "not known" if value is None else f"{value / unit:,.{digits}f}"
