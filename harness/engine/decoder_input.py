"""From the vision tower's output to the sequences before the first decoder layer; tokens may leave at the projector."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from harness.engine.entered_tokens import EnteredTokens, of_chosen
from harness.engine.layout import TokenPositions, build_layout
from harness.engine.prefill_state import PrefillState
from harness.engine.request import UniformPass
from harness.engine.sharing import PrefixCheckpoint
from harness.engine.signals import VisionOutput, projector_signals
from harness.models.adapter import Adapter
from harness.models.prompt import PromptPrefix, grid_span
from methods.types import Selection, Step


@dataclass
class _VisualTokens:
    """The visual tokens that G sequences start with."""

    ids: torch.Tensor  # int64 [G, K] original token of each; -1 of no single place; on the host
    places: torch.Tensor  # int64 [G, K] where in the prompt each stands; -1 of no single place; on the host
    chosen: torch.Tensor  # int64 [G, K] which of those that left the tower; -1 of no single place
    features: torch.Tensor | None = None  # [G, K, D]
    deepstack: tuple[torch.Tensor, ...] = ()  # [G, K, D] each
    selection: Selection | None = None  # what chose them


def enter_decoder(adapter: Adapter, uniform_pass: UniformPass) -> PrefixCheckpoint:
    """Project the visual tokens, prune at the projector, and lay out the sequences before the first decoder layer.

    Args:
        adapter: the model.
        uniform_pass: the pass; where it shares questions, and its projector step does not read them, a sequence holds all
            questions of an image.
    """
    batch = uniform_pass.batch
    step = next((step for step in uniform_pass.path.steps if step.site.stage == 1), None)
    row_per_image = uniform_pass.share_questions and not (step is not None and step.reads_text)
    image = torch.arange(len(batch.pixels), device=batch.image.device) if row_per_image else batch.image
    if uniform_pass.vision is None:
        none = torch.zeros(len(image), 0, dtype=torch.int64)
        prefix, visual = adapter.prompt_prefix(batch.prefix, ()), _VisualTokens(none, none, none)
    else:
        lowest = uniform_pass.vision.lowest
        prefix = adapter.prompt_prefix(
            batch.prefix, (grid_span(1, lowest.shape[1]),) if uniform_pass.vision.merged else uniform_pass.vision.spans
        )
        visual = _visual_tokens(adapter, uniform_pass, uniform_pass.vision, step, image, row_per_image)
    tower = None
    if uniform_pass.vision is not None:
        tower = EnteredTokens(uniform_pass.vision, image, visual.chosen, visual.selection)
    return _lay_out(adapter, uniform_pass, prefix, visual, row_per_image, tower)


def _visual_tokens(
    adapter: Adapter, uniform_pass: UniformPass, vision: VisionOutput, step: Step | None, image: torch.Tensor, row_per_image: bool
) -> _VisualTokens:
    """What the projector makes of the tower's output, and what its step leaves of it; ``image`` [G] is that of each row."""
    features = None
    if step is None or step.space == "llm":  # those of a merger in the tower's space are known once it has merged
        with uniform_pass.stopwatch.stage("projector"):
            features = adapter.projected(vision) if uniform_pass.shared is None else uniform_pass.shared.projected
        features = features if row_per_image else features[image]
    chosen = torch.arange(vision.lowest.shape[1], device=image.device).expand(len(image), -1)
    deepstack = tuple(table[image] for table in vision.deepstack)
    if step is None:
        return _VisualTokens(*_on_host(vision, image, None), chosen, features, deepstack)
    with uniform_pass.stopwatch.stage("selection"):
        selection = _selected(adapter, uniform_pass, vision, step, features, image, row_per_image)
    if uniform_pass.recorder is not None:
        row = uniform_pass.batch.image if row_per_image else torch.arange(len(image), device=image.device)
        uniform_pass.recorder.note_step(selection, vision.lowest[image], row)
    if selection.tokens is None:
        assert features is not None, "a step that hands over no tokens chooses among projected ones"
        chosen = selection.indices.sort(-1).values
        features = features.gather(1, chosen[..., None].expand(-1, -1, features.shape[-1]))
    else:
        with uniform_pass.stopwatch.stage("projector"):
            features = selection.tokens if selection.space == "llm" else adapter.project(selection.tokens)
        chosen = selection.indices
    deepstack = tuple(of_chosen(table, chosen, selection) for table in deepstack)
    return _VisualTokens(*_on_host(vision, image, chosen), chosen, features, deepstack, selection)


