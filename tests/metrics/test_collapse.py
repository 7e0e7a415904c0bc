from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics import collapse as col


def _features(batch: int, count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, count, width, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20), st.data())
def test_subsets_are_subsets_and_depend_on_their_seed_alone(count, data):
    keep = data.draw(st.integers(0, count))
    seeds = torch.tensor(data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4)))
    found = col.random_subsets(count, keep, 5, generator_seed=seeds)
    assert found.shape == (len(seeds), 5, keep)
    assert (found.diff(dim=-1) > 0).all() and ((found >= 0) & (found < count)).all()
    for row, seed in zip(found, seeds):
        assert torch.equal(row, col.random_subsets(count, keep, 5, generator_seed=seed[None])[0])


def test_subsets_are_uniform_over_seeds_and_over_draws():
    """Chi-square of every subset of 2 of 6, for neighbouring seeds and within one seed."""
    for chosen in (
        col.random_subsets(6, 2, 3, generator_seed=torch.arange(3000)).reshape(-1, 2),
        col.random_subsets(6, 2, 9000, generator_seed=torch.tensor([5]))[0],
    ):
        counts = torch.bincount(chosen[:, 0] * 6 + chosen[:, 1], minlength=36)
        counts = counts[counts > 0]
        assert len(counts) == 15 and scipy.stats.chisquare(counts.numpy()).pvalue > 0.001


def test_subsets_of_neighbouring_seeds_are_independent():
    member = torch.zeros(2000, 40).scatter_(1, col.random_subsets(40, 10, 1, generator_seed=torch.arange(2000))[:, 0], 1.0)
    shared = (member[1:] * member[:-1]).sum(-1)
    assert float(shared.mean()) == pytest.approx(2.5, abs=0.12)  # hypergeometric: K^2 / N
    assert float(shared.var()) == pytest.approx(scipy.stats.hypergeom(40, 10, 10).var(), rel=0.15)


def test_impossible_subsets_are_refused():
    with pytest.raises(ValueError, match="keep is 7 of 6"):
        col.random_subsets(6, 7, generator_seed=torch.tensor([0]))


def test_z_is_scipys():
    rng = np.random.default_rng(0)
    values, null = rng.integers(0, 8, 100) / 4, rng.integers(0, 8, (100, 30)) / 4  # ties are many
    z = col.z_scores(torch.tensor(values), torch.tensor(null))
    for i in range(100):
        assert float(z[i]) == pytest.approx(scipy.stats.zmap(values[i], null[i], ddof=1))


def test_a_null_that_does_not_vary():
    values, null = torch.tensor([3.0, 2.0, torch.nan, 1.0]), torch.full((4, 9), 3.0) + 1e-14
    null[3, 4] = torch.nan
    found = col.percentiles(values, null, torch.full((4,), 20), torch.arange(9).expand(4, -1))
    assert col.z_scores(values, null).isnan().all()
    assert found[:2].tolist() == [0.5, 0.0] and found[2:].isnan().all()


def test_percentiles_against_a_loop():
    """Equal figures rank by their sets' hashes, a subset that is the kept set counts half, and so do figures all equal."""
    rng = np.random.default_rng(1)
    for levels in (1, 2, 4, 50):
        values, null = rng.integers(0, levels, 60) / 4, rng.integers(0, levels, (60, 12)) / 4
        ties, null_ties = rng.integers(-4, 4, 60), rng.integers(-4, 4, (60, 12))
        noise = 1e-11 * rng.standard_normal((60, 12))
        found = col.percentiles(*(torch.tensor(part) for part in (values, null + noise, ties, null_ties)))
        for i in range(60):
            ranks = [
                0.5 if null_ties[i, s] == ties[i] else float((null[i, s], null_ties[i, s]) < (values[i], ties[i]))
                for s in range(12)
            ]
            expected = 0.5 if (null[i] == values[i]).all() else np.mean(ranks)
            assert float(found[i]) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 30), st.data())
