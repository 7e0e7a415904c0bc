"""Processors of tiny models, each of its family's own class.

Torchvision is not needed: image processors are those of the PIL backend, and a processor's video part, which wants it, is left
out.
"""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import transformers

from harness.models.random_families.configurations import PINPOINTS
from harness.models.random_families.words import TEMPLATE, tokenizer


def _processor(kind: str, images: Any, mark: str, names: dict[str, str], pieces: bool = False, **options: Any) -> Any:
    """A processor of its own class; only the check of its parts' classes is left out, for want of a video part."""
    own = getattr(transformers, kind)
    lenient = type(kind, (own,), {"check_argument_for_proper_class": lambda self, name, value: type(value)})
    if "video_processor" in own.get_attributes():
        options["video_processor"] = SimpleNamespace(num_frames=1, fps=1, size=None)
    words, template = tokenizer(pieces, **names), TEMPLATE.replace("MARK", mark)
    return lenient(image_processor=images, tokenizer=words, chat_template=template, **options)


_SQUARE: dict[str, Any] = {"size": {"height": 32, "width": 32}, "do_center_crop": False, "do_convert_rgb": True}


def _clip_images() -> Any:
    return transformers.CLIPImageProcessorPil(**_SQUARE)


def _siglip_images() -> Any:
    return transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})


def _tiles(kind: str) -> Any:
    options = {"size": {"shortest_edge": 32} if "Next" in kind else {"height": 32, "width": 32}}
    if "Next" in kind:
        options["crop_size"] = {"height": 32, "width": 32}
    return getattr(transformers, kind)(image_grid_pinpoints=PINPOINTS, **options)


def _smol_images(kind: str) -> Any:
    return getattr(transformers, kind)(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})


def qwen(kind: str) -> Any:
    """Return the processor of a Qwen-VL, by the name of its class."""
    images = transformers.Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, min_pixels=16 * 16, max_pixels=64 * 64)
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    return _processor(kind, images, mark, {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"})


def llava_next(siglip: bool = False) -> Any:
    """Return the processor of a LLaVA-NeXT, of one with a SigLIP where asked."""
    facts: dict[str, Any] = {"patch_size": 8, "vision_feature_select_strategy": "full" if siglip else "default"}
    facts["num_additional_image_tokens"] = 0 if siglip else 1
    return _processor("LlavaNextProcessor", _tiles("LlavaNextImageProcessorPil"), "<image>", {}, **facts)


def llava(siglip: bool = False) -> Any:
    """Return the processor of a LLaVA, of one with a SigLIP where asked."""
    facts: dict[str, Any] = {"patch_size": 8, "vision_feature_select_strategy": "full" if siglip else "default"}
    images = _siglip_images() if siglip else _clip_images()
    return _processor("LlavaProcessor", images, "<image>", {}, num_additional_image_tokens=0 if siglip else 1, **facts)


def onevision() -> Any:
    """Return the processor of a LLaVA-OneVision."""
    facts: dict[str, Any] = {
        "num_image_tokens": 16,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_2",
    }
    return _processor("LlavaOnevisionProcessor", _tiles("LlavaOnevisionImageProcessorPil"), "<image>", {}, **facts)


def internvl() -> Any:
    """Return the processor of an InternVL."""
    images = transformers.GotOcr2ImageProcessorPil(
        size={"height": 32, "width": 32}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    names["video_token"] = "<video>"
    return _processor("InternVLProcessor", images, "<IMG_CONTEXT>", names, image_seq_length=4)


def smol() -> Any:
    """Return the processor of a SmolVLM."""
    module: Any = import_module("transformers.models.smolvlm.processing_smolvlm")

    module.num2words = module.num2words or (lambda number: str(number))  # only videos need it
    names = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "video_token": "<video>"}
    return _processor("SmolVLMProcessor", _smol_images("SmolVLMImageProcessorPil"), "<image>", names, image_seq_len=4)


def gemma() -> Any:
    """Return the processor of a Gemma 3."""
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    images = transformers.Gemma3ImageProcessorPil(size={"height": 64, "width": 64})
    return _processor("Gemma3Processor", images, "<start_of_image>", names, image_seq_length=16)


def pixtral(merge: int) -> Any:
    """Return the processor of a Pixtral whose projector merges squares of so many tokens a side."""
    images = transformers.PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size=8)
    return _processor("PixtralProcessor", images, "[IMG]", {}, patch_size=8, spatial_merge_size=merge)


def paligemma() -> Any:
    """Return the processor of a PaliGemma, which has no chat template."""
    images: Any = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    images.image_seq_length = 16
    made = _processor("PaliGemmaProcessor", images, "<image>", {"image_token": "<image>"})
    made.chat_template = None
    return made


def idefics3() -> Any:
    """Return the processor of an Idefics3, to whose tokenizer the marks around tiles are several tokens."""
    return _processor("Idefics3Processor", _smol_images("Idefics3ImageProcessorPil"), "<image>", {}, pieces=True, image_seq_len=4)
