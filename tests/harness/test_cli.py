"""What a user types: results, exit codes, and one clear line for what is wrong."""

import json
import os
import subprocess
import sys

import pytest

from harness.cli import main


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


WRONG = [
    (["compare", "--methods", "fastvv"], "did you mean 'fastv'"),
    (["compare", "--methods", "fastv[layr=2]"], "did you mean 'layer'"),
    (["compare", "--methods", "sts[ratio=2]"], "ratio=2"),
    (["compare", "--model", "tinyy"], "neither a folder nor a hub id"),
    (["compare", "--task", "shape"], "did you mean 'shapes'"),
    (["compare", "--keep", "0"], "above 0"),
    (["compare", "--keep", "-5"], "above 0"),
    (["compare", "--keep", "577"], "576 visual tokens"),
    (["compare", "--keep", "many"], "not a number"),
    (["compare", "--keep", "nan"], "above 0"),
    (["compare", "--keep", "64.5"], "whole"),
    (["compare", "--keep", ""], "at least one budget"),
    (["compare", "--samples", "0"], "at least 1"),
    (["compare", "--samples", "many"], "valid integer"),
    (["compare", "--budget", "mean"], "average, final or flops"),
    (["compare", "--batch-size", "0"], "at least 1"),
    (["compare", "--device", "tpu9"], "device"),
    (["compare", "--dtype", "float8"], "float32"),
    (["compare", "--sampels", "3"], "--sampel"),
    (["compare", "--out", "/proc/nowhere"], "cannot write"),
    (["report", "/nowhere"], "no finished run"),
    (["list", "method"], "method"),
    (["nothing"], "nothing"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_wrong_requests(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert 1 <= len(err.strip().splitlines()) <= 3 and "Traceback" not in err
    assert out == "" and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run of two methods at one budget."""
    from harness import compare

    folder = tmp_path_factory.mktemp("runs") / "small"
    return compare(
        methods=["fastv", "sts", "sparsevlm", "tome"], keep=[64, 16], samples=3, batch_size=2, out=folder, max_new_tokens=5
    )


def test_a_run_folder_holds_everything(finished):
    names = {p.name for p in finished.folder.iterdir()}
    assert {"manifest.json", "results.sqlite", "summary.json", "summary.csv", "report.html"} <= names
    cells = {(c["method"], c["keep"]): c for c in finished.summary["cells"]}
    for method in ("fastv", "sts", "sparsevlm"):
        assert cells[f"random[like={method}]", 64]["reference"]
    assert {("none", None), ("blind", None), ("downsample", 64), ("oracle", 64)} <= set(cells)
    fastv = cells["fastv", 64]
    assert fastv["n"] == 27 and fastv["n_images"] == 3
    assert fastv["tokens"]["final"] == 17 and 63 < fastv["tokens"]["average"] <= 64
    assert set(fastv["collapse"]["z"]) == {"effective_rank", "mean_cosine", "cells"}
    assert fastv["latency"]["ratio"]["value"] > 0
    assert cells["oracle", 64]["evidence"]["recall"]["value"] == 1
    assert cells["none", None]["loyalty"]["agreement"]["value"] == 1
    assert cells["none", None]["loyalty"]["kl"]["value"] == 0
    assert cells["tome", 64]["collapse"] is None and cells["tome", 64]["evidence"] is None


def test_a_cell_that_cannot_be_says_why(finished):
    skipped = {c["method"]: c["skipped"] for c in finished.summary["cells"] if c["keep"] == 16 and c["skipped"]}
    assert "48.9 tokens" in skipped["fastv"] and "random[like=fastv]" not in skipped
    assert "16" in skipped["tome"]


def test_frame(finished):
    frame = finished.frame()
    assert {"method", "keep", "accuracy.value", "accuracy.lo", "tokens.average"} <= set(frame.columns)


def test_a_finished_run_is_not_overwritten(capsys, finished):
    before = (finished.folder / "summary.json").read_bytes()
    code, _, err = run(capsys, "compare", "--out", finished.folder)
    assert code == 2 and "--resume" in err
    code, _, err = run(capsys, "compare", "--out", finished.folder, "--resume")
    assert code == 2 and "configuration" in err
    assert (finished.folder / "summary.json").read_bytes() == before


def test_resume_after_an_interruption_gives_the_same_figures(finished, tmp_path, monkeypatch):
    from harness import compare
    from harness.runs import RunFolder

    options = dict(
        methods=["fastv", "sts", "sparsevlm", "tome"],
        keep=[64, 16],
        samples=3,
        batch_size=2,
        out=tmp_path / "r",
        max_new_tokens=5,
    )
    real, calls = RunFolder.add_batch, []

    def stop_after_one(self, *arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        real(self, *arguments)

    monkeypatch.setattr(RunFolder, "add_batch", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        compare(latency=False, **options)
    monkeypatch.undo()
    resumed = compare(latency=False, resume=True, **options)
    for mine, theirs in zip(resumed.summary["cells"], finished.summary["cells"]):
        assert {**mine, "latency": None} == {**theirs, "latency": None}


def test_report_is_written_again_without_torch(finished):
    page = (finished.folder / "report.html").read_bytes()
    (finished.folder / "report.html").unlink()
    blocked = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is not installed")
sys.meta_path.insert(0, NoTorch())
from harness.cli import main
main(sys.argv[1:])
"""
    subprocess.run([sys.executable, "-c", blocked, "report", str(finished.folder)], check=True, cwd=_root(), capture_output=True)
    assert len((finished.folder / "report.html").read_bytes()) == pytest.approx(len(page), rel=0.05)


def _root():
    from pathlib import Path

    return Path(__file__).parents[2]


@pytest.mark.parametrize("what", ["methods", "models", "tasks", "metrics"])
def test_list(capsys, what):
    code, out, _ = run(capsys, "list", what, "--json")
    assert code == 0 and len(json.loads(out)) >= 1
    code, out, _ = run(capsys, "list", what)
    assert code == 0 and len(out.splitlines()) >= 2


def test_doctor(capsys):
    code, out, _ = run(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == 0 and found["model tiny"] == "usable" and found["torch"]


def test_help_loads_nothing_heavy():
    script = """
import sys
from harness.cli import main
try:
    main(["compare", "--help"])
finally:
    heavy = ("torch", "transformers", "numpy", "pandas", "matplotlib")
    print([name for name in heavy if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=_root(), env={**os.environ, "COLUMNS": "100"}
    )
    assert done.returncode == 0 and "--methods" in done.stdout
    assert done.stderr.strip() == "[]"
