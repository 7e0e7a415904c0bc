"""Columns of users' files: which are read, which look as if they should be, and which nothing reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from string import ascii_uppercase

from harness.errors import RequestError

IMAGES = ("images", "image")
"""Columns that hold images, in the order in which they are looked at; `image_columns` has all of a table."""
OPTION_LISTS = ("choices", "options")
ALWAYS = (
    *IMAGES, "image_path", "question", "answer", "answers", *OPTION_LISTS, "hint", "id", "index", "image_id", "family",
    "category", "l2-category", "L2-category", "conversations", "messages",
)  # fmt: skip
"""Columns that are read under these names; those of numbered images and of lettered options come to them."""
_ALIASES = {
    "image": (
        "img", "imgs", "picture", "photo", "pic", "imagefile", "imagefiles", "imagename", "imagelist", "imgpath", "imagepaths",
        "imageurl", "imagebytes", "imagebase64", "filename", "filepath", "imagesrc",
    ),
    "question": ("query", "prompt", "instruction", "questiontext", "input", "q", "text"),
    "answer": (
        "label", "labels", "target", "targets", "gt", "groundtruth", "gold", "solution", "answerlist", "answerslist",
        "answertext", "correctanswer", "gtanswer", "correct", "goldanswer", "goldanswers", "a", "ans", "answeridx", "answerindex",
        "correctanswerindex", "correctidx", "correctindex", "correctoption", "correctchoice", "expected", "expectedanswer",
        "reference", "referenceanswer",
    ),
    "choices": (
        "candidates", "choicelist", "optionlist", "alternatives", "optionslist", "choiceslist", "opts", "candidate",
        "multichoiceoptions",
    ),
    "image_id": ("imgid",),
}  # fmt: skip
"""What else such a column is often called, without case and without what is no letter or digit."""
_STANDS_FOR = {
    "image": ("image", "images", "image_path"),
    "question": ("question", "conversations", "messages"),
    "answer": ("answer", "answers", "conversations", "messages"),
    "choices": OPTION_LISTS,
    "image_id": ("image_id",),
    "hint": ("hint",),
}
"""Columns by what they are for: where one of these is there, no other is missed."""
_NUMBERED = re.compile(r"image_?(\d{1,2})")
_LETTERED = re.compile(r"(?:(?:option|choice)_)?([A-Za-z])")
_LOOSE_OPTION = re.compile(r"(?:option|choice)[ _-]*([A-Za-z]|\d)", re.IGNORECASE)


def image_columns(columns: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of a table that may hold images, those that count before others first."""
    there = list(columns)
    numbered = sorted((name for name in there if _NUMBERED.fullmatch(name)), key=lambda name: int(re.sub(r"\D", "", name)))
    return (*(name for name in IMAGES if name in there), *numbered, *(["image_path"] if "image_path" in there else []))


def chosen_columns(held: Iterable[str]) -> tuple[str, ...]:
    """Return the columns whose images a row has, of those that hold any there, in the order of `image_columns`.

    A list counts alone; else the image and the numbered ones behind it, or the numbered ones; else the path.

    >>> chosen_columns(["image_1", "image_2", "image_path"]), chosen_columns(["image", "image2"])
    (('image_1', 'image_2'), ('image', 'image2'))
    >>> chosen_columns(["image", "image_1"]), chosen_columns(["images", "image"])
    (('image',), ('images',))
    """
    there = list(held)
    if "images" in there or "image" not in there:
        numbered = [name for name in there if _NUMBERED.fullmatch(name)]
        return tuple(numbered) if numbered and "images" not in there else tuple(there[:1])
    return tuple(name for name in there if name == "image" or (_NUMBERED.fullmatch(name) and int(re.sub(r"\D", "", name)) > 1))


def option_columns(columns: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of a table that hold one option each, in the order of their letters; none where A or B is missing."""
    there = list(columns)
    for form in ("{}", "option_{}", "choice_{}"):
        for letters in (ascii_uppercase, ascii_uppercase.lower() if form != "{}" else ""):
            names = [form.format(letter) for letter in letters]
            if len(names) > 1 and names[0] in there and names[1] in there:
                return tuple(name for name in names if name in there)
    return ()


def read_columns(columns: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of a table that are read."""
    there = list(dict.fromkeys(columns))
    lettered = () if any(name in there for name in OPTION_LISTS) else option_columns(there)
    known = {*ALWAYS, *image_columns(there), *lettered}
    return tuple(name for name in there if name in known)


def unread_columns(name: str, columns: Sequence[str]) -> list[str]:
    """Return the columns of a table that nothing reads.

    Args:
        name: of the table, for the message.
        columns: of the table.

    Raises:
        RequestError: for one that was probably meant to be read, with the likely name.
    """
    read = read_columns(columns)
    unread = [column for column in dict.fromkeys(columns) if column not in read]
    for column in unread:
        meant = _meant(column, columns)
        if meant in ("image", "question") and meant not in columns:
            raise RequestError(f"{name}: no column {meant!r}; did you mean {column[:40]!r}?")
        if meant is not None:
            raise RequestError(f"{name}: nothing reads column {column[:40]!r}; did you mean {meant!r}?")
    return unread


def _meant(column: str, columns: Sequence[str]) -> str | None:
    """The column that one was probably meant to be; None where it is another, or that one is there."""
    plain = re.sub(r"[^a-z0-9]", "", column.casefold())
    for known in ALWAYS:
        if plain == re.sub(r"[^a-z0-9]", "", known) and known not in columns:
            return known
    loose = _LOOSE_OPTION.fullmatch(column.strip())
    has_options = bool(option_columns(columns)) or any(name in columns for name in OPTION_LISTS)
    if loose is not None and not has_options:
        return f"option_{chr(ord('a') + int(loose[1]) - 1) if loose[1] in '123456789' else loose[1].lower()}"
    if column in ("a", "b") and {"a", "b"} <= set(columns) and not has_options:
        return column.upper()
    for purpose, names in _STANDS_FOR.items():
        if any(name in columns for name in names) or (purpose == "image" and image_columns(columns)):
            continue
        if purpose == "choices" and has_options:
            continue
        if plain in _ALIASES.get(purpose, ()) or (len(plain) > 3 and get_close_matches(plain, names, 1, 0.8)):
            return purpose
    return None
