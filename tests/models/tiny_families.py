"""The tiny random models of `harness.models.random_families` as tests ask them, and how transformers itself runs them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from PIL import Image

from harness.models.random_families.building import FAMILIES, build
from harness.models.random_families.building import picture as picture
from harness.models.random_families.words import QUESTIONS

SECOND_STAGE = (
    "qwen3-vl-moe", "vipllava", "granite-vision", "internvl3.5", "mistral3", "llava-pixtral", "paligemma", "paligemma2",
)  # fmt: skip
"""Families whose tests run where everything behind extras is installed: most of their own processors need torchvision."""


def parameters(names: Iterable[str] = FAMILIES) -> list:
    """Names of families for ``parametrize``."""
    later = [pytest.mark.families, pytest.mark.needs("torchvision")]
    return [pytest.param(name, marks=later if name in SECOND_STAGE else []) for name in names]


PARAMS = parameters()


@dataclass
class Family:
    """A tiny model, and how transformers itself runs it."""

    name: str
    adapter: object

    @property
    def nests(self) -> bool:
        """Whether its processor wants the images of each prompt in a list of their own."""
        return self.name in ("smolvlm", "idefics3", "gemma3", "llava-onevision", "paligemma", "paligemma2")

    @property
    def bare(self) -> bool:
        """Whether prompts are images and a question alone, and all of a prompt is one block that sees itself."""
        return self.name.startswith("paligemma")

    def text(self, question: str, images: int = 1) -> str:
        if self.bare:
            return "<image>" * images + question
        content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
        return self.adapter.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )

    def inputs(self, question: str, images: list[Image.Image]):
        """What the family's own processor makes of a prompt."""
        text = self.text(question, len(images))
        options = {"return_tensors": "pt", "add_special_tokens": False}
        if not images and self.bare:  # its processor makes no prompt without one
            return self.adapter.tokenizer(f"<s>{text}\n", return_token_type_ids=True, **options)
        if not images:
            return self.adapter.tokenizer(text, **options)
        made = self.adapter.processor(images=[images] if self.nests else images, text=[text], **options)
        made.pop("labels", None)  # for training
        return made

    @torch.inference_mode()
    def generated(self, question: str, images: list[Image.Image], limit: int = 5) -> list[int]:
        """The greedy answer of ``model.generate``, end token left out."""
        inputs = self.inputs(question, images)
        out = self.adapter.model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        ids = out[0, inputs["input_ids"].shape[1] :].tolist()
        return ids[: ids.index(2)] if 2 in ids else ids

    @torch.inference_mode()
    def forward(self, question: str, images: list[Image.Image]) -> torch.Tensor:
        """Logits of the first answer token, by the model's own forward."""
        return self.adapter.model(**self.inputs(question, images)).logits[0, -1]


@dataclass
class Asked:
    """A batch of prompts, two questions each, and what was asked about which images."""

    batch: object
    questions: list[str]
    images: list[list[Image.Image]]  # by question


def ask(family: Family, prompts: list[list[Image.Image]], each: int = 2) -> Asked:
    """Questions about prompts of as many images each, in one batch."""
    from harness.engine.batch import Batch

    adapter, owner = family.adapter, [i for i in range(len(prompts)) for _ in range(each)]
    words = [QUESTIONS[i % len(QUESTIONS)] for i in range(len(owner))]
    made = [adapter.prompt(word, len(prompts[0])) for word in words]
    batch = Batch(
        adapter.prompt_pixels(prompts), made[0][0], [after for _, after in made], torch.tensor(owner),
        torch.arange(len(prompts)) + 7, torch.arange(len(owner)) + 70,
    )  # fmt: skip
    return Asked(batch, words, [prompts[i] for i in owner])


def fresh(name: str) -> Family:
    """A family's tiny model, built anew."""
    from harness.models.adapter import Adapter

    config, processor = FAMILIES[name]
    return Family(name, Adapter(build(config()), processor(), name))


@cache
def make(name: str) -> Family:
    """A family's tiny model, built once; tests that change it take a fresh one."""
    return fresh(name)
