"""A published table is reproduced by exactly its cells, goes on where it stopped, and is held against what it prints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import RequestError
from harness.interrupts import Interrupted, told
from harness.results.reproduced import mean_retention
from harness.run import comparison
from harness.run.comparison import compare
from harness.run.config import CompareConfig
from harness.run.flops import count
from harness.run.manifest import identity, plain
from harness.run.reproduction import PAGE, RESULT, reproduce
from harness.run.reproduction_cost import reproduction_cost
from harness.run.reproduction_plan import ReproductionRequest, chosen, plan_reproduction
from harness.store.runs import RunFolder
from reports.cells import dig

HEAD = """
title = "A small table"
source = "made up for a test"
url = "unknown"
read = "written down here"

[reproduce]
samples = 2
options = {seeds = 2, max_new_tokens = 3, batch_size = 1}
notes = ["Two images are enough."]
"""
COLUMNS = "method,version,model,task,metric,split,tokens,keep,counts,prompt,value,source,origin"
ROWS = (
    ("none", "all", "every", "90.0"),
    ("fastv", "192", "average", "80.0"),
    ("fastv", "64", "average", "40.0"),
    ("divprune", "64", "every", "88.0"),
    ("fastv", "64", "final", "45.0"),
    ("unheard-of", "64", "average", "50.0"),
)
ASKED = {
    "shapes-average": {("fastv", 192), ("fastv", 64)},
    "shapes-average-2": {("divprune", 64)},
    "shapes-final": {("fastv", 64)},
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def no_page():
    """What a run's own page shows is tested elsewhere, and it is not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.page.render", lambda view: "")
        yield


