"""Torch, imported when it is first used: what methods are called, take and need can be listed without it.

``from methods.lazy import torch`` stands for ``import torch`` wherever a module must be importable in a fraction of a
second. Type checkers see the real module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["imported", "torch"]


def imported(module: str, name: str | None = None) -> Any:
    """Import a module, or a name of it, for a ``__getattr__`` that does so on first use.

    Args:
        module: its full name.
        name: of what is wanted in it; the module itself where not given.

    Raises:
        ImportError: where the import ends with an AttributeError. Out of ``__getattr__`` Python would take it for "there is no
            such name" and drop its message.
    """
    try:
        found = import_module(module)
    except AttributeError as error:
        raise ImportError(f"{module} cannot be imported: AttributeError: {error}") from error
    return found if name is None else getattr(found, name)


if TYPE_CHECKING:
    import torch as torch
else:

    class _Torch:
        """Stands for the module ``torch``; every attribute is that of the real one."""

        def __getattr__(self, name: str) -> Any:
            module = imported("torch")
            # the module's own dictionary from here on: the next look-up costs what one in the module costs, and sees its changes
            object.__setattr__(self, "__dict__", module.__dict__)
            return getattr(module, name)

    torch = _Torch()
