"""The public names, nothing else: ``import prunescope``."""

from __future__ import annotations

_FROM = {
    "harness": ("compare", "Run", "CompareConfig"),
    "methods": ("Budget", "Method", "ModelShape", "Selection", "Signals", "Step", "create", "entries", "register"),
    "harness.bridges.pruned": ("prune", "PrunedModel"),
}
__all__ = [name for names in _FROM.values() for name in names]


def __getattr__(name: str) -> object:
    for module, names in _FROM.items():
        if name in names:
            from importlib import import_module

            try:
                return getattr(import_module(module), name)
            except AttributeError as error:  # to Python it says that there is no such name, and the cause is lost
                raise ImportError(f"{module} cannot be imported: {error}") from error
    raise AttributeError(f"module 'prunescope' has no attribute {name!r}")
