"""Where on the image the kept tokens lie: coverage of the grid, and pull towards a place.

Token (r, c) of an h x w grid is the unit square around (c + 0.5, r + 0.5), in units of one token side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from metrics.arrays import Flags

CELLS = 8
_CHUNK = 1 << 20  # float32 numbers held at once, 4 MB: what stays near the processor
_FAR = 1e6  # where there is no kept token, in tokens


def coverage(kept: torch.Tensor | Flags, grid: tuple[int, int], cells: int = CELLS) -> dict[str, torch.Tensor]:
    """Return all coverage figures of kept sets on their grid.

    Args:
        kept: bool [..., h*w], row by row.
        grid: (h, w) in tokens.
        cells: a side of the coarse grid of ``cells``.

    Returns:
        float64 [...] each:

        - ``cells``: see `cell_coverage`.
        - ``clark_evans``: mean distance to the nearest kept neighbour over 0.5 / sqrt(density), the mean under complete
          randomness; below 1 clustered, above 1 dispersed. No edge correction; nan of under two tokens (Clark &
          Evans 1954).
        - ``hull_area``: area of the convex hull of the kept tokens' squares, as a share of the image.
        - ``discrepancy``: centred L2 discrepancy of the kept tokens' centres scaled to the unit square; lower is more
          even (Hickernell 1998, equation 5.6: its square, as `scipy.stats.qmc.discrepancy` gives it); nan of none.
        - ``largest_empty_circle``: radius of the largest circle about a token's centre without a kept centre inside, as
          a share of the image's diagonal; 0 where all are kept, nan of none.

    Raises:
        ValueError: where N is not h*w.
    """
    kept = _checked(kept, grid)
    flat = kept.reshape(-1, kept.shape[-1])
    sets = flat.to(torch.float32).view(-1, *grid)
    distances = _pieces(sets, _distances, 8)
    figures = {
        "cells": cell_coverage(flat, grid, cells),
        "clark_evans": distances[:, 0],
        "hull_area": _pieces(sets, _hull_area, 1),
        "discrepancy": _pieces(sets, _discrepancy, 8),
        "largest_empty_circle": distances[:, 1],
    }
    return {name: figure.reshape(kept.shape[:-1]) for name, figure in figures.items()}


def cell_coverage(kept: torch.Tensor | Flags, grid: tuple[int, int], cells: int = CELLS) -> torch.Tensor:
    """Return the share of the cells of a coarse g x g grid that hold a kept token; vectorised over all leading dimensions.

    Args:
        kept: bool [..., h*w].
        grid: (h, w); where a side has under g tokens it has as many cells as tokens. Row r lies in cell r*g // h.
        cells: g.

    Returns:
        float64 [...] in [0, 1].

    Raises:
        ValueError: where N is not h*w.
    """
    kept = _checked(kept, grid)
    member, total = cell_membership(grid, cells)
    hits = kept.to(torch.float32) @ torch.nn.functional.one_hot(member.to(kept.device), total).to(torch.float32)
    return (hits > 0).sum(-1).to(torch.float64) / total


def cell_membership(grid: tuple[int, int], cells: int = CELLS) -> tuple[torch.Tensor, int]:
    """Return the coarse cell of each token, int64 [h*w], and the number of cells; none is empty."""
    height, width = grid
    tall, wide = min(cells, height), min(cells, width)
    row, column = torch.arange(height) * tall // height, torch.arange(width) * wide // width
    return (row[:, None] * wide + column[None, :]).reshape(-1), tall * wide


def row_share(kept: torch.Tensor | Flags, grid: tuple[int, int]) -> torch.Tensor:
    """Return the share of the kept tokens in each row, top first: float64 [..., h], sum 1; chance is 1/h; nan of none."""
    return _share(_checked(kept, grid), grid, -1)


def column_share(kept: torch.Tensor | Flags, grid: tuple[int, int]) -> torch.Tensor:
    """Return the share of the kept tokens in each column, left first: float64 [..., w], sum 1; chance is 1/w; nan of none."""
    return _share(_checked(kept, grid), grid, -2)


def row_bias(kept: torch.Tensor | Flags, grid: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Return the pull of each kept set towards rows or columns.

    Args:
        kept: bool [..., h*w].
        grid: (h, w).

    Returns:
        float64 [...] each, nan of none kept:

        - ``row_position``: mean of row / (h - 1) over the kept tokens, 0 all in the top row, 1 all in the bottom row;
          chance is 0.5, which it is where h = 1.
        - ``lower_half``: share of them below the middle of the image, a middle row counting half; chance is 0.5.
        - ``row_distance``: total variation distance of `row_share` from even, 0.5 sum_r |s_r - 1/h|, in [0, 1 - 1/h].
        - ``column_distance``: the same of `column_share`.

    Raises:
        ValueError: where N is not h*w.

    Source: the positional pull of FastV, arXiv:2412.13180.
    """
    rows, columns = row_share(kept, grid), column_share(kept, grid)
    place = (torch.arange(grid[0], dtype=torch.float64, device=rows.device) + 0.5) / grid[0]
    lower = (place > 0.5 + 1e-9).double() + 0.5 * ((place - 0.5).abs() <= 1e-9)
    position = (place * grid[0] - 0.5) / (grid[0] - 1) if grid[0] > 1 else torch.full_like(place, 0.5)
    return {
        "row_position": rows @ position,
        "lower_half": rows @ lower,
        "row_distance": 0.5 * (rows - 1.0 / grid[0]).abs().sum(-1),
        "column_distance": 0.5 * (columns - 1.0 / grid[1]).abs().sum(-1),
    }


