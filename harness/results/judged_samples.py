"""How single answers of a run were scored, beside what the database says of them. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from harness.results.types import JsonObject
from harness.store.later_columns import has_rulings
from harness.store.runs import RunFolder
from harness.tasks.rule_names import RULES
from reports.view import Ruling


def ruling_columns(run: RunFolder) -> tuple[str, ...]:
    """Return the columns of a run's samples that say how answers were scored: what was read, and the score by each rule.

    Args:
        run: finished or not.

    Returns:
        ``read``, ``undecided`` and the rules of the task where it has several; nothing of a run of an older version.
    """
    scoring = run.manifest().get("scoring")
    if not isinstance(scoring, dict) or not has_rulings(run.connection):
        return ()
    rules = [rule for rule in RULES if rule in (scoring.get("rules") or ())]
    return ("read", "undecided", *(rules if len(rules) > 1 else ()))


def ruling(columns: Sequence[str], values: Sequence[object]) -> Ruling | None:
    """Return how an answer was scored, or None where the run does not say.

    Args:
        columns: from `ruling_columns`.
        values: of a sample, in their order.
    """
    if not columns:
        return None
    found: JsonObject = dict(zip(columns, values, strict=True))
    scores = {rule: float(found[rule]) for rule in RULES if found.get(rule) is not None}
    return Ruling(found["read"], not found["undecided"], scores)
