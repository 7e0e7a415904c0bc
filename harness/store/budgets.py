"""Budgets as they are asked for, and those of stored runs in the words of this version. Needs no torch.

Up to schema version 2 a budget was told by its size: from 1 on it was a count, however it was written, and below 1 a share. On
a model whose images are all alike a share was stored as the count that it came to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from harness.errors import RequestError
from methods.keep import Keep, keep_facts

Facts = dict[str, Any]
"""What is known of a cell, as JSON holds it."""
TOLD_BY_SIZE = 2
"""The last schema version in which the size of a budget told a count from a share."""


def read_keep(asked: object) -> Keep:
    """Return a budget as the user gave it: a count, or a share where it is written with a point or a %.

    Args:
        asked: a text as on the command line; in Python a number too.

    Raises:
        RequestError: where it is neither.
    """
    try:
        return Keep.asked(asked)
    except ValueError as error:
        raise RequestError(f"--keep {str(asked)[:40]!r}: {error}") from None


def cell_key(model: str, task: str, method: str, keep: Keep | None, mode: str, positions: str, seed: int) -> str:
    """Return the identity of a cell, under which its results are stored.

    Args:
        model, task: by name.
        method: its canonical expression.
        keep: the budget; None where it means nothing.
        mode: how the budget is counted.
        positions: original or contiguous.
        seed: of the run.
    """
    return f"{model}|{task}|{method}{'' if keep is None else f'@{keep}'}|{mode}|{positions}|{seed}"


def asked_budgets(manifest: Mapping[str, Any], texts: object) -> list[Keep]:
    """Return the budgets that texts in a manifest ask for, by the rule of the version that wrote it.

    Args:
        manifest: of the run.
        texts: such as ``keep`` of its config; what is no budget is left out.
    """
    found: list[Keep] = []
    for text in texts if isinstance(texts, list) else ():
        try:
            older = manifest["schema_version"] <= TOLD_BY_SIZE
            found.append(Keep.older(float(text)) if older else Keep.asked(text))
        except (ValueError, TypeError, OverflowError):
            continue
    return found


def told_by_kind(cells: list[Facts], manifest: Callable[[], Mapping[str, Any]]) -> list[Facts]:
    """Return the facts of stored cells with their budgets as this version writes them; those that have them so stay as they are.

    Args:
        cells: facts of each, or entries of ``summary.json``.
        manifest: gives that of the run, which is read only where a cell is of an older version.
    """
    if not any(facts.get("keep") is not None and facts.get("keep_label") is None for facts in cells):
        return cells
    stored = manifest()
    asked = asked_budgets(stored, stored["config"].get("keep"))
    for extension in stored.get("extensions", ()):
        asked += asked_budgets(stored, extension.get("keep"))
    return [facts | keep_facts(_told(facts, asked, prod(stored["grid"]))) for facts in cells]


def _told(facts: Facts, asked: Sequence[Keep], tokens: int) -> Keep | None:
    """The budget of a cell of a run that asked for these budgets, on a model whose images have so many tokens."""
    keep = Keep.stored(facts)
    if keep is None or keep.share or keep in asked or facts.get("keep_label") is not None:
        return keep
    return next((one for one in asked if one.share and one.tokens(tokens) == keep.value), keep)


def in_present_terms(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest whose budgets are written as this version reads them.

    Args:
        manifest: as it is stored.
    """
    if manifest["schema_version"] > TOLD_BY_SIZE:
        return dict(manifest)

    def written(content: Mapping[str, Any], name: str) -> dict[str, Any]:
        labels = [str(keep) for keep in asked_budgets(manifest, content.get(name))]
        return {**content, name: labels} if name in content else {**content}

    found = written({**manifest, "config": written(manifest["config"], "keep")}, "budgets")
    if "extensions" in found:
        found["extensions"] = [written(extension, "keep") for extension in found["extensions"]]
    return found
