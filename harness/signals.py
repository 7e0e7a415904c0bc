"""What selectors may look at, gathered from a model at work: one function a site, nothing computed unasked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from harness.probes import Probe
from methods.types import VISION_SIGNALS, Signals, Step


@dataclass(frozen=True)
class Tower:
    """What left the vision tower. ``source`` maps every original token to the one it ended in."""

    features: torch.Tensor  # [B, N, Dv]
    source: torch.Tensor  # int64 [B, N0]
    lowest: torch.Tensor  # int64 [B, N] lowest original token of each
    merged: bool
    grid: tuple[int, int] | None
    full_grid: tuple[int, int]
    signals: dict[str, torch.Tensor]  # of VISION_SIGNALS, those asked for

    def images(self, places: torch.Tensor) -> Tower:
        """Of some images, int64 [B']."""
        signals = {name: tensor[places] for name, tensor in self.signals.items()}
        return replace(
            self, features=self.features[places], source=self.source[places], lowest=self.lowest[places], signals=signals
        )


def wanted_of_tower(steps) -> frozenset[str]:
    """The tower's signals that any of the steps needs."""
    return frozenset().union(*(step.needs for step in steps)) & VISION_SIGNALS


def tower_probe(wanted: frozenset[str], batch: int, device) -> Probe | None:
    """What to ask of the last block that is run."""
    rows = None
    if "cls_attention" in wanted:
        rows = torch.zeros(batch, 1, dtype=torch.int64, device=device)
    keys = bool(wanted & {"vision_keys", "vision_keys_full", "cls_key"})
    received = "received_attention" in wanted
    if rows is None and not keys and not received:
        return None
    return Probe(rows, torch.arange(batch, device=device), keys, received=received)


def of_tower(adapter, wanted: frozenset[str], hidden: torch.Tensor, probe: Probe | None) -> dict[str, torch.Tensor]:
    """The tower's signals at the layer that the model reads.

    Args:
        hidden: [B, 1 + N, Dv] states there, CLS included where the tower has one.
        probe: what the last block recorded.
    """
    cls, found = int(adapter.shape.has_cls), {}
    if probe is not None and probe.attention is not None:
        found["cls_attention"] = probe.attention[:, :, 0, cls:]
    if probe is not None and probe.key_states is not None:
        keys = probe.key_states  # [B, H, 1 + N, head_dim]
        mean = keys.mean(1)
        found["vision_keys"], found["cls_key"] = mean[:, cls:], mean[:, 0]
        found["vision_keys_full"] = keys.transpose(1, 2).flatten(2)[:, cls:]
    if probe is not None and probe.mean_received is not None:
        found["received_attention"] = probe.mean_received[:, :, cls:]
    if "cls_feature" in wanted:
        found["cls_feature"] = hidden[:, 0]
    if "image_embeds" in wanted:
        found["image_embeds"] = adapter.joint_embeds(hidden)
    return {name: tensor for name, tensor in found.items() if name in wanted}


def before_llm(
    adapter, batch, step: Step, tower: Tower, features: torch.Tensor | None, image: torch.Tensor, together: bool
) -> Signals:
    """Signals at the projector.

    Args:
        features: [G, N, D] projected tokens, None where a merger wants none.
        image: int64 [G] whose tokens they are.
        together: whether a row is an image; else it is a question.
    """
    positions = None
    if tower.grid is not None and "positions" in step.needs:
        positions = places(tower.grid, image.device).expand(len(image), -1, -1)
    words = None
    if "text_features" in step.needs:
        words = adapter.embed(torch.tensor(batch.questions, device=image.device))
    return Signals(
        features=features,
        vision_features=tower.features[image],
        **{name: tensor[image] for name, tensor in tower.signals.items() if name in step.needs},
        text_features=words,
        text_embeds=batch.text_embeds if "text_embeds" in step.needs else None,
        positions=positions,
        evidence=None if together else batch.evidence,
        seeds=batch.image_seeds[image] if together or not step.reads_text else batch.question_seeds,
        norm_scale=None,
        count=tower.lowest.shape[1],
        batch=len(image),
        device=image.device,
        grid=tower.grid,
    )


def places(grid: tuple[int, int], device) -> torch.Tensor:
    """Row and column of every token of a full grid, in [0, 1]: [1, h * w, 2]."""
    lines = [(torch.arange(size, device=device) + 0.5) / size for size in grid]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).view(1, -1, 2)


