"""What images put into a prompt: spans of visual tokens, and the prefix of all that stands before the questions.

Importing this file needs no torch: shapes and families can be listed without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from harness.store.layouts import Area
from methods.lazy import torch

VISUAL = -1
"""Stands in a span's ids where a visual token is; in the ids of a prompt, where an earlier image of the prompt is."""
NEWLINE = -2
"""Stands in a span's ids where the model's learned end of an image row is."""


@dataclass(frozen=True)
class ImageSpan:
    """The tokens that one image puts into the prompt.

    Whatever is not a visual token (row ends, separators, start and end marks) counts as text: it always stays.
    """

    ids: tuple[int, ...]  # token ids; VISUAL and NEWLINE for what has none
    areas: tuple[Area, ...]  # parts of the image that the visual tokens cover, in the order of the tokens
    tiles: int = 1  # images that the tower sees
    cut: tuple[int, ...] = ()  # how the image was cut, as its family notes it

    @property
    def count(self) -> int:
        """Number of visual tokens."""
        return sum(area.count for area in self.areas)

    @property
    def marks(self) -> int:
        """Number of tokens that count as text."""
        return len(self.ids) - self.count

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the visual tokens where they are one full grid; else None."""
        return (self.areas[0].rows, self.areas[0].columns) if len(self.areas) == 1 else None


def area_coordinates(area: Area) -> torch.Tensor:
    """Return row and column of the centre of each of an area's tokens, in [0, 1] of the image: [rows * columns, 2]."""
    down = area.top + (torch.arange(area.rows) + 0.5) / area.rows * (area.bottom - area.top)
    across = area.left + (torch.arange(area.columns) + 0.5) / area.columns * (area.right - area.left)
    return torch.stack(torch.meshgrid(down, across, indexing="ij"), -1).view(-1, 2)


def grid_span(rows: int, columns: int, cut: tuple[int, ...] = ()) -> ImageSpan:
    """Return the span of an image that puts nothing but one grid of visual tokens into the prompt."""
    return ImageSpan((VISUAL,) * (rows * columns), (Area(rows, columns),), 1, cut)


@dataclass(frozen=True)
class PromptPrefix:
    """All that stands before the questions of a prompt: M tokens, P of text that stays and among them N visual tokens.

    Positions have one axis, or three (time, row, column), where an image starts behind the text before it, its tokens
    are numbered by their row and column, and the text goes on behind the larger of both.
    """

    ids: tuple[int, ...]
    spans: tuple[ImageSpan, ...] = ()
    axes: int = 1  # of positions

    @classmethod
    def of(cls, ids: Sequence[int], spans: Sequence[ImageSpan], axes: int = 1) -> PromptPrefix:
        """Return the prefix of a prompt with these images.

        Args:
            ids: token ids before the last image; an earlier image stands where they hold VISUAL.
            spans: of the images, in the order of the prompt.
            axes: of positions, 1 or 3.
        """
        joined: list[int] = []
        waiting = list(spans)
        for token in ids:
            joined += waiting.pop(0).ids if token == VISUAL else [token]
        for span in waiting:
            joined += span.ids
        return cls(tuple(joined), tuple(spans), axes)

    @cached_property
    def is_visual(self) -> torch.Tensor:
        """Whether each token of the prefix is visual: bool [M]."""
        return torch.tensor(self.ids, dtype=torch.int64) == VISUAL

    @cached_property
    def text(self) -> torch.Tensor:
        """Ids of the tokens that are not visual: int64 [P]."""
        return torch.tensor(self.ids, dtype=torch.int64)[~self.is_visual]

    @cached_property
    def visual_before(self) -> torch.Tensor:
        """Number of visual tokens before each token of text: int64 [P]."""
        return self.is_visual.long().cumsum(0)[~self.is_visual]

    @property
    def count(self) -> int:
        """Number of visual tokens, N."""
        return sum(span.count for span in self.spans)

    @cached_property
    def image(self) -> torch.Tensor:
        """Index of the image that each visual token is of: int64 [N]."""
        counts = torch.tensor([span.count for span in self.spans], dtype=torch.int64)
        return torch.arange(len(self.spans)).repeat_interleave(counts)

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the visual tokens where they are one full grid; else None."""
        return self.spans[0].grid if len(self.spans) == 1 else None

    @cached_property
    def coordinates(self) -> torch.Tensor:
        """Row and column of each visual token in its image, in [0, 1]: [N, 2]."""
        return torch.cat([area_coordinates(area) for span in self.spans for area in span.areas])

    @cached_property
    def _numbered(self) -> tuple[torch.Tensor, int]:
        """Positions of all tokens, and the position behind them."""
        if self.axes == 1:
            return torch.arange(len(self.ids)), len(self.ids)
        positions = torch.zeros(self.axes, len(self.ids), dtype=torch.int64)
        column = start = 0
        waiting = iter(self.spans)
        while column < len(self.ids):
            if self.ids[column] != VISUAL:
                positions[:, column] = start
                column, start = column + 1, start + 1
                continue
            grid = next(waiting).grid
            assert grid is not None, "families whose positions have three axes take an image as one grid"
            rows, columns = grid
            down, across = torch.arange(rows), torch.arange(columns)
            own = slice(column, column + rows * columns)
            positions[0, own] = start
            positions[1, own] = start + down.repeat_interleave(columns)
            positions[2, own] = start + across.repeat(rows)
            column, start = column + rows * columns, start + max(rows, columns)
        return positions, start

    @property
    def positions(self) -> torch.Tensor:
        """Positions of all tokens as if none ever left: int64 [M], or [3, M]."""
        return self._numbered[0]

    @property
    def question_start(self) -> int:
        """Position of the first token of a question."""
        return self._numbered[1]


class PixelBatch:
    """The images of B prompts, made ready for the vision tower.

    Args:
        tensors: of each prompt its tiles [tiles, 3, H, W], or its patches [patches, C].
        spans: of each prompt the tokens that its images put into it.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], spans: Sequence[tuple[ImageSpan, ...]]) -> None:
        self.tensors, self.spans = tuple(tensors), tuple(spans)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, prompts: slice | list[int] | torch.Tensor) -> PixelBatch:
        chosen = list(range(len(self)))[prompts] if isinstance(prompts, slice) else [int(prompt) for prompt in prompts]
        return PixelBatch([self.tensors[i] for i in chosen], [self.spans[i] for i in chosen])

    @property
    def uniform(self) -> bool:
        """Whether all prompts put the same tokens in the same places."""
        return all(spans is self.spans[0] or spans == self.spans[0] for spans in self.spans)

    @property
    def counts(self) -> list[int]:
        """Number of visual tokens of each prompt."""
        return [sum(span.count for span in spans) for spans in self.spans]

    def groups(self) -> list[list[int]]:
        """Return groups of the prompts, by index, that put the same tokens in the same places; first come first."""
        found: dict[tuple[ImageSpan, ...], list[int]] = {}
        for prompt, spans in enumerate(self.spans):
            found.setdefault(spans, []).append(prompt)
        return list(found.values())

    def stack(self) -> torch.Tensor:
        """Return all tiles [B * tiles, 3, H, W], or all patches [B * patches, C], prompt by prompt."""
        return torch.cat(self.tensors)


def without_images(prompts: int) -> PixelBatch:
    """Return the pixels of so many prompts of text alone: none."""
    return PixelBatch([torch.empty(0)] * prompts, [()] * prompts)
