"""The gallery's data: images, questions, answers, masks, scores and merged groups as JSON that is safe inside a script."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from methods.keep import Keep
from reports.scoring import named
from reports.view import GalleryAnswer, GalleryImage, GalleryQuestion, Mask, Ruling

HEAVIEST = 9_000_000
"""Characters of JSON that a page may hold; with figures and tables it stays well under 15 MB."""

# Characters that could end the script element or open a comment; JSON of ASCII alone leaves no others.
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&'"}


@dataclass(frozen=True)
class Payload:
    """JSON for a `<script type="application/json">` element, and how many images it holds; the rest were too heavy."""

    json: str
    images: int


def payload(images: list[GalleryImage], heaviest: int = HEAVIEST) -> Payload:
    """Return all that the gallery's script draws from.

    Args:
        images: with their questions and answers, the most telling first.
        heaviest: characters after which no further image is taken; the first is always taken.

    Returns:
        JSON in which `<`, `>`, `&` and `'` are escapes, so that no text in it can leave the element.

    Raises:
        ValueError: where a mask, scores or groups do not fit the tokens that they are about.
    """
    found: list[str] = []
    weight = 0
    for image in images:
        text = json.dumps(_image(image), separators=(",", ":"), allow_nan=False).translate(_UNSAFE)
        weight += len(text)
        if found and weight > heaviest:
            break
        found.append(text)
    return Payload(f"[{','.join(found)}]", len(found))


def most_telling(
    answers: Iterable[tuple[str, str, Hashable, float | None]], most: int, first: frozenset[str] = frozenset()
) -> list[str]:
    """Return the images whose questions part the methods most, the most telling first.

    An image's worth is the variance of the scores among methods at one budget, summed over its questions and budgets: it is
    highest where half of the methods answer right and half wrong.

    Args:
        answers: (image, question, budget, score) of pruned cells; a score of None counts for nothing.
        most: how many images to take.
        first: images to prefer whatever their worth: those whose tokens were analysed.

    Returns:
        Identifiers of at most ``most`` images; equals stay in the order of the answers.

    >>> most_telling([("a", "q", 64, 1.0), ("a", "q", 64, 1.0), ("b", "r", 64, 1.0), ("b", "r", 64, 0.0)], 1)
    ['b']
    """
    scores: dict[tuple[str, str, Hashable], list[float]] = defaultdict(list)
    worth: dict[str, float] = {}
    for image, question, keep, score in answers:
        worth[image] = 0.0
        if score is not None:
            scores[image, question, keep].append(score)
    for (image, _, _), known in scores.items():
        worth[image] += float(np.var(known))
    return sorted(worth, key=lambda image: (image not in first, -worth[image]))[:most]


def bits(mask: Mask | None) -> str | None:
    """Write a mask as base64 of its bits, row by row, the first token in the highest bit.

    >>> bits(np.array([[True, False], [False, True]]))
    'kA=='
    """
    return None if mask is None else _base64(np.packbits(np.asarray(mask, bool).ravel()).tobytes())


def ranks(scores: NDArray[np.floating]) -> str:
    """Write scores as base64 of one byte a token: 0 where there is none, else 1 for the lowest to 255 for the highest rank.

    Ranks, since scores of attention are so uneven that their plain values would all but one look alike.

    >>> list(base64.b64decode(ranks(np.array([0.5, np.nan, 0.1, 7.0]))))
    [128, 0, 1, 255]
    """
    known = np.isfinite(scores)
    values, places = np.unique(scores[known], return_inverse=True)
    out = np.zeros(scores.shape, np.uint8)
    out[known] = np.rint(1 + 254 * places / max(len(values) - 1, 1))
    return _base64(out.tobytes())


def _image(image: GalleryImage) -> dict[str, Any]:
    questions = [_question(q, image) for q in image.questions]
    found: dict[str, Any] = {"id": image.image_id, "png": _base64(image.png), "questions": questions}
    if image.areas:
        found["areas"] = [[a.rows, a.columns, a.top, a.left, a.bottom, a.right] for a in image.areas]
    return found


def _question(question: GalleryQuestion, image: GalleryImage) -> dict[str, Any]:
    evidence = question.evidence
    return {
        "id": question.sample_id,
        "family": question.family,
        "text": question.question,
        "target": question.target,
        "evidence": bits(evidence),
        "grid": None if evidence is None or evidence.ndim == 1 else [int(n) for n in evidence.shape],
        "answers": [_answer(a, image) for a in question.answers],
    }


def _answer(answer: GalleryAnswer, image: GalleryImage) -> dict[str, Any]:
    tiled = answer.kept is not None and answer.kept.ndim == 1
    shape: tuple[int, ...] = (sum(a.count for a in image.areas),) if tiled else tuple(answer.grid)
    who = f"gallery: {{}} of {answer.method} at {answer.keep}"
    if answer.kept is not None and tuple(answer.kept.shape) != shape:
        raise ValueError(f"{who.format('kept mask')} is {answer.kept.shape}, its grid {shape}")
    for name, values in (("scores", answer.scores), ("source", answer.source)):
        if values is not None and np.size(values) != np.prod(shape):
            raise ValueError(f"{who.format(name)} has {np.size(values)} values for {np.prod(shape)} tokens")
    budget = Keep.asked(answer.keep) if answer.keep else None
    score = float("nan") if answer.score is None else float(answer.score)
    found: dict[str, Any] = {
        "method": answer.method,
        "keep": answer.keep if budget is None else budget.value,
        "keep_label": None if budget is None else str(budget),
        "prediction": answer.prediction,
        "score": score if np.isfinite(score) else None,
        "kept": bits(answer.kept),
        "grid": None if tiled else [int(n) for n in answer.grid],
        "note": answer.note,
    }
    if answer.ruling is not None:
        found |= ruled(answer.ruling)
    if answer.merges or answer.source is not None:
        found["merges"] = True
    if answer.scores is not None:
        values = np.asarray(answer.scores, np.float64).ravel()
        known = values[np.isfinite(values)]
        found |= {"ranks": ranks(values), "span": [float(known.min()), float(known.max())] if len(known) else None}
    if answer.source is not None:
        found["source"] = _base64(np.asarray(answer.source, "<i2").tobytes())
    return found


def ruled(ruling: Ruling) -> dict[str, Any]:
    """Return what a page says of how an answer was scored: what was read, and the scores by each rule where they disagree.

    >>> ruled(Ruling("B", True, {"ours": 1.0, "official": 0.0}))
    {'read': 'B', 'rules': {'our rule': 1.0, 'the official rule': 0.0}}
    >>> ruled(Ruling(None, False, {"ours": 0.0, "official": 0.0}))
    {'undecided': True}
    """
    found: dict[str, Any] = {} if ruling.read is None else {"read": ruling.read}
    if not ruling.decided:
        found["undecided"] = True
    if len(set(ruling.scores.values())) > 1:
        found["rules"] = {named(rule): score for rule, score in ruling.scores.items()}
    return found


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
