"""Multiple choice: find the option that an answer in free text names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from harness.tasks.scoring import squeezed
from harness.tasks.target import Target

_ALONE = re.compile(r"[\[(]?\s*([A-Za-z])\s*[\])]?\s*[.:,;]?")
_FIRST = re.compile(r"(?:[\[(]\s*([A-Za-z])\s*[\])]|([A-Za-z])\s*\)|([A-Za-z])\s*[.:](?!\w\b)|([A-Z])\s*[,;](?!\w))")
_PHRASE = re.compile(
    r"\b(?i:answer|option|choice)(?i:\s+(?:is|would\s+be|must\s+be))?\s*:?\s*(?i:option\s+|choice\s+)?[\"'*]*"
    r"(?:\(\s*([A-Za-z])\s*\)|([A-Z])(?![\w'])|([a-z])(?=\W*$))"
)
_WORD = re.compile(r"(?<![\w'])[A-Z](?![\w'])")


def choice(prediction: str, target: Target) -> float:
    """Return 1.0 where the prediction names the right option, else 0.0.

    >>> choice("The answer is (b).", Target(("B",), ("a cat", "a dog")))
    1.0
    """
    return float(letter(prediction, target.choices) in target.answers)


def letter(prediction: str, choices: Sequence[str] = ()) -> str | None:
    """Return the letter of the option that a text names, or None.

    Tried in this order: a letter and nothing else; a letter at the start that a mark sets off ("B. a dog", "(b) a dog");
    "the answer is B", the last of them; the text of exactly one option, an option inside another that is named too
    not counted; exactly one capital standing alone, where "A" before a word and "I" are words.

    Args:
        prediction: free text.
        choices: the options' texts; without them, any letter is an option and texts are not looked for.

    >>> letter("B"), letter("(b) a dog"), letter("I think it is C"), letter("A dog")
    ('B', 'B', 'C', None)
    >>> letter("a dog", ["a cat", "a dog"])
    'B'
    """
    text = squeezed(prediction)
    letters = ascii_uppercase[: len(choices)] if choices else ascii_uppercase
    named = [_ALONE.fullmatch(text), _FIRST.match(text), *reversed(list(_PHRASE.finditer(text)))]
    for match in named:
        if match is not None:
            found = next(group for group in match.groups() if group).upper()
            if found in letters:
                return found
    return _by_text(text, choices) or _standing_alone(text, letters)


def _by_text(text: str, choices: Sequence[str]) -> str | None:
    plain = [squeezed(option).lower().rstrip(".") for option in choices]
    given = text.lower().rstrip(".")
    if plain.count(given) == 1:
        return ascii_uppercase[plain.index(given)]
    inside = [place for place, option in enumerate(plain) if option and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", given)]
    longest = [p for p in inside if not any(plain[p] != plain[q] and plain[p] in plain[q] for q in inside)]
    return ascii_uppercase[longest[0]] if len(longest) == 1 else None


def _standing_alone(text: str, letters: str) -> str | None:
    found = set()
    for match in _WORD.finditer(text):
        article = match[0] == "A" and re.match(r"\s+\w", text[match.end() :])
        if match[0] in letters and match[0] != "I" and not article:
            found.add(match[0])
    return found.pop() if len(found) == 1 else None
