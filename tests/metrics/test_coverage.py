from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from scipy.spatial import ConvexHull, cKDTree
from scipy.stats import qmc

from metrics import coverage as cov


def _kept(count: int, grid: tuple[int, int], share: float = 0.2, seed: int = 0) -> torch.Tensor:
    kept = torch.rand(count, grid[0] * grid[1], generator=torch.Generator().manual_seed(seed)) < share
    kept[:, seed % kept.shape[1]] = True
    return kept


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 11), st.integers(1, 11), st.integers(1, 9), st.integers(0, 999))
def test_cells_against_sets(height, width, cells, seed):
    kept = _kept(3, (height, width), 0.3, seed)
    tall, wide = min(cells, height), min(cells, width)
    for row, found in zip(kept.numpy(), cov.cell_coverage(kept, (height, width), cells)):
        hit = {(i // width * tall // height, i % width * wide // width) for i in np.flatnonzero(row)}
        assert float(found) == pytest.approx(len(hit) / (tall * wide))


def test_cells_of_a_full_and_of_an_empty_set():
    assert float(cov.cell_coverage(torch.ones(35).bool(), (5, 7))) == 1.0
    assert float(cov.cell_coverage(torch.zeros(35).bool(), (5, 7))) == 0.0
    assert cov.cell_coverage(torch.ones(2, 3, 35).bool(), (5, 7)).shape == (2, 3)
    with pytest.raises(ValueError, match="5x6 = 30"):
        cov.cell_coverage(torch.ones(35).bool(), (5, 6))


@pytest.mark.parametrize("chunk", [1 << 20, 1])
@pytest.mark.parametrize("seed", range(100))
def test_distances_hull_and_discrepancy_are_scipys(seed, chunk, monkeypatch):
    monkeypatch.setattr(cov, "_CHUNK", chunk)
    rng = np.random.default_rng(seed)
    grid = (1 + int(rng.integers(12)), 2 + int(rng.integers(11)))
    kept = _kept(3, grid, float(rng.random()), seed)
    kept[:, (seed + 1) % kept.shape[1]] = True  # two at the least
    found = cov.coverage(kept, grid)
    for i, row in enumerate(kept.numpy()):
        points = np.argwhere(row.reshape(grid))
        nearest = cKDTree(points).query(points, k=2)[0][:, 1]
        expected = nearest.mean() / (0.5 / np.sqrt(len(points) / (grid[0] * grid[1])))
        assert float(found["clark_evans"][i]) == pytest.approx(expected)
        empty = distance_transform_edt(~row.reshape(grid)).max() / np.hypot(*grid)
        assert float(found["largest_empty_circle"][i]) == pytest.approx(empty)
        scaled = (points + 0.5) / np.array(grid)
        assert float(found["discrepancy"][i]) == pytest.approx(qmc.discrepancy(scaled, method="CD"))
        corners = (points[:, None] + [[0, 0], [0, 1], [1, 0], [1, 1]]).reshape(-1, 2)
        assert float(found["hull_area"][i]) == pytest.approx(ConvexHull(corners).volume / (grid[0] * grid[1]))


def _slow_hull(points: np.ndarray) -> float:
    """Jarvis' march and the shoelace over the corners of the tokens' squares."""
    corners = sorted({(r + a, c + b) for r, c in points.tolist() for a in (0, 1) for b in (0, 1)})
    hull, at = [], corners[0]
    while True:
        hull.append(at)
        following = corners[0] if corners[0] != at else corners[1]
        for other in corners:
            turn = (following[0] - at[0]) * (other[1] - at[1]) - (following[1] - at[1]) * (other[0] - at[0])
            farther = np.hypot(other[0] - at[0], other[1] - at[1]) > np.hypot(following[0] - at[0], following[1] - at[1])
            if turn < 0 or (turn == 0 and farther):
                following = other
        at = following
        if at == hull[0]:
            break
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(hull, hull[1:] + hull[:1]))) / 2


def test_hull_against_a_march():
    kept = _kept(100, (5, 7), 0.15, seed=3)
    found = cov.coverage(kept, (5, 7))["hull_area"]
    for row, area in zip(kept.numpy(), found):
        assert float(area) == pytest.approx(_slow_hull(np.argwhere(row.reshape(5, 7))) / 35)


