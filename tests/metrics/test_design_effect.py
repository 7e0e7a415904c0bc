"""How far answers of an image go together, against pairs in a loop and against scipy's analysis of variance."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import scipy.stats

from metrics.design_effect import IntraclassCorrelation, design_effect, effective_images


def alike(seed: int, images: int, questions: int, rho: float) -> np.ndarray:
    """Normal values [images, questions] of a correlation within images."""
    rng = np.random.default_rng(seed)
    return rho**0.5 * rng.normal(size=(images, 1)) + (1 - rho) ** 0.5 * rng.normal(size=(images, questions))


def of(*cells: tuple[np.ndarray, np.ndarray]) -> IntraclassCorrelation:
    found = IntraclassCorrelation()
    for values, images in cells:
        found.add(values, images)
    return found


def pairs(values: np.ndarray, images: np.ndarray) -> tuple[float, float]:
    """Products of two different values of an image about the mean, and what they are if equal: one pair after the other."""
    centred, together, apart, squares = values - values.mean(), 0.0, 0.0, 0.0
    names = sorted(set(images.tolist()))
    for name in names:
        rows = np.flatnonzero(images == name)
        for i, j in permutations(rows, 2):
            together += centred[i] * centred[j]
            apart += (centred[i] ** 2 + centred[j] ** 2) / 2
        squares += centred[rows].sum() ** 2
    return together + squares / (len(names) - 1), apart  # the mean of few images is nearer to them than the true one


@pytest.mark.parametrize("seed", range(10))
def test_against_a_loop_over_pairs(seed):
    rng, cells, sums = np.random.default_rng(seed), [], np.zeros(2)
    for number in range(3):
        images = rng.integers(0, 9, 40)
        values = alike(seed + 100 * number, 9, 40, 0.6)[images, np.arange(40)]
        cells.append((values, images))
        sums += pairs(values, images)
    found = of(*cells)
    sizes = np.concatenate([np.unique(images, return_counts=True)[1] for _, images in cells])
    each = (sizes**2).sum() / sizes.sum()
    assert found.questions_an_image == pytest.approx(each)
    start = 0.5 * each * (each - 1)  # half an image of which all answers changed at once
    assert [found.together, found.apart] == pytest.approx(sums) and found.cells == 3
    assert found.rho == pytest.approx(min(1.0, max(0.0, (sums[0] + start) / (sums[1] + start))))
    assert 0 < found.rho < 1


@pytest.mark.parametrize("images, questions, rho", [(5, 2, 0.5), (12, 9, 0.2), (24, 4, 0.0), (400, 3, 0.7)])
def test_of_balanced_data_it_is_that_of_scipys_analysis_of_variance(images, questions, rho):
    """It is (F - 1) / D, D being F - 1 + q; ours, with sums about the mean of all, exceeds it by q / (q - 1) / (I - 1) at most.

    In terms of F it is (I (q - 1) (F - 1) + F) / ((q - 1) (I D - F)), which less (F - 1) / D is q F^2 / ((q - 1) D (I D - F)).
    """
    values = alike(images, images, questions, rho)
    f = scipy.stats.f_oneway(*values).statistic
    found = of((values.ravel(), np.repeat(np.arange(images), questions)))
    ours = found.together / found.apart
    exact = (images * (questions - 1) * (f - 1) + f) / ((questions - 1) * (images * (f - 1 + questions) - f))
    assert ours == pytest.approx(exact)
    above = ours - (f - 1) / (f - 1 + questions)
    assert 0 < above <= questions / ((questions - 1) * (images - 1))


def test_it_finds_a_known_correlation():
    """Binary answers too: of a share p drawn for each image from a beta distribution, the correlation is 1 / (a + b + 1)."""
    rng, images = np.random.default_rng(0), np.repeat(np.arange(4000), 5)
    assert of((alike(1, 4000, 5, 0.35).ravel(), images)).rho == pytest.approx(0.35, abs=0.03)
    answers = rng.random(20_000) < rng.beta(3.0, 1.0, 4000)[images]
    assert of((answers, images)).rho == pytest.approx(0.2, abs=0.03)


def test_what_is_equal_within_images_is_1_and_what_differs_is_0():
    images = np.repeat(np.arange(20), 3)
    assert of((np.random.default_rng(0).random(20)[images], images)).rho == 1.0
    assert of((np.tile([0.0, 1.0, 2.0], 20), images)).rho == 0.0  # whatever a pool begins with
    lone = IntraclassCorrelation()
    lone.add(np.random.default_rng(1).random(20), range(20))  # one question an image says nothing of it
    assert lone.rho == 1.0 and lone.cells == 0 and lone.questions_an_image == 1.0


def test_what_says_nothing_adds_nothing():
    images, values = np.repeat(np.arange(10), 2), np.random.default_rng(2).random(20)
    alone, more = of((values, images)), of((values, images))
    more.add(np.full(20, np.nan), images)  # no score
    more.add([], [])
    more.add(np.zeros(20), images)  # nothing varies
    more.add([0.1, 0.4, 0.3], ["a"] * 3)  # one image
    assert (more.together, more.apart) == (alone.together, alone.apart) and more.cells == alone.cells == 1
    assert (more.values, more.squares) == (20 + 20 + 3, 40 + 40 + 9)
    assert IntraclassCorrelation().rho == 1.0 and IntraclassCorrelation().questions_an_image == 1.0
    with pytest.raises(ValueError, match="3 clusters"):
        alone.add([1.0], "abc")


def test_missing_values_and_the_order_of_cells_and_samples_do_not_matter():
    rng, images = np.random.default_rng(3), np.repeat(np.arange(12), 4)
    cells = [(alike(k, 12, 4, 0.4).ravel(), images) for k in range(4)]
    found = of(*cells)
    order = rng.permutation(48)
    turned = of(*((values[order], [f"image {i}" for i in images[order]]) for values, images in reversed(cells)))
    assert turned.rho == pytest.approx(found.rho) and turned.values == found.values
    holes = [(np.where(rng.random(48) < 0.2, np.nan, values), images) for values, images in cells]
    dropped = [(values[~np.isnan(values)], images[~np.isnan(values)]) for values, images in holes]
    assert of(*holes).rho == of(*dropped).rho != found.rho
    assert 1 < of(*dropped).questions_an_image < 4 == found.questions_an_image


def test_cells_in_which_more_varies_weigh_more():
    images = np.repeat(np.arange(30), 2)
    loud, quiet = 10 * alike(5, 30, 2, 0.9).ravel(), 0.1 * alike(6, 30, 2, 0.0).ravel()
    assert of((loud, images), (quiet, images)).rho == pytest.approx(of((loud, images)).rho, abs=1e-3)


def test_few_changes_do_not_tell_how_they_go_together():
    """One answer of 24 images changed: as good as nothing is known; beside many changes, what a pool begins with is nothing."""
    images, one = np.repeat(np.arange(24), 9), np.zeros(216)
    one[5] = 1.0
    assert 0.5 < of((one, images)).rho < 1
    many = (np.random.default_rng(0).random(216) < 0.5).astype(float)
    assert of(*[(many, images)] * 20).rho == pytest.approx(
        max(0.0, (found := of((many, images))).together / found.apart), abs=0.01
    )


def test_images_of_different_sizes_are_worth_fewer():
    """As many as have, of equal sizes, a mean of the same variance where answers of an image are one."""
    sizes = np.random.default_rng(0).integers(1, 9, 40)
    variance = (sizes**2).sum() / sizes.sum() ** 2
    assert effective_images(sizes) == pytest.approx(1 / variance) and effective_images(sizes) < 40
    assert effective_images([]) == 0.0 and effective_images([7]) == 1.0


@pytest.mark.parametrize("questions, rho", [(9, 0.25), (4, 0.0), (1, 0.7), (5, 1.0)])
def test_by_so_much_the_variance_of_a_mean_exceeds_that_of_independent_answers(questions, rho):
    """From the matrix of correlations of one image's answers."""
    matrix = np.full((questions, questions), rho)
    np.fill_diagonal(matrix, 1.0)
    assert design_effect(questions, rho) == pytest.approx(matrix.sum() / questions)


def test_answers_also_change_by_themselves():
    """Of the other q - 1 answers of an image that changes, a share rho goes with it, and of the rest ``rate`` changes too."""
    assert design_effect(9, 0.25, 0.1) == pytest.approx(1 + 8 * (0.25 + 0.75 * 0.1))
    assert design_effect(9, 1.0, 0.1) == 9.0 and design_effect(0.5, 0.4, 0.1) == 1.0
