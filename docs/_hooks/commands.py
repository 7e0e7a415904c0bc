"""What the site has beside its pages: help of every command, the rooms as an image, links into the repository as text."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = "<!-- commands -->"
PICTURE = re.compile(r"```mermaid\n.*?```", re.DOTALL)  # GitHub draws it; on the site a script would have to be fetched for it
DRAWN = "![The rooms and what they import, from the commands at the top down to the methods](images/house.svg)"
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs with the text of each page."""
    markdown = PICTURE.sub(DRAWN, OUTSIDE.sub(r"\1", markdown))
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown


def reference() -> str:
    """Help texts of all commands as Markdown, straight from the command line."""
    sys.path.insert(0, str(ROOT))
    try:
        import typer

        from harness.cli.app import app
    finally:
        sys.path.remove(str(ROOT))
    group = typer.main.get_command(app)
    parts = []
    for name, command in group.commands.items():
        with command.make_context(name, [], parent=group.make_context("python -m harness", [], resilient_parsing=True),
                                  resilient_parsing=True, terminal_width=100, max_content_width=100) as context:  # fmt: skip
            parts.append(f"## {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)
