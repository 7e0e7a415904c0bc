"""Whatever form ``generate`` is handed its arguments in: the answer of transformers' own, or a refusal in one line."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, StoppingCriteriaList, TextStreamer, pipeline

from harness.bridges.options import GreedyOptions, greedy
from harness.bridges.pruned import PrunedModel, prune
from harness.errors import RequestError
from harness.models import companion

END = 36  # the token of "yes", which ends the answer to the first question after one token


@pytest.fixture(scope="module")
def two(script, samples):
    """Two prompts of unequal length, the first of which is answered with yes."""
    questions = samples[0].questions[0], samples[0].questions[5]
    return script.inputs([script.text(question.text) for question in questions], [samples[0].image] * 2)


@pytest.fixture(scope="module")
def one(two):
    return {name: value[:1] for name, value in two.items()}


@pytest.fixture(scope="module")
def pruned(script):
    return prune(script.model, "none")


ENDS = [
    torch.tensor([2, END]), torch.tensor([[2, END]]), [torch.tensor(2), torch.tensor(END)], (2, END), [[2, END]],
    np.array([2, END]), torch.tensor([2.0, END]),
]  # fmt: skip


def test_an_answer_ends_where_that_of_generate_does_with_tensors_for_options(script, two, pruned, monkeypatch):
    options = {"eos_token_id": ENDS[0], "pad_token_id": torch.tensor(3), "max_new_tokens": torch.tensor(3)}
    expected = script.model.generate(**two, **options)
    assert expected[0, -1] == 3 != expected[1, -1], "the first answer is shorter than the second"
    assert torch.equal(pruned.generate(**two, **options), expected)
    own = copy.deepcopy(script.model.generation_config)
    own.eos_token_id, own.pad_token_id = ENDS[2], 3
    monkeypatch.setattr(script.model, "generation_config", own)
    assert prune(script.model, "none").adapter.end_ids == {2, END}
    mask = {"attention_mask": two["attention_mask"].float()}
    assert torch.equal(pruned.generate(**two | mask, max_new_tokens=3.0, use_cache=False), expected)


@pytest.mark.parametrize("ends", ENDS, ids=repr)
def test_end_tokens_are_read_in_every_form_that_generate_takes(script, ends):
    """Held against what transformers itself makes of them on its way to the criterion that ends an answer."""
    config = GenerationConfig(eos_token_id=ends, pad_token_id=3)
    script.model._prepare_special_tokens(theirs := copy.deepcopy(config), device="cpu")
    assert sorted(theirs._eos_token_tensor.flatten().tolist()) == [2, END]
    assert greedy(script.model, 5, config, {}).ends == (2, END)
    assert greedy(script.model, 5, None, {"eos_token_id": ends, "max_new_tokens": 2.0}) == GreedyOptions(2, (2, END), 0)


@pytest.mark.parametrize("ends", [[], torch.tensor([]), ()])
def test_without_an_end_token_none_ends_an_answer(script, ends):
    assert greedy(script.model, 5, None, {"eos_token_id": ends}).ends == ()


def changed(inputs, **values):
    return inputs | {name: change(inputs[name]) for name, change in values.items()}


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"input_ids": lambda ids: ids[0]}, "where [prompts, tokens] are needed; input_ids[None] is one prompt"),
        ({"input_ids": lambda ids: ids[None]}, "where [prompts, tokens] are needed"),
        ({"input_ids": lambda ids: ids.tolist()}, "input_ids is a list; give a tensor"),
        ({"input_ids": lambda ids: ids.numpy()}, "input_ids is a ndarray; give a tensor"),
        ({"input_ids": lambda ids: ids.float()}, "input_ids hold float32"),
        ({"input_ids": lambda ids: ids[:0], "attention_mask": lambda mask: mask[:0]}, "nothing to answer"),
        ({"input_ids": lambda ids: ids[:, :0], "attention_mask": lambda mask: mask[:, :0]}, "nothing to answer"),
        ({"input_ids": lambda ids: ids + 10**6 * (ids == ids[0, -1])}, "the model knows 0 to"),
        ({"input_ids": lambda ids: ids.where(ids != ids[0, -1], -5)}, "input_ids hold -5"),
        ({"attention_mask": lambda mask: mask[0]}, "attention_mask is ["),
        ({"attention_mask": lambda mask: mask[:, None, None]}, "attention_mask is ["),
        ({"attention_mask": lambda mask: mask.tolist()}, "attention_mask is a list"),
        ({"attention_mask": lambda mask: mask * 7}, "attention_mask holds numbers beside 0"),
        ({"attention_mask": lambda mask: mask * 0.5}, "attention_mask holds numbers beside 0"),
        ({"attention_mask": torch.zeros_like}, "padded on the left"),
        ({"pixel_values": lambda pixels: pixels[:0]}, "so they hold no image"),
        ({"pixel_values": lambda pixels: pixels.tolist()}, "pixel_values is a list"),
        ({"pixel_values": lambda pixels: pixels[:, :1]}, "images have 3 colours"),
        ({"pixel_values": lambda pixels: pixels.to(torch.uint8)}, "pixel_values hold uint8"),
        ({"pixel_values": lambda pixels: pixels / 0}, "pixel_values hold NaN or infinite numbers"),
    ],
)
def test_tensors_that_are_none_of_a_prompt_are_one_line(pruned, one, change, fragment):
    said(pruned, fragment, **changed(one, **change), max_new_tokens=2)


def test_words_of_other_types_are_one_line(pruned, one):
    said(pruned, "texts is a int; give a string, or a list of one a prompt", **one, texts=5, max_new_tokens=2)
    for method in (None, 5):
        with pytest.raises(RequestError, match="give its name as a text, such as 'fastv'"):
            prune(pruned.plain, method)


def said(pruned, fragment: str, **arguments) -> None:
    with pytest.raises(RequestError) as caught:
        pruned.generate(**arguments)
    assert fragment in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"eos_token_id": "2"}, "'2' is no token id"),
        ({"eos_token_id": {2, 3}}, "is no token id"),
        ({"eos_token_id": 2.5}, "token ids are"),
        ({"pad_token_id": [3, 4]}, "its options cannot be read"),
        ({"max_new_tokens": 0}, "must be greater than 0"),
        ({"max_new_tokens": "2"}, "its options cannot be read"),
        ({"max_new_tokens": None, "max_length": "9"}, "its options cannot be read"),
        ({"max_new_tokens": 1.5}, "not whole"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"num_beams": 3}, "num_beams=3"),
        ({"do_sample": True}, "do_sample=True"),
        ({"streamer": "one"}, "streamer cannot"),
        ({"stopping_criteria": StoppingCriteriaList([lambda ids, scores: True])}, "stopping_criteria cannot"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: [2]}, "prefix_allowed_tokens_fn cannot"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate=True"),
        ({"assistant_model": "itself"}, "assistant_model cannot"),
        ({"max_time": 5.0}, "max_time=5.0"),
        ({"stop_strings": ["yes"], "tokenizer": "its own"}, "stop_strings=['yes']"),
        ({"suppress_tokens": torch.tensor([2, 3])}, "suppress_tokens="),
        ({"inputs_embeds": torch.zeros(1, 3, 8)}, "inputs_embeds cannot"),
        ({"past_key_values": ()}, "past_key_values cannot"),
        ({"cache_implementation": "paged"}, "cache_implementation='paged'"),
        ({"nonsense": False}, "nonsense cannot"),
        ({"generation_config": {"max_new_tokens": 3}}, "generation_config is a dict"),
        ({"inputs": torch.ones(1, 3, dtype=torch.int64)}, "two names of one thing"),
    ],
)
def test_options_that_are_not_of_greedy_decoding_are_named(script, pruned, one, options, fragment):
    if options.get("streamer"):
        options = {"streamer": TextStreamer(script.processor.tokenizer)}
    if options.get("assistant_model"):
        options = {"assistant_model": script.model}
    said(pruned, fragment, **one | {"max_new_tokens": 2} | options)


def test_without_ids_what_is_needed_is_said(pruned, one):
    said(pruned, "give input_ids", **{name: value for name, value in one.items() if name != "input_ids"})
    said(pruned, "inputs_embeds do not say where images are", inputs_embeds=torch.zeros(1, 3, 8))
    said(pruned, "input_ids[None] is one prompt", input_ids=torch.tensor([1, 7, 8]), max_new_tokens=2)


def test_a_pipeline_of_transformers_gives_the_pruned_answers(script, samples, caplog):
    """Chats, several at once and with two images in one."""
    pruned, sample, counts = prune(script.model, "fastv[layer=3]", keep=24, budget="final"), samples[0], (1, 2)
    asked = [
        [{"role": "user", "content": [{"type": "image", "image": sample.image}] * images + [{"type": "text", "text": q.text}]}]
        for q, images in zip(sample.questions, counts)
    ]
    made = pipeline("image-text-to-text", model=pruned, processor=script.processor)
    assert not caplog.records, "nothing is said against a pruned model"
    found = made(text=asked, max_new_tokens=3, return_full_text=False)
    for said_there, question, images in zip(found, sample.questions, counts):
        inputs = script.inputs([script.text(question.text, images)], [sample.image] * images)
        out = pruned.generate(**inputs, max_new_tokens=3)
        answer = script.processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert said_there[0]["generated_text"].strip() == answer.strip() and pruned.visual_tokens == [(576 * images, 24)]
    with pytest.raises(RequestError, match="stop_strings"):
        made(text=asked[0], max_new_tokens=3, stop_sequence="yes")
    both = [
        pipeline("image-text-to-text", model=model, processor=script.processor)(text=asked[0], max_new_tokens=2)
        for model in (prune(script.model, "none"), script.model)
    ]
    assert both[0][0]["generated_text"][-1]["content"] == both[1][0]["generated_text"][-1]["content"]


def test_a_pruned_model_is_of_its_models_class_to_those_who_ask(script):
    pruned = prune(script.model, "fastv", keep=192)
    assert isinstance(pruned, PrunedModel) and isinstance(pruned, type(script.model)) and type(pruned) is PrunedModel
    apart = copy.deepcopy(pruned)
    assert type(apart) is PrunedModel and apart.plain is not script.model and repr(apart) == repr(pruned)


@pytest.mark.parametrize("keep", [64, 576, 0.5])
@pytest.mark.parametrize("method", ["cdpruner", "cdpruner+fastv", "oracle"])
def test_a_method_whose_signals_nobody_gives_is_refused_whatever_the_budget(script, method, keep, monkeypatch):
    """Also at a budget that keeps all of this prompt's tokens: one with a second image is pruned."""
    monkeypatch.setattr(companion, "load", lambda *arguments: None)
    who = "a task gives and no model does" if method == "oracle" else "a model with a CLIP companion .* gives it"
    with pytest.raises(RequestError, match=f"needs the signal .*{who}"):
        prune(script.model, method, keep=keep)


def test_a_broken_companion_is_one_line(script, monkeypatch):
    def broken(*arguments):
        raise OSError("config.json is no JSON")

    monkeypatch.setattr(companion, "load", broken)
    with pytest.raises(RequestError, match=r"the companion of model .* cannot be loaded: config\.json is no JSON"):
        prune(script.model, "cdpruner")
    with pytest.raises(RequestError, match="processor is a TokenizersBackend; give what AutoProcessor makes"):
        prune(script.model, "fastv", processor=script.processor.tokenizer)


def test_a_property_of_a_pruned_model_says_what_it_met(script, monkeypatch):
    """It is not looked for on the model within."""
    pruned = prune(script.model, "fastv", keep=192)
    monkeypatch.setattr("harness.bridges.pruned.Adapter", lambda *arguments: script.model.model.no_such_norm)
    pruned._adapter = None
    with pytest.raises(AttributeError, match="'LlavaModel' object has no attribute 'no_such_norm'"):
        _ = pruned.adapter
    with pytest.raises(AttributeError, match="'LlavaModel' object has no attribute 'no_such_norm'"):
        prune(script.model, "fastv", keep=192)
    assert not hasattr(PrunedModel.__new__(PrunedModel), "plain")
