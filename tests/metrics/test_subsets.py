from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics import collapse, coverage, diversity
from metrics import subsets as sub

DIVERSITY = ("effective_rank", "stable_rank", "participation_ratio", "rank99", "vendi")


def _case(seed: int, batch: int = 3, sets: int = 6):
    """Random tokens, some repeated, zero or all equal, and random kept sets of one size: sizes rise with the seed's whim."""
    g = torch.Generator().manual_seed(seed)
    height, width, length = (int(torch.randint(1, top, (1,), generator=g)) for top in (7, 7, 30))
    count = height * width
    keep = int(torch.randint(1, count + 1, (1,), generator=g))
    features = torch.randn(batch, count, length, generator=g)
    if seed % 3 == 0:
        features = features[:, torch.randint(0, count, (count,), generator=g)]
    if seed % 5 == 0:
        features[0, torch.rand(count, generator=g) < 0.3] = 0
    if seed % 7 == 0:
        features[2] = features[2, 0]
    if seed % 11 == 0:
        features[1] = 0
    images = torch.randint(0, batch, (sets,), generator=g)
    chosen = torch.rand(sets, count, generator=g).argsort(-1)[:, :keep]
    return features, (height, width), images, chosen


def _expected(features, grid, images, chosen) -> dict[str, torch.Tensor]:
    """By the functions that take one kept set of features at a time."""
    kept = torch.zeros(len(chosen), features.shape[1], dtype=torch.bool).scatter_(1, chosen, True)
    visits = collapse.cluster_visits(collapse.token_clusters(features)[images], kept)
    return {
        **diversity.diversity(features[images[:, None], chosen]),
        **diversity.representation(features[images], kept),
        **coverage.coverage(kept, grid),
        "clusters_visited": visits["visited"],
        "largest_cluster": visits["largest"],
    }


def _same(found, expected, tolerance: float = 1e-6) -> None:
    assert set(found) == set(expected) == set(sub.FIGURES)
    for name, values in expected.items():
        assert found[name].dtype == torch.float64
        assert torch.allclose(found[name], values, rtol=tolerance, atol=tolerance, equal_nan=True), name


@pytest.mark.parametrize("seed", range(100))
def test_figures_are_those_of_one_set_at_a_time(seed):
    features, grid, images, chosen = _case(seed)
    _same(sub.figures(sub.Space.of(features, grid), images, chosen), _expected(features, grid, images, chosen))


@pytest.mark.parametrize("count, length, keep", [(144, 40, 20), (144, 40, 90), (100, 300, 60), (100, 300, 100)])
def test_figures_at_sizes_of_use(count, length, keep):
    """Correlated tokens, as a projector gives: on both sides of K = D and of N = D."""
    g = torch.Generator().manual_seed(keep)
    scales = torch.linspace(0, -3, length).exp() ** 2
    features = torch.randn(4, count, length, generator=g) * scales + 0.5 * torch.randn(length, generator=g)
    images, side = torch.arange(4).repeat_interleave(3), int(count**0.5)
    chosen = collapse.random_subsets(count, keep, 3, generator_seed=torch.arange(4)).flatten(0, 1)
    _same(sub.figures(sub.Space.of(features, (side, side)), images, chosen), _expected(features, (side, side), images, chosen))


@pytest.mark.parametrize("seed", range(0, 100, 4))
def test_null_is_the_figures_of_its_random_subsets(seed):
    features, grid, _, chosen = _case(seed)
    space, seeds, keep = sub.Space.of(features, grid), torch.arange(3) + seed, chosen.shape[1]
    found = sub.null(space, keep, seeds, subsets=5)
    drawn = collapse.random_subsets(space.count, keep, 5, generator_seed=seeds)
    expected = _expected(features, grid, torch.arange(3).repeat_interleave(5), drawn.flatten(0, 1))
    assert set(found) == {*sub.FIGURES, sub.TIE}
    for name in sub.FIGURES:
        assert torch.allclose(found[name], expected[name].view(3, 5), rtol=1e-6, atol=1e-6, equal_nan=True), name
    assert torch.equal(found[sub.TIE], collapse.set_hashes(space.count, drawn, seeds))
    some = torch.tensor([2, 0])
    for name, values in sub.null(space, keep, seeds, subsets=5, images=some).items():
        assert torch.allclose(values, found[name][some], rtol=1e-9, atol=1e-9, equal_nan=True), name


