"""The unit of work of a run: a batch of images under the cells that have no answers on it yet, and what it gave."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.store.findings import CellResult, Layout


@dataclass(frozen=True)
class Shard:
    """A batch of images, and the cells that have no answers on it yet."""

    place: int  # of its first image
    cells: tuple[str, ...]  # keys


@dataclass
class ShardResult:
    """What a shard gave, as `RunFolder.add_batch` takes it; cells go by their keys."""

    images: list[tuple] = field(default_factory=list)
    questions: list[tuple] = field(default_factory=list)
    layouts: list[Layout] = field(default_factory=list)
    areas: list[tuple] = field(default_factory=list)
    findings: dict[str, list[CellResult]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # reasons
    size: int = 0  # images that fitted into memory at a time
