"""What bounds a stage: arithmetic, memory bandwidth or the launching of operations, by what a machine was measured to do.

FLOPs and bytes are computed from the shape of a model and the schedule of a method; operations are counted while they run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from methods import cost
from methods.types import ModelShape, Schedule
from metrics.flops import Flops

ROOFS = ("arithmetic", "bandwidth", "launches")
EXPLAINED = 0.5
"""A roof that explains a smaller share of the measured time is not said to bound it."""


@dataclass(frozen=True)
class MachineRates:
    """What a machine does at its best, each measured alone before a profile."""

    flops: float  # FLOP a second of a large matrix product in the model's precision
    bytes: float  # a second, of a large copy (those read and those written) or of a large product with a vector: the faster
    launch: float  # seconds that an operation takes which computes next to nothing, called as models call it
    dtype: str
    size: int  # rows and columns of the matrices
    device: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return asdict(self)

    def best(self, other: MachineRates) -> MachineRates:
        """Return the better of each rate of two measurements, since what disturbs a machine only makes it slower."""
        launch = min(self.launch, other.launch)
        return replace(self, flops=max(self.flops, other.flops), bytes=max(self.bytes, other.bytes), launch=launch)

    def calling(self, floor: StageBound) -> MachineRates:
        """Return the rates with what an operation takes in a model, host code between operations included.

        Args:
            floor: decoding without an image, at the same batch size. Where arithmetic and bandwidth explain most of it, it tells
                nothing of operations, and the rate stays that of operations alone.
        """
        computing = max(floor.roofs["arithmetic"], floor.roofs["bandwidth"])
        if computing >= EXPLAINED * floor.seconds or not floor.work.operations:
            return self
        return replace(self, launch=max(self.launch, floor.seconds / floor.work.operations))


@dataclass(frozen=True)
class StageWork:
    """What a stage has to do for a batch; 0 where nothing is known to be to do."""

    flops: float  # computed, a multiply-add counted as 2
    bytes: float  # computed: weights once, what goes in and out of every linear map and attention, caches
    operations: int  # counted: calls of torch that are no mere views


@dataclass(frozen=True)
class StageBound:
    """A measured stage beside the times that each roof would take alone."""

    stage: str
    seconds: float  # measured, median
    work: StageWork
    roofs: Mapping[str, float]  # seconds by name of `ROOFS`
    by: str | None  # the roof that takes longest; None where even that explains under `EXPLAINED` of the measured time

    @property
    def explained(self) -> float | None:
        """The largest roof's share of the measured time: 1 is as fast as the machine can be; above 1, its rates were too low."""
        return max(self.roofs.values()) / self.seconds if self.seconds > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it; times in milliseconds."""
        return {
            "stage": self.stage, "measured_ms": 1e3 * self.seconds, **asdict(self.work),
            **{f"{roof}_ms": 1e3 * seconds for roof, seconds in self.roofs.items()},
            "bound": self.by, "explained": self.explained,
        }  # fmt: skip


def bound(stage: str, seconds: float, work: StageWork, rates: MachineRates) -> StageBound:
    """Return what bounds a stage.

    Args:
        stage: its name.
        seconds: measured for the whole batch.
        work: of the whole batch.
        rates: of the machine.

    Source: the roofline of Williams, Waterman and Patterson 2009, Communications of the ACM 52(4), with a third roof for
        operations, each of which takes some time whatever it computes.
    """
    times = (work.flops / rates.flops, work.bytes / rates.bytes, work.operations * rates.launch)
    roofs = dict(zip(ROOFS, times, strict=True))
    largest = max(roofs, key=lambda roof: roofs[roof])
    return StageBound(stage, seconds, work, roofs, largest if roofs[largest] >= EXPLAINED * seconds > 0 else None)


def stage_work(
    shape: ModelShape, schedule: Schedule, counted: Flops, text: float, batch: int, number: int,
    operations: Mapping[str, int], decoded: int, groups: int = 1,
) -> dict[str, StageWork]:  # fmt: skip
    """Return the work of every stage for a batch of equal prompts, of decoding for one token of each that is decoded together.

    Args:
        shape: the model.
        schedule: of the method.
        counted: FLOPs of one prompt.
        text: tokens of a prompt that are not visual.
        batch: prompts.
        number: bytes of one number.
        operations: counted in a run of the whole batch, by stage.
        decoded: steps of decoding in that run.
        groups: into which the batch is cut; prompts of one group are decoded together, one group after the other.
    """
    together = batch // groups
    bytes_of = {
        "vision": vision_bytes(shape, schedule, batch, number) if schedule.vision_attention else 0.0,
        "projector": projector_bytes(shape, schedule, batch, number) if schedule.projector else 0.0,
        "selection": 0.0,
        "prefill": groups * prefill_bytes(shape, schedule, text, together, number),
        "decode": decode_bytes(shape, schedule, text, together, number),
    }
    flops_of = {
        "vision": counted.vision, "projector": counted.projector, "selection": counted.selection,
        "prefill": counted.llm_prefill, "decode": counted.decode_per_token,
    }  # fmt: skip
    return {
        stage: StageWork(
            (together if stage == "decode" else batch) * flops_of.get(stage, 0.0), bytes_of.get(stage, 0.0),
            round(operations.get(stage, 0) / max(1, decoded)) if stage == "decode" else operations.get(stage, 0),
        )
        for stage in {**bytes_of, **operations}
    }  # fmt: skip


def vision_bytes(shape: ModelShape, schedule: Schedule, batch: int, number: int) -> float:
    """Return the bytes that the tower moves at the least: weights once, and all that its maps and attention read and write."""
    width, mlp, maps = shape.vision_width, shape.vision_mlp, 3 if shape.vision_gated else 2
    moved = 0.0
    for attended, fed in zip(schedule.vision_attention, schedule.vision_mlp, strict=True):
        moved += attended * 12 * width + fed * maps * (width + mlp)
    return number * (tower_weights(shape) + batch * shape.tiles * moved)


def projector_bytes(shape: ModelShape, schedule: Schedule, batch: int, number: int) -> float:
    """Return the bytes that the projector moves at the least."""
    moved = batch * schedule.projector * sum(inner + outer for inner, outer in shape.projector_layers)
    return number * float(projector_weights(shape) + moved)


def prefill_bytes(shape: ModelShape, schedule: Schedule, text: float, batch: int, number: int) -> float:
    """Return the bytes that the LLM moves for a batch of prompts at the least."""
    inner, shared = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    maps = 3 if shape.gated else 2
    moved = 0.0
    for layer, visual in enumerate(schedule.llm):
        tokens = visual + text
        attention = 4 * shape.width + 4 * inner + 4 * shared  # in and out of q, k, v and o, and of the attention between them
        moved += tokens * (attention + maps * (shape.width + shape.mlp_at(layer)))
    ran = batch * (sum(schedule.llm) / max(1, len(schedule.llm)) + text)
    return number * (llm_weights(shape, ran) + batch * moved)


def decode_bytes(shape: ModelShape, schedule: Schedule, text: float, batch: int, number: int) -> float:
    """Return the bytes that decoding one token a prompt moves at the least: weights once, and every prompt's cache."""
    cached = 2.0 * shape.kv_heads * shape.head_dim * sum(count + text for count in schedule.in_cache)
    return number * (llm_weights(shape, batch) + batch * cached)


