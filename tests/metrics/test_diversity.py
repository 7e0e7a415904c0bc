from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import entropy

from metrics import diversity as div

RANKS = ("effective_rank", "stable_rank", "participation_ratio", "rank99", "vendi")


def _tokens(batch: int, count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, count, width, generator=torch.Generator().manual_seed(seed))


def _slow(tokens: np.ndarray) -> dict[str, float]:
    """From numpy's SVD and scipy's entropy, one set at a time."""
    x = tokens.astype(np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    sigma = np.linalg.svd(x, compute_uv=False)
    gram = x @ x.T
    off = ~np.eye(len(x), dtype=bool)
    energy = np.cumsum(sigma**2) / np.sum(sigma**2)
    return {
        "effective_rank": np.exp(entropy(sigma)),
        "stable_rank": np.linalg.norm(x, "fro") ** 2 / np.linalg.norm(x, 2) ** 2,
        "participation_ratio": np.trace(gram) ** 2 / np.trace(gram @ gram),
        "rank99": 1 + int(np.argmax(energy >= 0.99 - 1e-9)),
        "mean_cosine": gram[off].mean(),
        "nearest_cosine": np.mean([max(gram[i, j] for j in range(len(x)) if j != i) for i in range(len(x))]),
        "log_det": np.linalg.slogdet(gram + 1e-6 * np.eye(len(x)))[1],
        "vendi": np.exp(entropy(np.linalg.eigvalsh(gram / len(x)).clip(0))),
    }


@pytest.mark.parametrize("count, width", [(2, 5), (6, 9), (9, 6), (12, 3), (7, 7)])
def test_against_singular_values(count, width):
    tokens = _tokens(20, count, width)
    found = div.diversity(tokens)
    for row in range(20):
        for name, expected in _slow(tokens[row].numpy()).items():
            assert float(found[name][row]) == pytest.approx(expected, rel=1e-7), name


def test_vendi_is_its_authors_formula():
    for seed in range(100):
        tokens = div.unit(_tokens(1, 6, 8, seed))[0].numpy()
        values = np.linalg.eigvalsh(tokens @ tokens.T / 6)  # vendi_score.vendi.score_K: exp(-sum w log w), w > 0
        expected = np.exp(-sum(w * np.log(w) for w in values if w > 0))
        assert float(div.diversity(torch.tensor(tokens))["vendi"]) == pytest.approx(expected)


def test_nearest_cosine_is_sklearns():
    from sklearn.neighbors import NearestNeighbors

    for tokens in _tokens(100, 20, 5):
        distances, _ = NearestNeighbors(n_neighbors=2, metric="cosine", algorithm="brute").fit(tokens).kneighbors(tokens)
        assert float(div.diversity(tokens)["nearest_cosine"]) == pytest.approx(1 - distances[:, 1].mean(), abs=1e-6)


def test_orthogonal_repeated_and_single():
    found = div.diversity(torch.eye(5) * 7.0)
    for name in RANKS:
        assert float(found[name]) == pytest.approx(5.0)
    assert float(found["mean_cosine"]) == 0.0 and float(found["log_det"]) == pytest.approx(5 * np.log1p(1e-6))

    found = div.diversity(_tokens(1, 1, 6).expand(1, 5, 6))
    for name in RANKS:
        assert float(found[name]) == pytest.approx(1.0, abs=1e-6)
    assert float(found["mean_cosine"]) == pytest.approx(1.0) and float(found["nearest_cosine"]) == pytest.approx(1.0)
    assert float(found["log_det"]) == pytest.approx(np.log(5 + 1e-6) + 4 * np.log(1e-6))

    found = div.diversity(_tokens(2, 1, 6))
    for name in RANKS:
        assert found[name].tolist() == pytest.approx([1.0, 1.0])
    assert found["mean_cosine"].isnan().all() and found["nearest_cosine"].isnan().all()


def test_zero_tokens_give_no_nan():
    tokens = torch.eye(4)
    tokens[3] = 0
    found = div.diversity(tokens)
    assert not any(figure.isnan().any() for figure in found.values())
    for name in RANKS:
        assert float(found[name]) == pytest.approx(3.0)
    nothing = div.diversity(torch.zeros(2, 3, 4))
    assert not any(figure.isnan().any() for figure in nothing.values())
    for name in RANKS:
        assert nothing[name].tolist() == [0.0, 0.0]


def test_no_tokens_are_refused():
    with pytest.raises(ValueError, match="K of at least 1"):
        div.diversity(torch.zeros(2, 0, 4))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 10**6), st.sampled_from([torch.float32, torch.half, torch.bfloat16]))
