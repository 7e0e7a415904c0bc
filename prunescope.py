"""The public names, nothing else: ``import prunescope``."""

from __future__ import annotations

_HARNESS = ("compare", "Run", "CompareConfig")
_METHODS = ("Budget", "Method", "ModelShape", "Selection", "Signals", "Step", "create", "entries", "register")
__all__ = [*_HARNESS, *_METHODS]


def __getattr__(name: str):
    if name in __all__:
        import harness
        import methods

        return getattr(harness if name in _HARNESS else methods, name)
    raise AttributeError(f"module 'prunescope' has no attribute {name!r}")
