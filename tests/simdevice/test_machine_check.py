"""The check of a machine on a pretended GPU: what a card would be asked is run once before there is one."""

from __future__ import annotations

import pytest
import torch

from harness.run.machine_check.against_cpu import check_against_cpu
from harness.run.machine_check.against_reference import check_against_reference
from harness.run.machine_check.check import check_machine
from harness.run.machine_check.stored_results import read
from tests.simdevice.pretended import PretendedCard


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch):
    """The clocks' last figure, which decides nothing, of less work."""
    monkeypatch.setattr("harness.run.machine_check.clocks._PAIRS", 2)


def test_a_device_is_checked():
    found = check_machine("cuda:1", ("fastv", "divprune", "visionzip"), ("llava", "qwen3-vl"), ("fastv", "tome"))
    assert not found.differences and found.ties == 0, found.as_text()
    assert found.device == "cuda:1 Pretended 1"
    methods, half, families, clocks, attention, _, waits = found.parts
    assert methods.figures["choices"] == half.figures["choices"] * 3 == 9
    assert families.compared_with == "this machine's CPU" and families.figures["furthest"] == 0
    assert attention.figures["causal"] == 12 and "card_over_wall" not in clocks.figures
    assert any("the card's own clock cannot be read" in line for line in clocks.said)
    assert waits.said and "there is no device" not in waits.said[0]


def test_a_fault_of_the_device_is_told(monkeypatch):
    real = torch.nn.functional.scaled_dot_product_attention

    def wrong(query, *given, **named):
        return real(query, *given, **named) * (1.001 if query.device.type == "cuda" else 1)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", wrong)
    methods = check_against_reference(read()[0], "cuda:0", "float32", ("fastv",))
    families = check_against_cpu("cuda:0", ("llava",), ("fastv",))
    told = [line.partition(",")[0] for found in (methods, families) for line in found.differences]
    assert told == ["fastv", "llava"]


def test_a_card_without_bfloat16_is_not_held_to_it(monkeypatch):
    monkeypatch.setattr(PretendedCard, "capability", (7, 5))
    found = check_machine("cuda", ("fastv",), ("llava",), ("fastv",))
    half = next(part for part in found.parts if part.name == "methods in bfloat16")
    assert half.said == ["not checked: this card has no bfloat16, which torch would emulate"] and not found.differences
