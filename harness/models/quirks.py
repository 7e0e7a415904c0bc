"""The model families that are supported, and what sets each apart: one line a family, held to by its contract tests."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from harness.errors import RequestError
from harness.models import cutting
from harness.models.cutting import Cutter


@dataclass(frozen=True)
class Quirk:
    """How a family differs from the others."""

    model: str  # class in transformers
    cutter: type[Cutter]  # how images become tower inputs and visual tokens
    tower: str = "vision_tower"  # in the model without its head
    projector: str = "multi_modal_projector"
    axes: int = 1  # of positions
    together: bool = False  # visual tokens of one image see each other
    normed: bool = False  # the tower's final norm comes before the projector
    open: bool = True  # the tower is run block by block; else as a whole
    margin: str = ""  # text that the processor puts on both sides of an image
    needs: tuple[str, ...] = ()  # packages that its processor wants


_QWEN = {"cutter": cutting.Packed, "tower": "visual", "projector": "visual.merger", "axes": 3, "open": False}
_SMOL = {"cutter": cutting.Rows, "tower": "vision_model", "projector": "connector", "normed": True}

QUIRKS = {
    "llava": Quirk("LlavaForConditionalGeneration", cutting.Single),
    "llava_next": Quirk("LlavaNextForConditionalGeneration", cutting.AnyResolution),
    "llava_onevision": Quirk("LlavaOnevisionForConditionalGeneration", cutting.AnyResolution, needs=("torchvision",)),
    "internvl": Quirk("InternVLForConditionalGeneration", cutting.Tiles, needs=("torchvision",)),
    "qwen2_vl": Quirk("Qwen2VLForConditionalGeneration", needs=("torchvision",), **_QWEN),
    "qwen2_5_vl": Quirk("Qwen2_5_VLForConditionalGeneration", needs=("torchvision",), **_QWEN),
    "qwen3_vl": Quirk("Qwen3VLForConditionalGeneration", needs=("torchvision",), **_QWEN),
    "smolvlm": Quirk("SmolVLMForConditionalGeneration", needs=("torchvision", "num2words"), **_SMOL),
    "idefics3": Quirk("Idefics3ForConditionalGeneration", **_SMOL),
    "gemma3": Quirk(
        "Gemma3ForConditionalGeneration", cutting.Marked, together=True, normed=True, margin="\n\n"
    ),
}  # fmt: skip
"""By the ``model_type`` of their configurations."""


def quirk_of(name: str, kind: str) -> Quirk:
    """The quirk of a model type, or `RequestError` with those that are supported."""
    if kind in QUIRKS:
        return QUIRKS[kind]
    near = get_close_matches(kind, QUIRKS, 1, 0.6)
    hint = f"; closest is {near[0]}" if near else ""
    raise RequestError(f"model {name!r}: architecture {kind!r} is not supported; supported are {', '.join(QUIRKS)}{hint}")
