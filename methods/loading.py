"""Finding methods: the bundled ones, those of installed entry points, and plug-in modules, tried out before they are trusted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from methods import registration
from methods.check import check
from methods.expressions import MethodError, nearest
from methods.registration import Entry, NothingRegistered

BUNDLED = (
    "none", "blind", "random", "sts", "fastv", "sparsevlm", "tome", "visionzip", "prumerge", "pyramiddrop", "divprune",
    "cdpruner", "vispruner", "dart", "holov", "otprune", "hiprune", "trim", "fastervlm", "hired", "scope", "prunesid", "mmtok",
    "vscan", "mustdrop", "apet", "flowcut", "v2drop", "ivcprune", "feather",
    "vtw", "grid", "pool", "fps", "downsample", "oracle",
)  # fmt: skip
"""The methods of this package, one module each, in the order of ``list methods``."""


def entries() -> dict[str, Entry]:
    """Return all registered methods: bundled ones first, then those of installed ``prunescope.methods`` entry points.

    Raises:
        MethodError: for an entry point that cannot be loaded or whose methods do not pass `methods.check`.
    """
    _load_bundled()
    for point in _points():
        _plug_in(f"entry point {point.name!r}", point.load)
    ordered = {name: registration.REGISTERED[name] for name in BUNDLED}
    return {**ordered, **registration.REGISTERED}


def entry(name: str) -> Entry:
    """Return what the registry knows of one method.

    Raises:
        MethodError: for an unknown name, with the nearest known one.
    """
    known = entries()
    if name not in known:
        raise MethodError(f"unknown method {name!r}{nearest(name, known)}")
    return known[name]


def load_plugin(module: str) -> list[str]:
    """Import a module that registers methods, and try them out.

    Args:
        module: its dotted name; the working folder is searched too.

    Returns:
        The names that it registered.

    Raises:
        MethodError: where it cannot be imported, registers nothing, or a method of it does not pass `methods.check`.
    """
    if not all(part.isidentifier() for part in module.split(".")) or module.endswith(".py"):
        raise MethodError(f"--plugin {module[:80]!r}: is no name of a module; write it as import does, such as my_module")
    if "" not in sys.path:
        sys.path.insert(0, "")
    _load_bundled()
    return _plug_in(f"--plugin {module}", lambda: import_module(module), module)


@cache
def _load_bundled() -> None:
    for name in BUNDLED:
        import_module(f"methods.{name}")


@cache
def _points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group="prunescope.methods"))


_CHECKED: dict[str, list[str]] = {}


def _plug_in(label: str, load: Callable[[], object], module: str = "") -> list[str]:
    """Load what registers methods and check each; those that do not pass are taken out again."""
    if label in _CHECKED:
        return _CHECKED[label]
    before = set(registration.REGISTERED)
    try:
        load()
    except MethodError as error:
        raise MethodError(f"{label}: {error}") from None
    except ModuleNotFoundError as error:
        hint = f"; there is no {module.replace('.', '/')}.py here" if error.name == module else ""
        raise MethodError(f"{label}: cannot be imported ({error}{hint})") from None
    except (Exception, SystemExit) as error:
        first = str(error).splitlines()[0][:160] if str(error) else ""
        raise MethodError(f"{label}: cannot be imported ({type(error).__name__}: {first})") from None
    new = [
        name
        for name, entry in registration.REGISTERED.items()
        if name not in before or (module and entry.factory.__module__ == module)
    ]
    if not new:
        raise NothingRegistered(f"{label}: registers no method; decorate a selector with @register(name, needs=...)")
    for name in new:
        try:
            check(registration.REGISTERED[name])
        except MethodError as error:
            del registration.REGISTERED[name]
            raise MethodError(f"{label}: {error}") from None
    _CHECKED[label] = new
    return new
