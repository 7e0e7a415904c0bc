"""An image in tiles, as methods see it whose authors count tokens tile by tile.

LLaVA-NeXT and InternVL cut a picture into T tiles, an overview beside them. The authors of several methods run them on each
tile alone, with int(K / T) tokens each; `per_tile` makes such a selector of one that knows nothing of tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Unpack

from methods.budget import StepFacts, at_projector
from methods.lazy import torch
from methods.signals import TOKEN_AXES
from methods.types import Budget, BudgetError, ModelShape, Selection, Selector, Signals, Step


def per_tile(selector: Selector, others: Selector | None = None) -> Selector:
    """Return a selector that chooses in every tile on its own; on an image of one tile it is the given one.

    Args:
        selector: of one tile.
        others: of the tiles behind the overview, where they differ from it; by default the same.
    """
    return PerTile(selector, others or selector)


@dataclass(frozen=True)
class PerTile:
    """Chooses int(K / T) tokens of each of T tiles, overview first.

    A tile with fewer tokens than its part, since unpadding took some, hands the rest on to the next tiles that have room, so that
    T * int(K / T) are kept whatever was taken.
    """

    overview: Selector
    others: Selector

    def __call__(self, signals: Signals, keep: int) -> Selection:
        places = signals.tile_places
        if places is None or len(places) == 1:
            return self.overview(signals, keep)
        places, grids = once(places.to(signals.device)), signals.tile_grids or (None,) * len(places)
        tiles = [row[row >= 0] for row in places]
        parts = share_out(keep, [len(tile) for tile in tiles])
        chosen = []
        for number, (tile, grid, part) in enumerate(zip(tiles, grids, parts, strict=True)):
            if part:
                own = (self.others if number else self.overview)(view(signals, tile, grid), part)
                chosen.append(_in_image(own, tile, signals.count))
        return _joined(chosen)


def once(places: torch.Tensor) -> torch.Tensor:
    """Return places [T, n] with -1 wherever a visual token was named before: some models shrink their tiles' joint grid."""
    flat = places.flatten()
    order = flat.argsort(stable=True)
    first = torch.ones_like(flat, dtype=torch.bool)
    first[order[1:]] = flat[order].diff() != 0
    return torch.where(first.view_as(places), places, -1)


def share_out(keep: int, room: list[int]) -> list[int]:
    """Return how many tokens each tile keeps: equal parts, rounded down, and what a tile has no room for to the next ones."""
    part, carry = keep // len(room), 0
    quota = [0] * len(room)
    for more in (part, 0):  # once more from the first tile, for what the last one hands on
        for number, size in enumerate(room):
            wanted = quota[number] + more + carry
            quota[number] = min(wanted, size)
            carry = wanted - quota[number]
    return quota


def view(signals: Signals, tile: torch.Tensor, grid: tuple[int, int] | None) -> Signals:
    """Return the signals of some tokens alone, as of an image of one tile; what is declared stays declared.

    Args:
        signals: of the whole image.
        tile: int64 [n] the tokens.
        grid: their rows and columns, where they fill a grid.
    """
    given: dict[str, Any] = dict(vars(signals))
    own = {
        name: given[name].index_select(axis + 1, tile) for name, axis in TOKEN_AXES.items() if torch.is_tensor(given.get(name))
    }
    return type(signals)(**{**given, **own, "count": len(tile), "grid": grid, "tile_places": None, "tile_grids": None})


def grid_left(places: torch.Tensor, grid: tuple[int, int]) -> tuple[int, int] | None:
    """Return rows and columns of what a tile has left.

    Unpadding and shrinking take whole rows or columns, so what is left is a smaller grid.

    Args:
        places: int64 [n] of the tile's tokens, -1 where a token is none; what stands behind its grid is none.
        grid: rows and columns of the whole tile.

    Returns:
        The grid; None where what is left is none.
    """
    left = (places[: grid[0] * grid[1]] >= 0).view(grid)
    rows, columns = int(left.any(1).sum()), int(left.any(0).sum())
    return (rows, columns) if rows * columns == int(left.sum()) else None


def _in_image(chosen: Selection, tile: torch.Tensor, count: int) -> Selection:
    """A selection in a tile as one in the image of ``count`` tokens."""
    indices = torch.where(chosen.indices >= 0, tile[chosen.indices.clamp_min(0)], -1)
    source, scores = chosen.source, chosen.scores
    if source is not None:
        source = source.new_zeros(*source.shape[:2], count).index_copy_(2, tile, source)
    if scores is not None:
        scores = scores.new_full((len(scores), count), torch.nan).index_copy_(1, tile, scores)
    return replace(chosen, indices=indices, source=source, scores=scores)


def _joined(parts: list[Selection]) -> Selection:
    """Selections in the tiles of one image, one behind the other."""

    def together(name: str) -> torch.Tensor | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else torch.cat(found, 1)

    scores = [part.scores for part in parts if part.scores is not None]
    whole = scores[0].clone() if scores else None
    for more in scores[1:]:
        whole = torch.where(more.isnan(), whole, more)  # type: ignore[arg-type]
    indices = torch.cat([part.indices for part in parts], 1)
    return Selection(indices, together("tokens"), together("sizes"), together("source"), space=parts[0].space, scores=whole)


def tile_by_tile(
    budget: Budget,
    shape: ModelShape,
    select: Selector,
    needs: frozenset[str],
    flops: Callable[[int, int], float],
    **facts: Unpack[StepFacts],
) -> tuple[Step, ...]:
    """Return the one step of a method that acts before the LLM and counts tile by tile: T * int(K / T) tokens in all.

    Args:
        budget: how much, for the whole image, and how it is counted.
        shape: the model, on this image.
        select: the step's selector, of `per_tile`.
        needs: signals that it reads.
        flops: of the selection in one tile, for its tokens and how many of them are kept.
        facts: further fields of the step.

    Raises:
        BudgetError: for fewer tokens than tiles, or where the selection alone costs more than the budget saves.
    """
    tiles = shape.tiles
    tokens = -(-shape.visual_tokens // tiles)
    spent: Callable[[int], float] = lambda keep: tiles * flops(tokens, keep // tiles)
    if budget.mode != "flops":
        if budget.tokens < tiles:
            raise BudgetError(f"keeps a token of each of {tiles} tiles or images at the least; {budget.tokens} asked in all")
        budget = replace(budget, tokens=tiles * (budget.tokens // tiles))
    (step,) = at_projector(budget, shape, select, needs, spent, tiles, **facts)
    keep = tiles * (step.keep // tiles)
    return (step if keep == step.keep else replace(step, keep=keep, after=keep, flops=spent(keep)),)
