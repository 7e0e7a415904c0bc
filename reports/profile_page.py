"""The page of a profile: one file that loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from reports import wording
from reports.figures.break_even import break_even_by_batch, speed_by_kept
from reports.figures.catalogue import Figure
from reports.figures.drawing import Drawn, styled
from reports.profile_words import (
    ORIGIN,
    Found,
    beyond_words,
    break_even_words,
    calibration_words,
    each_operation,
    kernels_words,
    limit_words,
    memory_words,
)
from reports.svg import inline
from reports.templating import encodable, environment, own_file

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def render(found: Found) -> str:
    """Return the page of a profile.

    Args:
        found: what ``profile --json`` prints.

    Returns:
        HTML whose Content-Security-Policy allows inline styles alone.
    """
    page = (
        environment()
        .get_template("profile.html.j2")
        .render(
            found=found,
            title=f"Profile of {found['model']}",
            facts=_facts(found),
            settings=[_setting(found, batch, text) for batch in found["batch_size"] for text in found["text_tokens"]],
            break_even=[(one, *break_even_words(one)) for one in found["break_even"]],
            figures=figures(found),
            largest=found["largest_batch"],
            bounded=[row for row in found["cells"] if row.get("bounds") and _is_shown(row)],
            operations=each_operation([row for row in found["cells"] if row.get("bounds")]),
            memory=memory_words(found),
            calibrations=calibration_words(found).strip(" ()"),
            beyond=beyond_words(found["cells"]),
            limit=limit_words(found),
            origin=ORIGIN,
            kernels=kernels_words(found["kernels"]),
            number=_number,
            spread=_spread,
            several_texts=len(found["text_tokens"]) > 1,
            style=own_file("report.css"),
            policy=_POLICY,
        )
    )
    return encodable(page)


def figures(found: Found) -> list[Figure]:
    """Return the figures of a profile; none where no break-even was looked for.

    Args:
        found: what ``profile --json`` prints.
    """
    done = []
    with styled():
        for name, drawn in _drawn(found):
            svg = inline(drawn.drawing, name, drawn.title)
            done.append(Figure(name, drawn.title, drawn.caption, Markup(svg)))  # nosec B704  # what we have drawn
    return done


def _drawn(found: Found) -> Iterator[tuple[str, Drawn]]:
    for text in found["text_tokens"]:
        if (one := speed_by_kept(found["break_even"], text, found["image"])) is not None:
            yield f"speed-{text}", one
    if (one := break_even_by_batch(found["break_even"], found["text_tokens"], found["image"])) is not None:
        yield "break-even", one


def _facts(found: Found) -> list[tuple[str, str]]:
    """What was profiled, and on what."""
    rates = found["rates"]
    return [
        ("Weights", found["weights"]), ("LLM layers", str(found["layers"])), ("Device", found["device"]),
        ("Precision", found["dtype"]), ("Visual tokens", wording.count(found["image"])),
        ("Answer tokens", str(found["answer_tokens"])),
        ("Matrix products", f"{_number(rates['flops'] / 1e12)} TFLOP/s"), ("Memory", f"{_number(rates['bytes'] / 1e9)} GB/s"),
        ("An operation", f"{_number(1e6 * rates['launch'])} µs"),
        ("Took", f"{wording.duration(found['used'])} of {wording.duration(found['time_limit'])}"),
    ]  # fmt: skip


def _setting(found: Found, batch: int, text: int) -> dict[str, Any]:
    """The cells at one batch size and length of text, with the A/A check there."""
    here = [row for row in found["cells"] if (row["batch_size"], row["text_tokens"]) == (batch, text)]
    aa = next((one["aa"] for one in found["checks"] if (one["batch_size"], one["text_tokens"]) == (batch, text)), None)
    blind = next((row for row in here if row["method"] == "blind" and row.get("answer")), None)
    none = next((row for row in here if row["method"] == "none" and row.get("answer")), None)
    floor = None
    if blind and none and blind["answer"]["p50"] and none["answer"]["p50"]:
        floor = 100 * blind["answer"]["p50"] / none["answer"]["p50"]
    return {"batch": batch, "text": text, "rows": here, "aa": aa, "floor": floor}


def _is_shown(row: Found) -> bool:
    return not row["reference"] or row["method"] in ("none", "blind")


def _number(value: float | None) -> str:
    """A number with three figures, and no more decimals than these take."""
    if value is None:
        return wording.MISSING
    return f"{value:,.0f}" if value >= 100 else f"{value:.{1 if value >= 10 else 2 if value >= 0.1 else 3}f}"


def _spread(figure: Found | None) -> str:
    """The interval of a ratio, or of how many rounds it is where they are too few for one."""
    if figure is None or figure["value"] is None:
        return ""
    if figure["lo"] is None or figure["hi"] is None:
        return f"{figure['rounds']} round{'' if figure['rounds'] == 1 else 's'}, no interval"
    return f"{figure['lo']:.2f} to {figure['hi']:.2f}"
