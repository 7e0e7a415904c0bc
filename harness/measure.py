"""What is measured on every batch: answers, loyalty, evidence, diversity against chance."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from math import lcm

import numpy as np
import torch

from harness.engine import Batch, Engine, Output
from harness.plan import Cell
from harness.runs import FIGURES, SampleRow, pack
from harness.signals import Tower
from harness.tasks.base import ImageSample, Task
from methods.types import VISION_SIGNALS
from metrics import evidence
from metrics.collapse import null_figures, z_scores
from metrics.coverage import cell_coverage
from metrics.diversity import diversity


def stream(*parts: object) -> int:
    """A seed that depends on the parts alone: 62 bits of BLAKE2."""
    text = "|".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 2


@dataclass
class Work:
    """One batch of images on its way through all cells; holds what cells share."""

    engine: Engine
    task: Task
    samples: list[ImageSample]
    seed: int
    sharing: bool = True
    wanted: frozenset[str] = frozenset()  # signals that any cell needs
    batch: Batch = field(init=False)
    tower: Tower = field(init=False)
    projected: torch.Tensor = field(init=False)  # [B, N, D]
    reference: Output | None = field(default=None, init=False)
    nulls: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        adapter = self.engine.adapter
        self.batch = self.make_batch(None)
        self.tower = self.engine.see(self.batch.pixels, wanted=self.wanted & VISION_SIGNALS)
        with torch.inference_mode():
            self.projected = adapter.project(self.tower.features)

    def make_batch(self, grid: tuple[int, int] | None) -> Batch:
        """The batch as it is, or with images shrunk to ``grid``, or without images where that is (0, 0)."""
        adapter = self.engine.adapter
        blind = grid == (0, 0)
        questions = [q for sample in self.samples for q in sample.questions]
        prompts = [adapter.prompt(q.text, not blind) for q in questions]
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
        tensor = lambda values: torch.tensor(values, device=adapter.device)
        return Batch(
            pixels=adapter.pixels(images, None if blind else grid),
            prefix=prompts[0][0],
            questions=[after for _, after in prompts],
            image=tensor(owner),
            image_seeds=tensor([stream(self.seed, s.image_id) for s in self.samples]),
            question_seeds=tensor([stream(self.seed, q.sample_id) for q in questions]),
            evidence=held,
            text_embeds=self._text_embeds(questions) if "text_embeds" in self.wanted else None,
        )

    @torch.inference_mode()
    def _text_embeds(self, questions) -> torch.Tensor:
        """Joint-space vectors of the questions, [R, M, C]; short ones repeat theirs, which leaves their mean as it is."""
        vectors = [self.engine.adapter.companion.text_embeds(q.text) for q in questions]
        most = lcm(*(len(vector) for vector in vectors))
        return torch.stack([vector.repeat(most // len(vector), 1) for vector in vectors])

    def run(self, cell: Cell) -> list[SampleRow]:
        """All answers of one cell, measured."""
        batch = self.batch if cell.grid is None else self.make_batch(cell.grid)
        alone = cell.grid is not None or cell.in_tower or not self.sharing
        output = self.engine.run(
            batch, cell.steps, cell.object.positions, None if alone else self.tower, cell.blind, self.sharing
        )
        if cell.method == "none":
            self.reference = output
        return self._rows(cell, output)

    def _rows(self, cell: Cell, output: Output) -> list[SampleRow]:
        adapter = self.engine.adapter
        questions = [q for sample in self.samples for q in sample.questions]
        divergence = np.full(len(questions), np.nan)
        if self.reference is not None:
            full = self.reference.first_logits.log_softmax(-1)
            divergence = (full.exp() * (full - output.first_logits.log_softmax(-1))).sum(-1).cpu().numpy()
        total = adapter.shape.visual_tokens if cell.grid is None else cell.grid[0] * cell.grid[1]
        kept = present(output.kept, total).cpu().numpy()
        recall, before = self._recall(cell, output)
        figures = self._figures(cell, output) if cell.prunes else None
        rows = []
        for i, question in enumerate(questions):
            prediction = adapter.decode(output.tokens[i])
            agree = None if self.reference is None else float(output.tokens[i] == self.reference.tokens[i])
            rows.append(
                SampleRow(
                    question.sample_id,
                    prediction,
                    self.task.score(prediction, question.answer),
                    agree,
                    _number(max(divergence[i], 0.0)),
                    pack(kept[i]),
                    int(output.present[i]),
                    None if recall is None else _number(recall[i]),
                    None if before is None else _number(before[i]),
                    None,
                    (None,) * 9 if figures is None else tuple(_number(column[i]) for column in figures),
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

    def _figures(self, cell: Cell, output: Output) -> list[np.ndarray]:
        """FIGURES of the tokens in the last layer, then their z and percentile against random subsets: 9 columns [R]."""
        rows = self.batch.image
        kept = output.kept
        if not cell.reads_text:  # the questions of an image share the kept set
            first = torch.searchsorted(rows, torch.arange(len(self.samples), device=rows.device))
            kept, rows = kept[first], torch.arange(len(self.samples), device=rows.device)
        spread = [np.full(len(kept), np.nan) for _ in range(9)]
        counts = (kept >= 0).sum(1)
        for count in counts.unique().tolist():  # recycled means have no place; rows may hold different numbers of them
            if count:
                member = (counts == count).nonzero()[:, 0]
                places = kept[member][kept[member] >= 0].view(len(member), count)
                for column, values in zip(spread, self._against_chance(rows[member], places)):
                    column[member.cpu().numpy()] = values
        return spread if cell.reads_text else [column[self.batch.image.cpu().numpy()] for column in spread]

    def _against_chance(self, images: torch.Tensor, places: torch.Tensor) -> list[np.ndarray]:
        """The 9 columns for kept places [R, K] on the batch's images [R]."""
        tokens = self.projected[images].gather(1, places[..., None].expand(-1, -1, self.projected.shape[-1]))
        grid, null = self.engine.adapter.shape.grid, self._null(places.shape[1])
        values = diversity(tokens)
        values["cells"] = cell_coverage(present(places, self.projected.shape[1]), grid)
        scored = [z_scores(values[name], null[name][images]) for name in FIGURES]
        columns = [values[name] for name in FIGURES] + [z for z, _ in scored] + [percentile for _, percentile in scored]
        return [torch.as_tensor(column).double().cpu().numpy() for column in columns]

    def _null(self, keep: int) -> dict[str, torch.Tensor]:
        if keep not in self.nulls:
            grid = self.engine.adapter.shape.grid
            self.nulls[keep] = null_figures(self.projected, grid, keep, self.batch.image_seeds)
        return self.nulls[keep]

    def images(self, place: int) -> list[tuple]:
        """Rows of the table ``images``; ``place`` is that of the first."""
        out = []
        for i, sample in enumerate(self.samples):
            buffer = io.BytesIO()
            thumbnail = sample.image.copy()
            thumbnail.thumbnail((336, 336))
            thumbnail.save(buffer, "PNG", optimize=True)
            out.append((sample.image_id, place + i, buffer.getvalue(), thumbnail.height, thumbnail.width))
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
