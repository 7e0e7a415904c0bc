"""CSV: no text of a model or of a data set becomes a formula."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.results.spreadsheets import inert, write_rows

FORMULAS = (
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "\n=cmd|' /C calc'!A0",
    '=HYPERLINK("http://127.0.0.1")',
    "\ufeff=1",
)


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_texts(text):
    assert inert(text) == "'" + text.replace("\r", "\n")


@pytest.mark.parametrize("value", [-5, 1.5, None, True, "", "-5", "+3.5", "-1e-3", "red", "a=b", "x-y", "'=1"])
def test_all_else_is_as_it_was(value):
    assert inert(value) == value


@given(st.text(), st.text())
def test_rows_are_read_as_they_were_written(first, second):
    file = io.StringIO(newline="")
    write_rows(("a", "b"), [{"a": first, "b": second}], file)
    rows = list(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert rows == [["a", "b"], [inert(first), inert(second)]]
    assert not any(cell.lstrip()[:1] in ("=", "@") for cell in rows[1])


def test_samples_and_summaries(quiet_folder, capsys):
    from harness.cli.app import main
    from tests.made_up_runs import Build, write_run

    run = write_run(quiet_folder / "run", Build(images=range(2), questions=1, analysed=0))
    with run.connection as connection:
        connection.execute("UPDATE samples SET prediction = '=1+1'")
        connection.execute("UPDATE questions SET target = '@x', question = '-2+3'")
    run.close()
    with pytest.raises(SystemExit):
        main(["samples", "run", "--csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows and {(row["prediction"], row["target"], row["question"]) for row in rows} == {("'=1+1", "'@x", "'-2+3")}
    with pytest.raises(SystemExit):
        main(["samples", "run", "--jsonl"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["prediction"] for line in lines} == {"=1+1"}, "JSON has the text itself"
