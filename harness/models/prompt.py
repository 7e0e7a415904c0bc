"""What images put into a prompt: blocks of visual tokens, and the frame of all that stands before the questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from harness.store.layouts import Area

VISUAL = -1
"""Stands in a block's ids where a visual token is; in a prefix, where an earlier image of the prompt is."""
NEWLINE = -2
"""Stands in a block's ids where the model's learned end of an image row is."""


@dataclass(frozen=True)
class ImageSpan:
    """What one image puts into the prompt.

    Whatever is not a visual token (row ends, separators, start and end marks) counts as text: it always stays.
    """

    ids: tuple[int, ...]  # token ids; VISUAL and NEWLINE for what has none
    areas: tuple[Area, ...]  # that the visual tokens cover, in the order of the tokens
    tiles: int = 1  # images that the tower sees
    cut: tuple[int, ...] = ()  # how the image was cut, as its family notes it

    @property
    def count(self) -> int:
        """Visual tokens."""
        return sum(area.count for area in self.areas)

    @property
    def marks(self) -> int:
        """Tokens that count as text."""
        return len(self.ids) - self.count

    @property
    def grid(self) -> tuple[int, int] | None:
        """(h, w) where the visual tokens are one full grid."""
        return (self.areas[0].rows, self.areas[0].columns) if len(self.areas) == 1 else None


def points(area: Area) -> torch.Tensor:
    """Row and column of each token's centre in the image: [rows * columns, 2]."""
    down = area.top + (torch.arange(area.rows) + 0.5) / area.rows * (area.bottom - area.top)
    across = area.left + (torch.arange(area.columns) + 0.5) / area.columns * (area.right - area.left)
    return torch.stack(torch.meshgrid(down, across, indexing="ij"), -1).view(-1, 2)


def grid_block(rows: int, columns: int, cut: tuple[int, ...] = ()) -> ImageSpan:
    """An image of visual tokens alone."""
    return ImageSpan((VISUAL,) * (rows * columns), (Area(rows, columns),), 1, cut)


@dataclass(frozen=True)
class PromptPrefix:
    """All that stands before the questions of a prompt: text that stays, and among it N visual tokens.

    Positions have one axis, or three (time, row, column), where an image starts behind the text before it, its tokens
    are numbered by their row and column, and the text goes on behind the larger of both.
    """

    ids: tuple[int, ...]
    blocks: tuple[ImageSpan, ...] = ()
    axes: int = 1

    @classmethod
    def of(cls, prefix: Sequence[int], blocks: Sequence[ImageSpan], axes: int = 1) -> PromptPrefix:
        """The frame of a prompt whose last image follows on ``prefix``; earlier ones stand where that holds VISUAL."""
        ids: list[int] = []
        waiting = list(blocks)
        for token in prefix:
            ids += waiting.pop(0).ids if token == VISUAL else [token]
        for block in waiting:
            ids += block.ids
        return cls(tuple(ids), tuple(blocks), axes)

    @cached_property
    def is_visual(self) -> torch.Tensor:
        """Bool [M], of all tokens of the frame."""
        return torch.tensor(self.ids, dtype=torch.int64) == VISUAL

    @cached_property
    def text(self) -> torch.Tensor:
        """Ids of what is not visual: int64 [P]."""
        return torch.tensor(self.ids, dtype=torch.int64)[~self.is_visual]

    @cached_property
    def ahead(self) -> torch.Tensor:
        """Visual tokens before each that is not: int64 [P]."""
        return self.is_visual.long().cumsum(0)[~self.is_visual]

    @property
    def count(self) -> int:
        """N."""
        return sum(block.count for block in self.blocks)

    @cached_property
    def image(self) -> torch.Tensor:
        """The image that each visual token is of: int64 [N]."""
        return torch.repeat_interleave(torch.tensor([block.count for block in self.blocks], dtype=torch.int64))

    @property
    def grid(self) -> tuple[int, int] | None:
        """(h, w) where the visual tokens are one full grid."""
        return self.blocks[0].grid if len(self.blocks) == 1 else None

    @cached_property
    def points(self) -> torch.Tensor:
        """Row and column of each visual token in its image, in [0, 1]: [N, 2]."""
        return torch.cat([points(area) for block in self.blocks for area in block.areas])

    @cached_property
    def _numbered(self) -> tuple[torch.Tensor, int]:
        if self.axes == 1:
            return torch.arange(len(self.ids)), len(self.ids)
        positions = torch.zeros(self.axes, len(self.ids), dtype=torch.int64)
        column = start = 0
        waiting = iter(self.blocks)
        while column < len(self.ids):
            if self.ids[column] != VISUAL:
                positions[:, column] = start
                column, start = column + 1, start + 1
                continue
            rows, columns = next(waiting).grid
            down, across = torch.arange(rows), torch.arange(columns)
            span = slice(column, column + rows * columns)
            positions[0, span] = start
            positions[1, span] = start + down.repeat_interleave(columns)
            positions[2, span] = start + across.repeat(rows)
            column, start = column + rows * columns, start + max(rows, columns)
        return positions, start

    @property
    def positions(self) -> torch.Tensor:
        """Positions of all tokens as if none ever left: int64 [M], or [3, M]."""
        return self._numbered[0]

    @property
    def after(self) -> int:
        """Position of the first token of a question."""
        return self._numbered[1]


class PixelBatch:
    """Images made ready for the tower, by prompt.

    Args:
        tensors: of each prompt its tiles [tiles, 3, H, W], or its patches [patches, C].
        blocks: of each prompt what its images put into it.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], blocks: Sequence[tuple[ImageSpan, ...]]) -> None:
        self.tensors, self.blocks = tuple(tensors), tuple(blocks)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, places: slice | list[int] | torch.Tensor) -> PixelBatch:
        chosen = list(range(len(self)))[places] if isinstance(places, slice) else [int(place) for place in places]
        return PixelBatch([self.tensors[i] for i in chosen], [self.blocks[i] for i in chosen])

    @property
    def even(self) -> bool:
        """Whether all prompts put the same tokens in the same places."""
        return all(blocks is self.blocks[0] or blocks == self.blocks[0] for blocks in self.blocks)

    @property
    def counts(self) -> list[int]:
        """Visual tokens of each prompt."""
        return [sum(block.count for block in blocks) for blocks in self.blocks]

    def groups(self) -> list[list[int]]:
        """Places of the prompts that put the same tokens in the same places, first come first."""
        found: dict[tuple[ImageSpan, ...], list[int]] = {}
        for place, blocks in enumerate(self.blocks):
            found.setdefault(blocks, []).append(place)
        return list(found.values())

    def stack(self) -> torch.Tensor:
        """All tiles or patches in turn."""
        return torch.cat(self.tensors)
