"""Evidence in the cells of a run: recall against the control's, and what swapping it in gives back, as families of tests."""

from __future__ import annotations

import numpy as np
import pytest

from harness.results.evidence_families import EvidenceColumns, EvidenceFamilies
from harness.results.leading_figure import CellScores, LeadingFigure
from harness.results.sample_columns import RunQuestions
from harness.results.summary import plain
from metrics import evidence
from metrics.design_effect import IntraclassCorrelation
from metrics.differences import mean_difference
from metrics.intervals import mean_interval
from metrics.step_down import step_down

IMAGES, QUESTIONS, SEED, RHO, MARGIN = 24, 3, 5, 0.3, 0.02
COUNT = IMAGES * QUESTIONS
IMAGE = np.repeat(np.arange(IMAGES), QUESTIONS)
NAMES = ("score", "recall", "recall_before", "swap_score")
METHODS = ("fastv", "sts", "sparsevlm")


def leading() -> LeadingFigure:
    """The mean score; a third of what changes goes together."""
    known = LeadingFigure(margin=MARGIN)
    known.of_changes.together, known.of_changes.apart = RHO, 1.0
    known.of_scores.together, known.of_scores.apart = 0.2, 1.0
    return known


def questions() -> RunQuestions:
    return RunQuestions([f"q{i:03}" for i in range(COUNT)], np.arange(COUNT), IMAGE, np.zeros(COUNT, np.int64), ["f"])


def columns(seed: int, recall: float, right: float, back: float) -> dict[str, np.ndarray]:
    """Columns of a cell: one question of three has no evidence; of the lost answers a share comes back."""
    rng = np.random.default_rng(seed)
    score = (rng.random(COUNT) < right).astype(float)
    found = {"score": score, "recall": np.clip(rng.normal(recall, 0.2, COUNT), 0, 1), "recall_before": np.ones(COUNT)}
    found["swap_score"] = np.maximum(score, rng.random(COUNT) < back)
    for name in NAMES[1:]:
        found[name] = np.where(np.arange(COUNT) % 3 == 0, np.nan, found[name])
    return found


def run() -> dict[str, dict[str, np.ndarray]]:
    """By method; of the last one no control."""
    cells = {"none": columns(0, 1.0, 1.0, 0.0)}
    for number, name in enumerate(METHODS):
        cells[name] = columns(10 + number, 0.5 + 0.1 * number, 0.6, 0.2 + 0.3 * number)
        if name != "sparsevlm":
            cells[f"random[like={name}]"] = columns(20 + number, 0.5, 0.5, 0.0) | {"swap_score": np.full(COUNT, np.nan)}
    cells["none"]["swap_score"] = np.full(COUNT, np.nan)
    return cells


def facts_of(name: str) -> dict:
    like = f"random[like={name}]" if name in METHODS else None
    reference = name == "none" or "like=" in name
    return {
        "method": name,
        "keep": None if name == "none" else 64,
        "like": like,
        "reference": reference,
        "removes_nothing": False,
    }


def summarised(cells: dict[str, dict[str, np.ndarray]], failed: dict[str, np.ndarray] | None = None) -> dict[str, dict | None]:
    """``evidence`` of every cell.

    Args:
        cells: columns by method.
        failed: bool [n] by method, the answers that failed.
    """
    kept = {name: EvidenceColumns.of(table, np.arange(COUNT)) for name, table in cells.items()}
    proofs, scores, found = EvidenceFamilies(leading(), questions(), [one for one in kept.values() if one], SEED), {}, {}
    for name, table in cells.items():
        answered = np.ones(COUNT, bool) if failed is None or name not in failed else ~failed[name]
        score = np.where(answered, table["score"], np.nan)
        scores[name] = CellScores(score, IMAGE, np.zeros(COUNT, np.int64), answered)
    for name, columns_of in kept.items():
        found[name] = proofs.add(facts_of(name), scores[name], scores.get("none"), columns_of)
    proofs.test()
    return plain(found)


def sums(values: np.ndarray) -> np.ndarray:
    return np.bincount(IMAGE, np.nan_to_num(values), IMAGES)


