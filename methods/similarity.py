"""Cosine similarity and ranking, shared by many methods."""

from __future__ import annotations

import torch


def cosine(tokens: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
    """All cosines between two sets of tokens: [..., N, D] and [..., M, D] to [..., N, M]; a zero token has cosine 0."""
    left = torch.nn.functional.normalize(tokens, dim=-1)
    right = left if others is None else torch.nn.functional.normalize(others, dim=-1)
    return left @ right.transpose(-1, -2)


def top(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """Indices of the ``keep`` highest scores, highest first, ties toward the lower index: [B, N] to int64 [B, keep].

    NaN ranks last.
    """
    ranked = torch.nan_to_num(scores, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return ranked.argsort(dim=-1, descending=True, stable=True)[..., :keep]


def mean_rows(attention: torch.Tensor, rows: torch.Tensor | slice | int) -> torch.Tensor:
    """Mean over heads and the chosen text rows: [B, H, T, N] to [B, N], in float32 at least."""
    wide = attention if attention.dtype == torch.float64 else attention.float()
    chosen = wide[:, :, rows]
    return chosen.mean(1) if chosen.dim() == 3 else chosen.mean((1, 2))
