"""The self-check of a model: the engine without pruning against ``generate`` of transformers.

The reference shares nothing with the engine but the weights: prompts and pixels are those of the model's own processor, its
attention is the stock SDPA, and layers, masks, norms and multipliers are what the model's own forward makes of its
configuration. What is held against each other are the logits of the first answer token, before ``generation_config`` changes
them, and a few greedy tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from harness.engine.batch import Batch, EngineOutput
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.errors import RequestError, readable
from harness.models.adapter import Adapter
from harness.models.prompt import PixelBatch
from harness.models.token_ids import token_ids

QUESTIONS = ("what color is the circle ?", "Repeat these words and nothing else: one two three four five six")
"""What is asked. Models answer both with little doubt, so that rounding does not decide the first words."""
ANSWER_TOKENS = 4
HALF = (torch.bfloat16, torch.float16)
GROSS = 10
"""How many times the tolerance first-token logits may differ."""
_WIDTH, _HEIGHT = 448, 224  # two tiles where images are cut into tiles, and no square where they are not
_REASON = 160  # characters of an error's message
_UNCHECKED = "so the engine was not checked against it"

Outcome = Literal["equal", "different", "doubtful", "failed", "skipped", "off"]
"""How a check ended.

``doubtful``: what differs may be rounding that chose other experts; ``failed``: there is nothing to compare with, or nothing to
compare; ``skipped``: such models are not checked; ``off``: as the user asked.
"""


@dataclass(frozen=True)
class SelfCheck:
    """What came of holding the engine against ``generate``."""

    outcome: Outcome
    said: str  # a clause for a reader, without a full stop
    logits: float | None = None  # largest difference of first-token logits, over the largest of these; None if not finite
    tokens: int = 0  # answer tokens that are the same
    prompts: int = 0
    seconds: float | None = None  # that it took when it was computed
    cached: bool = False  # whether an earlier run computed it


@dataclass(frozen=True)
class GreedyTrace:
    """The greedy answer to one prompt, and the logits that it was chosen by."""

    tokens: list[int]  # the end token included, where there is one
    logits: torch.Tensor  # float32 [steps, vocabulary], on the CPU, as the model gives them; of the engine the first step's alone
    prompt: int | None = None  # its tokens


Traces = Callable[[], list[GreedyTrace]]


def tolerance(dtype: torch.dtype) -> float:
    """Return the relative distance within which two logits are a near tie, in a precision."""
    return 1e-2 if dtype in HALF else 1e-4


def picture() -> Image.Image:
    """Return the image of the check: a red circle on a pattern of greys and blues, none of whose patches are alike."""
    down, across = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    circle = (down - 104) ** 2 + (across - 150) ** 2 < 84**2
    wave = 24 * np.sin(down / 11) * np.cos(across / 17) + 16 * ((down // 16 + across // 16) % 2)
    background = np.stack([150 - across / 8, 160 - down / 8, 170 + across / 8], -1)
    pixels = np.where(circle[..., None], np.array([210.0, 30.0, 24.0]), background) + wave[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def cannot_be_checked(adapter: Adapter) -> str | None:
    """Return why a model cannot be checked on a picture of our own; None where it can."""
    if not hasattr(adapter.tokenizer, "decode") or not hasattr(adapter.processor, "apply_chat_template"):
        return "it has no processor of its own that makes prompts"
    return None


def check_model(adapter: Adapter) -> SelfCheck:
    """Check a model on a picture and two questions that are the same for all models.

    Args:
        adapter: the model, with its processor.

    Returns:
        The outcome; ``different`` where the engine does not run this model as its own code does.

    Raises:
        RequestError: where the model's processor and chat template make no prompt that the engine can take.
    """
    image = adapter.picture_size.bring(picture())  # once for both sides: it stays as it is where it has that size
    return self_check(adapter, lambda: _engine_traces(adapter, image), lambda: _generated(adapter, image))


def self_check(adapter: Adapter, engine: Traces, reference: Traces) -> SelfCheck:
    """Hold answers of the engine against those of ``generate``.

    In half precision, where the two differ by more than is usual, the reference is computed once more with eager attention:
    what differs by less than twice as much as these two do is rounding.

    Args:
        adapter: the model.
        engine: answers some prompts by the engine.
        reference: answers the same prompts, in the same order, by ``generate``; while it runs, the model is as transformers
            made it.

    Raises:
        RequestError: of ``engine``.
    """
    try:
        ours = engine()
    except RequestError:
        raise
    except Exception as error:  # what is wrong with the model or this machine shows in the run itself
        return SelfCheck("failed", f"the engine failed on the self-check's prompts ({_reason(error)}), so it was not checked")
    try:
        with as_published(adapter.model, "sdpa"):
            theirs = reference()
    except Exception as error:  # of the model's own code and that of its processor
        return SelfCheck("failed", f"generate of transformers failed ({_reason(error)}), {_UNCHECKED}")
    if not all(bool(trace.logits.isfinite().all()) for trace in theirs):
        return SelfCheck("failed", f"generate of transformers gives logits that are not finite, {_UNCHECKED}")
    near = tolerance(adapter.dtype)
    limits = [Limits(near, GROSS * near)] * len(theirs)
    if adapter.dtype in HALF and any(map(_fault, ours, theirs, limits)):
        limits = _half_precision_limits(adapter, theirs, reference)
    return _judged(adapter, ours, theirs, limits)


@dataclass(frozen=True)
class Limits:
    """How far the engine may be from the reference on one prompt."""

    margin: float  # relative, between the two largest logits where the tokens differ
    logits: float  # of first-token logits, relative to the largest


def _half_precision_limits(adapter: Adapter, theirs: list[GreedyTrace], reference: Traces) -> list[Limits]:
    """Limits by what the reference itself is rounded by: its distance to itself with another attention function."""
    near, rounding = tolerance(adapter.dtype), [0.0] * len(theirs)
    # a model may not have it, and memory may not hold it: then what is usual must do
    with suppress(Exception), as_published(adapter.model, "eager"):
        rounding = [_rounding(one, other) for one, other in zip(theirs, reference(), strict=True)]
    return [
        Limits(
            margin=min(max(near, 2 * noise), GROSS * near),
            logits=min(max(GROSS * near, 2 * noise), 2 * GROSS * near),
        )
        for noise in rounding
    ]


def _rounding(one: GreedyTrace, other: GreedyTrace) -> float:
    """Largest relative distance of two computations of one answer, up to the first token that differs."""
    step = _first_difference(one, other)
    steps = len(one.tokens) if step is None else step + 1
    first, second = one.logits[:steps], other.logits[:steps]
    return float(((first - second).abs().amax(-1) / first.abs().amax(-1)).max())


def _first_difference(one: GreedyTrace, other: GreedyTrace) -> int | None:
    """The first answer token, from 0 on, that is not the same."""
    longest = max(len(one.tokens), len(other.tokens))
    return next((i for i in range(longest) if one.tokens[i : i + 1] != other.tokens[i : i + 1]), None)


def _distance(ours: GreedyTrace, theirs: GreedyTrace) -> float:
    """Largest difference of first-token logits, over the largest of these; infinite where one is not finite."""
    far = float((ours.logits[0] - theirs.logits[0]).abs().max() / theirs.logits[0].abs().max())
    return far if math.isfinite(far) else math.inf


def _margin(theirs: GreedyTrace, step: int) -> float:
    """The gap of the reference's two largest logits at an answer token, over the larger of them."""
    first, second = map(float, theirs.logits[step].topk(2).values)
    return (first - second) / max(abs(first), abs(second), 1e-30)


