"""Configurations of tiny models, each of its family's own class, with what is peculiar to the family."""

from __future__ import annotations

from typing import Any

import transformers

from harness.models.random_families.words import SIZE, VOCABULARY

_classes: Any = transformers  # which take names that their signatures do not list

TEXT: dict[str, Any] = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": SIZE, "initializer_range": 0.25, "max_position_embeddings": 2048, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
_CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "initializer_range": 0.25,
}  # fmt: skip
_SIGLIP = {**_CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
PINPOINTS = [[32, 64], [64, 32], [64, 64], [32, 96], [96, 32]]
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}


def llava() -> Any:
    """Return a LLaVA 1.5: CLIP, and a Llama that reads its last layer but one."""
    return _classes.LlavaConfig(
        vision_config=_CLIP, text_config={"model_type": "llama", **TEXT}, vision_feature_layer=-2,
        image_token_id=VOCABULARY["<image>"],
    )  # fmt: skip


def siglip_llava() -> Any:
    """Return a LLaVA around a SigLIP without CLS and a Qwen2."""
    return _classes.LlavaConfig(
        vision_config=_SIGLIP, text_config={"model_type": "qwen2", **TEXT}, vision_feature_layer=-1,
        vision_feature_select_strategy="full", image_token_id=VOCABULARY["<image>"],
    )  # fmt: skip


def vipllava() -> Any:
    """Return a VipLLaVA that reads three tower layers, of which the deepest is neither the last nor named last."""
    return _classes.VipLlavaConfig(
        vision_config={**_CLIP, "num_hidden_layers": 4}, text_config={"model_type": "llama", **TEXT},
        vision_feature_layers=[-4, -2, 2], image_token_id=VOCABULARY["<image>"],
    )  # fmt: skip


def granite_vision() -> Any:
    """Return a Granite Vision: a LLaVA-NeXT around a Granite that reads several layers of a SigLIP, the last among them."""
    text = {
        **TEXT, "model_type": "granite", "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.6,
        "logits_scaling": 4.0,
    }  # fmt: skip
    return _classes.LlavaNextConfig(
        vision_config=_SIGLIP, text_config=text, vision_feature_layer=[-4, 1, -1],
        vision_feature_select_strategy="full", image_token_id=VOCABULARY["<image>"], image_grid_pinpoints=PINPOINTS,
    )  # fmt: skip


def llava_next() -> Any:
    """Return a LLaVA-NeXT, which sees an image in tiles."""
    return _classes.LlavaNextConfig(
        vision_config=_CLIP, text_config={"model_type": "mistral", "sliding_window": None, **TEXT}, vision_feature_layer=-2,
        image_token_id=VOCABULARY["<image>"], image_grid_pinpoints=PINPOINTS,
    )  # fmt: skip


def onevision() -> Any:
    """Return a LLaVA-OneVision, which sees an image in tiles and shrinks them where they are too many."""
    return _classes.LlavaOnevisionConfig(
        vision_config=_SIGLIP, text_config={"model_type": "qwen2", **TEXT}, image_token_id=VOCABULARY["<image>"],
        video_token_id=VOCABULARY["<video>"], image_grid_pinpoints=PINPOINTS, vision_aspect_ratio="anyres_max_2",
    )  # fmt: skip


def internvl() -> Any:
    """Return an InternVL3, whose projector makes one token of four."""
    vision = {**_CLIP, "model_type": "internvl_vision", "image_size": [32, 32], "patch_size": [8, 8]}
    return _classes.InternVLConfig(
        vision_config=vision, text_config={"model_type": "qwen2", **TEXT}, image_token_id=VOCABULARY["<IMG_CONTEXT>"],
    )  # fmt: skip


def internvl35() -> Any:
    """Return an InternVL3.5: a Qwen3 behind a tower that norms queries and keys, as that of its larger models does."""
    vision = {
        **_CLIP, "model_type": "internvl_vision", "image_size": [32, 32], "patch_size": [8, 8], "attention_bias": True,
        "norm_type": "rms_norm", "use_qk_norm": True,
    }  # fmt: skip
    return _classes.InternVLConfig(
        vision_config=vision, text_config={"model_type": "qwen3", **TEXT, "head_dim": 16},
        image_token_id=VOCABULARY["<IMG_CONTEXT>"],
    )  # fmt: skip


