"""The registry: from an expression such as ``fastv[layer=3]`` to a method, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import get_args, get_origin, get_type_hints

from methods.types import PROJECTOR, SIGNAL_NAMES, Budget, Method, ModelShape, Selector, Step

BUNDLED = (
    "none", "blind", "random", "sts", "fastv", "sparsevlm", "tome", "visionzip", "prumerge", "pyramiddrop", "divprune",
    "cdpruner", "vispruner", "dart", "holov", "otprune", "vtw", "grid", "pool", "fps", "downsample", "oracle",
)  # fmt: skip
"""The methods of this package, one module each, in the order of ``list methods``."""

_LONGEST, _DEEPEST = 1000, 16  # characters and brackets of an expression
_LARGEST = 2**53  # of a parameter

FAMILIES = ("attention", "diversity", "both", "merging", "place", "chance", "evidence", "none")
"""What a method may rank tokens by. ``both``: attention and diversity, or a composition of unlike methods;
``none``: it chooses no tokens."""
_ATTENTION = frozenset({"text_attention", "text_attention_ahead", "text_logits", "cls_attention", "received_attention"})
_DIVERSITY = frozenset({"features", "vision_features", "keys", "hidden_states", "image_embeds"})


class MethodError(ValueError):
    """An expression that names no method or a wrong parameter; the message ends with the nearest valid choice."""


class NothingRegistered(MethodError):
    """A plug-in module without a method."""


@dataclass(frozen=True)
class Entry:
    """What the registry knows of a method, for ``list methods`` and for reports."""

    name: str
    paper: str
    site: str
    needs: frozenset[str]
    factory: type[Method]
    cannot: str
    reference: bool
    ranks_by: str = "chance"  # one of FAMILIES
    variants: Mapping[str, str] = field(default_factory=dict)  # ``param=value`` -> what that variant ranks by

    @property
    def parameters(self) -> dict[str, object]:
        """Parameter names and defaults."""
        return {f.name: f.default for f in fields(self.factory)}

    @property
    def summary(self) -> str:
        return (self.factory.__doc__ or "").strip().splitlines()[0]


_ENTRIES: dict[str, Entry] = {}


def register(
    name: str,
    *,
    paper: str = "",
    site: str = "projector",
    needs: set[str] | frozenset[str] = frozenset(),
    cannot: str = "",
    reference: bool = False,
    ranks_by: str = "",
    variants: Mapping[str, str] | None = None,
) -> Callable:
    """Register a method class, or a selector function for a pruner before the LLM.

    Args:
        name: what users type.
        paper: any string, an arXiv number by custom.
        site: where it acts, in words.
        needs: signals that its selectors read.
        cannot: what the method cannot do, for the lists.
        reference: whether it is a yardstick rather than a competitor.
        ranks_by: one of `FAMILIES`, for studies of families; by default attention where a signal it needs is
            attention, else diversity where one is of features, else chance.
        variants: ``param=value`` -> one of `FAMILIES`, for variants that rank by something else.

    Returns:
        A decorator that returns its argument unchanged.

    Raises:
        MethodError: for a name already taken, an unknown signal or an unknown family.
    """
    unknown = sorted(set(needs) - SIGNAL_NAMES)
    if unknown:
        raise MethodError(f"method {name!r} needs unknown signal {unknown[0]!r}{_nearest(unknown[0], SIGNAL_NAMES)}")
    ranks_by = ranks_by or ("attention" if _ATTENTION & set(needs) else "diversity" if _DIVERSITY & set(needs) else "chance")
    for word in (ranks_by, *(variants or {}).values()):
        if word not in FAMILIES:
            raise MethodError(f"method {name!r} ranks by unknown {word!r}{_nearest(word, FAMILIES)}")

    def decorate(target):
        if name in _ENTRIES and _ENTRIES[name].factory.__module__ != target.__module__:
            raise MethodError(f"method {name!r} is already registered by {_ENTRIES[name].factory.__module__}")
        factory = target if isinstance(target, type) else _from_function(target, frozenset(needs))
        if not (is_dataclass(factory) and issubclass(factory, Method)):
            raise MethodError(f"method {name!r} must be a function (signals, keep) or a frozen dataclass derived from Method")
        _ENTRIES[name] = Entry(name, paper, site, frozenset(needs), factory, cannot, reference, ranks_by, variants or {})
        return target

    return decorate


def _from_function(function: Selector, needs: frozenset[str]) -> type[Method]:
    @dataclass(frozen=True)
    class Pruner(Method):
        def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
            return (Step(PROJECTOR, function, budget.tokens, budget.tokens, needs),)

    Pruner.__doc__, Pruner.__module__, Pruner.__qualname__ = function.__doc__, function.__module__, function.__name__
    return Pruner


def entries() -> dict[str, Entry]:
    """All registered methods: bundled ones first, then those of installed ``prunescope.methods`` entry points.

    Raises:
        MethodError: for an entry point that cannot be loaded or whose methods do not pass `methods.check`.
    """
    _load_bundled()
    for point in _points():
        _plug_in(f"entry point {point.name!r}", point.load)
    ordered = {name: _ENTRIES[name] for name in BUNDLED}
    return {**ordered, **_ENTRIES}


def load_plugin(module: str) -> list[str]:
    """Import a module that registers methods, and try them out.

    Args:
        module: its dotted name; the working folder is searched too.

    Returns:
        The names that it registered.

    Raises:
        MethodError: where it cannot be imported, registers nothing, or a method of it does not pass `methods.check`.
    """
    import sys

    if not all(part.isidentifier() for part in module.split(".")) or module.endswith(".py"):
        raise MethodError(f"--plugin {module[:80]!r}: is no name of a module; write it as import does, such as my_module")
    if "" not in sys.path:
        sys.path.insert(0, "")
    _load_bundled()
    return _plug_in(f"--plugin {module}", lambda: import_module(module), module)


@cache
def _load_bundled() -> None:
    for name in BUNDLED:
        import_module(f"methods.{name}")


@cache
def _points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group="prunescope.methods"))


_CHECKED: dict[str, list[str]] = {}


def _plug_in(label: str, load: Callable, module: str = "") -> list[str]:
    if label in _CHECKED:
        return _CHECKED[label]
    before = set(_ENTRIES)
    try:
        load()
    except MethodError as error:
        raise MethodError(f"{label}: {error}") from None
    except ModuleNotFoundError as error:
        hint = f"; there is no {module.replace('.', '/')}.py here" if error.name == module else ""
        raise MethodError(f"{label}: cannot be imported ({error}{hint})") from None
    except Exception as error:
        first = str(error).splitlines()[0][:160] if str(error) else ""
        raise MethodError(f"{label}: cannot be imported ({type(error).__name__}: {first})") from None
    new = [name for name, entry in _ENTRIES.items() if name not in before or (module and entry.factory.__module__ == module)]
    if not new:
        raise NothingRegistered(f"{label}: registers no method; decorate a selector with @register(name, needs=...)")
    from methods.check import check

    for name in new:
        try:
            check(_ENTRIES[name])
        except MethodError as error:
            del _ENTRIES[name]
            raise MethodError(f"{label}: {error}") from None
    _CHECKED[label] = new
    return new


def entry(name: str) -> Entry:
    known = entries()
    if name not in known:
        raise MethodError(f"unknown method {name!r}{_nearest(name, known)}")
    return known[name]


def create(expression: str) -> Method:
    """The method of an expression ``name``, ``name[param=value,...]`` or ``a+b``.

    Raises:
        MethodError: for a malformed expression, an unknown name or parameter, a value of a wrong type, or a
            composition that makes no sense.
    """
    halves = split(expression, "+")
    if len(halves) > 1:
        from methods.compose import compose

        return compose(halves)
    name, arguments = parse(expression)
    factory = entry(name).factory
    known = {f.name: f for f in fields(factory)}
    hints = get_type_hints(factory)
    values = {}
    for key, text in arguments.items():
        if key not in known:
            raise MethodError(f"method {name!r} has no parameter {key!r}{_nearest(key, known)}")
        values[key] = _convert(name, key, text, hints[key])
    required = [f.name for f in known.values() if f.default is MISSING and f.name not in values]
    if required:
        raise MethodError(f"method {name!r} needs parameter {required[0]!r}")
    try:
        return factory(**values)
    except ValueError as error:
        raise MethodError(f"method {expression!r}: {error}") from None


def canonical(expression: str) -> str:
    """The expression with parameters in declared order, defaults left out: one spelling per variant."""
    halves = split(expression, "+")
    if len(halves) > 1:
        create(expression)
        return "+".join(canonical(half) for half in halves)
    name, arguments = parse(expression)
    method = create(expression)
    given = [f for f in fields(method) if f.name in arguments and getattr(method, f.name) != f.default]
    differing = [f"{f.name}={_text(getattr(method, f.name))}" for f in given]
    return f"{name}[{','.join(differing)}]" if differing else name


def parse(expression: str) -> tuple[str, dict[str, str]]:
    """Split ``name[a=1,b=c[d=2]]`` into the name and the parameters' texts."""
    if len(expression) > _LONGEST or expression.count("[") > _DEEPEST:
        raise MethodError(f"method {expression[:60]!r}... is longer than {_LONGEST} characters or {_DEEPEST} brackets")
    match = re.fullmatch(r"\s*([a-z][a-z0-9_]*)\s*(?:\[(.*)\])?\s*", expression)
    if match is None:
        raise MethodError(f"cannot read method {expression[:60]!r}; write name, name[param=value,...] or a+b")
    return match[1], parameters(match[2] or "", f"method {expression[:60]!r}")


