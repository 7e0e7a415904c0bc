"""Stage 3: projector and Llama learn to answer, on the frozen tower, with tokens left out.

One sequence holds an image and a dozen questions with their answers; a block mask lets each see the
image and itself alone, and positions restart after the image, so every question is as if asked alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from harness.models.tiny.build import CompanionText, words
from harness.models.tiny.tower import TowerTask, half_precision, normalise, pixels
from harness.progress import track
from harness.tasks.shapes.families import FAMILIES
from harness.tasks.shapes.questions import ShapesQuestion, ask, ask_all
from harness.tasks.shapes.scene import GRID, Scene, generator, make_scene

TOKENS = GRID * GRID
PREFIX = (1, words().index("USER:"))
ASSISTANT, END = words().index("ASSISTANT:"), 2
TABLE = {word: i for i, word in enumerate(words())}
ASKED = (
    *("relation",) * 5, *("count",) * 4, *("quadrant",) * 3, *("existence",) * 2, *("number",) * 2,
    "colour", "shape", "digit", "dot",
)  # fmt: skip
SLOW = ("relation", "quadrant", "count")  # form last; their answers weigh twice


class TrainingStage(Protocol):
    """How long, how large and how fast a stage learns; see `harness.models.tiny.train.Stage`."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        ...

    @property
    def batch(self) -> int:
        """Scenes a step."""
        ...

    @property
    def rate(self) -> float:
        """Highest learning rate."""
        ...

    @property
    def seed(self) -> int:
        """Keeps its pictures apart from other stages'."""
        ...


class Checkpoints(Protocol):
    """Where a stage keeps its checkpoints and its log; see `harness.models.tiny.train.WorkFolder`."""

    def load(self, stage: str, parts: dict[str, torch.nn.Module], optimiser: torch.optim.Optimizer | None = None) -> int:
        """Fill the parts from the stage's checkpoint and return the next step, or -1 where there is none."""
        ...

    def save(self, stage: str, step: int, parts: dict[str, torch.nn.Module], optimiser: torch.optim.Optimizer | None) -> None:
        """Write the stage's checkpoint."""
        ...

    def log(self, **facts: object) -> None:
        """Write a line of the log."""
        ...


class ScenePool:
    """Scenes with their tower features [size, 576, width], bfloat16, replaced little by little by new ones."""

    def __init__(self, task: TowerTask, seed: int, capacity: int, start: int = 0) -> None:
        self.task, self.seed, self.capacity, self.next = task, seed, capacity, start
        self.features: list[torch.Tensor] = []
        self.scenes: list[Scene] = []

    def grow(self, count: int) -> None:
        """Add scenes; past the capacity they replace the oldest."""
        scenes = [make_scene("train", self.seed, self.next + i) for i in range(count)]
        features = tower_features(self.task, scenes)
        for scene, feature in zip(scenes, features):
            if len(self.scenes) < self.capacity:
                self.scenes.append(scene)
                self.features.append(feature)
            else:
                self.scenes[self.next % self.capacity], self.features[self.next % self.capacity] = scene, feature
            self.next += 1


@torch.no_grad()
def tower_features(task: TowerTask, scenes: list[Scene], grid: int | None = None) -> torch.Tensor:
    """Return what the projector reads of scenes, bfloat16 [B, tokens, width]; shrunk to ``grid`` tokens a side if given."""
    images = normalise(torch.stack([pixels(scene, grid) for scene in scenes]))
    with half_precision():
        return task.states(images, None)[-2][:, 1:].to(torch.bfloat16)


@dataclass
class TrainingBatch:
    """Sequences of one step. ``segments`` is 0 for the image and its prefix, 1.. for questions, -1 for padding."""

    visual: torch.Tensor  # [B, M, width] tower features
    text: torch.Tensor  # [B, L] token ids of the questions, joined
    positions: torch.Tensor  # [B, 2 + M + L]
    segments: torch.Tensor  # [B, L]
    labels: torch.Tensor  # [B, L] next answer token or -100
    weights: torch.Tensor  # [B, L] of the labels in the loss
    families: list[list[str]]  # of segment s + 1


