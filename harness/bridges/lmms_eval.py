"""The engine as a model of lmms-eval: tasks and scores are lmms-eval's, methods ours.

    python -m lmms_eval --model prunescope --model_args pretrained=tiny,method=sts,keep=64 --tasks pope

lmms-eval 0.6 and later find it by the entry point ``lmms_eval.models``. For 0.5, and where this package is not installed,
``python -m harness.bridges.lmms_eval`` takes the same arguments.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lmms_eval.api.model import lmms
from PIL import Image

from harness.bridges import manifest
from harness.bridges.options import beyond_greedy
from harness.bridges.prompts import PromptPruner, SplitPrompt
from harness.errors import RequestError
from harness.models import hf
from harness.models.devices import pick_device
from harness.models.load_options import LoadOptions
from harness.run.self_check import run_self_check
from harness.tasks.marks import MARK, texts_around, unmarked
from harness.tasks.pixels import rgb

if TYPE_CHECKING:
    import torch
    from lmms_eval.api.instance import Instance

    from harness.models.prompt import ImageSpan

    Spans = tuple[ImageSpan, ...]


class Prunescope(lmms):  # type: ignore[misc]  # lmms-eval has no types, so its base class is Any
    """A model of lmms-eval that answers with one method at one budget.

    Args:
        pretrained: an embedded model, a folder or a hub id.
        method: name or expression; see ``python -m harness list methods``.
        keep: visual tokens of a prompt, as a count or, with a point or a %, as a share; 1.0 is all.
        budget: how they are counted, ``average``, ``final`` or ``flops``.
        device: by default a GPU where there is one.
        dtype: of the weights; ``auto`` is float32 on a CPU and bfloat16 on a GPU that has it, else float16.
        batch_size: prompts at a time; equal images among them are encoded once.
        seed: of methods that draw random numbers.
        device_map: spread over several devices, as accelerate understands it.
        self_check: whether the model is held against ``generate`` first.
        max_batch_size: not read; lmms-eval hands it to every model.
        chat_template: a file that takes the place of the checkpoint's chat template.
        companion: a folder or hub id of the CLIP that takes the place of the one that is known.
        max_pixels: of an image; one of more is shrunk, its aspect kept.
        image_size: longer side of every image in pixels, or width and height as ``640x480``.
        method_parameters: of the method, as ``layer=2``.

    Raises:
        ValueError: for an unknown method, parameter, budget or model, and where the method cannot run on the model, or
            the engine does not run the model as transformers does.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "tiny",
        method: str = "sts",
        keep: float | str = 64,
        budget: str = "average",
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        seed: int = 0,
        device_map: str | None = None,
        self_check: bool = True,
        max_batch_size: int | None = None,
        chat_template: str | None = None,
        companion: str | None = None,
        max_pixels: int | None = None,
        image_size: int | str | None = None,
        **method_parameters: Any,  # numbers, texts or booleans, by the method
    ) -> None:
        super().__init__()
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise RequestError(f"batch_size={batch_size}: give a number of prompts; the engine does not search for one")
        method = method.strip("'\"")  # which keep lmms-eval from splitting an expression at its commas
        self.pruner = PromptPruner(method, keep, budget, seed, method_parameters)
        size = None if image_size is None else str(image_size)
        options = LoadOptions(None, device_map, None, chat_template, companion, max_pixels, size)
        self.adapter = hf.load(str(pretrained), _device(device), str(dtype), options=options)
        self.adapter.check_template()
        self.pruner.check(self.adapter)
        self.self_check = run_self_check(str(pretrained), self.adapter, self_check, option="self_check=False")
        self.batch_size, self.device = int(batch_size), self.adapter.device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answer lmms-eval's requests greedily, each up to the first of its ``until`` strings.

        Raises:
            RequestError: where a task asks for more than greedy decoding, or gives what is no image.
        """
        from tqdm import tqdm  # type: ignore[import-untyped]  # its stubs are a package that is not installed everywhere

        found: list[str] = []
        progress = tqdm(total=len(requests), disable=self.rank != 0, desc="prunescope")
        for options, chunk in self._chunks(requests):
            _check(options)
            until, limit = _stops(options), int(options.get("max_new_tokens") or 1024)
            prompts = self._prompts(chunk)
            answers = self.pruner.answers(self.adapter, prompts, limit, self.adapter.end_ids)
            for request, answer in zip(chunk, answers, strict=True):
                text = _cut(self.adapter.decode(answer.tokens), until)
                self.cache_hook.add_partial("generate_until", (request.args[0], options), text)
                found.append(text)
            progress.update(len(chunk))
        progress.close()
        return found

    def _chunks(self, requests: list[Instance]) -> Iterator[tuple[dict[str, Any], list[Instance]]]:
        """Consecutive requests of like options, so many as go together."""
        chunk: list[Instance] = []
        for request in requests:
            if chunk and (len(chunk) == self.batch_size or request.args[1] != chunk[0].args[1]):
                yield chunk[0].args[1], chunk
                chunk = []
            chunk.append(request)
        if chunk:
            yield chunk[0].args[1], chunk

    def _prompts(self, requests: list[Instance]) -> list[SplitPrompt]:
        """Requests as the model's chat template has them: the images, then the text.

        Marks of lmms-eval or of the model say where images stand if they are as many as these, as in lmms-eval's own
        ``llava_hf``; else they are left out, whatever the family. Equal images are made ready for the tower once.
        """
        asked = [self._asked(request) for request in requests]
        names = [tuple(map(_name, images)) if len(asked) > 1 else () for _, images in asked]
        places: dict[tuple[object, ...], int] = {}
        for place, name in enumerate(names):
            if asked[place][1]:
                places.setdefault(name, place)
        pixels = dict(zip(places, self._pixels([(requests[at], asked[at][1]) for at in places.values()]), strict=True))
        return [self._prompt(*one, pixels.get(name)) for one, name in zip(asked, names, strict=True)]

    def _asked(self, request: Instance) -> tuple[str, list[Image.Image]]:
        """The text of a request, with as many marks as images or none, and its images."""
        text, _, visuals_of, number, task, split = request.args
        images = visuals_of(self.task_dict[task][split][number]) or []
        other = next((image for image in images if not isinstance(image, Image.Image)), None)
        if other is not None:
            raise RequestError(f"task {task!r} gives a {type(other).__name__}; prunescope takes images alone")
        text = text.replace(getattr(self.adapter.processor, "image_token", None) or MARK, MARK)
        if text.count(MARK) != len(images):
            text = text.replace(MARK, " ")
        return text, [rgb(image) for image in images]

    def _pixels(self, asked: list[tuple[Instance, list[Image.Image]]]) -> list[tuple[Spans, torch.Tensor] | None]:
        """The images of each request as the tower takes them, shrunk where the method shrinks; None where it leaves them out."""
        if not asked:
            return []
        whole = self.adapter.prompt_pixels([images for _, images in asked])
        found: list[tuple[Spans, torch.Tensor] | None] = []
        for (request, images), spans, tensor in zip(asked, whole.spans, whole.tensors, strict=True):
            grid = self.pruner.grid(self.adapter.shape_for(spans))
            if grid is not None and grid != (0, 0):
                if len(images) > 1:
                    what = f"task {request.args[4]!r} gives {len(images)}"
                    raise RequestError(f"method {self.pruner.expression!r} shrinks one image, {what}")
                small = self.adapter.prompt_pixels([images], grid)
                spans, tensor = small.spans[0], small.tensors[0]
            found.append(None if grid == (0, 0) else (spans, tensor))
        return found

    def _prompt(self, text: str, images: list[Image.Image], pixels: tuple[Spans, torch.Tensor] | None) -> SplitPrompt:
        """A prompt of a text and of images; without them where there are no pixels."""
        if pixels is None:
            before, after = self.adapter.prompt(text.replace(MARK, " "), False)
            return SplitPrompt((), (*before, *after), text=text)
        before, after = self.adapter.prompt(texts_around(text, len(images)) if MARK in text else text, len(images))
        return SplitPrompt(tuple(before), tuple(after), *pixels, unmarked(text))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refuse tasks that rate given answers.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "prunescope generates answers; tasks that rate given ones by their likelihood are not supported"
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse tasks of several rounds.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("prunescope answers one prompt at a time; tasks of several rounds are not supported")


def _name(image: Image.Image) -> tuple[tuple[int, int], bytes]:
    """A name of an image that depends on what it shows alone, whichever object holds it."""
    return image.size, hashlib.blake2b(image.tobytes(), digest_size=16).digest()


def _device(device: str | None) -> str:
    """Where to run; of several processes each takes its own GPU."""
    device = pick_device(device or "auto")
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def _check(options: dict[str, Any]) -> None:
    """`RequestError` where a task asks for more than greedy decoding; what no configuration of `generate` knows is not read."""
    from transformers import GenerationConfig

    config = GenerationConfig()
    config.update(**options)
    refused = beyond_greedy(config)
    if options.get("do_sample") is None and (options.get("temperature") or 0) > 0:
        refused["temperature"] = options["temperature"]
    if refused:
        what = ", ".join(f"{name}={value!r}" for name, value in refused.items())
        raise RequestError(f"prunescope decodes greedily; the task asks for {what}: add --gen_kwargs do_sample=False,num_beams=1")


def _stops(options: dict[str, Any]) -> list[str]:
    """The strings at which an answer ends."""
    until = options.get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop]


def _cut(text: str, until: list[str]) -> str:
    """The text up to the first of the stops."""
    return text[: min((text.find(stop) for stop in until if stop in text), default=len(text))].strip()


def register() -> None:
    """Make the model known to an lmms-eval that has not found it by the entry point."""
    from lmms_eval import models

    if hasattr(models, "MODEL_REGISTRY_V2"):
        models.MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    else:  # 0.5
        models.AVAILABLE_SIMPLE_MODELS["prunescope"] = f"{__name__}.Prunescope"


if __name__ == "__main__":
    from runpy import run_module

    from harness.bridges.lmms_eval import register as register_once

    register_once()
    run_module("lmms_eval", run_name="__main__")
