"""Images of task files: where they may lie, how large they may be, and how they are decoded."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from harness.errors import RequestError
from harness.tasks.rows import Row, kind

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 89_478_485
"""More are refused: Pillow's limit on what may be a decompression bomb (a quarter GiB in RGB)."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is decoded. Others are not even tried: PostScript would be run by another program."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""What counts as an image in a folder."""


@dataclass(frozen=True)
class Picture:
    """An image file or the bytes of one; a call decodes it."""

    source: bytes | Path = field(repr=False)
    name: str  # for messages: where the row stands, and the file
    ident: str = ""  # the path as the file has it, or the digest of the bytes

    def checked(self) -> Picture:
        """Return the picture itself if its file is there.

        Raises:
            RequestError: where there is no such file; pipes and devices are no files.
        """
        try:
            there = isinstance(self.source, bytes) or self.source.is_file()
        except OSError:  # a name longer than any
            there = False
        if not there:
            raise RequestError(f"{self.name}: there is no such file")
        return self

    def __call__(self) -> Image.Image:
        """Decode the image in RGB, upright by its EXIF orientation.

        Raises:
            RequestError: where it cannot be decoded or has more than `MOST_PIXELS` pixels; the message names it.
        """
        from PIL import Image, ImageOps, UnidentifiedImageError

        self.checked()
        stream = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the limit below is what counts
                with Image.open(stream, formats=FORMATS) as image:
                    if image.width * image.height > MOST_PIXELS:
                        raise RequestError(
                            f"{self.name}: {image.width} x {image.height} pixels are too many; at most {MOST_PIXELS:,} in all"
                        )
                    return ImageOps.exif_transpose(image).convert("RGB")
        except RequestError:
            raise
        except Image.DecompressionBombError:
            raise RequestError(f"{self.name}: too many pixels; at most {MOST_PIXELS:,} in all") from None
        except UnidentifiedImageError:
            raise RequestError(f"{self.name}: not an image that can be read") from None
        except Exception as error:  # decoders raise nearly anything on broken files
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:100]
            raise RequestError(f"{self.name}: the image cannot be decoded ({first})") from None


def picture(cell: Any, row: Row, column: str, root: Path | None) -> Picture:
    """Return the image of a cell, not yet decoded.

    Args:
        cell: a path relative to ``root``, bytes, an object with ``bytes`` or ``path``, or a list of one of these.
        row: the row, for messages.
        column: the column, for messages.
        root: the folder of the file; None where paths have no meaning.

    Raises:
        RequestError: for a cell of another kind, or a path that leaves the folder.
    """
    if isinstance(cell, (list, tuple)) and len(cell) == 1:
        cell = cell[0]
    if isinstance(cell, Mapping) and cell.get("bytes") is not None:
        cell = cell["bytes"]
    elif isinstance(cell, Mapping):
        cell = cell.get("path")
    if isinstance(cell, (bytes, bytearray)):
        return Picture(bytes(cell), f"{row.place}, column {column!r}", identity(cell) or "")
    if isinstance(cell, str) and cell and root is not None:
        return Picture(inside(root, cell, row, column), f"{row.place}, column {column!r}: {cell[:120]}", str(PurePosixPath(cell)))
    if cell is None or cell == "":
        raise row.error(column, "is empty")
    wanted = "image bytes" if root is None else "a path, bytes, or an object with bytes or path"
    raise row.error(column, f"is {kind(cell)}, no image; it should be {wanted}")


def inside(root: Path, text: str, row: Row, column: str) -> Path:
    """Return the path below ``root`` that a cell holds.

    Raises:
        RequestError: for a path that leaves ``root``; the message names the row and the column.
    """
    parts = PurePosixPath(text.replace("\\", "/"))
    if parts.is_absolute() or PureWindowsPath(text).drive or ".." in parts.parts or "\0" in text:
        raise row.error(column, f"{text[:80]!r} leaves the file's folder; write a path below it, without '..'")
    return root / text


def identity(cell: Any) -> str | None:
    """Return 16 digits of BLAKE2 of the image's bytes, or None where the cell holds no bytes."""
    if isinstance(cell, (list, tuple)) and len(cell) == 1:
        cell = cell[0]
    if isinstance(cell, Mapping):
        cell = cell.get("bytes")
    return hashlib.blake2b(cell, digest_size=8).hexdigest() if isinstance(cell, (bytes, bytearray)) else None
