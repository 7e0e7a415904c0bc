"""From the vision tower's output to the sequences before the first decoder layer; tokens may leave at the projector."""

from __future__ import annotations

from dataclasses import dataclass

import torch

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

    ids: torch.Tensor  # int64 [G, K] original token of each; -1 of no single place
    chosen: torch.Tensor  # int64 [G, K] which of those that left the tower; -1 of no single place
    features: torch.Tensor | None = None  # [G, K, D]
    deepstack: tuple[torch.Tensor, ...] = ()  # [G, K, D] each


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
        none = torch.zeros(len(image), 0, dtype=torch.int64, device=adapter.device)
        prefix, visual = adapter.prompt_prefix(batch.prefix, ()), _VisualTokens(none, none)
    else:
        lowest = uniform_pass.vision.lowest
        prefix = adapter.prompt_prefix(
            batch.prefix, (grid_span(1, lowest.shape[1]),) if uniform_pass.vision.merged else uniform_pass.vision.spans
        )
        visual = _visual_tokens(adapter, uniform_pass, uniform_pass.vision, step, image, row_per_image)
    return _lay_out(adapter, uniform_pass, prefix, visual, row_per_image)


def _visual_tokens(
    adapter: Adapter, uniform_pass: UniformPass, vision: VisionOutput, step: Step | None, image: torch.Tensor, row_per_image: bool
) -> _VisualTokens:
    """What the projector makes of the tower's output, and what its step leaves of it; ``image`` [G] is that of each row."""
    features = None
    if step is None or step.space == "llm":  # those of a merger in the tower's space are known once it has merged
        with uniform_pass.stopwatch.stage("projector"):
            features = adapter.projected(vision) if uniform_pass.shared is None else uniform_pass.shared.projected
        features = features if row_per_image else features[image]
    ids = vision.lowest[image]
    chosen = torch.arange(ids.shape[1], device=ids.device).expand(len(image), -1)
    deepstack = tuple(table[image] for table in vision.deepstack)
    if step is None:
        return _VisualTokens(ids, chosen, features, deepstack)
    with uniform_pass.stopwatch.stage("selection"):
        signals = projector_signals(adapter, uniform_pass.batch, step, vision, features, image, row_per_image)
        selection = step.select(signals.only(step.needs), min(step.keep, ids.shape[1]))
    if uniform_pass.recorder is not None:
        uniform_pass.recorder.note_step(
            selection, ids, uniform_pass.batch.image if row_per_image else torch.arange(len(image), device=ids.device)
        )
    if selection.tokens is None:
        assert features is not None, "a step that hands over no tokens chooses among projected ones"
        chosen = selection.indices.sort(-1).values
        features = features.gather(1, chosen[..., None].expand(-1, -1, features.shape[-1]))
    else:
        with uniform_pass.stopwatch.stage("projector"):
            features = selection.tokens if selection.space == "llm" else adapter.project(selection.tokens)
        chosen = selection.indices
    deepstack = tuple(deepstack_of_chosen(table, chosen, selection) for table in deepstack)
    ids = ids.gather(1, chosen.clamp_min(0)).masked_fill(chosen < 0, -1)
    return _VisualTokens(ids, chosen, features, deepstack)


def _lay_out(
    adapter: Adapter, uniform_pass: UniformPass, prefix: PromptPrefix, visual: _VisualTokens, row_per_image: bool
) -> PrefixCheckpoint:
    """The sequences before the first layer: prefix with the visual tokens that are left, then questions."""
    batch, ids = uniform_pass.batch, visual.ids
    positions = TokenPositions.of(prefix, visual.chosen.cpu())
    if uniform_pass.path.positions == "contiguous":
        positions = positions.contiguous()
    questions: list[list[list[int]]] = [[] for _ in range(len(ids))]  # token ids by sequence
    for row, question in enumerate(batch.questions):
        questions[int(batch.image[row]) if row_per_image else row].append(question)
    layout = build_layout(positions, [[len(question) for question in group] for group in questions], adapter.device)
    tokens = torch.zeros(layout.segments.shape, dtype=torch.int64)
    tokens.scatter_(1, layout.prefix.cpu(), prefix.text.expand(len(questions), -1))
    tokens[layout.segments.cpu() > 0] = torch.tensor([token for group in questions for question in group for token in question])
    hidden = adapter.embed(tokens.to(adapter.device))
    if visual.features is not None:
        columns = layout.visual[..., None].expand(-1, -1, hidden.shape[-1])
        hidden = hidden.scatter(1, columns, visual.features.to(hidden.dtype))
    state = PrefillState(adapter.enter(hidden), layout, ids, visual.features, list(visual.deepstack))
    return PrefixCheckpoint(layer=0, state=state, entered=ids[layout.group], probe=None, counts=[], recorder=None)


def deepstack_of_chosen(table: torch.Tensor, chosen: torch.Tensor, selection: Selection | None = None) -> torch.Tensor:
    """Return what is added behind a layer to the visual tokens that are left.

    A merged token has the mean of its sources where they are known, else what its own place has; one of no single place and
    no known source has nothing.

    Args:
        table: [G, K, D] what is added to all.
        chosen: int64 [G, K'] into the K; -1 of no single place.
        selection: what chose them, where it may have merged.

    Returns:
        [G, K', D].
    """
    if selection is not None and selection.source is not None:
        weights = selection.source.to(table.dtype)
        mean: torch.Tensor = weights @ table / weights.sum(-1, keepdim=True).clamp_min(1)
        return mean
    found = table.gather(1, chosen.clamp_min(0)[..., None].expand(-1, -1, table.shape[-1]))
    return found.masked_fill((chosen < 0)[..., None], 0)
