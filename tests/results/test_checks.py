"""The check of `none` against itself, and the card of the embedded model, on little and on wrong input."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from harness.results.summary import _aa
from metrics.latency import FIRST_TOKEN


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_check_of_none_against_itself_stands_on_any_number_of_rounds(rounds):
    """A single round has a ratio, and neither an interval nor a variation; two have no interval yet."""
    first, second = ({stage: np.linspace(1, 2, rounds) * scale for stage in FIRST_TOKEN} for scale in (1.0, 0.5))
    found = _aa({(0, 7): first}, {(0, 7): second}, 7)
    assert found["value"] == pytest.approx(2) and found["rounds"] == rounds
    assert found["lo"] is None and (found["cv"] is None) == (rounds == 1)


def test_the_check_holds_in_one_piece_and_over_rounds_that_are_missing():
    times = np.r_[np.linspace(1, 2, 30), np.nan]
    found = _aa({(0, 7): {"ttft": times}}, {(0, 7): {"ttft": times / np.r_[np.tile([1.01, 0.99], 15), 1.0]}}, 7)
    assert found["rounds"] == 30 and found["lo"] < 1 < found["hi"] and found["lo"] > 0.98
    assert _aa({(0, 7): {"vision": times}}, {(0, 7): {"vision": times}}, 7) is None


@pytest.mark.parametrize(
    ("words", "code", "fragment"),
    [
        (["--help"], 0, "usage: python -m harness.models.tiny.card"), ([], 2, "arguments are required: run"),
        (["nowhere"], 2, "nowhere: no finished run there"),
    ],
)  # fmt: skip
def test_the_card_says_what_it_takes(words, code, fragment, tmp_path):
    command = [sys.executable, "-m", "harness.models.tiny.card", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == code and fragment in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
