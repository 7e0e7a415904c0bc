"""How far rounding may take a machine from the one that stored the results, and how numbers are held against each other.

The two figures of each precision were fixed before any machine was compared. In float32 two machines differ by the order in which
they add up: some 1e-6 of a signal after a dozen layers; products in TF32 differ by 3e-4 and more. In bfloat16 every result is
rounded to 2^-9 = 2e-3 of itself, some dozens of times on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from methods.types import Signals

NOISE = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2}
"""The least relative noise with which a near tie is told, by precision: several times what reordered sums differ by."""
LIMIT = {dtype: 5 * noise for dtype, noise in NOISE.items()}
"""The largest relative distance that is rounding, by precision, of signals, merged tokens and logits."""
DRAWS = 24
"""How often a choice is made again on signals with noise, where it is not the stored one."""
PROJECTIONS = 8
_EXACT = frozenset({"sizes", "seeds", "evidence", "norm_scale"})
"""Signals that no machine rounds: counts, random streams, marks, and weights as they are stored."""


@dataclass(frozen=True)
class Fingerprint:
    """A tensor as a few numbers: two tensors are as far apart as their projections on random signs are, give or take a half."""

    shape: tuple[int, ...]
    norm: float  # root of the sum of squares of what is finite
    infinite: int  # how many numbers are not finite
    projections: tuple[float, ...]  # sums with random signs of what is finite

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Fingerprint:
        """Return the fingerprint of a tensor of any shape, type and device."""
        values = tensor.detach().cpu().double().flatten()
        finite = values.isfinite()
        flat = values.masked_fill(~finite, 0).numpy()
        sums = _signs(flat.size) @ flat
        return cls(tuple(tensor.shape), float(np.sqrt(flat @ flat)), int((~finite).sum()), tuple(map(float, sums)))

    def numbers(self) -> list[float]:
        """Return norm, infinite numbers and projections, as a file holds them beside the shape."""
        return [self.norm, float(self.infinite), *self.projections]

    @classmethod
    def stored(cls, shape: list[int], numbers: list[float]) -> Fingerprint:
        """Return the fingerprint that a file holds."""
        return cls(tuple(shape), numbers[0], int(numbers[1]), tuple(numbers[2:]))

    def distance(self, other: Fingerprint) -> float:
        """Return how far another tensor is from this one, over the size of this one; infinite where shapes differ.

        Args:
            other: of the tensor on the machine that is checked.
        """
        if (self.shape, self.infinite) != (other.shape, other.infinite):
            return float("inf")
        apart = np.subtract(self.projections, other.projections)
        far = float(np.sqrt(np.mean(apart**2))) / max(self.norm, 1e-30)
        return far if np.isfinite(far) else float("inf")


@lru_cache(32)
def _signs(count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Random signs, [PROJECTIONS, count]: the raw bits of a generator that numpy promises never to change."""
    raw = np.random.PCG64(count).random_raw(max(1, -(-PROJECTIONS * count // 64)))
    bits = np.unpackbits(np.atleast_1d(raw).astype("<u8").view(np.uint8))[: PROJECTIONS * count]
    return np.where(bits.reshape(PROJECTIONS, count) > 0, 1.0, -1.0)


def fingerprints(signals: Signals, needs: frozenset[str]) -> dict[str, Fingerprint]:
    """Return the fingerprints of the declared signals that are there, by name.

    Args:
        signals: what a selector is given.
        needs: the names that it declares.
    """
    tables = {name: getattr(signals, name) for name in sorted(needs)}
    return {name: Fingerprint.of(table) for name, table in tables.items() if table is not None}


def with_noise(signals: Signals, needs: frozenset[str], noise: Mapping[str, float]) -> Iterator[Signals]:
    """Yield the signals of a selector again and again, each time with other random noise as rounding may bring it.

    What is nowhere negative, as attention is, is multiplied by 1 plus noise; to all else noise is added that is relative to the
    root mean square of its row. In every other draw all rows of an image get the same noise, since rounding is alike for tokens
    that are alike. Random numbers are drawn on the host, the same on every machine.

    Args:
        signals: what the selector is given.
        needs: the names that it declares.
        noise: standard deviation by signal; what it does not name stays as it is.
    """
    generator = torch.Generator().manual_seed(24)
    for draw in range(DRAWS):
        given: dict[str, torch.Tensor] = {}
        for name in sorted(needs):
            table = getattr(signals, name)
            if table is not None:
                exact = name in _EXACT or name not in noise or not table.is_floating_point()
                given[name] = table if exact else _noisy(table, noise[name], generator, alike=draw % 2 == 1)
        yield Signals.collected(
            **given, count=signals.count, batch=signals.batch, device=signals.device, grid=signals.grid,
            tile_places=signals.tile_places, tile_grids=signals.tile_grids,
        ).only(needs)  # fmt: skip


def _noisy(table: torch.Tensor, noise: float, generator: torch.Generator, alike: bool) -> torch.Tensor:
    values = table.detach().float()
    size = [*values.shape[:-2], 1, values.shape[-1]] if alike and values.dim() > 2 else values.shape
    drawn = noise * torch.randn(size, generator=generator).to(values.device)
    if bool((values >= 0).all()):
        return (values * (1 + drawn)).to(table.dtype)
    finite = values.isfinite()
    rows = values.masked_fill(~finite, 0).square().mean(-1, keepdim=True).sqrt()
    return torch.where(finite, values + drawn * rows, values).to(table.dtype)
