"""The words of the suite as data: selections, steps, shapes, budgets, schedules; signals have a file of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from methods.lazy import torch
from methods.signals import LAST_BLOCK as LAST_BLOCK
from methods.signals import OPTIONAL_SIGNALS as OPTIONAL_SIGNALS
from methods.signals import READ_LAYER as READ_LAYER
from methods.signals import SIGNAL_NAMES as SIGNAL_NAMES
from methods.signals import TEXT_SIGNALS as TEXT_SIGNALS
from methods.signals import VISION_SIGNALS as VISION_SIGNALS
from methods.signals import Signals as Signals
from methods.signals import TowerRead as TowerRead
from methods.signals import UndeclaredSignal as UndeclaredSignal

BudgetMode = Literal["average", "final", "flops"]
PositionMode = Literal["original", "contiguous"]


@dataclass(frozen=True)
class Selection:
    """What a selector returns.

    A pruner gives ``indices`` alone. A merger also gives the new ``tokens``, how many tokens each
    stands for, and from which it was made. Index -1 is a token of no single place.
    """

    indices: torch.Tensor  # int64 [B, K]
    tokens: torch.Tensor | None = None  # [B, K, D]
    sizes: torch.Tensor | None = None  # [B, K]
    source: torch.Tensor | None = None  # bool [B, K, N]
    carry: torch.Tensor | None = None  # [B, ...] for the method's next step
    space: Literal["llm", "tower"] = "llm"
    scores: torch.Tensor | None = None  # [B, N] the attention it ranked by, where it did; read by nobody but the analysis

    def to(self, device: torch.device | str) -> Selection:
        """Return the same selection on a device."""
        tables = {name: table for name, table in vars(self).items() if isinstance(table, torch.Tensor)}
        moved: dict[str, Any] = {name: table.to(device) for name, table in tables.items()}
        return replace(self, **moved)


Selector = Callable[[Signals, int], Selection]


@dataclass(frozen=True, order=True)
class Site:
    """Where a step acts: ``vision[i]``, ``projector`` or ``decoder[k]``."""

    stage: int  # 0 vision, 1 projector, 2 decoder
    layer: int = 0

    def __str__(self) -> str:
        return "projector" if self.stage == 1 else f"{('vision', '', 'decoder')[self.stage]}[{self.layer}]"


def vision(block: int) -> Site:
    """Return the site inside a block of the vision tower, between its attention and its MLP."""
    return Site(0, block)


PROJECTOR = Site(1)


def decoder(layer: int) -> Site:
    """Return the site before a decoder layer of the LLM; the first that can be named is layer 1."""
    return Site(2, layer)


@dataclass(frozen=True)
class Step:
    """One removal or merging of tokens."""

    site: Site
    select: Selector
    keep: int  # what the selector is asked for
    after: int  # visual tokens present after the step, recycled ones included
    needs: frozenset[str] = frozenset()
    flops: float = 0.0  # of the selection, multiply-adds counted as 2
    rows: int = 0  # how many of the last text rows the selector reads; 0 for all
    merges: bool = False  # whether most tokens after it are made of several; then chance has no meaning
    adaptive: bool = False  # whether the selector decides the count itself; ``after`` is then a bound
    space: Literal["llm", "tower"] = "llm"  # of the tokens that a merger hands over; the tower's are projected after it
    positions: PositionMode | None = None  # from here on, where a composed method's halves differ
    reads: tuple[TowerRead, ...] = ()  # of the tower's signals that it needs, those read elsewhere than by default
    behind: bool = False  # of a step in the tower: whether it acts behind its block, not between its attention and its MLP
    words: Literal["instruction", "question"] = "instruction"  # what ``text_features`` are of: all behind the image, or the
    # question's own words, without the template, fixed sentences on the form of the answer, and stop words
    cuts_cache_from: int | None = None  # the layer from which on, once the prompt has run, the caches of the layers before the
    # step lose what it dropped too; None where they keep it

    @property
    def reads_text(self) -> bool:
        """Whether the kept set can differ between the questions of one image."""
        return bool(self.needs & TEXT_SIGNALS)

    @property
    def tower_reads(self) -> tuple[TowerRead, ...]:
        """Where each of the tower's signals that it needs is read, by rising name."""
        said = {read.signal: read for read in self.reads}
        return tuple(said.get(name) or TowerRead.default(name) for name in sorted(self.needs & VISION_SIGNALS))


