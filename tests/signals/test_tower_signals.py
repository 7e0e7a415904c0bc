"""The engine's signals of the vision tower against those of a reference that imports nothing of ours, and mutants of them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import isqrt
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.engine.tower_signals import default_reads
from harness.models.probes import AttentionProbe, install
from harness.models.prompt import area_coordinates
from harness.models.tile_places import tile_grids, tile_order, tile_places
from harness.models.tower_probes import TowerProbe
from harness.models.towers import BlockwiseTower, TowerBlock
from methods.registry import create
from methods.tiles import once
from methods.tower import block_of, depth
from methods.types import LAST_BLOCK, READ_LAYER, VISION_SIGNALS, Budget, TowerRead
from tests.models.tiny_families import Family, ask, make, parameters, picture
from tests.signals import reference_tower

WHOLE = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl", "qwen3-vl-moe")
PIXTRAL = ("mistral3", "llava-pixtral")
PACKED = ("llava-next", "llava-onevision", "granite-vision")
MOVED = sorted(VISION_SIGNALS - {"vision_features", "image_embeds"})
"""Signals that may be read at any block."""


def test_the_reference_imports_nothing_of_ours():
    tree = ast.parse(Path(reference_tower.__file__).read_text(encoding="utf-8"))
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "torch" in names and "transformers" in names
    assert names <= {"torch", "transformers", "sys", "collections", "contextlib", "dataclasses", "typing", "__future__"}


@dataclass
class Case:
    """One image of 60 x 30 pixels in front of a tiny model's tower: three tiles for families that cut."""

    family: Family
    pixels: Any
    records: list[reference_tower.BlockRecord]
    size: list[int]  # of the image, height and width

    @property
    def adapter(self):
        return self.family.adapter

    @property
    def spans(self):
        return self.pixels.spans[0]

    def engine(self, *reads: TowerRead) -> dict[str, torch.Tensor]:
        return Engine(self.adapter, 1).encode_images(self.pixels, wanted=frozenset(reads)).signals

    def expected(self, read: TowerRead) -> torch.Tensor:
        """The same by the reference."""
        block = block_of(read, self.adapter.shape)
        table, first = reference_tower.of_block(self.records[block], read.signal, read.joined)
        cls, tiles = int(self.adapter.shape.has_cls), sum(span.tiles for span in self.spans)
        whole = tiles - 1 if self.family.name.startswith(("internvl", "smol", "idefics")) else 0  # the tile that shows all
        if first:
            return table[whole : whole + 1, 0]
        if read.signal in ("cls_attention_tiles", "cls_attention_first"):
            order = [whole, *(tile for tile in range(tiles) if tile != whole)]
            by_tile = torch.stack([self._fold(table[tile, cls:]) for tile in order]).transpose(1, 2)
            return by_tile[None] if read.signal == "cls_attention_tiles" else by_tile[:1]
        arranged = self._arranged(table[:, cls:])[None]
        return arranged.transpose(1, 2) if "attention" in read.signal else arranged

    def _fold(self, tile: torch.Tensor) -> torch.Tensor:
        side, fold = isqrt(len(tile)), isqrt(self.adapter.shape.merge)
        return reference_tower.folded(tile, side, side, fold)

    def _arranged(self, table: torch.Tensor) -> torch.Tensor:
        """Tower tokens [T, n, C] as the visual tokens, [N, C]."""
        name, inner, merge = self.family.name, self.adapter.inner, self.adapter.shape.merge
        if name in WHOLE:
            grid = torch.tensor([span.cut for span in self.spans])
            patches = table[0] if name != "qwen2.5-vl" else table[0][reference_tower.window_order(self.adapter.tower, grid)]
            return patches.unflatten(0, (-1, merge)).mean(1)
        if name in PIXTRAL:
            return reference_tower.folded(table[0], *self.spans[0].cut, isqrt(merge))
        if name in PACKED:
            options = {} if name == "llava-onevision" else {"vision_feature_select_strategy": "full"}
            if name == "llava-onevision":
                options["vision_aspect_ratio"] = self.adapter.config.vision_aspect_ratio
            return inner.pack_image_features([table], torch.tensor([self.size]), **options)[0][0]
        return torch.cat([self._fold(tile) for tile in table])


