"""What a batch stores: answers with what the rules say of them, pictures of its samples, and why tokens were kept."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from harness.engine.batch import Batch, EngineOutput
from harness.engine.recorder import Recorder
from harness.run.contact_sheet import sheet
from harness.store.arrays import pack
from harness.store.cell_results import SampleRow, SelectionTrace
from harness.store.schema import ImageRow, QuestionRow
from harness.tasks.base import ImageSample, Question, Task
from harness.tasks.rules import judged


def answer_row(task: Task, question: Question, prediction: str) -> SampleRow:
    """Return the row of an answer, with what every rule of the task says of it.

    Args:
        task: of the question.
        question: that was asked.
        prediction: the answer.
    """
    found = judged(task, prediction, question.answer)
    own = found.scores
    return SampleRow(
        question.sample_id, prediction, found.leading.score,
        read=found.leading.read, undecided=None if found.leading.decided else 1,
        ours=own.get("ours"), official=own.get("official"), authors=own.get("authors"),
    )  # fmt: skip


def image_row(sample: ImageSample, images: Sequence[Image.Image], place: int, rank: float | None) -> ImageRow:
    """Return a sample's row of the table ``images``; without a picture where it has no image.

    Args:
        sample: the sample.
        images: of it, decoded.
        place: of the sample among all of the run.
        rank: effective rank of all its visual tokens; None where it was not analysed.
    """
    if not images:
        return sample.image_id, place, None, None, None, None
    buffer, picture = io.BytesIO(), sheet(images)
    picture.save(buffer, "PNG")
    return sample.image_id, place, buffer.getvalue(), picture.height, picture.width, rank


def question_rows(samples: Sequence[ImageSample], masks: Sequence[np.ndarray | None]) -> list[QuestionRow]:
    """Return the samples' rows of the table ``questions``.

    Args:
        samples: the samples.
        masks: of every question, its evidence on the grid of its image's tokens; None where there is none.
    """
    named = [(s, i, q) for s in samples for i, q in enumerate(s.questions)]
    return [
        (q.sample_id, s.image_id, i, q.family, q.text, q.answer, None if mask is None else pack(mask))
        for (s, i, q), mask in zip(named, masks, strict=True)
    ]


def traces(questions: Sequence[Question], batch: Batch, output: EngineOutput, recorder: Recorder) -> list[SelectionTrace]:
    """Return the scores that a cell ranked by, and where merged tokens went, by the original tokens of each question's images.

    Args:
        questions: of the batch.
        batch: as it is.
        output: what the engine gave for it under the cell.
        recorder: what the engine noted on the way.
    """
    counts, ranks = batch.pixels.counts, None
    if recorder.scores is not None:
        assert recorder.scored_ids is not None, "scores come with the tokens that they belong to"
        ranks = recorder.scores, recorder.scored_ids
    source = output.source if output.source is not None else recorder.source
    found = []
    for row, question in enumerate(questions):
        size, scores, went = counts[int(batch.image[row])], None, None
        if ranks is not None:
            ids = ranks[1][row].cpu()
            scores = np.full(size, np.nan, np.float16)
            scores[ids[ids >= 0].numpy()] = ranks[0][row].cpu()[ids >= 0].half().numpy()
        if source is not None:
            went = source[row].cpu().numpy().astype(np.int16)[:size]
        if scores is not None or went is not None:
            found.append(SelectionTrace(question.sample_id, scores, went))
    return found


def number(value: float) -> float | None:
    """Return a figure as it is stored: None where it is not a number."""
    return None if value != value else float(value)
