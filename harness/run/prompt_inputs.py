"""From decoded images and texts on the host to a batch on the device, for passes over many questions and for a timed prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

from harness.engine.batch import Batch
from harness.engine.transfer import send
from harness.models.adapter import Adapter
from harness.models.prompt import ImageSpan, PixelBatch, without_images
from harness.run.asked_prompts import AskedPrompts
from harness.run.streams import stream
from harness.tasks.base import ImageSample
from methods.types import ModelShape

if TYPE_CHECKING:
    from harness.run.plan import Cell

Images = Sequence[list[Image.Image]]
"""The decoded images of each prompt."""


def pixels_of(adapter: Adapter, images: Images, grid: tuple[int, int] | None = None) -> PixelBatch:
    """Make the images of prompts ready for the vision tower.

    Args:
        adapter: the model.
        images: of each prompt.
        grid: (h, w) in visual tokens to which each is shrunk; None for images as they are.
    """
    alone = all(len(own) == 1 for own in images)
    return adapter.pixels([image for (image,) in images], grid) if alone else adapter.prompt_pixels(list(images), grid)


def shrunk_pixels(
    adapter: Adapter, cell: Cell, images: Images, spans: Sequence[tuple[ImageSpan, ...]], shapes: Sequence[ModelShape]
) -> PixelBatch:
    """Shrink each image to the grid that a cell has for it, and make it ready for the vision tower.

    Args:
        adapter: the model.
        cell: whose grid follows from the shape of an image.
        images: of each prompt.
        spans: of each prompt the tokens of its images as they are.
        shapes: the model's shape on each.
    """
    made = []
    for own, its, shape in zip(images, spans, shapes, strict=True):
        grids = [cell.plan(shape)[2]] if len(own) == 1 else cell.grids(shape, [adapter.shape_for((one,)) for one in its])
        made.append([adapter.pixels([image], grid) for image, grid in zip(own, grids, strict=True)])
    tensors = [torch.cat([one.tensors[0] for one in each]) for each in made]
    return PixelBatch(tensors, [tuple(one.spans[0][0] for one in each) for each in made])


def batch_of(
    adapter: Adapter,
    asked: AskedPrompts,
    pixels: PixelBatch,
    samples: Sequence[ImageSample],
    seed: int,
    wanted: frozenset[str],
    evidence: torch.Tensor | None = None,
) -> Batch:
    """Return a batch on the model's device.

    Args:
        adapter: the model.
        asked: the prompts.
        pixels: of the images of every sample.
        samples: the images with their questions.
        seed: of the random streams of images and questions.
        wanted: signals that are read; embeddings of texts and the words of questions are made for those that read them.
        evidence: bool [R, N] on the device.
    """
    if asked.sample != list(range(len(samples))):
        pixels = pixels[asked.sample]
    tables = (
        asked.image,
        [stream(seed, samples[number].image_id) for number in asked.sample],
        [stream(seed, question.sample_id) for sample in samples for question in sample.questions],
    )
    image, image_seeds, question_seeds = send([torch.tensor(table, dtype=torch.int64) for table in tables], adapter.device)
    embeds = None
    if "text_embeds" in wanted:
        assert adapter.companion is not None, "only a model with a companion gives text_embeds"
        embeds = adapter.companion.texts_embeds(asked.texts)
    made = Batch(
        pixels=pixels,
        prefix=asked.prefixes[0],
        questions=asked.questions,
        image=image,
        image_seeds=image_seeds,
        question_seeds=question_seeds,
        evidence=evidence,
        text_embeds=embeds,
        question_words=asked.own_words(adapter) if "text_features" in wanted else None,
        prefixes=None if all(prefix == asked.prefixes[0] for prefix in asked.prefixes) else asked.prefixes,
    )
    return made.told(asked.image)


@dataclass(frozen=True)
class PromptOnHost:
    """One prompt as somebody who asks a model has it: decoded images and a text, both on the host.

    Args:
        adapter: the model.
        sample: the images with one question.
        images: of the sample, decoded.
        seed: of the random streams of image and question.
        template: what the model is asked; ``{question}`` stands for the question.
        evidence: the tokens that hold the question's evidence, bool [1, N] on the device; nobody who asks has it, and for cells
            that read it none of its cost is counted.
    """

    adapter: Adapter
    sample: ImageSample
    images: list[Image.Image]
    seed: int
    template: str = "{question}"
    evidence: torch.Tensor | None = None

    def batch_for(self, cell: Cell) -> Batch:
        """Return what a cell is run on, with what it reads and nothing else: image processor, tokenizer, text encoder, transfer.

        Args:
            cell: that is run.
        """
        adapter, images = self.adapter, [self.images]
        if cell.blind:
            pixels = without_images(1)
        elif cell.grid is None or not cell.varies:
            pixels = pixels_of(adapter, images, cell.grid)
        else:
            spans = adapter.prompt_spans([image.size for image in self.images])
            pixels = shrunk_pixels(adapter, cell, images, [spans], [adapter.shape_for(spans)])
        asked = AskedPrompts.of(adapter, [self.sample], self.template, cell.blind)
        evidence = self.evidence if "evidence" in cell.needs else None
        return batch_of(adapter, asked, pixels, [self.sample], self.seed, cell.needs, evidence)
