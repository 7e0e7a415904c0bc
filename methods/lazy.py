"""Torch, imported when it is first used: what methods are called, take and need can be listed without it.

``from methods.lazy import torch`` stands for ``import torch`` wherever a module must be importable in a fraction of a
second. Type checkers see the real module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["torch"]

if TYPE_CHECKING:
    import torch as torch
else:

    class _Torch:
        """Stands for the module ``torch``; every attribute is that of the real one."""

        def __getattr__(self, name: str) -> Any:
            from importlib import import_module

            module = import_module("torch")
            # the module's own dictionary from here on: the next look-up costs what one in the module costs, and sees its changes
            object.__setattr__(self, "__dict__", module.__dict__)
            return getattr(module, name)

    torch = _Torch()
