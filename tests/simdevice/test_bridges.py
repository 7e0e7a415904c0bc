"""`prune()` and the bridge to lmms-eval on pretended devices."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers

import prunescope
from harness.models.hf import TINY
from harness.models.random_families.words import QUESTIONS
from tests.bridges.conftest import Script
from tests.models.tiny_families import FAMILIES, build, picture
from tests.simdevice.placing import placed

SPREAD = pytest.param("spread", marks=pytest.mark.needs("accelerate"))
METHODS = ("none", "fastv", "sts", "random", "tome", "visionzip", "sparsevlm", "pyramiddrop", "divprune")


def wrapped(name: str, place: str, method: str):
    """A family's model in `prune`, and its inputs on the first device, as a user has them."""
    config, processor = FAMILIES[name]
    processor = processor()
    model = placed(build(config()), place)
    pruned = prunescope.prune(model, method, keep=0.5, processor=processor, self_check=False)
    content = [{"type": "image"}, {"type": "text", "text": QUESTIONS[0]}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[picture(40, 40, 1)], text=[text], return_tensors="pt", add_special_tokens=False)
    return pruned, inputs.to("cuda" if place == "spread" else place)


def answered(name: str, place: str, method: str):
    """Tokens and counts of what a pruned model generates, or why it does not."""
    try:
        pruned, inputs = wrapped(name, place, method)
        out = pruned.generate(**inputs, max_new_tokens=4)
    except ValueError as refused:
        return str(refused)
    assert out.device == inputs["input_ids"].device
    assert pruned.adapter is pruned.adapter, "it is not made anew at every call"
    return out.tolist(), pruned.visual_tokens


@pytest.mark.parametrize("place", ["cuda", "cuda:1", SPREAD])
@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "gemma3"])
def test_a_pruned_model_generates_what_it_does_on_the_cpu(name, place):
    wrong = {}
    for method in METHODS:
        one, other = (answered(name, where, method) for where in ("cpu", place))
        if one != other:
            wrong[method] = (one, other)
    assert not wrong


SEVERAL = pytest.param({"device_map": "auto"}, marks=pytest.mark.needs("accelerate"))


@pytest.mark.needs("lmms_eval")
@pytest.mark.parametrize("words", [{"device": "cuda:1"}, SEVERAL])
def test_lmms_eval_gets_the_answers_of_the_cpu(words):
    from harness.bridges.lmms_eval import Prunescope

    image = picture(64, 64, 3)
    answers = []
    for own in ({"device": "cpu"}, words):
        bridge = Prunescope("tiny", "fastv", 64, dtype="float32", self_check=False, **own)
        bridge.task_dict = {"t": {"s": [0]}}
        request = SimpleNamespace(args=("what is it?", {"max_new_tokens": 4}, lambda doc: [image], 0, "t", "s"))
        answers.append(bridge.generate_until([request]))
    assert answers[0] == answers[1]


def test_the_embedded_model_and_its_companion_on_a_device():
    """CDPruner reads the joint space of image and text, which lies beside the model."""
    answers = []
    for place in ("cpu", "cuda:1"):
        model = transformers.AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32).to(place)
        script = Script(model, transformers.AutoProcessor.from_pretrained(TINY))
        inputs = script.inputs([script.text("what colour is the circle?")], [picture(96, 96, 5)])
        pruned = prunescope.prune(model, "cdpruner", keep=64, processor=script.processor, self_check=False)
        on_device = {name: table.to(place) for name, table in inputs.items()}
        out = pruned.generate(**on_device, texts=["what colour is the circle?"], max_new_tokens=4)
        answers.append(out.tolist())
    assert answers[0] == answers[1]
