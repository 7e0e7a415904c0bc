"""How a run that goes on computes, selects and scores, and how long its answers may be: as it began, not as a new one would."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from harness.errors import RequestError
from harness.models.devices import has_bfloat16, pick_device, placed_on
from harness.run.config import CompareConfig
from harness.run.manifest import add_notes
from harness.run.selection_kernels import with_kernels_of
from harness.store.older_runs import TF32_POSSIBLE, rounding_on_gpu
from harness.tasks.base import attribute
from harness.tasks.rule_names import OURS

if TYPE_CHECKING:
    from harness.store.runs import RunFolder
    from harness.tasks.base import Task


def as_begun(run: RunFolder, config: CompareConfig, task: Task) -> CompareConfig:
    """Return a request with the precision, selection code and scoring rule of a run, whose answers may be as long as its own.

    All are said in the request, so that every process that answers keeps to them. Ours is the rule of a run of a version that
    knew no other.

    Args:
        run: that goes on.
        config: the request.
        task: of the request.

    Raises:
        RequestError: where the code that selected cannot run here, or the card has not the precision.
    """
    manifest = run.manifest()
    scoring, length = manifest.get("scoring"), manifest.get("task_info", {}).get("answer_tokens")
    if scoring is None and task.info.scored and attribute(task, "rules"):
        add_notes(run, ["answers were scored by the rule of an older version, those of this version by ours, which may differ"])
    device = placed_on(pick_device(config.device), config.loading.placing)
    config = with_kernels_of(run, config, device)
    if rounding_on_gpu(manifest) == TF32_POSSIBLE:
        add_notes(run, ["convolutions may have been rounded to TF32 when this run began, and are not from here on"])
    config = replace(config, scoring=OURS if scoring is None else scoring["rule"])
    if config.dtype == "auto":  # what it meant on the device that the run began on
        config = replace(config, dtype=manifest.get("dtype", "auto"))
    if config.dtype == "bfloat16" and device.startswith("cuda") and not has_bfloat16(device):
        elsewhere = ", or on the CPU, with CUDA_VISIBLE_DEVICES= before the command" if config.device == "auto" else ""
        raise RequestError(
            f"{run.folder}: its run was computed in bfloat16, which this card lacks; go on where there is one{elsewhere}"
        )
    if config.max_new_tokens is not None or length in (None, task.info.answer_tokens):
        return config
    now = task.info.answer_tokens
    add_notes(run, [f"answers end at {length} tokens, as those do that the run began with; a new run allows {now}"])
    return replace(config, max_new_tokens=length)
