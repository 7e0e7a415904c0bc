"""Making one method, without compositions, from its expression, and writing it back in its one spelling."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, get_args, get_origin, get_type_hints

from methods.expressions import MethodError, nearest, parse
from methods.loading import entry
from methods.types import Method

_LARGEST = 2**53  # of a parameter


def create_single(expression: str) -> Method:
    """Return the method of an expression ``name`` or ``name[param=value,...]``.

    Raises:
        MethodError: for a malformed expression, an unknown name or parameter, or a value of a wrong type.
    """
    name, arguments = parse(expression)
    factory = entry(name).factory
    known = {f.name: f for f in fields(factory)}
    hints = get_type_hints(factory)
    values: dict[str, Any] = {}
    for key, text in arguments.items():
        if key not in known:
            raise MethodError(f"method {name!r} has no parameter {key!r}{nearest(key, known)}")
        values[key] = _convert(name, key, text, hints[key])
    required = [f.name for f in known.values() if f.default is MISSING and f.name not in values]
    if required:
        raise MethodError(f"method {name!r} needs parameter {required[0]!r}")
    try:
        return factory(**values)
    except ValueError as error:
        raise MethodError(f"method {expression!r}: {error}") from None


def canonical_single(expression: str) -> str:
    """Return the expression of one method with parameters in declared order, defaults left out.

    Raises:
        MethodError: as `create_single` does.
    """
    name, arguments = parse(expression)
    method = create_single(expression)
    given = [f for f in fields(method) if f.name in arguments and getattr(method, f.name) != f.default]
    differing = [f"{f.name}={_text(getattr(method, f.name))}" for f in given]
    return f"{name}[{','.join(differing)}]" if differing else name


def values(expression: str) -> dict[str, str]:
    """Return all parameters of one method, defaults included, with their values as canonical expressions spell them.

    Args:
        expression: ``name`` or ``name[param=value,...]``.

    Raises:
        MethodError: as `create_single` does.
    """
    method = create_single(expression)
    return {f.name: _text(getattr(method, f.name)) for f in fields(method)}


def _convert(method: str, key: str, text: str, hint: Any) -> object:
    """The value of a parameter's text, by the type of the parameter."""
    choices = get_args(hint)
    if choices and get_origin(hint) is not None and all(isinstance(choice, str) for choice in choices):
        if text not in choices:
            raise MethodError(f"{method}[{key}={text}]: choose one of {', '.join(choices)}")
        return text
    kinds = [kind for kind in (choices or (hint,)) if kind is not type(None)]
    if bool in kinds:
        if text.lower() not in ("true", "false"):
            raise MethodError(f"{method}[{key}={text}]: write true or false")
        return text.lower() == "true"
    for kind in kinds:
        try:
            value = kind(text)
        except ValueError:
            continue
        if isinstance(value, str) or abs(value) <= _LARGEST:  # which neither infinity nor NaN is
            return value
    raise MethodError(f"{method}[{key}={text}]: not a valid {' or '.join(kind.__name__ for kind in kinds)}")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
