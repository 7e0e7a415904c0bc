"""Tiny random models of ten families on a device, held against this machine's CPU choice by choice.

Where the device is the CPU itself there is no other one: it is then held against itself with plain products for attention and
another number of threads, which add up in another order. That shows a fault of a kernel that one of the two runs, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness import interrupts
from harness.engine.batch import Batch, EngineOutput
from harness.engine.engine import Engine
from harness.engine.replay import HeldChoice, NotedChoice, noting, replaying
from harness.engine.request import EngineRequest
from harness.models.adapter import Adapter
from harness.models.random_families.building import FAMILIES, build, picture
from harness.models.random_families.words import QUESTIONS
from harness.progress import progress
from harness.run.executors.local import threads
from harness.run.machine_check.choices import share
from harness.run.machine_check.findings import PartFindings
from methods.registry import create
from methods.schedule import plan
from methods.types import Budget, BudgetError, ModelShape, Step

TEN = (
    "llava", "llava-siglip", "llava-next", "llava-onevision", "internvl", "qwen2-vl", "qwen2.5-vl", "qwen3-vl", "smolvlm",
    "gemma3",
)  # fmt: skip
"""Families whose processors need no package beside transformers."""
METHODS = ("none", "fastv", "sparsevlm", "divprune", "tome", "visionzip", "dart", "pyramiddrop")
"""At the tower, at the projector and in the LLM, with and without the question, pruning and merging."""
LIMIT = 2e-4
"""The largest relative distance that is rounding, of the furthest number of a signal or of the logits, in float32."""
ANSWER_TOKENS = 3


@dataclass
class HeldFamily:
    """What came of one family."""

    differences: list[str] = field(default_factory=list)
    ties: list[str] = field(default_factory=list)
    methods: int = 0  # that it can run
    kept: int = 0  # tokens that were chosen, over all methods and choices
    moved: int = 0  # of them those that the device would not have chosen
    furthest: float = 0.0  # the largest distance of a signal or of logits


def check_against_cpu(device: str, families: Sequence[str] = TEN, methods: Sequence[str] = METHODS) -> PartFindings:
    """Hold families on a device against the CPU.

    Args:
        device: such as ``cpu`` or ``cuda:1``.
        families: names of `random_families.building.FAMILIES`.
        methods: expressions; those that a family cannot run are left out there.
    """
    alone = device == "cpu"
    other = f"itself, with {_other_threads()} threads and plain products for attention (there is no other device)"
    found = PartFindings("random families", other if alone else "this machine's CPU")
    ran, furthest = 0, 0.0
    with progress(found.name, len(families)) as advance:
        for name in families:
            interrupts.check()
            here = adapter_of(name, "cpu")
            sides = Sides(here, here if alone else adapter_of(name, device), batch_for)
            held = hold_family(sides, methods, computing=_otherwise if alone else nullcontext)
            found.differences += [f"{name}, {said}" for said in held.differences]
            found.ties += [f"{name}, {said}" for said in held.ties]
            ran, furthest = ran + held.methods, max(furthest, held.furthest)
            advance(1)
    found.figures = {"families": len(families), "pairs": ran, "furthest": furthest, "limit": LIMIT}
    found.said.append(
        f"{len(families)} families, {ran} pairs of family and method in float32; signals and logits within {share(furthest)} of "
        f"the largest ({share(LIMIT)} may be rounding)"
    )
    return found


def adapter_of(name: str, device: str) -> Adapter:
    """Return a family's tiny random model, the same numbers on every device.

    Args:
        name: of the family.
        device: such as ``cuda``.
    """
    config, processor = FAMILIES[name]
    return Adapter(build(config()).to(device), processor(), name)


def batch_for(adapter: Adapter) -> Batch:
    """Return two images with two questions each, on the model's device."""
    made = [adapter.prompt(words) for words in QUESTIONS]
    pixels, device = adapter.prompt_pixels([[picture(40, 40, 1)], [picture(40, 40, 2)]]), adapter.device
    image = torch.tensor([0, 0, 1, 1], device=device)
    return Batch(
        pixels, made[0][0], [after for _, after in made], image, torch.arange(2, device=device), torch.arange(4, device=device)
    )


