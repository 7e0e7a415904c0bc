"""Public models with random weights: their own classes and configuration figures, so that a profile needs no download."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import RequestError, nearest
from harness.models.adapter import Adapter
from harness.models.tiling import side

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedConfig

_VISION = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
_LANGUAGE = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


VisionFigures = tuple[int, int, int, int, int | None, int]
"""Width, MLP width, layers, heads, pixels a side (None where images are of any size) and pixels a patch of a vision tower."""
LanguageFigures = tuple[int, int, int, int, int, int]
"""Width, MLP width, layers, heads, key-value heads and vocabulary of an LLM."""


def qwen(vision: VisionFigures, window: int, whole: tuple[int, ...], language: LanguageFigures) -> PreTrainedConfig:
    """Return the configuration of a Qwen2.5-VL.

    Args:
        vision: figures of its tower.
        window: pixels of a side of the windows within which the tower attends.
        whole: tower blocks that attend beyond the window.
        language: figures of its LLM.
    """
    from transformers import Qwen2_5_VLConfig

    width, mlp, depth, heads, _, patch = vision
    head = language[0] // language[3]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [head // 8, 3 * head // 16, 3 * head // 16]}
    return Qwen2_5_VLConfig(
        vision_config={
            "hidden_size": width, "intermediate_size": mlp, "depth": depth, "num_heads": heads, "patch_size": patch,
            "window_size": window, "fullatt_block_indexes": list(whole), "out_hidden_size": language[0],
        },
        text_config={**dict(zip(_LANGUAGE, language)), "rope_parameters": rope},
    )  # fmt: skip


def internvl(vision: VisionFigures, language: LanguageFigures) -> PreTrainedConfig:
    """Return the configuration of an InternVL3."""
    from transformers import InternVLConfig

    text = {"model_type": "qwen2", **dict(zip(_LANGUAGE, language))}
    return InternVLConfig(vision_config=dict(zip(_VISION, vision)), text_config=text)


def smolvlm(vision: VisionFigures, language: LanguageFigures) -> PreTrainedConfig:
    """Return the configuration of a SmolVLM."""
    from transformers import SmolVLMConfig

    text = {"model_type": "llama", **dict(zip(_LANGUAGE, language))}
    return SmolVLMConfig(vision_config=dict(zip(_VISION, vision)), text_config=text, scale_factor=3)


def llava(vision: VisionFigures, language: LanguageFigures, tiled: bool = False) -> PreTrainedConfig:
    """Return the configuration of a LLaVA-1.5, or of a LLaVA-NeXT where images are cut into tiles."""
    from transformers import LlavaConfig, LlavaNextConfig

    facts: dict[str, Any] = {
        "vision_config": {"model_type": "clip_vision_model", **dict(zip(_VISION, vision))},
        "text_config": {"model_type": "llama", **dict(zip(_LANGUAGE, language))},
        "vision_feature_layer": -2,
    }  # keyword arguments of a configuration
    return LlavaNextConfig(**facts, image_grid_pinpoints=_PINPOINTS) if tiled else LlavaConfig(**facts)


_TOWER: dict[str, VisionFigures] = {
    "qwen": (1280, 3420, 32, 16, None, 14), "intern": (1024, 4096, 24, 16, 448, 14), "clip": (1024, 4096, 24, 16, 336, 14),
    "siglip": (1152, 4304, 27, 16, 384, 14),
}  # fmt: skip
_WHOLE = (7, 15, 23, 31)
PUBLISHED: dict[str, Callable[[], PreTrainedConfig]] = {
    "llava-1.5-7b": lambda: llava(_TOWER["clip"], (4096, 11008, 32, 32, 32, 32064)),
    "llava-1.5-13b": lambda: llava(_TOWER["clip"], (5120, 13824, 40, 40, 40, 32064)),
    "llava-next-7b": lambda: llava(_TOWER["clip"], (4096, 11008, 32, 32, 32, 32064), tiled=True),
    "qwen2.5-vl-3b": lambda: qwen(_TOWER["qwen"], 112, _WHOLE, (2048, 11008, 36, 16, 2, 151936)),
    "qwen2.5-vl-7b": lambda: qwen(_TOWER["qwen"], 112, _WHOLE, (3584, 18944, 28, 28, 4, 152064)),
    "internvl3-1b": lambda: internvl(_TOWER["intern"], (896, 4864, 24, 14, 2, 151674)),
    "internvl3-2b": lambda: internvl(_TOWER["intern"], (1536, 8960, 28, 12, 2, 151674)),
    "internvl3-8b": lambda: internvl(_TOWER["intern"], (3584, 18944, 28, 28, 4, 151674)),
    "smolvlm2": lambda: smolvlm(_TOWER["siglip"], (2048, 8192, 24, 32, 32, 49280)),
}
"""Configurations by the names of `harness.models.shapes`: the figures of the checkpoints' own configuration files."""
SIDE = {"qwen2.5-vl-3b": 1008, "qwen2.5-vl-7b": 1008, "llava-next-7b": 672}
"""Pixels a side of the image that a public shape speaks of, where it is not the tower's own."""


