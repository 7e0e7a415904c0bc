"""The gallery's data: images, questions, answers and bit masks as JSON that is safe inside a script element."""

from __future__ import annotations

import base64
import json

import numpy as np

from reports.view import GalleryAnswer, GalleryImage, GalleryQuestion

# Characters that could end the script element or open a comment; JSON of ASCII alone leaves no others.
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&'"}


def payload(images: list[GalleryImage]) -> str:
    """All that the gallery's script draws from, as JSON for a `<script type="application/json">` element.

    Args:
        images: with their questions and answers; masks are bool [gh, gw].

    Returns:
        JSON in which `<`, `>`, `&` and `'` are escapes, so that no text in it can leave the element.
    """
    found = [
        {"id": image.image_id, "png": _base64(image.png), "questions": [_question(q) for q in image.questions]}
        for image in images
    ]
    return json.dumps(found, separators=(",", ":"), allow_nan=False).translate(_UNSAFE)


def bits(mask: np.ndarray | None) -> str | None:
    """A mask as base64 of its bits, row by row, the first token in the highest bit.

    >>> bits(np.array([[True, False], [False, True]]))
    'kA=='
    """
    return None if mask is None else _base64(np.packbits(np.asarray(mask, bool).ravel()).tobytes())


def _question(question: GalleryQuestion) -> dict:
    evidence = question.evidence
    return {
        "id": question.sample_id,
        "family": question.family,
        "text": question.question,
        "target": question.target,
        "evidence": bits(evidence),
        "grid": None if evidence is None else [int(n) for n in evidence.shape],
        "answers": [_answer(a) for a in question.answers],
    }


def _answer(answer: GalleryAnswer) -> dict:
    if answer.kept is not None and tuple(answer.kept.shape) != tuple(answer.grid):
        raise ValueError(
            f"gallery: kept mask of {answer.method} at {answer.keep} is {answer.kept.shape}, its grid {tuple(answer.grid)}"
        )
    score = float("nan") if answer.score is None else float(answer.score)
    return {
        "method": answer.method,
        "keep": None if answer.keep is None else int(answer.keep) if float(answer.keep).is_integer() else float(answer.keep),
        "prediction": answer.prediction,
        "score": score if np.isfinite(score) else None,
        "kept": bits(answer.kept),
        "grid": [int(n) for n in answer.grid],
        "note": answer.note,
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
