"""Tokens leave and merge inside the vision tower: against the blocks of transformers, run one by one by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness.engine.request import EngineRequest
from methods.registry import create
from methods.schedule import schedule
from methods.types import LAST_BLOCK, PROJECTOR, Budget, Selection, Signals, Step, TowerRead, vision
from tests.engine.test_engine import masked_recompute

IN_BLOCK = frozenset({"vision_features", "cls_attention", "vision_values_full", "cls_value_full", "carry"})


class Falling:
    """Keeps the tokens of largest attention from CLS times the norm of their values, plus half of what they scored before."""

    def __init__(self) -> None:
        self.seen: list[Signals] = []

    def __call__(self, signals: Signals, keep: int) -> Selection:
        self.seen.append(signals)
        likeness = torch.einsum("bd,bnd->bn", signals.cls_value_full, signals.vision_values_full).tanh()
        score = signals.cls_attention.mean(1) * signals.vision_values_full.norm(dim=-1) * (2 + likeness)
        if signals.carry is not None:
            score = score + signals.carry / 2
        kept = score.topk(keep).indices.sort(-1).values
        return Selection(kept, carry=score.gather(1, kept))


def attended(block, hidden):
    """A block's first half by the modules of transformers: states behind it, attention, values with heads joined."""
    layer = block.module
    normed, attention = layer.layer_norm1(hidden), layer.self_attn
    split = lambda table: table.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    q, k, v = (split(part(normed)) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
    weights = (q @ k.transpose(2, 3) * attention.scale).softmax(-1)
    out = attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return hidden + out, weights, v.transpose(1, 2).flatten(2)


@torch.inference_mode()
def test_pruning_inside_the_tower_equals_a_slow_version(work):
    adapter = work.engine.adapter
    keeps, select = {1: 400, 3: 150}, Falling()
    steps = tuple(Step(vision(block), select, keep, keep, IN_BLOCK) for block, keep in keeps.items())
    tower = work.engine.encode_images(work.batch.pixels, steps)
    seen = iter(select.seen)
    hidden, places, carry, counts = adapter.blockwise_tower.enter(work.batch.pixels.stack()), None, None, ([], [])
    places = torch.arange(576).expand(len(hidden), -1)
    for index, block in enumerate(adapter.blocks):
        counts[0].append(hidden.shape[1])
        hidden, weights, values = attended(block, hidden)
        if index in keeps:
            given = next(seen)
            torch.testing.assert_close(given.vision_features, hidden[:, 1:], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(given.cls_attention, weights[:, :, 0, 1:], atol=1e-5, rtol=1e-3)
            torch.testing.assert_close(given.vision_values_full, values[:, 1:], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(given.cls_value_full, values[:, 0], atol=1e-4, rtol=1e-4)
            assert given.grid == ((24, 24) if index == 1 else None)
            assert (given.carry is None) == (carry is None)
            if carry is not None:
                torch.testing.assert_close(given.carry, carry, atol=1e-4, rtol=1e-4)
            chosen = Falling()(
                Signals(
                    cls_attention=weights[:, :, 0, 1:], vision_values_full=values[:, 1:], cls_value_full=values[:, 0], carry=carry
                ),
                keeps[index],
            )  # fmt: skip
            places, carry = places.gather(1, chosen.indices), chosen.carry
            rows = torch.arange(len(hidden))[:, None]
            hidden = torch.cat([hidden[:, :1], hidden[rows, chosen.indices + 1]], 1)  # CLS always stays
        counts[1].append(hidden.shape[1])
        hidden = block.transform(hidden)
    torch.testing.assert_close(tower.features, hidden[:, 1:], atol=1e-4, rtol=1e-4)
    assert torch.equal(tower.lowest, places) and not tower.merged and tower.grid is None
    assert tower.tower_counts == (*counts[0], *counts[1]) == (577, 577, 401, 401, 151, 577, 401, 401, 151, 151)
    planned = schedule(adapter.shape, steps)
    assert tower.tower_counts == (*planned.vision_attention, *planned.vision_mlp) and planned.llm == (150,) * 12
    for image, ids in enumerate(tower.source.tolist()):
        kept = places[image].tolist()
        assert all(token == (kept.index(place) if place in kept else -1) for place, token in enumerate(ids))
    features = adapter.project(hidden[:, 1:])
    for positions in ("original", "contiguous"):
        out = work.engine.run(EngineRequest(work.batch, steps, positions))
        assert out.tower_counts == tower.tower_counts and out.source is None
        for row in (0, 13, 25):
            image = int(work.batch.image[row])
            assert out.kept[row].tolist() == out.entered[row].tolist() == places[image].tolist()
            whole = torch.zeros(576, features.shape[-1])
            whole[places[image]] = features[image]
            expected = masked_recompute(work, row, {0: places[image]}, positions, 6, whole)
            assert out.tokens[row] == expected, positions


def windows_first(signals: Signals, keep: int) -> Selection:
    """Makes means of the four windows of 3 x 3 whose first tokens are of largest norm, puts them first, then all others."""
    batch, count, width = signals.vision_features_first.shape
    side = signals.grid[1]
    windows = torch.tensor([[(r + i) * side + c + j for i in range(3) for j in range(3)] for r in (0, 3) for c in (0, 6)])
    norms = signals.vision_features_first[:, windows[:, 0]].norm(dim=-1) + signals.cls_feature_first.norm(dim=-1, keepdim=True)
    chosen = windows[norms.argsort(-1, descending=True)]
    gone = set(windows.flatten().tolist())
    others = torch.tensor([i for i in range(count) if i not in gone]).expand(batch, -1)
    rows = torch.arange(batch)[:, None]
    means = signals.vision_features_first[rows, chosen.flatten(1)].view(batch, -1, 9, width).mean(2)
    source = torch.cat([torch.zeros(batch, 4, count, dtype=torch.bool).scatter(2, chosen, True),
                        others[..., None] == torch.arange(count)], 1)  # fmt: skip
    sizes = torch.tensor([9] * 4 + [1] * others.shape[1]).expand(batch, -1)
    tokens = torch.cat([means, signals.vision_features_first[rows, others]], 1)
    return Selection(torch.cat([chosen[..., 0], others], 1), tokens, sizes, source, space="tower")


@torch.inference_mode()
def test_merging_behind_a_block_equals_a_slow_version(work):
    """The states behind the whole block are merged, in the merger's order; attention stays as it is: these are plain means."""
    adapter, count = work.engine.adapter, 576 - 36 + 4
    needs = frozenset({"vision_features_first", "cls_feature_first"})
    steps = (Step(vision(0), windows_first, count, count, needs, behind=True, adaptive=True),)
    hidden, order = adapter.blockwise_tower.enter(work.batch.pixels.stack()), None
    for index, block in enumerate(adapter.blocks):
        hidden, weights, _ = attended(block, hidden)
        hidden = block.transform(hidden)
        if index == 0:
            given = Signals(vision_features_first=hidden[:, 1:], cls_feature_first=hidden[:, 0], grid=(24, 24), count=576)
            merged = windows_first(given, count)
            hidden, order = torch.cat([hidden[:, :1], merged.tokens], 1), merged.indices
    _, weights, _ = attended(adapter.blockwise_tower.unread[0], hidden)
    reads = frozenset({TowerRead("cls_attention_last", LAST_BLOCK)})
    tower = work.engine.encode_images(work.batch.pixels, steps, wanted=reads)
    torch.testing.assert_close(tower.features, hidden[:, 1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tower.signals["cls_attention_last"], weights[:, :, 0, 1:], atol=1e-5, rtol=1e-3)
    assert torch.equal(tower.lowest, order) and tower.merged
    assert set(tower.lowest[0, :4].tolist()) == {0, 6, 72, 78} and tower.lowest[0, 4] == 3
    assert (tower.source[:, 0] == (order == 0).nonzero()[:, 1]).all() and (tower.source[:, 25] == tower.source[:, 0]).all()
    assert tower.tower_counts == (577.0, *(545.0,) * 4, 577.0, *(545.0,) * 4)
    planned = schedule(adapter.shape, steps)
    assert tower.tower_counts == (*planned.vision_attention, *planned.vision_mlp) and planned.llm == (count,) * 12
    out = work.engine.run(EngineRequest(work.batch, steps, "contiguous"))
    features = adapter.project(hidden[:, 1:])
    assert out.tower_counts == tower.tower_counts
    for row in (0, 13):
        assert out.tokens[row] == masked_recompute(work, row, {}, "contiguous", 6, features[int(work.batch.image[row])])


@torch.inference_mode()
def test_only_a_merger_that_reads_sizes_changes_attention(work):
    """ToMe's tokens attract attention in proportion to their size; the same merging that reads no sizes leaves it alone."""
    adapter = work.engine.adapter
    (step, *_) = create("tome").steps(adapter.shape, Budget(200))
    plain = replace(step, needs=step.needs - {"sizes"}, select=_Plainly(step.select))
    weighed, same = (work.engine.encode_images(work.batch.pixels[:1], (one,)) for one in (step, plain))
    assert torch.equal(weighed.lowest, same.lowest)
    hidden = adapter.blockwise_tower.enter(work.batch.pixels[:1].stack())
    block = adapter.blocks[step.site.layer]
    hidden, _, _ = attended(block, hidden)
    rows = [[i for i, token in enumerate(same.source[0].tolist()) if token == made] for made in range(step.after)]
    hidden = torch.cat([hidden[:, :1], torch.stack([hidden[0, 1 + torch.tensor(row)].mean(0) for row in rows])[None]], 1)
    hidden = block.transform(hidden)
    for block in adapter.blocks[step.site.layer + 1 :]:
        hidden = block.transform(attended(block, hidden)[0])
    torch.testing.assert_close(same.features, hidden[:, 1:], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(weighed.features, hidden[:, 1:], atol=1e-2)


class _Plainly:
    """A merger that is shown all sizes as 1."""

    def __init__(self, select) -> None:
        self.select = select

    def __call__(self, signals: Signals, keep: int) -> Selection:
        given = {name: getattr(signals, name) for name in ("vision_features", "vision_keys")}
        return self.select(Signals(**given, sizes=torch.ones(signals.batch, signals.count), count=signals.count), keep)


@torch.inference_mode()
def test_one_image_at_a_time_where_the_image_decides(work):
    """Counts of an adaptive step are means over images, of the tower too."""

    def select(signals: Signals, keep: int) -> Selection:
        assert signals.batch == 1, "each image decides alone"
        score = signals.cls_attention.mean(1)[0]
        return Selection((score > 1.1 / 577).nonzero()[:, 0][None])

    steps = (Step(vision(2), select, 576, 576, frozenset({"cls_attention"}), adaptive=True),)
    out = work.engine.run(EngineRequest(work.batch, steps))
    firsts = [work.batch.image.tolist().index(image) for image in range(3)]
    counts = out.present[firsts].tolist()
    assert len(set(counts)) > 1, "images differ in how many stay"
    each = [len(work.batch.questions_about([image])) for image in range(3)]
    mean = sum(count * number for count, number in zip(counts, each)) / sum(each)
    assert out.counts[0] == pytest.approx(mean)
    assert out.tower_counts == pytest.approx((577, 577, 577, *(mean + 1,) * 2, 577, 577, *(mean + 1,) * 3))


def test_what_cannot_be_read_or_pruned_has_a_reason(adapter):
    selector = lambda signals, keep: Selection(torch.zeros(signals.batch, 1, dtype=torch.int64))
    inside = lambda block: Step(vision(block), selector, 1, 1, frozenset({"cls_attention"}))
    reads = lambda read: Step(PROJECTOR, selector, 1, 1, frozenset({read.signal}), reads=(read,))
    assert adapter.cannot((inside(4),)) is None
    assert "runs 5 blocks, so no token can leave inside block 5" in adapter.cannot((inside(5),))
    assert "has 6 blocks, so cls_attention of block 6" in adapter.cannot((reads(TowerRead("cls_attention", 6)),))
    assert adapter.cannot((inside(2), reads(TowerRead("cls_attention", 3)))) is None
    assert adapter.cannot((inside(4), reads(TowerRead("cls_attention_last", LAST_BLOCK)))) is None
    assert adapter.cannot((inside(4), reads(TowerRead("cls_feature")))) is None
    for block in (1, 2):
        reason = adapter.cannot((inside(2), reads(TowerRead("cls_attention", block))))
        assert f"leave inside block 2 of its tower, so cls_attention of block {block} is of other tokens" in reason
