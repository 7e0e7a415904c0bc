"""Greedy selection loops, batched; each runs K rounds of O(N) after one N x N matrix.

On a CUDA device each loop is one Triton kernel of one program an image, where Triton can run and an image has at most 1,024
tokens (`methods.kernels`); else each round is a few operations of torch. Both choose the same, but for what only rounding tells
apart.
"""

from __future__ import annotations

from methods.kernels import taken_by_triton
from methods.lazy import torch


def least_energy(distance: torch.Tensor, exponent: float, keep: int) -> torch.Tensor:
    """Select tokens by greedy minimisation of potential energy under the Riesz kernel d^-s.

    The first is the token of least total energy; then always the token of least energy against
    the kept, ties toward the lower index. Energies are summed in float64.

    Args:
        distance: [B, N, N], float32 or float64; overwritten.
        exponent: s.
        keep: K, at most N.

    Returns:
        int64 [B, K], in the order of selection.
    """
    batch, count, _ = distance.shape
    if keep < 1:
        return torch.zeros(batch, 0, dtype=torch.int64, device=distance.device)
    floor = distance.amax((1, 2), keepdim=True).clamp_min(1e-12) * 1e-3
    kernel = _power(distance.clamp_min_(floor).div_(floor), exponent)  # in units of the floor: at most 1
    kernel.diagonal(dim1=1, dim2=2).zero_()
    first = kernel.sum(-1, dtype=torch.float64).argmin(-1)
    if taken_by_triton("least_energy", kernel):
        from methods import greedy_kernels

        return greedy_kernels.least_energy(kernel, first, keep)
    table, base = kernel.view(batch * count, count), torch.arange(batch, device=distance.device) * count
    kept = torch.empty(keep, batch, dtype=torch.int64, device=distance.device)
    kept[0] = first
    energy = table.index_select(0, base + kept[0]).double()
    energy.scatter_(1, kept[0][:, None], torch.inf)
    for i in range(1, keep):
        pick = energy.argmin(-1)
        kept[i] = pick
        energy += table.index_select(0, base + pick)
        energy.scatter_(1, pick[:, None], torch.inf)
    return kept.T.contiguous()


def _power(ratio: torch.Tensor, exponent: float) -> torch.Tensor:
    """ratio^-exponent in place, by squaring where the exponent is 1, 2 or 4."""
    if exponent in (1.0, 2.0, 4.0):
        while exponent > 1:
            ratio.mul_(ratio)
            exponent /= 2
        return ratio.reciprocal_()
    return ratio.pow_(-exponent)


def max_min(similarity: torch.Tensor, first: torch.Tensor, keep: int) -> torch.Tensor:
    """Select tokens by farthest-point sampling: always the one whose most similar kept token is the least similar.

    Args:
        similarity: [B, N, N], symmetric; its diagonal is not read.
        first: int64 [B] the token to start from.
        keep: K, at most N.

    Returns:
        int64 [B, K], in the order of selection; ties toward the lower index.
    """
    if taken_by_triton("max_min", similarity):
        from methods import greedy_kernels

        return greedy_kernels.max_min(similarity, first, keep)
    batch, count, _ = similarity.shape
    table, base = similarity.reshape(batch * count, count), torch.arange(batch, device=first.device) * count
    kept = torch.empty(keep, batch, dtype=torch.int64, device=first.device)
    nearest = similarity.new_full((batch, count), -torch.inf)
    for i in range(keep):
        pick = nearest.argmin(-1) if i else first
        kept[i] = pick
        torch.maximum(nearest, table.index_select(0, base + pick), out=nearest)
        nearest.scatter_(1, pick[:, None], torch.inf)  # what is kept is nearest to itself
    return kept.T.contiguous()


_SPENT = {4: 7.6e-6, 8: 1e-10}
"""By bytes of a kernel's number, the share of its own diagonal under which what a token adds is rounding: of a float32 kernel,
64 units in the last place; of a float64 one, of the float32 tokens that it is made of: their distance to a span is then 1e-5 of
their length."""


