"""The grammar of method expressions, on strings alone: ``name``, ``name[param=value,...]`` and ``a+b``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST, _DEEPEST = 1000, 16  # characters and brackets of an expression


class MethodError(ValueError):
    """An expression that names no method or a wrong parameter; the message ends with the nearest valid choice."""


def bare(expression: str) -> str:
    """Return the expression without its parameters.

    >>> bare("fastv[layer=3]"), bare("random[like=a[x=1]+b]"), bare("random[positions=contiguous]+fastv[layer=3]")
    ('fastv', 'random', 'random+fastv')
    """
    while (shorter := re.sub(r"\[[^\[\]]*\]", "", expression)) != expression:
        expression = shorter
    return expression


def split(text: str, at: str = ",") -> list[str]:
    """Split at commas, or at another character, outside brackets.

    >>> split("fastv[layer=3], random[like=sts[ratio=1,depth=0.3]]")
    ['fastv[layer=3]', 'random[like=sts[ratio=1,depth=0.3]]']
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == at and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def parse(expression: str) -> tuple[str, dict[str, str]]:
    """Split ``name[a=1,b=c[d=2]]`` into the name and the parameters' texts.

    Raises:
        MethodError: for what is not written so, or is longer or deeper than any sensible expression.
    """
    if len(expression) > _LONGEST or expression.count("[") > _DEEPEST:
        raise MethodError(f"method {expression[:60]!r}... is longer than {_LONGEST} characters or {_DEEPEST} brackets")
    match = re.fullmatch(r"\s*([a-z][a-z0-9_]*)\s*(?:\[(.*)\])?\s*", expression)
    if match is None:
        raise MethodError(f"cannot read method {expression[:60]!r}; write name, name[param=value,...] or a+b")
    return match[1], parameters(match[2] or "", f"method {expression[:60]!r}")


def parameters(inside: str, whose: str) -> dict[str, str]:
    """Return the texts of ``a=1,b=c[d=2]`` by parameter name.

    Args:
        inside: what stands between the brackets.
        whose: what the parameters belong to, for messages.

    Raises:
        MethodError: for a part that is not ``param=value``, or a parameter given twice.
    """
    found: dict[str, str] = {}
    for part in split(inside):
        key, sign, value = (text.strip() for text in part.partition("="))
        if not sign or not key or not value:
            raise MethodError(f"cannot read {part[:60]!r} in {whose}; write param=value")
        if key in found:
            raise MethodError(f"{whose} gives {key[:60]} twice")
        found[key] = value
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the valid choice most like it, or all choices."""
    known = list(known)
    close = get_close_matches(word, known, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; choose from {', '.join(sorted(known))}"
