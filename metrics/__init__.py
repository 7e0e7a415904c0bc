"""What is measured. Each module is loaded when first read, so that figures without torch stay without torch.

`accuracy`, `statistics`, `evidence`, `latency`, `flops` and `memory` import numpy and scipy at most;
`diversity`, `coverage` and `collapse` import torch.
"""

from importlib import import_module

__all__ = ["accuracy", "collapse", "coverage", "diversity", "evidence", "flops", "latency", "memory", "statistics"]


def __getattr__(name: str):
    if name in __all__:
        return import_module(f"metrics.{name}")
    raise AttributeError(f"module 'metrics' has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
