"""Prompts about equal images: the tower sees each picture once, and every answer is what the prompt alone gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from harness.bridges.prompts import PromptPruner, SplitPrompt, distinct_pictures
from harness.tasks.marks import texts_around

pytestmark = pytest.mark.usefixtures("one_thread")


@contextmanager
def pictures_seen(adapter) -> Iterator[list[int]]:
    """How many pictures each run of the tower sees."""
    seen: list[int] = []
    (patches,) = (module for module in adapter.tower.modules() if isinstance(module, torch.nn.Conv2d))
    hook = patches.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    try:
        yield seen
    finally:
        hook.remove()


def made(adapter, text: str, *images) -> SplitPrompt:
    """A prompt as a bridge makes it, its pixels in memory of their own."""
    pixels = adapter.prompt_pixels([list(images)])
    asked = texts_around(text, len(images)) if "<image>" in text else text
    before, after = adapter.prompt(asked, len(images))
    return SplitPrompt(tuple(before), tuple(after), pixels.spans[0], pixels.tensors[0].clone(), text)


@pytest.fixture(scope="module")
def prompts(adapter, samples) -> list[SplitPrompt]:
    """Two pictures asked about by turns, one with text before it, two prompts of both pictures, and one of none."""
    one, two = (sample.image for sample in samples)
    texts = [question.text for question in samples[0].questions]
    before, after = adapter.prompt(texts[0], False)
    return [
        made(adapter, texts[0], one), made(adapter, texts[1], two), made(adapter, texts[4], one),
        made(adapter, texts[2], one, two),
        SplitPrompt((), (*before, *after), text=texts[0]),
        made(adapter, texts[1], one.copy()), made(adapter, f"count the objects in <image> {texts[5]}", one),
        made(adapter, texts[5], one.copy(), two.copy()), made(adapter, texts[7], two),
    ]  # fmt: skip


def test_equal_pixels_are_one_picture(prompts, adapter, samples):
    assert distinct_pictures(prompts) == [0, 1, 0, 3, 4, 0, 0, 3, 1]
    changed = samples[0].image.copy()
    changed.putpixel((90, 90), (255, 0, 255))
    assert distinct_pictures([prompts[0], made(adapter, "what ?", changed)]) == [0, 1]


CASES = [
    ("none", 1.0, "average"),
    ("random", 64, "average"),  # what it draws follows from pixels and text
    ("sts", 64, "average"),
    ("fastv", 192, "average"),  # guided by the text
    ("fastv", 0.5, "flops"),  # which leaves as many tokens as the length of a question allows
    ("sparsevlm", 192, "average"),
    ("cdpruner", 64, "average"),  # guided by the text, in a joint space
    ("feather", 192, "average"),  # its counts follow from image and question
    ("prumerge[adaptive=true]", 1.0, "average"),  # its counts follow from the image
    ("tome", 0.5, "final"),  # in the tower
    ("tome", 0.5, "flops"),
    ("divprune+fastv[layer=3]", 128, "average"),
]


@pytest.mark.parametrize(("method", "keep", "budget"), CASES)
def test_answers_are_those_of_each_prompt_alone(adapter, prompts, method, keep, budget):
    pruner = PromptPruner(method, keep, budget, 0, {})
    if method == "tome":  # which takes the full grid of one image
        prompts = [prompt for prompt in prompts if len(prompt.spans) < 2]
    together = pruner.answers(adapter, prompts, 4, adapter.end_ids)
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,) = pruner.answers(adapter, [prompt], 4, adapter.end_ids)
        assert (answer.tokens, answer.visual_tokens) == (alone.tokens, alone.visual_tokens)
        torch.testing.assert_close(answer.first_logits, alone.first_logits, atol=1e-3, rtol=1e-3)
    assert len({tuple(answer.tokens) for answer in together}) > 2


@pytest.mark.parametrize(("method", "keep", "budget"), [CASES[0], CASES[2], CASES[4]])
def test_the_tower_sees_a_picture_once(adapter, prompts, method, keep, budget):
    """Two pictures, and the pair of them: whatever text stands before them, and however the budget parts the prompts."""
    with pictures_seen(adapter) as seen:
        PromptPruner(method, keep, budget, 0, {}).answers(adapter, prompts, 1, adapter.end_ids)
    assert sorted(seen) == [2, 2]
    with pictures_seen(adapter) as alone:
        for prompt in prompts:
            PromptPruner(method, keep, budget, 0, {}).answers(adapter, [prompt], 1, adapter.end_ids)
    assert sum(alone) == 10
