"""What is measured on every batch: answers, loyalty, evidence, and on some images what the kept tokens are like."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import lcm

import numpy as np
import torch

from harness.analysis import Analyst
from harness.batch import Batch, Output, join
from harness.engine import Engine
from harness.plan import Cell
from harness.recorder import Recorder, merged
from harness.runs import Findings, SampleRow, pack
from harness.signals import Tower, Towers
from harness.swap import Swap, swapped
from harness.tasks.base import ImageSample, Question, Task
from methods.types import VISION_SIGNALS, Step
from metrics import evidence


def stream(*parts: object) -> int:
    """A seed that depends on the parts alone: 62 bits of BLAKE2."""
    text = "|".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 2


def ask(template: str, question: str) -> str:
    """The instruction for a question; ``{question}`` in the template stands for it."""
    return template.replace("{question}", question)


@dataclass
class Work:
    """One batch of images on its way through all cells; holds what cells share."""

    engine: Engine
    task: Task
    samples: list[ImageSample]
    seed: int
    sharing: bool = True
    wanted: frozenset[str] = frozenset()  # signals that any cell needs
    template: str = "{question}"  # what the model is asked
    reference: Output | None = field(default=None, init=False)  # of `none`, once it has run

    @cached_property
    def batch(self) -> Batch:
        return self.make_batch(None)

    @cached_property
    def tower(self) -> Tower | Towers:
        return self.engine.see(self.batch.pixels, wanted=self.wanted & VISION_SIGNALS)

    @cached_property
    @torch.inference_mode()
    def projected(self) -> torch.Tensor:
        """Visual tokens in the LLM's space, [B, N, D]."""
        return self.engine.adapter.projected(self.tower)

    def make_batch(self, grid: tuple[int, int] | None) -> Batch:
        """The batch as it is, or with images shrunk to ``grid``, or without images where that is (0, 0)."""
        adapter = self.engine.adapter
        blind = grid == (0, 0)
        questions = self._questions
        prompts = [adapter.prompt(ask(self.template, q.text), not blind) for q in questions]
        owner = [i for i, sample in enumerate(self.samples) for _ in sample.questions]
        held = None
        if self.task.info.knows_evidence:
            count = adapter.shape.visual_tokens
            held = torch.stack(
                [
                    torch.zeros(count, dtype=torch.bool) if q.evidence is None else torch.from_numpy(q.evidence.ravel())
                    for q in questions
                ]
            ).to(adapter.device)
        images = [sample.image for sample in self.samples]
        image_seeds, question_seeds = self._seeds(self.seed)
        return Batch(
            pixels=adapter.pixels(images, None if blind else grid),
            prefix=prompts[0][0],
            questions=[after for _, after in prompts],
            image=torch.tensor(owner, device=adapter.device),
            image_seeds=image_seeds,
            question_seeds=question_seeds,
            evidence=held,
            text_embeds=self._text_embeds(questions) if "text_embeds" in self.wanted else None,
        )

    @property
    def _questions(self) -> list[Question]:
        return [q for sample in self.samples for q in sample.questions]

    def _seeds(self, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random streams of the images and of the questions under a seed."""
        make = lambda names: torch.tensor([stream(seed, name) for name in names], device=self.engine.adapter.device)
        return make(s.image_id for s in self.samples), make(q.sample_id for q in self._questions)

    @torch.inference_mode()
    def _text_embeds(self, questions) -> torch.Tensor:
        """Joint-space vectors of the questions, [R, M, C]; short ones repeat theirs, which leaves their mean as it is."""
        vectors = [self.engine.adapter.companion.text_embeds(q.text) for q in questions]
        most = lcm(*(len(vector) for vector in vectors))
        return torch.stack([vector.repeat(most // len(vector), 1) for vector in vectors])

    def run(self, cell: Cell, analysed: bool = False, seeds: tuple[int, ...] = ()) -> Findings:
        """All answers of one cell, measured.

        Args:
            cell: what to run.
            analysed: whether its kept tokens are analysed too, and its evidence swapped.
            seeds: further seeds under which its answers are scored.
        """
        batch = self.batch if cell.grid is None else self.make_batch(cell.grid)
        recorder = Recorder(attention=True) if analysed and not cell.blind and not cell.adaptive else None
        output = self._answer(cell, batch, cell.steps, recorder)
        if cell.method == "none":
            self.reference = output
        rows = self._rows(cell, output)
        analysis = None
        if recorder is not None:
            analysis = self.analyst.run(cell, output, recorder)
            if cell.swaps and self.batch.evidence is not None:
                rows = self._swap(cell, rows, output.kept_before)
        return Findings(rows, analysis, [row for seed in seeds for row in self._again(cell, seed)])

    def refer_to(self, none: Cell) -> None:
        """Run the unpruned model for what others are compared with; its answers are stored already."""
        self.reference = self._answer(none, self.batch, none.steps)

    def _answer(self, cell: Cell, batch: Batch, steps: tuple[Step, ...], recorder=None, images=None) -> Output:
        if not self.sharing:
            return self._apart(cell, batch, steps, recorder)
        alone = cell.grid is not None or cell.in_tower
        tower = None if alone else self.tower if images is None else self.tower.images(images)
        return self.engine.run(batch, steps, cell.object.positions, tower, cell.blind, recorder=recorder)

    def _apart(self, cell: Cell, batch: Batch, steps: tuple[Step, ...], recorder: Recorder | None) -> Output:
        """Question by question, each from its pixels on: the reference that shared work is held against."""
        outputs, recorders, places = [], [], [[i] for i in range(len(batch.questions))]
        for place in places:
            part = None if recorder is None else Recorder(recorder.attention)
            one = tuple(replace(step, select=step.select.of(place)) if isinstance(step.select, Swap) else step for step in steps)
            outputs.append(
                self.engine.run(batch.rows(place)[0], one, cell.object.positions, None, cell.blind, False, recorder=part)
            )
            recorders.append(part)
        if recorder is not None:
            merged(recorder, recorders, places)
        return join(outputs, places)

    def _again(self, cell: Cell, seed: int) -> list[tuple[str, int, float]]:
        """Scores under another seed."""
        output = self._answer(cell, self.batch.reseeded(*self._seeds(seed)), cell.steps)
        adapter = self.engine.adapter
        return [
            (question.sample_id, seed, self.task.score(adapter.decode(tokens), question.answer))
            for question, tokens in zip(self._questions, output.tokens, strict=True)
        ]

    def _swap(self, cell: Cell, rows: list[SampleRow], entered: torch.Tensor) -> list[SampleRow]:
        """The rows with their score under evidence swap; nothing to swap means that the score is what it was."""
        lost = [i for i, row in enumerate(rows) if row.recall is not None and row.recall < 1]
        found = {i: row.score for i, row in enumerate(rows) if row.recall is not None}
        if lost:
            some, images = self.batch.rows(lost)
            output = self._answer(cell, some, swapped(cell.steps, entered[lost]), images=images)
            for i, tokens in zip(lost, output.tokens, strict=True):
                found[i] = self.task.score(self.engine.adapter.decode(tokens), self._questions[i].answer)
        return [replace(row, swap_score=found.get(i)) for i, row in enumerate(rows)]

    @cached_property
    def analyst(self) -> Analyst:
        """The batch's visual tokens, made ready once for all cells."""
        names = [q.sample_id for q in self._questions]
        batch, grid = self.batch, self.engine.adapter.shape.grid
        return Analyst(self.projected, grid, batch.image, batch.image_seeds, batch.evidence, names)

    def _rows(self, cell: Cell, output: Output) -> list[SampleRow]:
        adapter = self.engine.adapter
        divergence = np.full(len(self._questions), np.nan)
        if self.reference is not None:
            full = self.reference.first_logits.log_softmax(-1)
            divergence = (full.exp() * (full - output.first_logits.log_softmax(-1))).sum(-1).cpu().numpy()
        total = max(self.batch.pixels.counts) if cell.grid is None else cell.grid[0] * cell.grid[1]
        kept = present(output.kept, total).cpu().numpy()
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
                    pack(kept[i]),
                    int(output.present[i]),
                    None if recall is None else _number(recall[i]),
                    None if before is None else _number(before[i]),
                )
            )
        return rows

    def _recall(self, cell: Cell, output: Output) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Share of the evidence that is present, in the last layer and on entry; mergers and shrunken images have none."""
        if self.batch.evidence is None or cell.merges or cell.grid is not None:
            return None, None
        held = self.batch.evidence.cpu().numpy()
        on = lambda ids: evidence.recall(present(ids, held.shape[1]).cpu().numpy(), held)
        return on(output.kept), on(output.kept_before)

    def images(self, place: int, analysed: bool = False) -> list[tuple]:
        """Rows of the table ``images``; ``place`` is that of the first."""
        out, complexity = [], self.analyst.complexity() if analysed else [None] * len(self.samples)
        for i, sample in enumerate(self.samples):
            buffer = io.BytesIO()
            thumbnail = sample.image.copy()
            thumbnail.thumbnail((336, 336))
            thumbnail.save(buffer, "PNG", optimize=True)
            out.append((sample.image_id, place + i, buffer.getvalue(), thumbnail.height, thumbnail.width, complexity[i]))
        return out

    def questions(self) -> list[tuple]:
        """Rows of the table ``questions``."""
        return [
            (q.sample_id, s.image_id, i, q.family, q.text, q.answer, None if q.evidence is None else pack(q.evidence))
            for s in self.samples
            for i, q in enumerate(s.questions)
        ]


def present(ids: torch.Tensor, count: int) -> torch.Tensor:
    """Token ids [R, K], -1 for none, as a mask bool [R, count]."""
    mask = torch.zeros(len(ids), count + 1, dtype=torch.bool, device=ids.device)
    return mask.scatter_(1, ids.masked_fill(ids < 0, count), True)[:, :count]


def _number(value: float) -> float | None:
    return None if value != value else float(value)
