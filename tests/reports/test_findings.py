"""Findings: there where an effect was planted; how often they are wrong where there is none is held in `tests/statistics`."""

from __future__ import annotations

import numpy as np
import pytest

from harness.results.answer_figures import answer_figures, best_methods
from harness.results.difference_families import DifferenceFamilies
from harness.results.evidence_families import EvidenceColumns, EvidenceFamilies
from harness.results.kept_token_figures import adjust_for_chance
from harness.results.leading_figure import CellScores, LeadingFigure
from harness.results.sample_columns import RunQuestions
from harness.results.speed_family import adjust_speed
from harness.results.summary import plain
from methods.keep import Keep
from metrics import latency
from metrics.chance import summarise_z
from metrics.figures import FIGURES
from reports.cells import dig, strata
from reports.findings import Finding, findings
from reports.headline import headlines

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
    stored, kept_shares, own = [], {}, {}
    for ident, (name, keep) in enumerate(named):
        level = 0.7 - (loss if keep else 0.0) + add(accuracy, (name, keep))
        score = (hard + rng.normal(0, 0.5, n) < _cut(level)).astype(float)
        like = f"random[like={name}]" if keep and "like=" not in name else None
        facts = {"method": name, "keep": keep, "reference": keep is None or "like=" in name, "like": like}
        stored.append((ident, facts, CellScores(score, image, np.zeros(n, np.int64), np.ones(n, bool))))
        kept = np.clip(np.repeat(rng.beta(3, 3, images), per) + rng.normal(0, 0.05, n) + add(recall, (name, keep)), 0, 1)
        kept_shares[ident] = _evidence(rng, score, kept, add(swap, (name, keep)))
        own[ident] = _own(rng, image, add(z, (name, keep)), add(speed, (name, keep)))
    by_name = {(facts["method"], Keep.stored(facts)): scores for _, facts, scores in stored}
    leading = LeadingFigure().knowing(list(by_name.values()), by_name["none", None], MARGIN)
    questions = RunQuestions([str(i) for i in range(n)], np.arange(n), image, np.zeros(n, np.int64), ["f"])
    columns = {ident: EvidenceColumns.of(shares, np.arange(n)) for ident, shares in kept_shares.items()}
    differences = DifferenceFamilies(leading, 0)
    proofs = EvidenceFamilies(leading, questions, [one for one in columns.values() if one is not None], 0)
    winners, cells = best_methods(stored, leading), []
    for ident, facts, scores in stored:
        cell = {"model": "m", "task": "t", "budget": "average", "skipped": None, "bias": None, **facts, **own[ident]}
        cell |= answer_figures(scores, by_name, winners, facts, differences, leading)
        cell["evidence"] = proofs.add(facts, scores, by_name["none", None], columns[ident])
        cells.append(cell)
    differences.test()
    proofs.test()
    adjust_for_chance(cells)
    adjust_speed(cells)
    return plain(cells)


def _cut(level: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(level) * np.sqrt(0.75))


def _evidence(rng, score, kept, swap) -> dict:
    """Columns about evidence of a cell: the evidence that it kept, and its scores with the evidence swapped in."""
    again = np.where(rng.random(len(score)) < abs(swap), 1.0, score) if swap else rng.permutation(score)
    return {"recall": kept, "recall_before": np.ones(len(score)), "swap_score": again}


def _own(rng, image, z, speed) -> dict:
    """What a cell's own tokens and times tell; percentiles are uniform where nothing is added to z."""
    count = int(image.max()) + 1
    shifts = np.repeat(rng.normal(z, 1.0, count), 3)
    percentile = np.repeat(rng.random(count), 3) if z == 0 else np.clip(0.5 + 0.2 * shifts, 0, 1)
    chance = {name: dict.fromkeys(("value", "lo", "hi", "percentile", "share_below_chance", "p")) for name in FIGURES}
    chance["effective_rank"] = summarise_z(shifts, percentile, image, True)
    times = {stage: 0.01 * rng.lognormal(0, 0.03, 12) for stage in ("vision", "projector", "selection", "prefill", "decode")}
    base = {stage: 0.01 * rng.lognormal(0, 0.03, 12) for stage in times}
    times["prefill"] = times["prefill"] / 4 / (1 + speed)
    return {"collapse": {"z": chance}, "latency": latency.summarise(times, base, 4.0)}


