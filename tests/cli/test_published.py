"""The command `published`: filters, the table at several widths, JSON and CSV, and what it refuses."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from harness.cli import completion
from harness.cli.app import main
from harness.literature.contradictions import contradictions
from harness.literature.selection import in_order, keep_order
from harness.literature.tables import COLUMNS, names, published, table

ROOT = Path(__file__).parents[2]
HEAD = 'title = "Ours"\nsource = "report 12"\nurl = "https://example.org"\nread = "typed off"\n'
MODEL = "llava-hf/llava-1.5-7b-hf"
RESTORE = "restore-llava-1.5-7b"


def ran(capsys, *words: object) -> tuple[int, str, str]:
    """The exit code of a command line, and what it prints."""
    with pytest.raises(SystemExit) as stop:
        main(["published", *map(str, words)])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


def listed(capsys, *words: object) -> list[dict]:
    code, out, err = ran(capsys, *words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.fixture
def own(tmp_path):
    """A table of the user's own: a figure that the package's contradict, one of a share, and two of what nobody else prints."""
    rows = f"""fastv,unknown,{MODEL},pope,F1,test,576,64,final,LLaVA,61.3,report 12 table 3,rerun
random,unknown,{MODEL},pope,accuracy,test,576,64,final,LLaVA,70.0,report 12 table 3,rerun
fastv,unknown,{MODEL},pope,F1,test,576,64%,final,LLaVA,80.1,report 12 table 3,rerun
tome,unknown,owner/another,gqa,accuracy,unknown,unknown,64,unknown,unknown,50,report 12 table 4,copied
"""
    (tmp_path / "ours.toml").write_text(HEAD, encoding="utf-8")
    (tmp_path / "ours.csv").write_text(f"{','.join(COLUMNS)}\n{rows}", encoding="utf-8")
    return tmp_path / "ours.toml"


def test_all_figures_are_listed_with_what_contradicts_them(capsys):
    found, known = listed(capsys), contradictions(published())
    assert len(found) == len(published()) > 100
    for row, figure in zip(found, in_order(published()), strict=True):
        assert row == {
            **{name: getattr(figure, name) for name in (*COLUMNS, "table", "line")},
            "number": figure.number,
            "contradicted_by": [
                {"table": other.table, "line": other.line, "value": other.value, "source": other.source}
                for other in known.get(figure, ())
            ],
            "contradicting_values": len({float(other.value) for other in known.get(figure, ())}),
        }


def test_the_order_is_model_task_budget_method_value():
    order = [
        (f.model, f.task, keep_order(f.keep), f.method, float(f.value)) for f in in_order(published()) if f.number is not None
    ]
    assert order == sorted(order)
    assert sorted(["64", "unknown", "11.1%", "192", "all", "33.3%"], key=keep_order) == [
        "all",
        "33.3%",
        "11.1%",
        "192",
        "64",
        "unknown",
    ]


@pytest.mark.parametrize(
    ("words", "field", "values"),
    [
        (["--method", "fastv"], "method", {"fastv"}),
        (["--method", "FastV,none"], "method", {"fastv", "none"}),
        (["--task", "pope, gqa"], "task", {"pope", "gqa"}),
        (["--keep", "64"], "keep", {"64"}),
        (["--keep", "all,192"], "keep", {"all", "192"}),
        (["--metric", "mme total"], "metric", {"MME total"}),
        (["--counts", "unknown"], "counts", {"unknown"}),
        (["--origin", "rerun"], "origin", {"rerun"}),
        (["--source", "2606.01711"], "source", {"arXiv:2606.01711 table 1"}),
        (["--table", RESTORE], "table", {RESTORE}),
        *((["--model", name], "model", {MODEL}) for name in (MODEL, "llava-1.5-7b-hf", "llava-1.5-7b", "LLaVA-1.5-7B")),
        *((["--model", name], "model", {MODEL}) for name in ("liuhaotian/llava-v1.5-7b", "llava-v1.5-7b")),
    ],
)  # fmt: skip
def test_a_filter_gives_all_figures_of_its_values(capsys, words, field, values):
    found = listed(capsys, *words)
    assert {row[field] for row in found} == values
    assert len(found) == sum(getattr(figure, field) in values for figure in published())


def test_filters_hold_together(capsys):
    found = listed(capsys, "--method", "fastv", "--task", "pope", "--keep", "64", "--table", RESTORE)
    assert [(row["value"], row["number"], row["origin"], row["counts"]) for row in found] == [("36.1", 36.1, "rerun", "unknown")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "fastw"], "--method 'fastw': no figure has it; did you mean 'fastv'?"),
        (["--keep", "65"], "--keep '65': no figure has it; did you mean '64'?"),
        (["--keep", "0"], "--keep '0': must be above 0"),
        (["--keep", "1e2"], "--keep '1e2': write 100 for a count"),
        (["--model", "llava-1.5-7c"], "did you mean 'llava-1.5-7b'?"),
        (["--origin", "reran"], "did you mean 'rerun'?"),
        (["--counts", "averages"], "--counts 'averages': no figure has it; "),
        (["--task", "pope,popq"], "--task 'popq': no figure has it; did you mean 'pope'?"),
        (["--task", "pope,"], "--task 'pope,': a value is empty"),
        (["--method", ""], "--method '': a value is empty"),
        (["--table", "restore-llava"], f"--table 'restore-llava': did you mean '{RESTORE}'?"),
        (["--table", "nowhere/x.toml"], "nowhere/x.toml"),
        (["--json", "--csv"], "--json and --csv: choose one"),
    ],
)
def test_what_there_is_not_is_refused_in_one_line_with_the_nearest(capsys, words, said):
    code, out, err = ran(capsys, *words)
    assert (code, out) == (2, "") and said in err and len(err.splitlines()) == 1


def test_a_count_is_no_share_and_a_share_no_count(capsys, own):
    share = listed(capsys, "--table", own, "--keep", "64%")
    assert [row["value"] for row in share] == ["80.1"] and share[0]["contradicted_by"] == []
    assert {row["keep"] for row in listed(capsys, "--table", own, "--keep", "64")} == {"64"}
    assert listed(capsys, "--table", own, "--keep", "0.64") == share
    code, _, err = ran(capsys, "--table", own, "--keep", "60%")
    assert code == 2 and "did you mean '64%'?" in err


def test_what_is_there_but_not_together_is_told_and_no_fault(capsys):
    words = ["--method", "none", "--task", "pope", "--keep", "64", "--table", RESTORE]
    code, out, err = ran(capsys, *words)
    assert (code, err) == (0, "") and len(out.splitlines()) == 1
    assert out.startswith("0 figures: no figure has --method none and --task pope and --keep 64")
    assert "8 without --method none" in out and "1 without --keep 64" in out
    assert listed(capsys, *words) == []
    assert ran(capsys, *words, "--csv")[1].count("\n") == 1


def test_own_figures_are_held_against_those_of_the_package(capsys, own):
    found = listed(capsys, "--table", own)
    assert [(row["table"], row["line"]) for row in found] == [("ours", 4), ("ours", 2), ("ours", 3), ("ours", 5)]
    first = next(row for row in found if row["value"] == "61.3")
    (theirs,) = [f for f in table(RESTORE).figures if (f.method, f.task, f.keep) == ("fastv", "pope", "64")]
    there = {"table": RESTORE, "line": theirs.line, "value": "36.1", "source": "arXiv:2606.01711 table 1"}
    assert there in first["contradicted_by"]
    (other,) = listed(
        capsys, "--table", f"{own},{RESTORE}", "--method", "fastv", "--keep", "64", "--task", "pope", "--source", "2606"
    )
    assert (
        other["value"] == "36.1"
        and {"table": "ours", "line": 2, "value": "61.3", "source": "report 12 table 3"} in other["contradicted_by"]
    )
    contradicted = listed(capsys, "--table", own, "--contradictions")
    assert [row["value"] for row in contradicted] == ["61.3"]
    code, out, _ = ran(capsys, "--table", own, "--contradictions", "--model", "another")
    assert code == 0 and out == "0 figures: no other contradicts any of the 1 asked for\n"


def test_a_table_of_the_package_may_be_given_by_its_path_but_no_other_has_its_name(capsys, own):
    assert listed(capsys, "--table", ROOT / f"harness/literature/tables/{RESTORE}.toml") == listed(capsys, "--table", RESTORE)
    taken = own.rename(own.with_name(f"{RESTORE}.toml"))
    code, _, err = ran(capsys, "--table", taken)
    assert code == 2 and "has the name of the table" in err and len(err.splitlines()) == 1


def test_csv_begins_with_the_columns_of_a_table(capsys, own):
    code, out, _ = ran(capsys, "--table", own, "--csv")
    reader = csv.DictReader(io.StringIO(out))
    rows = list(reader)
    assert code == 0 and tuple(reader.fieldnames) == (*COLUMNS, "table", "line", "contradicted_by")
    known = {tuple(row.values()) for row in csv.DictReader(own.with_suffix(".csv").open(encoding="utf-8"))}
    assert {tuple(row[name] for name in COLUMNS) for row in rows} == known
    assert "36.1 in arXiv:2606.01711 table 1" in next(row["contradicted_by"] for row in rows if row["value"] == "61.3")


def on_a_terminal(width: int, *words: object) -> list[str]:
    """The lines that a terminal of that many characters shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {**{name: value for name, value in os.environ.items() if name != "COLUMNS"}, "TERM": "xterm"}
    told = b""
    with subprocess.Popen(
        [sys.executable, "-m", "harness", "published", *map(str, words)], stdout=theirs, cwd=ROOT, env=environment
    ):
        os.close(theirs)
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(ours, 65536):
                told += part
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", told.decode().replace("\r\n", "\n")).splitlines()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_table_fits_its_terminal_and_says_what_it_leaves_out(own, width):
    """Every column stands in the table, above it since it is the same in all rows, or in the line of what has no room."""
    lines = on_a_terminal(width, "--table", f"{own},{RESTORE}", "--method", "fastv,tome", "--task", "pope,gqa")
    assert max(map(len, lines)) <= width
    heads = [line.split() for line in lines if line.split()[:1] in (["model"], ["tokens"], ["task"])]
    told = " ".join(" ".join(lines).split())
    same = [one.split()[0] for one in told.partition("in every row: ")[2].partition("  ")[0].partition(" llava-")[0].split("; ")]
    left_out = told.partition("no room for ")[2].partition(":")[0].split(", ")
    assert ("model" in heads[0]) == (len(heads) == 1), "models stand in a column, or above their rows"
    assert sorted({*heads[0], *same, *left_out, "model"} - {""}) == sorted((*COLUMNS, "table"))
    assert {"task", "keep", "method", "value", "origin", "source"} <= set(heads[0]) and "unknown" in told
    assert not set(left_out) & {*heads[0], *same} and (left_out == [""] if width == 200 else left_out != [""] or width > 80)


