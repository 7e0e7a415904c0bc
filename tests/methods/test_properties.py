"""What every selector promises, whatever the tokens: counts, batch independence, precision, ties, degenerate input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.check import random_signals
from methods.greedy import least_energy
from methods.merging import bipartite, density_peaks, join
from methods.registry import create
from methods.types import Budget, ModelShape, Signals

SHAPE = ModelShape("s", 36, (6, 6), 4, 16, 2, 32, True, 8, 12, 16, 2, 2, 8, 32, True, 40, joint_width=8, joint_text=(1, 16, 32))
SCANS = ["vscan[stages=vision,score=received]", "apet[stages=vision]", "apet[stages=llm]"]
PRUNERS = [
    "random",
    "sts[stages=structure]",
    "sts[stages=semantics]",
    "sts[stages=structure,spatial_weight=0]",
    "fastv",
    "sparsevlm[recycle=false]",
    "sparsevlm[version=2]",
    "sparsevlm[version=2,heads=1]",
    "pyramiddrop",
    "divprune",
    "cdpruner",
    "vispruner",
    "dart",
    "holov",
    "holov[rule=code]",
    "otprune",
    "vscan[stages=llm]",
    "flowcut[stages=llm]",
    "v2drop",
    "grid",
    "fps",
    "fps[space=grid]",
    "oracle",
    "hiprune",
    "hiprune[rule=code,alpha=1]",
    "fastervlm",
    "hired",
    "scope",
    "mmtok",
]
MERGERS = ["trim", "prunesid", "sparsevlm", "visionzip", "visionzip[score=received]", "prumerge", "pool", *SCANS]
ALL = PRUNERS + MERGERS
BY_PLACE = (
    "random",
    "divprune",
    "fps[space=grid]",
    "grid",
    "oracle",
    "hiprune",
    "hiprune[rule=code,alpha=1]",
    "holov",
    "holov[rule=code]",
    "pool",
    "visionzip",
    "visionzip[score=received]",
    "vispruner",
    *SCANS,  # windows, and a basis that starts at a place
)
"""Their rule goes by place, or exactly equal scores are common: on a grid, or of two tokens nearest to each other."""


def signals(seed: int, batch: int = 3, count: int = 36, dtype=torch.float32) -> Signals:
    drawn = random_signals(batch, count, seed=seed)
    cast = lambda value: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
    return Signals(**{name: cast(value) for name, value in vars(drawn).items()})


def first_step(expression: str):
    return create(expression).steps(SHAPE, Budget(24))[0]


def choose(expression: str, given_: Signals, keep: int):
    step = first_step(expression)
    return step.select(given_.only(step.needs), keep)


def row(given_: Signals, place: int) -> Signals:
    parts = {n: v[place : place + 1] if torch.is_tensor(v) else v for n, v in vars(given_).items()}
    return Signals(**{**parts, "batch": 1})


@pytest.mark.parametrize("expression", ALL)
@given(seed=st.integers(0, 10**6), keep=st.integers(1, 36))
@settings(max_examples=15, deadline=None)
def test_counts_and_batch_independence(expression, seed, keep):
    given_ = signals(seed)
    whole = choose(expression, given_, keep)
    placed = whole.indices
    if expression in PRUNERS:
        assert placed.shape == (3, keep) and whole.tokens is None
    else:
        assert placed.shape[1] >= min(keep, 36) or expression == "pool"
    assert (placed >= (0 if expression in PRUNERS else -1)).all() and (placed < 36).all()
    for places in placed.tolist():
        real = [place for place in places if place >= 0]
        assert len(set(real)) == len(real)
    for place in range(3):
        one = choose(expression, row(given_, place), keep)
        assert torch.equal(one.indices[0], placed[place])
        if whole.tokens is not None:
            torch.testing.assert_close(one.tokens[0], whole.tokens[place], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("expression", [name for name in ALL if name not in BY_PLACE])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_permuting_tokens_permutes_the_choice(expression, seed):
    given_ = signals(seed, dtype=torch.float64)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(seed))
    axes = {
        "features": 1, "vision_features": 1, "vision_keys": 1, "vision_keys_full": 1, "image_embeds": 1, "keys": 1,
        "hidden_states": 1, "positions": 1, "evidence": 1, "cls_attention": 2, "received_attention": 2, "text_attention": 3,
        "text_attention_ahead": 3, "text_logits": 3, "rope_response": 2,
        "hidden_states_before": 1, "values_full": 1,
    }  # fmt: skip
    other = Signals(**{n: v.index_select(axes[n], order) if n in axes else v for n, v in vars(given_).items()})
    a, b = choose(expression, given_, 10), choose(expression, other, 10)
    back = torch.where(b.indices >= 0, order[b.indices.clamp_min(0)], -1)
    assert torch.equal(a.indices.sort(-1).values, back.sort(-1).values)
    if a.tokens is not None:  # the same tokens, in another order
        total = lambda chosen: chosen.tokens.sum(1)
        torch.testing.assert_close(total(a), total(b))


def test_the_oracle_keeps_all_evidence_wherever_it_stands():
    given_ = signals(1)
    keep = int(given_.evidence.sum(1).max())
    kept = choose("oracle", given_, keep).indices
    assert all(set(given_.evidence[r].nonzero()[:, 0].tolist()) <= set(kept[r].tolist()) for r in range(3))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_repulsion_follows_a_permutation(weight):
    given_ = signals(2)
    select = create(f"sts[stages=structure,spatial_weight={weight}]").steps(SHAPE, Budget(12))[0].select
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    other = Signals(features=given_.features[:, order], positions=given_.positions[:, order], count=36)
    assert torch.equal(order[select(other, 12).indices], select(given_, 12).indices)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("expression", ALL)
def test_other_precisions(expression, dtype):
    """float64 chooses as float32 does; bfloat16 works, with values that bfloat16 can tell apart chosen alike."""
    rounded = signals(3, dtype=torch.bfloat16)
    wide = Signals(**{n: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for n, v in vars(rounded).items()})
    chosen = choose(expression, rounded, 12)
    assert chosen.indices.shape[0] == 3 and (chosen.tokens is None or torch.isfinite(chosen.tokens).all())
    if dtype == torch.float64:
        narrow = Signals(
            **{n: v.float() if torch.is_tensor(v) and v.is_floating_point() else v for n, v in vars(rounded).items()}
        )
        a, b = choose(expression, wide, 12).indices, choose(expression, narrow, 12).indices
        assert torch.equal(a.sort(-1).values, b.sort(-1).values)


@pytest.mark.parametrize("keep", [1, 12, 36])
@pytest.mark.parametrize("expression", ALL)
def test_repeated_and_zero_tokens(expression, keep):
    given_ = signals(4)
    degenerate = {}
    for name in ("features", "vision_features", "vision_keys", "vision_keys_full", "image_embeds", "keys", "hidden_states"):
        tokens = getattr(given_, name).clone()
        tokens[:, 10:30], tokens[:, 0] = tokens[:, 5:6], 0
        degenerate[name] = tokens
    even = {
        name: torch.full_like(getattr(given_, name), 1 / 36)
        for name in ("text_attention", "text_attention_ahead", "cls_attention")
    }
    chosen = choose(expression, Signals(**{**vars(given_), **degenerate, **even}), keep)
    for places in chosen.indices.tolist():
        real = [place for place in places if place >= 0]
        assert len(set(real)) == len(real)
    assert chosen.tokens is None or torch.isfinite(chosen.tokens).all()
    if expression in ("fastv", "pyramiddrop"):  # all equal: ties go to the lower index
        assert chosen.indices.tolist() == [list(range(keep))] * 3


@pytest.mark.parametrize("expression", PRUNERS)
def test_keeping_all_keeps_all(expression):
    kept = choose(expression, signals(5), 36).indices
    assert torch.equal(kept.sort(-1).values, torch.arange(36).expand(3, -1))


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
    fast = least_energy(distance.clone(), exponent, 9)
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

    four, one = least_energy(distance.clone(), 4.0, 64)[0], least_energy(distance.clone(), 1.0, 64)[0]
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
