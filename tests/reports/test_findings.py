"""Findings: there where an effect was planted, and in runs of equal methods no oftener than their level allows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom

from harness.results.answer_figures import CellScores, adjust_for_multiple_tests, answer_figures, best_methods
from harness.results.summary import plain
from metrics import evidence, latency
from metrics.chance import summarise_z
from reports.cells import dig, strata
from reports.findings import Finding, findings

METHODS, BUDGETS, MARGIN = ("a", "b", "c", "d"), (192, 64), 0.02


def summary_cells(
    rng: np.random.Generator,
    accuracy: dict | None = None,
    z: dict | None = None,
    recall: dict | None = None,
    swap: dict | None = None,
    speed: dict | None = None,
    images: int = 40,
    loss: float = 0.0,
) -> list[dict]:
    """Cells as `summarise` makes them, of drawn samples: every method alike but for what is added to some of them.

    Args:
        accuracy, z, recall, swap, speed: (method, keep) -> what is added to it.
        loss: of every pruned cell to the unpruned model.
    """
    add = lambda table, key: (table or {}).get(key, 0.0)
    per, image = 3, np.repeat(np.arange(images), 3)
    n = images * per
    hard = np.repeat(rng.normal(0, 0.5, images), per) + rng.normal(0, 0.5, n)
    named = [("none", None), *((name, k) for k in BUDGETS for m in METHODS for name in (m, f"random[like={m}]"))]
    stored, own = [], {}
    for ident, (name, keep) in enumerate(named):
        level = 0.7 - (loss if keep else 0.0) + add(accuracy, (name, keep))
        score = (hard + rng.normal(0, 0.5, n) < _cut(level)).astype(float)
        facts = {"method": name, "keep": keep, "reference": keep is None or "like=" in name, "like": f"random[like={name}]"}
        stored.append((ident, facts, CellScores(score, image, np.zeros(n, np.int64), np.ones(n, bool))))
        kept = np.clip(np.repeat(rng.beta(3, 3, images), per) + rng.normal(0, 0.05, n) + add(recall, (name, keep)), 0, 1)
        own[ident] = _own(rng, score, kept, image, add(z, (name, keep)), add(swap, (name, keep)), add(speed, (name, keep)))
    by_name = {(facts["method"], facts["keep"]): scores for _, facts, scores in stored}
    winners, cells = best_methods(stored), []
    for ident, facts, scores in stored:
        cell = {"model": "m", "task": "t", "budget": "average", "skipped": None, **facts}
        cells.append(cell | answer_figures(scores, by_name, winners, facts, 0, MARGIN) | own[ident])
    adjust_for_multiple_tests(cells)
    return plain(cells)


def _cut(level: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(level) * np.sqrt(0.75))


def _own(rng, score, kept, image, z, swap, speed) -> dict:
    count = int(image.max()) + 1
    shifts = np.repeat(rng.normal(z, 1.0, count), 3)
    percentile = np.repeat(rng.random(count), 3) if z == 0 else np.clip(0.5 + 0.2 * shifts, 0, 1)
    again = np.where(rng.random(len(score)) < abs(swap), 1.0, score) if swap else rng.permutation(score)
    times = {stage: 0.01 * rng.lognormal(0, 0.03, 12) for stage in ("vision", "projector", "selection", "prefill", "decode")}
    base = {stage: 0.01 * rng.lognormal(0, 0.03, 12) for stage in times}
    times["prefill"] = times["prefill"] / 4 / (1 + speed)
    return {
        "collapse": {"z": {"effective_rank": summarise_z(shifts, percentile, image, True)}},
        "evidence": {
            **evidence.summarise(kept, score, image),
            **evidence.swap(again, score, np.maximum(score, rng.random(len(score)) < 0.3).astype(float), image),
        },
        "latency": latency.summarise(times, base, 4.0),
    }


def found(cells: list[dict], explained: dict | None = None) -> list[Finding]:
    (group,) = strata(cells)
    return findings(group, explained)


def of(kind: str, cells: list[dict]) -> list[Finding]:
    return [finding for finding in found(cells) if finding.kind == kind]


def test_a_winner_is_named_with_its_lead():
    cells = summary_cells(np.random.default_rng(0), accuracy={("b", 64): 0.25})
    (finding,) = of("winner", cells)
    assert finding.text.startswith("At 64 tokens b is the most accurate: ahead of the next,")
    assert finding.cells[0] == ("b", 64) and "Holm" in finding.text


def test_methods_within_the_margin_are_named():
    cells = summary_cells(np.random.default_rng(1), images=4000, accuracy={("d", k): -0.2 for k in BUDGETS})
    (finding,) = of("non-inferior", cells)
    assert finding.text.startswith("No more than 2 points below the unpruned model")
    assert set(finding.cells) == {(m, k) for m in "abc" for k in BUDGETS}


@pytest.mark.parametrize(("shift", "start"), [(-0.3, "Falls below random"), (0.25, "Its ranking is worth more")])
def test_a_ranking_is_held_against_its_schedule(shift, start):
    cells = summary_cells(np.random.default_rng(2), accuracy={("c", 64): shift})
    (finding,) = [f for f in of("ranking", cells) if f.text.startswith(start)]
    assert finding.cells[0] == ("c", 64)


def test_collapse_needs_both_less_diversity_and_less_evidence():
    rng = np.random.default_rng(3)
    cells = summary_cells(rng, z={("a", 64): -2.0, ("b", 64): -2.0}, recall={("a", 64): -0.3, ("c", 64): -0.3})
    (finding,) = of("collapse", cells)
    assert finding.cells == (("a", 64),)
    (finding,) = of("diversity", cells)
    assert set(finding.cells) == {("a", 64), ("b", 64)}


def test_swap_and_speed_are_told():
    cells = summary_cells(np.random.default_rng(4), swap={("a", 64): 0.9}, speed={("b", 192): -0.5, ("c", 192): 0.5})
    (finding,) = of("swap", cells)
    assert finding.cells == (("a", 64),) and "of the loss" in finding.text
    less, more = of("speed", cells)
    assert less.cells == (("b", 192),) and "less than its FLOPs promise" in less.text
    assert more.cells == (("c", 192),) and "more than its FLOPs promise" in more.text


def test_what_explains_accuracy_is_told_where_it_holds():
    row = {"figure": "z_effective_rank", "value": 0.3, "lo": 0.2, "hi": 0.4, "p_holm": 0.01}
    other = {**row, "figure": "recall", "p_holm": 0.2}
    nothing = {"rows": [other]}
    explained = {"correlations": {"across_methods": {"rows": [row, other]}, "across_images": nothing},
                 "complexity": {"interactions": [{"keep": 64, "value": 0.1, "lo": 0.02, "hi": 0.18, "p_holm": 0.03},
                                                 {"keep": 192, "value": 0.1, "lo": 0.0, "hi": 0.2, "p_holm": 0.06}]}}  # fmt: skip
    cells = summary_cells(np.random.default_rng(5))
    told = [f for f in found(cells, explained) if f.kind in ("explain", "complexity")]
    assert [f.kind for f in told] == ["explain", "complexity"]
    assert "effective rank, against chance (rank correlation +0.30 [+0.20 to +0.40])" in told[0].text
    assert "1 of 2 figures do" in told[0].text and "At 64 tokens" in told[1].text


def test_figures_are_named_as_in_the_summary():
    cells = summary_cells(
        np.random.default_rng(6), accuracy={("b", 64): 0.25}, z={("a", 64): -2.0}, recall={("a", 64): -0.3},
        swap={("a", 64): 0.9}, speed={("b", 192): -0.5},
    )  # fmt: skip
    told = found(cells)
    assert {f.kind for f in told} >= {"winner", "ranking", "collapse", "diversity", "swap", "speed"}
    by_name = {(c["method"], c["keep"]): c for c in cells}
    for finding in told:
        assert finding.cells
        for path in finding.figures:
            assert any(dig(by_name[cell], path) is not None for cell in finding.cells), (finding.kind, path)


def test_nothing_is_said_of_cells_without_tests():
    bare = [{"model": "m", "task": "t", "method": name, "keep": 64, "skipped": None} for name in "ab"]
    assert found(bare) == []


@pytest.mark.slow
def test_equal_methods_give_false_findings_no_oftener_than_the_level():
    draws, seen = 120, Counter()
    for draw in range(draws):
        rng = np.random.default_rng([7, draw])
        seen.update({f.kind for f in found(summary_cells(rng, loss=MARGIN))})  # a loss of the margin is no less than it
    print(dict(seen))
    most = int(binom.ppf(0.99, draws, 0.05))
    assert all(count <= most for count in seen.values()), (dict(seen), most)