def write_table(folder: Path, rows=ROWS, head: str = HEAD, name: str = "small") -> str:
    lines = [
        f"{method},unknown,tiny,shapes,accuracy,test,576,{keep},{counts},prunescope,{value},a test,rerun"
        for method, keep, counts, value in rows
    ]
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.csv").write_text("\n".join([COLUMNS, *lines]) + "\n")
    (folder / f"{name}.toml").write_text(head)
    return str(folder / f"{name}.toml")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    return write_table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def done(table, no_page, tmp_path_factory):
    """The table, reproduced in one go."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return reproduce(ReproductionRequest(table, out, self_check=False, workers=1))


def answers(folder: Path) -> dict[str, list[tuple]]:
    run = RunFolder(folder, read_only=True)
    query = "SELECT question, prediction, score FROM samples WHERE cell = ? ORDER BY question"
    found = {
        f"{facts['method']} {facts['keep']}": run.connection.execute(query, (ident,)).fetchall()
        for ident, _, facts in run.cells()
    }
    run.close()
    return found


def test_a_table_has_a_run_for_each_mode_and_grid(table):
    plan = plan_reproduction(ReproductionRequest(table))
    assert {run.folder: run.config.budget for run in plan.runs} == {
        "shapes-average": "average", "shapes-average-2": "average", "shapes-final": "final"
    }  # fmt: skip
    for run in plan.runs:
        config = run.config
        assert {(m, int(k)) for m in config.methods if m != "none" for k in config.keep} == ASKED[run.folder]
        assert (config.samples, config.seeds, config.latency, config.analyse, config.references) == (2, 2, False, 0, False)
    assert plan.left_out == ("Method unheard-of is not among ours, so its figures are not run.",)


def test_exactly_the_cells_of_the_table_run_and_none(done):
    for name, asked in ASKED.items():
        cells = {(facts["method"], facts["keep"]) for _, _, facts in RunFolder(done.out / name).cells()}
        assert cells == asked | {("none", None)}, name


def test_every_figure_is_held_against_its_cell(done):
    stored = json.loads((done.out / RESULT).read_text())
    held = [(task["folder"], row) for task in stored["tasks"] for row in task["held"]]
    assert [row["line"] for _, row in held] == [2, 3, 4, 5, 6], "each figure once, `none` too, whatever runs there are"
    for folder, row in held:
        summary = json.loads((done.out / folder / "summary.json").read_text())
        (cell,) = [
            c for c in summary["cells"] if c["method"] == row["method"] and str(c["keep"] or "all") == row["keep"]
        ]  # fmt: skip
        assert row["ours"] == pytest.approx(100 * cell["accuracy"]["value"]) and row["verdict"] in ("inside", "above", "below")
        assert row["budget"] == cell["budget"]
    assert sum(stored["counts"].values()) == len(held) and stored["notes"][0] == "Two images are enough."
    assert f"{PAGE}" in {path.name for path in done.out.iterdir()}


def test_without_references_the_figures_are_those_of_a_run_with_them(done, tmp_path):
    config = CompareConfig(
        model="tiny", task="shapes", methods=("none", "fastv"), keep=("192", "64"), samples=2, seeds=2, max_new_tokens=3,
        latency=False, analyse=0, self_check=False, workers=1, out=tmp_path / "with",
    )  # fmt: skip
    whole = compare(config)
    alone = answers(done.out / "shapes-average")
    with_references = answers(whole.folder)
    assert set(alone) < set(with_references) and "blind None" in set(with_references) - set(alone)
    for name, told_ in alone.items():
        assert told_ == with_references[name] and told_, name
    names = ("accuracy.value", "retention.value", "loyalty.agreement.value", "tokens", "schedule", "flops", "n", "families")
    for cell in json.loads((done.out / "shapes-average" / "summary.json").read_text())["cells"]:
        (same,) = [c for c in whole.summary["cells"] if (c["method"], c["keep"]) == (cell["method"], cell["keep"])]
        assert [dig(cell, name) for name in names] == [dig(same, name) for name in names], "intervals pool all cells of a run"


def test_interrupted_amid_a_run_and_resumed_it_is_what_it_would_have_been(done, table, tmp_path, monkeypatch):
    request = ReproductionRequest(table, tmp_path / "out", self_check=False, workers=1)
    stored, batches = RunFolder.add_batch, []

    def stopped_behind_the_third(run, *arguments):
        stored(run, *arguments)
        batches.append(run.folder.name)
        if len(batches) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "add_batch", stopped_behind_the_third)
    with pytest.raises(Interrupted) as end, told():
        reproduce(request)
    assert batches == ["shapes-average"] * 2 + ["shapes-average-2"], "one image of two is answered there"
    assert f"--out {tmp_path / 'out'}" in str(end.value) and str(end.value).endswith("--resume")
    assert "reproduce" in str(end.value) and "--workers 1" in str(end.value) and "--no-self-check" in str(end.value)
    with pytest.raises(RequestError, match="add --resume"):
        reproduce(request)
    again = reproduce(replace(request, resume=True))
    assert batches[3:] == ["shapes-average-2"] + ["shapes-final"] * 2, "what is stored is not answered again"
    assert [row.value for row in again.page.held] == [row.value for row in done.page.held]
    for name in ASKED:
        assert answers(again.out / name) == answers(done.out / name)


def test_a_finished_reproduction_is_done_at_once(done, table, monkeypatch):
    monkeypatch.setattr(comparison, "prepare", lambda *arguments, **words: pytest.fail("a model is loaded"))
    again = reproduce(ReproductionRequest(table, done.out, resume=True, self_check=False, workers=1))
    assert again.page == done.page


def test_subsets_of_methods_and_budgets(table):
    (run,) = plan_reproduction(ReproductionRequest(table, methods=("divprune",))).runs
    assert run.config.methods == ("none", "divprune") and run.folder == "shapes"
    runs = plan_reproduction(ReproductionRequest(table, keep=("192",), samples=1, seed=3)).runs
    assert [(r.config.methods, r.config.keep, r.config.samples, r.config.seed) for r in runs] == [
        (("none", "fastv"), ("192",), 1, 3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"tasks": ("shape",)}, "--tasks 'shape': not in the table; did you mean 'shapes'?"),
        ({"methods": ("fastw",)}, "--methods 'fastw': not in the table; did you mean 'fastv'?"),
        ({"keep": ("63",)}, "--keep '63': not in the table"),
        ({"methods": ("unheard-of",)}, "none of its cells is left to run"),
        ({"samples": 0}, "--samples 0: must be at least 1"),
    ],
)
def test_what_a_table_has_not_is_refused(table, words, said):
    with pytest.raises(RequestError) as refused:
        plan_reproduction(ReproductionRequest(table, **words))
    assert said in str(refused.value)


def test_a_table_without_settings_and_one_of_two_models_are_refused(tmp_path):
    bare = write_table(tmp_path, head=HEAD.partition("[reproduce]")[0], name="bare")
    with pytest.raises(RequestError, match="has no settings for reproduce"):
        plan_reproduction(ReproductionRequest(bare))
    two = write_table(tmp_path, name="two")
    path = Path(two).with_suffix(".csv")
    path.write_text(path.read_text().replace("fastv,unknown,tiny", "fastv,unknown,other/model", 1))
    with pytest.raises(RequestError, match="figures of 2 models"):
        plan_reproduction(ReproductionRequest(two))
    settled = write_table(tmp_path, head=HEAD.replace("seeds = 2", "analyse = 2"), name="settled")
    with pytest.raises(RequestError, match="option 'analyse' follows from the table"):
        plan_reproduction(ReproductionRequest(settled))


def test_an_unknown_option_of_compare_names_the_nearest(tmp_path):
    told = write_table(tmp_path, head=HEAD.replace("max_new_tokens", "max_new_token"))
    with pytest.raises(RequestError, match="unknown option of compare 'max_new_token'; did you mean 'max_new_tokens'"):
        plan_reproduction(ReproductionRequest(told))


def test_a_folder_of_something_else_is_refused(done, table, tmp_path):
    other = write_table(tmp_path, name="other")
    for request, said in (
        (ReproductionRequest(other, done.out, resume=True), "holds a reproduction of table 'small'"),
        (ReproductionRequest(table, done.out, resume=True, samples=1), "other settings (--samples not given there)"),
        (ReproductionRequest(table, done.out / "shapes-final", resume=True), "holds a run; name another folder"),
        (ReproductionRequest(table, None), "--out: name the folder"),
    ):
        with pytest.raises(RequestError) as refused:
            reproduce(request)
        assert said in str(refused.value)


def test_a_task_out_of_reach_names_how_to_leave_it_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    path = write_table(tmp_path, ROWS[:1] + ROWS[2:3])
    csv = Path(path).with_suffix(".csv")
    rows = csv.read_text().splitlines()
    csv.write_text("\n".join([*rows, *(row.replace(",shapes,accuracy,test,", ",pope,F1,test,") for row in rows[1:])]) + "\n")
    out = tmp_path / "out"
    with pytest.raises(RequestError) as refused:
        reproduce(ReproductionRequest(path, out, self_check=False, workers=1))
    assert str(refused.value).startswith("pope: ") and str(refused.value).endswith("; --tasks shapes leaves it out")
    assert RunFolder(out / "shapes").finished, "what is stored stays"
    left = reproduce(ReproductionRequest(path, out, resume=True, tasks=("shapes",), self_check=False, workers=1))
    assert [(task.task, task.finished) for task in left.page.tasks] == [("shapes", True), ("pope", False)]


def test_a_dry_run_counts_what_flops_counts(table):
    plan = plan_reproduction(ReproductionRequest(table))
    cost = reproduction_cost(plan, chosen(plan, ()), 35.0)
    by_folder = {one.run.folder: one for one in cost.runs}
    questions = 18
    none = count("tiny", "none", None, "average", 35.0, "flops")["total"]
    one = by_folder["shapes-average-2"]
    expected = none + count("tiny", "divprune", "64", "average", 35.0, "flops")["total"]
    assert (one.cells, one.images, one.questions) == (2, 2, questions) and one.flops == pytest.approx(questions * expected)
    final = none + count("tiny", "fastv", "64", "final", 35.0, "flops")["total"]
    assert by_folder["shapes-final"].flops_a_question == pytest.approx(final)
    assert cost.cells == 7 and cost.whole and cost.flops == pytest.approx(sum(run.flops for run in cost.runs))


def test_a_dry_run_of_the_published_table_says_what_cannot_be():
    plan = plan_reproduction(ReproductionRequest("restore-llava-1.5-7b"))
    cost = reproduction_cost(plan, chosen(plan, ("pope", "vqav2")))
    assert [(run.run.folder, run.questions) for run in cost.runs] == [("pope", 9000), ("vqav2", 214354)]
    for run in cost.runs:
        assert run.cells == 25 - len(run.impossible) and all(why.startswith("pyramiddrop at ") for why in run.impossible)
        assert run.flops_a_question == pytest.approx(
            sum(
                count("llava-1.5-7b", method, keep, "average", 64.0, "flops")["total"]
                for method in run.run.config.methods
                for keep in ((None,) if method == "none" else run.run.config.keep)
                if not (method == "pyramiddrop" and keep != "192")
            )
        )


def test_older_runs_resume_as_runs_with_references():
    older = {name: value for name, value in plain(CompareConfig()).items() if name != "references"}
    assert identity(older) == identity(plain(CompareConfig()))
    assert identity(older) != identity(plain(CompareConfig(references=False)))


def test_retention_is_over_the_tasks_that_both_have(done):
    held = {(one.method, one.keep): one for one in done.page.tasks[0].held}
    (fastv,) = [one for one in done.page.retention if (one.method, one.keep) == ("fastv", "192")]
    assert fastv.published == pytest.approx(80 / 90) and fastv.tasks == ("shapes",)
    assert fastv.ours == pytest.approx(held["fastv", "192"].value / held["none", "all"].value)
    modes = {one.mode: one.ours for one in done.page.retention if (one.method, one.keep) == ("fastv", "64")}
    assert list(modes) == ["average", "final"], "each way to count is a row of its own"
    for task in (done.page.tasks[0], done.page.tasks[2]):
        (value,) = [one.value for one in task.held if (one.method, one.keep) == ("fastv", "64")]
        assert modes[task.budget] == pytest.approx(value / held["none", "all"].value)
    without = [replace(task, held=[one for one in task.held if one.method != "none"]) for task in done.page.tasks]
    assert mean_retention(without) == (), "nothing is divided by a value that is not there"


def test_retention_divides_by_the_unpruned_model_of_the_same_split(done):
    (task, *_) = done.page.tasks
    none = next(one for one in task.held if one.method == "none")
    other = replace(none, value=1.0, figure=replace(none.figure, split="val", value="50.0", line=90))
    for held in ((other, *task.held), (*task.held, other)):
        assert mean_retention([replace(task, held=held)]) == mean_retention([task])
    (unlike,) = [replace(task, held=tuple(other if one is none else one for one in task.held))]
    assert mean_retention([unlike]) == ()