def _on_host(vision: VisionOutput, image: torch.Tensor, chosen: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Original tokens and places in the prompt of what is chosen, int64 [G, K] each, on the host.

    A place is that among all tokens that there were, or, where some merged, among those that left the tower. Nothing is read from
    the device where neither the tower nor a step (None for none) made a choice.
    """
    count, rows = vision.lowest.shape[1], len(image)
    if vision.complete:
        ids = torch.arange(count).expand(rows, -1) if chosen is None else chosen.cpu()
        return ids, ids
    if chosen is None:
        chosen = torch.arange(count, device=image.device).expand(rows, -1)
    lowest = vision.lowest[image].gather(1, chosen.clamp_min(0)).masked_fill(chosen < 0, -1)
    ids, chosen = torch.stack([lowest, chosen]).cpu()
    return ids, chosen if vision.merged else ids


def _selected(
    adapter: Adapter,
    uniform_pass: UniformPass,
    vision: VisionOutput,
    step: Step,
    features: torch.Tensor | None,
    image: torch.Tensor,
    row_per_image: bool,
) -> Selection:
    """What a step at the projector chooses for G rows; those whose texts differ in length are asked one after another."""
    batch, keep = uniform_pass.batch, min(step.keep, vision.lowest.shape[1])
    if row_per_image or "text_features" not in step.needs:
        signals = projector_signals(adapter, batch, step, vision, features, image, row_per_image)
        return step.select(signals.only(step.needs), keep)
    words = batch.words(step)
    groups: dict[int, list[int]] = {}
    for row, own in enumerate(words):
        groups.setdefault(len(own), []).append(row)
    made: list[Selection] = []
    for rows in groups.values():
        part = replace(
            batch,
            questions=[words[row] for row in rows],
            question_seeds=batch.question_seeds[rows],
            evidence=None if batch.evidence is None else batch.evidence[rows],
            text_embeds=None if batch.text_embeds is None else batch.text_embeds[rows],
        )
        some = None if features is None else features[rows]
        signals = projector_signals(adapter, part, step, vision, some, image[rows], row_per_image)
        made.append(step.select(signals.only(step.needs), keep))
    if len(made) == 1:
        return made[0]
    order = torch.tensor([row for rows in groups.values() for row in rows], device=image.device).argsort()
    joined: dict[str, torch.Tensor] = {}
    for name in ("indices", "tokens", "sizes", "source", "scores"):
        parts = [getattr(one, name) for one in made]
        if parts[0] is not None:
            joined[name] = torch.cat(parts)[order]
    return Selection(joined.pop("indices"), **joined, space=made[0].space)


def _lay_out(
    adapter: Adapter,
    uniform_pass: UniformPass,
    prefix: PromptPrefix,
    visual: _VisualTokens,
    row_per_image: bool,
    tower: EnteredTokens | None,
) -> PrefixCheckpoint:
    """The sequences before the first layer: prefix with the visual tokens that are left, then questions."""
    batch = uniform_pass.batch
    positions = TokenPositions.of(prefix, visual.places, visual.ids)
    if uniform_pass.path.positions == "contiguous":
        positions = positions.contiguous()
    questions: list[list[list[int]]] = [[] for _ in range(len(visual.ids))]  # token ids by sequence
    for row, question in enumerate(batch.questions):
        questions[batch.image_of[row] if row_per_image else row].append(question)
    known = build_layout(positions, [[len(question) for question in group] for group in questions])
    tokens = torch.zeros(known.segments.shape, dtype=torch.int64)
    tokens.scatter_(1, known.prefix, prefix.text.expand(len(questions), -1))
    tokens[known.segments > 0] = torch.tensor([token for group in questions for question in group for token in question])
    layout, (sent,) = known.send(adapter.device, tokens)
    hidden = adapter.embed(sent)
    if visual.features is not None:
        columns = layout.visual[..., None].expand(-1, -1, hidden.shape[-1])
        hidden = hidden.scatter(1, columns, visual.features.to(hidden.dtype))
    state = PrefillState(adapter.enter(hidden), layout, visual.features, list(visual.deepstack), tower=tower)
    return PrefixCheckpoint(layer=0, state=state, entered=layout.of_rows(layout.ids), probe=None, counts=[], recorder=None)