def _fault(ours: GreedyTrace, theirs: GreedyTrace, limits: Limits) -> str | None:
    """What differs on one prompt, and by how much; None where it is within the limits."""
    far, step = _distance(ours, theirs), _first_difference(ours, theirs)
    lengths = ""
    if None not in (ours.prompt, theirs.prompt) and ours.prompt != theirs.prompt:
        lengths = f"; its processor makes {theirs.prompt} tokens of the prompt, the engine {ours.prompt}"
    if far > limits.logits:
        amount = "are not finite" if math.isinf(far) else f"differ by {_share(far)} of the largest"
        return f"logits of the first answer token {amount}, {_share(limits.logits)} may be rounding{lengths}"
    if step is not None and step < len(theirs.tokens) and (margin := _margin(theirs, step)) > limits.margin:
        found = str(ours.tokens[step]) if step < len(ours.tokens) else "missing"
        return (
            f"answer token {step + 1} is {found} for {theirs.tokens[step]}, though its logit leads by {_share(margin)}, "
            f"{_share(limits.margin)} may be rounding{lengths}"
        )
    return None


def _judged(adapter: Adapter, ours: list[GreedyTrace], theirs: list[GreedyTrace], limits: list[Limits]) -> SelfCheck:
    far = max(map(_distance, ours, theirs))
    steps = [(_first_difference(one, other), len(other.tokens)) for one, other in zip(ours, theirs, strict=True)]
    same, total = sum(count if step is None else step for step, count in steps), sum(count for _, count in steps)
    figures: dict[str, Any] = {"logits": far if math.isfinite(far) else None, "tokens": same, "prompts": len(theirs)}
    faults = [fault for fault in map(_fault, ours, theirs, limits) if fault is not None]
    precision = str(adapter.dtype).removeprefix("torch.")
    if not faults:
        ties = "" if same == total else ", the next one is a near tie"
        close = "identical" if far == 0 else f"within {far:.1g} of the largest"
        said = (
            f"without pruning the engine gives what generate of transformers gives: on {_prompts(len(theirs))} {same} answer "
            f"tokens are the same{ties}, and first-token logits are {close} ({precision})"
        )
        return SelfCheck("equal", said, **figures)
    if adapter.dtype in HALF and routes_tokens(adapter.config):
        said = (
            f"without pruning the engine differs from generate of transformers ({faults[0]}); in {precision} rounding may send "
            "tokens to other experts, so compare with --dtype float32 before you trust a small difference"
        )
        return SelfCheck("doubtful", said, **figures)
    return SelfCheck("different", f"without pruning the engine differs from generate of transformers: {faults[0]}", **figures)


