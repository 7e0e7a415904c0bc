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
            from methods.lazy import imported

            found: object = imported(module, name)
            return found
    raise AttributeError(f"module 'prunescope' has no attribute {name!r}")
