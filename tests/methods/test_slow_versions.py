"""Methods without goldens against slow, obvious versions of their rules, one token at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods import dart, fps, grid, holov, otprune, pool, prumerge, pyramiddrop, sparsevlm, vispruner
from methods.check import random_signals
from methods.greedy import determinantal, max_min
from methods.similarity import cosine

seeds = st.integers(0, 10**6)
QUICK = settings(max_examples=20, deadline=None)


def cos(a, b):
    return float(np.dot(a, b) / max(np.linalg.norm(a), 1e-12) / max(np.linalg.norm(b), 1e-12))


def wide(signals, **parts):
    return type(signals)(**{**vars(signals), **parts})


@QUICK
@given(seed=seeds, keep=st.integers(1, 36), image=st.integers(1, 6), text=st.integers(0, 5))
def test_dart(seed, keep, image, text):
    signals = random_signals(2, 36, seed=seed)
    scale = torch.rand(16, generator=torch.Generator().manual_seed(seed)) + 0.5
    got = dart.DARTSelector(image, text)(wide(signals, norm_scale=scale), keep).indices
    for row in range(2):
        state, words = (signals.hidden_states[row] * scale).double().numpy(), (signals.text_hidden[row] * scale).double().numpy()
        by_norm = lambda keys: sorted(range(len(keys)), key=lambda i: (-keys[i].double().abs().sum().item(), i))
        pivots = by_norm(signals.keys[row])[: min(image, keep)]
        vectors = [state[i] for i in pivots] + [words[i] for i in by_norm(signals.text_keys[row])[:text]]
        kept, rest = list(pivots), keep - len(pivots)
        for place, vector in enumerate(vectors):
            left = sorted((i for i in range(36) if i not in kept), key=lambda i: (round(cos(state[i], vector), 6), i))
            kept += left[: rest // len(vectors) + (place < rest % len(vectors))]
        assert got[row].tolist() == kept


@QUICK
@given(seed=seeds, keep=st.integers(1, 36), crops=st.integers(1, 12), variety=st.sampled_from([None, 0.09, 2.0]))
def test_holov(seed, keep, crops, variety):
    signals = random_signals(2, 36, seed=seed)
    got = holov.HoloVSelector(crops, variety)(signals, keep).indices
    for row in range(2):
        attention = signals.cls_attention[row].double().mean(0).numpy()
        tokens = signals.vision_features[row].double().numpy()
        bounds, start = [], 0
        for crop in range(crops):
            size = 36 // crops + (crop < 36 % crops)
            bounds.append((start, start + size))
            start += size
        scores, ranked = [], attention.copy()
        for low, high in bounds:
            n = high - low
            if n == 1 or variety is None:
                scores.append(attention[low:high].mean())
                continue
            alike = np.array([[0.0 if i == j else cos(tokens[i], tokens[j]) for j in range(low, high)] for i in range(low, high)])
            mean = alike.sum(1) / (n - 1)
            variance = ((alike - mean[:, None]) ** 2).sum(1) / (n - 1)
            part = attention[low:high]
            ranked[low:high] = part + variety * variance * part.mean() / (variance.mean() + 1e-6)
            scores.append(ranked[low:high].mean())
        share = np.array(scores) / sum(scores)
        quota = [min(int(np.floor(s * keep)), high - low) for s, (low, high) in zip(share, bounds)]
        while sum(quota) < keep:
            before = list(quota)
            for crop in np.argsort(-share, kind="stable"):
                if sum(quota) < keep and before[crop] < bounds[crop][1] - bounds[crop][0]:
                    quota[crop] += 1
        kept = []
        for (low, high), count in zip(bounds, quota):
            kept += sorted(range(low, high), key=lambda i: (-ranked[i], i))[:count]
        assert got[row].tolist() == sorted(kept)


@QUICK
@given(seed=seeds, keep=st.integers(1, 12))
def test_determinantal_maximises_the_determinant_at_each_step(seed, keep):
    points = torch.randn(2, 14, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    kernel = points @ points.transpose(1, 2)
    got = determinantal(kernel, keep)
    for row in range(2):
        kept: list[int] = []
        while len(kept) < keep:
            volume = lambda i: np.linalg.slogdet(kernel[row][np.ix_([*kept, i], [*kept, i])].numpy())[1]
            kept.append(max((i for i in range(14) if i not in kept), key=volume))
        assert got[row].tolist() == kept


def test_determinantal_goes_on_by_index_once_the_rank_is_spent():
    points = torch.randn(1, 12, 3, generator=torch.Generator().manual_seed(0))
    kept = determinantal(points @ points.transpose(1, 2), 9)[0].tolist()
    assert kept[3:] == [i for i in range(12) if i not in kept[:3]][:6]


@QUICK
@given(seed=seeds, keep=st.integers(1, 14))
def test_max_min(seed, keep):
    points = torch.randn(2, 14, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    similarity = cosine(points)
    got = max_min(similarity.clone(), torch.tensor([3, 5]), keep)
    for row, first in enumerate((3, 5)):
        kept = [first]
        while len(kept) < keep:
            kept.append(min((i for i in range(14) if i not in kept), key=lambda i: max(similarity[row, i, j] for j in kept)))
        assert got[row].tolist() == kept


@QUICK
@given(seed=seeds, gamma=st.sampled_from([0.01, 1.0, 50.0]))
def test_otprune_kernel_is_the_log_determinant_of_products(seed, gamma):
    signals = random_signals(1, 16, seed=seed)
    tokens = signals.features[0].double().numpy()
    tokens = np.stack([column / np.linalg.norm(column) for column in tokens.T], 1)  # each dimension over the tokens
    alike = tokens @ tokens.T
    kernel = np.eye(16) + gamma * alike @ alike.T
    kept: list[int] = []
    while len(kept) < 9:
        volume = lambda i: np.linalg.slogdet(kernel[np.ix_([*kept, i], [*kept, i])])[1]
        kept.append(max((i for i in range(16) if i not in kept), key=volume))
    assert otprune.OTPruneSelector(gamma)(signals, 9).indices[0].tolist() == kept


def test_a_ridge_is_the_same_as_a_larger_diagonal():
    points = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    kernel = points @ points.transpose(1, 2)
    larger = kernel + 3.0 * torch.eye(30, dtype=torch.float64)
    assert torch.equal(determinantal(kernel, 20, ridge=3.0), determinantal(larger, 20))


def slow_thin(similarity, order, keep):
    """The authors' rule: whole sub-matrices in every round."""
    order = list(order)
    while len(order) > keep:
        left, right = order[::2], order[1::2]
        leave = min(8, len(order) - keep, len(left))
        best = {a: max((similarity[a, b] for b in right), default=-np.inf) for a in left}
        left = sorted(left, key=lambda a: -best[a])
        order = left[leave:] + right
    return order


