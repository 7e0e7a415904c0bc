"""FLOPs against two counters: on the real modules of more architectures, and on whole runs of the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from math import isqrt, prod

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.engine import decoder_signals
from harness.engine.batch import Batch
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.models.configuration import read_shape
from harness.models.hf import Adapter
from harness.models.probes import AttentionProbe
from harness.models.published import PUBLISHED, internvl, qwen, smolvlm
from harness.models.shapes import PUBLIC
from harness.models.tiling import side as pixels_a_side
from harness.models.tower_probes import TowerProbe
from harness.models.towers import BlockwiseTower
from harness.run.flops import count
from methods import cdpruner, cost, ivcprune, mmtok, sparsevlm, sts, trim
from methods.registry import BUNDLED, create
from methods.schedule import plan, schedule
from methods.types import PROJECTOR, Budget, ModelShape, Schedule, Step, TowerRead, decoder
from metrics.flops import Flops, flops

TEXT = 6
TINY: dict[str, Callable] = {
    "qwen2.5-vl": lambda: qwen((32, 44, 4, 2, None, 4), 16, (1, 3), (64, 112, 3, 4, 2, 500)),
    "internvl3": lambda: internvl((32, 80, 2, 2, 32, 4), (64, 112, 3, 4, 2, 500)),
    "smolvlm": lambda: smolvlm((32, 80, 2, 2, 36, 4), (64, 112, 3, 4, 4, 500)),
}
"""The architectures in small, with every part that sets them apart: windows, gates, merging, shared key-value heads."""


def _read(config, grid: tuple[int, int] = (4, 4)) -> ModelShape:
    """The shape that a configuration describes; ``grid`` is for models that take an image at any size."""
    return read_shape(config, grid=grid)


def _build(config, device: str):
    """The model of a configuration, with random weights, or on the device ``meta`` with none."""
    from transformers import AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    with torch.device(device), no_init_weights() if device == "meta" else nullcontext():  # of no numbers, that takes seconds
        return AutoModelForImageTextToText.from_config(config).eval()


class Prefill(torch.nn.Module):
    """The real tower, projector, decoder layers and head on the counts of a schedule; which tokens stay is all the same."""

    def __init__(self, model, shape: ModelShape, planned: Schedule) -> None:
        super().__init__()
        self.model, self.shape, self.planned = model, shape, planned

    def forward(self, pixels: torch.Tensor, text: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        seen = self.see(pixels)
        assert seen.shape[1] == self.planned.projector == self.shape.visual_tokens
        hidden = torch.cat([seen[:, : self.planned.llm[0]], text], 1)
        for layer, tokens in zip(self.model.model.get_decoder().layers, self.planned.llm, strict=True):
            length = tokens + text.shape[1]
            hidden = layer(hidden[:, :length], position_embeddings=(cos[:, :length], sin[:, :length]), attention_mask=None)
        return self.model.lm_head(hidden[:, -1:])

    def see(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels, or for Qwen2.5-VL patches, to visual tokens [1, N, D]."""
        from transformers.vision_utils import get_vision_position_ids

        inner, kind = self.model.model, self.model.config.model_type
        if kind == "qwen2_5_vl":
            side = isqrt(self.shape.merge)
            grid = torch.tensor([[1, self.shape.grid[0] * side, self.shape.grid[1] * side]])
            places = get_vision_position_ids(grid, side).to(pixels.device)
            return inner.visual(pixels, grid, position_ids=places).pooler_output[None]
        if kind == "internvl":
            return inner.get_image_features(pixel_values=pixels).pooler_output
        if kind == "smolvlm":
            tower, side = inner.vision_model, pixels.shape[-1] // self.shape.patch
            states = tower.embeddings(pixels, torch.ones(1, side, side, dtype=torch.bool, device=pixels.device))
            return inner.connector(tower.post_layernorm(tower.encoder(states).last_hidden_state))
        states = inner.vision_tower.pre_layrnorm(inner.vision_tower.embeddings(pixels))
        for block in inner.vision_tower.encoder.layers[: self.shape.vision_layers]:
            states = block(states, attention_mask=None)
        return inner.multi_modal_projector(states[:, 1:]).flatten(0, 1)[None]  # the tokens of all tiles in turn


