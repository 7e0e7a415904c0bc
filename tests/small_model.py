"""A small random LLaVA that speaks the embedded model's words: for tests of what surrounds a model, whatever it answers."""

from __future__ import annotations

from functools import cache

import torch

SIDE = 64
"""Pixels of an image's side; in patches of 8 that is a grid of 8 x 8 tokens."""
KEEP = "32"
"""A budget that `fastv` can keep to in six layers."""


@cache
def small_model(layers: int = 6):
    """Build the adapter of a LLaVA with 64 visual tokens and a few layers, once.

    It answers with words that can be right, and by chance some are. It stands where a request has the embedded one, and has its
    name.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from harness.models.adapter import Adapter
    from harness.models.catalogue import TINY
    from harness.tasks.shapes.task import ShapesTask

    config = AutoConfig.from_pretrained(TINY)
    config.vision_config.image_size = SIDE
    config.vision_config.num_hidden_layers = 3
    config.text_config.num_hidden_layers = layers
    config.text_config.initializer_range = 0.12
    config.image_seq_length = (SIDE // config.vision_config.patch_size) ** 2
    torch.manual_seed(4)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(TINY)
    answers = {question.answer for sample in ShapesTask().samples(8, 0) for question in sample.questions}
    known = processor.tokenizer.convert_tokens_to_ids(sorted(answers))
    model.lm_head.weight.data[[token for token in range(config.text_config.vocab_size) if token not in known]] = 0
    processor.image_processor.size = {"height": SIDE, "width": SIDE}
    processor.image_processor.crop_size = {"height": SIDE, "width": SIDE}
    return Adapter(model, processor, "tiny")
