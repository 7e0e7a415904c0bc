"""Results that outlive a run: what self-checks of models came to, in a folder of this user. Needs no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.errors import RequestError
from harness.files import read_json, whole

FOLDER = "PRUNESCOPE_CACHE"
"""Environment variable that names the folder."""


def cache_folder() -> Path | None:
    """Return the folder: ``PRUNESCOPE_CACHE``, else ``prunescope`` in ``XDG_CACHE_HOME`` or ``~/.cache``; None without a home."""
    if own := os.environ.get(FOLDER):
        return Path(own)
    if os.path.isabs(base := os.environ.get("XDG_CACHE_HOME", "")):  # of another one, its rules say that it is not read
        return Path(base) / "prunescope"
    with suppress(RuntimeError):
        return Path.home() / ".cache" / "prunescope"
    return None


def stored(key: str) -> dict[str, Any] | None:
    """Return what was stored under a key; None where that is nothing, or nothing that can be read."""
    path = _file(key)
    with suppress(RequestError):
        found = None if path is None else read_json(path)
        return found if isinstance(found, dict) else None
    return None


def store(key: str, content: Mapping[str, Any]) -> None:
    """Store what JSON can hold under a key; where nothing can be written, nothing is stored."""
    path = _file(key)
    with suppress(OSError):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as file:
                file.write(json.dumps(content, allow_nan=False).encode())


def _file(key: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "self-checks" / f"{key}.json"
