"""The command `doctor`: what is installed, on which device, and what can be used here."""

from __future__ import annotations

import json
import platform
from importlib import import_module
from importlib.util import find_spec

from harness.cli.options import Json

SEEN_TRANSFORMERS = (5, 24)  # the newest minor that the contract tests saw
_DEVELOPMENT = frozenset({"lint", "docs"})  # extras that serve this repository alone


def print_findings(as_json: Json = False) -> None:
    """Show versions, device, and what is usable here.

    What is missing stands beside the command that installs it.
    """
    findings = doctor()
    if as_json:
        print(json.dumps(findings))
        return
    for name, value in findings.items():
        print(f"{name:<22} {value}")


def doctor() -> dict[str, str]:
    """Examine the installation: Python, versions, device, models, extras, and what other packages add.

    Returns:
        Findings by name, in the order of a reader's questions; what is wrong comes with the command that mends it.
    """
    found = {"python": platform.python_version(), "prunescope": _version("prunescope") or "missing: pip install -e ."}
    needed, extras = _requirements()
    for name, wanted in needed.items():
        found[name] = _state(name, wanted)
    if not found["transformers"].startswith("missing") and _newer(found["transformers"]):
        found["transformers"] += f"; newer than {'.'.join(map(str, SEEN_TRANSFORMERS))}, the newest tested"
    found |= _torchvision() | _device() | _models()
    for extra, packages in extras.items():
        if extra not in _DEVELOPMENT:
            lacking = [name for name, wanted in packages.items() if _wrong(name, wanted)]
            mend = f"missing {', '.join(lacking)}: pip install 'prunescope[{extra}]'"
            found[f"extra {extra}"] = mend if lacking else "usable"
    return found | _plugged()


def _requirements() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The specifiers of packages by name: of those always needed, and of those of each extra."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    needed: dict[str, str] = {}
    extras: dict[str, dict[str, str]] = {}
    try:
        lines = requires("prunescope") or []
    except PackageNotFoundError:
        return {"torch": "", "transformers": ""}, {}
    for requirement in map(Requirement, lines):
        extra = str(requirement.marker).partition("extra == ")[2].strip("\"'") if requirement.marker else ""
        (extras.setdefault(extra, {}) if extra else needed)[requirement.name] = str(requirement.specifier)
    return needed, extras


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _wrong(name: str, wanted: str) -> str:
    """Why a package cannot be used, or nothing."""
    from packaging.specifiers import SpecifierSet

    there = _version(name)
    if there is None:
        return f"missing: pip install '{name}{wanted}'"
    return "" if SpecifierSet(wanted).contains(there, prereleases=True) else f"{there}, but {wanted} is wanted"


def _state(name: str, wanted: str) -> str:
    return _wrong(name, wanted) or str(_version(name))


def _newer(there: str) -> bool:
    return tuple(int(part) for part in there.split(",")[0].split(".")[:2]) > SEEN_TRANSFORMERS


def _torchvision() -> dict[str, str]:
    """What can be used of torchvision, where it is installed; some image processors are written with it."""
    there = _version("torchvision")
    if there is None:
        return {}
    from harness.models.torchvision_ops import declare_torchvision_ops

    if declare_torchvision_ops():
        return {"torchvision": f"{there}, built for another torch: image processors work, compiled operators do not"}
    try:
        import_module("torchvision")
    except Exception as error:  # of its libraries, of its torch: many kinds, one line
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
        return {"torchvision": f"{there}, but cannot be imported ({first}): pip install --force-reinstall torchvision"}
    return {"torchvision": there}


def _device() -> dict[str, str]:
    import torch

    found = {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        kinds = "float32, float16" + (", bfloat16" if torch.cuda.is_bf16_supported() else "")
        found["device"] = f"cuda: {torch.cuda.get_device_name()}, {memory:.0f} GiB, {kinds}"
    else:
        found["device"] = "cpu"
    return found


def _models() -> dict[str, str]:
    """The embedded weights, and the families whose processors want what is not installed."""
    from harness.models.catalogue import EMBEDDED
    from harness.models.families import FAMILIES

    found = {}
    for name, path in EMBEDDED.items():
        found[f"model {name}"] = "usable" if (path / "model.safetensors").exists() else f"weights missing at {path}"
    for family, spec in FAMILIES.items():
        lacking = [package for package in spec.packages if find_spec(package) is None]
        found[f"family {family}"] = f"missing {', '.join(lacking)}: pip install {' '.join(lacking)}" if lacking else "usable"
    return found


def _plugged() -> dict[str, str]:
    """Methods, tasks and models of other packages."""
    from importlib.metadata import entry_points

    points = [(kind, point) for kind in ("methods", "tasks", "models") for point in entry_points(group=f"prunescope.{kind}")]
    return {f"{kind} of others": point.value for kind, point in points}