def _inputs(model, shape: ModelShape, device: str) -> tuple[torch.Tensor, ...]:
    """Pixels, or for Qwen2.5-VL patches, with text and the rotary angles of all tokens."""
    with torch.device(device):
        if model.config.model_type == "qwen2_5_vl":
            pixels = torch.randn(shape.visual_tokens * shape.merge, shape.channels * shape.patch**2)
        else:
            side = pixels_a_side(model.config.vision_config.image_size)
            pixels = torch.randn(shape.tiles, 3, side, side)
        text = torch.randn(1, TEXT, shape.width)
        places = torch.arange(shape.visual_tokens + TEXT)[None]
        return pixels, text, *model.model.get_decoder().rotary_emb(text, places)


def _schedules(shape: ModelShape) -> dict[str, Schedule]:
    tokens = shape.visual_tokens

    def at(*pairs) -> Schedule:
        return schedule(shape, (Step(site, lambda signals, keep: None, keep, keep) for site, keep in pairs))

    return {
        "full": at(),
        "pruned before the LLM": at((PROJECTOR, tokens // 3)),
        "pruned inside the LLM": at((decoder(1), tokens // 2), (decoder(2), tokens // 4)),
    }


def _torchs_count(model, shape: ModelShape, planned: Schedule, device: str = "cpu") -> int:
    inputs = _inputs(model, shape, device)
    # the counter has no formula for the CPU's fused attention; the math backend is plain products
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        Prefill(model, shape, planned)(*inputs)
    return counter.get_total_flops()


@pytest.fixture(scope="module", params=TINY)
def small(request):
    """A tiny random model and its shape."""
    config = TINY[request.param]()
    return _build(config, "cpu"), _read(config)


CASES = ("full", "pruned before the LLM", "pruned inside the LLM")


@pytest.mark.parametrize("case", CASES)
def test_equal_to_torchs_counter_on_the_real_modules(small, case):
    model, shape = small
    planned = _schedules(shape)[case]
    assert flops(shape, planned, TEXT).total == pytest.approx(_torchs_count(model, shape, planned), rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_equal_to_fvcore_on_the_real_modules(small, case):
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import conv_flop_count

    def attention(inputs, outputs):
        query, key = (inputs[i].type().sizes() for i in (0, 1))
        return 2 * prod(query) * key[-2]

    def convolution(inputs, outputs):
        return conv_flop_count(*(value.type().sizes() for value in (inputs[0], inputs[1], outputs[0])))

    model, shape = small
    planned = _schedules(shape)[case]
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    counted = FlopCountAnalysis(Prefill(model, shape, planned), _inputs(model, shape, "cpu"))
    counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    counted.set_op_handle("aten::scaled_dot_product_attention", attention)
    counted.set_op_handle("aten::_convolution_mode", convolution)  # a convolution whose padding is a word
    parts = counted.by_operator()
    # the convention counts matrix products alone; norms are the one other thing that fvcore counts here
    assert set(parts) <= {"conv", "_convolution_mode", "linear", "scaled_dot_product_attention", "layer_norm"}
    products = counted.total() - parts["layer_norm"]
    assert flops(shape, planned, TEXT, "macs").total == pytest.approx(products, rel=1e-9)


@pytest.mark.parametrize("name", PUBLISHED)
def test_public_shapes_count_the_real_modules_at_full_size(name):
    """On the device ``meta``, where tensors have shapes and no numbers."""
    config, public = PUBLISHED[name](), PUBLIC[name]
    model = _build(config, "meta")
    shape = public.at_grid((8, 8)) if public.window else public  # of many windows, four stand for all
    planned = schedule(shape, ())
    assert flops(shape, planned, TEXT).total == pytest.approx(_torchs_count(model, shape, planned, "meta"), rel=1e-9)
    read = _read(config, public.grid)
    if public.tiles > 1:  # how an image is cut stands in no configuration
        read = replace(read, tiles=public.tiles, visual_tokens=public.visual_tokens, grid=public.grid)
    alone = {"joint_width": 0, "joint_text": (0, 0, 0)}  # the joint space is another model's
    assert read == replace(public, name="", **alone)


def test_windows_cut_at_the_images_edge_cost_a_little_less():
    """The formula takes every window as full: at most half a percent too much where the grid is no multiple of it."""
    model, shape = _build(PUBLISHED["qwen2.5-vl-7b"](), "meta"), PUBLIC["qwen2.5-vl-7b"].at_grid((6, 6))
    planned = schedule(shape, ())
    counted, formula = _torchs_count(model, shape, planned, "meta"), flops(shape, planned, TEXT).total
    assert counted < formula <= 1.005 * counted


def _with_experts(**facts):
    """A Qwen3-VL-MoE in small, whose LLM layers 1, 2 and 4 of five have one MLP, the others experts."""
    from transformers import Qwen3VLMoeConfig

    tower = {"depth": 2, "num_heads": 2, "hidden_size": 32, "intermediate_size": 44, "patch_size": 4, "out_hidden_size": 64}
    text = {
        "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "vocab_size": 500, "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
        "decoder_sparse_step": 2, "mlp_only_layers": [1],
    }  # fmt: skip
    return Qwen3VLMoeConfig(vision_config={**tower, "deepstack_visual_indexes": [0]}, text_config={**text, **facts})


@pytest.mark.parametrize(("facts", "dense"), [
    ({}, (0, 1, 2, 4)), ({"mlp_only_layers": []}, (0, 2, 4)), ({"decoder_sparse_step": 1}, (1,)), ({"num_experts": 0}, ()),
])  # fmt: skip
def test_layers_with_experts_cost_what_the_router_and_those_that_run_cost(facts, dense):
    """Layer by layer against torch's counter: all tokens of a prompt, and one more."""
    config = _with_experts(**facts)
    model, shape = _build(config, "cpu"), _read(config)
    model.set_experts_implementation("eager")  # the counter has no formula for grouped products
    assert shape.dense_layers == dense
    decoder, totals = model.model.get_decoder(), {}
    for length in (1, 9):
        hidden, totals[length] = torch.randn(1, length, shape.width), 0
        turned = decoder.rotary_emb(hidden, torch.arange(length).expand(3, 1, -1))
        for index, layer in enumerate(decoder.layers):
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                layer(hidden, position_embeddings=turned, attention_mask=None)
            assert counter.get_total_flops() == cost.llm_layer(shape, length, length, index), (length, index)
            totals[length] += counter.get_total_flops()
    counted = flops(shape, Schedule((), (), 0, (0,) * 5), 9)
    assert counted.llm_prefill == totals[9] + cost.head(shape)
    gated = flops(shape, Schedule((), (), 0, (0,) * 5), 9, "paper-gated").llm_prefill
    active = [112 if layer in dense or not shape.experts else 3 * 24 for layer in range(5)]
    assert gated == sum(4 * 9 * 64**2 + 2 * 9**2 * 64 + 3 * 9 * 64 * mlp for mlp in active)


class Tally:
    """Matrix products of a run: those made for a selection, and all others."""

    def __init__(self) -> None:
        def rounds(row, left, right, **options) -> int:
            return 2 * prod(left) * right[-1]

        # the products in place of the greedy Cholesky rounds are none that the counter knows
        self.counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: rounds})
        self.selection, self._inside = 0, False

    @property
    def model(self) -> int:
        return self.counter.get_total_flops() - self.selection

    def around(self, function: Callable) -> Callable:
        """The function, its products booked as selection."""

        def counted(*arguments, **options):
            if self._inside:
                return function(*arguments, **options)
            self._inside, before = True, self.counter.get_total_flops()
            result = function(*arguments, **options)
            self._inside = False
            self.selection += self.counter.get_total_flops() - before
            return result

        return counted


@pytest.fixture
def tally(monkeypatch):
    """Counts what models do for selections alone as theirs: probed rows, rows ahead, unread tower blocks, the joint space."""
    tally = Tally()
    for owner, name in (
        (AttentionProbe, "record"), (TowerProbe, "record"), (BlockwiseTower, "look_behind"), (decoder_signals, "record_rows_of"),
        (Adapter, "joint_embeds"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, tally.around(getattr(owner, name)))
    return tally


def _first(batch: Batch) -> Batch:
    """One image and one question of a batch."""
    return batch.rows([0])[0]


def _budget(expression: str) -> Budget:
    return Budget(200 if "pyramiddrop" in expression else 64)  # fewer on average are beyond its three stages


def _run(work, tally: Tally, expression: str, limit: int = 1) -> tuple[Flops, tuple[Step, ...]]:
    """Answer one question about one image with ``limit`` tokens; what that costs by formula, and the steps."""
    adapter, method, budget = work.engine.adapter, create(expression), _budget(expression)
    method = method.calibrated(1e-3) if method.tuned else method
    steps, planned = plan(method, adapter.shape, budget)
    grid = method.image_grid(adapter.shape, budget)
    batch = _first(work.batch if grid is None else work.make_batch(grid))
    counted = tuple(replace(step, select=tally.around(step.select)) for step in steps)
    with sdpa_kernel(SDPBackend.MATH), tally.counter:
        if any("text_embeds" in step.needs for step in steps):
            tally.around(adapter.companion.text_embeds)(work.samples[0].questions[0].text)
        output = Engine(adapter, limit).run(EngineRequest(batch, counted, method.positions, blind=grid == (0, 0)))
    if any(step.adaptive for step in steps):  # what the image decides is measured
        blocks, counts = tuple(map(int, output.tower_counts)), tuple(map(int, output.counts))
        half, left = len(blocks) // 2, blocks[-1] - int(adapter.shape.has_cls)
        before = planned.projector if any(step.space == "tower" and step.site.stage == 1 for step in steps) else left
        planned = replace(planned, vision_attention=blocks[:half], vision_mlp=blocks[half:], projector=before, llm=counts)
    assert output.counts == planned.llm
    return flops(adapter.shape, planned, len(batch.prefix) + len(batch.questions[0])), steps


VARIANTS = ("visionzip[score=received]", "sparsevlm[version=2]", "fps[space=grid]", "sts[stages=structure]", "divprune+fastv")


@pytest.mark.parametrize("expression", BUNDLED + VARIANTS)
def test_the_engine_runs_what_the_formula_counts(work, tally, expression):
    """Tower through prefill, without the selection, to the last product."""
    formula, _ = _run(work, tally, expression)
    assert tally.model == pytest.approx(formula.vision + formula.projector + formula.llm_prefill, rel=1e-9)


@pytest.mark.parametrize("expression", ["none", "fastv", "divprune"])
def test_decoding_one_more_token_costs_what_the_formula_counts(work, tally, expression):
    formula, _ = _run(work, tally, expression, limit=1)
    before = tally.model
    tally.selection = 0
    _run(work, tally, expression, limit=2)
    assert tally.model - before == pytest.approx(formula.decode_per_token, rel=1e-9)


def _costly() -> list[str]:
    every = BUNDLED + VARIANTS
    return [name for name in every if plan(create(name), PUBLIC["tiny"], _budget(name))[1].selection_flops]


@pytest.mark.parametrize("expression", _costly())
def test_a_selection_costs_its_products_and_little_more(work, tally, monkeypatch, expression):
    """Products are at most the formula, and the formula at most the products and a few passes over what they are made of.

    What the model does for a selection inside the LLM covers the text too, which formulas leave out: that much more is
    let pass. Beside products stand passes in a formula: at most six over the N x N similarities (or the attention of every
    head, where a method wants it whole), six over the tokens and eight over N a round. A thousandth of the model's cost.
    """
    batch, adapter, shape = work.batch, work.engine.adapter, work.engine.adapter.shape
    words = len(batch.questions[0])
    for module, name, own in (
        (sts, "_ROWS", words), (sparsevlm, "_ROWS", words), (ivcprune, "_ROWS", words),
        (cdpruner, "_WORDS", len(adapter.companion.tokenise(work.samples[0].questions[0].text))),
        (mmtok, "_WORDS", len(batch.question_words[0])),
        (trim, "_WORDS", len(adapter.companion.tokenise(work.samples[0].questions[0].text))),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, own)  # the prompt's own length in place of an assumed one
    formula, steps = _run(work, tally, expression)
    of_text = 0
    for step in steps:
        ahead = "text_attention_ahead" in step.needs
        if ahead or "text_attention" in step.needs:
            rows, keys = 1 if step.rows == 1 else words, len(batch.prefix) + words
            of_text += 2 * rows * keys * shape.heads * shape.head_dim
            of_text += 2 * keys * shape.width * shape.kv_heads * shape.head_dim * ahead
    assert tally.selection - of_text <= formula.selection
    if any(step.adaptive for step in steps[:-1]):
        return  # how many tokens later steps saw the image decided: the formula is of the most that may be
    tokens = shape.visual_tokens
    whole = sum(name.startswith("received_attention") for step in steps for name in step.needs)
    tables = shape.vision_heads * whole if whole else 1
    passes = 6 * tables * (tokens + 1) ** 2 + 6 * tokens * max(shape.width, shape.vision_width) + 8 * tokens * 64
    more = {  # what is done beside products, by the rule itself: rounds of coverage, and eigenvectors
        "scope": cost.covering(tokens, tokens, 64),
        "mmtok": cost.covering(tokens + len(batch.question_words[0]), tokens, 64),
        "prunesid": cost.principal(tokens, shape.vision_width) - cost.pairs(tokens, shape.vision_width),
    }
    assert formula.selection <= tally.selection + passes + more.get(expression, 0.0)


def test_tower_blocks_that_nobody_reads_are_neither_run_nor_counted(work, tally):
    adapter, calls = work.engine.adapter, []
    assert adapter.model.config.vision_feature_layer == -2 and len(adapter.tower.encoder.layers) == 6
    unread = adapter.tower.encoder.layers[-1]
    hooks = [part.register_forward_hook(lambda *_: calls.append(1)) for part in (unread, unread.self_attn, unread.mlp)]
    try:
        formula, _ = _run(work, tally, "fastv")
        assert not calls and adapter.shape.vision_layers == 5
        assert tally.model == pytest.approx(formula.total - formula.selection, rel=1e-9)
        _run(work, tally, "cdpruner")  # the joint space is made of the states that the model reads
        assert not calls
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(("signal", "unread"), [("cls_attention_last", True), ("cls_attention", False)])
@pytest.mark.parametrize("joined", [False, True])
def test_a_row_of_cls_costs_what_the_formula_counts(work, tally, signal, unread, joined):
    """To the last product; beside products stand a softmax and a mean over heads, and passes over the states for a norm."""
    shape, tokens = work.engine.adapter.shape, work.engine.adapter.shape.visual_tokens
    read = replace(TowerRead.default(signal), joined=joined)
    with sdpa_kernel(SDPBackend.MATH), tally.counter:
        work.engine.encode_images(work.batch.pixels[:1], wanted=frozenset({read}))
    heads = 1 if joined else shape.vision_heads
    row = cost.attention_rows(heads, 1, tokens + 1, shape.vision_width // heads)
    formula = cost.last_block_row(shape, tokens, heads) if unread else row
    passes = 6.0 * (tokens + 1) * heads + (4.0 * (tokens + 1) * shape.vision_width if unread else 0.0)
    assert tally.selection == formula - passes


@pytest.mark.parametrize(("name", "full", "pruned"), [("llava-1.5-7b", 3.228, 0.512), ("llava-1.5-13b", 6.281, 1.002)])
def test_divprune_table_one(name, full, pruned):
    """DivPrune (arXiv:2503.02175), table 1: TFLOPs with all 576 visual tokens and with 9.8 % of them, by FastV's formula.

    The length of the text is not in print; 45.25 tokens, LLaVA-1.5's 35 before the image and a short question, give all four.
    """
    none = count(name, "none", None, "final", 45.25, "paper")["total"]
    divprune = count(name, "divprune", "56", "final", 45.25, "paper")["total"]
    assert none / 1e12 == pytest.approx(full, rel=0.001)
    assert divprune / 1e12 == pytest.approx(pruned, rel=0.001)
