"""Which devices and precisions are taken, what they are called, and what is refused in one clear line."""

from __future__ import annotations

from operator import attrgetter

import pytest
import torch

from harness.cli.doctor import doctor
from harness.errors import RequestError
from harness.models import hf
from harness.models.devices import devices_of, dtype_on, names_of, pick_device, placed_on, tf32_allowed, whole_float32
from tests.simdevice.pretended import PretendedCard, set_devices

REFUSED = {
    "mps": "nothing was tested on a device of this kind", "xpu": "nothing was tested", "meta": "nothing was tested",
    "tpu": "no such device; use auto, cpu or cuda", "cuda:2": "there is cuda:0 to cuda:1 here", "cuda:x": "no such device",
}  # fmt: skip


@pytest.fixture
def old_card(monkeypatch):
    monkeypatch.setattr(PretendedCard, "capability", (7, 5))


@pytest.mark.parametrize("text", ["cuda", "cuda:0", "cuda:1"])
def test_a_device_that_is_there_is_taken(text):
    assert pick_device(text) == text


def test_auto_is_a_gpu_and_the_cpu_has_one_name():
    assert pick_device("auto") == "cuda" and pick_device("cpu") == pick_device("cpu:0") == "cpu"


@pytest.mark.parametrize("text", REFUSED)
def test_others_are_refused(text):
    with pytest.raises(RequestError, match=f"--device '?{text}'?: .*{REFUSED[text]}"):
        pick_device(text)


def test_one_device_is_said_to_be_alone():
    set_devices(1)
    try:
        with pytest.raises(RequestError, match="there is cuda:0 alone here"):
            pick_device("cuda:1")
    finally:
        set_devices(2)


def test_auto_is_half_precision_that_the_card_has(monkeypatch):
    assert dtype_on("cuda", "auto") == torch.bfloat16 and dtype_on("cpu", "auto") == torch.float32
    monkeypatch.setattr(PretendedCard, "capability", (7, 5))
    assert dtype_on("cuda:1", "auto") == torch.float16 and dtype_on("cpu", "bfloat16") == torch.bfloat16


def test_bfloat16_is_refused_where_the_card_has_none(old_card):
    with pytest.raises(RequestError, match="--dtype bfloat16: cuda:1 Pretended 1 has none; use float16 or float32"):
        hf.load("tiny", "cuda:1", "bfloat16")
    assert hf.load("tiny", "cuda:1").dtype == torch.float16


def test_the_doctor_tells_of_every_card(old_card):
    assert doctor()["device"].split("; ") == [f"cuda:{i}: Pretended {i}, 16 GiB, float32, float16" for i in (0, 1)]


def test_float32_is_not_rounded_to_tf32():
    torch.backends.cudnn.allow_tf32 = True
    assert tf32_allowed()
    adapter = hf.load("tiny", "cuda", "float32")
    assert not tf32_allowed() and not torch.backends.cudnn.allow_tf32
    assert devices_of(adapter.model) == adapter.devices == [torch.device("cuda:0")]
    assert names_of(adapter.devices) == "cuda:0 Pretended 0"
    assert names_of([torch.device("cpu")]) == f"cpu, {torch.get_num_threads()} threads"


@pytest.mark.parametrize("part", ["", ".cudnn", ".cudnn.conv"])
def test_tf32_is_off_whichever_way_it_was_allowed(part):
    place = attrgetter(part[1:])(torch.backends) if part else torch.backends
    if not hasattr(place, "fp32_precision"):
        pytest.skip("this torch has the older switches alone")
    cudnn = torch.backends.cudnn
    for one in (torch.backends.cuda.matmul, cudnn, cudnn.conv, cudnn.rnn):  # each follows the one above it
        one.fp32_precision = "none"
    before = place.fp32_precision
    place.fp32_precision = "tf32"
    try:
        assert tf32_allowed()
        whole_float32()
        assert not tf32_allowed() and torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee" and not torch.backends.cudnn.allow_tf32
    finally:
        place.fp32_precision = before
        whole_float32()


@pytest.mark.needs("accelerate")
def test_a_device_map_decides_in_the_place_of_the_device():
    torch.backends.cudnn.allow_tf32 = True
    adapter = hf.load("tiny", "cpu", "auto", hf.LoadOptions(device_map="auto"))
    assert adapter.device.type == "cuda" and adapter.dtype == torch.bfloat16 and not tf32_allowed()
    assert hf.load("tiny", "cuda", "auto", hf.LoadOptions(device_map="cpu")).dtype == torch.float32
    assert [placed_on("cuda", place) for place in (None, "cpu", "cuda:1", "balanced")] == ["cuda", "cpu", "cuda:1", "cuda"]


@pytest.mark.needs("accelerate")
def test_a_device_map_reaches_over_all_devices():
    adapter = hf.load("tiny", "cuda", "float32", hf.LoadOptions(device_map="auto"))
    assert adapter.devices == [torch.device("cuda:0"), torch.device("cuda:1")]
    assert set(adapter.layer_devices) <= set(adapter.devices) and adapter.companion is not None
    assert adapter.companion.visual_projection.weight.device == adapter.device
