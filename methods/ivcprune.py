"""IVC-Prune: keep what the text's values resemble, and places that carry the rotary coordinates (arXiv:2602.03060)."""

from __future__ import annotations

from dataclasses import dataclass

from methods import cost
from methods.budget import at_depth
from methods.lazy import torch
from methods.registration import register
from methods.similarity import chosen_places, take, top
from methods.types import Budget, BudgetError, Method, ModelShape, Selection, Signals, Step, decoder

_NEEDS = frozenset({"values_full", "text_values_full", "system_values_full", "rotary_mean"})
_SEEDS, _BY_VALUE, _COORDINATES = 0.01, 0.2, 0.05
_SKIPPED = 2  # text tokens right behind the image
_BASE, _WIDTH = 10000.0, 128  # of the rotary embedding of LLaVA-1.5's LLM
_ROWS = 24  # text tokens assumed in the FLOPs


@register(
    "ivcprune",
    paper="arXiv:2602.03060",
    site="decoder",
    needs=_NEEDS,
    ranks_by="attention",  # of values to values; the few coordinate tokens are of places alone
)
@dataclass(frozen=True)
class IVCPrune(Method):
    """Before the middle layer, keep tokens whose values the text's and a few seeds' attend to, and the coordinates of the image.

    What it reads, of layer k - 1: its values, after its input norm, of the image and of the text before and behind it; of them
    the softmax, per key-value head, of their products with each other over the square root of the head's width, over *all*
    tokens, later ones too, mean over heads. And the mean cosine and sine of the rotary angles at every place of the image.

    Text rows are those behind the image but for the first two. Seeds are the top 1 % of their mean; of the mean of text and seed
    rows the top 20 % stay, and with them the 5 % of places of highest mean cosine, and of highest mean sine. The rule is that of
    the authors' code (FireRedTeam/IVC-Prune 03afd9c), which cuts the caches of all earlier layers to the same tokens. It has no
    budget: at most about 31 % of the tokens stay, the union decides how many. Ours: at least one, also of one or two. They prune
    before layer 16 of LLaVA-1.5, InternVL2.5 and Qwen2.5-VL-7B, 22 of Qwen2.5-VL-3B, 17 of DeepSeek-VL2 and 2 of Qwen2-VL.

    Args:
        layer: whose input is pruned, of 32.
        positions: original, as in the authors' code.
    """

    layer: int = 16

    def __post_init__(self) -> None:
        if self.layer < 1:
            raise ValueError(f"layer={self.layer} must be at least 1: it reads the layer before")

    @property
    def budgeted(self) -> bool:
        return False

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        layer, tokens = at_depth(self.layer, 32, shape.layers), shape.visual_tokens
        if layer >= shape.layers:
            raise BudgetError(f"acts before layer {layer}; {shape.layers} layers are too few")
        seeds, by_value, coordinates = shares(tokens)
        rows = (_ROWS + seeds) * (tokens + 2 * _ROWS)
        flops = rows * shape.kv_heads * (2.0 * shape.head_dim + 6.0) + 4 * cost.ranking(tokens)
        most = min(tokens, by_value + 2 * coordinates)
        select = IVCSelector(shape.kv_heads)
        return (Step(decoder(layer), select, most, most, _NEEDS, flops, adaptive=True, cuts_cache_from=0),)


def shares(tokens: int) -> tuple[int, int, int]:
    """Return how many of N tokens are seeds, stay by value, and stay as coordinates of each kind."""
    return max(1, round(_SEEDS * tokens)), max(1, round(_BY_VALUE * tokens)), round(_COORDINATES * tokens)


@dataclass(frozen=True)
class IVCSelector:
    """Kept tokens in position order. ``heads``: of keys and values."""

    heads: int

    def __call__(self, signals: Signals, keep: int) -> Selection:
        """From ``values_full`` [B, N, D], those of the text [B, T, D] and [B, S, D], and ``rotary_mean`` [B, N, 2].

        How many stay follows from them.

        Raises:
            ValueError: where the rows of a batch differ in how many stay.
        """
        _, by_value, coordinates = shares(signals.count)
        scores = self.by_value(signals)
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, top(scores, by_value), True)
        for angles in rotary(signals).unbind(-1):
            kept.scatter_(1, top(angles, coordinates), True)
        return Selection(chosen_places(kept), scores=scores)

    def by_value(self, signals: Signals) -> torch.Tensor:
        """Return the mean row of text and seeds over the image: [B, N]."""
        wide = torch.promote_types(signals.values_full.dtype, torch.float32)
        image, text, system = (
            part.to(wide) for part in (signals.values_full, signals.text_values_full, signals.system_values_full)
        )
        everything = torch.cat([image, system, text], 1)
        rating = text[:, min(_SKIPPED, text.shape[1] - 1) :]
        from_text = self._rows(rating, everything, signals.count)
        chosen = top(from_text.mean(1), shares(signals.count)[0])
        return torch.cat([from_text, self._rows(take(image, chosen), everything, signals.count)], 1).mean(1)

    def _rows(self, queries: torch.Tensor, everything: torch.Tensor, count: int) -> torch.Tensor:
        """Softmax over all tokens of the products of values, mean over heads, of the image's tokens: [B, rows, N]."""
        left, right = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (queries, everything))
        products = left @ right.mT / left.shape[-1] ** 0.5
        rows: torch.Tensor = products.softmax(-1)[..., :count].mean(1)
        return rows


def rotary(signals: Signals) -> torch.Tensor:
    """Return the mean cosine and sine of the rotary angles at each place of the image: [B, N, 2].

    Where the model or file does not give them, those of LLaVA-1.5's LLM, the image standing right behind the text before it.
    """
    if signals.rotary_mean is not None:
        return signals.rotary_mean
    device, before = signals.values_full.device, signals.system_values_full.shape[1]
    places = torch.arange(before, before + signals.count, dtype=torch.float64, device=device)
    angles = places[:, None] * _BASE ** -(torch.arange(0, _WIDTH, 2, dtype=torch.float64, device=device) / _WIDTH)
    return torch.stack([angles.cos().mean(-1), angles.sin().mean(-1)], -1).expand(signals.batch, -1, -1)
