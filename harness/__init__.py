"""The harness: runs methods on models and tasks, and measures them."""

from __future__ import annotations


def __getattr__(name: str):
    """Import on first use: ``from harness import compare`` costs torch, ``--help`` does not."""
    if name in ("compare", "Run", "CompareConfig"):
        from importlib import import_module

        value = getattr(import_module("harness.run.config" if name == "CompareConfig" else "harness.run.comparison"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
