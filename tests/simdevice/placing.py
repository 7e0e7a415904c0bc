"""Models on pretended devices: on one, or spread over two so that every part of them meets another device; and engine runs."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import torch

from harness.engine.batch import Batch, EngineOutput
from harness.engine.engine import Engine
from harness.engine.recorder import Recorder
from harness.engine.request import EngineRequest
from harness.models import hf
from harness.models.adapter import Adapter
from harness.models.prompt import PixelBatch
from harness.run.machine_check.against_cpu import steps_at_half
from methods.loading import BUNDLED
from methods.registry import create
from methods.types import BudgetError
from tests.models.tiny_families import FAMILIES, Asked, Family, ask, build, make, picture

METHODS = (
    *(name for name in BUNDLED if name != "mustdrop"),
    "mustdrop[total=0.0012,single=0.001]",
    "sparsevlm[version=2]",
    "divprune+fastv",
    "divprune+sparsevlm",
    "visionzip+pyramiddrop",
)
PLACES = ("cuda", "spread")
"""All on one device; over two, of which neither has all of the tower's blocks or all of the LLM's layers."""


def spread(model) -> dict[str, int]:
    """Return a device map of accelerate that halves every list of layers; the projector stands behind, words and head before."""
    found: dict[str, int] = {}

    def place(module: torch.nn.Module, name: str, device: int) -> None:
        inside = f"{name}." if name else ""
        if isinstance(module, torch.nn.ModuleList) and len(module) > 1:
            found.update({f"{inside}{number}": int(2 * number >= len(module)) for number in range(len(module))})
            return
        if not any(isinstance(part, torch.nn.ModuleList) and len(part) > 1 for part in module.modules()):
            found[name] = device
            return
        found.update({f"{inside}{own}": device for own, _ in module.named_parameters(recurse=False)})
        for own, part in module.named_children():
            behind = any(word in own for word in ("projector", "connector", "merger", "mlp1"))
            place(part, f"{inside}{own}", 1 if behind else device)

    place(model, "", 0)
    return found


def placed(model, place: str):
    """Return a model where it should be: ``cpu``, ``cuda`` or ``spread``."""
    if place != "spread":
        return model.to(place)
    from accelerate import dispatch_model

    made = dispatch_model(model, spread(model), force_hooks=True)
    for weight in made.parameters():  # of modules that are spread themselves; `from_pretrained` places them, this does not
        if weight.device.type == "cpu":
            weight.data = weight.data.to("cuda:0")
    return made


@cache
def family_on(name: str, place: str) -> Family:
    """A family's tiny random model at a place."""
    config, processor = FAMILIES[name]
    return make(name) if place == "cpu" else Family(name, Adapter(placed(build(config()), place), processor(), name))


@cache
def embedded_on(place: str) -> Family:
    """The embedded model at a place, with its companion."""
    found = hf.load("tiny", "cpu", "float32")
    if place == "cpu":
        return Family("tiny", found)
    beside = found.companion
    home = "cuda:0" if place == "spread" else place
    beside.text.to(home)
    beside.visual_projection.to(home)
    return Family("tiny", Adapter(placed(found.model, place), found.processor, "tiny", beside))


def batch_at(batch: Batch, device: torch.device | str) -> Batch:
    """The same batch on a device."""
    tables = {field.name: getattr(batch, field.name) for field in fields(batch)}
    moved = {name: table.to(device) for name, table in tables.items() if isinstance(table, torch.Tensor)}
    pixels = PixelBatch([tensor.to(device) for tensor in batch.pixels.tensors], batch.pixels.spans)
    return replace(batch, pixels=pixels, **moved)


def asked(family: Family, prompts: list[list], each: int) -> Asked:
    """Questions about images, with words and evidence for every method."""
    found = ask(family, prompts, each)
    batch = replace(found.batch, question_words=[question[-3:] for question in found.batch.questions])
    counts = torch.tensor(batch.pixels.counts)[batch.image, None]
    every = torch.arange(int(counts.max())).expand(len(batch.questions), -1)
    batch = replace(batch, evidence=every.remainder(5).eq(0) & (every < counts))
    companion = family.adapter.companion
    if companion is not None:
        embeds = companion.texts_embeds(found.questions)
        batch = replace(batch, text_embeds=embeds)
    found.batch = batch_at(batch, family.adapter.device)
    return found


def answered(family: Family, batch: Batch, method: str, limit: int = 4) -> tuple[EngineOutput, Recorder] | str:
    """What the engine gives under a method, and what it notes on the way; or why this model cannot run it."""
    recorder = Recorder(attention=True)
    try:
        steps = steps_at_half(method)
        positions = create(method).positions
        return Engine(family.adapter, limit).run(EngineRequest(batch, steps, positions, recorder=recorder)), recorder
    except BudgetError as error:
        return str(error)


def differences(one: EngineOutput, other: EngineOutput) -> list[str]:
    """Names of the fields in which two outputs differ, to the last bit; where they lie does not matter."""
    found = []
    for field in fields(one):
        own, its = getattr(one, field.name), getattr(other, field.name)
        same = torch.equal(own.cpu(), its.cpu()) if isinstance(own, torch.Tensor) and its is not None else own == its
        if not same:
            found.append(field.name)
    return found


def noted_differences(one: Recorder, other: Recorder) -> list[str]:
    """Likewise of what was noted."""
    found = []
    for name in ("ids", "attention_rows", "scores", "scored_ids", "source"):
        own, its = getattr(one, name), getattr(other, name)
        pairs = zip(own, its, strict=True) if isinstance(own, list) else [(own, its)]
        if not all((a is None and b is None) or torch.equal(a.cpu(), b.cpu()) for a, b in pairs):
            found.append(name)
    return found


def alike(family: Family) -> Asked:
    """Two images of one size, two questions each."""
    return asked(family, [[picture(40, 40, 1)], [picture(40, 40, 2)]], 2)


def unequal(family: Family) -> Asked:
    """Images of three sizes, one question each."""
    return asked(family, [[picture(32, 32, 1)], [picture(60, 30, 2)], [picture(30, 90, 3)]], 1)


def one_picture(family: Family) -> Asked:
    """One image, two questions."""
    return asked(family, [[picture(96, 96, 1)]], 2)
