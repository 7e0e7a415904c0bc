"""Equal scores: the lower index is kept, by every method that ranks and by the greedy choice of an answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from methods.check import random_signals
from methods.registry import create
from methods.similarity import top
from methods.types import Budget, ModelShape, Signals

COUNT, KEEP = 64, 44
SHAPE = ModelShape(
    "ties", COUNT, (8, 8), 8, 64, 4, 256, True, 14, 32, 64, 8, 8, 8, 256, True, 32000, joint_width=64
)  # fmt: skip


def coarse(levels: int, seed: int) -> Signals:
    """Signals in which attention has few values, all exact in binary, so that most tokens are ties."""
    signals = random_signals(3, COUNT, seed=seed)
    draw = lambda table: torch.randint(0, levels, (len(table), 1, *table.shape[2:])).expand_as(table) / 64.0
    torch.manual_seed(seed)
    names = ("text_attention", "text_attention_ahead", "cls_attention", "received_attention")
    return replace(signals, **{name: draw(getattr(signals, name)).contiguous() for name in names})


@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize("expression", ["fastv", "pyramiddrop", "sts[stages=semantics]", "vispruner", "visionzip", "prumerge"])
def test_of_equal_scores_the_lower_index_stays(expression, levels):
    signals = coarse(levels, levels)
    for step in create(expression).steps(SHAPE, Budget(KEEP)):
        chosen = step.select(signals.only(step.needs), step.keep)
        if chosen.scores is None:
            continue
        for scores, kept in zip(chosen.scores.tolist(), chosen.indices.tolist()):
            ranked = sorted(range(COUNT), key=lambda token, scores=scores: (-scores[token], token))
            least = _ranked(expression, kept)
            assert set(ranked[:least]) <= set(kept), (expression, levels)
            assert expression not in ("fastv", "pyramiddrop") or sorted(kept) == sorted(ranked[: len(kept)])


def _ranked(expression: str, kept: list[int]) -> int:
    """How many tokens a method keeps by rank alone; others it keeps for what they are like, or merges."""
    real = [token for token in kept if token >= 0]
    return {"vispruner": len(real) // 2, "visionzip": len(real) // 2, "prumerge": len(real)}.get(expression, len(real))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_top_is_stable(dtype):
    scores = torch.randint(0, 4, (5, 600), generator=torch.Generator().manual_seed(1)).to(dtype)
    for row, kept in zip(scores.tolist(), top(scores, 250).tolist()):
        assert kept == sorted(range(600), key=lambda token, row=row: (-row[token], token))[:250]


def test_of_equal_logits_the_lower_token_is_the_answer():
    logits = torch.zeros(3, 32000)
    logits[0, [7, 9, 31000]] = 2.0
    logits[1, 31999] = logits[1, 12] = 1.0
    assert logits.argmax(-1).tolist() == [7, 12, 0]
