"""VScan: a local and a global scan of the image, then one look from the LLM (Zhang et al. 2025, arXiv:2505.22654)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from methods import cost
from methods.budget import at_depth, before_and_inside
from methods.lazy import torch
from methods.merging import absorb
from methods.registration import register
from methods.similarity import mean_heads, mean_rows, top
from methods.tiles import per_tile
from methods.tower import block_at, first_global_block
from methods.types import PROJECTOR, Budget, BudgetError, Method, ModelShape, Selection, Signals, Step, TowerRead, decoder

_BY_CLS = frozenset({"features", "cls_attention", "cls_attention_early"})
_BY_RECEIVED = frozenset({"features", "received_attention", "received_attention_early"})
_AHEAD = {"cls": frozenset({"text_attention_ahead"}), "received": frozenset({"text_attention_ahead_unrotated"})}
_SHARE = 3.0  # tokens before the LLM over those inside it: 96 and 32 in the authors' scripts

_UNROTATED = "no output of the authors' code shows its step in the LLM without rotary embedding"


@register(
    "vscan",
    paper="arXiv:2505.22654",
    site="projector, decoder",
    tiles="each",
    needs=_BY_CLS | _AHEAD["cls"],
    cannot="towers without CLS, but for score=received",
    ranks_by="attention",
    unverified={f"stages={stages},score=received": _UNROTATED for stages in ("both", "llm")},
)
@dataclass(frozen=True)
class VScan(Method):
    """Half of the tokens window by window, half from the whole image, the rest merged into them; then a third of that in the LLM.

    What it reads. ``score=cls``: the row of CLS in tower block 5 of 24 and in the block whose output the model reads, softmax
    over all tokens of the tower, mean over heads; before layer 16 of 32, what that layer itself would compute for the last text
    token: input norm, its queries and keys with rotary embedding, softmax over all keys, mean over heads. ``score=received``,
    for towers without CLS: the attention that each token receives, mean over all queries and heads, in the first block that
    attends to the whole image and in the block that the model reads; before layer 14 of 28 the same row as above, but without
    rotary embedding, as the authors' lines for it are commented out. Tokens are merged as the projector gives them.

    The rule is that of the authors' code (Tencent/SelfEvolvingAgent a82450e, folder VScan). Budgets count the average: 96
    tokens before the LLM and 32 from its middle on are 64. Of an image in T tiles each keeps int(K / T) before the LLM. Ours:
    any budget is split 3 to 1 like that; where the windows leave fewer tokens than were asked for, of one tile more are asked
    for, and in tiles the whole tile's scan takes them. What looks wrong in their code: of an image in several tiles, the step
    in the LLM sees the tokens of the overview alone and ranks them by the row of a visual token; ours sees all tokens and ranks
    by the last text token.

    Args:
        stages: ``vision`` or ``llm`` for one of the two steps alone.
        score: ``cls`` or ``received``.
        window: side of a window in tokens; 0 for the authors': with CLS a quarter of the image's side, 3 to 6, else 4.
        positions: by default contiguous with ``score=cls`` and original with ``score=received``, as in the authors' code.
    """

    stages: Literal["both", "vision", "llm"] = "both"
    score: Literal["cls", "received"] = "cls"
    window: int = 0
    positions: Literal["auto", "original", "contiguous"] = "auto"  # type: ignore[assignment]  # "auto" ends in __post_init__

    def __post_init__(self) -> None:
        if self.window < 0:
            raise ValueError(f"window={self.window} must be at least 1, or 0 for the authors' windows")
        if self.positions == "auto":
            object.__setattr__(self, "positions", "contiguous" if self.score == "cls" else "original")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        tokens, by_cls = shape.visual_tokens, self.score == "cls"
        layer = at_depth(16, 32, shape.layers) if by_cls else at_depth(14, 28, shape.layers)
        block = block_at(shape, 5, 24) if by_cls else first_global_block(shape)
        reads = (TowerRead("cls_attention_early" if by_cls else "received_attention_early", block),)
        tiles, head = shape.tiles, shape.vision_width // shape.vision_heads
        own = -(-tokens // tiles)  # of one tile
        seen = own * shape.merge + int(shape.has_cls)
        probes = 2.0 * (cost.attention_rows(shape.vision_heads, 1 if by_cls else seen, seen, head) + cost.ranking(own))
        scan, needs = Scan(by_cls, self.window, tiles > 1), _BY_CLS if by_cls else _BY_RECEIVED

        def first(keep: int) -> Step:
            part = max(1, keep // tiles)
            after = scan.after(part, shape.grid)
            flops = tiles * (probes + joining(own, after, shape.width))
            select = per_tile(scan) if tiles > 1 else scan
            return Step(PROJECTOR, select, tiles * part, tiles * after, needs, flops, merges=True, reads=reads)

        def second(keep: int, present: int) -> Step:
            select = by_last_word if by_cls else by_last_word_unrotated
            flops = cost.attention_ahead(shape, 1, present) + cost.ranking(present)
            return Step(decoder(layer), select, keep, keep, _AHEAD[self.score], flops, rows=1)

        early, late = None if self.stages == "llm" else first, None if self.stages == "vision" else second
        return before_and_inside(budget, shape, layer, _SHARE, early, late)


def joining(tokens: int, keep: int, width: int) -> float:
    """Return the FLOPs of cosines of all dropped tokens with all kept, and of the means."""
    return 2.0 * (tokens - keep) * keep * width + 4.0 * tokens * width


def windows(grid: tuple[int, int], side: int) -> list[int]:
    """Return the window of each token, in row-major order; what is left over at an edge belongs to the last one there.

    >>> windows((2, 5), 2)
    [0, 0, 1, 1, 1, 0, 0, 1, 1, 1]
    """
    side = min(side, *grid)
    down, across = (length // side for length in grid)
    return [min(r // side, down - 1) * across + min(c // side, across - 1) for r in range(grid[0]) for c in range(grid[1])]


@dataclass(frozen=True)
class Scan:
    """The step before the LLM: kept tokens in position order, each with the dropped ones that joined it."""

    by_cls: bool
    window: int
    fills: bool = False  # whether what the windows leave over goes to the whole image's scan; ours, in tiles

    def __call__(self, signals: Signals, keep: int) -> Selection:
        """From ``features`` [B, N, D] and two attentions [B, H, N]."""
        deep = signals.cls_attention if self.by_cls else signals.received_attention
        early = signals.cls_attention_early if self.by_cls else signals.received_attention_early
        if signals.grid is None:
            raise BudgetError("VScan scans windows of a full grid of tokens, which these are not")
        scores, local = mean_heads(deep), self.local(mean_heads(early), keep, signals.grid)
        elsewhere = scores.scatter(1, local, -torch.inf)
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, local, True)
        kept.scatter_(1, top(elsewhere, keep - (local.shape[1] if self.fills else keep // 2)), True)
        places, dropped = (mask.nonzero()[:, 1].view(len(kept), -1) for mask in (kept, ~kept))
        wide = signals.features.to(torch.promote_types(signals.features.dtype, torch.float32))
        tokens, sizes, source = absorb(wide, places, dropped)
        return Selection(places, tokens.to(signals.features.dtype), sizes, source, scores=scores)

    def local(self, early: torch.Tensor, keep: int, grid: tuple[int, int]) -> torch.Tensor:
        """Return the tokens kept window by window: scores [B, N] to int64 [B, at most K // 2].

        With CLS each window gives as many as the others, in its turn. Without, tokens come by falling score, at most so many of
        a window; where all windows are full, which the authors' code does not allow, the rest comes by falling score (ours).
        """
        of = torch.tensor(windows(grid, self.side(grid)), device=early.device)
        order = top(early, early.shape[1])
        turn = of[order].argsort(dim=-1, stable=True)  # window by window, each by falling score
        by_window, number = order.gather(1, turn), of.bincount()
        rank = torch.arange(len(of), device=of.device) - (number.cumsum(0) - number).repeat_interleave(number)
        if self.by_cls:
            return by_window[:, rank < keep // 2 // len(number)]
        full = torch.empty_like(order).scatter_(1, turn, rank.expand_as(turn)) >= -(-(keep // 2) // len(number))
        return order.gather(1, full.long().argsort(dim=-1, stable=True))[:, : keep // 2]

    def side(self, grid: tuple[int, int]) -> int:
        """Return the side of a window of this grid, in tokens."""
        return self.window or (min(6, max(3, min(grid) // 4)) if self.by_cls else 4)

    def after(self, keep: int, grid: tuple[int, int]) -> int:
        """Return how many tokens stay where ``keep`` are asked for: all windows give equally many, if they have them."""
        if self.fills or not self.by_cls:
            return keep
        of = windows(grid, self.side(grid))
        number = [of.count(window) for window in range(of[-1] + 1)]
        return sum(min(keep // 2 // len(number), size) for size in number) + keep - keep // 2


def by_last_word(signals: Signals, keep: int) -> Selection:
    """Return the top ``keep`` of the last row of ``text_attention_ahead`` [B, H, T, N], mean over heads."""
    scores = mean_rows(signals.text_attention_ahead, -1)
    return Selection(top(scores, keep), scores=scores)


def by_last_word_unrotated(signals: Signals, keep: int) -> Selection:
    """Return the top ``keep`` of the last row of ``text_attention_ahead_unrotated`` [B, H, T, N], mean over heads."""
    scores = mean_rows(signals.text_attention_ahead_unrotated, -1)
    return Selection(top(scores, keep), scores=scores)
