"""The shape of a model, from its configuration: what budgets, schedules and FLOPs need, for all families in one place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isqrt
from typing import Any

from harness.errors import RequestError
from harness.models.tiling import side
from methods.types import ModelShape

_OWN_TOWERS = {"smolvlm": "idefics3_vision", "idefics3": "idefics3_vision", "internvl": "internvl_vision"}
"""Towers of families that have one alone."""
_WITH_CLS = ("clip_vision_model", "internvl_vision")
_SEVERAL = ("llava", "llava_next", "llava_onevision", "vipllava")
"""Families whose projector may read several tower layers at once."""
_NO_LIMIT = 10**9  # transformers writes 10**30 where a tokenizer has none


def read_shape(config: Any, name: str = "", kv_bytes: int = 2, grid: tuple[int, int] | None = None) -> ModelShape:
    """Return the shape that a configuration describes.

    Args:
        config: a configuration of transformers, of a supported family; its fields differ by family.
        name: of the model.
        kv_bytes: bytes of one cached number.
        grid: rows and columns of an image's visual tokens, for models that take it at any size; 36 x 36 where not given.

    Returns:
        The shape for one image, taken as one tile. How many tiles an image is cut into stands in no configuration:
        `Adapter.shape_for` gives the shape for a given image.
    """
    vision, text = config.vision_config, config.get_text_config()
    packed = config.model_type.startswith("qwen")
    width = vision.embed_dim if config.model_type == "qwen2_vl" else vision.hidden_size
    merge = merge_of(config)
    patch = side(vision.patch_size)
    pixtral = tower_kind(config) == "pixtral"
    if packed or pixtral:
        grid = grid or (36, 36)
    else:
        one = side(vision.image_size) // patch // isqrt(merge)
        grid = (one, one)
    windows = config.model_type == "qwen2_5_vl"
    joined = len(layers_read(config))
    return ModelShape(
        name=name,
        visual_tokens=grid[0] * grid[1],
        grid=grid,
        vision_layers=blocks_read(config),
        vision_width=width,
        vision_heads=vision.num_attention_heads,
        vision_mlp=int(width * vision.mlp_ratio) if config.model_type == "qwen2_vl" else vision.intermediate_size,
        has_cls=tower_kind(config) in _WITH_CLS,
        patch=patch,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        mlp=text.intermediate_size,
        gated=True,
        vocabulary=text.vocab_size,
        projector_layers=_projector(config, width * joined, merge),
        kv_bytes=kv_bytes,
        merge=merge,
        vision_gated=windows or pixtral,
        window=(vision.window_size // patch) ** 2 if windows else 0,
        global_blocks=tuple(vision.fullatt_block_indexes) if windows else (),
        tower_blocks=vision.num_hidden_layers,
        channels=vision.in_channels * vision.temporal_patch_size if packed else 3,
        **_experts(text),
    )


def merge_of(config: Any) -> int:
    """Return how many tower tokens the projector makes one visual token of, from a configuration of transformers."""
    vision, kind = config.vision_config, config.model_type
    merge = 1
    if kind.startswith("qwen"):
        merge = vision.spatial_merge_size**2
    elif kind == "internvl":
        merge = round(1 / config.downsample_ratio) ** 2
    elif kind in ("smolvlm", "idefics3"):
        merge = config.scale_factor**2
    elif kind == "mistral3":
        merge = config.spatial_merge_size**2
    elif kind == "gemma3":
        merge = (side(vision.image_size) // side(vision.patch_size)) ** 2 // config.mm_tokens_per_image
    return merge


def tower_kind(config: Any) -> str:
    """Return which vision tower transformers builds of a configuration, by the ``model_type`` of its own class.

    Some families have one tower alone, which is built whatever the checkpoint calls it: published Idefics3 checkpoints say
    ``idefics3``, ``idefics3_vision`` or nothing. Empty where a configuration has no tower.
    """
    named = getattr(getattr(config, "vision_config", None), "model_type", "")
    return str(_OWN_TOWERS.get(getattr(config, "model_type", ""), named))


def layers_read(config: Any) -> tuple[int, ...]:
    """Return the tower layers whose states the projector reads, joined in this order, from a configuration of transformers.

    Layer 0 is what enters the first block, layer i what leaves the i-th. Nearly all models read one.
    """
    blocks: int = config.vision_config.num_hidden_layers
    read: int | Sequence[int] = getattr(config, "vision_feature_layer", -1)
    every = (read,) if isinstance(read, int) else tuple(read)
    return tuple(layer if layer >= 0 else blocks + 1 + layer for layer in every)


def blocks_read(config: Any) -> int:
    """Return how many tower blocks the model reads, and that are therefore run, from a configuration of transformers."""
    return max(layers_read(config))


def _experts(text: Any) -> dict[str, Any]:
    """The experts of an LLM whose MLPs are some (Qwen3-MoE's names of the fields); nothing of any other."""
    count = getattr(text, "num_experts", None) if hasattr(text, "moe_intermediate_size") else None
    if not count:
        return {}
    layers, step = text.num_hidden_layers, getattr(text, "decoder_sparse_step", 1)
    dense = {layer for layer in range(layers) if (layer + 1) % step} | set(getattr(text, "mlp_only_layers", ()) or ())
    return {
        "experts": count, "experts_per_token": text.num_experts_per_tok, "expert_mlp": text.moe_intermediate_size,
        "dense_layers": tuple(sorted(layer for layer in dense if layer < layers)),
    }  # fmt: skip


def _projector(config: Any, width: int, merge: int) -> tuple[tuple[int, int], ...]:
    """(in, out) of each linear map of the projector."""
    vision, out, kind = config.vision_config, config.get_text_config().hidden_size, config.model_type
    wide = merge * width
    if kind.startswith("qwen"):
        out = vision.hidden_size if kind == "qwen2_vl" else vision.out_hidden_size
        return ((wide, wide), (wide, out)) * (1 + len(getattr(vision, "deepstack_visual_indexes", ())))
    if kind in ("smolvlm", "idefics3"):
        return ((wide, out),)
    if kind in ("gemma3", "paligemma"):
        return ((width, out),)
    if kind == "mistral3":
        return ((wide, width), (width, out), (out, out))
    return ((wide, out), (out, out))


@contextmanager
def understood(name: str, config: Any) -> Iterator[None]:
    """Turn what a model lacks that is read of it inside the block into a `RequestError` that names it and the architecture.

    Args:
        name: of the model, for messages.
        config: a configuration of transformers; its fields differ by family.
    """
    try:
        yield
    except AttributeError as error:
        text = getattr(config.get_text_config(), "model_type", None)
        of = f"{config.model_type} around {text}" if text not in (None, config.model_type) else config.model_type
        lacks = f"its {type(error.obj).__name__} has no {error.name!r}" if error.name else str(error)
        raise RequestError(f"model {name!r}: {of} cannot be run: {lacks}") from error


def longest_sequence(config: Any, tokenizer: Any) -> int | None:
    """Return the most positions that a model was made for, from its configuration, else from its tokenizer; None for no limit.

    Args:
        config: a configuration of transformers; its fields differ by family.
        tokenizer: of transformers; None for a model that has none.
    """
    text = config.get_text_config()
    stated = getattr(text, "max_position_embeddings", None)
    if not isinstance(stated, int) or stated < 1:
        stated = getattr(tokenizer, "model_max_length", None)
        return stated if isinstance(stated, int) and 0 < stated < _NO_LIMIT else None
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    factor = scaling.get("factor") if isinstance(scaling, dict) else None
    kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else None
    if not isinstance(factor, (int, float)) or factor <= 1:
        return stated
    if kind in ("linear", "dynamic"):  # their configurations state what the model was trained with
        return int(stated * factor)
    original = scaling.get("original_max_position_embeddings")
    return max(stated, int(original * factor)) if kind == "yarn" and isinstance(original, int) else stated


def check_configuration(name: str, config: Any) -> None:
    """Check that a configuration asks for nothing that its architecture allows and this suite does not know.

    Args:
        name: of the model, for messages.
        config: a configuration of transformers; its fields differ by family.

    Raises:
        RequestError: where it does.
    """
    vision, kind = config.vision_config, config.model_type
    tower = tower_kind(config)
    known = (*_WITH_CLS, "siglip_vision_model", *_OWN_TOWERS.values())
    known = {"mistral3": ("pixtral",), "llava": (*known, "pixtral")}.get(kind, known)
    if not kind.startswith("qwen") and tower not in known:
        raise RequestError(f"model {name!r}: vision tower {vision.model_type!r} of {kind} is not supported; CLIP and SigLIP are")
    if hasattr(config, "vision_feature_layer"):
        _check_layers(name, config)
    strategy = "default" if kind == "vipllava" else getattr(config, "vision_feature_select_strategy", None)
    if strategy is not None and (strategy == "default") != (tower in _WITH_CLS):
        raise RequestError(f"model {name!r}: vision_feature_select_strategy {strategy!r} does not fit a {tower}")


def _check_layers(name: str, config: Any) -> None:
    """Check the tower layers that a model reads: they exist, a block is run, and its family may read so many."""
    read, blocks, kind = config.vision_feature_layer, config.vision_config.num_hidden_layers, config.model_type
    said = f"model {name!r}: vision_feature_layer {read!r}"
    every = [read] if isinstance(read, int) else read
    if not every:
        raise RequestError(f"{said} names no tower layer")
    wrong = next((layer for layer in every if not -blocks - 1 <= layer <= blocks), None)
    if wrong is not None:
        raise RequestError(f"{said}: the tower has no layer {wrong}; its {blocks} blocks have layers {-blocks - 1} to {blocks}")
    if blocks_read(config) == 0:
        raise RequestError(f"{said} is what enters the tower's first block, so no block is run and there are no signals")
    if not isinstance(read, int) and (kind not in _SEVERAL or tower_kind(config) == "pixtral"):
        raise RequestError(f"{said}: several tower layers are read by {', '.join(_SEVERAL)} with a CLIP or SigLIP alone")
