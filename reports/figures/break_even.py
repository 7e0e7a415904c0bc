"""Figures of a profile: how much faster a method is by the tokens that it keeps, and at how many it breaks even."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reports.figures.drawing import Arms, Drawn, join, legend, mark
from reports.style import INK, Look, looks
from reports.svg import label

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

MOST_PANELS = 4  # side by side
_WIDTH, _HEIGHT = 2.75, 3.1

BreakEvens = Sequence[Mapping[str, Any]]
"""Entries of the list ``break_even`` of a profile."""


def speed_by_kept(found: BreakEvens, text: int, visual: int) -> Drawn | None:
    """Draw the speed-up of whole answers by kept tokens, a panel a batch size, with the break-even of every method.

    Args:
        found: all entries of a profile.
        text: tokens of text that the panels are of.
        visual: tokens of the image.
    """
    own = [one for one in found if one["text_tokens"] == text and one["trials"]]
    batches = sorted({one["batch_size"] for one in own})[:MOST_PANELS]
    if not batches:
        return None
    look = looks(sorted({one["method"] for one in found}))
    drawing, axes = _panels(len(batches))
    for panel, batch in zip(axes, batches, strict=True):
        shown = [one for one in own if one["batch_size"] == batch]
        for one in shown:
            _method(panel, one, look[one["method"]])
        panel.axhline(1, color=INK, linewidth=1.1, zorder=1)
        panel.set_title(f"batch {batch}")
        panel.set_xlabel("kept visual tokens")
        panel.set_xlim(0, 1.04 * visual)  # a mark at all tokens but one is whole
    axes[0].set_ylabel("speed-up of whole answers over none")
    legend(drawing, _keys(sorted({one["method"] for one in own}), look), "")
    return Drawn(
        drawing,
        f"Speed-up of whole answers by kept tokens, {text} tokens of text",
        "Time of none over time of the method, from decoded pixels to the last token: the median over rounds that both ran in, "
        "with 95 % intervals where rounds suffice for one. Above 1 the method pays. A dotted line marks the break-even: where it "
        "stands between two marks it is interpolated, straight in the logarithm of the speed-up.",
    )


def break_even_by_batch(found: BreakEvens, texts: Sequence[int], visual: int) -> Drawn | None:
    """Draw the break-even of every method by batch size, a panel a length of text; None of a single batch size.

    Args:
        found: all entries of a profile.
        texts: lengths of text, in tokens.
        visual: tokens of the image.
    """
    known = [one for one in found if one["outcome"] != "unknown"]
    batches = sorted({one["batch_size"] for one in known})
    shown = [text for text in texts if any(one["text_tokens"] == text for one in known)][:MOST_PANELS]
    if len(batches) < 2 or not shown:
        return None
    methods = sorted({one["method"] for one in known})
    look = looks(methods)
    drawing, axes = _panels(len(shown))
    for panel, text in zip(axes, shown, strict=True):
        for name in methods:
            own = sorted((one for one in known if (one["method"], one["text_tokens"]) == (name, text)), key=_batch)
            places = [(batches.index(one["batch_size"]), _height(one, visual)) for one in own]
            join(panel, [x for x, _ in places], [y for _, y in places], look[name])
            for one, (x, y) in zip(own, places, strict=True):
                mark(panel, x, y, look[name], yerr=_reach(one, y))
        panel.set_xticks(range(len(batches)), [str(batch) for batch in batches])
        panel.set_xlabel("batch size")
        panel.set_ylim(-0.03 * visual, 1.03 * visual)
        panel.set_title(f"{text} tokens of text")
    axes[0].set_ylabel("break-even, kept visual tokens")
    legend(drawing, _keys(methods, look), "")
    return Drawn(
        drawing,
        "Break-even by batch size",
        f"Below its line a method is faster than none from pixels to the last token. At {visual}, all tokens: it always was, as "
        "far as was tried; at 0: never. Bars reach from the most kept tokens at which it pays for certain to the fewest at which "
        "it does not.",
    )


def _panels(count: int) -> tuple[Drawing, list[Axes]]:
    from matplotlib.figure import Figure as Made

    drawing = Made(figsize=(1.9 + _WIDTH * count, _HEIGHT), layout="constrained")
    return drawing, list(drawing.subplots(ncols=count, sharey=True, squeeze=False)[0])


def _method(panel: Axes, one: Mapping[str, Any], look: Look) -> None:
    trials = one["trials"]
    join(panel, [trial["keep"] for trial in trials], [trial["value"] for trial in trials], look)
    for trial in trials:
        arms: Arms | None = None
        if trial["lo"] is not None and trial["hi"] is not None:
            arms = [[max(0.0, trial["value"] - trial["lo"])], [max(0.0, trial["hi"] - trial["value"])]]
        mark(panel, trial["keep"], trial["value"], look, yerr=arms)
    if one["outcome"] == "at":
        panel.axvline(one["tokens"], color=look.colour, linestyle=(0, (1, 1.5)), linewidth=1.2, zorder=1.2)


def _batch(one: Mapping[str, Any]) -> int:
    return int(one["batch_size"])


def _height(one: Mapping[str, Any], visual: int) -> float:
    """Where a break-even is drawn: always at all tokens, never at none."""
    return {"always": float(visual), "never": 0.0}.get(one["outcome"], float(one["tokens"] or 0))


def _reach(one: Mapping[str, Any], height: float) -> Arms | None:
    """From the most tokens at which it pays for certain to the fewest at which it does not, where both are known."""
    if one["outcome"] != "at" or one["lo"] is None or one["hi"] is None:
        return None
    return [[max(0.0, height - one["lo"])], [max(0.0, one["hi"] - height)]]


def _keys(methods: Sequence[str], look: Mapping[str, Look]) -> list[Artist]:
    from matplotlib.lines import Line2D

    return [
        Line2D(
            [], [], color=look[name].colour, marker=look[name].marker, linestyle=look[name].line, markerfacecolor=look[name].face,
            label=label(name, 28),
        )
        for name in methods
    ]  # fmt: skip