def test_images_have_random_subsets_of_their_own():
    """The coverage figures depend on the grid and the subsets alone: those of two images differ."""
    found = sub.null(sub.Space.of(torch.randn(2, 144, 4), (12, 12)), 20, torch.tensor([1, 2]))
    for name in coverage.coverage(torch.ones(144), (12, 12)):
        assert found[name].shape == (2, collapse.SUBSETS) and not torch.equal(found[name][0], found[name][1]), name


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([torch.float64, torch.float32, torch.half, torch.bfloat16]))
def test_order_scale_batch_chunks_and_type_do_not_matter(seed, dtype):
    features, grid, images, chosen = _case(seed)
    features = features.to(dtype)
    found = sub.figures(sub.Space.of(features, grid), images, chosen)
    order = torch.randperm(chosen.shape[1], generator=torch.Generator().manual_seed(seed))
    scaled = features * (4.0 if dtype in (torch.half, torch.bfloat16) else 2.0**30)  # powers of two are exact
    _same(sub.figures(sub.Space.of(scaled, grid), images, chosen[:, order]), found)
    _same(sub.figures(sub.Space.of(features.double(), grid), images, chosen), found)
    alone = [sub.figures(sub.Space.of(features[i : i + 1], grid), torch.tensor([0]), row[None]) for i, row in zip(images, chosen)]
    _same({name: torch.cat([one[name] for one in alone]) for name in found}, found)


@pytest.mark.parametrize("seed", range(0, 100, 4))
def test_spread_is_the_same_figures(seed):
    features, grid, images, chosen = _case(seed)
    space = sub.Space.of(features, grid)
    found, whole = sub.spread(space, images, chosen), sub.figures(space, images, chosen)
    assert set(found) == {*DIVERSITY, "mean_cosine", "log_det"}
    for name, values in found.items():
        assert torch.allclose(values, whole[name], rtol=1e-12, atol=1e-12, equal_nan=True), name


def test_chunks_do_not_matter(monkeypatch):
    cases = [_case(seed) for seed in (3, 5, 8, 11, 14)]
    whole = [sub.figures(sub.Space.of(f, grid), images, chosen) for f, grid, images, chosen in cases]
    monkeypatch.setattr(sub, "_CHUNK", 1)
    monkeypatch.setattr(coverage, "_CHUNK", 1)
    for (f, grid, images, chosen), found in zip(cases, whole):
        _same(sub.figures(sub.Space.of(f, grid), images, chosen), found, 1e-9)


@pytest.mark.parametrize("length", [3, 12])
def test_one_token_and_all_tokens(length):
    features = torch.randn(2, 9, length, generator=torch.Generator().manual_seed(0))
    space = sub.Space.of(features, (3, 3))
    one = sub.figures(space, torch.tensor([0, 1]), torch.tensor([[4], [0]]))
    for name in DIVERSITY:
        assert one[name].tolist() == pytest.approx([1.0, 1.0]), name
    for name in ("mean_cosine", "nearest_cosine", "clark_evans"):
        assert one[name].isnan().all(), name
    assert one["largest_cluster"].tolist() == [1.0, 1.0]
    every = sub.figures(space, torch.tensor([0, 1]), torch.arange(9).expand(2, -1))
    assert every["k_centre_radius"].tolist() == every["mean_distance_to_kept"].tolist() == [0.0, 0.0]
    assert every["residual"].tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    assert every["cells"].tolist() == every["clusters_visited"].tolist() == [1.0, 1.0]


