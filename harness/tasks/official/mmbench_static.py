"""The rule by which lmms-eval scores MMBench without a language model as a judge: the task ``mmbench_en_dev_static``.

First come MMBench's own rules, which look for one letter set apart by spaces, and for the text of one option; what they
leave open, where other tasks of MMBench ask a language model, goes to the letter that lmms-eval finds most prominent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from harness.tasks.rules import Judgement
from harness.tasks.target import Target

LETTERS, OPTIONS = "ABCDE", "ABCD"
"""The letters that are looked for, and those whose texts are: a fifth option is none to it."""
QUANTIFIED = 4
"""From so many words on, a single "A" may be an article, and is not taken."""
REFUSAL = "Failed to obtain answer via API"
"""What an answer says that a service did not give: no letter is looked for in it."""
MARKS = (
    ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."),
    (":", ""), (":", ","), (":", "."), (":", ")"), (":", ")."),
)  # fmt: skip
"""What stands before and behind a letter that is a word together with it, in the order in which they are tried."""
EDGES = ",.!?;:'\""
"""Marks that are taken off both ends, one kind after the other, each once."""
SAYING = (
    "the answer is", "answer is", "the correct answer is", "correct answer is", "the best answer is", "best answer is",
    "the correct option is", "correct option is", "the best option is", "best option is", "the choice is", "choice is",
    "the correct choice is", "correct choice is", "i choose", "i select", "i pick", "my answer is", "my choice is",
    "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip
"""Words behind which a letter is looked for, in English, Korean, Chinese and Japanese."""
SHAPES = ("({})", "{}.", "{}:", "{})", "{} ")
"""How a letter may stand in the text, the most telling first."""


def mmbench(prediction: str, target: Target) -> Judgement:
    """Judge as ``MMBench_Evaluator.eval_sub_data`` does with ``static_only``, for one rotation of a question.

    >>> cats = Target(("B",), ("a cat", "a dog"))
    >>> [mmbench(text, cats).read for text in ("It is B", "a dog, I think", "The answer is B as A is no dog", "neither")]
    ['B', 'B', 'A', None]
    """
    text, options = prediction.strip(), options_of(target)
    said = by_letter(text) or by_text(text, options) or most_prominent(text, sorted(options))
    return Judgement(float(said == target.answers[0]), said)


def options_of(target: Target) -> dict[str, str]:
    """Return the texts of options by their letters as lmms-eval has them: of a column "nan", or of none, the text is "nan"."""
    if target.official:
        return {option[0]: option[3:] for option in target.official}
    return dict(zip(OPTIONS, target.choices))


def by_letter(text: str) -> str | None:
    """Return the letter that is a word of the text, the only one of its kind; with a mark before or behind it if need be."""
    if REFUSAL in text:
        return None
    words = text.split()
    alone = _only(letter for letter in LETTERS if letter in words)
    if alone is not None and not (alone == "A" and len(words) >= QUANTIFIED):
        return alone
    marked = (_only(letter for letter in LETTERS if f"{before}{letter}{behind}" in words) for before, behind in MARKS)
    return next((letter for letter in marked if letter is not None), None)


def by_text(text: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the option whose text is anywhere in the answer, whatever the case, where it is the only one."""
    lower = text.lower()
    return _only(letter for letter, option in options.items() if option.lower() in lower)


def most_prominent(text: str, letters: Iterable[str]) -> str | None:
    """Return the letter that ``extract_mcq_answer`` takes: by how it stands in the text, and of those the last.

    At the start comes first, then at the end, then behind words such as "the answer is", then in brackets and beside other
    marks; a letter inside a word is better than none.
    """
    letters = list(letters)
    for mark in EDGES:
        text = text.strip(mark)
    bare = text.strip()
    text = f" {text} "
    for edge, beside in ((bare[:1], bare[1:2]), (bare[-1:], bare[-2:-1])):
        if edge in letters and not beside.isalpha():
            return edge
    shapes = ({letter: text.rfind(shape.format(letter)) for letter in letters} for shape in SHAPES)
    within = {letter: text.rfind(letter) for letter in letters}
    for places in chain([_behind_a_saying(text, letters)], shapes, [within]):
        last = max(places, key=places.__getitem__)
        if places[last] >= 0:
            return last
    return None


def _behind_a_saying(text: str, letters: Iterable[str]) -> dict[str, int]:
    """Where each letter stands first behind one of the sayings; of several sayings the furthest such place; -1 is nowhere."""
    ends = list(_ends_of_sayings(text.lower()))
    return {letter: max((text.find(letter, end) for end in ends), default=-1) for letter in letters}


def _ends_of_sayings(lower: str) -> Iterator[int]:
    """Where each saying ends that the text holds, the first time it does."""
    for saying in SAYING:
        place = lower.find(saying)
        if place >= 0:
            yield place + len(saying)


def _only(letters: Iterable[str]) -> str | None:
    found = list(letters)
    return found[0] if len(found) == 1 else None
