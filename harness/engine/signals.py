"""What selectors may look at, gathered from a model at work: one function a site, nothing computed unasked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from harness.engine.batch import Batch
from harness.engine.layout import SequenceLayout
from harness.engine.prefill_state import PrefillState
from harness.models.adapter import Adapter
from harness.models.probes import AttentionProbe
from harness.models.prompt import ImageSpan
from harness.models.towers import WholeTowerOutput
from methods.types import VISION_SIGNALS, Signals, Step

_TensorMap = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class VisionOutput:
    """What left the vision tower for B prompts that are alike.

    Where the projector merges, or the tower sees an image in tiles, features and signals are arranged as the visual tokens
    are: averaged over those that form one, tile by tile. Where the projector reads several tower layers at once, features and
    signals are those of the deepest, and ``tile_states`` holds all.
    """

    features: torch.Tensor  # [B, N, Dv]
    source: torch.Tensor  # int64 [B, N0] the token that each original one ended in
    lowest: torch.Tensor  # int64 [B, N] lowest original token of each
    merged: bool  # whether tokens merged inside the tower
    grid: tuple[int, int] | None  # rows and columns of the N tokens, where they are a full grid
    full_grid: tuple[int, int]  # rows and columns of the N0 original tokens
    signals: dict[str, torch.Tensor]  # of VISION_SIGNALS, those asked for
    spans: tuple[ImageSpan, ...]  # of the images of each prompt
    coordinates: torch.Tensor | None = None  # [N, 2] row and column of each token in its image, where they are no full grid
    tile_states: torch.Tensor | None = None  # [B * tiles, n, Dv] where that is not what ``features`` holds
    projected: torch.Tensor | None = None  # [B, N, D] of a tower that holds its projector
    deepstack: tuple[torch.Tensor, ...] = ()  # [B, N, D] each, that are added behind the first LLM layers

    def select(self, prompts: torch.Tensor) -> VisionOutput:
        """Return the output of some prompts, int64 [B']."""
        tiles = self.tile_states
        return replace(
            self,
            features=self.features[prompts],
            source=self.source[prompts],
            lowest=self.lowest[prompts],
            signals={name: tensor[prompts] for name, tensor in self.signals.items()},
            tile_states=None if tiles is None else tiles.unflatten(0, (len(self.source), -1))[prompts].flatten(0, 1),
            projected=None if self.projected is None else self.projected[prompts],
            deepstack=tuple(table[prompts] for table in self.deepstack),
        )


@dataclass(frozen=True)
class GroupedVisionOutput:
    """What left the vision tower for prompts that differ in their visual tokens: one output for each group of like ones."""

    outputs: tuple[VisionOutput, ...]
    groups: tuple[list[int], ...]  # indices of the prompts in each

    def select(self, prompts: torch.Tensor) -> VisionOutput | GroupedVisionOutput:
        """Return the output of some prompts, int64 [B']."""
        found: list[tuple[VisionOutput, list[int]]] = []
        for output, group in zip(self.outputs, self.groups, strict=True):
            here = [(i, group.index(prompt)) for i, prompt in enumerate(prompts.tolist()) if prompt in group]
            if here:
                found.append((output.select(torch.tensor([own for _, own in here])), [i for i, _ in here]))
        return found[0][0] if len(found) == 1 else GroupedVisionOutput(tuple(o for o, _ in found), tuple(g for _, g in found))


def vision_signal_names(steps: Iterable[Step]) -> frozenset[str]:
    """Return the names of the vision tower's signals that any of the steps needs."""
    needs: frozenset[str] = frozenset().union(*(step.needs for step in steps))
    return needs & VISION_SIGNALS


def tower_probe(wanted: frozenset[str], tiles: int, device: torch.device) -> AttentionProbe | None:
    """Return the probe of the last tower block that is run; None where nothing is asked of it.

    Args:
        wanted: names of signals.
        tiles: images that the tower sees, those of all prompts together.
        device: of the tower.
    """
    rows = None
    if "cls_attention" in wanted:
        rows = torch.zeros(tiles, 1, dtype=torch.int64, device=device)
    keys = bool(wanted & {"vision_keys", "vision_keys_full", "cls_key"})
    received = "received_attention" in wanted
    if rows is None and not keys and not received:
        return None
    return AttentionProbe(rows, torch.arange(tiles, device=device), keys, received=received)


def blockwise_tower_signals(
    adapter: Adapter,
    wanted: frozenset[str],
    hidden: torch.Tensor,
    probe: AttentionProbe | None,
    spans: tuple[ImageSpan, ...],
) -> dict[str, torch.Tensor]:
    """Return the signals of a tower that is run block by block, at the layer that the model reads.

    Args:
        adapter: the model.
        wanted: names of signals.
        hidden: [B * tiles, cls + n, Dv] states there, CLS included where the tower has one. Of several tiles, the first
            one's CLS is the image's; a token's attention from CLS is that of its own tile's.
        probe: what the last block recorded.
        spans: of the images of each prompt.
    """
    found: dict[str, torch.Tensor] = {}
    cls, tiler = int(adapter.shape.has_cls), adapter.tiler
    tiles = sum(span.tiles for span in spans)
    arrange: _TensorMap = lambda table: table if tiler.one_to_one and tiles == 1 else tiler.arrange(table, spans)
    first: _TensorMap = lambda table: table if tiles == 1 else table[::tiles]
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
        found["image_embeds"] = arrange(adapter.joint_embeds(hidden))
    return {name: tensor for name, tensor in found.items() if name in wanted}


def whole_tower_signals(
    adapter: Adapter, wanted: frozenset[str], output: WholeTowerOutput, spans: tuple[ImageSpan, ...]
) -> dict[str, torch.Tensor]:
    """Return the signals of a tower that runs as a whole, behind its last block.

    Args:
        adapter: the model.
        wanted: names of signals.
        output: what the tower gave.
        spans: of the images of each prompt.
    """
    found: dict[str, torch.Tensor] = {}
    arrange: _TensorMap = lambda table: adapter.tiler.arrange(table, spans)
    if output.keys is not None:
        found["vision_keys"], found["vision_keys_full"] = arrange(output.keys.mean(1)), arrange(output.keys.flatten(1))
    if output.received is not None:
        found["received_attention"] = arrange(output.received).transpose(1, 2)
    return {name: tensor for name, tensor in found.items() if name in wanted}


def projector_signals(
    adapter: Adapter,
    batch: Batch,
    step: Step,
    vision: VisionOutput,
    features: torch.Tensor | None,
    image: torch.Tensor,
    row_per_image: bool,
) -> Signals:
    """Return the signals of a step at the projector, for G rows.

    Args:
        adapter: the model.
        batch: images and questions.
        step: names the signals that it needs.
        vision: what left the tower.
        features: [G, N, D] projected tokens, None where a merger wants none.
        image: int64 [G] whose tokens they are.
        row_per_image: whether a row is an image; else it is a question. Tensors of images are then handed on as they are.
    """
    rows: _TensorMap = lambda table: table if row_per_image else table[image]
    positions = None
    if "positions" in step.needs and vision.grid is not None:
        positions = grid_coordinates(vision.grid, image.device).expand(len(image), -1, -1)
    elif "positions" in step.needs and vision.coordinates is not None:
        positions = vision.coordinates.to(image.device).expand(len(image), -1, -1)
    words = None
    if "text_features" in step.needs:
        words = adapter.embed(torch.tensor(batch.questions, device=image.device))
    return Signals.collected(
        features=features,
        vision_features=rows(vision.features),
        **{name: rows(tensor) for name, tensor in vision.signals.items() if name in step.needs},
        text_features=words,
        text_embeds=batch.text_embeds if "text_embeds" in step.needs else None,
        positions=positions,
        evidence=None if row_per_image else batch.evidence,
        seeds=batch.image_seeds[image] if row_per_image or not step.reads_text else batch.question_seeds,
        norm_scale=None,
        count=vision.lowest.shape[1],
        batch=len(image),
        device=image.device,
        grid=vision.grid,
    )


def grid_coordinates(grid: tuple[int, int], device: torch.device | str) -> torch.Tensor:
    """Return row and column of every token of a full grid of (h, w) tokens, in [0, 1]: [1, h * w, 2]."""
    lines = [(torch.arange(size, device=device) + 0.5) / size for size in grid]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).view(1, -1, 2)


