"""Where on the image the kept tokens lie: coverage of the grid, and pull towards a place.

Token (r, c) of an h x w grid is the unit square around (c + 0.5, r + 0.5), in units of one token side.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch

from metrics.statistics import cluster_codes

CELLS = 8
_CHUNK = 1 << 23  # numbers held at once in all-pairs steps


def coverage(kept: torch.Tensor | np.ndarray, grid: tuple[int, int], cells: int = CELLS) -> dict[str, torch.Tensor]:
    """All coverage figures of kept sets on their grid.

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
          even (Hickernell 1998, by `scipy.stats.qmc.discrepancy`); nan of none.
        - ``largest_empty_circle``: radius of the largest circle about a token's centre without a kept centre inside, as
          a share of the image's diagonal; 0 where all are kept, nan of none.

    Raises:
        ValueError: where N is not h*w.
    """
    kept = _checked(kept, grid)
    flat = kept.reshape(-1, kept.shape[-1])
    figures = {"cells": cell_coverage(flat, grid, cells)}
    figures["clark_evans"], figures["largest_empty_circle"] = _distances(flat, grid)
    rows = flat.cpu().numpy()
    figures["hull_area"] = _each(rows, lambda row: _hull_area(row, grid), flat.device)
    figures["discrepancy"] = _each(rows, lambda row: _discrepancy(row, grid), flat.device)
    return {name: figure.reshape(kept.shape[:-1]) for name, figure in figures.items()}


def cell_coverage(kept: torch.Tensor | np.ndarray, grid: tuple[int, int], cells: int = CELLS) -> torch.Tensor:
    """Share of the cells of a coarse g x g grid that hold a kept token; vectorised over all leading dimensions.

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
    """The coarse cell of each token, int64 [h*w], and the number of cells; none is empty."""
    height, width = grid
    tall, wide = min(cells, height), min(cells, width)
    row, column = torch.arange(height) * tall // height, torch.arange(width) * wide // width
    return (row[:, None] * wide + column[None, :]).reshape(-1), tall * wide


def row_share(kept: torch.Tensor | np.ndarray, grid: tuple[int, int]) -> torch.Tensor:
    """Share of the kept tokens that lies in each row, top first: float64 [..., h], sum 1; chance is 1/h; nan of none."""
    return _share(_checked(kept, grid), grid, -1)


def column_share(kept: torch.Tensor | np.ndarray, grid: tuple[int, int]) -> torch.Tensor:
    """Share of the kept tokens that lies in each column, left first: float64 [..., w], sum 1; chance is 1/w; nan of none."""
    return _share(_checked(kept, grid), grid, -2)


def map_overlap(kept: torch.Tensor | np.ndarray, images: Sequence[Hashable] | None = None) -> torch.Tensor:
    """Overlap of each kept set with what the method keeps on other images: positional bias.

    The mean map of all other images is ranked (ties towards the lower index), and its top K compared with the K kept.

    Args:
        kept: bool [n, N] of one method, budget and grid.
        images: [n] the image of each sample; by default each sample is an image of its own.

    Returns:
        float64 [n] |kept and top K| / K; 1 is a choice that ignores the image, K / N is chance. nan where nothing is
        kept or there is no other image.

    Source: the positional pull of FastV, arXiv:2412.13180.
    """
    kept = torch.as_tensor(kept).to(torch.bool)
    codes = torch.as_tensor(cluster_codes(range(len(kept)) if images is None else images)).to(kept.device)
    if codes.shape != kept.shape[:1]:
        raise ValueError(f"{len(codes)} images but kept sets of {len(kept)} samples; give one image a sample")
    if not len(kept):
        return torch.zeros(0, dtype=torch.float64)
    count = int(codes.max()) + 1
    sums = torch.zeros(count, kept.shape[1], dtype=torch.float64, device=kept.device).index_add_(0, codes, kept.double())
    others = sums.sum(0) - sums[codes]
    rank = others.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    size = kept.sum(-1)
    shared = (kept & (rank < size[:, None])).sum(-1).double() / size.clamp(min=1)
    return torch.where((size > 0) & (count > 1), shared, torch.nan)


def _checked(kept: torch.Tensor | np.ndarray, grid: tuple[int, int]) -> torch.Tensor:
    kept = torch.as_tensor(kept).to(torch.bool)
    if kept.ndim < 1 or kept.shape[-1] != grid[0] * grid[1]:
        raise ValueError(f"kept is {tuple(kept.shape)} on a grid of {grid[0]}x{grid[1]} = {grid[0] * grid[1]} tokens")
    return kept


def _share(kept: torch.Tensor, grid: tuple[int, int], along: int) -> torch.Tensor:
    counts = kept.reshape(*kept.shape[:-1], *grid).sum(along).to(torch.float64)
    return counts / counts.sum(-1, keepdim=True)


def _centres(grid: tuple[int, int]) -> np.ndarray:
    """(x, y) of each token's centre: float64 [N, 2]."""
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return np.stack([columns + 0.5, rows + 0.5], axis=1)


def _distances(kept: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Clark-Evans index and largest empty circle, [n] each, from all pairs of tokens."""
    centres = torch.as_tensor(_centres(grid), device=kept.device)
    apart = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
    others = apart.clone().fill_diagonal_(torch.inf)
    step = max(1, _CHUNK // max(1, apart.numel()))
    parts = [kept[start : start + step] for start in range(0, len(kept), step)]

    def nearest(table: torch.Tensor) -> torch.Tensor:
        """Distance of every token to the nearest kept one: [n, N]."""
        if not parts:
            return table.new_zeros(0, len(table))
        return torch.cat([torch.where(part[:, None, :], table, torch.inf).amin(-1) for part in parts])

    size = kept.sum(-1)
    spacing = torch.where(kept, nearest(others), 0.0).sum(-1) / size.clamp(min=1)
    clark_evans = spacing * 2.0 * (size / (grid[0] * grid[1])).double().sqrt()
    empty = nearest(apart).amax(-1) / float(np.hypot(*grid))
    return torch.where(size > 1, clark_evans, torch.nan), torch.where(size > 0, empty, torch.nan)


def _each(rows: np.ndarray, figure: Callable[[np.ndarray], float], device: torch.device) -> torch.Tensor:
    """A figure that scipy gives one set at a time; equal sets (common among a method's) are computed once."""
    known: dict[bytes, float] = {}
    values = []
    for row in rows:
        key = np.packbits(row).tobytes()
        if key not in known:
            known[key] = figure(row)
        values.append(known[key])
    return torch.tensor(values, dtype=torch.float64, device=device)


def _hull_area(row: np.ndarray, grid: tuple[int, int]) -> float:
    from scipy.spatial import ConvexHull

    if not row.any():
        return 0.0
    corners = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])
    points = np.unique((_centres(grid)[row][:, None] + corners).reshape(-1, 2), axis=0)
    return float(ConvexHull(points).volume) / (grid[0] * grid[1])  # in two dimensions volume is the area


def _discrepancy(row: np.ndarray, grid: tuple[int, int]) -> float:
    from scipy.stats import qmc

    if not row.any():
        return float("nan")
    return float(qmc.discrepancy(_centres(grid)[row] / np.array([grid[1], grid[0]]), method="CD"))
