"""Commands that say what there is: `list` and `doctor`. Heavy imports happen inside them, so that ``--help`` is quick."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer

from harness.cli.stored_runs import example
from harness.run.config import load_plugins


class Listable(StrEnum):
    methods = "methods"
    models = "models"
    tasks = "tasks"
    metrics = "metrics"


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def attach(app: typer.Typer) -> None:
    """Add the commands to a command line."""
    app.command("list", epilog=example("list methods"))(list_)
    app.command(epilog=example("doctor"))(doctor)


def list_(
    what: Annotated[Listable, typer.Argument(help="methods, models, tasks or metrics.")],
    plugin: Annotated[list[str] | None, typer.Option("--plugin", help="Module that registers methods or tasks.")] = None,
    as_json: Json = False,
) -> None:
    """List what can be named.

    Methods with their parameters, signals and what they cannot do; models; tasks with metric, source and licence; metrics.
    """
    load_plugins(plugin or ())
    from harness.cli.listing import rows

    entries = rows(what.value)
    if as_json:
        print(json.dumps(entries))
        return
    from rich.console import Console
    from rich.table import Table

    if what is Listable.tasks:  # JSON has the rest
        entries = [{name: entry[name] for name in ("name", "summary", "metric", "source")} for entry in entries]
    table = Table(*(entries[0] if entries else ()), box=None, pad_edge=False)
    for entry in entries:
        table.add_row(*(", ".join(map(str, v)) if isinstance(v, list) else str(v) for v in entry.values()))
    width = None if sys.stdout.isatty() else 160
    Console(width=width, markup=False, highlight=False).print(table)


def doctor(as_json: Json = False) -> None:
    """Versions, device, and what is usable here.

    What is missing stands beside the command that installs it.
    """
    from harness.cli.doctor import doctor as examine

    findings = examine()
    if as_json:
        print(json.dumps(findings))
        return
    for name, value in findings.items():
        print(f"{name:<22} {value}")
