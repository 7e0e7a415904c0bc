"""Choosing published figures by what they hold, such as those of one method at one budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from harness.errors import RequestError, nearest
from harness.literature.figures import UNKNOWN, PublishedFigure
from harness.literature.tables import FOLDER, PublishedTable, names, published, table
from methods.keep import Keep

FILTERS = ("method", "model", "task", "metric", "keep", "source", "table", "origin", "counts")
"""Fields of a figure by which it can be chosen; each is an option of the command `published`."""
ALIASES: Mapping[str, str] = {
    "liuhaotian/llava-v1.5-7b": "llava-hf/llava-1.5-7b-hf",
    "liuhaotian/llava-v1.5-13b": "llava-hf/llava-1.5-13b-hf",
    "liuhaotian/llava-v1.6-vicuna-7b": "llava-hf/llava-v1.6-vicuna-7b-hf",
    "liuhaotian/llava-v1.6-vicuna-13b": "llava-hf/llava-v1.6-vicuna-13b-hf",
}
"""Hub ids under which the authors published the same weights -> the ids that transformers loads, which the tables name."""
_BY_SMALL = {name.lower(): meant for alias, meant in ALIASES.items() for name in (alias, meant)}


def hub_id(model: str) -> str:
    """Return the id under which tables name a model: that which transformers loads, where its authors' own is given.

    Capital letters make no other model, since the hub takes an id in any.

    >>> hub_id("liuhaotian/LLaVA-v1.5-7b"), hub_id("owner/another")
    ('llava-hf/llava-1.5-7b-hf', 'owner/another')
    """
    return _BY_SMALL.get(model.lower(), model)


def model_names(model: str) -> tuple[str, ...]:
    """Return all names by which a model of a table is found, in small letters.

    Args:
        model: its hub id, as a table has it.

    >>> model_names("llava-hf/llava-1.5-7b-hf")[:3]
    ('llava-hf/llava-1.5-7b-hf', 'llava-1.5-7b-hf', 'llava-1.5-7b')
    """
    model = hub_id(model)
    ids = (model, *(alias for alias, meant in ALIASES.items() if meant == model))
    last = [name.rpartition("/")[2] for name in ids]
    return tuple(dict.fromkeys(name.lower() for name in (model, *last[:1], last[0].removesuffix("-hf"), *ids[1:], *last[1:])))


def pool(tables: Sequence[str] = ()) -> tuple[tuple[PublishedFigure, ...], Mapping[str, PublishedTable]]:
    """Return the figures of the package and of the user's own tables, and by name the tables that were asked for.

    Args:
        tables: names of tables of the package, and paths of others, which end in ``.toml``.

    Raises:
        RequestError: where a table is unknown or cannot be read, or two tables have one name.
    """
    figures = published()
    chosen: dict[str, PublishedTable] = {}
    own: dict[str, Path] = {}
    for asked in tables:
        path = Path(asked)
        name = path.stem if asked.endswith(".toml") else asked
        if not asked.endswith(".toml") or path.resolve().parent == FOLDER.resolve():
            if name not in names():
                raise RequestError(f"--table {asked!r}: {nearest(name, names())}; a table of your own ends in .toml")
            if name not in chosen and table(name).ours:  # which are listed only where they are asked for
                figures += table(name).figures
            chosen[name] = table(name)
        elif name in names() or own.setdefault(name, path).resolve() != path.resolve():
            other = own.get(name, f"{name} of the package")
            raise RequestError(f"--table {asked}: has the name of the table {other}; give the file another")
        elif name not in chosen:
            chosen[name] = table(asked)
            figures += chosen[name].figures
    return figures, chosen


def select(figures: Iterable[PublishedFigure], wanted: Mapping[str, Sequence[str]]) -> list[PublishedFigure]:
    """Return the figures that have, in every field that is asked for, one of the values.

    Args:
        figures: to choose from.
        wanted: by names of `FILTERS`: values, any of which fits; a field without values fits always. Letters may be small or
            capital; a model may have its last name or another of `model_names`; of a source a part is enough, such as
            ``2606.01711``.

    Raises:
        RequestError: for a value that no figure has, with the nearest that one has.
    """
    figures = list(figures)
    for field in FILTERS:
        for value in wanted.get(field, ()):
            fits = _fits(field, value)
            if not any(map(fits, figures)):
                raise RequestError(f"--{field} {value!r}: no figure has it; {_nearest(field, value, figures)}")
    chosen = figures
    for field in FILTERS:
        if values := wanted.get(field, ()):
            tests = [_fits(field, value) for value in values]
            chosen = [figure for figure in chosen if any(fits(figure) for fits in tests)]
    return chosen


def why_none(figures: Iterable[PublishedFigure], wanted: Mapping[str, Sequence[str]]) -> str:
    """Say why `select` finds nothing: each value is there, but not together; and what is left without one of the filters.

    Args:
        figures, wanted: as `select` takes them.
    """
    figures = list(figures)
    asked = {field: ",".join(wanted[field]) for field in FILTERS if wanted.get(field)}
    left = {field: len(select(figures, {**wanted, field: ()})) for field in asked}
    without = [f"{count} without --{field} {asked[field]}" for field, count in left.items() if count]
    together = " and ".join(f"--{field} {text}" for field, text in asked.items())
    return f"no figure has {together} together" + (f"; there are {', '.join(without)}" if without else "")


def in_order(figures: Iterable[PublishedFigure]) -> list[PublishedFigure]:
    """Return figures by model, task, budget (as `keep_order` has it), method, and rising value."""
    return sorted(figures, key=_place)


def _place(figure: PublishedFigure) -> tuple[object, ...]:
    value = math.inf if figure.number is None else figure.number
    return (figure.model, figure.task, keep_order(figure.keep), figure.method, value, figure.table, figure.line)


def values_of(field: str, figures: Iterable[PublishedFigure]) -> list[str]:
    """Return the values that figures have in a field, each once and in order: budgets falling by kind, the rest by name."""
    found = {str(getattr(figure, field)) for figure in figures}
    return sorted(found, key=keep_order) if field == "keep" else sorted(found)


def keep_order(keep: str) -> tuple[int, float]:
    """Return by what budgets are sorted: all tokens, shares falling, counts falling, unknown."""
    if keep in ("all", UNKNOWN):
        return (0 if keep == "all" else 3, 0.0)
    budget = Keep.parse(keep)
    return (1 if budget.share else 2, -budget.value)


def _fits(field: str, value: str) -> Callable[[PublishedFigure], bool]:
    """Whether a figure has a value in a field."""
    low = value.strip().lower()
    if field == "model":
        return lambda figure: low in model_names(figure.model)
    if field == "source":
        return lambda figure: low in figure.source.lower()
    if field == "keep" and low not in ("all", UNKNOWN):
        try:
            budget = Keep.parse(value)
        except ValueError as error:
            raise RequestError(f"--keep {value!r}: {error}; or all, of the unpruned model") from None
        return lambda figure: figure.budget == budget
    return lambda figure: str(getattr(figure, field)).lower() == low


def _nearest(field: str, value: str, figures: Sequence[PublishedFigure]) -> str:
    """The tail of a message: the value nearest to one that no figure has."""
    known = values_of(field, figures)
    if not known:
        return "the table is empty"
    if field == "keep":
        budget = Keep.parse(value)
        of_kind = [
            keep for keep in map(Keep.parse, (k for k in known if k not in ("all", UNKNOWN))) if keep.share == budget.share
        ]
        if of_kind:
            return f"did you mean {str(min(of_kind, key=lambda keep: abs(keep.value - budget.value)))!r}?"
        return f"choose from {', '.join(known)}"
    if field == "model":
        by_name = {name: model for model in known for name in model_names(model)}
        told = nearest(value.lower(), by_name)
        return told if told.startswith("did you mean") else f"choose from {', '.join(known)}"
    return nearest(value, known)
