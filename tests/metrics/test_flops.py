from __future__ import annotations

import logging
from math import prod

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from methods.types import ModelShape, Schedule
from metrics.flops import CONVENTIONS, Flops, flops, promised_speed_up

LLAVA = ModelShape(
    "llava-1.5-7b", 576, (24, 24), 23, 1024, 16, 4096, True, 14,
    32, 4096, 32, 32, 128, 11008, True, 32064, ((1024, 4096), (4096, 4096)), 2,
)  # fmt: skip
SMALL = ModelShape("small", 16, (4, 4), 2, 48, 4, 80, True, 8, 3, 64, 4, 2, 16, 112, True, 500, ((48, 64), (64, 64)))
TEXT = 6
SCHEDULES = {
    "full": Schedule((17, 17), (17, 17), 16, (16, 16, 16)),
    "pruned in the LLM": Schedule((17, 17), (17, 17), 16, (16, 9, 4)),
    "pruned before it": Schedule((17, 17), (17, 17), 16, (5, 5, 5)),
    "merged in the tower": Schedule((17, 13), (13, 9), 8, (8, 8, 0)),
    "blind": Schedule((), (), 0, (0, 0, 0)),
}


class Prefill(torch.nn.Module):
    """The real modules run on the counts of a schedule; which tokens stand there does not matter to the count."""

    def __init__(self, model, schedule: Schedule):
        super().__init__()
        self.model, self.schedule = model, schedule

    def forward(self, pixels: torch.Tensor, text: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        plan, llava = self.schedule, self.model.model
        hidden = text
        if plan.vision_attention:
            tower = getattr(llava.vision_tower, "vision_model", llava.vision_tower)
            x = tower.embeddings(pixels)
            for block, attended, fed in zip(tower.encoder.layers, plan.vision_attention, plan.vision_mlp):
                x = block.self_attn(block.layer_norm1(x[:, :attended]), attention_mask=None)[0]
                x = block.mlp(block.layer_norm2(x[:, :fed]))
            hidden = torch.cat([llava.multi_modal_projector(x[:, 1 : 1 + plan.projector]), text], 1)
        for layer, count in zip(llava.language_model.layers, plan.llm):
            length = count + text.shape[1]
            hidden = layer(hidden[:, :length], position_embeddings=(cos[:, :length], sin[:, :length]), attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return self.model.lm_head(hidden[:, -1:])


@pytest.fixture(scope="module")
def model():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=48, num_attention_heads=4, intermediate_size=80, num_hidden_layers=3, image_size=32, patch_size=8
        ),
        text_config=LlamaConfig(
            hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=112,
            num_hidden_layers=3, vocab_size=500,
        ),
        vision_feature_layer=-2,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config).eval()


def _inputs(model) -> tuple[torch.Tensor, ...]:
    text = torch.randn(1, TEXT, 64)
    cos, sin = model.model.language_model.rotary_emb(text, torch.arange(16 + TEXT)[None])
    return torch.randn(1, 3, 32, 32), text, cos, sin


@pytest.mark.parametrize("name", SCHEDULES)
def test_equal_to_torchs_counter_on_the_real_modules(model, name):
    inputs = _inputs(model)
    # the counter has no formula for the CPU's fused attention; the math backend is plain products
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        Prefill(model, SCHEDULES[name])(*inputs)
    assert flops(SMALL, SCHEDULES[name], TEXT).total == pytest.approx(counter.get_total_flops(), rel=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_equal_to_fvcore_on_the_real_modules(model, name):
    from fvcore.nn import FlopCountAnalysis

    def attention(inputs, outputs):
        query, key = (inputs[i].type().sizes() for i in (0, 1))
        return 2 * prod(query) * key[-2]

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    counted = FlopCountAnalysis(Prefill(model, SCHEDULES[name]), _inputs(model))
    counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    counted.set_op_handle("aten::scaled_dot_product_attention", attention)
    products = counted.total() - counted.by_operator()["layer_norm"]  # the convention counts matrix products alone
    assert flops(SMALL, SCHEDULES[name], TEXT, "macs").total == pytest.approx(products, rel=1e-9)


def test_decode_is_one_more_token_on_the_cache(model):
    """A prefill of L + 1 tokens costs a prefill of L, the new token, and the L products of old queries with its key."""
    plan = Schedule((), (), 0, (7, 5, 2))
    one, more = flops(SMALL, plan, TEXT), flops(SMALL, plan, TEXT + 1)
    unmasked = sum(4 * (n + TEXT) * 64 for n in plan.llm)
    assert one.llm_prefill + one.decode_per_token - 2 * 64 * 500 + unmasked == pytest.approx(more.llm_prefill)


def _full(tokens: int) -> Schedule:
    return Schedule((577,) * 23, (577,) * 23, 576, (tokens,) * 32)


def test_visual_only_is_what_pyramiddrop_prints():
    assert flops(LLAVA, _full(576), 60, "visual-only").total == pytest.approx(3.82e12, rel=0.005)
    drop = Schedule((577,) * 23, (577,) * 23, 576, (576,) * 8 + (288,) * 8 + (144,) * 8 + (72,) * 8)
    assert flops(LLAVA, drop, 60, "visual-only").total == pytest.approx(1.78e12, rel=0.01)


def test_paper_is_fastvs_formula():
    n, d, m = 192 + 40.5, 4096, 11008
    plan = _full(192)
    layer = 4 * n * d**2 + 2 * n**2 * d
    assert flops(LLAVA, plan, 40.5, "paper").llm_prefill == pytest.approx(32 * (layer + 2 * n * d * m))
    assert flops(LLAVA, plan, 40.5, "paper-gated").llm_prefill == pytest.approx(32 * (layer + 3 * n * d * m))
    assert flops(LLAVA, plan, 40.5, "paper").total == flops(LLAVA, plan, 40.5, "paper").llm_prefill


def test_selection_macs_and_kv():
    plan = Schedule((577,) * 23, (577,) * 23, 576, (192,) * 31 + (0,), selection_flops=1e6)
    full, half = flops(LLAVA, plan, 10), flops(LLAVA, plan, 10, "macs")
    assert full.selection == 1e6 and half.selection == 5e5
    assert half.total == pytest.approx(full.total / 2) and half.decode_per_token == pytest.approx(full.decode_per_token / 2)
    for convention in CONVENTIONS:
        assert flops(LLAVA, plan, 10, convention).kv_bytes == 2 * 4096 * 2 * (31 * 202 + 10)
    assert list(full.as_dict()) == ["vision", "projector", "selection", "llm_prefill", "decode_per_token", "kv_bytes"]
    assert full.total == full.vision + full.projector + full.selection + full.llm_prefill


def test_the_promise():
    assert promised_speed_up(flops(LLAVA, _full(576), 40), flops(LLAVA, _full(576), 40)) == 1.0
    assert promised_speed_up(flops(LLAVA, _full(64), 40), flops(LLAVA, _full(576), 40)) > 3
    assert promised_speed_up(Flops(0, 0, 0, 0, 0, 0), flops(LLAVA, _full(576), 40)) is None


def test_a_wrong_request_names_the_closest():
    with pytest.raises(ValueError, match="closest is 'paper-gated'"):
        flops(LLAVA, _full(576), 40, "paper-gate")
    with pytest.raises(ValueError, match="text_tokens is -1"):
        flops(LLAVA, _full(576), -1)
