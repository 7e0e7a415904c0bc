"""From images to what the tower takes, and from the tower's tokens to the visual tokens of the prompt: one way a family.

Importing this file needs neither torch nor transformers.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import isqrt
from typing import Any

from PIL import Image

from harness.errors import RequestError
from harness.models.prompt import NEWLINE, VISUAL, ImageSpan, PixelBatch, grid_span
from harness.store.layouts import Area
from methods.lazy import torch
from methods.types import BudgetError


class ImageTiler:
    """How a family cuts images into tiles and arranges what the tower makes of them as visual tokens.

    Args:
        config: the model's configuration.
        processor: the model's processor.
        merge: how many tower tokens the projector makes one visual token of.
    """

    one_to_one = True  # whether the tower sees an image as one tile whose tokens all become visual tokens in turn
    resizes = False  # whether an image may be shrunk to any grid of tokens
    fixed = False  # whether every image has the same tokens
    trims = False  # whether some of the tower's tokens are left away or melted together
    whole_last = False  # whether the tile that shows the whole image is the last of several, not the first

    def __init__(
        self,
        config: Any,  # a configuration of transformers; its fields differ by family
        processor: Any,  # a processor of transformers, or an `ImageOnlyProcessor`
        merge: int,
    ) -> None:
        self.config, self.processor, self.merge = config, processor, merge
        self.image_token: int = config.image_token_id

    def prepare(self, prompts: list[list[Image.Image]], grid: tuple[int, int] | None = None) -> PixelBatch:
        """Make the images of every prompt ready for the tower.

        Args:
            prompts: the images of each prompt.
            grid: rows and columns of visual tokens to which each image is shrunk; None for as it is.

        Raises:
            BudgetError: for a grid, where the family takes images at its own resolution alone.
        """
        if grid is not None and not self.resizes:
            raise BudgetError(f"{self.config.model_type} takes images at its own resolution alone; none can be shrunk to a grid")
        made = [[self.cut(image, len(images), grid) for image in images] for images in prompts]
        tensors = [torch.cat([tensor for tensor, _ in images]) for images in made]
        return PixelBatch(tensors, [tuple(span for _, span in images) for images in made])

    def cut(self, image: Image.Image, count: int, grid: tuple[int, int] | None) -> tuple[torch.Tensor, ImageSpan]:
        """Cut one image of a prompt.

        Args:
            image: the image.
            count: number of images that the prompt holds.
            grid: rows and columns of visual tokens to which it is shrunk; None for as it is.

        Returns:
            Its tiles [tiles, 3, H, W] or patches [patches, C], and the tokens that it puts into the prompt.
        """
        raise NotImplementedError

    def arrange(self, table: torch.Tensor, spans: tuple[ImageSpan, ...]) -> torch.Tensor:
        """Arrange values of tower tokens, or of projected ones, as the visual tokens are.

        Args:
            table: [B * tiles, n, C] of the tiles of B prompts.
            spans: of the images of each prompt; all prompts are alike.

        Returns:
            [B, N, C]. Where the projector merges tower tokens, those of one visual token are averaged.
        """
        tiles = sum(span.tiles for span in spans)
        parts, start = [], 0
        table = table.unflatten(0, (-1, tiles))
        for span in spans:
            parts.append(self.arrange_image(table[:, start : start + span.tiles], span))
            start += span.tiles
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def arrange_image(self, table: torch.Tensor, span: ImageSpan) -> torch.Tensor:
        """Arrange the values of one image, [B, tiles, n, C], as its N visual tokens: [B, N, C].

        By default tile by tile, averaged over neighbours where there are more tower tokens than visual ones.
        """
        tiles, count = table.shape[1:3]
        if tiles * count == span.count:
            return table.flatten(1, 2)
        folded: torch.Tensor = self.fold_tiles(table.flatten(0, 1)).unflatten(0, (-1, tiles))
        return folded.flatten(1, 2)

    def fold_tiles(self, table: torch.Tensor) -> torch.Tensor:
        """Average values of tower tokens, [tiles, n, C], over neighbours that make one visual token: [tiles, n / merge, C]."""
        if self.merge == 1:
            return table
        tiles, count, width = table.shape
        side, fold = isqrt(count), isqrt(self.merge)
        means = table.reshape(tiles, side // fold, fold, side // fold, fold, width).mean((2, 4))
        small: torch.Tensor = means.reshape(tiles, -1, width)
        return small


class SingleTiler(ImageTiler):
    """LLaVA-1.5: one tile an image, its tokens are the visual tokens."""

    resizes = True
    fixed = True

    def prepare(self, prompts: list[list[Image.Image]], grid: tuple[int, int] | None = None) -> PixelBatch:
        """Make the images of every prompt ready for the tower; see `ImageTiler.prepare`."""
        pixels = self.image_pixels([image for images in prompts for image in images], grid)
        span = self.span(*pixels.shape[-2:])
        tensors = pixels.split([len(images) for images in prompts])
        return PixelBatch(tensors, [(span,) * len(images) for images in prompts])

    def image_pixels(self, images: list[Image.Image], grid: tuple[int, int] | None) -> torch.Tensor:
        """Return images as the family's image processor makes them, [images, 3, H, W], or shrunk to a grid of tokens."""
        options: dict[str, Any] = {}  # of an image processor
        if grid is not None:
            patch = side(self.config.vision_config.patch_size)
            options = {"size": {"height": grid[0] * patch, "width": grid[1] * patch}, "do_center_crop": False}
        pixels: torch.Tensor = self.processor.image_processor(images, return_tensors="pt", **options)["pixel_values"]
        return pixels

    def span(self, height: int, width: int) -> ImageSpan:
        """Return the tokens that an image of so many pixels, as the tower sees it, puts into the prompt."""
        patch = side(self.config.vision_config.patch_size)
        return _grid_span(height // patch, width // patch)


class MarkedTiler(SingleTiler):
    """Gemma 3: one tile an image, 16 tower tokens a visual token, marks before and behind; no pan and scan."""

    one_to_one = False
    resizes = False

    def prepare(self, prompts: list[list[Image.Image]], grid: tuple[int, int] | None = None) -> PixelBatch:
        """Make the images of every prompt ready for the tower; see `ImageTiler.prepare`."""
        if grid is not None:
            return ImageTiler.prepare(self, prompts, grid)
        return super().prepare(prompts)

    def span(self, height: int, width: int) -> ImageSpan:
        """Return the tokens that an image puts into the prompt; its size does not matter."""
        count, config = self.config.mm_tokens_per_image, self.config
        area = Area(isqrt(count), isqrt(count))
        return ImageSpan((config.boi_token_index, *(VISUAL,) * count, config.eoi_token_index), (area,))


class AnyResolutionTiler(ImageTiler):
    """LLaVA-NeXT and LLaVA-OneVision: the whole image as one tile, then its tiles as one large grid without the padding.

    Every row of the large grid ends with the model's learned newline. OneVision shrinks a grid of more than nine tiles, and
    of several images in a prompt it takes each as one tile. Signals of the tower go the way of the features.
    """

    one_to_one = False
    trims = True

    @property
    def is_onevision(self) -> bool:
        """Whether the model is a LLaVA-OneVision."""
        return bool(self.config.model_type == "llava_onevision")

    def cut(self, image: Image.Image, count: int, grid: tuple[int, int] | None) -> tuple[torch.Tensor, ImageSpan]:
        """Cut one image of a prompt; see `ImageTiler.cut`."""
        if self.is_onevision and count > 1:
            found = self.processor.image_processor([[image, image]], return_tensors="pt")
            return found["pixel_values"][0, :1], self.span(None)
        found = self.processor.image_processor([image], return_tensors="pt")
        return found["pixel_values"][0], self.span(tuple(found["image_sizes"][0].tolist()))

    def span(self, size: tuple[int, int] | None) -> ImageSpan:
        """Return the tokens that an image of so many pixels, (height, width), puts into the prompt; None for one tile alone."""
        vision = self.config.vision_config
        one = vision.image_size // vision.patch_size
        base = Area(one, one)
        if size is None:
            return ImageSpan((VISUAL,) * base.count + (NEWLINE,), (base,))
        down, across = self._tiles(size)
        large = self._large(torch.zeros(1, down * one, across * one), size).shape[1:]
        ids = (VISUAL,) * base.count + ((VISUAL,) * large[1] + (NEWLINE,)) * large[0]
        areas = (base, Area(*large)) if large[0] * large[1] else (base,)  # of a very narrow image the padding is all there is
        return ImageSpan(ids, areas, 1 + down * across, (down, across, *size))

    def _tiles(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the tiles of an image of so many pixels."""
        from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

        down, across = get_anyres_image_grid_shape(size, self.config.image_grid_pinpoints, self.config.vision_config.image_size)
        return down, across

    def _large(self, features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Features of all tiles side by side, [C, h, w], without the padding, and shrunk where there are too many."""
        from transformers.models.llava_next.modeling_llava_next import unpad_image

        features = unpad_image(features, size)
        if not self.is_onevision:
            return features
        most = int(self.config.vision_aspect_ratio.removeprefix("anyres_max_"))
        height, width = features.shape[1:]
        one = self.config.vision_config.image_size // self.config.vision_config.patch_size
        ratio = (height * width / (most * one**2)) ** 0.5
        if ratio <= 1.1:
            return features
        small = [int(height // ratio), int(width // ratio)]
        return torch.nn.functional.interpolate(features[None], small, mode="bilinear")[0]

    def arrange_image(self, table: torch.Tensor, span: ImageSpan) -> torch.Tensor:
        """Arrange the values of one image, [B, tiles, n, C], as its visual tokens [B, N, C]: the whole, then the large grid."""
        if len(span.areas) == 1:
            return table[:, 0]
        down, across, height, width = span.cut
        one = span.areas[0].rows
        tiles = table[:, 1:].unflatten(1, (down, across)).unflatten(3, (one, one))  # [B, down, across, one, one, C]
        large = tiles.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # [B, C, h, w]
        packed = [self._large(image, (height, width)).flatten(1).T for image in large]
        return torch.cat([table[:, 0], torch.stack(packed)], 1)


class InternVLTiler(ImageTiler):
    """InternVL3: tiles of an image in reading order, and the whole image as the last where there are several."""

    one_to_one = False
    whole_last = True

    def cut(self, image: Image.Image, count: int, grid: tuple[int, int] | None) -> tuple[torch.Tensor, ImageSpan]:
        """Cut one image of a prompt; see `ImageTiler.cut`."""
        found = self.processor(images=[image], text=self.processor.image_token, return_tensors="pt")
        pixels, ids = found["pixel_values"], found["input_ids"][0].tolist()
        first, last = ids.index(self.image_token), len(ids) - ids[::-1].index(self.image_token)
        vision = self.config.vision_config
        one = side(vision.image_size) // side(vision.patch_size) // isqrt(self.merge)
        areas = [Area(one, one)]
        if len(pixels) > 1:
            down, across = self._tiles(image, len(pixels) - 1)
            areas = [*tile_areas(down, across, one), Area(one, one)]
        inner = tuple(VISUAL if token == self.image_token else token for token in ids[first - 1 : last + 1])
        return pixels, ImageSpan(inner, tuple(areas), len(pixels))

    def _tiles(self, image: Image.Image, count: int) -> tuple[int, int]:
        """Rows and columns of the tiles."""
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

        made = self.processor.image_processor
        size = side(self.config.vision_config.image_size)
        across, down = get_optimal_tiled_canvas((image.height, image.width), (size, size), made.min_patches, made.max_patches)
        return (down, across) if down * across == count else (1, count)


class RowTiler(ImageTiler):
    """SmolVLM and Idefics3: tiles row by row with a mark each, then the whole image."""

    one_to_one = False
    whole_last = True

    def cut(self, image: Image.Image, count: int, grid: tuple[int, int] | None) -> tuple[torch.Tensor, ImageSpan]:
        """Cut one image of a prompt; see `ImageTiler.cut`."""
        found = self.processor(images=[[image]], text=self.processor.image_token, return_tensors="pt", add_special_tokens=False)
        pixels, ids = found["pixel_values"][0], found["input_ids"][0].tolist()
        vision = self.config.vision_config
        one = vision.image_size // vision.patch_size // isqrt(self.merge)
        areas = [Area(one, one)]
        if len(pixels) > 1:
            _, down, across = self.processor.image_processor.get_number_of_image_patches(image.height, image.width, {})
            areas = [*tile_areas(down, across, one), Area(one, one)]
        return pixels, ImageSpan(tuple(VISUAL if i == self.image_token else i for i in ids), tuple(areas), len(pixels))


class PackedTiler(ImageTiler):
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches of any resolution, four neighbours of which are one visual token."""

    one_to_one = False
    resizes = True

    def cut(self, image: Image.Image, count: int, grid: tuple[int, int] | None) -> tuple[torch.Tensor, ImageSpan]:
        """Cut one image of a prompt; see `ImageTiler.cut`."""
        options = {}
        if grid is not None:
            unit = side(self.config.vision_config.patch_size) * isqrt(self.merge)
            image = image.convert("RGB").resize((grid[1] * unit, grid[0] * unit), Image.Resampling.BICUBIC)
            options = {"do_resize": False}
        found = self.processor.image_processor([image], return_tensors="pt", **options)
        _, height, width = cut = tuple(found["image_grid_thw"][0].tolist())
        fold = isqrt(self.merge)
        return found["pixel_values"], _grid_span(height // fold, width // fold, cut)

    def arrange(self, table: torch.Tensor, spans: tuple[ImageSpan, ...]) -> torch.Tensor:
        """Average the values of patches, [B * patches, C] with neighbours of one visual token in turn, to [B, N, C]."""
        averages: torch.Tensor = table.unflatten(0, (-1, sum(span.count for span in spans), self.merge)).mean(2)
        return averages


class PixtralTiler(ImageTiler):
    """Mistral 3 and Pixtral: patches of any resolution in reading order, a mark behind every row of visual tokens."""

    one_to_one = False
    resizes = True

    def cut(self, image: Image.Image, count: int, grid: tuple[int, int] | None) -> tuple[torch.Tensor, ImageSpan]:
        """Cut one image of a prompt; see `ImageTiler.cut`."""
        options: dict[str, Any] = {"patch_size": self.unit}  # of an image processor
        if grid is not None:
            image = image.convert("RGB").resize((grid[1] * self.unit, grid[0] * self.unit), Image.Resampling.BICUBIC)
            options["do_resize"] = False
        try:
            pixels = self.processor.image_processor([image], return_tensors="pt", **options)["pixel_values"][0]
        except ValueError as error:
            if not {"height=0", "width=0"} & set(re.findall(r"\w+=\d+", str(error))):
                raise
            size = f"{image.width} x {image.height} pixels"
            raise RequestError(f"an image of {size} is too thin: scaled to the model's size, one side has no pixels") from None
        names = (self.processor.image_break_token, self.processor.image_end_token)
        row_end, image_end = self.processor.tokenizer.convert_tokens_to_ids(list(names))
        return self.patches(pixels), self.span(pixels.shape[1], pixels.shape[2], row_end, image_end)

    @property
    def unit(self) -> int:
        """Pixels a side of what becomes one visual token."""
        return side(self.config.vision_config.patch_size) * isqrt(self.merge)

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the patches of an image [3, H, W] in reading order: [patches, 3 * patch * patch]."""
        patch = side(self.config.vision_config.patch_size)
        cut: torch.Tensor = pixels.unflatten(2, (-1, patch)).unflatten(1, (-1, patch))  # [3, rows, patch, columns, patch]
        return cut.permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)

    def span(self, height: int, width: int, row_end: int, image_end: int) -> ImageSpan:
        """Return the tokens that an image of so many pixels puts into the prompt.

        Args:
            height: in pixels, as the tower sees the image.
            width: in pixels.
            row_end: id of the mark behind every row but the last.
            image_end: id of the mark behind the last.
        """
        patch = side(self.config.vision_config.patch_size)
        rows, columns = height // self.unit, width // self.unit
        ids = ((VISUAL,) * columns + (row_end,)) * rows
        return ImageSpan((*ids[:-1], image_end), (Area(rows, columns),), 1, (height // patch, width // patch))

    def arrange(self, table: torch.Tensor, spans: tuple[ImageSpan, ...]) -> torch.Tensor:
        """Average the values of patches in reading order, [B * patches, C], over those of one visual token: [B, N, C]."""
        counts, fold = [span.cut[0] * span.cut[1] for span in spans], isqrt(self.merge)
        parts = []
        for part, span in zip(table.unflatten(0, (-1, sum(counts))).split(counts, 1), spans, strict=True):
            rows, columns = span.areas[0].rows, span.areas[0].columns
            parts.append(part.unflatten(1, (rows, fold, columns, fold)).mean((2, 4)).flatten(1, 2))
        return torch.cat(parts, 1)


_grid_span = lru_cache(maxsize=256)(grid_span)


def tile_areas(down: int, across: int, one: int) -> list[Area]:
    """Return the areas of an image's tiles in reading order, each of ``one`` x ``one`` tokens."""
    return [
        Area(one, one, row / down, column / across, (row + 1) / down, (column + 1) / across)
        for row in range(down)
        for column in range(across)
    ]


def side(size: int | list[int] | tuple[int, ...]) -> int:
    """Return the pixels of a square's side, which some configurations write down twice."""
    return size if isinstance(size, int) else size[0]
