"""Shapes of public models, from their configuration files: what FLOPs, budgets and profiles need, without a download.

Where the number of visual tokens depends on the image, a usual one stands here: five tiles for LLaVA-NeXT, an image of
1008 x 1008 pixels for Qwen2.5-VL, one tile for InternVL3 and SmolVLM2. Weights are taken to be of 16 bits.
"""

from __future__ import annotations

from dataclasses import replace

from harness.errors import RequestError, nearest
from methods.types import ModelShape

_LLAVA = ModelShape(
    name="llava-1.5-7b", visual_tokens=576, grid=(24, 24), vision_layers=23, vision_width=1024, vision_heads=16, vision_mlp=4096,
    has_cls=True, patch=14, layers=32, width=4096, heads=32, kv_heads=32, head_dim=128, mlp=11008, gated=True, vocabulary=32064,
    projector_layers=((1024, 4096), (4096, 4096)), kv_bytes=2, joint_width=768, joint_text=(12, 768, 3072),
    tower_blocks=24,
)  # fmt: skip
_QWEN = ModelShape(
    name="qwen2.5-vl-7b", visual_tokens=1296, grid=(36, 36), vision_layers=32, vision_width=1280, vision_heads=16,
    vision_mlp=3420, has_cls=False, patch=14,
    layers=28, width=3584, heads=28, kv_heads=4, head_dim=128, mlp=18944, gated=True, vocabulary=152064,
    projector_layers=((5120, 5120), (5120, 3584)), kv_bytes=2, merge=4, vision_gated=True, window=64,
    global_blocks=(7, 15, 23, 31), channels=6, tower_blocks=32,
)  # fmt: skip
_INTERN = ModelShape(
    name="internvl3-8b", visual_tokens=256, grid=(16, 16), vision_layers=24, vision_width=1024, vision_heads=16, vision_mlp=4096,
    has_cls=True, patch=14, layers=28, width=3584, heads=28, kv_heads=4, head_dim=128, mlp=18944, gated=True, vocabulary=151674,
    projector_layers=((4096, 3584), (3584, 3584)), kv_bytes=2, merge=4, tower_blocks=24,
)  # fmt: skip

PUBLIC = {
    shape.name: shape
    for shape in (
        _LLAVA,
        replace(
            _LLAVA, name="llava-1.5-13b", layers=40, width=5120, heads=40, kv_heads=40, mlp=13824,
            projector_layers=((1024, 5120), (5120, 5120)),
        ),
        replace(_LLAVA, name="llava-next-7b", visual_tokens=2880, grid=(48, 60), tiles=5),
        replace(
            _QWEN, name="qwen2.5-vl-3b", layers=36, width=2048, heads=16, kv_heads=2, mlp=11008, vocabulary=151936,
            projector_layers=((5120, 5120), (5120, 2048)),
        ),
        _QWEN,
        replace(
            _INTERN, name="internvl3-1b", layers=24, width=896, heads=14, kv_heads=2, head_dim=64, mlp=4864,
            projector_layers=((4096, 896), (896, 896)),
        ),
        replace(
            _INTERN, name="internvl3-2b", width=1536, heads=12, kv_heads=2, mlp=8960,
            projector_layers=((4096, 1536), (1536, 1536)),
        ),
        _INTERN,
        ModelShape(
            name="smolvlm2", visual_tokens=81, grid=(9, 9), vision_layers=27, vision_width=1152, vision_heads=16, vision_mlp=4304,
            has_cls=False, patch=14, layers=24, width=2048, heads=32, kv_heads=32, head_dim=64, mlp=8192, gated=True,
            vocabulary=49280, projector_layers=((10368, 2048),), kv_bytes=2, merge=9, tower_blocks=27,
        ),
        ModelShape(
            name="tiny", visual_tokens=576, grid=(24, 24), vision_layers=5, vision_width=128, vision_heads=4, vision_mlp=384,
            has_cls=True, patch=8, layers=12, width=128, heads=4, kv_heads=4, head_dim=32, mlp=256, gated=True, vocabulary=61,
            projector_layers=((128, 128), (128, 128)), kv_bytes=4, joint_width=64, joint_text=(2, 128, 256),
            tower_blocks=6,
        ),
    )
}  # fmt: skip

_CHECKPOINTS = {
    "tiny": "tiny",
    "llava-hf/llava-1.5-7b-hf": "llava-1.5-7b", "llava-hf/llava-1.5-13b-hf": "llava-1.5-13b",
    "llava-hf/llava-v1.6-vicuna-7b-hf": "llava-next-7b",
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2.5-vl-7b",
    "OpenGVLab/InternVL3-1B-hf": "internvl3-1b", "OpenGVLab/InternVL3-2B-hf": "internvl3-2b",
    "OpenGVLab/InternVL3-8B-hf": "internvl3-8b",
}  # fmt: skip
"""Models as they are loaded, and the public shape that each has."""


def shape_name_of(model: str) -> str | None:
    """Return the name of the public shape of a model that is named as it is loaded; None where none is known.

    >>> shape_name_of("llava-hf/llava-1.5-7b-hf")
    'llava-1.5-7b'
    """
    return _CHECKPOINTS.get(model)


def shape_of(name: str) -> ModelShape:
    """Return the shape of a public model.

    Raises:
        RequestError: for an unknown name; the message holds the nearest.
    """
    if name not in PUBLIC:
        raise RequestError(f"--shape {name!r}: {nearest(name, PUBLIC)}")
    return PUBLIC[name]


def one_size(shape: ModelShape) -> int | None:
    """Return the visual tokens of every image of a model; None where images differ in them, in tiles or by their own size.

    >>> one_size(shape_of("llava-1.5-7b")), one_size(shape_of("qwen2.5-vl-7b"))
    (576, None)

    Args:
        shape: of a public model.
    """
    return shape.visual_tokens if shape.tiles == 1 and shape.merge == 1 else None
