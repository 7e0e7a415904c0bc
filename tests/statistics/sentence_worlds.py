"""Made-up runs from drawn scores, summarised by the functions that summarise a real one, so that sentences can be counted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.stats import norm

from harness.results.difference_families import DifferenceFamilies, MeanFamily
from harness.results.kept_token_figures import adjust_for_chance
from harness.results.leading_figure import CellScores, LeadingFigure
from harness.results.speed_family import adjust_speed
from harness.results.summary import plain
from metrics import latency
from metrics.chance import centre_p, summarise_z
from metrics.figures import FIGURES
from metrics.intervals import mean_interval

BUDGETS = (192, 128, 64)
FLIPS = 1000  # the level is exact whatever their number
MARGIN = 0.02
Scores = dict[tuple[str, int | None], np.ndarray]
"""[n] scores by method and budget."""
STAGES = ("vision", "projector", "selection", "prefill", "decode")


@dataclass(frozen=True)
class Design:
    """What a made-up run is like; scores of all its cells are drawn alike but for what `shift` says."""

    images: int
    questions: int  # an image
    methods: int = 20
    level: float = 0.7  # share of right answers
    together: float = 0.3  # standard deviation of what a method changes for a whole image, against 1 of an image and its question
    alone: float = 0.3  # of what it changes for one question
    rounds: int = 24
    shift: dict[str, float] = field(default_factory=dict)  # by method: share of right answers more or less

    @property
    def image(self) -> np.ndarray:
        """[n] the image of each answer."""
        return np.repeat(np.arange(self.images), self.questions)

    def cut(self, level: float) -> float:
        """Below what a score counts as right, so that this share of answers is."""
        return float(norm.ppf(level) * np.hypot(1.0, np.hypot(self.together, self.alone)))

    @property
    def named(self) -> list[tuple[str, int | None]]:
        """Method and budget of every cell: references, methods, and a control for each."""
        pruned = [(name, keep) for keep in BUDGETS for name in ("downsample", *self.competitors)]
        controls = [(f"random[like={name}]", keep) for keep in BUDGETS for name in self.competitors]
        return [("none", None), ("blind", None), *pruned, *controls]

    @property
    def competitors(self) -> list[str]:
        """Names of the methods."""
        return [f"m{i:02d}" for i in range(self.methods)]

    def scores(self, rng: np.random.Generator) -> Scores:
        """[n] scores of every cell; what is drawn for all of them makes images and questions easy or hard."""
        n, image = self.images * self.questions, self.image
        easy = np.repeat(rng.normal(0, np.sqrt(0.5), self.images), self.questions) + rng.normal(0, np.sqrt(0.5), n)
        found = {}
        for name, keep in self.named:
            own = rng.normal(0, self.together, self.images)[image] + rng.normal(0, self.alone, n)
            found[name, keep] = (easy + own < self.cut(self.level + self.shift.get(name, 0.0))).astype(float)
        return found


def facts_of(name: str, keep: int | None) -> dict:
    """What a run stores of a cell, as far as figures read it."""
    reference = keep is None or name == "downsample"
    return {"model": "m", "task": "t", "method": name, "keep": keep, "budget": "average", "skipped": None, "reference": reference,
            "removes_nothing": False, "like": None if reference or "like=" in name else f"random[like={name}]"}  # fmt: skip


def stored(design: Design, scores: Scores) -> dict[tuple[str, int | None], CellScores]:
    """The scores of all cells as a run's are read."""
    n = len(design.image)
    return {
        key: CellScores(found, design.image, np.zeros(n, np.int64), np.ones(n, bool)) for key, found in scores.items()
    }  # fmt: skip


def knowing(own: dict[tuple[str, int | None], CellScores]) -> LeadingFigure:
    """The mean score, with what the cells tell of the answers of an image."""
    sighted = [cell for (name, _), cell in own.items() if name != "blind"]
    return LeadingFigure().knowing(sighted, own["none", None], MARGIN)


