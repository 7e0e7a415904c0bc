"""The figures of the page, drawn with seaborn and matplotlib; each caption says how it was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reports.cells import Stratum
from reports.figures import cost, layers, rows, tokens, why
from reports.figures.drawing import Drawn, styled
from reports.style import Look, looks
from reports.svg import inline


@dataclass(frozen=True)
class Figure:
    """A finished figure of the page; `svg` is markup made here, all else plain text."""

    name: str
    title: str
    caption: str
    svg: str


def figures(stratum: Stratum, name: str) -> list[Figure]:
    """Draw every figure for which the cells of a stratum hold numbers.

    Args:
        stratum: cells that may be compared.
        name: prefix of the figures' ids, unique on the page.
    """
    drawers: tuple[tuple[str, Callable[[Stratum, dict[str, Look]], Drawn | None]], ...] = (
        ("budgets", rows.accuracy_by_budget),
        ("ranking", rows.ranking),
        ("tokens", cost.accuracy_by_tokens),
        ("final", cost.accuracy_by_final),
        ("flops", cost.accuracy_by_flops),
        ("ttft", cost.accuracy_by_ttft),
        ("stages", cost.stages),
        ("families", tokens.families),
        ("swap", why.swap),
        ("evidence", cost.accuracy_by_evidence),
        ("collapse", tokens.collapse),
        ("percentiles", tokens.percentiles),
        ("rows", why.rows),
        ("layers", layers.layers),
    )
    done = []
    with styled():
        for kind, draw in drawers:
            found = draw(stratum, looks(stratum.methods))
            if found is not None:
                drawing, title, caption = found
                done.append(Figure(f"{name}-{kind}", title, caption, inline(drawing, f"{name}-{kind}", title)))
    return done
