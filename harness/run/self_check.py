"""The self-check of a run: once for a model, code, precision and device, before anything is answered."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from sysconfig import get_path
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from harness.errors import RequestError
from harness.notices import notice
from harness.run.manifest import code_digest
from harness.store.self_checks import store, stored

if TYPE_CHECKING:
    from harness.engine.self_check import SelfCheck
    from harness.models.adapter import Adapter

PATIENCE = 5.0
"""Seconds after which a check says that it is under way."""


def run_self_check(
    name: str,
    adapter: Adapter,
    wanted: bool = True,
    plugins: tuple[str, ...] = (),
    threads: int | None = None,
    option: str = "--no-self-check",
) -> SelfCheck:
    """Check a model against ``generate``, unless an earlier run did; what a reader must know of the outcome is noticed.

    Args:
        name: of the model, as the request has it.
        adapter: the model.
        wanted: False where the user asked for no check.
        plugins: modules that are loaded, and may have changed what runs.
        threads: that torch computes with meanwhile; None leaves them as they are.
        option: what leaves the check out, for messages.

    Raises:
        RequestError: where the engine does not run this model as transformers does, or the model makes no prompt.
    """
    from harness.engine.self_check import SelfCheck, cannot_be_checked, check_model
    from harness.models.catalogue import EMBEDDED, plugged
    from harness.run.executors.local import threads as computing_with

    if not wanted:
        return SelfCheck("off", f"the engine was not checked against generate of transformers, as asked ({option})")
    reason = cannot_be_checked(adapter)
    if name not in EMBEDDED and name in (points := plugged()):
        reason = f"{points[name].value} makes it, and may change what the engine runs"
    if reason is not None:
        found = SelfCheck("skipped", f"model {name!r} was not checked against generate of transformers: {reason}")
        notice(found.said)
        return found
    key = _key(adapter, plugins)
    known = _restored(stored(key))
    if known is None:
        with computing_with(threads), told_when_long(name, option) as seconds:
            found = check_model(adapter)
        found = replace(found, seconds=round(seconds(), 3))
        if found.outcome in ("equal", "doubtful"):
            store(key, asdict(found))
    else:
        found = known
    if found.outcome == "different":
        raise RequestError(f"model {name!r}: {found.said}; {option} measures it all the same")
    if found.outcome != "equal":
        notice(found.said)
    return found


def _restored(content: dict[str, Any] | None) -> SelfCheck | None:
    """A stored check; None where it is none of ours."""
    from harness.engine.self_check import SelfCheck

    names = {field.name for field in fields(SelfCheck)}
    if content is None or set(content) != names or content["outcome"] not in ["equal", "doubtful"]:
        return None
    return replace(SelfCheck(**content), cached=True) if isinstance(content["said"], str) else None


def _key(adapter: Adapter, plugins: tuple[str, ...]) -> str:
    """What a check depends on, as one digest: weights and what reads them, the code on both sides, precision and device."""
    import torch

    cards = [torch.cuda.get_device_name(device) for device in adapter.devices if device.type == "cuda"]
    parts = {
        "weights": adapter.digest,
        "configuration": adapter.config.to_json_string(use_diff=False),
        "processor": _described(adapter.processor),
        "picture_size": repr(adapter.picture_size),
        "chat_template": str(getattr(adapter.processor, "chat_template", None)),
        "code": code_digest(plugins),
        "versions": [version(package) for package in ("transformers", "torch")],
        "device": ", ".join(cards) or adapter.device.type,
        "dtype": str(adapter.dtype),
        "backbone": repr(adapter.backbone),
        "put_in": put_in(adapter),
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def put_in(adapter: Adapter) -> list[str]:
    """Return which functions of other programs stand in this process where the engine's own or the model's would.

    A script or a plug-in may put them there, and the files of the code do not show it.
    """
    from transformers import AttentionInterface

    from harness.models import probes

    held: dict[str, Any] = {f"adapter.{name}": value for name, value in vars(adapter).items()}
    held |= {
        name: function for name, function in AttentionInterface._global_mapping.items() if name in (probes.NAME, probes.CAPPED)
    }
    for name, module in list(sys.modules.items()):
        if name.startswith(("harness.engine.", "harness.models.")):
            held |= {f"{name}.{key}": value for key, value in vars(module).items()}
            own = (value for value in vars(module).values() if isinstance(value, type) and value.__module__ == name)
            held |= {f"{name}.{kind.__qualname__}.{key}": value for kind in own for key, value in vars(kind).items()}
    found = []
    for place, value in held.items():
        function = _function(value)
        if isinstance(function, FunctionType) and _foreign(function):
            code = function.__code__
            found.append(f"{place}: {code.co_filename}:{code.co_firstlineno} {code.co_code.hex()} {_bound(function)}")
    return sorted(found)


_HERE, _PYTHON = re.escape(str(Path(__file__).parents[1])), re.escape(get_path("stdlib"))
_KEPT_CODE = re.compile(rf"^<|[\\/](site|dist)-packages[\\/]|^{_HERE}|^{_PYTHON}")
"""Files of this package, of installed ones and of Python itself; and code that no file holds, as that of data classes."""


def _foreign(function: FunctionType) -> bool:
    """Whether a function is of a script, of one typed on a command line too, or of a module that is not installed."""
    return function.__globals__.get("__name__") == "__main__" or not _KEPT_CODE.search(function.__code__.co_filename)


def _function(value: object) -> object:
    """The function of a property or a method; anything else as it is."""
    if isinstance(value, property):
        return value.fget
    if isinstance(value, cached_property | partial):
        return value.func
    return value.__func__ if isinstance(value, staticmethod | classmethod | MethodType) else value


def _bound(function: FunctionType) -> str:
    """The numbers and texts that a function holds beside its code."""
    held = [*(function.__defaults__ or ()), *function.__code__.co_consts]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # of an empty one
            held.append(cell.cell_contents)
    return repr([value for value in held if isinstance(value, int | float | str)])


def _described(processor: Any) -> str:
    """A processor of transformers as JSON; one that cannot be written so, by its class."""
    try:
        return str(processor.to_json_string())
    except Exception:  # what it holds may be anything
        return type(processor).__name__


@contextmanager
def told_when_long(name: str, option: str) -> Iterator[Callable[[], float]]:
    """Say on stderr that a check is under way once it has taken `PATIENCE`; give a function that counts its seconds.

    Args:
        name: of the model.
        option: what leaves the check out.
    """
    line = f"self-check: model {name!r} without pruning against generate of transformers; {option} leaves it out"
    timer, began = threading.Timer(PATIENCE, print, (line,), {"file": sys.stderr, "flush": True}), time.monotonic()
    timer.daemon = True
    timer.start()
    try:
        yield lambda: time.monotonic() - began
    finally:
        timer.cancel()
        timer.join()
