"""A large run is summed up and shown in little time and memory, and says what a small one would."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.results.sample_columns import NUMBER_COLUMNS, RunQuestions, read_columns
from harness.store.runs import RunFolder

ROOT = Path(__file__).parents[2]
STEPS = {
    "summary": "from harness.results.summary import write; write(run)",
    "report": "from harness.results.report import write_report; write_report(run)",
    "resume": "run.done()",
}
MEASURE = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from harness.store.runs import RunFolder
run = RunFolder(Path({folder!r}))
started = time.process_time()
{step}
spent = time.process_time() - started
held = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))  # of this program alone
print(spent, int(held) / 1024)
"""


def generator():
    spec = importlib.util.spec_from_file_location("generate", Path(__file__).with_name("generate.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(folder: Path, step: str) -> tuple[float, float]:
    """Seconds of one processor and MiB of a process of its own."""
    code = MEASURE.format(root=str(ROOT), folder=str(folder), step=STEPS[step])
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, mebibytes = map(float, out.split()[-2:])
    print(f"{step}: {seconds:.1f} s, {mebibytes:.0f} MiB")
    return seconds, mebibytes


@pytest.fixture(scope="module")
def middling(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("load") / "run"
    generator().generate(folder, samples=5000, cells=10, analysed=20)
    return folder


def test_a_run_of_thousands_is_summed_up_and_shown(middling):
    for step in STEPS:
        assert measured(middling, step)[1] < 1024
    assert (middling / "report.html").stat().st_size < 15e6
    summary = json.loads((middling / "summary.json").read_text())
    assert [cell["n"] for cell in summary["cells"]] == [5000] * 10
    assert {cell["n_images"] for cell in summary["cells"]} == {556}


def test_numbers_are_those_of_the_columns(middling):
    run = RunFolder(middling)
    questions = RunQuestions.of(run)
    for ident in (1, 4):
        found, columns = read_columns(run, ident, questions), run.columns(ident)
        for place, name in enumerate(NUMBER_COLUMNS):
            assert (found.table[:, place] == columns[name])[~(found.table[:, place] != found.table[:, place])].all()
            assert ((found.table[:, place] != found.table[:, place]) == (columns[name] != columns[name])).all()
        assert [questions.families[i] for i in found.family] == columns["family"].tolist()
        images = list(dict.fromkeys(columns["image"]))
        assert [images[i] for i in found.image] == columns["image"].tolist()


def test_a_cell_that_lacks_questions_keeps_their_order(middling, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(middling, copy)
    run = RunFolder(copy)
    with run.connection as connection:
        connection.execute("DELETE FROM samples WHERE cell = 3 AND question LIKE '%7'")
    questions = RunQuestions.of(run)
    found, columns = read_columns(run, 3, questions), run.columns(3)
    assert len(found.image) == len(columns["score"]) < 5000
    assert (found.table[:, 0] == columns["score"]).all()
    names = run.connection.execute("SELECT id FROM images ORDER BY place").fetchall()
    assert [names[i][0] for i in found.image] == columns["image"].tolist()
    assert (questions.image[found.place] == found.image).all()


@pytest.mark.slow
@pytest.mark.parametrize("per_image", [9, 1])
def test_two_hundred_thousand_samples_in_fifty_cells(tmp_path, per_image):
    folder = tmp_path / "run"
    generator().generate(folder, samples=200_000, cells=50, per_image=per_image)
    (folder / "results.sqlite").read_bytes()[:1]  # what is timed is not the disk
    for step, seconds, mebibytes in (("summary", 60, 1024), ("report", 60, 1024), ("resume", 5, 1024)):
        started = time.perf_counter()
        took, held = measured(folder, step)
        assert took < seconds and held < mebibytes, (step, took, held, time.perf_counter() - started)
    assert (folder / "report.html").stat().st_size < 15e6