def test_recall_is_held_against_that_of_the_control_on_the_same_questions():
    cells, found = run(), summarised(run())
    gaps = {name: cells[name]["recall"] - cells[f"random[like={name}]"]["recall"] for name in METHODS[:2]}
    test = step_down(np.stack([sums(gap) for gap in gaps.values()], 1), seed=SEED)
    for place, (name, gap) in enumerate(gaps.items()):
        entry, known = found[name]["recall_over_control"], np.isfinite(gap)
        assert {part: entry[part] for part in ("value", "lo", "hi")} == pytest.approx(
            mean_interval(gap[known], IMAGE[known]).as_dict(), abs=1e-6
        )
        assert entry["p"] == pytest.approx(test.p[place], abs=0.002) and entry["p_adjusted"] == pytest.approx(
            test.p_adjusted[place], abs=0.002
        )
    assert found["sts"]["recall_over_control"]["p_adjusted"] < 0.05
    without = ("sparsevlm", "none", "random[like=fastv]")
    assert [found[name]["recall_over_control"] for name in without] == [None] * 3


def test_what_the_evidence_gives_back_is_one_family_over_methods():
    cells, found = run(), summarised(run())
    gains = {name: cells[name]["swap_score"] - cells[name]["score"] for name in METHODS}
    test = step_down(np.stack([sums(gain) for gain in gains.values()], 1), seed=SEED)
    for place, (name, gain) in enumerate(gains.items()):
        known, entry = np.isfinite(gain), found[name]
        expected = mean_difference(cells[name]["swap_score"], cells[name]["score"], IMAGE, RHO, MARGIN)
        assert [entry["swap_gain"][part] for part in ("value", "lo", "hi")] == pytest.approx(
            [expected.value, expected.lo, expected.hi]
        )
        assert entry["swap_gain"]["p"] == pytest.approx(test.p[place])
        assert entry["swap_gain"]["p_adjusted"] == pytest.approx(test.p_adjusted[place])
        loss = mean_difference(cells["none"]["score"][known], cells[name]["score"][known], IMAGE[known], RHO, MARGIN)
        assert entry["swap_loss"] == {"value": loss.value, "lo": loss.lo, "hi": loss.hi}
        share = entry["swap_share"]
        assert share["lo"] < share["value"] < share["hi"] and share["value"] == pytest.approx(expected.value / loss.value)
    for name in ("none", "random[like=fastv]"):
        assert [found[name][part] for part in ("swap_gain", "swap_loss", "swap_share")] == [None] * 3


def test_a_share_of_a_loss_that_may_be_none_is_not_told():
    cells = run()
    cells["sts"]["score"] = cells["none"]["score"].copy()
    cells["sts"]["score"][1:3] = 0.0  # two answers of one image
    cells["sts"]["swap_score"] = np.where(np.isnan(cells["sts"]["swap_score"]), np.nan, 1.0)
    entry = summarised(cells)["sts"]
    assert (
        entry["swap_gain"]["value"] == entry["swap_loss"]["value"] > 0 > entry["swap_loss"]["lo"] and entry["swap_share"] is None
    )
    assert entry["swap_gain"]["p"] == 1.0  # of one image


def test_graded_scores_that_stay_the_same_gain_exactly_nothing():
    """0.7 and 0.7 rounded to half its digits differ, and by as much on every image."""
    cells = run()
    cells["sts"]["score"] = np.full(COUNT, 0.7)
    cells["sts"]["swap_score"] = np.where(np.isnan(cells["sts"]["swap_score"]), np.nan, 0.7)
    gain = summarised(cells)["sts"]["swap_gain"]
    assert gain["value"] == 0.0 and gain["p"] == gain["p_adjusted"] == 1.0


