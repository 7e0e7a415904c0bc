"""Cosine similarity and ranking, shared by many methods."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

from methods.cost import PANEL
from methods.lazy import torch

_HELD = 4  # similarities that `shared_similarity` keeps at most; the oldest goes

_Held: TypeAlias = "dict[tuple[int, torch.dtype], tuple[weakref.ref[torch.Tensor], torch.Tensor]]"
_shared: ContextVar[_Held | None] = ContextVar("shared_similarity", default=None)


@contextmanager
def shared_similarity() -> Iterator[None]:
    """Share cosines: in this context, `cosine` of one set of tokens is computed once for the same tensor object.

    At most four matrices are held, each while its tokens live, and none behind the end of the context. The tokens must not
    change meanwhile. An inner context shares with nothing outside it; a thread that starts inside shares nothing.
    """
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def cosine(tokens: torch.Tensor, others: torch.Tensor | None = None, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return all cosines between two sets of tokens: [..., N, D] and [..., M, D] to [..., N, M]; a zero token has cosine 0.

    Of one set they are symmetric to the last bit, and those of a row do not depend on the rest of the batch. The result may
    be handed out again (`shared_similarity`): never change it in place.

    Args:
        tokens: of any floating-point type.
        others: the second set; the tokens themselves by default.
        dtype: float32 or float64, for one set; by default as the tokens, float32 at least.
    """
    if others is not None:
        left = torch.nn.functional.normalize(tokens, dim=-1)
        return left @ torch.nn.functional.normalize(others, dim=-1).transpose(-1, -2)
    dtype = dtype or torch.promote_types(tokens.dtype, torch.float32)
    held = _shared.get()
    if held is None:
        return _cosine(tokens, dtype)
    for key in [key for key, (owner, _) in held.items() if owner() is None]:
        del held[key]
    key = (id(tokens), dtype)
    if key not in held:
        while len(held) >= _HELD:
            del held[next(iter(held))]
        held[key] = weakref.ref(tokens), _cosine(tokens, dtype)
    return held[key][1]


def _cosine(tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cosines of one set. The norms are the diagonal of its own products, so no normalised copy is made."""
    products = _lower_products(tokens, dtype)
    squares = products.diagonal(dim1=-2, dim2=-1)
    inverse = torch.where(squares > 0, squares, torch.inf).rsqrt()
    return _mirrored(products.mul_(inverse[..., :, None]).mul_(inverse[..., None, :]))


def products(tokens: torch.Tensor) -> torch.Tensor:
    """Return inner products of one set of tokens, symmetric to the last bit: [B, N, D] to [B, N, N], float32 or float64."""
    return _mirrored(_lower_products(tokens, tokens.dtype))


def _lower_products(tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Inner products [..., N, N] on and under the diagonal; what stands above it means nothing.

    Each row of the batch is multiplied alone, in panels: a batched product rounds in an order of its own for every batch size.
    """
    count = tokens.shape[-2]
    if count <= PANEL:
        tokens = tokens.to(dtype)
        return tokens @ tokens.transpose(-1, -2)
    out = tokens.new_empty(*tokens.shape[:-1], count, dtype=dtype)
    for row, own in zip(out.flatten(0, -3), tokens.flatten(0, -3).unbind(0)):
        own = own.to(dtype)
        for start in range(0, count, PANEL):
            torch.mm(own[start:], own[start : start + PANEL].T, out=row[start:, start : start + PANEL])
    return out


def _mirrored(square: torch.Tensor) -> torch.Tensor:
    """What stands under the diagonal of [..., N, N] copied above it, in place."""
    for start in range(0, square.shape[-1], PANEL):
        panel = slice(start, start + PANEL)
        below = slice(start + PANEL, None)
        corner = square[..., panel, panel]
        corner.copy_(corner.tril() + corner.tril(-1).transpose(-1, -2))
        square[..., panel, below] = square[..., below, panel].transpose(-1, -2)
    return square


def top(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """Return indices of the ``keep`` highest scores, highest first, ties to the lower index: [B, N] to int64 [B, keep].

    NaN ranks last.
    """
    ranked = torch.nan_to_num(scores, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return ranked.argsort(dim=-1, descending=True, stable=True)[..., :keep]


def among_top(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """Return which scores are among the ``keep`` highest of their row, ties to the lower index: [..., N] to bool [..., N].

    As `top` chooses, without sorting the rest. No score may be NaN.
    """
    least = scores.topk(keep, dim=-1).values[..., -1:]
    above, equal = scores > least, scores == least
    room = keep - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


def mean_rows(attention: torch.Tensor, rows: torch.Tensor | slice | int) -> torch.Tensor:
    """Return the mean over heads and the chosen text rows: [B, H, T, N] to [B, N], in float32 at least."""
    chosen = attention[:, :, rows]
    chosen = chosen if chosen.dtype == torch.float64 else chosen.float()
    return chosen.mean(1) if chosen.dim() == 3 else chosen.mean((1, 2))


def take(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the rows of each batch entry that an index names: [B, N, D] and int64 [B, K] to [B, K, D]."""
    batch, count, width = tokens.shape
    if batch == 1:
        return tokens.index_select(1, index[0])
    base = torch.arange(batch, device=index.device)[:, None] * count
    return tokens.reshape(batch * count, width).index_select(0, (index + base).view(-1)).view(batch, -1, width)


def chosen_places(chosen: torch.Tensor) -> torch.Tensor:
    """Return where each row has what is chosen, rising: bool [B, N] to int64 [B, K].

    Raises:
        ValueError: where the rows differ in how many are chosen.
    """
    if len(set(chosen.sum(-1).tolist())) > 1:
        raise ValueError("the rows differ in how many tokens stay; ask for one image at a time")
    return chosen.nonzero()[:, 1].view(len(chosen), -1)


def mean_heads(attention: torch.Tensor) -> torch.Tensor:
    """Return the mean over heads: [B, H, N] to [B, N], in float32 at least."""
    return (attention if attention.dtype == torch.float64 else attention.float()).mean(1)


def row_by_row(function: Callable[..., torch.Tensor], *batches: torch.Tensor) -> torch.Tensor:
    """Return a function of each row of a batch alone, [1, ...], as one batch: what it makes on its way stays small.

    Args:
        function: of as many tensors [1, ...] as there are batches.
        batches: each [B, ...].
    """
    return torch.cat([function(*(batch[row : row + 1] for batch in batches)) for row in range(len(batches[0]))])
