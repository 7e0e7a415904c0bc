"""Inputs made after public reports of people who compare pruning methods, each through the real command line."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from harness.cli.app import main

DATA = Path(__file__).parent / "data"


class Ran:
    """What a command said and wrote."""

    def __init__(self, code: int, out: str, err: str, folder: Path) -> None:
        self.code, self.out, self.err, self.folder = code, out, err, folder

    @property
    def manifest(self):
        return json.loads((self.folder / "manifest.json").read_text())

    @property
    def page(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")

    @property
    def rows(self):
        """All samples by method and id, as ``samples --jsonl`` gives them."""
        code, out, err = command("samples", str(self.folder), "--jsonl")
        assert code == 0, err
        return {(row["method"], row["id"]): row for row in map(json.loads, out.splitlines())}


def command(*words: str) -> tuple[int, str, str]:
    """The exit code, the standard output and the standard error of a command of the real command line."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(list(words)) or 0
        except SystemExit as stop:
            code = stop.code or 0
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def field(tmp_path):
    """A copy of the inputs, beside which files can be written."""
    shutil.copytree(DATA, tmp_path / "field")
    return tmp_path / "field"


@pytest.fixture
def compared(tmp_path):
    """Compare methods on a file."""

    def run(
        file, *more: str, model: str = "tiny", methods: str = "random", keep: str = "64", expect: int = 0, analyse: int = 0
    ) -> Ran:
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        words = ("compare", "--model", str(model), "--task", str(file), "--out", str(folder), "--workers", "1", "--no-latency")
        code, out, err = command(*words, "--methods", methods, "--keep", keep, "--seeds", "1", "--analyse", str(analyse), *more)
        assert code == expect, err
        return Ran(code, out, err, folder)

    return run
