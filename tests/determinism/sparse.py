"""The choices of SparseVLM that its kept tokens do not show: who rates, what is recycled, and into which means."""

from __future__ import annotations

import torch

from methods.similarity import top
from methods.sparsevlm import candidates, clusters
from methods.types import Selection, Signals
from tests.determinism.decision import Decision, apart


def decisions(signals: Signals, chosen: Selection, keep: int, row: int) -> tuple[tuple[Decision, ...], tuple[Decision, ...]]:
    """Those before the scores and those behind the choice of tokens, each straight from its definition."""
    before = () if signals.carry is not None else (_raters(signals.features[row], signals.text_features[row]),)
    if chosen.tokens is None:
        return before, ()
    scores = chosen.scores[row]
    order = top(scores[None], signals.count)[0]
    recycled = order[keep : keep + candidates(signals.count - keep)].sort().values
    there = torch.zeros(signals.count, dtype=torch.bool).index_fill_(0, recycled, True)
    among = Decision(there, lambda other: apart(scores[there ^ other].double()))
    return before, (among, *_clusters(signals.hidden_states[row, recycled].double()))


def _raters(features: torch.Tensor, text: torch.Tensor) -> Decision:
    relevance = (features @ text.T).double().softmax(-1).mean(0)
    mean = relevance.mean()
    return Decision(relevance > mean, lambda other: float((relevance / mean - 1).abs()[(relevance > mean) ^ other].max()))


def _clusters(tokens: torch.Tensor) -> tuple[Decision, ...]:
    """The nearest denser token of each, which are centres, and whose each token is; tokens are [M, D]."""
    count = clusters(len(tokens))
    distance = torch.cdist(tokens, tokens, compute_mode="donot_use_mm_for_euclid_dist") / tokens.shape[1] ** 0.5
    sparseness = distance.sort(-1).values[:, : min(count, len(tokens))].square().mean(-1)  # minus the logarithm of density
    places = torch.arange(len(tokens))
    equal = (sparseness[None, :] == sparseness[:, None]) & (places < places[:, None])
    denser = (sparseness[None, :] < sparseness[:, None]) | equal
    towards, parent = torch.where(denser, distance, torch.inf).min(-1)
    parent, separation = parent.masked_fill(towards.isinf(), -1), towards.where(~towards.isinf(), distance.max())
    peaks = separation * (-sparseness).exp()
    order = top(peaks[None], count)[0]  # of the means among the tokens, which gives them their positions
    centres = order.sort().values
    member = centres[distance[:, centres].argmin(-1)]
    member[centres] = centres
    marked = torch.zeros(len(tokens), dtype=torch.bool).index_fill_(0, centres, True)

    relative = lambda a, b: float((a - b).abs() / torch.maximum(a, b).clamp_min(1e-30))

    def of_parent(other: torch.Tensor) -> float:
        found = []
        for token in (parent != other).nonzero()[:, 0].tolist():
            own, its = int(parent[token]), int(other[token])
            if own >= 0 and its >= 0 and denser[token, its]:
                found.append(relative(distance[token, own], distance[token, its]))
            else:  # the two runs do not agree on which of two tokens is the denser
                found.append(relative(sparseness[token], sparseness[its if its >= 0 else own]))
        return max(found)

    def of_order(other: torch.Tensor) -> float:
        place = int((order != other).nonzero()[0])
        return relative(peaks[order[place]], peaks[other[place]])

    def of_member(other: torch.Tensor) -> float:
        own, its = distance[places, member], distance[places, other]
        return float(((own - its).abs() / torch.maximum(own, its).clamp_min(1e-30))[member != other].max())

    return (
        Decision(parent, of_parent),
        Decision(marked, lambda other: apart(peaks[marked ^ other])),
        Decision(member, of_member),
        Decision(order, of_order),
    )
