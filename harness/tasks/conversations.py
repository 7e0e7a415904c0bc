"""Conversations as training sets have them: LLaVA's ``conversations`` (from, value) and ``messages`` (role, content)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.tasks.listed import listed
from harness.tasks.marks import MARK, count_marks
from harness.tasks.rows import Row, kind

COLUMNS = ("conversations", "messages")
_ASKS, _ANSWERS = frozenset({"human", "user"}), frozenset({"gpt", "assistant"})


@dataclass(frozen=True)
class Turn:
    """A question of a conversation, with its answer; None where nobody answers the last."""

    question: str
    answer: str | None
    number: int  # of the question, counted from 0


def turns(row: Row) -> list[Turn]:
    """Return the questions of a row's conversation, in order; none where the row holds no conversation.

    Raises:
        RequestError: where a turn cannot be read, two people of one kind speak in turn, or an image's mark stands behind the
            first question.
    """
    column = next((name for name in COLUMNS if row.has(name)), None)
    if column is None:
        return []
    said = row.values[column]
    said = listed(said) if isinstance(said, str) else said
    if not isinstance(said, (list, tuple)) or not said:
        raise row.error(column, f"is {kind(row.values[column])}, not a list of turns")
    found: list[Turn] = []
    for number, turn in enumerate(said):
        who, text = _read(row, column, number, turn)
        expected = _ANSWERS if number % 2 else _ASKS
        if who not in expected:
            wanted = "an answer" if number % 2 else "a question"
            raise row.error(column, f"turn {number} is of {who!r}, where {wanted} is expected; it may hold no other turns")
        if who in _ANSWERS:
            found[-1] = Turn(found[-1].question, text, found[-1].number)
            continue
        if found and count_marks(text):
            raise row.error(column, f"turn {number} has an image mark; all images must stand in the first question")
        found.append(Turn(text, None, len(found)))
    return found


def _read(row: Row, column: str, number: int, turn: Any) -> tuple[str, str]:
    """Who speaks, and what; images among the parts of a message become marks."""
    if not isinstance(turn, Mapping):
        raise row.error(column, f"turn {number} is {kind(turn)}, not an object")
    who, said = (turn.get(name, turn.get(other)) for name, other in (("from", "role"), ("value", "content")))
    if isinstance(said, (list, tuple)):
        parts = [part if isinstance(part, Mapping) else {"type": "text", "text": part} for part in said]
        said = "".join(MARK if part.get("type") == "image" else str(part.get("text") or "") for part in parts)
    if not isinstance(who, str) or not isinstance(said, str) or not said.strip():
        raise row.error(column, f"turn {number} has no text with who says it (from and value, or role and content)")
    return who, said.strip()
