"""Masks over the visual tokens of an image: evidence on another grid, and the tokens that are present."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from harness.engine.batch import EngineOutput
from metrics import evidence


def fitted(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return a mask on another grid: bool [h, w], True where a token's area overlaps one that was True.

    >>> fitted(np.array([[True, False, False]]), (1, 2))
    array([[ True, False]])
    """
    if mask.shape == tuple(grid):
        return mask
    meets = []
    for old, new in zip(mask.shape, grid):
        start, end = np.arange(new)[:, None] * old, np.arange(1, new + 1)[:, None] * old
        meets.append((np.arange(old) * new < end) & (np.arange(1, old + 1) * new > start))
    overlaps: np.ndarray = meets[0].astype(int) @ mask.astype(int) @ meets[1].astype(int).T
    return overlaps > 0


def masks_together(masks: Sequence[np.ndarray | None], count: int) -> torch.Tensor:
    """Return masks as one: bool [R, count], False behind the tokens of images that have fewer.

    Args:
        masks: bool [h, w] of each question; None is all False.
        count: tokens of the largest image.
    """
    held = torch.zeros(len(masks), count, dtype=torch.bool)
    for row, mask in enumerate(masks):
        if mask is not None:
            held[row, : mask.size] = torch.from_numpy(mask.ravel())
    return held


def present(ids: torch.Tensor, count: int) -> torch.Tensor:
    """Return a mask of the tokens that are present: bool [R, count].

    Args:
        ids: int64 [R, K] their ids, -1 for none.
        count: tokens in all.
    """
    mask = torch.zeros(len(ids), count + 1, dtype=torch.bool, device=ids.device)
    return mask.scatter_(1, ids.masked_fill(ids < 0, count), True)[:, :count]


def evidence_held(output: EngineOutput, held: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of the evidence that is present, in the last layer and on entry: float [R] each.

    Args:
        output: what the engine gave.
        held: bool [R, N], the tokens that hold the evidence of each question.
    """
    held = held.cpu()
    kept, before = (present(ids, held.shape[1]).cpu().numpy() for ids in (output.kept, output.entered))
    return evidence.recall(kept, held.numpy()), evidence.recall(before, held.numpy())
