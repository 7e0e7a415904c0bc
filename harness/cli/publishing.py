"""The command `published`: what papers print, each figure with its source, and which figures contradict each other.

It needs neither torch nor numpy; heavy imports happen inside the command, so that ``--help`` is quick.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import completion
from harness.cli.options import Json
from harness.errors import RequestError, nearest, shown

if TYPE_CHECKING:
    from harness.literature.contradictions import Contradictions
    from harness.literature.figures import PublishedFigure


def _filter(field: str, text: str) -> Any:
    """The option that chooses figures by a field."""
    return typer.Option(f"--{field}", help=text, autocompletion=completion.published(field))


def published(
    method: Annotated[str | None, _filter("method", "Methods, comma-separated; none is the unpruned model.")] = None,
    model: Annotated[str | None, _filter("model", "Models, comma-separated: hub ids, or their last parts.")] = None,
    task: Annotated[str | None, _filter("task", "Tasks, comma-separated.")] = None,
    metric: Annotated[str | None, _filter("metric", 'Metrics, comma-separated, such as "F1,MME total".')] = None,
    keep: Annotated[
        str | None, _filter("keep", "Budgets, comma-separated; 64 and 11.1% are two, all is the unpruned model.")
    ] = None,
    source: Annotated[str | None, _filter("source", "A part of where it is printed, such as 2606.01711.")] = None,
    table: Annotated[str | None, _filter("table", "Tables, comma-separated: names, or paths of your own .toml files.")] = None,
    origin: Annotated[str | None, _filter("origin", "rerun by who prints it, copied, or unknown; comma-separated.")] = None,
    counts: Annotated[
        str | None, _filter("counts", "What budgets count, comma-separated: every (LLM layer alike), average, final, unknown.")
    ] = None,
    only_contradicted: Annotated[bool, typer.Option("--contradictions", help="Only figures that others contradict.")] = False,
    ranks: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|TABLE",
            help="Instead: whether a run, or another table, ranks methods by what they retain as --table does, or as any table.",
            autocompletion=completion.runs_and_tables,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Instead: the cells of a run beside the figures chosen, with a verdict each and what differs.",
            autocompletion=completion.runs,
        ),
    ] = None,
    as_json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values.")] = False,
) -> None:
    """List what papers print, each figure with its source, and mark what others contradict.

    A figure tells how it was measured as far as its source does; what that does not say stands there as unknown. Two figures
    contradict each other where method, model, task and budget are the same, nothing known of both sets them apart, and their
    values differ by more than both were rounded. Needs no torch.
    """
    if as_json and csv:
        raise RequestError("--json and --csv: choose one")
    from harness.literature import selection
    from harness.literature.contradictions import contradictions as find_contradictions

    asked = {"method": method, "model": model, "task": task, "metric": metric, "keep": keep, "origin": origin, "counts": counts}
    if ranks is not None:
        filters = [*(name for name, value in {**asked, "source": source}.items() if value is not None)]
        filters += [name for name, given in (("contradictions", only_contradicted), ("against", against), ("csv", csv)) if given]
        if filters:
            raise RequestError(f"--{filters[0]}: --ranks takes --table and --json alone")
        _print_ranks(ranks, _several("table", table), as_json)
        return
    figures, tables = selection.pool(_several("table", table))
    wanted = {field: _several(field, value) for field, value in asked.items()}
    wanted |= {"source": [] if source is None else [source], "table": list(tables)}
    contradicted = find_contradictions(figures)
    chosen = selection.in_order(selection.select(figures, wanted))
    found = len(chosen)
    if only_contradicted:
        chosen = [figure for figure in chosen if figure in contradicted]
    if against is not None:
        if csv:
            raise RequestError("--csv: --against takes --json; the run's report has a table that is copied as CSV")
        _print_against(against, figures, chosen, as_json)
    elif as_json:
        print(json.dumps([as_dict(figure, contradicted) for figure in chosen]))
    elif csv:
        _write_csv(chosen, contradicted)
    elif not chosen:
        why = f"no other contradicts any of the {found} asked for" if found else selection.why_none(figures, wanted)
        print(shown(f"0 figures: {why}"))
    else:
        from harness.cli.published_table import print_figures
        from harness.literature.tables import table as table_of_package

        of_one = chosen[0].table if len({figure.table for figure in chosen}) == 1 else None
        print_figures(chosen, contradicted, None if of_one is None else tables.get(of_one) or table_of_package(of_one))


def _print_ranks(run: str, tables: list[str], as_json: bool) -> None:
    """Say how a run folder, or a table that is named in its place, ranks the methods of published tables.

    Raises:
        RequestError: where it is neither, or a table that is named has too few methods in common with it.
    """
    from harness.literature.tables import names, printed
    from harness.results import rank_agreement

    if run in names() or run.endswith(".toml"):
        others = tables or [name for name in printed() if name != run]
        found = [one for name in others for one in rank_agreement.rank_tables_alike(name, run)]
        if tables and not found:
            raise RequestError(f"--ranks {run}: has no budget at which four methods of {', '.join(tables)} are in both")
    else:
        from harness.results.current_summary import current_summary
        from harness.store.open_runs import reading

        if not Path(run).exists():
            raise RequestError(f"--ranks {run}: no run folder and no table; {nearest(run, names())}")
        with reading(Path(run)) as (stored,):
            manifest, cells = stored.manifest(), current_summary(stored)["cells"]
        images = max((cell.get("n_images") or 0 for cell in cells), default=0)
        of = f"{manifest.get('model')} on {manifest.get('task')}, {images:,} image{'s' * (images != 1)}"
        found = rank_agreement.rank_tables(cells, tables, of)
    print(json.dumps(rank_agreement.as_rows(found)) if as_json else shown(rank_agreement.as_text(found)))


def _print_against(folder: Path, figures: Sequence[PublishedFigure], chosen: Sequence[PublishedFigure], as_json: bool) -> None:
    """Hold a run's cells against chosen figures; contradictions, and other methods' values, are sought among all figures."""
    from harness.results.against_published import as_rows, held_against
    from harness.results.current_summary import current_summary
    from harness.store.open_runs import reading
    from reports.against_published import as_text

    wanted = set(chosen)
    with reading(folder) as (run,):
        found = [one for one in held_against(run, current_summary(run), figures) if one.figure in wanted]
        manifest = run.manifest()
    if as_json:
        print(json.dumps(as_rows(found)))
    elif found:
        print(shown(as_text(found)))
    else:
        run_of = f"{manifest.get('task')} on {manifest.get('model')}"
        print(shown(f"0 figures: none of the {len(chosen)} asked for is of a cell of this run, {run_of}"))


def as_dict(figure: PublishedFigure, contradicted: Contradictions) -> dict[str, Any]:
    """Return a figure as JSON holds it: its fields as printed, its value as a number, and what contradicts it."""
    from harness.literature.contradictions import different_values

    others = [
        {name: getattr(other, name) for name in ("table", "line", "value", "source")} for other in contradicted.get(figure, ())
    ]
    values = different_values(contradicted.get(figure, ()))
    return {**_fields(figure), "number": figure.number, "contradicted_by": others, "contradicting_values": values}


def _fields(figure: PublishedFigure) -> dict[str, Any]:
    """The columns of a table's file, and in which table and line the figure stands."""
    from harness.literature.tables import COLUMNS, LISTED

    return {name: getattr(figure, name) for name in (*COLUMNS, *LISTED[:2])}


def _write_csv(figures: Sequence[PublishedFigure], contradicted: Contradictions) -> None:
    """The columns of a table's file, then the table and line, and what contradicts each figure as one text."""
    from harness.literature.tables import COLUMNS, LISTED
    from harness.results.spreadsheets import write_rows

    texts = {
        figure: "; ".join(f"{other.value} in {other.source}" for other in contradicted.get(figure, ())) for figure in figures
    }
    rows = ({**_fields(figure), "contradicted_by": text} for figure, text in texts.items())
    write_rows((*COLUMNS, *LISTED), rows, sys.stdout)


def _several(option: str, text: str | None) -> list[str]:
    """The values of an option that takes several.

    Raises:
        RequestError: where there is none.
    """
    values = [] if text is None else [value.strip() for value in text.split(",")]
    if not all(values):
        raise RequestError(f"--{option} {text!r}: a value is empty; several are separated by single commas")
    return values