def choose_tokens(
    pool: ScenePool, rows: NDArray[np.int64], rng: np.random.Generator, progress: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the visual tokens of a step: most steps leave tokens out, some pool or shrink.

    Args:
        pool: scenes and their features.
        rows: int64 [B] scenes of the step.
        rng: decides.
        progress: share of the way from easy to hard, 0 to 1.

    Returns:
        Features, bfloat16 [B, M, width], and positions, int64 [B, M].
    """
    scenes = [pool.scenes[r] for r in rows]
    if rng.random() < 0.015:  # no image at all: so that ``blind`` guesses as well as can be
        return pool.features[0][:0].expand(len(rows), -1, -1), torch.zeros(len(rows), 0, dtype=torch.long)
    draw = rng.random()
    shrink, pooled, whole = 0.06 * progress, 0.06 * progress, 0.04 + 0.04 * progress
    if draw < shrink:
        grid = int(rng.integers(8, 21))
        features = tower_features(pool.task, scenes, grid)
        return features, torch.arange(grid * grid).expand(len(rows), -1)
    full = torch.stack([pool.features[r] for r in rows])
    if draw < shrink + pooled:
        square = full.view(len(rows), GRID, GRID, -1).permute(0, 3, 1, 2).float()
        size = [(1, 2), (2, 1), (2, 2)][int(rng.integers(3))]
        small = F.avg_pool2d(square, size).flatten(2).transpose(1, 2).to(torch.bfloat16)
        return small, torch.arange(small.shape[1]).expand(len(rows), -1)
    if draw < shrink + pooled + whole:
        return full, torch.arange(TOKENS).expand(len(rows), -1)
    focused = rng.random() < 0.8 - 0.2 * progress
    count = 160 if focused else int(rng.choice([52, 64, 96, 128, 192]))
    order = rng.random((len(rows), TOKENS))
    if focused:  # everything that can be asked about, and some of the rest
        for row, scene in zip(order, scenes):
            mask = np.logical_or.reduce([item.tokens() for item in scene.items if item.kind != "distractor"])
            row[mask.ravel()] -= 1
    kept = torch.from_numpy(np.sort(np.argsort(order, axis=1)[:, :count], axis=1))
    visual = full.gather(1, kept[..., None].expand(-1, -1, full.shape[-1]))
    contiguous = torch.arange(count).expand(len(rows), -1)
    return visual, (kept if rng.random() < 0.6 else contiguous)


def training_questions(scene: Scene, rng: np.random.Generator, progress: float) -> list[ShapesQuestion]:
    """Draw the questions of a scene; the smaller ``progress`` (0 to 1), the more are easy."""
    easy = 0.5 * (1 - progress)
    asked = [ask(scene, family, rng, bool(rng.random() < easy)) for family in ASKED]
    return [question for question in asked if question is not None]


def make_batch(visual: torch.Tensor, places: torch.Tensor, asked: list[list[ShapesQuestion]]) -> TrainingBatch:
    """Put visual tokens and questions into sequences.

    Args:
        visual: [B, M, width] features.
        places: int64 [B, M] their positions.
        asked: questions of every scene.
    """
    count = visual.shape[1]
    original = bool((places >= count).any())
    after = len(PREFIX) + (TOKENS if original else count)
    rows = []
    for questions in asked:
        ids: list[int] = []
        number_of: list[int] = []
        places_of: list[int] = []
        next_ids: list[int] = []
        weight_of: list[float] = []
        for number, question in enumerate(questions, 1):
            body = [TABLE[w] for w in question.text.split()] + [ASSISTANT]
            answer = [TABLE[w] for w in question.answer.split()]
            ids += body + answer
            number_of += [number] * (len(body) + len(answer))
            places_of += range(after, after + len(body) + len(answer))
            next_ids += [-100] * (len(body) - 1) + answer + [END]
            weight = 2.0 if question.family in SLOW else 1.0
            weight_of += [0.0] * (len(body) - 1) + [weight] * len(answer) + [0.25]
        rows.append((ids, number_of, places_of, next_ids, weight_of))
    length = max(len(row[0]) for row in rows)
    fill = (0, -1, 0, -100, 0.0)
    text, segments, where, labels, weights = (
        torch.tensor([[*row[i], *[fill[i]] * (length - len(row[i]))] for row in rows]) for i in range(5)
    )
    prefix = torch.arange(len(PREFIX)).expand(len(rows), -1)
    positions = torch.cat([prefix, places + len(PREFIX), where], dim=1)
    return TrainingBatch(visual, text, positions, segments, labels, weights, [[q.family for q in qs] for qs in asked])


def forward(
    model: Any,  # a LLaVA of transformers
    batch: TrainingBatch,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits, float32 [n, vocabulary], at the places that have a label, and those labels, int64 [n]."""
    inner = model.model
    rows, count = batch.visual.shape[:2]
    embed = inner.language_model.embed_tokens
    prefix = embed(torch.tensor([PREFIX]).expand(rows, -1))
    visual = inner.multi_modal_projector(batch.visual.to(prefix.dtype))
    hidden = torch.cat([prefix, visual.to(prefix.dtype), embed(batch.text)], dim=1)
    shared = torch.zeros(rows, len(PREFIX) + count, dtype=torch.long)
    segments = torch.cat([shared, batch.segments], dim=1)
    length = segments.shape[1]
    same = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])
    allowed = same & torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros(rows, 1, length, length, dtype=torch.bfloat16).masked_fill(~allowed[:, None], -1e30)
    states = inner.language_model(
        inputs_embeds=hidden, attention_mask=mask, position_ids=batch.positions, use_cache=False
    ).last_hidden_state[:, -batch.text.shape[1] :]
    chosen = batch.labels != -100
    return model.lm_head(states[chosen]).float(), batch.labels[chosen]


