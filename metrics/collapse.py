"""Attention collapse: kept sets less diverse than chance, and scores that pile up on few tokens."""

from __future__ import annotations

import numpy as np
import torch

from metrics.clusters import cluster_codes
from metrics.diversity import unit

SUBSETS = 64
"""Random subsets of an image against which a kept set is held."""
_EQUAL = 1e-9  # figures that differ by no more, relative to them or to 1, count as equal


def random_subsets(count: int, keep: int, subsets: int = SUBSETS, *, generator_seed: torch.Tensor) -> torch.Tensor:
    """Return uniform random subsets from one seed an image; the batch, the device and the other images do not matter.

    Each token gets a hash of (seed, subset, token); the lowest ``keep`` are taken. Subsets of one seed are therefore
    nested over ``keep``.

    Args:
        count: N tokens.
        keep: K of them, 0 <= K <= N.
        subsets: S.
        generator_seed: int64 [B].

    Returns:
        int64 [B, S, K], in position order.

    Raises:
        ValueError: where K is not within 0..N.

    Source: the hash is the finaliser of SplitMix64 (Steele, Lea & Flood 2014).
    """
    if not 0 <= keep <= count:
        raise ValueError(f"keep is {keep} of {count} tokens; choose 0 to {count}")
    hashes = token_hashes(generator_seed, subsets, count)
    return hashes.topk(keep, dim=-1, largest=False, sorted=False).indices.sort(dim=-1).values


def token_hashes(seeds: torch.Tensor, subsets: int, count: int, first: int = 1) -> torch.Tensor:
    """Return a hash of (seed, subset, token), different for all tokens of a subset.

    Args:
        seeds: int64 [B].
        subsets: S.
        count: N tokens.
        first: number of the first subset; `random_subsets` are those from 1.

    Returns:
        int64 [B, S, N].
    """
    seed = seeds.to(torch.int64)
    streams = _mix(_mix(seed)[:, None] + torch.arange(first, first + subsets, device=seed.device) * _GOLDEN)  # [B, S]
    return _mix(streams[..., None] + torch.arange(1, count + 1, device=seed.device) * _GOLDEN)


