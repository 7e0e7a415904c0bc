"""Every method on every family answers on one device, and spread over two, what it answers on the CPU, to the last bit."""

from __future__ import annotations

import pytest

from tests.models.tiny_families import PARAMS
from tests.simdevice import placing

SPREAD = pytest.mark.needs("accelerate")
CASES = [
    pytest.param("cuda", placing.alike, id="one-alike"),
    pytest.param("spread", placing.alike, id="two-alike", marks=SPREAD),
    pytest.param("spread", placing.unequal, id="two-unequal", marks=SPREAD),
]


@pytest.mark.parametrize(("place", "images"), CASES)
@pytest.mark.parametrize("name", PARAMS)
def test_every_method_answers_as_on_the_cpu(name, place, images):
    here, there = placing.family_on(name, "cpu"), placing.family_on(name, place)
    on_cpu, on_device = images(here).batch, images(there).batch
    assert len(set(there.adapter.layer_devices)) == len(there.adapter.devices) == (2 if place == "spread" else 1)
    wrong, compared = {}, 0
    for method in placing.METHODS:
        wanted = placing.answered(here, on_cpu, method)
        try:
            found = placing.answered(there, on_device, method)
        except Exception as error:
            wrong[method] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
            continue
        if isinstance(wanted, str) or isinstance(found, str):
            if wanted != found:
                wrong[method] = f"{wanted!r} and {found!r}"
            continue
        compared += 1
        if differ := placing.differences(wanted[0], found[0]) + placing.noted_differences(wanted[1], found[1]):
            wrong[method] = differ
    assert not wrong
    assert compared >= 10
