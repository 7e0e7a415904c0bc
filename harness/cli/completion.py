"""What a shell offers behind a tab: names of methods, models, tasks and runs.

Names are read from the sources of the registries, since importing those takes torch, and torch takes seconds.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def methods(incomplete: str) -> list[str]:
    """Bundled methods for the last of several, comma-separated: ``sts,fa`` gives ``sts,fastv``."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in (*_assigned("methods/registry.py", "BUNDLED"), "all") if name.startswith(last)]


def method(incomplete: str) -> list[str]:
    return _beginning(_assigned("methods/registry.py", "BUNDLED"), incomplete)


def models(incomplete: str) -> list[str]:
    """The embedded model and those of other packages; a folder is the shell's own to complete."""
    return _beginning(("tiny", *_points("models")), incomplete)


def shapes(incomplete: str) -> list[str]:
    """Public models whose configuration figures are known."""
    tree = _source("harness/models/shapes.py")
    named = (node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "name")
    return _beginning(map(ast.literal_eval, named), incomplete)


def models_and_shapes(incomplete: str) -> list[str]:
    return models(incomplete) + shapes(incomplete)


def tasks(incomplete: str) -> list[str]:
    bundled = (_assigned("harness/tasks/registry.py", name) for name in ("BUNDLED", "BENCHMARKS"))
    return _beginning((*(name for part in bundled for name in part), *_points("tasks")), incomplete)


def runs(incomplete: str) -> list[str]:
    """Folders that hold a run, in the folder that is being typed; other folders lead further down."""
    typed = Path(incomplete) if incomplete.endswith("/") or not incomplete else Path(incomplete).parent
    try:
        folders = sorted(path for path in typed.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []
    shown = (str(path) if (path / "manifest.json").is_file() else f"{path}/" for path in folders)
    return _beginning(shown, incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def _points(kind: str) -> Iterator[str]:
    from importlib.metadata import entry_points

    return (point.name for point in entry_points(group=f"prunescope.{kind}"))


def _source(path: str) -> ast.Module:
    return ast.parse((_ROOT / path).read_text(encoding="utf-8"))


def _assigned(path: str, name: str) -> Iterable[str]:
    """The literal that a source assigns to a name."""
    for node in _source(path).body:
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == name for target in node.targets):
            return ast.literal_eval(node.value)
    return ()
