"""Vision towers: those whose pre-norm blocks the engine runs one by one, and those that run as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch

from harness.models.probes import AttentionProbe, probing
from harness.models.prompt import PixelBatch
from harness.models.tiling import side
from harness.models.tower_probes import TowerProbe


class StageClock(Protocol):
    """What a tower needs of a stopwatch: to book time as that of a stage."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Book the time until the end of the ``with`` block."""
        ...


@dataclass(frozen=True)
class TowerBlock:
    """One pre-norm ViT block in two halves, so that tokens can leave between attention and MLP."""

    module: Any  # a block of a vision tower of transformers; its parts are named differently by family

    @cached_property
    def device(self) -> torch.device:
        """Where the block lies."""
        weight: torch.Tensor = next(self.module.parameters())
        return weight.device

    def attend(self, hidden: torch.Tensor, bias: torch.Tensor | None, probe: AttentionProbe | None) -> torch.Tensor:
        """Run the first half of the block: norm, attention, residual.

        Args:
            hidden: [B, n, Dv].
            bias: [B, 1, n, n], added to the attention scores; None for none.
            probe: records attention rows or keys on the way.

        Returns:
            [B, n, Dv].
        """
        module = self.module
        with probing(self.attention, probe):
            out, _ = self.attention(self.first_norm(hidden), attention_mask=bias)
        attended: torch.Tensor = hidden + (out * module.lambda_1 if hasattr(module, "lambda_1") else out)
        return attended

    def show(self, hidden: torch.Tensor, bias: torch.Tensor | None, probe: TowerProbe) -> None:
        """Let a probe record what the block's attention would work on, without running it: its norm and projections alone.

        Args:
            hidden: [B, n, Dv] before the block.
            bias: [B, 1, n, n], added to the attention scores; None for none.
            probe: records; where it wants rows from CLS alone, no other token has a query.
        """
        module: Any = self.attention
        normed = self.first_norm(hidden)
        plain = torch.nn.Identity()
        query_norm, key_norm = getattr(module, "q_norm", plain), getattr(module, "k_norm", plain)
        split: Callable[[torch.Tensor], torch.Tensor] = lambda table: table.unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        rows = hidden.shape[1] if probe.queries or probe.received else 1
        query = split(query_norm(module.q_proj(normed[:, :rows])))
        key = split(key_norm(module.k_proj(normed)))
        value = split(module.v_proj(normed)) if probe.values else None
        mask = None if bias is None else bias[:, :, :rows]
        probe.record(module, query, key, mask, module.scale, False, None, value)

    def transform(self, hidden: torch.Tensor) -> torch.Tensor:
        """Run the second half of the block, norm, MLP and residual, on [B, n, Dv]."""
        module = self.module
        out = module.mlp(self.second_norm(hidden))
        transformed: torch.Tensor = hidden + (out * module.lambda_2 if hasattr(module, "lambda_2") else out)
        return transformed

    @property
    def attention(self) -> torch.nn.Module:
        """The attention layer."""
        found: torch.nn.Module = self.module.self_attn if hasattr(self.module, "self_attn") else self.module.attention
        return found

    @property
    def first_norm(self) -> torch.nn.Module:
        """The norm before attention."""
        found = self.module.layer_norm1 if hasattr(self.module, "layer_norm1") else self.module.layernorm_before
        assert isinstance(found, torch.nn.Module)
        return found

    @property
    def second_norm(self) -> torch.nn.Module:
        """The norm before the MLP."""
        found = self.module.layer_norm2 if hasattr(self.module, "layer_norm2") else self.module.layernorm_after
        assert isinstance(found, torch.nn.Module)
        return found


