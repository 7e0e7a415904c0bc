"""The analysis of kept tokens against the metrics called on one kept set at a time."""

import numpy as np
import pytest
import torch

from harness.engine.recorder import Recorder
from harness.engine.request import EngineRequest
from harness.run.analysis import TokenAnalysis, null_size
from harness.run.config import CompareConfig
from harness.run.plan import make_cells
from metrics.attention import attention_figures
from metrics.collapse import cluster_visits, percentiles, random_subsets, set_hashes, thinned, token_clusters
from metrics.coverage import coverage, row_bias
from metrics.diversity import diversity, representation
from metrics.figures import BIAS, FIGURES, LAYERS, SCORES
from metrics.matched import row_matched_subsets
from metrics.subsets import Space, figures, spread


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
        seed, size = work.batch.image_seeds[image : image + 1], len(places)
        held, ties = places[None], set_hashes(576, places[None, None], seed)[0]
        if method == "sparsevlm":
            held = thinned(576, held, null_size(size), ties)
            ties = set_hashes(576, held[None], seed)[0]
        subsets = random_subsets(576, held.shape[1], generator_seed=seed)
        value = diversity(work.projected[image][held])["effective_rank"]
        chance = diversity(work.projected[image][subsets[0]])["effective_rank"]
        z = (float(value) - float(chance.mean())) / float(chance.std())
        assert found.numbers["z_effective_rank"][row] == pytest.approx(z, abs=1e-4)
        rank = percentiles(value, chance[None], ties, set_hashes(576, subsets, seed))
        assert found.numbers["percentile_effective_rank"][row] == pytest.approx(float(rank))
    if method in ("random", "sts", "oracle"):
        assert set(found.numbers) & set(SCORES) == (set(SCORES) if method == "sts" else set())


def test_sets_of_sizes_that_differ_by_question_are_held_against_sets_of_their_size(work, cells):
    """Of a method whose questions keep other counts: where it chooses at random, z has mean 0 and deviation 1."""
    from types import SimpleNamespace

    from harness.engine.batch import EngineOutput

    cell = SimpleNamespace(prunes=True, reads_text=True, steps=[SimpleNamespace(after=72, keep=80)], merges=False, grid=None)
    image = torch.arange(3).repeat_interleave(64)
    analyst = TokenAnalysis(work.projected, (24, 24), image, work.batch.image_seeds, None, [f"q{i}" for i in range(192)])
    g = torch.Generator().manual_seed(0)
    kept = torch.rand(192, 576, generator=g).argsort(-1)[:, :79]
    kept[torch.arange(79) >= torch.randint(65, 80, (192, 1), generator=g)] = -1
    numbers = analyst.run(cell, EngineOutput([], torch.zeros(0), kept, kept, (24, 24)), Recorder()).numbers
    assert set(analyst.nulls) == {64, 72}
    for name in FIGURES:
        z, percentile = numbers[f"z_{name}"], numbers[f"percentile_{name}"]
        assert abs(z.mean()) < 0.45 and 0.75 < z.std() < 1.35, name
        assert abs(percentile.mean() - 0.5) < 0.12 and 0.22 < percentile.std() < 0.36, name
    row = numbers["effective_rank"][5]
    alone = figures(analyst.space, image[5:6], kept[5:6][kept[5:6] >= 0][None])["effective_rank"]
    assert row == pytest.approx(float(alone))  # the figure itself is of all kept tokens


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
