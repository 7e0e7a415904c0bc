"""The manifest of a run: its request, versions, device and fingerprints, and the command that repeats it."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.notices import notice
from harness.run.config import CompareConfig
from harness.run.selection_kernels import kernel_facts, with_loops
from harness.store.budgets import read_keep
from harness.store.schema import ANSWERING_OPTIONS, HANDLING_OPTIONS, TIMING_OPTIONS
from harness.tasks.base import attribute
from harness.tasks.rules import scoring_facts

if TYPE_CHECKING:
    from harness.models.hf import Adapter
    from harness.store.runs import RunFolder
    from harness.tasks.base import Task


_SWITCHES = {
    "latency": "--no-latency", "sharing": "--sharing off", "memory": "--memory", "self_check": "--no-self-check",
    "references": "--references off",
}  # fmt: skip
"""Options that are on or off, as the command line says what is not the default."""
MOST_REASONS = 20
"""How many reasons why samples failed the manifest tells; the database has all."""


def manifest_of(config: CompareConfig, adapter: Adapter, task: Task) -> dict[str, Any]:
    """Return the content of ``manifest.json`` when a run begins.

    Args:
        config: the request.
        adapter: its model, loaded.
        task: of the request.
    """
    from harness.models.devices import names_of, tf32_allowed

    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(config),
        "model": config.model,
        "task": config.task,
        "config": plain(config),
        "samples": config.samples,
        "seed": config.seed,
        "device": names_of(adapter.devices),
        "dtype": str(adapter.dtype).removeprefix("torch."),
        **({"tf32": tf32_allowed()} if adapter.device.type == "cuda" else {}),
        "grid": list(adapter.shape.grid),
        "kernels": with_loops(kernel_facts(config.kernels, str(adapter.device)), ()),
        "versions": {"prunescope": _own_version(), "python": sys.version.split()[0], **versions()},
        "fingerprints": {
            "weights": adapter.digest,
            **beside_weights(adapter),
            "code": code_digest(config.plugin),
            "data": attribute(task, "digest"),
        },
        "budgets": [str(read_keep(keep)) for keep in config.keep],
        "task_info": {k: v for k, v in asdict(task.info).items() if k != "families"},
        "scoring": scoring_facts(task),
        "whole": attribute(task, "whole"),
        "hub": hub_facts(config, task),
        "chance": {"subsets": "by image", "ties": "by hash"},
        "notes": [],
    }


def hub_facts(config: CompareConfig, task: Task) -> dict[str, Any]:
    """Return which repositories of the hub a run reads: ``model``, ``companion`` and ``data``, as far as they are from there.

    Each has its ``repository`` and the commit as ``revision``; ``data`` also the SHA-256 of its ``files``.

    Args:
        config: the request, its model loaded.
        task: of the request.

    Raises:
        RequestError: where a file of the data is not the one that the hub has.
    """
    from harness.huggingface import cached
    from harness.models.catalogue import EMBEDDED, plugged
    from harness.models.companion import KNOWN

    found: dict[str, Any] = {}
    names: dict[str, tuple[str, str | None]] = {}
    if config.model not in EMBEDDED and config.model not in plugged() and not Path(config.model).is_dir():
        names = {"model": (config.model, config.revision), "companion": (KNOWN.get(config.model, ""), None)}
    if config.companion is not None:
        names["companion"] = ("" if Path(config.companion).is_dir() else config.companion, None)
    for role, (name, revision) in names.items():
        if name and (snapshot := cached("model", name, revision)) is not None:
            found[role] = {"repository": name, "revision": snapshot.commit}
    origin = getattr(task, "origin", None)
    if origin is not None:
        found["data"] = origin.facts()
    return found


def beside_weights(adapter: Adapter) -> dict[str, str | None]:
    """Return digests of what answers depend on beside the model's weights: its companion and its chat template; None for none."""
    from harness.models.chat_template import template_digest

    companion = None if adapter.companion is None else adapter.companion.digest
    return {"companion": companion, "chat_template": template_digest(adapter.processor)}


def add_notes(run: RunFolder, notes: Sequence[str]) -> None:
    """Write notes into the manifest that are not there yet, and say them on stderr where that was not done.

    Args:
        run: the folder.
        notes: sentences that a reader of the report must know.
    """
    for note in notes:
        notice(note)
    manifest = run.manifest()
    new = [note for note in notes if note not in manifest["notes"]]
    if new:
        manifest["notes"] += new
        run.write_json("manifest.json", manifest)


def versions() -> dict[str, str]:
    """Return versions of the packages that figures depend on, as far as they are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("torch", "transformers", "numpy", "scikit-learn", "scipy", "pillow", "torchvision"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def code_digest(plugins: tuple[str, ...] = ()) -> str:
    """Return the SHA-256 of the installed packages' Python files and of plug-in modules, 16 digits."""
    root, total = Path(__file__).parents[2], hashlib.sha256()
    for package in ("methods", "metrics", "harness"):
        for path in sorted((root / package).rglob("*.py")):
            total.update(str(path.relative_to(root)).encode() + path.read_bytes())
    for module in plugins:
        source = getattr(sys.modules.get(module), "__file__", None)
        total.update(Path(source).read_bytes() if source else module.encode())
    return total.hexdigest()[:16]


def digest_of(run: RunFolder) -> str:
    """Return the SHA-256 of all answers and kept sets of a run, 16 digits: runs with one digest found the same.

    The order of cells, batches and processes does not matter, nor where model and data lie; methods, budgets and seed do.
    """
    names = ("method", "keep", "budget", "positions", "seed")
    query = "SELECT question, prediction, kept, failed IS NULL FROM samples WHERE cell = ? ORDER BY question"
    total = hashlib.sha256()
    for name, ident in sorted((json.dumps([facts.get(name) for name in names]), ident) for ident, _, facts in run.cells()):
        total.update(name.encode())
        for question, prediction, kept, answered in run.connection.execute(query, (ident,)):
            said, tokens = f"{question}{prediction}".encode(), kept or b""
            total.update(b"%d %d %d %d:%b%b" % (answered, len(question), len(prediction), len(tokens), said, tokens))
    return total.hexdigest()[:16]


def _own_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("prunescope")
    except PackageNotFoundError:
        return "not installed"


def command(config: CompareConfig) -> str:
    """Return the command line that repeats a run."""
    base = CompareConfig()
    words = ["python -m harness compare"]
    for name, value in plain(config).items():
        if value == plain(base)[name] or name in HANDLING_OPTIONS | {"ray"}:
            continue
        flag = f"--{name.replace('_', '-')}"
        if name in _SWITCHES:
            words.append(_SWITCHES[name])
        else:
            words.append(f"{flag} {shlex.quote(','.join(map(str, value)) if isinstance(value, list) else str(value))}")
    return " ".join(words)


def plain(config: CompareConfig) -> dict[str, Any]:
    """Return a request as JSON holds it."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return content


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must agree of two requests for one to resume the other's run.

    What was left open is not among it: it may be an option that an older run did not have. Nor is how long times are taken, nor
    which code selects greedily:
    `selection_kernels.check_asked` holds what was chosen against what is asked, since ``auto`` may be either.

    Args:
        config: a request as `plain` gives it.
    """
    handling = HANDLING_OPTIONS | ANSWERING_OPTIONS | TIMING_OPTIONS | {"self_check", "kernels"}
    asked = {name: v for name, v in config.items() if name not in handling and v is not None}
    asked.setdefault("references", True)  # an older version knew no run without them
    return asked | {"keep": [read_keep(one) for one in asked.get("keep", ())]}
