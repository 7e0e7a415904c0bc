from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from metrics import accuracy as acc
from metrics import evidence
from metrics.statistics import Estimate, PairedDifference, bootstrap_mean


def test_families_are_the_accuracy_of_their_rows():
    rng = np.random.default_rng(0)
    scores, images = rng.integers(0, 2, 40), (np.arange(40) // 4).tolist()
    families = rng.choice(["count", "colour"], 40).tolist()
    families[0] = None
    found = acc.by_family(scores, families, images)
    assert list(found) == ["colour", "count"]
    for name, figure in found.items():
        rows = [i for i, family in enumerate(families) if family == name]
        assert figure == bootstrap_mean(scores[rows], [images[i] for i in rows])
    with pytest.raises(ValueError, match="39 families"):
        acc.by_family(scores, families[1:], images)


def test_retention():
    assert acc.retention(0.6, 0.8) == pytest.approx(0.75)
    assert acc.retention_adjusted(0.6, 0.8, 0.4) == pytest.approx(0.5)
    assert acc.retention_adjusted(0.4, 0.8, 0.4) == 0.0
    assert acc.retention(0.6, 0.0) is None and acc.retention(None, 0.8) is None
    assert acc.retention_adjusted(0.6, 0.4, 0.4) is None and acc.retention_adjusted(0.6, 0.4, 0.5) is None
    assert acc.retention_adjusted(0.6, 0.8, None) is None


def test_loyalty_counts_equal_answers_right_or_wrong():
    found = acc.loyalty_agreement(["yes", " 2\n", "red", None], ["yes", "2", "Red", "no"], range(4))
    assert found.value == pytest.approx(2 / 3)
    assert acc.loyalty_kl([0.1, np.nan, 0.3], range(3)).value == pytest.approx(0.2)
    with pytest.raises(ValueError, match="1 answers against 2"):
        acc.loyalty_agreement(["a"], ["a", "b"], [0])


def test_hard_and_easy():
    none, small = [1, 1, 1, 0, 0, 1], [0, 0, 1, 1, 0, 0.6]
    found = acc.difficulty([1, 0, 1, 1, 1, 0], none, small, list("abcdef"))
    assert found["n_hard"] == 2 and found["hard"].value == 0.5 and found["easy"].value == 0.5
    nothing = acc.difficulty([1, 0], [1, 1], [1, 1], [0, 1])
    assert nothing["hard"] is None and nothing["n_hard"] == 0 and nothing["easy"].value == 0.5


def test_smallest_detectable_is_found_with_its_power():
    se, many = 0.02, (500, 5000)
    least = acc.smallest_detectable(se, *many)
    found = np.random.default_rng(1).normal(least, se, 40000)
    assert np.mean(np.abs(found) / se > norm.ppf(0.975)) == pytest.approx(0.8, abs=0.01)
    assert acc.smallest_detectable(se, *many, power=0.9) > least


def test_few_images_detect_nothing_small():
    """Six that all lose are the fewest whose signs, flipped in all ways, leave a p below 0.05."""
    assert [2 / 2**n < 0.05 for n in (acc.FEWEST - 1, acc.FEWEST)] == [False, True]
    assert acc.smallest_detectable(0.0, 24, 216) == 6 / 216
    assert acc.smallest_detectable(0.0, 5, 45) is None


@pytest.mark.parametrize(
    "lo, p, expected", [(-0.009, 0.02, True), (-0.011, 0.02, False), (-0.009, 0.03, False), (0.1, 0.02, True), (None, 0.0, False)]
)
def test_non_inferior(lo, p, expected):
    assert acc.non_inferior(PairedDifference(0.0, lo, 0.02, 0.5), p, 0.01) is expected


def loss_p(lost: np.ndarray, margin: float, gained: np.ndarray | float = 0.0) -> float:
    """p of answers lost and gained [images, questions], with the standard error that a bootstrap of images comes to."""
    change = gained - lost
    difference = PairedDifference(change.mean(), None, None, None, change.mean(1).std() / len(change) ** 0.5)
    images = np.repeat(np.arange(len(change)), change.shape[1])
    return acc.non_inferior_p(difference, change.ravel(), np.zeros(change.size), images, margin)


@pytest.mark.parametrize(
    "images, questions, expected", [(5, 1000, False), (20, 9, False), (24, 9, True), (193, 1, True), (191, 1, False)]
)
def test_equal_answers_of_few_images_prove_nothing(images, questions, expected):
    """At 2 points; a loss of four answers is what equal answers still tell from none."""
    assert (loss_p(np.zeros((images, questions)), 0.02) <= 0.025) is expected


@pytest.mark.parametrize(
    "images, questions, lost, gained, together",
    [(400, 1, 0.01, 0.0, 1), (200, 1, 0.02, 0.0, 1), (400, 1, 0.03, 0.02, 1), (24, 9, 0.02, 0.0, 1), (100, 9, 0.02, 0.0, 3)],
)
def test_a_loss_of_the_margin_is_called_none_at_most_once_in_forty(images, questions, lost, gained, together):
    """An interval alone calls it none three times as often: it knows no spread but that of the losses it has seen."""
    rng, claims = np.random.default_rng(0), 0
    for _ in range(2000):
        gone = np.repeat(rng.random((images, questions // together)) < lost, together, axis=1)
        won = ~gone & (rng.random(gone.shape) < gained / (1 - lost))
        claims += loss_p(gone * 1.0, lost - gained, won) <= 0.025
    assert 0 < claims <= 0.025 * 2000 * 1.25


def test_the_score_test_of_pairs():
    """One question an image: the spread is that of as many losses as the margin makes beside the gains."""
    lost, gained, n, margin = 3, 2, 500, 0.02
    change = (
        np.repeat([1.0, 0.0], [lost, n - lost])[:, None],
        np.repeat([0.0, 1.0, 0.0], [lost, gained, n - lost - gained])[:, None],
    )
    z = (gained - lost + n * margin) / (n * margin + 2 * gained - (gained - lost) ** 2 / n) ** 0.5
    assert loss_p(change[0], margin, change[1]) == pytest.approx(norm.sf(z), rel=1e-6)


def test_a_margin_is_positive():
    with pytest.raises(ValueError, match="margin is 0"):
        loss_p(np.zeros((9, 9)), 0)


def test_recall_against_sets():
    rng = np.random.default_rng(2)
    kept, proof = rng.random((30, 12)) < 0.5, rng.random((30, 12)) < 0.2
    proof[3] = False
    for found, k, e in zip(evidence.recall(kept, proof), kept, proof):
        k, e = set(np.flatnonzero(k)), set(np.flatnonzero(e))
        assert np.isnan(found) if not e else found == pytest.approx(len(k & e) / len(e))
    assert np.array_equal(evidence.recall(np.ones((1, 4), bool), np.eye(4, dtype=bool)[:1]), [1.0])
    with pytest.raises(ValueError, match="visual tokens"):
        evidence.recall(kept, proof[:, 1:])


def test_evidence_summary():
    found = evidence.summarise(np.array([1, 0.5, 0.25, np.nan]), np.array([1, 0, 0, 0.0]), list("abcd"))
    assert found["recall"].value == pytest.approx(1.75 / 3)
    assert found["accuracy_kept"].value == 0.5 and found["accuracy_lost"].value == 0.0 and found["n_without"] == 1
    assert evidence.summarise(np.array([1.0]), np.array([1.0]), ["a"])["accuracy_lost"] is None
    nothing = evidence.summarise(np.array([np.nan]), np.array([1.0]), ["a"])
    assert nothing["recall"] == Estimate(None) and nothing["accuracy_kept"] is None and nothing["n_without"] == 1


def test_swap_against_sums():
    """100 random tables: gain, loss and their ratio over the questions that have evidence."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        n = int(rng.integers(1, 40))
        swapped, scores, none = (rng.integers(0, 2, n).astype(float) for _ in range(3))
        swapped[rng.random(n) < 0.3] = np.nan
        found = evidence.swap(swapped, scores, none, [f"i{k // 3}" for k in range(n)])
        known = [i for i in range(n) if swapped[i] == swapped[i]]
        if not known:
            assert found["swap_gain"].value is None and found["swap_share"] is None
            continue
        gain, loss = (sum(column[i] - scores[i] for i in known) for column in (swapped, none))
        assert found["swap_gain"].value == pytest.approx(gain / len(known))
        assert found["swap_loss"].value == pytest.approx(loss / len(known))
        share = found["swap_share"]
        assert (share is None) == (not (found["swap_loss"].lo or 0) > 0)
        assert share is None or share.value == pytest.approx(gain / loss)


def test_swap_of_a_known_cause():
    """Half of the lost answers come back: the share is a half, and its interval holds it."""
    none, scores = np.ones(400), np.zeros(400)
    swapped = np.tile([0.0, 1.0], 200)
    share = evidence.swap(swapped, scores, none, np.arange(400) // 2)["swap_share"]
    assert share.value == 0.5 and share.lo <= 0.5 <= share.hi
    with pytest.raises(ValueError, match="differ"):
        evidence.swap(swapped, scores, none[:3], np.arange(400))
