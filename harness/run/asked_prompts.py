"""What a batch of samples is asked, as token ids: where images stand in each prompt, and whether the model takes its length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.errors import SampleError
from harness.models.adapter import Adapter
from harness.models.prompt import VISUAL, ImageSpan
from harness.models.token_ids import own_words
from harness.tasks.base import ImageSample
from harness.tasks.marks import texts_around, unmarked


def ask(template: str, question: str) -> str:
    """Return the instruction for a question, which ``{question}`` in the template stands for."""
    return template.replace("{question}", question)


@dataclass(frozen=True)
class AskedPrompts:
    """The prompts of a batch's questions.

    What stands up to the last image of a prompt is shared by questions on these images that follow each other and have the
    same text there; where it changes, the images are taken once more.
    """

    prefixes: list[list[int]] = field(default_factory=list)  # token ids before the last image, VISUAL for each before it; B
    sample: list[int] = field(default_factory=list)  # the sample that each of the B is of
    image: list[int] = field(default_factory=list)  # the one of the B that each question is on; R
    questions: list[list[int]] = field(default_factory=list)  # token ids behind the last image; R
    texts: list[str] = field(default_factory=list)  # what is asked, without the chat template; R

    @classmethod
    def of(cls, adapter: Adapter, samples: Sequence[ImageSample], template: str, blind: bool = False) -> AskedPrompts:
        """Return the prompts of all questions of some samples.

        Args:
            adapter: the model.
            samples: images with their questions; all have images, or none has.
            template: what the model is asked; ``{question}`` stands for the question.
            blind: whether images are left out.

        Raises:
            SampleError: where marks are not as many as images.
        """
        made = cls()
        for number, sample in enumerate(samples):
            first = len(made.sample)
            for question in sample.questions:
                before, after = prompt(adapter, ask(template, question.text), 0 if blind else sample.count)
                if len(made.sample) == first or made.prefixes[-1] != before:
                    made.sample.append(number)
                    made.prefixes.append(before)
                made.image.append(len(made.sample) - 1)
                made.questions.append(after)
                made.texts.append(unmarked(ask(template, question.text)))
        return made

    def own_words(self, adapter: Adapter) -> list[list[int]] | None:
        """Return the token ids of each question's own words; None for a model without a tokenizer."""
        return own_words(adapter.tokenizer, self.texts)

    @property
    def firsts(self) -> list[int]:
        """The first of the B prompts of each sample."""
        return [self.sample.index(number) for number in range(max(self.sample, default=-1) + 1)]

    def rooms(self, adapter: Adapter, spans: Sequence[Sequence[ImageSpan]]) -> list[int | None]:
        """Return how many tokens an answer to each question may have; see `room_for_answer`.

        Args:
            adapter: the model.
            spans: of the images of each sample.

        Raises:
            SampleError: for the first prompt that is too long.
        """
        whole = zip(self.image, self.questions, strict=True)
        return [room_for_answer(adapter, length(self.prefixes[i], spans[self.sample[i]], question)) for i, question in whole]


def prompt(adapter: Adapter, text: str, images: int) -> tuple[list[int], list[int]]:
    """Return the token ids before and behind the last image of a prompt, as `Adapter.prompt` does.

    Args:
        adapter: the model.
        text: of the question, perhaps with marks where its images stand.
        images: how many it has; where it is asked without them, marks are left out.

    Raises:
        SampleError: where marks are not as many as the images.
    """
    try:
        texts = texts_around(text, images) if images else unmarked(text)
    except ValueError as error:
        raise SampleError(f"the question {error}") from None
    try:
        return adapter.prompt(texts, images)
    except SampleError:
        raise
    except ValueError as error:
        raise SampleError(str(error)) from None


def length(prefix: Sequence[int], spans: Sequence[ImageSpan], question: Sequence[int]) -> int:
    """Return how many tokens a prompt has, visual ones included."""
    return sum(token != VISUAL for token in prefix) + sum(len(span.ids) for span in spans) + len(question)


def text_length(prefix: Sequence[int], spans: Sequence[ImageSpan], question: Sequence[int]) -> int:
    """Return how many tokens of a prompt are not visual."""
    return length(prefix, spans, question) - sum(span.count for span in spans)


def room_for_answer(adapter: Adapter, tokens: int) -> int | None:
    """Return how many tokens an answer to a prompt may have at the most; None where the model states no limit.

    Args:
        adapter: the model.
        tokens: of the prompt.

    Raises:
        SampleError: where the prompt is longer than what the model takes, or leaves no room.
    """
    if adapter.longest is None:
        return None
    if tokens > adapter.longest:
        raise SampleError(f"prompt of {tokens:,} tokens, the model takes {adapter.longest:,}")
    if tokens == adapter.longest:
        raise SampleError(f"prompt of {tokens:,} tokens leaves no room for an answer, the model takes {adapter.longest:,}")
    return adapter.longest - tokens