def test_hull_of_one_token_a_line_and_all():
    one, line, everything = torch.zeros(3, 36).bool()
    one[7] = line[6:12] = everything[:] = True
    found = cov.coverage(torch.stack([one, line, everything]), (6, 6))["hull_area"]
    assert found.tolist() == pytest.approx([1 / 36, 6 / 36, 1.0])


def test_one_token_all_tokens_and_none():
    kept = torch.stack([torch.arange(36) == 0, torch.ones(36).bool(), torch.zeros(36).bool()])
    found = cov.coverage(kept, (6, 6))
    assert found["clark_evans"][0].isnan() and float(found["clark_evans"][1]) == pytest.approx(2.0)
    assert found["largest_empty_circle"][:2].tolist() == pytest.approx([np.hypot(5, 5) / np.hypot(6, 6), 0.0])
    assert found["cells"].tolist() == [1 / 36, 1.0, 0.0] and float(found["hull_area"][2]) == 0.0
    assert all(found[name][2].isnan() for name in ("clark_evans", "discrepancy", "largest_empty_circle"))
    assert cov.coverage(torch.zeros(0, 36).bool(), (6, 6))["clark_evans"].shape == (0,)


def test_a_cluster_is_told_from_a_lattice():
    rows, columns = np.divmod(np.arange(144), 12)
    lattice, cluster = (rows % 3 == 1) & (columns % 3 == 1), (rows < 4) & (columns < 4)
    found = cov.coverage(np.stack([lattice, cluster]).reshape(1, 2, 144), (12, 12), cells=4)
    assert found["cells"].shape == (1, 2)
    spread, clumped = ({name: float(figure[0, i]) for name, figure in found.items()} for i in (0, 1))
    assert spread["clark_evans"] > 1 > clumped["clark_evans"] and spread["cells"] > clumped["cells"]
    assert spread["hull_area"] > clumped["hull_area"] and spread["discrepancy"] < clumped["discrepancy"]
    assert spread["largest_empty_circle"] < clumped["largest_empty_circle"]


def test_row_and_column_shares():
    kept = _kept(100, (4, 6), 0.4)
    rows, columns = cov.row_share(kept, (4, 6)), cov.column_share(kept, (4, 6))
    assert rows.shape == (100, 4) and columns.shape == (100, 6)
    for i, row in enumerate(kept.numpy().reshape(100, 4, 6)):
        assert rows[i].tolist() == pytest.approx((row.sum(1) / row.sum()).tolist())
        assert columns[i].tolist() == pytest.approx((row.sum(0) / row.sum()).tolist())
    bottom = torch.arange(24) >= 18
    assert cov.row_share(bottom, (4, 6)).tolist() == [0, 0, 0, 1]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))
def test_row_bias_against_a_token_at_a_time(height, width, seed):
    kept = _kept(4, (height, width), 0.3, seed)
    found = cov.row_bias(kept, (height, width))
    for i, row in enumerate(kept.numpy()):
        at, across = np.divmod(np.flatnonzero(row), width)
        position = np.mean(at / (height - 1)) if height > 1 else 0.5
        lower = np.mean([1.0 if 2 * r + 1 > height else 0.5 if 2 * r + 1 == height else 0.0 for r in at])
        assert float(found["row_position"][i]) == pytest.approx(position)
        assert float(found["lower_half"][i]) == pytest.approx(lower)
        for name, places, count in (("row_distance", at, height), ("column_distance", across, width)):
            share = np.bincount(places, minlength=count) / len(places)
            # total variation is the largest difference over events, reached by the event that a place has too much
            assert float(found[name][i]) == pytest.approx((share - 1 / count).clip(0).sum()), name


def test_row_bias_of_extremes():
    top, bottom, everything, nothing = torch.zeros(4, 24).bool()
    top[:6] = bottom[18:] = everything[:] = True
    found = cov.row_bias(torch.stack([top, bottom, everything, nothing]), (4, 6))
    assert found["row_position"][:3].tolist() == pytest.approx([0.0, 1.0, 0.5])
    assert found["lower_half"][:3].tolist() == pytest.approx([0.0, 1.0, 0.5])
    assert found["row_distance"][:3].tolist() == pytest.approx([0.75, 0.75, 0.0])
    assert found["column_distance"][:3].tolist() == pytest.approx([0.0] * 3, abs=1e-12)
    assert all(values[3].isnan() for values in found.values())
    with pytest.raises(ValueError, match="4x5 = 20"):
        cov.row_bias(top, (4, 5))
