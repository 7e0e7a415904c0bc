"""Procedural scenes: what stands where, and how it is painted.

A scene is a pure function of ``(split, seed, index)``. It holds small coloured shapes, one large
striped distractor, one framed handwritten digit, one strip of two to four handwritten digits and
one tiny dot, none overlapping another. The handwriting is scikit-learn's ``load_digits``
(Alpaydin & Kaynak 1998), divided once into disjoint training, validation and test writings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Mask = NDArray[np.bool_]
PixelBox = tuple[int, int, int, int]  # left, top, width, height in pixels

PATCH = 8  # pixels a side of one visual token
GRID = 24  # visual tokens a side of a full scene
SPLITS = {"train": 0, "validation": 1, "test": 2}
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 150, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 215, 40),
    "purple": (150, 60, 190),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
_WRITINGS = {"train": slice(0, 1197), "validation": slice(1197, 1437), "test": slice(1437, 1797)}


@dataclass(frozen=True)
class Item:
    """One thing in a scene, and where it stands."""

    kind: str  # object, distractor, frame, strip, dot
    box: PixelBox
    colour: str = ""
    shape: str = ""
    digits: tuple[int, ...] = ()
    writings: tuple[int, ...] = ()  # rows of load_digits
    angle: float = 0.0  # of the stripes, radians

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the box, (x, y) in pixels."""
        left, top, width, height = self.box
        return left + width / 2, top + height / 2

    def tokens(self, grid: int = GRID) -> Mask:
        """Return the visual tokens on which the item stands: bool [grid, grid].

        A token counts if the item's box covers at least an eighth of its patch; where none does
        (a dot on a corner), the token under the centre.
        """
        left, top, width, height = self.box
        edges = np.arange(grid) * PATCH

        def cover(start: int, length: int) -> NDArray[np.int_]:
            pixels: NDArray[np.int_] = np.clip(np.minimum(edges + PATCH, start + length) - np.maximum(edges, start), 0, None)
            return pixels

        mask: Mask = np.outer(cover(top, height), cover(left, width)) >= PATCH * PATCH / 8
        if not mask.any():
            x, y = self.centre
            mask[int(y) // PATCH, int(x) // PATCH] = True
        return mask


@dataclass(frozen=True)
class Scene:
    """The items on a canvas of ``grid`` x ``grid`` tokens; ``noise`` seeds the background."""

    grid: int
    items: tuple[Item, ...]
    noise: int
    theme: tuple[str, str]  # the attribute and value that the count question asks about

    @property
    def objects(self) -> tuple[Item, ...]:
        """The small coloured shapes, on which most questions are."""
        return tuple(item for item in self.items if item.kind == "object")

    def first(self, kind: str) -> Item | None:
        """Return the first item of a kind, or None."""
        return next((item for item in self.items if item.kind == kind), None)


def generator(split: str, seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """Return the random generator of one scene; splits, seeds, indices and streams never share one."""
    return np.random.default_rng([SPLITS[split], seed, index, stream])


@lru_cache(maxsize=1)
def handwriting() -> tuple[NDArray[np.float64], NDArray[np.int_], dict[str, dict[int, NDArray[np.int_]]]]:
    """Return the images [1797, 8, 8] in [0, 16], their digits [1797], and per split the rows of each digit."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    rows = {
        split: {digit: order[part][data.target[order[part]] == digit] for digit in range(10)} for split, part in _WRITINGS.items()
    }
    return data.images, data.target, rows


def make_scene(split: str, seed: int, index: int, grid: int = GRID) -> Scene:
    """Make the scene of (split, seed, index); a ``grid`` below 24 gives the small training canvases."""
    rng = generator(split, seed, index)
    while True:
        scene = _try_scene(rng, split, grid)
        if scene is not None:
            return scene


class _Facts(TypedDict, total=False):
    """What an item has beside its kind and its box."""

    colour: str
    shape: str
    digits: tuple[int, ...]
    writings: tuple[int, ...]
    angle: float


def _try_scene(rng: np.random.Generator, split: str, grid: int) -> Scene | None:
    small = grid < 20
    looks = _looks(rng, small)
    if looks is None:
        return None
    pairs, theme = looks
    side = grid * PATCH
    wanted: list[tuple[str, int, int, _Facts]] = []
    if not small or rng.random() < 0.6:
        size = int(rng.integers(24, 41) if small else rng.integers(56, 81))
        wanted.append(("distractor", size, size, {"angle": float(rng.uniform(0, np.pi))}))
    for kind, count, cell in (("frame", 1, 28), ("strip", int(rng.integers(2, 4 if small else 5)), 16)):
        digits = tuple(int(d) for d in rng.integers(0, 10, count))
        rows = handwriting()[2][split]
        writings = tuple(int(rng.choice(rows[digit])) for digit in digits)
        width, height = (28, 28) if kind == "frame" else (cell * count + 4, cell + 4)
        wanted.append((kind, width, height, {"digits": digits, "writings": writings}))
    for colour, shape in pairs:
        size = int(rng.integers(16, 21))
        wanted.append(("object", size, size, {"colour": colour, "shape": shape}))
    wanted.append(("dot", 6, 6, {"colour": str(rng.choice(list(COLOURS)))}))
    items: list[Item] = []
    for kind, width, height, facts in wanted:
        box = _place(rng, side, width, height, [item.box for item in items])
        if box is None:
            return None
        items.append(Item(kind, box, **facts))
    return Scene(grid, tuple(items), int(rng.integers(2**31)), theme)


def _looks(rng: np.random.Generator, small: bool) -> tuple[list[tuple[str, str]], tuple[str, str]] | None:
    """Distinct (colour, shape) pairs in which one value, the theme, appears one to four times."""
    attribute = "colour" if rng.random() < 0.5 else "shape"
    colours, shapes = list(rng.permutation(list(COLOURS))), list(rng.permutation(SHAPES))
    count = int(rng.integers(1, 3 if small else 5))
    others = 2 if small else int(rng.integers(2, 4))
    if attribute == "colour":
        pairs = [(colours[0], shape) for shape in shapes[:count]]
        rest = [(c, s) for c in colours[1:] for s in shapes]
    else:
        pairs = [(colour, shapes[0]) for colour in colours[:count]]
        rest = [(c, s) for c in colours for s in shapes[1:]]
    pairs += [rest[i] for i in rng.choice(len(rest), others, replace=False)]
    pairs = [(str(c), str(s)) for c, s in pairs]
    if not unique(pairs, 0) or not unique(pairs, 1):
        return None
    theme = pairs[0][0] if attribute == "colour" else pairs[0][1]
    rng.shuffle(pairs)
    return [(c, s) for c, s in pairs], (attribute, theme)


def unique(pairs: list[tuple[str, str]], part: int) -> list[int]:
    """Return the positions of the pairs whose colour (part 0) or shape (part 1) no other pair has."""
    values = [pair[part] for pair in pairs]
    return [i for i, value in enumerate(values) if values.count(value) == 1]


def _place(rng: np.random.Generator, side: int, width: int, height: int, taken: list[PixelBox]) -> PixelBox | None:
    gap = 3
    for _ in range(60):
        left, top = int(rng.integers(1, side - width)), int(rng.integers(1, side - height))
        if all(
            left + width + gap <= l or l + w + gap <= left or top + height + gap <= t or t + h + gap <= top
            for l, t, w, h in taken
        ):
            return left, top, width, height
    return None


def paint(scene: Scene, *, varied: bool = False) -> Image.Image:
    """Paint the scene as an RGB image of grid x 8 pixels a side.

    Args:
        scene: the scene.
        varied: whether to draw each writing a little wider, taller, leaning or shifted: for training the tower alone,
            whose twelve hundred writings are few.
    """
    side = scene.grid * PATCH
    rng = np.random.default_rng(scene.noise)
    slope = rng.uniform(-25, 25, 2)
    ramp = np.linspace(-0.5, 0.5, side)
    light = rng.uniform(80, 130) + slope[0] * ramp[:, None] + slope[1] * ramp[None, :]
    tint = rng.uniform(-8, 8, 3)
    pixels = light[:, :, None] + tint + rng.normal(0, 5, (side, side, 1))
    canvas = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    for item in scene.items:
        left, top, width, height = item.box
        if item.kind == "distractor":
            canvas.paste(_stripes(width, item.angle), (left, top))
        elif item.kind == "object":
            stamp = _stamp(item.shape, width)
            canvas.paste(COLOURS[item.colour], (left, top, left + width, top + height), stamp)
        elif item.kind == "dot":
            canvas.paste(COLOURS[item.colour], (left, top, left + width, top + height), _stamp("circle", width))
        else:
            _write(canvas, item, rng, varied)
    return canvas


def _write(canvas: Image.Image, item: Item, rng: np.random.Generator, varied: bool) -> None:
    left, top, width, height = item.box
    border = 3 if item.kind == "frame" else 2
    cell = height - 2 * border
    draw = ImageDraw.Draw(canvas)
    draw.rectangle(
        (left, top, left + width - 1, top + height - 1), fill=(20, 20, 20) if item.kind == "frame" else (235, 225, 200)
    )
    draw.rectangle((left + border, top + border, left + width - 1 - border, top + height - 1 - border), fill=(235, 225, 200))
    for place, writing in enumerate(item.writings):
        ink = Image.fromarray((handwriting()[0][writing] * 15.9).astype(np.uint8))
        ink = ink.resize((cell, cell), Image.Resampling.BICUBIC).rotate(float(rng.uniform(-8, 8)), Image.Resampling.BICUBIC)
        if varied:
            ink = ink.transform((cell, cell), Image.Transform.AFFINE, _leaning(rng, cell), Image.Resampling.BICUBIC)
        x = left + border + place * cell
        canvas.paste((15, 15, 25), (x, top + border, x + cell, top + border + cell), ink)


def _leaning(rng: np.random.Generator, size: int) -> tuple[float, ...]:
    """A small random affine map about the middle, as PIL wants it (output to input)."""
    middle = size / 2
    matrix = np.eye(2) + np.array([[rng.uniform(-0.12, 0.12), rng.uniform(-0.2, 0.2)], [0.0, rng.uniform(-0.12, 0.12)]])
    shift = middle - matrix @ np.array([middle, middle]) + rng.uniform(-0.06, 0.06, 2) * size
    return (*map(float, matrix[0]), float(shift[0]), *map(float, matrix[1]), float(shift[1]))


def _stripes(size: int, angle: float) -> Image.Image:
    y, x = np.mgrid[0:size, 0:size]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / 10)
    return Image.fromarray(np.repeat(np.where(wave > 0, 235, 25).astype(np.uint8)[:, :, None], 3, axis=2))


@lru_cache(maxsize=256)
def _stamp(shape: str, size: int) -> Image.Image:
    """The shape's coverage, 0 to 255, ``size`` pixels a side, anti-aliased."""
    fine = size * 4
    mask = Image.new("L", (fine, fine), 0)
    draw = ImageDraw.Draw(mask)
    middle, radius = fine / 2, fine / 2 - 1
    if shape in ("circle", "ring"):
        draw.ellipse((1, 1, fine - 2, fine - 2), fill=255)
        if shape == "ring":
            hole = fine * 0.28
            draw.ellipse((hole, hole, fine - hole, fine - hole), fill=0)
    elif shape == "square":
        draw.rectangle((fine * 0.06, fine * 0.06, fine * 0.94, fine * 0.94), fill=255)
    elif shape == "triangle":
        draw.polygon([(middle, 1), (fine - 2, fine - 2), (1, fine - 2)], fill=255)
    elif shape == "cross":
        arm = fine * 0.16
        draw.rectangle((middle - arm, 1, middle + arm, fine - 2), fill=255)
        draw.rectangle((1, middle - arm, fine - 2, middle + arm), fill=255)
    else:
        turns = np.arange(10) * np.pi / 5 - np.pi / 2
        reach = np.where(np.arange(10) % 2 == 0, radius, radius * 0.42)
        draw.polygon([(middle + r * np.cos(t), middle + r * np.sin(t)) for t, r in zip(turns, reach)], fill=255)
    return mask.resize((size, size), Image.Resampling.LANCZOS)
