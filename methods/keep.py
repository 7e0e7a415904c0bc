"""A budget as it was asked for: a count of visual tokens, or a share of them. Needs no torch.

Which of the two is told by how it is written, never by how large it is: with a point or a % it is a share, without it is a
count. ``1`` is one token, ``1.0`` and ``100%`` are all tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import isfinite
from numbers import Integral, Real
from typing import Any

_COUNT = re.compile(r"[0-9]+")
_POINT = re.compile(r"[0-9]+\.[0-9]*|\.[0-9]+")
_PERCENT = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*%")
_DIGITS = 18  # of a count: more would fit no counter
_LONGEST = 40  # characters of what is read to guess what was meant
_EXAMPLES = "a count of tokens, such as 192, or a share of them, such as 0.34 or 34%"


@dataclass(frozen=True, order=True)
class Keep:
    """A count of visual tokens to keep, or a share of the tokens of each image.

    Budgets sort by kind and size: falling, shares stand before counts, since which of the two is larger depends on the image.
    A count equals the whole number that it counts; a share equals no number.

    Args:
        share: whether it is a share.
        value: tokens, at least 1; of a share, above 0 and at most 1.

    >>> str(Keep.parse("0.34")), str(Keep.parse("100 %")), str(Keep.parse("192"))
    ('34%', '100%', '192')
    >>> Keep.parse("1").tokens(576), Keep.parse("1.0").tokens(576)
    (1, 576)
    """

    share: bool
    value: float

    def __post_init__(self) -> None:
        fits = 0 < self.value <= 1 if self.share else self.value >= 1 and self.value == int(self.value)
        if not fits:
            raise ValueError(f"{self.value!r} is no {'share' if self.share else 'count'} of tokens")
        object.__setattr__(self, "value", float(self.value) if self.share else int(self.value))

    @classmethod
    def parse(cls, text: str) -> Keep:
        """Return the budget that a text such as ``192``, ``0.34`` or ``34%`` asks for.

        Raises:
            ValueError: where it asks for none; the message says what would be right.
        """
        word = text.strip()
        percent = _PERCENT.fullmatch(word)
        if percent is None and _POINT.fullmatch(word) is None:
            if _COUNT.fullmatch(word) is None:
                raise ValueError(_unreadable(word))
            if len(word.lstrip("0")) > _DIGITS:
                raise ValueError("more tokens than any model yields")
            count = int(word)
            if not count:
                raise ValueError("must be above 0: at least 1, which is one token")
            return cls(False, count)
        exact = Decimal(percent[1]).scaleb(-2) if percent is not None else Decimal(word)
        if not float(exact):
            raise ValueError("must be above 0: at least 1, which is one token, or a share such as 0.34 or 34%")
        if exact > 1:
            raise ValueError(_too_much(exact, percent is not None))
        return cls(True, float(exact))

    @classmethod
    def asked(cls, value: object) -> Keep:
        """Return the budget that a value of Python, TOML or JSON asks for.

        Args:
            value: a whole number is a count, a number with a point a share, and a text as on the command line.

        Raises:
            ValueError: where it asks for none; the message says what would be right.
        """
        if isinstance(value, Keep):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(f"not a number; write {_EXAMPLES}")
        text = str(value)
        if isinstance(value, (Integral, Fraction)) or not isfinite(number := float(text)):
            return cls.parse(text)
        return cls.parse(format(Decimal(text), "f")) if "e" in text and number > 0 else cls.parse(text)

    @classmethod
    def stored(cls, facts: Mapping[str, Any]) -> Keep | None:
        """Return the budget of a stored cell, or None where it has none.

        Args:
            facts: of a cell, or its entry of ``summary.json``. Without ``keep_label`` they are of an older version, to which
                a number of at least 1 was a count, however it was written.

        Raises:
            ValueError: where the facts hold no budget that can be.
        """
        value, label = facts.get("keep"), facts.get("keep_label")
        if value is None:
            return None
        if label is None:
            return cls.older(value)
        found = cls.parse(label)
        if found.value != value:
            raise ValueError(f"{label} is not {value}")
        return found

    @classmethod
    def older(cls, value: float) -> Keep:
        """Return the budget that a number meant before shares were told by how they are written: a count from 1 on.

        Raises:
            ValueError: where it meant none.
        """
        return cls(value < 1, value)

    def tokens(self, available: int) -> int:
        """Return how many of an image's tokens are kept; all where a count asks for more than there are.

        Args:
            available: visual tokens of the image.
        """
        return max(1, round(self.value * available)) if self.share else min(int(self.value), available)

    def facts(self) -> dict[str, Any]:
        """Return the budget as JSON holds it beside other facts of a cell: a number, and a label that tells its kind."""
        return {"keep": self.value, "keep_label": str(self)}

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Keep):
            return (self.share, self.value) == (other.share, other.value)
        return isinstance(other, int) and not isinstance(other, bool) and not self.share and self.value == other

    def __hash__(self) -> int:
        return hash((True, self.value)) if self.share else hash(self.value)

    @property
    def shown(self) -> str:
        """The budget as a table shows it: ``192``, ``34 %``."""
        return str(self).replace("%", " %")

    @property
    def phrase(self) -> str:
        """The budget as a sentence names it: ``192 tokens``, ``34 % of the tokens``."""
        return f"{self.shown} of the tokens" if self.share else f"{self} token{'s' if self.value > 1 else ''}"

    def __str__(self) -> str:
        """Return the one spelling that the command line takes: ``192``, ``34%``."""
        if not self.share:
            return str(int(self.value))
        return f"{format(Decimal(repr(self.value)).scaleb(2).normalize(), 'f')}%"


def keep_facts(keep: Keep | None) -> dict[str, Any]:
    """Return a budget as `Keep.facts` does, and nulls of a cell that has none."""
    return {"keep": None, "keep_label": None} if keep is None else keep.facts()


def _too_much(exact: Decimal, percent: bool) -> str:
    """Why a share above 1 is none, and the count that may have been meant."""
    number = exact * 100 if percent else exact
    if number > 10**_DIGITS:
        return "more than all tokens; 100% or 1.0 is all of them"
    low = int(number)
    meant = f"{low}" if number == low else f"{low} or {low + 1}"
    if percent:
        return f"more than all tokens; 100% is all of them, and a count stands without %: {meant}"
    return f"written with a point it is a share, and 1.0 is all tokens; a count is whole and has no point: {meant}"


def _unreadable(word: str) -> str:
    """Why a text that is neither a count nor a share cannot be read, and what may have been meant."""
    try:
        number = float(Fraction(word[:_LONGEST]) if "/" in word else word)
    except (ValueError, ArithmeticError):
        return f"not a number; write {_EXAMPLES}"
    if not number > 0:
        return f"must be above 0; write {_EXAMPLES}"
    if 1e-4 <= number < 1:
        return f"write {number:.4g} for a share of the tokens, or a count of them such as 192"
    if number.is_integer() and number < 10**_DIGITS:
        return f"write {int(number)} for a count of tokens, or a share of them such as 0.34 or 34%"
    return f"not a number of tokens; write {_EXAMPLES}"
