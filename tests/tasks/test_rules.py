"""The rules that score answers: which leads, what each says, and what a manifest tells of them."""

import pytest

from harness.errors import RequestError
from harness.tasks.base import TaskInfo
from harness.tasks.registry import BENCHMARKS, create
from harness.tasks.rules import judged, scored_by, scoring_facts
from tests.tasks.conftest import row
from tests.tasks.test_benchmarks import ROWS, gqa


@pytest.fixture
def load(tmp_path, parquet):
    """The task of a benchmark on its small file."""

    def made(name, inside=""):
        path = parquet(tmp_path / "data" / "part.parquet", ROWS[name]())
        return create(f"{name}[path={path}{inside}]")

    return made


@pytest.mark.parametrize("name", ROWS)
def test_the_official_rule_leads_on_public_benchmarks_and_every_rule_is_named(load, name):
    task = load(name)
    facts = scoring_facts(task)
    assert facts["rule"] == "official" and "0.7.3" in facts["rules"]["official"] and "lmms_eval" in facts["rules"]["official"]
    assert facts["rules"]["ours"].startswith("harness.tasks.")
    assert ("authors" in facts["rules"]) == (name in ("pope", "scienceqa"))


def test_rules_differ_where_lmms_eval_wants_the_bare_word(load):
    task = load("pope")
    found = judged(task, "Yes, there is.", "yes")
    assert found.leading.score == 0.0 and found.scores == {"ours": 1.0, "official": 0.0, "authors": 1.0}
    ours = scored_by(task, "ours")
    assert judged(ours, "Yes, there is.", "yes").leading.score == 1.0 == ours.score("Yes, there is.", "yes")
    assert task.score("Yes, there is.", "yes") == 0.0  # the task itself is as it was


@pytest.mark.parametrize(
    ("name", "rule", "choices"), [("gqa", "authors", "ours or official"), ("pope", "mine", "ours or official or authors")]
)
def test_a_rule_that_a_task_does_not_have_is_refused(load, tmp_path, parquet, name, rule, choices):
    if name == "gqa":
        rows = [{**row, "image": ROWS["pope"]()[0]["image"]} for row in gqa()]
        task = create(f"gqa[path={parquet(tmp_path / 'gqa.parquet', rows)}]")
    else:
        task = load(name)
    with pytest.raises(RequestError, match=f"--scoring {rule}: task '{name}' has no such rule; choose {choices}"):
        scored_by(task, rule)


class Plain:
    info = TaskInfo("plain", "", "", "", "exact", "test", (), False)

    def score(self, prediction, answer):
        return float(prediction == answer)


def test_a_task_with_but_a_score_is_scored_by_ours():
    task = Plain()
    assert scored_by(task, "ours") is task is scored_by(task, None)
    found = judged(task, "a", "a")
    assert found.leading.score == 1.0 and found.scores == {}
    facts = scoring_facts(task)
    assert facts["rule"] == "ours" and facts["rules"]["ours"].endswith("Plain.score") and facts["figure"]["kind"] == "mean"
    with pytest.raises(RequestError, match="--scoring official: task 'plain' has no such rule; choose ours"):
        scored_by(task, "official")


@pytest.mark.parametrize(("name", "figure"), [
    ("pope", ("f1", "F1", 100.0)), ("mme", ("mme", "MME total", 2800.0)), ("mmbench", ("circular", "circular accuracy", 100.0)),
    ("ocrbench", ("mean", "OCRBench total", 1000.0)), ("docvqa", ("mean", "ANLS", 100.0)),
])  # fmt: skip
def test_the_figure_that_leads_is_the_benchmarks_own(load, name, figure):
    for rule in ("ours", "official"):
        facts = scoring_facts(scored_by(load(name), rule))["figure"]
        assert (facts["kind"], facts["name"], facts["scale"]) == figure


def test_local_files_of_a_benchmark_are_the_whole_where_they_hold_as_many_questions_as_published(load):
    assert load("pope").whole == {"images": None, "questions": 9000}
    assert load("refcoco").whole == {"images": None, "questions": None}  # how many its splits have is not told here


def test_the_files_of_a_user_are_the_whole(jsonl):
    assert create(str(jsonl([row(), row("images/b.png"), row("images/b.png", id="x")]))).whole == {"images": 2, "questions": 3}


def test_textvqa_with_reference_ocr_tokens(load):
    question = lambda inside="": next(load("textvqa", inside).samples(1, 0)).questions[0].text
    short = "\nAnswer the question using a single word or phrase."
    assert question() == question(",ocr=false") == f"What is the brand?{short}"
    assert question(",ocr=true") == f"What is the brand?\nReference OCR token: NOKIA{short}"
    with pytest.raises(RequestError, match="task 'textvqa': ocr is 'yes'; choose true or false"):
        load("textvqa", ",ocr=yes")
    with pytest.raises(RequestError, match="task 'pope' has no parameter 'ocr'"):
        load("pope", ",ocr=true")


def test_no_benchmark_is_left_out():
    assert set(ROWS) | {"gqa"} == set(BENCHMARKS)
