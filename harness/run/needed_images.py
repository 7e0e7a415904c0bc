"""What a run of so many images cannot show: said before it answers anything, since more images are cheapest to ask for then."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from harness import notices
from harness.results.cell_kinds import is_tested
from harness.results.same_cells import same_cells
from methods.keep import Keep
from metrics.non_inferiority import images_needed

if TYPE_CHECKING:
    from harness.run.prepare import PreparedRun
    from harness.store.runs import RunFolder


def say_where_too_few(run: RunFolder, prepared: PreparedRun, margin: float, rho: float | None) -> None:
    """Say on stderr where a run has fewer images than a method that loses nothing takes to be shown non-inferior.

    Of cells that an earlier run found to be the same one counts; before any answers nobody knows which will be.
    Nothing is said where its images suffice however much the answers of an image fail together, of a task without right answers,
    and of a run in which no method competes.

    Args:
        run: the folder, which holds all cells of the request.
        prepared: the request.
        margin: loss that counts as none, a share of the scale.
        rho: correlation of the changes of an image, where an earlier summary of the run tells it.
    """
    same = same_cells(run) if run.finished else {}
    budgets = Counter(
        Keep.stored(facts)
        for ident, _, facts in run.cells()
        if facts["skipped"] is None and is_tested({**facts, "same_as": same.get(ident)})
    )
    asked = [len(sample.questions) for sample in prepared.samples if sample.count and sample.questions]
    if not prepared.task.info.scored or not budgets or not asked:
        return
    said = too_few(len(asked), sum(asked) / len(asked), margin, rho, max(budgets.values()))
    if said is not None:
        figure = ((run.manifest().get("scoring") or {}).get("figure")) or {"kind": "mean"}
        other = "" if figure["kind"] == "mean" else f" (counted for accuracy; {figure['name']} takes more)"
        notices.remark(f"--margin {margin:g}: {said}{other}")


def too_few(images: int, questions: float, margin: float, rho: float | None, methods: int) -> str | None:
    """Return in words what so many images cannot show, and how many images it takes; None where they suffice.

    Args:
        images: of the run.
        questions: an image, on average.
        margin: loss that counts as none, a share of the scale.
        rho: correlation of the changes of an image; None where it is not known, and then both ends, 0 and 1, are told.
        methods: that compete at one budget.

    >>> too_few(200, 9, 0.02, None, 1) is None
    True
    >>> too_few(12, 9, 0.02, 0.5, 1)
    'a method that changes no answer cannot be shown non-inferior on 12 images of 9 questions: that takes 111 images at the \
correlation of 0.50 that this run has found'
    """
    if questions <= 1:
        rho = 0.0  # an image has no answers that could fail together
    ends = (0.0, 1.0) if rho is None else (rho,)
    one = [images_needed(margin, questions, end) for end in ends]
    best = [images_needed(margin, questions, end, methods) for end in ends]
    if images >= best[-1]:
        return None
    here = f"{_counted(images, 'image')} of {_counted(round(questions, 1), 'question')}"
    unchanged, few = "a method that changes no answer", "only where few answers of an image fail together"
    if images < one[0]:
        what = f"{unchanged} cannot be shown non-inferior on {here}"
    elif images < one[-1]:
        what = f"{unchanged} is shown non-inferior on {here} {few}"
    else:
        best_of = f"as the best of {methods} {few}" if images >= best[0] else f"not as the best of {methods}"
        what = f"{unchanged} is shown non-inferior on {here} if it was named beforehand, but {best_of}"
    if questions <= 1:
        text = f"that takes {_counted(one[0], 'image')}"
    elif rho is None:
        text = f"that takes {one[0]:,} images where answers of an image fail alone, {one[1]:,} where all fail together"
    else:
        text = f"that takes {_counted(one[0], 'image')} at the correlation of {rho:.2f} that this run has found"
    if methods > 1:
        text += f". As the best of {methods} methods: " + " to ".join(f"{count:,}" for count in best)
    return f"{what}: {text}"


def known_correlation(run: RunFolder) -> float | None:
    """Return the correlation of the changes of an image that the summary of a run tells; None where there is none.

    Args:
        run: finished or not.
    """
    if not run.finished:
        return None
    found: dict[str, Any] = (run.summary().get("checks") or {}).get("correlation") or {}
    return found["rho"] if found.get("cells") else None


def _counted(count: float, noun: str) -> str:
    return f"{count:,g} {noun}{'' if count == 1 else 's'}"
