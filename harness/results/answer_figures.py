"""Figures of the answers of one cell: its score, accuracy, and everything that compares its answers with those of other cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.results.cell_kinds import is_competitor, is_tested, removes_nothing
from harness.results.difference_families import DIFFERENCES, DifferenceFamilies
from harness.results.leading_figure import CellScores, LeadingFigure, common, distinct
from harness.results.loyalty import ALL
from harness.results.types import Floats, JsonObject
from methods.keep import Keep
from metrics import accuracy as acc
from metrics import evidence
from metrics.intervals import proportion
from metrics.statistics import mcnemar_exact

MEAN_SCORE = LeadingFigure()
_FIGURES = (
    "score", "accuracy", "families", "retention", "retention_adjusted", *DIFFERENCES, "mcnemar", "non_inferior", "loyalty",
    "difficulty",
)  # fmt: skip

ScoredCells = Sequence[tuple[int, JsonObject, CellScores]]
"""The cells of a run, each with its id, its facts and its scores."""


def best_methods(cells: ScoredCells, leading: LeadingFigure = MEAN_SCORE) -> dict[Keep, str]:
    """Return the best competitor at each budget by the leading figure, the first of equals.

    Args:
        cells: of a run, in its order; those that are not tested, have no budget or no score are passed over.
        leading: the figure by which they are ranked.

    Returns:
        Method expressions by budget.
    """
    best: dict[Keep, tuple[float, str]] = {}
    for _, facts, scores in cells:
        keep = Keep.stored(facts)
        if not is_tested(facts) or keep is None or not scores.scored:
            continue
        level = leading.level(scores)
        if level == level and (keep not in best or level > best[keep][0]):
            best[keep] = level, facts["method"]
    return {keep: method for keep, (_, method) in best.items()}


def answer_figures(
    own: CellScores,
    by_name: Mapping[tuple[str, Keep | None], CellScores],
    winners: Mapping[Keep, str],
    facts: JsonObject,
    families: DifferenceFamilies,
    leading: LeadingFigure = MEAN_SCORE,
) -> JsonObject:
    """Return the leading figure, accuracy and everything that compares a cell's answers with those of other cells of the run.

    Args:
        own: scores of the cell.
        by_name: scores of the cells of the run that have samples, by method and budget.
        winners: from `best_methods`.
        facts: of the cell.
        families: that take in the cell's differences; their p values, and what is claimed of no loss, come with
            `DifferenceFamilies.test`.
        leading: the figure by which cells are ranked and tested.

    Returns:
        ``n``, ``n_images`` and the figures of a cell of ``summary.json`` that follow from answers; None is not measured.
        ``families`` is by place in `RunQuestions.families`.
    """
    scores, images, keep = own.score, own.image, Keep.stored(facts)
    seen = images[own.answered]
    out: JsonObject = {"n": len(seen), "n_images": distinct(seen), **dict.fromkeys(_FIGURES)}
    if not own.scored:  # a task without answers ranks by loyalty alone
        return out
    rho = leading.of_scores.rho
    out["accuracy"] = proportion(scores, images, rho)
    out["score"] = leading.shown(out["accuracy"] if leading.is_mean else leading.estimate(own))
    out["families"] = acc.by_family(scores, own.family, images, rho)
    none, blind, small = (by_name.get(key) for key in (("none", None), ("blind", None), ("downsample", keep)))
    whole = removes_nothing(facts)  # it is none itself: there is nothing to test
    rivals = {} if whole else {"none": none if facts["method"] != "none" else None, "like": by_name.get((facts["like"], keep))}
    winner = None if keep is None else winners.get(keep)
    if winner is not None and winner not in (facts["method"], facts.get("same_as")) and is_competitor(facts):
        rivals["winner"] = by_name[winner, keep]
    there = {name: rival for name, rival in rivals.items() if rival is not None}
    if out["n_images"] == len(seen) and not whole:  # questions of one image are not independent, as the test asks
        out["mcnemar"] = {name: mcnemar_exact(*common(scores, rival.score)) for name, rival in there.items()}
    if small is not None and is_competitor(facts):
        there["downsample"] = small
    for name, rival in there.items():
        families.add(f"difference_{name}", own, rival, facts, out)
    if none is None:
        return out
    itself = whole or facts["method"] == "none"
    share = ALL if itself and leading.level(none) > 0 else leading.retention(own, none)
    out["retention"] = None if share.value is None else share
    if blind is not None:
        found = leading.retention_adjusted(own, none, blind)
        out["retention_adjusted"] = ALL if itself and found is not None else found
    if small is not None and facts["method"] not in ("none", "downsample") and not whole:
        out["difficulty"] = acc.difficulty(scores, none.score, small.score, images, rho)
    return out


def evidence_figures(
    columns: Mapping[str, Floats], own: CellScores, leading: LeadingFigure = MEAN_SCORE, recall_rho: float = 0.0
) -> JsonObject | None:
    """Return how much of the evidence a cell kept in the samples that it answered, and its accuracy by that.

    Args:
        columns: [n] each, of `sample_columns.NUMBER_COLUMNS`.
        own: scores of the cell.
        leading: what is known of the scores of an image.
        recall_rho: correlation of the recalls of an image.

    Returns:
        Recall of the evidence and accuracy by recall, and None for what `EvidenceFamilies` adds; None where no question names
        its evidence, or no answer has a score.
    """
    recall, before, images = (column[own.answered] for column in (columns["recall"], columns["recall_before"], own.image))
    scores = own.score[own.answered]
    if not np.isfinite(recall).any() or not np.isfinite(scores).any():
        return None
    entering = proportion(before, images, recall_rho)
    return {
        **evidence.summarise(recall, scores, images, leading.of_scores.rho, recall_rho),
        "recall_before": None if entering.value is None else entering,
        "recall_over_control": None,
        "swap_gain": None,
        "swap_loss": None,
        "swap_share": None,
    }


def seed_figures(own: CellScores, repeats: Mapping[int, float], leading: LeadingFigure = MEAN_SCORE) -> JsonObject | None:
    """Return the spread of the leading figure over the seeds of a random choice; None where one seed ran alone.

    Args:
        own: scores of the cell under the seed of the run.
        repeats: the figure under each further seed, a share of its scale.
        leading: the figure.
    """
    if not repeats or not own.scored:
        return None
    levels = np.array([leading.level(own), *repeats.values()])
    return {
        "seeds": len(levels), "mean": levels.mean(), "sd": levels.std(ddof=1), "lowest": levels.min(), "highest": levels.max(),
    }  # fmt: skip
