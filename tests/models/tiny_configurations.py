"""Configurations of tiny models, each of its family's own class, with what is peculiar to the family."""

from __future__ import annotations

import transformers

from tests.models.tiny_words import SIZE, VOCABULARY

TEXT = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": SIZE, "initializer_range": 0.25, "max_position_embeddings": 2048, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
_CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "initializer_range": 0.25,
}  # fmt: skip
_SIGLIP = {**_CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
PINPOINTS = [[32, 64], [64, 32], [64, 64], [32, 96], [96, 32]]
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}


def llava():
    return transformers.LlavaConfig(
        vision_config=_CLIP, text_config={"model_type": "llama", **TEXT}, vision_feature_layer=-2,
        image_token_id=VOCABULARY["<image>"],
    )  # fmt: skip


def siglip_llava():
    return transformers.LlavaConfig(
        vision_config=_SIGLIP, text_config={"model_type": "qwen2", **TEXT}, vision_feature_layer=-1,
        vision_feature_select_strategy="full", image_token_id=VOCABULARY["<image>"],
    )  # fmt: skip


def vipllava():
    """Three tower layers, of which the deepest is neither the last nor named last."""
    return transformers.VipLlavaConfig(
        vision_config={**_CLIP, "num_hidden_layers": 4}, text_config={"model_type": "llama", **TEXT},
        vision_feature_layers=[-4, -2, 2], image_token_id=VOCABULARY["<image>"],
    )  # fmt: skip


def granite_vision():
    """As Granite Vision: a LLaVA-NeXT around a Granite that reads several layers of a SigLIP, the last among them."""
    text = {
        **TEXT, "model_type": "granite", "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.6,
        "logits_scaling": 4.0,
    }  # fmt: skip
    return transformers.LlavaNextConfig(
        vision_config=_SIGLIP, text_config=text, vision_feature_layer=[-4, 1, -1],
        vision_feature_select_strategy="full", image_token_id=VOCABULARY["<image>"], image_grid_pinpoints=PINPOINTS,
    )  # fmt: skip


def llava_next():
    return transformers.LlavaNextConfig(
        vision_config=_CLIP, text_config={"model_type": "mistral", "sliding_window": None, **TEXT}, vision_feature_layer=-2,
        image_token_id=VOCABULARY["<image>"], image_grid_pinpoints=PINPOINTS,
    )  # fmt: skip


def onevision():
    return transformers.LlavaOnevisionConfig(
        vision_config=_SIGLIP, text_config={"model_type": "qwen2", **TEXT}, image_token_id=VOCABULARY["<image>"],
        video_token_id=VOCABULARY["<video>"], image_grid_pinpoints=PINPOINTS, vision_aspect_ratio="anyres_max_2",
    )  # fmt: skip


def internvl():
    vision = {**_CLIP, "model_type": "internvl_vision", "image_size": [32, 32], "patch_size": [8, 8]}
    return transformers.InternVLConfig(
        vision_config=vision, text_config={"model_type": "qwen2", **TEXT}, image_token_id=VOCABULARY["<IMG_CONTEXT>"],
    )  # fmt: skip


def internvl35():
    """As InternVL3.5: a Qwen3 behind the tower; the tower of its larger models norms queries and keys too."""
    vision = {
        **_CLIP, "model_type": "internvl_vision", "image_size": [32, 32], "patch_size": [8, 8], "attention_bias": True,
        "norm_type": "rms_norm", "use_qk_norm": True,
    }  # fmt: skip
    return transformers.InternVLConfig(
        vision_config=vision, text_config={"model_type": "qwen3", **TEXT, "head_dim": 16},
        image_token_id=VOCABULARY["<IMG_CONTEXT>"],
    )  # fmt: skip


def _qwen(kind: str, **vision):
    text = {**TEXT, "rope_parameters": _ROPE}
    tower = {"depth": 3, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2, "initializer_range": 0.25, **vision}
    return getattr(transformers, kind)(
        vision_config=tower, text_config=text, image_token_id=VOCABULARY["<|image_pad|>"],
        video_token_id=VOCABULARY["<|video_pad|>"], vision_start_token_id=VOCABULARY["<|vision_start|>"],
        vision_end_token_id=VOCABULARY["<|vision_end|>"], tie_word_embeddings=False,
    )  # fmt: skip


def qwen2():
    return _qwen("Qwen2VLConfig", embed_dim=32, hidden_size=48, mlp_ratio=2)


def qwen25():
    whole = {"window_size": 32, "fullatt_block_indexes": [2]}
    return _qwen("Qwen2_5_VLConfig", hidden_size=32, intermediate_size=44, out_hidden_size=48, **whole)


def qwen3():
    deep = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    made = _qwen("Qwen3VLConfig", hidden_size=32, intermediate_size=44, out_hidden_size=48, **deep)
    made.text_config.head_dim = 12
    return made


def qwen3_moe():
    deep = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16}
    made = _qwen("Qwen3VLMoeConfig", hidden_size=32, intermediate_size=44, out_hidden_size=48, **deep)
    for name, value in {"head_dim": 12, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}.items():
        setattr(made.text_config, name, value)
    made.text_config.mlp_only_layers = [1]
    return made


def smol(kind: str = "SmolVLMConfig", scale: int = 2, **tower: str):
    vision = {key: value for key, value in _CLIP.items() if key != "model_type"} | tower
    text = {"model_type": "llama", **TEXT}
    return getattr(transformers, kind)(
        vision_config=vision, text_config=text, image_token_id=VOCABULARY["<image>"], scale_factor=scale,
    )  # fmt: skip


def gemma(window: int = 9):
    text = {
        **TEXT, "head_dim": 12, "sliding_window": window, "query_pre_attn_scalar": 12,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    }  # fmt: skip
    return transformers.Gemma3Config(
        vision_config={**_SIGLIP, "image_size": 64}, text_config=text, mm_tokens_per_image=16,
        image_token_id=VOCABULARY["<image_soft_token>"],
        boi_token_index=VOCABULARY["<start_of_image>"], eoi_token_index=VOCABULARY["<end_of_image>"],
        tie_word_embeddings=False,
    )  # fmt: skip


def _pixtral():
    tower = {"image_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    return {"model_type": "pixtral", "patch_size": 8, "initializer_range": 0.25, **tower}


def mistral3():
    return transformers.Mistral3Config(
        vision_config=_pixtral(), text_config={"model_type": "mistral", "sliding_window": None, **TEXT, "head_dim": 12},
        image_token_index=VOCABULARY["[IMG]"], spatial_merge_size=2, tie_word_embeddings=False,
    )  # fmt: skip


def pixtral_llava():
    return transformers.LlavaConfig(
        vision_config=_pixtral(), text_config={"model_type": "mistral", "sliding_window": None, **TEXT, "head_dim": 12},
        image_token_id=VOCABULARY["[IMG]"], vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip


def paligemma(second: bool):
    """Gemma 2 with windows that are shorter than a prompt, and bounds that scores and logits reach."""
    text = {**TEXT, "head_dim": 12, "model_type": "gemma"}
    if second:
        text |= {
            "model_type": "gemma2", "sliding_window": 9, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        }  # fmt: skip
    return transformers.PaliGemmaConfig(
        vision_config=_SIGLIP, text_config=text, image_token_index=VOCABULARY["<image>"], projection_dim=48, hidden_size=48,
        tie_word_embeddings=False,
    )  # fmt: skip
