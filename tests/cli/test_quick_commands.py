"""Commands that list, count by formula or read a stored run do so where torch and transformers cannot be imported."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import typer

from harness.cli.app import app
from harness.cli.listing import rows
from methods.loading import BUNDLED

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


def test_methods_tell_their_year_what_they_rank_by_and_what_proves_them():
    table, listed = printed(["list", "methods"], ["list", "methods", "--json"])
    known = {row["name"]: row for row in json.loads(listed)}
    told = {name: tuple(known[name][key] for key in ("year", "family", "verified", "tiles")) for name in ("fastv", "sts", "grid")}
    assert told["fastv"] == (2024, "attention", "authors' outputs", "all")
    assert told["grid"] == (None, "place", "ours", "all")
    assert told["sts"][:2] == (2026, "both") and told["sts"][2].startswith("unverified: no code of the authors is public")
    lines = table.splitlines()
    heads = ["name", "paper", "year", "family", "verified", "tiles", "site", "parameters", "summary"]
    assert lines[0].split() == heads and max(map(len, lines)) <= 160
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in known)
    assert all({"needs", "cannot"} <= set(row) for row in known.values()), "what the table leaves out stays in JSON"


@pytest.mark.parametrize(
    ("width", "heads"),
    [
        (80, ["name", "year", "family", "verified", "summary"]),
        (100, ["name", "paper", "year", "family", "verified", "summary"]),
        (139, ["name", "paper", "year", "family", "verified", "site", "summary"]),
        (160, ["name", "paper", "year", "family", "verified", "tiles", "site", "parameters", "summary"]),
    ],
)
def test_on_a_terminal_the_table_of_methods_breaks_no_word(width, heads):
    """What has no room is left out, whole words alone are in each column, and reasons stand below."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {**{name: value for name, value in os.environ.items() if name != "COLUMNS"}, "TERM": "xterm"}
    words, told = [sys.executable, "-m", "harness", "list", "methods"], b""
    known = [row for row in rows("methods") if row["name"] in BUNDLED]  # other tests may have registered more in this process
    with subprocess.Popen(words, stdout=theirs, cwd=ROOT, env=environment):
        os.close(theirs)
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(ours, 65536):
                told += part
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", told.decode().replace("\r\n", "\n"))
    table, below = plain.split("\n\nverified: ")
    lines = table.splitlines()
    assert lines[0].split() == heads and max(map(len, (*lines, *below.splitlines()))) <= width
    starts = [lines[0].index(head) for head in heads]
    found, name = {row["name"]: [] for row in known}, ""
    for line in lines[1:]:
        cells = [line[start : end and end - 2] for start, end in zip(starts, [*starts[1:], None])]
        name = cells[0].strip() or name
        found[name].append(cells)
    for row in known:
        columns = dict(zip(heads, map(" ".join, zip(*found[row["name"]]))))
        for head in set(heads) & {"summary", "site", "family", "parameters"}:
            value = ", ".join(one for one in row[head] if "positions=" not in one) if head == "parameters" else row[head]
            assert columns[head].split() == value.split(), (row["name"], head)
        assert re.sub(r"/\s+", "/", columns.get("paper", row["paper"])).split() == row["paper"].split()  # a doi ends lines at "/"
        assert ("*" in columns["verified"]) == ("unverified" in row["verified"]), row["name"]
    notes = " ".join(below.split())
    assert "sts: no code of the authors is public" in notes and "sparsevlm[version=2,recycle=true]: " in notes
    assert "holov[rule=paper], the default: " in notes and notes.startswith("where the authors' code is public, selections equal")
    assert ("tiles: " in notes) == ("tiles" in heads)


def test_a_method_of_a_plug_in_is_not_said_to_be_verified(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from methods import Selection, register\n\n"
        '@register("mine", paper="arXiv:2501.00001", needs={"features"}, tiles="each")\n'
        "def mine(signals, keep):\n"
        '    """Keep the longest tokens."""\n'
        "    order = signals.features.norm(dim=-1).argsort(dim=-1, descending=True, stable=True)\n"
        "    return Selection(order[:, :keep])\n"
    )
    words = [sys.executable, "-m", "harness", "list", "methods", "--json", "--plugin", "mine"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)
    (row,) = [row for row in json.loads(done.stdout) if row["name"] == "mine"]
    assert (row["year"], row["verified"], row["tiles"]) == (2025, "of another package", "each")
