"""Hugging Face models as the engine sees them. All knowledge of their modules' calling convention is here."""

from __future__ import annotations

import hashlib
import inspect
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image

from harness.errors import RequestError
from harness.models import companion as companions
from harness.models.companion import Companion
from harness.probes import Probe, install
from methods.types import SIGNAL_NAMES, ModelShape

TINY = Path(__file__).parent / "tiny" / "weights"
EMBEDDED = {"tiny": TINY}


@dataclass(frozen=True)
class TowerBlock:
    """One pre-norm ViT block in two halves, so that tokens can leave between attention and MLP."""

    module: torch.nn.Module

    def attend(self, hidden: torch.Tensor, bias: torch.Tensor | None, probe: Probe | None) -> torch.Tensor:
        out, _ = self.module.self_attn(self.module.layer_norm1(hidden), attention_mask=bias, probe=probe)
        return hidden + out

    def transform(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.module.mlp(self.module.layer_norm2(hidden))


class Adapter:
    """A LLaVA-like model: CLIP tower, projector, decoder layers.

    Args:
        model: a loaded model with ``vision_tower``, ``multi_modal_projector`` and ``language_model``.
        processor: its processor.
        name: as the user gave it.
        companion: the joint image-text space, where there is one.
    """

    def __init__(self, model, processor, name: str, companion: Companion | None = None) -> None:
        install(model)
        self.model, self.processor, self.name, self.companion = model.eval(), processor, name, companion
        self.inner = model.model
        self.tower = self.inner.vision_tower
        self.decoder = self.inner.get_decoder() if hasattr(self.inner, "get_decoder") else self.inner.language_model
        self.tokenizer = processor.tokenizer
        self.device, self.dtype = next(model.parameters()).device, next(model.parameters()).dtype
        layer = self.decoder.layers[0].forward
        inner = getattr(layer, "__wrapped__", layer)
        self._cache_word = "cache" if "cache" in inspect.signature(inner).parameters else "past_key_values"
        ends = model.generation_config.eos_token_id
        self.end_ids = frozenset(ends if isinstance(ends, list) else [ends])

    @cached_property
    def shape(self) -> ModelShape:
        vision, text = self.model.config.vision_config, self.model.config.get_text_config()
        side = vision.image_size // vision.patch_size
        read = self.model.config.vision_feature_layer
        linears = [m for m in self.inner.multi_modal_projector.modules() if isinstance(m, torch.nn.Linear)]
        return ModelShape(
            name=self.name,
            visual_tokens=side * side,
            grid=(side, side),
            vision_layers=read if read >= 0 else vision.num_hidden_layers + 1 + read,
            vision_width=vision.hidden_size,
            vision_heads=vision.num_attention_heads,
            vision_mlp=vision.intermediate_size,
            has_cls=True,
            patch=vision.patch_size,
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            mlp=text.intermediate_size,
            gated=True,
            vocabulary=text.vocab_size,
            projector_layers=tuple((m.in_features, m.out_features) for m in linears),
            kv_bytes=torch.finfo(self.dtype).bits // 8,
            joint_width=self.companion.width if self.companion else 0,
            joint_blocks=len(self.tower.encoder.layers) - (read if read >= 0 else vision.num_hidden_layers + 1 + read),
            joint_text=self.companion.text_shape if self.companion else (0, 0, 0),
        )

    @cached_property
    def gives(self) -> frozenset[str]:
        """Signals that this model can give; the task gives ``evidence``."""
        lacks = set() if self.companion else {"image_embeds", "text_embeds"}
        if not self.shape.has_cls:
            lacks |= {"cls_attention", "cls_feature", "cls_key"}
        return SIGNAL_NAMES - lacks - {"evidence"}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all weights, names included; 16 digits."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.detach().contiguous().view(torch.uint8).cpu().numpy())
        return total.hexdigest()[:16]

    def prompt(self, question: str, image: bool = True) -> tuple[list[int], list[int]]:
        """Token ids before and after the image for a question; without an image, nothing stands between them."""
        content = [{"type": "image"}] if image else []
        content.append({"type": "text", "text": question})
        messages = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        starts = self.tokenizer.bos_token is not None and text.lstrip().startswith(self.tokenizer.bos_token)
        ids = self.tokenizer(text, add_special_tokens=not starts).input_ids
        place = self.model.config.image_token_id
        if not image:
            first = self._shared_prefix
            return ids[:first], ids[first:]
        at = ids.index(place)
        return ids[:at], ids[at + 1 :]

    @cached_property
    def _shared_prefix(self) -> int:
        """Tokens before the image, which stand before the question too where there is none."""
        return len(self.prompt("x")[0])

    def pixels(self, images: list[Image.Image], grid: tuple[int, int] | None = None) -> torch.Tensor:
        """Pixel values [B, 3, H, W]; ``grid`` shrinks the image to that many tokens."""
        options = {}
        if grid is not None:
            patch = self.shape.patch
            options = {
                "size": {"height": grid[0] * patch, "width": grid[1] * patch},
                "do_center_crop": False,
            }
        batch = self.processor.image_processor(images, return_tensors="pt", **options)
        return batch["pixel_values"].to(self.device, self.dtype)

    def enter_tower(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patch and position embeddings, CLS first: [B, 1 + N, Dv]."""
        size = self.model.config.vision_config.image_size
        resized = tuple(pixels.shape[-2:]) != (size, size)
        return self.tower.pre_layrnorm(self.tower.embeddings(pixels, interpolate_pos_encoding=resized))

    @cached_property
    def blocks(self) -> list[TowerBlock]:
        return [TowerBlock(layer) for layer in self.tower.encoder.layers[: self.shape.vision_layers]]

    def joint_embeds(self, hidden: torch.Tensor) -> torch.Tensor:
        """Tower states at the read layer, CLS included, [B, 1 + N, Dv] to the joint space [B, N, C]."""
        cls = int(self.shape.has_cls)
        for layer in self.tower.encoder.layers[self.shape.vision_layers :]:
            block = TowerBlock(layer)
            hidden = block.transform(block.attend(hidden, None, None))
        return self.companion.visual_projection(self.tower.post_layernorm(hidden[:, cls:]))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        return self.inner.multi_modal_projector(features)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.inner.get_input_embeddings()(ids)

    def rotary(self, hidden: torch.Tensor, positions: torch.Tensor):
        return self.decoder.rotary_emb(hidden, position_ids=positions)

    def layer(self, index: int, hidden, mask, positions, rotary, store, probe: Probe | None = None) -> torch.Tensor:
        """Run decoder layer ``index``; its keys and values go through ``store.update``."""
        words = {self._cache_word: store} if store is not None else {}
        if probe is not None:
            words["probe"] = probe
        out = self.decoder.layers[index](hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary, **words)
        return out[0] if isinstance(out, tuple) else out

    def rows_ahead(self, index: int, hidden: torch.Tensor, mask, rotary, probe: Probe) -> None:
        """Let ``probe`` record the attention rows that layer ``index`` would compute on its input, without running it."""
        layer = self.decoder.layers[index]
        attention, count = layer.self_attn, hidden.shape[1]
        inputs = layer.input_layernorm(hidden)
        split = lambda states: states.view(*states.shape[:2], -1, attention.head_dim).transpose(1, 2)
        rows, group = probe.query_rows, probe.group
        of_rows = lambda states: states[group].gather(1, rows[..., None].expand(-1, -1, states.shape[-1]))
        query, key = split(attention.q_proj(of_rows(inputs))), split(attention.k_proj(inputs))
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
        query, key = rotate(query, query, *map(of_rows, rotary))[0], rotate(key, key, *rotary)[1]
        whole = query.new_zeros(len(key), query.shape[1], count, query.shape[3])  # other rows are not looked at
        whole[group[:, None], :, rows] = query.transpose(1, 2)
        if mask is not None:
            mask = mask[..., :count]
        probe.record(attention, whole, key, mask, attention.scaling, True)

    @cached_property
    def norm_scale(self) -> torch.Tensor:
        """Weight of the final norm, [D]: all of it that a cosine between normed states can see."""
        return self.decoder.norm.weight.detach()

    def rope_response(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Mean cosine of the rotary angles between positions: [R, T] and [R, N] to [R, T, N]."""
        frequencies = self.decoder.rotary_emb.inv_freq.to(self.device, torch.float32)
        gap = (queries[:, :, None] - keys[:, None, :]).float()
        total = torch.zeros_like(gap)
        for frequency in frequencies:
            total += torch.cos(gap * frequency)
        return total / len(frequencies)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.lm_head(self.decoder.norm(hidden)).float()

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


def load(name: str, device: str = "cpu", dtype: str = "auto") -> Adapter:
    """Load an embedded model, a local folder or a hub id: the same code path for all.

    Raises:
        RequestError: where there is no such model, or its architecture is not supported yet.
    """
    path = EMBEDDED.get(name, Path(name))
    local = path.is_dir()
    if name in EMBEDDED and not local:
        raise RequestError(f"model {name!r}: weights are not installed at {path}")
    if not local and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise RequestError(f"model {name!r} is neither a folder nor a hub id; embedded: {', '.join(EMBEDDED)}")
    offline = not local and not _reachable(name)
    from transformers import AutoProcessor, LlavaForConditionalGeneration
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    kind = getattr(torch, dtype if dtype != "auto" else ("float32" if device == "cpu" else "bfloat16"))
    source = str(path) if local else name
    try:
        model = LlavaForConditionalGeneration.from_pretrained(source, dtype=kind, use_safetensors=True, local_files_only=offline)
        processor = AutoProcessor.from_pretrained(source, local_files_only=offline)
    except (OSError, ValueError, ImportError, KeyError) as error:
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        if offline:
            first = "the hub does not answer for it and it is not in the local cache"
        hint = "" if local else f"; where there is a network: hf download {name}"
        raise RequestError(f"model {name!r} cannot be loaded: {first}{hint}") from None
    beside = companions.load(name, path if local else None, processor.tokenizer, device, kind, offline)
    return Adapter(model.to(device), processor, name, beside)


def _reachable(name: str) -> bool:
    """Whether the hub answers for this model: one request, no retries, at most 10 seconds."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        address = f"{constants.ENDPOINT}/{name}/resolve/main/config.json"
        return get_session().head(address, timeout=10, follow_redirects=True).status_code < 400
    except Exception:  # any failure of the network means the same here: use the local cache
        return False
