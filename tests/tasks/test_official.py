"""The official rules and those of authors on answers worked by hand from their code; lmms-eval itself is not needed here.

Values of the authors' rules were computed with their own code: ``evaluate.py`` of AoiDragon/POPE at f3ec604, and
``models/run_gpt3.py`` of lupantech/ScienceQA at 360b71c.
"""

import doctest

import pytest

from harness.tasks import authors, official
from harness.tasks.authors import AUTHORS_RULES
from harness.tasks.benchmarks.grounding import REFCOCO
from harness.tasks.benchmarks.multiple_choice import MMBENCH
from harness.tasks.benchmarks.open_ended import OCRBENCH
from harness.tasks.official import OFFICIAL_RULES, boxes, choices, exact, mmbench_static, short_answers, yes_no
from harness.tasks.registry import BENCHMARKS
from harness.tasks.rows import Row
from harness.tasks.rule_names import AUTHORS, OFFICIAL
from harness.tasks.rules import Judgement
from harness.tasks.target import Target
from tests.tasks import test_benchmarks as rows

ANIMALS = ("a cat", "a dog", "a bird", "a fish")


@pytest.mark.parametrize("module", [authors, boxes, choices, exact, mmbench_static, short_answers, yes_no])
def test_examples_in_docstrings(module):
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


def test_every_benchmark_has_an_official_rule():
    assert set(OFFICIAL_RULES) == set(BENCHMARKS) and set(AUTHORS_RULES) == {"pope", "scienceqa"}
    assert all(rule.name == OFFICIAL and "lmms-eval 0.7.3" in rule.function for rule in OFFICIAL_RULES.values())
    assert all(rule.name == AUTHORS for rule in AUTHORS_RULES.values())
    assert official.VERSION == "lmms-eval 0.7.3"


SCORES = [
    ("pope", "Yes.", Target(("yes",)), 0.0), ("pope", "\tYES ", Target(("yes",)), 1.0),
    ("mme", "I know", Target(("no",)), 0.0),
    ("mme", "know", Target(("no",)), 1.0), ("mme", "A yes", Target(("yes",)), 0.0), ("mme", "N.", Target(("no",)), 1.0),
    ("seedbench", "Because", Target(("B",), ANIMALS), 1.0), ("seedbench", "The answer is B", Target(("B",), ANIMALS), 0.0),
    ("scienceqa", "B.", Target(("B",), ANIMALS), 1.0), ("scienceqa", "B) a dog", Target(("B",), ANIMALS), 0.0),
    ("ai2d", "b!", Target(("B",), ANIMALS), 1.0), ("ai2d", "B. or C.", Target(("B",), ANIMALS), 1.0),
    ("gqa", "İ", Target(("i",)), 1.0), ("gqa", "yes\0", Target(("yes",)), 1.0), ("gqa", "the dog", Target(("dog",)), 0.0),
    ("vqav2", "2", Target(("2", "2", "2")), 2 / 3), ("vqav2", "2", Target(("2",)), 0.0),
    ("vqav2", "." * 33 + "a", Target(("a.",) * 10), 0.0), ("vqav2", "." * 32 + "b", Target(("b.",) * 10), 1.0),
    ("chartqa", "0", Target(("0.0",)), 0.0), ("chartqa", "nan", Target(("14",)), 0.0), ("chartqa", "NaN", Target(("nan",)), 0.0),
    ("chartqa", " 1_4 ", Target(("14",)), 1.0), ("chartqa", "１４", Target(("14",)), 1.0),
    ("chartqa", "1,400", Target(("1400",)), 0.0),
    ("docvqa", "", Target(("", "x")), 1.0), ("docvqa", "ab", Target(("abcd",)), 0.5), ("docvqa", "a", Target(("abcd",)), 0.0),
    ("ocrbench", "nothing", Target(("x", " ")), 1.0), ("ocrbench", "X = 1", Target(("x=1",), compact=True), 0.0),
    ("ocrbench", "x\t= 1", Target(("x=1",), compact=True), 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "prediction", "target", "score"), SCORES)
def test_what_lmms_eval_makes_of_an_answer(name, prediction, target, score):
    assert OFFICIAL_RULES[name].judge(prediction, Target.read(target.text)).score == score


MMBENCH_READ = [
    ("A", "A"), ("A is correct", "A"), ("A is the correct answer.", "A"),
    ("A dog is in the picture", "B"), ("A mouse is in here", "A"),
    ("It is E", "E"),
    ("(B) or (B).", "B"), ("A, B", "B"), ("A or B", "A"), ("not a cat", "A"), ("答案是B", "B"), ("正解はＢ", None),
    ("The answer is B. Option A is wrong, option C is wrong, and option D is wrong.", "B"), ("a banana", None),
    ("Failed to obtain answer via API C", "C"), ("", None), ("DVD", "D"),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "letter"), MMBENCH_READ)
def test_what_mmbench_reads(prediction, letter):
    target = Target(("B",), ANIMALS)
    judged = OFFICIAL_RULES["mmbench"].judge(prediction, target)
    assert judged == Judgement(float(letter == "B"), letter)


