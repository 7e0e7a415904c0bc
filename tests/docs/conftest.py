"""Pages of the documentation, and a small run that their commands read."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A folder in which ``runs/first`` and ``runs/quick`` are a small finished run of the methods that the pages name."""
    from harness import compare

    folder = tmp_path_factory.mktemp("docs")
    options = {"methods": ["fastv", "random"], "keep": [64], "samples": 2, "analyse": 2, "seeds": 1, "max_new_tokens": 4}
    compare(**options, latency=False, out=folder / "runs" / "first")
    (folder / "runs" / "quick").symlink_to("first")
    return folder
