"""Loading: the embedded model, a local folder and a hub id go one way; other LLaVA shapes work too."""

import shutil

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.errors import RequestError
from harness.models import hf
from harness.models.tiny import build
from harness.run.batch_run import BatchRun
from harness.tasks.registry import create
from tests.hub.conftest import NOBODY, point_to


def test_a_local_folder_loads_like_the_embedded_model(adapter, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(hf.TINY, folder)
    other = hf.load(str(folder))
    assert other.digest == adapter.digest and other.name == str(folder)
    assert other.prompt("is there a red circle ?") == adapter.prompt("is there a red circle ?")


def test_the_prompt_is_split_around_the_image(adapter):
    before, after = adapter.prompt("what color is the dot ?")
    words = adapter.tokenizer.convert_ids_to_tokens
    assert words(before) == ["<s>", "USER:"]
    assert words(after) == ["what", "color", "is", "the", "dot", "?", "ASSISTANT:"]
    blind_before, blind_after = adapter.prompt("what color is the dot ?", image=False)
    assert (blind_before, blind_after) == (before, after)


def test_exported_weights_come_back(tmp_path):
    model, companion = build.new_model(3)
    build.save(model, companion, tmp_path / "m")
    again, other = build.new_model(4)
    build.load_into(again, other, tmp_path / "m")
    for mine, theirs in ((again, model), (other.text, companion.text)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name].to(torch.bfloat16).float()), name


def test_weights_fit_the_package():
    assert (hf.TINY / "model.safetensors").stat().st_size <= 10_000_000
    total = sum(p.stat().st_size for p in hf.TINY.rglob("*") if p.is_file())
    assert total <= 10_000_000


@pytest.mark.parametrize(("kv_heads", "read"), [(2, -2), (1, -1), (4, 2)])
def test_random_llavas_of_other_shapes_equal_generate(tmp_path, kv_heads, read):
    """Grouped keys, other read layers: saved, loaded from the folder, compared with ``generate``."""
    from transformers import LlavaForConditionalGeneration

    config = build.config()
    config.text_config.num_key_value_heads, config.text_config.num_hidden_layers = kv_heads, 4
    config.text_config.initializer_range = 0.3
    config.vision_feature_layer = read
    torch.manual_seed(kv_heads)
    model = LlavaForConditionalGeneration(config)
    build.save(model, build.CompanionText(), tmp_path / "m")
    loaded = hf.load(str(tmp_path / "m"))
    assert loaded.shape.kv_heads == kv_heads
    assert loaded.shape.vision_layers == {-2: 5, -1: 6, 2: 2}[read]
    task = create("shapes")
    work = BatchRun(Engine(loaded, 4), task, list(task.samples(1, seed=1)), 0)
    out = work.engine.run(EngineRequest(work.batch))
    for row, question in enumerate(work.samples[0].questions[:4]):
        text = f"<s> USER: <image> {question.text} ASSISTANT:"
        inputs = loaded.processor(images=work.samples[0].image, text=text, return_tensors="pt", add_special_tokens=False)
        ids = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
        assert out.tokens[row] == (ids[: ids.index(2)] if 2 in ids else ids)


def test_what_cannot_be_loaded_is_said_in_one_line(monkeypatch, tmp_path):
    point_to(NOBODY, monkeypatch)
    with pytest.raises(RequestError, match="not in the local cache") as caught:
        hf.load("nobody/nothing")
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(RequestError, match="cannot be loaded"):
        hf.load(str(tmp_path))


def test_public_names():
    import prunescope

    assert all(getattr(prunescope, name) is not None for name in prunescope.__all__)
    with pytest.raises(AttributeError):
        _ = prunescope.nothing
