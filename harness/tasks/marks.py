"""Marks in a question that say where its images stand: ``<image>``, or with numbers ``<image 1>`` and ``<image1>``."""

from __future__ import annotations

import re

MARK = "<image>"
"""Stands in a question's text where an image does; the images are taken in order."""
_ANY = re.compile(r"<image(?:[ _]?(\d{1,3}))?>")


def count_marks(text: str) -> int:
    """Return how many marks a text holds.

    >>> count_marks("<image> or <image 2> ?"), count_marks("<img>")
    (2, 0)
    """
    return len(_ANY.findall(text))


def placed(text: str, images: int) -> tuple[str, list[int]]:
    """Return a question with plain marks, and the order in which its images stand there, counted from 0.

    Args:
        text: of the question.
        images: how many it has.

    Raises:
        ValueError: where the marks are not as many as the images; the message is the end of a sentence on the question.

    >>> placed("<image 2> or <image 1> ?", 2)
    ('<image> or <image> ?', [1, 0])
    >>> placed("what ?", 2)
    ('what ?', [0, 1])
    """
    numbers = [int(number) if number else None for number in _ANY.findall(text)]
    if not numbers:
        return text, list(range(images))
    held = (
        f"holds {_counted(len(numbers), 'image mark')} where {_counted(images, 'image')} {'is' if images == 1 else 'are'} given"
    )
    if all(number is None for number in numbers):
        if len(numbers) != images:
            raise ValueError(f"{held}; write {MARK} once for each image, or no mark, and the images come first")
        return text, list(range(images))
    if None in numbers:
        raise ValueError(f"mixes {MARK} with marks that have a number")
    order = [number - 1 for number in numbers if number is not None]
    if sorted(order) != list(range(images)):
        raise ValueError(f"{held}; write each of <image 1> to <image {images}> once" if images else held)
    return _ANY.sub(MARK, text), order


def texts_around(text: str, images: int) -> tuple[str, ...]:
    """Return the texts before, between and behind the images of a question, one more than there are images.

    Without marks, the images come first. White space behind marks at the start belongs to them.

    Raises:
        ValueError: where the marks are not as many as the images.

    >>> texts_around("what ?", 1), texts_around("<image>\\nwhat ?", 1)
    (('', 'what ?'), ('', 'what ?'))
    >>> texts_around("Is <image> like <image> ?", 2)
    ('Is ', ' like ', ' ?')
    """
    plain, _ = placed(text, images)
    if MARK not in plain:
        return ("",) * images + (plain,)
    parts = plain.split(MARK)
    first = next((place for place, part in enumerate(parts) if part.strip()), len(parts) - 1)
    return ("",) * first + (parts[first].lstrip() if first else parts[first], *parts[first + 1 :])


def unmarked(text: str) -> str:
    """Return a question without its marks.

    >>> unmarked("<image>\\nIs <image> red ?")
    'Is red ?'
    """
    return re.sub(r"^\s+|(?<=[^\S\n])[^\S\n]+", "", _ANY.sub("", text)) if count_marks(text) else text


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"
