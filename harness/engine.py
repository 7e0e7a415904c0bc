"""The pruned engine: image to answers, tokens physically removed on the way.

The story of a batch reads top to bottom in `Engine.run`: tower (tokens may merge inside its blocks),
projector (tokens may leave after it), decoder layers one by one (tokens may leave before any), greedy
decoding on a cache whose layers differ in length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from harness.batch import Batch, Output, join
from harness.decoding import Phase, decode
from harness.layout import Layout, Places, build
from harness.models.adapter import Adapter
from harness.models.frames import Views, grid_block
from harness.probes import Probe
from harness.recorder import Recorder, merged
from harness.signals import (
    InsideLLM,
    Tower,
    Towers,
    before_llm,
    decoder_probe,
    of_closed_tower,
    of_tower,
    tower_probe,
    wanted_of_tower,
)
from harness.stopwatch import Stopwatch
from methods.types import BudgetError, ModelShape, PositionMode, Selection, Signals, Step

Steps = tuple[Step, ...] | Callable[[ModelShape], tuple[Step, ...]]
"""A method's steps, or how they follow from the shape that an image's tokens have."""


@dataclass
class Flow:
    """The batch on its way through the decoder."""

    hidden: torch.Tensor  # [G, L, D]
    layout: Layout
    ids: torch.Tensor  # int64 [G, K] original token of each visual token
    features: torch.Tensor | None  # [G, K, D] projected, of those present
    deep: list[torch.Tensor]  # [G, K, D] each, to be added to those present behind the first layers
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
        steps: Steps = (),
        positions: PositionMode = "original",
        tower: Tower | Towers | None = None,
        blind: bool = False,
        share: bool = True,
        watch: Stopwatch | None = None,
        recorder: Recorder | None = None,
    ) -> Output:
        """Answer the questions of a batch under a method's steps.

        Images that put different tokens into the prompt run group by group; an image with fewer tokens than a step keeps
        loses none.

        Args:
            batch: images and questions.
            steps: where tokens leave; a function of the shape is asked once for every group.
            positions: whether tokens keep their original positions or are renumbered.
            tower: the tower's output, where it is known already (from `see`).
            blind: leave the image out.
            share: compute what the questions of one image share only once.
            watch: takes the time of each stage.
            recorder: notes tokens, attention and scores.

        Raises:
            BudgetError: where this model cannot run such steps; the message is the reason.
        """
        watch = watch or Stopwatch()
        fixed = steps if not callable(steps) else () if blind else None
        if callable(steps) and not blind and batch.pixels.even:
            fixed = steps(self.adapter.shape_for(batch.pixels.blocks[0]))
        parts = self._parts(batch, fixed, blind)
        if len(parts) > 1:
            return self._apart(parts, batch, steps, positions, tower, blind, share, watch, recorder)
        reason = self.adapter.cannot(fixed)
        if reason is not None:
            raise BudgetError(reason)
        if not blind and tower is None:
            tower = self.see(batch.pixels, fixed, watch)
        flow, entered = self._enter(batch, fixed, positions, tower, share, watch, recorder)
        with watch.stage("prefill"):
            counts = self._prefill(flow, batch, fixed, positions, watch, recorder)
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

    @staticmethod
    def _parts(batch: Batch, steps: tuple[Step, ...] | None, blind: bool) -> list[list[int]]:
        """Images that run in one go: those alike, or each alone where a step decides its count from the image."""
        if steps is not None and any(step.adaptive for step in steps):
            return [[image] for image in range(len(batch.pixels))]
        if blind or batch.pixels.even:
            return [list(range(len(batch.pixels)))]
        return batch.pixels.groups()

    def _apart(self, parts, batch, steps, positions, tower, blind, share, watch, recorder) -> Output:
        """Run parts of a batch one after the other."""
        outputs, recorders, rows = [], [], [batch.questions_about(images) for images in parts]
        for places in rows:
            part, images = batch.rows(places)
            own = None if tower is None else tower.images(images)
            given = _of_rows(steps, places) if callable(steps) else tuple(_of_rows(step, places) for step in steps)
            recorders.append(None if recorder is None else Recorder(recorder.attention))
            outputs.append(self.run(part, given, positions, own, blind, share, watch, recorders[-1]))
        if recorder is not None:
            merged(recorder, recorders, rows)
        return join(outputs, rows)

    @torch.inference_mode()
    def see(
        self,
        pixels: Views,
        steps: tuple[Step, ...] = (),
        watch: Stopwatch | None = None,
        wanted: frozenset[str] = frozenset(),
    ) -> Tower | Towers:
        """Run the tower, merging in its blocks where the steps say so, and gather the signals that they or ``wanted`` name."""
        watch, adapter = watch or Stopwatch(), self.adapter
        if not pixels.even:
            groups = pixels.groups()
            return Towers(tuple(self.see(pixels[group], steps, watch, wanted) for group in groups), tuple(groups))
        wanted = wanted | wanted_of_tower(step for step in steps if step.site.stage == 1)
        if adapter.open_tower is None:
            return self._see_whole(pixels, watch, wanted)
        inside = {step.site.layer: step for step in steps if step.site.stage == 0}
        with watch.stage("vision"):
            hidden = adapter.enter_tower(pixels.stack())
            cls, count = int(adapter.shape.has_cls), hidden.shape[1] - int(adapter.shape.has_cls)
            source = torch.arange(count, device=hidden.device).expand(len(hidden), -1)
            lowest, sizes, bias = source, torch.ones(source.shape, dtype=hidden.dtype, device=hidden.device), None
            for index, block in enumerate(adapter.blocks):
                step = inside.get(index)
                probe = Probe(keys=True) if step is not None else None
                if index == len(adapter.blocks) - 1 and step is None:
                    probe = tower_probe(wanted, len(hidden), hidden.device)
                hidden = block.attend(hidden, bias, probe)
                if step is not None:
                    with watch.stage("selection"):
                        keys = probe.key_states.mean(1)[:, cls:]
                        signals = Signals(
                            vision_features=hidden[:, cls:], vision_keys=keys, sizes=sizes, count=keys.shape[1],
                            batch=len(keys), device=keys.device,
                        )  # fmt: skip
                        chosen = step.select(signals.only(step.needs), min(step.keep, keys.shape[1]))
                    assert chosen.tokens is not None, "a step inside the tower must merge"
                    hidden = torch.cat([hidden[:, :cls], chosen.tokens], dim=1)
                    sizes = chosen.sizes
                    source = chosen.source.long().argmax(1).gather(1, source)
                    lowest = lowest.gather(1, chosen.indices)
                    padded = torch.cat([sizes.new_ones(len(sizes), cls), sizes], dim=1)
                    bias = padded.log()[:, None, None, :].expand(-1, 1, hidden.shape[1], -1)
                hidden = block.transform(hidden)
            states = adapter.open_tower.leave(hidden)[:, cls:]
            with watch.stage("selection"):
                found = of_tower(adapter, wanted, hidden, probe, pixels.blocks[0])
        if inside:
            grid = pixels.blocks[0][0].grid
            return Tower(states, source, lowest, True, None, grid, found, pixels.blocks[0])
        return self._arranged(pixels, states, found)

    def _see_whole(self, pixels: Views, watch: Stopwatch, wanted: frozenset[str]) -> Tower:
        """Run a tower that is not taken apart; it projects too."""
        adapter, blocks = self.adapter, pixels.blocks[0]
        with watch.stage("vision"):
            keys = bool(wanted & {"vision_keys", "vision_keys_full"})
            seen = adapter.closed_tower.see(pixels, pixels.stack(), watch, keys, "received_attention" in wanted)
            with watch.stage("selection"):
                found = of_closed_tower(adapter, wanted, seen, blocks)
            split = lambda table: table.unflatten(0, (len(pixels), -1))
            made = self._arranged(pixels, seen.states, found)
        return replace(made, states=None, projected=split(seen.projected), deep=tuple(map(split, seen.deep)))

    def _arranged(self, pixels: Views, states: torch.Tensor, signals: dict[str, torch.Tensor]) -> Tower:
        """What left a tower in which nothing merged."""
        blocks, cutter = pixels.blocks[0], self.adapter.cutter
        alone = cutter.whole and len(blocks) == 1
        features = states if alone else cutter.arrange(states, blocks)
        count = features.shape[1]
        every = torch.arange(count, device=states.device).expand(len(pixels), -1)
        frame = self.adapter.frame([], blocks)
        return Tower(
            features, every, every, False, frame.grid, frame.grid or (1, count), signals, blocks,
            None if frame.grid is not None else frame.points, None if alone else states,
        )  # fmt: skip

    def _enter(self, batch, steps, positions, tower, share, watch, recorder=None) -> tuple[Flow, torch.Tensor]:
        """Project, prune before the LLM, and lay out the sequences. Also the original tokens that enter, by row."""
        adapter = self.adapter
        step = next((s for s in steps if s.site.stage == 1), None)
        together = share and not (step is not None and step.reads_text)
        image = torch.arange(len(batch.pixels), device=batch.image.device) if together else batch.image
        features, deep = None, []
        if tower is None:
            frame = adapter.frame(batch.prefix, ())
            ids = chosen = torch.zeros(len(image), 0, dtype=torch.int64, device=adapter.device)
        else:
            blocks = tower.blocks if not tower.merged else (grid_block(1, tower.lowest.shape[1]),)
            frame = adapter.frame(batch.prefix, blocks)
            if step is None or step.space == "llm":  # those of a merger in the tower's space are known once it has merged
                with watch.stage("projector"):
                    features = adapter.projected(tower)[image]
            ids = tower.lowest[image]
            chosen = torch.arange(ids.shape[1], device=ids.device).expand(len(image), -1)
            deep = [table[image] for table in tower.deep]
            if step is not None:
                with watch.stage("selection"):
                    signals = before_llm(adapter, batch, step, tower, features, image, together)
                    selection = step.select(signals.only(step.needs), min(step.keep, ids.shape[1]))
                if recorder is not None and selection.scores is not None:
                    row = batch.image if together else torch.arange(len(image), device=ids.device)
                    recorder.step(selection.scores[row], ids[row])
                if selection.tokens is None:
                    chosen = selection.indices.sort(-1).values
                    features = features.gather(1, chosen[..., None].expand(-1, -1, features.shape[-1]))
                else:
                    with watch.stage("projector"):
                        features = selection.tokens if selection.space == "llm" else adapter.project(selection.tokens)
                    chosen = selection.indices
                deep = [_follow(table, chosen, selection) for table in deep]
                ids = ids.gather(1, chosen.clamp_min(0)).masked_fill(chosen < 0, -1)
        places = Places.of(frame, chosen.cpu())
        if positions == "contiguous":
            places = places.contiguous()
        grouped: list[list[list[int]]] = [[] for _ in range(len(image))]
        for row, question in enumerate(batch.questions):
            grouped[int(batch.image[row]) if together else row].append(question)
        lengths = [[len(question) for question in group] for group in grouped]
        layout = build(places, lengths, adapter.device)
        tokens = torch.zeros(layout.segments.shape, dtype=torch.int64)
        tokens.scatter_(1, layout.prefix.cpu(), frame.text.expand(len(grouped), -1))
        for place, group in enumerate(grouped):
            joined = [token for question in group for token in question]
            tokens[place, tokens.shape[1] - len(joined) :] = torch.tensor(joined)
        hidden = adapter.embed(tokens.to(adapter.device))
        if features is not None:
            hidden = hidden.scatter(1, layout.visual[..., None].expand(-1, -1, hidden.shape[-1]), features.to(hidden.dtype))
        flow = Flow(hidden, layout, ids, features, deep)
        return flow, ids[layout.group]

    def _prefill(self, flow: Flow, batch, steps, positions, watch, recorder) -> tuple[float, ...]:
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
            phase, kind = flow.phases[-1], adapter.kind(index).name
            mask, rotary = phase.masks[kind], phase.rotary[kind]
            flow.hidden = adapter.layer(index, flow.hidden, mask, flow.layout.positions, rotary, phase.store, probe)
            if index < len(flow.deep):
                columns = flow.layout.visual[..., None].expand(-1, -1, flow.hidden.shape[-1])
                flow.hidden = flow.hidden.scatter_add(1, columns, flow.deep[index].to(flow.hidden.dtype))
            counts.append(flow.ids.shape[1])
            if recorder is not None:
                group = flow.layout.group
                recorder.layer(probe.attention if probe is not None else None, flow.layout.visual[group], flow.ids[group])
        return tuple(counts)

    def _begin_phase(self, flow: Flow, first: int) -> None:
        """From layer ``first`` on, sequences have the present layout."""
        flow.phases.append(Phase.starting(self.adapter, first, flow.layout, flow.hidden))

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
            chosen = step.select(seen.signals(member, length).only(step.needs), min(step.keep, flow.ids.shape[1]))
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
        group = layout.group
        ids = flow.ids[group].gather(1, indices.clamp_min(0)).masked_fill(indices < 0, -1)
        visual = layout.visual[group].gather(1, indices.clamp_min(0))
        places = layout.places.keep(group.cpu(), indices.cpu())
        if positions == "contiguous":
            places = places.contiguous()
        new = build(places, [[n] for n in layout.lengths.tolist()], adapter.device)
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
        flow.deep = [_follow(table[group], indices) for table in flow.deep]
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
