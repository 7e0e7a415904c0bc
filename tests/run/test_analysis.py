"""The analysis of kept tokens against the metrics called on one kept set at a time."""

import numpy as np
import pytest
import torch

from harness.engine.recorder import Recorder
from harness.engine.request import EngineRequest
from harness.run.analysis import TokenAnalysis, interpolation_sizes
from harness.run.config import CompareConfig
from harness.run.plan import make_cells
from metrics.attention import attention_figures
from metrics.collapse import cluster_visits, random_subsets, token_clusters, z_scores
from metrics.coverage import coverage, row_bias
from metrics.diversity import diversity, representation
from metrics.figures import BIAS, FIGURES, LAYERS, SCORES
from metrics.matched import row_matched_subsets
from metrics.subsets import Space, figures, null, spread


@pytest.fixture(scope="module")
def cells(work):
    config = CompareConfig(
        methods=("random", "sts", "fastv", "sparsevlm", "visionzip", "vtw", "tome", "pyramiddrop"), keep=("192",)
    )
    return {cell.method: cell for cell in make_cells(config, work.engine.adapter.shape, True)}


def run(work, cell):
    recorder = Recorder(attention=True)
    output = work.engine.run(
        EngineRequest(work.batch, cell.steps, cell.object.positions, None if cell.in_tower else work.shared, recorder=recorder)
    )
    return output, recorder, work.analyst.run(cell, output, recorder)


@pytest.mark.parametrize("method", ["random", "sts", "fastv", "sparsevlm", "oracle"])
def test_figures_of_kept_sets_one_at_a_time(work, cells, method):
    output, _, found = run(work, cells[method])
    for row in (0, 8, 26):
        image = int(work.batch.image[row])
        places = output.kept[row][output.kept[row] >= 0]
        mask = torch.zeros(1, 576, dtype=torch.bool)
        mask[0, places] = True
        visits = cluster_visits(token_clusters(work.projected[image : image + 1]), mask)
        slow = {
            **diversity(work.projected[image, places]), **representation(work.projected[image : image + 1], mask),
            **coverage(mask, (24, 24)), "clusters_visited": visits["visited"], "largest_cluster": visits["largest"],
            **row_bias(mask, (24, 24)),
        }  # fmt: skip
        for name in (*FIGURES, *BIAS):
            assert found.numbers[name][row] == pytest.approx(float(slow[name]), abs=1e-6), name
        z = 0.0
        for count, weight in interpolation_sizes(len(places), 576).items() if method == "sparsevlm" else [(len(places), 1.0)]:
            subsets = random_subsets(576, count, generator_seed=work.batch.image_seeds[image : image + 1])[0]
            chance = diversity(work.projected[image][subsets])["effective_rank"]
            z += weight * (float(slow["effective_rank"]) - float(chance.mean())) / float(chance.std())
        assert found.numbers["z_effective_rank"][row] == pytest.approx(z, abs=1e-4)
    if method in ("random", "sts", "oracle"):
        assert set(found.numbers) & set(SCORES) == (set(SCORES) if method == "sts" else set())


