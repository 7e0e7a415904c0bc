"""What the page is made from: a run already read from its folder, with no torch and no database in sight."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.literature.comparison import HeldAgainst
from harness.store.layouts import Area
from methods.keep import Keep
from reports.cells import Cell

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Ruling:
    """How an answer was scored: what the rule that leads read in it, and what the rules make of it."""

    read: str | None  # None: nothing was found, or the rule reads nothing
    decided: bool = True  # false: the code of the rule could not decide, and the answer counts as wrong
    scores: dict[str, float] = field(default_factory=dict)  # by the name of each rule


@dataclass(frozen=True)
class GalleryAnswer:
    """The answer of one cell to one question, and the tokens that it still had in the last LLM layer."""

    method: str  # canonical expression
    keep: Keep | int | None  # the budget, a number being a count; 0 or None: the same answer at every budget
    prediction: str
    score: float | None  # 0 wrong, 1 right, between: partly right; None where no answer is known
    kept: Mask | None  # bool [gh, gw], or [N] over the image's areas; merged: the lowest of each group; None: unknown
    grid: tuple[int, int]  # (gh, gw); a shrunken image has another grid than the rest
    note: str = ""
    # float [N], what the method ranked by, high is kept; nan: gone by then; None: not recorded
    scores: NDArray[np.floating] | None = None
    # int [N], the merged token that each token went into, -1: dropped; None: nothing merged
    source: NDArray[np.integer] | None = None
    merges: bool = False  # then a token that is not kept may live on in another
    ruling: Ruling | None = None  # how the answer was scored; None: a run of an older version


@dataclass(frozen=True)
class GalleryQuestion:
    """One question about an image, with every cell's answer."""

    sample_id: str
    family: str
    question: str
    target: str
    evidence: Mask | None  # bool [gh, gw] or [N] over the areas: tokens that hold the answer; None: the task knows none
    answers: list[GalleryAnswer]


@dataclass(frozen=True)
class GalleryImage:
    """One image as the model saw it, with its questions."""

    image_id: str
    png: bytes
    questions: list[GalleryQuestion]
    areas: tuple[Area, ...] = ()  # in the order of the tokens, where these are no one full grid; empty: one grid, or unknown


@dataclass(frozen=True)
class RunView:
    """Everything the page may show. No number appears there that is not here or a plain ratio of two that are."""

    manifest: dict[str, Any]
    cells: list[Cell]  # the entries of summary.json
    gallery: list[GalleryImage] = field(default_factory=list)
    # the entry of summary.json: the A/A check, and how many images were analysed
    checks: dict[str, Any] = field(default_factory=dict)
    explained: dict[str, Any] | None = None  # the entry of summary.json: what predicts accuracy
    made_by: int | None = None  # ``run_schema_version`` of summary.json: the version that began the run; None is not told
    held: tuple[HeldAgainst, ...] = ()  # its cells beside published figures of the same model, task, method and budget
