"""Cosine similarity and ranking, shared by many methods."""

from __future__ import annotations

import torch


def cosine(tokens: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
    """All cosines between two sets of tokens: [..., N, D] and [..., M, D] to [..., N, M]; a zero token has cosine 0.

    The norms of one set are the diagonal of its own products, so no normalised copy of the tokens is made.
    """
    if others is None and tokens.dtype in (torch.float32, torch.float64):
        products = tokens @ tokens.transpose(-1, -2)
        squares = products.diagonal(dim1=-2, dim2=-1)
        inverse = torch.where(squares > 0, squares, torch.inf).rsqrt()
        return products.mul_(inverse[..., :, None]).mul_(inverse[..., None, :])
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
    chosen = attention[:, :, rows]
    chosen = chosen if chosen.dtype == torch.float64 else chosen.float()
    return chosen.mean(1) if chosen.dim() == 3 else chosen.mean((1, 2))


def take(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of each batch entry: [B, N, D] and int64 [B, K] to [B, K, D]."""
    batch, count, width = tokens.shape
    base = torch.arange(batch, device=index.device)[:, None] * count
    return tokens.reshape(batch * count, width).index_select(0, (index + base).view(-1)).view(batch, -1, width)
