"""Our rule for multiple choice on answers whose option people marked, on endless answers, and beside lmms-eval's."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.tasks.choice import judge_choice, letter
from harness.tasks.rules import Judgement
from harness.tasks.target import Target

OPTIONS = {
    "counts": ["one", "two", "three", "four"],
    "animals": ["a cat", "a dog", "a bird", "a fish"],
    "two": ["a cat", "a dog"],
    "numbers": ["1", "10", "1.5", "2"],
    "colours": ["red", "dark red", "blue", "light blue"],
    "yesno": ["yes", "no"],
    "swapped": ["B", "A"],
    "above": ["a cat", "a dog", "both", "None of the above"],
    "marks": ["U.S.A.", "It's 5 o'clock.", "C++", "$5 (each)"],
    "ten": ["apple", "pear", "plum", "fig", "kiwi", "lime", "lemon", "mango", "melon", "grape"],
    "sides": ["left", "right"],
    "truth": ["true", "false"],
    "chinese": ["一只猫", "一只狗", "一只鸟", "一条鱼"],
    "free": [],
    "sent": [
        "The man is riding a horse.",
        "The man is standing near a horse.",
        "The man is feeding the horse.",
        "There is no horse in the picture.",
    ],
    "num": ["5 cm", "50 cm", "0.5 cm", "15 cm"],
    "pct": ["5%", "50%", "15%", "0.5%"],
    "time": ["3:00", "3:15", "12:30", "1:00"],
    "name": ["Paris", "London, England", "New York City", "York"],
    "yn": ["Yes", "No", "Maybe", "Cannot be determined"],
    "ab": ["A and B", "only A", "only B", "neither A nor B"],
    "dir": ["top left", "top right", "bottom left", "bottom right"],
    "neg": ["-1", "1", "-10", "10"],
    "frac": ["1/2", "1/4", "3/4", "1"],
    "let": ["K", "L", "M", "N"],
    "an": ["an apple", "an orange", "the sun", "a car"],
    "ord": ["the first one", "the second one", "the third one", "the last one"],
    "long": [
        "It increases the rate of reaction",
        "It decreases the rate of reaction",
        "It does not affect the rate of reaction",
        "It stops the reaction",
    ],
    "name2": ["Anna", "Ann", "Bob", "Bobby"],
    "is": ["is", "are", "was", "be"],
    "prep": ["in", "on", "at", "to"],
    "math": ["x + 1", "x - 1", "x", "2x"],
    "hot": ["Because it is cold", "Because it is hot", "It isn't so"],
    "isit": ["Yes, it is", "No, it is not"],
}
TABLE = Path(__file__).with_name("choices.tsv").read_text(encoding="utf-8").splitlines()[1:]
"""Options, the option that a reader marks ("-" is none), the answer: each value was marked before the rule was asked."""


def rows(name):
    """The answers of a set of options, with what is right."""
    for line in TABLE:
        options, right, answer = line.split("\t")
        if options == name:
            yield answer.replace("\\n", "\n"), None if right == "-" else right


def test_the_table_is_whole():
    assert len(TABLE) > 1100 and {line.split("\t")[0] for line in TABLE} == set(OPTIONS)
    assert sum(line.split("\t")[1] == "-" for line in TABLE) > 200


@pytest.mark.parametrize("name", OPTIONS)
def test_answers_are_read_as_a_person_reads_them(name):
    wrong = [(answer, right, found) for answer, right in rows(name) if (found := letter(answer, OPTIONS[name])) != right]
    assert not wrong


@pytest.mark.parametrize("name", ["animals", "counts"])
def test_marks_of_layout_change_nothing(name):
    """White space, capitals of an answer in words, and bold type around the whole."""
    for answer, right in list(rows(name))[::3]:
        if answer.strip() and "*" not in answer:
            assert letter(f"\n {answer} \n", OPTIONS[name]) == right, answer
            assert letter(f"**{answer}**" if "\n" not in answer else answer, OPTIONS[name]) == right, answer


def test_what_was_read_goes_with_the_score():
    target = Target(("B",), ("a cat", "a dog"))
    assert judge_choice("The answer is b", target) == Judgement(1.0, "B")
    assert judge_choice("It is a cat", target) == Judgement(0.0, "A")
    assert judge_choice("A or B", target) == Judgement(0.0, None)


ENDLESS = [
    "A B ", "A, ", "a", "a dog ", "not ", "(", "it is the ", "not the option ", " ", "\n", "{", "*", "_a", "\\boxed{",
    "word ", "'",
    "A is wrong and ", "except ", "1", "1,", "<b", "no, ", "if A ", "不是", "A? No. ", "the ", "-", "; ", "A\t \n", "A-",
    "A.", "$",
    "answer is ", "the correct answer is not ", "neither A nor ", "dark ", "### ", "</think>", '"', "，", "a. ", "(A) ", "A: ",
    "~~", "~~A", "❌ A ", "A. Also ", "A. 1. ", "A's the best ", "A = ", "A+", "A-", "A o ", "A. Or B. ",
    "wrong: A, ", "avoid A, ", "A?. ",
]  # fmt: skip


@pytest.mark.parametrize("piece", ENDLESS)
def test_time_is_linear(piece):
    options = [*OPTIONS["animals"], "dark red"]
    short, long = (piece * (size // len(piece)) + "B" for size in (400, 4_000))
    letter(short, options)
    start = time.process_time()
    letter(short, options)
    middle = time.process_time()
    letter(long, options)
    taken = time.process_time() - middle
    assert taken < max(0.5, 40 * (middle - start)), "ten times as long takes ten times as long, and nothing takes a second"


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60), st.lists(st.text(max_size=12), min_size=0, max_size=5))
def test_whatever_the_texts_an_option_or_none_is_read(answer, options):
    found = letter(answer, options)
    assert found is None or (len(found) == 1 and "A" <= found <= ("Z" if not options else chr(ord("A") + len(options) - 1)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.sampled_from(["{}", "{}.", "({})", "The answer is {}.", "{} is correct.", "Not {}"]), st.randoms())
def test_letters_are_read_alike(place, form, numbers):
    """The rule prefers no option: what holds of one letter holds of all, whatever the order of the options."""
    options = OPTIONS["animals"][:]
    numbers.shuffle(options)
    assert letter(form.format("ABCD"[place]), options) == (None if "Not" in form else "ABCD"[place])


TAKEN = [
    "The answer is {X}. {Y} is a distractor.", "{X}, because {Y} does not make sense.", "{X}: {Y} is too small.",
    "{X}\n{Y} is wrong because it is too small.", "{X} is the correct choice. {Y} can be excluded.",
    "I choose {X}. {Y} is not possible.", "({X}) since ({Y}) is wrong", "({X}). ({Y}) is wrong.",
    "Option {X} rather than option {Y}", "not {Y} but {X}", "Not {Y}, {X}.", "It isn't {Y}; it's {X}.",
    "It can't be {Y}, so {X}.", "{Y} can't be right, so it is {X}.", "{Y} is ruled out, so {X} remains.",
    "{Y} rules itself out. {X}.", "Rather than {Y}, {X}.", "{X} instead of {Y}.", "{Y}? No. {X}.", "{Y}? No, {X}!",
    "{Y}. Wait, no. {X}.", "{Y}. No, {X}.", "{Y}... actually {X}.", "{Y} - no, {X}", "{Y}, no, {X}", "{Y}, I mean {X}",
    "I first thought {Y}, but {X} is right.", "The answer is not {Y} but {X}.", "The answer is {X} and not {Y}.",
    "The answer is {X}, {Y} being wrong.", "The correct answer is {X}; option {Y} describes something else.",
    "Answer: {X}. Explanation: {Y} describes another animal.", "Final answer: {X}",
    "{Y} is not supported by the picture. Final answer: {X}",
    "Considering {Y} first: it has no whiskers. Considering {X}: it matches. Therefore the answer is {X}.",
    "We can rule out {Y}. The answer: {X}", "{X} (and not {Y})", "{X} not {Y}", "{X}; {Y} is false",
    "{X} is true, {Y} is false", "{X} is right and {Y} is wrong", "{Y} is wrong and {X} is right",
    "{Y} is false. {X} is true.", "{Y} isn't it, {X} is.", "{Y} is incorrect; therefore, {X}.",
    "{Y} is incorrect. Therefore: {X}", "Everything except {X} is wrong.", "All options but {X} are incorrect.",
    "None except {X} is right.", "No answer other than {X} is right.", "Nothing except {X} matches.",
    "Only {X} can be right.", "It must be {X} because it cannot be {Y}.", "It cannot be {Y}. It must be {X}.",
    "The best choice is {X}, not {Y}.", "{X} fits better than {Y}.", "{X} is better than {Y}.",
    "{X} is more suitable than {Y}.", "Between {Y} and {X}, {X} is right.", "Between {X} and {Y}, I would choose {X}.",
    "答案是{X}，不是{Y}。", "不是{Y}，而是{X}", "{Y}不对，{X}对", "选{X}，因为{Y}不对", "{Y}是错误的，{X}是正确的",
    "{X}是正确的，{Y}是错误的", "排除{Y}，选{X}", "应该选择{X}而不是{Y}", "{X}而不是{Y}", "{X}，不是{Y}",
    "答えは{X}です。{Y}ではありません。", "{Y}ではなく{X}です", "정답은 {X}입니다. {Y}는 틀렸습니다.",
    "{Y}가 아니라 {X}입니다",
]  # fmt: skip
"""Forms in which X is taken, whatever is said of Y."""
NONE_TAKEN = [
    "Not {Y}.", "It's not {Y}", "It isn't {Y}.", "It is not {Y}.", "It can't be {Y}", "It cannot be {Y}.",
    "It couldn't be {Y}", "The answer is not {Y}.", "The answer isn't {Y}", "The correct answer is not {Y}.",
    "The answer can't be {Y}.", "{Y} is wrong.", "{Y} is not right", "{Y} isn't correct", "{Y} can't be the answer",
    "{Y} is false", "Anything but {Y}", "Anything other than {Y}", "Other than {Y}", "Except {Y}", "Everything except {Y}",
    "All options except {Y}", "Neither {X} nor {Y}", "neither {X} nor {Y} is right", "It is neither {X} nor {Y}.",
    "{X} or {Y}", "{X} and {Y}", "{X}, {Y}", "{X}/{Y}", "{X} & {Y}", "both {X} and {Y}", "either {X} or {Y}",
    "It could be {X} or {Y}", "{X} or maybe {Y}", "{X} and also {Y}", "The answer is {X} or {Y}.",
    "The answer is {X} and {Y}.", "Answers: {X}, {Y}", "This rules out {Y}.", "{Y} is ruled out", "{Y} must be excluded.",
    "Definitely not {Y}", "I would not choose {Y}.", "I don't think it's {Y}", "I do not think the answer is {Y}.",
    "Never {Y}", "not {X}, not {Y}", "not {X} and not {Y}", "not {X} or {Y}", "不是{Y}", "答案不是{Y}", "{Y}不对",
    "{Y}是错的", "{X}或{Y}", "{X}和{Y}", "{Y}ではない", "{Y}ではありません", "{Y}が間違っています", "{X}か{Y}",
    "{Y}가 아닙니다", "{X} 또는 {Y}", "{X}、{Y}",
]  # fmt: skip
"""Forms in which nothing is."""


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 0), (3, 2)])
def test_forms_are_read_alike_with_letters_and_texts(one, other):
    wrong = []
    for form in (*TAKEN, *NONE_TAKEN):
        right = "ABCD"[one] if form in TAKEN else None
        named = [("ABCD"[one], "ABCD"[other])]
        if form.isascii():
            named.append((OPTIONS["animals"][one], OPTIONS["animals"][other]))
        for x, y in named:
            answer = form.format(X=x, Y=y)
            answer = answer[0].upper() + answer[1:]
            wrong += [answer] * (letter(answer, OPTIONS["animals"]) != right)
    assert not wrong


PLAIN = ["{letter}", "{letter}.", "({letter})", "{letter}. {text}", "The answer is {letter}."]
"""Forms of which nobody doubts what is meant."""


@pytest.mark.differential
@pytest.mark.needs("lmms_eval", "loguru")
def test_plain_answers_are_read_as_lmms_eval_reads_them():
    from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

    numbers = random.Random(0)
    words = ["a cat", "a dog", "two", "dark red", "the left one", "10", "no", "running water", "one metre", "France"]
    for _ in range(2000):
        options = numbers.sample(words, numbers.randint(2, 8))
        right = numbers.randrange(len(options))
        answer = numbers.choice(PLAIN).format(letter="ABCDEFGH"[right], text=options[right])
        assert letter(answer, options) == extract_mcq_answer(answer, list("ABCDEFGH"[: len(options)])) == "ABCDEFGH"[right], (
            answer
        )
