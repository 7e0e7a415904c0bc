"""ApET: keep what a few tokens reconstruct worst (arXiv:2602.19870)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from methods import cost
from methods.budget import at_depth, before_and_inside
from methods.lazy import torch
from methods.merging import absorb
from methods.random import mix
from methods.registration import register
from methods.similarity import take, top
from methods.tiles import per_tile
from methods.types import PROJECTOR, Budget, Method, ModelShape, PositionMode, Selection, Signals, Step, decoder

_SHARE = 3.0  # tokens before the LLM over those inside it: 96 and 32 in the authors' scripts
_RIDGE = 1e-5
_EQUAL = 1e-6  # squared distance over squared lengths under which float32 cannot tell two tokens apart


@register(
    "apet",
    paper="arXiv:2602.19870",
    site="projector, decoder",
    tiles="each",
    needs={"vision_features", "hidden_states", "seeds"},
    ranks_by="coverage",  # it asks how well ten tokens stand for every other, not how unlike the kept are to each other
)
@dataclass(frozen=True)
class ApET(Method):
    """The tokens that ten of them, far from each other, reconstruct worst; the rest is merged into them; twice.

    A basis is drawn by farthest point sampling from a first token; every token's error is what its least-squares reconstruction
    from the basis misses. The largest errors stay, the last of them overwritten by the basis, and all others join the most
    similar one that is not overwritten. No text and no attention are read.

    What it reads: at the projector the states of the tower at the block that the model reads, not normalised; before layer 16
    of 32 the hidden states at its input, before its norm.

    The rule is that of the authors' code (Maqkccx/ApET 70cc01b) for LLaVA-1.5, computed in float32. Budgets count the average,
    the basis included: 96 tokens before the LLM and 32 from its middle on are 64; of an image in T tiles each keeps int(K / T)
    before the LLM. Ours: any budget is split 3 to 1 like that, and at least one token is never overwritten. What looks wrong in
    their code: a basis token stands at a place that is not its own, while the token of that place is lost; the first token is
    drawn without a seed; of an image in several tiles the step in the LLM sees the overview alone (ours sees all); distances in
    half precision overflow.

    Args:
        stages: ``vision`` or ``llm`` for one of the two steps alone.
        basis: tokens of the basis.
        start: the token that it starts from, counted within those present; -1 for a random one of each row.
        positions: contiguous, as in the authors' code.
    """

    stages: Literal["both", "vision", "llm"] = "both"
    basis: int = 10
    start: int = -1
    positions: PositionMode = "contiguous"

    def __post_init__(self) -> None:
        if self.basis < 1 or self.start < -1:
            raise ValueError("basis must be at least 1 token, start at least 0, or -1 for a random token")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        layer = at_depth(16, 32, shape.layers)
        seeds = frozenset({"seeds"} if self.start < 0 else set())

        def flops(tokens: int, keep: int, width: int) -> float:
            reconstruction = (4.0 * self.basis + 5.0) * tokens * width + cost.greedy(tokens, self.basis, 5.0)
            open_to_others = max(1, keep - self.basis)
            joining = 2.0 * (tokens - keep) * open_to_others * width + 4.0 * (tokens - keep + open_to_others) * width
            return reconstruction + cost.ranking(tokens) + joining

        def first(keep: int) -> Step:
            select, needs = Reconstruction("tower", self.basis, self.start), frozenset({"vision_features"}) | seeds
            tiles, part = shape.tiles, max(1, keep // shape.tiles)
            spent, after = tiles * flops(-(-shape.visual_tokens // tiles), part, shape.vision_width), tiles * part
            return Step(
                PROJECTOR, per_tile(select) if tiles > 1 else select, after, after, needs, spent, merges=True, space="tower"
            )

        def second(keep: int, present: int) -> Step:
            select, needs = Reconstruction("llm", self.basis, self.start), frozenset({"hidden_states"}) | seeds
            return Step(decoder(layer), select, keep, keep, needs, flops(present, keep, shape.width), merges=True)

        early, late = None if self.stages == "llm" else first, None if self.stages == "vision" else second
        return before_and_inside(budget, shape, layer, _SHARE, early, late)


def farthest(tokens: torch.Tensor, start: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample tokens that are far from each other: always the one whose nearest sampled token is the farthest.

    Args:
        tokens: [B, N, D], float32 or float64.
        start: int64 [B] the token to start from.
        count: b, at most N.

    Returns:
        int64 [B, b] in the order of sampling, ties toward the lower index; and their inner products with all tokens [B, b, N].
    """
    squares = tokens.square().sum(-1)
    nearest = torch.full_like(squares, torch.inf)
    basis, products = start.new_empty(len(tokens), count), tokens.new_empty(len(tokens), count, tokens.shape[1])
    for i in range(count):
        pick = nearest.argmax(-1) if i else start
        basis[:, i] = pick
        products[:, i] = torch.bmm(take(tokens, pick[:, None]), tokens.mT)[:, 0]
        lengths = squares + squares.gather(1, pick[:, None])
        apart = torch.sub(lengths, products[:, i], alpha=2)
        torch.minimum(nearest, apart.masked_fill_(apart <= lengths.mul_(_EQUAL), 0.0), out=nearest)
        nearest.scatter_(1, pick[:, None], -torch.inf)  # none is sampled twice
    return basis, products