@QUICK
@given(seed=seeds, keep=st.integers(1, 60), clustered=st.booleans())
def test_vispruner_thinning(seed, keep, clustered):
    g = torch.Generator().manual_seed(seed)
    points = torch.randn(2, 60, 8, generator=g, dtype=torch.float64)
    if clustered:  # many near-copies, so that neighbour lists run out
        points = points[:, torch.randint(0, 4, (60,), generator=g)] + 0.05 * torch.randn(
            2, 60, 8, generator=g, dtype=torch.float64
        )
    similarity = cosine(points)
    order = torch.stack([torch.randperm(60, generator=g) for _ in range(2)])
    got = vispruner.thin(similarity.clone(), order, keep)
    for row in range(2):
        assert got[row].tolist() == slow_thin(similarity[row].numpy(), order[row].tolist(), keep)[:keep]


def test_pyramiddrop_ranks_the_last_row():
    signals = random_signals(3, 36, seed=1)
    got = pyramiddrop.select(signals, 7).indices
    for row in range(3):
        score = signals.text_attention_ahead[row, :, -1].mean(0)
        assert got[row].tolist() == sorted(range(36), key=lambda i: (-score[i].item(), i))[:7]


@pytest.mark.parametrize("on_grid", [False, True])
def test_fps_starts_at_the_medoid(on_grid):
    signals = random_signals(2, 36, seed=2)
    got = fps.FarthestPointSelector(on_grid)(signals, 10).indices
    for row in range(2):
        if on_grid:
            distance = torch.cdist(signals.positions[row].double(), signals.positions[row].double())
        else:
            distance = 1 - cosine(signals.features)[row]
        assert got[row, 0] == distance.sum(-1).argmin()
        for i in range(1, 10):
            gaps = distance[:, got[row, :i]].amin(1)
            assert gaps[got[row, i]] == pytest.approx(gaps.max().item(), abs=1e-6)


@given(keep=st.integers(1, 600), height=st.integers(1, 30), width=st.integers(1, 30))
def test_grid_places_are_distinct_and_spread(keep, height, width):
    keep = min(keep, height * width)
    places = grid.even_places((height, width), keep).tolist()
    assert len(set(places)) == len(places) == keep and min(places) >= 0 and max(places) < height * width
    assert places == sorted(places)


