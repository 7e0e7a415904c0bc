"""Prompts and scores of our tasks, held against lmms-eval's own functions on made-up answers.

The official rules are held against its whole pipeline in ``test_differential_official.py``, multiple choice among them; here,
each is held against the one function that scores, with answers that one can read through.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from harness.tasks.benchmarks import open_ended, yes_no
from harness.tasks.official import OFFICIAL_RULES
from harness.tasks.registry import create
from harness.tasks.target import Target
from tests.tasks.test_benchmarks import ROWS, questions

pytestmark = [pytest.mark.differential, pytest.mark.needs("lmms_eval", "loguru", "evaluate", "sacrebleu", "pytz", "tenacity")]

BENCHMARKS = {
    "pope": yes_no.POPE, "mme": yes_no.MME, "gqa": open_ended.GQA, "vqav2": open_ended.VQAV2, "textvqa": open_ended.TEXTVQA,
    "chartqa": open_ended.CHARTQA, "docvqa": open_ended.DOCVQA, "ocrbench": open_ended.OCRBENCH,
}  # fmt: skip
YES_NO = ["yes", "no", "Yes", " NO ", "maybe", "", "y", "n", "\tyes\n", "unclear", "nothing"]
SENTENCES = ["Yes, there is one.", "No.", "It is not.", "Not at all", "YES!", "I know", "  yes", "y.", "n.", "The answer is yes"]
WORDS = [
    "the dog", "a dog", "Dog.", "dog's", "dogs", "two", "2", "ten", "10", "none", "1,000", "1000", "dont", "don't", "won't",
    "red/blue", "red-blue", "it's", "its", "What's that?", "no, thanks", "U.S.A.", "3.5", "3.", "an apple", "apple;", "the", "",
    "nokia", "NOKIA ", "coca cola", "coca-cola", "10:30", "$5", "5 %", "(left)", "left,right", "new\nline", "tab\there",
]  # fmt: skip
NUMBERS = [
    "14",
    "14.5",
    "13.4",
    "15",
    "1.4e1",
    "14%",
    "0.14",
    "5%",
    "-3",
    "-3.1",
    "Yes",
    "yes",
    "no",
    "14 ",
    "Blue",
    "blue",
    "100",
]


def functions(task: str) -> Any:
    """The module of lmms-eval with the functions of a task."""
    return import_module(f"lmms_eval.tasks.{task}.utils")


def settings(task: str, file: str) -> dict[str, Any]:
    """What lmms-eval's own file says of a task, without the functions that it names."""
    import lmms_eval
    from lmms_eval.utils import load_yaml_config

    return load_yaml_config(str(Path(lmms_eval.__file__).parent / "tasks" / task / file), mode="simple")


def drawn(texts: list[str], count: int = 100, seed: int = 0) -> Iterator[tuple[str, random.Random]]:
    """A hundred predictions, and the numbers with which a test draws the right answers."""
    numbers = random.Random(seed)
    for _ in range(count):
        yield numbers.choice(texts), numbers