def _checked(kept: torch.Tensor | Flags, grid: tuple[int, int]) -> torch.Tensor:
    kept = torch.as_tensor(kept).to(torch.bool)
    if kept.ndim < 1 or kept.shape[-1] != grid[0] * grid[1]:
        raise ValueError(f"kept is {tuple(kept.shape)} on a grid of {grid[0]}x{grid[1]} = {grid[0] * grid[1]} tokens")
    return kept


def _share(kept: torch.Tensor, grid: tuple[int, int], along: int) -> torch.Tensor:
    counts = kept.reshape(*kept.shape[:-1], *grid).sum(along).to(torch.float64)
    return counts / counts.sum(-1, keepdim=True)


def _pieces(kept: torch.Tensor, figure: Callable[[torch.Tensor], torch.Tensor], held: int) -> torch.Tensor:
    """Figures [n, ...] of sets [n, h, w], as many at a time as ``held`` numbers a token allow."""
    step = max(1, _CHUNK // (held * kept.shape[1] * kept.shape[2]))
    return torch.cat([figure(kept[start : start + step]) for start in range(0, max(len(kept), 1), step)])


def _distances(kept: torch.Tensor) -> torch.Tensor:
    """Clark-Evans index and largest empty circle: float64 [n, 2], of sets [n, h, w] of ones and zeros.

    Squared distances are whole numbers, exact in float32. The nearest kept token lies in some column, at the least height
    there: first along each column, then across, until no column is near enough. Sets come last in the layout, so that
    a step is one run over memory.
    """
    count, height, width = kept.shape
    planes = kept.flatten(1).t().contiguous().view(height, width, count)
    dropped, one = 1.0 - planes, planes.new_ones(())
    above, below = planes.new_full((2, *planes.shape), _FAR)  # height to the nearest other kept token of the column
    for row in range(1, height):
        torch.addcmul(one, above[row - 1], dropped[row - 1], out=above[row])
        torch.addcmul(one, below[-row], dropped[-row], out=below[-row - 1])
    other = torch.minimum(above, below).square_()
    down = other * dropped
    for off in range(1, width if count else 0):
        if off**2 >= float(other.max()):
            break
        torch.minimum(other[:, off:], down[:, :-off] + float(off**2), out=other[:, off:])
        torch.minimum(other[:, :-off], down[:, off:] + float(off**2), out=other[:, :-off])
    size, area = kept.sum((1, 2)).double(), height * width
    radius = (other * dropped).amax((0, 1)).double().sqrt() / float(np.hypot(height, width))
    spacing = other.sqrt_().mul_(planes).sum((0, 1), dtype=torch.float64) / size
    clark_evans = torch.where(size > 1, spacing * 2.0 * (size / area).sqrt(), torch.nan)
    return torch.stack([clark_evans, torch.where(size > 0, radius, torch.nan)], 1)


def _hull_area(kept: torch.Tensor) -> torch.Tensor:
    """Area of the hull of the tokens' squares, as a share of the image: float64 [n], of sets [n, h, w] of ones and zeros.

    The squares' corners lie on the h + 1 lines between rows; on each the leftmost and the rightmost matter. Both sides of
    all hulls are walked from the top line down at once: the next corner is the one in the outermost direction. Between
    corners a side is straight, so that trapezoids are exact. Source: Jarvis 1973.
    """
    count, height, width = kept.shape
    columns = torch.arange(width, device=kept.device)
    # how far each side reaches from the other edge of the image, on each line
    sides = torch.stack([(kept * (columns + 1)).amax(2), (kept * (width - columns)).amax(2)])
    sides = torch.nn.functional.pad(sides, (1, 1))
    sides = torch.maximum(sides[..., 1:], sides[..., :-1]).flatten(0, 1)  # [2n, h + 1]
    lines = torch.arange(height + 1, dtype=torch.float32, device=kept.device)
    ahead = lines - lines[:, None]  # lines from one down to another
    inverse, behind = torch.where(ahead > 0, 1.0 / ahead, 0.0), torch.where(ahead > 0, 0.0, -torch.inf)
    some = sides > 0
    sides = sides.masked_fill_(~some, -_FAR)  # never the way to go
    at, last = some.to(torch.uint8).argmax(1), (some * lines).amax(1).long()
    area = torch.zeros(2 * count, dtype=torch.float64, device=kept.device)
    walking = (at < last).nonzero()[:, 0]
    while len(walking):
        line, side = at[walking], sides[walking]
        start = side.gather(1, line[:, None])
        following = torch.addcmul(behind[line], side - start, inverse[line]).argmax(1)
        across = (side.gather(1, following[:, None]) + start)[:, 0] - width
        area[walking] += 0.5 * across * (following - line)
        at[walking] = following
        walking = walking[following < last[walking]]
    return area.view(2, count).sum(0) / (height * width)


def _discrepancy(kept: torch.Tensor) -> torch.Tensor:
    """Centred L2 discrepancy squared: (13/12)^2 - 2/K sum_i v_i + 1/K^2 sum_ij W_ij, float64 [n], of sets [n, h, w].

    v and W are products over the two axes, so that W is never made: sum_ij W_ij is the sum of (R M) * (M C) over the grid,
    M the set, R and C the factors of rows and columns.
    """
    kept = kept.double()
    size = kept.sum((1, 2))
    (tall, rows), (wide, columns) = (_discrepancy_axis(count, kept.device) for count in kept.shape[1:])
    single = ((kept @ wide) @ tall) / size
    pairs = ((kept.mT.contiguous() @ rows).mT * (kept @ columns)).sum((1, 2)) / size**2
    return (13.0 / 12.0) ** 2 - 2.0 * single + pairs


def _discrepancy_axis(count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """One axis' factors of v and W: float64 [count] and [count, count]. Source: Hickernell 1998, equation 5.6."""
    off = (torch.arange(count, dtype=torch.float64, device=device) + 0.5) / count - 0.5
    size = off.abs()
    single = 1.0 + 0.5 * size - 0.5 * off**2
    pairs = 1.0 + 0.5 * size[:, None] + 0.5 * size - 0.5 * (off[:, None] - off).abs()
    return single, pairs
