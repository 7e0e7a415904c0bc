"""Two runs held against each other choice by choice: what is the same, what rounding moved, and what is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.replay import noting, replaying
from harness.engine.request import EngineRequest
from harness.models.adapter import Adapter
from harness.models.prompt import PixelBatch
from harness.run.machine_check.against_cpu import steps_at_half
from methods.registry import create
from methods.types import BudgetError, Selection
from tests.models.tiny_families import FAMILIES, Family, build, make
from tests.simdevice import placing

METHODS = placing.METHODS


def held_runs(family, method, change=lambda step: step, batch=None):
    """A method's run, and a second one, changed, that is handed what the first one chose."""
    batch = batch or placing.alike(family).batch
    rule, notes, held = steps_at_half(method), [], []
    engine, positions = Engine(family.adapter, 3), create(method).positions
    first = engine.run(EngineRequest(batch, lambda shape: noting(rule(shape), notes), positions))
    changed = lambda shape: replaying(tuple(map(change, rule(shape))), notes, held)
    return first, engine.run(EngineRequest(batch, changed, positions)), notes, held


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llava", "qwen2-vl"])
def test_a_run_equals_itself_and_noting_changes_nothing(name, method):
    family = make(name)
    plain = placing.answered(family, placing.alike(family).batch, method, 3)
    if isinstance(plain, str):
        with pytest.raises(BudgetError):
            held_runs(family, method)
        return
    first, again, notes, held = held_runs(family, method)
    assert not placing.differences(first, again)
    assert first.tokens == plain[0].tokens and torch.equal(first.kept, plain[0].kept)
    stepless = method in ("none", "blind", "downsample")
    assert len(held) == len(notes) and (len(notes) == 0) == stepless
    assert all(set(choice.distances.values()) <= {0.0} for choice in held)
    assert not sum(choice.other_tokens + choice.other_exactly for choice in held)


def test_a_wrong_selector_is_told_though_what_was_noted_is_handed_on():
    def wrong(step):
        first = lambda signals, keep: Selection(torch.arange(keep).expand(signals.batch, -1))
        return replace(step, select=first)

    first, again, _, held = held_runs(make("llava"), "divprune", wrong)
    assert not placing.differences(first, again)
    assert held[0].other_tokens > 0 and held[0].distances == {"features": 0.0}


def test_a_selector_that_differs_by_where_it_runs_is_told_on_the_same_signals():
    """Signals in float64 on both sides: what is left to differ is the selector."""
    calls = []

    def wrong(step):
        def select(signals, keep):
            calls.append(keep)
            chosen = step.select(signals, keep)
            return chosen if len(calls) % 3 else replace(chosen, indices=(chosen.indices + 1) % signals.count)

        return replace(step, select=select)

    _, _, _, held = held_runs(make("llava"), "divprune", wrong)
    assert held[0].other_tokens == 0 and held[0].other_exactly > 0


def test_what_rounding_moves_is_in_the_signals_and_not_in_the_choice_on_the_same():
    """A family in float32 beside itself in float64: signals differ by rounding; on the same ones all choose the same."""
    near = make("llava")
    batch = placing.alike(near).batch
    notes, held, rule = [], [], steps_at_half("fastv")
    Engine(near.adapter, 2).run(EngineRequest(batch, lambda shape: noting(rule(shape), notes)))
    config, processor = FAMILIES["llava"]
    exact = Family("llava", Adapter(build(config()).double(), processor(), "llava"))
    moved = replace(batch, pixels=PixelBatch([t.double() for t in batch.pixels.tensors], batch.pixels.spans))
    Engine(exact.adapter, 2).run(EngineRequest(moved, lambda shape: replaying(rule(shape), notes, held)))
    far = max(max(choice.distances.values()) for choice in held)
    assert 0 < far < 1e-4 and not sum(choice.other_exactly for choice in held)


def test_a_run_that_calls_other_selectors_is_refused():
    family = make("llava")
    batch, notes = placing.alike(family).batch, []
    Engine(family.adapter, 1).run(EngineRequest(batch, lambda shape: noting(steps_at_half("divprune")(shape), notes)))
    with pytest.raises(ValueError, match="was not noted"):
        Engine(family.adapter, 1).run(EngineRequest(batch, lambda shape: replaying(steps_at_half("fastv")(shape), notes, [])))