def _prompts(count: int) -> str:
    return "one prompt" if count == 1 else f"{count} prompts"


def _share(value: float) -> str:
    """A share in per cent, with two digits."""
    return f"{100 * value:.2g} %"


def _reason(error: Exception) -> str:
    first = readable(str(error)).partition("\n")[0][:_REASON]
    return type(error).__name__ + (f": {first}" if first else "")


def routes_tokens(config: Any) -> bool:
    """Return whether a configuration of transformers is of a mixture of experts, among which rounding may choose others."""
    text = config.get_text_config().to_dict()
    return any(re.fullmatch(r"(moe_)?(num|n)_(\w+_)?experts", name) and isinstance(v, int) and v > 1 for name, v in text.items())


@contextmanager
def as_published(model: Any, attention: str) -> Iterator[None]:
    """Run a model as transformers made it, greedily, whatever its ``generation_config`` asks for beyond that.

    Args:
        model: of transformers, whose attention goes through our probes outside of the block.
        attention: name of the attention function inside it; eager attention where the model has no such one.
    """
    from transformers import GenerationConfig

    own, probed = model.generation_config, model.config._attn_implementation
    pad = own.pad_token_id if own.pad_token_id is not None else next(iter(token_ids(own.eos_token_id)), 0)
    model.generation_config = GenerationConfig(eos_token_id=own.eos_token_id, pad_token_id=pad)
    try:
        try:
            model.set_attn_implementation(attention)
        except ValueError:  # of a model that bounds its scores, as Gemma 2 does, which SDPA cannot
            model.set_attn_implementation("eager")
        yield
    finally:
        model.set_attn_implementation(probed)
        model.generation_config = own


@torch.inference_mode()
def generate_traces(model: Any, inputs: dict[str, Any]) -> list[GreedyTrace]:
    """Return what ``generate`` answers to the rows of a batch; to be called inside `as_published`.

    Args:
        model: of transformers.
        inputs: what its processor made.
    """
    out = model.generate(
        **inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    width, ends = inputs["input_ids"].shape[1], token_ids(model.generation_config.eos_token_id)
    logits = torch.stack(out.logits, 1).float().cpu()  # [rows, steps, vocabulary]
    lengths = inputs["attention_mask"].sum(1).tolist() if inputs.get("attention_mask") is not None else [width] * len(logits)
    traces = []
    for row, steps, length in zip(out.sequences[:, width:].tolist(), logits, lengths, strict=True):
        end = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
        traces.append(GreedyTrace(row[:end], steps[:end], length))
    return traces


def traces_of(out: EngineOutput, prompts: Sequence[int]) -> list[GreedyTrace]:
    """Return what the engine answered.

    Args:
        out: of an engine that gives as many tokens as are checked.
        prompts: tokens of each prompt.
    """
    logits, rows = out.first_logits.float().cpu(), zip(out.tokens, out.ended, prompts, strict=True)
    return [
        GreedyTrace([*tokens, *([] if end is None else [end])], logits[place : place + 1], length)
        for place, (tokens, end, length) in enumerate(rows)
    ]


def _engine_traces(adapter: Adapter, image: Image.Image) -> list[GreedyTrace]:
    prompts = [adapter.prompt(question) for question in QUESTIONS]
    pixels: PixelBatch = adapter.pixels([image])
    zeros = torch.zeros(len(prompts), dtype=torch.int64, device=adapter.device)
    batch = Batch(pixels, prompts[0][0], [after for _, after in prompts], zeros, zeros[:1], zeros)
    before = len(adapter.prompt_prefix(prompts[0][0], pixels.spans[0]).ids)
    return traces_of(Engine(adapter, ANSWER_TOKENS).run(EngineRequest(batch)), [before + len(after) for _, after in prompts])


def _generated(adapter: Adapter, image: Image.Image) -> list[GreedyTrace]:
    traces = []
    for question in QUESTIONS:
        inputs = dict(_processed(adapter, image, question).to(adapter.device, adapter.dtype))
        inputs.pop("labels", None)  # for training
        traces += generate_traces(adapter.model, inputs)
    return traces


def _processed(adapter: Adapter, image: Image.Image, question: str) -> Any:  # of transformers
    """What the model's own processor makes of a question about an image."""
    processor = adapter.processor
    if adapter.spec.bare_prompt:
        return processor(images=image, text=processor.image_token + question, return_tensors="pt")
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
