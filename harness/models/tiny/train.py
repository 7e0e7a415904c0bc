"""Train the embedded model: ``python -m harness.models.tiny.train --work DIR``.

Three stages, each resumable from the last checkpoint in the work folder:
``tower`` on small canvases, ``scenes`` (the tower on full scenes and shrunken ones), and
``language`` (projector and Llama on the frozen tower). ``--export DIR`` writes the Hugging Face folder.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from harness.models.tiny import build
from harness.models.tiny.language import language_parts, train_language
from harness.models.tiny.tower import Canvases, TowerTask, half_precision, normalise
from harness.progress import track


@dataclass(frozen=True)
class Stage:
    """How long, how large and how fast a stage learns. ``seed`` keeps its pictures apart from other stages'."""

    name: str
    steps: int
    batch: int
    rate: float
    seed: int


STAGES = (
    Stage("tower", 2600, 32, 1.5e-3, 1),
    Stage("scenes", 620, 12, 4e-4, 2),
    Stage("language", 4300, 16, 1e-3, 3),
)


def schedule(step: int, steps: int, warm: int = 150) -> float:
    """Return the factor of the learning rate at a step: linear warm-up, then linear decay to a twentieth."""
    return min((step + 1) / warm, max(0.05, 1 - (step / steps) * 0.95))


def plain_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,  # what transformers hands to every attention function
) -> tuple[torch.Tensor, None]:
    """Return softmax(QK')V by plain products: faster to train than SDPA's backward on a CPU for short sequences.

    Args:
        module: the attention layer.
        query: [B, H, L, head_dim], as key and value.
        key: as query.
        value: as query.
        attention_mask: [B, 1, L, L], added to the scores; None for none.
        scaling: of the scores.
        dropout: not read.
        kwargs: not read.

    Returns:
        [B, L, H, head_dim], and None where other attention functions return weights.
    """
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, :, : key.shape[2]]
    return (scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value).transpose(1, 2).contiguous(), None