def tower_weights(shape: ModelShape) -> int:
    """Return how many weights the tower has: patch embedding, and the blocks that are run."""
    width, maps = shape.vision_width, 3 if shape.vision_gated else 2
    return shape.channels * shape.patch**2 * width + shape.vision_layers * (4 * width**2 + maps * width * shape.vision_mlp)


def projector_weights(shape: ModelShape) -> int:
    """Return how many weights the projector has."""
    return sum(inner * outer for inner, outer in shape.projector_layers)


def llm_weights(shape: ModelShape, tokens: float) -> float:
    """Return how many weights of the LLM, head included, are read when so many tokens run through it together.

    Of experts, at the most as many as tokens choose: each token its own, until all are read.
    """
    total = cost.head(shape) / 2.0
    for layer in range(shape.layers):
        total += cost.llm_layer(shape, 1.0, 0.0, layer) / 2.0  # 2 FLOPs a weight, of experts those of one token
        if experts := shape.routes_at(layer):
            more = min(experts, tokens * shape.experts_per_token) - shape.experts_per_token
            total += max(0.0, more) * shape.width * shape.expert_mlp * (3.0 if shape.gated else 2.0)
    return total


def weight_bytes(shape: ModelShape, number: int) -> float:
    """Return the bytes of all weights that are read: tower, projector and LLM, the table of embeddings included."""
    before = tower_weights(shape) + projector_weights(shape)
    return number * (before + llm_weights(shape, 1e12) + shape.width * shape.vocabulary)
