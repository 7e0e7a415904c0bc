"""The pruned engine: image to answers, tokens physically removed on the way.

The story of a batch reads top to bottom in `Engine.run`: tower (tokens may merge inside its blocks),
projector (tokens may leave after it), decoder layers one by one (tokens may leave before any), greedy
decoding on a cache whose layers differ in length.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.engine.batch import Batch, EngineOutput, join
from harness.engine.cache_cuts import cut_caches
from harness.engine.decoder_input import enter_decoder
from harness.engine.decoder_signals import SignalRequest, decoder_probe
from harness.engine.decoding import LayerSpan, decode
from harness.engine.prefill_state import PrefillState
from harness.engine.pruning import prune_between_layers
from harness.engine.recorder import Recorder, merged
from harness.engine.request import EngineRequest, UniformPass, steps_of_rows
from harness.engine.sharing import CellPath, PrefixCheckpoint, SharedPrefill, prefix_key
from harness.engine.signals import GroupedVisionOutput, VisionOutput
from harness.engine.stopwatch import Stopwatch
from harness.engine.vision import encode_images
from harness.models.adapter import Adapter
from harness.models.probes import AttentionProbe
from harness.models.prompt import PixelBatch
from methods.types import BudgetError, Step, TowerRead


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
        loses none. Where a step decides its count itself, each image runs alone, and where it reads the question, each question.

        Raises:
            BudgetError: where this model cannot run such steps; the message is the reason.
            SampleError: of a strict engine, where logits are not finite.
        """
        steps = self._steps(request)
        groups = _groups(request.batch, steps, request.blind)
        if len(groups) > 1:
            return self._run_groups(groups, request)
        assert steps is not None, "images that are alike have one shape"
        if len(request.asked) > 1 and any(step.adaptive and step.reads_text for step in steps):
            return self._run_questions(request)
        reason = self.adapter.cannot(steps)
        if reason is not None:
            raise BudgetError(reason)
        stopwatch = request.stopwatch or Stopwatch()
        with stopwatch.stage("layout"):  # what is no stage of its own on the way to the first decoder layer
            uniform_pass, start = self._start(request, steps)
        state = start.state
        with stopwatch.stage("prefill"):
            counts = self._prefill(uniform_pass, start)
            if any(step.cuts_cache_from is not None for step in steps):
                with stopwatch.stage("selection"):
                    state.spans = cut_caches(self.adapter, state, steps)
            logits = self.adapter.logits(state.hidden[state.layout.group, state.layout.last])
        kv_bytes = sum(span.cache.bytes for span in state.spans)
        with stopwatch.stage("decode"):
            tokens, ended = decode(self.adapter, state.spans, logits, self.max_new_tokens, self.ends, self.strict)
        behind_first = (len(own) - (end is None) for own, end in zip(tokens, ended, strict=True))
        stopwatch.count("decode", max(1, max(behind_first, default=1)))
        vision, home, rows = uniform_pass.vision, uniform_pass.batch.image.device, len(state.layout.group)
        blocks = vision.tower_counts if vision is not None else ()
        return EngineOutput(
            tokens=tokens,
            first_logits=logits.to(home),
            kept=state.layout.of_rows(state.ids).to(home),
            entered=start.entered,
            grid=vision.full_grid if vision is not None else (0, 0),
            source=vision.source[uniform_pass.batch.image] if vision is not None and vision.merged else None,
            kv_bytes=kv_bytes,
            present=torch.full((rows,), state.ids.shape[1], device=home),
            ended=ended,
            layer_counts=torch.tensor(counts, dtype=torch.int64).expand(rows, -1),
            block_counts=torch.tensor(blocks, dtype=torch.int64).expand(rows, -1),
        )

    @torch.inference_mode()
    def encode_images(
        self,
        pixels: PixelBatch,
        steps: tuple[Step, ...] = (),
        stopwatch: Stopwatch | None = None,
        wanted: frozenset[TowerRead] = frozenset(),
    ) -> VisionOutput | GroupedVisionOutput:
        """Run the vision tower, tokens leaving where the steps say so, and gather signals.

        Args:
            pixels: images of B prompts.
            steps: of a method; what those behind the tower read in it is gathered too.
            stopwatch: takes the time of each stage.
            wanted: further signals to gather, and where.
        """
        return encode_images(self.adapter, pixels, steps, stopwatch or Stopwatch(), wanted)

    def _steps(self, request: EngineRequest) -> tuple[Step, ...] | None:
        """The steps of a request; None where they follow from shapes that differ between its images."""
        if not callable(request.steps):
            return request.steps
        if request.blind:
            return ()
        pixels = request.batch.pixels
        return request.steps(self.adapter.shape_for(pixels.spans[0])) if pixels.uniform else None

    def _run_groups(self, groups: list[list[int]], request: EngineRequest) -> EngineOutput:
        """Run groups of a batch's images one after the other, and put the outputs together."""
        batch, recorder, asked = request.batch, request.recorder, request.asked
        outputs: list[EngineOutput] = []
        recorders: list[Recorder] = []
        rows: list[list[int]] = []  # of every group, the indices of its questions among those that are asked
        for group in groups:
            about = batch.questions_about(group)
            here = [index for index, row in enumerate(asked) if row in about]
            if not here:
                continue
            with (request.stopwatch or Stopwatch()).stage("layout"):
                part, images = batch.rows(about)
            own = Recorder(recorder.attention) if recorder is not None else None
            outputs.append(
                self.run(
                    replace(
                        request,
                        batch=part,
                        steps=steps_of_rows(request.steps, here),
                        shared=None if request.shared is None else request.shared.part(images),
                        recorder=own,
                        rows=None if request.rows is None else [about.index(asked[index]) for index in here],
                    )
                )
            )
            rows.append(here)
            if own is not None:
                recorders.append(own)
        if recorder is not None:
            merged(recorder, recorders, rows)
        return join(outputs, rows)

    def _run_questions(self, request: EngineRequest) -> EngineOutput:
        """Run the questions of a batch one after the other, on what is known of their images, and put the outputs together."""
        outputs, recorder, shared = [], request.recorder, request.shared
        if shared is None and not request.blind:
            steps = self._steps(request)
            assert steps is not None, "images that are alike have one shape"
            watch = request.stopwatch or Stopwatch()
            shared = SharedPrefill(self.adapter, self.encode_images(request.batch.pixels, steps, watch))
        recorders = [None if recorder is None else Recorder(recorder.attention) for _ in request.asked]
        for place, (row, own) in enumerate(zip(request.asked, recorders, strict=True)):
            steps_here = steps_of_rows(request.steps, [place])
            outputs.append(self.run(replace(request, steps=steps_here, rows=[row], recorder=own, shared=shared)))
        rows = [[place] for place in range(len(outputs))]
        if recorder is not None:
            merged(recorder, [own for own in recorders if own is not None], rows)
        return join(outputs, rows)

    def _start(self, request: EngineRequest, steps: tuple[Step, ...]) -> tuple[UniformPass, PrefixCheckpoint]:
        """See the images, unless it is known what is in them, and go up to the decoder, or on from a checkpoint in it."""
        shared, stopwatch, recorder = request.shared, request.stopwatch or Stopwatch(), request.recorder
        path = CellPath(steps, request.positions)
        checkpoint = None if shared is None else shared.nearest(path)
        vision = None
        if not request.blind:
            seen = shared.vision if shared is not None else self.encode_images(request.batch.pixels, steps, stopwatch)
            assert isinstance(seen, VisionOutput), "images that are alike have one output"
            vision = seen
        share = request.share_questions and not self.adapter.spec.bidirectional_prompt
        uniform_pass = UniformPass(request.batch, path, vision, shared, share, stopwatch, recorder)
        if request.rows is not None:
            uniform_pass = uniform_pass.of_rows(request.rows, entered=checkpoint is not None)
        if checkpoint is None:
            return uniform_pass, enter_decoder(self.adapter, uniform_pass)
        if recorder is not None:
            assert checkpoint.recorder is not None, "cells that are recorded leave recorded checkpoints"
            recorder.follow(checkpoint.recorder)
        return uniform_pass, checkpoint.fork(request.rows)

    def _prefill(self, uniform_pass: UniformPass, start: PrefixCheckpoint) -> list[float]:
        """Run the decoder layers behind a checkpoint; before those that have a step, tokens leave.

        Checkpoints are left where other cells will go on from. Returns the visual tokens that were present in each layer.
        """
        adapter, path, shared = self.adapter, uniform_pass.path, uniform_pass.shared
        state, counts, probe = start.state, list(start.counts), start.probe
        inside = {step.site.layer: step for step in path.steps if step.site.stage == 2}
        done = tuple(step for step in path.steps if step.site.stage < 2 or step.site.layer < start.layer)
        recorder = uniform_pass.recorder
        if shared is not None and shared.record and recorder is None:
            recorder = Recorder(attention=True)
            if start.recorder is not None:
                recorder.follow(start.recorder)
        if recorder is not None:
            recorder.device = adapter.device
        devices = adapter.layer_devices
        if start.layer == 0:
            state.move(devices[0])
            self._begin_span(state, 0)
        for layer in range(start.layer, adapter.shape.layers + 1):
            key = prefix_key(path.positions, done)
            if layer == adapter.shape.layers:
                state.leave_span()
            if shared is not None and shared.wants(key, layer):
                noted = None if recorder is None else recorder.copy()
                shared.keep(key, PrefixCheckpoint(layer, state.fork(), start.entered, probe, list(counts), noted))
            if layer == adapter.shape.layers:
                break
            if moves := state.hidden.device != devices[layer]:
                state.move(devices[layer])
                probe = None if probe is None else probe.on(devices[layer])
            if layer in inside:
                with uniform_pass.stopwatch.stage("selection"):
                    prune_between_layers(adapter, replace(uniform_pass, recorder=recorder), state, inside[layer], layer, probe)
                    self._begin_span(state, layer)
                done = (*done, inside[layer])
            elif moves:
                state.link_unchanged()
                self._begin_span(state, layer)
            wanted = SignalRequest.of(inside.get(layer + 1))
            wanted |= SignalRequest(rows=int(recorder is not None and recorder.attention))
            if shared is not None:
                wanted |= shared.request(prefix_key(path.positions, done), layer + 1)
            probe = decoder_probe(state.layout, wanted)
            self._run_layer(state, layer, probe, wanted.inputs)
            counts.append(state.ids.shape[1])
            if recorder is not None:
                attention, layout = probe.attention if probe is not None else None, state.layout
                recorder.note_layer(attention, layout.of_rows(layout.visual), layout.of_rows(layout.ids))
        return counts

    def _begin_span(self, state: PrefillState, first_layer: int) -> None:
        """From a decoder layer on, sequences have the present layout."""
        state.leave_span()
        state.spans.append(LayerSpan.starting(self.adapter, first_layer, state.layout, state.hidden))

    def _run_layer(self, state: PrefillState, layer: int, probe: AttentionProbe | None, hold: bool) -> None:
        """Run one decoder layer, and add behind it what the tower has for the visual tokens; ``hold`` keeps its input."""
        state.inputs = state.hidden if hold else None
        span, kind = state.spans[-1], self.adapter.kind(layer).name
        mask, rotary = span.masks[kind], span.rotary[kind]
        state.hidden = self.adapter.layer(layer, state.hidden, mask, state.layout.positions, rotary, span.cache, probe)
        if layer < len(state.deepstack):
            columns = state.layout.visual[..., None].expand(-1, -1, state.hidden.shape[-1])
            state.hidden = state.hidden.scatter_add(1, columns, state.deepstack[layer].to(state.hidden.dtype))


def _groups(batch: Batch, steps: tuple[Step, ...] | None, blind: bool) -> list[list[int]]:
    """Images that run in one go: those alike, or each alone where a step decides its count from the image."""
    if steps is not None and any(step.adaptive for step in steps):
        return [[image] for image in range(len(batch.pixels))]
    return batch.groups(blind)
