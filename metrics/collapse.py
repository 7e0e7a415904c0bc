"""Attention collapse: kept sets less diverse than chance, and scores that pile up on few tokens."""

from __future__ import annotations

import numpy as np
import torch

from metrics.clusters import cluster_codes
from metrics.diversity import unit

SUBSETS = 64


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


def token_hashes(seeds: torch.Tensor, subsets: int, count: int) -> torch.Tensor:
    """Return a hash of (seed, subset, token), different for all tokens of a subset: seeds int64 [B] to int64 [B, S, N]."""
    seed = seeds.to(torch.int64)
    streams = _mix(_mix(seed)[:, None] + torch.arange(1, subsets + 1, device=seed.device) * _GOLDEN)  # [B, S]
    return _mix(streams[..., None] + torch.arange(1, count + 1, device=seed.device) * _GOLDEN)


_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number


def _mix(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser on int64; products wrap, and shifts are made logical by a mask."""
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def _shift(x: torch.Tensor, by: int) -> torch.Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)


def z_scores(values: torch.Tensor, null: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how far each value lies from its null, as z and as percentile.

    Args:
        values: [B] a figure of the kept set.
        null: [B, S] the same figure of random subsets.

    Returns:
        z [B] = (value - mean) / sd (n - 1), nan where the null does not vary (K = N, equal tokens); percentile [B] =
        share of the null below the value plus half of what equals it (to 1e-9, since equal sets differ by rounding),
        0.5 where all are equal. Both nan where the value or a null figure is.
    """
    values, null = values.to(torch.float64), null.to(torch.float64)
    scale = torch.maximum(values.abs(), torch.ones_like(values))
    spread = null.std(-1, unbiased=True)
    varies = spread > 1e-9 * scale
    z = torch.where(varies, (values - null.mean(-1)) / torch.where(varies, spread, 1.0), torch.nan)
    gap = values[:, None] - null
    equal = gap.abs() <= 1e-9 * scale[:, None]
    percentile = ((gap > 0) & ~equal).double().mean(-1) + 0.5 * equal.double().mean(-1)
    known = ~(values.isnan() | null.isnan().any(-1))
    return torch.where(known, z, torch.nan), torch.where(known, percentile, torch.nan)


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