def parameters(inside: str, whose: str) -> dict[str, str]:
    """The texts of ``a=1,b=c[d=2]`` by name; `MethodError` that says ``whose`` they are."""
    found: dict[str, str] = {}
    for part in split(inside):
        key, sign, value = (text.strip() for text in part.partition("="))
        if not sign or not key or not value:
            raise MethodError(f"cannot read {part[:60]!r} in {whose}; write param=value")
        if key in found:
            raise MethodError(f"{whose} gives {key[:60]} twice")
        found[key] = value
    return found


def is_reference(expression: str) -> bool:
    """Whether the expression is a yardstick rather than a competitor; a composition never is."""
    halves = split(expression, "+")
    return len(halves) == 1 and entry(parse(halves[0])[0]).reference


def family(expression: str) -> str:
    """What a method ranks tokens by, one of `FAMILIES`; ``both`` of a composition whose halves differ."""
    halves = split(canonical(expression), "+")
    if len(halves) > 1:
        kinds = {family(half) for half in halves}
        return kinds.pop() if len(kinds) == 1 else "both"
    name, arguments = parse(halves[0])
    known = entry(name)
    given = (f"{key}={value}" for key, value in arguments.items())
    return next((known.variants[text] for text in given if text in known.variants), known.ranks_by)


def split(text: str, at: str = ",") -> list[str]:
    """Split at commas, or at another character, outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == at and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _convert(method: str, key: str, text: str, hint: object) -> object:
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


def _nearest(word: str, known) -> str:
    close = get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; choose from {', '.join(sorted(known))}"
