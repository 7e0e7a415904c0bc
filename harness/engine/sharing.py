"""What the cells of a sweep compute once for a batch: the tower, the projection, and the decoder layers before they part.

Cells are paths down one prefix tree. Its root is what left the tower; an edge is a step, with the layers behind it. Where
several paths go on from the same place, the engine leaves a `PrefixCheckpoint` there; the next path starts from it, with caches
that are forked by reference. A checkpoint is let go once the last path has passed it, so a sweep holds one KV cache for
every fork that is still open, however many cells it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from harness.engine.decoder_signals import SignalRequest
from harness.engine.prefill_state import PrefillState
from harness.engine.recorder import Recorder
from harness.engine.signals import GroupedVisionOutput, VisionOutput
from harness.models.adapter import Adapter
from harness.models.probes import AttentionProbe
from methods.types import ModelShape, PositionMode, Step

PrefixKey = tuple[PositionMode | None, tuple[Step, ...]]
"""How a path numbers tokens, and the steps that it has taken; where none were taken, numbering is the same for all."""


@dataclass(frozen=True)
class CellPath:
    """A cell's way through the model: the steps it takes one after the other."""

    steps: tuple[Step, ...]
    positions: PositionMode
    swaps: bool = False  # whether it is run again with the evidence swapped in

    def checkpoints(self, layers: int) -> list[tuple[PrefixKey, int, Step | None]]:
        """Return the places where it could part from other paths.

        Args:
            layers: of the decoder.

        Returns:
            Of each place the steps taken before it, the decoder layer before which it is, and the step taken there; None
            behind the last layer.
        """
        found: list[tuple[PrefixKey, int, Step | None]] = [
            (prefix_key(self.positions, self.steps[:index]), step.site.layer, step)
            for index, step in enumerate(self.steps)
            if step.site.stage == 2
        ]
        return [*found, (prefix_key(self.positions, self.steps), layers, None)]


def prefix_key(positions: PositionMode, steps: tuple[Step, ...]) -> PrefixKey:
    """Return the key of what a path has in common with all that took the same steps."""
    return (positions if steps else None), steps


@dataclass
class PrefixCheckpoint:
    """A batch before a decoder layer, from which several paths go on."""

    layer: int
    state: PrefillState
    entered: torch.Tensor  # int64 [R, K0] original tokens that entered the LLM
    probe: AttentionProbe | None  # what the layer before it was asked for
    counts: list[float]  # visual tokens in each layer so far
    recorder: Recorder | None

    def fork(self, rows: list[int] | None = None) -> PrefixCheckpoint:
        """Return the same place for another path, of some of the rows; caches are forked by reference."""
        forked = replace(self, state=self.state.fork(rows))
        if rows is None:
            return forked
        return replace(forked, entered=self.entered[rows], probe=self.probe and self.probe.select(rows), recorder=None)


@dataclass
class PrefixTree:
    """Where checkpoints are worth their memory: what several paths have in common.

    Args:
        paths: of all cells, in the order in which they are run.
        layers: of the decoder.
    """

    paths: Sequence[CellPath]
    layers: int
    requests: dict[PrefixKey, dict[int, SignalRequest]] = field(default_factory=dict, init=False)
    last_path: dict[PrefixKey, int] = field(default_factory=dict, init=False)  # index of the last path that comes by

    def __post_init__(self) -> None:
        users: dict[PrefixKey, list[tuple[int, int, Step | None]]] = {}
        for index, path in enumerate(self.paths):
            for key, layer, step in path.checkpoints(self.layers):
                users.setdefault(key, []).append((index, layer, step))
        for key, found in users.items():
            again = any(self.paths[index].swaps and key == prefix_key("original", ()) for index, _, _ in found)
            if len(found) < 2 and not again:
                continue
            ends = sum(step is None for _, _, step in found)
            self.last_path[key] = max(index for index, _, _ in found)
            layered = self.requests.setdefault(key, {})
            for _, layer, step in found:
                if step is not None or ends > 1:
                    layered[layer] = layered.get(layer, SignalRequest()) | SignalRequest.of(step)


