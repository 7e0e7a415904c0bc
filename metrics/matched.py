"""Random subsets that share a kept set's rows: whether a pull to rows explains that it is less diverse than chance."""

from __future__ import annotations

import torch

from metrics.collapse import SUBSETS, token_hashes


def row_matched_subsets(places: torch.Tensor, grid: tuple[int, int], seeds: torch.Tensor, subsets: int = SUBSETS) -> torch.Tensor:
    """Return uniform random subsets with as many tokens in every row of the image as a kept set has.

    Args:
        places: int64 [R, K] kept tokens.
        grid: (h, w) of the image's tokens.
        seeds: int64 [R] one random stream a kept set.
        subsets: S.

    Returns:
        int64 [R, S, K], in position order.

    Raises:
        ValueError: where a place is not on the grid.
    """
    height, width = grid
    if places.numel() and not 0 <= int(places.min()) <= int(places.max()) < height * width:
        raise ValueError(f"places reach {int(places.max())} on a grid of {height}x{width} tokens")
    kept, size = places.shape
    counts = torch.zeros(kept, height, dtype=torch.int64, device=places.device)
    counts.scatter_add_(1, places // width, torch.ones_like(places))
    hashes = token_hashes(seeds, subsets, height * width).view(kept, subsets, height, width)
    rank = hashes.argsort(dim=-1, stable=True).argsort(dim=-1)
    chosen = (rank < counts[:, None, :, None]).flatten(2)
    return chosen.nonzero()[:, 2].view(kept, subsets, size)
