"""The unit in which a run is answered: a batch of images under the cells that have no answers on it yet, and what it gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.store.cell_results import CellResult
from harness.store.layouts import ImageLayout
from harness.store.schema import ImageRow, QuestionRow
from methods.kernels import LoopRun


@dataclass(frozen=True)
class Shard:
    """A batch of images, and the cells that have no answers on it yet."""

    place: int  # of its first image
    cells: tuple[str, ...]  # keys
    first: bool = False  # whether it is the first of a run in which nothing is answered yet
    # by key and question the counts of cells that have answered already, and that other cells are still to take
    measured: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict, hash=False)


@dataclass
class ShardResult:
    """What a shard gave, as `RunFolder.add_batch` takes it; cells go by their keys."""

    images: list[ImageRow] = field(default_factory=list)
    questions: list[QuestionRow] = field(default_factory=list)
    layouts: list[ImageLayout] = field(default_factory=list)  # of the images as they are, where they differ
    cell_results: dict[str, list[CellResult]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # reasons
    shortened: set[str] = field(default_factory=set)  # questions whose answers ended where the model's maximum is
    loops: set[LoopRun] = field(default_factory=set)  # greedy ones, and which code ran them
    size: int = 0  # images that fitted into memory at a time
    devices: str = ""  # GPUs that it was computed on, as `names_of` calls them
