"""Images of task files: where they may lie, how large they may be, and how they are decoded."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from harness.errors import RequestError, first_line
from harness.tasks.listed import listed, looks_listed
from harness.tasks.pixels import UnreadablePixels, rgb
from harness.tasks.rows import Row, kind

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 89_478_485
"""More are refused: Pillow's limit on what may be a decompression bomb (a quarter GiB in RGB)."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is decoded. Others are not even tried: PostScript would be run by another program."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""What counts as an image in a folder."""
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0A", "UDE", "UDI", "UDM", "UDQ", "UDU", "UDY")
"""How base64 of an image file begins, format by format."""
_SHORTEST = 65  # characters of base64; VLMEvalKit takes up to 64 for the index of another row


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
        """Decode the image in 8-bit RGB, as `harness.tasks.pixels.rgb` makes it.

        Raises:
            RequestError: where it cannot be decoded or has more than `MOST_PIXELS` pixels; the message names it.
        """
        from PIL import Image, UnidentifiedImageError

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
                    return rgb(image)
        except RequestError:
            raise
        except UnreadablePixels as error:
            raise RequestError(f"{self.name}: {error}") from None
        except Image.DecompressionBombError:
            raise RequestError(f"{self.name}: too many pixels; at most {MOST_PIXELS:,} in all") from None
        except UnidentifiedImageError:
            raise RequestError(f"{self.name}: not an image that can be read") from None
        except Exception as error:  # decoders raise nearly anything on broken files
            first = first_line(error, 100)
            raise RequestError(f"{self.name}: the image cannot be decoded ({first})") from None


def picture(cell: Any, row: Row, column: str, root: Path | None) -> Picture:
    """Return the image of a cell, not yet decoded.

    Args:
        cell: a path relative to ``root``, bytes, base64, an object with ``bytes`` or ``path``, or a list of one of these.
        row: the row, for messages.
        column: the column, for messages.
        root: the folder of the file; None where paths have no meaning.

    Raises:
        RequestError: for a cell of another kind, or a path that leaves the folder.
    """
    if isinstance(cell, (list, tuple)) and len(cell) == 1:
        cell = cell[0]
    content = _content(cell)
    if content is not None:
        return Picture(content, f"{row.place}, column {column!r}", identity(content) or "")
    if isinstance(cell, Mapping) and (cell.get("path") is not None or not images_of(cell)):
        cell = cell.get("path")
    if isinstance(cell, str) and re.match(r"data:|https?://", cell):
        what = "the address of an image; fetch it, and write its path" if cell.startswith("http") else "a data URI of no image"
        raise row.error(column, f"is {what}")
    if isinstance(cell, str) and cell and root is not None:
        if len(cell) > 255 and _BASE64.fullmatch(cell):
            raise row.error(column, "is base64 of no image")
        return Picture(inside(root, cell, row, column), f"{row.place}, column {column!r}: {cell[:120]}", str(PurePosixPath(cell)))
    if cell is None or cell == "":
        raise row.error(column, "is empty")
    wanted = "image bytes" if root is None else "a path, bytes, base64, or an object with bytes or path"
    raise row.error(column, f"is {kind(cell)}, no image; it should be {wanted}")


def images_of(cell: Any) -> list[Any]:
    """Return the images that a cell holds, as cells of one image each: none, one, or those of a list or a list as text."""
    if isinstance(cell, str) and looks_listed(cell):
        found = listed(cell)
        cell = found if isinstance(found, list) else cell
    if isinstance(cell, Mapping) and all(value is None for value in cell.values()):
        return []
    if isinstance(cell, (list, tuple)):
        return [one for item in cell for one in images_of(item)]
    return [] if cell is None or cell == "" or cell != cell else [cell]


def _content(cell: Any) -> bytes | None:
    """The bytes of an image that a cell holds: as they are, in an object, as base64 or as a data URI; None where it has none."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes")
    if isinstance(cell, (bytes, bytearray)):
        return bytes(cell)
    if not isinstance(cell, str):
        return None
    given = re.match(r"data:image/[\w.+-]+;base64,", cell)
    text = cell[given.end() :] if given else cell
    if given is None and not (len(text) >= _SHORTEST and text.lstrip().startswith(_STARTS)):
        return None
    if _BASE64.fullmatch(text) is None:
        return None
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


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
    content = _content(cell)
    return None if content is None else hashlib.blake2b(content, digest_size=8).hexdigest()
