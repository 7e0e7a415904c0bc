"""The greedy loops on a CUDA device: what they keep is what a CPU keeps, in one kernel each, in little time.

Run with ``pytest -m gpu -n 0``; nobody has yet, so bounds are wishes. The times are of a device that nobody else uses.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import pytest
import torch

from methods.check import random_signals
from methods.kernels import LARGEST, observed, using, why_not
from methods.registry import create
from methods.similarity import cosine
from methods.types import Budget, ModelShape, Selector, Signals
from tests.methods import golden
from tests.methods.test_greedy_kernels import GOLDENS, LOOPS

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


@pytest.fixture(autouse=True)
def device():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    reason = "its interpreter is on; run with -m gpu alone" if why_not("cpu") is None else why_not(DEVICE)
    if reason is not None:
        pytest.skip(f"no kernels: {reason}")
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False  # float32 products as a CPU has them
    yield
    torch.backends.cuda.matmul.allow_tf32 = allowed


def wide_signals(batch: int, count: int, width: int, tower: int, dtype: torch.dtype) -> Signals:
    """Random signals of a model's widths."""
    g = torch.Generator().manual_seed(count)
    draw = lambda *size: torch.randn(batch, *size, generator=g).to(dtype)
    wide = {
        "features": draw(count, width), "text_features": draw(5, width), "vision_features": draw(count, tower),
        "image_embeds": draw(count, tower), "text_embeds": draw(1, tower),
    }  # fmt: skip
    return Signals(**{**vars(random_signals(batch, count)), **wide})


def step_of(expression: str, count: int, keep: int) -> tuple[Selector, frozenset[str], int]:
    side = int(count**0.5)
    shape = ModelShape(
        "s", count, (side, side) if side * side == count else (1, count), 4, 16, 2, 32, True, 8, 12, 16, 2, 2, 8, 32, True, 40,
        joint_width=8, joint_text=(1, 16, 32),
    )  # fmt: skip
    step = next(step for step in create(expression).steps(shape, Budget(keep, "final")) if step.site.stage < 2)
    return step.select, step.needs, step.keep


@pytest.mark.parametrize("row, path", GOLDENS, ids=[path.stem for _, path in GOLDENS])
def test_goldens(row, path):
    expression, count = row.filled(path), row.count(path)
    signals = golden.signals(path)
    select, needs, _ = step_of(expression, signals.count, count)
    with using("torch"):
        expected = select(signals.only(needs), count).indices
    with using("triton"), observed() as seen:
        got = select(signals.to(DEVICE).only(needs), count).indices
    assert {run.ran for run in seen} == {"triton"}
    golden.compare(row.rule, golden.outputs(path), {"kept": got[0].cpu().numpy()})
    assert sorted(got[0].tolist()) == sorted(expected[0].tolist())


@pytest.mark.parametrize("count, keep", [(576, 64), (576, 192), (1024, 512), (2880, 320)])
@pytest.mark.parametrize("expression", LOOPS)
def test_draws(expression, count, keep):
    """In float64 and wider than what is kept, so that products of a CPU and of a GPU leave no two tokens near a tie."""
    signals = wide_signals(2, count, 512, 512, torch.float64)
    select, needs, keep = step_of(expression, count, keep)
    with using("torch"):
        expected = select(signals.only(needs), keep).indices
    with using("triton"), observed() as seen:
        got = select(signals.to(DEVICE).only(needs), keep).indices
    assert {run.ran for run in seen} == {"triton" if count <= LARGEST else "torch"}
    assert got.tolist() == expected.tolist()


def test_the_second_device_runs_its_own():
    if torch.cuda.device_count() < 2:
        pytest.skip("one device")
    from methods.greedy import max_min

    alike = cosine(torch.randn(2, 100, 16, dtype=torch.float64))
    first = torch.zeros(2, dtype=torch.int64)
    assert max_min(alike.to("cuda:1"), first.to("cuda:1"), 20).tolist() == max_min(alike, first, 20).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("expression", [name for name in LOOPS if LOOPS[name] != "covering"])
def test_a_selection_waits_for_the_device_nowhere(expression, dtype):
    """By torch's own word: it raises where the host waits for the device."""
    select, needs, keep = step_of(expression, 576, 64)
    signals = wide_signals(2, 576, 512, 512, dtype).to(DEVICE).only(needs)
    select(signals, keep)  # compiles, and fills what is cached
    torch.cuda.set_sync_debug_mode("error")
    try:
        kept = select(signals, keep).indices
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(kept[0].unique()) == keep


@pytest.mark.parametrize("count, keep, bound", [(576, 64, 1.0), (576, 192, 1.0), (1024, 512, None)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("expression", LOOPS)
def test_one_kernel_and_its_time(expression, dtype, count, keep, bound, capsys):
    """The bound is of the loop and what stands around it, in ms, at 576 tokens; of 1,024 the time is told alone."""
    select, needs, keep = step_of(expression, count, keep)
    signals = wide_signals(1, count, 4096, 1024, dtype).to(DEVICE).only(needs)
    select(signals, keep)  # compiles
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        select(signals, keep)
        torch.cuda.synchronize()
    launched = [event.name for event in profiler.events() if event.name.startswith(f"_{LOOPS[expression]}")]
    assert len(launched) == 1, "one launch of the loop's own kernel"
    times = []
    for _ in range(30):
        torch.cuda.synchronize()
        start = perf_counter()
        select(signals, keep)
        torch.cuda.synchronize()
        times.append(1e3 * (perf_counter() - start))
    with capsys.disabled():
        name, kind = torch.cuda.get_device_name(), str(dtype).removeprefix("torch.")
        print(f"\n{expression}, {keep} of {count:,} tokens, {kind}: {median(times):.3f} ms on {name}")
    assert bound is None or median(times) <= bound
