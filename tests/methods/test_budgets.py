"""Budgets are met to within one token, or refused with a reason."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.downsample import grid_within
from methods.registry import create
from methods.schedule import plan
from methods.types import Budget, BudgetError, ModelShape


def shape(side=24, blocks=5, layers=12, cls=True):
    return ModelShape("s", side * side, (side, side), blocks, 128, 4, 384, cls, 8, layers, 128, 4, 4, 32, 256, True, 80)


METHODS = [
    "random",
    "sts",
    "fastv",
    "sparsevlm",
    "tome",
    "oracle",
    "sts[stages=semantics]",
    "random[like=sparsevlm]",
    "sts[ratio=0.2]",
]


@pytest.mark.parametrize("expression", METHODS)
@given(side=st.integers(8, 30), layers=st.integers(6, 40), tokens=st.integers(1, 900), mode=st.sampled_from(["average", "final"]))
@settings(max_examples=25, deadline=None)
def test_within_one_token_or_refused(expression, side, layers, tokens, mode):
    model = shape(side, 8, layers)
    try:
        steps, schedule = plan(create(expression), model, Budget(tokens, mode))
    except BudgetError as error:
        assert any(character.isdigit() for character in str(error))
        return
    reached = schedule.average if mode == "average" else schedule.final
    full = model.visual_tokens
    assert tokens - 1 < reached <= tokens + 1e-9
    assert len(schedule.llm) == layers and max(schedule.llm) <= full and min(schedule.llm) >= 1
    assert all(a >= b for a, b in zip(schedule.llm, schedule.llm[1:]))
    assert [s.site for s in steps] == sorted(s.site for s in steps)


def test_fastv_averages_64_of_576_on_twelve_layers():
    _, schedule = plan(create("fastv"), shape(), Budget(64))
    assert schedule.llm == (576,) + (17,) * 11


def test_fastv_uses_the_papers_layer_on_deep_models():
    (step,), schedule = plan(create("fastv"), shape(layers=32), Budget(192))
    assert str(step.site) == "decoder[2]"
    assert schedule.average == pytest.approx(192, abs=1)


def test_unreachable_budget_says_the_least():
    with pytest.raises(BudgetError, match=r"48\.9 tokens"):
        plan(create("fastv"), shape(), Budget(20))


def test_tome_has_one_constant_r():
    steps, schedule = plan(create("tome"), shape(), Budget(64))
    assert schedule.vision_attention == (577, 465, 353, 241, 129)
    assert schedule.projector == 64 and [s.after for s in steps] == [464, 352, 240, 128, 64]


@pytest.mark.parametrize(("tokens", "expected"), [(192, (12, 16)), (128, (8, 16)), (64, (8, 8)), (576, (24, 24)), (1, (1, 1))])
def test_downsampled_grids(tokens, expected):
    assert grid_within(tokens, (24, 24)) == expected


@given(tokens=st.integers(1, 576), rows=st.integers(1, 30), columns=st.integers(1, 30))
def test_downsampled_grids_hold_at_most_the_budget(tokens, rows, columns):
    h, w = grid_within(tokens, (rows, columns))
    assert 1 <= h * w <= tokens and h <= rows and w <= columns


def test_blind_has_no_visual_tokens():
    _, schedule = plan(create("blind"), shape(), Budget(576))
    assert schedule.llm == (0,) * 12 and schedule.vision_attention == ()
