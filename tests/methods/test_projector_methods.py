"""Seven methods before the LLM against outputs of their authors' code, and against slow versions, one token at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods import fastervlm, hiprune, hired, mmtok, prunesid, scope, tiles, trim
from methods.check import random_signals
from methods.greedy import covering
from methods.registry import create
from methods.types import Budget, BudgetError, ModelShape, Selection, Signals

GOLDENS = Path(__file__).parent.parent / "data" / "goldens"
SHAPE = ModelShape("s", 36, (6, 6), 4, 16, 2, 32, True, 8, 12, 16, 2, 2, 8, 32, True, 40, joint_width=8, joint_text=(1, 16, 32))
seeds = st.integers(0, 10**6)
QUICK = settings(max_examples=20, deadline=None)


def cases(*methods: str):
    paths = sorted(path for method in methods for path in GOLDENS.glob(f"{method}_*.npz"))
    assert paths, f"no goldens for {methods}"
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def load(path: Path) -> tuple[Signals, dict[str, np.ndarray]]:
    data = dict(np.load(path))
    found = {
        name: torch.from_numpy(value)[None] for name, value in data.items() if not name.startswith("out_") and name != "grid"
    }
    grid = tuple(data["grid"].tolist())
    return Signals(**found, count=grid[0] * grid[1], grid=grid), {k[4:]: v for k, v in data.items() if k.startswith("out_")}


def asked(path: Path) -> int:
    return int(path.stem.split("_k")[1].split("_")[0])


def both(choose, signals: Signals, keep: int) -> list[list[int]]:
    """What is chosen of the file's tensors, and of the same in float64."""
    wide = {name: value.double() for name, value in vars(signals).items() if torch.is_tensor(value)}
    return [choose(one, keep).indices[0].tolist() for one in (signals, Signals(**{**vars(signals), **wide}))]


# outputs of the authors' code


@cases("hiprune-a1", "hiprune-a5")
def test_hiprune(path):
    signals, expected = load(path)
    alpha, keep = float(expected["alpha"]), asked(path)
    for kept in both(hiprune.HiPruneSelector("code", alpha), signals, keep):
        assert set(kept) == set(expected["kept"].tolist()) and kept == sorted(kept)
    anchors = hiprune.top(signals.received_attention_early.mean(1), round(keep * alpha / 5))
    first = {*anchors[0].tolist(), *hiprune.neighbours(anchors, signals.grid, signals.count, "code")[0].tolist()}
    assert first == set(expected["anchors_and_buffers"].tolist())


@cases("trim", "trim-adaptive")
def test_trim(path):
    signals, expected = load(path)
    adaptive = float(expected["ratio"]) == -1
    result = trim.TRIMSelector(adaptive)(signals, 1 if adaptive else asked(path))
    assert result.indices[0].tolist() == [*sorted(expected["kept"].tolist()), -1]
    np.testing.assert_allclose(result.tokens[0].numpy(), expected["tokens"], atol=1e-4)
    assert len(expected["tokens"]) == asked(path)
    assert result.source[0].sum(0).tolist() == [1] * signals.count and result.sizes.sum() == signals.count
    assert len(set(map(tuple, both(trim.TRIMSelector(adaptive), signals, asked(path))))) == 1


@cases("fastervlm")
def test_fastervlm(path):
    signals, expected = load(path)
    for kept in both(fastervlm.select, signals, asked(path)):
        assert kept == sorted(expected["kept"].tolist())


@cases("hired")
def test_hired(path):
    signals, expected = load(path)
    assert int(signals.count * expected["rate"] + 1e-9) == asked(path)
    for kept in both(hired.select, signals, asked(path)):
        assert kept == sorted(expected["kept"].tolist())


@cases("hired", "fastervlm")
def test_hired_of_one_tile_is_fastervlm(path):
    signals, _ = load(path)
    assert torch.equal(hired.select(signals, asked(path)).indices, fastervlm.select(signals, asked(path)).indices)


