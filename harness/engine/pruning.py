"""Tokens leave between two decoder layers: a step selects among those present, and the sequences close ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from harness.engine.decoder_signals import DecoderSignals
from harness.engine.entered_tokens import of_chosen
from harness.engine.layout import build_layout
from harness.engine.prefill_state import PrefillState, SpanLink
from harness.engine.request import UniformPass
from harness.models.adapter import Adapter
from harness.models.probes import AttentionProbe
from methods.types import PositionMode, Selection, Step


@dataclass(frozen=True)
class _Kept:
    """What a step leaves of the visual tokens, as G' sequences."""

    origin: torch.Tensor  # int64 [G'] the sequence that each comes from
    row_per_sequence: bool  # whether each row becomes a sequence; else sequences keep all rows that they had
    indices: torch.Tensor  # int64 [G', K] into the visual tokens present; -1 of no single place
    tokens: torch.Tensor | None  # [G', K, D] in their place
    positions: PositionMode  # whether they keep their positions or are renumbered


def prune_between_layers(
    adapter: Adapter, uniform_pass: UniformPass, state: PrefillState, step: Step, layer: int, probe: AttentionProbe | None
) -> None:
    """Apply a step inside the LLM; one that reads the question gives every row a sequence of its own.

    Args:
        adapter: the model.
        uniform_pass: the pass; its recorder notes what the step chose.
        state: the batch before the layer; it is changed.
        step: the step.
        layer: index of the decoder layer before which it acts.
        probe: what the layer before that recorded.
    """
    layout = state.layout
    signals = DecoderSignals(adapter, state, uniform_pass.batch, step, layer, probe)
    row_per_sequence = step.reads_text or len(layout.group) == len(layout.segments)
    if row_per_sequence:
        origin = layout.group
        members = [torch.tensor(rows, device=origin.device) for rows in _alike(uniform_pass, state, step)]
        targets = members
    else:  # one row stands for all of its image
        origin = torch.arange(len(layout.segments), device=layout.group.device)
        members = [torch.searchsorted(layout.group, origin)]
        targets = [origin]
    chosen: list[Selection] = []
    for member in members:
        own = signals.signals(member, int(layout.lengths[member].min())).only(step.needs)
        made = step.select(own, min(step.keep, state.ids.shape[1]))
        chosen.append(made if made.tokens is not None else replace(made, indices=made.indices.sort(-1).values))
    indices = _together([made.indices for made in chosen], targets, len(origin))
    tokens, carry, scores = (
        _together_or_none([getattr(made, name) for made in chosen], targets, len(origin))
        for name in ("tokens", "carry", "scores")
    )
    if uniform_pass.recorder is not None and scores is not None:
        row = torch.arange(len(origin), device=origin.device) if row_per_sequence else layout.group
        uniform_pass.recorder.note_step(Selection(indices, scores=scores), state.ids[origin], row)
    _regroup(adapter, state, _Kept(origin, row_per_sequence, indices, tokens, step.positions or uniform_pass.path.positions))
    state.carry, state.carry_widths = carry, None
    if carry is not None and carry.dim() > 1:
        state.carry_widths = torch.zeros(len(origin), dtype=torch.int64, device=origin.device)
        for made, target in zip(chosen, targets, strict=True):
            assert made.carry is not None, "either all of them hand something on or none does"
            state.carry_widths[target] = made.carry.shape[1]


def _alike(uniform_pass: UniformPass, state: PrefillState, step: Step) -> list[list[int]]:
    """Rows that a selector can take in one go: those of equal lengths, by rising length."""
    lengths = state.layout.lengths.tolist()
    words = uniform_pass.batch.words(step) if "text_features" in step.needs else None
    groups: dict[tuple[int, int], list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault((length, 0 if words is None else len(words[row])), []).append(row)
    return [groups[key] for key in sorted(groups)]


def _regroup(adapter: Adapter, state: PrefillState, kept: _Kept) -> None:
    """Make sequences of the kept visual tokens, with their rows' questions behind them."""
    layout, origin, indices = state.layout, kept.origin, kept.indices
    ids = state.ids[origin].gather(1, indices.clamp_min(0)).masked_fill(indices < 0, -1)
    visual = layout.visual[origin].gather(1, indices.clamp_min(0))
    positions = layout.token_positions.keep(origin.cpu(), indices.cpu())
    if kept.positions == "contiguous":
        positions = positions.contiguous()
    lengths: list[list[int]] = [[] for _ in range(len(origin))]
    for row, (length, group) in enumerate(zip(layout.lengths.tolist(), layout.group.tolist(), strict=True)):
        lengths[row if kept.row_per_sequence else group].append(length)
    new = build_layout(positions, lengths, adapter.device)
    width = state.hidden.shape[-1]
    hidden = torch.zeros(*new.segments.shape, width, dtype=state.hidden.dtype, device=state.hidden.device)
    sequence = torch.arange(len(origin), device=origin.device)
    moved = (
        (origin, layout.prefix[origin], sequence, new.prefix),
        (origin, visual, sequence, new.visual),
        (layout.group, layout.text, new.group, new.text),
    )
    for old_group, old_columns, new_group, new_columns in moved:
        hidden[new_group[:, None], new_columns] = state.hidden[old_group[:, None], old_columns]
    if kept.tokens is not None:
        hidden.scatter_(1, new.visual[..., None].expand(-1, -1, width), kept.tokens.to(hidden.dtype))
    if state.features is not None:
        state.features = None  # later steps read the embeddings through ``carry``
    state.tower = state.inputs = None
    state.links.append(SpanLink(origin, indices))
    state.deepstack = [of_chosen(table[origin], indices) for table in state.deepstack]
    state.hidden, state.layout, state.ids = hidden, new, ids


def _together(parts: Sequence[torch.Tensor], targets: Sequence[torch.Tensor], rows: int) -> torch.Tensor:
    """Tensors of some rows each, [B] or [B, ...], as one of all rows, in their second axis as wide as the widest."""
    if parts[0].dim() == 1:
        whole = parts[0].new_zeros(rows)
        for part, target in zip(parts, targets, strict=True):
            whole[target] = part
        return whole
    whole = parts[0].new_zeros(rows, max(part.shape[1] for part in parts), *parts[0].shape[2:])
    for part, target in zip(parts, targets, strict=True):
        whole[target, : part.shape[1]] = part
    return whole


def _together_or_none(parts: Sequence[torch.Tensor | None], targets: Sequence[torch.Tensor], rows: int) -> torch.Tensor | None:
    """As `_together`, of what selections may leave out; either all of them do or none does."""
    given = [part for part in parts if part is not None]
    return _together(given, targets, rows) if given else None
