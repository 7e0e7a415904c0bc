"""Which branches of lmms-eval's rules an answer takes, told from the answer alone and not by our own rules.

A test counts them, so that a rule that agrees has agreed on every one of its branches.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

from harness.tasks.target import Target

Doc = dict[str, Any]
MARKS = [("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."), (":", ""), (":", ","), (":", "."),
         (":", ")"), (":", ").")]  # fmt: skip
_SAID = [
    "answer is",
    "option is",
    "choice is",
    "i choose",
    "i select",
    "i pick",
    "옵션",
    "정답은",
    "답은",
    "답:",
    "答案是",
    "答案为",
    "选",
    "答えは",
]
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
_SIGNS = re.escape(';/[]"{}()=+\\_-><@`,?!')


def branches(name: str, text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    """Yield the branches that an answer takes in the rule of a task; ``score`` is lmms-eval's, None where it ends in an error."""
    return _BY_TASK[name](text, target, doc, score)


def _pope(text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    said = text.strip().lower()
    yield f"says {said}" if said in ("yes", "no") else f"says neither, {doc['answer']} is right"


def _mme(text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    plain = text.strip().lower()
    if "." in plain:
        yield "full stops go"
    plain = plain.replace(".", "")
    if plain in ("yes", "no", "y", "n"):
        yield plain
    elif len(plain) == 1:
        yield "another sign"
    else:
        start = plain[:4]
        yield "yes at the start" if "yes" in start else "no at the start" if "no" in start else "neither" if plain else "nothing"


def _mmbench(text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    text = text.strip()
    options = {name: doc.get(name, "nan") for name in "ABCD"}
    options = {name: option for name, option in options.items() if option is not None}
    if "Failed to obtain answer via API" in text:
        yield "a failure of the service"
    else:
        words = text.split()
        alone = [letter for letter in "ABCDE" if letter in words]
        if len(alone) == 1 and (alone != ["A"] or len(words) < 4):
            yield "E alone" if alone == ["E"] else "a letter alone"
            return
        if alone == ["A"]:
            yield "A may be an article"
        for before, behind in MARKS:
            if sum(f"{before}{letter}{behind}" in words for letter in "ABCDE") == 1:
                yield f"a letter as {before}_{behind}"
                return
    inside = [option for option in options.values() if option.lower() in text.lower()]
    if len(inside) == 1:
        yield "the text nan" if inside == ["nan"] and "nan" not in target.choices else "the text of an option"
        return
    if inside:
        yield "the texts of several options"
    yield f"prominent: {_prominent(text, ''.join(options))}"


def _prominent(text: str, letters: str) -> str:
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    bare, text = text.strip(), f" {text} "
    if re.match(rf"[{letters}](?![^\W\d_])", bare):
        return "start"
    if re.search(rf"(?<![^\W\d_])[{letters}]\Z", bare):
        return "end"
    for saying in _SAID:
        if re.search(rf"{saying}.*[{letters}]", text, re.DOTALL) or re.search(rf"(?i:{saying})(?s:.*)[{letters}]", text):
            return "saying" if saying.isascii() else "saying of another language"
    for shape, label in ((r"\({}\)", "brackets"), (r"{}\.", "stop"), ("{}:", "colon"), (r"{}\)", "bracket"), ("{} ", "space")):
        if re.search(shape.format(f"[{letters}]"), text):
            return label
    return "inside" if re.search(f"[{letters}]", text) else "nowhere"


def _scienceqa(text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    text, right = text.strip(), "ABCDE"[doc["answer"]]
    if text.upper() == right and len(text) == 1:
        yield "the letter" if text == right else "the letter in lower case"
    elif re.match(r"[A-Z]\.", text):
        yield "a capital and a full stop, right" if text[0] == right else "a capital and a full stop, wrong"
    else:
        yield "a small letter and a full stop" if re.match(r"[a-z]\.", text) else "neither"


def _seedbench(text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    text = text.strip()
    several = "first of several characters" if len(text) > 1 else "the only character"
    yield f"{several}, {'right' if text[0].upper() == doc['answer'] else 'wrong'}" if text else "nothing"


def _ai2d(text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    right = "ABCD"[int(doc["answer"])]
    if re.match(r"\s*[A-Z]\.", text):
        yield "a capital and a full stop, right" if text.strip()[0] == right else "a capital and a full stop, wrong"
        return
    yield from _exact(text, right, ())


def _gqa(text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    yield from _exact(text, doc["answer"], ("white space differs", "a null at the end", "a dotted capital I"))


def _exact(text: str, right: str, more: tuple[str, ...]) -> Iterator[str]:
    text = text.strip()
    notes = {
        "white space differs": text.split() == right.split() and text != right, "a null at the end": text.endswith("\0"),
        "a dotted capital I": "\u0130" in text,
    }  # fmt: skip
    yield from (note for note in more if notes[note])
    if text == right:
        yield "as it is"
    elif text.lower() == right.lower():
        yield "but for case"
    elif _PUNCTUATION.sub("", text).lower() == _PUNCTUATION.sub("", right).lower():
        yield "but for punctuation"
    else:
        yield "another"


def _vqav2(text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    yield from _by_people(text, len(doc["answers"]), score)


def _textvqa(text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    if "," in text or "?" in text:
        yield "commas and question marks go"
    if "'s" in text:
        yield "a possessive is set apart"
    yield from (branch for branch in _by_people(text, len(doc["answers"]), score) if branch != "a comma in a number")


def _by_people(text: str, people: int, score: float | None) -> Iterator[str]:
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor as Official

    words = set(re.sub(f"[{_SIGNS}]", " ", text).lower().split())
    notes = {
        "a comma in a number": re.search(r"\d,+\d", text), "a mark beside a space": re.search(f"[{_SIGNS}] | [{_SIGNS}]", text),
        "a mark inside a word": re.search(rf"\w[{_SIGNS}]\w", text), "over 32 full stops": len(re.findall(r"\.(?!\d)",
        text)) > 32,
        "a full stop before a digit": re.search(r"\.\d", text), "a number as a word": words & {*Official.NUMBER_MAP} - {text,
        "0"},
        "an article": words & {*Official.ARTICLES}, "a contraction": words & {*Official.CONTRACTIONS},
        "a line break or a tab": "\n" in text.strip() or "\t" in text.strip(), "under four people": people < 4,
        "nobody agrees": score == 0, "some agree": 0 < (score or 0) < 1, "enough agree": score == 1,
    }  # fmt: skip
    yield from (note for note, there in notes.items() if there)


def _chartqa(text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    text, right = text.strip(), doc["answer"]
    given, wanted = (_value(one.rstrip("%")) for one in (text, right))
    if text.endswith("%") and given is not None:
        yield "a share"
    if "_" in text and given is not None:
        yield "an underscore in a number"
    if given is not None and not text.isascii():
        yield "digits of another script"
    if given is not None and not abs(given) < float("inf"):
        yield "not a finite number"
    if wanted == 0:
        yield "the right number is 0"
    if given is not None and wanted:
        yield "a number, within 5 %" if score else "a number, outside"
    else:
        yield "the same text" if text == right else "the same but for case" if score else "another text"


def _value(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _docvqa(text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    if not text.strip() and "" in doc["answers"]:
        yield "nothing on both sides"
    if score and len(doc["answers"]) > 1 and text.strip().lower() in [one.lower() for one in doc["answers"][1:]]:
        yield "another answer than the first"
    yield "the same" if score == 1 else "under a half" if not score else "a half or more"


def _ocrbench(text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    kind = "formula" if doc["dataset"] == "HME100k" else "text"
    yield f"{kind}, {'inside' if score else 'not inside'}"
    if any(not one.strip() for one in doc["answer"]):
        yield "a blank answer"
    if kind == "text" and score and not any(one in text for one in doc["answer"]):
        wide = any(unicodedata.east_asian_width(character) == "F" for character in text)
        yield "inside but for width" if wide else "inside across a line" if "\n" in text.strip() else "inside but for case"


def _refcoco(text: str, target: Target, doc: Doc, score: float | None) -> Iterator[str]:
    number = r"-?\d+(?:\.\d+)?"
    four = re.findall(rf"\[\s*({number}),\s*({number}),\s*({number}),\s*({number})\s*\]", text)
    yield "an error" if score is None else "right" if score else "wrong"
    if max(doc["bbox"]) > 1:
        yield "the right box beyond the edge"
    if not four:
        yield (
            "five numbers"
            if re.search(r"\[(?:[^,\]]+,){4}", text)
            else "round brackets"
            if re.search(r"\([^,)]*,", text)
            else "no box"
        )
        return
    numbers = [float(one) for one in four[0]]
    notes = {
        "thousandths": max(numbers) > 2, "a negative number": min(numbers) < 0, "no area": numbers[0] == numbers[2],
        "corners the wrong way round": numbers[2] < numbers[0], "several boxes": len(four) > 1, "huge": max(numbers) > 1e300,
        "all but a half": abs(_half(numbers, doc["bbox"]) - 0.5) < 1e-6,
    }  # fmt: skip
    yield from (note for note, there in notes.items() if there)


def _half(one: list[float], other: list[float]) -> float:
    """The share of the right box that a box inside it covers."""
    left, top, right, bottom = other
    return (one[2] - one[0]) * (one[3] - one[1]) / ((right - left) * (bottom - top))


_PEOPLE = (
    "a mark beside a space", "a mark inside a word", "over 32 full stops", "a full stop before a digit", "a number as a word",
    "an article", "a contraction", "a line break or a tab", "under four people", "nobody agrees", "some agree", "enough agree",
)  # fmt: skip
_LETTERS = ("a capital and a full stop, right", "a capital and a full stop, wrong")
_EQUAL = ("as it is", "but for case", "but for punctuation", "another")
_PROMINENT = (
    "start", "end", "saying", "saying of another language", "brackets", "stop", "colon", "bracket", "space", "inside", "nowhere",
)  # fmt: skip

BRANCHES: dict[str, tuple[str, ...]] = {
    "pope": ("says yes", "says no", "says neither, yes is right", "says neither, no is right"),
    "mme": ("full stops go", "yes", "no", "y", "n", "another sign", "yes at the start", "no at the start", "neither", "nothing"),
    "mmbench": (
        "a failure of the service", "a letter alone", "E alone", "A may be an article",
        *(f"a letter as {before}_{behind}" for before, behind in MARKS), "the text of an option", "the text nan",
        "the texts of several options", *(f"prominent: {label}" for label in _PROMINENT),
    ),
    "scienceqa": ("the letter", "the letter in lower case", *_LETTERS, "a small letter and a full stop", "neither"),
    "seedbench": (
        "nothing", "the only character, right", "the only character, wrong", "first of several characters, right",
        "first of several characters, wrong",
    ),
    "ai2d": (*_LETTERS, *_EQUAL), "gqa": ("white space differs", "a null at the end", "a dotted capital I", *_EQUAL),
    "vqav2": ("a comma in a number", *_PEOPLE),
    "textvqa": ("commas and question marks go", "a possessive is set apart", *_PEOPLE),
    "chartqa": (
        "a share", "an underscore in a number", "digits of another script", "not a finite number", "the right number is 0",
        "a number, within 5 %", "a number, outside", "the same text", "the same but for case", "another text",
    ),
    "docvqa": ("nothing on both sides", "another answer than the first", "the same", "a half or more", "under a half"),
    "ocrbench": (
        "formula, inside", "formula, not inside", "text, inside", "text, not inside", "a blank answer", "inside but for width",
        "inside across a line", "inside but for case",
    ),
    "refcoco": (
        "right", "wrong", "an error", "the right box beyond the edge", "no box", "five numbers", "round brackets", "thousandths",
        "a negative number", "no area", "corners the wrong way round", "several boxes", "huge", "all but a half",
    ),
}  # fmt: skip
"""The branches of each task's rule."""

_BY_TASK: dict[str, Callable[[str, Target, Doc, float | None], Iterator[str]]] = {
    "pope": _pope, "mme": _mme, "mmbench": _mmbench, "scienceqa": _scienceqa, "seedbench": _seedbench, "ai2d": _ai2d, "gqa": _gqa,
    "vqav2": _vqav2, "textvqa": _textvqa, "chartqa": _chartqa, "docvqa": _docvqa, "ocrbench": _ocrbench, "refcoco": _refcoco,
}  # fmt: skip