def found(cells: list[dict], explained: dict | None = None) -> list[Finding]:
    (group,) = strata(cells)
    return findings(group, explained)


def of(kind: str, cells: list[dict]) -> list[Finding]:
    return [finding for finding in found(cells) if finding.kind == kind]


def test_a_winner_is_named_with_its_lead():
    cells = summary_cells(np.random.default_rng(0), accuracy={("b", 64): 0.25})
    (finding,) = of("winner", cells)
    assert finding.text.startswith("At 64 tokens b is the most accurate: ahead of the next,")
    (group,) = strata(cells)
    lead = next(s.text for h in headlines(group) for s in h.sentences if s.text.startswith("Ahead of every other method"))
    assert lead.partition(" by ")[2] == finding.text.partition(" by ")[2], "both write the lead in one way"
    assert finding.cells[0] == ("b", 64) and finding.text.endswith(", corrected.")


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
    speed = {("b", 192): -0.5, ("c", 192): 0.5}
    cells = summary_cells(np.random.default_rng(4), accuracy={("a", 64): -0.4}, swap={("a", 64): 0.9}, speed=speed)
    (finding,) = of("swap", cells)
    assert finding.cells == (("a", 64),) and "of the loss" in finding.text
    less, more = of("speed", cells)
    assert less.cells == (("b", 192),) and "less than its FLOPs promise" in less.text
    assert more.cells == (("c", 192),) and "more than its FLOPs promise" in more.text


def test_what_explains_accuracy_is_told_where_it_holds():
    row = {"figure": "z_effective_rank", "value": 0.3, "lo": 0.2, "hi": 0.4, "p_adjusted": 0.01}
    other = {**row, "figure": "recall", "p_adjusted": 0.2}
    nothing, budget = {"rows": [other]}, {"keep": 192, "value": 0.1, "lo": 0.0, "hi": 0.2, "p_adjusted": 0.06}
    explained = {"correlations": {"across_methods": {"rows": [row, other]}, "across_images": nothing},
                 "complexity": {"interactions": [{"keep": 64, "value": 0.1, "lo": 0.02, "hi": 0.18, "p_adjusted": 0.03},
                                                 budget]}}  # fmt: skip
    cells = summary_cells(np.random.default_rng(5))
    told = [f for f in found(cells, explained) if f.kind in ("explain", "complexity")]
    assert [f.kind for f in told] == ["explain", "complexity"]
    assert "effective rank, against chance (rank correlation +0.30 [+0.20 to +0.40])" in told[0].text
    assert "1 of 2 figures do" in told[0].text and "At 64 tokens" in told[1].text
    assert "other methods" not in told[0].text, "nothing is said of what was not tested"


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (0.02, "Association, not cause. Other methods would show the same of evidence recall (labels permuted, each p < 0.05"),
        (0.2, "cause. That other methods would show the same could not be shown by 4 methods, whose p is at least 0.042."),
        (None, "Association, not cause. Whether other methods would show the same cannot be tested with 3 methods."),
    ],
)
def test_what_other_methods_would_show_has_its_own_test(p, said):
    row = {
        "figure": "recall",
        "value": 0.3,
        "lo": 0.2,
        "hi": 0.4,
        "p_adjusted": 0.01,
        "p_methods": p,
        "p_methods_adjusted": p,
    }
    listed = {"rows": [row], "methods": 3 if p is None else 4, "least_p_methods": None if p is None else 1 / 24}
    told = found(summary_cells(np.random.default_rng(5)), {"correlations": {"across_methods": listed, "across_images": listed}})
    assert " ".join(finding.text for finding in told).count("other methods") <= 1, "images are no methods"
    assert said in " ".join(finding.text for finding in told)


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