@cases("hired-tiles1x2", "hired-tiles2x2", "hired-tiles3x1")
def test_hired_of_several_tiles(path):
    signals, expected = load(path)
    number, _, size = signals.cls_attention_tiles.shape[1:]
    total = int(number * size * float(expected["rate"]))
    budgets = hired.tile_budgets(signals.cls_attention_first, number, total, float(expected["alpha"]))
    assert budgets[0].tolist() == expected["budgets"].tolist()
    places = torch.arange(number * size).view(number, size)
    whole = replace(signals, count=number * size, grid=None, tile_places=places)
    kept = hired.HiREDTiles(float(expected["alpha"]))(whole, total).indices[0].tolist()
    assert kept == sorted(expected["kept"].tolist()) and len(kept) == asked(path) <= total


@cases("scope")
def test_scope(path):
    signals, expected = load(path)
    for kept in both(scope.SCOPESelector(float(expected["alpha"])), signals, asked(path)):
        assert set(kept) == set(expected["kept"].tolist())
        same = int(expected["same_order_until"])
        assert kept[:same] == expected["kept"].tolist()[:same]


@cases("prunesid")
def test_prunesid(path):
    signals, expected = load(path)
    keep = asked(path)
    assert int(expected["groups"]) == keep // 4
    assert prunesid.components(signals.vision_features, keep // 4)[0].tolist() == expected["group"].tolist()
    for kept in both(prunesid.PruneSIDSelector(True), signals, keep):
        assert kept == [-1, *(place for place in expected["kept"].tolist() if place >= 0)]
    tokens = prunesid.PruneSIDSelector(True)(signals, keep).tokens[0]
    assert torch.equal(tokens[0], signals.cls_feature[0])
    assert torch.equal(tokens[1:], signals.vision_features[0, expected["kept"][expected["kept"] >= 0]])


@cases("mmtok", "mmtok-padding")
def test_mmtok(path):
    signals, expected = load(path)
    select = mmtok.MMTokSelector(*(float(expected[name]) for name in ("tv_temperature", "vv_temperature", "alpha")))
    excluded = torch.zeros(1, signals.count, dtype=torch.bool)
    excluded[:, expected["excluded"]] = True
    choose = lambda given_, keep: Selection(select.chosen(given_, keep, excluded))
    for order in both(choose, signals, asked(path)):
        assert set(order) == set(expected["kept"].tolist())
        same = int(expected["same_order_until"])
        assert order[:same] == expected["order"].tolist()[:same]
    if not len(expected["excluded"]):
        assert select(signals, asked(path)).indices[0].tolist() == order


def test_how_far_the_two_rules_of_hiprune_lie_apart():
    """The figure of the docstring: mean Jaccard of what they keep of the files' inputs."""
    found = []
    for path in sorted([*GOLDENS.glob("hiprune-a1_*.npz"), *GOLDENS.glob("hiprune-a5_*.npz")]):
        signals, expected = load(path)
        kept = [
            set(hiprune.HiPruneSelector(rule, float(expected["alpha"]))(signals, asked(path)).indices[0].tolist())
            for rule in ("paper", "code")
        ]
        found.append(len(kept[0] & kept[1]) / len(kept[0] | kept[1]))
    assert f"a mean Jaccard of {np.mean(found):.3f}" in " ".join(hiprune.HiPrune.__doc__.split()), np.mean(found)


# slow versions, one token at a time


def cos(a, b) -> float:
    return float(np.dot(a, b) / max(np.linalg.norm(a), 1e-12) / max(np.linalg.norm(b), 1e-12))


def by_score(scores) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def drawn(seed: int, batch: int = 2, count: int = 36, width: int = 16) -> Signals:
    """Random signals in float64, of a grid of nine columns, wider than tokens are many where asked."""
    whole = random_signals(batch, count, seed=seed)
    wide = {n: v.double() for n, v in vars(whole).items() if torch.is_tensor(v) and v.is_floating_point()}
    g = torch.Generator().manual_seed(seed)
    wide["vision_features"] = torch.randn(batch, count, width, generator=g, dtype=torch.float64)
    wide["cls_feature"] = torch.randn(batch, width, generator=g, dtype=torch.float64)
    return replace(whole, **wide, grid=(count // 9, 9))


@QUICK
@given(seed=seeds, keep=st.integers(1, 36), alpha=st.sampled_from([0.0, 0.1, 0.5, 1.0]), rule=st.sampled_from(["paper", "code"]))
def test_hiprune_slowly(seed, keep, alpha, rule):
    signals = drawn(seed)
    got = hiprune.HiPruneSelector(rule, alpha)(signals, keep).indices
    for row in range(2):
        early, deep = (table[row].mean(0).tolist() for table in (signals.received_attention_early, signals.received_attention))
        anchors = by_score(early)[: round(keep * alpha / 5)]
        beside: set[int] = set()
        for anchor in anchors:
            if rule == "code":
                beside |= {min(max(anchor + step, 0), 35) for step in (-1, 1, -9, 9)}
            else:
                y, x = divmod(anchor, 9)
                beside |= {v * 9 + u for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)) if 0 <= v < 4 and 0 <= u < 9}
        order = by_score(deep)
        kept = [i for i in order if i in anchors] + [i for i in order if i in beside - set(anchors)]
        kept += [i for i in order if i not in kept]
        assert got[row].tolist() == sorted(kept[:keep])


@QUICK
@given(seed=seeds, keep=st.integers(1, 36), adaptive=st.booleans())
def test_trim_slowly(seed, keep, adaptive):
    signals = drawn(seed)
    for row in range(2):
        one = Signals(**{n: v[row : row + 1] if torch.is_tensor(v) else v for n, v in vars(signals).items()} | {"batch": 1})
        result = trim.TRIMSelector(adaptive)(one, keep)
        text, tokens = signals.text_embeds[row, 0].tolist(), signals.vision_features[row].numpy()
        score = [-sum(a * b for a, b in zip(patch.tolist(), text)) for patch in signals.image_embeds[row]]
        mass = sum(np.exp(score))
        chance = [np.exp(s) / mass for s in score]
        many = keep - 1
        if adaptive:
            low, high = np.quantile(chance, 0.25), np.quantile(chance, 0.75)
            many = max(1, sum(p > high + 1.5 * (high - low) for p in chance))
        kept = sorted(by_score(chance)[:many])
        assert result.indices[0].tolist() == [*kept, -1]
        mean = np.mean([tokens[i] for i in range(36) if i not in kept], 0)
        np.testing.assert_allclose(result.tokens[0].numpy(), np.stack([*(tokens[i] for i in kept), mean]), rtol=1e-12, atol=1e-12)


def test_trim_without_an_outlier_keeps_the_best_and_the_mean():
    signals = replace(
        drawn(3, 1), image_embeds=torch.eye(36, dtype=torch.float64)[None], text_embeds=torch.ones(1, 1, 36).double()
    )
    assert trim.TRIMSelector(True)(signals, 7).indices.tolist() == [[0, -1]]


@QUICK
@given(seed=seeds, keep=st.integers(1, 36))
def test_fastervlm_and_hired_slowly(seed, keep):
    signals = drawn(seed)
    for select in (fastervlm.select, hired.select):
        got = select(signals, keep).indices
        for row in range(2):
            assert got[row].tolist() == sorted(by_score(signals.cls_attention[row].sum(0).tolist())[:keep])


@QUICK
@given(seed=seeds, total=st.integers(2, 180), alpha=st.sampled_from([0.3, 0.5, 1.0]), number=st.integers(1, 6))
def test_hired_of_tiles_slowly(seed, total, alpha, number):
    g = torch.Generator().manual_seed(seed)
    attention, first = torch.rand(1, number, 2, 36, generator=g), torch.rand(1, 2, 36, generator=g)
    total = min(total, number * 36)
    overview = min(int(total * alpha), 36) if number > 1 else total
    rest = min(total - overview, (number - 1) * 36)
    marked = by_score(first[0].double().sum(0).tolist())[: int(36 * (1 - alpha))]
    budgets = [overview]
    for tile in range(number - 1):
        part = [i for i in marked if i * (number - 1) // 36 == tile]
        budgets.append(min(int(np.float32(len(part) / max(len(marked), 1)) * np.float32(rest)), 36))
    kept = []
    for tile, budget in enumerate(budgets):
        kept += [tile * 36 + i for i in sorted(by_score(attention[0, tile].double().sum(0).tolist())[:budget])]
    whole = Signals(cls_attention_tiles=attention, cls_attention_first=first, count=number * 36)
    assert hired.tile_budgets(first, number, total, alpha)[0].tolist() == budgets
    assert hired.HiREDTiles(alpha)(whole, total).indices[0].tolist() == kept
    gone = torch.rand(number * 36, generator=g) < 0.3
    places = torch.where(gone, -1, (~gone).cumsum(0) - 1)
    unpadded = replace(whole, count=int((~gone).sum()), tile_places=places.view(number, 36))
    expected = [int(places[i]) for i in kept if not gone[i]]
    assert hired.HiREDTiles(alpha)(unpadded, total).indices[0].tolist() == expected


def slow_covering(rows, keep, weight, barred=()) -> list[int]:
    """Gains summed afresh each time."""
    best, kept = [0.0] * len(rows), []
    while len(kept) < keep:
        gain = lambda j: np.float32(weight[j] / max(weight) * sum(max(0.0, row[j] - b) for row, b in zip(rows, best)))
        kept.append(max((j for j in range(len(rows[0])) if j not in kept and j not in barred), key=lambda j: (gain(j), -j)))
        best = [max(row[kept[-1]], b) for row, b in zip(rows, best)]
    return kept


@QUICK
@given(seed=seeds, keep=st.integers(1, 12), barred=st.sets(st.integers(0, 13), max_size=2))
def test_covering_slowly(seed, keep, barred):
    g = torch.Generator().manual_seed(seed)
    rows, weight = torch.randn(3, 20, 14, generator=g, dtype=torch.float64), torch.rand(3, 14, generator=g, dtype=torch.float64)
    mask = torch.zeros(3, 14, dtype=torch.bool)
    mask[:, sorted(barred)] = True
    before = rows.clone()
    got, alone = (
        covering(rows, keep, weight, mask),
        [covering(rows[i : i + 1], keep, weight[i : i + 1], mask[:1]) for i in range(3)],
    )
    assert torch.equal(rows, before)
    for row in range(3):
        expected = slow_covering(rows[row].tolist(), keep, weight[row].tolist(), barred)
        assert got[row].tolist() == expected == alone[row][0].tolist()


@QUICK
@given(seed=seeds, keep=st.integers(1, 36), alpha=st.sampled_from([0.0, 1.0, 2.0]))
def test_scope_slowly(seed, keep, alpha):
    signals = drawn(seed)
    got = scope.SCOPESelector(alpha)(signals, keep).indices
    for row in range(2):
        tokens = signals.vision_features[row].numpy()
        alike = [[cos(a, b) for b in tokens] for a in tokens]
        weight = [a**alpha for a in signals.cls_attention[row].sum(0).tolist()]
        assert got[row].tolist() == slow_covering(alike, keep, weight)


@QUICK
@given(seed=seeds, keep=st.integers(1, 36), alpha=st.sampled_from([0.0, 0.5]))
def test_mmtok_slowly(seed, keep, alpha):
    signals = drawn(seed)
    got = mmtok.MMTokSelector(0.02, 0.2, alpha)(signals, keep).indices
    for row in range(2):
        states, tower, words = (
            table[row].numpy() for table in (signals.features, signals.vision_features, signals.text_features)
        )
        softmax = lambda scores: np.exp(np.array(scores) - max(scores)) / np.exp(np.array(scores) - max(scores)).sum()
        rows = [softmax([cos(word, state) / 0.02 for state in states]) / len(words) for word in words]
        rows += [softmax([cos(a, b) / 0.2 for b in tower]) * alpha / 36 for a in tower]
        found = got[row].tolist()
        best = np.zeros(len(rows))
        for place, chosen in enumerate(found):  # gains end at 0 to rounding, so each is held to the greatest
            gains = np.maximum(0, np.array(rows) - best[:, None]).sum(0)
            open_ = [j for j in range(36) if j not in found[:place]]
            assert gains[chosen] >= max(gains[j] for j in open_) - 1e-12
            best = np.maximum(best, np.array(rows)[:, chosen])
        assert len(set(found)) == keep


@QUICK
@given(seed=seeds, keep=st.integers(1, 36), with_cls=st.booleans())
def test_prunesid_slowly(seed, keep, with_cls):
    signals = drawn(seed, width=48)
    got = prunesid.PruneSIDSelector(with_cls)(signals, keep)
    for row in range(2):
        tokens, score = signals.vision_features[row].numpy(), signals.cls_attention[row].sum(0).tolist()
        number, patches = max(1, keep // 4), keep - with_cls
        sigmoid = (1 / (1 + np.exp(-tokens))).T
        vectors = np.linalg.svd(sigmoid - sigmoid.mean(0), full_matrices=False)[2][:number]
        group = [int(np.argmax(np.abs(vectors[:, i]))) for i in range(36)]
        mean = np.mean([cos(tokens[i], tokens[j]) for i in range(36) for j in range(i + 1, 36)])
        ranked, sizes, survivors = [], [], []
        for g in range(number):
            left, alive = [i for i in by_score(score) if group[i] == g], []
            sizes.append(len(left))
            while left:
                alive.append(left.pop(0))
                left = [i for i in left if not cos(tokens[i], tokens[alive[-1]]) > keep / 32 * mean]
            survivors.append(len(alive))
            ranked.append(alive + [i for i in by_score(score) if group[i] == g and i not in alive])
        low = [min(1, n, patches) for n in sizes]
        up = [min(5 * -(-keep // 64), n, s) for n, s in zip(sizes, survivors)]
        while sum(up) < keep:
            up = [min(u + 1, n) for u, n in zip(up, sizes)]
        other = max(0, patches - sum(low))
        share = np.cumsum(np.array(survivors, np.float32) / np.float32(sum(survivors)), dtype=np.float32)
        ends = [0, *(int(np.round(np.float32(other) * s)) for s in share)]
        quota = [min(b - a + one, u) for a, b, one, u in zip(ends, ends[1:], low, up)]
        for g in by_score(survivors):
            quota[g] += min(up[g] - quota[g], patches - sum(quota))
        kept = [i for g in range(number) for i in ranked[g][: quota[g]]]
        assert got.indices[row].tolist() == [-1] * with_cls + kept and len(kept) == patches
        assert torch.equal(got.tokens[row, int(with_cls) :], signals.vision_features[row, kept])


# tiles


def tiled(seed: int, number: int, removed: int) -> tuple[Signals, torch.Tensor]:
    """An image of an overview and further tiles of 6 x 6, tokens laid out in a random order; columns taken by unpadding."""
    left = torch.ones(number, 6, 6, dtype=torch.bool)
    for tile in range(1, number):
        left[tile, :, 6 - removed * (tile % 2) :] = False
    count = int(left.sum())
    places = torch.full((number, 36), -1)
    places[left.view(number, 36)] = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    grids = tuple(tiles.grid_left(row, (6, 6)) for row in places)
    return replace(random_signals(2, count, seed=seed), grid=None, tile_places=places, tile_grids=grids), places


PER_TILE = ["hiprune", "hiprune[rule=code,alpha=1]", "fastervlm", "scope", "mmtok", "prunesid"]


@pytest.mark.parametrize("expression", PER_TILE)
@given(seed=seeds, number=st.integers(2, 5), removed=st.integers(0, 5), part=st.integers(1, 6))
@settings(max_examples=10, deadline=None)
def test_tiles_choose_as_each_does_alone(expression, seed, number, removed, part):
    signals, places = tiled(seed, number, removed)
    shape = replace(SHAPE, visual_tokens=signals.count, tiles=number, grid=(1, signals.count))
    (step,) = create(expression).steps(shape, Budget(part * number + number - 1))
    assert step.keep == step.after == part * number and step.flops > 0 and not step.adaptive
    result = step.select(signals.only(step.needs), step.keep)
    (single,) = create(expression).steps(SHAPE, Budget(part))
    start = 0
    for tile in range(number):
        own = places[tile][places[tile] >= 0]
        parts = {
            name: getattr(signals, name).index_select(axis + 1, own)
            for name, axis in tiles.TOKEN_AXES.items()
            if getattr(signals, name) is not None
        }
        alone = replace(signals, **parts, count=len(own), grid=(6, len(own) // 6), tile_places=None)
        select = prunesid.PruneSIDSelector(False) if expression == "prunesid" and tile else single.select
        found = select(alone.only(single.needs), part)
        here = result.indices[:, start : start + part]
        assert torch.equal(here, torch.where(found.indices >= 0, own[found.indices.clamp_min(0)], -1))
        if found.tokens is not None:
            torch.testing.assert_close(result.tokens[:, start : start + part], found.tokens)
            real = here >= 0
            assert torch.equal(result.source.long().argmax(-1)[:, start : start + part][real], here[real])
        if found.scores is not None:
            torch.testing.assert_close(result.scores[:, own], found.scores)
        start += part
    assert start == result.indices.shape[1]


def test_what_a_tile_has_no_room_for_goes_to_the_next():
    assert tiles.share_out(50, [36, 3, 36, 36, 0]) == [20, 3, 17, 10, 0]
    assert tiles.share_out(50, [36, 3, 14, 36, 0]) == [20, 3, 14, 13, 0]
    assert tiles.share_out(9, [4, 0]) == [4, 0]
    assert tiles.share_out(53, [36] * 5) == [10] * 5


@pytest.mark.parametrize("expression", PER_TILE)
def test_a_tile_without_room_leaves_the_count_exact(expression):
    signals, places = tiled(3, 3, 5)  # the second tile has one column of six
    (step,) = create(expression).steps(replace(SHAPE, visual_tokens=signals.count, tiles=3), Budget(47))
    assert step.keep == 45
    chosen = step.select(signals.only(step.needs), 45).indices
    own = set(places[1][places[1] >= 0].tolist())
    assert chosen.shape == (2, 45)
    for row in chosen.tolist():
        real = [place for place in row if place >= 0]
        assert len(set(real)) == len(real) and own <= set(real) and len(real) == 45 - (expression == "prunesid")


@pytest.mark.parametrize("expression", PER_TILE)
def test_fewer_tokens_than_tiles_are_refused(expression):
    with pytest.raises(BudgetError, match="a token of each of 5 tiles or images"):
        create(expression).steps(replace(SHAPE, tiles=5), Budget(4))


@pytest.mark.parametrize("expression", PER_TILE)
def test_a_budget_of_flops_is_met_tile_by_tile(expression):
    big = replace(SHAPE, visual_tokens=180, tiles=5, layers=24, width=512, mlp=1024)
    try:
        (step,) = create(expression).steps(big, Budget(90, "flops"))
    except BudgetError as error:
        assert "GFLOPs" in str(error)
    else:
        assert step.keep % 5 == 0 and step.keep <= 90


def test_hired_needs_what_the_image_asks_for():
    (one,), (several,) = (create("hired").steps(replace(SHAPE, tiles=number), Budget(20)) for number in (1, 5))
    assert one.needs == {"cls_attention"} and not one.adaptive
    assert several.needs == {"cls_attention_tiles", "cls_attention_first"} and several.adaptive
    with pytest.raises(BudgetError, match="leaves 2 tokens"):
        create("hired").steps(replace(SHAPE, tiles=5), Budget(1))


def test_what_several_tiles_name_belongs_to_the_first():
    """Of a joint grid of 4 x 8 shrunk to 3 x 6 behind an overview of 4 x 4: some tokens of a tile, and of two, became one."""
    row, column = (torch.arange(4) * 3) // 4, (torch.arange(8) * 6) // 8
    joint = 16 + row[:, None] * 6 + column
    places = torch.stack([torch.arange(16), joint[:, :4].flatten(), joint[:, 4:].flatten()])
    own = tiles.once(places)
    grids = tuple(tiles.grid_left(one, (4, 4)) for one in own)
    assert grids == ((4, 4), (3, 3), (3, 3))
    assert sorted(own[own >= 0].tolist()) == list(range(34))
    signals = replace(random_signals(2, 34, seed=1), grid=None, tile_places=places, tile_grids=grids)
    for expression in PER_TILE:
        (step,) = create(expression).steps(replace(SHAPE, visual_tokens=34, tiles=3), Budget(24))
        for kept in step.select(signals.only(step.needs), 24).indices.tolist():
            assert len({place for place in kept if place >= 0}) == 24 - (expression == "prunesid")
    g = torch.Generator().manual_seed(0)
    rand = lambda *size: torch.rand(1, *size, generator=g)
    attention = {"cls_attention_tiles": rand(3, 2, 16), "cls_attention_first": rand(2, 16)}
    kept = hired.HiREDTiles(0.5)(replace(signals, **attention, batch=1), 24).indices[0].tolist()
    assert kept == sorted(set(kept)) and len(kept) <= 24


def test_what_is_left_of_a_tile_is_a_grid():
    places = torch.arange(36).view(6, 6)
    assert tiles.grid_left(places.flatten(), (6, 6)) == (6, 6)
    assert tiles.grid_left(places.flatten(), (4, 9)) == (4, 9)
    padded = torch.cat([places.flatten()[:12], torch.full((24,), -1)])
    assert tiles.grid_left(padded, (2, 6)) == (2, 6) and tiles.grid_left(padded, (3, 4)) == (3, 4)
    taken = places.clone()
    taken[:2] = -1
    assert tiles.grid_left(taken.flatten(), (6, 6)) == (4, 6)
    taken[3, 3] = -1
    assert tiles.grid_left(taken.flatten(), (6, 6)) is None


def test_no_grid_of_a_tile_is_guessed_from_a_count():
    signals, _ = tiled(3, 3, 0)
    (step,) = create("hiprune").steps(replace(SHAPE, visual_tokens=108, tiles=3), Budget(75))
    with pytest.raises(BudgetError, match="full grid"):
        step.select(replace(signals, tile_grids=None).only(step.needs), 75)


@pytest.mark.parametrize("expression", ["hired", "prunesid"])
def test_several_images_in_a_prompt_are_refused(expression):
    several = replace(SHAPE, visual_tokens=72, tiles=2)
    assert create(expression).steps(several, Budget(20)), "of one image's tiles they choose"
    with pytest.raises(BudgetError, match="several images in a prompt"):
        create(expression).steps(replace(several, images=2), Budget(20))


def test_hiprune_says_that_it_needs_a_grid():
    with pytest.raises(BudgetError, match="full grid"):
        hiprune.HiPruneSelector("paper", 1.0)(replace(drawn(1), grid=None), 10)


@pytest.mark.parametrize(
    "expression",
    ["hiprune[alpha=2]", "hired[alpha=0]", "scope[alpha=-1]", "mmtok[text_temperature=0]", "mmtok[alpha=-1]", "hiprune[rule=x]"],
)
def test_wrong_parameters_are_refused(expression):
    with pytest.raises(ValueError, match=r"must|rule"):
        create(expression)
