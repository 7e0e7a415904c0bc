"""The command line in this process, and a finished run that wrong inputs must leave as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.run.config import CompareConfig
from harness.run.manifest import plain
from tests.made_up_runs import Build, write_run


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def refused(self) -> str:
        """What is wrong with it as a refusal; empty where it is one."""
        lines = self.err.strip().splitlines()
        if self.code != 2:
            return f"exit {self.code}"
        if not 1 <= len(lines) <= 3 or not lines[0].startswith("error: "):
            return f"{len(lines)} lines"
        if "Traceback" in self.err or any(len(line) > 1000 for line in lines):
            return "no clear line"
        return "" if self.out == "" else "wrote to stdout"


@pytest.fixture
def attempt(capsys) -> Callable[..., Outcome]:
    """Run a command line in this process."""
    from harness.cli.app import main

    def run(*words: str) -> Outcome:
        capsys.readouterr()
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A finished run with the figures of a real one and a whole configuration."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run = write_run(folder, Build(images=range(6), questions=2, analysed=3))
    run.connection.execute("UPDATE images SET complexity = place + 4.5 WHERE place < 3")
    run.connection.commit()
    run.connection.close()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"] |= plain(CompareConfig(methods=("sts", "fastv"), keep=("64", "24"), samples=6))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
