"""What explains accuracy: figures of the kept tokens, within question and budget; families of methods, by image complexity."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from methods.keep import Keep
from metrics.arrays import Flags, Floats, Whole
from metrics.clusters import aligned, cluster_codes
from metrics.ranks import within_rank_sums
from metrics.resampling import CHUNK, resampled
from metrics.statistics import bootstrap_mean, holm, paired_difference, percentiles

FAMILIES = ("attention", "diversity", "both", "merging", "place", "chance")
"""Families of methods that are compared, by what they rank tokens by; see `methods.registry.FAMILIES`."""
_TIE = 1e-9  # of accuracy: means that part by less are equal, but for their rounding
STRATA = ("lowest", "middle", "highest")
"""Thirds of the images by complexity."""
LISTS = ("across_methods", "across_methods_before_llm", "across_images")
"""The lists of `correlations`."""


@dataclass(frozen=True)
class CellColumns:
    """One method at one budget, and what is known of each of its questions."""

    method: str
    keep: Keep | int | None  # the budget; None where it means nothing
    ranks_by: str  # family of the method
    before_llm: bool  # whether all LLM layers see the same tokens
    columns: Mapping[str, NDArray[np.generic]]  # [n] each: question, image, family as objects; score and any figures as numbers


def correlations(cells: Sequence[CellColumns], seed: int = 0, resamples: int = 2000) -> dict[str, dict[str, Any]]:
    """Return the rank correlation of each figure of the kept tokens with the score: which of them go with right answers.

    Three lists. ``across_methods``: within question and budget, so that image, question and budget cannot explain it.
    ``across_methods_before_llm``: the same of methods that prune before the LLM, within equal numbers of kept tokens;
    ``z_`` figures are left out there, being the figures themselves, shifted and scaled by constants of image and count.
    ``across_images``: within method, budget and question family: whether a method fails on the images where, say, its
    kept set is less diverse. All columns of numbers are taken but ``percentile_`` ones, which rank nearly like ``z_``.

    The methods are taken as they are: p speaks of other images, not of other methods. It is association, not cause.

    Args:
        cells: of methods that keep original tokens.
        seed: of bootstrap and test.
        resamples: draws of the bootstrap.

    Returns:
        For each list ``rows`` by falling |rho|: ``figure``; ``value``, ``lo``, ``hi`` of `within_rank_correlation` (95 %,
        images resampled); ``n`` answers, ``n_images``; ``p``, two-sided, by flipping the signs of the images' sums of
        products of ranks, as in `paired_difference`, so at least 1/4001; ``p_holm`` over the list. A figure that does not
        vary has no row.
        And ``groups``, in how many it is compared, and ``mixed``, in how many of them scores differ: the others hold
        rho down.
    """
    cells = [cell for cell in cells if len(cell.columns["score"])]
    if not cells:
        return {name: {"groups": 0, "mixed": 0, "rows": []} for name in LISTS}
    sizes = [len(cell.columns["score"]) for cell in cells]
    question, image, kind = (
        cluster_codes(np.concatenate([c.columns[n] for c in cells])) for n in ("question", "image", "family")
    )
    method, keep, early = (
        np.repeat(values, sizes)
        for values in (
            cluster_codes([cell.method for cell in cells]),
            cluster_codes([cell.keep for cell in cells]),
            [cell.before_llm for cell in cells],
        )
    )
    table = _numbers(cells, sizes)
    asked = _joined(question, keep)
    alike = _joined(asked, cluster_codes(table["kept_count"])) if "kept_count" in table else asked
    bare = {name: column[early] for name, column in table.items() if not name.startswith("z_")}
    return {
        "across_methods": _listed(table, asked, image, False, seed, resamples),
        "across_methods_before_llm": _listed(bare, alike[early], image[early], False, seed, resamples),
        "across_images": _listed(table, _joined(method, keep, kind), image, True, seed, resamples),
    }


def _numbers(cells: Sequence[CellColumns], sizes: Sequence[int]) -> dict[str, Floats]:
    """All columns of numbers as one table, float64 [n] each; nan where a cell has no such column."""
    given = [{k: v for k, v in cell.columns.items() if v.ndim == 1 and v.dtype.kind in "biuf"} for cell in cells]
    names = [name for name in dict.fromkeys(name for one in given for name in one) if not name.startswith("percentile_")]
    blank = [np.full(size, np.nan) for size in sizes]
    return {name: np.concatenate([one.get(name, no) for one, no in zip(given, blank)]).astype(np.float64) for name in names}


def _joined(*codes: Whole) -> Whole:
    """One code for each combination of codes."""
    joined = codes[0]
    for code in codes[1:]:
        joined = joined * (int(code.max(initial=0)) + 1) + code
    return joined


def _listed(
    table: Mapping[str, Floats], groups: Whole, image: Whole, spanning: bool, seed: int, resamples: int
) -> dict[str, Any]:
    """Each figure of the table against its ``score``."""
    score = table["score"]
    rows: list[dict[str, Any]] = []
    for name in table:
        if name == "score":
            continue
        sums = within_rank_sums(table[name], score, groups, image, spanning)
        figure = sums.correlation(seed, resamples)
        if figure.value is not None:
            counts = {"n": sums.n, "n_images": len(sums.sums)}
            rows.append({"figure": name, **figure.as_dict(), **counts, "p": sums.p(seed)})
    for row, p in zip(rows, holm([row["p"] for row in rows])):
        row["p_holm"] = p
    scored = ~np.isnan(score)
    known, dense = np.unique(groups[scored], return_inverse=True)
    low, high = np.full(len(known), np.inf), np.full(len(known), -np.inf)
    np.minimum.at(low, dense, score[scored])
    np.maximum.at(high, dense, score[scored])
    return {
        "groups": len(known),
        "mixed": int((high > low).sum()),
        "rows": sorted(rows, key=lambda row: -abs(row["value"])),
    }


def strata(cells: Sequence[CellColumns], complexity: Mapping[Hashable, float], seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Return which family of methods is right most often on simple and on complex images.

    Images are cut into `STRATA` of equal size by complexity, ties in the order given. A family's score on a question is
    the mean over its cells of the budget, so a family with many variants of one method is mostly that method. The winner
    is chosen on the same answers on which it is compared, so its p is too small for a claim made in advance; of a tie there
    is none.

    Args:
        cells: of all methods to compare; those of no known family take part in ``best_method`` alone, those without
            a budget not at all.
        complexity: image -> for instance the effective rank of all its tokens; other images are left out.
        seed: of bootstrap and tests.

    Returns:
        ``strata``: ``stratum``, ``n_images``, ``lo`` and ``hi`` complexity. ``rows``, one a budget and stratum: ``keep``,
        ``stratum``, ``n``, ``n_images``; ``families`` {name: value, lo, hi, cells}; ``winner``, ``runner_up`` and
        ``winner_minus_runner_up``, ``attention_minus_diversity`` {value, lo, hi, p, p_holm}, None where there are not
        both (`paired_difference`; Holm over the rows); ``best_method`` {method, value, lo, hi}. ``interactions``, one a
        budget: ``keep`` and attention minus diversity on the lowest less the same on the highest {value, lo, hi, p,
        p_holm}, p by permuting images between the two strata.

    Source: after AgilePruner, arXiv:2603.01236: attention does better on simple images, diversity on complex ones.
    """
    images = [image for image, value in complexity.items() if np.isfinite(value)]
    values = np.array([complexity[image] for image in images])
    parts = np.array_split(np.argsort(values, kind="stable"), len(STRATA))
    stratum = {images[i]: place for place, part in enumerate(parts) for i in part}
    rows, interactions = [], []
    for keep in sorted({cell.keep for cell in cells if cell.keep is not None}, reverse=True):
        scores, image, place = _aligned_scores([cell for cell in cells if cell.keep == keep], stratum)
        chosen = [cell for cell in cells if cell.keep == keep]
        families = {
            name: [i for i, cell in enumerate(chosen) if cell.ranks_by == name]
            for name in FAMILIES
            if any(cell.ranks_by == name for cell in chosen)
        }
        means = {name: _mean_over_cells(scores[members]) for name, members in families.items()}
        for i, name in enumerate(STRATA):
            inside = place == i
            if inside.any():
                row = _row(
                    {family: mean[inside] for family, mean in means.items()}, scores[:, inside], chosen, image[inside], seed
                )
                for family, figure in row["families"].items():
                    figure["cells"] = len(families[family])
                rows.append({"keep": keep, "stratum": name, **row})
        if "attention" in means and "diversity" in means:
            found = interaction(means["attention"] - means["diversity"], image, place == 0, place == len(STRATA) - 1, seed)
            if found is not None:
                interactions.append({"keep": keep, **found})
    for name in ("winner_minus_runner_up", "attention_minus_diversity"):
        _adjust([row[name] for row in rows if row[name] is not None])
    _adjust(interactions)
    spans = [
        {"stratum": name, "n_images": len(part), "lo": float(values[part].min()), "hi": float(values[part].max())}
        for name, part in zip(STRATA, parts)
        if len(part)
    ]
    return {"strata": spans, "rows": rows, "interactions": interactions}


