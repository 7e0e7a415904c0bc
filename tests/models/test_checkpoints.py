"""Configurations as published checkpoints have them: what matters of each is read right, at its true size, and none is built."""

from __future__ import annotations

import json

import pytest
import transformers

from harness.errors import RequestError
from harness.models.backbones import backbone_of
from harness.models.configuration import check_configuration, layers_read, read_shape, tower_kind

_CLIP_336 = {
    "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "model_type": "clip_vision_model",
    "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768, "vocab_size": 32000,
}  # fmt: skip
_SIGLIP_384 = {
    "hidden_size": 1152, "image_size": 384, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27,
    "patch_size": 14,
}  # fmt: skip
_GRANITE = {
    "architectures": ["GraniteForCausalLM"], "attention_multiplier": 0.015625, "embedding_multiplier": 12.0,
    "hidden_size": 2048, "intermediate_size": 8192, "logits_scaling": 8.0, "max_position_embeddings": 131072,
    "model_type": "granite", "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8,
    "residual_multiplier": 0.22, "rms_norm_eps": 1e-05, "rope_theta": 300000, "tie_word_embeddings": True, "vocab_size": 49156,
}  # fmt: skip
_INTERN = {
    "architectures": ["InternVLVisionModel"], "attention_bias": True, "hidden_size": 1024, "image_size": [448, 448],
    "initializer_factor": 0.1, "initializer_range": 1e-10, "intermediate_size": 4096, "layer_scale_init_value": 0.1,
    "model_type": "internvl_vision", "norm_type": "layer_norm", "num_attention_heads": 16, "num_hidden_layers": 24,
    "patch_size": [14, 14], "use_absolute_position_embeddings": True, "use_mean_pooling": True, "use_qk_norm": False,
}  # fmt: skip
_QWEN3 = {
    "attention_bias": False, "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 12288,
    "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3", "num_attention_heads": 32,
    "num_hidden_layers": 36, "num_key_value_heads": 8, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
_MOE = {
    **_QWEN3, "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
    "num_key_value_heads": 4, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True,
}  # fmt: skip
_LLAMA = {"model_type": "llama", "hidden_size": 2048, "num_attention_heads": 32, "num_hidden_layers": 24, "vocab_size": 49155}
CHECKPOINTS = {
    "vip-llava-7b": {
        "model_type": "vipllava", "image_token_index": 32000, "projector_hidden_act": "gelu", "projector_layernorm_eps": 1e-05,
        "text_config": {"model_type": "llama", "vocab_size": 32064}, "vision_config": _CLIP_336,
        "vision_feature_layers": [-2, -5, -8, -11, 6],
    },
    "granite-vision-3.2-2b": {
        "model_type": "llava_next", "image_grid_pinpoints": [[384, 384], [384, 768], [768, 384]], "image_token_index": 49155,
        "text_config": _GRANITE, "tie_word_embeddings": True, "use_image_newline_parameter": True,
        "vision_config": {"model_type": "siglip_vision_model", **_SIGLIP_384}, "vision_feature_layer": [-24, -20, -12, -1],
        "vision_feature_select_strategy": "full",
    },
    "InternVL3_5-8B-HF": {
        "model_type": "internvl", "downsample_ratio": 0.5, "image_seq_length": 256, "image_token_id": 151671,
        "text_config": _QWEN3, "vision_config": _INTERN, "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
    },
    "InternVL3_5-30B-A3B-HF": {
        "model_type": "internvl", "downsample_ratio": 0.5, "image_token_id": 151671, "text_config": _MOE,
        "vision_config": _INTERN, "vision_feature_layer": -1, "vision_feature_select_strategy": "default",
    },
    "Idefics3-8B-Llama3": {
        "model_type": "idefics3", "image_token_id": 128257, "scale_factor": 2, "text_config": {"model_type": "llama"},
        "vision_config": {"model_type": "idefics3", **_SIGLIP_384, "image_size": 364},
    },
    "SmolVLM-Instruct": {
        "model_type": "idefics3", "image_seq_len": 81, "image_token_id": 49153, "scale_factor": 3, "text_config": _LLAMA,
        "vision_config": {"model_type": "idefics3", "max_image_size": {"longest_edge": 384}, "size": {"longest_edge": 1536},
                          "use_base_siglip": False, **_SIGLIP_384},
    },
    "SmolVLM2-2.2B-Instruct": {
        "model_type": "smolvlm", "image_token_id": 49190, "scale_factor": 3, "text_config": _LLAMA,
        "vision_config": {"model_type": "smolvlm_vision", "max_image_size": {"longest_edge": 384}, **_SIGLIP_384},
    },
}  # fmt: skip
"""What stands in the configuration files of these checkpoints, without what no model reads."""
SHAPES = {  # tower, layers read, visual tokens of a tile, blocks run, first map of the projector, text model
    "vip-llava-7b": ("clip_vision_model", (23, 20, 17, 14, 6), 576, 23, (5120, 4096), "llama"),
    "granite-vision-3.2-2b": ("siglip_vision_model", (4, 8, 16, 27), 729, 27, (4608, 2048), "granite"),
    "InternVL3_5-8B-HF": ("internvl_vision", (24,), 256, 24, (4096, 4096), "qwen3"),
    "InternVL3_5-30B-A3B-HF": ("internvl_vision", (24,), 256, 24, (4096, 2048), "qwen3_moe"),
    "Idefics3-8B-Llama3": ("idefics3_vision", (27,), 169, 27, (4608, 4096), "llama"),
    "SmolVLM-Instruct": ("idefics3_vision", (27,), 81, 27, (10368, 2048), "llama"),
    "SmolVLM2-2.2B-Instruct": ("idefics3_vision", (27,), 81, 27, (10368, 2048), "llama"),
}


def read(facts: dict, folder):
    (folder / "config.json").write_text(json.dumps(facts))
    return transformers.AutoConfig.from_pretrained(folder)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_published_configuration_is_read(name, tmp_path):
    config = read(CHECKPOINTS[name], tmp_path)
    check_configuration(name, config)
    backbone_of(name, config)
    shape = read_shape(config, name)
    found = (tower_kind(config), layers_read(config), shape.visual_tokens, shape.vision_layers, shape.projector_layers[0])
    assert (*found, config.get_text_config().model_type) == SHAPES[name]
    if name == "InternVL3_5-30B-A3B-HF":
        assert (shape.experts, shape.experts_per_token, shape.expert_mlp, shape.head_dim) == (128, 8, 768, 128)


def test_the_internvl_around_gpt_oss_is_refused_by_name(tmp_path):
    """InternVL3_5-GPT-OSS-20B-A4B-Preview-HF: the attention of its text model has sinks."""
    text = {"model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 24}
    config = read({**CHECKPOINTS["InternVL3_5-8B-HF"], "text_config": text}, tmp_path)
    with pytest.raises(RequestError, match=r"text backbone 'gpt_oss' of internvl is not supported.*sinks.*qwen3_moe"):
        backbone_of("m", config)
