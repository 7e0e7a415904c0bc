"""Answers as models give them, and what a person marks: the tables of public reports (lighteval, VLMEvalKit, lmms-eval)."""

from __future__ import annotations

import pytest

from harness.tasks.choice import choice, letter
from harness.tasks.scoring import exact
from harness.tasks.target import Target

OPTIONS = {"counts": ("one", "two", "three", "four"), "animals": ("a cat", "a dog", "a bird", "a fish")}
CHOICES = [
    ("The answer is B. Option A is incorrect because it ignores the sign.", "B"),
    ("The correct answer is B. Option A is wrong, option C is wrong, and option D is wrong.", "B"),
    ("B because the cat is small", "B"),
    ("B\n\nExplanation: it is not a cat", "B"),
    ("A is correct", "A"),
    ("A is the correct answer.", "A"),
    ("A or B", None),
    ("A and B", None),
    ("A, B", None),
    ("The answer is not A.", None),
    ("not a cat", None),
    ("Not A, but B", "B"),
    ("Choice A is wrong, it is B", "B"),
    ("答案是B", "B"),
    ("选B", "B"),
    ("Ｂ", "B"),
    ("The correct answer is b because the others are not.", "B"),
    ("Answer - B. A, C and D do not fit.", "B"),
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("answer", "right"), CHOICES)
def test_the_option_of_an_answer(answer, right, options):
    choices = OPTIONS[options]
    assert letter(answer, choices) == right
    assert [choice(answer, Target((name,), choices)) for name in "ABCD"] == [float(name == right) for name in "ABCD"]


@pytest.mark.parametrize("options", OPTIONS)
def test_all_options_repeated_are_none(options):
    lettered = [f"{name}. {text}" for name, text in zip("ABCD", OPTIONS[options])]
    for answer in (" ".join(lettered), "\n".join(lettered), ", ".join(OPTIONS[options]), "A, B, C, D"):
        assert letter(answer, OPTIONS[options]) is None


@pytest.mark.parametrize(
    ("answer", "target", "score"),
    [
        ("1.5", "15", 0), ("-5", "5", 0), ("3:00", "300", 0), ("café", "cafe\u0301", 1), ("红色。", "红色", 1),
        ("it’s", "it's", 1),
        ("“red”", "red", 1),
    ],
)  # fmt: skip
def test_numbers_and_unicode_under_exact(answer, target, score):
    assert exact(answer, Target((target,))) == exact(target, Target((answer,))) == score
