"""Merging tokens: bipartite soft matching, joining the nearest kept token, and clustering by density peaks."""

from __future__ import annotations

from methods.lazy import torch
from methods.similarity import cosine, top


def bipartite(metric: torch.Tensor, merged: int, first: int) -> torch.Tensor:
    """Match tokens in pairs by bipartite soft matching (ToMe, arXiv:2210.09461, section 3).

    Tokens of parity ``first`` look for their most similar token of the other parity; the
    ``merged`` most similar pairs are joined.

    Args:
        metric: [B, N, D] what similarity is taken of.
        merged: how many tokens disappear, at most those of parity ``first``.
        first: 0 or 1, the parity of the tokens that merge into others.

    Returns:
        int64 [B, N]: for every token the token it ends in, itself if it stays.
    """
    batch, count, _ = metric.shape
    target = torch.arange(count, device=metric.device).expand(batch, count).clone()
    if merged <= 0 or count < 2:
        return target
    scores = cosine(metric[:, first::2], metric[:, 1 - first :: 2])
    best, partner = scores.max(-1)
    chosen = top(best, merged)
    target.scatter_(1, chosen * 2 + first, partner.gather(1, chosen) * 2 + 1 - first)
    return target


def join(tokens: torch.Tensor, sizes: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return size-weighted means of the tokens that end together, in the order of their lowest source.

    Args:
        tokens: [B, N, D].
        sizes: [B, N] how many original tokens each stands for.
        target: int64 [B, N]; every row has the same number K of distinct values.

    Returns:
        tokens [B, K, D], sizes [B, K], source bool [B, K, N], lowest source int64 [B, K].
    """
    count = target.shape[1]
    index = torch.arange(count, device=target.device).expand_as(target)
    lowest = torch.full_like(target, count).scatter_reduce(1, target, index, "amin")
    lowest = lowest.gather(1, target)  # of each token, the lowest token it ends up with
    leads = lowest == index
    keep = int(leads[0].sum())
    leaders = top(leads.double(), keep)
    place = (leads.cumsum(1) - 1).gather(1, lowest)
    weighted = tokens * sizes[..., None]
    joined = torch.zeros(tokens.shape[0], keep, tokens.shape[2], dtype=tokens.dtype, device=tokens.device)
    joined.scatter_add_(1, place[..., None].expand_as(weighted), weighted)
    total = torch.zeros(sizes.shape[0], keep, dtype=sizes.dtype, device=sizes.device).scatter_add_(1, place, sizes)
    source = place[:, None, :] == torch.arange(keep, device=place.device)[None, :, None]
    return joined / total[..., None], total, source, leaders


def density_peaks(tokens: torch.Tensor, clusters: int) -> torch.Tensor:
    """Return cluster means by density peaks with k-nearest density (Du et al. 2016), k = ``clusters``.

    A token is its own nearest, so that with k = 2 two tokens that are nearest to each other are equally dense: of such the
    lower index counts as the denser (the authors of SparseVLM add noise). Distances are symmetric to the last bit for that.

    Args:
        tokens: [B, M, D].
        clusters: how many, at most M.

    Returns:
        [B, clusters, D], ordered by falling peak score.
    """
    kind = tokens.dtype
    if kind in (torch.bfloat16, torch.float16):
        tokens = tokens.float()
    wide = tokens.double()  # densities near 1 differ in digits that float32 has not, and its products would decide by rounding
    centred = wide - wide.mean(1, keepdim=True)
    products = centred @ centred.transpose(1, 2)
    squares = products.diagonal(dim1=1, dim2=2)
    distance = products.mul(-2).add_(squares[:, :, None]).add_(squares[:, None, :]).clamp_min_(0)
    distance.diagonal(dim1=1, dim2=2).zero_()
    distance = distance.add(distance.mT).mul_(0.5).sqrt_() / tokens.shape[-1] ** 0.5
    nearest = distance.topk(min(clusters, distance.shape[-1]), dim=-1, largest=False).values
    density = (-nearest.square().mean(-1)).exp()
    index = torch.arange(density.shape[1], device=density.device)
    one, other = density[:, :, None], density[:, None, :]
    denser = (other > one) | ((other == one) & (index < index[:, None]))
    farthest = distance.amax((1, 2), keepdim=True)
    separation = torch.where(denser, distance, farthest).amin(-1)
    centres = top(separation * density, clusters)
    member = distance.gather(1, centres[..., None].expand(-1, -1, distance.shape[-1])).argmin(1)
    member.scatter_(1, centres, torch.arange(clusters, device=tokens.device).expand_as(centres))
    chosen = torch.nn.functional.one_hot(member, clusters).to(tokens.dtype).transpose(1, 2)
    return (chosen @ tokens / chosen.sum(-1, keepdim=True)).to(kind)


def absorb(tokens: torch.Tensor, into: torch.Tensor, dropped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the means of some tokens, each with the dropped ones that are most similar to it by cosine.

    Args:
        tokens: [B, N, D], float32 or float64.
        into: int64 [B, R] the tokens that others join, at least one.
        dropped: int64 [B, M] the tokens that join.

    Returns:
        The means [B, R, D], how many tokens each is made of [B, R], and which tokens those are, bool [B, R, N].
    """
    rows = [_absorb(*row) for row in zip(tokens, into, dropped, strict=True)]
    means, sizes, source = zip(*rows, strict=True)
    return torch.stack(means), torch.stack(sizes), torch.stack(source)


def _absorb(tokens: torch.Tensor, into: torch.Tensor, dropped: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One row of `absorb`, alone: what is large stays in the cache, and no rounding depends on the batch."""
    own, gone = tokens[into], tokens[dropped]
    nearest = (gone @ torch.nn.functional.normalize(own, dim=-1).T).argmax(-1)  # a token's own length changes no order
    source = torch.zeros(len(into), len(tokens), dtype=torch.bool, device=into.device)
    source[nearest, dropped] = True
    source.scatter_(1, into[:, None], True)
    sizes = source.sum(-1)
    return own.index_add_(0, nearest, gone).div_(sizes[:, None]), sizes, source
