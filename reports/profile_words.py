"""Sentences about a profile, the same on the page and in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]
"""A profile or a part of one, as ``profile --json`` has it."""


def break_even_words(one: Found) -> tuple[str, str]:
    """Return a break-even in words, and how far they are to be trusted.

    Args:
        one: of the list ``break_even``.

    >>> break_even_words({"outcome": "at", "tokens": 300, "lo": 280, "hi": None, "interpolated": True, "trials": [], "cut": ""})
    ('300 tokens', 'interpolated between medians; pays for certain up to 280, none is for certain too many')
    """
    outcome, tokens, lo, hi = one["outcome"], one["tokens"], one["lo"], one["hi"]
    cut = f"; {one['cut']}" if one["cut"] else ""
    if outcome == "unknown":
        known = [f"pays for certain up to {lo}"] if lo is not None else []
        known += [f"for certain no more from {hi} on"] if hi is not None else []
        return outcome, "; ".join([one["why"], *known]) + cut
    if outcome in ("always", "never"):
        told = one["trials"][-1 if outcome == "always" else 0]
        most = "the most that was tried is" if outcome == "always" else "the fewest that were tried are"
        return outcome, f"for certain, by {told['rounds']} rounds: {most} {told['keep']}{cut}"
    below = f"pays for certain up to {lo}"
    above = "none is for certain too many" if hi is None else f"for certain no more from {hi} on"
    how = "interpolated between medians" if one["interpolated"] else "measured"
    return f"{tokens} tokens", f"{how}; {below}, {above}{cut}"


def memory_words(found: Found) -> str:
    """Return in a sentence what the figures of peak memory are.

    Args:
        found: a profile.
    """
    kinds = {row["memory"]["kind"] for row in found["cells"] if row.get("memory")}
    if "allocated" in kinds:
        return "Peak memory: what the allocators of the devices handed out, weights included."
    if "resident" in kinds:
        return "Peak memory: what was resident of this process on the CPU, interpreter and weights included."
    return "Peak memory is not measured here: this platform does not let a process begin a new peak."


def each_operation(rows: Sequence[Found]) -> str:
    """Return what an operation takes, by batch size.

    Args:
        rows: cells of a profile.
    """
    found = {row["batch_size"]: row["operation_us"] for row in rows}
    return ", ".join(f"{us:.2g} us at batch {batch}" for batch, us in found.items())


def kernels_words(found: Found) -> str:
    """Return in a sentence which code ran the greedy loops, and why not Triton where it was meant to.

    Args:
        found: the entry ``kernels`` of a profile.
    """
    if not found["loops"]:
        return "Greedy selection: none of these methods selects greedily."
    version = f" {found['triton']}" if found["triton"] else ""
    told = [
        f"{loop['loop']} of {loop['tokens']:,} tokens in {loop['ran']}"
        + (version if loop["ran"] == "triton" else f" ({loop['reason']})" if loop["reason"] else "")
        for loop in found["loops"]
    ]
    why = f"; {found['why']}" if found["why"] else ""
    return f"Greedy selection: {', '.join(told)}{why}."


ORIGIN = (
    "Times and peak memory are measured, operations counted, FLOPs and bytes computed; a largest batch and an interpolated count "
    "are predicted, and say so."
)
"""Where the figures of a profile come from."""


def calibration_words(found: Found) -> str:
    """Return what each calibration of a profile gave, in brackets; empty where there is none to compare.

    Args:
        found: a profile.
    """
    told = [
        f"{one['flops'] / 1e12:.3g} TFLOP/s, {one['bytes'] / 1e9:.3g} GB/s, {1e6 * one['launch']:.2g} us"
        for one in found.get("calibrations", ())
    ]
    if len(told) < 2:
        return " (before all else; not yet again behind it)" if told else ""
    return f" (the best of each of {told[0]} before all else and {told[-1]} behind it)"


def beyond_words(rows: Sequence[Found]) -> str:
    """Return why stages take less than what bounds them would take alone, where some do.

    Args:
        rows: cells of a profile.
    """
    beyond = [one for row in rows for one in row.get("bounds") or () if (one["explained"] or 0.0) > 1]
    if not beyond:
        return ""
    most, stages = max(beyond, key=lambda one: float(one["explained"])), f"{len(beyond)} stage{'s' * (len(beyond) != 1)}"
    return (
        f"Above 100 % ({stages}, at most {100 * most['explained']:.0f} %, {most['stage']}): a "
        "stage ran faster than its bound. The machine was slower while its rates were measured, or what the stage moves lies in "
        "caches, where what was read and copied for the rates does not, or an operation takes less there than in decoding. Such "
        "a figure bounds nothing."
    )


def limit_words(found: Found) -> str:
    """Return how much of its time limit a profile took, and why more, where it did.

    Args:
        found: a profile.
    """
    used, limit = found["used"], found["time_limit"]
    over = "; what is begun runs to the end of its round, whatever the limit is" if used > 1.05 * limit else ""
    return f"Took {used:.0f} s of the time limit of {limit:g} s, loading apart{over}."
