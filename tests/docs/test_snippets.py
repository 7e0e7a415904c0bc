"""Every snippet of README and docs: it runs as it stands, or says why not and still parses."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml

from harness.cli.app import app, main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [page.name for page in PAGES]
RESULTS = "python -m harness compare --methods all --keep 64 --no-latency --analyse 0"  # run by test_pages
ELSEWHERE = {"ci.md": "tests/bridges/test_ci.py runs its commands in a repository of their own"}
FILES = {"README.md": {"my_module.py": "def norms"}, "methods.md": {"edges.py": "def edges"}}
"""What a page tells its reader to save, by words of the snippet."""
GROUP = typer.main.get_command(app)
QUICK = ("report", "samples", "explain", "flops", "list", "published", "doctor")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    kind: str
    text: str
    why_not: str | None  # it is not run

    @property
    def commands(self) -> list[list[str]]:
        """Its calls of the command line, as words behind ``python -m harness``, up to a redirection."""
        found = []
        lines = self.text.replace("\\\n", " ").splitlines() if self.kind == "sh" else []
        for line in lines:
            if "python -m harness " not in line and not line.startswith("prunescope"):
                continue
            words = shlex.split(line, comments=True)
            ends = [i for i, word in enumerate(words) if word in ("&&", "||", ">", "|")]
            starts = [i + 3 for i in range(len(words)) if words[i : i + 3] == ["python", "-m", "harness"]]
            starts += [1] if words[0] == "prunescope" else []
            found += [words[start : next((end for end in ends if end > start), None)] for start in starts]
        return found


def blocks(name: str) -> list[Block]:
    text = PAGES[NAMES.index(name)].read_text(encoding="utf-8")
    fence = r"(?:<!-- not run: ([^>]*) -->\n)?^```(\w*)\n(.*?)^```$"
    return [Block(kind, body, why) for why, kind, body in (m.groups() for m in re.finditer(fence, text, re.M | re.S))]


def parsed(words: list[str]) -> dict:
    """The values of a command line; what it does not know raises."""
    if words[:1] == ["--install-completion"]:
        return {}
    return GROUP.commands[words[0]].make_context(words[0], words[1:]).params


@pytest.mark.parametrize("name", NAMES)
def test_every_command_parses(name):
    from harness.tasks.registry import names, parse
    from methods.registry import create, split

    for block in blocks(name):
        for words in block.commands:
            values = parsed(words)
            if not values.get("plugin"):
                for expression in split(values.get("methods") or values.get("method") or "none"):
                    assert expression in ("all", "mine") or create(expression)
            task = values.get("task") or "shapes"
            assert parse(task)[0] in names() or Path(task.split("[")[0]).suffix or "/" in task, task


@pytest.mark.parametrize("name", NAMES)
def test_blocks_are_what_they_say(name):
    """Each has a kind, a reason where it is not run, and is well-formed where it is data."""
    for block in blocks(name):
        assert block.kind in ("sh", "python", "toml", "json", "yaml", "mermaid"), block.text
        assert block.why_not is None or (block.kind == "sh" and len(block.why_not) > 5)
        if block.kind == "toml":
            tomllib.loads(block.text)
        elif block.kind == "yaml":
            yaml.safe_load(block.text)
        elif block.kind == "json":
            assert all(json.loads(line) for line in block.text.splitlines())
        elif block.kind == "mermaid":
            assert name in ("CONTRIBUTING.md", "house.md")  # whose picture test_house.py reads
        elif block.kind == "sh":
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        else:
            compile(block.text, name, "exec")
            if "def test_" in block.text:
                from harness.bridges.pytest_plugin import PrunescopeFixture

                assert all(hasattr(PrunescopeFixture, method) for method in re.findall(r"prunescope\.(\w+)\(", block.text))


def quick_commands() -> list[str]:
    found = [words for name in NAMES for block in blocks(name) if not block.why_not for words in block.commands]
    named = lambda words: any(word.startswith("runs/") and word not in ("runs/first", "runs/quick") for word in words)
    quick = (shlex.join(w) for w in found if w[0] in QUICK and not named(w) and not {"--plugin", "mine.toml"} & {*w})
    return list(dict.fromkeys(quick))


@pytest.mark.parametrize("command", quick_commands())
def test_quick_commands_run(small_run, monkeypatch, capsys, command):
    monkeypatch.chdir(small_run)
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(command))
    captured = capsys.readouterr()
    assert stop.value.code == 0, captured.err
    assert captured.out.strip() and "Traceback" not in captured.err


def namespace(name: str, folder: Path) -> dict:
    """What stands before the first snippet of a page."""
    made: dict = {"__name__": "snippet"}
    if name == "bridges.md":
        from PIL import Image

        Image.new("RGB", (96, 96), "red").save(folder / "photo.jpg")
    if name == "README.md":
        from transformers import AutoModelForImageTextToText

        from harness.models.hf import TINY

        made["model"] = AutoModelForImageTextToText.from_pretrained(TINY)
    return made


@pytest.mark.parametrize("name", [n for n in NAMES if any(b.kind == "python" for b in blocks(n))])
def test_python_runs(tmp_path, monkeypatch, capsys, name):
    """All Python of a page, in turn, in one namespace; the embedded model stands for one of the hub."""
    from harness.models.hf import TINY
    from harness.tasks import registry as tasks
    from methods import registration
    from methods.registry import entries

    entries()
    monkeypatch.setattr(registration, "REGISTERED", dict(registration.REGISTERED))
    monkeypatch.setattr(tasks, "_REGISTERED", {})
    monkeypatch.chdir(tmp_path)
    names = namespace(name, tmp_path)
    for block in blocks(name):
        if block.kind == "python" and "def test_" not in block.text:
            exec(compile(block.text.replace("llava-hf/llava-1.5-7b-hf", str(TINY)), name, "exec", dont_inherit=True), names)
    out = capsys.readouterr().out
    if name == "bridges.md":
        ((before, last),) = names["model"].visual_tokens
        assert before == 576 and last < 192 and f"[({before}, {last})]" in out
    if name == "tasks.md":
        task = tasks.create("plain[side=32]")
        first, *rest = task.samples(4, 1)
        assert len(rest) == 3 and first.image.size == (32, 32)
        assert task.score(" Green ", first.questions[0].answer) == 1 and "plain" in {info.name for info in tasks.infos()}
    if name in ("README.md", "methods.md"):
        from methods.check import check

        for added in {"README.md": ["norms"], "methods.md": ["edges", "late"]}[name]:
            check(registration.REGISTERED[added])
    if name in ("README.md", "start.md"):
        assert "evidence.recall.value" in out and "fastv" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in NAMES if n not in ELSEWHERE and any(b.kind == "sh" and not b.why_not for b in blocks(n))]
)
def test_every_command_runs(tmp_path, name):
    """The shell blocks of a page, in turn, in one folder, with the files that it tells its reader to save."""
    (tmp_path / "runs").mkdir()
    chosen = blocks(name)
    for file, words in FILES.get(name, {}).items():
        (text,) = [block.text for block in chosen if block.kind == "python" and words in block.text]
        (tmp_path / file).write_text(text, encoding="utf-8")
    script = "\n".join(block.text for block in chosen if block.kind == "sh" and not block.why_not).replace(RESULTS, "true")
    if "runs/first" in script and not re.search(r"compare.*--out runs/first", script):
        script = "python -m harness compare --samples 3 --analyse 2 --keep 64 --no-latency --out runs/first\n" + script
    if "runs/second" in script:
        script = "python -m harness compare --samples 2 --keep 64 --no-latency --analyse 0 --out runs/second\n" + script
    paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script], cwd=tmp_path, env={**os.environ, **paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_test_that_a_project_writes(tmp_path):
    """The test of the page on CI, against the baseline of its first command."""
    (text,) = [block.text for block in blocks("ci.md") if "def test_" in block.text]
    (tmp_path / "test_pruning.py").write_text(text, encoding="utf-8")
    baseline = next(words for block in blocks("ci.md") for words in block.commands if "runs/baseline" in words)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words in (["-m", "harness", *baseline], ["-m", "pytest", "-q", "test_pruning.py"]):
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
