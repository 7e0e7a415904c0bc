"""The house stands as it is drawn: rooms and arrows, one name a thing, no long files, and sentences for what is public."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.needs import need

ROOT = Path(__file__).parents[1]
PACKAGES = ("methods", "metrics", "reports", "harness")
LONGEST = 400


@cache
def modules() -> dict[str, ast.Module]:
    """Every file of the four packages, parsed, by its path in the repository."""
    files = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    return {str(file.relative_to(ROOT)): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def test_imports_keep_to_the_contracts():
    need("importlinter")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "0 broken" in done.stdout


def test_every_room_has_its_place_in_the_layers():
    """A room that no contract names could be imported from anywhere."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    named = {name.strip("() ") for line in layers for name in line.replace("|", ":").split(":")}
    rooms = {f"harness.{child.stem}" for child in (ROOT / "harness").iterdir() if child.suffix == ".py" or _is_package(child)}
    assert rooms - {"harness.__init__"} - named == set()
    assert {name for name in named if name.startswith("harness.")} - rooms == set(), "the contract names what is not there"


def _is_package(folder: Path) -> bool:
    return folder.is_dir() and any(folder.rglob("*.py"))


def test_no_two_public_classes_have_one_name():
    found = defaultdict(list)
    for file, module in modules().items():
        for node in module.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(file)
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_no_file_takes_anothers_private_name():
    found = []
    for file, module in modules().items():
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").partition(".")[0] in PACKAGES):
                found += [f"{file}:{node.lineno} {name.name}" for name in node.names if _private(name.name)]
    assert found == []


def _private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def test_no_file_is_long():
    lengths = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in modules()}
    assert {file: length for file, length in lengths.items() if length > LONGEST} == {}


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def test_what_is_public_in_the_harness_is_said_in_a_sentence():
    """Every public function, class and method; a method that overrides one that says what it does need not say it again."""
    silent, cut = [], []
    for file, owner, node in _public():
        text = ast.get_docstring(node)
        name = f"{file}:{node.lineno} {owner + '.' if owner else ''}{node.name}"
        if text is None:
            if not (owner and _inherits(owner, node.name)):
                silent.append(name)
        elif not text.strip().splitlines()[0].endswith("."):
            cut.append(f"{name}: {text.strip().splitlines()[0]}")
    assert silent == [], f"{len(silent)} have no docstring"
    assert cut == [], f"of {len(cut)} the first line is no whole sentence"


def _public() -> Iterator[tuple[str, str, Definition]]:
    """File, class and definition of what is public in ``harness/``; nested functions, setters and dunder methods are not."""
    for file, module in modules().items():
        if not file.startswith("harness"):
            continue
        for node in module.body:
            if not isinstance(node, Definition) or node.name.startswith("_"):
                continue
            yield file, "", node
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, Definition) and not member.name.startswith("_") and not _spared(member):
                        yield file, node.name, member


def _spared(member: Definition) -> bool:
    """Whether it is the setter of a property, or one of the signatures of an overloaded method."""
    marks = [mark.attr if isinstance(mark, ast.Attribute) else getattr(mark, "id", "") for mark in member.decorator_list]
    return bool({"setter", "deleter", "overload"} & set(marks))


@cache
def _classes() -> dict[str, list[ast.ClassDef]]:
    found = defaultdict(list)
    for module in modules().values():
        for node in module.body:
            if isinstance(node, ast.ClassDef):
                found[node.name].append(node)
    return found


def _inherits(owner: str, method: str) -> bool:
    """Whether a base of the class, or a base of one, has the method; outside the house any base may have it."""
    for place in _classes().get(owner, []):
        for base in place.bases:
            name = base.attr if isinstance(base, ast.Attribute) else getattr(getattr(base, "value", base), "id", "")
            for node in _classes().get(name, []):
                told = [m for m in node.body if isinstance(m, Definition) and m.name == method and ast.get_docstring(m)]
                if told or _inherits(name, method):
                    return True
            if name and name not in _classes() and name not in ("Protocol", "ABC", "Generic", "NamedTuple", "Enum", "TypedDict"):
                return True
    return False
