"""The harness: runs methods on models and tasks, and measures them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.run.comparison import Run, compare
    from harness.run.config import CompareConfig

__all__ = ["CompareConfig", "Run", "compare"]


def __getattr__(name: str) -> object:
    """Import a public name on its first use: ``from harness import compare`` costs torch, ``--help`` does not."""
    if name in ("compare", "Run", "CompareConfig"):
        from methods.lazy import imported

        value: object = imported("harness.run.config" if name == "CompareConfig" else "harness.run.comparison", name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
