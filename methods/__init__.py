"""Visual token pruning methods as pure tensor functions, one file each, on one registry.

What a plug-in imports: ``register, Signals, Selection, Method, Step, Budget, ModelShape``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods.registry import create, entries, entry, register
    from methods.types import Budget, BudgetError, Method, ModelShape, Schedule, Selection, Signals, Step

_WHERE = {
    **dict.fromkeys(("register", "create", "entry", "entries"), "methods.registry"),
    **dict.fromkeys(
        ("Budget", "BudgetError", "Method", "ModelShape", "Schedule", "Selection", "Signals", "Step"), "methods.types"
    ),
}
__all__ = [
    "Budget", "BudgetError", "Method", "ModelShape", "Schedule", "Selection", "Signals", "Step",
    "create", "entries", "entry", "register",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``--help`` answers quickly."""
    if name in _WHERE:
        from methods.lazy import imported

        return imported(_WHERE[name], name)
    raise AttributeError(f"module 'methods' has no attribute {name!r}")
