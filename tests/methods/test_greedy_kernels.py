"""The greedy loops as Triton kernels, in Triton's interpreter: they choose what the torch loops choose, in one launch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from methods.check import random_signals
from methods.greedy import covering, determinantal, least_energy, max_min
from methods.kernels import LARGEST, TALLEST, observed, using, why_not
from methods.registry import create
from methods.similarity import cosine
from methods.types import Budget, ModelShape
from tests.methods import golden

pytestmark = [pytest.mark.triton, pytest.mark.needs("triton")]

LOOPS = {
    "divprune": "max_min", "fps": "max_min", "fps[space=grid]": "max_min", "sts": "least_energy", "cdpruner": "determinantal",
    "otprune": "determinantal", "scope": "covering", "mmtok": "covering",
}  # fmt: skip
"""Methods that select greedily, and their loops."""
GOLDENS = [(row, path) for row in golden.rows() if row.expression.partition("[")[0] in LOOPS for path in row.paths()]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@pytest.fixture(autouse=True, scope="module")
def interpreted():
    """Triton reads which it is as it is imported, so this cannot be mended here."""
    assert why_not("cpu") is None, "Triton was imported without TRITON_INTERPRET=1; run with -m triton"


def both(select, loop: str) -> torch.Tensor:
    """What a selection keeps, by torch and by the kernel alike."""
    with using("torch"), observed() as by_torch:
        expected = select()
    with using("triton"), observed() as by_triton:
        got = select()
    assert {(run.loop, run.ran) for run in by_torch} == {(loop, "torch")}
    assert {(run.loop, run.ran) for run in by_triton} == {(loop, "triton")}
    assert got.dtype == torch.int64 and got.tolist() == expected.tolist()
    return got


def test_every_method_that_selects_greedily_has_goldens_or_draws():
    assert {row.expression.partition("[")[0] for row, _ in GOLDENS} == {"divprune", "cdpruner", "otprune", "scope", "mmtok"}


@pytest.mark.parametrize("row, path", GOLDENS, ids=[path.stem for _, path in GOLDENS])
def test_goldens(row, path, tmp_path):
    from harness.run.cases import select

    expression, count = row.filled(path), row.count(path)
    kept = {}
    for kernels in ("torch", "triton"):
        (file,) = select(expression, [path], str(count), tmp_path / kernels, kernels=kernels)
        with np.load(file) as found:
            kept[kernels] = dict(found)
    golden.compare(row.rule, golden.outputs(path), kept["triton"])
    assert kept["triton"]["kept"].tolist() == kept["torch"]["kept"].tolist()


def tokens(count: int, dtype: torch.dtype, width: int = 24, batch: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, count, width, generator=torch.Generator().manual_seed(seed + count), dtype=torch.float64).to(dtype)


def repeated(square: torch.Tensor, copies: int) -> torch.Tensor:
    """Rows and columns [B, N, N] that come again, equal to the last bit: [B, N * copies, N * copies]."""
    index = torch.arange(square.shape[-1] * copies) % square.shape[-1]
    return square[:, index][:, :, index].contiguous()


def each_loop(alike: torch.Tensor, keep: int) -> None:
    """All loops on cosines [B, N, N]."""
    batch, count, _ = alike.shape
    first = torch.arange(batch) % count
    assert both(lambda: max_min(alike, first, keep), "max_min")[:, 0].tolist() == first.tolist()
    both(lambda: least_energy((1 - alike).clamp_min_(0), 4.0, keep), "least_energy")
    both(lambda: least_energy((1 - alike).clamp_min_(0), 1.5, keep), "least_energy")
    both(lambda: determinantal(alike, keep), "determinantal")
    both(lambda: covering(alike, keep), "covering")


@DTYPES
@pytest.mark.parametrize("count, keep", [(1, 1), (2, 2), (5, 1), (5, 5), (16, 16), (33, 33), (100, 1), (100, 37), (129, 20)])
def test_counts_that_are_no_power_of_two(count, keep, dtype):
    each_loop(cosine(tokens(count, dtype)), keep)


@DTYPES
@pytest.mark.parametrize("count", [576, 577])
def test_as_many_tokens_as_a_tower_gives(count, dtype):
    each_loop(cosine(tokens(count, dtype, batch=1)), 24)


@DTYPES
def test_the_largest_count_is_taken_and_one_more_is_not(dtype):
    alike = cosine(tokens(LARGEST + 1, dtype, batch=1))
    both(lambda: max_min(alike[:, :LARGEST, :LARGEST], torch.tensor([7]), 5), "max_min")
    with using("triton"), observed() as seen:
        max_min(alike, torch.tensor([7]), 5)
    (run,) = seen
    assert run.ran == "torch" and run.reason == "1,025 tokens are more than the 1,024 that a kernel holds"


@DTYPES
@pytest.mark.parametrize("copies", [2, 3])
def test_repeated_tokens_go_to_the_lower_index(copies, dtype):
    alike = repeated(cosine(tokens(11, dtype)), copies)
    each_loop(alike, 11)
    each_loop(alike, 11 * copies)
    kept = both(lambda: max_min(alike, torch.zeros(3, dtype=torch.int64), 11), "max_min")
    assert kept.max() < 11, "a copy is as near to the kept as its original, which stands before it"


@DTYPES
@pytest.mark.parametrize("copies", [2, 3])
def test_tokens_that_repeat_stand_for_each_other(copies, dtype):
    """Cosines of a copy are those of its original but for rounding, which tells the two apart; no third token comes between."""
    alike = cosine(tokens(19, dtype, width=32).repeat(1, copies, 1))
    for select in (
        lambda: max_min(alike, torch.zeros(3, dtype=torch.int64), 19),
        lambda: determinantal(alike, 19),
        lambda: determinantal(alike, 19, ridge=33.3),
    ):
        with using("torch"):
            expected = select() % 19
        with using("triton"):
            assert (select() % 19).tolist() == expected.tolist()


@DTYPES
def test_tokens_that_are_all_equal_are_kept_by_index(dtype):
    alike = torch.ones(2, 21, 21, dtype=dtype)
    for select, loop in (
        (lambda: max_min(alike, torch.tensor([0, 0]), 21), "max_min"),
        (lambda: determinantal(alike, 21), "determinantal"),
        (lambda: covering(alike, 21), "covering"),
        (lambda: least_energy(torch.zeros_like(alike), 4.0, 21), "least_energy"),
    ):
        assert both(select, loop).tolist() == [list(range(21))] * 2


@DTYPES
def test_a_rank_that_is_spent(dtype):
    points = tokens(40, dtype, width=6)
    kept = both(lambda: determinantal(points @ points.mT, 40), "determinantal")
    for row in kept.tolist():
        assert row[6:] == sorted(row[6:])


@DTYPES
@pytest.mark.parametrize("ridge", [0.0, 1 / 0.03, 100.0])
@pytest.mark.parametrize("weighed", [False, True])
def test_quality_and_ridge(ridge, weighed, dtype):
    points = tokens(70, dtype, width=40)
    quality = torch.rand(3, 70, generator=torch.Generator().manual_seed(1)).add_(0.05).to(dtype) if weighed else None
    both(lambda: determinantal(points @ points.mT, 50, quality, ridge), "determinantal")


@DTYPES
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("some_barred", [False, True])
def test_coverage_of_more_rows_than_tokens(some_barred, weighed, dtype):
    g = torch.Generator().manual_seed(3)
    rows = torch.randn(3, 57, 45, generator=g).to(dtype)
    weight = torch.rand(3, 45, generator=g).to(dtype) if weighed else None
    barred = torch.rand(3, 45, generator=g) < 0.3 if some_barred else None
    keep = 45 if barred is None else 45 - int(barred.sum(-1).max())
    kept = both(lambda: covering(rows, keep, weight, barred), "covering")
    if barred is not None:
        assert not bool(barred.gather(1, kept).any())


def test_coverage_of_more_rows_than_a_kernel_holds_is_left_to_torch():
    rows = torch.rand(1, TALLEST + 1, 8, generator=torch.Generator().manual_seed(4))
    both(lambda: covering(rows[:, :TALLEST], 3), "covering")
    with using("triton"), observed() as seen:
        covering(rows, 3)
    assert [(run.ran, run.reason) for run in seen] == [("torch", "2,049 rows are more than the 2,048 that a kernel holds")]


@DTYPES
def test_coverage_that_falls_by_orders_of_magnitude_is_summed_afresh(dtype):
    scale = torch.logspace(0, -12, 30, dtype=torch.float64)
    rows = (torch.rand(2, 30, 30, generator=torch.Generator().manual_seed(5)).double() * scale[:, None]).to(dtype)
    both(lambda: covering(rows, 30), "covering")


def test_what_is_no_number_is_treated_as_torch_treats_it():
    alike = cosine(tokens(20, torch.float32))
    alike[1, 4, 9] = alike[1, 9, 4] = torch.nan
    both(lambda: max_min(alike, torch.zeros(3, dtype=torch.int64), 12), "max_min")
    both(lambda: determinantal(alike, 12), "determinantal")


def test_half_precision_is_left_to_torch():
    with using("triton"), observed() as seen:
        max_min(cosine(tokens(9, torch.float32)).bfloat16(), torch.zeros(3, dtype=torch.int64), 4)
    assert [(run.ran, run.reason) for run in seen] == [("torch", "numbers of bfloat16 are not for a kernel")]


def test_no_images_and_no_tokens():
    assert both(lambda: max_min(torch.zeros(0, 5, 5), torch.zeros(0, dtype=torch.int64), 3), "max_min").shape == (0, 3)
    assert both(lambda: determinantal(torch.eye(4)[None], 0), "determinantal").shape == (1, 0)


class CountedOperations(TorchDispatchMode):
    """Counts torch's operations, each of which is a launch on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += 1
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("expression", LOOPS)
def test_launches_do_not_depend_on_what_is_kept(expression, monkeypatch):
    from triton.runtime.interpreter import GridExecutor

    launches: list[int] = []
    launch = GridExecutor.__call__
    monkeypatch.setattr(GridExecutor, "__call__", lambda *args, **named: launches.append(1) or launch(*args, **named))
    shape = ModelShape(
        "s", 36, (6, 6), 4, 16, 2, 32, True, 8, 12, 16, 2, 2, 8, 32, True, 40, joint_width=8, joint_text=(1, 16, 32)
    )
    counts = {}
    for kernels in ("torch", "triton"):
        for keep in (4, 12, 30):
            launches.clear()
            signals = random_signals(2, 36)
            step = next(step for step in create(expression).steps(shape, Budget(keep, "final")) if step.site.stage < 2)
            with using(kernels), CountedOperations() as operations:
                step.select(signals.only(step.needs), step.keep)
            counts[kernels, keep] = operations.count, len(launches)
    assert counts["triton", 4] == counts["triton", 12] == counts["triton", 30]
    assert counts["triton", 4][1] == 1 and counts["torch", 30][1] == 0
    assert counts["torch", 4][0] < counts["torch", 12][0] < counts["torch", 30][0], "the torch loops take a few a token"


