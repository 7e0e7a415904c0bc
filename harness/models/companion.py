"""The CLIP text-image embedding space beside a model, in which CDPruner scores relevance.

A folder ``companion/`` beside a local model holds a text encoder with projection and the visual
projection. For hub models whose tower is a known CLIP, that CLIP is the companion. ``--companion`` names another of either
kind. Whichever it is: its weights are whole, and its projection takes what the model's tower gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from harness.errors import RequestError, first_line
from harness.huggingface import is_hub_id
from harness.models.weights import check_index, load_whole, weights_digest

KNOWN = {
    "llava-hf/llava-1.5-7b-hf": "openai/clip-vit-large-patch14-336",
    "llava-hf/llava-1.5-13b-hf": "openai/clip-vit-large-patch14-336",
}
"""CLIP models that are companions of hub models, by hub id."""


@dataclass(frozen=True)
class Companion:
    """Projections of texts and of vision tower states into one joint space of width C."""

    text: Any  # a text encoder of transformers, which gives ``text_embeds`` [B, C]
    visual_projection: torch.nn.Linear  # [..., Dv] to [..., C]
    tokenise: Callable[[str], list[int]]  # a question to ids, ends included

    @property
    def width(self) -> int:
        """Width of the joint space, C."""
        return int(self.visual_projection.out_features)

    @property
    def text_shape(self) -> tuple[int, int, int]:
        """Layers, width and MLP width of the text encoder."""
        config = self.text.config
        return int(config.num_hidden_layers), int(config.hidden_size), int(config.intermediate_size)

    @property
    def digest(self) -> str:
        """First 16 digits of the SHA-256 of all weights, names included."""
        return weights_digest(self.text.state_dict() | {"visual_projection": self.visual_projection.weight})

    def text_embeds(self, question: str) -> torch.Tensor:
        """Return one vector for every stretch of the question that the encoder can take: [M, C]."""
        ids, longest = self.tokenise(question), self.text.config.max_position_embeddings
        first, body, last = ids[0], ids[1:-1], ids[-1]
        room = longest - 2
        stretches = [body[i : i + room] for i in range(0, max(len(body), 1), room)]
        device = self.visual_projection.weight.device
        vectors = [self.text(input_ids=torch.tensor([[first, *part, last]], device=device)).text_embeds for part in stretches]
        return torch.cat(vectors)

    @torch.inference_mode()
    def texts_embeds(self, questions: Iterable[str]) -> torch.Tensor:
        """Return the vectors of several questions, [R, M, C]; short ones repeat theirs, which leaves their mean as it is."""
        vectors = [self.text_embeds(question) for question in questions]
        most = lcm(*(len(vector) for vector in vectors))
        return torch.stack([vector.repeat(most // len(vector), 1) for vector in vectors])


def load(
    name: str,
    folder: Path | None,
    tokenizer: Any,  # of transformers
    device: str,
    dtype: torch.dtype,
    offline: bool,
    vision: Any = None,  # a configuration of transformers
    given: str | None = None,
) -> Companion | None:
    """Load the companion of a model; None where it has none within reach.

    Args:
        name: the model, as the user gave it.
        folder: of a local model.
        tokenizer: the model's; a companion without one of its own shares it.
        device: where it runs.
        dtype: of its weights.
        offline: whether to look in the local cache alone.
        vision: configuration of the model's vision tower, which the companion must fit; not looked at where not given.
        given: a folder or a hub id that takes the place of what is known.

    Raises:
        RequestError: where a companion is not whole or does not fit the tower, or what was given cannot be loaded.
    """
    if given is not None:
        where, source = f"--companion {given}", given
        if not Path(given).is_dir() and not is_hub_id(given):
            raise RequestError(f"{where}: is neither a folder nor a hub id")
    elif folder is not None and (folder / "companion").is_dir():
        where, source = f"model {name!r}, companion/", str(folder / "companion")
    elif name in KNOWN:
        where, source = f"companion {KNOWN[name]!r} of {name!r}", KNOWN[name]
    else:
        return None
    try:
        found = _found(where, source, tokenizer, dtype, offline)
    except SafetensorError as error:
        raise RequestError(f"{where}: its weights cannot be read ({error})") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:  # a folder may hold anything
        if isinstance(error, RequestError):
            raise
        if given is None and not Path(source).is_dir():
            return None
        first = first_line(error)
        if not Path(source).is_dir() and offline:
            first = f"the hub does not answer for it and it is not in the local cache; with a network: hf download {given}"
        raise RequestError(f"{where}: cannot be loaded: {first}") from None
    if vision is not None:
        _check_fit(where, found, vision)
    found.text.eval().to(device)
    found.visual_projection.to(device)
    return found


def _found(where: str, source: str, tokenizer: Any, dtype: torch.dtype, offline: bool) -> Companion:
    """The companion in a folder or of a hub id: a whole CLIP, or its text encoder beside the visual projection."""
    from transformers import AutoTokenizer, CLIPModel, CLIPTextModelWithProjection, PreTrainedConfig

    common = {"local_files_only": offline}
    facts, _ = PreTrainedConfig.get_config_dict(source, **common)
    kind = facts.get("model_type")
    if kind not in ("clip", "clip_text_model"):
        is_a = f"is a {kind!r}" if kind else "has no config.json that names its model_type"
        raise RequestError(
            f"{where}: {is_a}; a companion is a CLIP, or a CLIP's text encoder (clip_text_model) with {_PROJECTION}"
        )
    check_index(where, source, **common)
    if kind == "clip":
        clip: Any = load_whole(CLIPModel, where, source, dtype=dtype, **common)
        words = AutoTokenizer.from_pretrained(source, **common)  # nosec B615  # safetensors alone, no code
        text: Any = CLIPTextModelWithProjection(clip.config.text_config)
        text.text_model, text.text_projection = clip.text_model, clip.text_projection
        return Companion(text, clip.visual_projection, lambda question: words(question).input_ids)
    text = load_whole(CLIPTextModelWithProjection, where, source, dtype=dtype, **common)
    projection = _projection(where, Path(source) / _PROJECTION, text.config.projection_dim, dtype)
    if len(tokenizer) > text.config.vocab_size:
        raise RequestError(
            f"{where}: its text encoder knows {text.config.vocab_size} tokens, the model's tokenizer gives up to {len(tokenizer)}"
        )
    config = text.config
    ends = config.bos_token_id, config.eos_token_id
    return Companion(text, projection, lambda asked: [ends[0], *tokenizer(asked, add_special_tokens=False).input_ids, ends[1]])


_PROJECTION = "visual_projection.safetensors"


def _projection(where: str, file: Path, width: int, dtype: torch.dtype) -> torch.nn.Linear:
    """The map of tower states into the joint space of a width, from the one weight of a file."""
    from safetensors.torch import load_file

    if not file.is_file():
        raise RequestError(f"{where} is not whole: it has no {_PROJECTION}")
    try:
        held = load_file(file)
    except (SafetensorError, OSError) as error:
        raise RequestError(f"{where}: {_PROJECTION} cannot be read ({error})") from None
    weight = held.get("visual_projection.weight")
    if weight is None:
        names = ", ".join(sorted(held)[:3]) or "nothing"
        raise RequestError(f"{where} is not whole: {_PROJECTION} lacks visual_projection.weight; it holds {names}")
    shape = " x ".join(map(str, weight.shape))
    if weight.dim() != 2 or weight.shape[0] != width or not weight.is_floating_point():
        raise RequestError(f"{where}: visual_projection.weight is {shape}; its text encoder asks for {width} x the tower's width")
    if not bool(weight.isfinite().all()):
        raise RequestError(f"{where}: visual_projection.weight is NaN or infinite")
    projection = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    projection.weight = torch.nn.Parameter(weight.to(dtype))
    return projection


def _check_fit(where: str, found: Companion, vision: Any) -> None:
    """Raise a `RequestError` where a companion's projection does not take what a tower gives."""
    if vision.model_type != "clip_vision_model":
        raise RequestError(f"{where}: a companion is of a CLIP tower; the model's tower is a {vision.model_type!r}")
    width = found.visual_projection.in_features
    if width != vision.hidden_size:
        raise RequestError(f"{where}: its visual projection takes states of width {width}, the tower gives {vision.hidden_size}")
