"""Which code runs the greedy selections of a run: what ``--kernels`` asks for, and what that is on a device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.errors import RequestError
from harness.notices import notice
from harness.run.config import CompareConfig, check_kernels
from methods.kernels import LoopRun, triton_version, why_not, why_not_by_itself

if TYPE_CHECKING:
    from harness.store.runs import RunFolder


def resolved(asked: str, device: str) -> str:
    """Return which code runs greedy selections on a device: ``torch`` or ``triton``.

    Args:
        asked: ``auto``, ``torch`` or ``triton``.
        device: such as ``cpu`` or ``cuda:1``; of a model on several, that of one of them.

    Raises:
        RequestError: where Triton is asked for and cannot run there, or something unknown.
    """
    check_kernels(asked)
    kind = device.partition(":")[0]
    if asked == "triton" and (reason := why_not(kind)) is not None:
        raise RequestError(f"--kernels triton: {reason}; use auto or torch")
    if asked == "auto":
        return "triton" if why_not_by_itself(device) is None else "torch"
    return asked


def kernel_facts(asked: str, device: str) -> dict[str, Any]:
    """Return what a manifest says of the code that selects greedily.

    It holds what was ``asked``, what was ``chosen`` by it and the device, the version of ``triton`` where that is it, and ``why``
    ``auto`` did not choose Triton on a GPU. What ran is told by the accuracy pass, see `with_loops`: a kernel takes not every
    loop, and not every method has one.

    Args:
        asked: ``auto``, ``torch`` or ``triton``.
        device: where the model is.
    """
    chosen = resolved(asked, device)
    wanted = asked == "auto" and chosen == "torch" and device.startswith("cuda")
    return {
        "asked": asked, "chosen": chosen, "triton": triton_version() if chosen == "triton" else None,
        "why": why_not_by_itself(device) if wanted else None,
    }  # fmt: skip


def with_loops(kernels: Mapping[str, Any], loops: Iterable[LoopRun]) -> dict[str, Any]:
    """Return what a manifest says of the code that selects greedily, with the loops that ran since.

    Its ``loops`` have one entry for each loop and code that ran it: the fewest and most ``tokens`` of an image, and the
    ``reason`` why Triton, where it was chosen, did not run those of the most tokens.

    Args:
        kernels: what the manifest says so far.
        loops: that ran.
    """
    found = {(one["loop"], one["ran"]): dict(one) for one in kernels.get("loops") or ()}
    for run in sorted(loops):
        one = found.setdefault(
            (run.loop, run.ran), {"loop": run.loop, "ran": run.ran, "tokens": [run.tokens, run.tokens], "reason": run.reason}
        )
        fewest, most = one["tokens"]
        if run.tokens > most:
            one["reason"] = run.reason
        one["tokens"] = [min(fewest, run.tokens), max(most, run.tokens)]
    return {**kernels, "loops": [found[key] for key in sorted(found)]}


def note_loops(run: RunFolder, loops: Iterable[LoopRun]) -> None:
    """Write into a manifest which loops ran, as far as it does not say so yet; one of a version without `kernels` stays.

    Args:
        run: the folder.
        loops: that ran.
    """
    manifest = run.manifest()
    kernels = manifest.get("kernels")
    if kernels is not None and (now := with_loops(kernels, loops)) != kernels:
        run.write_json("manifest.json", {**manifest, "kernels": now})


def begun_with(manifest: Mapping[str, Any]) -> str:
    """Return which code was chosen for a run, ``torch`` or ``triton``; a run of a version that knew no other has torch.

    Args:
        manifest: of the run.
    """
    return str((manifest.get("kernels") or {}).get("chosen", "torch"))


def check_asked(manifest: Mapping[str, Any], config: CompareConfig, where: str) -> None:
    """Refuse a request that names other code than a run selects with: rounding may decide otherwise, and its figures would mix.

    Args:
        manifest: of the run.
        config: the request that goes on with it.
        where: what a message begins with.

    Raises:
        RequestError: where they differ.
    """
    chosen = begun_with(manifest)
    if config.kernels not in ("auto", chosen):
        raise RequestError(
            f"{where}: its run selects with {chosen}, not {config.kernels}; leave --kernels away, or name another folder"
        )


def with_kernels_of(run: RunFolder, config: CompareConfig, device: str) -> CompareConfig:
    """Return a request that selects with the code that a run began with, whatever ``auto`` would be by now.

    Where Triton was chosen and cannot run here, but has selected nothing in the run, torch is chosen in its place.

    Args:
        run: that goes on.
        config: the request that goes on with it.
        device: where the model will be.

    Raises:
        RequestError: where answers of the run rest on Triton, which cannot run here.
    """
    manifest = run.manifest()
    kernels = manifest.get("kernels") or {}
    begun = kernels.get("triton")
    if begun_with(manifest) == "torch":
        return replace(config, kernels="torch")
    relied = any(one["ran"] == "triton" for one in kernels.get("loops") or ())
    if (reason := why_not(device.partition(":")[0])) is None:
        if relied and (now := triton_version()) != begun:
            notice(f"tokens were selected with Triton {begun}, and are with {now} from here on")
        return replace(config, kernels="triton")
    if relied:
        raise RequestError(f"{run.folder}: its run selects with Triton {begun}, but here {reason}; go on where Triton runs")
    run.write_json("manifest.json", {**manifest, "kernels": {**kernels, "chosen": "torch", "triton": None, "why": reason}})
    return replace(config, kernels="torch")
