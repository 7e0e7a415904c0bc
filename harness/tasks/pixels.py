"""From an image of any kind that Pillow opens to the 8-bit RGB that models take: one rule for every place where images enter.

Depth: of 16 bits the high byte is taken, which undoes both ways of writing 8 bits as 16 (v * 257 and v * 256), and is what
libpng and Pillow make of 16-bit colours. What may be transparent is laid onto white. 32-bit integers and floats state no
range, so any picture made of them would be a guess: they are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_WHITE_IS_ZERO, _PHOTOMETRIC = 0, 262
_UNKNOWN = {"I": "32-bit integers", "F": "32-bit floating-point numbers"}
_ANIMATED = frozenset({"GIF", "WEBP", "TIFF", "PNG"})
"""Formats whose files may hold several pictures of equal standing. A JPEG's further ones (MPO) are previews and depth maps."""


class UnreadablePixels(ValueError):
    """An image whose numbers have no stated range, or several pictures where one is wanted; the message says what would do."""


def rgb(image: Image.Image) -> Image.Image:
    """Return an image in 8-bit RGB, upright by its EXIF orientation; one that is so already is returned as it is.

    Raises:
        UnreadablePixels: for 32-bit integers and floating-point numbers, and for animations.
    """
    from PIL import Image

    if image.mode == "RGB" and image.format is None and not image.info.keys() & {"exif", "transparency"} and 0 not in image.size:
        return image  # of a program, not of a file
    frames = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
    if frames > 1:
        raise UnreadablePixels(f"it holds {frames} pictures, and one is wanted; save the one that is meant")
    if image.width == 0 or image.height == 0:
        raise UnreadablePixels("it has no pixels")
    upright = _to_8_bits(image)
    if upright.has_transparency_data:
        coloured = upright.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """An image upright and with 8 bits a channel."""
    import numpy as np
    from PIL import Image, ImageOps

    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))  # which know no deeper ones
    if image.mode in _UNKNOWN and not deep:
        what = _UNKNOWN[image.mode]
        raise UnreadablePixels(f"its pixels are {what}, whose black and white are not stated; save it with 8 or 16 bits a pixel")
    inverted = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    clear = _transparent(image)
    upright = ImageOps.exif_transpose(image)
    if not deep:
        if clear is not None:
            upright.info["transparency"] = clear
        return upright
    values = np.asarray(upright).astype(np.int64)
    grey = Image.fromarray(((65535 - values if inverted else values) >> 8).astype(np.uint8))
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _transparent(image: Image.Image) -> object:
    """The colour of a PNG that is transparent, which Pillow gives as the file has it, as its pixels are given.

    Pixels of two and four bits are scaled, and of 16-bit colours the high bytes are read.
    """
    clear = image.info.get("transparency")
    layers = [layer[3] for layer in getattr(image, "tile", ())]
    scale = {"L;2": 85, "L;4": 17}.get(str(layers[0])) if layers else None
    if isinstance(clear, int) and scale is not None:
        return clear * scale
    return tuple(value >> 8 for value in clear) if isinstance(clear, tuple) and "RGB;16B" in layers else clear