@cache
def case(name: str, width: int = 60, height: int = 30) -> Case:
    """A family's tower on one image, run by transformers alone and recorded."""
    family = make(name)
    adapter, image = family.adapter, picture(height, width, 2)
    pixels = ask(family, [[image]], 1).batch.pixels
    tower = adapter.tower
    if name in WHOLE:
        blocks, attention = list(tower.blocks), "attn"
        run: Callable = lambda: tower(pixels.stack(), grid_thw=torch.tensor([span.cut for span in pixels.spans[0]]))
    elif name in PIXTRAL:
        blocks, attention = list(tower.transformer.layers), "attention"
        made = adapter.processor(images=[image], text=["[IMG]"], return_tensors="pt")
        run = lambda: tower(made["pixel_values"], made["image_sizes"])
    else:
        encoder = tower.encoder
        blocks = list(encoder.layers if hasattr(encoder, "layers") else encoder.layer)
        attention = "self_attn" if hasattr(blocks[0], "self_attn") else "attention"
        run = lambda: tower(pixels.stack())
    try:
        with (
            torch.inference_mode(),
            reference_tower.recorded(adapter.model, blocks, [getattr(one, attention) for one in blocks]) as records,
        ):
            run()
    finally:
        install(adapter.model)
    return Case(family, pixels, records, [height, width])


