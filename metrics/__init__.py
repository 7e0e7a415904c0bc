"""What is measured. Each module is loaded when first read, so that figures without torch stay without torch.

`attention`, `collapse`, `coverage`, `diversity`, `matched` and `subsets` import torch, `memory` where a device is asked about;
all others numpy and scipy at most.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = [
    "accuracy", "attention", "chance", "collapse", "coverage", "diversity", "evidence", "explain", "familywise", "figures",
    "flops", "latency", "matched", "memory", "overlap", "pareto", "ranks", "statistics", "subsets",
]  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        try:
            return import_module(f"metrics.{name}")
        except AttributeError as error:  # to Python it says that there is no such name, and the cause is lost
            raise ImportError(f"metrics.{name} cannot be imported: {error}") from error
    raise AttributeError(f"module 'metrics' has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
