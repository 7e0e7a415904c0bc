"""A model is whole: weights that are missing, left over or of another shape are refused, with how many and the first names."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from harness.bridges.pruned import prune
from harness.errors import RequestError
from harness.models import hf
from harness.models.weights import check_loaded, load_whole
from tests.models.test_loading import one_line, saved

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def stored(llava, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    saved(llava, folder)
    return folder


@pytest.fixture
def folder(stored, tmp_path):
    """A copy of a model's folder, changed: its weights, its configuration, and in how many files they lie."""

    def make(change=lambda weights: weights, shards: int = 1, **text):
        shutil.copytree(stored, tmp_path / "m", dirs_exist_ok=True)
        made, weights = tmp_path / "m", change(load_file(stored / SINGLE))
        if text:
            config = json.loads((made / "config.json").read_text())
            config["text_config"] |= text
            (made / "config.json").write_text(json.dumps(config))
        (made / SINGLE).unlink()
        files = [SINGLE] if shards == 1 else [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
        places = {key: files[i % shards] for i, key in enumerate(weights)}
        for file in files:
            save_file({key: weights[key] for key, own in places.items() if own == file}, made / file, {"format": "pt"})
        if shards > 1:
            (made / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
        return made

    return make


def without(*parts: str):
    return lambda weights: {key: weight for key, weight in weights.items() if not any(part in key for part in parts)}


def original_names(weights):
    """Those of LLaVA's own repository."""
    names = (
        ("language_model.model.", "model."), ("language_model.lm_head", "lm_head"),
        ("multi_modal_projector.linear_1", "model.mm_projector.0"), ("multi_modal_projector.linear_2", "model.mm_projector.2"),
        ("vision_tower.", "model.vision_tower.vision_tower."),
    )  # fmt: skip
    renamed = {}
    for key, weight in weights.items():
        old, new = next(pair for pair in names if key.startswith(pair[0]))
        renamed[new + key.removeprefix(old)] = weight
    return renamed


def with_nan(weights):
    weights["multi_modal_projector.linear_1.bias"][3] = torch.nan
    return weights


def cut_short(weights):
    return weights | {"multi_modal_projector.linear_1.bias": weights["multi_modal_projector.linear_1.bias"][:-1].clone()}


WRONG = {
    "no projector": (without("projector"), {}, "4 weights are missing", "multi_modal_projector.linear_1.bias"),
    "no last decoder layer": (without("layers.3."), {}, "9 weights are missing", "language_model.layers.3.", "and 6 more"),
    "no head": (without("lm_head"), {}, "1 weight is missing (lm_head.weight)"),
    "no embeddings": (without("embed_tokens"), {}, "1 weight is missing", "embed_tokens.weight"),
    "a tower layer": (without("encoder.layers.2."), {}, "16 weights are missing", "vision_tower"),
    "other names": (original_names, {}, "97 weights are missing", "97 weights are not of this", "must be converted"),
    "more layers than asked for": (dict, {"num_hidden_layers": 3, "layer_types": None}, "9 weights are not of this", "layers.3."),
    "another shape": (cut_short, {}, "1 weight is of another shape", "linear_1.bias: 47, not 48"),
    "not a number": (with_nan, {}, "1 weight is NaN or infinite", "linear_1.bias"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_checkpoint_that_is_not_whole_is_refused(folder, case):
    """By `load`; and by `prune`, which sees a model that transformers has loaded without an error."""
    change, text, *said = WRONG[case]
    made = folder(change, 1 + 2 * (list(WRONG).index(case) % 2), **text)  # in one file, or in three
    one_line(lambda: hf.load(str(made), dtype="float32"), *said)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(made, ignore_mismatched_sizes=True)
    one_line(lambda: prune(model, "divprune", keep=4), *said)
    one_line(lambda: prune(model.to(torch.bfloat16), "divprune", keep=4), *said)


def test_what_an_index_and_its_shards_do_not_agree_on_is_refused(folder):
    made = folder(shards=3)
    index = json.loads((made / INDEX).read_text())
    names = index["weight_map"]
    (made / INDEX).write_text(json.dumps(index | {"weight_map": dict(list(names.items())[::2])}))
    one_line(lambda: hf.load(str(made)), "does not name 49 weights of its shards", "embed_tokens.weight")
    model = transformers.LlavaForConditionalGeneration.from_pretrained(made)
    one_line(lambda: prune(model, "divprune", keep=4), "does not name 49 weights of its shards", "embed_tokens.weight")
    (made / INDEX).write_text(json.dumps(index | {"weight_map": {k: v for k, v in names.items() if "00002" not in v}}))
    one_line(lambda: hf.load(str(made)), "weights are missing")
    for empty in ({"weight_map": {}}, {}, []):
        (made / INDEX).write_text(json.dumps(empty))
        one_line(lambda: hf.load(str(made)), f"is not whole: {INDEX} has no weight_map")
    (made / INDEX).write_text(json.dumps(index))
    assert hf.load(str(made)).shape.layers == 4
    (made / "model-00002-of-00003.safetensors").unlink()
    one_line(lambda: hf.load(str(made)), "lacks model-00002-of-00003.safetensors, with 33 weights")


def test_a_configuration_of_another_size_takes_no_memory(folder):
    """Without its text part it is that of seven billion weights, which transformers would make up."""
    made = folder()
    config = json.loads((made / "config.json").read_text())
    del config["text_config"]
    (made / "config.json").write_text(json.dumps(config))
    one_line(lambda: hf.load(str(made)), "is not whole: its configuration asks for 6,", "its files hold")


def test_a_whole_model_of_every_family_is_taken(family, tmp_path):
    """As `save_pretrained` writes it, which for some families are names of an older layout."""
    model = family.adapter.model
    model.save_pretrained(tmp_path)
    loaded = load_whole(type(model), "m", tmp_path)
    check_loaded("m", loaded)
    for key, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], weight), key


def test_weights_that_nothing_reads_may_be_there_or_not(stored, tmp_path):
    """Published SigLIP towers come with and without the pooling head; old checkpoints hold tables that are computed now."""
    from tests.models.tiny_families import FAMILIES, build

    config = FAMILIES["llava-siglip"][0]()
    config.vision_config.vision_use_head = True
    model = build(config)
    model.save_pretrained(tmp_path / "with")
    config.vision_config.vision_use_head = False
    config.save_pretrained(tmp_path / "with")  # the file has more than is asked for
    load_whole(type(model), "m", tmp_path / "with")
    weights = load_file(tmp_path / "with" / SINGLE)
    assert any("vision_model.head." in key or "vision_tower.head." in key for key in weights)
    config.vision_config.vision_use_head = True
    (tmp_path / "without").mkdir()
    config.save_pretrained(tmp_path / "without")
    old = {"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    old["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    kept = {key: weight for key, weight in weights.items() if ".head." not in key}
    save_file(kept | old, tmp_path / "without" / SINGLE, {"format": "pt"})
    loaded = load_whole(type(model), "m", tmp_path / "without")
    check_loaded("m", loaded)


def test_tied_embeddings_may_be_stored_once(tmp_path):
    from tests.models.tiny_families import FAMILIES, build

    config = FAMILIES["llava"][0]()
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    model = build(config)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / SINGLE)
    assert not any("lm_head" in key for key in weights)
    check_loaded("m", load_whole(type(model), "m", tmp_path))
    save_file(without("embed_tokens")(weights), tmp_path / SINGLE, {"format": "pt"})
    one_line(lambda: load_whole(type(model), "m", tmp_path), "embed_tokens.weight")


def test_what_was_done_to_a_loaded_model_since_is_no_fault(stored):
    """A resized vocabulary, further weights, a copy, and a model that came from no checkpoint at all."""
    load = lambda: transformers.LlavaForConditionalGeneration.from_pretrained(stored)
    grown = load()
    grown.resize_token_embeddings(130)
    check_loaded("m", grown)
    adapted = load()
    adapted.model.language_model.layers[0].self_attn.q_proj.register_parameter("lora_A", torch.nn.Parameter(torch.ones(2, 48)))
    check_loaded("m", adapted)
    config = load().config
    check_loaded("m", transformers.LlavaForConditionalGeneration(config))
    with torch.device("meta"):
        nowhere = transformers.LlavaForConditionalGeneration(config)
    with pytest.raises(RequestError, match="on no device"):
        check_loaded("m", nowhere)