def test_failed_answers_count_neither_here_nor_there():
    cells, failed = run(), {name: np.zeros(COUNT, bool) for name in ("fastv", "random[like=fastv]", "none")}
    failed["fastv"][:10], failed["random[like=fastv]"][8:20], failed["none"][40:50] = True, True, True
    entry = summarised(cells, failed)["fastv"]
    there = ~failed["fastv"]
    recalls = IntraclassCorrelation()
    for table in cells.values():
        recalls.add(table["recall"], IMAGE)
    shown = evidence.summarise(cells["fastv"]["recall"][there], cells["fastv"]["score"][there], IMAGE[there], 0.2, recalls.rho)
    for name in ("recall", "accuracy_kept", "accuracy_lost"):
        assert entry[name] == pytest.approx(shown[name].as_dict(), abs=1e-6)
    assert entry["n_without"] == shown["n_without"] == there[::3].sum()
    gap = np.where(
        there & ~failed["random[like=fastv]"], cells["fastv"]["recall"] - cells["random[like=fastv]"]["recall"], np.nan
    )
    assert entry["recall_over_control"]["value"] == pytest.approx(np.nanmean(gap), abs=1e-6)
    gain = np.where(there & ~failed["none"], cells["fastv"]["swap_score"] - cells["fastv"]["score"], np.nan)
    assert entry["swap_gain"]["value"] == pytest.approx(np.nanmean(gain))
    assert entry["swap_gain"]["p"] == pytest.approx(step_down(sums(gain)[:, None], seed=SEED).p[0], abs=0.02)


def test_the_order_of_cells_does_not_matter():
    found, again = summarised(run()), summarised(dict(reversed(run().items())))
    assert found == again


def test_where_there_is_no_evidence_nothing_is_told():
    cells = run()
    for name in ("fastv", "random[like=sts]"):
        cells[name]["recall"] = np.full(COUNT, np.nan)
    cells["sts"]["recall_before"] = np.full(COUNT, np.nan)
    found = summarised(cells)
    assert found["fastv"] is None and found["random[like=sts]"] is None
    assert found["sts"]["recall_over_control"] is None and found["sts"]["recall_before"] is None
    assert found["sts"]["recall"]["value"] == pytest.approx(np.nanmean(cells["sts"]["recall"]))
    alone = summarised({"sts": cells["sts"]})["sts"]  # without `none` there is no loss
    assert alone["swap_gain"] is None and alone["swap_share"] is None
    unscored = {name: table | {"score": np.full(COUNT, np.nan)} for name, table in run().items()}
    assert set(summarised(unscored).values()) == {None}


def test_columns_come_back_as_they_were():
    table = columns(3, 0.5, 0.6, 0.3)
    table["swap_score"][1] = 1 / 3
    kept = EvidenceColumns.of(table, np.arange(COUNT))
    back = kept.table()
    assert np.array_equal(back["swap_score"], table["swap_score"], equal_nan=True)
    for name in ("recall", "recall_before"):
        assert np.allclose(back[name], table[name], atol=1e-7, equal_nan=True) and kept.recall is not kept.recall_before
    table["recall_before"] = table["recall"]
    shared = EvidenceColumns.of(table, np.arange(COUNT))
    assert shared.recall is shared.recall_before
    assert EvidenceColumns.of(table | {"recall": np.full(COUNT, np.nan)}, np.arange(COUNT)) is None


def test_a_cell_that_lacks_questions_is_compared_on_those_that_it_has():
    cells, proofs = run(), EvidenceFamilies(leading(), questions(), [], SEED)
    rows, found = np.arange(COUNT) % 7 != 2, {}
    for name in ("random[like=sts]", "sts"):
        place = np.flatnonzero(rows) if name == "sts" else np.arange(COUNT)
        table = {column: values[place] for column, values in cells[name].items()}
        own = CellScores(table["score"], IMAGE[place], np.zeros(len(place), np.int64), np.ones(len(place), bool))
        found[name] = proofs.add(facts_of(name), own, None, EvidenceColumns.of(table, place))
    proofs.test()
    gap = np.where(rows, cells["sts"]["recall"] - cells["random[like=sts]"]["recall"], np.nan)
    assert found["sts"]["recall_over_control"]["value"] == pytest.approx(np.nanmean(gap), abs=1e-6)
