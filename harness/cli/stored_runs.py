"""Commands that read finished runs: `report`, `explain`, `regress`, `samples` and `open`; none needs torch.

Heavy imports happen inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import completion
from harness.cli.options import Json, RunFolder
from harness.errors import RequestError, shown
from harness.files import named, write_named

_MOST_ROWS = 10**9


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", autocompletion=completion.runs)],
    out: Annotated[
        Path | None, typer.Option(help="The page to write: of one run report.html in its folder, of several runs.html.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report of a run again from its folder, or put several runs side by side on one page.

    Needs no torch. Nothing is measured again: every figure of the page is in the folders. Of several runs the same cells
    stand beside each other, with differences to the first run where the questions are the same. A run of an older version is
    summarised by the rules of this one; without --out, its summary.json and summary.csv are written anew too.
    """
    from harness.results.report import write_report
    from harness.results.several import write_several
    from harness.store.open_runs import reading

    with reading(*runs) as stored:
        for run in stored:
            run.summary()  # of a finished run, all of them, before anything is written
        page = write_report(stored[0], out=out) if len(stored) == 1 else write_several(stored, out or Path("runs.html"))
        paths = [str(page)]
    print(json.dumps({"reports": paths}) if as_json else "\n".join(paths))


def explain(run: RunFolder, as_json: Json = False) -> None:
    """Say what predicts accuracy in a run, and which family of methods wins on simple and on complex images.

    Rank correlations of every figure of the kept tokens with right answers, with intervals: across methods within question
    and budget, and across images within method, budget and question family; then accuracy by family of methods and third of
    image complexity. p values are corrected for their number; across methods, a second one permutes the methods' labels.
    Takes a run whose images were analysed (compare --analyse).
    """
    from harness.results.current_summary import tell_version
    from harness.results.explain import as_text
    from harness.results.explain import explain as run_explain
    from harness.store.open_runs import reading

    with reading(run) as (stored,):
        found = run_explain(stored)
        tell_version(stored)
    print(json.dumps(found) if as_json else shown(as_text(found)))


def regress(
    runs: Annotated[
        list[str], typer.Argument(metavar="BASELINE CANDIDATE", help="Run folders, or files of pytest-benchmark; REF:PATH too.")
    ],
    against: Annotated[
        str | None, typer.Option(metavar="REF:PATH|FOLDER", help="The baseline, where CANDIDATE is given alone.")
    ] = None,
    thresholds: Annotated[Path | None, typer.Option(help="TOML file; what it leaves out keeps its default.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a Markdown summary, for a pull request.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, one test case a cell and rule.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page.")] = None,
    as_json: Json = False,
) -> None:
    """Compare a run with a baseline; exit 1 on a regression.

    Cell by cell: accuracy (paired, tolerance and significance), schedules and FLOPs (exact), latency (as ratios to none
    within each run), diversity, other tokens kept, cells that vanished. A run in a git revision is REF:PATH, such as
    main:runs/baseline; instead of runs, two JSON files of pytest-benchmark are compared.
    """
    if against is not None and len(runs) == 1:
        runs = [against, *runs]
    elif against is not None:
        raise RequestError("--against: stands for the baseline, so give CANDIDATE alone: regress CANDIDATE --against REF:PATH")
    if len(runs) != 2:
        raise RequestError(f"regress: takes BASELINE and CANDIDATE, {len(runs)} given; or CANDIDATE --against REF:PATH")
    from harness.results.regression.thresholds import read_thresholds
    from harness.store.open_runs import opened, reading

    limits = read_thresholds(thresholds)
    written = {name: path for name, path in (("markdown", markdown), ("junit", junit), ("html", html)) if path is not None}
    for name, path in written.items():
        named(f"--{name}", path)
    with opened(runs[0]) as baseline, opened(runs[1]) as candidate:
        files = [path.suffix == ".json" and not path.is_dir() for path in (baseline, candidate)]
        if files[0] != files[1]:
            raise RequestError(f"regress: {runs[0]} and {runs[1]} are of two kinds; give two run folders, or two .json files")
        if files[0]:
            from harness.results.regression.benchmark_files import regress_benchmarks

            found = regress_benchmarks(baseline, candidate, limits)
        else:
            from harness.results.regression.regress import regress as run_regress

            with reading(baseline, candidate) as (before, after):
                found = run_regress(before, after, limits)
    from dataclasses import replace

    from reports import regression

    found = replace(found, baseline=runs[0], candidate=runs[1])
    for option, write in (("markdown", regression.markdown), ("junit", regression.junit), ("html", regression.html)):
        if option in written:
            write_named(f"--{option}", written[option], write(found))
    print(json.dumps(found.as_dict(), allow_nan=False) if as_json else regression.markdown(found), end="\n" if as_json else "")
    raise typer.Exit(found.exit_code)


def samples(
    run: RunFolder,
    method: Annotated[str | None, typer.Option(help="Method expression, as the report prints it.")] = None,
    keep: Annotated[str | None, typer.Option(help="Budget: a count of tokens, or a share such as 34%.")] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only samples that were answered wrong, or failed.")] = False,
    family: Annotated[str | None, typer.Option(help="Only questions of this family.")] = None,
    evidence_lost: Annotated[
        bool, typer.Option("--evidence-lost", help="Only samples that kept less than half of their evidence.")
    ] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only samples without an answer, with the reason.")] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON object a line.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values.")] = False,
    limit: Annotated[int, typer.Option(help="Rows of the table; --jsonl and --csv print all.")] = 50,
) -> None:
    """Show what a run answered, one sample at a time.

    Straight from results.sqlite, cell by cell, in the order of images and questions; needs no torch.
    """
    if jsonl and csv:
        raise RequestError("--jsonl and --csv: choose one")
    if not 1 <= limit <= _MOST_ROWS:
        raise RequestError(f"--limit {limit}: must be at least 1 and at most {_MOST_ROWS:,}")
    from harness.results import samples as stored
    from harness.store.open_runs import reading

    with reading(run) as (folder,):
        rows = stored.samples(folder, method, keep, wrong, family, evidence_lost, failed)
        if jsonl:
            stored.write_jsonl(rows, sys.stdout)
        elif csv:
            stored.write_csv(rows, sys.stdout)
        else:
            stored.print_table(rows, limit)


def open_run(
    run: Annotated[Path, typer.Argument(help="Run folder, finished or not.", autocompletion=completion.runs)],
    port: Annotated[int, typer.Option(help="Port on the loopback; 0 takes a free one.")] = 0,
) -> None:
    """Serve a run folder to browsers on this machine: its report, and the gallery of all samples.

    Prints the address, with a token that nobody else knows, and serves until Ctrl-C. It listens on 127.0.0.1 alone; from
    another machine it is reached through an ssh tunnel. The run is read and never written.
    """
    from harness.results.serve import serve

    serve(run, port)
