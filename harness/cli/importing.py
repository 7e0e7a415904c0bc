"""Whether installed packages can be imported, tried in processes of their own: an import may fail, crash or hang."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

_WITHIN = 60.0  # seconds, of a cold start on a busy machine
_AT_ONCE = 4
_MODULES = {
    "scikit-learn": "sklearn", "pillow": "PIL", "huggingface-hub": "huggingface_hub", "pytest-benchmark": "pytest_benchmark",
    "lmms-eval": "lmms_eval", "pytest-xdist": "xdist", "import-linter": "importlinter", "mkdocs-material": "material",
    "axe-playwright-python": "axe_playwright_python",
}  # fmt: skip
"""Modules whose names are not those of their packages."""
_TRY = """
import importlib, json, os, sys
faults = {}
for name in sys.argv[1:]:
    try:
        if name == "torchvision":
            from harness.models.torchvision_ops import declare_torchvision_ops
            declare_torchvision_ops()
        importlib.import_module(name)
    except BaseException as error:
        first = (str(error).strip().splitlines() or [""])[0][:160]
        kind = "" if first and isinstance(error, ImportError) else type(error).__name__
        faults[name] = ": ".join(part for part in (kind, first) if part)
print("\\n" + json.dumps(faults), flush=True)
os._exit(0)
"""


def module_of(package: str) -> str:
    """Return the module that a package on an index is imported as.

    >>> module_of("scikit-learn"), module_of("typer")
    ('sklearn', 'typer')
    """
    return _MODULES.get(package.lower(), package.replace("-", "_"))


def faults_of(modules: Iterable[str]) -> dict[str, str]:
    """Return why installed modules cannot be imported, one line each; those that can, or are not there, are left out.

    One process tries them all; only where it crashes or hangs, each has one of its own. A fault that
    `torchvision_ops.declare_torchvision_ops` mends is none.
    """
    names = [name for name in dict.fromkeys(modules) if _there(name)]
    found = _faults(*names)
    if isinstance(found, dict):
        return found
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        each = zip(names, pool.map(_faults, names), strict=True)
        return {name: told for name, one in each if (told := one.get(name) if isinstance(one, dict) else one) is not None}


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _faults(*modules: str) -> dict[str, str] | str:
    """The faults of modules that are imported in turn in a process of their own, by name; or how that process ended."""
    path = [entry for entry in sys.path if entry]
    code = f"import sys; sys.path[:0] = [p for p in {path!r} if p not in sys.path]\n{_TRY}"
    try:
        done = subprocess.run(  # nosec B603  # this Python, and modules that are installed here
            [sys.executable, "-c", code, *modules], capture_output=True, text=True, timeout=_WITHIN, check=False
        )
    except subprocess.TimeoutExpired:
        return f"its import takes more than {_WITHIN:.0f} s"
    except OSError as error:
        return f"no process can be started to import it ({error.strerror or error})"
    if done.returncode < 0:
        return f"its import ends the process by signal {-done.returncode}"
    try:
        found: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
        return found
    except (IndexError, ValueError):
        return f"its import ends the process with exit code {done.returncode}"
