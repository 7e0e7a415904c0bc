from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from metrics import accuracy as acc
from metrics import evidence
from metrics.design_effect import effective_images
from metrics.differences import mean_difference
from metrics.intervals import proportion
from metrics.statistics import Estimate


def test_families_are_the_accuracy_of_their_rows():
    rng = np.random.default_rng(0)
    scores, images = rng.integers(0, 2, 40), (np.arange(40) // 4).tolist()
    families = rng.choice(["count", "colour"], 40).tolist()
    families[0] = None
    found = acc.by_family(scores, families, images, 0.4)
    assert list(found) == ["colour", "count"]
    for name, figure in found.items():
        rows = [i for i, family in enumerate(families) if family == name]
        assert figure == proportion(scores[rows], [images[i] for i in rows], 0.4)
        assert figure.value == pytest.approx(scores[rows].mean())
    numbers = np.array([-1 if name is None else ["count", "colour"].index(name) for name in families])
    by_number = acc.by_family(scores[1:], numbers[1:], np.array(images[1:]), 0.4)
    assert [by_number[1], by_number[0]] == list(found.values())
    with pytest.raises(ValueError, match="39 families"):
        acc.by_family(scores, families[1:], images)


def test_hard_and_easy():
    none, small = [1, 1, 1, 0, 0, 1], [0, 0, 1, 1, 0, 0.6]
    found = acc.difficulty([1, 0, 1, 1, 1, 0], none, small, list("abcdef"))
    assert found["n_hard"] == 2 and found["hard"].value == 0.5 and found["easy"].value == 0.5
    nothing = acc.difficulty([1, 0], [1, 1], [1, 1], [0, 1])
    assert nothing["hard"] is None and nothing["n_hard"] == 0 and nothing["easy"].value == 0.5


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
    assert found["accuracy_kept"] == proportion([1, 0], "ab") and found["recall"] == proportion([1, 0.5, 0.25], "abc")
    assert nothing["recall"] == Estimate(None) and nothing["accuracy_kept"] is None and nothing["n_without"] == 1


def test_swap_against_sums():
    """100 random tables: gain, loss and their ratio over the questions that have evidence."""
    rng, shares = np.random.default_rng(0), 0
    for _ in range(100):
        n = int(rng.integers(1, 90))
        swapped, scores, none = (rng.random(n) < level for level in (0.7, 0.4, 0.95))
        swapped = np.where(rng.random(n) < 0.3, np.nan, swapped)
        images = [f"i{k // 3}" for k in range(n)]
        found = evidence.swap(swapped, scores, none, images, 0.2, 0.02)
        known = [i for i in range(n) if swapped[i] == swapped[i]]
        if not known:
            assert found is None
            continue
        gain, loss = (sum(float(column[i]) - scores[i] for i in known) for column in (swapped, none))
        assert found.gain.value == pytest.approx(gain / len(known)) and found.loss.value == pytest.approx(loss / len(known))
        alone = mean_difference(swapped, scores, images, 0.2, 0.02)
        assert (found.gain.lo, found.gain.hi) == (alone.lo, alone.hi)
        if found.share is None:
            continue
        shares += 1
        assert found.loss.lo > 0 and found.share.value == pytest.approx(gain / loss)
        assert found.share.lo < found.share.value < found.share.hi
        # Fieller: of the loss times a bound of the share, the gain is just t standard errors away, from images alone
        sums = [np.bincount([k // 3 for k in known], [float(c[i]) - scores[i] for i in known]) for c in (swapped, none)]
        here = np.unique([k // 3 for k in known])
        size = np.bincount([k // 3 for k in known])[here]
        for bound in (found.share.lo, found.share.hi):
            rest = (sums[0] - bound * sums[1])[here]
            away = rest.sum() / len(known)
            off = (rest - away * size) / len(known)
            assert abs(away) == pytest.approx(
                t.ppf(0.975, effective_images(size) - 1) * (len(here) / (len(here) - 1) * (off**2).sum()) ** 0.5
            )
    assert shares > 30


def test_swap_of_a_known_cause():
    """Half of the lost answers come back: the share is a half, and its interval holds it."""
    none, scores = np.ones(400), np.zeros(400)
    swapped = np.tile([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0], 50)
    share = evidence.swap(swapped, scores, none, np.arange(400) // 2).share
    assert share.value == 0.5 and share.lo < 0.5 < share.hi
    with pytest.raises(ValueError, match="differ"):
        evidence.swap(swapped, scores, none[:3], np.arange(400))


def test_a_loss_that_is_not_sure_is_not_shared_out():
    """One answer of forty is lost and comes back; and nothing is known of one image, or of a gain."""
    images, none = np.arange(40), np.ones(40)
    scores = none - (images == 3)
    found = evidence.swap(none, scores, none, images)
    assert found.gain.value == found.loss.value == 1 / 40 and found.share is None and found.loss.lo < 0
    one = evidence.swap(none, 0 * none, none, np.zeros(40, int))
    assert one.share is None and one.loss.lo is None and one.loss.value == 1.0
    beaten = evidence.swap(none, none, 0 * none, images)
    assert beaten.loss.value == -1.0 and beaten.share is None
    assert evidence.swap(none * np.nan, scores, none, images) is None and evidence.swap([], [], [], []) is None
