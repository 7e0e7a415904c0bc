"""Fold Unicode, so that texts which a reader cannot tell apart are the same text, and no number becomes another."""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣ", "0123456789+-=()nix"))
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED_BEHIND_DIGIT = re.compile(r"(?<=[0-9])(?=[₀-₉])")
_FRACTION_BEHIND_DIGIT = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞↉])")
_SAME = str.maketrans(
    dict.fromkeys("‘’‚‛ʼ´′＇", "'")
    | dict.fromkeys("“”„‟«»″＂", '"')
    | dict.fromkeys("‐‑‒–—―−﹘﹣－", "-")
    | {"⁄": "/", "∕": "/", "٫": ".", "٬": ",", "٪": "%", "×": "x", "∶": ":"}
)
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufe00-\ufe0f]")
_DIGIT = re.compile(r"[^\W\D]")


def folded(text: str) -> str:
    """Return the text in Unicode's compatibility form (NFKC), with one form for each quotation mark, dash and digit.

    Full-width letters become Latin ones, decomposed accents composed ones; the minus sign U+2212 and all dashes become "-",
    typographic apostrophes and quotation marks those of ASCII, digits of other scripts those of ASCII. Characters that
    nobody sees go. Raised digits stay an exponent, lowered ones a base, and fractions stay apart from the number before
    them: NFKC alone would make 102 of 10², 52 of 5₂ and 11/2 of 1½.

    >>> folded("Ｂ．"), folded("−１０²"), folded("1½"), folded("5₂"), folded("H₂O"), folded("it’s")
    ('B.', '-10^2', '1 1/2', '5_2', 'H2O', "it's")
    """
    if text.isascii():
        return text
    text = _RAISED.sub(lambda match: "^" + "".join(_SUPERSCRIPTS[sign] for sign in match[0]), text)
    text = _LOWERED_BEHIND_DIGIT.sub("_", _FRACTION_BEHIND_DIGIT.sub(" ", text))
    text = unicodedata.normalize("NFKC", _UNSEEN.sub("", text.translate(_SAME))).translate(_SAME)
    return _DIGIT.sub(lambda match: str(unicodedata.decimal(match[0], match[0])), text)


def spoken(text: str) -> str:
    """Return what an answer says behind the model's thoughts, which end with ``</think>``; all of it where there are none.

    >>> spoken("<think>A? No, B.</think> B"), spoken("B")
    (' B', 'B')
    """
    _, closed, behind = text.rpartition("</think>")
    return behind if closed and behind.strip() else text
