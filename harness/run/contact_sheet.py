"""The picture of a sample that a run keeps, and where the visual tokens of its images lie on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from math import ceil, sqrt

from PIL import Image

from harness.models.prompt import ImageSpan
from harness.store.layouts import Area, ImageLayout

SIDE = 336
"""Pixels that an image is wide or high at the most."""
_GAP = 12  # white pixels between images
Box = tuple[float, float, float, float]
"""Top, left, bottom and right of an image on its sheet, in [0, 1]."""


def sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Return a small picture of one image, or of several beside and below each other on white, in the order of the prompt.

    Args:
        images: in RGB, at least one.
    """
    if len(images) == 1:
        return _small(images[0])
    small = [_small(image) for image in images]
    size, places = _places([image.size for image in small])
    found = Image.new("RGB", size, "white")
    for image, place in zip(small, places, strict=True):
        found.paste(image, place)
    return found


def layout_of(image_id: str, spans: Sequence[ImageSpan], sizes: Sequence[tuple[int, int]]) -> ImageLayout:
    """Return how the visual tokens of a sample lie on its `sheet`.

    Args:
        image_id: of the sample.
        spans: of its images; none where it has no image.
        sizes: (width, height) of the images.
    """
    count = sum(span.count for span in spans)
    if len(spans) == 1:
        areas = spans[0].areas
        return ImageLayout(image_id, count, spans[0].grid, areas if len(areas) > 1 else ())
    boxes = _boxes(sizes) if spans else []
    placed = tuple(_within(area, box) for span, box in zip(spans, boxes, strict=True) for area in span.areas)
    return ImageLayout(image_id, count, None, placed)


def _small(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    return small


@lru_cache(maxsize=1024)
def _small_size(size: tuple[int, int]) -> tuple[int, int]:
    """What `_small` makes of an image of so many pixels, (width, height)."""
    return _small(Image.new("1", size)).size


def _places(sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """Width and height of the sheet, and left and top of each image on it, from what their small pictures measure.

    There are as many in a row as there are rows, or up to three in one.
    """
    across = len(sizes) if len(sizes) <= 3 else ceil(sqrt(len(sizes)))
    places = []
    top = width = 0
    for start in range(0, len(sizes), across):
        left = 0
        for size in sizes[start : start + across]:
            places.append((left, top))
            left += size[0] + _GAP
        width = max(width, left - _GAP)
        top += max(size[1] for size in sizes[start : start + across]) + _GAP
    return (width, top - _GAP), places


def _boxes(sizes: Sequence[tuple[int, int]]) -> list[Box]:
    small = [_small_size(size) for size in sizes]
    (width, height), places = _places(small)
    return [
        (top / height, left / width, (top + size[1]) / height, (left + size[0]) / width)
        for (left, top), size in zip(places, small, strict=True)
    ]


def _within(area: Area, box: Box) -> Area:
    """An area of an image as one of the sheet on which the image has a box."""
    top, left, bottom, right = box

    def at(start: float, end: float, share: float) -> float:
        return min(1.0, start + share * (end - start))

    return replace(
        area, top=at(top, bottom, area.top), left=at(left, right, area.left),
        bottom=at(top, bottom, area.bottom), right=at(left, right, area.right),
    )  # fmt: skip
