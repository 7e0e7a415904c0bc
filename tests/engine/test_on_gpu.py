"""The engine on a CUDA device: families and methods against the CPU in both precisions, waits by torch's word, and decoding.

Run with ``pytest -m gpu -n 0``. What holds two devices against each other is itself run on a pretended one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from statistics import median
from time import perf_counter

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.models import hf
from harness.models.devices import whole_float32
from harness.run.batch_run import BatchRun
from harness.run.latency_pass import one_question
from harness.run.machine_check.synchronisations import waits_of
from harness.tasks.registry import create as task_of
from methods.registry import create
from methods.schedule import plan
from methods.types import Budget
from tests.engine.holding import TIES, held_against_the_cpu
from tests.methods import golden
from tests.methods.golden import held_golden
from tests.models.tiny_families import PARAMS
from tests.simdevice import placing
from tests.simdevice.test_counts import A_STEP

pytestmark = pytest.mark.gpu
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
GOLDENS = [(row, path) for row in golden.rows() for path in row.paths()]


@pytest.fixture(autouse=True)
def device():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    whole_float32()


@DTYPES
@pytest.mark.parametrize("name", PARAMS)
def test_every_method_of_a_family_equals_the_cpu(name, dtype, capsys):
    if dtype == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this card has no bfloat16")
    found = held_against_the_cpu(name, "cuda", dtype)
    with capsys.disabled():
        ties = f"{found.moved} of {found.kept} tokens exchanged"
        print(f"\n{name}: {found.methods} methods, furthest {found.furthest:.1e}, {ties}")
    assert not found.differences
    assert found.methods >= 10
    assert dtype != torch.float32 or found.moved <= TIES * found.kept


@pytest.mark.parametrize("name", ["llava-next", "qwen2-vl", "internvl"])
def test_images_of_several_sizes_equal_the_cpu(name):
    found = held_against_the_cpu(name, "cuda", torch.float32, placing.unequal)
    assert not found.differences and found.methods >= 10


@pytest.mark.parametrize("row, path", GOLDENS, ids=[f"{row.expression}-{path.stem}" for row, path in GOLDENS])
def test_goldens(row, path, tmp_path):
    held_golden(row, path, tmp_path, "cuda")


def question(dtype: torch.dtype, limit: int, method: str):
    """One question about one image with a method at 64 tokens, ready to run."""
    adapter = hf.load("tiny", "cuda", str(dtype).removeprefix("torch."))
    chosen = create(method)
    budget = Budget(64 if chosen.budgeted else adapter.shape.visual_tokens, "average", 40.0)
    steps = plan(chosen, adapter.shape, budget)[0]
    task = task_of("shapes")
    sample = one_question(next(iter(task.samples(1, 0))))
    engine = Engine(adapter, limit, ends=frozenset())
    wanted = frozenset().union(*(step.needs for step in steps))
    batch = BatchRun(engine, task, [sample], 0, wanted=wanted).batch
    return engine, EngineRequest(batch, steps, chosen.positions)


@pytest.mark.parametrize("method", ["none", *A_STEP])
def test_a_question_waits_for_the_device_as_seldom_as_was_counted(method):
    """By torch's own warnings; a copy that it does not warn of is counted on the pretended device alone."""
    engine, request = question(torch.float32, 1, method)
    engine.run(replace(request, batch=replace(request.batch)))
    places = waits_of(lambda: engine.run(replace(request, batch=replace(request.batch))))
    assert sum(places.values()) <= 3 + (A_STEP[method][1] if method in A_STEP else 0), dict(places)


def test_plain_prefill_runs_in_a_fused_kernel():
    """Named by the profiler: with half precision and no padding nothing falls back on attention by plain products."""
    engine, request = question(torch.bfloat16, 1, "none")
    engine.run(replace(request, batch=replace(request.batch)))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        engine.run(replace(request, batch=replace(request.batch)))
        torch.cuda.synchronize()
    names = [event.name.lower() for event in profiler.events()]
    fused = [name for name in names if any(word in name for word in ("flash", "fmha", "cudnn"))]
    assert len(fused) >= engine.adapter.shape.layers, Counter(names).most_common(12)


def test_a_decoded_token_takes_no_longer_than_of_generate(capsys):
    """Both on this device in one run, by turns; a tenth is left to chance."""
    ours = {limit: question(torch.bfloat16, limit, "none") for limit in (1, 65)}
    adapter = ours[1][0].adapter
    model, length = adapter.model, 640
    ids = torch.randint(5, adapter.shape.vocabulary - 1, (1, length), device="cuda")
    ends, model.generation_config.eos_token_id = model.generation_config.eos_token_id, None

    def timed(run) -> float:
        torch.cuda.synchronize()
        start = perf_counter()
        run()
        torch.cuda.synchronize()
        return perf_counter() - start

    def generated(limit: int) -> float:
        given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": limit, "do_sample": False, "pad_token_id": 0}
        return timed(lambda: model.generate(input_ids=ids, **given))

    def answered(limit: int) -> float:
        engine, request = ours[limit]
        return timed(lambda: engine.run(replace(request, batch=replace(request.batch))))

    try:
        rounds = [[answered(65) - answered(1), generated(65) - generated(1)] for _ in range(12)][2:]
    finally:
        model.generation_config.eos_token_id = ends
    own, theirs = (1e3 * median(times) / 64 for times in zip(*rounds, strict=True))
    with capsys.disabled():
        print(f"\na decoded token: {own:.3f} ms, of generate {theirs:.3f} ms on {torch.cuda.get_device_name()}")
    assert own <= 1.1 * theirs
