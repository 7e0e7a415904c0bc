"""How a model is loaded and what its prompts are made of: what every command that loads one can be told.

Importing this file needs neither torch nor transformers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from harness.errors import RequestError

FEWEST_PIXELS, MOST_PIXELS = 64, 10**9
LONGEST_SIDE = 65_536
_SIZE = re.compile(r"(\d{1,6})(?:[xX](\d{1,6}))?")


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded, beside its name, its device and its precision; each is an option of the command line."""

    revision: str | None = None  # of a hub id: branch, tag or commit
    device_map: str | None = None  # as accelerate understands it
    quantize: int | None = None  # bits a weight of the LLM: 4 or 8
    chat_template: str | None = None  # file of a chat template, in the place of the checkpoint's own
    companion: str | None = None  # folder or hub id of a CLIP, in the place of the one that is known
    max_pixels: int | None = None  # an image of more is shrunk, its aspect kept
    image_size: str | None = None  # "640": the longer side of every image; "640x480": width and height

    @classmethod
    def of(cls, request: Any) -> LoadOptions:
        """Return those options of a request that has fields of their names; what it lacks is left open."""
        return cls(**{field.name: getattr(request, field.name, None) for field in fields(cls)})

    @property
    def placing(self) -> str | None:
        """The device map that decides where the model lies; fewer bits come with one. None where the device decides."""
        return self.device_map or (None if self.quantize is None else "auto")

    @property
    def given(self) -> dict[str, str | int]:
        """What is not left open, by the names of the command line."""
        values = {f"--{field.name.replace('_', '-')}": getattr(self, field.name) for field in fields(self)}
        return {option: value for option, value in values.items() if value is not None}

    @property
    def size(self) -> tuple[int, int] | int | None:
        """Width and height of every image, or its longer side, in pixels; None for as it is."""
        found = None if self.image_size is None else _SIZE.fullmatch(self.image_size)
        if found is None:
            return None
        return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))

    def checked(self) -> LoadOptions:
        """Return the options themselves, or raise a `RequestError` for the first thing in them that cannot be."""
        if self.quantize not in (None, 4, 8):
            raise RequestError(f"--quantize {self.quantize}: choose 4 or 8 bits")
        if self.max_pixels is not None and not FEWEST_PIXELS <= self.max_pixels <= MOST_PIXELS:
            raise RequestError(f"--max-pixels {self.max_pixels}: must be {FEWEST_PIXELS} to {MOST_PIXELS:,} pixels an image")
        if self.image_size is not None:
            sides = self.size if isinstance(self.size, tuple) else (self.size,)
            if not all(side is not None and 1 <= side <= LONGEST_SIDE for side in sides):
                raise RequestError(
                    f"--image-size {self.image_size!r}: write the longer side, such as 448, or width and height, such as "
                    f"640x480; a side has 1 to {LONGEST_SIDE:,} pixels"
                )
            if self.max_pixels is not None:
                raise RequestError("--max-pixels: --image-size says already how many pixels an image has; leave one of them away")
        for option, value in self.given.items():
            if isinstance(value, str) and (not value.strip() or any("\ud800" <= c <= "\udfff" for c in value)):
                raise RequestError(f"{option} {value!r}: is empty, or holds bytes that are not UTF-8 text")
        return self


NO_OPTIONS = LoadOptions()
"""A model as it is."""
