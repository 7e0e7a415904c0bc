"""What a real card is held to runs on a pretended one, where nothing may differ: `tests/engine/test_on_gpu.py` has the same."""

from __future__ import annotations

import pytest
import torch

from tests.engine.holding import held_against_the_cpu
from tests.methods import golden
from tests.simdevice import placing

ROWS = [(row, path) for row in golden.rows() for path in row.paths()[:1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl"])
def test_a_family_equals_the_cpu_choice_by_choice(name, dtype):
    found = held_against_the_cpu(name, "cuda", dtype)
    assert not found.differences
    assert found.methods >= 10 and found.furthest == 0.0 and found.moved == 0


def test_images_of_several_sizes_equal_the_cpu():
    found = held_against_the_cpu("internvl", "cuda", torch.float32, placing.unequal)
    assert not found.differences and found.methods >= 10


def test_what_differs_on_a_device_is_told(monkeypatch):
    """A sum that the device takes in another order is a tie; a selector that is wrong there is a fault."""
    from methods import divprune

    right = divprune.select

    def wrong(signals, keep):
        chosen = right(signals, keep)
        if torch.device(signals.device).type == "cuda":
            object.__setattr__(chosen, "indices", (chosen.indices + 1) % signals.count)
        return chosen

    monkeypatch.setattr(divprune, "select", wrong)
    said = held_against_the_cpu("llava", "cuda", torch.float32).differences
    assert any(one.startswith("divprune: ") and "though the signals are the same" in one for one in said)
    assert all("divprune" in one.partition(":")[0] for one in said)


@pytest.mark.parametrize(("row", "path"), ROWS, ids=[path.stem for _, path in ROWS])
def test_select_on_a_device_gives_what_the_authors_code_gives(row, path, tmp_path):
    golden.held_golden(row, path, tmp_path, "cuda")
