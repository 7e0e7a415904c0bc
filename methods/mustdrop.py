"""MustDrop: tokens are merged in the tower and dropped in the LLM where attention falls below thresholds (arXiv:2411.10803)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from methods import cost
from methods.budget import at_depth
from methods.lazy import torch
from methods.registration import register
from methods.similarity import chosen_places, mean_heads, take, top
from methods.types import Budget, BudgetError, Method, ModelShape, PositionMode, Selection, Signals, Step, decoder, vision

_MERGE = frozenset({"vision_features_first"})
_FIRST = frozenset({"text_attention", "cls_attention_last"})
_LATER = frozenset({"text_attention", "carry"})
_LAYERS = (3, 7, 11, 15)  # of 32
_SIDE, _ALIKE = 3, 0.8  # of a window, and the mean cosine from which on it becomes one token
_KEY = 0.08
_ROWS = 12  # text tokens assumed in the FLOPs of the probe


@register(
    "mustdrop",
    paper="arXiv:2411.10803",
    site="vision, decoder",
    needs=_MERGE | _FIRST | {"carry"},
    cannot="towers without CLS; images in tiles, but for stages=llm",
    ranks_by="attention",
    unverified={
        "total=None": "one level for both thresholds, and how it is found, are ours; given both, outputs prove each step"
    },
)
@dataclass(frozen=True)
class MustDrop(Method):
    """Windows of like tokens become one behind the first tower block; four times in the LLM, what the text ignores is dropped.

    What it reads. Behind tower block 0: its output. Before layer 3 of 32: the row of CLS in the *last* tower block, which the
    model itself need not run, softmax over all tokens of the tower, mean over heads. Before layers 3, 7, 11 and 15: rows of
    the layer before, with rotary embedding, softmax over all keys, of all text tokens behind the image, mean over heads.

    A token is dropped whose attention from the text, summed, is below ``total`` of that of all visual tokens together, and
    never reaches ``single`` in any row. Key tokens, the 8 % that CLS attends to most, never are. Caches from layer
    2 on are cut to what the later steps kept, once the prompt has run.

    The rule is that of the authors' code (liuting20/MustDrop 909afa5). They tune both thresholds for each benchmark until the
    average over LLM layers is the budget (0.0012 and 0.001 for 128 tokens on TextVQA), and count a layer at the tokens after
    the step behind it, too low by one layer a step. Ours: both are one level, found on images that are not scored, and counts
    are measured. What looks wrong in their code: merged windows come first, by falling likeness, and the LLM sees them in this
    order, as here; in a batch all images merge as many windows as the one that has fewest.

    Args:
        stages: ``llm`` for the steps in the LLM alone.
        total: threshold of the summed attention, as a share of that of all; None where it is to be found.
        single: threshold of every single row's attention; None as ``total``.
        positions: contiguous, as in the authors' code.
    """

    stages: Literal["all", "llm"] = "all"
    total: float | None = None
    single: float | None = None
    positions: PositionMode = "contiguous"

    def __post_init__(self) -> None:
        if (self.total is None) != (self.single is None):
            raise ValueError("give both thresholds, total and single, or neither")
        if self.total is not None and self.single is not None and (self.total < 0 or self.single < 0):
            raise ValueError("total and single must be at least 0")

    @property
    def tuned(self) -> bool:
        return self.total is None

    @property
    def budgeted(self) -> bool:
        return self.tuned  # with thresholds given, no budget changes anything

    def calibrated(self, level: float) -> MustDrop:
        return replace(self, total=level, single=level)

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens = shape.visual_tokens
        layers = [at_depth(layer, 32, shape.layers) for layer in _LAYERS]
        if len(set(layers)) < len(layers) or layers[-1] >= shape.layers:
            raise BudgetError(f"needs four distinct layers; {shape.layers} layers are too few")
        probe = cost.attention_rows(shape.heads, _ROWS, tokens, shape.head_dim) + 3.0 * _ROWS * tokens
        seen = cost.last_block_row(shape, tokens, shape.vision_heads)
        steps = [
            Step(
                decoder(layer), Filter(self.total, self.single, i == 0), tokens, tokens, _LATER if i else _FIRST,
                probe + (0.0 if i else seen),
                adaptive=True, cuts_cache_from=layers[0] - 1,
            )
            for i, layer in enumerate(layers)
        ]  # fmt: skip
        if self.stages == "llm":
            return tuple(steps)
        if shape.merge > 1 or shape.tiles > 1:
            raise BudgetError(
                f"merges inside the tower; {shape.name} has {shape.tiles} tiles or images, {shape.merge} patches a token: "
                "try stages=llm"
            )
        merging = Step(vision(0), merge, tokens, tokens, _MERGE, 8.0 * tokens * shape.vision_width, adaptive=True, behind=True)
        return (merging, *steps)


def merge(signals: Signals, keep: int) -> Selection:
    """Return means of the windows of like tokens by falling likeness, then all other tokens in position order.

    From ``vision_features_first`` [B, N, D]; how many there are follows from them. Ours: what is left over at an edge of the
    grid is in no window.

    Raises:
        ValueError: where the rows of a batch differ in how many windows merge.
    """
    tokens, grid = signals.vision_features_first, signals.grid
    if grid is None:
        raise BudgetError("MustDrop merges windows of a full grid of tokens, which these are not")
    batch, count, width = tokens.shape
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    place = torch.arange(count, device=tokens.device).view(grid)[: grid[0] // _SIDE * _SIDE, : grid[1] // _SIDE * _SIDE]
    windows = place.unflatten(1, (-1, _SIDE)).unflatten(0, (-1, _SIDE)).transpose(1, 2).reshape(-1, _SIDE**2)
    unit = torch.nn.functional.normalize(wide, dim=-1)[:, windows]  # [B, windows, 9, D]
    pairs = unit.sum(2).square().sum(-1) - unit.square().sum((2, 3))  # the sum of all products is the sum's own square
    likeness = pairs / (_SIDE**2 * (_SIDE**2 - 1))
    number = chosen_places(likeness >= _ALIKE).shape[1]
    chosen = windows[top(likeness, number)]  # [B, number, 9]
    rest = torch.ones(batch, count, dtype=torch.bool, device=tokens.device).scatter_(1, chosen.flatten(1), False)
    others = chosen_places(rest)
    means = take(wide, chosen.flatten(1)).view(batch, number, _SIDE**2, width).mean(2)
    sizes = torch.cat([torch.full_like(chosen[..., 0], _SIDE**2), torch.ones_like(others)], 1)
    source = torch.zeros(batch, number, count, dtype=torch.bool, device=tokens.device).scatter_(2, chosen, True)
    source = torch.cat([source, others[..., None] == torch.arange(count, device=tokens.device)], 1)
    merged = torch.cat([means.to(tokens.dtype), take(tokens, others)], 1)
    return Selection(torch.cat([chosen[..., 0], others], 1), merged, sizes, source, space="tower")


@dataclass(frozen=True)
class Filter:
    """One step in the LLM; the first also chooses the key tokens, which are handed on: bool [B, K]."""

    total: float | None
    single: float | None
    first: bool

    def __call__(self, signals: Signals, keep: int) -> Selection:
        """From ``text_attention`` [B, H, T, N] and ``cls_attention_last`` [B, H, N] or ``carry`` [B, N].

        Raises:
            ValueError: without thresholds, or where the rows of a batch differ in how many tokens stay.
        """
        if self.total is None or self.single is None:
            raise ValueError("mustdrop has no thresholds yet: calibrate it, or give total= and single=")
        attention = mean_heads(signals.text_attention)
        scores = attention.sum(1)
        ignored = (scores < self.total * scores.sum(-1, keepdim=True)) & (attention.amax(1) < self.single)
        key = self._key(signals)
        stays = ~ignored | key
        kept = chosen_places(stays)
        return Selection(kept, carry=key.gather(1, kept), scores=scores)

    def _key(self, signals: Signals) -> torch.Tensor:
        """The key tokens among those present: bool [B, N]."""
        if not self.first:
            assert signals.carry is not None, "the first step chose them"
            return signals.carry
        scores = mean_heads(signals.cls_attention_last)
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, top(scores, ceil(_KEY * signals.count)), True)
