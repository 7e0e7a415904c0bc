"""Rotary angles of a decoder: computed by its own module, and looked up again where their positions are plain numbers."""

from __future__ import annotations

from typing import Any

import torch

from harness.models.probes import Rotary, mean_cosine, mean_cosine_of_gaps

_LEAST = 1024  # positions that a table holds at least; one that is too short is made anew, of twice as many
_CHANGING = ("dynamic", "longrope")  # kinds whose angles at a position depend on the longest there is


class RotaryAngles:
    """Cosines and sines of the rotary angles, by position.

    An angle depends on a position alone, so those of text are computed once for a dtype and a device, and looked up from then
    on: tables lie on the device, and which of their rows are wanted the host knows.

    Args:
        module: the decoder's rotary embedding, of transformers; its call differs by family.
        axes: of positions.
        first: position of the first token.
    """

    def __init__(self, module: Any, axes: int, first: int) -> None:
        self.module, self.axes, self.first = module, axes, first
        kinds = getattr(module, "rope_type", _CHANGING[0])
        said = kinds.values() if isinstance(kinds, dict) else (kinds,)
        self.fixed = not any(name in str(kind) for kind in said for name in _CHANGING)
        self._tables: dict[tuple[str, torch.dtype, torch.device], Rotary] = {}
        self._numbers: dict[torch.device, torch.Tensor] = {}

    def at(self, hidden: torch.Tensor, positions: torch.Tensor, kind: str = "full_attention") -> Rotary:
        """Return cosines and sines at positions, computed anew.

        Args:
            hidden: any tensor of the dtype and device that they are wanted in.
            positions: int64 [G, L], or [A, G, L] where they have several axes; on the same device.
            kind: of the decoder layer, as `AttentionKind.name`.
        """
        positions = positions + self.first
        if self.axes > 1 and positions.dim() == 2:
            positions = positions.expand(self.axes, -1, -1)
        if hasattr(self.module, "layer_types"):  # angles differ between kinds of layers
            cosines, sines = self.module(hidden, positions, kind)
        else:
            cosines, sines = self.module(hidden, position_ids=positions)
        return cosines.to(hidden.device), sines.to(hidden.device)

    def look_up(self, hidden: torch.Tensor, positions: torch.Tensor, there: torch.Tensor, kind: str) -> Rotary:
        """Return cosines and sines at positions that the host knows, from a table; computed anew where no table can hold them.

        Args:
            hidden: any tensor of the dtype and device that they are wanted in.
            positions: int64 [G, L], or [A, G, L] where they have several axes; on the host.
            there: the same positions, on the device.
            kind: of the decoder layer.
        """
        if positions.dim() > 2 or not self.fixed or not positions.numel():
            return self.at(hidden, there, kind)
        key, longest = (kind, hidden.dtype, hidden.device), int(positions.max()) + 1
        if key not in self._tables or self._tables[key][0].shape[-2] < longest:
            numbers = torch.arange(max(_LEAST, 2 * longest), device=hidden.device)
            self._tables[key] = self.at(hidden, numbers[None], kind)
        cosines, sines = self._tables[key]
        if (first := first_of_run(positions)) is not None:
            run = slice(first, first + positions.shape[1])
            alike: tuple[torch.Tensor, torch.Tensor] = tuple(  # type: ignore[assignment]  # of two
                table[..., run, :].expand(*table.shape[:-3], len(positions), -1, -1) for table in (cosines, sines)
            )
            return alike
        flat = there.reshape(-1)
        return (
            cosines.squeeze(-3).index_select(-2, flat).unflatten(-2, there.shape),
            sines.squeeze(-3).index_select(-2, flat).unflatten(-2, there.shape),
        )

    def numbers(self, positions: torch.Tensor, device: torch.device) -> torch.Tensor | None:
        """Return positions of the host, int64 [G, L], as a view of what lies on a device; None where they are no one run."""
        if (first := first_of_run(positions)) is None:
            return None
        end = first + positions.shape[1]
        if device not in self._numbers or len(self._numbers[device]) < end:
            self._numbers[device] = torch.arange(max(_LEAST, 2 * end), device=device)
        return self._numbers[device][first:end].expand(len(positions), -1)

    def response(self, queries: torch.Tensor, keys: torch.Tensor, kind: str) -> torch.Tensor:
        """Return the mean cosine of the rotary angles between positions; see `Adapter.rope_response`."""
        if not hasattr(self.module, "inv_freq") or self.axes > 1:
            like = torch.zeros(1, device=queries.device)
            return mean_cosine(self.at(like, queries, kind), self.at(like, keys, kind))
        return mean_cosine_of_gaps(queries, keys, self.module.inv_freq.to(queries.device, torch.float32))


def first_of_run(positions: torch.Tensor) -> int | None:
    """Return the first number where all rows of int64 [G, L], on the host, count on from the same one; else None."""
    first = int(positions[0, 0])
    run = torch.arange(first, first + positions.shape[1])
    return first if bool((positions == run).all()) else None
