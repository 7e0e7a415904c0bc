"""The option `--against` of the command `published`: a run's cells beside the figures that the filters choose."""

from __future__ import annotations

import json

import pytest

from harness.cli.app import main
from harness.results.against_published import as_rows, held_against
from harness.results.current_summary import current_summary
from tests.published_runs import run_of_shapes, written


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of_shapes(tmp_path_factory.mktemp("shapes") / "run")


@pytest.fixture
def own(tmp_path):
    """A table of the user's own: two figures of cells that the run has, and one of another budget."""
    rows = [{"method": m, "keep": k, "value": "50.5"} for m, k in (("fastv", "64"), ("tome", "64"), ("tome", "192"))]
    return written(tmp_path / "table", *rows), str(tmp_path / "table" / "made-up.toml")


def ran(capsys, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["published", *map(str, words)])
    told = capsys.readouterr()
    return int(stop.value.code or 0), told.out, told.err


def test_json_holds_what_the_page_holds(run, own, capsys):
    figures, table = own
    code, out, err = ran(capsys, "--against", run.folder, "--table", table, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == as_rows(held_against(run, current_summary(run), figures))
    assert {row["method"] for row in json.loads(out)} == {"fastv", "fastv[layer=3]", "tome"}


def test_filters_choose_the_figures(run, own, capsys):
    code, out, err = ran(capsys, "--against", run.folder, "--table", own[1], "--method", "tome")
    lines = [line for line in out.splitlines() if "published 50.5" in line]
    assert (code, err) == (0, "") and len(lines) == 1 and lines[0].startswith("tome at 64: ")
    assert "a table of tests, re-run" in lines[0] and "unknown" in out


def test_nothing_published_of_a_run_is_said(run, own, capsys):
    code, out, _ = ran(capsys, "--against", run.folder, "--table", own[1], "--keep", "192")
    assert (code, out) == (0, "0 figures: none of the 1 asked for is of a cell of this run, shapes on tiny\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--against", "nowhere"), "no finished run there"),
        (("--against", "RUN", "--csv"), "--csv: --against takes --json"),
        (("--against", "RUN", "--ranks", "RUN"), "--against: --ranks takes --table and --json alone"),
    ],
)
def test_what_cannot_be_is_one_line(run, capsys, words, said):
    code, out, err = ran(capsys, *(run.folder if word == "RUN" else word for word in words))
    assert (code, out) == (2, "") and said in err and len(err.splitlines()) == 1
