"""Loading folders: any supported family by one call, and one line for what cannot be loaded."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import transformers

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.errors import RequestError
from harness.models import catalogue, hf
from harness.models.adapter import Adapter
from harness.models.catalogue import GROUP
from harness.models.configuration import check_configuration
from harness.models.families import FAMILIES
from harness.models.load_options import LoadOptions
from harness.models.random_families.configurations import smol
from harness.models.random_families.words import QUESTIONS
from harness.models.relatives import relation
from tests.hub.conftest import NOBODY, point_to
from tests.models.tiny_families import FAMILIES as FAMILIES_OF_TESTS
from tests.models.tiny_families import Family, ask, build, picture
from tests.needs import installed, need

TORCHVISION = installed("torchvision")
WITH_VIDEO = ("llava-onevision", "internvl", "qwen2-vl", "qwen2.5-vl", "qwen3-vl", "qwen3-vl-moe", "smolvlm")
LEVEL = 1 / 255 / 0.26  # of eight bits a colour, in normalised pixels, at the least


@pytest.fixture
def folder(tmp_path):
    """A folder with a configuration alone."""

    def make(**facts):
        (tmp_path / "config.json").write_text(json.dumps(facts))
        return str(tmp_path)

    return make


def one_line(call, *fragments: str) -> None:
    with pytest.raises(RequestError) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for fragment in fragments:
        assert fragment in message


def saved(family, path) -> None:
    """A family's folder as the hub has it; the video part that the tests' processors leave out is put in."""
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES as videos

    processor = copy.copy(family.adapter.processor)
    kind = type(processor).__mro__[1].__name__
    if hasattr(processor, "video_processor"):
        processor.video_processor = getattr(transformers, videos[family.adapter.config.model_type]["torchvision"])()
    family.adapter.model.save_pretrained(path)
    processor.save_pretrained(path)
    facts = json.loads((path / "processor_config.json").read_text())
    (path / "processor_config.json").write_text(json.dumps(facts | {"processor_class": kind}))


@pytest.mark.families
def test_a_family_loads_from_its_folder(family, alike, unequal, tmp_path):
    """Through AutoProcessor. Its image part is torchvision's where that is installed, and rounds other pixels than Pillow."""
    if family.name in WITH_VIDEO:
        need("torchvision")  # for the video part of its processor
    if family.name == "smolvlm":
        need("num2words")
    saved(family, tmp_path)
    loaded = hf.load(str(tmp_path), dtype="float32")
    assert type(loaded.processor).__name__ == type(family.adapter.processor).__mro__[1].__name__
    assert loaded.digest == family.adapter.digest
    assert loaded.shape.__dict__ == {**family.adapter.shape.__dict__, "name": str(tmp_path)}
    assert loaded.prompt("what is x ?") == family.adapter.prompt("what is x ?")
    out, again = (Engine(adapter, 3).run(EngineRequest(alike.batch)) for adapter in (family.adapter, loaded))
    assert out.tokens == again.tokens
    for asked in (alike, unequal):
        pixels, own = loaded.prompt_pixels(asked.images), family.adapter.prompt_pixels(asked.images)
        assert pixels.spans == own.spans
        for mine, theirs in zip(pixels.tensors, own.tensors, strict=True):
            assert mine.shape == theirs.shape
            assert (mine - theirs).abs().mean() < LEVEL if TORCHVISION else torch.equal(mine, theirs)


