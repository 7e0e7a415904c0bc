"""All bundled methods on the embedded model, held against the stored results of the machine of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite

import torch

from harness import interrupts
from harness.progress import progress
from harness.run.batch_run import BatchRun
from harness.run.machine_check.choices import Replay, replaying, share
from harness.run.machine_check.findings import PartFindings
from harness.run.machine_check.reference_cases import DTYPES, AskedAnswer, ReferenceQuestions
from harness.run.machine_check.rounding import LIMIT, Fingerprint
from harness.run.machine_check.stored_results import REGENERATE, ReferenceAnswer, ReferenceResults
from harness.run.plan import Cell


@dataclass
class HeldAnswer:
    """What came of one question under one method."""

    replay: Replay = field(default_factory=Replay)
    logits: float = 0.0  # largest difference of a token's logits over the largest of them; 0 where none were compared


def check_against_reference(
    reference: ReferenceResults, device: str, dtype: str, methods: Sequence[str] | None = None
) -> PartFindings:
    """Hold every method on a device, in one precision, against the stored results.

    Args:
        reference: what is stored.
        device: such as ``cpu`` or ``cuda:1``.
        dtype: ``float32`` or ``bfloat16``.
        methods: expressions of `reference_cases.METHODS`; all of them where not given.
    """
    found = PartFindings(f"methods in {dtype}", "the stored results")
    questions = ReferenceQuestions(device, dtype)
    stored = {(one.method, one.question): one for one in reference.of(dtype)}
    places = sorted({question for _, question in stored})
    cells = [cell for cell in questions.cells if methods is None or cell.method in methods]
    if questions.adapter.digest != reference.weights.get(dtype):
        found.differences.append("the weights of the embedded model are not those of the stored results; install prunescope anew")
    found.differences += _inputs(reference, questions, places, dtype)
    choices, parted, furthest, logits = 0, 0, 0.0, 0.0
    with progress(found.name, len(cells)) as advance:
        for cell in cells:
            faults: list[str] = []
            for place in places:
                interrupts.check()
                wanted = stored.get((cell.method, place))
                if cell.skipped is not None or wanted is None:
                    faults.append(cell.skipped or f"is not among the stored results; {REGENERATE} adds it")
                    break
                held = held_answer(questions, questions.runs[place], cell, wanted)
                replay = held.replay
                faults += [f"question {place + 1}: {fault}" for fault in replay.faults]
                found.ties += [f"{cell.method}, question {place + 1}: {tie}" for tie in replay.ties]
                choices, parted = choices + replay.choices, parted + replay.parted
                furthest, logits = max(furthest, replay.furthest), max(logits, held.logits)
            if faults:
                more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
                found.differences.append(f"{cell.method}, {faults[0]}{more}")
            advance(1)
    found.figures = {
        "methods": len(cells), "questions": len(places), "choices": choices, "not_compared_to_the_end": parted,
        "furthest_signal": furthest, "furthest_logits": logits, "limit": LIMIT[DTYPES[dtype]],
    }  # fmt: skip
    found.said.append(
        f"{len(cells)} methods, {choices} choices; signals within {share(furthest)}, logits within {share(logits)} "
        f"of the largest ({share(LIMIT[DTYPES[dtype]])} may be rounding)"
    )
    if parted:
        found.said.append(f"{parted} answers were not compared to their end, since a choice before it was another")
    return found


def held_answer(questions: ReferenceQuestions, run: BatchRun, cell: Cell, wanted: ReferenceAnswer) -> HeldAnswer:
    """Answer a question under a method, and hold every choice and the answer against the stored ones.

    Args:
        questions: the model.
        run: the question.
        cell: the method.
        wanted: what is stored.
    """
    held, dtype = HeldAnswer(), DTYPES[wanted.dtype]
    replay = held.replay
    try:
        answer = questions.answer(run, cell, lambda steps: replaying(steps, wanted.choices, replay, dtype))
    except Exception as error:  # of what the machine computes with; it is told as what differs, and the check goes on
        replay.faults.append(f"fails ({type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''})")
        replay.parted = True
        return held
    if replay.parted:
        return held
    if replay.choices != len(wanted.choices):
        replay.faults.append(f"{replay.choices} choices are made, {len(wanted.choices)} in the reference")
    elif not torch.equal(answer.output.kept.cpu(), wanted.kept):
        replay.faults.append("the tokens in the last layer are not those that were chosen")
    _hold_answer(held, answer, wanted, LIMIT[dtype])
    return held


def _hold_answer(held: HeldAnswer, answer: AskedAnswer, wanted: ReferenceAnswer, limit: float) -> None:
    """Hold the answer's tokens and their logits against the stored ones, up to the first token that is another."""
    longest = max(len(answer.tokens), len(wanted.tokens))
    for step in range(longest):
        named = f"answer token {step + 1}"
        if step >= min(len(answer.tokens), len(wanted.tokens)):
            held.replay.faults.append(f"{named} is {'lacking' if step >= len(answer.tokens) else 'one too many'}")
            return
        logits, stored = answer.logits[step].float(), wanted.logits[step]
        far = float((logits - stored).abs().max() / stored.abs().max())
        far = far if isfinite(far) else inf
        held.logits = max(held.logits, far)
        if far > limit:
            said = f"logits of {named} differ by {share(far)} of the largest"
            held.replay.faults.append(f"{said}, {share(limit)} may be rounding")
            return
        if answer.tokens[step] == wanted.tokens[step]:
            continue
        margin = float((logits[answer.tokens[step]] - logits[wanted.tokens[step]]) / logits.abs().max())
        said = f"{named} is another, whose logit leads by {share(margin)}"
        if margin <= limit:
            held.replay.ties.append(said)
        else:
            held.replay.faults.append(f"{said}; {share(limit)} may be rounding")
        return


def _inputs(reference: ReferenceResults, questions: ReferenceQuestions, places: Sequence[int], dtype: str) -> list[str]:
    """What differs in prompts and pixels, before any model runs: both are made on the host, by its libraries."""
    found = []
    for place in places:
        batch = questions.runs[place].batch
        if batch.questions != [reference.prompts[place]]:
            found.append(f"question {place + 1}: its tokens are not those of the stored results (tokenizers or the task differ)")
        apart = Fingerprint.of(batch.pixels.tensors[0]).distance(reference.pixels[place])
        if apart > LIMIT[DTYPES[dtype]]:
            reason = "Pillow, numpy or the image processor differ"
            found.append(f"question {place + 1}: its pixels differ by {share(apart)} ({reason})")
    return found
