"""The words of the suite as data: signals, selections, steps, shapes, budgets, schedules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from methods.lazy import torch

BudgetMode = Literal["average", "final", "flops"]
PositionMode = Literal["original", "contiguous"]

TEXT_SIGNALS = frozenset(
    {
        "text_embeds", "text_features", "text_attention", "text_attention_ahead", "text_logits", "rope_response",
        "text_keys", "text_hidden", "evidence",
    }
)  # fmt: skip
"""Signals that differ between the questions of one image; a selection that needs none of them is shared by all."""


OPTIONAL_SIGNALS = frozenset({"carry", "norm_scale"})
"""Signals that may be declared and still be None."""

VISION_SIGNALS = frozenset(
    {
        "vision_features", "vision_keys", "vision_keys_full", "cls_attention", "cls_feature", "cls_key",
        "received_attention", "image_embeds",
    }
)  # fmt: skip
"""Signals of the tower; what is not asked for is not computed."""


class UndeclaredSignal(AttributeError):
    """A selector read a signal that it does not name in its ``needs``."""


def _absent() -> Any:
    """The default of a signal: None, which no view made by `Signals.only` lets through."""
    return field(default=None)


@dataclass(frozen=True)
class Signals:
    """What a selector may look at: B rows of equal N and, for text signals, of equal T.

    A selector is handed a view made by `only`: every signal that it declares is a tensor there (those of `OPTIONAL_SIGNALS`
    may be None), and reading any other raises `UndeclaredSignal`. The types of the fields are those of the view. Outside a
    view, a signal that this model or file does not give is None.
    """

    features: torch.Tensor = _absent()  # [B, N, D] projected visual tokens
    vision_features: torch.Tensor = _absent()  # [B, N, Dv] tower states at the (deepest) layer that the model reads
    vision_keys: torch.Tensor = _absent()  # [B, N, Dk] keys there, mean over heads
    vision_keys_full: torch.Tensor = _absent()  # [B, N, Dv] keys there, heads joined
    cls_attention: torch.Tensor = _absent()  # [B, H, N] attention from CLS there
    cls_feature: torch.Tensor = _absent()  # [B, Dv]
    cls_key: torch.Tensor = _absent()  # [B, Dk]
    image_embeds: torch.Tensor = _absent()  # [B, N, C] joint image-text space
    text_embeds: torch.Tensor = _absent()  # [B, M, C] joint image-text space
    text_features: torch.Tensor = _absent()  # [B, T, D] embeddings of the instruction
    text_attention: torch.Tensor = _absent()  # [B, H, T, N] rows of layer k-1
    text_attention_ahead: torch.Tensor = _absent()  # [B, H, T, N] rows that layer k would compute
    keys: torch.Tensor = _absent()  # [B, N, Dkv] of layer k-1
    text_keys: torch.Tensor = _absent()  # [B, T, Dkv] of layer k-1
    hidden_states: torch.Tensor = _absent()  # [B, N, D] at the input of layer k
    text_hidden: torch.Tensor = _absent()  # [B, T, D] at the input of layer k
    positions: torch.Tensor = _absent()  # [B, N, 2] row and column in [0, 1]
    evidence: torch.Tensor = _absent()  # bool [B, N]; only for the oracle
    sizes: torch.Tensor = _absent()  # [B, N] how many original tokens each stands for
    seeds: torch.Tensor = _absent()  # int64 [B] one random stream a row
    received_attention: torch.Tensor = _absent()  # [B, H, N] mean attention that each token receives, at the read layer
    text_logits: torch.Tensor = _absent()  # [B, H, T, N] scaled scores of layer k-1 before the softmax
    rope_response: torch.Tensor = _absent()  # [B, T, N] mean cosine of the rotary angles between two places
    norm_scale: torch.Tensor | None = None  # [D] weight of the LLM's final norm; optional
    carry: torch.Tensor | None = None  # what the method's step before this one handed on; optional
    count: int = 0  # N; free to read, as are the next three
    batch: int = 1  # B
    device: torch.device | str = "cpu"
    grid: tuple[int, int] | None = None  # (h, w) where the N tokens are a full grid

    @classmethod
    def collected(
        cls,
        *,
        count: int,
        batch: int = 1,
        device: torch.device | str = "cpu",
        grid: tuple[int, int] | None = None,
        **found: torch.Tensor | None,
    ) -> Signals:
        """Return the signals that a model or file gives, from tensors by name; None stands for one that it does not give.

        Args:
            count: N.
            batch: B.
            device: where the tensors are.
            grid: (h, w) where the N tokens are a full grid.
            found: tensors by signal name, of the shapes that the fields state.
        """
        given: dict[str, Any] = {name: tensor for name, tensor in found.items() if tensor is not None}
        return cls(**given, count=count, batch=batch, device=device, grid=grid)

    def only(self, needs: frozenset[str]) -> Signals:
        """Return a view with the declared signals alone; reading any other raises and names it.

        Raises:
            UndeclaredSignal: where a declared signal that is not optional is absent.
        """
        given: dict[str, Any] = {name: getattr(self, name) for name in needs}
        missing = sorted(name for name, value in given.items() if value is None and name not in OPTIONAL_SIGNALS)
        if missing:
            raise UndeclaredSignal(f"this model or file gives no {', '.join(missing)}")
        return _Declared(**given, count=self.count, batch=self.batch, device=self.device, grid=self.grid, _needs=needs)


@dataclass(frozen=True)
class _Declared(Signals):
    _needs: frozenset[str] = frozenset()

    def __getattribute__(self, name: str) -> Any:
        if name in SIGNAL_NAMES and name not in object.__getattribute__(self, "_needs"):
            raise UndeclaredSignal(f"signal {name!r} was read but is not declared in needs")
        return object.__getattribute__(self, name)


SIGNAL_NAMES = frozenset(f.name for f in fields(Signals)) - {"count", "batch", "device", "grid"}


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

    @property
    def reads_text(self) -> bool:
        """Whether the kept set can differ between the questions of one image."""
        return bool(self.needs & TEXT_SIGNALS)


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
    joint_blocks: int = 0  # tower blocks that run for ``image_embeds`` alone
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

    def mlp_at(self, layer: int) -> int:
        """Return the MLP width that runs on a token in an LLM layer: with experts, of those that the router chose together."""
        return self.experts_per_token * self.expert_mlp if self.routes_at(layer) else self.mlp

    def routes_at(self, layer: int) -> int:
        """Return among how many experts the router of an LLM layer chooses; 0 where the layer has none."""
        return 0 if layer in self.dense_layers else self.experts

    def at_grid(self, grid: tuple[int, int]) -> ModelShape:
        """Return the same model's shape on an image of another size in tokens."""
        return replace(self, visual_tokens=grid[0] * grid[1], grid=grid, tiles=1, tile_tokens=0)


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
    two halves of block i; ``llm[k]`` counts visual tokens in LLM layer k.
    """

    vision_attention: tuple[int, ...]
    vision_mlp: tuple[int, ...]
    projector: int
    llm: tuple[int, ...]
    selection_flops: float = 0.0

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

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        """Return the steps that meet the budget on a model of this shape.

        Raises:
            BudgetError: where the method cannot meet it; the message is the reason.
        """
        raise NotImplementedError

    def image_grid(self, shape: ModelShape, budget: Budget) -> tuple[int, int] | None:
        """Return the grid to which the image is shrunk before the tower; (0, 0) for no image; None for as it is."""
        return None
