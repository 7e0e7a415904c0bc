"""Tokens leave between two decoder layers: a step selects among those present, and the sequences close ranks.

What a selector looks at and hands over lies on the device; which tokens it chose is read from there once, and where they go is
worked out on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harness.engine.decoder_signals import DecoderSignals
from harness.engine.entered_tokens import of_chosen
from harness.engine.layout import build_layout, old_columns
from harness.engine.prefill_state import PrefillState, SpanLink
from harness.engine.request import UniformPass
from harness.engine.transfer import Places
from harness.models.adapter import Adapter
from harness.models.probes import AttentionProbe
from methods.types import PositionMode, Selection, Step


@dataclass(frozen=True)
class _Kept:
    """What a step leaves of the visual tokens, as G' sequences."""

    origin: torch.Tensor  # int64 [G'] the sequence that each comes from; on the host
    row_per_sequence: bool  # whether each row becomes a sequence; else sequences keep all rows that they had
    indices: torch.Tensor  # int64 [G', K] into the visual tokens present; -1 of no single place; on the host
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
    layout, known = state.layout, state.layout.host
    batch = uniform_pass.batch.to(state.hidden.device)
    signals = DecoderSignals(adapter, state, batch, step, layer, probe, uniform_pass.shared is not None)
    sequences, rows = len(layout.segments), len(layout.group)
    row_per_sequence = step.reads_text or rows == sequences
    if row_per_sequence:
        origin, members = known.group, _alike(uniform_pass, state, step)
        targets = members
    else:  # one row stands for all of its image
        origin = torch.arange(sequences)
        members, targets = [torch.searchsorted(known.group, origin).tolist()], [origin.tolist()]
    of_rows = Places.several(members, rows, state.hidden.device)
    of_targets = of_rows if row_per_sequence else Places.several(targets, sequences, state.hidden.device)
    chosen: list[Selection] = []
    for member in of_rows:
        own = signals.signals(member, int(known.lengths[member.host].min())).only(step.needs)
        chosen.append(step.select(own, min(step.keep, state.ids.shape[1])))
    indices, tokens, carry, scores = (
        _together_or_none([getattr(made, name) for made in chosen], of_targets, len(origin))
        for name in ("indices", "tokens", "carry", "scores")
    )
    assert indices is not None, "a selection says what it chose"
    if uniform_pass.recorder is not None and scores is not None:
        row = torch.arange(len(origin), device=scores.device) if row_per_sequence else layout.group
        present = layout.of_rows(layout.ids) if row_per_sequence else layout.ids
        uniform_pass.recorder.note_step(Selection(indices, scores=scores), present, row)
    told = indices.cpu()  # all that the host waits for
    kept = told if tokens is not None else told.sort(-1).values
    _regroup(state, _Kept(origin, row_per_sequence, kept, tokens, step.positions or uniform_pass.path.positions))
    state.carry, state.carry_widths = carry, None
    if carry is not None and carry.dim() > 1:
        state.carry_widths = [0] * len(origin)
        for made, target in zip(chosen, targets, strict=True):
            assert made.carry is not None, "either all of them hand something on or none does"
            for sequence in target:
                state.carry_widths[sequence] = made.carry.shape[1]


def _alike(uniform_pass: UniformPass, state: PrefillState, step: Step) -> list[list[int]]:
    """Rows that a selector can take in one go: those of equal lengths, by rising length."""
    lengths = state.layout.host.lengths.tolist()
    words = uniform_pass.batch.words(step) if "text_features" in step.needs else None
    groups: dict[tuple[int, int], list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault((length, 0 if words is None else len(words[row])), []).append(row)
    return [groups[key] for key in sorted(groups)]


def _regroup(state: PrefillState, kept: _Kept) -> None:
    """Make sequences of the kept visual tokens, with their rows' questions behind them."""
    old, origin, indices = state.layout.host, kept.origin, kept.indices
    positions = old.token_positions.keep(origin, indices)
    if kept.positions == "contiguous":
        positions = positions.contiguous()
    lengths: list[list[int]] = [[] for _ in range(len(origin))]
    for row, (length, group) in enumerate(zip(old.lengths.tolist(), old.group.tolist(), strict=True)):
        lengths[row if kept.row_per_sequence else group].append(length)
    new = build_layout(positions, lengths)
    size, width = new.segments.shape, state.hidden.shape[-1]
    places = old_columns(old, new, origin, indices) + origin[:, None] * old.segments.shape[1]
    travel = (places.flatten(), *((origin, indices) if state.deepstack else ()))
    layout, (place, *left) = new.send(state.hidden.device, *travel)
    hidden = state.hidden.flatten(0, 1).index_select(0, place).view(*size, width)
    if bool((new.segments < 0).any()):
        hidden.masked_fill_((layout.segments < 0)[..., None], 0)
    if kept.tokens is not None:
        hidden.scatter_(1, layout.visual[..., None].expand(-1, -1, width), kept.tokens.to(hidden.dtype))
    if state.features is not None:
        state.features = None  # later steps read the embeddings through ``carry``
    state.tower = state.inputs = None
    state.links.append(SpanLink(origin, indices))
    state.deepstack = [of_chosen(table[left[0]], left[1]) for table in state.deepstack]
    state.hidden, state.layout = hidden, layout


def _together(parts: Sequence[torch.Tensor], targets: Sequence[Places], rows: int) -> torch.Tensor:
    """Tensors of some rows each, [B] or [B, ...], as one of all rows, in their second axis as wide as the widest."""
    if len(parts) == 1 and targets[0].index is None:
        return parts[0]
    size = (rows,) if parts[0].dim() == 1 else (rows, max(part.shape[1] for part in parts), *parts[0].shape[2:])
    whole = parts[0].new_zeros(size)
    for part, target in zip(parts, targets, strict=True):
        where = slice(None) if target.index is None else target.index
        if part.dim() == 1:
            whole[where] = part
        else:
            whole[where, : part.shape[1]] = part
    return whole


def _together_or_none(parts: Sequence[torch.Tensor | None], targets: Sequence[Places], rows: int) -> torch.Tensor | None:
    """As `_together`, of what selections may leave out; either all of them do or none does."""
    given = [part for part in parts if part is not None]
    return _together(given, targets, rows) if given else None
