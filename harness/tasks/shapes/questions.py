"""Questions on a scene, their answers, and the visual tokens that hold each answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from harness.tasks.shapes.families import FAMILIES
from harness.tasks.shapes.scene import COLOURS, SHAPES, Item, Mask, Scene, unique

Option = TypeVar("Option")


@dataclass(frozen=True)
class ShapesQuestion:
    """One question on a scene.

    ``evidence`` marks the visual tokens that hold the answer, bool [grid, grid]; None where nothing in the image holds a "no".
    """

    family: str
    text: str
    answer: str
    evidence: Mask | None


Asker = Callable[[Scene, np.random.Generator, bool], ShapesQuestion | None]
"""Makes a question of one family on a scene; the last argument is ``easy`` of `ask`."""


def ask(scene: Scene, family: str, rng: np.random.Generator, easy: bool = False) -> ShapesQuestion | None:
    """Return one question of a family, or None where the scene allows none.

    Args:
        scene: the scene.
        family: one of `FAMILIES`.
        rng: draws what is asked about.
        easy: whether to ask a simpler relative, used in training alone ("is there a star ?").
    """
    return _ASKERS[family](scene, rng, easy)


def ask_all(scene: Scene, rng: np.random.Generator) -> tuple[ShapesQuestion, ...]:
    """Return one question of every family that the scene allows, in the order of `FAMILIES`."""
    return tuple(q for family in FAMILIES if (q := ask(scene, family, rng)) is not None)


def vocabulary() -> tuple[str, ...]:
    """Return every word of questions, answers and captions, digits included."""
    words = [
        "is",
        "there",
        "a",
        "the",
        "what",
        "color",
        "shape",
        "how",
        "many",
        "objects",
        "object",
        "are",
        "where",
        "left",
        "or",
        "right",
        "of",
        "above",
        "below",
        "top",
        "bottom",
        "which",
        "digit",
        "in",
        "frame",
        "number",
        "on",
        "strip",
        "dot",
        "yes",
        "no",
        "?",
    ]
    return tuple(dict.fromkeys([*words, *COLOURS, *SHAPES, *map(str, range(10))]))


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe the scene in words, for contrastive training: "red circle blue star digit 3 number 1 4 dot green"."""
    words = [f"{item.colour} {item.shape}" for item in scene.objects]
    rng.shuffle(words)
    for kind, name in (("frame", "digit"), ("strip", "number")):
        if (item := scene.first(kind)) is not None:
            words.append(f"{name} " + " ".join(map(str, item.digits)))
    if (dot := scene.first("dot")) is not None:
        words.append(f"dot {dot.colour}")
    return " ".join(words)


def _pairs(scene: Scene) -> list[tuple[str, str]]:
    return [(item.colour, item.shape) for item in scene.objects]


def _pick(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    return options[int(rng.integers(len(options)))]


def _masks(scene: Scene, items: list[Item]) -> Mask:
    either: Mask = np.logical_or.reduce([item.tokens(scene.grid) for item in items])
    return either


def _existence(scene: Scene, rng: np.random.Generator, easy: bool) -> ShapesQuestion:
    pairs = _pairs(scene)
    if easy:
        part = int(rng.integers(2))
        values = {pair[part] for pair in pairs}
        present = bool(rng.random() < 0.5)
        words = [v for v in (tuple(COLOURS), SHAPES)[part] if (v in values) == present]
        if words:
            value = _pick(rng, words)
            holders = [item for item in scene.objects if value in (item.colour, item.shape)]
            text = f"is there a {value} object ?"
            return ShapesQuestion("existence", text, "yes" if present else "no", _masks(scene, holders) if present else None)
    if rng.random() < 0.5:
        item = _pick(rng, list(scene.objects))
        return ShapesQuestion("existence", f"is there a {item.colour} {item.shape} ?", "yes", item.tokens(scene.grid))
    seen_colours, seen_shapes = {c for c, _ in pairs}, {s for _, s in pairs}
    near = int(rng.integers(3))  # how near the miss: both words seen apart, one of them seen, either
    options = [
        (c, s)
        for c in COLOURS
        for s in SHAPES
        if (c, s) not in pairs and (near == 2 or (c in seen_colours) + (s in seen_shapes) == 2 - near)
    ]
    if not options:
        options = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in pairs]
    colour, shape = _pick(rng, options)
    return ShapesQuestion("existence", f"is there a {colour} {shape} ?", "no", None)


