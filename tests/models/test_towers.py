"""Towers of all families: their signals are transformers' own, in the order of the visual tokens, and cost what is counted."""

from __future__ import annotations

import sys
from dataclasses import replace
from math import isqrt

import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.engine.tower_signals import default_reads
from harness.errors import RequestError
from harness.models.adapter import Adapter
from harness.models.probes import install
from harness.models.random_families.words import QUESTIONS
from harness.models.tile_places import tile_order
from methods.registry import create
from methods.schedule import plan, schedule
from methods.types import PROJECTOR, Budget, BudgetError, Selection, Step, vision
from metrics.flops import flops
from tests.models.tiny_families import FAMILIES, Family, ask, build, parameters, picture

WHOLE = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl", "qwen3-vl-moe")  # towers that hand out no attention
PIXTRAL = ("mistral3", "llava-pixtral")  # towers that run as a whole and hand out attention
BLOCKWISE = tuple(name for name in FAMILIES if name not in (*WHOLE, *PIXTRAL))
CLS = ("llava", "llava-next", "internvl", "vipllava", "internvl3.5")
PALIGEMMA = ("paligemma", "paligemma2")
RESIZES = ("llava", "llava-siglip", "vipllava", *WHOLE, *PIXTRAL, *PALIGEMMA)
SEVERAL = ("vipllava", "granite-vision")  # whose projector reads several tower layers at once


@pytest.fixture(scope="module")
def tall(family, unequal):
    """One image of 60 x 30 pixels: three tiles for families that cut, none of them padded."""
    return unequal.batch.rows([1])[0]


@pytest.fixture(scope="module")
def tower(family, tall):
    return Engine(family.adapter, 1).encode_images(tall.pixels, wanted=default_reads(family.adapter.gives, family.adapter.shape))


def step(site, **facts) -> Step:
    return Step(site, lambda signals, keep: Selection(torch.zeros(signals.batch, 1, dtype=torch.int64)), 1, 1, **facts)


def test_a_tower_without_cls_gives_none_and_says_so(family, tall, tower):
    adapter, needs = family.adapter, (step(PROJECTOR, needs=frozenset({"cls_attention", "features"})),)
    assert adapter.shape.has_cls == (family.name in CLS)
    assert ("cls_attention" in adapter.gives) == adapter.shape.has_cls == ("cls_attention" in tower.signals)
    assert "image_embeds" not in adapter.gives
    if family.name in CLS:
        assert adapter.cannot(needs) is None
        return
    assert adapter.cannot(needs) == f"{adapter.config.model_type} gives no cls_attention"
    with pytest.raises(BudgetError, match="gives no cls_attention"):
        Engine(adapter).run(EngineRequest(tall, needs))


def test_what_cannot_be_run_has_a_reason(family, tall):
    adapter = family.adapter
    inside, merging = (step(vision(0), merges=True),), (step(PROJECTOR, merges=True, space="tower"),)
    assert (adapter.cannot(merging) is None) == (adapter.shape.merge == 1 and family.name not in SEVERAL)
    assert (adapter.cannot(inside) is None) == (family.name in ("llava", "llava-siglip", *PALIGEMMA))
    assert (adapter.cannot((), (2, 2)) is None) == (family.name in RESIZES)
    assert adapter.cannot((), (0, 0)) is None
    if adapter.cannot(inside):
        with pytest.raises(BudgetError, match=r"inside the tower|at once"):
            Engine(adapter).run(EngineRequest(tall, inside))
    if adapter.cannot((), (2, 2)):
        with pytest.raises(BudgetError, match="own resolution"):
            adapter.pixels([Image.new("RGB", (30, 30))], (2, 2))


@pytest.mark.parametrize("family", parameters(BLOCKWISE), indirect=True)
@torch.inference_mode()
def test_open_towers_signals_equal_transformers_own(family, tall, tower):
    adapter, pixels, spans = family.adapter, tall.pixels.stack(), tall.pixels.spans[0]
    read, cls = adapter.shape.vision_layers, int(adapter.shape.has_cls)
    adapter.model.set_attn_implementation("eager")
    try:
        out = adapter.tower(pixels, output_hidden_states=True, output_attentions=True)
    finally:
        install(adapter.model)
    arrange = lambda table: adapter.tiler.arrange(table, spans)
    close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    hidden, attention = out.hidden_states[read], out.attentions[read - 1]
    close(tower.features, arrange(adapter.blockwise_tower.leave(hidden)[:, cls:]))
    close(tower.signals["received_attention"], arrange(attention.mean(2).transpose(1, 2)[:, cls:]).transpose(1, 2))
    block = adapter.blocks[-1]
    keys = getattr(block.attention, "k_norm", lambda table: table)(
        block.attention.k_proj(block.first_norm(out.hidden_states[read - 1]))
    )
    close(tower.signals["vision_keys_full"], arrange(keys[:, cls:]))
    heads = keys.unflatten(-1, (adapter.shape.vision_heads, -1)).mean(2)
    close(tower.signals["vision_keys"], arrange(heads[:, cls:]))
    if cls:
        close(tower.signals["cls_attention"], arrange(attention[:, :, 0, 1:].transpose(1, 2)).transpose(1, 2))
        whole = tile_order(adapter.tiler, spans)[:1]  # the tile that shows the whole image
        close(tower.signals["cls_feature"], hidden[whole, 0])
        close(tower.signals["cls_key"], heads[whole, 0])