def test_hashes_of_sets_depend_on_their_tokens_and_the_seed_alone(count, data):
    keep = data.draw(st.integers(1, count))
    seeds = torch.tensor(data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=4, unique=True)))
    chosen = col.random_subsets(count, keep, 6, generator_seed=seeds)
    found = col.set_hashes(count, chosen, seeds)
    assert torch.equal(found, col.set_hashes(count, chosen.flip(-1), seeds))
    assert torch.equal(found[1:, 2:4], col.set_hashes(count, chosen[1:, 2:4], seeds[1:]))
    for row, hashes in zip(chosen, found, strict=True):
        assert len({tuple(one) for one in row.tolist()}) == len(set(hashes.tolist()))
    assert not torch.equal(found[:1], col.set_hashes(count, chosen[:1], seeds[1:2]))


@pytest.mark.parametrize("figure", ["coarse", "equal in most", "fine"])
def test_ranks_of_random_sets_are_uniform(figure):
    """Chi-square of the rank of a random set among 8 random subsets, whatever share of them ties."""
    seeds = torch.arange(6000)
    kept = torch.rand(6000, 40, generator=torch.Generator().manual_seed(7)).argsort(-1)[:, :12]
    sets = torch.cat([kept[:, None], col.random_subsets(40, 12, 8, generator_seed=seeds)], 1)
    counts = (sets < 10).sum(-1).double()
    values = {"coarse": counts, "equal in most": (counts > 5).double(), "fine": sets.double().log1p().sum(-1)}[figure]
    ties = col.set_hashes(40, sets, seeds)
    rank = col.percentiles(values[:, 0], values[:, 1:], ties[:, 0], ties[:, 1:]) * 8
    if figure == "equal in most":  # where all are equal the rank is in the middle, else symmetric
        off = rank[rank != 4] - 4
        assert len(off) > 1000 and scipy.stats.binomtest(int((off > 0).sum()), len(off)).pvalue > 0.001
        return
    assert scipy.stats.chisquare(torch.bincount(rank.long(), minlength=9).numpy()).pvalue > 0.001


def test_a_part_of_a_random_set_is_a_random_set():
    """Chi-square of every subset of 2 of 6 that is left of a random subset of 4, whose hash is the seed."""
    kept = torch.rand(6000, 6, generator=torch.Generator().manual_seed(3)).argsort(-1)[:, :4]
    ties = col.set_hashes(6, kept[:, None], torch.arange(6000))[:, 0]
    part = col.thinned(6, kept, 2, ties)
    assert all(set(some) < set(whole) for some, whole in zip(part.tolist(), kept.tolist(), strict=True))
    part = part.sort(-1).values
    counts = torch.bincount(part[:, 0] * 6 + part[:, 1], minlength=36)
    counts = counts[counts > 0]
    assert len(counts) == 15 and scipy.stats.chisquare(counts.numpy()).pvalue > 0.001
    assert torch.equal(col.thinned(6, kept, 4, ties), kept)


def _slow_gini(x: np.ndarray) -> float:
    return sum(abs(a - b) for a in x for b in x) / (2 * len(x) ** 2 * x.mean())


def test_score_collapse_against_pairs_and_scipy():
    scores = torch.rand(100, 25, generator=torch.Generator().manual_seed(0)) ** 3
    found = col.score_collapse(scores, top=4)
    for i, row in enumerate(scores.double().numpy()):
        assert float(found["entropy"][i]) == pytest.approx(scipy.stats.entropy(row) / np.log(25))
        assert float(found["effective_support"][i]) == pytest.approx(np.exp(scipy.stats.entropy(row)))
        assert float(found["gini"][i]) == pytest.approx(_slow_gini(row))
        assert float(found["top_mass"][i]) == pytest.approx(sorted(row)[-4:] @ np.ones(4) / row.sum())


