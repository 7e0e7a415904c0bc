"""Options of multiple choice in users' files: in a list, in a text that writes one down, or in columns of their own."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from harness.tasks.columns import OPTION_LISTS, option_columns
from harness.tasks.listed import listed, looks_listed
from harness.tasks.rows import Row, kind
from harness.tasks.target import Target


def holds_options(columns: tuple[str, ...]) -> bool:
    """Return whether a table with these columns has options."""
    return any(name in columns for name in OPTION_LISTS) or bool(option_columns(columns))


def options_of(row: Row, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the options of a row in the order of their letters; none where it has none.

    Args:
        row: the row.
        columns: of its table.

    Raises:
        RequestError: where they cannot be read, are fewer than two, or leave a letter out.
    """
    for name in OPTION_LISTS:
        if row.has(name) and row.values[name] not in ("", "[]"):
            return _checked(row, name, _listed(row, name))
    if any(name in columns for name in OPTION_LISTS):
        return ()
    names = option_columns(columns)
    texts = [row.either(name, "") for name in names]
    while texts and not texts[-1]:
        texts.pop()
    if not texts:
        return ()
    gap = next((name for name, text in zip(names, texts) if not text), None)
    missing = next((letter for letter, name in zip(ascii_uppercase, names[: len(texts)]) if name[-1:].upper() != letter), None)
    if gap is not None or missing is not None:
        raise row.error(gap or names[0][:-1] + (missing or ""), "is empty, and an option of a later letter is not")
    return _checked(row, names[0], texts)


def _listed(row: Row, column: str) -> list[str]:
    """The texts of a list, of a list written as text, or of an object whose keys are the letters."""
    value: Any = row.values[column]
    if isinstance(value, str):
        found = listed(value)
        if found is None:
            what = "looks like a list and cannot be read as one" if looks_listed(value) else "is a text, not a list of options"
            raise row.error(column, what)
        value = found
    if isinstance(value, Mapping):
        given = {key: text for key, text in value.items() if text is not None}  # parquet has every key that any row has
        if [key.upper() for key in given] != list(ascii_uppercase[: len(given)]):
            raise row.error(column, f"has the keys {', '.join(map(str, given))[:60]}; they should be letters from A on")
        value = list(given.values())
    return list(Row({**row.values, column: value}, row.place).texts(column))


def _checked(row: Row, column: str, texts: list[str]) -> tuple[str, ...]:
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise row.error(column, f"has {len(texts)} options; there should be 2 to {len(ascii_uppercase)}")
    return tuple(texts)


def answer_among(row: Row, choices: tuple[str, ...]) -> Target:
    """Return the right option of a row: its answer is a letter, a place counted from 0, or an option's text.

    Raises:
        RequestError: where it is none of these, or could be two of them.
    """
    column = "answers" if row.has("answers") else "answer"
    answer = row.value(column)
    if isinstance(answer, str) and looks_listed(answer) and answer not in choices:
        found = listed(answer)
        answer = found if isinstance(found, list) else answer
    if isinstance(answer, (list, tuple)) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, (list, tuple, dict, bool)):
        raise row.error(column, f"is {kind(answer)}, where one of {len(choices)} choices is right")
    letters = ascii_uppercase[: len(choices)]
    if isinstance(answer, float) and answer == int(answer):  # as tables with an empty cell have whole numbers
        answer = int(answer)
    text = str(answer).strip()
    as_letter = text.strip("().").upper() if len(text.strip("().")) == 1 and text.strip("().").upper() in letters else None
    as_text = [name for name, option in zip(letters, choices) if option.strip() == text]
    as_place = letters[int(text)] if text.isdecimal() and len(text) < 4 and int(text) < len(letters) else None
    if isinstance(answer, int) and as_place is None:
        if as_text:
            return Target((as_text[0],), choices)
        raise row.error(column, f"is {answer}, and there are {len(choices)} choices, counted from 0")
    found_letters = {*as_text, *([as_letter] if as_letter else []), *([as_place] if as_place else [])}
    if len(found_letters) != 1:
        what = "a place and another option" if as_place and as_text else "a letter and another option"
        problem = f"is both {what}" if found_letters else "is neither a letter nor one of the choices"
        hint = "write its letter" if as_place and as_text else "write its place, counted from 0"
        raise row.error(column, f"{text[:40]!r} {problem}; {hint}")
    return Target((found_letters.pop(),), choices)
