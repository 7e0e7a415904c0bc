"""Timed rounds as arrays: stages of one pass pair by round, also where a cell was left out of some. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from metrics.arrays import Floats

PassTimes = dict[tuple[int, int], dict[str, Floats]]
"""Seconds by (pass, cell), then by stage: [rounds of the stage in that pass], nan where the cell was left out of one."""


def by_stage(rows: Iterable[tuple[int, int, int, int, str, float]], repeat: int) -> PassTimes:
    """Return the times of one of a cell's runs in every round as arrays, which pair by place within a pass and a stage.

    Args:
        rows: (pass, cell, repeat, round, stage, seconds) of all cells and runs.
        repeat: 0 for the first run of a cell in a round, 1 for its second one.

    >>> rows = [(0, 1, 0, 0, "ttft", 2.0), (0, 1, 0, 1, "ttft", 2.5), (0, 7, 0, 0, "ttft", 1.0)]
    >>> by_stage(rows, 0)[0, 7]["ttft"]
    array([ 1., nan])
    """
    rounds: dict[tuple[int, str], set[int]] = {}
    own: dict[tuple[int, int], dict[str, dict[int, float]]] = {}
    for number, cell, again, turn, stage, seconds in rows:
        rounds.setdefault((number, stage), set()).add(turn)
        if again == repeat:
            own.setdefault((number, cell), {}).setdefault(stage, {})[turn] = seconds
    found: PassTimes = {}
    for (number, cell), stages in own.items():
        found[number, cell] = {
            stage: np.array([known.get(turn, np.nan) for turn in sorted(rounds[number, stage])])
            for stage, known in stages.items()
        }
    return found
