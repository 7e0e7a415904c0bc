"""How times are told: value and interval always, and the mark *wide* beside a speed-up that is known only loosely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metrics.paired_ratio import KNOWN, reach
from reports import wording
from reports.cells import Cell, dig, interval, keep, method, number, role, rounds_without_interval, shown

WIDE = "wide"
"""The mark of a speed-up whose 95 % interval reaches further than `metrics.paired_ratio.KNOWN` from it."""
_NAMED = 6  # wide cells that an alert names


def is_wide(cell: Cell) -> bool:
    """Return whether a cell's speed-up is marked *wide*; never where nothing was timed, nor of the unpruned model."""
    return bool(dig(cell, "latency.wide"))


def why_wide(cell: Cell) -> str:
    """Say of a *wide* cell how far off its speed-up may be; nothing of another.

    >>> why_wide({"latency": {"wide": True, "ratio": {"value": 2.0, "lo": 1.6, "hi": 2.2}}})
    'wide: the truth may be 25 % off'
    >>> why_wide({"latency": {"wide": True, "ratio": {"value": 2.0, "lo": 1.9, "hi": 2.1}}})
    'wide: the truth may be 5.3 % off'
    """
    if not is_wide(cell):
        return ""
    found = interval(cell, "latency.ratio")
    if found is None or not found.known or found.lo <= 0:
        return f"{WIDE}: too few rounds to tell how far off it may be"
    off = reach(found.value, found.lo, found.hi)
    # what is wide by little must not read as if it were known
    return f"{WIDE}: the truth may be {wording.percent(off, 0 if off >= 2 * KNOWN else 1 if off >= 1.02 * KNOWN else 2)} % off"


def speed_up(cell: Cell, unit: str = " times", mark: bool = True) -> str:
    """Write a cell's speed-up with its interval and, where it is *wide*, its mark; nothing where there is none.

    Args:
        cell: entry of summary.json.
        unit: what stands behind the number.
        mark: whether the mark stands there too.

    >>> speed_up({"method": "a", "latency": {"wide": True, "ratio": {"value": 2.0, "lo": 1.6, "hi": 2.2}}})
    '2.00 times [1.60 to 2.20], wide'
    """
    found = interval(cell, "latency.ratio")
    if found is None or method(cell) == "none":
        return ""
    spread = wording.plain_range(found) if found.known else rounds_without_interval(cell)
    return f"{wording.plain(found.value)}{unit} [{spread}]" + (f", {WIDE}" if mark and is_wide(cell) else "")


def first_token(cell: Cell) -> str:
    """Write a cell's time to the first token with its interval, in milliseconds; nothing where it was not timed.

    >>> first_token({"latency": {"ttft": {"value": 48.2, "lo": 47.0, "hi": 49.5}}})
    '48.2 [47.0 to 49.5]'
    """
    found = interval(cell, "latency.ttft")
    if found is None:
        return ""
    spread = wording.milliseconds_range(found) if found.known else rounds_without_interval(cell)
    return f"{wording.milliseconds(found.value)} [{spread}]"


def beside_none(cell: Cell, none: Cell | None) -> str:
    """Say how long the unpruned model took, in the rounds of a cell where they are known; nothing where it was not timed.

    Args:
        cell: entry of summary.json.
        none: that of the unpruned model.
    """
    same, whole = number(cell, "latency.ttft_none"), number(none, "latency.ttft") if none else None
    if same is not None:
        return f"unpruned {wording.milliseconds(same)} ms in the same rounds"
    return "" if whole is None else f"unpruned {wording.milliseconds(whole)} ms"


def none_in_its_rounds(cell: Cell) -> str:
    """Write how long the unpruned model took in the rounds of a cell, such as none 118; nothing of that model, nor where unknown.

    A cell that is known early has fewer rounds than others, and the machine may have been busier or calmer in them.
    """
    same = number(cell, "latency.ttft_none")
    return "" if same is None or method(cell) == "none" else f"none\u00a0{wording.milliseconds(same)}"


def round_notes(cell: Cell) -> str:
    """Say in how many rounds a cell's time to first token was taken, and how they vary; nothing where it was not timed."""
    rounds, cv = number(cell, "latency.rounds"), number(cell, "latency.cv")
    if rounds is None or number(cell, "latency.ttft") is None:
        return ""
    varying = "" if cv is None else f", which vary by {wording.percent(cv, 0)} %"
    return f"{rounds:.0f} round{'' if rounds == 1 else 's'}{varying}"


