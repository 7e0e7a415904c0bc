"""What is measured on every batch: answers, loyalty, evidence, and on some images what the kept tokens are like."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from harness.engine.batch import Batch, EngineOutput, join
from harness.engine.engine import Engine
from harness.engine.recorder import Recorder, merged
from harness.engine.request import EngineRequest, Steps, steps_of_rows
from harness.engine.sharing import CellPath, SharedPrefill
from harness.engine.signals import GroupedVisionOutput, VisionOutput
from harness.models.prompt import PixelBatch
from harness.run.analysis import GroupedTokenAnalysis, TokenAnalysis
from harness.run.evidence_swap import SwappedSteps, swapped
from harness.run.plan import Cell
from harness.run.token_masks import fitted, present
from harness.store.arrays import pack
from harness.store.cell_results import CellResult, SampleRow, SelectionTrace
from harness.store.layouts import ImageLayout
from harness.store.schema import ImageRow, QuestionRow
from harness.tasks.base import ImageSample, Question, Task
from methods.types import VISION_SIGNALS, ModelShape
from metrics import evidence


def stream(*parts: object) -> int:
    """Return a seed that depends on the parts alone: 62 bits of their BLAKE2 hash."""
    text = "|".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 2


def ask(template: str, question: str) -> str:
    """Return the instruction for a question, which ``{question}`` in the template stands for."""
    return template.replace("{question}", question)


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
    reference: EngineOutput | None = field(default=None, init=False)  # of `none`, once it has run

    def forget(self) -> None:
        """Let go of all that was computed; it is computed again where it is used."""
        for name in vars(self).keys() - {f.name for f in fields(self)}:
            del self.__dict__[name]
        self.reference = None

    @cached_property
    def images(self) -> list[Image.Image]:
        """The images, decoded."""
        return [sample.image for sample in self.samples]

    @cached_property
    def pixels(self) -> PixelBatch:
        """The images as the vision tower takes them."""
        return self.engine.adapter.pixels(self.images)

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
        vision = self.engine.encode_images(self.batch.pixels, wanted=self.wanted & VISION_SIGNALS)
        return SharedPrefill(self.engine.adapter, vision, self._paths, self.analysed)

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
        grids = [cell.plan(shape)[2] for shape in self.shapes]
        pixels = [self.engine.adapter.pixels([image], grid) for image, grid in zip(self.images, grids, strict=True)]
        return self.make_batch(cell.grid, PixelBatch([v.tensors[0] for v in pixels], [v.spans[0] for v in pixels]))

    def make_batch(self, grid: tuple[int, int] | None, pixels: PixelBatch | None = None) -> Batch:
        """Return the batch as it is, with its images shrunk, or without images.

        Args:
            grid: (h, w) in visual tokens to which images are shrunk; (0, 0) for no images, None for images as they are.
            pixels: the images as the tower takes them, where each is shrunk to a grid of its own.
        """
        adapter = self.engine.adapter
        blind = grid == (0, 0)
        questions = self._questions
        prompts = [adapter.prompt(ask(self.template, q.text), not blind) for q in questions]
        owner = [i for i, sample in enumerate(self.samples) for _ in sample.questions]
        if pixels is None:
            pixels = self.pixels if grid is None or blind else adapter.pixels(self.images, grid)
        image_seeds, question_seeds = self._seeds(self.seed)
        embeds = None
        if "text_embeds" in self.wanted:
            assert adapter.companion is not None, "only a model with a companion gives text_embeds"
            embeds = adapter.companion.texts_embeds(q.text for q in questions)
        return Batch(
            pixels=pixels,
            prefix=prompts[0][0],
            questions=[after for _, after in prompts],
            image=torch.tensor(owner, device=adapter.device),
            image_seeds=image_seeds,
            question_seeds=question_seeds,
            evidence=self.evidence,
            text_embeds=embeds,
        )

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
        fits = any(len(spans) == 1 and spans[0].grid is not None for spans in self.pixels.spans)
        if not self.task.info.knows_evidence or not fits:
            return None
        held = torch.zeros(len(self.masks), max(self.pixels.counts), dtype=torch.bool)
        for row, mask in enumerate(self.masks):
            if mask is not None:
                held[row, : mask.size] = torch.from_numpy(mask.ravel())
        return held.to(self.engine.adapter.device)

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
        batch = self.batch_for(cell)
        recorder = Recorder(attention=True) if self.analysed and not cell.blind and not cell.adaptive else None
        output = self._answer(cell, batch, cell.given, recorder)
        if cell.method == "none":
            self.reference = output
        rows = self._rows(cell, output, batch)
        result = CellResult(rows)
        if recorder is not None:
            result.analysis = self.analyst.run(cell, output, recorder)
            if cell.swaps and self.batch.evidence is not None:
                result.samples = self._swap(cell, rows, output.entered)
            result.traces = self._traces(output, recorder)
        if cell.grid is not None and cell.varies and not cell.blind:
            result.layouts = self._layouts(batch.pixels)
        result.repeats = [row for seed in seeds for row in self._again(cell, seed)]
        if self.sharing and cell in self.sharers:
            self.shared.release(self.sharers.index(cell))
        return result

    def refer_to(self, none: Cell) -> None:
        """Run the unpruned model, whose answers are stored already, for what other cells are compared with."""
        self.reference = self._answer(none, self.batch, none.given)

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
            return self._apart(cell, batch if rows is None else batch.rows(rows)[0], steps, recorder)
        alone = cell.grid is not None or cell.in_tower
        shared = None if alone else self.shared.without_checkpoints if fresh else self.shared
        return self.engine.run(
            EngineRequest(batch, steps, cell.object.positions, shared, cell.blind, recorder=recorder, rows=rows)
        )

    def _apart(self, cell: Cell, batch: Batch, steps: Steps, recorder: Recorder | None) -> EngineOutput:
        """Answers question by question, each from its pixels on: the reference for what is computed once for several."""
        outputs: list[EngineOutput] = []
        recorders: list[Recorder] = []
        places = [[i] for i in range(len(batch.questions))]
        for place in places:
            part = None if recorder is None else Recorder(recorder.attention)
            one, own = batch.rows(place)[0], steps_of_rows(steps, place)
            request = EngineRequest(one, own, cell.object.positions, None, cell.blind, False, recorder=part)
            outputs.append(self.engine.run(request))
            if part is not None:
                recorders.append(part)
        if recorder is not None:
            merged(recorder, recorders, places)
        return join(outputs, places)

    def _again(self, cell: Cell, seed: int) -> list[tuple[str, int, float]]:
        """Return the scores of a cell's answers under another seed."""
        output = self._answer(cell, self.batch.reseeded(*self._seeds(seed)), cell.given, fresh=True)
        adapter = self.engine.adapter
        return [
            (question.sample_id, seed, self.task.score(adapter.decode(tokens), question.answer))
            for question, tokens in zip(self._questions, output.tokens, strict=True)
        ]

    def _swap(self, cell: Cell, rows: list[SampleRow], entered: torch.Tensor) -> list[SampleRow]:
        """Return the rows with their score under evidence swap; where nothing is to swap, the score is what it was."""
        lost = [i for i, row in enumerate(rows) if row.recall is not None and row.recall < 1]
        found = {i: row.score for i, row in enumerate(rows) if row.recall is not None}
        if lost:
            plan = SwappedSteps(cell.steps_for, entered).of(lost) if cell.varies else swapped(cell.steps, entered[lost])
            output = self._answer(cell, self.batch, plan, rows=lost)
            for i, tokens in zip(lost, output.tokens, strict=True):
                found[i] = self.task.score(self.engine.adapter.decode(tokens), self._questions[i].answer)
        return [replace(row, swap_score=found.get(i)) for i, row in enumerate(rows)]

    def _traces(self, output: EngineOutput, recorder: Recorder) -> list[SelectionTrace]:
        """Scores that the cell ranked by, and where merged tokens went, by the original tokens of each question's image."""
        counts, ranks = self.batch.pixels.counts, None
        if recorder.scores is not None:
            assert recorder.scored_ids is not None, "scores come with the tokens that they belong to"
            ranks = recorder.scores, recorder.scored_ids
        source = output.source if output.source is not None else recorder.source
        found = []
        for row, question in enumerate(self._questions):
            size, scores, went = counts[int(self.batch.image[row])], None, None
            if ranks is not None:
                ids = ranks[1][row].cpu()
                scores = np.full(size, np.nan, np.float16)
                scores[ids[ids >= 0].numpy()] = ranks[0][row].cpu()[ids >= 0].half().numpy()
            if source is not None:
                went = source[row].cpu().numpy().astype(np.int16)[:size]
            if scores is not None or went is not None:
                found.append(SelectionTrace(question.sample_id, scores, went))
        return found

    @cached_property
    @torch.inference_mode()
    def analyst(self) -> TokenAnalysis | GroupedTokenAnalysis:
        """The analysis of the batch's visual tokens, which is prepared once for all cells."""
        names = [q.sample_id for q in self._questions]
        batch, vision = self.batch, self.vision
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
        assert output.present is not None, "the engine counts what is present"
        own = [counts[image] for image in batch.image.tolist()]  # tokens of each question's image
        recall, before = self._recall(cell, output)
        rows = []
        for i, question in enumerate(self._questions):
            prediction = adapter.decode(output.tokens[i])
            rows.append(
                SampleRow(
                    question.sample_id,
                    prediction,
                    self.task.score(prediction, question.answer),
                    None if self.reference is None else float(output.tokens[i] == self.reference.tokens[i]),
                    _number(max(divergence[i], 0.0)),
                    pack(kept[i, : own[i]]),
                    int(output.present[i]),
                    None if recall is None else _number(recall[i]),
                    None if before is None else _number(before[i]),
                )
            )
        return rows

    def _recall(self, cell: Cell, output: EngineOutput) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Share of the evidence that is present, in the last layer and on entry; mergers and shrunken images have none."""
        if self.batch.evidence is None or cell.merges or cell.grid is not None:
            return None, None
        held = self.batch.evidence.cpu().numpy()
        kept, before = (present(ids, held.shape[1]).cpu().numpy() for ids in (output.kept, output.entered))
        return evidence.recall(kept, held), evidence.recall(before, held)

    def image_rows(self, place: int) -> list[ImageRow]:
        """Return the rows of the table ``images``.

        Args:
            place: of the first image among all images of the run.
        """
        out: list[ImageRow] = []
        complexity: Sequence[float | None] = self.analyst.complexity() if self.analysed else [None] * len(self.samples)
        for i, sample in enumerate(self.samples):
            buffer = io.BytesIO()
            thumbnail = self.images[i].copy()
            thumbnail.thumbnail((336, 336))
            thumbnail.save(buffer, "PNG")
            out.append((sample.image_id, place + i, buffer.getvalue(), thumbnail.height, thumbnail.width, complexity[i]))
        return out

    def questions(self) -> list[QuestionRow]:
        """Return the rows of the table ``questions``."""
        named = [(s, i, q) for s in self.samples for i, q in enumerate(s.questions)]
        return [
            (q.sample_id, s.image_id, i, q.family, q.text, q.answer, None if mask is None else pack(mask))
            for (s, i, q), mask in zip(named, self.masks, strict=True)
        ]

    def layouts(self) -> list[ImageLayout]:
        """Return how the visual tokens of every image lie as it is; nothing where all images of the model are alike."""
        return [] if self.engine.adapter.tiler.fixed else self._layouts(self.pixels)

    def _layouts(self, pixels: PixelBatch) -> list[ImageLayout]:
        layouts = []
        for sample, spans, count in zip(self.samples, pixels.spans, pixels.counts, strict=True):
            span = spans[0] if len(spans) == 1 else None  # of several images in a prompt, neither grid nor areas are kept
            areas = span.areas if span is not None and len(span.areas) > 1 else ()
            layouts.append(ImageLayout(sample.image_id, count, None if span is None else span.grid, areas))
        return layouts


def _number(value: float) -> float | None:
    return None if value != value else float(value)
