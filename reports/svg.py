"""A matplotlib figure as SVG that can stand in a page beside others: ids of its own, text as text, nothing fetched."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
LOCAL = re.compile(r"url\(#([^)]+)\)")
UNDRAWABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def label(text: object, most: int = 44) -> str:
    """Return text that a figure can hold: no control characters, no leading underscore (matplotlib hides it), not endless."""
    clean = UNDRAWABLE.sub(" ", str(text))
    clean = clean if len(clean) <= most else clean[: most - 1] + "…"
    return "\u200a" + clean if clean.startswith("_") else clean


def inline(drawing: Drawing, name: str, title: str) -> str:
    """Return the SVG element of a figure, to be put into HTML as it is.

    Args:
        drawing: a matplotlib figure.
        name: prefix of every id inside, unique on the page.
        title: what a screen reader says.

    Returns:
        `<svg ...>` without namespace declarations (HTML needs none), metadata or comments.
    """
    _lay_out(drawing)
    out = io.StringIO()
    drawing.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(out.getvalue())  # nosec B314  # what matplotlib has just drawn
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith("}metadata") or child.tag.split("}")[-1] == "metadata":
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        attributes = {}
        for key, value in element.attrib.items():
            key = key.replace(f"{{{XLINK}}}", "xlink:")
            if key == "id":
                value = f"{name}-{value}"
            elif key == "xlink:href" and value.startswith("#"):
                value = f"#{name}-{value[1:]}"
            else:
                value = LOCAL.sub(rf"url(#{name}-\1)", value)
            attributes[key] = value
        element.attrib.clear()
        element.attrib.update(attributes)
    points = float(root.attrib["width"].removesuffix("pt"))
    largest = f"max-width: {points * 1.7:.0f}px"  # on a wide screen small figures do not grow into posters
    root.attrib.update({"role": "img", "aria-label": title, "style": largest})
    return ElementTree.tostring(root, encoding="unicode")


def _lay_out(drawing: Drawing) -> None:
    """Find the places of axes and names once; `savefig` would draw the whole figure one time more for it."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    engine = drawing.get_layout_engine()
    if engine is not None:
        FigureCanvasSVG(drawing)  # which measures text as it will be written
        engine.execute(drawing)
        drawing.set_layout_engine(None)
