"""Commands that list, count by formula or read a stored run do so where torch and transformers cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from harness.cli.app import app

ROOT = Path(__file__).parents[2]
BLOCKED = """
import contextlib, io, json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from harness.cli.app import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            code = main(words) or 0
        except SystemExit as stop:
            code = stop.code or 0
    assert code == 0, (words, code, out.getvalue())
    print(json.dumps([words, out.getvalue().strip()]))
"""


def printed(*commands: list[object]) -> list[str]:
    """What commands print in one process, given that all end well without torch and transformers."""
    asked = [[str(word) for word in words] for words in commands]
    done = subprocess.run([sys.executable, "-c", BLOCKED, json.dumps(asked)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [words for words, _ in found] == asked
    return [out for _, out in found]


def test_help():
    for out in printed(["--help"], *([command, "--help"] for command in typer.main.get_command(app).commands)):
        assert "Usage: python -m harness" in out


@pytest.mark.parametrize("option", [[], ["--json"]], ids=str)
def test_lists(option):
    assert all(printed(*(["list", kind, *option] for kind in ("methods", "models", "tasks", "metrics"))))


@pytest.mark.parametrize("budget", ["average", "flops"])
def test_flops(budget):
    words = ["flops", "--shape", "llava-1.5-7b", "--budget", budget]
    methods = ("none", "fastv[layer=3]", "sts", "random[like=fastv]", "visionzip", "divprune+fastv")
    assert all(printed(words, *([*words, "--method", method, "--keep", "64"] for method in methods)))


def test_reading_a_stored_run(stored_run):
    folder = stored_run(images=range(3)).folder
    assert all(printed(["samples", folder], ["regress", folder, folder, "--json"]))
