"""The pretended device itself: it is where torch says, gives what the CPU gives, and refuses what CUDA refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.simdevice.pretended import Counted, environment

attention = torch.nn.functional.scaled_dot_product_attention
REFUSED = {
    "two devices": lambda x: x + x.to("cuda:1"),
    "a tensor of the CPU": lambda x: x + torch.ones(4),
    "a list with one of the CPU": lambda x: torch.cat([x, torch.ones(4)]),
    "a mask of the CPU": lambda x: x.masked_fill(torch.ones(4, dtype=torch.bool), 0),
    "an index of another device": lambda x: x.gather(0, torch.zeros(1, dtype=torch.int64, device="cuda:1")),
    "a device that is not there": lambda x: x.to("cuda:2"),
    "a matmul of integers": lambda x: x.long()[None] @ x.long()[:, None],
    "topk of booleans": lambda x: (x > 0).topk(1),
    "attention on two devices": lambda x: attention(x.view(1, 1, 4), x.view(1, 1, 4), x.view(1, 1, 4).cpu()),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cuda_refuses_is_refused(what):
    with pytest.raises((RuntimeError, NotImplementedError)):
        REFUSED[what](torch.ones(4, device="cuda"))


def test_numpy_reads_no_device_tensor():
    with pytest.raises(TypeError, match="can't convert cuda:1 device type tensor to numpy"):
        torch.ones(4, device="cuda:1").numpy()


def test_a_number_of_the_cpu_and_an_index_of_it_are_taken_as_cuda_takes_them():
    x = torch.arange(4.0, device="cuda")
    assert (x + torch.tensor(2.0)).tolist() == [2, 3, 4, 5]
    assert x[torch.tensor([1, 3])].device == x.device


def test_views_share_memory_and_in_place_ops_stay_in_place():
    x = torch.zeros(2, 3, device="cuda:1")
    x.T[1].add_(1)
    x.view(-1)[::2] += 2
    assert x.tolist() == [[2, 1, 2], [0, 3, 0]] and x.device == torch.device("cuda:1")
    y = torch.empty(0, device="cuda")
    torch.add(torch.ones(5, device="cuda"), 1, out=y)
    assert y.tolist() == [2] * 5
    assert torch.ones(2, 3, device="cuda").resize_(4).shape == (4,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_are_those_of_the_cpu(dtype):
    """Of the ops that a composite may put together in another way on a device."""
    torch.manual_seed(0)
    x, w, pixels = torch.randn(2, 5, 8, dtype=dtype), torch.randn(8, 8, dtype=dtype), torch.randn(1, 3, 8, 8, dtype=dtype)
    kernel, mask = torch.randn(4, 3, 2, 2, dtype=dtype), torch.rand(5, 5) > 0.3
    functional = torch.nn.functional
    for function in (
        lambda x, w, *_: functional.linear(x, w, w[0]), lambda x, w, *_: x @ w, lambda x, *_: x.softmax(-1),
        lambda x, w, *_: functional.layer_norm(x, (8,), w[0], w[1]), lambda x, w, p, k, m: functional.conv2d(p, k, stride=2),
        lambda x, w, p, k, m: attention(*3 * [x[:, None]], m | torch.eye(5, device=m.device).bool()),
lambda x, *_: x.sort(-1).indices, lambda x, w, p, k, m: m.nonzero(), lambda x, *_: torch.einsum("bik,bjk->bij", x, x),
        lambda x, *_: functional.interpolate(x[None].float(), (3, 3), mode="bilinear"), lambda x, *_: x.float().cumsum(1),
    ):  # fmt: skip
        here, there = (x, w, pixels, kernel, mask), [given.to("cuda:1") for given in (x, w, pixels, kernel, mask)]
        found = function(*there)
        assert found.device == torch.device("cuda:1") and torch.equal(function(*here), found.cpu())


def test_launches_and_synchronisations_are_counted_by_line():
    x, pinned = torch.ones(4, device="cuda"), torch.ones(4).pin_memory()
    with Counted("simdevice") as counted:
        x.view(2, 2).T.add_(1).mul_(2)
        x.sum().item()
        x[x > 0]
        x.tolist()
        torch.tensor([1.0], device="cuda")
        pinned.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
    assert (counted.launches, counted.synchronisations, counted.calls) == (9, 4, 1)
    places = {place.partition(":")[0] for place in counted.lines}
    assert places == {"simdevice/test_pretended.py"} and sorted(counted.lines.values()) == [1, 1, 1, 2, 2, 2]
    assert {op for _, op in counted.waits} == {"_local_scalar_dense", "index.Tensor", "copy_ to the host", "copy_ to the device"}
    torch.ones(1, device="cuda")
    assert counted.launches == 9, "it counts no longer than its block"


def test_sums_in_no_fixed_order_are_told():
    x, index = torch.zeros(4, device="cuda"), torch.zeros(2, dtype=torch.int64, device="cuda")
    with Counted() as counted:
        x.index_add_(0, index, torch.ones(2, device="cuda"))
        x.scatter_add(0, index, torch.ones(2, device="cuda"))
        x.scatter_reduce(0, index, torch.ones(2, device="cuda"), "amax")
        x.long().index_add_(0, index, index)
    assert sorted(op for _, op in counted.atomics) == ["index_add_", "scatter_add"]


def test_memory_is_counted_by_device():
    before = torch.cuda.memory_allocated("cuda:1")
    torch.cuda.reset_peak_memory_stats("cuda:1")
    other = torch.cuda.max_memory_allocated("cuda:0")
    x = torch.zeros(1000, device="cuda:1")
    y = x + 1
    del x, y
    assert torch.cuda.max_memory_allocated("cuda:1") - before == 8000
    assert torch.cuda.memory_allocated("cuda:1") == before and torch.cuda.max_memory_allocated("cuda:0") == other


def test_a_fork_of_a_process_that_has_used_cuda_cannot_use_it():
    code = (
        "import os, torch; x = torch.ones(2, device='cuda')\n"
        "child = os.fork()\n"
        "if not child:\n try: x + 1\n except RuntimeError as error: os._exit(7 if 'spawn' in str(error) else 8)\n os._exit(9)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 7


def test_a_process_without_the_variable_sees_no_device():
    given = {name: value for name, value in os.environ.items() if name != "PRUNESCOPE_PRETENDED_DEVICES"}
    assert (
        subprocess.run([sys.executable, "-c", "import torch; raise SystemExit(torch.cuda.is_available())"], env=given).returncode
        == 0
    )
