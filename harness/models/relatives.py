"""Architectures that are not supported: which supported families are near them, and what else helps.

Importing this file needs neither torch nor transformers.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches

_LLAVA = "this is the format of LLaVA's own code; converted checkpoints are named llava-hf/...-hf"
_INTERN = "this is the format of InternVL's own code; converted checkpoints end in -hf or -HF, as OpenGVLab/InternVL3-8B-hf"
_CODE = "it comes with code of its own, which is never run"
_CROSS = "its images are read by cross-attention, so its prompt holds no visual tokens"
_TWO = "it is an encoder and a decoder, so its prompt holds no visual tokens"
_TEXT = "it is a language model, which takes no images"
_TOWER = "it has no language model that could answer"
_LINEAR = "some of its layers have linear attention, which keeps no keys and values of single tokens"

_RELATIVES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (r"llava_(next_)?qwen(2|3)?(_moe)?", ("llava_onevision", "llava_next"), _LLAVA),
    (r"llava_(next_)?(llama|mistral|mixtral|mpt|phi|gemma|internlm|cohere|stablelm|yi)\w*", ("llava", "llava_next"), _LLAVA),
    (r"llava_onevision\w+", ("llava_onevision",), _CODE),
    (r"(bunny|tinyllava|mobilevlm|mobilellama|imp|cambrian|mplug_owl|n?vila)\w*", ("llava", "llava_next"), _CODE),
    (r"llava_next_video|video_?llava\w*", ("llava_next", "llava"), ""),
    (r"internvl_chat|internvl2\w*|intern_?vit\w*", ("internvl",), _INTERN),
    (r"(h2ovl|eagle|deepseek_vl_v2|nvlm|skywork_chat)\w*", ("internvl",), _CODE),
    (r"aya_vision|cohere2_vision|got_ocr2|qianfan_ocr|nemotron_h\w*|llama4|deepseek_ocr2", ("internvl",), ""),
    (r"ovis\w*", ("internvl", "llava_onevision"), ""),
    (r"minicpm_?[vo]", ("llava_onevision", "idefics3"), _CODE),
    (r"minicpm(v4|_ocr)\w*|lfm\d_vl|granite_docling|idefics2", ("idefics3", "smolvlm"), ""),
    (r"idefics", ("idefics3", "smolvlm"), _CROSS),
    (r"mllama", ("llava_next",), _CROSS),
    (r"qwen", ("qwen2_vl",), _CODE),
    (r"qwen2_5_omni\w*|glm(4v|4?6v|_ocr|ga|5_next)\w*|exaone4_5|mimo_?vl|keye\w*", ("qwen2_5_vl",), ""),
    (r"qwen3_omni\w*|cosmos3\w*|cohere_compass", ("qwen3_vl_moe", "qwen3_vl"), ""),
    (r"qwen3_(5|6|next)\w*|qwen4\w*", ("qwen3_vl",), _LINEAR),
    (r"(video_llama_3|ernie4_5_vl|hunyuan_vl|hy_v\d_vl|kimi|dots|paddleocr_vl|hyperclovax)\w*", ("qwen2_vl",), ""),
    (r"paligemma\w*|colpali|pi0\w*", ("paligemma", "gemma3"), ""),
    (r"(gemma3n|gemma4|shieldgemma|diffusion_gemma)\w*", ("gemma3",), ""),
    (r"t5gemma2\w*", ("gemma3",), _TWO),
    (r"pixtral|mistral4|mistral_large4|lighton_ocr", ("mistral3", "llava"), ""),
    (r"granite4_vision", ("llava_next",), ""),
    (r"phi3_v|phi4mm|molmo|moondream1?|cogvlm2?", ("llava_next", "llava"), _CODE),
    (r"phi4_multimodal|molmo2|perception_lm|aria|step3\w*|minimax_\w*vl\w*", ("llava_next", "llava"), ""),
    (r"fast_?vlm\w*|deepseek_vl\w*|janus\w*|git|fuyu|instruct_?blip\w*|blip_?2\w*|kosmos_2\w*", ("llava",), ""),
    (r"chameleon|emu3|apertus1p5", ("llava",), "its images are words of its vocabulary"),
    (r"florence\w*|pix2struct|udop|blip|vision_encoder_decoder", ("llava",), _TWO),
    (r"(clip|siglip|dino|eva|vit|aimv2|pixtral_vision)\w*", ("llava",), _TOWER),
    (r"llama|vicuna|mistral|mixtral|mpt|opt|gpt2|gptj|gpt_neo\w*|bloom|falcon\w*", ("llava", "llava_next"), _TEXT),
    (r"phi|phi3|phimoe|granite(moe\w*)?|olmo\w*|cohere\d?|starcoder2|stablelm|nanochat", ("llava", "llava_next"), _TEXT),
    (r"qwen2(_moe)?", ("qwen2_vl", "llava_onevision", "internvl"), _TEXT),
    (r"qwen3(_moe)?|gpt_oss|internlm\d?", ("qwen3_vl", "internvl"), _TEXT),
    (r"gemma2?|smollm\d?", ("gemma3", "smolvlm"), _TEXT),
)
"""Patterns of ``model_type``, lower case and with underscores alone; the families near it; and a remark."""
_PARTS = {"_text": _TEXT, "_text_model": _TEXT, "_vision": _TOWER, "_vision_model": _TOWER}
"""Endings of parts of a model, whose own checkpoint is not the whole."""

_WORDS = {"llava": ("llava", "llava_next"), r"_vl(_|$)": ("qwen2_5_vl",), "gemma": ("gemma3",), "smol": ("smolvlm",)}
"""Words in the names of architectures that nobody has heard of yet, and the families near them."""


def relation(model_type: str, families: Collection[str]) -> str:
    """Return which families an unsupported architecture is near, as the middle of a message; nothing where none is.

    Args:
        model_type: of its configuration.
        families: those that are supported.
    """
    kind = re.sub(r"[^a-z0-9]+", "_", model_type.lower()).strip("_")
    near, remark = _found(kind, families)
    if not near:
        return ""
    return f"; closest is {' or '.join(near)}" + (f": {remark}" if remark else "")


def _found(kind: str, families: Collection[str]) -> tuple[list[str], str]:
    for pattern, near, remark in _RELATIVES:
        if re.fullmatch(pattern, kind):
            return [family for family in near if family in families], remark
    for family in sorted(families, key=len, reverse=True):
        if kind.startswith(family):
            return [family], _PARTS.get(kind.removeprefix(family), "")
    for word, near in _WORDS.items():
        if re.search(word, kind):
            return [family for family in near if family in families], ""
    return get_close_matches(kind, families, 1, 0.6), ""
