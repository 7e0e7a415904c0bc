"""The self-check of a model passes for every family, sees each thing that an engine may do wrong, and calls no rounding wrong."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import transformers
from PIL import Image

from harness.engine import self_check as module
from harness.engine.self_check import (
    GreedyTrace,
    as_published,
    cannot_be_checked,
    check_model,
    picture,
    routes_tokens,
    self_check,
    tolerance,
)
from harness.errors import RequestError
from harness.models import probes
from harness.models.adapter import Adapter
from harness.models.random_families.words import QUESTIONS, SIZE
from tests.broken_engines import BROKEN
from tests.models import tiny_families as families


def slow_but(*names: str) -> list:
    """All families for ``parametrize``, with few of them in the quick tests."""
    return [
        pytest.param(*p.values, marks=[*p.marks, *([] if p.values[0] in names else [pytest.mark.slow])]) for p in families.PARAMS
    ]


def in_precision(name: str, dtype: torch.dtype, seed: int = 0) -> Adapter:
    config, processor = families.FAMILIES[name]
    return Adapter(families.build(config(), seed).to(dtype), processor(), name)


def test_no_pruning_equals_generate(family):
    found = check_model(family.adapter)
    assert (found.outcome, found.prompts) == ("equal", 2) and found.logits < 1e-5, found.said
    assert f"{found.tokens} answer tokens are the same" in found.said


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("name", slow_but("qwen3-vl"))
def test_half_precision_raises_no_false_alarm(name, dtype):
    for seed in range(2):
        found = check_model(in_precision(name, dtype, seed))
        assert found.outcome == "equal", f"seed {seed}: {found.said}"


@pytest.mark.slow
@pytest.mark.parametrize("name", families.PARAMS)
def test_half_precision_raises_no_false_alarm_on_many_models(name):
    """Random models are far less sure of their answers than trained ones: near ties are common."""
    wrong = {
        seed: found.said
        for seed in range(30)
        if (found := check_model(in_precision(name, torch.bfloat16, seed))).outcome != "equal"
    }
    assert wrong == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("thing", BROKEN)
@pytest.mark.parametrize("name", slow_but("llava"))
def test_what_an_engine_does_wrong_is_seen(name, thing, dtype, monkeypatch):
    adapter = in_precision(name, dtype)
    BROKEN[thing](monkeypatch)
    found = check_model(adapter)
    unsure = routes_tokens(adapter.config) and dtype == torch.bfloat16
    assert found.outcome == ("doubtful" if unsure else "different"), found.said
    assert "may be rounding" in found.said and "%" in found.said and "\n" not in found.said


@pytest.mark.parametrize("thing", ["embeddings", *(pytest.param(n, marks=pytest.mark.slow) for n in ("a layer", "logits"))])
def test_what_the_models_own_code_does_beyond_the_engine_is_seen(thing):
    """As a text backbone with multipliers that the adapter does not know."""
    adapter = in_precision("llava", torch.float32)
    assert check_model(adapter).outcome == "equal"
    text = adapter.model.model.language_model
    if thing == "embeddings":
        more = lambda module, arguments, words: (arguments, words | {"inputs_embeds": words["inputs_embeds"] * 12})
        text.register_forward_pre_hook(more, with_kwargs=True)
    elif thing == "a layer":
        text.register_forward_hook(lambda module, arguments, out: type(out)({**out, "last_hidden_state": out[0] * 1.5 + 0.1}))
    else:
        adapter.model.register_forward_hook(lambda module, arguments, out: type(out)({**out, "logits": out.logits / 6}))
    assert check_model(adapter).outcome == "different"


def test_a_wrong_prompt_is_seen_and_its_length_named(llava, monkeypatch):
    right = Adapter.prompt
    monkeypatch.setattr(
        Adapter, "prompt", lambda self, *given: (lambda before, after: ([*before, 1, 1], after))(*right(self, *given))
    )
    said = check_model(llava.adapter).said
    assert "its processor makes" in said and "tokens of the prompt, the engine" in said
    monkeypatch.setattr(Adapter, "prompt", right)
    monkeypatch.setattr(
        Adapter, "pixels", lambda self, images: self.prompt_pixels([[i.transpose(Image.Transpose.ROTATE_180)] for i in images])
    )
    assert check_model(llava.adapter).outcome == "different"


def near_tie(gap: float) -> tuple[Adapter, int]:
    """A model whose second-best first token follows the best by a relative gap, and that token."""
    adapter = in_precision("llava", torch.float32)
    content = [{"type": "image", "image": picture()}, {"type": "text", "text": module.QUESTIONS[0]}]
    inputs = adapter.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        best = int(adapter.model(**inputs).logits[0, -1].argmax())
    other = (best + 1) % SIZE
    with torch.no_grad():
        adapter.model.lm_head.weight[other] = adapter.model.lm_head.weight[best] * (1 - gap)
    return adapter, other


@pytest.mark.parametrize(("gap", "outcome"), [(2e-5, "equal"), (9e-4, "different")])
def test_a_near_tie_of_the_reference_is_no_fault(gap, outcome, monkeypatch):
    adapter, other = near_tie(gap)
    assert check_model(adapter).outcome == "equal"
    right = Adapter.logits

    def nudged(self, hidden):
        logits = right(self, hidden)
        logits[..., other] *= 1 + 1.01 * gap
        return logits

    monkeypatch.setattr(Adapter, "logits", nudged)
    found = check_model(adapter)
    assert found.outcome == outcome and found.logits < 1e-3, found.said
    assert ("near tie" if outcome == "equal" else f"answer token 1 is {other} for") in found.said


def made(logits: list[float], tokens: list[int]) -> GreedyTrace:
    return GreedyTrace(tokens, torch.tensor([logits] * len(tokens)))


@pytest.mark.parametrize(
    ("dtype", "ours", "outcome"),
    [
        (torch.float32, ([8.0, 4.0, 0.0], [0]), "equal"),
        (torch.float32, ([8.007, 4.0, 0.0], [0]), "equal"),
        (torch.float32, ([8.009, 4.0, 0.0], [0]), "different"),
        (torch.float32, ([8.0, 4.0, 0.0], [1]), "different"),
        (torch.float32, ([math.nan, 4.0, 0.0], [0]), "different"),
        (torch.bfloat16, ([8.7, 4.0, 0.0], [0]), "equal"),
        (torch.bfloat16, ([8.9, 4.0, 0.0], [0]), "different"),
        (torch.bfloat16, ([8.0, 4.0, 0.0], [1]), "different"),
    ],
)
def test_limits_are_those_of_the_precision(llava, dtype, ours, outcome):
    """Of made-up answers: ten times the tolerance for logits, relative to the largest; the tolerance for the margin."""
    adapter = copy.copy(llava.adapter)
    adapter.dtype = dtype
    found = self_check(adapter, lambda: [made(*ours)], lambda: [made([8.0, 4.0, 0.0], [0])])
    assert found.outcome == outcome, found.said
    assert tolerance(dtype) == (1e-4 if dtype == torch.float32 else 1e-2)


def test_what_attention_functions_differ_by_is_rounding_in_half_precision(llava):
    """The reference once more with eager attention says how far two right computations are apart; up to a limit."""
    adapter = copy.copy(llava.adapter)
    names = []

    def reference(rounding: float):
        names.append(adapter.config._attn_implementation)
        return [made([8.0, 7.5 + (rounding if names[-1] == "eager" else 0), 0.0], [0])]

    def outcome(dtype, rounding):
        names.clear()
        adapter.dtype = dtype
        return self_check(adapter, lambda: [made([7.7, 7.8, 0.0], [1])], lambda: reference(rounding)).outcome

    assert outcome(torch.bfloat16, 0.3) == "equal" and names == ["sdpa", "eager"]
    assert outcome(torch.bfloat16, 0.1) == "different"
    assert outcome(torch.float32, 0.3) == "different" and names == ["sdpa"]


def test_experts_in_half_precision_only_warn(monkeypatch):
    for dtype, outcome in ((torch.bfloat16, "doubtful"), (torch.float32, "different")):
        with pytest.MonkeyPatch.context() as patch:
            adapter = in_precision("llava", dtype)
            adapter.config.text_config.num_local_experts = 8
            BROKEN["norm"](patch)
            found = check_model(adapter)
            assert found.outcome == outcome, found.said
            assert ("rounding may send tokens to other experts" in found.said) == (outcome == "doubtful")


def test_which_configurations_have_experts():
    experts = {"Qwen3VLMoeTextConfig", "MixtralConfig", "GraniteMoeConfig", "Qwen2MoeConfig", "DeepseekV3Config", "GptOssConfig"}
    for kind in (*experts, "LlamaConfig", "GraniteConfig", "Qwen3Config", "Gemma3TextConfig", "MistralConfig"):
        assert routes_tokens(getattr(transformers, kind)()) == (kind in experts), kind


def test_the_model_is_left_as_it_was(llava, monkeypatch):
    model = llava.adapter.model
    own, before = model.generation_config, llava.generated(QUESTIONS[0], [families.picture(32, 32, 1)])
    own.repetition_penalty = 1.5
    try:
        assert check_model(llava.adapter).outcome == "equal", "what generation_config asks for is no part of what is compared"
        for error in (RuntimeError("no kernel\nfor this"), KeyboardInterrupt):
            with monkeypatch.context() as patch:
                patch.setattr(type(model), "generate", lambda self, **words: (_ for _ in ()).throw(error))
                if error is KeyboardInterrupt:
                    with pytest.raises(KeyboardInterrupt):
                        check_model(llava.adapter)
                else:
                    found = check_model(llava.adapter)
                    assert (
                        found.outcome == "failed"
                        and "generate of transformers failed (RuntimeError: no kernel), so" in found.said
                    )
            assert model.generation_config is own and model.config._attn_implementation == probes.NAME
            assert model.model.vision_tower.config._attn_implementation == probes.NAME
    finally:
        own.repetition_penalty = None
    assert llava.generated(QUESTIONS[0], [families.picture(32, 32, 1)]) == before


def test_the_reference_does_not_go_through_our_attention(llava, monkeypatch):
    calls = []
    right = probes.probed_sdpa
    monkeypatch.setitem(
        transformers.AttentionInterface._global_mapping, probes.NAME, lambda *a, **k: calls.append(1) or right(*a, **k)
    )
    inputs = llava.inputs(QUESTIONS[0], [families.picture(32, 32, 1)])
    with as_published(llava.adapter.model, "sdpa"), torch.inference_mode():
        llava.adapter.model(**inputs)
    assert calls == []
    with torch.inference_mode():
        llava.adapter.model(**inputs)
    assert len(calls) > 3


def test_what_cannot_be_compared_is_said(llava, monkeypatch):
    theirs = [made([8.0, 4.0], [0])]
    answer = lambda engine, reference: self_check(llava.adapter, engine, reference)
    found = answer(lambda: theirs, lambda: [made([math.inf, 4.0], [0])])
    assert found.outcome == "failed" and "not finite" in found.said
    found = answer(lambda: 1 / 0, lambda: theirs)
    assert found.outcome == "failed" and "ZeroDivisionError: division by zero" in found.said

    def refused():
        raise RequestError("its chat template holds 2 images")

    with pytest.raises(RequestError, match="2 images"):
        answer(refused, lambda: theirs)
    for processor in (object(), transformers.CLIPImageProcessorPil()):
        adapter = copy.copy(llava.adapter)
        adapter.processor = processor
        assert "no processor" in cannot_be_checked(adapter)
    assert cannot_be_checked(llava.adapter) is None
    assert replace(found, said="") != found


def test_every_patch_of_the_picture_is_another_one():
    image = torch.tensor(list(picture().getdata())).view(224, 448, 3)
    patches = image.unfold(0, 16, 16).unfold(1, 16, 16).flatten(0, 1).flatten(1)
    assert len(patches.unique(dim=0)) == len(patches)
    red, green, blue = image[104, 150].tolist()
    assert red > 150 > 60 > max(green, blue) - 30
