"""Whether installed packages can be imported, tried in processes of their own: an import may fail, crash or hang."""

from __future__ import annotations

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
import importlib, os, sys
if "torchvision" in sys.argv[1:]:
    from harness.models.torchvision_ops import declare_torchvision_ops
    declare_torchvision_ops()
try:
    for name in sys.argv[1:]:
        importlib.import_module(name)
except BaseException as error:
    first = (str(error).strip().splitlines() or [""])[0][:160]
    print(f"\\n{type(error).__name__}: {first}" if first else f"\\n{type(error).__name__}")
    sys.stdout.flush()
    os._exit(1)
sys.stdout.flush()
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

    One process tries them all, and only where that fails each has one of its own. A fault that
    `torchvision_ops.declare_torchvision_ops` mends is none.
    """
    names = [name for name in dict.fromkeys(modules) if _there(name)]
    if not names or _fault(*names) is None:
        return {}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return {name: fault for name, fault in zip(names, pool.map(_fault, names), strict=True) if fault is not None}


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _fault(*modules: str) -> str | None:
    """Why modules cannot be imported one after the other in a process of their own; None where they can."""
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
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"its import ends the process by signal {-done.returncode}"
    return (done.stdout.strip().splitlines() or [f"its import ends with exit code {done.returncode}"])[-1]
