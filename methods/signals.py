"""What a selector may look at: the signals, as typed tensors, and from where in a model each is read."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from methods.lazy import torch

TEXT_SIGNALS = frozenset(
    {
        "text_embeds", "text_features", "text_attention", "text_attention_ahead", "text_attention_ahead_unrotated", "text_logits",
        "rope_response", "text_keys", "text_hidden", "text_values_full", "text_queries_unrotated", "evidence",
    }
)  # fmt: skip
"""Signals that differ between the questions of one image; a selection that needs none of them is shared by all."""


OPTIONAL_SIGNALS = frozenset({"carry", "norm_scale", "rotary_mean"})
"""Signals that may be declared and still be None."""

VISION_SIGNALS = frozenset(
    {
        "vision_features", "vision_keys", "vision_keys_full", "cls_attention", "cls_feature", "cls_key",
        "received_attention", "image_embeds", "received_attention_early", "cls_attention_early", "cls_attention_first",
        "cls_attention_tiles", "cls_attention_last", "vision_features_first", "cls_feature_first", "vision_queries_full",
        "cls_query", "cls_key_full", "vision_values_full", "cls_value_full",
    }
)  # fmt: skip
"""Signals of the tower; what is not asked for is not computed."""

READ_LAYER, LAST_BLOCK = -2, -1
"""Blocks of the tower by what they are to the model: the one whose output it reads, and the tower's last, read or not.

The attention of the read layer is that inside the block whose output the model reads: it ends in the states that are read.
"""
_BLOCKS = {"cls_attention_first": 0, "vision_features_first": 0, "cls_feature_first": 0, "cls_attention_last": LAST_BLOCK}
_EARLY = frozenset({"received_attention_early", "cls_attention_early"})


@dataclass(frozen=True, order=True)
class TowerRead:
    """Where in the vision tower a signal is read.

    Args:
        signal: one of `VISION_SIGNALS`.
        block: of the tower, counted from 0; `READ_LAYER` or `LAST_BLOCK` say which one it is whatever the tower's depth.
        joined: of attention: whether all heads are joined into one before the softmax, which then has one head, and scores
            are divided by the root of the whole width.
    """

    signal: str
    block: int = READ_LAYER
    joined: bool = False

    @classmethod
    def default(cls, signal: str) -> TowerRead:
        """Return where a signal is read that no step says more about.

        Raises:
            ValueError: for one of an early block: the method says which.
        """
        if signal in _EARLY:
            raise ValueError(f"a step that reads {signal} says of which block")
        return cls(signal, _BLOCKS.get(signal, READ_LAYER))

    @property
    def key(self) -> str:
        """A name for what is read: the signal's own where it is read by default, else with the block behind it."""
        if not self.joined and self.signal not in _EARLY and self == TowerRead.default(self.signal):
            return self.signal
        return f"{self.signal}@{self.block}{',joined' if self.joined else ''}"


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
    received_attention_early: torch.Tensor = _absent()  # [B, H, N] as received_attention, of an earlier block
    cls_attention_early: torch.Tensor = _absent()  # [B, H, N] as cls_attention, of an earlier block
    cls_attention_first: torch.Tensor = _absent()  # [B, H, n] as cls_attention, of block 0; of several tiles the overview's
    cls_attention_tiles: torch.Tensor = _absent()  # [B, T, H, n] as cls_attention, tile by tile, overview first, padding included
    cls_attention_last: torch.Tensor = _absent()  # [B, H, N] as cls_attention, of the tower's last block
    vision_features_first: torch.Tensor = _absent()  # [B, N, Dv] output of block 0
    cls_feature_first: torch.Tensor = _absent()  # [B, Dv]
    vision_queries_full: torch.Tensor = _absent()  # [B, N, Dv] queries at the read layer, not scaled, heads joined
    cls_query: torch.Tensor = _absent()  # [B, Dv]
    cls_key_full: torch.Tensor = _absent()  # [B, Dv]
    vision_values_full: torch.Tensor = _absent()  # [B, N, Dv] values of a block, heads joined
    cls_value_full: torch.Tensor = _absent()  # [B, Dv]
    values_full: torch.Tensor = _absent()  # [B, N, Dkv] values of layer k-1, heads joined
    text_values_full: torch.Tensor = _absent()  # [B, T, Dkv]
    system_values_full: torch.Tensor = _absent()  # [B, S, Dkv] of the text before the image
    keys_unrotated: torch.Tensor = _absent()  # [B, N, Dkv] of layer k-1, before the rotary embedding, heads joined
    text_queries_unrotated: torch.Tensor = _absent()  # [B, T, Dq] of layer k-1, before the rotary embedding, heads joined
    text_attention_ahead_unrotated: torch.Tensor = _absent()  # [B, H, T, N] text_attention_ahead without the rotary embedding
    hidden_states_before: torch.Tensor = _absent()  # [B, N, D] the same tokens at the input of layer k-1
    norm_scale: torch.Tensor | None = None  # [D] weight of the LLM's final norm; optional
    rotary_mean: torch.Tensor | None = None  # [B, N, 2] mean cosine and sine of the rotary angles at each place; optional
    carry: torch.Tensor | None = None  # what the method's step before this one handed on; optional
    count: int = 0  # N; free to read, as are the next five
    batch: int = 1  # B
    device: torch.device | str = "cpu"
    grid: tuple[int, int] | None = None  # (h, w) where the N tokens are a full grid
    tile_places: torch.Tensor | None = None  # int64 [T, n] the visual token that each token of each tile became, overview first;
    # -1 where unpadding removed it; None where the image is one tile
    tile_grids: tuple[tuple[int, int] | None, ...] | None = None  # (h, w) of the visual tokens that each tile has, in the same
    # order; None of a tile whose tokens are no full grid

    @classmethod
    def collected(
        cls,
        *,
        count: int,
        batch: int = 1,
        device: torch.device | str = "cpu",
        grid: tuple[int, int] | None = None,
        tile_places: torch.Tensor | None = None,
        tile_grids: tuple[tuple[int, int] | None, ...] | None = None,
        **found: torch.Tensor | None,
    ) -> Signals:
        """Return the signals that a model or file gives, from tensors by name; None stands for one that it does not give.

        Args:
            count: N.
            batch: B.
            device: where the tensors are.
            grid: (h, w) where the N tokens are a full grid.
            tile_places: int64 [T, n], see the field.
            tile_grids: (h, w) of each tile, see the field.
            found: tensors by signal name, of the shapes that the fields state.
        """
        given: dict[str, Any] = {name: tensor for name, tensor in found.items() if tensor is not None}
        return cls(**given, count=count, batch=batch, device=device, grid=grid, tile_places=tile_places, tile_grids=tile_grids)

    def only(self, needs: frozenset[str]) -> Signals:
        """Return a view with the declared signals alone; reading any other raises and names it.

        Raises:
            UndeclaredSignal: where a declared signal that is not optional is absent.
        """
        given: dict[str, Any] = {name: getattr(self, name) for name in needs}
        missing = sorted(name for name, value in given.items() if value is None and name not in OPTIONAL_SIGNALS)
        if missing:
            raise UndeclaredSignal(f"this model or file gives no {', '.join(missing)}")
        free: dict[str, Any] = {name: getattr(self, name) for name in _FREE}
        return _Declared(**given, **free, _needs=needs)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Signals:
        """Return the same signals on a device; of a view, those that it shows.

        Args:
            device: where to.
            dtype: that real numbers take there, if another one; whole numbers and truth values stay what they are.
        """
        moved: dict[str, Any] = {field.name: object.__getattribute__(self, field.name) for field in fields(Signals)}
        for name, table in moved.items():
            if isinstance(table, torch.Tensor):
                moved[name] = table.to(device, dtype if table.is_floating_point() else None)
        return Signals(**{**moved, "device": device})


