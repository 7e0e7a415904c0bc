"""FLOPs of selecting before the LLM, counted by torch: at most those of the rule written naively, and as `Step.flops` says."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from methods import cost
from methods.check import random_signals
from methods.greedy import covering as greedy_coverage
from methods.registry import create
from methods.types import Budget, ModelShape, Signals

N, DV, D, C, WORDS, HEADS = 576, 64, 96, 32, 8, 4
SHAPE = ModelShape(
    "s", N, (24, 24), 4, DV, HEADS, 128, True, 8, 12, D, 2, 2, 48, 64, True, 40, joint_width=C, joint_text=(1, 16, 32)
)
METHODS = ("hiprune", "trim", "fastervlm", "hired", "scope", "prunesid", "mmtok")


@pytest.fixture(scope="module")
def signals() -> Signals:
    g = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(1, *size, generator=g)
    wide = {"features": draw(N, D), "vision_features": draw(N, DV), "image_embeds": draw(N, C), "text_embeds": draw(1, C),
            "text_features": draw(WORDS, D), "cls_feature": draw(DV)}  # fmt: skip
    return Signals(**{**vars(random_signals(1, N)), **wide})


def similarity(tokens: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
    unit = torch.nn.functional.normalize
    return unit(tokens, dim=-1) @ unit(tokens if others is None else others, dim=-1).mT


def greedy(rows: torch.Tensor, keep: int) -> None:
    """Coverage with gains as a product of ones with what would be added, round by round."""
    best, ones = rows.new_zeros(rows.shape[0]), rows.new_ones(1, rows.shape[0])
    for _ in range(keep):
        pick = int((ones @ (rows - best[:, None]).clamp_min(0)).argmax())
        best = torch.maximum(best, rows[:, pick])


def naive(expression: str, s: Signals, keep: int) -> None:
    """Each rule by whole matrices."""
    tokens, mean = s.vision_features[0], torch.full((1, s.cls_attention.shape[1]), 0.5)
    if expression in ("fastervlm", "hired"):
        (mean @ s.cls_attention[0]).argsort()
    if expression == "hiprune":
        (mean @ s.received_attention[0]).argsort(), (mean @ s.received_attention_early[0]).argsort()
    if expression == "trim":
        (s.image_embeds[0] @ s.text_embeds[0].T).softmax(0), torch.ones(1, N) @ tokens
    if expression == "scope":
        greedy(similarity(tokens), keep)
    if expression == "mmtok":
        words, image = similarity(s.text_features[0], s.features[0]) / 0.02, similarity(tokens) / 0.2
        greedy(torch.cat([words.softmax(-1) / WORDS, image.softmax(-1) / N * 0.5]), keep)
    if expression == "prunesid":  # components as eigenvectors of all products
        centred = tokens.sigmoid() - tokens.sigmoid().mean(-1, keepdim=True)
        torch.linalg.eigh(centred @ centred.T), similarity(tokens)


def counted(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("keep", [64, 192])
@pytest.mark.parametrize("expression", METHODS)
def test_no_more_than_the_rule_written_naively(expression, keep, signals):
    (step,) = create(expression).steps(SHAPE, Budget(keep))
    view = signals.only(step.needs)
    assert counted(lambda: step.select(view, keep)) <= counted(lambda: naive(expression, signals, keep))


PRODUCTS = {
    "hiprune": 0.0,
    "fastervlm": 0.0,
    "hired": 0.0,
    "trim": 2.0 * N * (C + DV),  # with the text, and the mean of the dropped
    "scope": cost.pairs(N, DV) - 3.0 * N * DV,
    "mmtok": cost.pairs(N, DV) - 3.0 * N * DV + cost.similarity(N, D, WORDS) - 3.0 * N * D,
    "prunesid": 2.0 * (cost.pairs(N, DV) - 3.0 * N * DV),
}
"""Of each formula, what stands for matrix products."""


@pytest.mark.parametrize("keep", [64, 192])
@pytest.mark.parametrize("expression", METHODS)
def test_formulas_count_the_matrix_products_that_are_made(expression, keep, signals):
    (step,) = create(expression).steps(SHAPE, Budget(keep))
    view = signals.only(step.needs)
    assert counted(lambda: step.select(view, keep)) == PRODUCTS[expression] <= step.flops


@pytest.mark.parametrize("keep", [64, 192])
def test_coverage_reads_rows_again_as_often_as_the_formula_says(keep, monkeypatch):
    """Of tokens in no particular order; what a formula of selection costs is an estimate of that."""
    read, select = [], torch.Tensor.index_select
    monkeypatch.setattr(
        torch.Tensor,
        "index_select",
        lambda table, axis, index: read.append(table.dim() * index.numel()) or select(table, axis, index),
    )
    tokens = torch.randn(1, N, DV, generator=torch.Generator().manual_seed(1))
    alike = similarity(tokens)
    greedy_coverage(alike, keep)
    rows = sum(read) / 3  # the changed rows, and the column's entries in them
    expected = N * sum(1 / turn for turn in range(1, keep + 1))
    assert 0.6 * expected < rows < 1.4 * expected


@pytest.mark.parametrize("expression", METHODS)
def test_tiles_cost_what_each_costs(expression):
    from dataclasses import replace

    (one,) = create(expression).steps(SHAPE, Budget(40))
    (five,) = create(expression).steps(replace(SHAPE, visual_tokens=5 * N, tiles=5), Budget(200))
    if expression == "hired":
        assert five.flops == pytest.approx(6 * one.flops)  # and the overview's row of block 0
    elif expression != "trim":
        assert five.flops == pytest.approx(5 * one.flops)