FILES = {
    "pope": "pope.yaml", "mme": "mme.yaml", "vqav2": "vqav2_val.yaml", "textvqa": "textvqa_val.yaml", "chartqa": "chartqa.yaml",
    "docvqa": "docvqa_val.yaml", "ocrbench": "ocrbench.yaml",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_prompts(name, tmp_path, parquet):
    rows = ROWS[name]()
    task = create(f"{name}[path={parquet(tmp_path / 'part.parquet', rows)}]")
    words = settings(name, FILES[name])["lmms_eval_specific_kwargs"]["default"]
    theirs = [getattr(functions(name), f"{name}_doc_to_text")(row, words) for row in rows]
    assert sorted(question.text for question in questions(task).values()) == sorted(theirs)


@pytest.mark.parametrize("name", ["pope", "mme", "vqav2", "chartqa", "docvqa", "ocrbench"])
def test_answers_may_be_as_long_as_there_but_for_pope(name):
    """POPE allows 128 tokens for a yes or a no there."""
    theirs, ours = settings(name, FILES[name])["generation_kwargs"]["max_new_tokens"], BENCHMARKS[name].info.answer_tokens
    assert ours == theirs or (name == "pope" and ours < theirs)


def agree(name: str, cases: Iterator[tuple[str, Target]], theirs: Callable[[str, Target], float]) -> None:
    """One score for each answer, and right ones and wrong ones among them."""
    scores = []
    for prediction, target in cases:
        scores.append(OFFICIAL_RULES[name].judge(prediction, target).score)
        assert scores[-1] == pytest.approx(theirs(prediction, target), abs=1e-12), (prediction, target)
    assert len(scores) == 100 and min(scores) == 0 and max(scores) == 1


def test_pope():
    own = functions("pope").pope_process_results
    doc = lambda target: {"question_id": "1", "answer": target.answers[0]}
    cases = (
        (prediction, Target((numbers.choice(("yes", "no")),)))
        for prediction, numbers in drawn([p for p in YES_NO if p not in ("y", "n", "nothing")])
    )
    agree("pope", cases, lambda prediction, target: own(doc(target), [prediction])["pope_accuracy"]["score"])


def test_mme():
    own = functions("mme").mme_process_results
    doc = lambda target: {"question_id": "1", "category": "OCR", "answer": target.answers[0].capitalize()}
    cases = ((prediction, Target((numbers.choice(("yes", "no")),))) for prediction, numbers in drawn(YES_NO + SENTENCES))
    agree("mme", cases, lambda prediction, target: own(doc(target), [prediction])["mme_perception_score"]["score"])


def by_ten(numbers: random.Random) -> Target:
    """Ten people's answers, of few kinds, so that some agree."""
    kinds = numbers.sample(WORDS, 4)
    return Target(tuple(numbers.choice(kinds) for _ in range(10)))


def with_its_answers(seed: int = 0) -> Iterator[tuple[str, Target]]:
    """Predictions, half of them an answer that somebody gave."""
    for prediction, numbers in drawn(WORDS, seed=seed):
        target = by_ten(numbers)
        yield (numbers.choice(target.answers) if numbers.random() < 0.5 else prediction), target


def test_vqav2():
    own = functions("vqav2").vqav2_process_results
    people = lambda target: [{"answer": text, "answer_id": place} for place, text in enumerate(target.answers)]
    doc = lambda target: {"question_id": 1, "answers": people(target)}
    agree("vqav2", with_its_answers(), lambda prediction, target: own(doc(target), [prediction])["exact_match"])


def test_textvqa():
    own = functions("textvqa").textvqa_process_results
    doc = lambda target: {"question_id": 1, "answers": list(target.answers)}
    agree("textvqa", with_its_answers(), lambda prediction, target: own(doc(target), [prediction])["exact_match"])


def test_chartqa():
    own = functions("chartqa").chartqa_process_results
    doc = lambda target: {"type": "human_test", "answer": target.answers[0]}
    texts = [text for text in NUMBERS if text.strip() == text]
    cases = ((prediction, Target((numbers.choice(texts),))) for prediction, numbers in drawn(texts))
    agree("chartqa", cases, lambda prediction, target: own(doc(target), [prediction])["relaxed_overall"])


def test_docvqa():
    from lmms_eval.api.metrics import anls

    cases = ((prediction, Target(tuple(numbers.sample(WORDS, 3)))) for prediction, numbers in drawn(WORDS))
    agree("docvqa", cases, lambda prediction, target: anls(list(target.answers), [prediction])["anls"])


def test_gqa():
    from lmms_eval.api.metrics import exact_match_hf_evaluate as own

    texts = [text for text in WORDS if " ".join(text.split()) == text]  # white space at the ends is nothing to us
    options = {name: settings("gqa", "gqa.yaml")["metric_list"][0][name] for name in ("ignore_case", "ignore_punctuation")}
    pairs = [(prediction, numbers.choice([prediction.upper(), numbers.choice(texts)])) for prediction, numbers in drawn(texts)]
    cases = ((prediction, Target((answer,))) for prediction, answer in pairs)
    agree("gqa", cases, lambda prediction, target: own([prediction], list(target.answers), **options)["exact_match"])


@pytest.mark.parametrize("formula", [False, True])
def test_ocrbench(formula):
    own = functions("ocrbench").ocrbench_process_results
    doc = lambda target: {
        "dataset": "HME100k" if formula else "IIIT5K", "question_type": "Regular Text Recognition", "answer": list(target.answers)
    }  # fmt: skip
    texts = [text for text in WORDS if text and "\t" not in text]  # no answer at all is in every text for lmms-eval
    cases = (
        (f"It says {prediction}", Target(tuple(numbers.sample(texts, 2)), compact=formula))
        for prediction, numbers in drawn(texts)
    )
    score = lambda prediction, target: own(doc(target), [prediction])["ocrbench_accuracy"]["score"]
    agree("ocrbench", cases, score)


def test_figures_of_mme():
    """The score of a category is a hundred times accuracy and accuracy of whole images."""
    from harness.tasks.base import Answered
    from harness.tasks.benchmarks.yes_no import mme_figures

    numbers, rows, theirs = random.Random(3), [], []
    for image in range(50):
        for question in range(2):
            score, kind = float(numbers.random() < 0.7), ("OCR", "count")[image % 2]
            rows.append(Answered(f"{image}-{question}", kind, str(image), "yes", "yes", score))
            theirs.append({"question_id": str(image), "category": kind, "score": score})
    assert mme_figures(rows, yes_no.MME.rules[1])["perception"] == pytest.approx(functions("mme").mme_aggregate_results(theirs))


def test_figures_of_pope():
    """Of answers that say yes or no: one that says neither misses a yes for us, and is left out there."""
    from harness.tasks.base import Answered
    from harness.tasks.benchmarks.yes_no import pope_figures

    numbers, rows, theirs = random.Random(4), [], []
    for place in range(100):
        target, prediction = numbers.choice(("yes", "no")), numbers.choice(("yes", "no"))
        rows.append(Answered(str(place), "random", str(place), target, prediction, float(target == prediction)))
        theirs.append({"prediction": prediction, "ground_truth": target, "score": float(target == prediction)})
    own, found = functions("pope"), pope_figures(rows, yes_no.POPE.rules[1])
    for name in ("precision", "recall"):
        assert found[name] == pytest.approx(getattr(own, f"pope_aggregate_{name}")(theirs))
    assert found["f1"] == pytest.approx(own.pope_aggregate_f1_score(theirs))
