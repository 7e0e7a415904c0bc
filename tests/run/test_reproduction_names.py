"""Whatever a table calls a method, a task and its weights, each figure stands beside the cell that repeats it, and no other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import RequestError
from harness.models.catalogue import TINY
from harness.run.comparison import compare
from harness.run.config import CompareConfig
from harness.run.reproduction import RESULT, Reproduced, reproduce
from harness.run.reproduction_cost import reproduction_cost
from harness.run.reproduction_plan import ReproductionRequest, plan_reproduction
from reports.reproduction import as_text
from tests.run.test_reproduction import COLUMNS, HEAD, ROWS, write_table

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS = (
    ("none", "all", "every", "90.0"),
    ("fastv", "220", "average", "80.0"),
    ("fastv-late", "220", "average", "81.0"),
    ("blind", "all", "every", "20.0"),
    ("fastv-odd", "220", "average", "82.0"),
)
SETTLED = """
[reproduce.methods]
fastv = "fastv"
fastv-late = "fastv[layer=4]"
fastv-odd = "fastv[foo=3]"

[reproduce.tasks]
forms = "shapes"
"""


@pytest.fixture(scope="module", autouse=True)
def no_page():
    """What a run's own page shows is tested elsewhere, and it is not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.page.render", lambda view: "")
        yield


@pytest.fixture(scope="module")
def request_(no_page, tmp_path_factory) -> ReproductionRequest:
    path = write_table(tmp_path_factory.mktemp("table"), VARIANTS, HEAD + SETTLED)
    _change(path, ",shapes,", ",forms,")
    return ReproductionRequest(path, tmp_path_factory.mktemp("variants") / "out", self_check=False, workers=1)


@pytest.fixture(scope="module")
def done(request_) -> Reproduced:
    return reproduce(request_)


def _change(path: str, before: str, after: str) -> None:
    rows = Path(path).with_suffix(".csv")
    text = rows.read_text()
    assert before in text
    rows.write_text(text.replace(before, after))


def _ours(done: Reproduced) -> dict[str, tuple[str, float]]:
    (task,) = done.page.tasks
    return {one.figure.method: (one.method, one.value) for one in task.held}


def test_a_figure_is_held_against_the_cell_of_its_own_expression(done):
    summary = json.loads((done.out / "forms" / "summary.json").read_text())
    values = {cell["method"]: 100 * cell["accuracy"]["value"] for cell in summary["cells"]}
    assert set(values) == {"none", "blind", "fastv", "fastv[layer=4]"} and values["fastv"] != values["fastv[layer=4]"]
    assert _ours(done) == {
        "none": ("none", pytest.approx(values["none"])),
        "fastv": ("fastv", pytest.approx(values["fastv"])),
        "fastv-late": ("fastv[layer=4]", pytest.approx(values["fastv[layer=4]"])),
        "blind": ("blind", pytest.approx(values["blind"])),
    }
    (stored,) = json.loads((done.out / RESULT).read_text())["tasks"]
    names = [(row["table_method"], row["method"]) for row in stored["held"]]
    assert names == [("none", "none"), ("fastv", "fastv"), ("fastv-late", "fastv[layer=4]"), ("blind", "blind")]
    (task,) = done.page.tasks
    assert (task.task, task.expression) == ("forms", "shapes"), "the task has the table's name, and says ours"
    settled = ("answers of at most 3 tokens here",)
    assert [(one.verdict is not None, one.differs) for one in task.held] == [(True, settled)] * 4, "no name and no parameter"
    late = next(one for one in task.held if one.figure.method == "fastv-late")
    assert late.others == 2, "of the table's column: fastv, and fastv-odd, which is not run"


def test_an_expression_that_cannot_be_read_is_left_out_with_the_reason(done):
    (why,) = done.page.left_out
    assert why.startswith("Method fastv-odd cannot be run") and "has no parameter 'foo'" in why
    assert json.loads((done.out / RESULT).read_text())["left_out"] == [why]
    assert f"- {why}" in as_text(done.page) and "- Two images are enough." in as_text(done.page)


def test_cells_that_are_added_to_a_run_change_no_row(done, request_):
    before = _ours(done)
    compare(CompareConfig(extend=done.out / "forms", methods=("fastv[layer=6]",), workers=1, self_check=False))
    assert _ours(reproduce(replace(request_, resume=True))) == before


