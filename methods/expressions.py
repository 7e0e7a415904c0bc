"""What the expression of a method tells without the registry, which needs torch."""

from __future__ import annotations

import re


def bare(expression: str) -> str:
    """The expression without its parameters.

    >>> bare("fastv[layer=3]"), bare("random[like=a[x=1]+b]"), bare("random[positions=contiguous]+fastv[layer=3]")
    ('fastv', 'random', 'random+fastv')
    """
    while (shorter := re.sub(r"\[[^\[\]]*\]", "", expression)) != expression:
        expression = shorter
    return expression