def test_all_kept_is_exactly_chance():
    features, seeds = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(1)), torch.arange(4)
    space = sub.Space.of(features, (3, 3))
    every = torch.arange(9).expand(4, -1)
    found, chance = sub.figures(space, torch.arange(4), every), sub.null(space, 9, seeds)
    ties = collapse.set_hashes(9, every[:, None], seeds)[:, 0]
    for name in sub.FIGURES:
        assert collapse.z_scores(found[name], chance[name]).isnan().all(), name
        assert collapse.percentiles(found[name], chance[name], ties, chance[sub.TIE]).tolist() == [0.5] * 4, name


@pytest.mark.parametrize("length", [2, 20])
def test_equal_tokens_and_zero_tokens_have_defined_figures(length):
    equal, zero = torch.ones(1, 12, length), torch.zeros(1, 12, length)
    one_zero = torch.randn(1, 12, length, generator=torch.Generator().manual_seed(2))
    one_zero[0, 0] = 0
    space = sub.Space.of(torch.cat([equal, zero, one_zero]), (3, 4))
    found = sub.figures(space, torch.arange(3), torch.arange(5).expand(3, -1))
    assert not any(values.isnan().any() for values in found.values())
    for name in DIVERSITY:
        assert found[name][:2].tolist() == pytest.approx([1.0, 0.0], abs=1e-6), name
    assert found["mean_cosine"][:2].tolist() == pytest.approx([1.0, 0.0])
    assert found["k_centre_radius"][:2].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert found["residual"][:2].tolist() == pytest.approx([0.0, 0.0], abs=1e-9)
    assert found["clusters_visited"][0] == found["largest_cluster"][0] == 1.0  # one class
    assert not any(values.isnan().any() for values in sub.null(space, 5, torch.arange(3), subsets=4).values())


def test_no_sets_no_grid_and_what_is_refused():
    features = torch.randn(2, 6, 4)
    space = sub.Space.of(features, (2, 3))
    none = sub.figures(space, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.int64))
    assert set(none) == set(sub.FIGURES) and all(values.shape == (0,) for values in none.values())
    bare = sub.Space.of(features)
    found, chance = sub.figures(bare, torch.tensor([1]), torch.tensor([[0, 2]])), sub.null(bare, 2, torch.arange(2), 3)
    assert {*found, sub.TIE} == set(chance) == {*sub.FIGURES, sub.TIE}
    for name in coverage.coverage(torch.ones(6), (2, 3)):
        assert found[name].isnan().all() and chance[name].shape == (2, 3) and chance[name].isnan().all()
    with pytest.raises(ValueError, match="no grid of 2x4"):
        sub.Space.of(features, (2, 4))
    with pytest.raises(ValueError, match="needs"):
        sub.Space.of(features[0])
    with pytest.raises(ValueError, match="K of at least 1"):
        sub.figures(space, torch.tensor([0]), torch.zeros(1, 0, dtype=torch.int64))
    for keep in (0, 7):
        with pytest.raises(ValueError, match=f"keep is {keep}"):
            sub.null(space, keep, torch.arange(2))


def test_random_kept_sets_are_at_chance_and_a_clump_is_not():
    """Each figure's z over random sets has mean 0 and deviation 1; near-equal neighbours are less diverse in nearly all."""
    g = torch.Generator().manual_seed(3)
    clump = torch.randn(60, 1, 16, generator=g) + 0.05 * torch.randn(60, 12, 16, generator=g)
    space = sub.Space.of(torch.cat([clump, torch.randn(60, 132, 16, generator=g)], 1), (12, 12))
    chance, images = sub.null(space, 12, torch.arange(60)), torch.arange(60)
    fair = collapse.random_subsets(144, 12, 1, generator_seed=torch.arange(1000, 1060))[:, 0]
    random, close = sub.figures(space, images, fair), sub.figures(space, images, torch.arange(12).expand(60, -1))
    for name, higher in sub.FIGURES.items():
        z = collapse.z_scores(random[name], chance[name])
        assert abs(float(z.nanmean())) < 0.45 and 0.6 < float(z[~z.isnan()].std()) < 1.5, name
        z = collapse.z_scores(close[name], chance[name])
        if name != "residual":  # the span is as large as any: it does not see how near its tokens are
            assert float(z.mean()) < -1 if higher else float(z.mean()) > 1, name
