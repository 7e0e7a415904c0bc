"""From a question to the text of a prompt, by the model's own chat template: where images stand in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import RequestError, SampleError
from harness.models.families import FamilySpec


def prompt_ids(name: str, processor: Any, spec: FamilySpec, texts: Sequence[str]) -> list[int]:
    """Return the token ids of a question's prompt, one mark for each image.

    Args:
        name: of the model, for messages.
        processor: of transformers; its fields differ by family.
        spec: of the model's family.
        texts: before, between and behind the images, one more than there are images.

    Raises:
        RequestError, SampleError: where images cannot stand inside the question.
    """
    text = bare_text(name, processor, texts) if spec.bare_prompt else chat_text(name, processor, texts)
    return text_ids(processor, spec, text)


def text_ids(processor: Any, spec: FamilySpec, text: str) -> list[int]:
    """Return the token ids of a rendered prompt; one that does not begin as texts do gets that beginning.

    Args:
        processor: of transformers; its fields differ by family.
        spec: of the model's family.
        text: the prompt, as a chat template wrote it.
    """
    tokenizer = processor.tokenizer
    if spec.image_margin:
        word = processor.image_token
        text = text.replace(word, f"{spec.image_margin}{word}{spec.image_margin}")
    starts = tokenizer.bos_token is not None and text.lstrip().startswith(tokenizer.bos_token)
    ids: list[int] = tokenizer(text, add_special_tokens=not (starts or spec.bare_prompt)).input_ids
    return ids


def chat_text(name: str, processor: Any, texts: Sequence[str]) -> str:
    """Return the prompt of a question, in which the processor's image token stands for each image.

    A chat template that puts all images first, whatever the order asked for, is given their tokens inside the text instead.

    Args:
        name: of the model, for messages.
        processor: of transformers; its fields differ by family.
        texts: before, between and behind the images, one more than there are images.

    Raises:
        RequestError: where the template does not let images stand inside a question.
    """
    content = [part for text in texts for part in ({"type": "image"}, {"type": "text", "text": text})][1:]
    found = rendered(processor, [part for part in content if part.get("text") != "" or len(texts) == 1])
    if not any(text.strip() for text in texts[:-1]):
        return found
    word = getattr(processor, "image_token", None)
    if not _in_order(found, texts, word) and word is not None:
        found = rendered(processor, [{"type": "text", "text": word.join(texts)}])
    if not _in_order(found, texts, word):
        raise RequestError(f"model {name!r}: its chat template does not let images stand inside a question")
    return found


def check_marks(name: str, processor: Any, texts: Sequence[str], found: int) -> None:
    """Check that a prompt holds as many marks of images as there are images between its texts.

    Args:
        name: of the model, for messages.
        processor: of transformers; its fields differ by family.
        texts: before, between and behind the images, one more than there are images.
        found: marks that the prompt holds.

    Raises:
        SampleError: where a text holds what stands for an image in this model's prompts.
        RequestError: where the model's chat template does not hold so many images.
    """
    if found == len(texts) - 1:
        return
    word = getattr(processor, "image_token", None)
    if word is not None and any(word in text for text in texts):
        raise SampleError(f"the question holds {word!r}, which stands for an image in prompts of this model")
    raise RequestError(f"model {name!r}: its chat template holds {found} images where {len(texts) - 1} were given")


def bare_text(name: str, processor: Any, texts: Sequence[str]) -> str:
    """Return the prompt of a question to a model without a chat: its images, then the question on a line of its own.

    Args:
        name: of the model, for messages.
        processor: of transformers; its fields differ by family.
        texts: before, between and behind the images, one more than there are images.

    Raises:
        SampleError: where an image stands inside the question.
    """
    if any(text.strip() for text in texts[:-1]):
        raise SampleError(f"model {name!r} takes images before the question alone; leave the marks out")
    text: str = processor.image_token * (len(texts) - 1) + processor.tokenizer.bos_token + texts[-1] + "\n"
    return text


def rendered(processor: Any, content: list[dict[str, str]]) -> str:
    """Return what a processor's chat template writes for one message of the user, up to where the answer begins."""
    messages = [{"role": "user", "content": content}]
    text: str = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return text


def _in_order(text: str, parts: Sequence[str], word: str | None) -> bool:
    """Whether a prompt holds the parts of a question in order, with an image's word between them."""
    between = text.split(word) if word else []
    return len(between) == len(parts) and all(part.strip() in where for part, where in zip(parts, between))
