"""Peak memory of cells on a CPU, each in a child of its own: one that fails says why."""

from __future__ import annotations

import os

import pytest

from harness.run.memory_pass import _in_child


@pytest.mark.skipif(not hasattr(os, "fork") or not os.path.exists("/proc/self/status"), reason="takes a fork and /proc")
def test_a_child_tells_its_peak_or_why_it_failed():
    def fails() -> None:
        raise ValueError("no such image")

    found = _in_child(lambda: None)
    assert found is not None and found["peak_bytes"] > found["working_bytes"] >= 0
    failed = _in_child(fails)
    assert failed is not None and set(failed) == {"failed"} and "no such image" in failed["failed"]
    assert _in_child(lambda: os._exit(9)) is None
