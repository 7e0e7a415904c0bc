"""A vision-language model as the engine sees it.

How its modules are called stands here and in `towers`; what a family's configuration means in `configuration`, how it cuts
images in `tiling`, and what sets it apart in `families`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from harness.models.attention_kind import AttentionKind, attention_kinds
from harness.models.backbones import BackboneSpec, backbone_of
from harness.models.chat import check_marks, prompt_ids, text_ids
from harness.models.chat_template import check_template
from harness.models.companion import Companion
from harness.models.configuration import check_configuration, layers_read, longest_sequence, read_shape, tower_kind, understood
from harness.models.devices import devices_of
from harness.models.families import FamilySpec, spec_of
from harness.models.picture_size import PictureSize
from harness.models.pixtral import PixtralTower
from harness.models.probes import AttentionProbe, Rotary, install
from harness.models.prompt import NEWLINE, VISUAL, ImageSpan, PixelBatch, PromptPrefix
from harness.models.protocols import LayerCache, VisionOutputLike
from harness.models.rotary import RotaryAngles
from harness.models.signal_sources import signals_given, unreadable
from harness.models.token_ids import token_ids
from harness.models.towers import BlockwiseTower, TowerBlock, WholeTower
from harness.models.weights import weights_digest
from methods.types import SIGNAL_NAMES, ModelShape, Step


class Adapter:
    """One model of a supported family.

    Args:
        model: a model of transformers, loaded, with its head.
        processor: its processor, of transformers or an `ImageOnlyProcessor`.
        name: as the user gave it.
        companion: the joint image-text space, where there is one.

    Raises:
        RequestError: where the family, or an option of the configuration, is not supported.
    """

    def __init__(
        self,
        model: Any,  # its attributes differ by family
        processor: Any,  # its attributes differ by family
        name: str,
        companion: Companion | None = None,
    ) -> None:
        self.model, self.processor, self.name, self.companion = model.eval(), processor, name, companion
        self.config: Any = model.config  # of transformers; its fields differ by family
        self.spec: FamilySpec = spec_of(name, self.config.model_type, tower_kind(self.config))
        with understood(name, self.config):
            check_configuration(name, self.config)
            self.backbone: BackboneSpec = backbone_of(name, self.config)
            self._read_model(model)

    def _read_model(self, model: Any) -> None:
        """Find the parts of a model that the engine calls."""
        processor = self.processor
        install(model)
        self.inner: Any = model.model  # the model without its head
        self.tower: Any = getattr(self.inner, self.spec.tower)
        self.decoder: Any = self.inner.get_decoder() if hasattr(self.inner, "get_decoder") else self.inner.language_model
        self.tokenizer: Any = processor.tokenizer  # of transformers; None for a model that has none
        text, spec = self.config.get_text_config(), self.backbone
        self._multiplier: float | None = getattr(text, spec.multiplier) if spec.multiplier else None
        self._logit_bound: float | None = getattr(text, spec.logit_bound, None) if spec.logit_bound else None
        for part in ("layers", "norm"):  # that the engine calls one by one
            getattr(self.decoder, part)
        self.angles = RotaryAngles(self.decoder.rotary_emb, self.spec.position_axes, self.spec.first_position)
        weight: torch.Tensor = next(model.parameters())
        # where batches and layouts lie, and of a model that is spread over several devices each layer
        self.device: torch.device = self.inner.get_input_embeddings().weight.device
        self.dtype, self.devices = weight.dtype, devices_of(model)
        self.layer_devices = [next(layer.parameters()).device for layer in self.decoder.layers]
        layer = self.decoder.layers[0].forward
        inner = getattr(layer, "__wrapped__", layer)
        self._cache_word = "cache" if "cache" in inspect.signature(inner).parameters else "past_key_values"
        self.end_ids: frozenset[int] = frozenset(token_ids(model.generation_config.eos_token_id))
        self.tiler = self.spec.tiler(self.config, processor, self.shape.merge)
        self.picture_size, self.template_source = PictureSize(), "its chat template"
        self._spans_of_sizes: dict[tuple[tuple[int, int], ...], tuple[ImageSpan, ...]] = {}

    @cached_property
    def shape(self) -> ModelShape:
        """The model's shape for a prompt with an image that is taken as one tile; see `shape_for`."""
        bare, companion = read_shape(self.config, self.name, torch.finfo(self.dtype).bits // 8), self.companion
        return bare if companion is None else replace(bare, joint_width=companion.width, joint_text=companion.text_shape)

    def shape_for(self, spans: tuple[ImageSpan, ...]) -> ModelShape:
        """Return the model's shape for a prompt with these images."""
        count, tiles = sum(span.count for span in spans), sum(span.tiles for span in spans)
        usual = self.shape.visual_tokens, self.shape.tiles, self.shape.images
        if (count, tiles, len(spans)) == usual and spans[0].grid == self.shape.grid:
            return self.shape
        grid = spans[0].grid if len(spans) == 1 else None
        own = self.shape.visual_tokens * self.shape.merge  # tower tokens of a tile
        trimmed = self.tiler.trims and count * self.shape.merge != own * tiles
        seen = own if trimmed else 0
        return replace(
            self.shape, visual_tokens=count, tiles=tiles, grid=grid or (1, count), tile_tokens=seen, images=max(1, len(spans))
        )

    def prompt_spans(self, sizes: Sequence[tuple[int, int]]) -> tuple[ImageSpan, ...]:
        """Return the tokens that the images of one prompt put into it, by their pixels, (width, height); only these matter."""
        key = ((0, 0),) * len(sizes) if self.tiler.fixed else tuple(sizes)
        if key and key not in self._spans_of_sizes:
            self._spans_of_sizes[key] = self.prompt_pixels([[Image.new("RGB", size) for size in sizes]]).spans[0]
        return self._spans_of_sizes[key] if key else ()

    @cached_property
    def gives(self) -> frozenset[str]:
        """Names of the signals that this model can give; the task gives ``evidence``."""
        return signals_given(self.shape.has_cls, joint=self.companion is not None)

    def cannot(self, steps: tuple[Step, ...], grid: tuple[int, int] | None = None) -> str | None:
        """Return why this model cannot run some steps, or shrink images to a grid of tokens; None where it can."""
        kind = self.config.model_type
        if grid is not None and grid != (0, 0) and not self.tiler.resizes:
            return f"{kind} takes images at its own resolution alone; none can be shrunk to a grid"
        if any(step.site.stage == 0 for step in steps) and not self.spec.blockwise and self.shape.merge == 1:
            return f"the tower of this {kind} runs as a whole, so no token can leave inside the tower"
        if any(step.site.stage == 0 for step in steps) and not self.tiler.one_to_one:
            return f"the projector of {kind} needs the tower's full grid, so no token can leave inside the tower"
        if any(step.space == "tower" for step in steps) and self.shape.merge > 1:
            return f"the projector of {kind} makes one token of {self.shape.merge}, so the tower's cannot be merged before it"
        joined = len(layers_read(self.config))
        if joined > 1 and any(step.site.stage == 0 or step.space == "tower" for step in steps):
            return f"the projector of this {kind} reads {joined} tower layers at once, so no tokens can be merged before it"
        if (reason := unreadable(steps, self.shape)) is not None:
            return f"{kind}: {reason}"
        if self.tokenizer is None and any(step.words == "question" for step in steps):
            return f"the words of a question are read through the tokenizer, and this {kind} came without one"
        inside = [step for step in steps if step.site.stage == 2]
        if any(step.tower_reads for step in inside[1:]):
            return "the tower's signals are of the tokens that enter the LLM: the first step inside it alone can read them"
        needs: frozenset[str] = frozenset().union(*(step.needs for step in steps))
        lacks = sorted(needs & (SIGNAL_NAMES - {"evidence"}) - self.gives)
        return f"{kind} gives no {', '.join(lacks)}" if lacks else None

    @cached_property
    def digest(self) -> str:
        """First 16 digits of the SHA-256 of all weights, names included."""
        return weights_digest(self.model.state_dict())

    # prompts

    def prompt(self, question: str | Sequence[str], image: bool | int = True) -> tuple[list[int], list[int]]:
        """Return the token ids before and after the image for a question; without an image, nothing stands between them.

        Args:
            question: its text, which follows its images; or the texts before, between and behind them, one more than images.
            image: whether there is one, or how many: then the first list goes on up to the last, and holds VISUAL where
                an earlier one stands. Texts say it themselves.

        Raises:
            RequestError: where the model's chat template does not hold so many images, or not where they should stand.
            SampleError: where a text holds what stands for an image in this model's prompts.
        """
        texts = (*("",) * int(image), question) if isinstance(question, str) else tuple(question)
        count = len(texts) - 1
        ids = prompt_ids(self.name, self.processor, self.spec, texts)
        if not count:
            first = self._shared_prefix
            return ids[:first], ids[first:]
        marks = [i for i, token in enumerate(ids) if token == self._mark]
        check_marks(self.name, self.processor, texts, len(marks))
        before = [VISUAL if token == self._mark else token for token in ids[: marks[-1]]]
        return before, ids[marks[-1] + 1 :]

    def check_template(self) -> None:
        """Check that the chat template can write questions with an image and without; a `RequestError` says what is wrong."""
        # a family without templates, and a model of another package, write their prompts themselves
        if type(self).prompt is Adapter.prompt and not self.spec.bare_prompt:
            marks = lambda text: text_ids(self.processor, self.spec, text).count(self._mark)
            check_template(self.name, self.processor, self.template_source, marks)

    @cached_property
    def longest(self) -> int | None:
        """The most tokens that a prompt and its answer may have together; None where the model does not say."""
        return longest_sequence(self.config, self.tokenizer)

    @cached_property
    def _mark(self) -> int:
        """The token that stands for an image in a prompt."""
        own: int | None = self.tokenizer.convert_tokens_to_ids(getattr(self.processor, "image_token", None))
        return own or int(self.config.image_token_id)

    @cached_property
    def _shared_prefix(self) -> int:
        """Tokens before the image that stand before the question too where there is none."""
        with_image, without = self.prompt("x")[0], prompt_ids(self.name, self.processor, self.spec, ("x",))
        return next((i for i, (a, b) in enumerate(zip(with_image, without)) if a != b), min(len(with_image), len(without)))

    def pixels(self, images: list[Image.Image], grid: tuple[int, int] | None = None) -> PixelBatch:
        """Make the images of prompts of one image each ready for the tower; see `prompt_pixels`."""
        return self.prompt_pixels([[image] for image in images], grid)

    def prompt_pixels(self, prompts: list[list[Image.Image]], grid: tuple[int, int] | None = None) -> PixelBatch:
        """Make the images of every prompt ready for the tower, on the model's device and in its dtype.

        Args:
            prompts: the images of each prompt.
            grid: rows and columns of visual tokens to which each image is shrunk; None for as it is.

        Raises:
            BudgetError: for a grid, where the family takes images at its own resolution alone.
        """
        made = self.tiler.prepare([[self.picture_size.bring(image) for image in images] for images in prompts], grid)
        return PixelBatch([tensor.to(self.device, self.dtype) for tensor in made.tensors], made.spans)

    def prompt_prefix(self, ids: list[int], spans: tuple[ImageSpan, ...]) -> PromptPrefix:
        """Return what stands before the questions of a prompt.

        Args:
            ids: token ids before the last image, as `prompt` gives them.
            spans: of the prompt's images.
        """
        return PromptPrefix.of(ids, spans, self.spec.position_axes)

    # tower and projector

    @cached_property
    def blockwise_tower(self) -> BlockwiseTower | None:
        """The tower whose blocks the engine runs; None where it runs as a whole."""
        if not self.spec.blockwise:
            return None
        final = self.spec.final_norm or (self.config.model_type == "internvl" and self.config.vision_feature_layer == -1)
        return BlockwiseTower(self.tower, self.config.vision_config, tower_kind(self.config), layers_read(self.config), final)

    @cached_property
    def whole_tower(self) -> WholeTower:
        """The tower that runs as a whole, where `blockwise_tower` is None."""
        if tower_kind(self.config) == "pixtral":
            projector = self.inner.get_submodule(self.spec.projector)
            return PixtralTower(self.tower, self.config.vision_config, max(layers_read(self.config)), projector)
        return WholeTower(self.tower, self.config.vision_config)

    @property
    def _blockwise(self) -> BlockwiseTower:
        assert self.blockwise_tower is not None, "this tower runs as a whole"
        return self.blockwise_tower

    @property
    def blocks(self) -> list[TowerBlock]:
        """The blocks of a blockwise tower that are run."""
        return self._blockwise.blocks

    def joint_embeds(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map tower states at the read layer, CLS included, [B, 1 + N, Dv], to the joint image-text space: [B, N, C].

        As the code of CDPruner (Theia-4869/CDPruner 9541616) and TRIM (FreedomIntelligence/TRIM f5a232d) does: the norm and
        the projection that CLIP has behind its last block, applied to the states that the model reads, not normalised.
        """
        assert self.companion is not None, "this model has no companion"
        projection = self.companion.visual_projection
        normed: torch.Tensor = self.tower.post_layernorm(hidden[:, int(self.shape.has_cls) :])
        embeds: torch.Tensor = projection(normed.to(projection.weight.device))
        return embeds

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Map tower tokens [B, n, Dv] to tokens of the LLM: [B, n, D], or fewer where the projector merges them."""
        projector: torch.nn.Module = self.inner.get_submodule(self.spec.projector)
        if self.config.model_type == "internvl":
            side = int(features.shape[1] ** 0.5)
            folded = self.inner.pixel_shuffle(features.unflatten(1, (side, side)), self.config.downsample_ratio)
            features = folded.flatten(1, 2)
        # of what is no table of its own, a layer adds its bias to a product that is rounded already: half precision shows it
        projected: torch.Tensor = projector(features.contiguous())
        return projected.to(features.device)

    def projected(self, vision: VisionOutputLike) -> torch.Tensor:
        """Return all visual tokens of B prompts in the space of the LLM, [B, N, D], from what left the tower."""
        if vision.projected is not None:
            return vision.projected
        if vision.tile_states is None:
            return self.project(vision.features)
        return self.tiler.arrange(self.project(vision.tile_states), vision.spans)

    # decoder

    @cached_property
    def _kinds(self) -> list[AttentionKind]:
        return attention_kinds(self.config.get_text_config(), self.spec.bidirectional_images, self.spec.bidirectional_prompt)

    def kind(self, layer: int) -> AttentionKind:
        """Return how a decoder layer attends."""
        return self._kinds[layer]

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of token ids, [..., D]; those of NEWLINE are the model's own, those of VISUAL mean nothing."""
        embeddings: torch.Tensor = self.inner.get_input_embeddings()(ids.clamp_min(0)).to(ids.device)
        if hasattr(self.inner, "image_newline"):
            embeddings = torch.where((ids == NEWLINE)[..., None], self.inner.image_newline.to(embeddings), embeddings)
        return embeddings

    def enter(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the states before the first decoder layer, from embeddings of text and visual tokens, [..., D]."""
        return embeddings if self._multiplier is None else embeddings * self._multiplier

    def rotary(self, hidden: torch.Tensor, positions: torch.Tensor, kind: str = "full_attention") -> Rotary:
        """Return cosines and sines of the rotary angles.

        Args:
            hidden: any tensor of the dtype and device that they are wanted in.
            positions: int64 [G, L], or [3, G, L] where they have three axes.
            kind: of the decoder layer, as `AttentionKind.name`.
        """
        return self.angles.at(hidden, positions, kind)

    def layer(
        self,
        index: int,
        hidden: torch.Tensor,
        mask: torch.Tensor | None,
        positions: torch.Tensor,
        rotary: Rotary,
        cache: LayerCache | None,
        probe: AttentionProbe | None = None,
    ) -> torch.Tensor:
        """Run one decoder layer.

        Args:
            index: of the layer.
            hidden: [G, L, D].
            mask: [G, 1, L, columns], bool or added to the scores; None where causality alone is the mask.
            positions: int64 [G, L], or [3, G, L].
            rotary: of the positions.
            cache: takes the layer's keys and values; None for none.
            probe: records attention rows or keys on the way.

        Returns:
            [G, L, D].
        """
        words: dict[str, Any] = {self._cache_word: cache} if cache is not None else {}  # keyword arguments of the layer
        if probe is not None:
            words["probe"] = probe
        plain = positions if positions.dim() == 2 else None  # read by packed attention alone
        layer = self.decoder.layers[index]
        with nullcontext() if probe is None else probe.before_rotation(layer):
            out = layer(hidden, attention_mask=mask, position_ids=plain, position_embeddings=rotary, **words)
        states: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return states

    @cached_property
    def norm_scale(self) -> torch.Tensor:
        """Weight of the LLM's final norm, [D]: all of it that a cosine between normed states can see."""
        weight: torch.Tensor = self.decoder.norm.weight.detach()
        return weight + 1 if self.backbone.norm_plus_one else weight

    def rope_response(self, queries: torch.Tensor, keys: torch.Tensor, kind: str = "full_attention") -> torch.Tensor:
        """Return the mean cosine of the rotary angles between positions.

        Args:
            queries: int64 [R, T], or [3, R, T] where positions have three axes.
            keys: int64 [R, N], or [3, R, N].
            kind: of the decoder layer, as `AttentionKind.name`.

        Returns:
            float32 [R, T, N].
        """
        return self.angles.response(queries, keys, kind)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next token, float32 [..., vocabulary], from states behind the last layer, [..., D]."""
        logits: torch.Tensor = self.model.lm_head(self.decoder.norm(hidden))
        if (bound := self._logit_bound) is not None:
            logits = (logits / bound).tanh() * bound
        return logits.float()

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, special tokens left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()
