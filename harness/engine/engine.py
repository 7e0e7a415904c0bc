"""The pruned engine: image to answers, tokens physically removed on the way.

The story of a batch reads top to bottom in `Engine.run`: tower (tokens may merge inside its blocks),
projector (tokens may leave after it), decoder layers one by one (tokens may leave before any), greedy
decoding on a cache whose layers differ in length.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.engine.batch import Batch, EngineOutput, join
from harness.engine.decoding import LayerSpan, decode
from harness.engine.layout import TokenPositions, build
from harness.engine.prefill_state import PrefillState
from harness.engine.recorder import Recorder, merged
from harness.engine.request import EngineRequest
from harness.engine.sharing import CellPath, PrefixCheckpoint, SharedPrefill, prefix_key
from harness.engine.signals import DecoderSignals, GroupedVisionOutput, SignalRequest, VisionOutput, before_llm, decoder_probe
from harness.engine.stopwatch import Stopwatch
from harness.engine.vision import encode_images
from harness.models.adapter import Adapter
from harness.models.probes import AttentionProbe
from harness.models.prompt import PixelBatch, grid_block
from methods.types import BudgetError, PositionMode, Selection, Step


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
    def run(self, request: EngineRequest) -> EngineOutput:
        """Answer the questions of a batch under a method's steps.

        Images that put different tokens into the prompt run group by group; an image with fewer tokens than a step keeps
        loses none.

        Raises:
            BudgetError: where this model cannot run such steps; the message is the reason.
            SampleError: of a strict engine, where logits are not finite.
        """
        watch, batch, shared, recorder = request.watch or Stopwatch(), request.batch, request.shared, request.recorder
        fixed = request.steps if not callable(request.steps) else () if request.blind else None
        if callable(request.steps) and not request.blind and batch.pixels.even:
            fixed = request.steps(self.adapter.shape_for(batch.pixels.blocks[0]))
        parts = self._parts(batch, fixed, request.blind)
        if len(parts) > 1:
            return self._run_parts(parts, request)
        assert fixed is not None, "images that are alike have one shape"
        reason = self.adapter.cannot(fixed)
        if reason is not None:
            raise BudgetError(reason)
        path = CellPath(fixed, request.positions)
        checkpoint = None if shared is None else shared.nearest(path)
        vision = None
        if not request.blind:
            vision = shared.vision if shared is not None else self.encode_images(batch.pixels, fixed, watch)
        rows = request.rows
        if rows is not None:  # what they go by is of no use to others
            batch, images = batch.rows(rows)
            shared = None
        if checkpoint is None:
            if rows is not None and vision is not None:
                vision = vision.images(images)
            start = self._enter(batch, path, vision, shared, request.share, watch, recorder)
        else:
            start = checkpoint.fork(rows)
            if recorder is not None:
                recorder.follow(checkpoint.recorder)
        state = start.state
        with watch.stage("prefill"):
            counts = self._prefill(batch, path, start, watch, recorder, shared)
            last = state.hidden[state.layout.group, state.layout.last]
            logits = self.adapter.logits(last)
        kv_bytes = sum(span.cache.bytes for span in state.spans)
        with watch.stage("decode"):
            tokens, ended = decode(self.adapter, state.spans, logits, self.max_new_tokens, self.ends, self.strict)
        watch.count("decode", max(1, max(map(len, tokens), default=1)))
        place = state.layout.group
        full = vision.full_grid if vision is not None else (0, 0)
        source = vision.source[batch.image] if vision is not None and vision.merged else None
        present = torch.full((len(place),), state.ids.shape[1], device=place.device)
        return EngineOutput(
            tokens, logits, state.ids[place], start.entered, full, source, kv_bytes, tuple(counts), present, ended
        )

    @staticmethod
    def _parts(batch: Batch, steps: tuple[Step, ...] | None, blind: bool) -> list[list[int]]:
        """Images that run in one go: those alike, or each alone where a step decides its count from the image."""
        if steps is not None and any(step.adaptive for step in steps):
            return [[image] for image in range(len(batch.pixels))]
        if blind or batch.pixels.even:
            return [list(range(len(batch.pixels)))]
        return batch.pixels.groups()

    def _run_parts(self, parts: list[list[int]], request: EngineRequest) -> EngineOutput:
        """Run groups of a batch's images one after the other, and put the outputs together."""
        batch, steps, recorder = request.batch, request.steps, request.recorder
        outputs, recorders, places = [], [], []  # places of the answered among all that are asked for
        asked = list(range(len(batch.questions))) if request.rows is None else request.rows
        for group in parts:
            whole = batch.questions_about(group)
            here = [place for place, row in enumerate(asked) if row in whole]
            if not here:
                continue
            part, images = batch.rows(whole)
            own = replace(
                request,
                batch=part,
                steps=_of_rows(steps, here) if callable(steps) else tuple(_of_rows(step, here) for step in steps),
                shared=None if request.shared is None else request.shared.part(images),
                recorder=None if recorder is None else Recorder(recorder.attention),
                rows=None if request.rows is None else [whole.index(asked[place]) for place in here],
            )
            outputs.append(self.run(own))
            recorders.append(own.recorder)
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
        """Run the vision tower, merging where the steps say so, and gather the signals that they or ``wanted`` name."""
        return encode_images(self.adapter, pixels, steps, watch or Stopwatch(), wanted)

    def _enter(self, batch, path: CellPath, vision, shared, share, watch, recorder=None) -> PrefixCheckpoint:
        """Project, prune before the LLM, and lay out the sequences before the first layer."""
        adapter = self.adapter
        step = next((s for s in path.steps if s.site.stage == 1), None)
        together = share and not (step is not None and step.reads_text)
        image = torch.arange(len(batch.pixels), device=batch.image.device) if together else batch.image
        features, deep = None, []
        if vision is None:
            frame = adapter.prompt_prefix(batch.prefix, ())
            ids = chosen = torch.zeros(len(image), 0, dtype=torch.int64, device=adapter.device)
        else:
            blocks = vision.blocks if not vision.merged else (grid_block(1, vision.lowest.shape[1]),)
            frame = adapter.prompt_prefix(batch.prefix, blocks)
            if step is None or step.space == "llm":  # those of a merger in the tower's space are known once it has merged
                with watch.stage("projector"):
                    features = adapter.projected(vision) if shared is None else shared.projected
                features = features if together else features[image]
            ids = vision.lowest[image]
            chosen = torch.arange(ids.shape[1], device=ids.device).expand(len(image), -1)
            deep = [table[image] for table in vision.deep]
            if step is not None:
                with watch.stage("selection"):
                    signals = before_llm(adapter, batch, step, vision, features, image, together)
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
        if path.positions == "contiguous":
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
        self, batch, path: CellPath, start: PrefixCheckpoint, watch, recorder, shared: SharedPrefill | None
    ) -> list[float]:
        """Run the decoder layers behind a checkpoint; before those that have a step, tokens leave.

        Stops are left where other cells will go on from. Returns the counts that were present.
        """
        adapter, state, counts, probe = self.adapter, start.state, list(start.counts), start.probe
        inside = {step.site.layer: step for step in path.steps if step.site.stage == 2}
        done = tuple(step for step in path.steps if step.site.stage < 2 or step.site.layer < start.layer)
        notes = recorder
        if shared is not None and shared.record and notes is None:
            notes = Recorder(attention=True)
            if start.recorder is not None:
                notes.follow(start.recorder)
        if start.layer == 0:
            self._begin_span(state, 0)
        for index in range(start.layer, adapter.shape.layers + 1):
            here = prefix_key(path.positions, done)
            if shared is not None and shared.wants(here, index):
                shared.keep(
                    here, PrefixCheckpoint(index, state.fork(), start.entered, probe, list(counts), notes and notes.copy())
                )
            if index == adapter.shape.layers:
                break
            if index in inside:
                with watch.stage("selection"):
                    self._leave(state, batch, inside[index], path.positions, index, probe, notes)
                    self._begin_span(state, index)
                done = (*done, inside[index])
            wanted = SignalRequest.of(inside.get(index + 1)) | SignalRequest(rows=int(notes is not None and notes.attention))
            if shared is not None:
                wanted |= shared.request(prefix_key(path.positions, done), index + 1)
            probe = decoder_probe(state.layout, wanted)
            span, kind = state.spans[-1], adapter.kind(index).name
            mask, rotary = span.masks[kind], span.rotary[kind]
            state.hidden = adapter.layer(index, state.hidden, mask, state.layout.positions, rotary, span.cache, probe)
            if index < len(state.deep):
                columns = state.layout.visual[..., None].expand(-1, -1, state.hidden.shape[-1])
                state.hidden = state.hidden.scatter_add(1, columns, state.deep[index].to(state.hidden.dtype))
            counts.append(state.ids.shape[1])
            if notes is not None:
                group = state.layout.group
                notes.layer(probe.attention if probe is not None else None, state.layout.visual[group], state.ids[group])
        return counts

    def _begin_span(self, state: PrefillState, first: int) -> None:
        """From layer ``first`` on, sequences have the present layout."""
        state.spans.append(LayerSpan.starting(self.adapter, first, state.layout, state.hidden))

    def _leave(
        self,
        state: PrefillState,
        batch: Batch,
        step: Step,
        positions: PositionMode,
        index: int,
        probe: AttentionProbe | None,
        recorder: Recorder | None,
    ) -> None:
        """Apply a step inside the LLM; one that reads the question gives every row a sequence of its own."""
        layout = state.layout
        seen = DecoderSignals(self.adapter, state, batch, step, index, probe)
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
            made = step.select(signals, min(step.keep, state.ids.shape[1]))
            chosen.append(made if made.tokens is not None else replace(made, indices=made.indices.sort(-1).values))
        where = members if apart else [origin]
        indices, tokens, carry, scores = (
            _together([getattr(made, name) for made in chosen], where, len(origin))
            for name in ("indices", "tokens", "carry", "scores")
        )
        if recorder is not None and scores is not None:
            ids = state.ids[origin]
            row = torch.arange(len(origin), device=origin.device) if apart else layout.group
            recorder.step(Selection(indices, scores=scores), ids, row)
        self._regroup(state, origin, apart, indices, tokens, step.positions or positions)
        state.carry = carry

    def _regroup(self, state: PrefillState, origin, apart: bool, indices, tokens, positions: PositionMode) -> None:
        """Sequences of the kept visual tokens: of one row each, or with all rows that they had.

        Args:
            origin: int64 [G'] the sequence that each comes from.
            apart: whether each row becomes a sequence.
            indices: int64 [G', K] into the visual tokens present.
            tokens: [G', K, D] in their place, or None.
        """
        layout, adapter = state.layout, self.adapter
        ids = state.ids[origin].gather(1, indices.clamp_min(0)).masked_fill(indices < 0, -1)
        visual = layout.visual[origin].gather(1, indices.clamp_min(0))
        places = layout.places.keep(origin.cpu(), indices.cpu())
        if positions == "contiguous":
            places = places.contiguous()
        lengths: list[list[int]] = [[] for _ in range(len(origin))]
        for row, (length, group) in enumerate(zip(layout.lengths.tolist(), layout.group.tolist(), strict=True)):
            lengths[row if apart else group].append(length)
        new = build(places, lengths, adapter.device)
        width = state.hidden.shape[-1]
        hidden = torch.zeros(*new.segments.shape, width, dtype=state.hidden.dtype, device=state.hidden.device)
        sequence = torch.arange(len(origin), device=origin.device)
        moved = (
            (origin, layout.prefix[origin], sequence, new.prefix),
            (origin, visual, sequence, new.visual),
            (layout.group, layout.text, new.group, new.text),
        )
        for group, columns, new_group, new_columns in moved:
            hidden[new_group[:, None], new_columns] = state.hidden[group[:, None], columns]
        if tokens is not None:
            hidden.scatter_(1, new.visual[..., None].expand(-1, -1, width), tokens.to(hidden.dtype))
        if state.features is not None:
            state.features = None  # later steps read the embeddings through ``carry``
        state.deep = [_follow(table[origin], indices) for table in state.deep]
        state.hidden, state.layout, state.ids = hidden, new, ids


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