def decoder_probe(layout, step: Step | None, record: bool = False) -> Probe | None:
    """What a layer is asked for: by the step inside the LLM that stands after it, and by a recorder for its last row."""
    if step is None:
        return Probe(layout.last[:, None], layout.group) if record else None
    rows = None
    if step.needs & {"text_attention", "text_logits"}:
        rows = layout.last[:, None] if step.rows == 1 else layout.text
    elif record:
        rows = layout.last[:, None]
    keys = bool(step.needs & {"keys", "text_keys"})
    if rows is None and not keys:
        return None
    return Probe(rows, layout.group, keys, scores="text_logits" in step.needs)


class InsideLLM:
    """Signals before a decoder layer, for rows whose questions are of one length."""

    def __init__(self, adapter, flow, batch, step: Step, index: int, probe: Probe | None) -> None:
        self.adapter, self.flow, self.batch, self.step = adapter, flow, batch, step
        layout = flow.layout
        self.columns = layout.visual[layout.group]  # int64 [R, N]
        self.attention = self._of_visual(probe.attention if probe else None)
        self.logits = self._of_visual(probe.logits if probe else None)
        self.keys = probe.key_states.transpose(1, 2).flatten(2) if probe and probe.key_states is not None else None
        self.ahead = None
        if "text_attention_ahead" in step.needs:
            asked = Probe(layout.last[:, None] if step.rows == 1 else layout.text, layout.group)
            adapter.rows_ahead(index, flow.hidden, flow.phases[-1].mask, flow.phases[-1].rotary, asked)
            self.ahead = self._of_visual(asked.attention)

    def _of_visual(self, rows: torch.Tensor | None) -> torch.Tensor | None:
        """Of attention rows [R, H, T, keys], those of the visual tokens."""
        if rows is None:
            return None
        return rows.gather(3, self.columns[:, None, None, :].expand(-1, *rows.shape[1:3], -1))

    def signals(self, member: torch.Tensor, length: int) -> Signals:
        """Of the rows ``member``, all of ``length`` instruction tokens."""
        flow, batch, layout, needs = self.flow, self.batch, self.flow.layout, self.step.needs
        group, text, columns = layout.group[member], layout.text[member, :length], self.columns[member]
        pick = lambda states, where: states[group].gather(1, where[..., None].expand(-1, -1, states.shape[-1]))
        rows = lambda table: None if table is None else table[member][:, :, : 1 if self.step.rows == 1 else length]
        words = [batch.questions[int(row)] for row in member] if "text_features" in needs else None
        response = None
        if "rope_response" in needs:
            at = lambda where: layout.positions[group].gather(1, where)
            response = self.adapter.rope_response(at(text), at(columns))
        return Signals(
            features=flow.features[group] if "features" in needs and flow.features is not None else None,
            text_features=None if words is None else self.adapter.embed(torch.tensor(words, device=group.device)),
            text_attention=rows(self.attention),
            text_attention_ahead=rows(self.ahead),
            text_logits=rows(self.logits),
            rope_response=response,
            keys=pick(self.keys, columns) if "keys" in needs else None,
            text_keys=pick(self.keys, text) if "text_keys" in needs else None,
            hidden_states=pick(flow.hidden, columns) if "hidden_states" in needs else None,
            text_hidden=pick(flow.hidden, text) if "text_hidden" in needs else None,
            norm_scale=self.adapter.norm_scale if "norm_scale" in needs else None,
            evidence=self._evidence(member) if "evidence" in needs and batch.evidence is not None else None,
            seeds=batch.question_seeds[member],
            carry=None if flow.carry is None else flow.carry[member][:, :length],
            count=flow.ids.shape[1],
            batch=len(member),
            device=group.device,
        )

    def _evidence(self, member: torch.Tensor) -> torch.Tensor:
        """Which of the present tokens hold the answer: bool [R, N]; one of no single place holds none."""
        ids = self.flow.ids[self.flow.layout.group[member]]
        return self.batch.evidence[member].gather(1, ids.clamp_min(0)) & (ids >= 0)
