"""Tables of the host on their way to a device: they travel together, and nobody waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_ALIGNED = 16  # bytes to a multiple of which tables begin in the buffer that they travel in


def send(tables: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Return tables of the host on a device: views of one buffer, which one copy brings there.

    The buffer is in page-locked memory, so the host goes on at once. Tables that are wanted on the host are handed back.

    Args:
        tables: of any shapes and dtypes, all on the host.
        device: where they are wanted.
    """
    if device.type == "cpu":
        return list(tables)
    starts, total = list[int](), 0
    for table in tables:
        starts.append(total)
        total += -(-table.numel() * table.element_size() // _ALIGNED) * _ALIGNED
    buffer = torch.empty(total, dtype=torch.uint8, pin_memory=True)

    def views(whole: torch.Tensor) -> list[torch.Tensor]:
        sizes = [table.numel() * table.element_size() for table in tables]
        parts = (whole[start : start + size] for start, size in zip(starts, sizes, strict=True))
        return [part.view(table.dtype).view(table.shape) for part, table in zip(parts, tables, strict=True)]

    for view, table in zip(views(buffer), tables, strict=True):
        view.copy_(table)
    return views(buffer.to(device, non_blocking=True))


@dataclass(frozen=True)
class Places:
    """Some places of the first axis of tables: known on the host, and on the device that the tables lie on."""

    host: list[int]
    index: torch.Tensor | None  # int64, on the device; None for all places in their order

    @classmethod
    def several(cls, chosen: Sequence[list[int]], count: int, device: torch.device) -> list[Places]:
        """Return several choices of places, which travel together.

        Args:
            chosen: of each the places, on the host.
            count: of all places that there are.
            device: of the tables.
        """
        every = list(range(count))
        some = [places for places in chosen if places != every]
        sent = iter(send([torch.tensor(places, dtype=torch.int64) for places in some], device) if some else ())
        return [cls(places, None if places == every else next(sent)) for places in chosen]

    def of(self, table: torch.Tensor) -> torch.Tensor:
        """Return what a table on the device has at these places; all of it is not copied."""
        return table if self.index is None else table[self.index]

    def copy_of(self, table: torch.Tensor) -> torch.Tensor:
        """Return the same in memory of its own, so that nothing that is written there changes the table."""
        return table.clone() if self.index is None else table[self.index]
