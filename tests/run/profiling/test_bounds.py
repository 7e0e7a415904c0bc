"""What bounds a stage: bytes against the weights of real modules, and which roof is told."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.models.published import random_model
from harness.models.shapes import shape_of
from harness.run.profiling.bounds import (
    EXPLAINED,
    MachineRates,
    StageWork,
    bound,
    decode_bytes,
    llm_weights,
    prefill_bytes,
    projector_bytes,
    stage_work,
    vision_bytes,
    weight_bytes,
)
from harness.run.profiling.machine_rates import CountingWatch, measured_rates
from harness.run.profiling.memory import computed_bytes
from methods.schedule import schedule
from metrics.flops import flops
from tests.run.profiling.test_profile import SMALL

RATES = MachineRates(flops=1e12, bytes=1e10, launch=1e-5, dtype="float32", size=1024, device="cpu")


@pytest.fixture(params=["llava-1.5-7b", "internvl3-1b", "smolvlm2", "qwen2.5-vl-3b"])
def model(request, monkeypatch):
    from harness.models import published

    monkeypatch.setitem(published.PUBLISHED, request.param, SMALL[request.param])
    return random_model(request.param, "cpu", torch.float32)


def test_computed_weights_are_those_of_the_modules(model):
    """But for biases, norms and tables of positions, which are small."""
    text = model.model.get_decoder() if hasattr(model.model, "get_decoder") else model.model.model.language_model
    real = sum(weight.numel() for layer in text.layers for weight in layer.parameters() if weight.dim() > 1)
    head = model.shape.width * model.shape.vocabulary
    assert llm_weights(model.shape, 1) == pytest.approx(real + head)
    whole = sum(weight.numel() for weight in model.model.parameters())
    assert weight_bytes(model.shape, 4) == pytest.approx(4 * whole, rel=0.35)


def test_decoding_reads_all_weights_once_and_every_prompts_cache():
    shape, number = shape_of("llava-1.5-7b"), 2
    whole = schedule(shape, ())
    one, four = (decode_bytes(shape, whole, 64, batch, number) for batch in (1, 4))
    cache = 2 * 32 * 4096 * (576 + 64) * number  # keys and values of 32 layers of width 4,096
    assert four - one == pytest.approx(3 * cache) and one == pytest.approx(number * 6.607e9 + cache, rel=0.001)


@pytest.mark.parametrize("batch", [1, 8])
def test_prefill_moves_weights_once_and_states_for_every_prompt(batch):
    shape = shape_of("llava-1.5-7b")
    whole, few = schedule(shape, ()), replace(schedule(shape, ()), llm=(64,) * 32)
    weights = 2 * llm_weights(shape, batch)
    states = [prefill_bytes(shape, one, 64, batch, 2) - weights for one in (whole, few)]
    assert states[0] / states[1] == pytest.approx((576 + 64) / (64 + 64)) and states[0] > 0
    assert vision_bytes(shape, whole, 2 * batch, 2) < 2 * vision_bytes(shape, whole, batch, 2)
    assert projector_bytes(shape, whole, batch, 2) == 2 * ((1024 + 4096) * 4096 + batch * 576 * (1024 + 4096 + 4096 + 4096))


def test_of_experts_those_that_tokens_choose_are_read():
    shape = replace(shape_of("qwen2.5-vl-3b"), experts=16, experts_per_token=2, expert_mlp=512)
    read = [llm_weights(shape, tokens) for tokens in (1, 4, 8, 1000)]
    one = shape.layers * 3 * shape.width * 512  # of an expert in every layer
    assert read[1] - read[0] == pytest.approx(6 * one) and read[2] - read[0] == pytest.approx(14 * one)
    assert read[3] == pytest.approx(read[2])


@pytest.mark.parametrize(
    ("work", "seconds", "by"),
    [
        (StageWork(1e12, 1e8, 100), 1.2, "arithmetic"), (StageWork(1e9, 1e10, 100), 1.2, "bandwidth"),
        (StageWork(1e9, 1e7, 100_000), 1.2, "launches"), (StageWork(1e9, 1e7, 100), 1.0, None),
    ],
)  # fmt: skip
def test_the_longest_roof_bounds_where_it_explains_half(work, seconds, by):
    found = bound("prefill", seconds, work, RATES)
    assert found.by == by and (found.explained >= EXPLAINED) == (by is not None)
    shown = found.as_dict()
    assert shown["arithmetic_ms"] == pytest.approx(work.flops / 1e9) and shown["bandwidth_ms"] == pytest.approx(work.bytes / 1e7)
    assert shown["launches_ms"] == pytest.approx(work.operations / 100) and shown["measured_ms"] == 1e3 * seconds


def test_decoding_without_an_image_tells_what_an_operation_takes_where_nothing_else_does():
    slow = bound("decode", 0.02, StageWork(1e8, 1e6, 400), RATES)
    assert RATES.calling(slow).launch == pytest.approx(0.02 / 400)
    read = bound("decode", 0.02, StageWork(1e8, 1.5e8, 400), RATES)  # weights alone take 15 of 20 ms
    assert RATES.calling(read) == RATES
    quick = bound("decode", 0.001, StageWork(0, 0, 400), RATES)  # no faster than an operation alone
    assert RATES.calling(quick).launch == RATES.launch
    assert RATES.best(replace(RATES, flops=2e12, bytes=1e9, launch=1e-6)) == replace(RATES, flops=2e12, launch=1e-6)


def test_work_is_of_the_whole_batch_and_of_one_token():
    shape = shape_of("llava-1.5-7b")
    whole = schedule(shape, ())
    counted = flops(shape, whole, 64)
    operations = {"layout": 70, "vision": 500, "prefill": 900, "decode": 15 * 800}
    work = stage_work(shape, whole, counted, 64, 4, 2, operations, 15)
    assert work["prefill"].flops == 4 * counted.llm_prefill and work["decode"].flops == 4 * counted.decode_per_token
    assert work["decode"].operations == 800 and work["layout"] == StageWork(0.0, 0.0, 70)
    assert work["selection"] == StageWork(0.0, 0.0, 0)
    without = replace(whole, vision_attention=(), vision_mlp=(), projector=0, llm=(0,) * 32)
    assert stage_work(shape, without, flops(shape, without, 64), 64, 1, 2, {}, 1)["vision"].bytes == 0


def test_prompts_that_run_one_after_the_other_share_no_weights():
    """One step of decoding is of one prompt there, and prefill reads the weights for each."""
    shape = shape_of("llava-1.5-7b")
    whole = schedule(shape, ())
    counted = flops(shape, whole, 64)
    operations = {"prefill": 3600, "decode": 4 * 15 * 800}
    alone = stage_work(shape, whole, counted, 64, 1, 2, {"prefill": 900, "decode": 15 * 800}, 15)
    work = stage_work(shape, whole, counted, 64, 4, 2, operations, 4 * 15, groups=4)
    assert work["decode"] == alone["decode"]
    assert work["prefill"] == StageWork(4 * alone["prefill"].flops, 4 * alone["prefill"].bytes, 3600)
    assert work["vision"].flops == 4 * alone["vision"].flops and work["vision"].bytes < 4 * alone["vision"].bytes


def test_the_guess_before_anything_ran_holds_the_caches():
    shape = shape_of("llava-1.5-7b")
    whole = schedule(shape, ())
    cache = flops(replace(shape, kv_bytes=2), whole, 64).kv_bytes
    assert 4 * cache < computed_bytes(shape, whole, 64, 4, 2) < 8 * cache


def test_operations_are_counted_and_views_are_not():
    watch = CountingWatch("cpu")
    table = torch.ones(4, 4)
    with watch.counting():
        table + 1  # outside of all stages
        with watch.stage("prefill"):
            (table.view(16) + 1).reshape(4, 4).t().mul_(2)
            with watch.stage("selection"):
                table.topk(2)
            torch.nn.functional.linear(table, table)
    assert watch.operations["selection"] == 1 and watch.operations["prefill"] == 3
    assert watch.seconds["selection"] > 0 and watch.seconds["prefill"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rates_of_this_machine(dtype):
    found = measured_rates(torch.device("cpu"), dtype)
    assert 1e8 < found.flops < 1e14 and 1e7 < found.bytes < 1e12 and 1e-7 < found.launch < 1e-2
    assert found.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.slow
def test_reading_is_no_slower_than_the_rate_of_memory_says():
    """Decoding reads weights and writes next to nothing: a copy alone would say that it is faster than the machine can be."""
    found = measured_rates(torch.device("cpu"), torch.float32)
    weights, vector = torch.zeros(16_384, 4_096), torch.ones(4_096)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        torch.mv(weights, vector)
        seconds.append(time.perf_counter() - start)
    assert weights.nbytes / float(np.median(seconds)) < 1.6 * found.bytes
