"""The shape of a model, from its configuration: what budgets, schedules and FLOPs need, for all families in one place."""

from __future__ import annotations

from math import isqrt

from harness.models.tiling import side
from methods.types import ModelShape


def read_shape(config, name: str = "", kv_bytes: int = 2, grid: tuple[int, int] | None = None) -> ModelShape:
    """The shape that a configuration describes.

    Args:
        config: of a supported model.
        name: of the model.
        kv_bytes: bytes of one cached number.
        grid: visual tokens of an image, for models that take it at any size; 36 x 36 where not given.

    Returns:
        Of one image, taken as one tile. How many tiles an image is cut into stands in no configuration: `Adapter.shape_for`
        knows it for a given image.
    """
    vision, text = config.vision_config, config.get_text_config()
    packed = config.model_type.startswith("qwen")
    width = vision.embed_dim if config.model_type == "qwen2_vl" else vision.hidden_size
    merge = merge_of(config)
    patch = side(vision.patch_size)
    if packed:
        grid = grid or (36, 36)
    else:
        one = side(vision.image_size) // patch // isqrt(merge)
        grid = (one, one)
    windows = config.model_type == "qwen2_5_vl"
    return ModelShape(
        name=name,
        visual_tokens=grid[0] * grid[1],
        grid=grid,
        vision_layers=blocks_read(config),
        vision_width=width,
        vision_heads=vision.num_attention_heads,
        vision_mlp=int(width * vision.mlp_ratio) if config.model_type == "qwen2_vl" else vision.intermediate_size,
        has_cls=vision.model_type in ("clip_vision_model", "internvl_vision"),
        patch=patch,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        mlp=text.intermediate_size,
        gated=True,
        vocabulary=text.vocab_size,
        projector_layers=_projector(config, width, merge),
        kv_bytes=kv_bytes,
        merge=merge,
        vision_gated=windows,
        window=(vision.window_size // patch) ** 2 if windows else 0,
        global_blocks=tuple(vision.fullatt_block_indexes) if windows else (),
        channels=vision.in_channels * vision.temporal_patch_size if packed else 3,
    )


def merge_of(config) -> int:
    """Tower tokens that the projector makes one visual token of."""
    vision, kind = config.vision_config, config.model_type
    if kind.startswith("qwen"):
        return vision.spatial_merge_size**2
    if kind == "internvl":
        return round(1 / config.downsample_ratio) ** 2
    if kind in ("smolvlm", "idefics3"):
        return config.scale_factor**2
    if kind == "gemma3":
        return (side(vision.image_size) // side(vision.patch_size)) ** 2 // config.mm_tokens_per_image
    return 1


def blocks_read(config) -> int:
    """Tower blocks that the model reads, and that are therefore run."""
    blocks, read = config.vision_config.num_hidden_layers, getattr(config, "vision_feature_layer", -1)
    return read if read >= 0 else blocks + 1 + read


def _projector(config, width: int, merge: int) -> tuple[tuple[int, int], ...]:
    """(in, out) of each linear map."""
    vision, out, kind = config.vision_config, config.get_text_config().hidden_size, config.model_type
    wide = merge * width
    if kind.startswith("qwen"):
        out = vision.hidden_size if kind == "qwen2_vl" else vision.out_hidden_size
        return ((wide, wide), (wide, out)) * (1 + len(getattr(vision, "deepstack_visual_indexes", ())))
    if kind in ("smolvlm", "idefics3"):
        return ((wide, out),)
    if kind == "gemma3":
        return ((width, out),)
    return ((wide, out), (out, out))
