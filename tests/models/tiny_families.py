"""Tiny random models of every supported family, and how transformers itself runs them; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
import transformers
from PIL import Image

from tests.models import tiny_configurations as configurations
from tests.models import tiny_processors as processors
from tests.models.tiny_words import QUESTIONS, SPECIAL, VOCABULARY

FAMILIES: dict[str, tuple[Callable, Callable]] = {
    "llava": (configurations.llava, processors.llava),
    "llava-siglip": (configurations.siglip_llava, lambda: processors.llava(True)),
    "llava-next": (configurations.llava_next, processors.llava_next),
    "llava-onevision": (configurations.onevision, processors.onevision),
    "internvl": (configurations.internvl, processors.internvl),
    "qwen2-vl": (configurations.qwen2, lambda: processors.qwen("Qwen2VLProcessor")),
    "qwen2.5-vl": (configurations.qwen25, lambda: processors.qwen("Qwen2_5_VLProcessor")),
    "qwen3-vl": (configurations.qwen3, lambda: processors.qwen("Qwen3VLProcessor")),
    "qwen3-vl-moe": (configurations.qwen3_moe, lambda: processors.qwen("Qwen3VLProcessor")),
    "smolvlm": (configurations.smol, processors.smol),
    "idefics3": (lambda: configurations.smol("Idefics3Config", model_type="idefics3"), processors.idefics3),
    "gemma3": (configurations.gemma, processors.gemma),
    "vipllava": (configurations.vipllava, processors.llava),
    "granite-vision": (configurations.granite_vision, lambda: processors.llava_next(True)),
    "internvl3.5": (configurations.internvl35, processors.internvl),
    "mistral3": (configurations.mistral3, lambda: processors.pixtral(2)),
    "llava-pixtral": (configurations.pixtral_llava, lambda: processors.pixtral(1)),
    "paligemma": (lambda: configurations.paligemma(False), processors.paligemma),
    "paligemma2": (lambda: configurations.paligemma(True), processors.paligemma),
}
SECOND_STAGE = (
    "qwen3-vl-moe", "vipllava", "granite-vision", "internvl3.5", "mistral3", "llava-pixtral", "paligemma", "paligemma2",
)  # fmt: skip
"""Families whose tests run where everything behind extras is installed: most of their own processors need torchvision."""


def parameters(names: Iterable[str] = FAMILIES) -> list:
    """Names of families for ``parametrize``."""
    later = [pytest.mark.families, pytest.mark.needs("torchvision")]
    return [pytest.param(name, marks=later if name in SECOND_STAGE else []) for name in names]


PARAMS = parameters()


def build(config, seed: int = 0):
    """A random model whose attention is not uniform; what is initialised to a constant, or nearly, is stirred too."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.numel() > 1 and float(weight.std()) < 0.1:
                noise = torch.randn_like(weight) * (0.1 if weight.dim() == 1 else 0.25)
                weight.copy_(weight.mean() + noise if weight.dim() == 1 else noise)
        for mark in SPECIAL:
            if mark != "</s>":  # an answer that holds an image's mark would be taken for an image by the slow reference
                model.lm_head.weight[VOCABULARY[mark]] = 0
    model.generation_config.eos_token_id = VOCABULARY["</s>"]
    model.generation_config.pad_token_id = VOCABULARY["<pad>"]
    return model


def picture(height: int, width: int, seed: int) -> Image.Image:
    """Coloured noise in large patches."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=g)
    pixels = torch.nn.functional.interpolate(coarse, (height, width), mode="nearest")[0].permute(1, 2, 0)
    return Image.fromarray((pixels * 255).byte().numpy())


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