def test_the_table_marks_contradictions_and_says_once_what_is_the_same(capsys, own):
    code, out, _ = ran(capsys, "--table", f"{own},{RESTORE}", "--method", "fastv,random", "--task", "pope", "--keep", "64")
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith(
        f"in every row: model {MODEL}; tokens 576; task pope; keep 64; version unknown; split test"
    )
    head = next(line for line in lines if line.startswith("method"))
    values = [line[: head.index("value") + len("value")].split() for line in lines if line.startswith(("fastv", "random"))]
    assert values == [["fastv", "36.1", "*"], ["fastv", "61.3", "*"], ["random", "70.0"]]
    spans = [re.match(r"  fastv at 64, pope: ([\d.]+) to ([\d.]+), (\d+) values in \d+ sources", line) for line in lines]
    (told,) = [span.groups() for span in spans if span]
    cell = ("--method", "fastv", "--task", "pope", "--keep", "64", "--model", MODEL)
    all_of = {row["value"] for row in listed(capsys, *cell, "--contradictions")}
    figures = {"36.1", "61.3", *all_of}
    assert told[:2] == (min(figures, key=float), max(figures, key=float)) and int(told[2]) == len(figures)
    assert lines[-1] == "3 figures in 2 tables, 2 contradicted"


def test_figures_of_one_table_tell_how_it_was_read(capsys, own):
    told = lambda *words: " ".join(ran(capsys, *words, "--method", "fastv")[1].split())
    assert "ours: Ours, https://example.org; read: typed off" in told("--table", own)
    head = f"{RESTORE}: {table(RESTORE).title}, {table(RESTORE).url}; read: {table(RESTORE).read}"
    assert head in told("--table", RESTORE) and head in told("--source", "2606.01711")
    assert "read: " not in told("--table", f"{own},{RESTORE}")


