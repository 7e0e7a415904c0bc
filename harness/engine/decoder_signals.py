"""What selectors inside the LLM may look at, gathered from the decoder layer before them: nothing is computed unasked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch

from harness.engine.batch import Batch
from harness.engine.layout import SequenceLayout
from harness.engine.prefill_state import PrefillState
from harness.engine.transfer import Places, send
from harness.models.adapter import Adapter
from harness.models.probes import AttentionProbe, record_rows_of
from methods.types import Signals, Step

_TensorMap = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class SignalRequest:
    """What steps inside the LLM request of the decoder layer before them."""

    rows: int = 0  # attention rows: 0 for none, 1 for the last instruction token's, 2 for all of them
    scores: bool = False  # also before their softmax
    keys: bool = False
    values: bool = False
    unrotated_keys: bool = False  # before the rotary embedding
    unrotated_rows: int = 0  # queries before the rotary embedding, of 0, 1 or 2 as ``rows``
    inputs: bool = False  # the states at its input

    @classmethod
    def of(cls, step: Step | None) -> SignalRequest:
        """Return what a step requests; nothing where there is none."""
        if step is None:
            return cls()
        needs, depth = step.needs, 1 if step.rows == 1 else 2
        return cls(
            rows=depth if needs & {"text_attention", "text_logits"} else 0,
            scores="text_logits" in needs,
            keys=bool(needs & {"keys", "text_keys"}),
            values=bool(needs & {"values_full", "text_values_full", "system_values_full"}),
            unrotated_keys="keys_unrotated" in needs,
            unrotated_rows=depth if "text_queries_unrotated" in needs else 0,
            inputs="hidden_states_before" in needs,
        )

    def __or__(self, other: SignalRequest) -> SignalRequest:
        return SignalRequest(*(max(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)))


def decoder_probe(layout: SequenceLayout, request: SignalRequest) -> AttentionProbe | None:
    """Return the probe of a decoder layer; None where nothing is requested of its attention."""
    if request in (SignalRequest(), SignalRequest(inputs=True)):
        return None
    rows = (None, layout.last[:, None], layout.text)
    return AttentionProbe(
        rows[request.rows],
        layout.group,
        request.keys,
        scores=request.scores,
        values=request.values,
        unrotated_keys=request.unrotated_keys,
        unrotated_rows=rows[request.unrotated_rows],
        **_rows_by_sequence(layout),
        at_end=request.rows < 2 and layout.causal_only,
    )


def _rows_by_sequence(layout: SequenceLayout) -> dict[str, Any]:
    """What a probe is told of the rows, as the host knows it, by the names of its fields."""
    return {"row_per_sequence": layout.row_per_sequence, "turn": layout.turn, "most_rows": layout.most_rows}


class DecoderSignals:
    """Signals before a decoder layer, for rows whose questions are of one length.

    Args:
        adapter: the model.
        state: the batch before the layer.
        batch: images and questions.
        step: names the signals that it needs.
        layer: index of the decoder layer.
        probe: what the layer before it recorded.
        shared: whether other passes go on from the same state, or from what it was made of. A selector may write into what it is
            given; it then has copies.
    """

    def __init__(
        self,
        adapter: Adapter,
        state: PrefillState,
        batch: Batch,
        step: Step,
        layer: int,
        probe: AttentionProbe | None,
        shared: bool,
    ) -> None:
        self.adapter, self.state, self.batch, self.step, self.layer = adapter, state, batch, step, layer
        self.shared = shared
        layout = state.layout
        self.columns = layout.of_rows(layout.visual)  # int64 [R, N]
        self.attention = self._of_visual(probe.attention if probe else None)
        self.logits = self._of_visual(probe.logits if probe else None)
        self.keys = _joined(probe.key_states if probe else None)
        self.values = _joined(probe.value_states if probe else None)
        self.plain_keys, self.plain_queries = (probe.plain_keys, probe.plain_queries) if probe else (None, None)
        self.ahead = self._ahead(rotated=True) if "text_attention_ahead" in step.needs else None
        self.plain_ahead = self._ahead(rotated=False) if "text_attention_ahead_unrotated" in step.needs else None

    def _ahead(self, rotated: bool) -> torch.Tensor | None:
        """Attention rows that the layer itself would compute, with the rotary embedding or without: [R, H, T, N]."""
        layout, span, kind = self.state.layout, self.state.spans[-1], self.adapter.kind(self.layer).name
        rows = layout.last[:, None] if self.step.rows == 1 else layout.text
        asked = AttentionProbe(rows, layout.group, **_rows_by_sequence(layout))
        hidden, mask, rotary = self.state.hidden, span.masks[kind], span.rotary[kind]  # of a span that may lie elsewhere
        mask, angles = (
            None if mask is None else mask.to(hidden.device),
            (rotary[0].to(hidden.device), rotary[1].to(hidden.device)),
        )
        own = self.adapter.decoder.layers[self.layer]
        record_rows_of(own, hidden, mask, angles if rotated else None, asked, layout.positions)
        return self._of_visual(asked.attention)

    def _of_visual(self, rows: torch.Tensor | None) -> torch.Tensor | None:
        """Of attention rows [R, H, T, keys], those of the visual tokens."""
        if rows is None:
            return None
        return rows.gather(3, self.columns[:, None, None, :].expand(-1, *rows.shape[1:3], -1))

    def signals(self, member: Places, length: int) -> Signals:
        """Return the signals of some rows.

        Args:
            member: B rows.
            length: instruction tokens of each of their questions.
        """
        state, batch, layout, needs = self.state, self.batch, self.state.layout, self.step.needs
        group = self._sequences(member)
        text, columns = member.of(layout.text)[:, :length], member.of(self.columns)
        some = slice(-1, None) if self.step.rows == 1 else slice(length)  # rows are repeated behind the last
        rows: Callable[[torch.Tensor | None], torch.Tensor | None] = lambda table: (
            None if table is None else member.of(table)[:, :, some]
        )
        sources: dict[str, tuple[torch.Tensor | None, torch.Tensor]] = {  # states of sequences, and the columns wanted of them
            "keys": (self.keys, columns),
            "text_keys": (self.keys, text),
            "values_full": (self.values, columns),
            "text_values_full": (self.values, text),
            "system_values_full": (self.values, group.of(layout.before_image)),
            "keys_unrotated": (self.plain_keys, columns),
            "hidden_states": (state.hidden, columns),
            "text_hidden": (state.hidden, text),
            "hidden_states_before": (state.inputs, columns),
        }
        queries = self.plain_queries
        found: dict[str, Any] = {  # tensors by the names of the fields
            name: _pick(states, group, wanted) for name, (states, wanted) in sources.items() if name in needs
        }
        found |= self._places(group, text, columns)
        if state.tower is not None:
            sequences = member.of(layout.group)
            found |= {read.signal: state.tower.signal(read, sequences) for read in self.step.tower_reads}
        return Signals.collected(
            **found,
            features=self._own(group, state.features) if "features" in needs and state.features is not None else None,
            text_features=self._words(member) if "text_features" in needs else None,
            text_attention=rows(self.attention),
            text_attention_ahead=rows(self.ahead),
            text_attention_ahead_unrotated=rows(self.plain_ahead),
            text_logits=rows(self.logits),
            text_queries_unrotated=None if queries is None else self._own(member, queries)[:, some],
            norm_scale=self.adapter.norm_scale.to(columns.device, copy=True) if "norm_scale" in needs else None,
            evidence=self._evidence(member, batch.evidence) if "evidence" in needs and batch.evidence is not None else None,
            seeds=self._seeds(member) if "seeds" in needs else None,
            carry=self._carry(group) if "carry" in needs else None,
            count=state.ids.shape[1],
            batch=len(member.host),
            device=columns.device,
        )

    def _sequences(self, member: Places) -> Places:
        """The sequence of each of some rows."""
        layout = self.state.layout
        known = layout.host.group[member.host].tolist()
        every = known == list(range(len(layout.segments)))
        return Places(known, None if every else member.of(layout.group))

    def _own(self, places: Places, table: torch.Tensor) -> torch.Tensor:
        """What a table of the state has at some places; nothing that another pass reads is handed out itself."""
        return places.copy_of(table) if self.shared else places.of(table)

    def _seeds(self, member: Places) -> torch.Tensor:
        """The random streams of some rows, or of their images where the step does not read the text: [B]."""
        batch = self.batch
        if self.step.reads_text:
            return member.copy_of(batch.question_seeds)
        every = [batch.image_of[row] for row in member.host] == list(range(len(batch.image_seeds)))
        return batch.image_seeds.clone() if every else batch.image_seeds[member.of(batch.image)]

    def _places(self, group: Places, text: torch.Tensor, columns: torch.Tensor) -> dict[str, torch.Tensor]:
        """What follows from the positions of the tokens alone, with the rotary angles of the layer before."""
        needs, kind, found = self.step.needs, self.adapter.kind(self.layer - 1).name, dict[str, torch.Tensor]()
        if not needs & {"rope_response", "rotary_mean"}:
            return found
        positions = self.state.layout.positions
        of_rows = positions if group.index is None else positions[..., group.index, :]
        at: _TensorMap = lambda where: of_rows.gather(-1, where.expand(*of_rows.shape[:-1], -1))
        if "rope_response" in needs:
            found["rope_response"] = self.adapter.rope_response(at(text), at(columns), kind)
        if "rotary_mean" in needs:
            cosines, sines = self.adapter.rotary(torch.zeros(1, device=columns.device), at(columns), kind)  # float32
            found["rotary_mean"] = torch.stack([cosines.mean(-1), sines.mean(-1)], -1)
        return found

    def _words(self, member: Places) -> torch.Tensor:
        """The embeddings of what is asked in some rows, whose words are as many: [B, T, D]."""
        words = self.batch.words(self.step)
        ids = torch.tensor([words[row] for row in member.host])
        return self.adapter.embed(send([ids], self.columns.device)[0])

    def _carry(self, group: Places) -> torch.Tensor | None:
        """What the method's last step handed on for some sequences, as wide as it was then."""
        carry, widths = self.state.carry, self.state.carry_widths
        if carry is None or widths is None or not group.host:
            return None if carry is None else self._own(group, carry)
        return self._own(group, carry)[:, : max(widths[sequence] for sequence in group.host)]

    def _evidence(self, member: Places, evidence: torch.Tensor) -> torch.Tensor:
        """Which of the present tokens hold the answer: bool [R, N]; one of no single place holds none."""
        ids = member.of(self.state.layout.of_rows(self.state.ids))
        return member.of(evidence).gather(1, ids.clamp_min(0)) & (ids >= 0)


def _joined(states: torch.Tensor | None) -> torch.Tensor | None:
    """Keys or values of every head, [G, H, L, head_dim], with heads joined: [G, L, D]."""
    return None if states is None else states.transpose(1, 2).flatten(2)


def _pick(states: torch.Tensor | None, group: Places, columns: torch.Tensor) -> torch.Tensor:
    """Of states [G, L, D], those at columns int64 [R, N] of each row's sequence: [R, N, D]."""
    assert states is not None, "the layer before was asked for them"
    return group.of(states).gather(1, columns[..., None].expand(-1, -1, states.shape[-1]))
