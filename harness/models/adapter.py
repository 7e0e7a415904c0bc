"""A vision-language model as the engine sees it. All knowledge of how its modules are called is here and in `quirks`."""

from __future__ import annotations

import hashlib
import inspect
import sys
from dataclasses import replace
from functools import cached_property

import torch
from PIL import Image

from harness.errors import RequestError
from harness.models.attention_kind import AttentionKind
from harness.models.companion import Companion
from harness.models.configuration import blocks_read, read_shape
from harness.models.families import FamilySpec, spec_of
from harness.models.probes import AttentionProbe, install
from harness.models.prompt import NEWLINE, VISUAL, ImageSpan, PixelBatch, PromptPrefix
from harness.models.towers import BlockwiseTower, TowerBlock, WholeTower
from methods.types import SIGNAL_NAMES, ModelShape, Step

_CLS = frozenset({"cls_attention", "cls_feature", "cls_key"})


class Adapter:
    """One model of a supported family.

    Args:
        model: loaded, with its head.
        processor: its processor.
        name: as the user gave it.
        companion: the joint image-text space, where there is one.
    """

    def __init__(self, model, processor, name: str, companion: Companion | None = None) -> None:
        install(model)
        self.model, self.processor, self.name, self.companion = model.eval(), processor, name, companion
        self.config = model.config
        self.spec: FamilySpec = spec_of(name, self.config.model_type)
        _check(name, self.config)
        self.inner = model.model
        self.tower = getattr(self.inner, self.spec.tower)
        self.decoder = self.inner.get_decoder() if hasattr(self.inner, "get_decoder") else self.inner.language_model
        self.tokenizer = processor.tokenizer
        self.device, self.dtype = next(model.parameters()).device, next(model.parameters()).dtype
        layer = self.decoder.layers[0].forward
        inner = getattr(layer, "__wrapped__", layer)
        self._cache_word = "cache" if "cache" in inspect.signature(inner).parameters else "past_key_values"
        ends = model.generation_config.eos_token_id
        self.end_ids = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        self.tiler = self.spec.tiler(self.config, processor, self.shape.merge)
        self._known: dict[tuple[int, int], ImageSpan] = {}  # by size of an image

    @cached_property
    def shape(self) -> ModelShape:
        """Of an image as one tile; `shape_for` knows that of a given image."""
        bare = read_shape(self.config, self.name, torch.finfo(self.dtype).bits // 8)
        if self.companion is None:
            return bare
        joint = {"joint_width": self.companion.width, "joint_text": self.companion.text_shape}
        return replace(bare, joint_blocks=self.config.vision_config.num_hidden_layers - bare.vision_layers, **joint)

    def shape_for(self, blocks: tuple[ImageSpan, ...]) -> ModelShape:
        """The shape for a prompt of these images."""
        count, tiles = sum(block.count for block in blocks), sum(block.tiles for block in blocks)
        if (count, tiles) == (self.shape.visual_tokens, self.shape.tiles) and blocks[0].grid == self.shape.grid:
            return self.shape
        grid = blocks[0].grid if len(blocks) == 1 else None
        own = self.shape.visual_tokens * self.shape.merge  # tower tokens of a tile
        trimmed = self.tiler.trims and count * self.shape.merge != own * tiles
        seen = own if trimmed else 0
        return replace(self.shape, visual_tokens=count, tiles=tiles, grid=grid or (1, count), tile_tokens=seen)

    def image_span(self, size: tuple[int, int]) -> ImageSpan:
        """What an image of so many pixels, (width, height), puts into the prompt; only its size matters."""
        key = (0, 0) if self.tiler.fixed else size
        if key not in self._known:
            self._known[key] = self.views([[Image.new("RGB", size)]]).blocks[0][0]
        return self._known[key]

    def grid_of(self, image: Image.Image) -> tuple[int, int] | None:
        """(h, w) of an image's visual tokens, where they are one full grid."""
        return self.views([[image]]).blocks[0][0].grid

    @cached_property
    def gives(self) -> frozenset[str]:
        """Signals that this model can give; the task gives ``evidence``."""
        lacks = set() if self.companion else {"image_embeds", "text_embeds"}
        if not self.shape.has_cls:
            lacks |= _CLS
        return SIGNAL_NAMES - lacks - {"evidence"}

    def cannot(self, steps: tuple[Step, ...], grid: tuple[int, int] | None = None) -> str | None:
        """Why steps, or shrinking images to a grid, cannot be run on this model; None where they can."""
        kind = self.config.model_type
        if grid is not None and grid != (0, 0) and not self.tiler.resizes:
            return f"{kind} takes images at its own resolution alone; none can be shrunk to a grid"
        if any(step.site.stage == 0 for step in steps) and not self.tiler.whole:
            return f"the projector of {kind} needs the tower's full grid, so no token can leave inside the tower"
        if any(step.space == "tower" for step in steps) and self.shape.merge > 1:
            return f"the projector of {kind} makes one token of {self.shape.merge}, so the tower's cannot be merged before it"
        lacks = sorted(frozenset().union(*(step.needs for step in steps)) & (SIGNAL_NAMES - {"evidence"}) - self.gives)
        return f"{kind} gives no {', '.join(lacks)}" if lacks else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all weights, names included; 16 digits."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            total.update(name.encode())
            total.update(tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu().numpy())
        return total.hexdigest()[:16]

    # prompts

    def prompt(self, question: str, image: bool | int = True) -> tuple[list[int], list[int]]:
        """Token ids before and after the image for a question; without an image, nothing stands between them.

        Args:
            image: whether there is one, or how many: then the first list goes on up to the last, and holds VISUAL where
                an earlier one stands.
        """
        ids = self._ids(question, int(image))
        if not image:
            first = self._shared_prefix
            return ids[:first], ids[first:]
        marks = [i for i, token in enumerate(ids) if token == self._mark]
        if len(marks) != image:
            raise RequestError(f"model {self.name!r}: its chat template holds {len(marks)} images where {int(image)} were given")
        before = [VISUAL if token == self._mark else token for token in ids[: marks[-1]]]
        return before, ids[marks[-1] + 1 :]

    def _ids(self, question: str, images: int) -> list[int]:
        content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        if self.spec.margin:
            word = self.processor.image_token
            text = text.replace(word, f"{self.spec.margin}{word}{self.spec.margin}")
        starts = self.tokenizer.bos_token is not None and text.lstrip().startswith(self.tokenizer.bos_token)
        return self.tokenizer(text, add_special_tokens=not starts).input_ids

    @cached_property
    def _mark(self) -> int:
        """The token that stands for an image in a prompt."""
        return self.tokenizer.convert_tokens_to_ids(getattr(self.processor, "image_token", None)) or self.config.image_token_id

    @cached_property
    def _shared_prefix(self) -> int:
        """Tokens before the image that stand before the question too where there is none."""
        with_image, without = self.prompt("x")[0], self._ids("x", 0)
        return next((i for i, (a, b) in enumerate(zip(with_image, without)) if a != b), min(len(with_image), len(without)))

    def pixels(self, images: list[Image.Image], grid: tuple[int, int] | None = None) -> PixelBatch:
        """Images of as many prompts, made ready for the tower; ``grid`` shrinks each to that many tokens."""
        return self.views([[image] for image in images], grid)

    def views(self, prompts: list[list[Image.Image]], grid: tuple[int, int] | None = None) -> PixelBatch:
        """The images of every prompt, made ready for the tower."""
        made = self.tiler.views(prompts, grid)
        return PixelBatch([tensor.to(self.device, self.dtype) for tensor in made.tensors], made.blocks)

    def prompt_prefix(self, prefix: list[int], blocks: tuple[ImageSpan, ...]) -> PromptPrefix:
        """What stands before the questions of a prompt."""
        return PromptPrefix.of(prefix, blocks, self.spec.axes)

    # tower and projector

    @cached_property
    def blockwise_tower(self) -> BlockwiseTower | None:
        """The tower whose blocks the engine runs; None where it runs as a whole."""
        if not self.spec.open:
            return None
        normed = self.spec.normed or (self.config.model_type == "internvl" and self.config.vision_feature_layer == -1)
        return BlockwiseTower(self.tower, self.config.vision_config, blocks_read(self.config), normed)

    @cached_property
    def whole_tower(self) -> WholeTower:
        return WholeTower(self.tower, self.config.vision_config)

    @property
    def blocks(self) -> list[TowerBlock]:
        return self.blockwise_tower.blocks

    def enter_tower(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patch and position embeddings, CLS first where there is one: [tiles, cls + n, Dv]."""
        return self.blockwise_tower.enter(pixels)

    def joint_embeds(self, hidden: torch.Tensor) -> torch.Tensor:
        """Tower states at the read layer, CLS included, [B, 1 + N, Dv] to the joint space [B, N, C]."""
        for block in self.blockwise_tower.unread:
            hidden = block.transform(block.attend(hidden, None, None))
        return self.companion.visual_projection(self.tower.post_layernorm(hidden[:, int(self.shape.has_cls) :]))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Tower tokens [B, n, Dv] to tokens of the LLM [B, n, D], or to fewer where the projector merges them."""
        projector: torch.nn.Module = self.inner.get_submodule(self.spec.projector)
        if self.config.model_type == "internvl":
            side = int(features.shape[1] ** 0.5)
            folded = self.inner.pixel_shuffle(features.unflatten(1, (side, side)), self.config.downsample_ratio)
            features = folded.flatten(1, 2)
        # of what is no table of its own, a layer adds its bias to a product that is rounded already: half precision shows it
        return projector(features.contiguous())

    def projected(self, tower) -> torch.Tensor:
        """All visual tokens of a `Tower` in the space of the LLM: [B, N, D]."""
        if tower.projected is not None:
            return tower.projected
        if tower.states is None:
            return self.project(tower.features)
        return self.tiler.arrange(self.project(tower.states), tower.blocks)

    # decoder

    @cached_property
    def _kinds(self) -> list[AttentionKind]:
        text = self.config.get_text_config()
        window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
        names = getattr(text, "layer_types", None)
        if names is None:
            names = ["full_attention" if window is None else "sliding_attention"] * text.num_hidden_layers
        slide = lambda name: window if name == "sliding_attention" else None
        return [AttentionKind(name, slide(name), self.spec.together) for name in names]

    def kind(self, layer: int) -> AttentionKind:
        """How a decoder layer attends."""
        return self._kinds[layer]

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings of token ids; NEWLINE has the model's own, and what VISUAL stands for is put in later."""
        embeddings = self.inner.get_input_embeddings()(ids.clamp_min(0))
        if hasattr(self.inner, "image_newline"):
            embeddings = torch.where((ids == NEWLINE)[..., None], self.inner.image_newline.to(embeddings), embeddings)
        return embeddings

    def rotary(self, hidden: torch.Tensor, positions: torch.Tensor, kind: str = "full_attention"):
        """Cosines and sines for positions [G, L], or [3, G, L] where they have three axes."""
        if self.spec.axes > 1 and positions.dim() == 2:
            positions = positions.expand(self.spec.axes, -1, -1)
        if hasattr(self.decoder.rotary_emb, "layer_types"):  # angles differ between kinds of layers
            return self.decoder.rotary_emb(hidden, positions, kind)
        return self.decoder.rotary_emb(hidden, position_ids=positions)

    def layer(self, index: int, hidden, mask, positions, rotary, store, probe: AttentionProbe | None = None) -> torch.Tensor:
        """Run decoder layer ``index``; its keys and values go through ``store.update``."""
        words = {self._cache_word: store} if store is not None else {}
        if probe is not None:
            words["probe"] = probe
        plain = positions if positions.dim() == 2 else None  # read by packed attention alone
        out = self.decoder.layers[index](hidden, attention_mask=mask, position_ids=plain, position_embeddings=rotary, **words)
        return out[0] if isinstance(out, tuple) else out

    def rows_ahead(self, index: int, hidden: torch.Tensor, mask, rotary, probe: AttentionProbe) -> None:
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
        weight = self.decoder.norm.weight.detach()
        return weight + 1 if self.config.model_type == "gemma3" else weight  # Gemma keeps the weight less one

    def rope_response(self, queries: torch.Tensor, keys: torch.Tensor, kind: str = "full_attention") -> torch.Tensor:
        """Mean cosine of the rotary angles between positions: [R, T] and [R, N] (or [3, R, ...]) to [R, T, N]."""
        if not hasattr(self.decoder.rotary_emb, "inv_freq") or self.spec.axes > 1:
            like = torch.zeros(1, device=self.device)
            own, others = self.rotary(like, queries, kind), self.rotary(like, keys, kind)
            total = sum(a.float() @ b.float().transpose(1, 2) for a, b in zip(own, others, strict=True))
            return total / (own[0].float().square() + own[1].float().square()).sum(-1)[..., None]
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


def _check(name: str, config) -> None:
    """Refuse what a supported architecture allows and this suite does not know."""
    vision, kind = config.vision_config, config.model_type
    known = ("clip_vision_model", "siglip_vision_model", "internvl_vision", "smolvlm_vision", "idefics3_vision")
    if not kind.startswith("qwen") and vision.model_type not in known:
        raise RequestError(f"model {name!r}: vision tower {vision.model_type!r} of {kind} is not supported; CLIP and SigLIP are")
    if not isinstance(getattr(config, "vision_feature_layer", -1), int):
        raise RequestError(f"model {name!r}: reads several tower layers at once, which is not supported")
    strategy = getattr(config, "vision_feature_select_strategy", None)
    has_cls = vision.model_type in ("clip_vision_model", "internvl_vision")
    if strategy is not None and (strategy == "default") != has_cls:
        raise RequestError(f"model {name!r}: vision_feature_select_strategy {strategy!r} does not fit a {vision.model_type}")
