"""The command `profile`: what methods cost on a model of true size, real or random weights; no task, no accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from math import sqrt
from typing import Any

from harness.models.devices import names_of
from harness.progress import progress
from harness.run.config import load_plugins
from harness.run.levels import refuse_without_level
from harness.run.plan import asked_for
from harness.run.profiling.config import ProfileConfig
from harness.run.profiling.measuring import Measuring, of_setting
from harness.run.profiling.model import ProfiledModel, tell_skipped
from harness.run.profiling.rounds import TimeBudget
from harness.run.selection_kernels import kernel_facts
from methods.kernels import observed, using

ORIGIN = {
    "measured": "ttft, answer, token, throughput, ratio, stages, selection_share, realised_gain, rates, memory but kv_predicted, "
    "measured_ms of bounds, break-even",
    "counted": "operations of bounds, tokens of methods that decide their counts from the image",
    "computed": "tokens, flops (of one prompt), kv_predicted, flops and bytes of bounds and the times that follow from them",
    "predicted": "largest_batch, where it says so; interpolated of break_even; sharing, from the stages",
}
"""Where the entries of a profile come from."""


def profile(config: ProfileConfig, keep: Callable[[dict[str, Any]], None] = lambda found: None) -> dict[str, Any]:
    """Measure throughput, latency, memory and break-even of methods by batch and length of text, and what bounds each stage.

    Args:
        config: the request.
        keep: is handed what is known by then after every batch size and length of text, and once more where an interruption
            ends the one under way; what was not begun stands in ``left_out`` there.

    Returns:
        What ``profile --json`` prints; docs/profile.md says what each entry is.

    Raises:
        RequestError: where the request is wrong.
        KeyboardInterrupt: where it was interrupted, after ``keep`` has what was measured by then.
    """
    config = config.checked()
    load_plugins(config.plugin)
    for method in asked_for(config.methods):
        refuse_without_level(method)
    model = ProfiledModel.loaded(config)
    checked = model.self_check()
    cells = {text: model.cells(text) for text in config.text_tokens}
    tell_skipped(cells[config.text_tokens[0]])
    settings = [(batch, text) for batch in sorted(config.batch_size) for text in config.text_tokens]
    weights = [sqrt(batch * (model.shape.visual_tokens + text)) for batch, text in settings]
    budget = TimeBudget(config.time_limit, [weight for weight in weights for _ in range(1 + config.break_even)])
    with progress("profile", int(config.time_limit)) as advance, using(config.kernels), observed() as loops:
        done = Measuring(model, budget, _ticking(budget, advance))
        done.warm_up(*settings[0], cells[settings[0][1]])
        for number, (batch, text) in enumerate(settings):
            waiting, interruption = settings[number + 1 :], None
            try:
                done.setting(batch, text, cells[text], waiting)
                if not waiting:
                    done.calibrate()
            except KeyboardInterrupt as error:
                interruption = error
            last = not waiting and interruption is None
            done.bound()
            untouched = [
                f"{of_setting(*one)}: {'not begun yet' if interruption is None else 'interrupted before'}" for one in waiting
            ]
            found: dict[str, Any] = {
                **_facts(model), "used": budget.used, "rates": done.rates.as_dict(),
                "calibrations": [rates.as_dict() for rates in done.calibrations], "origin": ORIGIN, "cells": done.rows,
                "break_even": done.found, "largest_batch": done.largest(cells), "left_out": [*done.left_out, *untouched],
                "sharing": done.sharing, "checks": done.checks, "self_check": asdict(checked), "finished": last,
                "kernels": {
                    **kernel_facts(config.kernels, str(model.adapter.device)), "loops": [one.as_dict() for one in sorted(loops)],
                },
            }  # fmt: skip
            keep(found)
            if interruption is not None:
                raise interruption
    return found


def _facts(model: ProfiledModel) -> dict[str, Any]:
    """What was profiled, and how it was asked for."""
    config = model.config
    return {
        "schema": 1, "model": config.model, "weights": "random" if config.random_weights else "trained",
        "device": names_of(model.adapter.devices), "devices": model.devices,
        "dtype": str(model.adapter.dtype).removeprefix("torch."), "layers": model.shape.layers,
        "image": model.shape.visual_tokens, "batch_size": sorted(config.batch_size), "text_tokens": list(config.text_tokens),
        "answer_tokens": config.answer_tokens, "methods": list(config.methods), "budget": config.budget, "seed": config.seed,
        "time_limit": config.time_limit,
    }  # fmt: skip


def _ticking(budget: TimeBudget, advance: Callable[[int], None]) -> Callable[[], None]:
    """What moves the progress bar on by the seconds that passed."""
    told = [0]

    def tick() -> None:
        passed = int(min(budget.used, budget.limit)) - told[0]
        told[0] += passed
        advance(passed)

    return tick
