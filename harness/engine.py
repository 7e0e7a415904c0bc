"""The pruned engine: image to answers, tokens physically removed on the way.

The story of a batch reads top to bottom in `Engine.run`: tower (tokens may merge inside its blocks),
projector (tokens may leave after it), decoder layers one by one (tokens may leave before any), greedy
decoding on a cache whose layers differ in length.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from harness.decoding import Phase, Store, decode
from harness.layout import Layout, build
from harness.models.hf import Adapter
from harness.probes import Probe
from harness.recorder import Recorder
from harness.signals import InsideLLM, Tower, before_llm, decoder_probe, of_tower, tower_probe, wanted_of_tower
from harness.stopwatch import Stopwatch
from methods.types import PositionMode, Signals, Step


@dataclass(frozen=True)
class Batch:
    """Images with their questions. Lists over questions are flat; ``image`` says whose they are."""

    pixels: torch.Tensor  # [B, 3, H, W]
    prefix: list[int]  # token ids before the image
    questions: list[list[int]]  # token ids of each question's instruction, R
    image: torch.Tensor  # int64 [R], rising
    image_seeds: torch.Tensor  # int64 [B]
    question_seeds: torch.Tensor  # int64 [R]
    evidence: torch.Tensor | None = None  # bool [R, N]; a row without evidence is all False
    text_embeds: torch.Tensor | None = None  # [R, M, C] of the questions in the joint space

    def rows(self, places: list[int]) -> tuple[Batch, torch.Tensor]:
        """Some of the questions, rising, with the images they ask about; also which images those are, int64 [B']."""
        images, image = self.image[places].unique(return_inverse=True)
        some = replace(
            self, pixels=self.pixels[images], questions=[self.questions[i] for i in places], image=image,
            image_seeds=self.image_seeds[images], question_seeds=self.question_seeds[places],
            evidence=None if self.evidence is None else self.evidence[places],
            text_embeds=None if self.text_embeds is None else self.text_embeds[places],
        )  # fmt: skip
        return some, images

    def reseeded(self, image_seeds: torch.Tensor, question_seeds: torch.Tensor) -> Batch:
        """The same batch with other random streams."""
        return replace(self, image_seeds=image_seeds, question_seeds=question_seeds)


@dataclass(frozen=True)
class Output:
    """Answers and traces of a batch; R rows."""

    tokens: list[list[int]]  # answer token ids, end token left out
    first_logits: torch.Tensor  # [R, vocabulary] of the first answer token, float32
    kept: torch.Tensor  # int64 [R, K] original tokens present in the last layer, -1 of no single place
    kept_before: torch.Tensor  # int64 [R, K0] original tokens that entered the LLM
    grid: tuple[int, int]  # of the original tokens
    source: torch.Tensor | None = None  # int64 [R, N0] for towers that merged: where each token went
    kv_bytes: int = 0  # of all caches after prefill
    counts: tuple[int, ...] = ()  # visual tokens that were present in each LLM layer
    present: torch.Tensor | None = None  # int64 [R] visual tokens in the last layer, those of no single place included


@dataclass
class Flow:
    """The batch on its way through the decoder."""

    hidden: torch.Tensor  # [G, L, D]
    layout: Layout
    ids: torch.Tensor  # int64 [G, K] original token of each visual token
    features: torch.Tensor | None  # [G, K, D] projected, of those present
    carry: torch.Tensor | None = None
    phases: list[Phase] = field(default_factory=list)


class Engine:
    """Runs methods on one model.

    Args:
        adapter: the model.
        max_new_tokens: answer tokens at most.
    """

    def __init__(self, adapter: Adapter, max_new_tokens: int = 16) -> None:
        self.adapter, self.max_new_tokens = adapter, max_new_tokens

    @torch.inference_mode()
    def run(
        self,
        batch: Batch,
        steps: tuple[Step, ...] = (),
        positions: PositionMode = "original",
        tower: Tower | None = None,
        blind: bool = False,
        share: bool = True,
        watch: Stopwatch | None = None,
        recorder: Recorder | None = None,
    ) -> Output:
        """Answer the questions of a batch under a method's steps.

        Args:
            batch: images and questions.
            steps: where tokens leave.
            positions: whether tokens keep their original positions or are renumbered.
            tower: the tower's output, where it is known already (from `see`).
            blind: leave the image out.
            share: compute what the questions of one image share only once.
            watch: takes the time of each stage.
            recorder: notes tokens, attention and scores; not of adaptive methods on several images.
        """
        watch = watch or Stopwatch()
        if len(batch.pixels) > 1 and any(step.adaptive for step in steps):
            each = [batch.rows((batch.image == i).nonzero()[:, 0].tolist()) for i in range(len(batch.pixels))]
            seen = [None if tower is None else tower.images(images) for _, images in each]
            return join(
                [self.run(one, steps, positions, own, blind, share, watch) for (one, _), own in zip(each, seen, strict=True)]
            )
        if not blind and tower is None:
            tower = self.see(batch.pixels, steps, watch)
        flow, entered = self._enter(batch, steps, positions, tower, share, watch, recorder)
        with watch.stage("prefill"):
            counts = self._prefill(flow, batch, steps, positions, watch, recorder)
            last = flow.hidden[flow.layout.group, flow.layout.last]
            logits = self.adapter.logits(last)
        kv_bytes = sum(phase.store.bytes for phase in flow.phases)
        with watch.stage("decode"):
            tokens = decode(self.adapter, flow.phases, logits, self.max_new_tokens)
        watch.count("decode", max(1, max(map(len, tokens), default=1)))
        place = flow.layout.group
        full = tower.full_grid if tower is not None else (0, 0)
        source = tower.source[batch.image] if tower is not None and tower.merged else None
        present = torch.full((len(place),), flow.ids.shape[1], device=place.device)
        return Output(tokens, logits, flow.ids[place], entered, full, source, kv_bytes, counts, present)

    @torch.inference_mode()
    def see(
        self,
        pixels: torch.Tensor,
        steps: tuple[Step, ...] = (),
        watch: Stopwatch | None = None,
        wanted: frozenset[str] = frozenset(),
    ) -> Tower:
        """Run the tower's blocks, merging where the steps say so, and gather the signals that they or ``wanted`` name."""
        watch, adapter = watch or Stopwatch(), self.adapter
        inside = {step.site.layer: step for step in steps if step.site.stage == 0}
        wanted = wanted | wanted_of_tower(step for step in steps if step.site.stage == 1)
        with watch.stage("vision"):
            hidden = adapter.enter_tower(pixels)
            cls, count = int(adapter.shape.has_cls), hidden.shape[1] - int(adapter.shape.has_cls)
            patch = adapter.shape.patch
            grid = (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
            source = torch.arange(count, device=hidden.device).expand(len(pixels), -1)
            lowest, sizes, bias = source, torch.ones(source.shape, dtype=hidden.dtype, device=hidden.device), None
            for index, block in enumerate(adapter.blocks):
                step = inside.get(index)
                probe = Probe(keys=True) if step is not None else None
                if index == len(adapter.blocks) - 1 and step is None:
                    probe = tower_probe(wanted, len(pixels), hidden.device)
                hidden = block.attend(hidden, bias, probe)
                if step is not None:
                    with watch.stage("selection"):
                        keys = probe.key_states.mean(1)[:, cls:]
                        signals = Signals(
                            vision_features=hidden[:, cls:], vision_keys=keys, sizes=sizes, count=keys.shape[1],
                            batch=len(keys), device=keys.device,
                        )  # fmt: skip
                        chosen = step.select(signals.only(step.needs), step.keep)
                    assert chosen.tokens is not None, "a step inside the tower must merge"
                    hidden = torch.cat([hidden[:, :cls], chosen.tokens], dim=1)
                    sizes = chosen.sizes
                    source = chosen.source.long().argmax(1).gather(1, source)
                    lowest = lowest.gather(1, chosen.indices)
                    padded = torch.cat([sizes.new_ones(len(sizes), cls), sizes], dim=1)
                    bias = padded.log()[:, None, None, :].expand(-1, 1, hidden.shape[1], -1)
                hidden = block.transform(hidden)
            with watch.stage("selection"):
                found = of_tower(adapter, wanted, hidden, probe)
        return Tower(hidden[:, cls:], source, lowest, bool(inside), None if inside else grid, grid, found)

    def _enter(self, batch, steps, positions, tower, share, watch, recorder=None) -> tuple[Flow, torch.Tensor]:
        """Project, prune before the LLM, and lay out the sequences. Also the original tokens that enter, by row."""
        adapter = self.adapter
        step = next((s for s in steps if s.site.stage == 1), None)
        together = share and not (step is not None and step.reads_text)
        image = torch.arange(len(batch.pixels), device=batch.image.device) if together else batch.image
        prefix = len(batch.prefix)
        if tower is None:
            ids = torch.zeros(len(image), 0, dtype=torch.int64, device=adapter.device)
            features, places, span = None, None, 0
        else:
            features = None  # of a merger in the tower's space, known once it has merged
            if step is None or step.space == "llm":
                with watch.stage("projector"):
                    features = adapter.project(tower.features)[image]
            ids = tower.lowest[image]
            span = ids.shape[1]
            places = torch.arange(span, device=ids.device).expand(len(image), -1)
            if step is not None:
                with watch.stage("selection"):
                    signals = before_llm(adapter, batch, step, tower, features, image, together)
                    chosen = step.select(signals.only(step.needs), step.keep)
                if recorder is not None and chosen.scores is not None:
                    row = batch.image if together else torch.arange(len(image), device=ids.device)
                    recorder.step(chosen.scores[row], ids[row])
                if chosen.tokens is None:
                    places = chosen.indices.sort(-1).values
                    features = features.gather(1, places[..., None].expand(-1, -1, features.shape[-1]))
                    ids = ids.gather(1, places)
                else:
                    with watch.stage("projector"):
                        features = chosen.tokens if chosen.space == "llm" else adapter.project(chosen.tokens)
                    ids = ids.gather(1, chosen.indices.clamp_min(0)).masked_fill(chosen.indices < 0, -1)
                    places = chosen.indices.clamp_min(0)
            if positions == "contiguous":
                span = features.shape[1]
                places = torch.arange(span, device=ids.device).expand(len(image), -1)
        grouped: list[list[list[int]]] = [[] for _ in range(len(image))]
        for row, question in enumerate(batch.questions):
            grouped[int(batch.image[row]) if together else row].append(question)
        lengths = [[len(question) for question in group] for group in grouped]
        layout = build(prefix, ids.shape[1], places, prefix + span, lengths, adapter.device)
        tokens = torch.zeros(layout.segments.shape, dtype=torch.int64)
        tokens.scatter_(1, layout.prefix.cpu(), torch.tensor(batch.prefix).expand(len(grouped), -1))
        for place, group in enumerate(grouped):
            joined = [token for question in group for token in question]
            tokens[place, tokens.shape[1] - len(joined) :] = torch.tensor(joined)
        hidden = adapter.embed(tokens.to(adapter.device))
        if features is not None:
            hidden = hidden.scatter(1, layout.visual[..., None].expand(-1, -1, hidden.shape[-1]), features.to(hidden.dtype))
        flow = Flow(hidden, layout, ids, features)
        return flow, ids[layout.group]

    def _prefill(self, flow: Flow, batch, steps, positions, watch, recorder) -> tuple[int, ...]:
        """Run the decoder layers; before those that have a step, tokens leave. Returns the counts that were present."""
        adapter = self.adapter
        inside = {step.site.layer: step for step in steps if step.site.stage == 2}
        counts = []
        self._begin_phase(flow, 0)
        probe = None
        for index in range(adapter.shape.layers):
            if index in inside:
                with watch.stage("selection"):
                    self._leave(flow, batch, inside[index], positions, index, probe, recorder)
                    self._begin_phase(flow, index)
            ahead = inside.get(index + 1)
            probe = decoder_probe(flow.layout, ahead, recorder is not None and recorder.attention)
            phase = flow.phases[-1]
            flow.hidden = adapter.layer(index, flow.hidden, phase.mask, flow.layout.positions, phase.rotary, phase.store, probe)
            counts.append(flow.ids.shape[1])
            if recorder is not None:
                group = flow.layout.group
                recorder.layer(probe.attention if probe is not None else None, flow.layout.visual[group], flow.ids[group])
        return tuple(counts)

    def _begin_phase(self, flow: Flow, first: int) -> None:
        """From layer ``first`` on, sequences have the present layout."""
        rotary = self.adapter.rotary(flow.hidden, flow.layout.positions)
        flow.phases.append(Phase(first, flow.layout, flow.layout.mask(), rotary, Store(first)))

    def _leave(
        self,
        flow: Flow,
        batch: Batch,
        step: Step,
        positions: PositionMode,
        index: int,
        probe: Probe | None,
        recorder: Recorder | None,
    ) -> None:
        """Apply a step inside the LLM: every row gets a sequence of its own, of the tokens it keeps."""
        layout = flow.layout
        rows, seen = len(layout.group), InsideLLM(self.adapter, flow, batch, step, index, probe)
        indices = tokens = None
        carry: torch.Tensor | None = None
        scores: torch.Tensor | None = None
        for length in torch.unique(layout.lengths).tolist():
            member = (layout.lengths == length).nonzero()[:, 0]
            chosen = step.select(seen.signals(member, length).only(step.needs), step.keep)
            if chosen.tokens is None:
                chosen = replace(chosen, indices=chosen.indices.sort(-1).values)
            if indices is None:
                indices = torch.zeros(rows, chosen.indices.shape[1], dtype=torch.int64, device=layout.group.device)
            indices[member] = chosen.indices
            tokens = _place(tokens, chosen.tokens, member, rows)
            carry = _place(carry, chosen.carry, member, rows)
            scores = _place(scores, chosen.scores, member, rows)
        if recorder is not None:
            recorder.step(scores, flow.ids[layout.group])
        self._regroup(flow, indices, tokens, step.positions or positions)
        flow.carry = carry

    def _regroup(self, flow: Flow, indices, tokens, positions: PositionMode) -> None:
        """Rows become sequences: prefix, the kept visual tokens, the row's own question."""
        layout, adapter = flow.layout, self.adapter
        group, prefix = layout.group, layout.prefix.shape[1]
        known = indices.clamp_min(0)
        nowhere = indices < 0
        ids = flow.ids[group].gather(1, known).masked_fill(nowhere, -1)
        visual = layout.visual[group].gather(1, known)
        if positions == "contiguous":
            places, after = None, prefix + indices.shape[1]
        else:
            old = layout.positions[group].gather(1, visual) - prefix
            after = int(layout.positions[group[0], layout.text[0, 0]])
            places = torch.where(nowhere, after - prefix - 1, old)
        new = build(prefix, indices.shape[1], places, after, [[n] for n in layout.lengths.tolist()], adapter.device)
        width = flow.hidden.shape[-1]
        hidden = torch.zeros(*new.segments.shape, width, dtype=flow.hidden.dtype, device=flow.hidden.device)
        before = flow.hidden[group]
        for old_columns, new_columns in ((layout.prefix[group], new.prefix), (visual, new.visual), (layout.text, new.text)):
            old_columns, new_columns = old_columns[..., None].expand(-1, -1, width), new_columns[..., None].expand(-1, -1, width)
            hidden.scatter_(1, new_columns, before.gather(1, old_columns))
        if tokens is not None:
            hidden.scatter_(1, new.visual[..., None].expand(-1, -1, width), tokens.to(hidden.dtype))
        if flow.features is not None:
            flow.features = None  # later steps read the embeddings through ``carry``
        flow.hidden, flow.layout, flow.ids = hidden, new, ids


def join(outputs: list[Output]) -> Output:
    """The outputs of several batches as one; rows that kept fewer tokens are filled with -1."""

    def padded(name: str) -> torch.Tensor:
        tensors = [getattr(output, name) for output in outputs]
        widest = max(tensor.shape[1] for tensor in tensors)
        return torch.cat([torch.nn.functional.pad(t, (0, widest - t.shape[1]), value=-1) for t in tensors])

    return Output(
        [answer for output in outputs for answer in output.tokens], torch.cat([output.first_logits for output in outputs]),
        padded("kept"), padded("kept_before"), outputs[0].grid, None,
        sum(output.kv_bytes for output in outputs), outputs[0].counts,
        torch.cat([output.present for output in outputs]),
    )  # fmt: skip


def _place(whole: torch.Tensor | None, part: torch.Tensor | None, member: torch.Tensor, rows: int) -> torch.Tensor | None:
    """Write the rows of one group into the tensor of all rows, widening it where groups differ in width."""
    if part is None:
        return whole
    if whole is None:
        whole = part.new_zeros(rows, *part.shape[1:])
    elif part.shape[1] > whole.shape[1]:
        wider = whole.new_zeros(rows, *part.shape[1:])
        wider[:, : whole.shape[1]] = whole
        whole = wider
    whole[member, : part.shape[1]] = part
    return whole