def test_even_single_zero_and_negative_scores():
    scores = torch.stack([torch.ones(20), (torch.arange(20) == 3).float(), torch.zeros(20)])
    found = col.score_collapse(scores)
    assert found["entropy"].tolist() == pytest.approx([1.0, 0.0, 1.0])
    assert found["gini"].tolist() == pytest.approx([0.0, 0.95, 0.0], abs=1e-12)
    assert found["effective_support"].tolist() == pytest.approx([20.0, 1.0, 20.0])
    assert found["top_mass"].tolist() == pytest.approx([0.1, 1.0, 0.1])
    below = col.score_collapse(torch.tensor([[-1.0, 0.0, 1.0]]), top=1)
    assert float(below["top_mass"]) == pytest.approx(2 / 3)
    assert float(col.score_collapse(torch.tensor([[0.3]]))["entropy"]) == 1.0
    with pytest.raises(ValueError, match="top is 21"):
        col.score_collapse(scores, top=21)


@pytest.mark.parametrize("seed", range(100))
def test_clusters_are_sklearns_and_their_figures_a_loops(seed):
    from sklearn.cluster import AgglomerativeClustering

    g = torch.Generator().manual_seed(seed)
    count, groups = int(torch.randint(2, 40, (1,), generator=g)), int(torch.randint(1, 9, (1,), generator=g))
    noise, cosine = float(torch.rand(1, generator=g)) * 0.8, (0.5, 0.8, 0.9)[seed % 3]
    member = torch.randint(0, groups, (2, count), generator=g)
    features = _features(1, groups, 6, seed)[0][member] + noise * _features(2, count, 6, seed + 1000)
    clusters = col.token_clusters(features, cosine)
    kept = torch.rand(2, count, generator=g) < 0.3
    kept[:, 0] = True
    scores = torch.rand(2, count, generator=g) ** 3
    visits, mass = col.cluster_visits(clusters, kept), col.cluster_mass(clusters, scores)
    for i in range(2):
        x = features[i].double().numpy()
        model = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=1 - cosine)
        expected = model.fit_predict(x)
        firsts = list(dict.fromkeys(expected.tolist()))
        assert clusters[i].tolist() == [firsts.index(label) for label in expected]
        sizes = [sum(bool(kept[i, t]) for t in np.flatnonzero(expected == label)) for label in firsts]
        masses = [float(scores[i][expected == label].double().sum()) for label in firsts]
        assert float(visits["clusters"][i]) == len(firsts)
        assert float(visits["visited"][i]) == pytest.approx(np.mean([size > 0 for size in sizes]))
        assert float(visits["largest"][i]) == pytest.approx(max(sizes) / sum(sizes))
        assert float(mass[i]) == pytest.approx(max(masses) / sum(masses))


def test_mass_of_one_cluster_of_zeros_and_of_negative_scores():
    clusters = torch.tensor([[0, 0, 1, 2], [0, 0, 0, 0], [0, 1, 1, 2], [0, 1, 2, 3]])
    scores = torch.tensor([[0.0, 0, 0, 0], [1.0, 0, 0, 3], [1.0, 1, 1, 1], [-1.0, 0, 0, 2]])
    assert col.cluster_mass(clusters, scores).tolist() == pytest.approx([0.5, 1.0, 0.5, 3 / 5])
    assert col.cluster_mass(clusters[:0], scores[:0]).shape == (0,)


def test_clusters_of_near_identical_tokens():
    centres = torch.eye(3, 8).repeat_interleave(4, 0)
    features = (centres + 0.02 * _features(2, 12, 8)).contiguous()
    clusters = col.token_clusters(features)
    assert clusters.tolist() == [[0] * 4 + [1] * 4 + [2] * 4] * 2
    kept = torch.zeros(2, 12).bool()
    kept[0, :4] = kept[0, 11] = True
    found = col.cluster_visits(clusters, kept)
    assert found["clusters"].tolist() == [3.0, 3.0] and found["visited"].tolist() == pytest.approx([2 / 3, 0.0])
    assert float(found["largest"][0]) == pytest.approx(0.8) and found["largest"][1].isnan()
    assert col.token_clusters(_features(2, 1, 4)).tolist() == [[0], [0]]
