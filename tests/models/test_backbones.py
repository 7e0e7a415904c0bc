"""Text backbones: each that is supported equals `generate` in every family that takes it, all others are refused by name."""

from __future__ import annotations

import copy
import json
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from harness.bridges.pruned import prune
from harness.errors import RequestError
from harness.models import hf
from harness.models.adapter import Adapter
from harness.models.backbones import BACKBONES
from harness.models.configuration import read_shape, understood
from harness.models.random_families.configurations import TEXT
from tests.models import test_contracts as contracts
from tests.models.test_loading import one_line
from tests.models.tiny_families import FAMILIES, SECOND_STAGE, Family, ask, build, picture

GRANITE = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.6, "logits_scaling": 4.0}
LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
MOE = {"head_dim": 16, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "mlp_only_layers": [1]}
WINDOW = {"sliding_window": 9, "use_sliding_window": True, "layer_types": LAYERS}
SETTINGS = {
    "llama": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}),
    "llama-yarn": ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}),
    "llama-llama3": (
        "llama",
        {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 16, "rope_theta": 1e4}},
    ),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}}),
    "llama-dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": 9}),
    "ministral3": (
        "ministral3",
        {"head_dim": 16, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "beta_fast": 32.0,
                                             "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                                             "original_max_position_embeddings": 8, "llama_4_scaling_beta": 0.7}},
    ),
    "qwen2": ("qwen2", {}),
    "qwen2-window": ("qwen2", WINDOW),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3-window": ("qwen3", WINDOW),
    "qwen3_moe": ("qwen3_moe", MOE),
    "internlm3": ("internlm3", {}),
    "granite": ("granite", GRANITE),
    "gemma3_text": ("gemma3_text", {"head_dim": 12, "query_pre_attn_scalar": 5, "sliding_window": 9, "layer_types": LAYERS}),
}  # fmt: skip
"""A backbone, and what its configuration may ask for, far from what changes nothing."""
OUTER = ("llava", "vipllava", "llava-next", "llava-onevision", "internvl", "smolvlm", "idefics3", "mistral3")
"""A family for every class of transformers that takes any text model."""
REFUSED = (
    "granitemoe", "nanochat", "phi", "phi3", "gpt_neox", "opt", "falcon", "lfm2", "gpt_oss", "bloom", "mpt", "gpt2", "gemma2",
    "olmo2", "cohere", "qwen2_moe", "mixtral", "mamba", "stablelm",
)  # fmt: skip


def configured(outer: str, kind: str, **facts):
    """The configuration of a family with another text backbone."""
    config = FAMILIES[outer][0]()
    config.text_config = CONFIG_MAPPING[kind](**(TEXT | facts))
    return config


@cache
def made(outer: str, setting: str) -> Family:
    kind, facts = SETTINGS[setting]
    model = build(configured(outer, kind, **copy.deepcopy(facts)))
    return Family(outer, Adapter(model, FAMILIES[outer][1](), outer))


def prompts(family: Family):
    return ask(family, [[picture(40, 40, 1)], [picture(40, 40, 2)]])


DEFAULT = [(outer, setting) for outer in OUTER for setting in SETTINGS if outer == "llava" or setting == "granite"]
DEFAULT += [("internvl", "qwen3_moe"), ("mistral3", "ministral3")]  # the larger InternVL3.5, Ministral 3
REST = [(outer, setting) for outer in OUTER for setting in SETTINGS if (outer, setting) not in DEFAULT]


def equals_generate(outer: str, setting: str) -> None:
    family = made(outer, setting)
    asked = prompts(family)
    contracts.same_as_generate(family, asked, contracts.run(family, asked))


def marked(pairs: list[tuple[str, str]]) -> list:
    """Pairs for ``parametrize``: families of CI's second stage are run there."""
    later = [pytest.mark.families, pytest.mark.needs("torchvision")]
    return [pytest.param(*pair, marks=later if pair[0] in SECOND_STAGE else []) for pair in pairs]


@pytest.mark.parametrize(("outer", "setting"), marked(DEFAULT))
def test_a_supported_backbone_equals_generate(outer, setting):
    equals_generate(outer, setting)


@pytest.mark.slow
@pytest.mark.parametrize(("outer", "setting"), marked(REST))
def test_a_supported_backbone_equals_generate_in_every_family(outer, setting):
    equals_generate(outer, setting)


def test_the_tests_see_every_backbone_that_is_supported():
    own = {made.get_text_config().model_type for made in (FAMILIES[name][0]() for name in FAMILIES)}
    assert {kind for kind, _ in SETTINGS.values()} == {name for name, spec in BACKBONES.items() if not spec.family}
    assert {name for name, spec in BACKBONES.items() if spec.family} <= own
    assert {FAMILIES[outer][0]().model_type for outer in OUTER} | {s.family for s in BACKBONES.values() if s.family} | {
        "gemma3"
    } == {config().model_type for config, _ in FAMILIES.values()}


@pytest.mark.parametrize("setting", [s for s in SETTINGS if "-" not in s])
def test_signals_and_pruning_on_a_backbone_are_those_of_its_own_forward(setting):
    family = made("llava", setting)
    asked = prompts(family)
    contracts.test_rows_ahead_are_those_that_the_layer_then_computes(family, asked)
    contracts.test_rope_response_is_what_vectors_of_ones_would_score(family, asked)
    steps = contracts.STEPS["both"]
    out = contracts.run(family, asked, steps)
    kept = {}
    for i, step in enumerate(steps):
        held = contracts.run(family, asked, steps[: i + 1]).kept[0]
        kept[step.site.layer] = held[held >= 0]
    reference = contracts.Reference(family, asked.questions[0], asked.images[0], asked.batch.pixels.spans[0], kept, "original")
    assert out.tokens[0] == reference.answer()