def images_of(config: Any) -> BaseImageProcessor:
    """Return the image processor of a configuration (of transformers; its fields differ by family), without a download."""
    import transformers

    kind, vision = config.model_type, config.vision_config
    if kind == "qwen2_5_vl":
        return transformers.Qwen2VLImageProcessorPil(patch_size=vision.patch_size, merge_size=vision.spatial_merge_size)
    if kind == "internvl":
        return transformers.GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}, crop_to_patches=False)
    if kind == "smolvlm":
        edge = {"longest_edge": vision.image_size}
        return transformers.SmolVLMImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    square: dict[str, Any] = {  # keyword arguments of an image processor
        "size": {"shortest_edge": vision.image_size},
        "crop_size": {"height": vision.image_size, "width": vision.image_size},
    }
    if kind == "llava_next":
        return transformers.LlavaNextImageProcessorPil(image_grid_pinpoints=_PINPOINTS, **square)
    return transformers.CLIPImageProcessorPil(**square)


def random_model(name: str, device: str, dtype: torch.dtype, layers: int | None = None, seed: int = 0) -> Adapter:
    """Make a public model with random weights; its prompts are token ids, as it has no tokenizer.

    Args:
        name: of `harness.models.shapes`.
        device: where it is made and runs.
        dtype: of its weights.
        layers: number of decoder layers of the LLM; all where not given.
        seed: of the weights.

    Raises:
        RequestError: for an unknown name, or more layers than the model has.
    """
    from transformers import AutoModelForImageTextToText

    if name not in PUBLISHED:
        raise RequestError(f"--model {name!r}: {nearest(name, PUBLISHED)} with --random-weights")
    config = PUBLISHED[name]()
    text: Any = config.get_text_config()  # its fields differ by family
    if layers is not None:
        if not 1 <= layers <= text.num_hidden_layers:
            raise RequestError(f"--layers {layers}: {name} has 1 to {text.num_hidden_layers}")
        text.num_hidden_layers = layers
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:layers]
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return Adapter(model, ImageOnlyProcessor(config), name)


class ImageOnlyProcessor:
    """A processor without a tokenizer: images as the family's own image processor makes them, one tile each, with two marks.

    Args:
        config: of a model of transformers; its fields differ by family.
    """

    image_token = None
    tokenizer = SimpleNamespace(convert_tokens_to_ids=lambda token: None, bos_token=None)

    def __init__(self, config: Any) -> None:
        self.image_processor, self.place = images_of(config), config.image_token_id
        vision = config.vision_config
        pixels, patch = 1, 1
        if config.model_type in ("internvl", "smolvlm"):
            pixels, patch = side(vision.image_size), side(vision.patch_size)
        fold = {"internvl": 2, "smolvlm": getattr(config, "scale_factor", 1)}.get(config.model_type, 1)
        self.count = (pixels // patch // fold) ** 2

    def __call__(self, images: Any, **options: Any) -> dict[str, torch.Tensor]:
        """Return ``pixel_values`` of images and ``input_ids`` [1, 2 + tokens of an image]; options are those of a processor."""
        ids = torch.tensor([[1, *[self.place] * self.count, 2]])
        pixels: torch.Tensor = self.image_processor(images, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "input_ids": ids}