def _aligned_scores(cells: Sequence[CellColumns], stratum: Mapping[Hashable, int]) -> tuple[Floats, NDArray[np.object_], Whole]:
    """Scores [cells, n] of the questions on images of a stratum, nan where a cell lacks one; their images and strata [n]."""
    home = {q: i for cell in cells for q, i in zip(cell.columns["question"], cell.columns["image"]) if i in stratum}
    place = {question: column for column, question in enumerate(home)}
    scores = np.full((len(cells), len(home)), np.nan)
    for row, cell in enumerate(cells):
        asked = [place.get(question, -1) for question in cell.columns["question"]]
        known = np.array(asked, dtype=np.int64) >= 0
        scores[row, np.array(asked, dtype=np.int64)[known]] = cell.columns["score"][known]
    return scores, np.array(list(home.values()), dtype=object), np.array([stratum[i] for i in home.values()], dtype=np.int64)


def _mean_over_cells(scores: Floats) -> Floats:
    """Mean [n] of scores [cells, n] over the cells that have one; nan of none."""
    known = (~np.isnan(scores)).sum(0)
    means: Floats = np.divide(np.nansum(scores, axis=0), known, out=np.full(scores.shape[1], np.nan), where=known > 0)
    return means


def _row(
    means: Mapping[str, Floats], scores: Floats, cells: Sequence[CellColumns], image: NDArray[np.object_], seed: int
) -> dict[str, Any]:
    """One budget and stratum: families, the winner, the differences, and the best single method."""
    figures = {name: bootstrap_mean(mean, image, seed) for name, mean in means.items()}
    scored = {name: figure.value for name, figure in figures.items() if figure.value is not None}
    order = sorted(scored, key=lambda name: -scored[name])

    def differ(one: str, other: str) -> dict[str, float | None]:
        return {**paired_difference(means[one], means[other], image, seed).as_dict(), "p_holm": None}

    known = ~np.isnan(scores)
    totals = np.divide(np.nansum(scores, axis=1), known.sum(1), out=np.full(len(scores), -np.inf), where=known.any(1))
    best = int(totals.argmax())
    tied = len(order) > 1 and abs(scored[order[0]] - scored[order[1]]) < _TIE
    both = "attention" in order and "diversity" in order
    return {
        "n": scores.shape[1],
        "n_images": len(set(image)),
        "families": {name: figure.as_dict() for name, figure in figures.items()},
        "winner": order[0] if order and not tied else None,
        "runner_up": order[1] if len(order) > 1 and not tied else None,
        "winner_minus_runner_up": differ(order[0], order[1]) if len(order) > 1 and not tied else None,
        "attention_minus_diversity": differ("attention", "diversity") if both else None,
        "best_method": {"method": cells[best].method, **bootstrap_mean(scores[best], image, seed).as_dict()},
    }