def _colour(scene: Scene, rng: np.random.Generator, easy: bool) -> ShapesQuestion:
    item = scene.objects[_pick(rng, unique(_pairs(scene), 1))]
    return ShapesQuestion("colour", f"what color is the {item.shape} ?", item.colour, item.tokens(scene.grid))


def _shape(scene: Scene, rng: np.random.Generator, easy: bool) -> ShapesQuestion:
    item = scene.objects[_pick(rng, unique(_pairs(scene), 0))]
    return ShapesQuestion("shape", f"what shape is the {item.colour} object ?", item.shape, item.tokens(scene.grid))


def _count(scene: Scene, rng: np.random.Generator, easy: bool) -> ShapesQuestion:
    value = scene.theme[1]
    if easy:
        item = _pick(rng, list(scene.objects))
        value = item.colour if rng.random() < 0.5 else item.shape
    counted = [item for item in scene.objects if value in (item.colour, item.shape)]
    return ShapesQuestion("count", f"how many {value} objects are there ?", str(len(counted)), _masks(scene, counted))


def _relation(scene: Scene, rng: np.random.Generator, easy: bool) -> ShapesQuestion | None:
    objects = scene.objects
    options = [
        (a, b, axis)
        for a in objects
        for b in objects
        for axis in (0, 1)
        if abs(a.centre[axis] - b.centre[axis]) >= (48 if easy and scene.grid >= 20 else 20)
    ]
    if not options:
        return None
    a, b, axis = _pick(rng, options)
    words = (("left", "right"), ("above", "below"))[axis]
    joined = "left or right of" if axis == 0 else "above or below"
    text = f"is the {a.colour} {a.shape} {joined} the {b.colour} {b.shape} ?"
    return ShapesQuestion("relation", text, words[int(a.centre[axis] > b.centre[axis])], _masks(scene, [a, b]))


def _quadrant(scene: Scene, rng: np.random.Generator, easy: bool) -> ShapesQuestion | None:
    middle = scene.grid * 4
    options = [item for item in scene.objects if min(abs(c - middle) for c in item.centre) >= 14]
    if not options:
        return None
    item = _pick(rng, options)
    x, y = item.centre
    answer = f"{'bottom' if y > middle else 'top'} {'right' if x > middle else 'left'}"
    return ShapesQuestion("quadrant", f"where is the {item.colour} {item.shape} ?", answer, item.tokens(scene.grid))


def _written(family: str, kind: str, text: str) -> Asker:
    def asker(scene: Scene, rng: np.random.Generator, easy: bool) -> ShapesQuestion | None:
        item = scene.first(kind)
        if item is None:
            return None
        return ShapesQuestion(family, text, " ".join(map(str, item.digits)), item.tokens(scene.grid))

    return asker


def _dot(scene: Scene, rng: np.random.Generator, easy: bool) -> ShapesQuestion | None:
    item = scene.first("dot")
    return None if item is None else ShapesQuestion("dot", "what color is the dot ?", item.colour, item.tokens(scene.grid))


_ASKERS: dict[str, Asker] = {
    "existence": _existence,
    "colour": _colour,
    "shape": _shape,
    "count": _count,
    "relation": _relation,
    "quadrant": _quadrant,
    "digit": _written("digit", "frame", "which digit is in the frame ?"),
    "number": _written("number", "strip", "what number is on the strip ?"),
    "dot": _dot,
}
