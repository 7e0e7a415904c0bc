"""What explains accuracy: figures of the kept tokens, within question and budget; families of methods, by image complexity."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from methods.keep import Keep
from metrics.arrays import Flags, Floats, Whole
from metrics.clusters import aligned, cluster_codes
from metrics.design_effect import IntraclassCorrelation
from metrics.differences import difference_of, mean_difference
from metrics.intervals import proportion
from metrics.label_permutations import permuted_labels
from metrics.ranks import RankSums, products_by_cluster, within_rank_sums
from metrics.resampling import CHUNK
from metrics.statistics import holm
from metrics.step_down import step_down

FAMILIES = ("attention", "diversity", "coverage", "change", "both", "merging", "place", "chance")
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

    Two tests: ``p`` takes the methods as they are and speaks of other images; ``p_methods`` takes the images as they are and
    speaks of other methods, see `permuted_labels`. A method that is given twice under different names, such as with two
    options, counts twice there. It is association, not cause.

    Args:
        cells: of methods that keep original tokens.
        seed: of bootstrap and tests.
        resamples: draws of the bootstrap.

    Returns:
        For each list ``rows`` by falling |rho|: ``figure``; ``value``, ``lo``, ``hi`` of `within_rank_correlation` (95 %,
        images resampled); ``n`` answers, ``n_images``; ``p``, two-sided, by flipping the signs of the images' sums of
        products of ranks, one set of flips for the list (`step_down`), and ``p_adjusted`` over the list, max-T; ``p_methods``
        and ``p_methods_adjusted`` by permuting the methods' labels, None ``across_images`` and of a figure that under four
        methods have. A figure that does not vary has no row.
        And ``groups``, in how many it is compared, and ``mixed``, in how many of them scores differ: the others hold
        rho down. ``methods`` that are compared, and ``least_p_methods``, the smallest p that so many can give.
    """
    cells = [cell for cell in cells if len(cell.columns["score"])]
    if not cells:
        return {name: {"groups": 0, "mixed": 0, "methods": 0, "least_p_methods": None, "rows": []} for name in LISTS}
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
        "across_methods": _listed(table, asked, image, method, False, seed, resamples),
        "across_methods_before_llm": _listed(bare, alike[early], image[early], method[early], False, seed, resamples),
        "across_images": _listed(table, _joined(method, keep, kind), image, method, True, seed, resamples),
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
    table: Mapping[str, Floats], groups: Whole, image: Whole, method: Whole, spanning: bool, seed: int, resamples: int
) -> dict[str, Any]:
    """Each figure of the table against its ``score``; where groups span images, methods are not compared."""
    score = table["score"]
    given = {name: within_rank_sums(table[name], score, groups, image, spanning) for name in table if name != "score"}
    found: dict[str, RankSums] = {name: sums for name, sums in given.items() if sums.value is not None}
    flipped = step_down(products_by_cluster([*found.values()]), seed=seed)
    permuted = permuted_labels([] if spanning else [*found.values()], groups, method, seed)
    rows = []
    for place, (name, sums) in enumerate(found.items()):
        counts = {"n": sums.n, "n_images": len(sums.sums)}
        tests: dict[str, float | None] = {"p": float(flipped.p[place]), "p_adjusted": float(flipped.p_adjusted[place])}
        for key, values in (("p_methods", permuted.p), ("p_methods_adjusted", permuted.p_adjusted)):
            tests[key] = None if spanning or np.isnan(values[place]) else float(values[place])
        rows.append({"figure": name, **sums.correlation(seed, resamples).as_dict(), **counts, **tests})
    scored = ~np.isnan(score)
    known, dense = np.unique(groups[scored], return_inverse=True)
    low, high = np.full(len(known), np.inf), np.full(len(known), -np.inf)
    np.minimum.at(low, dense, score[scored])
    np.maximum.at(high, dense, score[scored])
    return {
        "groups": len(known),
        "mixed": int((high > low).sum()),
        "methods": len(np.unique(method[scored])),
        "least_p_methods": permuted.least,
        "rows": sorted(rows, key=lambda row: -abs(row["value"])),
    }


