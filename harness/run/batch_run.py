"""What is measured on every batch: answers, loyalty, evidence, and on some images what the kept tokens are like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial

import numpy as np
import torch
from PIL import Image

from harness.engine.batch import Batch, EngineOutput
from harness.engine.engine import Engine
from harness.engine.recorder import Recorder
from harness.engine.request import EngineRequest, Steps
from harness.engine.sharing import CellPath, SharedPrefill
from harness.engine.signals import GroupedVisionOutput, VisionOutput
from harness.engine.tower_signals import default_reads, reads_of
from harness.models.prompt import ImageSpan, PixelBatch, without_images
from harness.run.analysis import GroupedTokenAnalysis, TokenAnalysis
from harness.run.asked_prompts import AskedPrompts
from harness.run.contact_sheet import layout_of
from harness.run.evidence_swap import SwappedSteps, placed, swapped
from harness.run.plan import Cell
from harness.run.prompt_inputs import batch_of, pixels_of, shrunk_pixels
from harness.run.stored_rows import answer_row, image_row, number, question_rows, traces
from harness.run.streams import stream
from harness.run.token_masks import evidence_held, fitted, masks_together, present
from harness.run.twins import MeasuredCounts, answer_like, note_counts
from harness.run.unshared import run_apart
from harness.store.arrays import pack, packed_counts
from harness.store.cell_results import CellResult, SampleRow
from harness.store.layouts import ImageLayout
from harness.store.schema import ImageRow, QuestionRow
from harness.tasks.base import ImageSample, Question, Task
from harness.tasks.rules import judged
from methods.types import ModelShape, TowerRead


@dataclass
class BatchRun:
    """One batch of images on its way through all cells; it holds what the cells share.

    Args:
        engine: runs the model.
        task: scores the answers.
        samples: the images with their questions.
        seed: of the random streams of images and questions.
        sharing: compute once what several cells or questions need; else each question is run from its pixels on.
        wanted: the signals that any cell needs.
        template: what the model is asked; ``{question}`` stands for the question.
        cells: those that the batch is run under, in turn.
        analysed: analyse kept tokens too, and swap the evidence.
        measured: the counts of cells whose counts follow from the image, as far as they are known; what is measured is added.
    """

    engine: Engine
    task: Task
    samples: list[ImageSample]
    seed: int
    sharing: bool = True
    wanted: frozenset[str] = frozenset()
    template: str = "{question}"
    cells: tuple[Cell, ...] = ()
    analysed: bool = False
    measured: MeasuredCounts = field(default_factory=dict)
    reference: EngineOutput | None = field(default=None, init=False)  # of `none`, once it has run
    rooms: list[int | None] = field(default_factory=list, init=False)  # tokens that an answer to each question may have
    shortened: set[str] = field(default_factory=set, init=False)  # questions whose answers ended where the model's maximum is

    def forget(self) -> None:
        """Let go of all that was computed; it is computed again where it is used."""
        for name in vars(self).keys() - {f.name for f in fields(self)}:
            del self.__dict__[name]
        self.reference = None

    @cached_property
    def images(self) -> list[list[Image.Image]]:
        """The images of each sample, decoded."""
        return [sample.images for sample in self.samples]

    @cached_property
    def pixels(self) -> PixelBatch:
        """The images of each sample as the vision tower takes them."""
        return without_images(len(self.samples)) if self.text_alone else pixels_of(self.engine.adapter, self.images)

    @property
    def text_alone(self) -> bool:
        """Whether the samples have no images; a batch holds samples with images, or without, never both."""
        return not any(sample.count for sample in self.samples)

    @cached_property
    def prompts(self) -> AskedPrompts:
        """What is asked about the images as they are.

        Raises:
            SampleError: where a prompt is longer than what the model takes.
        """
        made = AskedPrompts.of(self.engine.adapter, self.samples, self.template, self.text_alone)
        self.rooms = made.rooms(self.engine.adapter, self.pixels.spans)
        return made

    @cached_property
    def batch(self) -> Batch:
        """The images as they are, with all their questions."""
        return self.make_batch(None)

    @cached_property
    def shapes(self) -> list[ModelShape]:
        """The model's shape on each image."""
        return [self.engine.adapter.shape_for(spans) for spans in self.pixels.spans]

    @cached_property
    def shared(self) -> SharedPrefill:
        """What the cells compute once: the vision tower, the projection, and the layers before their paths part."""
        vision = self.engine.encode_images(self.batch.pixels, wanted=self.gathered)
        return SharedPrefill(self.engine.adapter, vision, self._paths, self.analysed)

    @cached_property
    def gathered(self) -> frozenset[TowerRead]:
        """What is read in the tower for all cells that share its output: what their steps say, and what else is wanted."""
        others = self.wanted.difference(*(cell.needs for cell in self.cells))
        return default_reads(others, self.engine.adapter.shape) | reads_of(sum((cell.steps for cell in self.sharers), ()))

    @cached_property
    def sharers(self) -> list[Cell]:
        """The cells that go on from one output of the vision tower: the image as it is, no step inside the tower."""
        return [cell for cell in self.cells if cell.grid is None and not cell.in_tower]

    def _paths(self, shape: ModelShape) -> list[CellPath]:
        swaps = self.analysed and self.batch.evidence is not None
        return [
            CellPath(cell.steps_for(shape) if cell.varies else cell.steps, cell.object.positions, swaps and cell.swaps)
            for cell in self.sharers
        ]

    @property
    def vision(self) -> VisionOutput | GroupedVisionOutput:
        """What left the vision tower."""
        return self.shared.vision

    @property
    @torch.inference_mode()
    def projected(self) -> torch.Tensor:
        """The visual tokens in the LLM's space, [B, N, D]."""
        return self.shared.projected

    def batch_for(self, cell: Cell) -> Batch:
        """Return what a cell is run on: the batch as it is, with its images shrunk, or without images."""
        if cell.grid is None:
            return self.batch
        if not cell.varies or cell.blind:
            return self.make_batch(cell.grid)
        pixels = shrunk_pixels(self.engine.adapter, cell, self.images, self.pixels.spans, self.shapes)
        return self.make_batch(cell.grid, pixels)

    def make_batch(self, grid: tuple[int, int] | None, pixels: PixelBatch | None = None) -> Batch:
        """Return the batch as it is, with its images shrunk, or without images.

        Args:
            grid: (h, w) in visual tokens to which images are shrunk; (0, 0) for no images, None for images as they are.
            pixels: the images as the tower takes them, where each is shrunk to a grid of its own.
        """
        adapter, samples = self.engine.adapter, self.samples
        blind = grid == (0, 0)
        asked = self.prompts if not blind or self.text_alone else AskedPrompts.of(adapter, samples, self.template, blind=True)
        if pixels is None:
            pixels = self.pixels if grid is None or blind else pixels_of(adapter, self.images, grid)
        wanted = self.wanted - {"text_embeds"} if self.text_alone else self.wanted
        evidence = None if self.text_alone else self.evidence
        return batch_of(adapter, asked, pixels, samples, self.seed, wanted, evidence)

    @cached_property
    def masks(self) -> list[np.ndarray | None]:
        """The evidence of each question on the grid of its image's tokens; None where there is none, or no one grid."""
        grids = [spans[0].grid if len(spans) == 1 else None for spans in self.pixels.spans]
        owner = [i for i, sample in enumerate(self.samples) for _ in sample.questions]
        return [
            None if q.evidence is None or (grid := grids[i]) is None else fitted(q.evidence, grid)
            for q, i in zip(self._questions, owner, strict=True)
        ]

    @cached_property
    def evidence(self) -> torch.Tensor | None:
        """The tokens that hold the evidence of each question: bool [R, N], False behind the tokens of images that have fewer.

        None where no image can have any.
        """
        if not self.task.info.knows_evidence or not any(len(own) == 1 and own[0].grid is not None for own in self.pixels.spans):
            return None
        return masks_together(self.masks, max(self.pixels.counts)).to(self.engine.adapter.device)

    @property
    def _questions(self) -> list[Question]:
        return [q for sample in self.samples for q in sample.questions]

    def _seeds(self, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random streams of the images and of the questions under a seed."""
        device = self.engine.adapter.device
        images = torch.tensor([stream(seed, sample.image_id) for sample in self.samples], device=device)
        return images, torch.tensor([stream(seed, question.sample_id) for question in self._questions], device=device)

    def run(self, cell: Cell, seeds: tuple[int, ...] = ()) -> CellResult:
        """Answer all questions under one cell, and measure the answers.

        Args:
            cell: what to run.
            seeds: further seeds under which its answers are scored.
        """
        if self.text_alone:
            return self._without_images(cell, seeds)
        _ = self.prompts  # whatever a cell does to the images, none is asked what is too long for the model
        batch = self.batch_for(cell)
        recorder = Recorder(attention=True) if self.analysed and not cell.blind and not cell.adaptive else None
        if cell.copies is None:
            output = self._answer(cell, batch, cell.given, recorder)
        else:
            names = [question.sample_id for question in self._questions]
            output = answer_like(cell, self.cells, self.measured, names, partial(self._answer, cell, batch))
        if cell.method == "none":
            self.reference = output
        rows = self._rows(cell, output, batch)
        note_counts(self.measured, cell, rows)
        result = CellResult(rows)
        if recorder is not None:
            result.analysis = self.analyst.run(cell, output, recorder)
            if cell.swaps and self.batch.evidence is not None:
                result.samples = self._swap(cell, rows, output)
            result.traces = traces(self._questions, self.batch, output, recorder)
        if cell.grid is not None and cell.varies and not cell.blind:
            result.layouts = self._layouts([batch.pixels.spans[prompt] for prompt in self.prompts.firsts])
        result.repeats = [row for seed in seeds for row in self._again(cell, seed)]
        if self.sharing and cell in self.sharers:
            self.shared.release(self.sharers.index(cell))
        return result

    def refer_to(self, none: Cell) -> None:
        """Run the unpruned model, whose answers are stored already, for what other cells are compared with."""
        self.reference = self._without_steps if self.text_alone else self._answer(none, self.batch, none.given)

    def _without_images(self, cell: Cell, seeds: tuple[int, ...]) -> CellResult:
        """Answers to questions that have no image: nothing can leave, so they are those of the unpruned model in every cell.

        Neither loyalty nor tokens are told of them, where no cell has a choice.
        """
        if cell.method == "none":
            self.reference = self._without_steps
        decode, answered = self.engine.adapter.decode, zip(self._questions, self._without_steps.tokens, strict=True)
        return CellResult([answer_row(self.task, question, decode(tokens)) for question, tokens in answered])

    @cached_property
    def _without_steps(self) -> EngineOutput:
        return self._limited(self.engine.run(EngineRequest(self.batch, blind=True)))

    def _limited(self, output: EngineOutput, rows: list[int] | None = None) -> EngineOutput:
        """Answers that end where prompt and answer together reach what the model takes."""
        asked = range(len(self.rooms)) if rows is None else rows
        tokens, rooms = list(output.tokens), [self.rooms[row] for row in asked]
        for place, (row, room) in enumerate(zip(asked, rooms, strict=True)):
            if room is not None and len(tokens[place]) >= room and (len(tokens[place]) > room or output.ended[place] is None):
                self.shortened.add(self._questions[row].sample_id)
                tokens[place] = tokens[place][:room]
        return replace(output, tokens=tokens)

    def _answer(
        self,
        cell: Cell,
        batch: Batch,
        steps: Steps,
        recorder: Recorder | None = None,
        rows: list[int] | None = None,
        fresh: bool = False,
    ) -> EngineOutput:
        """Answers of some rows; of a fresh batch, whose seeds are others, only what left the tower is known."""
        if not self.sharing:
            some = batch if rows is None else batch.rows(rows)[0]
            return self._limited(run_apart(self.engine, cell, some, steps, recorder), rows)
        apart = cell.grid is not None or cell.in_tower or not reads_of(cell.steps) <= self.gathered
        shared = None if apart else self.shared.without_checkpoints if fresh else self.shared
        request = EngineRequest(batch, steps, cell.object.positions, shared, cell.blind, recorder=recorder, rows=rows)
        return self._limited(self.engine.run(request), rows)

    def _again(self, cell: Cell, seed: int) -> list[tuple[str, int, float, str | None]]:
        """Return how a cell's answers are scored under another seed: question, seed, score and what was read."""
        output = self._answer(cell, self.batch.reseeded(*self._seeds(seed)), cell.given, fresh=True)
        adapter = self.engine.adapter
        found = []
        for question, tokens in zip(self._questions, output.tokens, strict=True):
            judgement = judged(self.task, adapter.decode(tokens), question.answer).leading
            found.append((question.sample_id, seed, judgement.score, judgement.read))
        return found

    def _swap(self, cell: Cell, rows: list[SampleRow], before: EngineOutput) -> list[SampleRow]:
        """Return the rows with their score under evidence swap; where nothing is to swap, the score is what it was."""
        entered, own = before.entered, placed(before.entered, before.layer_counts)
        found = {i: row.score for i, row in enumerate(rows) if row.recall is not None and own[i]}
        lost = [i for i in found if (rows[i].recall or 0) < 1]
        if lost:
            plan = SwappedSteps(cell.steps_for, entered).of(lost) if cell.varies else swapped(cell.steps, entered[lost])
            output = self._answer(cell, self.batch, plan, rows=lost)
            for i, tokens in zip(lost, output.tokens, strict=True):
                found[i] = self.task.score(self.engine.adapter.decode(tokens), self._questions[i].answer)
        return [replace(row, swap_score=found.get(i)) for i, row in enumerate(rows)]

    @cached_property
    @torch.inference_mode()
    def analyst(self) -> TokenAnalysis | GroupedTokenAnalysis:
        """The analysis of the batch's visual tokens, which is prepared once for all cells."""
        names = [q.sample_id for q in self._questions]
        batch, vision = self.batch, self.shared.vision
        if isinstance(vision, VisionOutput):
            return TokenAnalysis(self.projected, vision.grid, batch.image, batch.image_seeds, batch.evidence, names)
        rows = [batch.questions_about(group) for group in vision.groups]
        each = []
        for one, group, places in zip(vision.outputs, vision.groups, rows, strict=True):
            part, _ = batch.rows(places)
            projected, own = self.shared.part(torch.tensor(group)).projected, [names[place] for place in places]
            each.append(TokenAnalysis(projected, one.grid, part.image, part.image_seeds, part.evidence, own))
        return GroupedTokenAnalysis(each, list(vision.groups), rows)

    def _rows(self, cell: Cell, output: EngineOutput, batch: Batch) -> list[SampleRow]:
        adapter = self.engine.adapter
        divergence = np.full(len(self._questions), np.nan)
        if self.reference is not None:
            full = self.reference.first_logits.log_softmax(-1)
            divergence = (full.exp() * (full - output.first_logits.log_softmax(-1))).sum(-1).cpu().numpy()
        counts = [0] * len(batch.pixels) if cell.blind else batch.pixels.counts
        kept = present(output.kept, max(counts)).cpu().numpy()
        own = [counts[image] for image in batch.image.tolist()]  # tokens of each question's image
        held = None if cell.merges or cell.grid is not None else self.batch.evidence  # nothing is told of those
        recall, before = (None, None) if held is None else evidence_held(output, held)
        rows = []
        for i, question in enumerate(self._questions):
            rows.append(
                replace(
                    answer_row(self.task, question, adapter.decode(output.tokens[i])),
                    agree=None if self.reference is None else float(output.tokens[i] == self.reference.tokens[i]),
                    kl=number(max(divergence[i], 0.0)),
                    kept=pack(kept[i, : own[i]]),
                    kept_count=int(output.present[i]),
                    recall=None if recall is None else number(recall[i]),
                    recall_before=None if before is None else number(before[i]),
                    layer_counts=packed_counts(output.layer_counts[i]) if cell.adaptive else None,
                    tower_counts=packed_counts(output.block_counts[i]) if cell.adaptive and cell.in_tower else None,
                )
            )
        return rows

    def image_rows(self, place: int) -> list[ImageRow]:
        """Return the rows of the table ``images``.

        Args:
            place: of the first image among all images of the run.
        """
        ranks: Sequence[float | None] = [None] * len(self.samples)
        if self.analysed and not self.text_alone:
            ranks = np.array(self.analyst.complexity())[self.prompts.firsts].tolist()
        each = enumerate(zip(self.samples, self.images, ranks, strict=True), place)
        return [image_row(sample, images, at, rank) for at, (sample, images, rank) in each]

    def questions(self) -> list[QuestionRow]:
        """Return the rows of the table ``questions``."""
        return question_rows(self.samples, self.masks)

    def layouts(self) -> list[ImageLayout]:
        """Return how the visual tokens of every image lie as it is; nothing where all images of the model are alike."""
        alike = self.engine.adapter.tiler.fixed and all(sample.count == 1 for sample in self.samples)
        return [] if alike else self._layouts(self.pixels.spans)

    def _layouts(self, spans: Sequence[tuple[ImageSpan, ...]]) -> list[ImageLayout]:
        return [
            layout_of(sample.image_id, own, [image.size for image in images])
            for sample, own, images in zip(self.samples, spans, self.images, strict=True)
        ]
