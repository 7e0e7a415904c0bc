import numpy as np
import pytest
import torch

from metrics.clusters import cluster_codes
from metrics.overlap import map_overlap


def by_torch(kept: np.ndarray, images) -> np.ndarray:
    """The same in torch, as long as it was there."""
    sets = torch.as_tensor(kept)
    codes = torch.as_tensor(cluster_codes(images))
    count = int(codes.max()) + 1
    sums = torch.zeros(count, sets.shape[1], dtype=torch.float64).index_add_(0, codes, sets.double())
    others = sums.sum(0) - sums
    rank = others.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)[codes]
    size = sets.sum(-1)
    shared = (sets & (rank < size[:, None])).sum(-1).double() / size.clamp(min=1)
    return torch.where((size > 0) & (count > 1), shared, torch.nan).numpy()


@pytest.mark.parametrize("seed", range(12))
def test_map_overlap_against_a_loop(seed):
    rng, images = np.random.default_rng(seed), np.arange(9) // 2
    kept = rng.random((9, 12)) < 0.4
    kept[:, rng.integers(12)] = True
    found = map_overlap(kept, images)
    for i in range(9):
        others = kept[images != images[i]].sum(0)
        top = sorted(range(12), key=lambda t: (-others[t], t))[: kept[i].sum()]
        assert float(found[i]) == pytest.approx(np.mean([kept[i, t] for t in top]))


@pytest.mark.parametrize("seed", range(20))
def test_map_overlap_equals_the_torch_formula_to_the_last_digit(seed):
    rng = np.random.default_rng(seed)
    samples, tokens = int(rng.integers(1, 80)), int(rng.integers(1, 700))
    kept = rng.random((samples, tokens)) < rng.random((samples, 1)) ** 2
    kept[rng.random(samples) < 0.1] = False
    images = [f"image {i}" for i in rng.integers(0, max(1, samples // 3), samples)]
    np.testing.assert_array_equal(map_overlap(kept, images), by_torch(kept, images), strict=True)


def test_map_overlap_of_a_fixed_and_of_a_random_choice():
    fixed = np.zeros((10, 36), dtype=bool)
    fixed[:, 30:] = True
    assert map_overlap(fixed).tolist() == [1.0] * 10
    chance = np.random.default_rng(0).random((400, 60)).argsort(-1) < 15
    assert float(map_overlap(chance).mean()) == pytest.approx(15 / 60, abs=0.03)
    assert np.isnan(map_overlap(fixed[:1])).all() and np.isnan(map_overlap(~fixed & False)).all()
    assert map_overlap(fixed[:0]).shape == (0,)
    with pytest.raises(ValueError, match="2 images"):
        map_overlap(fixed, [0, 1])
