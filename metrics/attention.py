"""Where the last instruction token looks among the visual tokens, layer by layer."""

from __future__ import annotations

import torch


def attention_figures(
    rows: torch.Tensor, evidence: torch.Tensor | None = None, top: int | None = None, present: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Return how much of an attention row lies on the visual tokens, how evenly, and how much of it on the evidence.

    a is the row, M = sum of a over the visual tokens, p = a / M, n the number of visual tokens present.

    Args:
        rows: [R, N] attention of the last instruction token to the visual tokens, mean over heads, not renormalised;
            0 where a token is absent.
        evidence: bool [R, N] the tokens that hold the answer, or None.
        top: tokens in ``evidence_top``; a tenth of N, rounded up, by default.
        present: bool [R, N]; all by default.

    Returns:
        float64 [R] each:

        - ``mass``: M, in [0, 1] of a softmax row.
        - ``entropy``: -sum p log p / log n, 1 for an even row, 0 for one token; 1 where n = 1.
        - ``effective_support``: exp(-sum p log p), in tokens.
        - ``evidence_mass``: sum of p over the evidence present.
        - ``evidence_chance``: |evidence present| / n, what an even row gives.
        - ``evidence_top``: share of all evidence among the ``top`` tokens with the highest a, ties towards the lower
          index; absent tokens are never among them.

        Without visual tokens or mass, ``entropy``, ``effective_support`` and ``evidence_mass`` are nan, without tokens
        ``evidence_chance`` too. All three of the evidence are nan where a row has none.

    Raises:
        ValueError: where the shapes differ or ``top`` is not within 1..N.
    """
    rows = rows.to(torch.float64)
    here = torch.ones_like(rows, dtype=torch.bool) if present is None else present.to(rows.device, torch.bool)
    count = rows.shape[-1]
    for name, other in (("present", here), ("evidence", evidence)):
        if other is not None and other.shape != rows.shape:
            raise ValueError(f"rows are {tuple(rows.shape)}, {name} {tuple(other.shape)}; both are [R, N]")
    top = max(1, -(-count // 10)) if top is None else top
    if not 1 <= top <= max(count, 1):
        raise ValueError(f"top is {top} of {count} tokens; choose 1 to {count}")
    rows = rows.masked_fill(~here, 0.0)
    held = torch.zeros_like(here) if evidence is None else evidence.to(rows.device, torch.bool)
    mass, size, total = rows.sum(-1), here.sum(-1), held.sum(-1)
    looks, known, held = mass > 0, total > 0, held & here
    share = rows / torch.where(looks, mass, 1.0)[:, None]
    nats = -torch.xlogy(share, share).sum(-1)
    entropy = torch.where(size > 1, nats / size.clamp(min=2).double().log(), 1.0)
    best = rows.masked_fill(~here, -torch.inf).argsort(dim=-1, descending=True, stable=True)[:, :top]
    chance = held.sum(-1).double() / size.clamp(min=1)
    found = held.gather(1, best).sum(-1).double() / total.clamp(min=1)
    return {
        "mass": mass,
        "entropy": torch.where(looks, entropy, torch.nan),
        "effective_support": torch.where(looks, nats.exp(), torch.nan),
        "evidence_mass": torch.where(known & looks, (share * held).sum(-1), torch.nan),
        "evidence_chance": torch.where(known & (size > 0), chance, torch.nan),
        "evidence_top": torch.where(known, found, torch.nan),
    }
