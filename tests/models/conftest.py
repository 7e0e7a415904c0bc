"""Every supported family as a tiny random model, and questions about images that are put to it."""

from __future__ import annotations

import pytest

from tests.models.tiny_families import PARAMS, Asked, Family, ask, make, picture


@pytest.fixture(scope="session")
def alike(family) -> Asked:
    """Two images of one size."""
    return ask(family, [[picture(40, 40, 1)], [picture(40, 40, 2)]])


@pytest.fixture(scope="session")
def unequal(family) -> Asked:
    """Images of three sizes; most families make different numbers of visual tokens of them."""
    return ask(family, [[picture(32, 32, 1)], [picture(60, 30, 2)], [picture(30, 90, 3)], [picture(32, 32, 4)]], 1)


@pytest.fixture(scope="session")
def several(family) -> Asked:
    """Two images a prompt, of different sizes."""
    return ask(family, [[picture(32, 32, 1), picture(60, 30, 2)], [picture(30, 90, 3), picture(20, 20, 4)]])


@pytest.fixture(scope="session", params=PARAMS)
def family(request) -> Family:
    return make(request.param)


@pytest.fixture(scope="session")
def llava() -> Family:
    return make("llava")