class SharedPrefill:
    """What a batch has computed already, for the cells that come after: the tower's output, and checkpoints in the decoder.

    Args:
        adapter: the model.
        vision: what left its vision tower.
        paths: of the cells that the batch is run under, by the shape of its images; none of them means that nothing
            but the tower and the projection is kept.
        record: whether runs are recorded, attention included.
    """

    def __init__(
        self,
        adapter: Adapter,
        vision: VisionOutput | GroupedVisionOutput,
        paths: Callable[[ModelShape], Sequence[CellPath]] | None = None,
        record: bool = False,
    ) -> None:
        self.adapter, self.vision, self.paths, self.record = adapter, vision, paths, record
        self.checkpoints: dict[PrefixKey, dict[int, PrefixCheckpoint]] = {}  # by decoder layer
        self.parts: dict[tuple[int, ...], SharedPrefill] = {}  # by images

    @cached_property
    def projected(self) -> torch.Tensor:
        """All visual tokens in the space of the LLM, [B, N, D]; of images that are alike."""
        return self.adapter.projected(self.uniform_vision)

    @property
    def uniform_vision(self) -> VisionOutput:
        """What left the vision tower, of images that are alike."""
        assert isinstance(self.vision, VisionOutput), "images that differ run group by group"
        return self.vision

    @cached_property
    def tree(self) -> PrefixTree:
        """The places where the cells' paths part; of images that are alike."""
        paths = () if self.paths is None else self.paths(self.adapter.shape_for(self.uniform_vision.spans))
        return PrefixTree(paths, self.adapter.shape.layers)

    @cached_property
    def without_checkpoints(self) -> SharedPrefill:
        """What does not depend on the random streams of images and questions: the tower's output, and its projection."""
        made = SharedPrefill(self.adapter, self.vision)
        if isinstance(self.vision, VisionOutput):
            made.projected = self.projected
        return made

    def part(self, images: torch.Tensor) -> SharedPrefill:
        """Return what is known of some of the images, int64 [B']."""
        key = tuple(images.tolist())
        if key not in self.parts:
            self.parts[key] = SharedPrefill(self.adapter, self.vision.select(images), self.paths, self.record)
        return self.parts[key]

    def request(self, key: PrefixKey, layer: int) -> SignalRequest:
        """Return the signals that paths which branch before this layer, after the same steps, need from the layer before it."""
        return self.tree.requests.get(key, {}).get(layer, SignalRequest())

    def nearest(self, path: CellPath) -> PrefixCheckpoint | None:
        """Return the last known checkpoint on a path's way; None where there is none."""
        for key, layer, _ in reversed(path.checkpoints(self.adapter.shape.layers)):
            known = [checkpoint for at, checkpoint in self.checkpoints.get(key, {}).items() if at <= layer]
            if known:
                return max(known, key=lambda checkpoint: checkpoint.layer)
        return None

    def wants(self, key: PrefixKey, layer: int) -> bool:
        """Return whether a checkpoint before a decoder layer, after some steps, is worth keeping and not known yet."""
        return layer in self.tree.requests.get(key, {}) and layer not in self.checkpoints.get(key, {})

    def keep(self, key: PrefixKey, checkpoint: PrefixCheckpoint) -> None:
        """Keep a checkpoint for the paths that take the same steps."""
        self.checkpoints.setdefault(key, {})[checkpoint.layer] = checkpoint

    def release(self, path: int) -> None:
        """Free the checkpoints that no later path uses.

        Args:
            path: index of the path that has just run.
        """
        for part in self.parts.values():
            part.release(path)
        for key in [key for key in self.checkpoints if self.tree.last_path[key] <= path]:
            del self.checkpoints[key]
