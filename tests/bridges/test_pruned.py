"""A pruned model is a drop-in: its calls and returns are those of ``generate``, its tokens are those of the harness."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList

import prunescope
from harness.bridges import prompts
from harness.bridges.pruned import PrunedModel, prune
from harness.engine.engine import Engine
from harness.models.hf import TINY
from harness.run.batch_run import BatchRun
from harness.run.config import CompareConfig
from harness.run.plan import make_cells
from harness.tasks.registry import create
from methods.types import BudgetError

METHODS = ("fastv", "sts", "random", "tome", "visionzip", "cdpruner", "sparsevlm", "mmtok")


@pytest.fixture(scope="module")
def whole(script, batch):
    """What the model itself answers, before anything is wrapped around it."""
    return script.generated(batch)


ALL_TOKENS = [
    {"method": "none"}, {"keep": 576}, {"method": "fastv", "keep": 600, "budget": "final"}, {"keep": 1.0},
    {"method": "tome", "keep": "100%", "budget": "flops"},
]  # fmt: skip


@pytest.mark.parametrize("options", ALL_TOKENS)
def test_all_tokens_equal_generate(script, batch, whole, options):
    pruned = prune(script.model, **options)
    assert torch.equal(pruned.generate(**batch, max_new_tokens=4), whole)
    assert pruned.visual_tokens == [(576, 576)] * 4
    assert torch.equal(script.generated(batch), whole), "the model within answers as before"


def test_one_prompt_equals_generate(script, samples):
    inputs = script.inputs([script.text(samples[0].questions[0].text)], [samples[0].image])
    pruned = prune(script.model, "none")
    for limit in (1, 4):
        assert torch.equal(pruned.generate(**inputs, max_new_tokens=limit), script.generated(inputs, limit))


def test_several_images_in_a_prompt_equal_generate(script, samples):
    texts = [script.text(samples[0].questions[0].text, 2), script.text(samples[1].questions[4].text)]
    inputs = script.inputs(texts, [samples[0].image, samples[1].image, samples[1].image])
    pruned = prune(script.model, "none")
    assert torch.equal(pruned.generate(**inputs, max_new_tokens=4), script.generated(inputs))
    assert pruned.visual_tokens == [(1152, 1152), (576, 576)]


def test_answers_are_padded_as_generate_pads_them(script, batch):
    """Rows end at different lengths, with and without their end token."""
    first = prune(script.model, "none").generate(**batch, max_new_tokens=1)[:, -1]
    options = {"eos_token_id": [2, int(first[0])], "pad_token_id": 3, "max_new_tokens": 4}
    expected = script.model.generate(**batch, **options)
    assert torch.equal(prune(script.model, "none").generate(**batch, **options), expected)
    assert int(expected[0, -1]) == 3
    config = GenerationConfig(**options)
    assert torch.equal(prune(script.model, "none").generate(**batch, generation_config=config), expected)


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
def test_lengths_are_counted_as_generate_counts_them(script, batch):
    """Without a length an answer has 20 tokens; ``max_length`` counts the prompt too."""
    one = {name: value[:1] for name, value in batch.items()} | {"eos_token_id": 60}
    pruned, length = prune(script.model, "none"), one["input_ids"].shape[1]
    default = pruned.generate(**one)
    assert default.shape[1] == length + 20
    assert torch.equal(default, script.model.generate(**one))
    for longest in ({"max_length": length + 3}, {"generation_config": GenerationConfig(max_length=length + 3)}):
        assert torch.equal(pruned.generate(**one, **longest), script.model.generate(**one, **longest))


def test_without_a_mask_equals_generate(script, batch):
    inputs = {name: value for name, value in batch.items() if name != "attention_mask"}
    pruned = prune(script.model, "none")
    assert torch.equal(pruned.generate(inputs.pop("input_ids"), **inputs, max_new_tokens=4), script.generated(batch))


@pytest.mark.parametrize("method", METHODS)
def test_tokens_are_those_of_the_harness(script, samples, method, adapter, monkeypatch):
    """The same questions as ``compare`` asks them, sharing and all."""
    task, sample = create("shapes"), samples[0]
    config = CompareConfig(model="tiny", methods=(method,), keep=("24",), budget="final", seed=5)
    cell = next(c for c in make_cells(config, adapter.shape, True, adapter.gives) if c.method == method)
    work = BatchRun(Engine(adapter, 4), task, [sample], seed=5, wanted=cell.needs)
    expected = work._answer(cell, work.batch, cell.steps)

    monkeypatch.setattr(prompts, "_digest", lambda pixels: sample.image_id)  # the harness names images, scripts have pixels
    questions = [question.text for question in sample.questions]
    inputs = script.inputs([script.text(text) for text in questions], [sample.image] * len(questions))
    pruned = prune(script.model, method, keep=24, budget="final", seed=5)
    answers = script.answers(pruned.generate(**inputs, max_new_tokens=4, texts=questions), inputs)
    assert answers == expected.tokens
    assert [count for _, count in pruned.visual_tokens] == expected.present.tolist()
    assert len({tuple(answer) for answer in answers}) > 2


def test_an_answer_does_not_depend_on_its_neighbours(script, batch):
    pruned = prune(script.model, "random", keep=0.02, budget="flops", seed=3)
    together = script.answers(pruned.generate(**batch, max_new_tokens=4), batch)
    assert pruned.visual_tokens[0][1] < 20
    for row in range(4):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        assert script.answers(pruned.generate(**one, max_new_tokens=4), one) == [together[row]]


def test_prompts_without_an_image_are_those_of_the_model(script, samples):
    blind = [script.text("is there a red circle ?", 0), script.text("how many objects are there ?", 0)]
    inputs = script.inputs(blind, [])
    pruned = prune(script.model, "fastv", keep=192)
    assert torch.equal(pruned.generate(**inputs, max_new_tokens=4), script.generated(inputs))
    mixed = script.inputs([blind[0], script.text(samples[0].questions[0].text), blind[1]], [samples[0].image])
    out, expected = prune(script.model, "none").generate(**mixed, max_new_tokens=4), script.generated(mixed)
    assert torch.equal(out, expected)
    pruned.generate(**mixed, max_new_tokens=1)
    assert [before for before, _ in pruned.visual_tokens] == [0, 576, 0]
    assert pruned.visual_tokens[1][1] < 192


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"do_sample": True}, "do_sample=True cannot be honoured"),
        ({"num_beams": 4}, "num_beams=4"),
        ({"return_dict_in_generate": True, "output_scores": True}, "output_scores=True, return_dict_in_generate=True"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2"),
        ({"logits_processor": LogitsProcessorList([None])}, "logits_processor cannot"),
        ({"position_ids": torch.zeros(1)}, "position_ids cannot"),
        ({"pixel_values_videos": torch.zeros(1)}, "pixel_values_videos: videos are not pruned"),
        ({"generation_config": GenerationConfig(num_beams=2)}, "generation_config asks for it: pass num_beams=1"),
        ({"max_length": 5}, "new tokens asked for behind the"),
        ({"pixel_values": torch.zeros(2, 3, 192, 192)}, "places for more images than pixel_values hold"),
        ({"pixel_values": torch.zeros(9, 3, 192, 192)}, "more images than input_ids have places for"),
        ({"pixel_values": None}, "pixel_values are missing"),
        ({"pixel_values": torch.zeros(4, 3, 160, 160)}, "do not fit pixel_values: an image makes 400"),
        ({"attention_mask": torch.ones(4, 3)}, "attention_mask is [4, 3]"),
        ({"texts": ["one"]}, "1 texts for 4 prompts"),
    ],
)
def test_what_cannot_be_honoured_is_one_line(script, batch, options, fragment):
    with pytest.raises(ValueError) as caught:
        prune(script.model, "fastv", keep=192).generate(**batch | options)
    assert fragment in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_defaults_may_be_given(script, batch, whole):
    calm = {
        "do_sample": False, "num_beams": 1, "return_dict_in_generate": False, "temperature": None, "top_p": 0.9,
        "use_cache": True, "stopping_criteria": None, "logits_processor": LogitsProcessorList(), "synced_gpus": False,
        "repetition_penalty": 1.0, "min_new_tokens": 0, "streamer": None, "num_return_sequences": 1,
    }  # fmt: skip
    assert torch.equal(prune(script.model, "none").generate(**batch, max_new_tokens=4, **calm), whole)


def test_sampling_by_the_models_own_configuration_is_refused_until_it_is_switched_off(script, batch, whole, monkeypatch):
    own = copy.deepcopy(script.model.generation_config)
    own.update(do_sample=True, temperature=0.1, repetition_penalty=1.05)
    monkeypatch.setattr(script.model, "generation_config", own)
    pruned = prune(script.model, "none")
    with pytest.raises(ValueError, match=r"pass do_sample=False, repetition_penalty=1\.0"):
        pruned.generate(**batch, max_new_tokens=4)
    assert torch.equal(pruned.generate(**batch, max_new_tokens=4, do_sample=False, repetition_penalty=1.0), whole)


def test_padding_on_the_right_is_refused(script, batch):
    mask = batch["attention_mask"].clone()
    mask[0, -1] = 0
    with pytest.raises(ValueError, match="padding_side = 'left'"):
        prune(script.model).generate(**batch | {"attention_mask": mask})


def test_text_must_follow_the_image(script, batch):
    last = int((batch["input_ids"][0] == script.model.config.image_token_id).nonzero().max())
    one = {name: value[:1] for name, value in batch.items()}
    one |= {name: one[name][:, : last + 1] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="no text follows its last image"):
        prune(script.model).generate(**one)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"method": "fastvv"}, "did you mean 'fastv'"),
        ({"method": "fastv", "layers": 3}, "has no parameter 'layers'; did you mean 'layer'"),
        ({"method": "fastv[layer=3]", "layer": 2}, "holds its parameters already"),
        ({"keep": 0}, "keep=0: give a count"),
        ({"keep": 1.5}, "keep=1.5: give a count of visual tokens, or a share of them; written with a point it is a share"),
        ({"keep": 64.0}, "a count is whole and has no point: 64"),
        ({"keep": "150%"}, "100% is all of them"),
        ({"method": "downsample", "keep": 1.0}, "acts on the image itself"),
        ({"budget": "mean"}, "budget='mean'"),
        ({"method": "oracle"}, "needs the signal 'evidence'"),
        ({"method": "downsample"}, "acts on the image itself"),
        ({"method": "blind"}, "acts on the image itself"),
        ({"method": "fastv", "keep": 8}, "keeps"),
    ],
)
def test_what_cannot_be_wrapped_is_one_line(script, options, fragment):
    with pytest.raises(ValueError) as caught:
        prune(script.model, **options)
    assert fragment in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_signal_that_the_model_lacks_is_named(script, monkeypatch):
    from harness.models import companion

    monkeypatch.setattr(companion, "load", lambda *args: None)
    with pytest.raises(ValueError, match="'cdpruner' needs the signal 'image_embeds', which this llava model does not give"):
        prune(script.model, "cdpruner")
    monkeypatch.setattr(script.model, "name_or_path", "nowhere/to-be-found")
    for method in ("cdpruner", "mmtok"):
        with pytest.raises(ValueError, match=f"'{method}' reads .*: pass processor="):
            prune(script.model, method)
    with pytest.raises(ValueError, match="architecture 'Linear' is not supported"):
        prune(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="a LlavaModel has no generate for images; load it as LlavaForConditionalGeneration"):
        prune(script.model.model)


def test_a_prompt_that_cannot_meet_the_budget_is_named(script, samples):
    texts = [script.text(samples[0].questions[0].text), script.text(samples[0].questions[0].text, 2)]
    inputs = script.inputs(texts, [samples[0].image] * 3)
    with pytest.raises(ValueError, match="prompt 1, of 1152 visual tokens: fastv, keep=60: keeps") as caught:
        prune(script.model, "fastv", keep=60).generate(**inputs)
    assert not isinstance(caught.value, BudgetError)


def test_all_else_is_the_models(script):
    pruned = prune(script.model, "fastv[layer=3]", keep=192)
    assert isinstance(pruned, prunescope.PrunedModel)
    assert prunescope.prune is prune
    assert repr(pruned) == "PrunedModel(LlavaForConditionalGeneration, method='fastv[layer=3]', keep=192, budget='average')"
    assert repr(prune(script.model, "fastv", keep=192, layer=3)) == repr(pruned)
    assert (pruned.config, pruned.device, pruned.dtype) == (script.model.config, torch.device("cpu"), torch.float32)
    assert pruned.model is script.model.model
    assert pruned.eval() is pruned and pruned.to("cpu") is pruned and pruned.requires_grad_(False) is pruned
    assert prune(pruned, "sts").plain is script.model
    own = pruned.generation_config
    pruned.generation_config = other = copy.deepcopy(own)
    assert script.model.generation_config is other
    script.model.generation_config = own
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pruned.nothing
    with pytest.raises(TypeError, match="plain is the model within"):
        pruned()
    assert copy.copy(pruned).plain is script.model


def test_a_model_that_moves_takes_its_companion_along(script, batch):
    pruned, batch = prune(copy.deepcopy(script.model), "cdpruner", keep=32), {name: rows[:1] for name, rows in batch.items()}
    before = pruned.generate(**batch, max_new_tokens=4)
    half = pruned.to(torch.bfloat16)
    assert isinstance(half, PrunedModel) and half.dtype == torch.bfloat16
    assert half.generate(**batch, max_new_tokens=2).shape[0] == 1
    assert half._companion.visual_projection.weight.dtype == torch.bfloat16
    assert pruned.to(torch.float32).generate(**batch, max_new_tokens=4).shape == before.shape


def test_a_script_gets_a_pruned_model_with_one_line(samples):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(TINY)
    model = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32)
    model = prunescope.prune(model, method="fastv", keep=192)

    question = samples[0].questions[0]
    content = [{"type": "image"}, {"type": "text", "text": question.text}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=samples[0].image, text=prompt, return_tensors="pt", add_special_tokens=False).to(model.device)
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    answer = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.strip() == question.answer
