"""The greedy loops of `methods.greedy` as Triton kernels: one launch a batch, one program an image, whatever is kept.

What a loop knows of each token stays in registers, padded to the next power of two; what it reads again, the factor of a
Cholesky decomposition or what tokens would still cover, lies in a scratch buffer. Operations and their types are those of the
torch loops, in an order that is the same for every token, so that tokens that are equal stay equal and the lower index wins.
As in torch, what is not a number wins over every number; but the rows of `covering` are finite, and none are looked for there.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import triton
import triton.language as tl

from methods.lazy import torch

_ROWS = 8
"""Rows of a scratch buffer that a program reads at once."""


@triton.jit(do_not_specialize=["count", "keep"])
def _max_min(similarity, first, kept, count, keep, size: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    table = similarity + image * count * count
    lane = tl.arange(0, size)
    real = lane < count
    pick = tl.load(first + image).to(tl.int32)
    nearest = tl.where(real, float("-inf"), float("inf")).to(similarity.dtype.element_ty)
    for turn in range(keep):
        tl.store(kept + image * keep + turn, pick.to(tl.int64))
        row = tl.load(table + pick * count + lane, mask=real, other=float("inf"))
        nearest = tl.maximum(nearest, row, propagate_nan=tl.PropagateNan.ALL)
        nearest = tl.where(lane == pick, float("inf"), nearest)
        pick = tl.argmin(tl.where(nearest == nearest, nearest, float("-inf")), 0)


@triton.jit(do_not_specialize=["count", "keep"])
def _least_energy(kernel, first, kept, count, keep, size: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    table = kernel + image * count * count
    lane = tl.arange(0, size)
    real = lane < count
    pick = tl.load(first + image).to(tl.int32)
    energy = tl.where(real, 0.0, float("inf")).to(tl.float64)
    for turn in range(keep):
        tl.store(kept + image * keep + turn, pick.to(tl.int64))
        energy += tl.load(table + pick * count + lane, mask=real, other=0.0).to(tl.float64)
        energy = tl.where(lane == pick, float("inf"), energy)
        pick = tl.argmin(tl.where(energy == energy, energy, float("-inf")), 0)


@triton.jit(do_not_specialize=["count", "keep"])
def _determinantal(
    kernel, gains, spents, weights, ridge, factors, kept, count, keep,
    size: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    table = kernel + image * count * count
    factor = factors + image * keep * count
    lane = tl.arange(0, size)
    real = lane < count
    gain = tl.load(gains + image * count + lane, mask=real, other=0.0)
    spent = tl.load(spents + image * count + lane, mask=real, other=0.0)
    weight = tl.load(weights + image * count + lane, mask=real, other=0.0)
    least = tl.load(ridge)
    away = tl.where(real, 0.0, float("-inf")).to(tl.float64)
    for turn in range(keep):
        score = away + gain * weight
        pick = tl.argmax(tl.where(score == score, score, float("inf")), 0)
        tl.store(kept + image * keep + turn, pick.to(tl.int64))
        row = tl.load(table + pick * count + lane, mask=real, other=0.0).to(tl.float64)
        known = tl.zeros([size], tl.float64)  # of the row, what the kept tokens' span has of it
        for start in range(0, turn, rows):
            which = start + tl.arange(0, rows)
            done = which < turn
            share = tl.load(factor + which * count + pick, mask=done, other=0.0)
            part = tl.load(factor + which[:, None] * count + lane[None, :], mask=done[:, None] & real[None, :], other=0.0)
            known += tl.sum(share[:, None] * part, 0)
        best = tl.sum(tl.where(lane == pick, gain, 0.0), 0)
        row = (row - known) * (1.0 / tl.sqrt(tl.where(best > 0, best, float("inf"))))
        tl.store(factor + turn * count + lane, row, mask=real)
        gain = gain - row * row
        gain = tl.where(gain > spent, gain, least)
        away = tl.where(lane == pick, float("-inf"), away)
        tl.debug_barrier()  # the row is read by other threads than those that wrote it


@triton.jit(do_not_specialize=["height", "count", "keep"])
def _covering(
    adds, factors, barred, raised, columns, kept, height, count, keep,
    fallen: tl.constexpr, size: tl.constexpr, tall: tl.constexpr, rows: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    table = adds + image * height * count
    lines = raised + image * height
    tops = columns + image * height
    lane = tl.arange(0, size)
    line = tl.arange(0, tall)
    real = lane < count
    factor = tl.load(factors + image * count + lane, mask=real, other=0.0)
    closed = tl.load(barred + image * count + lane, mask=real, other=1)
    away = tl.where(closed != 0, float("-inf"), 0.0).to(tl.float64)
    gain = tl.zeros([size], tl.float64)
    least = tl.full([], float("inf"), tl.float64)
    for turn in range(keep):
        score = (away + gain * factor).to(tl.float32)
        score = tl.where(score == score, score, float("inf"))
        high = tl.max(score, 0)
        if high.to(tl.float64) < least:  # and in the first round
            gain = tl.zeros([size], tl.float64)
            for start in range(0, height, rows):
                which = start + tl.arange(0, rows)
                there = (which < height)[:, None] & real[None, :]
                gain += tl.sum(tl.load(table + which[:, None] * count + lane[None, :], mask=there, other=0.0), 0)
            score = (away + gain * factor).to(tl.float32)
            score = tl.where(score == score, score, float("inf"))
            high = tl.max(score, 0)
            least = high.to(tl.float64) * fallen
        pick = tl.argmax(score, 0)
        tl.store(kept + image * keep + turn, pick.to(tl.int64))
        away = tl.where(lane == pick, float("-inf"), away)
        column = tl.load(table + line * count + pick, mask=line < height, other=0.0)
        changed = column != 0
        place = tl.cumsum(changed.to(tl.int32), 0) - 1
        tl.store(lines + place, line, mask=changed)
        tl.store(tops + place, column, mask=changed)
        many = tl.sum(changed.to(tl.int32), 0)
        tl.debug_barrier()  # the list is read by other threads than those that wrote it
        lost = tl.zeros([size], tl.float64)
        for start in range(0, many, rows):
            which = start + tl.arange(0, rows)
            there = which < many
            at = tl.load(lines + which, mask=there, other=0)
            top = tl.load(tops + which, mask=there, other=0.0)
            inside = there[:, None] & real[None, :]
            part = tl.load(table + at[:, None] * count + lane[None, :], mask=inside, other=0.0)
            loss = tl.minimum(part, top[:, None])
            lost += tl.sum(loss, 0)
            tl.store(table + at[:, None] * count + lane[None, :], part - loss, mask=inside)
        gain -= lost
        tl.debug_barrier()  # and so are the rows, and the list is made anew


KERNELS = {"max_min": _max_min, "least_energy": _least_energy, "determinantal": _determinantal, "covering": _covering}
"""The kernels by the names of the loops."""


def max_min(similarity: torch.Tensor, first: torch.Tensor, keep: int) -> torch.Tensor:
    """Select as `methods.greedy.max_min` does, in one kernel, of at most `methods.kernels.LARGEST` tokens an image."""
    batch, count, _ = similarity.shape
    kept = torch.empty(batch, keep, dtype=torch.int64, device=similarity.device)
    _launch(_max_min, batch, similarity.contiguous(), first.contiguous(), kept, count, keep, size=_padded(count))
    return kept


def least_energy(kernel: torch.Tensor, first: torch.Tensor, keep: int) -> torch.Tensor:
    """Select as `methods.greedy.least_energy` does from its kernel on, [B, N, N], and the first tokens, int64 [B]."""
    batch, count, _ = kernel.shape
    kept = torch.empty(batch, keep, dtype=torch.int64, device=kernel.device)
    _launch(_least_energy, batch, kernel.contiguous(), first.contiguous(), kept, count, keep, size=_padded(count))
    return kept


def determinantal(
    kernel: torch.Tensor, gain: torch.Tensor, spent: torch.Tensor, weight: torch.Tensor, ridge: float, keep: int
) -> torch.Tensor:
    """Select as `methods.greedy.determinantal` does from the first gains on, in one kernel.

    Args:
        kernel: [B, N, N], float32 or float64.
        gain: float64 [B, N] what each token would add at first.
        spent: float64 [B, N] under which a gain is rounding.
        weight: float64 [B, N] with which gains are multiplied.
        ridge: what a spent gain is.
        keep: K, at most N.

    Returns:
        int64 [B, K].
    """
    batch, count, _ = kernel.shape
    kept = torch.empty(batch, keep, dtype=torch.int64, device=kernel.device)
    least = gain.new_full((1,), ridge)  # a number in the call would be a float32
    parts = (kernel, gain, spent, weight, least, gain.new_empty(batch, keep, count))
    _launch(_determinantal, batch, *(part.contiguous() for part in parts), kept, count, keep, size=_padded(count), rows=_ROWS)
    return kept


def covering(adds: torch.Tensor, factor: torch.Tensor, barred: torch.Tensor, fallen: float, keep: int) -> torch.Tensor:
    """Select as `methods.greedy.covering` does from what tokens would add on, in one kernel.

    Args:
        adds: float64 [B, R, N] what each token would add to each row at first; overwritten.
        factor: float64 [B, N] with which gains are multiplied.
        barred: bool [B, N] tokens that may not be kept.
        fallen: share of the last fresh sum under which the highest gain is summed afresh.
        keep: K, at most N less those barred.

    Returns:
        int64 [B, K].
    """
    batch, height, count = adds.shape
    kept = torch.empty(batch, keep, dtype=torch.int64, device=adds.device)
    raised = torch.empty(batch, height, dtype=torch.int32, device=adds.device)
    _launch(
        _covering, batch, adds.contiguous(), factor.contiguous(), barred.to(torch.uint8).contiguous(), raised,
        adds.new_empty(batch, height), kept, height, count, keep, fallen=fallen, size=_padded(count), tall=_padded(height),
        rows=_ROWS,
    )  # fmt: skip
    return kept


def _padded(count: int) -> int:
    """The next power of two."""
    return max(16, 1 << (count - 1).bit_length())


def _launch(kernel: Any, batch: int, *tensors: Any, **constants: Any) -> None:
    """Launch a kernel with one program an image, on the device where the first tensor is."""
    if not batch:
        return
    warps = min(8, max(1, constants["size"] // 64))
    with torch.cuda.device(tensors[0].device) if tensors[0].is_cuda else nullcontext():
        # one stage: a loop that reads what it has written must not read ahead
        kernel[(batch,)](*tensors, **constants, num_warps=warps, num_stages=1, enable_fp_fusion=False)
