"""What the cells of a sweep compute once for a batch: the tower, the projection, and the decoder layers before they part.

Cells are walks down one tree. Its root is what left the tower; an edge is a step, with the layers behind it. Where
several walks go on from the same place, the engine leaves a `Stop` there; the next walk starts from it, with caches that
are forked by reference. A stop is let go once the last walk has passed it, so a sweep holds one KV cache for every fork
that is still open, however many cells it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from harness.recorder import Recorder
from harness.signals import Ask, Tower, Towers
from methods.types import ModelShape, PositionMode, Step

if TYPE_CHECKING:
    from harness.engine import Flow
    from harness.models.adapter import Adapter
    from harness.probes import Probe

Taken = tuple[PositionMode | None, tuple[Step, ...]]
"""The steps that a walk has taken, and how it numbers tokens; where none were taken, that is the same for all."""


@dataclass(frozen=True)
class Walk:
    """A cell's way through the model."""

    steps: tuple[Step, ...]
    positions: PositionMode
    swaps: bool = False  # whether it is walked again with the evidence swapped in

    def stops(self, layers: int) -> list[tuple[Taken, int, Step | None]]:
        """Before which decoder layers it could part from others, after which steps, and what it does there."""
        found = [
            (taken(self.positions, self.steps[:place]), step.site.layer, step)
            for place, step in enumerate(self.steps)
            if step.site.stage == 2
        ]
        return [*found, (taken(self.positions, self.steps), layers, None)]


def taken(positions: PositionMode, steps: tuple[Step, ...]) -> Taken:
    return (positions if steps else None), steps


@dataclass
class Stop:
    """A batch before a decoder layer."""

    layer: int
    flow: Flow
    entered: torch.Tensor  # int64 [R, K0] original tokens that entered the LLM
    probe: Probe | None  # what the layer before it was asked for
    counts: list[float]  # visual tokens in each layer so far
    recorder: Recorder | None

    def fork(self, rows: list[int] | None = None) -> Stop:
        """From here on for another walk, of some of the rows."""
        forked = replace(self, flow=self.flow.fork(rows))
        if rows is None:
            return forked
        return replace(forked, entered=self.entered[rows], probe=self.probe and self.probe.rows(rows), recorder=None)


@dataclass
class Junctions:
    """Where stops are worth their memory: what several walks have in common.

    Args:
        walks: of all cells, in the order in which they are run.
        layers: of the decoder.
    """

    walks: Sequence[Walk]
    layers: int
    asks: dict[Taken, dict[int, Ask]] = field(default_factory=dict, init=False)
    last: dict[Taken, int] = field(default_factory=dict, init=False)  # the last walk that comes by

    def __post_init__(self) -> None:
        users: dict[Taken, list[tuple[int, int, Step | None]]] = {}
        for place, walk in enumerate(self.walks):
            for key, layer, step in walk.stops(self.layers):
                users.setdefault(key, []).append((place, layer, step))
        for key, found in users.items():
            again = any(self.walks[place].swaps and key == taken("original", ()) for place, _, _ in found)
            if len(found) < 2 and not again:
                continue
            ends = sum(step is None for _, _, step in found)
            self.last[key] = max(place for place, _, _ in found)
            layered = self.asks.setdefault(key, {})
            for _, layer, step in found:
                if step is not None or ends > 1:
                    layered[layer] = layered.get(layer, Ask()) | Ask.of(step)


class Shared:
    """What is known of a batch already.

    Args:
        adapter: the model.
        tower: what left its tower.
        walks: of the cells that the batch is run under, by the shape of its images; none of them means that nothing
            but the tower and the projection is kept.
        record: whether runs are recorded, attention included.
    """

    def __init__(
        self,
        adapter: Adapter,
        tower: Tower | Towers,
        walks: Callable[[ModelShape], Sequence[Walk]] | None = None,
        record: bool = False,
    ) -> None:
        self.adapter, self.tower, self.walks, self.record = adapter, tower, walks, record
        self.found: dict[Taken, dict[int, Stop]] = {}
        self.parts: dict[tuple[int, ...], Shared] = {}

    @cached_property
    def projected(self) -> torch.Tensor:
        """All visual tokens in the space of the LLM, [B, N, D]; of images that are alike."""
        return self.adapter.projected(self.tower)

    @cached_property
    def junctions(self) -> Junctions:
        walks = () if self.walks is None else self.walks(self.adapter.shape_for(self.tower.blocks))
        return Junctions(walks, self.adapter.shape.layers)

    @cached_property
    def bare(self) -> Shared:
        """What does not depend on the random streams of images and questions."""
        made = Shared(self.adapter, self.tower)
        if isinstance(self.tower, Tower):
            made.projected = self.projected
        return made

    def part(self, images: torch.Tensor) -> Shared:
        """Of some of the images, int64 [B']."""
        key = tuple(images.tolist())
        if key not in self.parts:
            self.parts[key] = Shared(self.adapter, self.tower.images(images), self.walks, self.record)
        return self.parts[key]

    def ask(self, key: Taken, layer: int) -> Ask:
        """What walks that part before a layer ask of the one before it."""
        return self.junctions.asks.get(key, {}).get(layer, Ask())

    def nearest(self, walk: Walk) -> Stop | None:
        """The last stop on a walk's way that is known."""
        for key, layer, _ in reversed(walk.stops(self.adapter.shape.layers)):
            known = [stop for at, stop in self.found.get(key, {}).items() if at <= layer]
            if known:
                return max(known, key=lambda stop: stop.layer)
        return None

    def wants(self, key: Taken, layer: int) -> bool:
        """Whether a stop here is worth keeping and not known yet."""
        return layer in self.junctions.asks.get(key, {}) and layer not in self.found.get(key, {})

    def keep(self, key: Taken, stop: Stop) -> None:
        self.found.setdefault(key, {})[stop.layer] = stop

    def passed(self, place: int) -> None:
        """Let go of the stops that no walk behind the one at ``place`` comes by."""
        for part in self.parts.values():
            part.passed(place)
        for key in [key for key in self.found if self.junctions.last[key] <= place]:
            del self.found[key]
