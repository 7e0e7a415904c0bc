"""What the kept tokens of a cell are like: diversity, coverage, pull to rows, scores, attention layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from harness.engine.batch import EngineOutput
from harness.engine.recorder import Recorder, part
from harness.run.plan import Cell
from harness.store.cell_results import TokenFigures, joined_analyses
from metrics.attention import attention_figures
from metrics.collapse import cluster_mass, percentiles, score_collapse, set_hashes, thinned, z_scores
from metrics.coverage import row_bias
from metrics.figures import BIAS, FIGURES, LAYERS, MATCHED
from metrics.matched import row_matched_subsets
from metrics.subsets import TIE, Space, figures, null, spread

MATCHED_SUBSETS = 16
"""Random subsets with the kept set's own number of tokens in every row, against which a kept set is held."""
_RUNG = 8  # tokens between the counts for which chance is drawn where every question keeps another count
_FEW = 64  # tokens below which it is drawn for the very count


@dataclass
class GroupedTokenAnalysis:
    """The visual tokens of a batch of images that differ in them: a `TokenAnalysis` for each group of like images."""

    each: list[TokenAnalysis]
    images: list[list[int]]  # places of the images in each
    rows: list[list[int]]  # places of the questions in each

    def complexity(self) -> list[float]:
        """Return the effective rank of all visual tokens of each image."""
        found = [(place, rank) for one, group in zip(self.each, self.images) for place, rank in zip(group, one.complexity())]
        return [rank for _, rank in sorted(found)]

    def run(self, cell: Cell, output: EngineOutput, recorder: Recorder) -> TokenFigures:
        """Return all figures of one cell's kept sets, in the order of the questions.

        Args:
            cell: whose answers they are.
            output: of the engine, R rows.
            recorder: what the engine noted layer by layer, of the same rows.
        """
        assert output.present is not None, "the engine counts what is present"
        parts = []
        for analyst, rows in zip(self.each, self.rows):
            some = replace(output, kept=output.kept[rows][:, : int(output.present[rows].max())])
            parts.append(analyst.run(cell, some, part(recorder, rows)))
        order = np.argsort([place for rows in self.rows for place in rows])
        return joined_analyses(parts, order)