def test_order_scale_and_batch_do_not_matter(count, width, seed, dtype):
    tokens = _tokens(3, count, width, seed).to(dtype)
    found = div.diversity(tokens)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    changed = div.diversity(tokens[:, order] * 4.0)  # a power of two is exact in every type
    for name, figure in found.items():
        assert figure.dtype == torch.float64 and figure.shape == (3,)
        assert torch.allclose(figure, changed[name], atol=1e-6, equal_nan=True), name
        alone = torch.stack([div.diversity(row)[name] for row in tokens])
        assert torch.allclose(figure, alone, atol=1e-9, equal_nan=True), name
    for name in RANKS:
        assert (found[name] >= 1 - 1e-6).all() and (found[name] <= min(count, width) + 1e-6).all(), name
    # the order in which the ranks must stand: each weighs small directions less than the one before
    assert (found["effective_rank"] >= found["vendi"] - 1e-6).all()
    assert (found["vendi"] >= found["participation_ratio"] - 1e-6).all()
    assert (found["participation_ratio"] >= found["stable_rank"] - 1e-6).all()


def test_further_batch_dimensions_and_extreme_sizes():
    tokens = _tokens(6, 4, 5)
    whole = div.diversity(tokens.reshape(2, 3, 4, 5))
    assert torch.allclose(whole["vendi"].reshape(6), div.diversity(tokens)["vendi"])
    tiny = div.diversity(tokens.double() * 1e-200)
    assert torch.allclose(tiny["effective_rank"], div.diversity(tokens)["effective_rank"])


def _slow_representation(features: np.ndarray, kept: np.ndarray) -> dict[str, float]:
    x = features.astype(np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    nearest = cdist(x, x[kept]).min(1)
    solution = np.linalg.lstsq(x[kept].T, x.T, rcond=1e-6)[0]
    return {
        "k_centre_radius": nearest.max(),
        "mean_distance_to_kept": nearest[~kept].mean() if (~kept).any() else 0.0,
        "residual": np.sum((x.T - x[kept].T @ solution) ** 2) / np.sum(x**2),
    }


@pytest.mark.parametrize("width", [3, 20])
@pytest.mark.parametrize("chunk", [1 << 24, 1])
def test_representation_against_lstsq(width, chunk, monkeypatch):
    monkeypatch.setattr(div, "_CHUNK", chunk)
    features = _tokens(50, 12, width)
    features[0, 3] = 0
    features[1, 4] = features[1, 5]
    kept = torch.rand(50, 12, generator=torch.Generator().manual_seed(1)) < 0.4
    kept[:, 11] = True
    kept[0, 3] = kept[1, 4] = kept[1, 5] = True
    kept[4] = True  # K = N
    kept[3] = False
    kept[3, 7] = True  # K = 1
    found = div.representation(features, kept)
    for row in range(50):
        for name, expected in _slow_representation(features[row].numpy(), kept[row].numpy()).items():
            assert float(found[name][row]) == pytest.approx(expected, abs=1e-7), (row, name)
    assert float(found["k_centre_radius"][4]) == 0.0 and float(found["residual"][4]) == pytest.approx(0.0, abs=1e-9)


def test_representation_of_nothing_kept_and_of_zero_features():
    kept = torch.tensor([[False, False], [True, False]])
    found = div.representation(_tokens(2, 2, 3), kept)
    assert all(figure[0].isnan() and not figure[1].isnan() for figure in found.values())
    assert all(figure.isnan().all() for figure in div.representation(_tokens(2, 2, 3), torch.zeros(2, 2).bool()).values())
    assert not any(figure.isnan().any() for figure in div.representation(torch.zeros(2, 2, 3), ~kept).values())
    with pytest.raises(ValueError, match="they are"):
        div.representation(_tokens(2, 2, 3), kept[0])


def test_more_tokens_never_represent_worse():
    features = _tokens(3, 10, 6)
    order = torch.rand(3, 10, generator=torch.Generator().manual_seed(2)).argsort(-1).argsort(-1)
    found = [div.representation(features, order < k) for k in range(1, 11)]
    for less, more in pairwise(found):
        assert (more["k_centre_radius"] <= less["k_centre_radius"] + 1e-9).all()
        assert (more["residual"] <= less["residual"] + 1e-9).all()