def alerts(cells: Sequence[Cell]) -> list[str]:
    """Say what a reader must know of the times of a run: which are *wide*, and which are no time to first token in one piece."""
    found, wide = [], sorted((c for c in cells if is_wide(c)), key=lambda c: role(c) != "method")
    if wide:
        names = list(dict.fromkeys(map(_named, wide)))
        more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED + 1 else []
        listed = wording.listed([*(names[:_NAMED] if more else names), *more])
        bare = len({_named(c) for c in wide if (ratio := interval(c, "latency.ratio")) is not None and not ratio.known})
        none = "" if not bare else f" {bare} of them {'has' if bare == 1 else 'have'} no interval yet, of too few rounds."
        found.append(
            f"{len(names)} {'speed-up is' if len(names) == 1 else 'speed-ups are'} {WIDE}, known less closely than to "
            f"{100 * KNOWN:g} %: {listed}. There the truth may lie anywhere in the interval that stands beside the number; more "
            f"time (--time-limit) or an idle machine narrows it.{none}"
        )
    return [*found, note] if (note := summed_note(cells)) else found


def summed_note(cells: Sequence[Cell]) -> str:
    """Say which times to first token are sums of stages, as in runs of older versions; nothing where none is."""
    timed = [c for c in cells if number(c, "latency.ttft") is not None]
    summed = [c for c in timed if dig(c, "latency.in_one_piece") is False]
    if not summed:
        return ""
    which = "" if len(summed) == len(timed) else f" of {len(summed)} of {len(timed)} cells"
    return (
        f"Time to first token{which} is summed from stages (vision, projector, selection, prefill), as older versions did: "
        "preprocessing, and layout and embedding of the prompt, are not in it. It is too short, and its speed-ups do not "
        "compare with those of a run that takes it in one piece."
    )


def wide_note(cells: Sequence[Cell]) -> str:
    """Say what the mark *wide* means, for below a table; nothing where no cell bears it."""
    bears = any(map(is_wide, cells))
    return f"A speed-up marked {WIDE} is known less closely than to {100 * KNOWN:g} %: read its interval." if bears else ""


def _named(cell: Cell) -> str:
    """A cell as an alert names it."""
    return f"{method(cell)} at {shown(cell)}" if keep(cell) else method(cell)


def how_timed(manifest: dict[str, Any], cells: Sequence[Cell]) -> str | None:
    """Return how times were taken and how many speed-ups are known, as sentences; None where nothing was taken in one piece."""
    timed = [c for c in cells if dig(c, "latency.in_one_piece")]
    if not timed:
        return None
    judged = [c for c in timed if isinstance(dig(c, "latency.wide"), bool)]
    known = f"{sum(not is_wide(c) for c in judged)} of {len(judged)} speed-ups are known" if judged else "no speed-up is known"
    told = [
        "Time to first token is taken in one piece, from decoded pixels to the first token, with a synchronisation at either "
        f"end. In shuffled rounds cells take turns beside the unpruned model, each in {_span(timed, 'rounds')}, until its "
        f"speed-up is known to {100 * KNOWN:g} % or time is up: {known}."
    ]
    used, limit, tokens = (number(manifest, f"timing.{name}") for name in ("used", "time_limit", "decode_tokens"))
    if used is not None and limit is not None:
        told.append(f"The pass took {wording.duration(used)}; its limit (--time-limit) is {wording.duration(limit)}.")
    decoding = "" if tokens is None else f", with {tokens:.0f} tokens of decoding"
    gaps = [gap for c in timed if (gap := number(c, "latency.sum_gap")) is not None]
    apart = f"; their sum lies {wording.points(min(gaps))} to {wording.points(max(gaps))} % from the time in one piece"
    told.append(f"Stages come from {_span(timed, 'stage_rounds')} of their own{decoding}{apart if gaps else ''}.")
    return " ".join(told)


def _span(cells: Sequence[Cell], counted: str) -> str:
    """Write in how many rounds cells were timed: ``3 rounds``, ``8 to 48 rounds``."""
    counts = [n for c in cells if (n := number(c, f"latency.{counted}")) is not None]
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low:.0f} to {high:.0f} rounds" if low < high else f"{low:.0f} round{'' if low == 1 else 's'}"
