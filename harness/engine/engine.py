"""The pruned engine: image to answers, tokens physically removed on the way.

The story of a batch reads top to bottom in `Engine.run`: tower (tokens may merge inside its blocks),
projector (tokens may leave after it), decoder layers one by one (tokens may leave before any), greedy
decoding on a cache whose layers differ in length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from harness.engine.batch import Batch, EngineOutput, join
from harness.engine.decoding import LayerSpan, decode
from harness.engine.layout import TokenPositions, build
from harness.engine.prefill_state import PrefillState
from harness.engine.recorder import Recorder, merged
from harness.engine.sharing import CellPath, PrefixCheckpoint, SharedPrefill, prefix_key
from harness.engine.signals import DecoderSignals, GroupedVisionOutput, SignalRequest, VisionOutput, before_llm, decoder_probe
from harness.engine.stopwatch import Stopwatch
from harness.engine.vision import encode_images
from harness.models.adapter import Adapter
from harness.models.probes import AttentionProbe
from harness.models.prompt import PixelBatch, grid_block
from methods.types import BudgetError, ModelShape, PositionMode, Selection, Step

Steps = tuple[Step, ...] | Callable[[ModelShape], tuple[Step, ...]]
"""A method's steps, or how they follow from the shape that an image's tokens have."""


class Engine:
    """Runs methods on one model.

    Args:
        adapter: the model.
        max_new_tokens: answer tokens at most.
        strict: whether logits that are not finite are an error.
        ends: tokens that end an answer; by default the model's.
    """

    def __init__(
        self, adapter: Adapter, max_new_tokens: int = 16, strict: bool = False, ends: frozenset[int] | None = None
    ) -> None:
        self.adapter, self.max_new_tokens, self.strict = adapter, max_new_tokens, strict
        self.ends = adapter.end_ids if ends is None else ends

    @torch.inference_mode()
    def run(
        self,
        batch: Batch,
        steps: Steps = (),
        positions: PositionMode = "original",
        shared: SharedPrefill | None = None,
        blind: bool = False,
        share: bool = True,
        watch: Stopwatch | None = None,
        recorder: Recorder | None = None,
        rows: list[int] | None = None,
    ) -> EngineOutput:
        """Answer the questions of a batch under a method's steps.

        Images that put different tokens into the prompt run group by group; an image with fewer tokens than a step keeps
        loses none.

        Args:
            batch: images and questions.
            steps: where tokens leave; a function of the shape is asked once for every group.
            positions: whether tokens keep their original positions or are renumbered.
            shared: what is known of the batch already: the tower's output, and places from which other cells went on.
            blind: leave the image out.
            share: compute what the questions of one image share only once.
            watch: takes the time of each stage.
            recorder: notes tokens, attention and scores.
            rows: of the questions, rising, where only some are to be answered; selections may then be made for these alone.

        Raises:
            BudgetError: where this model cannot run such steps; the message is the reason.
            SampleError: of a strict engine, where logits are not finite.
        """
        watch = watch or Stopwatch()
        fixed = steps if not callable(steps) else () if blind else None
        if callable(steps) and not blind and batch.pixels.even:
            fixed = steps(self.adapter.shape_for(batch.pixels.blocks[0]))
        parts = self._parts(batch, fixed, blind)
        if len(parts) > 1:
            return self._apart(parts, batch, steps, positions, shared, blind, share, watch, recorder, rows)
        reason = self.adapter.cannot(fixed)
        if reason is not None:
            raise BudgetError(reason)
        walk = CellPath(fixed, positions)
        stop = None if shared is None else shared.nearest(walk)
        tower = None if blind else shared.tower if shared is not None else self.encode_images(batch.pixels, fixed, watch)
        if rows is not None:  # what they go by is of no use to others
            batch, images = batch.rows(rows)
            shared = None
        if stop is None:
            if rows is not None and tower is not None:
                tower = tower.images(images)
            start = self._enter(batch, walk, tower, shared, share, watch, recorder)
        else:
            start = stop.fork(rows)
            if recorder is not None:
                recorder.follow(stop.recorder)
        flow = start.flow
        with watch.stage("prefill"):
            counts = self._prefill(batch, walk, start, watch, recorder, shared)
            last = flow.hidden[flow.layout.group, flow.layout.last]
            logits = self.adapter.logits(last)
        kv_bytes = sum(phase.store.bytes for phase in flow.phases)
        with watch.stage("decode"):
            tokens, ended = decode(self.adapter, flow.phases, logits, self.max_new_tokens, self.ends, self.strict)
        watch.count("decode", max(1, max(map(len, tokens), default=1)))
        place = flow.layout.group
        full = tower.full_grid if tower is not None else (0, 0)
        source = tower.source[batch.image] if tower is not None and tower.merged else None
        present = torch.full((len(place),), flow.ids.shape[1], device=place.device)
        return EngineOutput(tokens, logits, flow.ids[place], start.entered, full, source, kv_bytes, tuple(counts), present, ended)

    @staticmethod
    def _parts(batch: Batch, steps: tuple[Step, ...] | None, blind: bool) -> list[list[int]]:
        """Images that run in one go: those alike, or each alone where a step decides its count from the image."""
        if steps is not None and any(step.adaptive for step in steps):
            return [[image] for image in range(len(batch.pixels))]
        if blind or batch.pixels.even:
            return [list(range(len(batch.pixels)))]
        return batch.pixels.groups()

    def _apart(self, parts, batch, steps, positions, shared, blind, share, watch, recorder, rows) -> EngineOutput:
        """Run parts of a batch one after the other."""
        outputs, recorders, places = [], [], []  # places of the answered among all that are asked for
        asked = list(range(len(batch.questions))) if rows is None else rows
        for group in parts:
            whole = batch.questions_about(group)
            here = [place for place, row in enumerate(asked) if row in whole]
            if not here:
                continue
            part, images = batch.rows(whole)
            own = None if shared is None else shared.part(images)
            given = _of_rows(steps, here) if callable(steps) else tuple(_of_rows(step, here) for step in steps)
            some = None if rows is None else [whole.index(asked[place]) for place in here]
            recorders.append(None if recorder is None else Recorder(recorder.attention))
            outputs.append(self.run(part, given, positions, own, blind, share, watch, recorders[-1], some))
            places.append(here)
        if recorder is not None:
            merged(recorder, recorders, places)
        return join(outputs, places)

    @torch.inference_mode()
    def encode_images(
        self,
        pixels: PixelBatch,
        steps: tuple[Step, ...] = (),
        watch: Stopwatch | None = None,
        wanted: frozenset[str] = frozenset(),
    ) -> VisionOutput | GroupedVisionOutput:
        """Run the tower, merging in its blocks where the steps say so, and gather the signals that they or ``wanted`` name."""
        return encode_images(self.adapter, pixels, steps, watch or Stopwatch(), wanted)

    def _enter(self, batch, walk: CellPath, tower, shared, share, watch, recorder=None) -> PrefixCheckpoint:
        """Project, prune before the LLM, and lay out the sequences before the first layer."""
        adapter = self.adapter
        step = next((s for s in walk.steps if s.site.stage == 1), None)
        together = share and not (step is not None and step.reads_text)
        image = torch.arange(len(batch.pixels), device=batch.image.device) if together else batch.image
        features, deep = None, []
        if tower is None:
            frame = adapter.prompt_prefix(batch.prefix, ())
            ids = chosen = torch.zeros(len(image), 0, dtype=torch.int64, device=adapter.device)
        else:
            blocks = tower.blocks if not tower.merged else (grid_block(1, tower.lowest.shape[1]),)
            frame = adapter.prompt_prefix(batch.prefix, blocks)
            if step is None or step.space == "llm":  # those of a merger in the tower's space are known once it has merged
                with watch.stage("projector"):
                    features = adapter.projected(tower) if shared is None else shared.projected
                features = features if together else features[image]
            ids = tower.lowest[image]
            chosen = torch.arange(ids.shape[1], device=ids.device).expand(len(image), -1)
            deep = [table[image] for table in tower.deep]
            if step is not None:
                with watch.stage("selection"):
                    signals = before_llm(adapter, batch, step, tower, features, image, together)
                    selection = step.select(signals.only(step.needs), min(step.keep, ids.shape[1]))
                if recorder is not None:
                    recorder.step(selection, ids, batch.image if together else torch.arange(len(image), device=ids.device))
                if selection.tokens is None:
                    chosen = selection.indices.sort(-1).values
                    features = features.gather(1, chosen[..., None].expand(-1, -1, features.shape[-1]))
                else:
                    with watch.stage("projector"):
                        features = selection.tokens if selection.space == "llm" else adapter.project(selection.tokens)
                    chosen = selection.indices
                deep = [_follow(table, chosen, selection) for table in deep]
                ids = ids.gather(1, chosen.clamp_min(0)).masked_fill(chosen < 0, -1)
        places = TokenPositions.of(frame, chosen.cpu())
        if walk.positions == "contiguous":
            places = places.contiguous()
        grouped: list[list[list[int]]] = [[] for _ in range(len(image))]
        for row, question in enumerate(batch.questions):
            grouped[int(batch.image[row]) if together else row].append(question)
        lengths = [[len(question) for question in group] for group in grouped]
        layout = build(places, lengths, adapter.device)
        tokens = torch.zeros(layout.segments.shape, dtype=torch.int64)
        tokens.scatter_(1, layout.prefix.cpu(), frame.text.expand(len(grouped), -1))
        tokens[layout.segments.cpu() > 0] = torch.tensor([token for group in grouped for question in group for token in question])
        hidden = adapter.embed(tokens.to(adapter.device))
        if features is not None:
            hidden = hidden.scatter(1, layout.visual[..., None].expand(-1, -1, hidden.shape[-1]), features.to(hidden.dtype))
        return PrefixCheckpoint(0, PrefillState(hidden, layout, ids, features, deep), ids[layout.group], None, [], None)

    def _prefill(
        self, batch, walk: CellPath, start: PrefixCheckpoint, watch, recorder, shared: SharedPrefill | None
    ) -> list[float]:
        """Run the decoder layers behind a stop; before those that have a step, tokens leave.

        Stops are left where other cells will go on from. Returns the counts that were present.
        """
        adapter, flow, counts, probe = self.adapter, start.flow, list(start.counts), start.probe
        inside = {step.site.layer: step for step in walk.steps if step.site.stage == 2}
        done = tuple(step for step in walk.steps if step.site.stage < 2 or step.site.layer < start.layer)
        notes = recorder
        if shared is not None and shared.record and notes is None:
            notes = Recorder(attention=True)
            if start.recorder is not None:
                notes.follow(start.recorder)
        if start.layer == 0:
            self._begin_phase(flow, 0)
        for index in range(start.layer, adapter.shape.layers + 1):
            here = prefix_key(walk.positions, done)
            if shared is not None and shared.wants(here, index):
                shared.keep(
                    here, PrefixCheckpoint(index, flow.fork(), start.entered, probe, list(counts), notes and notes.copy())
                )
            if index == adapter.shape.layers:
                break
            if index in inside:
                with watch.stage("selection"):
                    self._leave(flow, batch, inside[index], walk.positions, index, probe, notes)
                    self._begin_phase(flow, index)
                done = (*done, inside[index])
            ask = SignalRequest.of(inside.get(index + 1)) | SignalRequest(rows=int(notes is not None and notes.attention))
            if shared is not None:
                ask |= shared.ask(prefix_key(walk.positions, done), index + 1)
            probe = decoder_probe(flow.layout, ask)
            phase, kind = flow.phases[-1], adapter.kind(index).name
            mask, rotary = phase.masks[kind], phase.rotary[kind]
            flow.hidden = adapter.layer(index, flow.hidden, mask, flow.layout.positions, rotary, phase.store, probe)
            if index < len(flow.deep):
                columns = flow.layout.visual[..., None].expand(-1, -1, flow.hidden.shape[-1])
                flow.hidden = flow.hidden.scatter_add(1, columns, flow.deep[index].to(flow.hidden.dtype))
            counts.append(flow.ids.shape[1])
            if notes is not None:
                group = flow.layout.group
                notes.layer(probe.attention if probe is not None else None, flow.layout.visual[group], flow.ids[group])
        return counts

    def _begin_phase(self, flow: PrefillState, first: int) -> None:
        """From layer ``first`` on, sequences have the present layout."""
        flow.phases.append(LayerSpan.starting(self.adapter, first, flow.layout, flow.hidden))

    def _leave(
        self,
        flow: PrefillState,
        batch: Batch,
        step: Step,
        positions: PositionMode,
        index: int,
        probe: AttentionProbe | None,
        recorder: Recorder | None,
    ) -> None:
        """Apply a step inside the LLM; one that reads the question gives every row a sequence of its own."""
        layout = flow.layout
        seen = DecoderSignals(self.adapter, flow, batch, step, index, probe)
        apart = step.reads_text or len(layout.group) == len(layout.segments)
        if apart:
            origin = layout.group
            members = [(layout.lengths == length).nonzero()[:, 0] for length in torch.unique(layout.lengths).tolist()]
        else:  # one row stands for all of its image
            origin = torch.arange(len(layout.segments), device=layout.group.device)
            members = [torch.searchsorted(layout.group, origin)]
        chosen = []
        for member in members:
            signals = seen.signals(member, int(layout.lengths[member].min())).only(step.needs)
            made = step.select(signals, min(step.keep, flow.ids.shape[1]))
            chosen.append(made if made.tokens is not None else replace(made, indices=made.indices.sort(-1).values))
        where = members if apart else [origin]
        indices, tokens, carry, scores = (
            _together([getattr(made, name) for made in chosen], where, len(origin))
            for name in ("indices", "tokens", "carry", "scores")
        )
        if recorder is not None and scores is not None:
            ids = flow.ids[origin]
            row = torch.arange(len(origin), device=origin.device) if apart else layout.group
            recorder.step(Selection(indices, scores=scores), ids, row)
        self._regroup(flow, origin, apart, indices, tokens, step.positions or positions)
        flow.carry = carry

    def _regroup(self, flow: PrefillState, origin, apart: bool, indices, tokens, positions: PositionMode) -> None:
        """Sequences of the kept visual tokens: of one row each, or with all rows that they had.

        Args:
            origin: int64 [G'] the sequence that each comes from.
            apart: whether each row becomes a sequence.
            indices: int64 [G', K] into the visual tokens present.
            tokens: [G', K, D] in their place, or None.
        """
        layout, adapter = flow.layout, self.adapter
        ids = flow.ids[origin].gather(1, indices.clamp_min(0)).masked_fill(indices < 0, -1)
        visual = layout.visual[origin].gather(1, indices.clamp_min(0))
        places = layout.places.keep(origin.cpu(), indices.cpu())
        if positions == "contiguous":
            places = places.contiguous()
        lengths: list[list[int]] = [[] for _ in range(len(origin))]
        for row, (length, group) in enumerate(zip(layout.lengths.tolist(), layout.group.tolist(), strict=True)):
            lengths[row if apart else group].append(length)
        new = build(places, lengths, adapter.device)
        width = flow.hidden.shape[-1]
        hidden = torch.zeros(*new.segments.shape, width, dtype=flow.hidden.dtype, device=flow.hidden.device)
        sequence = torch.arange(len(origin), device=origin.device)
        moved = (
            (origin, layout.prefix[origin], sequence, new.prefix),
            (origin, visual, sequence, new.visual),
            (layout.group, layout.text, new.group, new.text),
        )
        for group, columns, new_group, new_columns in moved:
            hidden[new_group[:, None], new_columns] = flow.hidden[group[:, None], columns]
        if tokens is not None:
            hidden.scatter_(1, new.visual[..., None].expand(-1, -1, width), tokens.to(hidden.dtype))
        if flow.features is not None:
            flow.features = None  # later steps read the embeddings through ``carry``
        flow.deep = [_follow(table[origin], indices) for table in flow.deep]
        flow.hidden, flow.layout, flow.ids = hidden, new, ids


def _of_rows(step, rows: list[int]):
    """A step, or a function that makes steps, for some of the questions where it was made for all of them."""
    if not isinstance(step, Step):
        return step.of(rows) if hasattr(step, "of") else step
    return replace(step, select=step.select.of(rows)) if hasattr(step.select, "of") else step


def _follow(table: torch.Tensor, chosen: torch.Tensor, selection: Selection | None = None) -> torch.Tensor:
    """What a table of visual tokens [G, K, D] holds for those chosen, int64 [G, K'].

    A merged token has the mean of its sources where they are known, else what its own place has; one of no single place and
    no known source has nothing.
    """
    if selection is not None and selection.source is not None:
        weights = selection.source.to(table.dtype)
        return weights @ table / weights.sum(-1, keepdim=True).clamp_min(1)
    found = table.gather(1, chosen.clamp_min(0)[..., None].expand(-1, -1, table.shape[-1]))
    return found.masked_fill((chosen < 0)[..., None], 0)


def _together(parts: list[torch.Tensor | None], where: list[torch.Tensor], rows: int) -> torch.Tensor | None:
    """Tensors of some rows each as one of all rows, as wide as the widest."""
    if parts[0] is None:
        return None
    whole = parts[0].new_zeros(rows, max(part.shape[1] for part in parts), *parts[0].shape[2:])
    for part, member in zip(parts, where, strict=True):
        whole[member, : part.shape[1]] = part
    return whole
