"""The model families that are supported, and what sets each apart: one line a family, held to by its contract tests."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from harness.errors import RequestError
from harness.models import tiling
from harness.models.tiling import ImageTiler


@dataclass(frozen=True)
class FamilySpec:
    """How a family differs from the others."""

    model: str  # class in transformers
    tiler: type[ImageTiler]  # how images become tower inputs and visual tokens
    tower: str = "vision_tower"  # in the model without its head
    projector: str = "multi_modal_projector"
    axes: int = 1  # of positions
    together: bool = False  # visual tokens of one image see each other
    normed: bool = False  # the tower's final norm comes before the projector
    open: bool = True  # the tower is run block by block; else as a whole
    margin: str = ""  # text that the processor puts on both sides of an image
    needs: tuple[str, ...] = ()  # packages that its processor wants


_QWEN = {"tiler": tiling.PackedTiler, "tower": "visual", "projector": "visual.merger", "axes": 3, "open": False}
_SMOL = {"tiler": tiling.RowTiler, "tower": "vision_model", "projector": "connector", "normed": True}

FAMILIES = {
    "llava": FamilySpec("LlavaForConditionalGeneration", tiling.SingleTiler),
    "llava_next": FamilySpec("LlavaNextForConditionalGeneration", tiling.AnyResolutionTiler),
    "llava_onevision": FamilySpec("LlavaOnevisionForConditionalGeneration", tiling.AnyResolutionTiler, needs=("torchvision",)),
    "internvl": FamilySpec("InternVLForConditionalGeneration", tiling.InternVLTiler, needs=("torchvision",)),
    "qwen2_vl": FamilySpec("Qwen2VLForConditionalGeneration", needs=("torchvision",), **_QWEN),
    "qwen2_5_vl": FamilySpec("Qwen2_5_VLForConditionalGeneration", needs=("torchvision",), **_QWEN),
    "qwen3_vl": FamilySpec("Qwen3VLForConditionalGeneration", needs=("torchvision",), **_QWEN),
    "smolvlm": FamilySpec("SmolVLMForConditionalGeneration", needs=("torchvision", "num2words"), **_SMOL),
    "idefics3": FamilySpec("Idefics3ForConditionalGeneration", **_SMOL),
    "gemma3": FamilySpec(
        "Gemma3ForConditionalGeneration", tiling.MarkedTiler, together=True, normed=True, margin="\n\n"
    ),
}  # fmt: skip
"""By the ``model_type`` of their configurations."""


def spec_of(name: str, kind: str) -> FamilySpec:
    """The spec of a model type, or `RequestError` with those that are supported."""
    if kind in FAMILIES:
        return FAMILIES[kind]
    near = get_close_matches(kind, FAMILIES, 1, 0.6)
    hint = f"; closest is {near[0]}" if near else ""
    raise RequestError(f"model {name!r}: architecture {kind!r} is not supported; supported are {', '.join(FAMILIES)}{hint}")