def test_a_folder_without_its_tokenizer_is_one_line_that_says_so(llava, tmp_path):
    saved(llava, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    one_line(lambda: hf.load(str(tmp_path)), "instantiate the backend tokenizer from one of: (1) a `tokenizers` library")


def test_an_unsupported_architecture_is_one_line_with_those_that_are(folder):
    one_line(lambda: hf.load(folder(model_type="blip-2")), "'blip-2' is not supported", *FAMILIES)
    one_line(lambda: hf.load(folder(model_type="qwen2_5_v")), "closest is qwen2_5_vl")
    one_line(lambda: hf.load(folder(architectures=["Nothing"])), "model_type")


NEAR = {
    "internvl_chat": ("internvl", "converted checkpoints end in -hf or -HF"),
    "llava_llama": ("llava", "converted checkpoints are named llava-hf/...-hf"),
    "llava_qwen": ("llava_onevision", "converted checkpoints are named llava-hf/...-hf"),
    "llava_phi": ("llava", "llava-hf"),
    "llava_next_video": ("llava_next", ""),
    "minicpmv": ("llava_onevision", "code of its own, which is never run"),
    "mllama": ("llava_next", "cross-attention"),
    "qwen2_5_omni": ("qwen2_5_vl", ""),
    "qwen3_5": ("qwen3_vl", "linear attention"),
    "chameleon": ("llava", "words of its vocabulary"),
    "idefics2": ("idefics3", ""),
    "kosmos-2.5": ("llava", ""),
    "blip-2": ("llava", ""),
    "gemma3n": ("gemma3", ""),
    "gemma4": ("gemma3", ""),
    "aya_vision": ("internvl", ""),
    "cohere2_vision": ("internvl", ""),
    "ovis2": ("internvl", ""),
    "Qwen2-VL": ("qwen2_vl", ""),
    "llama": ("llava", "a language model, which takes no images"),
    "qwen2_5_vl_text": ("qwen2_5_vl", "a language model, which takes no images"),
    "siglip": ("llava", "no language model"),
}


@pytest.mark.parametrize("kind", NEAR)
def test_who_is_refused_is_told_which_families_are_near(kind, folder):
    family, remark = NEAR[kind]
    made = folder(model_type=kind)
    one_line(lambda: hf.load(made), f"architecture {kind!r} is not supported; closest is ", remark)
    near = relation(kind, FAMILIES).removeprefix("; closest is ").partition(":")[0].split(" or ")
    assert family in near
    assert set(near) <= set(FAMILIES)


def test_architectures_of_transformers_are_near_supported_families_alone():
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as everybody

    told = [relation(kind, FAMILIES) for kind in everybody if kind not in FAMILIES]
    assert sum(bool(words) for words in told) > 0.8 * len(told)
    assert {spec.model_class for spec in FAMILIES.values()} <= set(everybody.values())


def test_code_of_a_repository_is_never_run(folder, tmp_path):
    (tmp_path / "modeling_own.py").write_text("raise SystemExit('ran')")
    own = {"auto_map": {"AutoConfig": "modeling_own.Config", "AutoModel": "modeling_own.Model"}}
    one_line(lambda: hf.load(folder(model_type="internvl_chat", **own)), "'internvl_chat' is not supported")


def test_weights_come_from_safetensors_alone(llava, tmp_path):
    llava.adapter.config.save_pretrained(tmp_path)
    torch.save(llava.adapter.model.state_dict(), tmp_path / "pytorch_model.bin")
    one_line(lambda: hf.load(str(tmp_path)), "cannot be loaded", "safetensors")


def test_what_is_missing_is_said_with_the_command_that_brings_it(monkeypatch, folder):
    monkeypatch.setattr(hf, "find_spec", lambda package: None)
    made = folder(model_type="smolvlm")
    one_line(lambda: hf.load(made), "needs torchvision, num2words: pip install torchvision num2words")
    spread = LoadOptions(device_map="auto")
    one_line(lambda: hf.load("tiny", options=spread), "--device-map auto needs accelerate: pip install accelerate")
    one_line(lambda: hf.load("tiny", options=LoadOptions(quantize=4)), "pip install accelerate bitsandbytes")
    one_line(lambda: hf.load("tiny", options=LoadOptions(quantize=3)), "choose 4 or 8 bits")


def test_fewer_bits_are_for_the_llm_alone(family):
    """By transformers' own comparison of names: no linear map of tower, projector and head is replaced, all of the LLM's are."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    adapter, whole = family.adapter, hf.full_precision_modules(family.adapter.spec)
    linear = {name: module for name, module in adapter.model.named_modules() if type(module) is torch.nn.Linear}
    language = {id(module) for module in adapter.decoder.modules()}
    replaced = {name for name in linear if should_convert_module(name, whole)}
    assert replaced == {name for name, module in linear.items() if id(module) in language}
    assert len(replaced) >= 4 * adapter.shape.layers
    assert len(linear) > len(replaced) + 1


@pytest.mark.parametrize("family", ["qwen3-vl-moe"], indirect=True)
def test_experts_cannot_have_fewer_bits(family, monkeypatch, tmp_path):
    monkeypatch.setattr(hf, "_need", lambda what, *packages: None)
    family.adapter.config.save_pretrained(tmp_path)
    few = LoadOptions(quantize=4)
    one_line(lambda: hf.load(str(tmp_path), options=few), "--quantize 4: bitsandbytes leaves experts as they are", "most weights")


def test_a_hub_id_out_of_reach_is_one_line_with_its_revision(monkeypatch):
    point_to(NOBODY, monkeypatch)
    command = "hf download nobody/nothing --revision v1"
    one_line(lambda: hf.load("nobody/nothing", options=LoadOptions(revision="v1")), "not in the local cache", command)
    one_line(lambda: hf.load("tiny", options=LoadOptions(revision="v1")), "has no revisions")


@pytest.mark.parametrize("kind", ["Idefics3Config", "SmolVLMConfig"])
@pytest.mark.parametrize("tower", ["idefics3", "idefics3_vision", "smolvlm_vision", "siglip_vision_model", None])
def test_a_tower_may_have_any_of_the_names_that_published_checkpoints_give_it(kind, tower, tmp_path):
    """Idefics3 and SmolVLM have one tower alone; transformers builds it whatever the checkpoint calls it."""
    (tmp_path / "config.json").write_text(_renamed(smol(kind).to_json_string(), tower))
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    if tower is not None:
        assert config.vision_config.model_type == tower
    name = "idefics3" if kind == "Idefics3Config" else "smolvlm"
    family = Family(name, Adapter(build(config), FAMILIES_OF_TESTS[name][1](), name))
    image = picture(60, 30, 2)
    out = Engine(family.adapter, 3).run(EngineRequest(ask(family, [[image]], 1).batch))
    torch.testing.assert_close(out.first_logits[0], family.forward(QUESTIONS[0], [image]), atol=2e-4, rtol=1e-4)
    assert out.tokens[0] == family.generated(QUESTIONS[0], [image], 3)


def _renamed(text: str, tower: str | None) -> str:
    """A configuration whose tower has another name, or none."""
    facts = json.loads(text)
    facts["vision_config"].pop("model_type")
    facts["vision_config"] |= {} if tower is None else {"model_type": tower}
    return json.dumps(facts)


def test_what_a_supported_architecture_allows_and_is_not_known_is_refused(llava):
    vision = copy.deepcopy(llava.adapter.config)
    for name, value, fragment in (
        ("vision_feature_layer", [-2, 7], "the tower has no layer 7; its 3 blocks have layers -4 to 3"),
        ("vision_feature_layer", -5, "the tower has no layer -5"),
        ("vision_feature_layer", [0, -4], "no block is run"),
        ("vision_feature_layer", [], "names no tower layer"),
        ("vision_feature_select_strategy", "full", "does not fit"),
    ):
        other = copy.deepcopy(vision)
        setattr(other, name, value)
        one_line(lambda: check_configuration("m", other), fragment)
    vision.vision_config.model_type = "dinov2"
    one_line(lambda: check_configuration("m", vision), "'dinov2'")
    vision.vision_config.model_type = "pixtral"  # whose patches begin with no CLS
    one_line(lambda: check_configuration("m", vision), "'default' does not fit a pixtral")
    pixtral = {"vision_config": {"model_type": "pixtral"}, "vision_feature_select_strategy": "full"}
    for several in (transformers.InternVLConfig(), transformers.Mistral3Config(), transformers.LlavaConfig(**pixtral)):
        several.vision_feature_layer = [-2, -1]
        one_line(lambda: check_configuration("m", several), "several tower layers are read by llava, llava_next")
    without = transformers.VipLlavaConfig(vision_config={"model_type": "siglip_vision_model", "num_hidden_layers": 12})
    one_line(lambda: check_configuration("m", without), "'default' does not fit a siglip_vision_model")


def test_models_of_other_packages(monkeypatch):
    """An entry point gives an adapter; whatever else it does is said in one line."""
    from importlib.metadata import EntryPoint

    from harness.cli.listing import rows

    asked, adapter = [], hf.load("tiny")
    made = {
        "mine": lambda device, dtype: asked.append((device, dtype)) or adapter,
        "wrong": lambda device, dtype: 3,
        "broken": lambda device, dtype: 1 / 0,
    }
    points = {name: EntryPoint(name, f"their_package:{name}", GROUP) for name in made}
    for module in (hf, catalogue):
        monkeypatch.setattr(module, "plugged", lambda: points)
    monkeypatch.setattr(EntryPoint, "load", lambda point: made[point.name])
    assert hf.load("mine", "cpu", "bfloat16") is adapter
    assert asked == [("cpu", torch.bfloat16)]
    assert {"name": "mine", "kind": "of another package: their_package:mine"} in rows("models")
    one_line(lambda: hf.load("wrong"), "their_package:wrong gives a int; its function must give an Adapter")
    one_line(lambda: hf.load("broken"), "cannot be made (ZeroDivisionError")
    one_line(lambda: hf.load("mine", options=LoadOptions(revision="v2")), "--revision", "a device and a dtype alone")
    one_line(lambda: hf.load("nothing"), "embedded: tiny, mine, wrong, broken")


def test_what_a_request_says_of_a_model_reaches_its_loading(monkeypatch, tmp_path):
    from harness.run.config import CompareConfig, read_file
    from harness.run.manifest import command, identity, plain
    from harness.run.prepare import prepare

    file = tmp_path / "options.toml"
    file.write_text('revision = "v2"\ndevice-map = "auto"\nquantize = 4\n')
    config = CompareConfig(model="a/b", **read_file(file)).checked()
    assert command(config) == "python -m harness compare --model a/b --revision v2 --device-map auto --quantize 4"
    older = {name: value for name, value in plain(CompareConfig()).items() if name not in ("revision", "device_map", "quantize")}
    assert identity(older) == identity(plain(CompareConfig()))

    def load(name, device, dtype, options):
        raise RequestError(str(options.given))

    monkeypatch.setattr(hf, "load", load)
    one_line(lambda: prepare(config), str({"--revision": "v2", "--device-map": "auto", "--quantize": 4}))
    one_line(lambda: CompareConfig(quantize=3).checked(), "--quantize 3: choose 4 or 8 bits")
    file.write_text("revision = 2\n")
    one_line(lambda: read_file(file), "revision = 2 must be a text")