@dataclass
class TokenAnalysis:
    """The visual tokens of one batch of images, and what all cells' kept sets are held against.

    Args:
        projected: [B, N, D] visual tokens in the LLM's space.
        grid: (h, w) of them, or None where they are no full grid: then coverage and bias are nan.
        image: int64 [R] image of each question, rising.
        seeds: int64 [B] one random stream an image.
        evidence: bool [R, N], or None where the task knows none.
        questions: the questions' names, R.
    """

    projected: torch.Tensor
    grid: tuple[int, int] | None
    image: torch.Tensor
    seeds: torch.Tensor
    evidence: torch.Tensor | None
    questions: list[str]
    space: Space = field(init=False)
    nulls: dict[int, dict[int, dict[str, torch.Tensor]]] = field(default_factory=dict, init=False)  # by count, then image

    def __post_init__(self) -> None:
        self.space = Space.of(self.projected, self.grid)

    def complexity(self) -> list[float]:
        """Return the effective rank of all visual tokens of each image, B."""
        every = torch.arange(self.projected.shape[1], device=self.image.device).expand(len(self.projected), -1)
        images = torch.arange(len(every), device=self.image.device)
        return figures(self.space, images, every)["effective_rank"].tolist()

    def run(self, cell: Cell, output: EngineOutput, recorder: Recorder) -> TokenFigures:
        """Return all figures of one cell's kept sets; those that it cannot have are nan.

        Args:
            cell: whose answers they are.
            output: of the engine, R rows.
            recorder: what the engine noted layer by layer, of the same rows.
        """
        numbers: dict[str, np.ndarray] = {}
        if cell.prunes:
            numbers |= self._kept(cell, output)
        if recorder.scores is not None:
            numbers |= self._scores(recorder)
        return TokenFigures(self.questions, numbers, self._layers(cell, recorder))

    def _kept(self, cell: Cell, output: EngineOutput) -> dict[str, np.ndarray]:
        """FIGURES of the tokens in the last layer, their z and percentile against random subsets, and their bias."""
        rows, kept = self.image, output.kept
        shared = not cell.reads_text  # then the questions of an image share the kept set
        if shared:
            first = torch.searchsorted(rows, torch.arange(len(self.projected), device=rows.device))
            kept, rows = kept[first], rows[first]
        names = [*FIGURES, *(f"z_{n}" for n in FIGURES), *(f"percentile_{n}" for n in FIGURES), *BIAS]
        table = {name: np.full(len(kept), np.nan) for name in [*names, *(f"row_z_{n}" for n in MATCHED)]}
        counts = (kept >= 0).sum(1)
        for count in torch.unique(counts).tolist():  # recycled means have no place; rows may hold different numbers of them
            if not count:
                continue
            member = (counts == count).nonzero()[:, 0]
            places = kept[member][kept[member] >= 0].view(len(member), count)
            exact = all(step.after == step.keep for step in cell.steps)
            self._against_chance(rows[member], places, _Columns(table, member), exact)
            if self.grid is None:
                continue
            once = self._one_an_image(rows[member])
            self._against_rows(rows[member][once], places[once], self.grid, _Columns(table, member[once]))
        if not shared:
            return table
        expand = self.image.cpu().numpy()
        return {name: column[expand] for name, column in table.items()}

    def _against_chance(self, images: torch.Tensor, places: torch.Tensor, columns: _Columns, exact: bool) -> None:
        """Figures of sets of one size, and where they lie among those of random subsets.

        Args:
            images: int64 [R] image of each set.
            places: int64 [R, K] tokens of each set.
            columns: where the figures go.
            exact: whether chance is drawn for this very size. Else, as where a method recycles tokens and every question
                keeps another count, it is drawn for `null_size`, and the set is held against it less some tokens that are
                dropped at random: what is left of a uniform random set is a uniform random set.
        """
        total, count, seeds = self.projected.shape[1], places.shape[1], self.seeds[images]
        ties = set_hashes(total, places[:, None], seeds)[:, 0]
        values = held = figures(self.space, images, places)
        size = count if exact else null_size(count)
        if size < count:
            part = thinned(total, places, size, ties)
            ties, held = set_hashes(total, part[:, None], seeds)[:, 0], figures(self.space, images, part)
        chance = self._null(size, images)
        for name in FIGURES:
            columns.put(name, values[name])
            columns.put(f"z_{name}", z_scores(held[name], chance[name]))
            columns.put(f"percentile_{name}", percentiles(held[name], chance[name], ties, chance[TIE]))
        if self.grid is None:
            return
        mask = torch.zeros(len(places), total, dtype=torch.bool, device=places.device)
        for name, values_ in row_bias(mask.scatter_(1, places, True), self.grid).items():
            columns.put(name, values_)

    def _against_rows(self, images: torch.Tensor, places: torch.Tensor, grid: tuple[int, int], columns: _Columns) -> None:
        """The rival explanation: random subsets with as many tokens in every row of the image as the kept set has."""
        subsets = row_matched_subsets(places, grid, self.seeds[images], MATCHED_SUBSETS)
        both = torch.cat([places[:, None], subsets], 1)  # [R, 1 + S, K]
        found = spread(self.space, images.repeat_interleave(both.shape[1]), both.flatten(0, 1))
        for name in MATCHED:
            values = found[name].view(both.shape[:2])
            columns.put(f"row_z_{name}", z_scores(values[:, 0], values[:, 1:]))

    def _one_an_image(self, images: torch.Tensor) -> torch.Tensor:
        """Places of the first row of each image: images are the independent unit, and one kept set each is enough."""
        new = torch.ones(len(images), dtype=torch.bool, device=images.device)
        new[1:] = images[1:] != images[:-1]
        return new.nonzero()[:, 0]

    def _null(self, keep: int, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """What chance gives on the images [R] that kept so many; drawn once for each image and count."""
        known = self.nulls.setdefault(keep, {})
        new = torch.tensor([i for i in torch.unique(images).tolist() if i not in known], dtype=torch.int64, device=images.device)
        if len(new):
            drawn = null(self.space, keep, self.seeds, images=new)
            for place, image in enumerate(new.tolist()):
                known[image] = {name: values[place] for name, values in drawn.items()}
        return {name: torch.stack([known[i][name] for i in images.tolist()]) for name in (*FIGURES, TIE)}

    def _scores(self, recorder: Recorder) -> dict[str, np.ndarray]:
        """Collapse of the scores of the first attention-ranked step, over the tokens that stood there."""
        scores, ids = recorder.scores, recorder.scored_ids
        assert scores is not None and ids is not None, "scores come with the tokens that they belong to"
        found = score_collapse(scores)
        clusters = self.space.clusters.to(ids.device)[self.image].gather(1, ids.clamp_min(0))
        found["cluster_mass"] = cluster_mass(clusters, scores.masked_fill(ids < 0, 0.0))
        named = {"effective_support": "score_support"}
        return {named.get(name, f"score_{name}"): values.double().cpu().numpy() for name, values in found.items()}

    def _layers(self, cell: Cell, recorder: Recorder) -> np.ndarray:
        """LAYERS of every LLM layer: float32 [R, layers, LAYERS]."""
        table = np.full((len(self.questions), len(recorder.ids), len(LAYERS)), np.nan, dtype=np.float32)
        evidence = None if cell.merges or cell.grid is not None else self.evidence
        for layer, ids in enumerate(recorder.ids):
            found, held, recall = {}, None, None
            if evidence is not None:
                held = evidence.gather(1, ids.clamp_min(0)) & (ids >= 0)
                size = evidence.sum(1)
                found["recall"] = recall = torch.where(size > 0, held.sum(1) / size.clamp_min(1), torch.nan)
            if recorder.attention:
                found |= attention_figures(recorder.attention_rows[layer], held)
                if recall is not None:  # of all evidence: what is gone cannot be found
                    found["evidence_top"] = (found["evidence_top"] * recall).where(recall != 0, 0.0)
            for place, name in enumerate(LAYERS):
                if name in found:
                    table[:, layer, place] = found[name].float().cpu().numpy()
        return table


@dataclass(frozen=True)
class _Columns:
    """Columns of figures by name, float [R] each, and the rows of them that are being filled."""

    table: dict[str, np.ndarray]
    rows: torch.Tensor  # int64 [R']

    def put(self, name: str, values: torch.Tensor) -> None:
        self.table[name][self.rows.cpu().numpy()] = values.double().cpu().numpy()


def null_size(count: int) -> int:
    """Return the size of the random subsets for a set whose size differs by question: near it, and few in a run.

    Args:
        count: tokens that a question kept.

    >>> null_size(86), null_size(63)
    (80, 63)
    """
    return count if count < _FEW else count // _RUNG * _RUNG
