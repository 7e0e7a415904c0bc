"""The engine launches and waits no more than transformers does: both are counted in one process, on the same question."""

from __future__ import annotations

from dataclasses import fields
from functools import cache

import pytest
import torch

from harness.engine.decoding import LayerSpan, ready_mask
from harness.engine.layout import LANES, TokenPositions, build_layout
from harness.engine.transfer import Places, send
from harness.models.prompt import PromptPrefix, grid_span
from methods.registry import create
from methods.schedule import plan
from methods.types import Budget, Step
from tests.simdevice.counting import KEEP, counts_of, layers_of_twelve
from tests.simdevice.pretended import Counted

METHODS = ("fastv", "sparsevlm", "divprune", "sts", "tome")
A_PROBED_LAYER, A_PHASE = 8, 4
"""Launches that a decoder layer may add where a step reads its attention; and a phase: a span of layers with a layout of its own,
which steps inside the decoder begin and no others."""
A_STEP = {"fastv": (12, 1), "sparsevlm": (120, 5), "divprune": (436, 1), "sts": (594, 2), "tome": (324, 6)}
"""Launches and synchronisations of all steps of a method, by place as `counts_of` says: FastV's and SparseVLM's launches are what
is asked of them, all else is what was counted."""
CUDA = torch.device("cuda", 0)


@cache
def counted(case: str) -> Counted:
    """What is counted of a case, once for all tests."""
    return counts_of(layers_of_twelve(), case)


def steps_of(method: str) -> tuple[Step, ...]:
    """The steps that are counted."""
    return plan(create(method), layers_of_twelve().shape, Budget(KEEP, "average", 40.0))[0]


def layout_of(questions: list[list[int]]):
    """Two images of 2 x 3 tokens, or one, with questions of so many tokens."""
    prefix = PromptPrefix.of([1, 2], (grid_span(2, 3),))
    return build_layout(TokenPositions.of(prefix, torch.arange(6).expand(len(questions), -1)), questions)


def test_a_prefill_launches_no_more_than_a_forward_of_transformers():
    ours, theirs = counted("none"), counted("transformers: forward")
    assert ours.launches <= theirs.launches
    assert ours.synchronisations <= theirs.synchronisations


@pytest.mark.parametrize("method", METHODS)
def test_a_pruned_prefill_adds_its_steps_and_little_else(method):
    """What its steps take is bounded by method; beside them a layer that is read may add a little, and so may a new layout."""
    ours, whole, own = counted(method), counted("none"), counted(f"{method}: selection")
    steps = steps_of(method)
    probed = sum(step.site.stage == 2 and bool(step.needs & {"text_attention", "text_logits"}) for step in steps)
    phases = sum(step.site.stage == 2 for step in steps)
    launches, synchronisations = A_STEP[method]
    assert 0 < own.launches <= launches
    assert own.synchronisations <= synchronisations
    assert ours.launches <= whole.launches + A_PROBED_LAYER * probed + A_PHASE * phases + own.launches
    assert ours.synchronisations <= whole.synchronisations + own.synchronisations


@pytest.mark.parametrize("method", ["none", *METHODS])
def test_a_decoded_token_costs_what_it_costs_transformers(method):
    ours, theirs = counted(f"{method}: a decoded token"), counted("transformers: a decoded token")
    phases = 1 + sum(step.site.stage == 2 for step in steps_of(method)) if method != "none" else 1
    assert ours.launches <= theirs.launches + A_PHASE * (phases - 1)
    assert ours.synchronisations <= theirs.synchronisations == 1


def test_plain_causality_needs_no_mask():
    """One question a sequence, padded behind or not: attention then runs as flash attention can."""
    adapter = layers_of_twelve()
    hidden = torch.zeros(1, 1, adapter.shape.width, device=CUDA)
    for questions, plain in (([[4]], True), ([[4], [4]], True), ([[4], [3]], True), ([[2, 3]], False)):
        with Counted() as made:
            span = LayerSpan.starting(adapter, 0, layout_of(questions).to(CUDA), hidden)
        assert all((mask is None) == plain for mask in span.masks.values())
        assert made.synchronisations == 0


@pytest.mark.parametrize("on_host", [True, False])
def test_rows_of_a_mask_begin_at_whole_lanes_on_a_device(on_host):
    """Else a card's kernel copies it in every layer; what it holds is the CPU's."""
    allowed = torch.ones(2, 1, 5, 13, dtype=torch.bool).tril(8)
    mask = ready_mask(allowed if on_host else allowed.to(CUDA), torch.zeros(1, device=CUDA))
    assert mask.device == CUDA and mask.stride()[-1] == 1 and all(step % LANES == 0 for step in mask.stride()[:-1])
    assert torch.equal(mask.cpu(), ready_mask(allowed, torch.zeros(1)))


def test_a_layout_travels_in_one_copy_and_nobody_waits():
    known = layout_of([[4, 2], [3]])
    other = torch.rand(3, 5, dtype=torch.float64)
    with Counted() as counts:
        there, (its,) = known.send(CUDA, other)
        assert not there.causal_only and there.last.shape == (3,) and there.most_rows == 2
    assert (counts.launches, counts.synchronisations) == (1, 0)
    assert there.host is known and torch.equal(its.cpu(), other)
    for name in (field.name for field in fields(known) if isinstance(getattr(known, field.name), torch.Tensor)):
        assert getattr(there, name).device == CUDA
        assert torch.equal(getattr(there, name).cpu(), getattr(known, name)), name
    some = there.select([0, 2])
    assert some.row_per_sequence and torch.equal(some.text.cpu(), known.text[[0, 2]])
    assert some.number.tolist() == [1, 1] and there.select([1]).of_rows(there.visual).tolist() == known.visual[:1].tolist()


def test_tables_of_any_kind_travel_together_and_all_places_cost_nothing():
    tables = [torch.arange(3), torch.zeros(2, 0, dtype=torch.int64), torch.tensor([True, False, True]), torch.rand(2, 3).T]
    for table, there in zip(tables, send(tables, CUDA), strict=True):
        assert there.device == CUDA and torch.equal(there.cpu(), table)
    assert send(tables, torch.device("cpu"))[0] is tables[0]
    with Counted() as counts:
        every, some = Places.several([[0, 1, 2], [2, 0]], 3, CUDA)
        table = torch.arange(3, device=CUDA)
    assert counts.synchronisations == 0
    assert every.of(table) is table and some.of(table).tolist() == [2, 0]
