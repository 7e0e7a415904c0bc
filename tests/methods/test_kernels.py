"""Which code runs the greedy loops: who asks, where that holds, and what is noted."""

from __future__ import annotations

import os
import subprocess
import sys
from threading import Thread

import pytest
import torch

from methods import kernels
from methods.greedy import max_min
from methods.kernels import LoopRun, observed, triton_version, using, why_not
from methods.similarity import cosine


def loops() -> set[LoopRun]:
    """What runs a loop here, asked of one."""
    alike = cosine(torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0)))
    with observed() as seen:
        max_min(alike, torch.tensor([0, 1]), 3)
    return seen


@pytest.mark.parametrize("choice", ["auto", "torch"])
def test_on_a_cpu_it_is_torch(choice):
    with using(choice):
        assert loops() == {LoopRun("max_min", 7, "torch")}


def test_nothing_else_can_be_asked_for():
    with pytest.raises(ValueError, match="'cuda': choose auto, torch or triton"), using("cuda"):
        pass


def test_what_is_asked_for_ends_with_its_context_and_is_of_one_thread():
    """A process or thread that selects says itself what selects; nothing is set for all of them."""
    found = []
    with using("torch"):
        with pytest.raises(RuntimeError), using("auto"):
            raise RuntimeError
        with observed() as seen:
            thread = Thread(target=lambda: found.append(loops()))
            thread.start()
            thread.join()
        assert found == [{LoopRun("max_min", 7, "torch")}] and seen == set()


@pytest.mark.parametrize("interpreted", [False, True])
@pytest.mark.parametrize("capability, fast", [((7, 5), False), ((8, 0), True), ((8, 9), False), ((9, 0), True), ((12, 0), False)])
def test_auto_takes_triton_on_cards_that_are_fast_in_float64_and_never_interpreted(monkeypatch, capability, fast, interpreted):
    monkeypatch.setattr(kernels, "_installed", lambda: (None, interpreted))
    monkeypatch.setattr(kernels, "_no_driver", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    kernels._slow.cache_clear()
    try:
        reason = kernels.why_not_by_itself("cuda:0")
    finally:
        kernels._slow.cache_clear()
    assert why_not("cuda") is None and (reason is None) == (fast and not interpreted)
    if reason is not None:
        assert ("TRITON_INTERPRET=1" if interpreted else f"{capability[0]}.{capability[1]} is slow in float64") in reason


def test_why_triton_cannot_run_is_one_line():
    """Where its interpreter does not stand in for a GPU; a process reads that once."""
    code = "from methods.kernels import why_not\nfor device in ('mps', 'cuda'): print(why_not(device))"
    given = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    given["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    told = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(told) == 2 and told[0].startswith("Triton ")
    assert told[1].startswith("Triton ") or (told[1] == "None" and torch.cuda.is_available())
    if (triton_version() or "").endswith("interpreted"):
        assert why_not("mps") is None and why_not("cuda") is None
