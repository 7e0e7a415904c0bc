"""DART: duplication matters more (Wen et al. 2025, arXiv:2502.11494)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.budget import at_depth, solve
from methods.lazy import torch
from methods.registration import register
from methods.similarity import take, top
from methods.types import Budget, BudgetError, Method, ModelShape, Selection, Signals, Step, decoder

_NEEDS = frozenset({"keys", "text_keys", "hidden_states", "text_hidden", "norm_scale"})


@register("dart", paper="arXiv:2502.11494", site="decoder", needs=_NEEDS, ranks_by="diversity")
@dataclass(frozen=True)
class DART(Method):
    """A few pivots of largest key norm, and for each the image tokens that duplicate it least.

    Pivots (L1 norm of the keys of the layer before, heads joined), the cosine of final-norm states and layer 2 are those of
    the authors' code (ZichenWen1/DART 5a19452). Ours: the code walks a set, so its order is not canonical; we walk image
    pivots by falling norm, then text pivots, and share K exactly, earlier pivots first. K counts the image pivots; published
    counts leave them out: at a published 64, with 4 and 4 pivots, 68 tokens stay.

    It reads, before layer k: ``keys`` and ``text_keys`` of layer k - 1, rotated, heads joined; ``hidden_states`` and
    ``text_hidden``, the input of layer k, each number times the weight of the LLM's final norm (``norm_scale``; the rest of
    the norm changes no cosine). Text is what stands behind the image.

    Args:
        layer: before which tokens leave; 2 of 32, the same fraction on models of fewer than 24 layers.
        image_pivots: pivots among visual tokens; they are kept.
        text_pivots: pivots among instruction tokens.
        positions: original, as in the authors' code.
    """

    layer: int = 2
    image_pivots: int = 4
    text_pivots: int = 4

    def __post_init__(self) -> None:
        if self.layer < 1:
            raise ValueError(f"layer={self.layer} must be at least 1: it reads the layer before")
        if self.image_pivots < 1 or self.text_pivots < 0:
            raise ValueError("image_pivots must be at least 1, text_pivots at least 0")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        layer, tokens = at_depth(self.layer, 32, shape.layers), shape.visual_tokens
        if layer >= shape.layers:
            raise BudgetError(f"layer={layer} is past the last of {shape.layers} layers")
        pivots, select = self.image_pivots + self.text_pivots, DARTSelector(self.image_pivots, self.text_pivots)
        norms = 2.0 * tokens * shape.kv_heads * shape.head_dim
        flops = norms + cost.similarity(tokens, shape.width, pivots) + pivots * cost.ranking(tokens)
        counts = lambda scale: ((layer, max(1, round(scale * tokens))),)
        make = lambda pairs: (Step(decoder(layer), select, pairs[0][1], pairs[0][1], _NEEDS, flops),)
        return solve(budget, shape, counts, make)


@dataclass(frozen=True)
class DARTSelector:
    """Indices [B, keep]: image pivots by falling norm, then what each pivot adds, least similar first."""

    image_pivots: int
    text_pivots: int

    def __call__(self, signals: Signals, keep: int) -> Selection:
        wide = torch.float64 if signals.keys.dtype == torch.float64 else torch.float32
        norms, text_norms = (
            torch.linalg.vector_norm(keys, ord=1, dim=-1, dtype=wide) for keys in (signals.keys, signals.text_keys)
        )
        visual = top(norms, min(self.image_pivots, keep))
        text = top(text_norms, min(self.text_pivots, signals.text_keys.shape[1]))
        states, words = signals.hidden_states, signals.text_hidden
        if signals.norm_scale is not None:
            states, words = states * signals.norm_scale, words * signals.norm_scale
        directions = torch.nn.functional.normalize(torch.cat([take(states, visual), take(words, text)], 1), dim=-1)
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=wide).clamp_min(1e-12)
        likeness = (states @ directions.transpose(1, 2)).to(wide).div_(length)  # [B, N, pivots]
        likeness.scatter_(1, visual[..., None].expand(-1, -1, likeness.shape[-1]), torch.inf)
        rest, pivots = keep - visual.shape[1], likeness.shape[-1]
        kept = [visual]
        for pivot in range(pivots):
            added = top(-likeness[..., pivot], rest // pivots + int(pivot < rest % pivots))
            likeness.scatter_(1, added[..., None].expand(-1, -1, pivots), torch.inf)
            kept.append(added)
        return Selection(torch.cat(kept, 1))
