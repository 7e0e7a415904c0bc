"""Merging tokens: bipartite soft matching, joining the nearest kept token, and clustering by density peaks."""

from __future__ import annotations

from methods.lazy import torch
from methods.similarity import cosine, top

_ON_HOST = 64**2  # products of a batch up to which clusters are found on the host
# Of SparseVLM's three steps on a device, for one question at 64 of 576 tokens, two are so small. All three are then 120
# launches and 5 waits; wholly on the device they are 170 and 3. Both are counted; neither was timed.


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
    joined = add_rows(tokens.new_zeros(len(tokens), keep, tokens.shape[2]), place, weighted)
    total = add_rows(sizes.new_zeros(len(sizes), keep, 1), place, sizes[..., None])[..., 0]
    source = place[:, None, :] == torch.arange(keep, device=place.device)[None, :, None]
    return joined / total[..., None], total, source, leaders


def add_rows(table: torch.Tensor, place: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Add rows to those of a table, in place, and return it; the last digits do not differ from one run to the next.

    Those that meet in one place are added in their order. A GPU's ``scatter_add_`` adds in whatever order its threads arrive;
    what is put by index is sorted first.

    Args:
        table: [B, K, D].
        place: int64 [B, N] of each row.
        rows: [B, N, D].
    """
    if table.device.type == "cpu":
        if len(table) == 1:  # the faster of the two
            table[0].index_add_(0, place[0], rows[0])
            return table
        return table.scatter_add_(1, place[..., None].expand_as(rows), rows)
    images = torch.arange(len(table), device=table.device)[:, None]
    return table.index_put_((images, place), rows, accumulate=True)


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
    if products.numel() <= _ON_HOST:
        products = products.cpu()
    chosen = _peaks(products, clusters, tokens.shape[-1]).to(tokens.dtype)
    if chosen.device != tokens.device:
        chosen = chosen.pin_memory().to(tokens.device, non_blocking=True)  # from where a card reads it without being waited for
    chosen = chosen.transpose(1, 2)
    return (chosen @ tokens / chosen.sum(-1, keepdim=True)).to(kind)


def _peaks(products: torch.Tensor, clusters: int, width: int) -> torch.Tensor:
    """Which cluster each token is in, bool [B, M, clusters], by falling peak score.

    Args:
        products: [B, M, M] of the centred tokens.
        clusters: how many.
        width: of a token.
    """
    half = products.diagonal(dim1=1, dim2=2) * 0.5
    distance = torch.sub(half[:, :, None], products).add_(half[:, None, :]).clamp_min_(0)  # half of the square; 0 to itself
    distance = distance.add(distance.mT).sqrt_().div_(width**0.5)  # the same from either side
    nearest = distance.topk(min(clusters, distance.shape[-1]), dim=-1, largest=False).values
    density = (-nearest.square().mean(-1)).exp()
    rank = density.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    denser = rank[:, None, :] < rank[:, :, None]
    farthest = distance.amax((1, 2), keepdim=True)
    separation = torch.where(denser, distance, farthest).amin(-1)
    centres = top(separation * density, clusters)
    member = distance.gather(1, centres[..., None].expand(-1, -1, distance.shape[-1])).argmin(1)
    number = torch.arange(clusters, device=member.device)
    return member.scatter_(1, centres, number.expand_as(centres))[..., None] == number


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
    return add_rows(own[None], nearest[None], gone[None])[0].div_(sizes[:, None]), sizes, source