class BlockwiseTower:
    """A tower whose blocks the engine runs itself: CLIP, SigLIP, InternVL's and Idefics3's ViT.

    Args:
        module: the tower, of transformers; its parts are named differently by family.
        config: its configuration, of transformers.
        kind: which tower it is, as `tower_kind` says.
        layers: tower layers that the projector reads; blocks behind the deepest are not run.
        final_norm: whether its final norm belongs to what the projector reads.
    """

    def __init__(self, module: Any, config: Any, kind: str, layers: tuple[int, ...], final_norm: bool) -> None:
        self.module, self.config, self.kind, self.final_norm = module, config, kind, final_norm
        self.joined = layers if len(layers) > 1 else ()  # layers whose states are joined for the projector
        blocks = max(layers)
        every = module.encoder.layers if hasattr(module.encoder, "layers") else module.encoder.layer
        self.blocks = [TowerBlock(layer) for layer in every[:blocks]]
        self.unread = [TowerBlock(layer) for layer in every[blocks:]]

    def look_behind(
        self, hidden: torch.Tensor, bias: torch.Tensor | None, probes: Mapping[int, TowerProbe], behind: frozenset[int]
    ) -> dict[int, torch.Tensor]:
        """Run blocks that the model does not read, as far as is asked: of the last one that is probed only what it shows.

        Args:
            hidden: [B, n, Dv] states behind the last block that the model reads.
            bias: [B, 1, n, n], added to the attention scores; None for none.
            probes: by block.
            behind: blocks behind which the states are wanted.

        Returns:
            The states behind those blocks, [B, n, Dv] each.
        """
        found: dict[int, torch.Tensor] = {}
        first, deepest = len(self.blocks), max([*probes, *behind])
        for index, block in enumerate(self.unread[: deepest + 1 - first], first):
            probe, hidden = probes.get(index), hidden.to(block.device)
            bias = None if bias is None else bias.to(block.device)
            if index == deepest and index not in behind:
                assert probe is not None, "nothing else is asked of it"
                block.show(hidden, bias, probe)
                break
            hidden = block.transform(block.attend(hidden, bias, probe))
            if index in behind:
                found[index] = hidden
        return found

    def enter(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed tiles [tiles, 3, H, W] for the first block: [tiles, cls + n, Dv], CLS first where there is one."""
        module = self.module
        hidden: torch.Tensor
        if self.kind == "idefics3_vision":
            patch = self.config.patch_size
            seen = pixels.new_ones(len(pixels), pixels.shape[-2] // patch, pixels.shape[-1] // patch, dtype=torch.bool)
            hidden = module.embeddings(pixels, seen)
        elif self.kind == "internvl_vision":
            hidden = module.embeddings(pixels)
        else:
            resized = tuple(pixels.shape[-2:]) != (side(self.config.image_size),) * 2
            hidden = module.embeddings(pixels, interpolate_pos_encoding=resized)
            if hasattr(module, "pre_layrnorm"):
                hidden = module.pre_layrnorm(hidden)
        return hidden

    def leave(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what the projector reads, from the states behind the last block that is run: [tiles, cls + n, Dv]."""
        if not self.final_norm:
            return hidden
        norm = self.module.post_layernorm if hasattr(self.module, "post_layernorm") else self.module.layernorm
        normed: torch.Tensor = norm(hidden)
        return normed


@dataclass(frozen=True)
class WholeTowerOutput:
    """What a tower that runs as a whole gave for B prompts: tables [B * patches, ...] in the order of the patches."""

    states: torch.Tensor  # [B * patches, Dv] behind the last block
    projected: torch.Tensor  # [B * N, D]
    deepstack: tuple[torch.Tensor, ...]  # [B * N, D] each, that are added behind the first LLM layers
    behind: Mapping[int, torch.Tensor]  # [B * patches, Dv] behind blocks, those asked for
    in_order: Callable[[torch.Tensor], torch.Tensor]  # what a probe recorded, [1 or B, n, ...], as a table

    def table(self, recorded: torch.Tensor) -> torch.Tensor:
        """Return what a probe recorded of every head, [1 or B, H, n, ...], as a table [B * patches, H, ...]."""
        return self.in_order(recorded.transpose(1, 2))


class WholeTower:
    """A tower that runs as it is, Qwen's: patches of all images in one row, attention by image or by window, merger inside.

    Args:
        module: the tower, of transformers; its parts differ by family.
        config: its configuration, of transformers.
    """

    def __init__(self, module: Any, config: Any) -> None:
        self.module, self.config = module, config

    @property
    def blocks(self) -> int:
        """How many blocks are run."""
        return len(self.module.blocks)

    def run(
        self, pixels: PixelBatch, clock: StageClock, probes: Mapping[int, TowerProbe], behind: frozenset[int]
    ) -> WholeTowerOutput:
        """Run the tower; the mergers' time is booked as the projector's.

        Args:
            pixels: images of B prompts.
            clock: takes the time of the mergers.
            probes: by block; they record on the way.
            behind: blocks behind which the states are wanted.
        """
        patches = pixels.stack()
        grid = torch.tensor([span.cut for spans in pixels.spans for span in spans], device=patches.device)
        mergers = [self.module.merger, *getattr(self.module, "deepstack_merger_list", [])]
        with ExitStack() as watching:
            for index, probe in probes.items():
                watching.enter_context(probing(self.module.blocks[index].attn, probe))
            states = watching.enter_context(_noting({index: self.module.blocks[index] for index in behind}))
            watching.enter_context(_timed(mergers, clock))
            out = self.module(patches, grid_thw=grid)
        for probe in probes.values():
            probe.join()
        order = self.patch_order(grid)
        pick: Callable[[torch.Tensor], torch.Tensor] = lambda table: table if order is None else table[order.to(table.device)]
        deepstack = tuple(getattr(out, "deepstack_features", None) or ())
        return WholeTowerOutput(
            pick(out.last_hidden_state), out.pooler_output, deepstack,
            {index: pick(table) for index, table in states.items()}, lambda table: pick(table[0]),
        )  # fmt: skip

    def patch_order(self, grid: torch.Tensor) -> torch.Tensor | None:
        """Return where each patch stands in a tower that takes them window by window; None where it takes them in turn.

        Args:
            grid: int64 [images, 3] frames, rows and columns of patches of every image.

        Returns:
            int64 [patches].
        """
        if not hasattr(self.module, "window_size"):
            return None
        from transformers.vision_utils import get_vision_window_index

        fold: int = self.config.spatial_merge_size
        index, _ = get_vision_window_index(grid, fold, self.module.window_size, side(self.config.patch_size))
        units = index.to(grid.device).argsort()
        order: torch.Tensor = (units[:, None] * fold**2 + torch.arange(fold**2, device=grid.device)).flatten()
        return order


@contextmanager
def _noting(modules: Mapping[int, torch.nn.Module]) -> Iterator[dict[int, torch.Tensor]]:
    """Note what modules give; yields a dict that fills as they run."""
    noted: dict[int, torch.Tensor] = {}
    hooks = [module.register_forward_hook(lambda _, __, out, i=i: noted.__setitem__(i, out)) for i, module in modules.items()]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _timed(modules: list[torch.nn.Module], clock: StageClock) -> Iterator[None]:
    """Book the time of some modules as the projector's."""
    running = ExitStack()
    hooks = [module.register_forward_pre_hook(lambda *_: running.enter_context(clock.stage("projector"))) for module in modules]
    hooks += [module.register_forward_hook(lambda *_: running.close()) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
