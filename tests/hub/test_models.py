"""Models of the hub, loaded in this process: from the hub, from its cache, and what is said of one that cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import RequestError
from harness.models.hf import load
from tests.hub.loopback import contents

pytestmark = pytest.mark.hub
NAME = "some-org/tiny"


@pytest.fixture
def downloaded(at_hub) -> Path:
    """The model in the cache, by the library's own function, at a hub that fails from now on."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(NAME))
    at_hub.failing = 503
    at_hub.requests.clear()
    return folder


def test_a_model_of_the_cache_is_the_embedded_one(downloaded, at_hub, adapter):
    assert load(NAME).digest == adapter.digest
    assert at_hub.requests == [f"GET /api/models/{NAME}/revision/main"], "asked once"
    assert downloaded.name == contents(at_hub.root / "models" / NAME)[1]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_missing_is_named(downloaded, name):
    (downloaded / name).unlink()
    with pytest.raises(
        RequestError, match=rf"{name} of it is not in the local cache, and cannot be fetched \(the hub fails \(503\)\)"
    ):
        load(NAME)


def test_a_file_that_is_not_whole_is_named(downloaded):
    blob = (downloaded / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1000])
    with pytest.raises(RequestError, match=r"model.safetensors of it is not whole in the local cache"):
        load(NAME)


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_model_that_cannot_be_had_is_one_line(at_hub, status):
    at_hub.failing = status
    with pytest.raises(RequestError, match=rf"it is not in the local cache, .*; where there is a network: hf download {NAME}$"):
        load(NAME)
    assert len(at_hub.requests) == 1, "no retries"