def test_numbers_end_in_one_column(capsys):
    _, out, _ = ran(capsys, "--method", "fastv", "--task", "pope,mme", "--table", RESTORE)
    ends = {match.end() for line in out.splitlines() if (match := re.match(r"(?:mme|pope) +\d+ +fastv +[\d.]+", line))}
    assert len(ends) == 1


def test_a_text_of_a_table_cannot_steer_the_terminal(capsys, own):
    path = own.with_suffix(".csv")
    path.write_text(path.read_text(encoding="utf-8").replace("report 12 table 4", "\x1b[31mred"), encoding="utf-8")
    _, out, _ = ran(capsys, "--table", own, "--task", "gqa")
    assert "\x1b" not in out and "�[31mred" in out


def test_it_is_quick_and_needs_neither_torch_nor_numpy():
    script = (
        "import sys\nfrom harness.cli.app import main\ntry:\n    main(['published', '--method', 'fastv'])\nfinally:\n"
        "    print([n for n in ('torch', 'numpy', 'transformers', 'pandas') if n in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.strip() == "[]" and "fastv" in done.stdout
    measured = "import resource; print(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]))"
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-m', 'harness', 'published'], stdout=-3); {measured}"
    words = [sys.executable, "-c", command]
    taken = min(float(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout) for _ in range(3))
    assert taken < 1.5


def test_copies_of_one_value_count_once(capsys, own):
    """A value that nine sources print contradicts nine times, and is one other value."""
    again = own.with_suffix(".csv").read_text(encoding="utf-8")
    again += "".join(f"random,unknown,{MODEL},pope,accuracy,test,576,64,final,LLaVA,50.0,report {n},copied\n" for n in range(9))
    own.with_suffix(".csv").write_text(again, encoding="utf-8")
    (first,) = listed(capsys, "--table", own, "--method", "random", "--source", "table 3")
    assert (len(first["contradicted_by"]), first["contradicting_values"]) == (9, 1)


def test_the_id_under_which_authors_published_a_model_is_the_same_model(capsys, own):
    path, theirs = own.with_suffix(".csv"), "liuhaotian/llava-v1.5-7b"
    before = listed(capsys, "--table", own, "--method", "fastv", "--keep", "64")
    path.write_text(path.read_text(encoding="utf-8").replace(MODEL, theirs), encoding="utf-8")
    for name in (MODEL, "llava-1.5-7b", theirs, "LiuHaoTian/llava-v1.5-7b"):
        table.cache_clear()
        found = listed(capsys, "--table", own, "--model", name, "--method", "fastv", "--keep", "64")
        assert found == [{**row, "model": theirs} for row in before] and found[0]["contradicted_by"]


def test_what_the_list_saves_is_a_table_again(capsys, own):
    saved = ran(capsys, "--table", own, "--csv")[1]
    own.with_name("saved.csv").write_text(saved, encoding="utf-8")
    own.with_name("saved.toml").write_text(HEAD, encoding="utf-8")
    rows = listed(capsys, "--table", own.with_name("saved.toml"))
    columns = [[row[name] for name in COLUMNS] for row in rows]
    assert columns == [[row[name] for name in COLUMNS] for row in listed(capsys, "--table", own)]


def test_a_shell_is_offered_what_the_tables_hold():
    assert completion.published("method")("none,fas") == ["none,fastv"]
    assert "llava-1.5-7b-hf" in completion.published("model")("llava-1.5") and MODEL in completion.published("model")("llava-hf/")
    assert completion.published("table")("") == names() and "F1" in completion.published("metric")("")
    assert "arXiv:2606.01711" in completion.published("source")("arXiv:2606")
    assert {"64", "all"} <= set(completion.published("keep")("")) and completion.published("task")("x-no") == []
    assert completion.runs_and_tables("restore") == [RESTORE]


def test_runs_and_tables_are_offered_together(tmp_path, monkeypatch):
    for name in ("restored", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    monkeypatch.chdir(tmp_path)
    assert completion.runs_and_tables("restore") == [RESTORE, "restored"]