@pytest.fixture(scope="module")
def elsewhere(no_page, tmp_path_factory) -> Reproduced:
    """A table of LLaVA's figures, reproduced with a local folder that the user says to hold its weights."""
    weights = tmp_path_factory.mktemp("weights") / "mine"
    shutil.copytree(TINY, weights)
    path = write_table(tmp_path_factory.mktemp("table"), ROWS[:1] + ROWS[2:3], HEAD + '[reproduce.tasks]\npope = "shapes"\n')
    _change(path, ",tiny,shapes,accuracy,", ",llava-hf/llava-1.5-7b-hf,pope,F1,")
    out = tmp_path_factory.mktemp("elsewhere") / "out"
    return reproduce(ReproductionRequest(path, out, model=str(weights), self_check=False, workers=1))


def test_a_local_folder_is_taken_at_the_users_word_which_is_said(elsewhere):
    (said,) = {one.matched for one in elsewhere.page.held}
    assert said.endswith("/mine is taken for these weights because --model says so")
    assert {one.figure.model for one in elsewhere.page.held} == {"llava-hf/llava-1.5-7b-hf"}
    assert said in as_text(elsewhere.page)


def test_contradictions_are_sought_among_all_that_is_published(elsewhere):
    fastv = next(one for one in elsewhere.page.held if one.figure.method == "fastv")
    assert fastv.figure.value == "40.0" and fastv.contradicted_by >= fastv.contradicting_values > 1, (
        "papers print far more for POPE at 64 tokens"
    )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("tiny", "'tiny': is the embedded model"),
        (str(TINY), "holds tiny"),
        ("liuhaotian/llava-v1.5-13b", "another model of the hub"),
        ("/nope", "'/nope': is no folder here; the table"),
        ("CACHE/models--Qwen--Qwen2.5-VL-7B-Instruct/snapshots/1a2b", "holds Qwen/Qwen2.5-VL-7B-Instruct"),
        ("liuhaotian/llava-v1.5-7b", None),
        ("CACHE/models--llava-hf--llava-1.5-7b-hf/snapshots/1a2b", None),
        ("CACHE/mine", None),
    ],
)
def test_weights_that_are_known_to_be_others_are_refused(model, said, tmp_path):
    if model.startswith("CACHE"):
        model = model.replace("CACHE", str(tmp_path))
        Path(model).mkdir(parents=True)
    request = ReproductionRequest("restore-llava-1.5-7b", tmp_path / "out", model=model)
    if said is None:
        assert {run.config.model for run in plan_reproduction(request).runs} == {model}
        return
    with pytest.raises(RequestError) as refused:
        reproduce(request)
    assert said in str(refused.value) and "figures are of llava-hf/llava-1.5-7b-hf" in str(refused.value)
    assert not (tmp_path / "out").exists(), "nothing is left behind"


def test_a_refused_command_blocks_no_corrected_one(tmp_path):
    path, out = write_table(tmp_path / "tables", ROWS[:1] + ROWS[2:3]), tmp_path / "out"
    request = ReproductionRequest(path, out, samples=1, device="cuda:77", self_check=False, workers=1)
    with pytest.raises(RequestError, match="cuda:77"):
        reproduce(request)
    assert reproduce(replace(request, device="cpu")).page.tasks[0].finished


def test_a_changed_table_and_another_of_its_name_are_refused(tmp_path):
    path, out = write_table(tmp_path / "tables", ROWS[:1] + ROWS[2:3]), tmp_path / "out"
    request = ReproductionRequest(path, out, samples=1, self_check=False, workers=1)
    reproduce(request)
    resumed = replace(request, resume=True)
    for rows, head in ((ROWS[:2], HEAD), (ROWS[:1] + ROWS[2:3], HEAD.replace("seeds = 2", "seeds = 3"))):
        other = write_table(tmp_path / f"other{len(head)}", rows, head)
        with pytest.raises(RequestError, match="holds another table 'small', or its rows or settings have changed"):
            reproduce(replace(resumed, table=other))
    said = write_table(tmp_path / "said", ROWS[:1] + ROWS[2:3], HEAD.replace("Two images are", "Two are"))
    assert reproduce(replace(resumed, table=said)).page.notes == ("Two are enough.",), "a note changes no figure"