def set_hashes(count: int, chosen: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    """Return a hash of each set of tokens, by which sets with equal figures are ranked; equal sets have equal hashes.

    It depends on the tokens and the image's seed alone, not on the order of the tokens, and is independent of
    `random_subsets` of that seed: the sum of a hash of each token, mixed once more.

    Args:
        count: N tokens of an image.
        chosen: int64 [B, S, K] sets of an image.
        seeds: int64 [B] the image's.

    Returns:
        int64 [B, S].
    """
    tokens = token_hashes(seeds, 1, count, first=0)[:, 0]  # no random subset has number 0
    return _mix(tokens.gather(1, chosen.flatten(1)).view(chosen.shape).sum(-1))


def thinned(count: int, chosen: torch.Tensor, keep: int, seeds: torch.Tensor) -> torch.Tensor:
    """Return a uniform random part of each set: of a set that is itself uniformly random it is a uniform random subset.

    Args:
        count: N tokens of an image.
        chosen: int64 [R, K].
        keep: tokens of the part, 0..K.
        seeds: int64 [R] one random stream a set, as `set_hashes` gives it.

    Returns:
        int64 [R, keep], in the order of ``chosen``.
    """
    hashes = token_hashes(seeds, 1, count)[:, 0].gather(1, chosen)
    return chosen.gather(1, hashes.topk(keep, dim=-1, largest=False, sorted=False).indices.sort(dim=-1).values)


_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number


def _mix(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser on int64; products wrap, and shifts are made logical by a mask."""
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _shift(x: torch.Tensor, by: int) -> torch.Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)


def z_scores(values: torch.Tensor, null: torch.Tensor) -> torch.Tensor:
    """Return how far each value lies from its null, in standard deviations of the null.

    Args:
        values: [B] a figure of the kept set.
        null: [B, S] the same figure of random subsets.

    Returns:
        float64 [B], (value - mean) / sd (n - 1); nan where the null does not vary (K = N, equal tokens), and where the
        value or a figure of the null is nan.
    """
    values, null = values.to(torch.float64), null.to(torch.float64)
    spread = null.std(-1, unbiased=True)
    varies = spread > _EQUAL * torch.maximum(values.abs(), torch.ones_like(values))  # of nan it is False
    return torch.where(varies, (values - null.mean(-1)) / torch.where(varies, spread, 1.0), torch.nan)


def percentiles(values: torch.Tensor, null: torch.Tensor, ties: torch.Tensor, null_ties: torch.Tensor) -> torch.Tensor:
    """Return the rank of each kept set among its random subsets, as a share of their number.

    Of equal figures (to 1e-9, since equal sets differ by rounding) the one whose set has the lower hash ranks below. So no
    two different sets tie, and the rank of a kept set that is itself a uniform random subset is uniform on 0..S and
    symmetric about S / 2. Two cases are at the middle, which leaves it symmetric: a subset that is the kept set itself
    counts half, and where the figure is equal in all sets (K = N, equal tokens) the percentile is 0.5.

    Args:
        values: [B] a figure of the kept set.
        null: [B, S] the same figure of random subsets of the same size.
        ties: int64 [B] of `set_hashes`.
        null_ties: int64 [B, S] of the subsets, with the same seeds.

    Returns:
        float64 [B] in [0, 1]; nan where the value or a figure of the null is.
    """
    values, null = values.to(torch.float64)[:, None], null.to(torch.float64)
    equal = (values - null).abs() <= _EQUAL * values.abs().clamp(min=1.0)
    below = torch.where(equal, null_ties < ties[:, None], null < values).double()
    rank = torch.where(equal.all(-1, keepdim=True) | (null_ties == ties[:, None]), 0.5, below).mean(-1)
    return torch.where(values[:, 0].isnan() | null.isnan().any(-1), torch.nan, rank)


def score_collapse(scores: torch.Tensor, top: int | None = None) -> dict[str, torch.Tensor]:
    """Return how concentrated the scores are by which a method ranks. p = scores / their sum.

    Args:
        scores: [B, N]; a row with a negative score is first shifted so that its least is 0.
        top: tokens in ``top_mass``, such as the budget; a tenth of N, rounded up, by default.

    Returns:
        float64 [B] each:

        - ``entropy``: -sum p log p / log N, 1 for even scores, 0 for one token; 1 where N = 1.
        - ``effective_support``: exp of the entropy, in tokens.
        - ``gini``: sum_i (2i - N - 1) x_(i) / (N sum x) over ascending x, 0 for even scores, 1 - 1/N for one token.
        - ``top_mass``: share of the sum in the ``top`` highest.

        A row of zeros counts as even.

    Raises:
        ValueError: no tokens, or ``top`` not within 1..N.
    """
    scores = scores.to(torch.float64)
    count = scores.shape[-1]
    top = -(-count // 10) if top is None else top
    if not 1 <= top <= count:
        raise ValueError(f"top is {top} of {count} tokens; choose 1 to {count}")
    scores = scores - scores.amin(-1, keepdim=True).clamp(max=0.0)
    total = scores.sum(-1, keepdim=True)
    share = torch.where(total > 0, scores / torch.where(total > 0, total, 1.0), 1.0 / count)
    entropy = -torch.xlogy(share, share).sum(-1)
    ascending = share.sort(dim=-1).values
    weights = 2.0 * torch.arange(1, count + 1, dtype=torch.float64, device=scores.device) - count - 1
    return {
        "entropy": entropy / float(np.log(count)) if count > 1 else torch.ones_like(entropy),
        "effective_support": entropy.exp(),
        "gini": (ascending * weights).sum(-1) / count,
        "top_mass": ascending[..., count - top :].sum(-1),
    }


def token_clusters(features: torch.Tensor, cosine: float = 0.9) -> torch.Tensor:
    """Return clusters of near-identical tokens: average linkage, merged down to a mean cosine.

    Args:
        features: [B, N, D].
        cosine: clusters whose mean cosine is above this are merged.

    Returns:
        int64 [B, N] cluster of each token, from 0 in order of first appearance. It depends on the image alone, so
        cluster once for all methods.

    Source: `scipy.cluster.hierarchy`, one image at a time; `sklearn.cluster.AgglomerativeClustering` gives the same.
    """
    units = unit(features)
    return gram_clusters(units @ units.mT, cosine)


def gram_clusters(gram: torch.Tensor, cosine: float = 0.9) -> torch.Tensor:
    """Return `token_clusters` from the cosines of all pairs, [B, N, N]."""
    from scipy.cluster import hierarchy

    distances = (1.0 - gram).clamp_(min=0.0).cpu().numpy()
    count = distances.shape[-1]
    if count < 2:
        return torch.zeros(distances.shape[:2], dtype=torch.int64, device=gram.device)
    pairs = np.triu(np.ones((count, count), dtype=bool), 1)
    below = np.nextafter(1.0 - cosine, 0.0)  # fcluster merges at its threshold too
    found = [hierarchy.fcluster(hierarchy.linkage(table[pairs], "average"), below, "distance") for table in distances]
    clusters = np.stack([cluster_codes(row) for row in found]) if found else np.zeros((0, count), dtype=np.int64)
    return torch.as_tensor(clusters, device=gram.device)


def cluster_mass(clusters: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return the share of the score mass that lies in the cluster with most of it.

    Args:
        clusters: int64 [B, N] of `token_clusters`.
        scores: [B, N]; a row with a negative score is first shifted so that its least is 0.

    Returns:
        float64 [B] in (0, 1]: 1 where all mass lies in one cluster. A row of zeros counts as even.
    """
    scores = scores.to(torch.float64)
    scores = scores - scores.amin(-1, keepdim=True).clamp(max=0.0)
    scores = torch.where(scores.sum(-1, keepdim=True) > 0, scores, 1.0)
    width = int(clusters.max()) + 1 if clusters.numel() else 1
    mass = scores.new_zeros(len(scores), width).scatter_add_(1, clusters.to(scores.device), scores)
    return mass.amax(-1) / scores.sum(-1)


def cluster_visits(clusters: torch.Tensor, kept: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return how the kept set spreads over clusters of near-identical tokens.

    Args:
        clusters: int64 [B, N] of `token_clusters`.
        kept: bool [B, N].

    Returns:
        float64 [B] each: ``clusters`` there are, ``visited`` share of them with a kept token, ``largest`` share of the
        kept that lies in the cluster with most of them (nan where nothing is kept).
    """
    kept = kept.to(device=clusters.device)
    width = int(clusters.max()) + 1 if clusters.numel() else 1
    counts = torch.zeros(len(clusters), width, dtype=torch.float64, device=clusters.device)
    counts.scatter_add_(1, clusters, kept.to(torch.float64))
    there = clusters.amax(-1).double() + 1
    return {"clusters": there, "visited": (counts > 0).sum(-1) / there, "largest": counts.amax(-1) / counts.sum(-1)}
