"""The same questions to the same weights, answered by our engine and by what others run: each side from pictures to texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

from harness.engine.engine import Engine
from harness.models.devices import pick_device
from harness.models.hf import TINY
from harness.run.accuracy_pass import run_shards
from harness.run.batch_run import BatchRun
from harness.run.config import CompareConfig
from harness.run.prepare import PreparedRun, prepare
from harness.run.shards import Shard

BATCH = 8
"""Prompts at a time of ``generate`` and of our bridge, and images at a time of our accuracy pass."""
ANSWER_TOKENS = 8
TEMPLATE = "{{ bos_token }}{% for message in messages %} USER: {{ message['content'] }}{% endfor %} ASSISTANT:"
"""The embedded model's chat template for what ``llava_hf`` hands it: one text that holds the image's mark."""
SWEEP = (
    "fastv", "fastv[layer=3]", "sparsevlm", "otprune", "dart", "sts", "visionzip", "vispruner", "divprune", "cdpruner",
    "random", "random[like=fastv]",
)  # fmt: skip
"""Twelve cells that share a tower, and as far as their paths go the decoder."""

Side = Callable[[], Any]


@dataclass
class Sides:
    """Pictures of the bundled task with some questions each, and who answers them.

    Args:
        images: number of pictures.
        questions: asked about each.
        dtype: of the weights on every side; the embedded model is stored in bfloat16.
    """

    images: int
    questions: int
    dtype: str = "float32"

    @cached_property
    def prepared(self) -> PreparedRun:
        """Model, task and samples, as `compare` prepares them."""
        made = prepare(self.config)
        made.samples[:] = [replace(sample, questions=sample.questions[: self.questions]) for sample in made.samples]
        return made

    @property
    def config(self) -> CompareConfig:
        """The request of our accuracy pass: `none` alone, in this process, nothing analysed."""
        return CompareConfig(
            methods=("none",), references=False, samples=self.images, batch_size=BATCH, workers=1, analyse=0, seeds=1,
            dtype=self.dtype, max_new_tokens=ANSWER_TOKENS,
        ).checked()  # fmt: skip

    @cached_property
    def asked(self) -> list[tuple[int, str]]:
        """The picture and the text of every question."""
        return [(place, q.text) for place, sample in enumerate(self.prepared.samples) for q in sample.questions]

    @cached_property
    def pictures(self) -> list[Any]:
        """The pictures, decoded."""
        return [sample.image for sample in self.prepared.samples]

    def accuracy_pass(self) -> list[str]:
        """Answer by the accuracy pass of `compare`."""
        shards = [Shard(place, ("none",)) for place in range(0, self.images, BATCH)]
        keys = tuple(cell.key for cell in self.prepared.active)
        shards = [replace(shard, cells=keys) for shard in shards]
        results = [result for _, result in run_shards(self.config, self.prepared, shards, lambda images: None)]
        return [row.prediction for result in results for part in result.cell_results[keys[0]] for row in part.samples]

    def bridge(self, batch: int) -> Side:
        """Answer as a model of lmms-eval, so many prompts at a time."""
        from harness.bridges.lmms_eval import Prunescope

        return self._evaluated(
            Prunescope(str(TINY), "none", device=_device(), dtype=self.dtype, batch_size=batch, self_check=False)
        )

    def llava_hf(self) -> Side:
        """Answer by lmms-eval's own model class, which takes one prompt at a time."""
        from lmms_eval.models.simple.llava_hf import LlavaHf

        device = _device()
        return self._evaluated(LlavaHf(str(TINY), device=device, dtype=self.dtype, device_map=device, chat_template=TEMPLATE))

    def _evaluated(self, model: Any) -> Side:
        def run() -> list[str]:
            model.task_dict = {"shapes": {"test": self.pictures}}
            options = {"max_new_tokens": ANSWER_TOKENS, "temperature": 0}
            requests = [
                SimpleNamespace(args=(text, dict(options), lambda picture: [picture], place, "shapes", "test"))
                for place, text in self.asked
            ]
            answers: list[str] = model.generate_until(requests)
            return answers

        return run

    def generate(self) -> list[str]:
        """Answer by transformers' ``generate``, prompts padded on the left."""
        model, processor = self._plain
        found: list[str] = []
        for start in range(0, len(self.asked), BATCH):
            some = self.asked[start : start + BATCH]
            contents = [[{"type": "image"}, {"type": "text", "text": text}] for _, text in some]
            texts = [
                processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
                for content in contents
            ]
            inputs = processor(
                images=[self.pictures[place] for place, _ in some], text=texts, padding=True, return_tensors="pt",
                add_special_tokens=False,
            ).to(model.device)  # fmt: skip
            with torch.inference_mode():
                out = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
            new = out[:, inputs["input_ids"].shape[1] :]
            found += [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
        return found

    @cached_property
    def _plain(self) -> tuple[Any, Any]:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        model = AutoModelForImageTextToText.from_pretrained(TINY, dtype=getattr(torch, self.dtype)).to(_device()).eval()
        return model, AutoProcessor.from_pretrained(TINY)

    def sweep(self, together: bool) -> list[list[str]]:
        """Answer under twelve cells, which share what they can, or each on its own from the pixels on."""
        config = replace(self.config, methods=SWEEP, keep=(64,))
        made = prepare(config)
        made.samples[:] = self.prepared.samples
        cells = [cell for cell in made.active if cell.method != "none"]
        assert len(cells) == len(SWEEP)
        wanted = frozenset().union(*(cell.needs for cell in cells))
        answers: list[list[str]] = [[] for _ in cells]
        for start in range(0, self.images, BATCH):
            some, engine = made.samples[start : start + BATCH], Engine(made.adapter, ANSWER_TOKENS)
            whole = BatchRun(engine, made.task, some, 0, wanted=wanted, cells=tuple(cells)) if together else None
            for cell, found in zip(cells, answers, strict=True):
                run = whole or BatchRun(engine, made.task, some, 0, wanted=cell.needs, cells=(cell,))
                found += [row.prediction for row in run.run(cell).samples]
        return answers


def _device() -> str:
    return pick_device("auto")


def seconds() -> float:
    """Return the seconds that this process has computed; where there is a GPU, those of the clock, all work there done."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def time_by_turns(sides: Sequence[Side], rounds: int) -> list[list[float]]:
    """Return the seconds of every side in every round; the sides take turns, and start with one round that does not count."""
    took: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for side, own in zip(sides, took, strict=True):
            start = seconds()
            side()
            if number:
                own.append(seconds() - start)
    return took


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of the ratios round by round, the least and the largest."""
    each = [one / other for one, other in zip(slow, fast, strict=True)]
    return median(each), min(each), max(each)
