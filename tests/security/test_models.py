"""Models: no pickle is loaded and no code of a repository runs."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from harness.models import hf
from tests.security.conftest import Canary

EVIL = """
open("ran", "w")
from transformers import LlavaConfig as EvilConfig, LlavaForConditionalGeneration as EvilModel, AutoProcessor as EvilProcessor
"""


@pytest.fixture
def model(quiet_folder) -> Path:
    """A copy of the embedded model."""
    shutil.copytree(hf.TINY, quiet_folder / "model")
    return quiet_folder / "model"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
@pytest.mark.parametrize(
    "write", [lambda path: path.write_bytes(pickle.dumps(Canary())), lambda path: torch.save(Canary(), path)]
)
def test_pickled_weights_are_refused_and_not_opened(model, name, write, refused):
    (model / "model.safetensors").unlink()
    write(model / name)
    assert "no .safetensors file" in refused(hf.load, "model")


def test_pickled_weights_of_a_companion_are_refused(model, refused):
    (model / "companion" / "model.safetensors").unlink()
    (model / "companion" / "pytorch_model.bin").write_bytes(pickle.dumps(Canary()))
    assert "model.safetensors" in refused(hf.load, "model")


def test_an_index_that_leads_to_pickles_is_refused(model, refused):
    (model / "model.safetensors").rename(model / "other.safetensors")
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Canary()))
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model.bin"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names 'pytorch_model.bin'" in refused(hf.load, "model")


def test_an_index_that_leaves_the_folder_reads_nothing_there(model, refused):
    (model / "model.safetensors").rename(model / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../../../../etc/passwd"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "passwd" in refused(hf.load, "model")


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json", "generation_config.json"])
def test_code_beside_a_supported_model_is_left_alone(model, file):
    (model / "evil.py").write_text(EVIL)
    facts = json.loads((model / file).read_text())
    facts["auto_map"] = {
        "AutoConfig": "evil.EvilConfig", "AutoModelForImageTextToText": "evil.EvilModel", "AutoProcessor": "evil.EvilProcessor",
        "AutoTokenizer": ["evil.EvilProcessor", "evil.EvilProcessor"], "AutoImageProcessor": "evil.EvilProcessor",
    }  # fmt: skip
    (model / file).write_text(json.dumps(facts))
    assert hf.load("model").shape.layers == 12


def test_a_model_that_is_code_alone_is_refused(model, refused):
    (model / "evil.py").write_text(EVIL)
    facts = json.loads((model / "config.json").read_text())
    facts |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}}
    (model / "config.json").write_text(json.dumps(facts))
    assert "'evil' is not supported" in refused(hf.load, "model")


def test_a_chat_template_runs_in_a_sandbox(model):
    """A template cannot reach Python: it fails, or is not used."""
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('touch ran') }}"
    (model / "chat_template.jinja").write_text(template)
    adapter = hf.load("model")
    with pytest.raises(Exception, match=r"unsafe|undefined|access"):
        adapter.processor.apply_chat_template([{"role": "user", "content": "x"}])
