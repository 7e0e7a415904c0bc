"""FlowCut: tokens leave the tower where its information stops flowing through them (arXiv:2505.19536)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Literal

from methods import cost
from methods.budget import allowed, at_depth, largest, solve, spent
from methods.lazy import torch
from methods.registration import register
from methods.schedule import schedule
from methods.similarity import mean_heads, row_by_row, top
from methods.types import Budget, BudgetError, Method, ModelShape, PositionMode, Selection, Signals, Step, decoder, vision

_TOWER = frozenset({"cls_attention", "vision_values_full", "cls_value_full", "carry"})
_LLM = frozenset({"text_attention", "values_full", "text_values_full"})


@register(
    "flowcut",
    paper="arXiv:2505.19536",
    site="vision",
    needs=_TOWER,
    cannot="towers without CLS and images in tiles, but for stages=llm",
    ranks_by="attention",
)
@dataclass(frozen=True)
class FlowCut(Method):
    """In every second block of the tower, tokens leave that CLS hardly attends to: fewer while its attention is still even.

    What it reads, in each block, of the tokens present: the row of CLS, softmax over all tokens of the tower, mean over heads;
    and the block's values (after its first norm), of which the softmax, per head, over the products with CLS's value, not
    scaled. Each divided by its sum over the patches, added, and times the L1 norm of the values averaged over heads, they score
    a token; half of what it scored before is carried along, from block to block.

    The rule is that of the authors' code (TungChintao/FlowCut a2ecd24, the same in flowcut 1.0.2): with so many blocks left
    before the one whose output is read, every block scores, and every other one prunes (of 24: blocks 1, 3 .. 21, behind each
    of them), until the last leaves just the budget. How many leave before that, the image decides. Budgets are final counts. An
    MLP works token by token, so that what is pruned before it, as here, equals what is pruned behind it.

    ``stages=llm`` is the second half, for images in several tiles: before layer 2 of 32, by rows of layer 1: what its last text
    token attends to with rotary embedding, softmax over the visual tokens alone, and the softmax over the products of that
    token's value with theirs, over the square root of the head's width. The authors halve the budget between both there.

    What looks wrong in their code: in a batch all images lose as many tokens as the one that loses most; an attention of exactly
    0, as in half precision, makes the count NaN (here it counts as no information); in version 1.0.2 the step in the LLM reads
    a wrong axis under flash attention.

    Args:
        stages: ``tower`` or ``llm``.
        positions: contiguous.
    """

    stages: Literal["tower", "llm"] = "tower"
    positions: PositionMode = "contiguous"

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        if self.stages == "llm":
            return self._inside(shape, budget)
        if shape.merge > 1 or shape.tiles > 1:
            raise BudgetError(
                f"prunes inside the tower; {shape.name} has {shape.tiles} tiles or images, {shape.merge} patches a token: "
                "try stages=llm"
            )
        if shape.vision_layers < 2:
            raise BudgetError(f"needs 2 tower blocks at the least; {shape.vision_layers} run")
        if budget.mode != "flops":
            return self._chain(shape, budget.tokens)
        limit = allowed(budget, shape)
        fits: Callable[[int], bool] = lambda keep: spent(budget, shape, schedule(shape, self._chain(shape, keep))) <= limit
        if not fits(1):
            raise BudgetError(f"costs more than {limit / 1e9:.4g} GFLOPs even with 1 token")
        return self._chain(shape, largest(1, shape.visual_tokens, fits))

    def _chain(self, shape: ModelShape, keep: int) -> tuple[Step, ...]:
        """A step in every block before the one that is read; the counts before the last are bounds."""
        tokens, last = shape.visual_tokens, shape.vision_layers - 2
        flops = cost.cls_row(shape, tokens) + 8.0 * (tokens + 1) * shape.vision_width + cost.ranking(tokens)
        return tuple(
            Step(vision(block), Cut(last - block), keep, keep if block == last else tokens, _TOWER, flops, adaptive=block < last)
            for block in range(last + 1)
        )

    def _inside(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        layer, tokens = at_depth(2, 32, shape.layers), shape.visual_tokens
        if layer >= shape.layers:
            raise BudgetError(f"acts before layer {layer}; {shape.layers} layers are too few")
        rows = cost.attention_rows(shape.heads, 1, tokens, shape.head_dim)
        flops = rows + 8.0 * tokens * shape.kv_heads * shape.head_dim + cost.ranking(tokens)
        counts = lambda scale: ((layer, max(1, round(scale * tokens))),)
        make = lambda pairs: (Step(decoder(layer), InLLM(shape.kv_heads), pairs[0][1], pairs[0][1], _LLM, flops, rows=1),)
        return solve(budget, shape, counts, make)


def score(attention: torch.Tensor, likeness: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return how much information flows through each token: [B, N].

    Args:
        attention: [B, N] that each receives.
        likeness: [B, N] of its values to those of the token that looks.
        values: [B, N, H, d].
    """
    flow = attention / attention.sum(-1, keepdim=True) + likeness / likeness.sum(-1, keepdim=True)
    return flow * row_by_row(lambda row: torch.linalg.vector_norm(row.mean(2), ord=1, dim=-1), values)