def answered(design: Design, scores: Scores, seed: int) -> list[dict]:
    """Cells with the leading figure and all tested differences, as `summarise` makes them, but for what no sentence reads."""
    own = stored(design, scores)
    leading = knowing(own)
    families, cells = DifferenceFamilies(leading, seed, FLIPS), []
    best = {keep: max(design.competitors, key=lambda name: scores[name, keep].mean()) for keep in BUDGETS}
    for (name, keep), mine in own.items():
        facts = facts_of(name, keep)
        cell = facts | {"n_images": design.images, "accuracy": leading.estimate(mine)}
        if name == "blind":
            families.add("difference_none", mine, own["none", None], facts, cell)
        elif name in design.competitors:
            rivals = {"none": ("none", None), "like": (facts["like"], keep), "downsample": ("downsample", keep)}
            if name != best[keep]:
                rivals["winner"] = best[keep], keep
            for rival, key in rivals.items():
                families.add(f"difference_{rival}", mine, own[key], facts, cell)
        cells.append(cell)
    families.test()
    return cells


def against_none(design: Design, scores: Scores, seed: int) -> list[dict]:
    """The methods and the unpruned model with the leading figure, and of the differences that to the unpruned model alone."""
    own = {key: cell for key, cell in stored(design, scores).items() if key[0] in ("none", *design.competitors)}
    leading = knowing(own)
    families, cells = DifferenceFamilies(leading, seed, FLIPS), []
    for (name, keep), mine in own.items():
        facts = facts_of(name, keep)
        cell = facts | {"accuracy": leading.estimate(mine)}
        if name != "none":
            families.add("difference_none", mine, own["none", None], facts, cell)
        cells.append(cell)
    families.test()
    return cells


def with_evidence(design: Design, cells: list[dict], rng: np.random.Generator, seed: int) -> None:
    """Give every method its evidence recall over its control's and its gain from swapping the evidence in: nothing on average."""
    gains, recalls = MeanFamily(design.images, seed, FLIPS), MeanFamily(design.images, seed, FLIPS)
    for cell in cells:
        if cell["method"] in design.competitors:
            apart = rng.normal(0, 0.15, design.images)[design.image] + rng.normal(0, 0.1, len(design.image))
            changed = rng.choice((-1.0, 0.0, 1.0), len(design.image), p=(0.06, 0.88, 0.06))
            facts = facts_of(cell["method"], cell["keep"])
            cell["evidence"] = {"recall_over_control": recalls.add(apart, design.image, facts),
                                "swap_gain": gains.add(changed, design.image, facts), "swap_share": None}  # fmt: skip
    gains.test()
    recalls.test()


def with_chance(design: Design, cells: list[dict], rng: np.random.Generator) -> None:
    """Give every method the ranks of uniformly random kept sets, and their share in the lower half of the image."""
    image = np.arange(design.images)
    for cell in cells:
        cell["collapse"] = cell["bias"] = None
        if cell["method"] in design.competitors:
            z = {name: dict.fromkeys(("value", "lo", "hi", "percentile", "share_below_chance", "p")) for name in FIGURES}
            for name in ("effective_rank", "cells"):
                rank = rng.random(design.images)
                z[name] = summarise_z(norm.ppf(rank), rank, image, FIGURES[name])
            half = 0.5 + 0.4 * rng.choice((-1.0, 1.0), design.images)  # of few images the mean often leaves 0.4 to 0.6
            cell["collapse"] = {"z": z}
            cell["bias"] = {"lower_half": {**mean_interval(half, image).as_dict(), "p": centre_p(half, image, 0.5)}}
    adjust_for_chance(cells)


def with_speed(design: Design, cells: list[dict], rng: np.random.Generator) -> None:
    """Give every method timed rounds in which prefill gains what its FLOPs promise."""
    draw = lambda: {stage: 0.01 * rng.lognormal(0, 0.05, design.rounds) for stage in STAGES}
    whole = draw()
    for cell in cells:
        cell["latency"] = None
        if cell["method"] in design.competitors:
            own = draw()
            own["prefill"] = own["prefill"] / 4
            cell["latency"] = latency.summarise(own, whole, 4.0)
    adjust_speed(cells)


def summarised(cells: list[dict]) -> list[dict]:
    """Cells as summary.json holds them."""
    return plain(cells)
