"""The text backbones that are supported, and what sets each apart: one line a backbone, held to by its contract tests.

Most families take any text model of transformers. What a text model does beyond a Llama (multiply embeddings, norm them first,
cap scores, mix experts) changes every answer, so a backbone that the contract tests have not seen is refused by name.

Importing this file needs neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from harness.errors import RequestError

_LAYERS = ("full_attention", "sliding_attention")
_ROPES = ("default", "linear", "dynamic", "yarn", "llama3")
"""Kinds of rotary angles that do not depend on the longest prompt of a batch, up to the model's maximum of positions."""


@dataclass(frozen=True)
class BackboneSpec:
    """How a text backbone differs from a Llama, where the engine itself has to know."""

    multiplier: str = ""  # attribute of its configuration that embeddings are multiplied by before the first layer
    logit_bound: str = ""  # attribute of its configuration that bounds logits; may be None
    norm_plus_one: bool = False  # whether its norms keep their weight less one
    family: str = ""  # the one family whose own text model it is; any that takes other text models where empty
    allows: tuple[str, ...] = ()  # attributes of its configuration that others must not set


_PREFIX_LM = BackboneSpec(
    logit_bound="final_logit_softcapping",
    norm_plus_one=True,
    family="paligemma",
    allows=("attn_logit_softcapping", "use_bidirectional_attention"),
)
BACKBONES = {
    "llama": BackboneSpec(),
    "mistral": BackboneSpec(),
    "ministral3": BackboneSpec(),
    "qwen2": BackboneSpec(),
    "qwen3": BackboneSpec(),
    "qwen3_moe": BackboneSpec(),
    "internlm3": BackboneSpec(),
    "granite": BackboneSpec(multiplier="embedding_multiplier"),
    "gemma3_text": BackboneSpec(norm_plus_one=True),
    "gemma": _PREFIX_LM,
    "gemma2": _PREFIX_LM,
    "qwen2_vl_text": BackboneSpec(family="qwen2_vl"),
    "qwen2_5_vl_text": BackboneSpec(family="qwen2_5_vl"),
    "qwen3_vl_text": BackboneSpec(family="qwen3_vl"),
    "qwen3_vl_moe_text": BackboneSpec(family="qwen3_vl_moe"),
}
"""The supported text backbones, by the ``model_type`` of their configurations."""
_WHY = {
    "phi": "its blocks run attention and MLP side by side", "gpt_neox": "its blocks run attention and MLP side by side",
    "opt": "its positions are learned", "falcon": "its blocks run attention and MLP side by side",
    "lfm2": "its layers are convolutions too", "nanochat": "it norms embeddings before the first layer, and its MLP has no gate",
    "granitemoe": "no test has seen its experts", "granitemoeshared": "no test has seen its experts",
    "gpt_oss": "its attention has sinks, which SDPA does not compute", "bloom": "its attention adds a bias by distance (ALiBi)",
    "mpt": "its attention adds a bias by distance (ALiBi)", "phi3": "it projects queries, keys and values in one",
}  # fmt: skip
"""Why well-known backbones are not supported."""
_FORBIDDEN = {
    "attn_logit_softcapping": "SDPA does not cap scores", "add_cross_attention": "its layers look at a second sequence",
    "use_bidirectional_attention": "its text is not read from left to right alone",
}  # fmt: skip
"""Attributes that a supported backbone's configuration may set and that change its computation, and why they are refused."""


def backbone_of(name: str, config: Any) -> BackboneSpec:
    """Return what sets a model's text backbone apart.

    Args:
        name: of the model, for the message.
        config: a configuration of transformers; its fields differ by family.

    Raises:
        RequestError: where the backbone is not supported, or its configuration asks for what the engine does not do; the
            message holds the backbone and the nearest that are.
    """
    text, family = config.get_text_config(), config.model_type
    kind = str(text.model_type)
    own = [known for known, spec in BACKBONES.items() if spec.family == family]
    known = own or [known for known, spec in BACKBONES.items() if not spec.family]
    if kind not in known:
        near = get_close_matches(kind, known, 1, 0.6)
        why = f", since {_WHY[kind]}" if kind in _WHY else ""
        hint = f"; closest is {near[0]}" if near else ""
        raise RequestError(f"model {name!r}: text backbone {kind!r} of {family} is not supported{why}; supported are "
                           f"{', '.join(known)}{hint}")  # fmt: skip
    for asked in _beyond(text, BACKBONES[kind].allows):
        raise RequestError(f"model {name!r}: text backbone {kind!r} with {asked}")
    return BACKBONES[kind]


def _beyond(text: Any, allowed: tuple[str, ...]) -> Iterator[str]:
    """What a text configuration asks for that its backbone is not run with, but for what is allowed, each with its reason."""
    for attribute, why in _FORBIDDEN.items():
        if attribute not in allowed and getattr(text, attribute, None) not in (None, False):
            yield f"{attribute} = {getattr(text, attribute)!r} is not supported: {why}"
    if not getattr(text, "is_causal", True):
        yield f"is_causal = False is not supported: {_FORBIDDEN['use_bidirectional_attention']}"
    for kind in dict.fromkeys(getattr(text, "layer_types", None) or ()):
        if kind not in _LAYERS:
            yield f"layers of {kind!r} is not supported; supported are {' and '.join(_LAYERS)}"
    found = getattr(text, "rope_parameters", None) or {}
    for rope in [part for part in found.values() if isinstance(part, dict)] or [found]:
        if (kind := rope.get("rope_type", "default")) not in _ROPES:
            yield f"rotary angles of {kind!r} is not supported; supported are {', '.join(_ROPES)}"
        if (share := rope.get("partial_rotary_factor", 1) or 1) != 1:
            yield f"partial_rotary_factor = {share} is not supported: its layers turn whole heads"
