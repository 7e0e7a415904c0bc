"""Multiple choice: find the option that an answer in free text takes.

One rule for every task of this kind. It reads an answer as a person does who marks it: an option that is ruled out is not taken,
a conclusion counts more than what leads to it, and where a reader could not tell, there is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase

from harness.tasks.reading.affirmation import NO, YES, said
from harness.tasks.reading.numerals import value
from harness.tasks.reading.option_mentions import marked, option, plain
from harness.tasks.reading.option_statements import Firmness, Statement, statements
from harness.tasks.rules import Judgement
from harness.tasks.target import Target

_ALONE = re.compile(r"[\s(\[#.]*([A-Za-z])[\s)\].。:,;!、]*")
_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_PLACE = re.compile(
    rf"(?:(?:it\s+is|it's|(?:the\s+)?(?:(?:correct|right|best|final)\s+)?(?:answer|option|choice)(?:\s+is|\s*:)|i\s+(?:choose|pick|select))\s+)?"
    rf"(?:the\s+)?(?:(?P<word>{'|'.join(_PLACES)}|last)|(?P<digit>[1-9])(?:st|nd|rd|th))(?:\s+(?:one|option|choice|answer))?[.!]*"
    r"|(?:the\s+)?(?:option|choice)\s+(?P<number>[1-9])[.!]*",
    re.IGNORECASE,
)
_POLES = (("yes", "no"), ("true", "false"), ("correct", "incorrect"), ("right", "wrong"))
_SHORTENED = {"it's": "it is", "that's": "that is", "there's": "there is", "he's": "he is", "she's": "she is", "can't": "cannot"}


def choice(prediction: str, target: Target) -> float:
    """Return 1.0 where the prediction takes the right option, as `letter` reads it, else 0.0.

    >>> choice("The answer is (b).", Target(("B",), ("a cat", "a dog")))
    1.0
    """
    return judge_choice(prediction, target).score


def judge_choice(prediction: str, target: Target) -> Judgement:
    """Return the score of `choice`, and the letter that was read.

    >>> judge_choice("not a cat, a dog", Target(("B",), ("a cat", "a dog")))
    Judgement(score=1.0, read='B', decided=True)
    """
    read = letter(prediction, target.choices)
    return Judgement(float(read in target.answers), read)


def letter(prediction: str, choices: Sequence[str] = ()) -> str | None:
    """Return the letter of the option that a text takes, or None where it takes none, or several.

    The stages, of which the first that finds something decides:

    1. A letter and nothing else, in either case; or an option's text and nothing else, articles, case and "it's" for "it is"
       aside; or its number; or its place, such as "the second one".
    2. What sentences say. An option is ruled out by "not A", "A is wrong", "other than A", "neither A nor B", "rules out A" and
       their like, and with that everything that was said for it before. Of the rest the firmest counts: first a conclusion
       ("so B", "A. No wait, B", a boxed answer), of which the last; then "the answer is B" and "B is correct"; then an option
       in the place of an answer ("B because ...", "It is a dog"); then one that is mentioned. Several of one firmness are no
       answer, except that an "Answer: B" on a later line replaces those on lines before. What stands in questions, or behind
       "if", says nothing. Where all options but one are ruled out, and that one is not named, none is taken: an answer that
       never says what it takes is no answer.
    3. Where one option begins with yes and one with no, or with true and false: what `affirmation.said` reads.

    A letter is an option in brackets, as a capital that stands alone, and in lower case where something calls it an answer.
    "A" before a noun is an article, "I" before a verb is a person. An option's text counts as a letter does; one inside
    another that is named too does not, "one" is no option in "the right one". A letter behind the last option names none.
    Full-width, circled and mathematical letters are letters (NFKC), between Chinese, Japanese, Korean and Arabic words too.
    Look-alikes of other alphabets are not: the Cyrillic В may be meant for B, and is the third letter of its own alphabet.

    Args:
        prediction: free text of any length; time is linear in it.
        choices: the options' texts; without them, any letter is an option and texts are not looked for.

    >>> letter("B"), letter("(b) a dog"), letter("I think it is C"), letter("A dog")
    ('B', 'B', 'C', None)
    >>> options = ["a cat", "a dog", "a bird"]
    >>> letter("a dog", options), letter("It is not a cat. A and C do not fit.", options), letter("A or B", options)
    ('B', None, None)
    >>> letter("A has whiskers, which this has not, so the answer is B. C is wrong.", options)
    'B'
    """
    text, options = plain(prediction), [option(choice) for choice in choices]
    letters = ascii_uppercase[: len(choices)] if choices else ascii_uppercase
    alone = _ALONE.fullmatch(text)
    if alone is not None and alone[1].upper() in letters:
        return alone[1].upper()
    whole = _by_whole_text(text, options)
    if whole:
        return letters[whole[0]] if len(whole) == 1 else None
    taken = _taken(list(statements(marked(text, options))), len(letters))
    if taken is None:
        names = [re.split(r"\W", name.lower(), maxsplit=1)[0] for name in options]
        for yes, no in _POLES:
            if names.count(yes) == names.count(no) == 1:
                name = {YES: yes, NO: no}.get(said(prediction))
                return letters[names.index(name)] if name is not None else None
    return letters[taken] if taken is not None and 0 <= taken < len(letters) else None


def _by_whole_text(text: str, options: Sequence[str]) -> list[int]:
    """The options that a text is, case aside; else white space aside; else an article aside; else as a number."""
    given = option(text).lower()
    for form in (str, _without_space, _without_article, _in_full, value):
        wanted = form(given)
        same = [place for place, name in enumerate(options) if wanted not in (None, "") and form(name.lower()) == wanted]
        if same:
            return same
    return _by_place(given, options)


def _by_place(text: str, options: Sequence[str]) -> list[int]:
    """The option at the place that is all a text names: "the second one"; "option 2" where no option is a number."""
    match = _PLACE.fullmatch(text)
    if match is None or not options or (match["number"] and any(value(name) is not None for name in options)):
        return []
    if match["word"]:
        place = len(options) - 1 if match["word"].lower() == "last" else _PLACES.index(match["word"].lower())
    else:
        place = int(match["digit"] or match["number"]) - 1
    return [place] if place < len(options) else []


def _without_space(text: str) -> str:
    return text.replace(" ", "")


def _in_full(text: str) -> str:
    for short, full in _SHORTENED.items():
        text = re.sub(rf"\b{short}\b", full, text)
    return re.sub(r"n't\b", " not", text).replace("'re ", " are ")


def _without_article(text: str) -> str:
    return re.sub(r"^(?:an?|the)\s+", "", text)


def _taken(said: Sequence[Statement], options: int) -> int | None:
    """The one option that is taken in the end, counted from 0; -1 where several are, None where none is."""
    left: list[tuple[Statement, frozenset[int]]] = []
    lists = bool(said) and said[0].label and said[0].places == {0}  # "A: has whiskers": the options one by one, perhaps
    for number, one in enumerate(said):
        if number and one.label and not lists:
            one = replace(one, firmness=Firmness.MENTIONED)  # an explanation behind the answer
        if one.taken:
            stray = one.firmness is Firmness.MENTIONED  # "X marks a dog": a letter that is no option, and not meant for one
            left.append((one, frozenset(place for place in one.places if place < options) if stray else one.places))
        else:
            left = [(earlier, places - one.places) for earlier, places in left]
    left = [(one, places) for one, places in left if places]
    if not left:
        return None
    firmest = max(one.firmness for one, _ in left)
    best = [(one, places) for one, places in left if one.firmness == firmest]
    named = frozenset[int]().union(*(places for _, places in best))
    last, places = best[-1]
    if firmest is Firmness.CONCLUDED or (len(named) > 1 and last.phrase and last.line > best[0][0].line):
        named = (
            frozenset[int]().union(*(places for one, places in best if one.line == last.line and one.phrase))
            if last.phrase
            else places
        )
    return next(iter(named)) if len(named) == 1 else -1
