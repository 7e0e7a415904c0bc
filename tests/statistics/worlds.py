"""Made-up runs with a known truth: answers of an image that go together, losses that go together, many methods."""

from __future__ import annotations

import numpy as np

from harness.results.leading_figure import CellScores

Floats = np.ndarray


def rates(rng: np.random.Generator, mean: float, rho: float, shape: tuple[int, ...]) -> Floats:
    """Rates of images whose answers correlate by rho: beta-distributed."""
    if rho == 0 or mean in (0, 1):
        return np.full(shape, mean)
    size = (1 - rho) / rho
    return rng.beta(mean * size, (1 - mean) * size, shape)


def answers(rng: np.random.Generator, mean: float, rho: float, images: int, questions: int) -> Floats:
    """Right and wrong answers, [images, questions]."""
    return (rng.random((images, questions)) < rates(rng, mean, rho, (images, 1))).astype(float)


def changed(
    rng: np.random.Generator, before: Floats, lost: float, gained: float, rho: float, rho_gained: float | None = None
) -> Floats:
    """The same answers under a method: of right ones a share is lost, of wrong ones a share is gained, image by image."""
    images = (len(before), 1)
    loses = rng.random(before.shape) < rates(rng, lost, rho, images)
    gains = rng.random(before.shape) < rates(rng, gained, rho if rho_gained is None else rho_gained, images)
    return np.where(before == 1, 1.0 - loses, 1.0 * gains)


SIZES = {
    "geometric": lambda rng, images: np.minimum(rng.geometric(1 / 9, images), 40),
    "1 or 9": lambda rng, images: np.where(rng.random(images) < 0.5, 1, 9),
    "a tenth of 40, others 1": lambda rng, images: np.where(rng.random(images) < 0.1, 40, 1),
}
"""Numbers of questions about an image, where they are not the same."""


def unequal(rng: np.random.Generator, kind: str, images: int) -> Floats:
    """1 where an image has a question and nan where it has none, [images, 40]."""
    return np.where(np.arange(40) < SIZES[kind](rng, images)[:, None], 1.0, np.nan)


def cell(scores: Floats) -> CellScores:
    """Scores [images, questions] as the summary reads them."""
    images, questions = scores.shape
    image = np.repeat(np.arange(images), questions)
    flat = scores.ravel()
    return CellScores(flat, image, np.zeros(len(flat), np.int64), np.ones(len(flat), bool))


def method(place: int, keep: int = 64) -> dict:
    """Facts of a cell that competes."""
    return {"method": f"method{place}", "keep": keep, "keep_label": str(keep), "reference": False, "removes_nothing": False}
