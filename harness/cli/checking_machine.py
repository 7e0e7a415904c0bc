"""The command `selfcheck`: does this machine compute what the machine of the stored results did?"""

from __future__ import annotations

import json

import typer

from harness import interrupts
from harness.cli.options import Device, Json


def selfcheck(
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Check that this machine computes what another one did, whose results are stored.

    All methods on the embedded model in float32 and bfloat16 against the stored results, ten random families against the CPU,
    clocks against each other, the kernels of attention, synchronisations. A near tie that rounding decides otherwise is told
    apart from a fault. Exit code 1 where something differs, one line each. Of a model of yours, every run checks itself.
    """
    from harness.run.machine_check.check import check_machine

    with interrupts.told():
        found = check_machine(device)
    print(json.dumps(found.as_json(), allow_nan=False) if as_json else found.as_text())
    if found.differences:
        raise typer.Exit(1)
