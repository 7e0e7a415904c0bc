"""Modules that a test needs and that not every environment has: without them it is skipped, in CI's second stage it fails.

CI sets ``PRUNESCOPE_CI=1`` where everything that hides behind extras is installed, so a module that is missing there is a
mistake of the environment that must be seen.
"""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

STRICT = os.environ.get("PRUNESCOPE_CI") == "1"


def need(*modules: str) -> None:
    """Skip a test, or in CI's second stage fail it, where one of these modules is not installed."""
    missing = [module for module in modules if not installed(module)]
    if missing:
        (pytest.fail if STRICT else pytest.skip)(f"not installed: {', '.join(missing)}")


def need_program(*names: str) -> None:
    """Skip a test, or in CI's second stage fail it, where one of these programs is not found."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        (pytest.fail if STRICT else pytest.skip)(f"not found: {', '.join(missing)}")


def installed(module: str) -> bool:
    """Return whether a module can be found, without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def import_or_fail(modname: str, minversion: str | None = None, reason: str | None = None, **options: Any) -> Any:
    """Stand in for `pytest.importorskip` in CI's second stage: import a module, or fail."""
    try:
        return import_module(modname)
    except ImportError as error:
        pytest.fail(f"{modname} cannot be imported: {error}", pytrace=False)
