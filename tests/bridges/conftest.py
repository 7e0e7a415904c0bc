"""The embedded model as transformers loads it, and prompts about pictures of the bundled task."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import transformers
from PIL import Image


@dataclass
class Script:
    """What a user's own script has: a model, its processor, and a way to call both."""

    model: transformers.PreTrainedModel
    processor: transformers.ProcessorMixin

    def text(self, question: str, images: int = 1) -> str:
        content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def inputs(self, texts: list[str], images: list[Image.Image]):
        """What the processor makes of prompts, padded on the left."""
        made = self.processor(
            images=images or None, text=texts, padding=True, return_tensors="pt", add_special_tokens=False
        )  # the template holds the first token already
        return dict(made)

    def answers(self, out: torch.Tensor, inputs) -> list[list[int]]:
        """What was generated, without end and padding."""
        return [[token for token in row if token not in (0, 2)] for row in out[:, inputs["input_ids"].shape[1] :].tolist()]

    @torch.inference_mode()
    def generated(self, inputs, limit: int = 4) -> torch.Tensor:
        return self.model.generate(**inputs, max_new_tokens=limit, do_sample=False)


@pytest.fixture(scope="session")
def script() -> Script:
    from harness.models.hf import TINY

    model = transformers.AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32)
    return Script(model, transformers.AutoProcessor.from_pretrained(TINY))


@pytest.fixture(scope="session")
def samples():
    """Two pictures of the bundled task with their questions."""
    from harness.tasks.registry import create

    return list(create("shapes").samples(2, 7))


@pytest.fixture(scope="session")
def batch(script, samples):
    """Four prompts of unequal length about two pictures, two of them with text before the image."""
    questions = [(sample.image, question.text) for sample in samples for question in sample.questions[:8:4]]
    assert len({len(text.split()) for _, text in questions}) > 1
    texts = [script.text(text) for _, text in questions]
    texts[1], texts[2] = (text.replace("<image>", "count the objects in <image>") for text in texts[1:3])
    return script.inputs(texts, [image for image, _ in questions])
