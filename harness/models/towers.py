"""Vision towers: open ones, whose pre-norm blocks the engine runs itself, and closed ones, which run as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.models.probes import AttentionProbe, probing
from harness.models.prompt import PixelBatch
from harness.models.tiling import side


@dataclass(frozen=True)
class TowerBlock:
    """One pre-norm ViT block in two halves, so that tokens can leave between attention and MLP."""

    module: torch.nn.Module

    def attend(self, hidden: torch.Tensor, bias: torch.Tensor | None, probe: AttentionProbe | None) -> torch.Tensor:
        module = self.module
        with probing(self.attention, probe):
            out, _ = self.attention(self.first_norm(hidden), attention_mask=bias)
        return hidden + (out * module.lambda_1 if hasattr(module, "lambda_1") else out)

    def transform(self, hidden: torch.Tensor) -> torch.Tensor:
        module = self.module
        out = module.mlp(self.second_norm(hidden))
        return hidden + (out * module.lambda_2 if hasattr(module, "lambda_2") else out)

    @property
    def attention(self) -> Any:
        return self.module.self_attn if hasattr(self.module, "self_attn") else self.module.attention

    @property
    def first_norm(self) -> Any:
        return self.module.layer_norm1 if hasattr(self.module, "layer_norm1") else self.module.layernorm_before

    @property
    def second_norm(self) -> Any:
        return self.module.layer_norm2 if hasattr(self.module, "layer_norm2") else self.module.layernorm_after


class BlockwiseTower:
    """CLIP, SigLIP, InternVL's and Idefics3's ViT.

    Args:
        module: the tower.
        config: its configuration.
        blocks: how many are run.
        normed: whether its final norm belongs to what the projector reads.
    """

    def __init__(self, module: torch.nn.Module, config, blocks: int, normed: bool) -> None:
        self.module, self.config, self.normed = module, config, normed
        every = module.encoder.layers if hasattr(module.encoder, "layers") else module.encoder.layer
        self.blocks = [TowerBlock(layer) for layer in every[:blocks]]
        self.unread = [TowerBlock(layer) for layer in every[blocks:]]

    def enter(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patch and position embeddings, CLS first where there is one: [tiles, cls + n, Dv]."""
        module = self.module
        if self.config.model_type in ("smolvlm_vision", "idefics3_vision"):
            patch = self.config.patch_size
            seen = pixels.new_ones(len(pixels), pixels.shape[-2] // patch, pixels.shape[-1] // patch, dtype=torch.bool)
            return module.embeddings(pixels, seen)
        if self.config.model_type == "internvl_vision":
            return module.embeddings(pixels)
        resized = tuple(pixels.shape[-2:]) != (side(self.config.image_size),) * 2
        hidden = module.embeddings(pixels, interpolate_pos_encoding=resized)
        return module.pre_layrnorm(hidden) if hasattr(module, "pre_layrnorm") else hidden

    def leave(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the projector reads, of the states behind the last block that is run."""
        if not self.normed:
            return hidden
        return (self.module.post_layernorm if hasattr(self.module, "post_layernorm") else self.module.layernorm)(hidden)


@dataclass
class ChunkProbe(AttentionProbe):
    """Of an attention layer that is called once for every window or image: keys and received attention of all in turn."""

    chunks: list[tuple[torch.Tensor | None, torch.Tensor | None]] = field(default_factory=list, init=False)

    def record(self, module, query, key, mask, scaling: float, causal: bool) -> None:
        super().record(module, query, key, mask, scaling, causal)
        self.chunks.append((self.key_states, self.mean_received))

    def joined(self) -> None:
        """Put the chunks together: [1, H, all tokens, ...]."""
        keys, received = zip(*self.chunks, strict=True)
        self.key_states = torch.cat(keys, 2) if self.keys else None
        self.mean_received = torch.cat(received, 2) if self.received else None


@dataclass(frozen=True)
class WholeTowerOutput:
    """What a closed tower gave for B prompts: tables [B * patches, ...] in the order of the patches."""

    states: torch.Tensor  # [B * patches, Dv] behind the last block
    projected: torch.Tensor  # [B * N, D]
    deep: tuple[torch.Tensor, ...]  # [B * N, D] each, that are added behind the first LLM layers
    keys: torch.Tensor | None  # [B * patches, H, head_dim]
    received: torch.Tensor | None  # [B * patches, H]


class WholeTower:
    """Qwen's towers: patches of all images in one row, attention by image or by window, the merger inside.

    Args:
        module: the tower.
        config: its configuration.
    """

    def __init__(self, module: torch.nn.Module, config) -> None:
        self.module, self.config = module, config

    def see(self, views: PixelBatch, pixels: torch.Tensor, watch, keys: bool, received: bool) -> WholeTowerOutput:
        """Run the tower; the mergers' time is booked as the projector's."""
        grid = torch.tensor([block.cut for blocks in views.blocks for block in blocks], device=pixels.device)
        probe = ChunkProbe(keys=keys, received=received) if keys or received else None
        mergers = [self.module.merger, *getattr(self.module, "deepstack_merger_list", [])]
        with probing(self.module.blocks[-1].attn, probe), _timed(mergers, watch):
            out = self.module(pixels, grid_thw=grid)
        if probe is not None:
            probe.joined()
        order = self._order(grid)
        states, own, mean = out.last_hidden_state, None, None
        if probe is not None and probe.key_states is not None:
            own = probe.key_states[0].transpose(0, 1)
        if probe is not None and probe.mean_received is not None:
            mean = probe.mean_received[0].transpose(0, 1)
        if order is not None:
            states, own, mean = (None if table is None else table[order] for table in (states, own, mean))
        deep = tuple(getattr(out, "deepstack_features", None) or ())
        return WholeTowerOutput(states, out.pooler_output, deep, own, mean)

    def _order(self, grid: torch.Tensor) -> torch.Tensor | None:
        """Where each patch stands in a tower that takes them window by window."""
        if not hasattr(self.module, "window_size"):
            return None
        from transformers.vision_utils import get_vision_window_index

        fold = self.config.spatial_merge_size
        index, _ = get_vision_window_index(grid, fold, self.module.window_size, side(self.config.patch_size))
        units = index.to(grid.device).argsort()
        return (units[:, None] * fold**2 + torch.arange(fold**2, device=grid.device)).flatten()


@contextmanager
def _timed(modules: list[torch.nn.Module], watch) -> Iterator[None]:
    """Book the time of some modules as the projector's."""
    running = ExitStack()
    hooks = [module.register_forward_pre_hook(lambda *_: running.enter_context(watch.stage("projector"))) for module in modules]
    hooks += [module.register_forward_hook(lambda *_: running.close()) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
