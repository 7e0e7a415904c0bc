"""The site builds without a warning, fetches nothing, and has every page and command."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
import yaml

ROOT = Path(__file__).parents[2]


class Fetched(HTMLParser):
    """Addresses that a browser fetches by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "source") or (
            tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload")
        ):
            self.found.append(given.get("src") or given.get("href") or "")


def test_every_page_is_in_the_navigation():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = [page for section in nav for pages in section.values() for page in pages]
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.slow
def test_the_site(tmp_path):
    pytest.importorskip("material", reason="mkdocs-material is not installed; `tox -e docs` has it")
    from harness.cli.app import app

    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    pages = sorted(tmp_path.glob("*.html"))
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= {path.stem for path in pages}
    for path in pages:
        reader = Fetched()
        reader.feed(path.read_text(encoding="utf-8"))
        assert reader.found and not [address for address in reader.found if re.match(r"(https?:)?//", address)], path.name
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(url\(|@import\s*[\"'])[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name
    commands = (tmp_path / "commands.html").read_text(encoding="utf-8")
    for name in typer.main.get_command(app).commands:
        assert f'id="{name}"' in commands
    assert commands.count("Example:") == len(typer.main.get_command(app).commands) and not list(tmp_path.rglob("*.py"))
