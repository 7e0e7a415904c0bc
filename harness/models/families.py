"""The model families that are supported, and what sets each apart: one line a family, held to by its contract tests.

Importing this file needs neither torch nor transformers.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import RequestError
from harness.models.relatives import relation
from harness.models.tiling import (
    AnyResolutionTiler,
    ImageTiler,
    InternVLTiler,
    MarkedTiler,
    PackedTiler,
    PixtralTiler,
    RowTiler,
    SingleTiler,
)


@dataclass(frozen=True)
class FamilySpec:
    """How a model family differs from the others."""

    model_class: str  # name of its class in transformers
    tiler: type[ImageTiler]  # how images become tower inputs and visual tokens
    tower: str = "vision_tower"  # name of the vision tower in the model without its head
    projector: str = "multi_modal_projector"  # name of the projector there
    position_axes: int = 1  # 3 where positions have time, row and column
    bidirectional_images: bool = False  # whether the visual tokens of one image see each other in the LLM
    bidirectional_prompt: bool = False  # whether a prompt's tokens all see each other: then questions share nothing in the LLM
    bare_prompt: bool = False  # whether prompts are images and a bare question, to which the processor adds what is missing
    first_position: int = 0  # of a prompt's first token
    final_norm: bool = False  # whether the tower's final norm comes before the projector
    blockwise: bool = True  # whether the tower is run block by block; else as a whole
    image_margin: str = ""  # text that the processor puts on both sides of an image
    packages: tuple[str, ...] = ()  # that its processor needs


def _qwen(model_class: str) -> FamilySpec:
    return FamilySpec(
        model_class, PackedTiler, "visual", "visual.merger", position_axes=3, blockwise=False, packages=("torchvision",)
    )


def _smol(model_class: str, *packages: str) -> FamilySpec:
    return FamilySpec(model_class, RowTiler, "vision_model", "connector", final_norm=True, packages=packages)


def _pixtral(model_class: str) -> FamilySpec:
    return FamilySpec(model_class, PixtralTiler, blockwise=False, packages=("torchvision",))


FAMILIES = {
    "llava": FamilySpec("LlavaForConditionalGeneration", SingleTiler),
    "vipllava": FamilySpec("VipLlavaForConditionalGeneration", SingleTiler),
    "llava_next": FamilySpec("LlavaNextForConditionalGeneration", AnyResolutionTiler),
    "llava_onevision": FamilySpec("LlavaOnevisionForConditionalGeneration", AnyResolutionTiler, packages=("torchvision",)),
    "internvl": FamilySpec("InternVLForConditionalGeneration", InternVLTiler, packages=("torchvision",)),
    "qwen2_vl": _qwen("Qwen2VLForConditionalGeneration"),
    "qwen2_5_vl": _qwen("Qwen2_5_VLForConditionalGeneration"),
    "qwen3_vl": _qwen("Qwen3VLForConditionalGeneration"),
    "qwen3_vl_moe": _qwen("Qwen3VLMoeForConditionalGeneration"),
    "smolvlm": _smol("SmolVLMForConditionalGeneration", "torchvision", "num2words"),
    "idefics3": _smol("Idefics3ForConditionalGeneration"),
    "gemma3": FamilySpec(
        "Gemma3ForConditionalGeneration", MarkedTiler, bidirectional_images=True, final_norm=True, image_margin="\n\n"
    ),
    "paligemma": FamilySpec(
        "PaliGemmaForConditionalGeneration",
        SingleTiler,
        bidirectional_prompt=True,
        bare_prompt=True,
        first_position=1,
        final_norm=True,
        packages=("torchvision",),
    ),
    "mistral3": _pixtral("Mistral3ForConditionalGeneration"),
}
"""The supported families, by the ``model_type`` of their configurations."""
_WITH_TOWER = {("llava", "pixtral"): _pixtral("LlavaForConditionalGeneration")}
"""Families that another tower sets apart, by the ``model_type`` of their configurations and of their tower's."""


def spec_of(name: str, model_type: str, tower: str | None = None) -> FamilySpec:
    """Return what sets a model's family apart.

    Args:
        name: of the model, for the message.
        model_type: of its configuration.
        tower: ``model_type`` of its tower's configuration, where it is known.

    Raises:
        RequestError: where the family is not supported; the message names those near it, and all that are.
    """
    if model_type in FAMILIES:
        return _WITH_TOWER.get((model_type, tower or ""), FAMILIES[model_type])
    near = relation(model_type, FAMILIES)
    raise RequestError(f"model {name!r}: architecture {model_type!r} is not supported{near}; supported are {', '.join(FAMILIES)}")