def products(values: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Return inner products with one token's values, head by head: [B, N, H, d] and [B, H, d] to [B, N, H]."""
    return row_by_row(lambda row, one: torch.einsum("bnhd,bhd->bnh", row, one), values, own)


def leaving(attention: torch.Tensor, left: int, target: int) -> int:
    """Return how many tokens leave in a block: more the less even their attention is.

    Args:
        attention: [B, N] of CLS, not normalised.
        left: blocks to go before the last that prunes; 0 in that one.
        target: tokens that stay in the end.

    Raises:
        ValueError: where the rows of a batch differ in it.
    """
    count = attention.shape[1]
    if not left:
        return count
    share = attention.double() / attention.double().sum(-1, keepdim=True)
    entropy = torch.special.entr(share).sum(-1)
    numbers = ((count - target) / left**0.5 * (1 - (entropy / log(count)) ** 2)).round().long().tolist()
    if len(set(numbers)) > 1:
        raise ValueError("the rows differ in how many tokens leave; ask for one image at a time")
    return int(numbers[0])


@dataclass(frozen=True)
class Cut:
    """One block: every token scored, and where an even number of blocks is left, the lowest dropped."""

    left: int

    def __call__(self, signals: Signals, keep: int) -> Selection:
        """From ``cls_attention`` [B, H, N], ``vision_values_full`` [B, N, D], ``cls_value_full`` [B, D] and ``carry`` [B, N]."""
        count = signals.count
        everything = torch.arange(count, device=signals.cls_attention.device).expand(signals.batch, -1)
        if count <= keep:
            return Selection(everything, carry=signals.carry)
        attention, carry = self.flow(signals)
        if signals.carry is not None:
            carry = 0.5 * signals.carry + 0.5 * carry
        if self.left % 2:
            return Selection(everything, carry=carry, scores=carry)
        kept = top(carry, max(count - leaving(attention, self.left, keep), keep)).sort(-1).values
        return Selection(kept, carry=carry.gather(1, kept), scores=carry)

    def flow(self, signals: Signals) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the attention of CLS [B, N], mean over heads, and each token's score in this block alone [B, N]."""
        seen = signals.cls_attention
        wide, attention = torch.promote_types(seen.dtype, torch.float32), mean_heads(seen)
        values, own = (
            part.to(wide).unflatten(-1, (seen.shape[1], -1)) for part in (signals.vision_values_full, signals.cls_value_full)
        )
        scores = torch.cat([own.square().sum(-1)[:, None], products(values, own)], 1)
        return attention, score(attention, scores.softmax(1).mean(-1)[:, 1:], values)


@dataclass(frozen=True)
class InLLM:
    """The step inside the LLM. ``heads``: of keys and values."""

    heads: int

    def __call__(self, signals: Signals, keep: int) -> Selection:
        """From ``values_full`` [B, N, D], and the last of ``text_attention`` [B, H, T, N] and ``text_values_full`` [B, T, D]."""
        wide = torch.promote_types(signals.text_attention.dtype, torch.float32)
        row = signals.text_attention[:, :, -1].to(wide)
        attention = (row / row.sum(-1, keepdim=True)).mean(1)
        values, own = (
            part.to(wide).unflatten(-1, (self.heads, -1)) for part in (signals.values_full, signals.text_values_full[:, -1])
        )
        likeness = (products(values, own) / values.shape[-1] ** 0.5).softmax(1).mean(-1)
        scores = score(attention, likeness, values)
        return Selection(top(scores, keep), scores=scores)