@dataclass(frozen=True)
class SignalRequest:
    """What steps inside the LLM request of the decoder layer before them."""

    rows: int = 0  # attention rows: 0 for none, 1 for the last instruction token's, 2 for all of them
    scores: bool = False  # also before their softmax
    keys: bool = False

    @classmethod
    def of(cls, step: Step | None) -> SignalRequest:
        """Return what a step requests; nothing where there is none."""
        if step is None:
            return cls()
        rows = 0 if not step.needs & {"text_attention", "text_logits"} else 1 if step.rows == 1 else 2
        return cls(rows, "text_logits" in step.needs, bool(step.needs & {"keys", "text_keys"}))

    def __or__(self, other: SignalRequest) -> SignalRequest:
        return SignalRequest(max(self.rows, other.rows), self.scores or other.scores, self.keys or other.keys)


def decoder_probe(layout: SequenceLayout, request: SignalRequest) -> AttentionProbe | None:
    """Return the probe of a decoder layer; None where nothing is requested."""
    if request == SignalRequest():
        return None
    rows = (None, layout.last[:, None], layout.text)[request.rows]
    return AttentionProbe(rows, layout.group, request.keys, scores=request.scores)


class DecoderSignals:
    """Signals before a decoder layer, for rows whose questions are of one length.

    Args:
        adapter: the model.
        state: the batch before the layer.
        batch: images and questions.
        step: names the signals that it needs.
        layer: index of the decoder layer.
        probe: what the layer before it recorded.
    """

    def __init__(
        self, adapter: Adapter, state: PrefillState, batch: Batch, step: Step, layer: int, probe: AttentionProbe | None
    ) -> None:
        self.adapter, self.state, self.batch, self.step, self.layer = adapter, state, batch, step, layer
        layout = state.layout
        self.columns = layout.visual[layout.group]  # int64 [R, N]
        self.attention = self._of_visual(probe.attention if probe else None)
        self.logits = self._of_visual(probe.logits if probe else None)
        self.keys = probe.key_states.transpose(1, 2).flatten(2) if probe and probe.key_states is not None else None
        self.ahead = None
        if "text_attention_ahead" in step.needs:
            asked = AttentionProbe(layout.last[:, None] if step.rows == 1 else layout.text, layout.group)
            span, kind = state.spans[-1], adapter.kind(layer).name
            adapter.rows_ahead(layer, state.hidden, span.masks[kind], span.rotary[kind], asked, layout.positions)
            self.ahead = self._of_visual(asked.attention)

    def _of_visual(self, rows: torch.Tensor | None) -> torch.Tensor | None:
        """Of attention rows [R, H, T, keys], those of the visual tokens."""
        if rows is None:
            return None
        return rows.gather(3, self.columns[:, None, None, :].expand(-1, *rows.shape[1:3], -1))

    def signals(self, member: torch.Tensor, length: int) -> Signals:
        """Return the signals of some rows.

        Args:
            member: int64 [B] rows.
            length: instruction tokens of each of their questions.
        """
        state, batch, layout, needs = self.state, self.batch, self.state.layout, self.step.needs
        group, text, columns = layout.group[member], layout.text[member, :length], self.columns[member]
        some = slice(-1, None) if self.step.rows == 1 else slice(length)  # rows are repeated behind the last
        rows: Callable[[torch.Tensor | None], torch.Tensor | None] = lambda table: (
            None if table is None else table[member][:, :, some]
        )
        words = [batch.questions[int(row)] for row in member] if "text_features" in needs else None
        response = None
        if "rope_response" in needs:
            of_rows = layout.positions[..., group, :]
            at: _TensorMap = lambda where: of_rows.gather(-1, where.expand(*of_rows.shape[:-1], -1))
            response = self.adapter.rope_response(at(text), at(columns), self.adapter.kind(self.layer).name)
        return Signals.collected(
            features=state.features[group] if "features" in needs and state.features is not None else None,
            text_features=None if words is None else self.adapter.embed(torch.tensor(words, device=group.device)),
            text_attention=rows(self.attention),
            text_attention_ahead=rows(self.ahead),
            text_logits=rows(self.logits),
            rope_response=response,
            keys=_pick(self.keys, group, columns) if "keys" in needs else None,
            text_keys=_pick(self.keys, group, text) if "text_keys" in needs else None,
            hidden_states=_pick(state.hidden, group, columns) if "hidden_states" in needs else None,
            text_hidden=_pick(state.hidden, group, text) if "text_hidden" in needs else None,
            norm_scale=self.adapter.norm_scale if "norm_scale" in needs else None,
            evidence=self._evidence(member, batch.evidence) if "evidence" in needs and batch.evidence is not None else None,
            seeds=batch.question_seeds[member] if self.step.reads_text else batch.image_seeds[batch.image[member]],
            carry=None if state.carry is None else state.carry[group][:, :length],
            count=state.ids.shape[1],
            batch=len(member),
            device=group.device,
        )

    def _evidence(self, member: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
        """Which of the present tokens hold the answer: bool [R, N]; one of no single place holds none."""
        ids = self.state.ids[self.state.layout.group[member]]
        return evidence[member].gather(1, ids.clamp_min(0)) & (ids >= 0)


def _pick(states: torch.Tensor | None, group: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Of states [G, L, D], those at columns int64 [R, N] of each row's sequence: [R, N, D]."""
    assert states is not None, "the layer before was asked for them"
    return states[group].gather(1, columns[..., None].expand(-1, -1, states.shape[-1]))
