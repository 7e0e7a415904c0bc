"""The metrics of users' own files: their expressions, the answers that they refuse, and what they store."""

from __future__ import annotations

import pytest

from harness.cli.app import main
from harness.errors import RequestError
from harness.tasks.own_metrics import METRICS
from harness.tasks.registry import create, infos
from harness.tasks.target import Target
from tests.tasks.test_files import row


def task(jsonl, metric, *answers):
    """A task of one question for each answer; a list stands in the column ``answers``."""
    rows = [row(question=f"{n} ?", **{"answers" if isinstance(one, list) else "answer": one}) for n, one in enumerate(answers)]
    return create(f"{jsonl(rows)}[metric={metric}]")


def asked(made):
    return [question for sample in made.samples(9, 0) for question in sample.questions]


@pytest.mark.parametrize(
    ("metric", "text", "within", "beyond"),
    [
        ("numeric", "numeric[tolerance=0.05]", "105", "106"),
        ("numeric[]", "numeric[tolerance=0.05]", "105", "106"),
        ("numeric[tolerance=0.05]", "numeric[tolerance=0.05]", "about 95", "94"),
        ("numeric[tolerance=10%]", "numeric[tolerance=0.1]", "110", "111"),
        ("numeric[ tolerance = 0.2 ]", "numeric[tolerance=0.2]", "120 km", "121 km"),
        ("numeric[tolerance=1e-3]", "numeric[tolerance=0.001]", "100.1", "100.2"),
        ("numeric[tolerance=0]", "numeric[tolerance=0]", "100.0", "100.001"),
    ],
)
def test_tolerance(jsonl, metric, text, within, beyond):
    made = task(jsonl, metric, 100)
    assert made.info.metric == text and made.score(within, "100") == 1 and made.score(beyond, "100") == 0


def test_other_parameters_stand_beside_it(jsonl):
    file = jsonl([row(answer=5)])
    made = create(f"{file.parent}[split=questions,metric=numeric[tolerance=0.5]]")
    assert made.info.metric == "numeric[tolerance=0.5]" and made.score("seven", "5") == 1
    rules = made.benchmark.rules
    assert [rule.name for rule in rules] == ["ours"] and "judge_numeric, tolerance 0.5" in rules[0].function


WRONG = {
    "numeric[tolerance=x]": "tolerance is 'x'; give a share of the right answer from 0 to under 1, such as 0.05",
    "numeric[tolerance=-0.1]": "tolerance is '-0.1'; give a share",
    "numeric[tolerance=1]": "tolerance is '1'; give a share",
    "numeric[tolerance=5]": "tolerance is '5'; give a share",
    "numeric[tolerance=nan]": "tolerance is 'nan'; give a share",
    "numeric[tolerance=inf]": "tolerance is 'inf'; give a share",
    "numeric[tolerance=1e999]": "tolerance is '1e999'; give a share",
    "numeric[tolerance=]": "cannot read 'tolerance=' in metric 'numeric'",
    "numeric[0.05]": "cannot read '0.05' in metric 'numeric'",
    "numeric[tolerance=0.1,tolerance=0.2]": "gives tolerance twice",
    "numeric[tolerence=0.1]": "metric 'numeric' has no parameter 'tolerence'; did you mean 'tolerance'?",
    "exact[tolerance=0.1]": "metric 'exact' takes no parameters; 'numeric' takes tolerance",
    "yes_no[tolerance=0.1]": "metric 'yes_no' takes no parameters",
    "numric": "unknown metric 'numric'; did you mean 'numeric'?",
    "yesno": "unknown metric 'yesno'; did you mean 'yes_no'?",
}


@pytest.mark.parametrize("metric", WRONG)
def test_wrong_metrics_are_one_line(jsonl, metric):
    with pytest.raises(RequestError) as error:
        task(jsonl, metric, 5)
    assert WRONG[metric] in str(error.value) and len(str(error.value).splitlines()) == 1


NO_NUMBERS = ["red", "5 km", "3:00", "1,5", "between 3 and 5", "1e999", "5k", "1/0"]


@pytest.mark.parametrize("answer", NO_NUMBERS)
def test_answers_that_are_no_numbers_are_refused(jsonl, answer):
    with pytest.raises(
        RequestError, match=r"questions\.jsonl, line 2, column 'answer': is '.*', no number, which metric 'numeric' needs"
    ):
        task(jsonl, "numeric", 5, answer)
    with pytest.raises(RequestError, match=r"line 1, column 'answers': is '.*', no number"):
        task(jsonl, "numeric", [5, answer])


@pytest.mark.parametrize("answer", ["5", 5, 5.5, "-5", "−5", "1,000", "five", "1/2", "5 %", "1e3", ["5", 6]])
def test_answers_that_are_numbers(jsonl, answer):
    made = task(jsonl, "numeric", answer)
    right = Target.read(asked(made)[0].answer)
    assert made.score(right.answers[0], right.text) == 1 and made.score("7777", right.text) == 0


@pytest.mark.parametrize("answer", ["maybe", "y", "true", 1, "yes and no", "not", ["yes", "maybe"]])
def test_answers_that_are_neither_yes_nor_no_are_refused(jsonl, answer):
    column = "answers" if isinstance(answer, list) else "answer"
    with pytest.raises(
        RequestError, match=rf"questions\.jsonl, line 2, column '{column}': is '.*', neither yes nor no, which metric"
    ):
        task(jsonl, "yes_no", "yes", answer)


def test_yes_and_no(jsonl):
    made = task(jsonl, "yes_no", "Yes.", "NO", " no ", ["yes"])
    assert sorted(question.answer for question in asked(made)) == ["no", "no", "yes", "yes"]
    assert made.score("There isn't a dog", "no") == 1 and made.score("Yes, there is.", "no") == 0
    assert made.benchmark.rules[0].judge("It is not.", Target(("no",))).read == "no"


def test_answers_in_conversations_are_checked(jsonl):
    talk = [{"from": "human", "value": "how many ?"}, {"from": "gpt", "value": "a few"}]
    file = jsonl([{"image": "images/a.png", "conversations": talk}])
    for metric, message in (("numeric", "is 'a few', no number"), ("yes_no", "is 'a few', neither yes nor no")):
        with pytest.raises(RequestError, match=f"line 1, column 'conversations': {message}"):
            create(f"{file}[metric={metric}]")
    talk[1]["value"] = "No."
    assert create(f"{jsonl([{'image': 'images/a.png', 'conversations': talk}])}[metric=yes_no]").score("no", "no") == 1


def test_without_answers_nothing_is_refused(jsonl):
    made = create(f"{jsonl([{'image': 'images/a.png', 'question': 'how many ?'}])}[metric=numeric]")
    assert not made.info.scored


def test_list_tasks_names_every_metric():
    files = next(info for info in infos() if info.name == "<file.jsonl>")
    assert all(name in files.metric for name in METRICS) and "numeric[tolerance=0.05]" in files.metric


@pytest.mark.parametrize(
    ("metric", "message"),
    [("numeric", "line 2, column 'answer': is 'many', no number"), ("numeric[tolerance=-1]", "tolerance is '-1'")],
)
def test_the_command_line_refuses_before_a_model_is_loaded(jsonl, capsys, tmp_path, metric, message):
    file = jsonl([row(answer="5"), row(question="and ?", answer="many")])
    words = ["--model", str(tmp_path / "nowhere"), "--task", f"{file}[metric={metric}]", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        main(["compare", *words])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said and "nowhere" not in said and len(said.strip().splitlines()) == 1
