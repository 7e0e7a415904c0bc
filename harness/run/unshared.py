"""A cell run question by question, each from its pixels on: the reference for what is computed once for several."""

from __future__ import annotations

from harness.engine.batch import Batch, EngineOutput, join
from harness.engine.engine import Engine
from harness.engine.recorder import Recorder, merged
from harness.engine.request import EngineRequest, Steps, steps_of_rows
from harness.run.plan import Cell


def run_apart(engine: Engine, cell: Cell, batch: Batch, steps: Steps, recorder: Recorder | None) -> EngineOutput:
    """Return the answers to a batch, nothing shared between its questions.

    Args:
        engine: runs the model.
        cell: whose answers they are.
        batch: images and questions.
        steps: of the cell on this batch.
        recorder: notes tokens, attention and scores of all questions.
    """
    outputs: list[EngineOutput] = []
    recorders: list[Recorder] = []
    places = [[i] for i in range(len(batch.questions))]
    for place in places:
        part = None if recorder is None else Recorder(recorder.attention)
        one, own = batch.rows(place)[0], steps_of_rows(steps, place)
        request = EngineRequest(one, own, cell.object.positions, None, cell.blind, False, recorder=part)
        outputs.append(engine.run(request))
        if part is not None:
            recorders.append(part)
    if recorder is not None:
        merged(recorder, recorders, places)
    return join(outputs, places)
