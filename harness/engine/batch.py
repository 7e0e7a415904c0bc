"""What goes into the engine and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from harness.models.prompt import PixelBatch


@dataclass(frozen=True)
class Batch:
    """Images with their questions. Lists over questions are flat; ``image`` says whose they are.

    An image stands for all images of a prompt, where it has several: their visual tokens are one row of tokens, in the
    order of the images, and selections choose among all of them.
    """

    pixels: PixelBatch  # B
    prefix: list[int]  # token ids before the image; of several in a prompt, VISUAL where one stands before the last
    questions: list[list[int]]  # token ids of each question's instruction, R
    image: torch.Tensor  # int64 [R], rising
    image_seeds: torch.Tensor  # int64 [B]
    question_seeds: torch.Tensor  # int64 [R]
    evidence: torch.Tensor | None = None  # bool [R, N]; a row without evidence is all False
    text_embeds: torch.Tensor | None = None  # [R, M, C] of the questions in the joint space

    def rows(self, places: list[int]) -> tuple[Batch, torch.Tensor]:
        """Some of the questions, rising, with the images they ask about; also which images those are, int64 [B']."""
        images, image = self.image[places].unique(return_inverse=True)
        pixels, evidence = self.pixels[images], self.evidence
        if evidence is not None:
            evidence = evidence[places]
            if pixels.even:  # rows of images with more tokens may have made the table wider
                evidence = evidence[:, : pixels.counts[0]]
        some = replace(
            self, pixels=pixels, questions=[self.questions[i] for i in places], image=image,
            image_seeds=self.image_seeds[images], question_seeds=self.question_seeds[places],
            evidence=evidence, text_embeds=None if self.text_embeds is None else self.text_embeds[places],
        )  # fmt: skip
        return some, images

    def reseeded(self, image_seeds: torch.Tensor, question_seeds: torch.Tensor) -> Batch:
        """The same batch with other random streams."""
        return replace(self, image_seeds=image_seeds, question_seeds=question_seeds)

    def questions_about(self, images: list[int]) -> list[int]:
        """Places of the questions about some of the images."""
        return torch.isin(self.image, torch.tensor(images, device=self.image.device)).nonzero()[:, 0].tolist()


@dataclass(frozen=True)
class EngineOutput:
    """Answers and traces of a batch; R rows."""

    tokens: list[list[int]]  # answer token ids, end token left out
    first_logits: torch.Tensor  # [R, vocabulary] of the first answer token, float32
    kept: torch.Tensor  # int64 [R, K] original tokens present in the last layer, -1 of no single place
    kept_before: torch.Tensor  # int64 [R, K0] original tokens that entered the LLM
    grid: tuple[int, int]  # of the original tokens; of the first image's where images differ
    source: torch.Tensor | None = None  # int64 [R, N0] for towers that merged: where each token went
    kv_bytes: int = 0  # of all caches after prefill
    counts: tuple[float, ...] = ()  # visual tokens that were present in each LLM layer; means over rows where images differ
    present: torch.Tensor | None = None  # int64 [R] visual tokens in the last layer, those of no single place included
    ended: list[int | None] = field(default_factory=list)  # token that ended each answer; None where the limit did


def join(outputs: list[EngineOutput], rows: list[list[int]]) -> EngineOutput:
    """The outputs of parts of a batch as one; rows that kept fewer tokens are filled with -1.

    Args:
        rows: of every part, the places of its rows in the whole.
    """
    order = torch.tensor([place for part in rows for place in part]).argsort()

    def padded(name: str) -> torch.Tensor:
        tensors = [getattr(output, name) for output in outputs]
        widest = max(tensor.shape[1] for tensor in tensors)
        return torch.cat([torch.nn.functional.pad(t, (0, widest - t.shape[1]), value=-1) for t in tensors])[order]

    flat = lambda name: [value for output in outputs for value in getattr(output, name)]
    answers, ended = flat("tokens"), flat("ended")
    counts = {output.counts for output in outputs}
    total = sum(map(len, rows))
    mean = tuple(sum(len(part) * o.counts[k] for part, o in zip(rows, outputs)) / total for k in range(len(outputs[0].counts)))
    return EngineOutput(
        [answers[place] for place in order.tolist()], torch.cat([output.first_logits for output in outputs])[order],
        padded("kept"), padded("kept_before"), outputs[0].grid, None,
        sum(output.kv_bytes for output in outputs), counts.pop() if len(counts) == 1 else mean,
        torch.cat([output.present for output in outputs])[order], [ended[place] for place in order.tolist()],
    )  # fmt: skip
