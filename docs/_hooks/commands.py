"""What the site has beside its pages' own text: the help of every command, and links into the repository as plain text."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARK = "<!-- commands -->"
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs with the text of each page."""
    markdown = OUTSIDE.sub(r"\1", markdown)
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