@dataclass(frozen=True)
class ModelShape:
    """The figures of a model from which schedules and FLOPs follow."""

    name: str
    visual_tokens: int  # N, per image, at full resolution
    grid: tuple[int, int]
    vision_layers: int  # blocks that are run: those nobody reads are not
    vision_width: int
    vision_heads: int
    vision_mlp: int
    has_cls: bool
    patch: int  # pixels a side
    layers: int  # of the LLM
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    gated: bool
    vocabulary: int
    projector_layers: tuple[tuple[int, int], ...] = ()  # (in, out) of each linear map
    kv_bytes: int = 4  # bytes of one cached number
    joint_width: int = 0  # C of the joint image-text space; 0 where the model has none
    joint_text: tuple[int, int, int] = (0, 0, 0)  # layers, width and MLP of its text encoder
    merge: int = 1  # tower tokens that the projector makes one LLM token of
    tiles: int = 1  # images into which the tower sees the picture cut
    vision_gated: bool = False
    window: int = 0  # tower tokens of an attention window; 0 for none
    global_blocks: tuple[int, ...] = ()  # tower blocks that attend beyond the window
    channels: int = 3  # of a patch: colours, times frames where a patch spans several
    tile_tokens: int = 0  # tower tokens of one tile, CLS left out; 0: as many as its visual tokens are made of
    experts: int = 0  # MLPs among which the router of an LLM layer chooses; 0 where a layer has one MLP and no router
    experts_per_token: int = 0  # of them, those that run on a token
    expert_mlp: int = 0  # width of one expert; ``mlp`` is that of layers without experts
    dense_layers: tuple[int, ...] = ()  # LLM layers without experts in a model that has some
    tower_blocks: int = 0  # all blocks of the tower, read or not; 0: as many as are run
    images: int = 1  # of a prompt; each is a tile, or several

    def mlp_at(self, layer: int) -> int:
        """Return the MLP width that runs on a token in an LLM layer: with experts, of those that the router chose together."""
        return self.experts_per_token * self.expert_mlp if self.routes_at(layer) else self.mlp

    def routes_at(self, layer: int) -> int:
        """Return among how many experts the router of an LLM layer chooses; 0 where the layer has none."""
        return 0 if layer in self.dense_layers else self.experts

    def at_grid(self, grid: tuple[int, int]) -> ModelShape:
        """Return the same model's shape on an image of another size in tokens."""
        return replace(self, visual_tokens=grid[0] * grid[1], grid=grid, tiles=1, tile_tokens=0, images=1)


@dataclass(frozen=True)
class Budget:
    """How many visual tokens, and how they are counted.

    ``average``: mean over LLM layers. ``final``: in the last layer. ``flops``: tower through prefill,
    selection included, costs at most what pruning at the projector to so many tokens costs.
    """

    tokens: int
    mode: BudgetMode = "average"
    text_tokens: float = 64.0  # LLM tokens that are not visual; mode ``flops`` needs them
    share: float | None = None  # of the image's tokens, where a share was asked for: for methods that are defined by a ratio


class BudgetError(ValueError):
    """A budget that a method cannot meet; the message is the reason shown in reports."""


@dataclass(frozen=True)
class Schedule:
    """Visual tokens present, known before running.

    ``vision_attention[i]`` and ``vision_mlp[i]`` count tower tokens of one tile, CLS included, in the
    two halves of block i; ``llm[k]`` counts visual tokens in LLM layer k,
    ``cached[k]`` those in its cache once the prompt has run.
    """

    vision_attention: tuple[int, ...]
    vision_mlp: tuple[int, ...]
    projector: int
    llm: tuple[int, ...]
    selection_flops: float = 0.0
    cached: tuple[int, ...] | None = None  # None where the caches of all layers keep what went through them

    @property
    def in_cache(self) -> tuple[int, ...]:
        """Visual tokens in the cache of each LLM layer once the prompt has run, from which answers are decoded."""
        return self.llm if self.cached is None else self.cached

    @property
    def final(self) -> int:
        """Visual tokens in the last LLM layer."""
        return self.llm[-1] if self.llm else 0

    @property
    def average(self) -> float:
        """Visual tokens, mean over LLM layers."""
        return sum(self.llm) / len(self.llm) if self.llm else 0.0


@dataclass(frozen=True)
class Method:
    """Base of every method: parameters are the fields of a frozen dataclass, with the paper's defaults."""

    positions: PositionMode = field(default="original", kw_only=True)

    @property
    def budgeted(self) -> bool:
        """Whether a budget means anything; where it does not, a method has one cell instead of one a budget."""
        return True

    @property
    def tuned(self) -> bool:
        """Whether a level must be found on images that are not scored before the method can run."""
        return False

    def calibrated(self, level: float) -> Method:
        """Return the method with the level at which it keeps as many tokens as a budget asks for.

        Args:
            level: a threshold above 0 and at most 1; the higher it is, the fewer tokens stay.

        Raises:
            NotImplementedError: of a method that has no level to find.
        """
        raise NotImplementedError(f"{type(self).__name__} has no level to find")

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        """Return the steps that meet the budget on a model of this shape.

        Raises:
            BudgetError: where the method cannot meet it; the message is the reason.
        """
        raise NotImplementedError

    def image_grid(self, shape: ModelShape, budget: Budget) -> tuple[int, int] | None:
        """Return the grid to which the image is shrunk before the tower; (0, 0) for no image; None for as it is."""
        return None