@torch.no_grad()
def validate(
    model: Any,  # a LLaVA of transformers
    task: TowerTask,
    scenes: int = 64,
    keep: int | None = None,
) -> dict[str, float]:
    """Return the share of questions answered fully right, by family, on validation scenes (answers fed back).

    Args:
        model: the model.
        task: the tower.
        scenes: how many.
        keep: random visual tokens that are kept; None for all.
    """
    right: dict[str, list[bool]] = {family: [] for family in FAMILIES}
    for first in range(0, scenes, 16):
        batch_scenes = [make_scene("validation", 0, first + i) for i in range(16)]
        asked = [list(ask_all(s, generator("validation", 0, first + i, 1))) for i, s in enumerate(batch_scenes)]
        features = tower_features(task, batch_scenes)
        places = torch.arange(TOKENS).expand(16, -1)
        if keep is not None:
            order = np.random.default_rng(first).random((16, TOKENS)).argsort(1)[:, :keep]
            places = torch.from_numpy(np.sort(order, axis=1))
            features = features.gather(1, places[..., None].expand(-1, -1, features.shape[-1]))
        batch = make_batch(features, places, asked)
        with half_precision():
            logits, labels = forward(model, batch)
        hits = logits.argmax(-1) == labels
        where = (batch.labels != -100).nonzero()
        wrong = {(int(r), int(batch.segments[r, c])) for (r, c), hit in zip(where, hits) if not hit}
        for row, families in enumerate(batch.families):
            for number, family in enumerate(families, 1):
                right[family].append((row, number) not in wrong)
    scores = {family: float(np.mean(hits)) for family, hits in right.items()}
    scores["all"] = float(np.mean([hit for hits in right.values() for hit in hits]))
    return scores


def language_parts(model: Any) -> dict[str, torch.nn.Module]:  # of a LLaVA of transformers
    """Return what this stage trains, by name."""
    return {"projector": model.model.multi_modal_projector, "language": model.model.language_model, "head": model.lm_head}


def train_language(
    work: Checkpoints,
    stage: TrainingStage,
    model: Any,  # a LLaVA of transformers
    companion: CompanionText,
    tower_stage: TrainingStage,
    adam: Callable[[list[torch.nn.Module], float], torch.optim.Optimizer],
    schedule: Callable[[int, int], float],
    register_attention: Callable[[torch.nn.Module, str], None],
    ready: float,
) -> None:
    """Train projector and Llama: stage ``language``.

    Args:
        work: checkpoints and log.
        stage: how long, how large and how fast.
        model: the model; it is trained.
        companion: of the tower.
        tower_stage: whose checkpoint holds the tower.
        adam: makes the optimiser of some parts at a rate.
        schedule: factor of the rate at a step of so many.
        register_attention: sets a model's attention function by name.
        ready: share of the way from easy to hard questions that lies behind the model, 0 to 1.
    """
    task = TowerTask(model.model.vision_tower, companion).eval().requires_grad_(False)
    work.load(tower_stage.name, {"task": task})
    parts = language_parts(model)
    optimiser = adam(list(parts.values()), stage.rate)
    start = max(work.load(stage.name, parts, optimiser), 0)
    register_attention(model, "plain")
    register_attention(model.model.vision_tower, "sdpa")
    pool = ScenePool(task, stage.seed, 14000, start * 2)
    pool.grow(512)
    clock = saved = time.time()
    total, hits, count = 0.0, 0, 0
    for step in track(stage.name, range(start, stage.steps), start, stage.steps):
        if step % 8 == 0:
            pool.grow(16)
        rng = np.random.default_rng([stage.seed, step])
        progress = max(ready, min(1.0, (step / stage.steps - 0.35) / 0.45))
        rows = rng.choice(len(pool.scenes), stage.batch, replace=False)
        visual, places = choose_tokens(pool, rows, rng, progress)
        if visual.shape[1] > 300:  # long sequences cost several times more: fewer of them
            visual, places, rows = visual[:6], places[:6], rows[:6]
        batch = make_batch(visual, places, [training_questions(pool.scenes[r], rng, progress) for r in rows])
        for group in optimiser.param_groups:
            group["lr"] = stage.rate * schedule(step, stage.steps)
        with half_precision():
            logits, labels = forward(model, batch)
            weights = batch.weights[batch.labels != -100]
            loss = (F.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for part in parts.values() for p in part.parameters()], 1.0)
        optimiser.step()
        total, hits, count = total + loss.item(), hits + int((logits.argmax(-1) == labels).sum()), count + len(labels)
        if (step + 1) % 100 == 0:
            work.log(
                stage=stage.name,
                step=step + 1,
                seconds=time.time() - clock,
                loss=total / 100,
                hit=hits / count,
                scenes=len(pool.scenes),
            )
            total, hits, count = 0.0, 0, 0
        if (step + 1) % 500 == 0 or step + 1 == stage.steps:
            work.log(stage=stage.name, step=step + 1, validation=validate(model, task))
            work.log(stage=stage.name, step=step + 1, validation_random_64=validate(model, task, keep=64))
        if time.time() - saved > 120 or step + 1 == stage.steps:
            work.save(stage.name, step + 1, parts, optimiser)
            saved = time.time()
