"""What every selector promises, whatever the tokens: counts, batch independence, precision, ties, degenerate input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.greedy import least_energy
from methods.merging import bipartite, density_peaks, join
from methods.registry import create
from methods.types import Budget, ModelShape, Signals

SHAPE = ModelShape("s", 36, (6, 6), 4, 16, 2, 32, True, 8, 12, 16, 2, 2, 8, 32, True, 40)
PRUNERS = [
    "random",
    "sts[stages=structure]",
    "sts[stages=semantics]",
    "sts[stages=structure,spatial_weight=0]",
    "fastv",
    "sparsevlm",
    "oracle",
]


def signals(seed: int, batch: int = 3, count: int = 36, dtype=torch.float32) -> Signals:
    g = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=g).to(dtype)
    lines = (torch.arange(6) + 0.5) / 6
    return Signals(
        features=draw(batch, count, 16), vision_features=draw(batch, count, 16), vision_keys=draw(batch, count, 8),
        text_features=draw(batch, 5, 16), text_attention=draw(batch, 2, 5, count).softmax(-1),
        hidden_states=draw(batch, count, 16),
        positions=torch.stack(torch.meshgrid(lines, lines, indexing="ij"), -1).view(1, 36, 2).expand(batch, -1, -1).to(dtype),
        evidence=draw(batch, count) > 1, sizes=torch.ones(batch, count, dtype=dtype), seeds=torch.arange(batch) + seed * 1000,
        count=count, grid=(6, 6),
    )  # fmt: skip


def first_step(expression: str):
    return create(expression).steps(SHAPE, Budget(24))[0]


@pytest.mark.parametrize("expression", PRUNERS)
@given(seed=st.integers(0, 10**6), keep=st.integers(1, 36))
@settings(max_examples=15, deadline=None)
def test_counts_and_batch_independence(expression, seed, keep):
    step, given_ = first_step(expression), signals(seed)
    whole = step.select(given_.only(step.needs), keep).indices
    placed = whole[:, :keep]
    assert (placed >= 0).all() and (placed < 36).all()
    assert all(len(set(row.tolist())) == keep for row in placed)
    for row in range(3):
        one = Signals(**{n: v[row : row + 1] if torch.is_tensor(v) else v for n, v in vars(given_).items()})
        assert torch.equal(step.select(one.only(step.needs), keep).indices[0], whole[row])


@pytest.mark.parametrize("expression", ["sts[stages=semantics]", "fastv", "oracle"])
def test_permuting_tokens_permutes_the_choice(expression):
    step, given_ = first_step(expression), signals(1)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    move = {"features": 1, "text_attention": 3, "evidence": 1}
    other = Signals(**{n: v.index_select(move[n], order) if n in move else v for n, v in vars(given_).items()})
    if expression == "oracle":  # its luck goes by place: only the evidence must follow
        keep = int(given_.evidence.sum(1).min())
        a = step.select(given_.only(step.needs), keep).indices
        assert all(given_.evidence[r, a[r]].all() for r in range(3))
        return
    a = step.select(given_.only(step.needs), 10).indices
    b = order[step.select(other.only(step.needs), 10).indices]
    assert torch.equal(a.sort(-1).values, b.sort(-1).values)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_repulsion_follows_a_permutation(weight):
    given_ = signals(2)
    select = create(f"sts[stages=structure,spatial_weight={weight}]").steps(SHAPE, Budget(12))[0].select
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    other = Signals(features=given_.features[:, order], positions=given_.positions[:, order], count=36)
    assert torch.equal(order[select(other, 12).indices], select(given_, 12).indices)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("expression", PRUNERS)
def test_other_precisions_run(expression, dtype):
    step = first_step(expression)
    assert step.select(signals(3, dtype=dtype).only(step.needs), 12).indices.shape[0] == 3


@pytest.mark.parametrize("expression", PRUNERS)
def test_repeated_and_zero_tokens(expression):
    step, given_ = first_step(expression), signals(4)
    features = given_.features.clone()
    features[:, 10:30], features[:, 0] = features[:, 5:6], 0
    flat = Signals(**{**vars(given_), "features": features, "text_attention": torch.full((3, 2, 5, 36), 1 / 36)})
    chosen = step.select(flat.only(step.needs), 12).indices[:, :12]
    assert all(len(set(row.tolist())) == 12 for row in chosen)
    if expression == "fastv":  # all equal: ties go to the lower index
        assert chosen.tolist() == [list(range(12))] * 3


def slow_least_energy(distance, exponent, keep):
    """One token at a time, energies summed afresh."""
    n = len(distance)
    floor = max(distance.max().item(), 1e-12) * 1e-3
    kernel = [[0.0 if i == j else max(distance[i, j].item(), floor) ** -exponent for j in range(n)] for i in range(n)]
    kept = [min(range(n), key=lambda i: sum(kernel[i]))]
    while len(kept) < keep:
        kept.append(min((i for i in range(n) if i not in kept), key=lambda i: sum(kernel[i][j] for j in kept)))
    return kept


@given(seed=st.integers(0, 10**6), exponent=st.sampled_from([1.0, 2.0, 4.0]))
@settings(max_examples=20, deadline=None)
def test_repulsion_equals_the_slow_version(seed, exponent):
    points = torch.rand(2, 14, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    distance = torch.cdist(points, points)
    fast = least_energy(distance, exponent, 9)
    for row in range(2):
        assert fast[row].tolist() == slow_least_energy(distance[row], exponent, 9)


def test_riesz_four_spreads_and_coulomb_gathers_at_the_border():
    """On the bare 24 x 24 grid, s = 4 touches all 64 cells; s = 1 piles up at the border."""
    lines = (torch.arange(24) + 0.5) / 24
    grid = torch.stack(torch.meshgrid(lines, lines, indexing="ij"), -1).view(-1, 2).double()
    distance = torch.cdist(grid, grid)[None]

    def border(kept):
        rows, columns = kept // 24, kept % 24
        return ((rows % 23 == 0) | (columns % 23 == 0)).double().mean().item()

    four, one = least_energy(distance, 4.0, 64)[0], least_energy(distance, 1.0, 64)[0]
    cells = set((four // 24 // 3 * 8 + four % 24 // 3).tolist())
    assert len(cells) == 64
    assert border(one) > 0.5 > border(four)


@given(seed=st.integers(0, 10**6), merged=st.integers(0, 18), first=st.sampled_from([0, 1]))
@settings(max_examples=25, deadline=None)
def test_merging_keeps_the_weighted_sum(seed, merged, first):
    given_ = signals(seed)
    sizes = torch.randint(1, 5, (3, 36), generator=torch.Generator().manual_seed(seed)).float()
    tokens, new_sizes, source, lowest = join(given_.vision_features, sizes, bipartite(given_.vision_keys, merged, first))
    assert tokens.shape[1] == 36 - merged
    assert torch.equal(source.sum(1), torch.ones(3, 36, dtype=torch.int64))
    assert torch.allclose((tokens * new_sizes[..., None]).sum(1), (given_.vision_features * sizes[..., None]).sum(1), atol=1e-3)
    assert torch.equal(new_sizes.sum(1), sizes.sum(1))
    assert torch.equal(source.long().argmax(-1), lowest) and (lowest.diff(dim=1) > 0).all()


def test_density_peaks_find_planted_clusters():
    centres = torch.eye(4, 8) * 10
    g = torch.Generator().manual_seed(0)
    points = (centres.repeat_interleave(6, 0) + torch.randn(24, 8, generator=g) * 0.1)[None]
    means = density_peaks(points, 4)[0]
    assert torch.cdist(centres, means).amin(1).max() < 0.3
