"""Numbers as a reader sees them: one place for rounding, signs, units and p values."""

from __future__ import annotations

import re

from reports.cells import Interval

MISSING = "–"
MINUS = "\u2212"
NO_INTERVAL = "no interval"


def signed(text: str) -> str:
    """Write a typographic minus in front of a number, and none in front of a rounded zero.

    >>> signed("-0.0"), signed("-1.5")
    ('0.0', '−1.5')
    """
    bare = text.removeprefix("-").removeprefix("+")
    if not bare.strip("0.") and not bare.startswith("e"):
        return bare
    return text.replace("-", MINUS)


def tight(text: str) -> str:
    """Keep numbers on one line with their units and signs, by spaces that do not break.

    >>> tight("p < 0.001 of 5 %").count("\u00a0")
    3
    """
    return re.sub(r" (?=[%<=] ?)|(?<=[<=]) ", "\u00a0", text)


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share of one as a percentage, without the sign %."""
    return MISSING if share is None else signed(f"{100 * share:.{digits}f}")


def points(difference: float | None) -> str:
    """Write a difference of two shares in percentage points, always with its sign."""
    return MISSING if difference is None else signed(f"{100 * difference:+.1f}")


def points_plain(size: float) -> str:
    """Write a size in percentage points, without a sign and without a decimal that says nothing.

    >>> points_plain(0.02), points_plain(0.015)
    ('2', '1.5')
    """
    return f"{100 * size:.1f}".removesuffix(".0")


def percent_range(interval: Interval, digits: int = 1) -> str:
    """Write the bounds of a share's interval in percent, or that there is none.

    >>> percent_range(Interval(0.5, 0.4, 0.6)), percent_range(Interval(0.5, 0.5, 0.5, known=False))
    ('40.0 to 60.0', 'no interval')
    """
    return f"{percent(interval.lo, digits)} to {percent(interval.hi, digits)}" if interval.known else NO_INTERVAL


def milliseconds_range(interval: Interval) -> str:
    """Write the bounds of a time's interval in milliseconds, or that there is none."""
    return f"{milliseconds(interval.lo)} to {milliseconds(interval.hi)}" if interval.known else NO_INTERVAL


def plain_range(interval: Interval, digits: int = 2) -> str:
    """Write the bounds of a number's interval with a fixed count of decimals, or that there is none.

    >>> plain_range(Interval(2.0, 1.5, 2.5)), plain_range(Interval(2.0, 2.0, 2.0, known=False))
    ('1.50 to 2.50', 'no interval')
    """
    return f"{plain(interval.lo, digits)} to {plain(interval.hi, digits)}" if interval.known else NO_INTERVAL


def points_range(interval: Interval) -> str:
    """Write the bounds of a difference's interval in percentage points with signs, or that there is none."""
    return f"{points(interval.lo)} to {points(interval.hi)}" if interval.known else NO_INTERVAL


def p_text(p: float | None) -> str:
    """Write a p value with two or three decimals; very small ones as a bound.

    >>> p_text(0.0002), p_text(0.034), p_text(0.41)
    ('p < 0.001', 'p = 0.034', 'p = 0.41')
    """
    if p is None:
        return "p not computed"
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def p_told(p: float | None, corrected: bool, of: float | None = None) -> str:
    """Write a p value with what it is: corrected over its family, or raw and then one of how many of its kind.

    >>> p_told(0.004, True), p_told(0.004, False), p_told(0.004, False, 1026)
    ('p = 0.004, corrected', 'raw p = 0.004', 'raw p = 0.004, one of 1,026')
    """
    if p is None:
        return p_text(None)
    if corrected:
        return f"{p_text(p)}, corrected"
    return f"raw {p_text(p)}" + ("" if of is None else f", one of {of:,.0f}")


def plain(value: float | None, digits: int = 2) -> str:
    """Write a number with a fixed count of decimals and commas between thousands."""
    return MISSING if value is None else signed(f"{value:,.{digits}f}")


def count(value: float | None) -> str:
    """Write a count, without decimals where it is whole: ``192``, ``106.7``."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 else f"{value:,.1f}"


def milliseconds(value: float | None) -> str:
    """Write a time with three significant figures: ``0.482``, ``4.82``, ``48.2``, ``482``."""
    if value is None:
        return MISSING
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1) if value >= 1 else 3}f}"


def flops_unit(totals: list[float]) -> tuple[float, str]:
    """Return the divisor and the name of the unit that keep the largest of some FLOPs counts readable.

    >>> flops_unit([3.2e12])
    (1000000000000.0, 'TFLOPs')
    """
    largest = max(totals, default=0.0)
    for divisor, name in ((1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs")):
        if largest >= divisor:
            return divisor, name
    return 1.0, "FLOPs"


def duration(seconds: float | None) -> str:
    """Write a duration in its two largest units.

    >>> duration(75), duration(7320), duration(4.2)
    ('1 min 15 s', '2 h 2 min', '4.2 s')
    """
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def listed(names: list[str]) -> str:
    """Join names with commas, and the last with "and".

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
