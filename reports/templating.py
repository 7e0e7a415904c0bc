"""How a page is made from a template: the environment of jinja2, the style sheet, and the last step to valid text."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from reports import wording

TEMPLATES = Path(__file__).parent / "templates"


def environment() -> Environment:
    """Return the environment that all pages share: it escapes every value, and a missing value is an error."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"percent": wording.percent, "p_text": wording.p_text, "tight": wording.tight}
    return found


def own_file(*names: str) -> Markup:
    """Return the text of our own style sheets or scripts, one below the other, for a page to hold as it is."""
    return Markup("\n".join((TEMPLATES / name).read_text("utf-8") for name in names))  # nosec B704  # our own files


def encodable(page: str) -> str:
    """Return the page with question marks for what UTF-8 cannot hold; a model may answer half a surrogate pair."""
    return page.encode("utf-8", "replace").decode("utf-8")
