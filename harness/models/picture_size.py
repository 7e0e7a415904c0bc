"""The pixels of an image before its family's own processor: brought to a size, or bounded."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

from PIL import Image

from harness.errors import RequestError
from harness.models.load_options import LoadOptions


@dataclass(frozen=True)
class PictureSize:
    """What every image is brought to before the processor of a family sees it; nothing where nothing is asked for."""

    size: tuple[int, int] | int | None = None  # width and height, or the longer side, in pixels
    most: int | None = None  # pixels; an image of more is shrunk, its aspect kept

    def bring(self, image: Image.Image) -> Image.Image:
        """Return an image at the size that is asked for: the image itself where it has that already.

        Resampling is bicubic, as in the families' own processors.
        """
        width, height = wanted = image.size
        if isinstance(self.size, tuple):
            wanted = self.size
        elif self.size is not None:
            longer = max(width, height)
            wanted = (max(1, round(width * self.size / longer)), max(1, round(height * self.size / longer)))
        elif self.most is not None and width * height > self.most:
            scale = sqrt(self.most / (width * height))
            wanted = (max(1, int(width * scale)), max(1, int(height * scale)))
            wanted = (min(wanted[0], self.most), min(wanted[1], self.most))  # where the other side is one pixel already
        return image if wanted == image.size else image.convert("RGB").resize(wanted, Image.Resampling.BICUBIC)


def picture_size(options: LoadOptions, processor: Any, name: str) -> PictureSize:
    """Return what images are brought to; a processor that bounds pixels by itself is told its bound, and does it.

    Args:
        options: say what is asked for.
        processor: of transformers, whose image processor may take images of any resolution.
        name: of the model, for messages.

    Raises:
        RequestError: where the bound is less than one visual token covers.
    """
    if options.max_pixels is None:
        return PictureSize(options.size)
    images = processor.image_processor
    own = getattr(images, "size", None)
    if not hasattr(images, "merge_size") or own is None or own["longest_edge"] is None:
        return PictureSize(most=options.max_pixels)
    least = (images.patch_size * images.merge_size) ** 2
    if options.max_pixels < least:
        raise RequestError(f"--max-pixels {options.max_pixels}: one visual token of {name!r} covers {least} pixels")
    bounds = {"shortest_edge": min(own["shortest_edge"], options.max_pixels), "longest_edge": options.max_pixels}
    images.size = type(own)(**bounds)
    return PictureSize()
