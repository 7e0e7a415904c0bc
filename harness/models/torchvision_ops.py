"""A torchvision that was built for another torch is made importable: image processors need its Python code alone.

PyPI's torchvision beside a CPU build of torch cannot load its compiled part. Its import then fails with ``operator
torchvision::nms does not exist``, and with it every processor of transformers that wants torchvision, although none of them
calls that operator.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_OPS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[torch.library.Library] = []  # what a library declares lasts as long as the library


@cache
def declare_torchvision_ops() -> bool:
    """Import torchvision, and declare the operators that its import asks for where its compiled part cannot be loaded.

    Nothing happens where torchvision is not installed, or can be imported as it is. Declared operators have no kernel:
    calling one is an error of torch.

    Returns:
        Whether the operators were declared.
    """
    if find_spec("torchvision") is None:
        return False
    try:
        import_module("torchvision")
        return False
    except (RuntimeError, AttributeError) as error:
        if "torchvision::nms" not in str(error):
            return False  # another fault; whoever needs torchvision will meet it
    except (ImportError, OSError):
        return False
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for op in _OPS:
        library.define(f"{op}{_SIGNATURE}")
    _libraries.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # left half imported
    try:
        import_module("torchvision")
    except Exception:  # the declaration did not help; whoever needs torchvision will meet the fault
        return False
    return True
