"""Tiny random models of every supported family are built here, and images to show them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from PIL import Image

from harness.models.random_families import configurations, processors
from harness.models.random_families.words import SPECIAL, VOCABULARY

FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "llava": (configurations.llava, processors.llava),
    "llava-siglip": (configurations.siglip_llava, lambda: processors.llava(True)),
    "llava-next": (configurations.llava_next, processors.llava_next),
    "llava-onevision": (configurations.onevision, processors.onevision),
    "internvl": (configurations.internvl, processors.internvl),
    "qwen2-vl": (configurations.qwen2, lambda: processors.qwen("Qwen2VLProcessor")),
    "qwen2.5-vl": (configurations.qwen25, lambda: processors.qwen("Qwen2_5_VLProcessor")),
    "qwen3-vl": (configurations.qwen3, lambda: processors.qwen("Qwen3VLProcessor")),
    "qwen3-vl-moe": (configurations.qwen3_moe, lambda: processors.qwen("Qwen3VLProcessor")),
    "smolvlm": (configurations.smol, processors.smol),
    "idefics3": (lambda: configurations.smol("Idefics3Config", model_type="idefics3"), processors.idefics3),
    "gemma3": (configurations.gemma, processors.gemma),
    "vipllava": (configurations.vipllava, processors.llava),
    "granite-vision": (configurations.granite_vision, lambda: processors.llava_next(True)),
    "internvl3.5": (configurations.internvl35, processors.internvl),
    "mistral3": (configurations.mistral3, lambda: processors.pixtral(2)),
    "llava-pixtral": (configurations.pixtral_llava, lambda: processors.pixtral(1)),
    "paligemma": (lambda: configurations.paligemma(False), processors.paligemma),
    "paligemma2": (lambda: configurations.paligemma(True), processors.paligemma),
}
"""How the configuration and the processor of each family are made."""


def build(config: Any, seed: int = 0) -> Any:
    """Return a random model whose attention is not uniform; what is initialised to a constant, or nearly, is stirred too."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.numel() > 1 and float(weight.std()) < 0.1:
                noise = torch.randn_like(weight) * (0.1 if weight.dim() == 1 else 0.25)
                weight.copy_(weight.mean() + noise if weight.dim() == 1 else noise)
        for mark in SPECIAL:
            if mark != "</s>":  # an answer that holds an image's mark would be taken for an image by the slow reference
                model.lm_head.weight[VOCABULARY[mark]] = 0
    model.generation_config.eos_token_id = VOCABULARY["</s>"]
    model.generation_config.pad_token_id = VOCABULARY["<pad>"]
    return model


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Return an image of coloured noise in large patches."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=g)
    pixels = torch.nn.functional.interpolate(coarse, (height, width), mode="nearest")[0].permute(1, 2, 0)
    return Image.fromarray((pixels * 255).byte().numpy())
