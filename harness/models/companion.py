"""The CLIP text-image embedding space beside a model, in which CDPruner scores relevance.

A folder ``companion/`` beside a local model holds a text encoder with projection and the visual
projection. For hub models whose tower is a known CLIP, that CLIP is the companion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any

import torch

from harness.models.weights import check_index

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
) -> Companion | None:
    """Load the companion of a model; None where it has none within reach.

    Args:
        name: the model, as the user gave it.
        folder: of a local model.
        tokenizer: the model's; a local companion shares it.
        device: where it runs.
        dtype: of its weights.
        offline: whether to look in the local cache alone.
    """
    from transformers import AutoTokenizer, CLIPModel, CLIPTextModelWithProjection

    if folder is not None and (folder / "companion").is_dir():
        from safetensors.torch import load_file

        check_index(f"{name}/companion", folder / "companion")
        text = CLIPTextModelWithProjection.from_pretrained(folder / "companion", dtype=dtype, use_safetensors=True)  # nosec B615
        weight = load_file(folder / "companion" / "visual_projection.safetensors")["visual_projection.weight"]
        projection = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        projection.weight = torch.nn.Parameter(weight.to(dtype))
        config = text.config
        tokenise: Callable[[str], list[int]] = lambda question: [
            config.bos_token_id,
            *tokenizer(question, add_special_tokens=False).input_ids,
            config.eos_token_id,
        ]
        return Companion(text.eval().to(device), projection.to(device), tokenise)
    if name not in KNOWN:
        return None
    try:
        check_index(KNOWN[name], KNOWN[name], local_files_only=offline)
        clip: Any = CLIPModel.from_pretrained(KNOWN[name], dtype=dtype, local_files_only=offline, use_safetensors=True)  # nosec B615
        words = AutoTokenizer.from_pretrained(KNOWN[name], local_files_only=offline)  # nosec B615  # safetensors alone, no code
    except (OSError, ValueError):
        return None
    text = CLIPTextModelWithProjection(clip.config.text_config)
    text.text_model, text.text_projection = clip.text_model, clip.text_projection
    return Companion(text.eval().to(device), clip.visual_projection.to(device), lambda question: words(question).input_ids)
