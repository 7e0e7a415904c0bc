"""A hub on this machine with all data sets, and clients of it: in this process, or as commands of their own."""

from __future__ import annotations

import pytest

from tests.hub.loopback import LoopbackHub, running
from tests.hub.made_up_data import write_hub

NOBODY = "http://127.0.0.1:9"  # where nobody answers


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The folder of a hub with all data sets and a model."""
    pytest.importorskip("pyarrow")
    return write_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def hub(served):
    """A hub that answers well until it is told otherwise."""
    with running(served) as one:
        yield one


@pytest.fixture
def at_hub(hub, tmp_path, monkeypatch) -> LoopbackHub:
    """The hub, which this process asks, with an empty cache."""
    from huggingface_hub import constants

    point_to(hub.address, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return hub


def point_to(address: str, monkeypatch) -> None:
    """Let this process ask the hub at an address."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