def strata(cells: Sequence[CellColumns], complexity: Mapping[Hashable, float], seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Return which family of methods is right most often on simple and on complex images.

    Images are cut into `STRATA` of equal size by complexity, ties in the order given. A family's score on a question is
    the mean over its cells of the budget, so a family with many variants of one method is mostly that method. The winner
    is chosen on the same answers on which it is compared, so its p is too small for a claim made in advance; of a tie there
    is none. Intervals are those of `proportion` and `mean_difference`, with correlations pooled over the budget.

    Args:
        cells: of all methods to compare; those of no known family take part in ``best_method`` alone, those without
            a budget not at all.
        complexity: image -> for instance the effective rank of all its tokens; other images are left out.
        seed: of the tests.

    Returns:
        ``strata``: ``stratum``, ``n_images``, ``lo`` and ``hi`` complexity. ``rows``, one a budget and stratum: ``keep``,
        ``stratum``, ``n``, ``n_images``; ``families`` {name: value, lo, hi, cells}; ``winner``, ``runner_up`` and
        ``winner_minus_runner_up``, ``attention_minus_diversity`` {value, lo, hi, p, p_adjusted}, None where there are
        not both (`step_down` over the rows, signs of whole images flipped); ``best_method`` {method, value, lo, hi}.
        ``interactions``, one a budget: ``keep`` and attention minus diversity on the lowest less the same on the highest
        {value, lo, hi, p, p_adjusted}, p by permuting images between the two strata, Holm over the budgets.

    Source: after AgilePruner, arXiv:2603.01236: attention does better on simple images, diversity on complex ones.
    """
    images = [image for image, value in complexity.items() if np.isfinite(value)]
    values, index = np.array([complexity[image] for image in images]), {image: place for place, image in enumerate(images)}
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
        rho = _together(scores, image), _together([one - other for one, other in combinations(means.values(), 2)], image)
        for i, name in enumerate(STRATA):
            inside = place == i
            if inside.any():
                row = _row({family: mean[inside] for family, mean in means.items()}, scores[:, inside], chosen,
                           image[inside], index, rho)  # fmt: skip
                for family, figure in row["families"].items():
                    figure["cells"] = len(families[family])
                rows.append({"keep": keep, "stratum": name, **row})
        if "attention" in means and "diversity" in means:
            gap = means["attention"] - means["diversity"]
            found = interaction(gap, image, place == 0, place == len(STRATA) - 1, seed, rho=rho[1])
            if found is not None:
                interactions.append({"keep": keep, **found})
    for name in ("winner_minus_runner_up", "attention_minus_diversity"):
        _adjust([row[name] for row in rows if row[name] is not None], seed)
    for one, p in zip(interactions, holm([one["p"] for one in interactions])):
        one["p_adjusted"] = p
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


def _together(columns: Iterable[Floats], image: NDArray[np.object_]) -> float:
    """The correlation of the values of an image, pooled over columns [n]."""
    pooled = IntraclassCorrelation()
    for column in columns:
        pooled.add(column, image)
    return pooled.rho


def _row(
    means: Mapping[str, Floats],
    scores: Floats,
    cells: Sequence[CellColumns],
    image: NDArray[np.object_],
    index: Mapping[Hashable, int],
    rho: tuple[float, float],
) -> dict[str, Any]:
    """One budget and stratum: families, the winner, the differences, and the best single method; rho of scores and changes."""
    figures = {name: proportion(mean, image, rho[0]) for name, mean in means.items()}
    scored = {name: figure.value for name, figure in figures.items() if figure.value is not None}
    order = sorted(scored, key=lambda name: -scored[name])

    def differ(one: str, other: str) -> dict[str, Any]:
        codes, found = [index[i] for i in image], mean_difference(means[one], means[other], image, rho[1])
        totals = np.bincount(codes, weights=np.nan_to_num(means[one] - means[other]), minlength=len(index))
        shown = (None, None, None) if found is None else (found.value, found.lo, found.hi)
        return {**dict(zip(("value", "lo", "hi"), shown)), "p": None, "p_adjusted": None, "totals": totals}

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
        "best_method": {"method": cells[best].method, **proportion(scores[best], image, rho[0]).as_dict()},
    }


def interaction(
    difference: Floats,
    image: NDArray[np.generic],
    low: Flags,
    high: Flags,
    seed: int,
    permutations: int = 4000,
    rho: float = 1.0,
) -> dict[str, Any] | None:
    """Return the mean difference in the low stratum less that in the high one, with an interval and a two-sided p.

    Each stratum's mean is the ratio of its images' sums. The interval is the root of the squared half widths of both strata's
    own (Zou & Donner 2008, Statistics in Medicine 27); the test deals the images of both anew,
    p = (hits + 1) / (permutations + 1) (Good 2005, section 3.3).

    Args:
        difference: [n] of one family's score less another's on each question; nan is left out.
        image: [n] the image of each question.
        low: [n] whether the question is on an image of the low stratum.
        high: [n] the same of the high stratum.
        seed: of the deals.
        permutations: deals.
        rho: correlation of the differences of an image, see `mean_difference`.

    Returns:
        ``value``, ``lo``, ``hi``, ``p``, and ``p_adjusted``, None until it is corrected; None where a stratum has no value.
    """
    sums: list[Floats] = []
    for part in (low, high):
        codes, (values,) = aligned(image[part], difference[part])
        if not len(values):
            return None
        sums.append(np.stack([np.bincount(codes, weights=values), np.bincount(codes)], 1))
    split, pool = len(sums[0]), np.concatenate(sums)
    ratio: Callable[[Floats], Floats] = lambda totals: totals[..., 0] / totals[..., 1]
    first, last = (difference_of(part[:, 0], part[:, 1], float(ratio(part.sum(0))), rho) for part in sums)
    value = first.value - last.value
    interval: tuple[float, float] | tuple[None, None] = (None, None)
    if first.hi is not None and last.hi is not None:
        half = float(np.hypot(first.hi - first.value, last.hi - last.value))
        interval = value - half, value + half
    rng, rows, hits = np.random.default_rng([seed, 2]), max(1, CHUNK // len(pool)), 0
    for start in range(0, permutations, rows):
        dealt = rng.random((min(rows, permutations - start), len(pool))).argsort(1) < split
        found = ratio(dealt @ pool) - ratio(~dealt @ pool)
        hits += int((np.abs(found) >= abs(value) - 1e-9).sum())
    p = (hits + 1) / (permutations + 1)
    return {"value": value, "lo": interval[0], "hi": interval[1], "p": p, "p_adjusted": None}


def _adjust(found: Sequence[dict[str, Any]], seed: int) -> None:
    """Give differences their ``p`` and ``p_adjusted`` from their images' ``totals`` [I], under the same flips of images."""
    compared = [one for one in found if one["value"] is not None]
    if compared:
        test = step_down(np.stack([one["totals"] for one in compared], 1), seed=seed)
        for one, p, adjusted in zip(compared, test.p.tolist(), test.p_adjusted.tolist()):
            one["p"], one["p_adjusted"] = p, adjusted
    for one in found:
        del one["totals"]