def test_a_run_of_another_request_is_told_and_left_out(tmp_path):
    path, out = write_table(tmp_path / "tables", ROWS), tmp_path / "out"
    request = ReproductionRequest(path, out, samples=1, self_check=False, workers=1)
    plan = plan_reproduction(request)
    last = plan.runs[-1]
    compare(replace(last.config, seed=5))
    compare(plan.runs[1].config)
    (out / "request.json").write_text("{}")
    with pytest.raises(RequestError, match="is not one of a reproduction"):
        reproduce(replace(request, resume=True))
    (out / "request.json").unlink()
    with pytest.raises(RequestError, match=r"shapes-final: .* another configuration \(--seed differs\)"):
        reproduce(replace(request, resume=True))
    from harness.run.reproduction import write_comparison

    page = write_comparison(plan, out)
    assert {task.folder: task.finished for task in page.tasks} == {
        "shapes-average": True, "shapes-average-2": True, "shapes-final": False
    }  # fmt: skip
    assert page.left_out[-1] == "What lies in shapes-final is left out: it is a run of another request (--seed differs)."


def test_a_task_beside_which_another_stands_has_a_folder_of_its_own(tmp_path):
    rows = [ROWS[0], *ROWS[1:4]]
    path = write_table(tmp_path / "tables", rows, HEAD + '[reproduce.tasks]\n"../esc" = "shapes"\nshapes-2 = "shapes"\n')
    csv = Path(path).with_suffix(".csv")
    lines = csv.read_text().splitlines()
    more = [line.replace(",shapes,", f",{task},") for task in ("../esc", "shapes-2") for line in lines[1:3]]
    csv.write_text("\n".join([COLUMNS, *lines[1:], *more]) + "\n")
    plan = plan_reproduction(ReproductionRequest(path, tmp_path / "out"))
    assert [(run.task, run.folder) for run in plan.runs] == [
        ("shapes", "shapes"), ("shapes", "shapes-2"), ("../esc", "esc"), ("shapes-2", "shapes-2-2")
    ]  # fmt: skip
    assert all(run.config.out.parent == tmp_path / "out" for run in plan.runs)


def test_what_an_image_cannot_yield_is_left_out_and_the_rest_runs(tmp_path):
    path = write_table(tmp_path / "tables", (*ROWS[:3], ("fastv", "600", "average", "95.0")))
    plan = plan_reproduction(ReproductionRequest(path))
    assert [run.config.keep for run in plan.runs] == [("192", "64")]
    assert plan.left_out == ("fastv at 600 on shapes: an image has 576 visual tokens, so that figure is not run.",)


@pytest.mark.parametrize(
    ("model", "tokens", "left_out"),
    [
        ("owner/unheard-of", "576", ("fastv at 600 on shapes: an image has 576 visual tokens, so that figure is not run.",)),
        ("owner/unheard-of", "unknown", ()),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "unknown", ()),
    ],
)
def test_nothing_is_impossible_where_images_may_have_more_tokens(model, tokens, left_out, tmp_path):
    keep = "1400" if model.startswith("Qwen") else "600"
    path = write_table(tmp_path, (ROWS[0], ROWS[2], ("fastv", keep, "average", "95.0")))
    _change(path, ",tiny,shapes,accuracy,test,576,", f",{model},shapes,accuracy,test,{tokens},")
    plan = plan_reproduction(ReproductionRequest(path))
    cost = reproduction_cost(plan, plan.runs)
    assert plan.left_out == left_out and cost.runs[0].impossible == ()
    assert cost.cells == (2 if left_out else 3), "a cell that may be is counted, whether its FLOPs are or not"


@pytest.mark.parametrize(
    "option", ["workers = 2", 'device = "cpu"', "self_check = false", 'out = "x"', 'extend = "x"', "resume = true"]
)
def test_an_option_that_is_settled_on_the_command_line_is_refused_by_name(option, tmp_path):
    path = write_table(tmp_path, head=HEAD.replace("seeds = 2", option))
    with pytest.raises(RequestError, match=f"option '{option.partition(' ')[0]}' is settled on the command line"):
        plan_reproduction(ReproductionRequest(path))


def test_a_task_that_makes_its_images_needs_to_be_told_how_many(tmp_path):
    path = write_table(tmp_path, head=HEAD.replace("samples = 2", ""))
    with pytest.raises(RequestError, match="samples is left away, and task 'shapes' makes as many images"):
        plan_reproduction(ReproductionRequest(path))
    assert plan_reproduction(ReproductionRequest(path, samples=3)).runs[0].config.samples == 3


def test_none_alone_can_be_asked_for(tmp_path):
    (run,) = plan_reproduction(ReproductionRequest(write_table(tmp_path), methods=("none",))).runs
    assert run.config.methods == ("none",) and [figure.method for figure in run.figures] == ["none"]
