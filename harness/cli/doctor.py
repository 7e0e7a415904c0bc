"""The command `doctor`: what is installed, on which device, and what can be used here."""

from __future__ import annotations

import json
import platform
from importlib.util import find_spec

from harness.cli.importing import faults_of, module_of
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
    extras = {extra: packages for extra, packages in extras.items() if extra not in _DEVELOPMENT}
    faults = faults_of(map(module_of, {"torchvision": "", **needed, **_merged(extras), **dict.fromkeys(_of_families(), "")}))
    for name, wanted in needed.items():
        found[name] = _state(name, wanted, faults)
    if _newer(found.get("transformers", "")):
        found["transformers"] += f"; newer than {'.'.join(map(str, SEEN_TRANSFORMERS))}, the newest tested"
    found |= _torchvision(faults) | _device(faults)
    found["arithmetic"] = "not examined here; python -m harness selfcheck holds it against another machine's in about a minute"
    found |= _models(faults)
    for extra, packages in extras.items():
        found[f"extra {extra}"] = _extra(extra, packages, faults)
    return found | _plugged()


def _merged(extras: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: wanted for packages in extras.values() for name, wanted in packages.items()}


def _extra(extra: str, packages: dict[str, str], faults: dict[str, str]) -> str:
    """What can be used of an extra: its packages with their versions, or what is in the way of each that cannot be."""
    lacking = [name for name, wanted in packages.items() if _wrong(name, wanted)]
    broken = [f"{name} {_version(name)} cannot be imported ({faults[module_of(name)]})" for name in packages
              if name not in lacking and module_of(name) in faults]  # fmt: skip
    wrong = [f"missing {', '.join(lacking)}: pip install 'prunescope[{extra}]'"] if lacking else []
    if broken or wrong:
        return "; ".join([*broken, *wrong])
    return f"usable ({', '.join(f'{name} {_version(name)}' for name in packages)})"


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
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue  # not asked for on this machine
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


def _state(name: str, wanted: str, faults: dict[str, str]) -> str:
    fault = faults.get(module_of(name))
    return _wrong(name, wanted) or (str(_version(name)) if fault is None else _broken(name, fault))


def _broken(name: str, fault: str) -> str:
    return f"{_version(name)}, but cannot be imported ({fault}): pip install --force-reinstall {name}"


def _newer(there: str) -> bool:
    return there[:1].isdigit() and tuple(int(part) for part in there.split(",")[0].split(".")[:2]) > SEEN_TRANSFORMERS


def _torchvision(faults: dict[str, str]) -> dict[str, str]:
    """What can be used of torchvision, where it is installed; some image processors are written with it."""
    there = _version("torchvision")
    if there is None:
        return {}
    if "torchvision" in faults:
        return {"torchvision": _broken("torchvision", faults["torchvision"])}
    if "torch" in faults:
        return {"torchvision": there}
    from harness.models.torchvision_ops import declare_torchvision_ops

    if declare_torchvision_ops():
        return {"torchvision": f"{there}, built for another torch: image processors work, compiled operators do not"}
    return {"torchvision": there}


def _device(faults: dict[str, str]) -> dict[str, str]:
    found = {"machine": platform.machine()}
    if "torch" in faults:
        return found | {"device": "unknown: torch cannot be imported"}
    import torch

    from harness.models.devices import has_bfloat16

    found = {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        said = []
        for index in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(index).total_memory / 2**30
            kinds = "float32, float16" + (", bfloat16" if has_bfloat16(f"cuda:{index}") else "")
            said.append(f"cuda:{index}: {torch.cuda.get_device_name(index)}, {memory:.0f} GiB, {kinds}")
        found["device"] = "; ".join(said)
    else:
        found["device"] = "cpu"
    return found


def _of_families() -> list[str]:
    """The packages that processors of families want."""
    from harness.models.families import FAMILIES

    return [package for spec in FAMILIES.values() for package in spec.packages]


def _models(faults: dict[str, str]) -> dict[str, str]:
    """The embedded weights, and the families whose processors want what is not installed."""
    from harness.models.catalogue import EMBEDDED
    from harness.models.families import FAMILIES

    found = {}
    for name, path in EMBEDDED.items():
        found[f"model {name}"] = "usable" if (path / "model.safetensors").exists() else f"weights missing at {path}"
    for family, spec in FAMILIES.items():
        lacking = [package for package in spec.packages if find_spec(package) is None]
        broken = [f"{package} cannot be imported ({faults[package]})" for package in spec.packages if package in faults]
        if lacking:
            broken.append(f"missing {', '.join(lacking)}: pip install {' '.join(lacking)}")
        found[f"family {family}"] = "; ".join(broken) or "usable"
    return found


def _plugged() -> dict[str, str]:
    """Methods, tasks and models of other packages."""
    from importlib.metadata import entry_points

    points = [(kind, point) for kind in ("methods", "tasks", "models") for point in entry_points(group=f"prunescope.{kind}")]
    return {f"{kind} of others": point.value for kind, point in points}