def reads_of(adapter) -> list[TowerRead]:
    """Every signal at every block, by its default too, and attention from CLS of joined heads."""
    shape, found = adapter.shape, set(default_reads(adapter.gives, adapter.shape))
    for name in set(MOVED) & adapter.gives:
        found |= {TowerRead(name, block) for block in (*range(depth(shape)), READ_LAYER, LAST_BLOCK)}
        if name.startswith("cls_attention"):
            found |= {TowerRead(name, block, joined=True) for block in (0, READ_LAYER, LAST_BLOCK)}
    return sorted(found - {TowerRead("vision_features"), TowerRead("image_embeds")})


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", parameters())
@torch.inference_mode()
def test_signals_of_every_block_are_those_of_the_reference(name):
    made = case(name)
    reads = reads_of(made.adapter)
    together = made.engine(*reads)
    assert set(together) == {read.key for read in reads}
    assert {read.signal for read in reads} == (VISION_SIGNALS & made.adapter.gives) - {"vision_features", "image_embeds"}
    for read in reads:
        assert close(together[read.key], made.expected(read)), read
    for read in reads[:: max(1, len(reads) // 12)]:  # and asked for alone, but for the rounding of products of fewer rows
        assert torch.allclose(made.engine(read)[read.key], together[read.key], atol=1e-6, rtol=1e-5), read


@pytest.mark.parametrize("name", ["llava", "llava-siglip"])
@torch.inference_mode()
def test_the_reference_is_what_transformers_hands_out(name):
    """Attention weights, and what leaves the projections of each block."""
    made = case(name)
    tower, seen = made.adapter.tower, {}
    hooks = [
        getattr(layer.self_attn, part).register_forward_hook(lambda _, __, out, key=(i, part): seen.__setitem__(key, out))
        for i, layer in enumerate(tower.encoder.layers) for part in ("q_proj", "k_proj", "v_proj")
    ]  # fmt: skip
    made.adapter.model.set_attn_implementation("eager")
    try:
        out = tower(made.pixels.stack(), output_hidden_states=True, output_attentions=True)
    finally:
        install(made.adapter.model)
        for hook in hooks:
            hook.remove()
    for i, record in enumerate(made.records):
        assert torch.equal(record.states, out.hidden_states[i + 1])
        assert torch.equal(record.from_first(), out.attentions[i][:, :, 0].transpose(1, 2))
        assert torch.equal(record.received(), out.attentions[i].mean(2).transpose(1, 2))
        for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
            assert torch.equal(record.full(part), seen[i, name])


@contextmanager
def patched(owner: Any, name: str, replacement: Any):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, replacement)
        yield


def _hotter(function: Callable) -> Callable:
    """A probe's record whose scores are half as large."""
    return lambda self, module, query, *rest, **words: function(self, module, query * 0.5, *rest, **words)


def _of_rows_alone(self, module, query, key, *rest, **words):
    """A probe's record whose softmax leaves out the first key."""
    original(self, module, query, key, *rest, **words)
    for name in ("attention", "joined_attention", "mean_received"):
        table = getattr(self, name)
        if table is not None:
            kept = table.clone()
            kept[..., 0] = 0
            setattr(self, name, kept / kept.sum(-1, keepdim=True))
    self.chunks = [(*chunk[:3], self.mean_received) for chunk in self.chunks]


original = TowerProbe.record
MUTATED = ("llava", "llava-siglip", "qwen2.5-vl", "llava-next")
WITHOUT_CLS = ("llava-siglip", "qwen2.5-vl")
SIGNALS = [(name, signal) for name in MUTATED for signal in MOVED if name not in WITHOUT_CLS or not signal.startswith("cls_")]


@pytest.mark.parametrize(("name", "signal"), SIGNALS)
@torch.inference_mode()
def test_the_next_block_is_told_apart(name, signal):
    made = case(name)
    for block in range(depth(made.adapter.shape) - 1):
        expected = made.expected(TowerRead(signal, block))
        assert close(*made.engine(TowerRead(signal, block)).values(), expected)
        assert not close(*made.engine(TowerRead(signal, block + 1)).values(), expected)


@pytest.mark.parametrize(("name", "signal"), SIGNALS)
@torch.inference_mode()
def test_what_skips_the_norm_is_told_apart(name, signal, monkeypatch):
    """Of a block that the model does not read, where only what a selection wants is computed; else of all blocks."""
    made = case(name)
    states = "feature" in signal
    read = TowerRead(signal, 0 if states else LAST_BLOCK)
    expected = made.expected(read)
    if made.adapter.blockwise_tower is None:
        norms = [block.norm1 for block in made.adapter.tower.blocks]
        for norm in norms:
            monkeypatch.setattr(norm, "forward", lambda hidden: hidden)
    else:
        monkeypatch.setattr(TowerBlock, "first_norm", property(lambda self: torch.nn.Identity()))
    assert not close(*made.engine(read).values(), expected)


@pytest.mark.parametrize("mutant", [_hotter(original), _of_rows_alone], ids=["hotter", "without-the-first"])
@pytest.mark.parametrize(("name", "signal"), [pair for pair in SIGNALS if "attention" in pair[1]])
@torch.inference_mode()
def test_another_softmax_is_told_apart(name, signal, mutant, monkeypatch):
    made = case(name)
    for read in (TowerRead(signal, 0), TowerRead(signal, LAST_BLOCK)):
        expected = made.expected(read)
        with patched(TowerProbe, "record", mutant):
            assert not close(*made.engine(read).values(), expected), read


@pytest.mark.parametrize("name", ["llava", "llava-next"])
@torch.inference_mode()
def test_heads_that_are_joined_are_told_apart_from_heads_that_are_not(name):
    made = case(name)
    read = TowerRead("cls_attention", LAST_BLOCK, joined=True)
    apart = made.engine(TowerRead("cls_attention", LAST_BLOCK))["cls_attention@-1"]
    joined = made.engine(read)[read.key]
    assert joined.shape[1] == 1 and close(joined, made.expected(read))
    assert not close(apart.mean(1, keepdim=True), joined)
    assert not close(made.engine(TowerRead("cls_attention", READ_LAYER, joined=True))["cls_attention@-2,joined"], joined)


@pytest.mark.parametrize("name", parameters())
@torch.inference_mode()
def test_nothing_is_computed_that_nobody_asked_for(name, monkeypatch):
    """No probe records, and no block behind the read layer is touched; one wish is one probe in one block."""
    made = case(name)
    recorded, looked = [], []
    record, look = TowerProbe.record, BlockwiseTower.look_behind
    monkeypatch.setattr(TowerProbe, "record", lambda self, *a, **k: (recorded.append(self), record(self, *a, **k))[1])
    monkeypatch.setattr(AttentionProbe, "select", lambda *_: pytest.fail("rows are of decoders"))
    monkeypatch.setattr(BlockwiseTower, "look_behind", lambda self, *a: (looked.append(1), look(self, *a))[1])
    assert made.engine() == {} and made.engine(TowerRead("vision_features")) == {}
    assert not recorded and not looked
    made.engine(TowerRead("received_attention"))
    assert len({id(probe) for probe in recorded}) == 1 and not looked
    probe = recorded[0]
    assert probe.key_states is None and probe.query_states is None and probe.value_states is None and probe.attention is None
    recorded.clear()
    made.engine(TowerRead.default("vision_features_first"))
    assert not recorded and not looked


@torch.inference_mode()
def test_of_the_last_block_only_norm_and_projections_are_run():
    made = case("llava")
    last, calls = made.adapter.tower.encoder.layers[-1], []
    parts = dict(last.named_modules())
    hooks = [
        module.register_forward_hook(lambda _, given, __, name=name: calls.append((name, given[0].shape[1])))
        for name, module in parts.items()
    ]
    try:
        made.engine(TowerRead.default("cls_attention_last"))
        assert sorted(calls) == [("layer_norm1", 17), ("self_attn.k_proj", 17), ("self_attn.q_proj", 1)]
        calls.clear()
        made.engine(TowerRead("vision_values_full", LAST_BLOCK), TowerRead("received_attention", LAST_BLOCK))
        assert {name for name, _ in calls} == {"layer_norm1", *(f"self_attn.{part}_proj" for part in "qkv")}
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(("width", "height"), [(60, 30), (30, 90), (50, 70), (100, 55)])
@pytest.mark.parametrize("name", parameters(["llava-next", "llava-onevision", "internvl", "smolvlm", "granite-vision"]))
@torch.inference_mode()
def test_places_of_tiles_are_where_the_tokens_went(name, width, height):
    """Marked tile by tile; what was left unmarked stands nowhere. Of a grid that was shrunk, the largest part is the token's."""
    made = case(name, width, height)
    tiler, spans = made.adapter.tiler, made.spans
    places = tile_places(tiler, spans)
    tiles = sum(span.tiles for span in spans)
    assert places.shape[0] == tiles > 1
    order = tile_order(tiler, spans)
    n = places.shape[1]
    marks = torch.eye(tiles * n).view(tiles, n, -1)
    if made.adapter.shape.merge > 1:
        per_tile = made.pixels.counts[0] // tiles
        assert places.sort().values.flatten().sort().values.tolist() == list(range(tiles * per_tile))
        assert places[0].tolist() == list(range((tiles - 1) * per_tile, tiles * per_tile))  # the whole stands last
        assert places[1:].flatten().tolist() == list(range((tiles - 1) * per_tile))
        return
    shares = made._arranged(marks)  # [N, tiles * n] how much of each token each visual token is
    shrunk = bool((shares > 0).sum(1).max() > 1)
    for place, tile in enumerate(order):
        for token in range(n):
            column = shares[:, tile * n + token]
            where = int(places[place, token])
            if where < 0:
                assert not column.any()
            elif shrunk:
                assert column.max() < 0.5 or column[where] == column.max()
            else:
                assert column[where] == 1 and column.sum() == 1


def test_one_tile_has_no_places():
    assert tile_places(make("llava").adapter.tiler, case("llava").spans) is None


def coordinates_of(spans):
    """Row and column of every visual token in its image: what a tile's tokens hold side by side is its grid."""
    return torch.cat([area_coordinates(area) for span in spans for area in span.areas])


@pytest.mark.parametrize(("width", "height"), [(60, 30), (30, 90), (50, 70), (100, 55)])
@pytest.mark.parametrize("name", parameters(["llava-next", "llava-onevision", "internvl", "smolvlm", "granite-vision"]))
def test_grids_of_tiles_are_the_rows_and_columns_of_their_tokens(name, width, height):
    made = case(name, width, height)
    places = tile_places(made.adapter.tiler, made.spans)
    where = coordinates_of(made.spans)
    for row, grid in zip(once(places), tile_grids(made.adapter.tiler, made.spans, places), strict=True):
        own = where[row[row >= 0]]
        assert grid == tuple(len(set(own[:, axis].tolist())) for axis in (0, 1))
        assert grid[0] * grid[1] == len(own)


SIZES = [((64, 64), (40, 90)), ((40, 90), (40, 90)), ((90, 40), (64, 64), (40, 90))]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", parameters(["qwen2-vl", "qwen2.5-vl", "mistral3"]))
def test_images_of_any_size_have_their_own_grids(name, sizes):
    family = make(name)
    spans = family.adapter.prompt_pixels([[picture(*size, 3) for size in sizes]]).spans[0]
    grids = tile_grids(family.adapter.tiler, spans, tile_places(family.adapter.tiler, spans))
    assert grids == tuple(span.grid for span in spans)
    assert len({grid[0] == grid[1] for grid in grids}) == 2 or len(set(sizes)) == 1
    assert family.adapter.shape_for(spans).images == len(sizes) and family.adapter.shape_for(spans[:1]).images == 1


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", parameters(["qwen2.5-vl", "mistral3"]))
@pytest.mark.parametrize("method", ["hiprune", "hiprune[rule=code]", "vscan[stages=vision,score=received]"])
def test_each_of_several_images_keeps_what_it_keeps_alone(name, sizes, method):
    """Towers see images one by one, so the neighbours and windows of each are those that it has without the others."""
    family, own = make(name), create(method)
    pictures = [picture(*size, 4 + place) for place, size in enumerate(sizes)]
    engine = Engine(family.adapter, 1)

    def kept(images, keep):
        asked = ask(family, [images], 1)
        spans = asked.batch.pixels.spans[0]
        steps = own.steps(family.adapter.shape_for(spans), Budget(keep, "final"))
        return engine.run(EngineRequest(asked.batch, steps, own.positions)).kept[0].tolist(), sum(s.count for s in spans)

    expected, start = [], 0
    for one in pictures:
        alone, count = kept([one], 6)
        expected += [place + start for place in alone]
        start += count
    assert kept(pictures, 6 * len(sizes))[0] == expected
