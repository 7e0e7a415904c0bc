"""Greedy selection loops, batched; each runs K rounds of O(N) after one N x N matrix."""

from __future__ import annotations

import torch


def least_energy(distance: torch.Tensor, exponent: float, keep: int) -> torch.Tensor:
    """Greedy minimisation of potential energy under the Riesz kernel d^-s.

    The first is the token of least total energy; then always the token of least energy against
    the kept, ties toward the lower index.

    Args:
        distance: [B, N, N], float64.
        exponent: s.
        keep: K, at most N.

    Returns:
        int64 [B, K], in the order of selection.
    """
    batch = len(distance)
    if keep < 1:
        return torch.zeros(batch, 0, dtype=torch.int64, device=distance.device)
    floor = distance.amax((1, 2), keepdim=True).clamp_min(1e-12) * 1e-3
    kernel = distance.clamp_min(floor).div_(floor).pow_(-exponent)  # in units of the floor: at most 1
    kernel.diagonal(dim1=1, dim2=2).zero_()
    rows = torch.arange(batch, device=distance.device)
    kept = torch.empty(batch, keep, dtype=torch.int64, device=distance.device)
    kept[:, 0] = kernel.sum(-1).argmin(-1)
    energy = kernel[rows, kept[:, 0]].clone()
    energy[rows, kept[:, 0]] = torch.inf
    for i in range(1, keep):
        kept[:, i] = energy.argmin(-1)
        energy += kernel[rows, kept[:, i]]
        energy[rows, kept[:, i]] = torch.inf
    return kept