def _qwen(kind: str, **vision: Any) -> Any:
    text = {**TEXT, "rope_parameters": _ROPE}
    tower = {"depth": 3, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, "initializer_range": 0.25, **vision}
    return getattr(_classes, kind)(
        vision_config=tower, text_config=text, image_token_id=VOCABULARY["<|image_pad|>"],
        video_token_id=VOCABULARY["<|video_pad|>"], vision_start_token_id=VOCABULARY["<|vision_start|>"],
        vision_end_token_id=VOCABULARY["<|vision_end|>"], tie_word_embeddings=False,
    )  # fmt: skip


def qwen2() -> Any:
    """Return a Qwen2-VL, which sees an image at its own size."""
    return _qwen("Qwen2VLConfig", embed_dim=32, hidden_size=48, mlp_ratio=2)


def qwen25() -> Any:
    """Return a Qwen2.5-VL, whose tower attends in windows."""
    whole = {"window_size": 32, "fullatt_block_indexes": [2]}
    return _qwen("Qwen2_5_VLConfig", hidden_size=32, intermediate_size=44, out_hidden_size=48, **whole)


def qwen3() -> Any:
    """Return a Qwen3-VL, whose first LLM layers are handed states of the tower."""
    deep = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    made = _qwen("Qwen3VLConfig", hidden_size=32, intermediate_size=44, out_hidden_size=48, **deep)
    made.text_config.head_dim = 12
    return made


def qwen3_moe() -> Any:
    """Return a Qwen3-VL with a mixture of experts."""
    deep = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    made = _qwen("Qwen3VLMoeConfig", hidden_size=32, intermediate_size=44, out_hidden_size=48, **deep)
    for name, value in {"head_dim": 12, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}.items():
        setattr(made.text_config, name, value)
    made.text_config.mlp_only_layers = [1]
    return made


def smol(kind: str = "SmolVLMConfig", scale: int = 2, **tower: str) -> Any:
    """Return a SmolVLM or an Idefics3, which see an image in tiles, each between marks."""
    vision = {key: value for key, value in _CLIP.items() if key != "model_type"} | tower
    text = {"model_type": "llama", **TEXT}
    return getattr(_classes, kind)(
        vision_config=vision, text_config=text, image_token_id=VOCABULARY["<image>"], scale_factor=scale,
    )  # fmt: skip


def gemma(window: int = 9) -> Any:
    """Return a Gemma 3, whose image tokens see each other and whose layers have windows."""
    text = {
        **TEXT, "head_dim": 12, "sliding_window": window, "query_pre_attn_scalar": 12,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    }  # fmt: skip
    return _classes.Gemma3Config(
        vision_config={**_SIGLIP, "image_size": 64}, text_config=text, mm_tokens_per_image=16,
        image_token_id=VOCABULARY["<image_soft_token>"],
        boi_token_index=VOCABULARY["<start_of_image>"], eoi_token_index=VOCABULARY["<end_of_image>"],
        tie_word_embeddings=False,
    )  # fmt: skip


def _pixtral() -> dict[str, Any]:
    tower = {"image_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    return {"model_type": "pixtral", "patch_size": 8, "initializer_range": 0.25, **tower}


def mistral3() -> Any:
    """Return a Mistral 3 around a Pixtral."""
    return _classes.Mistral3Config(
        vision_config=_pixtral(), text_config={"model_type": "mistral", "sliding_window": None, **TEXT, "head_dim": 12},
        image_token_index=VOCABULARY["[IMG]"], spatial_merge_size=2, tie_word_embeddings=False,
    )  # fmt: skip


def pixtral_llava() -> Any:
    """Return a LLaVA around a Pixtral."""
    return _classes.LlavaConfig(
        vision_config=_pixtral(), text_config={"model_type": "mistral", "sliding_window": None, **TEXT, "head_dim": 12},
        image_token_id=VOCABULARY["[IMG]"], vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip


def paligemma(second: bool) -> Any:
    """Return a PaliGemma, or a second one: a Gemma 2 with windows shorter than a prompt, and bounds that its scores reach."""
    text = {**TEXT, "head_dim": 12, "model_type": "gemma"}
    if second:
        text |= {
            "model_type": "gemma2", "sliding_window": 9, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        }  # fmt: skip
    return _classes.PaliGemmaConfig(
        vision_config=_SIGLIP, text_config=text, image_token_index=VOCABULARY["<image>"], projection_dim=48, hidden_size=48,
        tie_word_embeddings=False,
    )  # fmt: skip