def steps_at_half(method: str) -> Callable[[ModelShape], tuple[Step, ...]]:
    """Return a method's steps by the shape of an image, at half of its tokens or as near as it can."""
    chosen = create(method)

    def steps(shape: ModelShape) -> tuple[Step, ...]:
        for part in (0.5, 0.7):
            try:
                return plan(chosen, shape, Budget(max(2, round(part * shape.visual_tokens)), "average", 20.0))[0]
            except BudgetError:
                continue
        return plan(chosen, shape, Budget(max(2, round(0.85 * shape.visual_tokens)), "average", 20.0))[0]

    return steps


@dataclass(frozen=True)
class Sides:
    """One model in two places, each with what it is asked.

    Args:
        here: the model on the CPU.
        there: the same numbers on a device.
        asked: makes the batch of a model, on its device, anew.
    """

    here: Adapter
    there: Adapter
    asked: Callable[[Adapter], Batch]


def hold_family(
    sides: Sides,
    methods: Sequence[str],
    limit: float = LIMIT,
    computing: Callable[[], AbstractContextManager[None]] = nullcontext,
    tokens: int = ANSWER_TOKENS,
) -> HeldFamily:
    """Run methods on the CPU, and on a device with what was chosen there; see `harness.engine.replay`.

    Args:
        sides: the model in both places.
        methods: expressions; those that the model cannot run are left out.
        limit: the largest relative distance of a signal or of logits that is rounding.
        computing: how the device computes meanwhile.
        tokens: of an answer.
    """
    held = HeldFamily()
    for method in methods:
        rule, positions = steps_at_half(method), create(method).positions
        notes: list[NotedChoice] = []
        choices: list[HeldChoice] = []
        try:
            noted = lambda shape: noting(rule(shape), notes)
            wanted = Engine(sides.here, tokens).run(EngineRequest(sides.asked(sides.here), noted, positions))
        except BudgetError:
            continue
        held.methods += 1
        held.kept += sum(note.selection.indices.numel() for note in notes)
        try:
            with computing():
                replayed = lambda shape: replaying(rule(shape), notes, choices)
                got = Engine(sides.there, tokens).run(EngineRequest(sides.asked(sides.there), replayed, positions))
        except Exception as error:  # of what the device computes with; it is told as what differs, and the check goes on
            first = str(error).splitlines()[0][:120] if str(error) else ""
            held.differences.append(f"{method}: fails ({type(error).__name__}: {first})")
            continue
        if said := _differs(held, choices, wanted, got, limit):
            held.differences.append(f"{method}: {said}")
        if moved := sum(choice.other_tokens for choice in choices):
            held.moved += moved
            held.ties.append(f"{method}: {moved} tokens, the same choice in float64 on the same signals")
    return held


def _differs(
    held: HeldFamily, choices: Sequence[HeldChoice], wanted: EngineOutput, got: EngineOutput, limit: float
) -> str | None:
    """The first thing that differs by more than rounding; None where nothing does."""
    for choice in choices:
        name, far = max(choice.distances.items(), key=lambda item: item[1], default=("", 0.0))
        held.furthest = max(held.furthest, far)
        if far > limit:
            return f"{name} at {choice.site} differs by {share(far)} of the largest, {share(limit)} may be rounding"
        if choice.other_exactly:
            return f"{choice.other_exactly} tokens at {choice.site} are others, though the signals are the same to the last bit"
    logits = got.first_logits.cpu().double(), wanted.first_logits.double()
    far = float((logits[0] - logits[1]).abs().max() / logits[1].abs().max())
    held.furthest = max(held.furthest, far)
    if not far <= limit:
        return f"first-token logits differ by {share(far)} of the largest, {share(limit)} may be rounding"
    if not torch.equal(got.kept.cpu(), wanted.kept):
        return "the tokens in the last layer are not those that were handed on"
    best = logits[1].topk(2).values
    clear = (best[:, 0] - best[:, 1]) > limit * best.abs().amax(-1)
    if any(bool(sure) and one[:1] != other[:1] for sure, one, other in zip(clear, got.tokens, wanted.tokens, strict=True)):
        return "the first answer token is another, though its logit leads clearly"
    return None


def _other_threads() -> int:
    return 2 if torch.get_num_threads() == 1 else 1


@contextmanager
def _otherwise() -> Iterator[None]:
    with threads(_other_threads()), sdpa_kernel(SDPBackend.MATH):
        yield