@pytest.mark.parametrize("setting", ["granite", "gemma3_text", "qwen3"])
def test_the_scale_of_the_final_norm_is_what_the_norm_multiplies_by(setting):
    adapter = made("llava", setting).adapter
    ones = torch.ones(1, adapter.shape.width)
    with torch.inference_mode():
        normed = adapter.decoder.norm(ones)[0]
    torch.testing.assert_close(normed, adapter.norm_scale, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", REFUSED)
def test_another_backbone_is_refused_by_name(kind):
    """By its configuration alone, whatever its attributes are called; so nothing needs to be built."""
    from harness.models.backbones import backbone_of

    known = CONFIG_MAPPING[kind]()
    for outer in ("llava", "idefics3"):
        config = FAMILIES[outer][0]()
        config.text_config = known
        one_line(lambda: backbone_of("m", config), f"text backbone {kind!r} of {outer} is not supported", "llama", "granite")


@pytest.mark.parametrize("kind", ["nanochat", "granitemoe", "phi", "opt"])
def test_prune_refuses_a_backbone_by_name(kind):
    """Its configuration may lack what is read of others: no AttributeError, and none that is lost on the way."""
    facts = {"granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2}, "opt": {"word_embed_proj_dim": 48}}
    model = transformers.AutoModelForImageTextToText.from_config(configured("llava", kind, **facts.get(kind, {})))
    one_line(lambda: prune(model, "divprune", keep=4), f"text backbone {kind!r} of llava is not supported")


def test_a_folder_is_refused_by_its_configuration_before_its_weights_are_loaded(tmp_path):
    """Weights there are none: what is wrong with the configuration is said first."""
    (tmp_path / "model.safetensors").touch()
    for change, said in (
        ({"text_config": {"model_type": "phi"}}, "text backbone 'phi' of llava is not supported, since"),
        ({"vision_feature_layer": -9}, "vision_feature_layer -9: the tower has no layer -9"),
        ({"vision_feature_layer": 9}, "vision_feature_layer 9: the tower has no layer 9"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(FAMILIES["llava"][0]().to_dict() | change))
        one_line(lambda: hf.load(str(tmp_path)), said)


def test_backbones_of_one_family_alone_are_named_there():
    from harness.models.backbones import backbone_of

    config = FAMILIES["qwen2.5-vl"][0]()
    config.text_config.model_type = "granite"
    one_line(lambda: backbone_of("m", config), "'granite' of qwen2_5_vl is not supported; supported are qwen2_5_vl_text")
    config = configured("llava", "granite")
    config.text_config.model_type = "granit"
    one_line(lambda: backbone_of("m", config), "closest is granite")


@pytest.mark.parametrize(
    ("kind", "facts", "said"),
    [
        ("gemma3_text", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping = 30.0"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_r"),
        ("llama", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [1.0] * 6,
                                       "short_factor": [1.0] * 6}}, "'longrope'"),
        ("llama", {"is_causal": False}, "is_causal"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 4}, "'chunked_attention'"),
        ("llama", {"add_cross_attention": True}, "add_cross_attention"),
    ],
)  # fmt: skip
def test_what_a_supported_backbone_may_ask_for_and_is_not_done_is_refused(kind, facts, said):
    from harness.models.backbones import backbone_of

    config = configured("llava", kind, **facts)
    one_line(lambda: backbone_of("m", config), f"text backbone {kind!r}", said)


def test_what_a_model_lacks_is_named_with_its_architecture(llava):
    """Whatever part of a model or of its configuration it is."""
    model = copy.deepcopy(llava.adapter.model)
    for part in ("layers", "norm", "rotary_emb"):
        held = getattr(model.model.language_model, part)
        delattr(model.model.language_model, part)
        for run in (lambda: Adapter(model, llava.adapter.processor, "m"), lambda: prune(model, "divprune", keep=4)):
            with pytest.raises(RequestError, match=f"llava around llama cannot be run: its LlamaModel has no '{part}'") as met:
                run()
            assert isinstance(met.value.__cause__, AttributeError)
        setattr(model.model.language_model, part, held)
    parts = SimpleNamespace(model_type="llama")
    config = SimpleNamespace(model_type="llava", get_text_config=lambda: parts, vision_config=model.config.vision_config)
    with pytest.raises(RequestError, match="its SimpleNamespace has no 'num_hidden_layers'"), understood("m", config):
        read_shape(config)


def test_an_attribute_error_in_a_property_of_a_pruned_model_keeps_its_cause(llava, monkeypatch):
    import harness.bridges.pruned as module

    model = prune(llava.adapter.model, "divprune", keep=4, processor=llava.adapter.processor)

    def broken(*parts):
        raise AttributeError("'Tower' object has no attribute 'blocks'")

    monkeypatch.setattr(module, "Adapter", broken)
    model._adapter = None
    with pytest.raises(AttributeError, match="'Tower' object has no attribute 'blocks'"):
        model.adapter  # noqa: B018
    with pytest.raises(AttributeError, match="no_such"):
        model.no_such  # noqa: B018
