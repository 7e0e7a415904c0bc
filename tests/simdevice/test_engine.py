"""What the engine asks of a device: sums in a fixed order, nothing from another device, and how much of everything."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.engine.sharing import CellPath, SharedPrefill
from harness.run.machine_check.against_cpu import steps_at_half
from methods.merging import add_rows
from methods.registry import create
from tests.simdevice import placing
from tests.simdevice.counting import CASES, counts_of, layers_of_twelve
from tests.simdevice.pretended import Counted

SPREAD = pytest.param("spread", marks=pytest.mark.needs("accelerate"))
EXACT = {("methods/hired.py", "index_add_"), ("harness/engine/engine.py", "scatter_add")}
"""Sums whose order cannot matter: of ones, and of single rows."""


@pytest.mark.parametrize("name", ["llava", "qwen3-vl"])
def test_no_sum_depends_on_the_order_of_threads(name):
    """The tower's and the engine's; `hired` counts ones, and what the tower adds behind layers has a place of its own a row."""
    family = placing.family_on(name, "cuda")
    batch, found = placing.alike(family).batch, {}
    for method in placing.METHODS:
        with Counted() as counted:
            placing.answered(family, batch, method)
        if told := {(place.partition(":")[0], op) for place, op in counted.atomics} - EXACT:
            found[method] = told
    assert not found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_added_in_their_order_on_a_device_and_on_the_cpu(dtype):
    torch.manual_seed(0)
    rows, place = torch.randn(3, 50, 8, dtype=dtype), torch.randint(0, 7, (3, 50))
    for some in (slice(None), slice(1)):
        start = torch.randn(3, 7, 8, dtype=dtype)[some]
        here = add_rows(start.clone(), place[some], rows[some])
        there = add_rows(start.to("cuda:1", copy=True), place[some].to("cuda:1"), rows[some].to("cuda:1"))
        slow = start.clone()
        for image, one in enumerate(place[some].tolist()):
            for row, column in enumerate(one):
                slow[image, column] += rows[some][image, row]
        assert torch.equal(here, slow) and torch.equal(there.cpu(), slow)


@pytest.mark.parametrize("place", ["cuda:1", SPREAD])
def test_every_method_of_the_embedded_model_answers_as_on_the_cpu(place):
    """It has the layers, the CLS and the joint space that some methods want and the families' random models lack."""
    here, there = placing.embedded_on("cpu"), placing.embedded_on(place)
    on_cpu, on_device = placing.one_picture(here).batch, placing.one_picture(there).batch
    wrong, refused = {}, {}
    for method in placing.METHODS:
        wanted, found = (placing.answered(*given, method, 3) for given in ((here, on_cpu), (there, on_device)))
        if isinstance(wanted, str) or isinstance(found, str):
            refused[method] = wanted
            differ = [] if wanted == found else [found]
        else:
            differ = placing.differences(wanted[0], found[0]) + placing.noted_differences(wanted[1], found[1])
        if differ:
            wrong[method] = differ
    assert not wrong
    assert not refused


@pytest.mark.parametrize("place", ["cuda:1", SPREAD])
@pytest.mark.parametrize("name", ["llava", "qwen3-vl", "gemma3"])
def test_cells_that_go_on_from_one_prefill_answer_as_alone(name, place):
    """Checkpoints lie where their layer does, and are taken up there, of all rows and of some."""
    family = placing.family_on(name, place)
    batch = placing.alike(family).batch
    methods = ["none", "fastv", "vtw", "dart", "divprune", "divprune+fastv"]
    paths = lambda shape: [CellPath(steps_at_half(method)(shape), create(method).positions) for method in methods]
    engine = Engine(family.adapter, 4)
    alone = {method: placing.answered(family, batch, method) for method in methods}
    wanted = frozenset().union(
        *(step.tower_reads for path in paths(family.adapter.shape_for(batch.pixels.spans[0])) for step in path.steps)
    )
    shared = SharedPrefill(family.adapter, engine.encode_images(batch.pixels, wanted=wanted), paths)
    for number, method in enumerate(methods):
        request = EngineRequest(batch, steps_at_half(method), create(method).positions, shared)
        output = engine.run(request)
        assert not placing.differences(alone[method][0], output), method
        some = engine.run(replace(request, rows=[1, 3]))
        assert some.tokens == [output.tokens[1], output.tokens[3]]
        shared.release(number)
    assert shared.checkpoints == {}


@pytest.mark.parametrize("name", ["llava", "qwen2-vl"])
@pytest.mark.parametrize("place", ["cuda", SPREAD])
def test_contiguous_positions_and_long_answers_equal_the_cpus(name, place):
    """Rows end at different tokens, caches of several devices let go of theirs, and what is decoded crosses devices each step."""
    outputs = []
    for where in ("cpu", place):
        family = placing.family_on(name, where)
        batch = placing.unequal(family).batch
        engine = Engine(family.adapter, 24, ends=frozenset(range(0, family.adapter.shape.vocabulary, 7)))
        outputs.append(
            [engine.run(EngineRequest(batch, steps_at_half(method), "contiguous")) for method in ("none", "fastv", "dart")]
        )
    for one, other in zip(*outputs, strict=True):
        assert not placing.differences(one, other) and len({len(tokens) for tokens in one.tokens}) > 1


@pytest.mark.parametrize("case", CASES)
def test_counts_are_known_by_line(case):
    """What a question costs in launches and synchronisations; where they come from is for whoever wants fewer."""
    found = counts_of(layers_of_twelve(), case)
    assert sum(found.lines.values()) == found.launches > 0
    assert sum(found.waits.values()) == found.synchronisations <= found.launches
    assert all(":" in line for line in found.lines)
