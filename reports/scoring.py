"""The sentences on how a run was scored: which rule leads, how often the others part from it, and what a partial figure is of."""

from __future__ import annotations

from typing import Any

from reports import wording
from reports.cells import Cell, dig, known_number, method, number, shown
from reports.leading import Unit, unit_of

RULES = {"ours": "our rule", "official": "the official rule", "authors": "the authors’ rule"}
"""Rules as a sentence names them, by their names in the manifest."""


def scoring(manifest: dict[str, Any], cells: list[Cell]) -> list[str]:
    """Say which rule scored the answers, how often the other rules part from it, and of what a partial figure is.

    Args:
        manifest: of the run.
        cells: the entries of its summary.

    Returns:
        Whole sentences; none for a run of an older version, which does not tell its rule.
    """
    return [*rules(manifest, cells), *partial(manifest, cells)]


def ruled(manifest: dict[str, Any]) -> str:
    """Return the rule that leads as small print names it, ``by the official rule``; nothing where the task has one rule alone."""
    rules = dig(manifest, "scoring.rules")
    several = isinstance(rules, dict) and len(rules) > 1
    return f"by {named(dig(manifest, 'scoring.rule'))}" if several else ""


def named(rule: object) -> str:
    """Return a rule as a sentence names it."""
    return RULES.get(str(rule), f"the rule {rule}")


def rules(manifest: dict[str, Any], cells: list[Cell]) -> list[str]:
    """Say which rule scored the answers and how often the other rules part from it; see `scoring`."""
    told = manifest.get("scoring")
    if not isinstance(told, dict) or not told.get("rule"):
        return []
    rule, functions = str(told["rule"]), told.get("rules")
    functions = functions if isinstance(functions, dict) else {}
    said = [f"Scored by {named(rule)}{_function(functions.get(rule))}."]
    counted = [cell for cell in cells if number(cell, "scoring.n")]
    for other, function in functions.items():
        if other == rule:
            continue
        name = named(other)
        start = f"{name[:1].upper()}{name[1:]}{_function(function)}"
        path = f"scoring.differ.{other}"
        known = [cell for cell in counted if number(cell, path) is not None]
        if known and not any(known_number(cell, path) for cell in known):
            said.append(f"{start} agrees about every answer.")
        elif known:
            said.append(f"{start} gives another score to {_counts(known, path)}.")
    told_apart = [cell for cell in counted if number(cell, "scoring.undecided") is not None]
    if any(number(cell, "scoring.undecided") for cell in told_apart):
        clause = str(told.get("undecided") or "cannot decide")
        said.append(
            f"Where {named(rule)} cannot decide, its own code {clause}; here such an answer counts as wrong: "
            f"{_counts(told_apart, 'scoring.undecided')}."
        )
    return said


def _function(function: object) -> str:
    return f" ({function})" if function else ""


def _counts(cells: list[Cell], path: str) -> str:
    """Write a count of the unpruned model's answers, and the largest of the other cells where it is larger."""
    none = next((cell for cell in cells if method(cell) == "none"), None)
    most = max(cells, key=lambda cell: known_number(cell, path) / known_number(cell, "scoring.n"))
    found = [] if none is None else [f"{_of(none, path)} answers of none"]
    if most is not none and (none is None or number(most, path)):
        found.append(f"{'at most ' if len(cells) > 1 else ''}{_of(most, path)}{'' if found else ' answers'} ({_where(most)})")
    return ", ".join(found)


def _of(cell: Cell, path: str) -> str:
    return f"{known_number(cell, path):,.0f} of {known_number(cell, 'scoring.n'):,.0f}"


def _where(cell: Cell) -> str:
    return f"{method(cell)} at {shown(cell)}" if shown(cell) else method(cell)


def partial(manifest: dict[str, Any], cells: list[Cell]) -> list[str]:
    """Say of how many questions a partial figure is; nothing of one that bears no such mark. See `scoring`."""
    scored = [cell for cell in cells if not cell.get("skipped")]
    unit = unit_of(*scored)
    if not unit.partial:
        return []
    whole, told = number(manifest, "whole.questions"), isinstance(manifest.get("whole"), dict)
    asked = max((n for c in scored if (n := number(c, "n")) is not None), default=None)
    if whole is None and told:
        few = f"{_subject(unit)} is of {wording.count(asked)} questions; how many" if asked is not None else "how many questions"
        return [f"Partial: {few} the whole benchmark has is not known here. It{_tail(unit)}."]
    if asked is None or whole is None:
        return [f"Partial: {_subject(unit)} is of fewer questions than the whole benchmark has{_estimate(unit)}."]
    if asked >= whole:
        return [f"Partial: some cells lack answers to some of the {whole:,.0f} questions of the benchmark{_estimate(unit)}."]
    return [f"Partial: {_subject(unit)} is of {wording.count(asked)} of {whole:,.0f} questions{_estimate(unit)}."]


def _subject(unit: Unit) -> str:
    return "accuracy" if unit.plain else unit.name


def _estimate(unit: Unit) -> str:
    return (", and" if unit.scale == 100 else "; it") + _tail(unit)


def _tail(unit: Unit) -> str:
    scaled = "" if unit.scale == 100 else " is scaled to the whole, and"
    return f"{scaled} is no figure to set beside published ones"
