"""What is measured. Each module is loaded when first read, so that figures without torch stay without torch.

`attention`, `collapse`, `coverage`, `diversity`, `matched` and `subsets` import torch, `memory` where a device is asked about;
all others numpy and scipy at most.
"""

from __future__ import annotations

from types import ModuleType

from methods.lazy import imported

__all__ = [
    "accuracy", "attention", "chance", "collapse", "coverage", "design_effect", "differences", "diversity", "evidence", "explain",
    "familywise", "figures", "flops", "image_figures", "intervals", "label_permutations", "latency", "loss_power", "matched",
    "medians", "memory", "non_inferiority", "overlap", "pareto", "rank_agreement", "ranks", "statistics", "step_down", "subsets",
]  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        module: ModuleType = imported(f"metrics.{name}")
        return module
    raise AttributeError(f"module 'metrics' has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
