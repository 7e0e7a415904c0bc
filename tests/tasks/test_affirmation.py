"""Yes and no as a person reads them who has not seen the question."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.tasks.reading.affirmation import judge_yes_no, said, yes_no
from harness.tasks.rules import Judgement
from harness.tasks.target import Target

SAID = {
    "yes": [
        "yes", "Yes.", "YES, there is a dog", "y", "Y.", "yes!", '"Yes"', "**Yes**", "(yes)", "Yes, it is not", "Yes - a dog",
        "Yeah", "Yep.", "Sure", "Certainly.", "Correct.", "True", "That is correct.", "It is.", "It is", "They are.",
        "It does.", "I think so.", "Of course.", "Answer: yes", "The answer is yes.", "The answer is Yes, there is a dog.",
        "It is. Yes", "There is a dog. So yes.", "Well, yes.", "Yes, there is no dog.", "是", "是的", "是的，图中有一只狗",
        "有", "对",
        "对的。", "正确", "はい", "はい、います", "네", "예, 있습니다", "Sí", "Sí, hay un perro", "Oui.", "Ja", "да", "نعم",
        "So, the answer is yes.", "Let me see. There is a dog on the mat. Yes.", "Without a doubt, yes", "Ｙｅｓ",
        "\\boxed{yes}", "\\boxed{\\text{Yes}}", "Definitely yes.", "Yes I can see it", "it's true", "Indeed it is",
    ],
    "no": [
        "no", "No.", "NO!", "n", "No, there is not", "No, there is", "No, it's a cat", "no dog", "No dogs are visible",
        "Not at all", "not really", "No one is there", "Nobody.", "None", "Never.", "Nope", "It is not", "It is not.",
        "It isn't", "There is no dog", "There is no dog.", "There is no dog in the picture.", "There isn't a dog.",
        "There are no dogs, only cats.", "I don't see a dog.", "I do not see any dog in the image.",
        "The dog is not on the mat.", "The image does not show a dog.", "I don't think so.", "False", "Incorrect.", "Wrong",
        "That is not correct.", "That is incorrect.", "Answer: no", "The answer is no.", 'The answer is "no".',
        "Final answer: No", "I see a cat on the mat. No.", "Therefore, no.", "不", "不是", "不是的", "没有", "沒有", "否",
        "不对", "图中没有狗",
        "没有，图中只有猫。", "いいえ", "いいえ、ありません", "아니요", "아니오.", "Nein", "Non, il n'y a pas", "нет", "لا",
        "It is not a dog, it is a cat.", "Not a dog", "It cannot be seen.", "He doesn't.", "They are not", "n.o",
        "None of them are red", "Ｎｏ", "\\boxed{no}", "Nothing is there", "Neither of them is red.", "Not in this picture.",
    ],
    "other": [
        "", "x", "maybe", "Yes and no", "yes or no", "Yes/No", "Yes, no", "Is it? yes and no", "I don't know",
        "I am not sure", "Not sure.", "I cannot tell.", "It is not clear", "It cannot be determined", "unclear", "Possibly",
        "there is", "There is a dog", "A dog", "dog", "a cat is on the mat", "是不是", "It is a cat", "是一只猫",
        "There is no way to tell.", "I have no idea", "Not only a dog", "It is not true that there is no dog", "notable",
        "nothingness", "yesterday", "Norway", "Noon", "nobel", "knows", "It may or may not be.", "Please answer yes or no.",
        "The picture shows a dog.", "nose", "Northern", "yesss", "The question cannot be answered.",
        "Not enough information.", "Hard to say", "I am unable to answer.", "It's unclear whether there is no dog",
    ],
}  # fmt: skip


TABLE = Path(__file__).with_name("affirmations.tsv").read_text(encoding="utf-8").splitlines()[1:]
"""What a reader says that an answer says, and the answer: each was marked before the rule was asked."""


@pytest.mark.parametrize("meant", SAID)
def test_the_table_is_read_as_a_person_reads_it(meant):
    rows = [row.split("\t") for row in TABLE]
    answers = [answer.replace("\\n", "\n") for mark, answer in rows if mark == meant]
    assert len(answers) > 150
    assert not [(answer, said(answer)) for answer in answers if said(answer) != meant]


EMPHASES = ["Certainly", "Definitely", "Absolutely", "Of course", "Indeed", "Surely", "Obviously", "Most certainly", "For sure"]
DENIALS = ["{} not", "{} not.", "{}, no.", "{} no", "{}, there is no dog.", "{} there isn't a dog.", "{} it is not.",
           "{}! There are no dogs."]  # fmt: skip


@pytest.mark.parametrize("emphasis", EMPHASES)
def test_an_emphasis_makes_no_yes_of_a_denial(emphasis):
    for form in DENIALS:
        for opening in ("", "Answer: ", "Well, "):
            assert said(opening + form.format(emphasis)) == "no", opening + form.format(emphasis)
    for form in ("{}", "{}.", "{}, yes.", "{} yes", "{}, it is."):
        assert said(form.format(emphasis)) == "yes", form.format(emphasis)


@pytest.mark.parametrize("meant", SAID)
def test_what_is_said(meant):
    assert not [(answer, said(answer)) for answer in SAID[meant] if said(answer) != meant]


def test_what_was_read_goes_with_the_score():
    assert judge_yes_no("There is no dog.", Target(("no",))) == Judgement(1.0, "no")
    assert judge_yes_no("Yes", Target(("no",))) == Judgement(0.0, "yes")
    assert judge_yes_no("maybe", Target(("no",))) == Judgement(0.0, None)
    assert yes_no("It isn't.", Target(("No",))) == 1 and yes_no("maybe", Target(("no", "yes"))) == 0


def test_thoughts_are_no_answer():
    assert said("<think>No, there is none. Or is there?</think>Yes") == "yes"


@pytest.mark.parametrize(
    "piece",
    [
        "no ", "yes, ", "not ", "the answer is ", "x", "\n", "there is no ", "是", "well ", "certainly ", "- ", "no, wait ",
        "so ", "~~", "(", "i think ", "probably so, ", "it's ", "no. ", ",", "and ", "?", "no? ", "if ", " ", "sure. ", "sign ",
        "\\", "yes or no ", ".",
    ],
)  # fmt: skip
def test_an_endless_answer_is_read_in_linear_time(piece):
    start = time.process_time()
    said(piece * (20_000 // len(piece)) + "B")
    assert time.process_time() - start < 1
