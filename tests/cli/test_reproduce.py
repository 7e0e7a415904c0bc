"""`reproduce` on the command line: a dry run, a real one, its exit codes, and what it says where it stops."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from harness.cli import app as cli
from harness.run import comparison
from harness.run.manifest import identity
from harness.store.runs import RunFolder
from tests.run.test_reproduction import HEAD, ROWS, write_table

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def table(tmp_path) -> str:
    return write_table(tmp_path / "tables", ROWS[:3])


@pytest.fixture
def run(capsys):
    def ended(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(["reproduce", *words])
        said = capsys.readouterr()
        return end.value.code, said.out, said.err

    return ended


def test_a_dry_run_agrees_with_flops_and_needs_no_torch(table):
    program = (
        "import sys; sys.argv = ['harness']\n"
        "from harness.cli.app import main\n"
        "try: main(sys.argv[1:] + {words!r})\n"
        "except SystemExit: assert 'torch' not in sys.modules and 'transformers' not in sys.modules, 'slow'\n"
    )

    def printed(*words: str) -> dict:
        done = subprocess.run(
            [sys.executable, "-c", program.format(words=list(words))], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    told = printed("reproduce", table, "--methods", "fastv", "--keep", "64", "--dry-run", "--json")
    (one,) = told["runs"]
    cell = printed("flops", "--shape", "tiny", "--method", "fastv", "--keep", "64", "--json")
    none = printed("flops", "--shape", "tiny", "--json")
    assert one["flops_a_question"] == pytest.approx(cell["total"] + none["total"])
    assert (one["cells"], one["images"], one["questions"], one["answers"]) == (2, 2, 18, 36)
    assert told["flops"] == pytest.approx(18 * one["flops_a_question"]) and told["whole"]


def test_a_dry_run_of_the_published_table_says_all_of_it(run):
    code, out, _ = run("restore-llava-1.5-7b", "--dry-run")
    assert code == 0 and "8 runs, 184 cells" in out and "214,354" in out and "textvqa[ocr=true]" in out
    assert "answer tokens, loading and scoring are not in them" in out
    assert "pyramiddrop at 64: keeps 144.8 tokens" in out


def test_it_prints_and_writes_the_comparison(run, table, tmp_path, monkeypatch):
    monkeypatch.setattr("reports.page.render", lambda view: "")
    out = tmp_path / "out"
    code, said, _ = run(table, "--out", str(out), "--no-self-check", "--workers", "1", "--samples", "1")
    assert code == 0 and said.rstrip().endswith(f"report: {out / 'reproduction.html'}")
    assert re.search(r"fastv +192", said) and "retention, %" in said and "published" in said
    code, said, _ = run(table, "--out", str(out), "--no-self-check", "--samples", "1", "--resume", "--json")
    told = json.loads(said)
    assert code == 0 and told["counts"] == json.loads((out / "reproduction.json").read_text())["counts"]
    assert [row["method"] for row in told["tasks"][0]["held"]] == ["none", "fastv", "fastv"]


def test_failed_samples_are_exit_3(run, tmp_path, monkeypatch):
    monkeypatch.setattr("reports.page.render", lambda view: "")
    Image.new("RGB", (192, 192), "red").save(tmp_path / "red.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "red.png").read_bytes()[:60])
    rows = [{"image": name, "question": "what color?", "answer": "red"} for name in ("red.png", "torn.png")]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = write_table(tmp_path / "tables", ROWS[:1] + ROWS[2:3], f"{HEAD}[reproduce.tasks]\nshapes = {str(questions)!r}\n")
    out = tmp_path / "out"
    code, said, err = run(table, "--out", str(out), "--no-self-check", "--workers", "1")
    assert code == 3 and f"2 samples failed; python -m harness samples {out / 'shapes'} --failed says why" in err
    assert f"shapes (run as {questions}, shapes, average)" in said and (out / "reproduction.html").exists()


def test_ctrl_c_says_how_to_go_on(run, table, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "execute", interrupted)
    out = tmp_path / "out"
    code, _, err = run(table, "--out", str(out), "--no-self-check", "--tasks", "shapes")
    last = err.strip().splitlines()[-1]
    assert code == 130 and last.startswith("interrupted; what is stored stays; this goes on with it: python -m harness reproduce")
    assert f"--out {out}" in last and "--tasks shapes" in last and last.endswith("--resume")


def test_the_recorded_command_repeats_a_run_and_writes_nothing_else(run, table, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("reports.page.render", lambda view: "")
    out, again = tmp_path / "out", tmp_path / "again"
    code, _, _ = run(table, "--out", str(out), "--no-self-check", "--workers", "1", "--samples", "1")
    first = RunFolder(out / "shapes").manifest()
    words = shlex.split(first["command"])
    assert code == 0 and words[:4] == ["python", "-m", "harness", "compare"] and not set(first["command"]) & set("<>&|;")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SystemExit) as end:
        cli.main([*words[3:], "--out", str(again), "--workers", "1"])
    second = RunFolder(again).manifest()
    assert end.value.code == 0 and not list(Path.cwd().iterdir())
    assert identity(second["config"]) == identity(first["config"]) and second["digest"] == first["digest"]
    assert second["command"] == first["command"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["restore-llava-1.5-8b", "--dry-run"], "did you mean 'restore-llava-1.5-7b'?"),
        (["prunescope-tiny"], "--out: name the folder of the reproduction, or say --dry-run"),
        (["prunescope-tiny", "--dry-run", "--methods", "fastw"], "did you mean 'fastv'?"),
        (["prunescope-tiny", "--dry-run", "--dtype", "float17"], "--dtype 'float17'"),
        (["/tmp", "--dry-run"], "table '/tmp': there is none of this name; choose from prunescope-tiny, restore-llava-1.5-7b"),
        (["prunescope-tiny", "--dry-run", "--tasks", ","], "--tasks ',': names nothing"),
        (["prunescope-tiny", "--dry-run", "--methods", ""], "--methods '': names nothing"),
        (["prunescope-tiny", "--dry-run", "--keep", " , "], "--keep ' , ': names nothing"),
        (["prunescope-tiny", "--dry-run", "--text-tokens", "-3"], "--text-tokens -3: must be above 0"),
        (["prunescope-tiny", "--dry-run", "--text-tokens", "nan"], "--text-tokens nan: must be above 0"),
        (["prunescope-tiny", "--dry-run", "--text-tokens", "0"], "--text-tokens 0: must be above 0"),
        (["prunescope-tiny", "--out", "x", "--text-tokens", "64"], "--text-tokens: goes with --dry-run"),
        (["restore-llava-1.5-7b", "--dry-run", "--model", "tiny"], "--model 'tiny': is the embedded model"),
    ],
)
def test_a_wrong_request_is_one_line(run, words, said):
    code, _, err = run(*words)
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1


def test_the_small_table_holds_what_competed_at_the_commit_that_it_names():
    plan = json.loads(_printed("reproduce", "prunescope-tiny", "--dry-run", "--json"))
    (one,) = plan["runs"]
    assert (one["cells"], one["questions"], one["budget"]) == (15, 216, "average")
    (none,) = json.loads(_printed("reproduce", "prunescope-tiny", "--dry-run", "--json", "--methods", "none"))["runs"]
    assert (none["cells"], none["methods"], none["answers"]) == (1, ["none"], 216)


def _printed(*words: str) -> str:
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-m", "harness", *words], capture_output=True, text=True, check=True, cwd=root).stdout