def asked(benchmark, row, singles=frozenset()):
    return next(iter(benchmark.ask(Row(row, "line 1", singles=singles)))).target


def test_a_banana_is_nan():
    """An option that lmms-eval reads as the text "nan" is inside "banana"."""
    row = {**rows.mmbench()[0], "D": "nan"}
    two = asked(MMBENCH, row)
    assert two.official == ("A. a cat", "B. a dog", "C. nan", "D. nan")
    assert OFFICIAL_RULES["mmbench"].judge("a banana", two).read is None, "in two options alike"
    none, missing = asked(MMBENCH, {**row, "D": None}), asked(MMBENCH, {key: row[key] for key in row if key != "C"} | {"D": None})
    assert none.official == missing.official == ("A. a cat", "B. a dog", "C. nan")
    assert OFFICIAL_RULES["mmbench"].judge("a banana", none).read == "C"
    assert asked(MMBENCH, rows.mmbench()[2]).official == () == asked(MMBENCH, {**row, "C": None, "D": None}).official


def test_a_formula_is_one_by_its_data_set():
    formula = rows.ocrbench()[1]
    assert asked(OCRBENCH, formula).compact and not asked(OCRBENCH, {**formula, "dataset": "IIIT5K"}).compact
    assert asked(OCRBENCH, {key: formula[key] for key in formula if key != "dataset"}).compact


def test_boxes_keep_every_digit_and_the_type_of_their_column():
    corners = (103.93, 299.99, 238.15, 477.4)
    fine = REFCOCO.scaled(asked(REFCOCO, {**rows.refcoco()[0], "bbox": list(corners)}), (640, 427))
    far = ((103.93 + 238.15) / 640, (299.99 + 477.4) / 427)
    assert tuple(map(float, fine.official)) == (103.93 / 640, 299.99 / 427, *far)
    assert fine.answers == ("[0.162391, 0.702553, 0.534500, 1.000000]",)
    coarse = [103.93000030517578, 299.989990234375, 238.14999389648438, 477.3999938964844]  # as 32-bit floats
    kept = REFCOCO.scaled(asked(REFCOCO, {**rows.refcoco()[0], "bbox": coarse}, frozenset({"bbox"})), (640, 427)).official
    as_datasets_keeps_them = ("0.16239061951637268", "0.7025526762008667", "0.534500002861023", "1.8205854892730713")
    assert kept == as_datasets_keeps_them


def test_a_union_of_nothing_is_not_decided():
    """The right box has the area 1, the given one, with its corners the wrong way round, -1."""
    right = Target(("[0, 0, 1, 1]",), official=("0.0", "0.0", "1.0", "1.0"))
    judge = OFFICIAL_RULES["refcoco"].judge
    assert judge("[3, 2, 2, 3]", right) == Judgement(0.0, "[3, 2, 2, 3]", decided=False)
    assert judge("(0, 0, 1, 1)", right) == judge("[0, 0, 1]", right) == Judgement(0.0)
    assert judge("[0, 0, 1, 1, 1] [ 0,0 ,1,1] [0, 0,1,1]", right).read == "[0, 0,1,1]"


def test_official_facts_survive_being_a_text():
    for target in (Target(("B",), ("x", "y"), official=("A. x",)), Target(("[0, 0, 1, 1]",), official=("0.1",))):
        assert Target.read(target.text) == target
    assert Target.read('{"answers": ["B"], "official": "x"}') == Target(('{"answers": ["B"], "official": "x"}',))


POPE = [
    ("yes", "yes"), ("No", "no"), ("no", "no"), ("NO", "yes"), ("No.", "no"), ("no!", "yes"), ("Yes. But it is not red", "yes"),
    ("There is no dog", "no"), ("It, is, not, there", "no"), ("", "yes"), ("maybe", "yes"), ("No\n", "yes"), ("nothing", "yes"),
    ("No,there is none", "yes"), ("0.5 no", "yes"), ("isn't", "yes"), (". no", "yes"), ("  no  ", "no"), ("Not at all", "yes"),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "word"), POPE)
def test_pope_by_its_authors(prediction, word):
    judged = [AUTHORS_RULES["pope"].judge(prediction, Target((right,))) for right in ("yes", "no")]
    assert judged == [Judgement(float(word == right), word) for right in ("yes", "no")]


SCIENCEQA = [
    ("The answer is B.", "B"), ("The answer is B", None), ("The answer is B!", "B"), ("The answer is BECAUSE", "B"), ("B", None),
    ("The answer is A. The answer is B.", None), ("Since it rains. The answer is C. BECAUSE: it does", "C"), ("", None),
    ("The answer is E.", None), ("The answer is Z.", None), ("the answer is B.", None), ("The answer is B.\n", "B"),
    ("The answer is B\nA", None), ("The answer is (B).", None), ("The answer is B. so The answer is Z", "B"),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "letter"), SCIENCEQA)
def test_scienceqa_by_its_authors(prediction, letter):
    judged = AUTHORS_RULES["scienceqa"].judge(prediction, Target(("B",), ANIMALS))
    assert judged == Judgement(float(letter == "B"), letter, decided=letter is not None)
