"""Figures of the answers of one cell: its score, accuracy, and everything that compares its answers with those of other cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from harness.results.cell_kinds import is_competitor, removes_nothing
from harness.results.leading_figure import CellScores, LeadingFigure, common, distinct
from harness.results.types import Floats, Integers, JsonObject
from methods.keep import Keep
from metrics import accuracy as acc
from metrics import evidence
from metrics.statistics import Estimate, bootstrap_mean, holm, mcnemar_exact

MEAN_SCORE = LeadingFigure()
TESTS = ("difference_none", "difference_like", "difference_winner")
"""The three questions asked of a method: what it loses, what its ranking is worth, whether it is the best."""
_FIGURES = (
    "score", "accuracy", "families", "retention", "retention_adjusted", *TESTS, "mcnemar", "non_inferior", "loyalty",
    "difficulty",
)  # fmt: skip

ScoredCells = Sequence[tuple[int, JsonObject, CellScores]]
"""The cells of a run, each with its id, its facts and its scores."""


def best_methods(cells: ScoredCells, leading: LeadingFigure = MEAN_SCORE) -> dict[Keep, str]:
    """Return the best competitor at each budget by the leading figure, the first of equals.

    Args:
        cells: of a run, in its order; those that are no competitors, have no budget or no score are passed over.
        leading: the figure by which they are ranked.

    Returns:
        Method expressions by budget.
    """
    best: dict[Keep, tuple[float, str]] = {}
    for _, facts, scores in cells:
        keep = Keep.stored(facts)
        if not is_competitor(facts) or keep is None or not scores.scored:
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
    seed: int,
    margin: float,
    leading: LeadingFigure = MEAN_SCORE,
) -> JsonObject:
    """Return the leading figure, accuracy and everything that compares a cell's answers with those of other cells of the run.

    Args:
        own: scores of the cell.
        by_name: scores of the cells of the run that have samples, by method and budget.
        winners: from `best_methods`.
        facts: of the cell.
        seed: of intervals and tests.
        margin: loss of the leading figure, a share of its scale, below which a method counts as not inferior to `none`.
        leading: the figure by which cells are ranked and tested.

    Returns:
        ``n``, ``n_images`` and the figures of a cell of ``summary.json`` that follow from answers; None is not measured.
        ``families`` is by place in `RunQuestions.families`; the differences of `TESTS` are `PairedDifference` still, for
        `adjust_for_multiple_tests`.
    """
    scores, images, keep = own.score, own.image, Keep.stored(facts)
    seen = images[own.answered]
    out: JsonObject = {"n": len(seen), "n_images": distinct(seen), **dict.fromkeys(_FIGURES)}
    if not own.scored:  # a task without answers ranks by loyalty alone
        return out
    out["accuracy"] = acc.accuracy(scores, images, seed=seed)
    out["score"] = leading.shown(out["accuracy"] if leading.is_mean else leading.estimate(own, seed))
    out["families"] = acc.by_family(scores, own.family, images, seed=seed)
    none, blind, small = (by_name.get(key) for key in (("none", None), ("blind", None), ("downsample", keep)))
    whole = removes_nothing(facts)  # it is none itself: there is nothing to test
    rivals = {} if whole else {"none": none if facts["method"] != "none" else None, "like": by_name.get((facts["like"], keep))}
    winner = None if keep is None else winners.get(keep)
    if winner is not None and winner != facts["method"] and is_competitor(facts):
        rivals["winner"] = by_name[winner, keep]
    for name, rival in rivals.items():
        if rival is not None:
            out[f"difference_{name}"] = leading.difference(own, rival, seed)
    if out["n_images"] == len(seen) and not whole:  # questions of one image are not independent, as the test asks
        there = {name: rival.score for name, rival in rivals.items() if rival is not None}
        out["mcnemar"] = {name: mcnemar_exact(*common(scores, rival_scores)) for name, rival_scores in there.items()}
    if none is None:
        return out
    out["retention"] = acc.retention(*leading.levels(own, none))
    if blind is not None:
        out["retention_adjusted"] = acc.retention_adjusted(*leading.levels(own, none, blind))
    if out["difference_none"] is not None:
        out["non_inferior"] = leading.claim(out["difference_none"], own, none, margin)
    if small is not None and facts["method"] not in ("none", "downsample") and not whole:
        out["difficulty"] = acc.difficulty(scores, none.score, small.score, images)
    return out


def loyalty_figures(columns: Mapping[str, Floats], images: Integers, seed: int) -> JsonObject | None:
    """Return how far a cell's answers are those of `none`; None where that was not measured.

    Args:
        columns: [n] each, of `sample_columns.NUMBER_COLUMNS`: ``agree`` (share), ``kl`` (nats).
        images: [n], not falling.
        seed: of the bootstrap.
    """
    if not np.isfinite(columns["agree"]).any():
        return None
    return {"agreement": _mean(columns["agree"], images, seed), "kl": _mean(columns["kl"], images, seed)}


def evidence_figures(columns: Mapping[str, Floats], own: CellScores, none: CellScores | None, seed: int) -> JsonObject | None:
    """Return how much of the evidence a cell kept in the samples that it answered, and what that did to accuracy.

    Args:
        columns: [n] each, of `sample_columns.NUMBER_COLUMNS`.
        own: scores of the cell.
        none: scores of the cell without pruning, where the run has one.
        seed: of the bootstrap.

    Returns:
        Recall of the evidence, accuracy by recall, and the evidence swap with the part of the loss that it gives back; None
        where no question names its evidence, or no answer has a score.
    """
    columns, images = {name: column[own.answered] for name, column in columns.items()}, own.image[own.answered]
    if not np.isfinite(columns["recall"]).any() or not np.isfinite(columns["score"]).any():
        return None
    out: JsonObject = {
        **evidence.summarise(columns["recall"], columns["score"], images, seed=seed),
        "recall_before": _mean(columns["recall_before"], images, seed),
        "swap_gain": None,
        "swap_loss": None,
        "swap_share": None,
    }
    swapped = columns["swap_score"]
    if none is not None and np.isfinite(swapped).any():
        out |= evidence.swap(swapped, columns["score"], none.score[own.answered], images, seed=seed)
    return out


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


def adjust_for_multiple_tests(cells: Sequence[JsonObject]) -> None:
    """Turn the differences of `TESTS` into mappings with Holm-adjusted p values, in place.

    The correction is over competitors x budgets x tasks, separately for each of the three questions asked.

    Args:
        cells: of a run, with the figures of `answer_figures`; p values of cells that do not compete stay unadjusted.
    """
    for name in TESTS:
        chosen = [cell for cell in cells if cell[name] is not None and is_competitor(cell)]
        adjusted = holm([cell[name].p for cell in chosen])
        for cell in cells:
            if cell[name] is not None:
                cell[name] = {**asdict(cell[name]), "p_holm": None}
        for cell, p in zip(chosen, adjusted):
            cell[name]["p_holm"] = None if p is None else float(p)


def _mean(values: Floats, images: Integers, seed: int) -> Estimate | None:
    known = np.isfinite(values)
    return bootstrap_mean(values[known], images[known], seed=seed) if known.any() else None
