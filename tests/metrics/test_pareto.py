from __future__ import annotations

import numpy as np
import pytest

from metrics import pareto
from metrics.pareto import front, front_share


def _slow_front(accuracy, cost):
    on = []
    for a, c in zip(accuracy, cost):
        beaten = any((d <= c and b >= a) and (d < c or b > a) for b, d in zip(accuracy, cost))
        on.append(not beaten and a == a and c == c)
    return on


@pytest.mark.parametrize("seed", range(100))
def test_front_against_a_loop(seed):
    rng = np.random.default_rng(seed)
    cells = int(rng.integers(0, 12))
    accuracy, cost = rng.integers(0, 6, cells) / 5, rng.integers(1, 7, cells).astype(float)
    accuracy[rng.random(cells) < 0.1] = np.nan
    cost[rng.random(cells) < 0.1] = np.nan
    assert front(accuracy, cost).tolist() == _slow_front(accuracy, cost)


@pytest.mark.parametrize("seed", range(100))
def test_share_against_a_loop_over_the_same_draws(seed):
    rng = np.random.default_rng(seed)
    cells, images = int(rng.integers(1, 6)), rng.integers(0, 5, int(rng.integers(2, 20)))
    scores = rng.integers(0, 3, (cells, len(images))) / 2
    scores[rng.random(scores.shape) < 0.1] = np.nan
    costs = rng.integers(1, 5, (cells, 7)) * 1.0 if seed % 2 else rng.integers(1, 5, cells) * 1.0
    found = front_share(scores, images, costs, seed, resamples=40)

    order = [i for i in dict.fromkeys(images.tolist()) if not np.isnan(scores[:, images == i]).all()]
    mean = lambda row: np.nan if np.isnan(row).all() else round(float(np.nanmean(row)), 12)
    middle = lambda rounds: np.median(costs[:, rounds], axis=1) if costs.ndim == 2 else costs
    assert found.on.tolist() == _slow_front([mean(row) for row in scores], middle(range(7)))
    draws = np.random.default_rng(seed)
    if not order:
        return
    times = draws.multinomial(len(order), np.full(len(order), 1 / len(order)), size=40)
    rounds = draws.integers(0, 7, size=(40, 7))
    hits = np.zeros(cells)
    for i in range(40):
        columns = np.concatenate([np.tile(np.flatnonzero(images == image), n) for image, n in zip(order, times[i])]).astype(int)
        hits += _slow_front([mean(scores[c, columns]) for c in range(cells)], middle(rounds[i]))
    assert found.share == pytest.approx(hits / 40)


def test_equal_cells_share_the_front():
    scores = np.random.default_rng(0).random(60)
    found = front_share(np.stack([scores, scores, scores - 0.01]), np.arange(60) // 2, np.array([3.0, 3.0, 3.0]))
    assert found.on.tolist() == [True, True, False]
    assert found.share.tolist() == [1.0, 1.0, 0.0]


def test_draws_are_paired():
    """What is better by a hair on every image, or cheaper by a hair in every round, always wins."""
    rng = np.random.default_rng(1)
    scores, rounds = rng.random(40), rng.lognormal(size=30)
    better = front_share(np.stack([scores, scores + 1e-6]), range(40), np.array([1.0, 1.0]))
    assert better.share.tolist() == [0.0, 1.0]
    cheaper = front_share(np.stack([scores, scores]), range(40), np.stack([rounds, rounds * 0.999]))
    assert cheaper.share.tolist() == [0.0, 1.0]


def test_a_narrow_lead_is_not_firm():
    rng = np.random.default_rng(2)
    scores = (rng.random((2, 200)) < 0.5).astype(float)
    share = front_share(scores, range(200), np.array([1.0, 1.0])).share
    assert 0.02 < share.min() < 0.98


def test_what_was_not_measured_is_never_on_the_front():
    scores = np.array([[1.0, 1.0], [np.nan, np.nan], [0.0, 1.0]])
    found = front_share(scores, "ab", np.array([[2.0, 3.0], [1.0, 1.0], [np.nan, np.nan]]))
    assert found.on.tolist() == [True, False, False]
    assert found.share.tolist() == [1.0, 0.0, 0.0]
    assert front_share(np.zeros((2, 0)), [], np.ones(2)).share.tolist() == [0.0, 0.0]


def test_chunks_change_nothing_of_fixed_costs(monkeypatch):
    scores = np.random.default_rng(3).random((4, 30))
    whole = front_share(scores, range(30), np.arange(4.0)).share
    monkeypatch.setattr(pareto, "_CHUNK", 100)
    assert front_share(scores, range(30), np.arange(4.0)).share.tolist() == whole.tolist()


def test_wrong_shapes():
    with pytest.raises(ValueError, match="one of each a cell"):
        front([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="2 images"):
        front_share(np.ones((1, 3)), "ab", np.ones(1))
    with pytest.raises(ValueError, match="costs"):
        front_share(np.ones((1, 2)), "ab", np.ones(2))


def test_rounds_that_a_cell_was_left_out_of_are_not_drawn():
    """A cell that was known after three of sixty rounds is drawn from those three, and is there in every draw."""
    rng, scores = np.random.default_rng(0), np.array([[1.0, 0.0] * 20, [1.0, 1.0] * 20])
    costs = np.stack([np.full(60, 1.0), 0.5 + 0.01 * rng.random(60)])
    costs[1, 3:] = np.nan
    found = front_share(scores, range(40), costs)
    assert found.on.tolist() == [False, True] and found.share.tolist() == [0.0, 1.0]
    few = np.stack([np.full(60, 1.0), np.r_[0.8, 0.9, 1.4, np.full(57, np.nan)]])
    same = np.stack([scores[1], scores[1]])
    share = front_share(same, range(40), few, resamples=4000).share
    # of three rounds the dear one is the median where it is drawn twice or thrice: 7 of 27
    assert share[1] == pytest.approx(20 / 27, abs=0.03) and share[0] == pytest.approx(7 / 27, abs=0.03)