@dataclass(frozen=True)
class _Declared(Signals):
    _needs: frozenset[str] = frozenset()

    def __getattribute__(self, name: str) -> Any:
        if name in SIGNAL_NAMES and name not in object.__getattribute__(self, "_needs"):
            raise UndeclaredSignal(f"signal {name!r} was read but is not declared in needs")
        return object.__getattribute__(self, name)


_FREE = frozenset({"count", "batch", "device", "grid", "tile_places", "tile_grids"})
"""What every selector may read without declaring it."""
SIGNAL_NAMES = frozenset(f.name for f in fields(Signals)) - _FREE
"""Names of all signals."""

TOKEN_AXES = {
    "features": 0, "vision_features": 0, "vision_keys": 0, "vision_keys_full": 0, "cls_attention": 1, "received_attention": 1,
    "image_embeds": 0, "text_attention": 2, "text_attention_ahead": 2, "text_logits": 2, "rope_response": 1, "keys": 0,
    "hidden_states": 0, "positions": 0, "evidence": 0, "sizes": 0, "received_attention_early": 1, "cls_attention_early": 1,
    "cls_attention_last": 1, "vision_features_first": 0, "vision_queries_full": 0, "vision_values_full": 0, "values_full": 0,
    "keys_unrotated": 0, "hidden_states_before": 0, "text_attention_ahead_unrotated": 2, "rotary_mean": 0,
}  # fmt: skip
"""Signals that run over visual tokens, and along which axis, the batch left out."""
