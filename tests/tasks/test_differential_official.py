"""The official rules held against lmms-eval: 5,000 answers a task through its own pipeline and through ours.

Each answer is scored by both, and they must agree to the last bit, one by one and added up; every branch of a rule must have
been taken by at least fifty answers. The table of it is printed at the end of the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from harness.tasks.authors import AUTHORS_RULES
from harness.tasks.benchmarks import grounding, multiple_choice, open_ended, yes_no
from harness.tasks.official import OFFICIAL_RULES
from harness.tasks.own_figures import KINDS, ScoredAnswers
from harness.tasks.rows import Row
from harness.tasks.rule_names import OFFICIAL, OURS
from harness.tasks.rules import Judgement
from harness.tasks.tables import columns_of_singles
from harness.tasks.target import Target
from tests.tasks.answer_branches import BRANCHES, branches
from tests.tasks.answer_grammar import Answers
from tests.tasks.made_up_rows import COGNITION, PERCEPTION, ROWS, mmbench

pytestmark = [
    pytest.mark.differential,
    pytest.mark.needs("lmms_eval", "datasets", "pandas", "loguru", "evaluate", "sacrebleu", "pytz", "tenacity"),
]
ANSWERS, LEAST = 5000, 50
EXPRESSIONS = 2  # questions of a row of RefCOCO

BENCHMARKS = {
    "pope": yes_no.POPE, "mme": yes_no.MME, "mmbench": multiple_choice.MMBENCH, "scienceqa": multiple_choice.SCIENCEQA,
    "seedbench": multiple_choice.SEEDBENCH, "ai2d": multiple_choice.AI2D, "gqa": open_ended.GQA, "vqav2": open_ended.VQAV2,
    "textvqa": open_ended.TEXTVQA, "chartqa": open_ended.CHARTQA, "docvqa": open_ended.DOCVQA, "ocrbench": open_ended.OCRBENCH,
    "refcoco": grounding.REFCOCO,
}  # fmt: skip


def parts(name: str, random: Random) -> list[Any]:
    """The data sets of a task: MMBench also without its last column, RefCOCO with boxes of 32-bit floats and of 64-bit ones."""
    import datasets

    from tests.tasks.lmms_side import single

    if name == "refcoco":
        rows = ROWS[name](250, random)
        return [single(rows[:125]), datasets.Dataset.from_list(rows[125:])]
    if name == "mmbench":
        few = [{key: value for key, value in row.items() if key != "D"} for row in mmbench(ANSWERS // 4, random, 3, 500_000)]
        return [datasets.Dataset.from_list(rows) for rows in (mmbench(ANSWERS - len(few), random), few)]
    return [datasets.Dataset.from_list(ROWS[name](ANSWERS, random))]


def targets(name: str, data: Any) -> list[Target]:
    """The right answers of each question as a run stores and reads them again."""
    found, singles = [], columns_of_singles(data.features.arrow_schema)
    for place, values in enumerate(data):
        asked = list(BENCHMARKS[name].ask(Row(values, f"row {place}", singles=singles)))
        scaled = BENCHMARKS[name].scaled
        found += [scaled(one.target, tuple(values["size"])) if scaled else one.target for one in asked]
    return [Target.read(target.text) for target in found]


def answer(name: str, target: Target, answers: Answers) -> str:
    """An answer to a question of a task."""
    if name in ("pope", "mme"):
        return answers.yes_or_no(target.answers[0])
    if name in ("mmbench", "scienceqa", "seedbench", "ai2d"):
        return answers.choice(target.choices, ord(target.answers[0]) - ord("A"))
    if name == "chartqa":
        return answers.number(target.answers[0])
    if name == "refcoco":
        return answers.box([float(number) for number in target.official])
    return answers.short(target.answers)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_official_is_what_lmms_eval_computes(name: str, tmp_path: Path, compared_rules: Callable[..., None]) -> None:
    from tests.tasks import lmms_side

    random, answers = Random(f"rows {name}"), Answers(name)
    theirs, right, texts = [], [], []
    for number, data in enumerate(parts(name, random)):
        own = targets(name, data)
        each = ANSWERS // 2 // len(own) if name == "refcoco" else 1
        asked = [(place, answer(name, own[place], answers)) for place in range(len(own)) for _ in range(each)]
        theirs.append(lmms_side.scored(name, data, asked, tmp_path / f"data{number}"))
        right += [own[place] for place, _ in asked]
        texts += [text for _, text in asked]
    scores = [score for part in theirs for score in part.scores]
    docs = [doc for part in theirs for doc in part.rows]
    rules = {rule.name: rule for rule in BENCHMARKS[name].rules}
    rule = rules[OFFICIAL]
    judged = [rule.judge(text, target) for text, target in zip(texts, right, strict=True)]
    assert len(judged) == ANSWERS == len(scores)

    differing = [
        (text[:200], target, score, one) for text, target, score, one in zip(texts, right, scores, judged)
        if (one.score, one.decided) != ((0.0, False) if score is None else (score, True))
    ]  # fmt: skip
    ours = [rules[OURS].judge(text, target).score for text, target in zip(texts, right)]
    undecided = sum(not one.decided for one in judged)
    better = sum(mine > one.score for mine, one in zip(ours, judged))
    worse = sum(mine < one.score for mine, one in zip(ours, judged))
    compared_rules(name, len(judged), len(differing), better, worse, undecided)
    assert not differing, differing[:5]

    whole = lmms_side.Scored(docs, scores, [result for part in theirs for result in part.results], theirs[0].task)
    assert aggregated(name, docs, judged, right) == pytest.approx(whole.aggregated(tmp_path), rel=1e-12)

    taken = Counter(
        branch
        for text, target, doc, score in zip(texts, right, docs, scores)
        for branch in branches(name, text, target, doc, score)
    )
    rare = {branch: taken[branch] for branch in BRANCHES[name] if taken[branch] < LEAST}
    assert not rare and not set(taken) - set(BRANCHES[name]), (rare, taken)


def aggregated(name: str, docs: list[dict[str, Any]], judged: list[Judgement], right: list[Target]) -> float:
    """The benchmark's own figure of the official rule, in lmms-eval's unit."""
    known = [place for place, one in enumerate(judged) if one.decided]
    images = {image: number for number, image in enumerate(dict.fromkeys(image_of(name, docs[place], place) for place in known))}
    kinds = PERCEPTION + COGNITION
    words = {"yes": 1.0, "no": 0.0}
    answers = ScoredAnswers(
        score=np.array([judged[place].score for place in known]),
        image=np.array([images[image_of(name, docs[place], place)] for place in known]),
        category=np.array([kinds.index(docs[place]["category"]) if name == "mme" else 0 for place in known]),
        categories=kinds if name == "mme" else ["all"],
        wanted=np.array([words.get(right[place].answers[0], np.nan) for place in known]),
        said=np.array([words.get(judged[place].read or "", np.nan) for place in known]),
    )
    figure = OFFICIAL_RULES[name].figure
    kind = KINDS[figure.kind](**dict(figure.options))
    share = float(kind.value(kind.by_image(answers, len(images)).sum(0)))
    units = {"mme": figure.scale, "mmbench": figure.scale, "ocrbench": len(judged) / 1000}  # lmms-eval adds OCRBench up to 1000
    return share * units.get(name, 1.0)


def image_of(name: str, doc: dict[str, Any], place: int) -> Any:
    """What the rotations of a question, or the two questions on an image, have in common."""
    return doc["index"] % 1_000_000 if name == "mmbench" else doc["question_id"] if name == "mme" else place


def test_authors_of_pope_say_yes_or_no_to_everything() -> None:
    answers = Answers("authors")
    read = Counter(AUTHORS_RULES["pope"].judge(answers.yes_or_no("yes"), Target(("yes",))).read for _ in range(1000))
    assert set(read) == {"yes", "no"} and min(read.values()) > 50
