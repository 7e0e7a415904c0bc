"""Random streams that depend on names alone: a cell draws the same whatever runs beside it."""

from __future__ import annotations

import hashlib


def stream(*parts: object) -> int:
    """Return a seed that depends on the parts alone: 62 bits of their BLAKE2 hash."""
    text = "|".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 2
