"""Lists and objects written as text, as tables without types hold them: JSON, Python's repr or numpy's."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_NUMPY = re.compile(rf"\[\s*{_QUOTED}(?:\s+{_QUOTED})+\s*\]", re.DOTALL)
_ARRAY = re.compile(r"(?:np\.|numpy\.)?array\(\s*(\[.*\])\s*(?:,\s*dtype=[^()]*)?\)", re.DOTALL)
_ADJACENT = re.compile(r"''\s*''")  # two texts side by side, once their content is left out
_DEEPEST = 20  # brackets inside each other; a list of texts has one


def looks_listed(text: str) -> bool:
    """Return whether a text stands in brackets or braces, as a list or an object does.

    >>> looks_listed("['red']"), looks_listed("red")
    (True, False)
    """
    whole = text.strip()
    return (whole[:1], whole[-1:]) in (("[", "]"), ("{", "}")) or _ARRAY.fullmatch(whole) is not None


def listed(text: str) -> list[Any] | dict[str, Any] | None:
    """Return the list or object that a text writes down as JSON, as Python or as numpy would print it; None where it is none.

    Python reads two texts side by side as one, so what numpy prints, ``['a' 'b']``, is told apart before.

    >>> listed("['a', \\"b's\\"]"), listed('["a", "b"]'), listed("['a' 'b']")
    (['a', "b's"], ['a', 'b'], ['a', 'b'])
    >>> listed("{'A': 'a cat'}"), listed("[a, b]")
    ({'A': 'a cat'}, None)
    """
    whole = text.strip()
    if (array := _ARRAY.fullmatch(whole)) is not None:
        whole = array[1]
    if not looks_listed(whole) or sum(map(whole.count, "[{(")) > _DEEPEST + sum(map(whole.count, "]})")):
        return None
    try:
        value = json.loads(whole)
    except (ValueError, RecursionError):
        value = None
    if value is None:
        try:
            if _NUMPY.fullmatch(whole) is not None:
                value = [ast.literal_eval(part) for part in re.findall(_QUOTED, whole, re.DOTALL)]
            elif _ADJACENT.search(re.sub(_QUOTED, "''", whole, flags=re.DOTALL)) is None:
                value = ast.literal_eval(whole)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            value = None
    if isinstance(value, (tuple, list)):
        return list(value)
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else None
