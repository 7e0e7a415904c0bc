"""How diverse the kept tokens are, and how well they stand for the rest.

Tokens are L2-normalised and not centred; everything is in float64, batched over leading dimensions. One
spectrum, the eigenvalues of the Gram matrix X X' (or of X' X where that is smaller), serves all ranks.
"""

from __future__ import annotations

from math import log

import torch

LOG_DET_EPS = 1e-6
"""Added to the Gram diagonal in `log_det`: repeated tokens then cost log(1e-6) = -13.8 each, not minus infinity."""
ENERGY = 0.99
_ROUNDING = 1e-12  # eigenvalues under this part of the largest are rounding, and set to 0
_CHUNK = 1 << 24  # float64 numbers held at once, 128 MB


def unit(tokens: torch.Tensor) -> torch.Tensor:
    """Return tokens [..., K, D] divided by their L2 norm, in float64; an all-zero token stays zero."""
    tokens = tokens.to(torch.float64)
    # by the largest entry first: squares of very large or small entries leave the range
    peak = tokens.abs().amax(-1, keepdim=True)
    tokens = tokens / torch.where(peak > 0, peak, 1.0)
    norm = tokens.norm(dim=-1, keepdim=True)
    return tokens / torch.where(norm > 0, norm, 1.0)


def spectrum(units: torch.Tensor) -> torch.Tensor:
    """Return eigenvalues of the Gram matrix of tokens, ascending: squared singular values.

    Args:
        units: [..., K, D] normalised tokens.

    Returns:
        [..., min(K, D)] >= 0; the other K - min(K, D) eigenvalues of X X' are 0.
    """
    rows, width = units.shape[-2:]
    return gram_spectrum(units @ units.mT if rows <= width else units.mT @ units)


def gram_spectrum(gram: torch.Tensor) -> torch.Tensor:
    """Return eigenvalues [..., K] of Gram matrices [..., K, K], ascending, with rounding set to 0."""
    values = torch.linalg.eigvalsh(gram)
    floor = _ROUNDING * values.shape[-1] * values.amax(-1, keepdim=True)
    return torch.where(values > floor, values, 0.0)


def effective_rank(eigenvalues: torch.Tensor) -> torch.Tensor:
    """Return exp(H(p)), p = sigma / sum sigma, sigma the singular values (roots of the eigenvalues): [...].

    From 1 (all tokens on a line) to min(K, D); 0 where all tokens are zero. Source: Roy & Vetterli 2007, definition 1.
    """
    return _exp_entropy(eigenvalues.sqrt())


def vendi(eigenvalues: torch.Tensor) -> torch.Tensor:
    """Return exp(H(lambda / sum lambda)), the Vendi score with the cosine kernel: [...].

    Of unit tokens the sum is K, as in the paper; zero tokens count as absent. Source: Friedman & Dieng 2022,
    arXiv:2210.02410, definition 3.1.
    """
    return _exp_entropy(eigenvalues)


def _exp_entropy(weights: torch.Tensor) -> torch.Tensor:
    total = weights.sum(-1, keepdim=True)
    share = weights / torch.where(total > 0, total, 1.0)
    return torch.where(total.squeeze(-1) > 0, torch.exp(-torch.xlogy(share, share).sum(-1)), 0.0)


def mean_cosine(gram: torch.Tensor) -> torch.Tensor:
    """Return the mean of the off-diagonal cosines, [...] in [-1, 1], of Gram matrices [..., K, K]; nan of one token."""
    count = gram.shape[-1]
    if count < 2:
        return gram.new_full(gram.shape[:-2], torch.nan)
    return (gram.sum((-2, -1)) - gram.diagonal(dim1=-2, dim2=-1).sum(-1)) / (count * (count - 1))