def test_between_rungs_chance_is_what_it_is_there(work):
    """Interpolated z and percentiles of random sets have the mean and spread that chance has."""
    space, seeds = Space.of(work.projected, (24, 24)), work.batch.image_seeds
    for count in (70, 88, 121):
        sets = random_subsets(576, count, generator_seed=seeds + 1).flatten(0, 1)  # [3 * 64, K]
        images = torch.arange(3).repeat_interleave(len(sets) // 3)
        values = figures(space, images, sets)["effective_rank"]
        z = torch.zeros(len(sets), dtype=torch.float64)
        for size, weight in interpolation_sizes(count, 576).items():
            chance = null(space, size, seeds)["effective_rank"]
            z += weight * z_scores(values, chance[images])[0]
        assert abs(float(z.mean())) < 0.35
        assert 0.8 < float(z.std()) < 1.25
    assert interpolation_sizes(63, 576) == {63: 1.0}
    assert interpolation_sizes(96, 576) == {96: 1.0}
    assert interpolation_sizes(570, 571) == {560: pytest.approx(1 / 11), 571: pytest.approx(10 / 11)}


def test_random_tokens_are_at_chance_and_their_rows_explain_nothing(work, cells):
    _, _, found = run(work, cells["random"])
    assert abs(np.nanmean(found.numbers["z_effective_rank"])) < 2 and abs(np.nanmean(found.numbers["row_z_effective_rank"])) < 2
    assert np.isfinite(found.numbers["row_z_mean_cosine"]).sum() == 27  # one kept set an image, which its questions share


@pytest.mark.parametrize("method", ["none", "fastv", "sparsevlm", "pyramiddrop", "tome", "vtw", "visionzip"])
def test_layers(work, cells, method):
    _, recorder, found = run(work, cells[method])
    assert found.layers.shape == (27, 12, len(LAYERS)) and found.layers.dtype == np.float32
    table = dict(zip(LAYERS, np.moveaxis(found.layers, 2, 0), strict=True))
    assert np.isfinite(table["mass"]).all() and (table["mass"] >= 0).all() and (table["mass"] <= 1 + 1e-6).all()
    if method in ("tome", "visionzip"):
        assert np.isnan(table["recall"]).all() and np.isnan(table["evidence_mass"]).all()
        return
    evidence = work.batch.evidence
    known = evidence.any(1).numpy()
    assert (np.isfinite(table["recall"]).all(1) == known).all() and (np.isfinite(table["evidence_top"]).all(1) == known).all()
    for row in (0, 13, 26):
        for layer in (0, 3, 11):
            ids = recorder.ids[layer][row]
            if not known[row] or not len(ids):
                continue
            here = ids[ids >= 0]
            assert table["recall"][row, layer] == pytest.approx(float(evidence[row, here].sum() / evidence[row].sum()), abs=1e-6)
            weights = recorder.attention_rows[layer][row]
            best = ids[weights.argsort(descending=True, stable=True)[: -(-len(ids) // 10)]]
            top = float(evidence[row, best[best >= 0]].sum() / evidence[row].sum())
            assert table["evidence_top"][row, layer] == pytest.approx(top, abs=1e-6)
    if method == "none":
        slow = attention_figures(recorder.attention_rows[5], evidence)
        assert table["evidence_mass"][known, 5] == pytest.approx(slow["evidence_mass"][known].numpy(), abs=1e-6)
    if method == "vtw":
        gone = cells["vtw"].steps[0].site.layer
        assert (table["mass"][:, gone:] == 0).all() and (table["recall"][known, gone:] == 0).all()


def test_mergers_have_no_chance(work, cells):
    _, _, found = run(work, cells["visionzip"])
    assert not set(found.numbers) & set(FIGURES) and set(SCORES) <= set(found.numbers)


@pytest.mark.parametrize("seed", range(100))
def test_row_matched_subsets_against_counts(seed):
    g = torch.Generator().manual_seed(seed)
    height, width = (int(torch.randint(1, 7, (1,), generator=g)) for _ in range(2))
    keep = int(torch.randint(1, height * width + 1, (1,), generator=g))
    places = torch.stack([torch.randperm(height * width, generator=g)[:keep].sort().values for _ in range(3)])
    seeds = torch.randint(1 << 40, (3,), generator=g)
    found = row_matched_subsets(places, (height, width), seeds, 5)
    assert found.shape == (3, 5, keep) and (found.diff(dim=-1) > 0).all()
    for own, subsets in zip(places, found, strict=True):
        counts = torch.bincount(own // width, minlength=height)
        assert all(torch.equal(torch.bincount(subset // width, minlength=height), counts) for subset in subsets)
    assert torch.equal(found[1:2], row_matched_subsets(places[1:2], (height, width), seeds[1:2], 5))


def test_row_matched_subsets_are_uniform_within_a_row():
    found = row_matched_subsets(torch.tensor([[0, 7, 8]]), (2, 5), torch.tensor([3]), 5000)[0]
    counts = torch.bincount(found.flatten(), minlength=10)
    assert counts[:5].sum() == 5000 and counts[5:].sum() == 10000
    assert counts[:5].min() > 880 and counts[:5].max() < 1120 and counts[5:].min() > 1800 and counts[5:].max() < 2200


def test_spread_is_that_of_all_figures():
    g = torch.Generator().manual_seed(0)
    space = Space.of(torch.randn(2, 12, 5, generator=g), (3, 4))
    for keep in (1, 2, 7, 12):
        chosen = torch.stack([torch.randperm(12, generator=g)[:keep] for _ in range(6)])
        images = torch.tensor([0, 0, 1, 1, 0, 1])
        slow, fast = figures(space, images, chosen), spread(space, images, chosen)
        for name, values in fast.items():
            torch.testing.assert_close(values, slow[name], atol=1e-6, rtol=1e-6, equal_nan=True)


def test_kept_sets_of_different_sizes(work):
    """Rows that recycled differently hold different numbers of tokens with a place."""
    from dataclasses import replace

    from harness.engine.batch import EngineOutput

    analyst = TokenAnalysis(
        work.projected, (24, 24), work.batch.image, work.batch.image_seeds, None, [f"q{i}" for i in range(27)]
    )
    config = CompareConfig(methods=("fastv",), keep=("192",))
    cell = next(c for c in make_cells(config, work.engine.adapter.shape, True) if c.method == "fastv")
    kept = torch.arange(20).repeat(27, 1)
    kept[::2, 15:] = -1
    output = EngineOutput([], torch.zeros(0), kept, kept, (24, 24))
    numbers = analyst.run(cell, output, Recorder()).numbers
    few = analyst.run(cell, replace(output, kept=kept[:, :15]), Recorder()).numbers
    assert (numbers["effective_rank"][::2] == pytest.approx(few["effective_rank"][::2])) and numbers["hull_area"][1] > 0
    empty = analyst.run(cell, replace(output, kept=torch.full((27, 3), -1)), Recorder()).numbers
    assert np.isnan(empty["effective_rank"]).all()


def test_further_seeds_are_those_of_a_run_with_that_seed(work, cells):
    from harness.run.batch_run import BatchRun

    found = work.run(cells["random"], seeds=(5,))
    other = BatchRun(work.engine, work.task, work.samples, seed=5).run(cells["random"])
    assert [(row.question, 5, row.score, row.read) for row in other.samples] == found.repeats
    assert [row.kept for row in other.samples] != [row.kept for row in found.samples]