def register_attention(model: torch.nn.Module, name: str) -> None:
    """Set the attention function of a model of transformers, by name; ``plain`` is `plain_attention`."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register("plain", plain_attention)
    AttentionMaskInterface.register("plain", eager_mask)
    for part in model.modules():
        if hasattr(part, "config"):
            config: Any = part.config  # of transformers
            config._attn_implementation = name


def _short(value: object) -> object:
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


class WorkFolder:
    """The work folder: one checkpoint a stage, and the log.

    Args:
        folder: is made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, stage: str, step: int, parts: dict[str, torch.nn.Module], optimiser: torch.optim.Optimizer | None) -> None:
        """Write the stage's checkpoint: parts and optimiser as they are before a step."""
        state: dict[str, Any] = {"step": step, "parts": {k: v.state_dict() for k, v in parts.items()}}
        if optimiser is not None:
            state["optimiser"] = optimiser.state_dict()
        partial = self.folder / f"{stage}.partial"
        torch.save(state, partial)
        partial.replace(self.folder / f"{stage}.pt")

    def load(self, stage: str, parts: dict[str, torch.nn.Module], optimiser: torch.optim.Optimizer | None = None) -> int:
        """Fill the parts from the stage's checkpoint and return the next step, or -1 where there is none."""
        path = self.folder / f"{stage}.pt"
        if not path.exists():
            return -1
        state = torch.load(path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        if optimiser is not None and "optimiser" in state:
            with suppress(ValueError):
                optimiser.load_state_dict(state["optimiser"])
        return int(state["step"])

    def log(self, **facts: object) -> None:
        """Print facts as a line of JSON, and add it to the log."""
        line = json.dumps({name: _short(value) for name, value in facts.items()})
        print(line, flush=True)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(line + "\n")


def adam(parts: list[torch.nn.Module], rate: float) -> torch.optim.AdamW:
    """Return the optimiser of some modules; matrices decay, vectors do not."""
    matrices = [p for part in parts for p in part.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for part in parts for p in part.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def train_tower(
    work: WorkFolder,
    stage: Stage,
    model: Any,  # a LLaVA of transformers
    companion: build.CompanionText,
    first: Stage | None,
    fresh_heads: int = 0,
) -> None:
    """Train the tower: stages ``tower`` (12 x 12 canvases) and ``scenes`` (24 x 24, every third batch shrunk).

    Args:
        work: checkpoints and log.
        stage: how long, how large and how fast.
        model: the model; its tower is trained.
        companion: of the tower; it is trained too.
        first: the stage whose checkpoint this one starts from; None for none.
        fresh_heads: steps for which the heads alone learn: a trained tower, new heads.
    """
    tower = model.model.vision_tower
    task = TowerTask(tower, companion)
    full = stage.name == "scenes"
    tower.embeddings.position_embedding.weight.requires_grad_(False)
    optimiser = adam([task], stage.rate)
    start = work.load(stage.name, {"task": task}, optimiser)
    if start < 0:
        start = 0
        if first is not None:
            work.load(first.name, {"task": task})
    if start >= stage.steps:
        return
    register_attention(model, "sdpa" if full else "plain")
    register_attention(companion, "sdpa")
    data = Canvases(stage.seed, start * stage.batch, (stage.steps - start) * stage.batch, 24 if full else 12)
    loader = DataLoader(data, stage.batch, num_workers=1, prefetch_factor=4)
    clock, seen = time.time(), time.time()
    sums: dict[str, float] = {}
    for step, (images, labels, captions, offset) in track(stage.name, enumerate(loader, start), start, stage.steps):
        for group in optimiser.param_groups:
            group["lr"] = stage.rate * schedule(step, stage.steps)
        if full and step % 3 == 0:
            images, labels = shrink(images, labels, int(torch.randint(8, 21, (), generator=torch.Generator().manual_seed(step))))
        if step <= fresh_heads:
            tower.requires_grad_(step == fresh_heads)
            companion.requires_grad_(step == fresh_heads)
            tower.embeddings.position_embedding.weight.requires_grad_(False)
        with half_precision():
            losses = task(normalise(images), labels, captions, None if full else offset)
        optimiser.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimiser.step()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        if (step + 1) % 50 == 0:
            means = {name: value / 50 for name, value in sums.items()}
            work.log(stage=stage.name, step=step + 1, seconds=time.time() - clock, **means)
            sums = {}
        if time.time() - seen > 90 or step + 1 == stage.steps:
            work.save(stage.name, step + 1, {"task": task}, optimiser)
            seen = time.time()


def shrink(images: torch.Tensor, labels: torch.Tensor, grid: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images [B, 3, 192, 192] and labels [B, 576, 4] at ``grid`` x ``grid`` tokens; a token's label is its centre's."""
    smaller = F.interpolate(images.float(), size=grid * 8, mode="bicubic", antialias=True).clamp(0, 255)
    side = int(labels.shape[1] ** 0.5)
    centres = ((torch.arange(grid) + 0.5) * side / grid).long()
    square = labels.view(len(labels), side, side, -1)
    return smaller, square[:, centres][:, :, centres].flatten(1, 2)


def export(
    work: WorkFolder,
    model: Any,  # a LLaVA of transformers
    companion: build.CompanionText,
    scenes: Stage,
    language: Stage,
    folder: Path,
) -> None:
    """Write the latest checkpoints as a Hugging Face folder in bfloat16."""
    work.load(scenes.name, {"task": TowerTask(model.model.vision_tower, companion)})
    step = work.load(language.name, language_parts(model))
    build.save(model, companion, folder)
    print(f"exported {folder} at step {step} of {language.steps} of stage {language.name}")


def main() -> None:
    """Train, or export, as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints and log")
    parser.add_argument(
        "--init", type=Path, help="start from this exported folder; --tower-steps 0 --scenes-steps 0 leave its tower as it is"
    )
    parser.add_argument("--export", type=Path, help="write the Hugging Face folder here and stop")
    parser.add_argument("--seed", type=int, default=0)
    for stage in STAGES:
        parser.add_argument(f"--{stage.name}-steps", type=int, default=stage.steps)
        parser.add_argument(f"--{stage.name}-rate", type=float, default=stage.rate)
    arguments = parser.parse_args()
    given = vars(arguments)
    tower, scenes, language = (replace(s, steps=given[f"{s.name}_steps"], rate=given[f"{s.name}_rate"]) for s in STAGES)
    work = WorkFolder(arguments.work)
    model, companion = build.new_model(arguments.seed)
    if arguments.init is not None:
        build.load_into(model, companion, arguments.init)
    if arguments.export is not None:
        export(work, model, companion, scenes, language, arguments.export)
        return
    if tower.steps:
        train_tower(work, tower, model, companion, None, fresh_heads=0 if arguments.init is None else 120)
    if scenes.steps:
        train_tower(work, scenes, model, companion, tower)
    ready = 0.0 if arguments.init is None else 0.5
    train_language(work, language, model, companion, scenes, adam, schedule, register_attention, ready)


if __name__ == "__main__":
    main()