def diversity(tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return all diversity figures of the kept tokens. lambda: eigenvalues of the Gram of the normalised tokens.

    Args:
        tokens: [..., K, D] features of the kept tokens, K >= 1.

    Returns:
        float64 [...] each:

        - ``effective_rank``, ``vendi``: see there.
        - ``stable_rank``: sum lambda / max lambda (Rudelson & Vershynin 2007).
        - ``participation_ratio``: (sum lambda)^2 / sum lambda^2.
        - ``rank99``: the fewest directions that hold 99 % of sum lambda.
        - ``mean_cosine``: over pairs; ``nearest_cosine``: of each token to its nearest other, mean. Both are nan
          of one token, which has no pair. A zero token has cosine 0 to all.
        - ``log_det``: log det(Gram + `LOG_DET_EPS` I), nats; at most K log(1 + eps), reached by orthogonal tokens.

        The four ranks and Vendi are 0 where all tokens are zero.

    Raises:
        ValueError: no tokens.
    """
    if tokens.ndim < 2 or tokens.shape[-2] == 0:
        raise ValueError(f"tokens are {tuple(tokens.shape)}; diversity needs [..., K, D] with K of at least 1")
    units = unit(tokens)
    values, gram = spectrum(units), units @ units.mT
    return of_spectrum(values, mean_cosine(gram), units.shape[-2]) | {"nearest_cosine": _nearest_cosine(gram)}


def of_spectrum(values: torch.Tensor, cosine: torch.Tensor, count: int) -> dict[str, torch.Tensor]:
    """Return the figures of `diversity` that eigenvalues [..., min(K, D)], ascending, give, and the mean cosine [...].

    Args:
        count: K.
    """
    total = values.sum(-1)
    some = total > 0

    def ratio(above: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        return torch.where(some, above / torch.where(some, below, 1.0), 0.0)

    from_largest = values.flip(-1).cumsum(-1)
    return {
        "effective_rank": effective_rank(values),
        "stable_rank": ratio(total, values[..., -1]),
        "participation_ratio": ratio(total**2, (values**2).sum(-1)),
        # the allowance keeps a tie at exactly 99 % from turning on rounding
        "rank99": torch.where(some, (from_largest < (ENERGY - 1e-9) * total[..., None]).sum(-1) + 1.0, 0.0).double(),
        "mean_cosine": cosine,
        "log_det": torch.log(values + LOG_DET_EPS).sum(-1) + (count - values.shape[-1]) * log(LOG_DET_EPS),
        "vendi": vendi(values),
    }


def _nearest_cosine(gram: torch.Tensor) -> torch.Tensor:
    if gram.shape[-1] < 2:
        return gram.new_full(gram.shape[:-2], torch.nan)
    own = torch.eye(gram.shape[-1], dtype=torch.bool, device=gram.device)
    return gram.masked_fill(own, -torch.inf).amax(-1).mean(-1)


def representation(features: torch.Tensor, kept: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return how well the kept tokens stand for the rest. Distances are Euclidean between normalised tokens, in [0, 2].

    Args:
        features: [B, N, D] all visual tokens.
        kept: bool [B, N]; rows may keep different numbers.

    Returns:
        float64 [B] each, nan where nothing is kept:

        - ``k_centre_radius``: the farthest that a token is from its nearest kept one (Gonzalez 1985).
        - ``mean_distance_to_kept``: of each dropped token to its nearest kept one, mean; 0 where none is dropped.
        - ``residual``: ||X - P X||^2 / ||X||^2 over all tokens, P the projection on the span of the kept ones:
          the share of energy, in [0, 1], that no combination of them gives.

    Raises:
        ValueError: where the shapes do not belong together.
    """
    if features.ndim != 3 or kept.shape != features.shape[:2]:
        raise ValueError(f"features {tuple(features.shape)}, kept {tuple(kept.shape)}; they are [B, N, D] and [B, N]")
    kept = kept.to(device=features.device, dtype=torch.bool)
    most = int(kept.sum(-1).max()) if kept.numel() else 0
    if most == 0:
        nothing = torch.full(kept.shape[:1], torch.nan, dtype=torch.float64, device=features.device)
        return {name: nothing.clone() for name in ("k_centre_radius", "mean_distance_to_kept", "residual")}
    tokens = features.shape[1]
    rows = max(1, _CHUNK // (tokens * (most + features.shape[2])))
    parts = [
        _representation(features[start : start + rows], kept[start : start + rows], most)
        for start in range(0, len(features), rows)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _representation(features: torch.Tensor, kept: torch.Tensor, most: int) -> dict[str, torch.Tensor]:
    units = unit(features)
    # kept tokens first, in order; rows that keep fewer than the most are padded
    places = kept.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, :most]
    real = kept.gather(1, places)
    chosen = units.gather(1, places[..., None].expand(-1, -1, units.shape[-1])) * real[..., None]
    cosines = chosen @ units.mT  # [B, K, N]
    lengths = (units**2).sum(-1)  # 1, or 0 of a zero token
    squared = lengths.gather(1, places)[..., None] + lengths[:, None, :] - 2.0 * cosines
    nearest = squared.masked_fill(~real[..., None], torch.inf).amin(1).clamp(min=0.0).sqrt()
    nearest = nearest.masked_fill(kept, 0.0)  # exactly: a root would lift rounding to 1e-8
    dropped = (~kept).sum(-1)
    values, vectors = torch.linalg.eigh(chosen @ chosen.mT)
    spanned = values > 1e-10 * values.amax(-1, keepdim=True)
    scale = torch.where(spanned, torch.where(spanned, values, 1.0).rsqrt(), 0.0)
    explained = ((scale[..., None] * (vectors.mT @ cosines)) ** 2).sum((-2, -1))
    energy = lengths.sum(-1)
    residual = torch.where(energy > 0, 1.0 - explained / torch.where(energy > 0, energy, 1.0), 0.0)
    figures = {
        "k_centre_radius": nearest.amax(-1),
        "mean_distance_to_kept": nearest.sum(-1) / dropped.clamp(min=1),
        "residual": residual.clamp(0.0, 1.0),
    }
    return {name: torch.where(kept.any(-1), figure, torch.nan) for name, figure in figures.items()}
