"""From what a Hugging Face processor makes of images and text back to prompts, family by family."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from harness.bridges.prompts import SplitPrompt
from harness.errors import RequestError
from harness.models.adapter import Adapter
from harness.models.prompt import VISUAL, ImageSpan, grid_span
from harness.models.tiling import (
    AnyResolutionTiler,
    InternVLTiler,
    PackedTiler,
    PixtralTiler,
    RowTiler,
    SingleTiler,
    side,
    tile_areas,
)
from harness.store.layouts import Area

IMAGE_INPUTS = ("pixel_values", "image_sizes", "image_grid_thw", "pixel_attention_mask", "batch_num_images")
"""Names of what processors give for images."""
PixelSpan = tuple[torch.Tensor, ImageSpan]
"""An image as the tower takes it, tiles [tiles, 3, H, W] or patches [patches, C], and the tokens that it puts into a prompt."""

_OWN = "text and images must come from the model's own processor, and text must not be truncated"
_MOST = 64  # tokens of the marks before a tile: fewer than their letters


def read(adapter: Adapter, rows: list[list[int]], images: Mapping[str, Any], texts: list[str] | None = None) -> list[SplitPrompt]:
    """Return the prompts of the rows of a batch.

    Args:
        adapter: the model.
        rows: token ids without padding, with the places of the visual tokens.
        images: those of `IMAGE_INPUTS` that the processor gave, by name; they hold the images of all rows in turn.
        texts: what every row asks; by default the text behind its last image, where the processor is known.

    Raises:
        RequestError: where ids and images do not belong together.
    """
    place, tiler = adapter.config.image_token_id, adapter.tiler
    if images.get("pixel_values") is None:
        raise RequestError("input_ids hold the places of images, but pixel_values are missing")
    if isinstance(tiler, InternVLTiler):
        supply = _tiles(adapter, rows, images)
    elif isinstance(tiler, RowTiler):
        supply = _rows(adapter, rows, images)
    elif isinstance(tiler, AnyResolutionTiler):
        supply = _any_resolution(tiler, images)
    elif isinstance(tiler, PackedTiler):
        supply = _packed(tiler, images)
    elif isinstance(tiler, PixtralTiler):
        supply = _with_row_ends(tiler, rows, place, images)
    elif isinstance(tiler, SingleTiler):
        supply = _single(tiler, images)
    else:
        raise RequestError(
            f"prune: the inputs of models with {type(tiler).__name__} are not read yet; see harness/bridges/inputs.py"
        )
    prompts = [_prompt(row, place, supply) for row in rows]
    if next(supply, None) is not None:
        raise RequestError("pixel_values hold more images than input_ids have places for")
    if texts is None and adapter.tokenizer is not None:
        texts = [adapter.decode(list(prompt.question)) for prompt in prompts]
    if texts is None:
        return prompts
    return [SplitPrompt(p.prefix, p.question, p.spans, p.pixels, text) for p, text in zip(prompts, texts, strict=True)]


def _prompt(row: list[int], place: int, supply: Iterator[PixelSpan]) -> SplitPrompt:
    """The prompt of one row; takes its images from those of all rows."""
    prefix: list[int] = []
    start = 0
    found: list[PixelSpan] = []
    while place in row[start:]:
        first = row.index(place, start)
        picture = next(supply, None)
        if picture is None:
            raise RequestError("input_ids have places for more images than pixel_values hold")
        ids = [token if token >= 0 else place for token in picture[1].ids]
        at = first - ids.index(place)
        if at < start or row[at : at + len(ids)] != ids:
            raise RequestError(
                f"the image tokens of input_ids do not fit pixel_values: an image makes {ids.count(place)} of them; {_OWN}"
            )
        prefix += row[start:at] if not found else [VISUAL, *row[start:at]]
        start = at + len(ids)
        found.append(picture)
    pixels = torch.cat([tensor for tensor, _ in found]) if found else None
    return SplitPrompt(tuple(prefix), tuple(row[start:]), tuple(span for _, span in found), pixels)


def _single(tiler: SingleTiler, images: Mapping[str, Any]) -> Iterator[PixelSpan]:
    pixels = images["pixel_values"]
    span = tiler.span(*pixels.shape[-2:])
    for image in pixels.reshape(-1, *pixels.shape[-3:]).split(1):
        yield image, span


def _any_resolution(tiler: AnyResolutionTiler, images: Mapping[str, Any]) -> Iterator[PixelSpan]:
    """Tiles of an image; of several images in a prompt, OneVision takes the first tile of each alone."""
    pixels, sizes = images["pixel_values"], _table(images, "image_sizes")
    counts = images.get("batch_num_images")
    counts = [1] * len(sizes) if counts is None else torch.as_tensor(counts).tolist()
    alone = [count == 1 for count in counts for _ in range(count)] if tiler.is_onevision else [True] * len(sizes)
    for tiles, size, whole in zip(pixels, sizes, alone, strict=True):
        span = tiler.span((size[0], size[1]) if whole else None)
        yield tiles[: span.tiles], span


def _packed(tiler: PackedTiler, images: Mapping[str, Any]) -> Iterator[PixelSpan]:
    start, fold = 0, int(tiler.merge**0.5)
    for cut in _table(images, "image_grid_thw"):
        count = cut[0] * cut[1] * cut[2]
        yield images["pixel_values"][start : start + count], grid_span(cut[1] // fold, cut[2] // fold, tuple(cut))
        start += count


def _with_row_ends(tiler: PixtralTiler, rows: list[list[int]], place: int, images: Mapping[str, Any]) -> Iterator[PixelSpan]:
    """Pixtral's images, padded on the right and below; which marks end their rows stands in the prompt."""
    supply = iter(zip(images["pixel_values"], _table(images, "image_sizes"), strict=True))
    for row in rows:
        start = 0
        while place in row[start:] and (image := next(supply, None)) is not None:
            pixels, (height, width) = image
            first, columns = row.index(place, start), width // tiler.unit
            start = first + (height // tiler.unit) * (columns + 1)
            marks = [row[at] if at < len(row) else place for at in (first + columns, start - 1)]
            yield tiler.patches(pixels[:, :height, :width]), tiler.span(height, width, marks[0], marks[1])
    for pixels, (height, width) in supply:  # images that no prompt has a place for
        yield tiler.patches(pixels[:, :height, :width]), tiler.span(height, width, place, place)


def _table(images: Mapping[str, Any], name: str) -> list[list[int]]:
    """What a processor gives beside the pixels, a row an image."""
    if images.get(name) is None:
        raise RequestError(f"pixel_values have no {name} beside them; pass all that the model's own processor gives")
    table: list[list[int]] = torch.as_tensor(images[name]).tolist()
    return table


def _runs(row: list[int], place: int) -> list[tuple[int, int]]:
    """First and last of the stretches of a token."""
    found, start = [], 0
    while place in row[start:]:
        first = last = row.index(place, start)
        while last + 1 < len(row) and row[last + 1] == place:
            last += 1
        found.append((first, last))
        start = last + 1
    return found


def _tiles(adapter: Adapter, rows: list[list[int]], images: Mapping[str, Any]) -> Iterator[PixelSpan]:
    """InternVL: one stretch of image tokens an image; the whole image is the last tile where there are several."""
    vision, place, start = adapter.config.vision_config, adapter.config.image_token_id, 0
    one = side(vision.image_size) // side(vision.patch_size) // int(adapter.shape.merge**0.5)
    for row in rows:
        for first, last in _runs(row, place):
            count = (last + 1 - first) // one**2
            pixels = images["pixel_values"][start : start + count]
            areas = [Area(one, one)] if count == 1 else [*tile_areas(*canvas(pixels), one), Area(one, one)]
            ids = (VISUAL if token == place else token for token in row[first - 1 : last + 2])
            yield pixels, ImageSpan(tuple(ids), tuple(areas), count)
            start += count


def canvas(tiles: torch.Tensor) -> tuple[int, int]:
    """Return rows and columns of an image's tiles: the arrangement that looks most like the whole image, the last tile.

    Args:
        tiles: [tiles, 3, H, W] in reading order, then the whole image.
    """
    count, height = len(tiles) - 1, tiles.shape[-1]
    whole, best = tiles[-1].float(), (float("inf"), (1, count))
    for down in (size for size in range(1, count + 1) if count % size == 0):
        across = count // down
        large = tiles[:-1].float().unflatten(0, (down, across)).permute(2, 0, 3, 1, 4)  # [3, down, H, across, W]
        small = torch.nn.functional.interpolate(large.flatten(3).flatten(1, 2)[None], (height, height), mode="area")[0]
        best = min(best, (float((small - whole).square().mean()), (down, across)))
    return best[1]


class _TileMarks:
    """What the processors of SmolVLM and Idefics3 write around tiles, found in token ids by their text.

    A tokenizer may know each mark as one token or make several of it, so spaces between tokens do not count.

    Args:
        processor: of transformers; the names of its marks differ by family.
    """

    def __init__(self, processor: Any) -> None:
        self.tokenizer = processor.tokenizer
        self.edge: str = getattr(processor, "fake_image_token", "<fake_token_around_image>")
        older = getattr(processor, "global_image_tag", "<global-img>")  # Idefics3's name of the same
        whole: str = getattr(processor, "global_image_token", older)
        self.name = re.compile(rf"{re.escape(self.edge)}(?:<row_(\d+)_col_(\d+)>|{re.escape(whole)})$")

    def text(self, ids: list[int]) -> str:
        """The text of token ids, without spaces."""
        return "".join(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False).split())

    def before(self, ids: list[int]) -> tuple[int, tuple[int, int] | None]:
        """How many of the last ids are the marks before a tile, and its row and column; None for the whole image."""
        for count in range(1, min(len(ids), _MOST) + 1):
            found = self.name.search(self.text(ids[-count:]))
            if found is not None:
                return count, None if found[1] is None else (int(found[1]), int(found[2]))
        raise RequestError(f"no {self.edge} and name of a tile stand before image tokens of input_ids; {_OWN}")

    def behind(self, ids: list[int]) -> int:
        """How many of the first ids are the mark behind an image."""
        found = (count for count in range(1, min(len(ids), _MOST) + 1) if self.text(ids[:count]).startswith(self.edge))
        count = next(found, None)
        if count is None:
            raise RequestError(f"no {self.edge} stands behind the last image tokens of an image in input_ids; {_OWN}")
        return count


