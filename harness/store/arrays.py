"""Rows of tables as arrays, and masks as the bits that tables hold. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import SupportsInt

import numpy as np

from harness.store.cell_results import Value
from harness.store.schema import COUNTS

_TEXTS = frozenset({"question", "image", "family", "prediction", "kept", "failed", "read", "layers", *COUNTS})


def columns_of(names: Sequence[str], rows: Sequence[tuple[Value, ...]]) -> dict[str, np.ndarray]:
    """Return rows as columns by name: texts and bytes as objects, numbers as floats with nan for null.

    >>> columns_of(["question", "score"], [("q0", 1), ("q1", None)])["score"]
    array([ 1., nan])
    """
    columns: dict[str, tuple[Value, ...]] = dict(zip(names, zip(*rows))) if rows else {name: () for name in names}
    return {
        name: np.array(values, dtype=object)
        if name in _TEXTS
        else np.array([np.nan if v is None else v for v in values], dtype=float)
        for name, values in columns.items()
    }


def pack(mask: np.ndarray) -> bytes:
    """Return a bool mask as bits, eight a byte."""
    return np.packbits(mask.ravel()).tobytes()


def unpack(bits: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Return the mask that `pack` made bits of.

    Args:
        bits: of the mask.
        shape: of the mask.
    """
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=prod(shape)).astype(bool).reshape(shape)


def packed_counts(counts: Iterable[SupportsInt]) -> bytes:
    """Return counts as ``layer_counts`` and ``tower_counts`` hold them."""
    return np.asarray([int(count) for count in counts], "<i4").tobytes()


def unpacked_counts(blob: bytes) -> tuple[int, ...]:
    """Return the counts that `packed_counts` wrote.

    >>> unpacked_counts(packed_counts([36, 9]))
    (36, 9)
    """
    return tuple(np.frombuffer(blob, "<i4").tolist())
