"""How the visual tokens of an image lie on it: their count, their grid, and the areas that they cover. Needs no torch."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Area:
    """A part of an image, and the grid of visual tokens that covers it row by row; edges are in [0, 1]."""

    rows: int
    columns: int
    top: float = 0.0
    left: float = 0.0
    bottom: float = 1.0
    right: float = 1.0

    @property
    def count(self) -> int:
        """The number of its visual tokens."""
        return self.rows * self.columns


@dataclass(frozen=True)
class ImageLayout:
    """The visual tokens of one image: how many there are, and where they lie.

    >>> ImageLayout("whole", 6, (2, 3)).row()
    ('whole', 6, 2, 3)
    """

    image: str  # its id
    tokens: int
    grid: tuple[int, int] | None  # (h, w) where the tokens are one full grid
    areas: tuple[Area, ...] = ()  # what the tokens cover, in their order, where they are no one full grid

    def row(self) -> tuple[str, int, int | None, int | None]:
        """Return the image's row of the table ``layouts``, without the cell."""
        return (self.image, self.tokens, *(self.grid or (None, None)))

    def area_rows(self) -> list[tuple[str | int | float, ...]]:
        """Return the image's rows of the table ``areas``: image, number of the area, and what an `Area` holds."""
        return [(self.image, number, *astuple(area)) for number, area in enumerate(self.areas)]
