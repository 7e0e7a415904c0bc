"""What selectors may look at, gathered from a model at work: one function a site, nothing computed unasked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from harness.models.probes import AttentionProbe
from harness.models.prompt import ImageSpan
from harness.models.towers import WholeTowerOutput
from methods.types import VISION_SIGNALS, Signals, Step


@dataclass(frozen=True)
class VisionOutput:
    """What left the vision tower for B prompts that are alike. ``source`` maps every original token to the one it ended in.

    Where the projector merges, or the tower sees an image in tiles, features and signals are arranged as the visual tokens
    are: averaged over those that form one, tile by tile.
    """

    features: torch.Tensor  # [B, N, Dv]
    source: torch.Tensor  # int64 [B, N0]
    lowest: torch.Tensor  # int64 [B, N] lowest original token of each
    merged: bool
    grid: tuple[int, int] | None
    full_grid: tuple[int, int]
    signals: dict[str, torch.Tensor]  # of VISION_SIGNALS, those asked for
    blocks: tuple[ImageSpan, ...]  # of each prompt
    points: torch.Tensor | None = None  # [N, 2] row and column of each token in its image
    states: torch.Tensor | None = None  # [B * tiles, n, Dv] where that is not what ``features`` holds
    projected: torch.Tensor | None = None  # [B, N, D] of a tower that holds its projector
    deep: tuple[torch.Tensor, ...] = ()  # [B, N, D] that are added behind the first LLM layers

    def images(self, places: torch.Tensor) -> VisionOutput:
        """Of some prompts, int64 [B']."""
        some = lambda tensor: None if tensor is None else tensor[places]
        return replace(
            self, features=some(self.features), source=some(self.source), lowest=some(self.lowest),
            signals={name: some(tensor) for name, tensor in self.signals.items()},
            states=None if self.states is None else self.states.unflatten(0, (len(self.source), -1))[places].flatten(0, 1),
            projected=some(self.projected), deep=tuple(map(some, self.deep)),
        )  # fmt: skip


@dataclass(frozen=True)
class GroupedVisionOutput:
    """Of prompts that differ in their visual tokens: a `VisionOutput` for each group of like ones."""

    each: tuple[VisionOutput, ...]
    groups: tuple[list[int], ...]  # places of the prompts in each

    def images(self, places: torch.Tensor) -> VisionOutput | GroupedVisionOutput:
        """Of some prompts, int64 [B']."""
        found: list[tuple[VisionOutput, list[int]]] = []
        for tower, group in zip(self.each, self.groups, strict=True):
            here = [(i, group.index(place)) for i, place in enumerate(places.tolist()) if place in group]
            if here:
                found.append((tower.images(torch.tensor([own for _, own in here])), [i for i, _ in here]))
        return found[0][0] if len(found) == 1 else GroupedVisionOutput(tuple(t for t, _ in found), tuple(g for _, g in found))


def wanted_of_tower(steps) -> frozenset[str]:
    """The tower's signals that any of the steps needs."""
    return frozenset().union(*(step.needs for step in steps)) & VISION_SIGNALS


def tower_probe(wanted: frozenset[str], batch: int, device) -> AttentionProbe | None:
    """What to request of the last block that is run."""
    rows = None
    if "cls_attention" in wanted:
        rows = torch.zeros(batch, 1, dtype=torch.int64, device=device)
    keys = bool(wanted & {"vision_keys", "vision_keys_full", "cls_key"})
    received = "received_attention" in wanted
    if rows is None and not keys and not received:
        return None
    return AttentionProbe(rows, torch.arange(batch, device=device), keys, received=received)


def of_tower(
    adapter, wanted: frozenset[str], hidden: torch.Tensor, probe: AttentionProbe | None, blocks: tuple[ImageSpan, ...]
) -> dict[str, torch.Tensor]:
    """An open tower's signals at the layer that the model reads.

    Args:
        hidden: [B * tiles, cls + n, Dv] states there, CLS included where the tower has one. Of several tiles, the first
            one's CLS is the image's; a token's attention from CLS is that of its own tile's.
        probe: what the last block recorded.
    """
    cls, found, tiler = int(adapter.shape.has_cls), {}, adapter.tiler
    tiles = sum(block.tiles for block in blocks)
    arrange = lambda table: table if tiler.whole and tiles == 1 else tiler.arrange(table, blocks)
    first = lambda table: table if tiles == 1 else table[::tiles]
    if probe is not None and probe.attention is not None:
        found["cls_attention"] = arrange(probe.attention[:, :, 0, cls:].transpose(1, 2)).transpose(1, 2)
    if probe is not None and probe.key_states is not None:
        keys = probe.key_states  # [B * tiles, H, cls + n, head_dim]
        mean = keys.mean(1)
        found["vision_keys"], found["cls_key"] = arrange(mean[:, cls:]), first(mean[:, 0])
        found["vision_keys_full"] = arrange(keys.transpose(1, 2).flatten(2)[:, cls:])
    if probe is not None and probe.mean_received is not None:
        found["received_attention"] = arrange(probe.mean_received[:, :, cls:].transpose(1, 2)).transpose(1, 2)
    if "cls_feature" in wanted:
        found["cls_feature"] = first(hidden[:, 0])
    if "image_embeds" in wanted:
        found["image_embeds"] = adapter.joint_embeds(hidden)
    return {name: tensor for name, tensor in found.items() if name in wanted}


def of_whole_tower(
    adapter, wanted: frozenset[str], seen: WholeTowerOutput, blocks: tuple[ImageSpan, ...]
) -> dict[str, torch.Tensor]:
    """A closed tower's signals behind its last block."""
    found, arrange = {}, lambda table: adapter.tiler.arrange(table, blocks)
    if seen.keys is not None:
        found["vision_keys"], found["vision_keys_full"] = arrange(seen.keys.mean(1)), arrange(seen.keys.flatten(1))
    if seen.received is not None:
        found["received_attention"] = arrange(seen.received).transpose(1, 2)
    return {name: tensor for name, tensor in found.items() if name in wanted}


def before_llm(
    adapter, batch, step: Step, tower: VisionOutput, features: torch.Tensor | None, image: torch.Tensor, together: bool
) -> Signals:
    """Signals at the projector.

    Args:
        features: [G, N, D] projected tokens, None where a merger wants none.
        image: int64 [G] whose tokens they are.
        together: whether a row is an image; else it is a question. Tensors of images are then handed on as they are.
    """
    rows = (lambda table: table) if together else (lambda table: table[image])
    positions = None
    if "positions" in step.needs and tower.grid is not None:
        positions = places(tower.grid, image.device).expand(len(image), -1, -1)
    elif "positions" in step.needs and tower.points is not None:
        positions = tower.points.to(image.device).expand(len(image), -1, -1)
    words = None
    if "text_features" in step.needs:
        words = adapter.embed(torch.tensor(batch.questions, device=image.device))
    return Signals.collected(
        features=features,
        vision_features=rows(tower.features),
        **{name: rows(tensor) for name, tensor in tower.signals.items() if name in step.needs},
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


@dataclass(frozen=True)
class SignalRequest:
    """What steps inside the LLM request of the layer before them."""

    rows: int = 0  # attention rows: 0 for none, 1 for the last instruction token's, 2 for all of them
    scores: bool = False  # also before their softmax
    keys: bool = False

    @classmethod
    def of(cls, step: Step | None) -> SignalRequest:
        if step is None:
            return cls()
        rows = 0 if not step.needs & {"text_attention", "text_logits"} else 1 if step.rows == 1 else 2
        return cls(rows, "text_logits" in step.needs, bool(step.needs & {"keys", "text_keys"}))

    def __or__(self, other: SignalRequest) -> SignalRequest:
        return SignalRequest(max(self.rows, other.rows), self.scores or other.scores, self.keys or other.keys)


def decoder_probe(layout, request: SignalRequest) -> AttentionProbe | None:
    """A probe of a decoder layer; None where nothing is asked."""
    if request == SignalRequest():
        return None
    rows = (None, layout.last[:, None], layout.text)[request.rows]
    return AttentionProbe(rows, layout.group, request.keys, scores=request.scores)


class DecoderSignals:
    """Signals before a decoder layer, for rows whose questions are of one length."""

    def __init__(self, adapter, state, batch, step: Step, index: int, probe: AttentionProbe | None) -> None:
        self.adapter, self.state, self.batch, self.step, self.index = adapter, state, batch, step, index
        layout = state.layout
        self.columns = layout.visual[layout.group]  # int64 [R, N]
        self.attention = self._of_visual(probe.attention if probe else None)
        self.logits = self._of_visual(probe.logits if probe else None)
        self.keys = probe.key_states.transpose(1, 2).flatten(2) if probe and probe.key_states is not None else None
        self.ahead = None
        if "text_attention_ahead" in step.needs:
            asked = AttentionProbe(layout.last[:, None] if step.rows == 1 else layout.text, layout.group)
            span, kind = state.spans[-1], adapter.kind(index).name
            mask, rotary = span.masks.get(kind), span.rotary.get(kind)
            adapter.rows_ahead(index, state.hidden, mask, rotary, asked)
            self.ahead = self._of_visual(asked.attention)

    def _of_visual(self, rows: torch.Tensor | None) -> torch.Tensor | None:
        """Of attention rows [R, H, T, keys], those of the visual tokens."""
        if rows is None:
            return None
        return rows.gather(3, self.columns[:, None, None, :].expand(-1, *rows.shape[1:3], -1))

    def signals(self, member: torch.Tensor, length: int) -> Signals:
        """Of the rows ``member``, all of ``length`` instruction tokens."""
        state, batch, layout, needs = self.state, self.batch, self.state.layout, self.step.needs
        group, text, columns = layout.group[member], layout.text[member, :length], self.columns[member]
        pick = lambda states, where: states[group].gather(1, where[..., None].expand(-1, -1, states.shape[-1]))
        some = slice(-1, None) if self.step.rows == 1 else slice(length)  # rows are repeated behind the last
        rows = lambda table: None if table is None else table[member][:, :, some]
        words = [batch.questions[int(row)] for row in member] if "text_features" in needs else None
        response = None
        if "rope_response" in needs:
            of_rows = layout.positions[..., group, :]
            at = lambda where: of_rows.gather(-1, where.expand(*of_rows.shape[:-1], -1))
            response = self.adapter.rope_response(at(text), at(columns), self.adapter.kind(self.index).name)
        return Signals.collected(
            features=state.features[group] if "features" in needs and state.features is not None else None,
            text_features=None if words is None else self.adapter.embed(torch.tensor(words, device=group.device)),
            text_attention=rows(self.attention),
            text_attention_ahead=rows(self.ahead),
            text_logits=rows(self.logits),
            rope_response=response,
            keys=pick(self.keys, columns) if "keys" in needs else None,
            text_keys=pick(self.keys, text) if "text_keys" in needs else None,
            hidden_states=pick(state.hidden, columns) if "hidden_states" in needs else None,
            text_hidden=pick(state.hidden, text) if "text_hidden" in needs else None,
            norm_scale=self.adapter.norm_scale if "norm_scale" in needs else None,
            evidence=self._evidence(member) if "evidence" in needs and batch.evidence is not None else None,
            seeds=batch.question_seeds[member] if self.step.reads_text else batch.image_seeds[batch.image[member]],
            carry=None if state.carry is None else state.carry[group][:, :length],
            count=state.ids.shape[1],
            batch=len(member),
            device=group.device,
        )

    def _evidence(self, member: torch.Tensor) -> torch.Tensor:
        """Which of the present tokens hold the answer: bool [R, N]; one of no single place holds none."""
        ids = self.state.ids[self.state.layout.group[member]]
        return self.batch.evidence[member].gather(1, ids.clamp_min(0)) & (ids >= 0)