def _rows(adapter: Adapter, rows: list[list[int]], images: Mapping[str, Any]) -> Iterator[PixelSpan]:
    """SmolVLM and Idefics3: a stretch a tile, each behind the name of its row and column; the whole image is the last.

    Marks are read as text: a tokenizer may know each as one token or make several of it.
    """
    if adapter.tokenizer is None:
        raise RequestError(f"{adapter.config.model_type} names its tiles in the text: pass processor=")
    place, vision = adapter.config.image_token_id, adapter.config.vision_config
    one = vision.image_size // vision.patch_size // int(adapter.shape.merge**0.5)
    mask, marks = images.get("pixel_attention_mask"), _TileMarks(adapter.processor)
    for number, row in enumerate(rows):
        used, free, begin = 0, 0, 0
        named: list[tuple[int, int]] = []  # tiles of an image so far
        for start, last in _runs(row, place):
            head, name = marks.before(row[free:start])
            if not named:
                begin = start - head
            free = last + 1
            if name is not None:
                named.append(name)
                continue
            down, across = named[-1] if named else (0, 0)
            if named != [(r, c) for r in range(1, down + 1) for c in range(1, across + 1)]:
                raise RequestError(f"the marks of an image's tiles in input_ids are not row by row: {_listed(named)}")
            free += marks.behind(row[free:])
            tile = len(named) + 1
            areas = [*tile_areas(down, across, one), Area(one, one)]
            ids = (VISUAL if token == place else token for token in row[begin:free])
            if mask is not None and not bool(mask[number, used : used + tile].all()):
                raise RequestError("pixel_attention_mask hides a part of an image, which the engine does not support")
            yield images["pixel_values"][number, used : used + tile], ImageSpan(tuple(ids), tuple(areas), tile)
            used, named = used + tile, []


def _listed(named: list[tuple[int, int]]) -> str:
    """Names of tiles as their marks are written, the first few."""
    return ", ".join(f"<row_{row}_col_{column}>" for row, column in named[:4]) + (", ..." if len(named) > 4 else "")