def errors(tokens: torch.Tensor, basis: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """Return by how much each token differs from its least-squares reconstruction from the basis: [B, N], 0 in the basis.

    Args:
        tokens: [B, N, D], float32 or float64.
        basis: int64 [B, b] the tokens of the basis S.
        products: [B, b, N] inner products of the basis with all tokens.
    """
    own = take(tokens, basis)
    gram = (own @ own.mT).double()
    ridge = _RIDGE * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram + ridge, products.double()).to(tokens.dtype)  # (S S' + ridge) w = S x
    error: torch.Tensor = torch.linalg.vector_norm(torch.baddbmm(tokens, weights.mT, own, alpha=-1), dim=-1)
    return error.scatter(1, basis, 0.0)  # their own is rounding


@dataclass(frozen=True)
class Reconstruction:
    """One step: kept tokens in position order, the basis at the places of the least errors among them."""

    space: Literal["tower", "llm"]
    basis: int
    start: int

    def __call__(self, signals: Signals, keep: int) -> Selection:
        """From ``vision_features`` [B, N, Dv] or ``hidden_states`` [B, N, D], and ``seeds`` where no start is given."""
        given = signals.vision_features if self.space == "tower" else signals.hidden_states
        tokens, count = given.to(torch.promote_types(given.dtype, torch.float32)), signals.count
        basis, error = self._sample(tokens, self._first(signals))
        order, swapped = top(error, count), min(basis.shape[1], keep - 1)
        whole, places, dropped = order.tensor_split((keep - swapped, keep), dim=1)
        if self.space == "tower":
            places = places.sort(-1).values  # in the LLM by falling error
        means, sizes, source = absorb(tokens, whole, dropped)
        basis = basis[:, :swapped]
        own = basis[..., None] == torch.arange(count, device=basis.device)
        indices, turn = torch.cat([whole, places], 1).sort(-1)
        return Selection(
            indices,
            take(torch.cat([means, take(tokens, basis)], 1), turn).to(given.dtype),
            torch.cat([sizes, torch.ones_like(basis)], 1).gather(1, turn),
            torch.cat([source, own], 1).gather(1, turn[..., None].expand(-1, -1, count)),
            space=self.space,
        )

    def _sample(self, tokens: torch.Tensor, first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The basis [B, b], and all tokens' errors [B, N]; row by row, so that what is large stays in the cache."""
        found = []
        for row in range(len(tokens)):
            own = tokens[row : row + 1]
            basis, products = farthest(own, first[row : row + 1], min(self.basis, own.shape[1]))
            found.append((basis, errors(own, basis, products)))
        bases, error = zip(*found, strict=True)
        return torch.cat(bases), torch.cat(error)

    def _first(self, signals: Signals) -> torch.Tensor:
        """The token of each row from which its basis starts: int64 [B]."""
        if self.start < 0:
            return mix(signals.seeds + (1_000_003 if self.space == "llm" else 0)) % signals.count
        return torch.full((signals.batch,), self.start % signals.count, device=signals.device)