COMPILED = r"""
import re, subprocess, sys
from pathlib import Path
from methods.greedy_kernels import KERNELS
from methods.kernels import LARGEST, TALLEST
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

plain = {"similarity": "*T", "kernel": "*T", "first": "*i64", "kept": "*i64", "barred": "*u8", "raised": "*i32"}
whole = {"count", "keep", "height"}
fixed = {"size": LARGEST, "tall": TALLEST, "rows": 8, "fallen": 1e-6}
for name, kernel in KERNELS.items():
    for dtype in ("fp32", "fp64"):
        signature = {n: "i32" if n in whole else "constexpr" if n in fixed else plain.get(n, "*fp64").replace("T", dtype)
                     for n in kernel.arg_names}
        constants = {n: fixed[n] for n in kernel.arg_names if n in fixed}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        for capability in (80, 90):
            options = {"num_warps": 8, "num_stages": 1, "enable_fp_fusion": False}
            made = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            text = Path(sys.argv[1], "kernel.ptx")
            text.write_text(made.asm["ptx"])
            target = re.search(r"[.]target (\w+)", made.asm["ptx"])[1]
            said = subprocess.run(
                [get_ptxas(capability).path, "-v", f"--gpu-name={target}", str(text), "-o", str(text.with_suffix(".cubin"))],
                capture_output=True, text=True, check=True,
            ).stderr
            stores, loads = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said).groups()
            print(name, dtype, capability, len(made.asm["cubin"]) > 0, stores, loads)
"""


def test_kernels_compile_for_gpus_and_hold_their_state_in_registers(tmp_path):
    """Triton brings its own assembler, so that needs no GPU; what types a loop carries is checked here alone.

    The assembler gives out registers, so it alone knows what spills into memory.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(tmp_path)], capture_output=True, text=True, timeout=600,
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 16 and all(line[3:] == ["True", "0", "0"] for line in lines), done.stdout
