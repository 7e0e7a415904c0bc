"""Where in a prompt the tokens of an image's tiles stand, for methods that divide a budget among tiles."""

from __future__ import annotations

from harness.models.prompt import ImageSpan
from harness.models.tiling import ImageTiler
from methods.lazy import torch
from methods.tiles import grid_left, once


def tile_order(tiler: ImageTiler, spans: tuple[ImageSpan, ...]) -> list[int]:
    """Return the tiles of a prompt's images, image by image, each image's with the one that shows the whole first."""
    order: list[int] = []
    for span in spans:
        own = list(range(len(order), len(order) + span.tiles))
        order += [own[-1], *own[:-1]] if tiler.whole_last else own
    return order


def tile_places(tiler: ImageTiler, spans: tuple[ImageSpan, ...]) -> torch.Tensor | None:
    """Return which visual token each token of each tile became, tiles as `tile_order` has them.

    Args:
        tiler: of the family.
        spans: of the images of a prompt.

    Returns:
        int64 [T, n], n the tokens of a tile after the projector; -1 of one that became none. None of one tile.
    """
    if sum(span.tiles for span in spans) < 2:
        return None
    parts, start = [], 0
    for span in spans:
        own = _places_in(tiler, span)
        parts.append(torch.where(own < 0, own, own + start))
        start += span.count
    widest = max(part.shape[1] for part in parts)  # images of any size are tiles of their own
    parts = [torch.nn.functional.pad(part, (0, widest - part.shape[1]), value=-1) for part in parts]
    return torch.cat(parts)[tile_order(tiler, spans)]


def tile_grids(tiler: ImageTiler, spans: tuple[ImageSpan, ...], places: torch.Tensor) -> tuple[tuple[int, int] | None, ...]:
    """Return rows and columns of the visual tokens that each tile has, tiles as `tile_order` has them.

    Of a tile from which unpadding or shrinking took rows or columns, those that are left.

    Args:
        tiler: of the family.
        spans: of the images of a prompt.
        places: what `tile_places` returns for them.
    """
    whole = [area for span in spans for area in (span.areas[:1] * span.tiles if tiler.trims else span.areas)]
    own = (whole[tile] for tile in tile_order(tiler, spans))
    return tuple(grid_left(row, (area.rows, area.columns)) for row, area in zip(once(places), own, strict=True))


def _places_in(tiler: ImageTiler, span: ImageSpan) -> torch.Tensor:
    """Which of its visual tokens each token of an image's tiles became, int64 [tiles, n]."""
    if not tiler.trims or span.tiles == 1:
        return torch.arange(span.count).view(span.tiles, -1)
    base, one = span.areas[0].count, span.areas[0].rows
    places = torch.full((span.tiles, base), -1)
    places[0] = torch.arange(base)
    if len(span.areas) == 1:  # of a very narrow image the padding is all there is
        return places
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    down, across, *size = span.cut
    index = torch.arange(base, span.tiles * base).view(down, across, one, one).transpose(1, 2).reshape(1, down * one, -1)
    kept = unpad_image(index, size)[0]
    rows, columns = span.areas[1].rows, span.areas[1].columns
    # where OneVision shrinks the large grid, a token became the nearest
    row, column = (((torch.arange(have) + 0.5) * to / have).long() for have, to in zip(kept.shape, (rows, columns), strict=True))
    places.view(-1)[kept.flatten()] = base + (row[:, None] * columns + column).flatten()
    return places
