"""A batch of images with their questions, as the engine takes it, and what the engine gives for it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch

from harness.engine.transfer import send
from harness.models.prompt import PixelBatch
from methods.types import Step


@dataclass(frozen=True)
class Batch:
    """B images with R questions about them. Lists over questions are flat; ``image`` says whose they are.

    An image stands for all images of a prompt, where it has several: their visual tokens are one row of tokens, in the
    order of the images, and selections choose among all of them.
    """

    pixels: PixelBatch  # of the B images
    prefix: list[int]  # token ids before the image; of several in a prompt, VISUAL where one stands before the last
    questions: list[list[int]]  # token ids of each question's instruction, R
    image: torch.Tensor  # int64 [R], rising
    image_seeds: torch.Tensor  # int64 [B]
    question_seeds: torch.Tensor  # int64 [R]
    evidence: torch.Tensor | None = None  # bool [R, N]; a row without evidence is all False
    text_embeds: torch.Tensor | None = None  # [R, M, C] of the questions in the joint space
    question_words: list[list[int]] | None = None  # token ids of each question's own words, R; None where no step asks
    prefixes: list[list[int]] | None = None  # by image, where they differ; ``prefix`` is the first one's

    @cached_property
    def image_of(self) -> list[int]:
        """The image of each question, as the host knows it: read from the device once for all passes of a batch."""
        found: list[int] = self.image.tolist()
        return found

    def groups(self, blind: bool) -> list[list[int]]:
        """Return groups of the images, by index, that can run in one go: the same prefix, and the same visual tokens.

        Args:
            blind: whether images are left out, and so do not matter.
        """
        alike = [list(range(len(self.pixels)))] if blind or self.pixels.uniform else self.pixels.groups()
        if self.prefixes is None:
            return alike
        found: dict[tuple[int, ...], list[int]] = {}
        for number, group in enumerate(alike):
            for image in group:
                found.setdefault((number, *self.prefixes[image]), []).append(image)
        return list(found.values())

    def rows(self, rows: list[int]) -> tuple[Batch, torch.Tensor]:
        """Return the batch of some of the questions and the images that they ask about.

        Args:
            rows: indices of questions, rising.

        Returns:
            The batch, and the indices of its images in this one, int64 [B'].
        """
        own = [self.image_of[row] for row in rows]
        about = sorted(set(own))
        places = [about.index(one) for one in own]
        images, image = send([torch.tensor(about, dtype=torch.int64), torch.tensor(places, dtype=torch.int64)], self.image.device)
        pixels, evidence = self.pixels[about], self.evidence
        if evidence is not None:
            evidence = evidence[rows]
            if pixels.uniform:  # rows of images with more tokens may have made the table wider
                evidence = evidence[:, : pixels.counts[0]]
        prefixes = None if self.prefixes is None else [self.prefixes[place] for place in about]
        prefix = self.prefix if prefixes is None else prefixes[0]
        words = None if self.question_words is None else [self.question_words[row] for row in rows]
        some = replace(
            self, pixels=pixels, question_words=words, questions=[self.questions[row] for row in rows], image=image,
            image_seeds=self.image_seeds[images], question_seeds=self.question_seeds[rows],
            evidence=evidence, text_embeds=None if self.text_embeds is None else self.text_embeds[rows],
            prefix=prefix, prefixes=None if prefixes == [prefix] * len(images) else prefixes,
        )  # fmt: skip
        return some.told(places), images

    def reseeded(self, image_seeds: torch.Tensor, question_seeds: torch.Tensor) -> Batch:
        """Return the same batch with other random streams, int64 [B] of the images and int64 [R] of the questions."""
        return replace(self, image_seeds=image_seeds, question_seeds=question_seeds).told(self.image_of)

    def told(self, image_of: list[int]) -> Batch:
        """Return the same batch, which need not read from the device whose each question is.

        Args:
            image_of: the image of each question.
        """
        vars(self)["image_of"] = image_of
        return self

    def to(self, device: torch.device) -> Batch:
        """Return the same questions on a device; the images stay where they are."""
        if self.image.device == device:
            return self
        tables = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: table.to(device) for name, table in tables.items() if isinstance(table, torch.Tensor)}
        return replace(self, **moved).told(self.image_of)

    def words(self, step: Step) -> list[list[int]]:
        """Return the token ids of the text that a step's ``text_features`` are of, by question."""
        if step.words == "instruction":
            return self.questions
        assert self.question_words is not None, "the batch of a step that reads the question's own words holds them"
        return self.question_words

    def questions_about(self, images: list[int]) -> list[int]:
        """Return the indices of the questions about some of the images."""
        wanted = set(images)
        return [row for row, image in enumerate(self.image_of) if image in wanted]


@dataclass(frozen=True)
class EngineOutput:
    """Answers to the R questions of a batch, and which visual tokens they were given."""

    tokens: list[list[int]]  # answer token ids, end token left out
    first_logits: torch.Tensor  # [R, vocabulary] of the first answer token, float32
    kept: torch.Tensor  # int64 [R, K] original tokens present in the last layer, -1 of no single place
    entered: torch.Tensor  # int64 [R, K0] original tokens that entered the LLM
    grid: tuple[int, int]  # rows and columns of the original tokens; of the first image's where images differ
    source: torch.Tensor | None = None  # int64 [R, N0] for towers that merged: where each token went
    kv_bytes: int = 0  # of all caches after prefill
    # int64 [R] visual tokens in the last layer, those of no single place included
    present: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    ended: list[int | None] = field(default_factory=list)  # token that ended each answer; None where the limit did
    # int64 [R, layers] visual tokens that were present in each LLM layer, question by question
    layer_counts: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    # int64 [R, 2 * blocks] tower tokens of one tile, CLS included, at the attention of each block, then at the MLP of each
    block_counts: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))

    @property
    def counts(self) -> tuple[float, ...]:
        """Visual tokens that were present in each LLM layer, means over the rows."""
        return tuple(self.layer_counts.double().mean(0).tolist())

    @property
    def tower_counts(self) -> tuple[float, ...]:
        """Tower tokens as ``block_counts`` has them, means over the rows."""
        return tuple(self.block_counts.double().mean(0).tolist())


def join(outputs: list[EngineOutput], rows: list[list[int]]) -> EngineOutput:
    """Return the outputs of parts of a batch as one; rows that kept fewer tokens are filled with -1.

    Args:
        outputs: of every part.
        rows: of every part, the indices of its rows in the whole.
    """
    order = torch.tensor([row for part in rows for row in part]).argsort()
    answers = [tokens for output in outputs for tokens in output.tokens]
    ended = [end for output in outputs for end in output.ended]
    return EngineOutput(
        tokens=[answers[row] for row in order.tolist()],
        first_logits=torch.cat([output.first_logits for output in outputs])[order],
        kept=_padded([output.kept for output in outputs])[order],
        entered=_padded([output.entered for output in outputs])[order],
        grid=outputs[0].grid,
        source=None,
        kv_bytes=sum(output.kv_bytes for output in outputs),
        present=torch.cat([output.present for output in outputs])[order],
        ended=[ended[row] for row in order.tolist()],
        layer_counts=torch.cat([output.layer_counts for output in outputs])[order],
        block_counts=torch.cat([output.block_counts for output in outputs])[order],
    )


def _padded(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Tensors [R, K] below each other, filled with -1 to the width of the widest."""
    widest = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([torch.nn.functional.pad(tensor, (0, widest - tensor.shape[1]), value=-1) for tensor in tensors])