@pytest.mark.parametrize("family", parameters(WHOLE), indirect=True)
@torch.inference_mode()
def test_closed_towers_signals_equal_a_slow_version(family):
    """Of two images in one row; Qwen2.5-VL takes each in four windows, which are not in the order of the image."""
    adapter = family.adapter
    pixels = adapter.pixels([Image.effect_noise((64, 64), spread).convert("RGB") for spread in (40, 90)])
    seen, block = [], adapter.tower.blocks[-1]
    hook = block.register_forward_pre_hook(lambda _, inputs, words: seen.append((inputs[0], words)), with_kwargs=True)
    tower = Engine(adapter, 1).encode_images(pixels, wanted=default_reads(adapter.gives, adapter.shape))
    hook.remove()
    hidden, words = seen[0]
    query, key, _ = block.attn.qkv(block.norm1(hidden)).unflatten(-1, (3, adapter.shape.vision_heads, -1)).unbind(1)
    rotate = sys.modules[type(block).__module__].apply_rotary_pos_emb_vision
    query, key = rotate(query, key, *words["position_embeddings"])
    order = adapter.whole_tower.patch_order(torch.tensor([b[0].cut for b in pixels.spans]))
    assert (order is not None and not torch.equal(order, torch.arange(len(order)))) == (family.name == "qwen2.5-vl")
    half = len(hidden) // 2
    features = block(hidden, **words)
    for image in (0, 1):
        mine = slice(image * half, (image + 1) * half)
        weights = (query[mine].transpose(0, 1) @ key[mine].permute(1, 2, 0) * block.attn.scaling).softmax(-1)
        received = torch.zeros(len(hidden), weights.shape[0])
        received[mine] = weights.mean(1).T
        in_turn = (lambda table: table) if order is None else (lambda table: table[order])
        fold = lambda table: in_turn(table)[mine].unflatten(0, (-1, 4)).mean(1)
        torch.testing.assert_close(tower.signals["received_attention"][image], fold(received).T, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(tower.signals["vision_keys"][image], fold(key.mean(1)), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tower.signals["vision_keys_full"][image], fold(key.flatten(1)), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tower.features[image], fold(features), atol=1e-4, rtol=1e-4)
        made = adapter.tower.merger(in_turn(features)[mine])  # of four in turn it makes one: the order is that of the tokens
        torch.testing.assert_close(tower.projected[image], made, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", parameters(PIXTRAL), indirect=True)
@torch.inference_mode()
def test_pixtrals_signals_equal_transformers_own(family, several):
    """Of two prompts of two images each, all of other sizes, which transformers packs into one row under a mask."""
    adapter, inner, fold = family.adapter, family.adapter.inner, isqrt(family.adapter.shape.merge)
    for number, images in enumerate(several.images[::2]):
        made = adapter.processor(images=images, text=["[IMG]" * len(images)], return_tensors="pt")
        pixels = several.batch.pixels[number : number + 1]
        sizes = made["image_sizes"].tolist()
        assert [span.cut for span in pixels.spans[0]] == [(height // 8, width // 8) for height, width in sizes]
        tower = Engine(adapter, 1).encode_images(pixels, wanted=default_reads(adapter.gives, adapter.shape))
        block, seen = inner.vision_tower.transformer.layers[-1], []
        hook = block.register_forward_pre_hook(lambda _, given, words: seen.append((given, words)), with_kwargs=True)
        adapter.model.set_attn_implementation("eager")
        try:
            out = inner.vision_tower(made["pixel_values"], made["image_sizes"], output_hidden_states=True, output_attentions=True)
        finally:
            install(adapter.model)
            hook.remove()
        (given, words), *_ = seen
        key = (
            block.attention.k_proj(block.attention_norm(given[0])).unflatten(-1, (adapter.shape.vision_heads, -1)).transpose(1, 2)
        )
        rotate = sys.modules[type(block).__module__].apply_rotary_pos_emb
        _, key = rotate(key, key, *words["position_embeddings"], unsqueeze_dim=0)

        def averaged(table, sizes=sizes):
            """Of patches [n, C] in reading order, image by image, told slowly."""
            rows, start = [], 0
            for height, width in ((height // 8, width // 8) for height, width in sizes):
                for row in range(0, height, fold):
                    for column in range(0, width, fold):
                        places = [start + (row + i) * width + column + j for i in range(fold) for j in range(fold)]
                        rows.append(table[places].mean(0))
                start += height * width
            return torch.stack(rows)

        close = lambda mine, expected: torch.testing.assert_close(mine[0], expected, atol=1e-4, rtol=1e-4)
        attention = out.attentions[-1][0]  # [H, n, n]; columns of other images are 0
        own = (attention > 0).sum(-1)[0]  # patches of the image that each is of
        close(tower.features, averaged(out.hidden_states[-1][0]))
        close(tower.signals["received_attention"].transpose(1, 2), averaged((attention.sum(1) / own).T))
        close(tower.signals["vision_keys"], averaged(key[0].mean(0)))
        close(tower.signals["vision_keys_full"], averaged(key[0].transpose(0, 1).flatten(1)))
        projected = inner.get_image_features(made["pixel_values"], image_sizes=made["image_sizes"]).pooler_output
        close(tower.projected, torch.cat(list(projected)))


def test_signals_stand_where_the_tokens_made_of_them_stand(family, tall, tower):
    """A visual token hangs on just those tower tokens that its signals are the average of."""
    adapter, spans = family.adapter, tall.pixels.spans[0]
    if family.name in (*WHOLE, *PIXTRAL):
        inputs, pixtral = [], family.name in PIXTRAL

        def cut(module, given):
            inputs.append(given[0].detach().requires_grad_())
            return (inputs[-1], *given[1:])

        hook = (adapter.whole_tower.projector if pixtral else adapter.tower.merger).register_forward_pre_hook(cut)
        projected = Engine.encode_images.__wrapped__(Engine(adapter, 1), tall.pixels).projected[0]
        hook.remove()
        order = None if pixtral else adapter.whole_tower.patch_order(torch.tensor([spans[0].cut]))
        states = inputs[0]
        one_hot = torch.eye(len(states)) if order is None else torch.eye(len(states))[order]
        share = adapter.tiler.arrange(one_hot, spans)[0] > 0
    else:
        states = (tower.features if tower.tile_states is None else tower.tile_states).clone().requires_grad_()
        tiles, count, _ = states.shape
        whole = adapter.project(states)
        projected = (whole if tower.tile_states is None else adapter.tiler.arrange(whole, spans))[0]
        one_hot = torch.eye(tiles * count).view(tiles, count, -1)
        share = adapter.tiler.arrange(one_hot, spans)[0] > 0
    assert len(projected) == len(share) == tall.pixels.counts[0]
    for token, expected in zip(projected, share, strict=True):
        (slope,) = torch.autograd.grad(token.sum(), states, retain_graph=True)
        assert torch.equal(slope.flatten(0, -2).abs().sum(-1) > 1e-9, expected)


def test_places_of_tokens_cover_the_image(family, tall):
    points = family.adapter.prompt_prefix([], tall.pixels.spans[0]).coordinates
    assert points.shape == (tall.pixels.counts[0], 2)
    assert ((points > 0) & (points < 1)).all()
    for image in tall.pixels.spans[0]:
        assert sum(area.count for area in image.areas) == image.count
        assert {area.top for area in image.areas} >= {0.0}
        assert {area.bottom for area in image.areas} >= {1.0}
        edges = [(area.top, area.bottom, area.left, area.right) for area in image.areas]
        if image.tiles == 3 and len(edges) == 3:  # upper half, lower half, all
            assert edges == [(0, 0.5, 0, 1), (0.5, 1, 0, 1), (0, 1, 0, 1)]
        elif image.tiles == 3:  # all, and a large grid
            assert [(area.rows, area.columns) for area in image.areas] == [(4, 4), (8, 4)]
        assert image.tiles == (3 if family.name.startswith(("llava-n", "llava-o", "granite", "intern", "smol", "idefics")) else 1)


@torch.inference_mode()
def test_the_engine_runs_what_the_formula_counts(family, tall):
    """Tower, projector, all layers and the head, to the last product."""
    adapter = family.adapter
    shape = adapter.shape_for(tall.pixels.spans[0])
    if shape.experts:
        adapter.model.set_experts_implementation("eager")  # the counter has no formula for grouped products
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        Engine(adapter, 1).run(EngineRequest(tall))
    if shape.experts:
        adapter.model.set_experts_implementation("grouped_mm")
    text = len(adapter.prompt_prefix(tall.prefix, tall.pixels.spans[0]).text) + len(tall.questions[0])
    formula = flops(shape, schedule(shape, ()), text)
    assert counter.get_total_flops() == pytest.approx(formula.total, rel=1e-9)


def test_methods_run_on_images_of_unequal_size(family, unequal):
    """Every kind of method, its steps solved for each image's own number of tokens, or a reason."""
    names = ("divprune", "fastv", "sts", "visionzip[score=received]", "dart", "divprune+fastv", "pyramiddrop", "vtw")
    for name in names:
        method = create(name)
        steps = lambda shape: plan(method, shape, Budget(max(2, 3 * shape.visual_tokens // 4)))[0]
        try:
            out = Engine(family.adapter, 2).run(EngineRequest(unequal.batch, steps, method.positions))
        except BudgetError:
            assert name.startswith("visionzip")
            assert family.adapter.shape.merge > 1 or family.name in SEVERAL
            continue
        assert (out.present < torch.tensor(unequal.batch.pixels.counts)).all()


@pytest.mark.parametrize("family", parameters(RESIZES), indirect=True)
def test_a_shrunken_image_has_the_tokens_asked_for(family, tall):
    pixels = family.adapter.pixels([Image.effect_noise((50, 70), 60).convert("RGB")], (2, 3))
    assert pixels.counts == [6]
    assert pixels.spans[0][0].grid == (2, 3)
    out = Engine(family.adapter, 2).run(EngineRequest(replace(tall, pixels=pixels)))
    assert out.present.tolist() == [6]
    assert torch.isfinite(out.first_logits).all()


@pytest.mark.parametrize("family", ("llava-next", "llava-onevision"), indirect=True)
@pytest.mark.parametrize("size", [(50, 70), (70, 50), (100, 55)])
@torch.inference_mode()
def test_padding_costs_tower_and_projector(family, tall, size):
    """The tower and the projector run on all tokens of all tiles, those that never become visual tokens included."""
    asked = replace(tall, pixels=family.adapter.pixels([Image.new("RGB", size)]))
    shape = family.adapter.shape_for(asked.pixels.spans[0])
    assert shape.visual_tokens < shape.tiles * 16
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        Engine(family.adapter, 1).run(EngineRequest(asked))
    text = len(family.adapter.prompt_prefix(asked.prefix, asked.pixels.spans[0]).text) + len(asked.questions[0])
    assert counter.get_total_flops() == pytest.approx(flops(shape, schedule(shape, ()), text).total, rel=1e-9)


LISTS = [("llava", layers) for layers in ([3, 1, 2], [-2, -2], [0, 2], [2])]
LISTS += [(name, [-3, -1]) for name in ("llava-siglip", "llava-next", "llava-onevision")]


@pytest.mark.parametrize(("name", "layers"), LISTS, ids=str)
def test_layers_that_the_projector_reads_together(name, layers):
    """In the order of the list, twice where it names one twice; answers and costs are those of transformers."""
    config = FAMILIES[name][0]()
    config.vision_feature_layer = layers
    made = Family(name, Adapter(build(config), FAMILIES[name][1](), name))
    image, adapter = picture(60, 30, 2), made.adapter
    batch = ask(made, [[image]], 1).batch
    out = Engine(adapter, 3).run(EngineRequest(batch))
    torch.testing.assert_close(out.first_logits[0], made.forward(QUESTIONS[0], [image]), atol=2e-4, rtol=1e-4)
    assert out.tokens[0] == made.generated(QUESTIONS[0], [image], 3)
    deepest = max(layer % 4 for layer in layers)
    assert adapter.shape.vision_layers == deepest == len(adapter.blocks)
    assert adapter.shape.projector_layers[0] == (32 * len(layers), 48)
    with torch.inference_mode():
        states = adapter.tower(batch.pixels.stack(), output_hidden_states=True).hidden_states[deepest]
    expected = adapter.tiler.arrange(states[:, int(adapter.shape.has_cls) :], batch.pixels.spans[0])
    torch.testing.assert_close(Engine(adapter, 1).encode_images(batch.pixels).features, expected, atol=1e-4, rtol=1e-4)
    inside, merging = (step(vision(0), merges=True),), (step(PROJECTOR, merges=True, space="tower"),)
    for steps in (inside, merging) if name in RESIZES else (merging,):
        assert (adapter.cannot(steps) is None) == (len(layers) == 1)
    if len(layers) > 1 and name in RESIZES:
        assert "reads 2 tower" in adapter.cannot(inside) or "reads 3 tower" in adapter.cannot(inside)
        with pytest.raises(BudgetError, match="tower layers at once"):
            Engine(adapter).run(EngineRequest(batch, merging))


@pytest.mark.parametrize("family", parameters(PIXTRAL), indirect=True)
@pytest.mark.parametrize("size", [(1500, 12), (1, 150)])
def test_an_image_of_which_a_side_would_have_no_pixels_is_named(family, size):
    with pytest.raises(RequestError, match=f"an image of {size[0]} x {size[1]} pixels is too thin"):
        family.adapter.pixels([Image.new("RGB", size)])