def determinantal(kernel: torch.Tensor, keep: int, quality: torch.Tensor | None = None, ridge: float = 0.0) -> torch.Tensor:
    """Select tokens by greedy maximisation of the determinant of the kept rows and columns.

    By incremental Cholesky (Chen et al. 2018).

    Gains fall by orders of magnitude, so all but the kernel is float64. Once the kernel's rank is spent, what no longer adds
    anything is taken by rising index.

    Args:
        kernel: [B, N, N], positive semidefinite, float32 or float64.
        keep: K, at most N.
        quality: [B, N], positive: the kernel is then quality_i * kernel_ij * quality_j; 1 by default.
        ridge: what is added to the kernel's diagonal, in float64, where a float32 kernel would lose its own digits beside it.

    Returns:
        int64 [B, K], in the order of selection; ties toward the lower index.
    """
    batch, count, _ = kernel.shape
    table, base = kernel.reshape(batch * count, count), torch.arange(batch, device=kernel.device) * count
    # what each token would add: its squared distance from the kept ones' span
    gain = kernel.diagonal(dim1=1, dim2=2).double() + ridge
    spent = ridge + (gain - ridge) * _SPENT[kernel.dtype.itemsize]
    weight = torch.ones_like(gain) if quality is None else quality.double().square()
    if taken_by_triton("determinantal", kernel):
        from methods import greedy_kernels

        return greedy_kernels.determinantal(kernel, gain, spent, weight, ridge, keep)
    away = torch.zeros_like(gain)
    kept = torch.empty(batch, keep, dtype=torch.int64, device=kernel.device)
    factor = gain.new_empty(batch, keep, count)
    for i in range(keep):
        pick = torch.addcmul(away, gain, weight).argmax(-1, keepdim=True)
        kept[:, i : i + 1] = pick
        if i == keep - 1:
            break
        row = table.index_select(0, base + pick[:, 0]).double()[:, None]
        if i:
            done = factor[:, :i]
            row.baddbmm_(done.gather(2, pick[:, :, None].expand(-1, i, 1)).transpose(1, 2), done, alpha=-1)
        best = gain.gather(1, pick)
        row = row[:, 0].mul_(torch.where(best > 0, best, torch.inf).rsqrt())
        factor[:, i] = row
        gain = gain.addcmul(row, row, value=-1)
        gain = torch.where(gain > spent, gain, ridge)
        away.scatter_(1, pick, -torch.inf)
    return kept


_FALLEN = 1e-6
"""Share of what was first to be added under which its running sum has lost too many digits to rounding."""


def covering(
    rows: torch.Tensor, keep: int, weight: torch.Tensor | None = None, barred: torch.Tensor | None = None
) -> torch.Tensor:
    """Select tokens by greedy coverage: always the one that raises the rows' best values the most.

    Best values start at 0. Token j would raise them by sum_r max(0, rows_rj - best_r). The kept one changes few of the best
    values, ever fewer as the selection grows, so what tokens would add is corrected in those rows alone instead of computed
    afresh. It is held in float64 and summed afresh whenever it has fallen to a millionth, so that late gains keep their digits
    and spent ones are 0; and compared in float32, in which what is equal but for rounding is equal: two tokens that cover each
    other and nothing else.

    Args:
        rows: [B, R, N], float32 or float64, finite; what is not above 0 covers nothing.
        keep: K, at most N less those barred.
        weight: [B, N], not negative, with which a gain is multiplied; 1 by default.
        barred: bool [B, N], tokens that may not be kept.

    Returns:
        int64 [B, K], in the order of selection; ties toward the lower index.
    """
    weights = rows.new_ones(len(rows), rows.shape[2]) if weight is None else weight
    closed = torch.zeros_like(weights, dtype=torch.bool) if barred is None else barred
    if taken_by_triton("covering", rows):
        from methods import greedy_kernels

        adds = rows.to(torch.float64, copy=True).clamp_min_(0)
        return greedy_kernels.covering(adds, _shares(weights.double()), closed, _FALLEN, keep)
    alone = [_cover(*parts, keep) for parts in zip(rows, weights.double(), closed, strict=True)]
    return torch.tensor(alone, dtype=torch.int64, device=rows.device).view(len(rows), keep)


def _cover(rows: torch.Tensor, weight: torch.Tensor, barred: torch.Tensor, keep: int) -> list[int]:
    """`covering` of one image, [R, N]: images differ in how many rows a token changes, and one fits into a cache."""
    adds = rows.to(torch.float64, copy=True).clamp_min_(0)  # what each token would add to each row
    gain, least = adds.sum(0), torch.inf
    factor = _shares(weight)
    away = torch.zeros_like(gain).masked_fill_(barred, -torch.inf)
    kept: list[int] = []
    while len(kept) < keep:
        high, pick = torch.addcmul(away, gain, factor).float().max(0)
        if float(high) < least:  # and in the first round
            gain = adds.sum(0)
            high, pick = torch.addcmul(away, gain, factor).float().max(0)
            least = float(high) * _FALLEN
        kept.append(int(pick))
        away[kept[-1]] = -torch.inf
        column = adds[:, kept[-1]]
        raised = column.nonzero()[:, 0]
        part = adds.index_select(0, raised)
        loss = torch.minimum(part, column.index_select(0, raised)[:, None])
        gain -= loss.sum(0)
        adds.index_copy_(0, raised, part.sub_(loss))
    return kept


def _shares(weight: torch.Tensor) -> torch.Tensor:
    """Weights [..., N] as shares of the largest."""
    return weight / weight.amax(-1, keepdim=True).clamp_min(1e-300)