def interaction(
    difference: Floats, image: NDArray[np.generic], low: Flags, high: Flags, seed: int, permutations: int = 4000
) -> dict[str, Any] | None:
    """Return the mean difference in the low stratum less that in the high one, with an interval and a two-sided p.

    Each stratum's mean is the ratio of its images' sums. The interval resamples images within each stratum; the test
    deals the images of both anew, p = (hits + 1) / (permutations + 1) (Good 2005, section 3.3).

    Args:
        difference: [n] of one family's score less another's on each question; nan is left out.
        image: [n] the image of each question.
        low: [n] whether the question is on an image of the low stratum.
        high: [n] the same of the high stratum.
        seed: of draws and deals.
        permutations: deals.

    Returns:
        ``value``, ``lo``, ``hi``, ``p``, and ``p_holm``, None until it is corrected; None where a stratum has no value.
    """
    sums: list[Floats] = []
    for part in (low, high):
        codes, (values,) = aligned(image[part], difference[part])
        if not len(values):
            return None
        sums.append(np.stack([np.bincount(codes, weights=values), np.bincount(codes)], 1))
    split, pool = len(sums[0]), np.concatenate(sums)
    ratio: Callable[[Floats], Floats] = lambda totals: totals[..., 0] / totals[..., 1]
    value = float(ratio(sums[0].sum(0)) - ratio(sums[1].sum(0)))
    interval: tuple[float, float] | tuple[None, None] = (None, None)
    if min(map(len, sums)) > 1:
        draws = [ratio(resampled(part, seed + i, 2000)) for i, part in enumerate(sums)]
        interval = percentiles(draws[0] - draws[1], 0.95)
    rng, rows, hits = np.random.default_rng([seed, 2]), max(1, CHUNK // len(pool)), 0
    for start in range(0, permutations, rows):
        dealt = rng.random((min(rows, permutations - start), len(pool))).argsort(1) < split
        found = ratio(dealt @ pool) - ratio(~dealt @ pool)
        hits += int((np.abs(found) >= abs(value) - 1e-9).sum())
    p = (hits + 1) / (permutations + 1)
    return {"value": value, "lo": interval[0], "hi": interval[1], "p": p, "p_holm": None}


def _adjust(found: Sequence[dict[str, Any]]) -> None:
    for one, p in zip(found, holm([one["p"] for one in found])):
        one["p_holm"] = p
