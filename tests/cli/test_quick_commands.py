"""Commands that list, count by formula or read a stored run do so where torch and transformers cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from harness.cli.app import app

ROOT = Path(__file__).parents[2]
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from harness.cli.app import main
main(sys.argv[1:])
"""


def printed(*words: object) -> str:
    """What a command prints, given that it ends well without torch and transformers."""
    done = subprocess.run([sys.executable, "-c", BLOCKED, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("command", ["", *typer.main.get_command(app).commands])
def test_help(command):
    assert "Usage: python -m harness" in printed(*command.split(), "--help")


@pytest.mark.parametrize("kind", ["methods", "models", "tasks", "metrics"])
@pytest.mark.parametrize("option", ["", "--json"])
def test_lists(kind, option):
    assert printed("list", kind, *option.split())


@pytest.mark.parametrize("method", ["", "none", "fastv[layer=3]", "sts", "random[like=fastv]", "visionzip", "divprune+fastv"])
@pytest.mark.parametrize("budget", ["average", "flops"])
def test_flops(method, budget):
    named = ["--method", method, "--keep", "64"] if method else []
    assert printed("flops", "--shape", "llava-1.5-7b", "--budget", budget, *named)


def test_reading_a_stored_run(stored_run):
    folder = stored_run(images=range(3)).folder
    for command in (["samples", folder], ["regress", folder, folder, "--json"]):
        assert printed(*command), command