def test_grid_of_64_is_the_lattice():
    places = np.array(grid.even_places((24, 24), 64))
    assert sorted(set(places // 24)) == list(range(1, 24, 3)) == sorted(set(places % 24))


@pytest.mark.parametrize("small", [(3, 3), (2, 6), (4, 5), (1, 1)])
def test_pool_averages_cells(small):
    signals = random_signals(2, 36, seed=4)
    result = pool.PoolSelector(small)(signals, small[0] * small[1])
    square = signals.vision_features.view(2, 6, 6, 16)
    for i in range(small[0]):
        for j in range(small[1]):
            rows = slice(i * 6 // small[0], -(-(i + 1) * 6 // small[0]))
            columns = slice(j * 6 // small[1], -(-(j + 1) * 6 // small[1]))
            cell = i * small[1] + j
            assert torch.allclose(result.tokens[:, cell], square[:, rows, columns].mean((1, 2)), atol=1e-6)
            expected = torch.zeros(6, 6, dtype=torch.bool)
            expected[rows, columns] = True
            assert torch.equal(result.source[0, cell], expected.flatten())


@QUICK
@given(seed=seeds)
def test_prumerge_adaptive_counts_outliers(seed):
    attention = torch.rand(1, 50, generator=torch.Generator().manual_seed(seed)).exponential_(
        generator=torch.Generator().manual_seed(seed)
    )
    scores = attention[0].double().numpy()
    low, high = np.percentile(scores, [25, 75])
    assert prumerge.outliers(attention) == int((scores > high + 1.5 * (high - low)).sum())


def test_prumerge_adaptive_keeps_one_more_than_the_outliers():
    signals = random_signals(1, 36, seed=5)
    attention = torch.full((1, 2, 36), 0.01)
    attention[:, :, [4, 9, 30]] = 0.2
    result = prumerge.PruMergeSelector(True)(wide(signals, cls_attention=attention), 20)
    assert result.indices[0].tolist() == [4, 9, 30, -1]


@QUICK
@given(seed=seeds)
def test_prumerge_plus_adds_tokens_at_even_distances(seed):
    attention = torch.rand(1, 2, 100, generator=torch.Generator().manual_seed(seed)) ** 6
    signals = random_signals(1, 100, seed=seed)
    signals = wide(signals, cls_attention=attention, count=100)
    scores = attention[0].mean(0)
    number = prumerge.outliers(scores[None])
    first = scores.argsort(descending=True)[:number].tolist()
    step = int(int(1 / (number / 100)) / 3) if number else 100
    expected = [*first, *(place for place in range(0, 99, step) if place not in first)]
    result = prumerge.PruMergeSelector(True, True)(signals, 1)
    assert result.indices[0].tolist() == [*expected, -1]
    alone = prumerge.PruMergeSelector(False)(signals, number + 1)
    assert torch.allclose(result.tokens[0, :number], alone.tokens[0, :-1], atol=1e-5), "an outlier becomes what it does alone"


@pytest.mark.parametrize("plus", [False, True])
def test_prumerge_leaves_tokens_of_several_tiles_in_their_places(plus):
    """Text stands among them: by attention, tokens of one image would come behind what is said of the next."""
    attention = torch.full((1, 2, 36), 0.01)
    attention[:, :, [30, 4, 9]] = torch.tensor([0.3, 0.2, 0.1])
    signals = wide(random_signals(1, 36, seed=8), cls_attention=attention)
    one, several = (
        prumerge.PruMergeSelector(True, plus)(replace(signals, tile_places=places), 20)
        for places in (None, torch.arange(36).view(2, 18))
    )
    order = several.indices[0, :-1].tolist()
    assert one.indices[0, :3].tolist() == [30, 4, 9] and order == sorted(one.indices[0, :-1].tolist())
    assert several.indices[0, -1] == -1 and torch.allclose(several.tokens[0, -1], one.tokens[0, -1], atol=1e-5)
    by_place = one.indices[0, :-1].argsort()
    assert torch.allclose(several.tokens[0, :-1], one.tokens[0, by_place], atol=1e-5)


def test_prumerge_plus_of_an_even_image_has_the_first_token_alone():
    signals = wide(random_signals(1, 36), cls_attention=torch.full((1, 2, 36), 1 / 36))
    assert prumerge.PruMergeSelector(True, True)(signals, 20).indices[0].tolist() == [0, -1]


@pytest.mark.parametrize("heads", [1, 2])
def test_sparsevlm_two_divides_by_the_rotary_response(heads):
    signals = random_signals(2, 36, seed=6)
    got = sparsevlm.SparseVLMSelector("2", False, heads)(signals, 9).indices
    for row in range(2):
        rated = sparsevlm.raters(signals.features, signals.text_features)[row]
        plain = (signals.text_attention[row] / signals.rope_response[row])[:, rated]
        listened = sorted(range(2), key=lambda head: -plain[head].sum().item())[:heads]
        score = plain[listened].mean((0, 1))
        assert got[row].tolist() == sorted(score.argsort(descending=True)[:9].tolist())
