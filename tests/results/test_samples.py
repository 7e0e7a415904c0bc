"""What a run answered, straight from its database."""

import csv
import io
import json
import tracemalloc

import numpy as np
import pytest

from harness.cli import app as cli
from harness.errors import RequestError
from harness.results.samples import FIELDS, samples


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def test_all_samples_in_order(make_run):
    stored = make_run(images=range(4), skipped={("sts", 64): "no CLS"})
    found = list(samples(stored))
    assert len(found) == 15 * 24 and all(tuple(row) == FIELDS for row in found)
    by_cell = [row for row in found if (row["method"], row["keep"]) == ("fastv", 24)]
    ident = next(i for i, _, f in stored.cells() if (f["method"], f["keep"]) == ("fastv", 24))
    columns = stored.columns(ident)
    assert [row["id"] for row in by_cell] == list(columns["question"])
    assert [row["score"] for row in by_cell] == list(columns["score"])
    assert by_cell[0] | {"recall": None} == {
        "method": "fastv", "keep": 24, "id": "i0-0", "image": "i0", "family": "existence", "question": "what about 0 in 0?",
        "target": "yes", "prediction": by_cell[0]["prediction"], "score": by_cell[0]["score"], "agree": by_cell[0]["agree"],
        "kl": 0.1, "recall": None, "kept_count": 24, "failed": None,
    }  # fmt: skip


def test_chosen_samples(make_run):
    stored = make_run()
    with stored.connection as connection:
        connection.execute("UPDATE samples SET failed = 'out of memory', score = NULL WHERE question = 'i3-1'")
    every = [row for row in samples(stored) if (row["method"], row["keep"]) == ("fastv", 64)]
    wrong = list(samples(stored, method="fastv", keep=64, wrong=True))
    assert wrong == [row for row in every if row["failed"] or row["score"] < 0.5] and any(row["failed"] for row in wrong)
    lost = list(samples(stored, method="fastv", keep=64, evidence_lost=True, family="colour"))
    assert lost == [row for row in every if row["family"] == "colour" and (row["recall"] or 1) < 0.5] and lost
    assert {row["keep"] for row in samples(stored, keep=24)} == {24}
    assert {row["method"] for row in samples(stored, method="none")} == {"none"}


def test_a_run_that_is_not_finished_can_be_read(make_run):
    stored = make_run(images=range(2))
    (stored.folder / "summary.json").unlink()
    assert next(samples(stored))["method"] == "none"


def test_memory_does_not_grow_with_the_run(make_run):
    stored = make_run(images=range(150), analysed=0, latency=False)
    stored.connection.execute("PRAGMA cache_size = -100")
    rows = samples(stored)
    next(rows)
    tracemalloc.start()
    count = sum(1 for _ in rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 16 * 900 - 1 and peak < 200_000


def test_lines_and_values(capsys, make_run):
    stored = make_run(images=range(3))
    with stored.connection as connection:
        connection.execute("UPDATE samples SET prediction = 'a, \"b\"\n\u2028c' WHERE question = 'i1-1'")
    code, out, err = run(capsys, "samples", stored.folder, "--method", "sts", "--jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and not err and rows == list(samples(stored, method="sts")) and len(rows) == 36
    code, out, _ = run(capsys, "samples", stored.folder, "--method", "sts", "--csv")
    read = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [row["prediction"] for row in read] == [row["prediction"] for row in rows]
    assert all(row["failed"] == "" for row in read)


def test_the_table(capsys, make_run):
    stored = make_run(images=range(6))
    with stored.connection as connection:
        connection.execute("UPDATE samples SET prediction = '\x1b[31m[red]no' WHERE question = 'i0-0'")
    code, out, _ = run(capsys, "samples", stored.folder, "--limit", 4)
    assert code == 0 and len(out.splitlines()) == 6 and "4 of 576 samples; --limit, --jsonl or --csv give more" in out
    assert "\x1b" not in out and "\ufffd[31m[red]no" in out
    code, out, _ = run(capsys, "samples", stored.folder, "--method", "none", "--family", "digit")
    assert code == 0 and out.splitlines()[-1] == "6 samples"


def test_wrong_requests(capsys, make_run, tmp_path):
    stored = make_run(images=range(2))
    for words, message in (
        (["--method", "fastvv"], "did you mean 'fastv'"),
        (["--family", "colours"], "did you mean 'colour'"),
        (["--keep", "63"], "its budgets are 24, 64"),
        (["--method", "none", "--keep", "64"], "it has no budgets"),
        (["--jsonl", "--csv"], "choose one"),
        (["--limit", "0"], "at least 1"),
    ):
        code, out, err = run(capsys, "samples", stored.folder, *words)
        assert code == 2 and message in err and len(err.splitlines()) <= 3 and not out
    code, _, err = run(capsys, "samples", tmp_path / "nowhere")
    assert code == 2 and "no finished run" in err
    with pytest.raises(RequestError, match="did you mean 'sts'"):
        samples(stored, method="stss")
    assert np.isfinite([row["score"] for row in samples(stored)]).all()
