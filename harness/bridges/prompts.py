"""Prompts one by one, and the engine run on them: what the bridges share."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast, get_args

import torch

from harness.engine.batch import Batch
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.engine.sharing import SharedPrefill
from harness.engine.tower_signals import reads_of
from harness.errors import RequestError, nearest
from harness.models.adapter import Adapter
from harness.models.prompt import ImageSpan, PixelBatch
from harness.models.signal_sources import given_by
from harness.models.token_ids import own_words
from harness.run.levels import refuse_without_level
from harness.run.streams import stream
from methods.keep import Keep
from methods.registry import MethodError, canonical, create, entry, parse, split
from methods.schedule import plan
from methods.types import SIGNAL_NAMES, Budget, BudgetError, BudgetMode, ModelShape, Step

JOINT = frozenset({"image_embeds", "text_embeds"})
"""Signals of the joint image-text space, which come from a companion of the model."""


@dataclass(frozen=True)
class SplitPrompt:
    """One prompt, taken apart at its last image."""

    prefix: tuple[int, ...]  # token ids before it; VISUAL where an earlier image stands
    question: tuple[int, ...]  # token ids behind it
    spans: tuple[ImageSpan, ...] = ()  # of its images; none without an image
    pixels: torch.Tensor | None = None  # of its images, tiles [tiles, 3, H, W] or patches [patches, C]
    text: str = ""  # what is asked, for signals of the joint space and of the question's own words

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens."""
        return sum(span.count for span in self.spans)

    @property
    def text_tokens(self) -> int:
        """Number of all other tokens."""
        return len(self.prefix) + len(self.question) + sum(span.marks for span in self.spans)


@dataclass(frozen=True)
class PromptAnswer:
    """What the model answered to a prompt, and how many visual tokens it was given."""

    tokens: list[int]  # the end token included, where there is one
    visual_tokens: tuple[int, int]  # in the prompt, and present in the last layer
    first_logits: torch.Tensor  # float32 [vocabulary] of the first token


class PromptPruner:
    """One method at one budget, which answers prompts.

    Args:
        method: its name or expression.
        keep: visual tokens of a prompt: a whole number is a count, one with a point or a text such as ``34%`` a share; a prompt
            of fewer tokens keeps all of them.
        budget: how they are counted, ``average``, ``final`` or ``flops``.
        seed: of methods that draw random numbers.
        parameters: of the method; an expression may hold them instead.

    Raises:
        ValueError: for an unknown method, parameter or budget.
    """

    def __init__(self, method: str, keep: float | str, budget: str, seed: int, parameters: dict[str, Any]) -> None:
        if not isinstance(method, str):
            raise RequestError(f"method={method!r}: give its name as a text, such as 'fastv'")
        self.expression = canonical(_expression(method, parameters))
        refuse_without_level(self.expression)
        self.method = create(self.expression)
        if budget not in get_args(BudgetMode):
            raise RequestError(f"budget={budget!r}: {nearest(str(budget), get_args(BudgetMode))}")
        try:
            self.keep = Keep.asked(keep)
        except ValueError as error:
            raise RequestError(f"keep={keep!r}: give a count of visual tokens, or a share of them; {error}") from None
        self.mode, self.seed = cast(BudgetMode, budget), seed
        self._planned: dict[tuple[ModelShape, float], tuple[Step, ...]] = {}

    @property
    def joint(self) -> bool:
        """Whether the method may read signals of the joint image-text space."""
        return any(entry(parse(half)[0]).needs & JOINT for half in split(self.expression, "+"))

    def reads_words(self, shape: ModelShape) -> bool:
        """Return whether the method reads a question's own words on a model of this shape, through the model's tokenizer."""
        steps: tuple[Step, ...] = ()
        with suppress(BudgetError):
            steps = self.steps(shape)
        return any(step.words == "question" for step in steps or self._steps_below(shape))

    def budget(self, available: int, text_tokens: float) -> Budget:
        """Return the budget of a prompt with so many visual tokens and so many others."""
        count = self.keep.tokens(available) if self.method.budgeted else available
        return Budget(count, self.mode, text_tokens, self.keep.value if self.keep.share else None)

    def steps(self, shape: ModelShape, text_tokens: float = 64.0) -> tuple[Step, ...]:
        """Return the steps of the method on a model of this shape, for a prompt of so many text tokens; none if all may stay."""
        key = shape, text_tokens if self.mode == "flops" else 0.0
        if key not in self._planned:
            self._planned[key] = plan(self.method, shape, self.budget(shape.visual_tokens, text_tokens))[0]
        return self._planned[key]

    def grid(self, shape: ModelShape) -> tuple[int, int] | None:
        """Return the grid to which an image is shrunk before the tower; (0, 0) for no image; None for as it is."""
        budget = self.budget(shape.visual_tokens, 64.0)
        whole = self.method.budgeted and budget.tokens == shape.visual_tokens
        return None if whole else self.method.image_grid(shape, budget)

    def shrinks(self, shape: ModelShape) -> bool:
        """Return whether the method acts on the image itself, before the tower: shrinks it, or leaves it out."""
        return self.method.image_grid(shape, Budget(1)) is not None

    def check(self, adapter: Adapter) -> None:
        """Check that the method can run on a model.

        Raises:
            ValueError: where it cannot; the message holds the signal that is missing or another reason.
        """
        try:
            steps = self.steps(adapter.shape)
        except BudgetError as error:
            if adapter.tiler.one_to_one:
                raise RequestError(f"method {self.expression!r}, keep={self.keep}: {error}") from None
            steps = ()  # images of another size may do
        self._runnable(adapter, steps or self._steps_below(adapter.shape))

    def _steps_below(self, shape: ModelShape) -> tuple[Step, ...]:
        """The steps of the method where the budget asks for none on this shape: longer prompts will be pruned by them."""
        tokens = shape.visual_tokens
        while tokens > 1:
            tokens //= 2
            with suppress(BudgetError):
                steps: tuple[Step, ...] = plan(self.method, shape, Budget(tokens, self.mode))[0]
                if steps:
                    return steps
        return ()

    def _runnable(self, adapter: Adapter, steps: tuple[Step, ...]) -> None:
        """Raise a `RequestError` where a model cannot run steps: which signal is missing, or what else is in the way."""
        kind = adapter.config.model_type
        needs: frozenset[str] = frozenset().union(*(step.needs for step in steps))
        if "evidence" in needs:
            raise RequestError(f"method {self.expression!r} needs the signal 'evidence', which a task gives and no model does")
        lacks = sorted((needs & SIGNAL_NAMES) - adapter.gives)
        if lacks:
            lack = f"the signal {lacks[0]!r}, which this {kind} model does not give{given_by(lacks)}"
            raise RequestError(f"method {self.expression!r} needs {lack}")
        reason = adapter.cannot(steps)
        if reason is not None:
            raise RequestError(f"method {self.expression!r} cannot run: {reason}")

    def answers(self, adapter: Adapter, prompts: Sequence[SplitPrompt], limit: int, ends: frozenset[int]) -> list[PromptAnswer]:
        """Answer prompts greedily.

        Prompts with the same text before their images and the same number of visual tokens run together. Equal images are
        encoded once, whatever stands around them, and what questions about them share is computed once. What an answer is
        depends on its own prompt alone, up to rounding.

        Args:
            adapter: the model.
            prompts: of any kind; those without an image run as they are.
            limit: answer tokens at most.
            ends: tokens that end an answer.

        Returns:
            The answers, in the order of the prompts.

        Raises:
            RequestError: for a prompt that cannot be answered, or on which the method cannot meet the budget.
        """
        groups: dict[object, list[int]] = {}
        for place, prompt in enumerate(prompts):
            if not prompt.question:
                raise RequestError(f"prompt {place}: no text follows its last image, so there is nothing to answer")
            try:
                groups.setdefault(self._alike(adapter, prompt), []).append(place)
            except BudgetError as error:
                raise RequestError(
                    f"prompt {place}, of {prompt.visual_tokens} visual tokens: {self.expression}, keep={self.keep}: {error}"
                ) from None
        pictures, towers = distinct_pictures(prompts), dict[object, _EncodedPictures]()
        asked = []
        for places in groups.values():
            steps = self._steps(adapter, prompts[places[0]])
            places.sort(key=lambda place: pictures[place])
            about = list(dict.fromkeys(pictures[place] for place in places))
            inside = tuple(step for step in steps if step.site.stage == 0)
            encoded = None
            if prompts[places[0]].spans and not any(step.adaptive for step in inside):
                key = prompts[places[0]].spans, inside, reads_of(steps)
                encoded = towers.setdefault(key, _EncodedPictures(adapter, prompts, steps))
                encoded.pictures.extend(picture for picture in about if picture not in encoded.pictures)
            asked.append((places, about, steps, encoded))
        found: dict[int, PromptAnswer] = {}
        for places, about, steps, encoded in asked:
            shared = None if encoded is None else encoded.part(about)
            images = [about.index(pictures[place]) for place in places]
            group = [prompts[place] for place in places]
            found.update(zip(places, self._group(adapter, group, images, steps, shared, limit, ends), strict=True))
        return [found[place] for place in range(len(prompts))]

    def _steps(self, adapter: Adapter, prompt: SplitPrompt) -> tuple[Step, ...]:
        return self.steps(adapter.shape_for(prompt.spans), prompt.text_tokens) if prompt.spans else ()

    def _alike(self, adapter: Adapter, prompt: SplitPrompt) -> object:
        """What prompts that can run together have in common; the engine parts those whose counts follow from their images."""
        self._runnable(adapter, self._steps(adapter, prompt))
        return prompt.prefix, prompt.spans, len(prompt.question) if self.mode == "flops" else None

    def _group(
        self,
        adapter: Adapter,
        prompts: list[SplitPrompt],
        images: list[int],
        steps: tuple[Step, ...],
        shared: SharedPrefill | None,
        limit: int,
        ends: frozenset[int],
    ) -> list[PromptAnswer]:
        """Answers to prompts that can run together; ``images`` counts their distinct pixels, rising from 0 without a gap."""
        first, device = prompts[0], adapter.device
        firsts = [prompts[images.index(image)] for image in range(images[-1] + 1)]
        needs: frozenset[str] = frozenset().union(*(step.needs for step in steps))
        image_seeds = torch.zeros(len(firsts), dtype=torch.int64, device=device)
        question_seeds = torch.zeros(len(prompts), dtype=torch.int64, device=device)
        if "seeds" in needs:
            names = [_digest(prompt.pixels) for prompt in firsts if prompt.pixels is not None]
            image_seeds = torch.tensor([stream(self.seed, name) for name in names], device=device)
            asked = [stream(self.seed, names[image], *prompt.question) for image, prompt in zip(images, prompts, strict=True)]
            question_seeds = torch.tensor(asked, device=device)
        text_embeds = None
        if "text_embeds" in needs:
            assert adapter.companion is not None, "methods that need a companion are refused where there is none"
            text_embeds = adapter.companion.texts_embeds(prompt.text for prompt in prompts)
        batch = Batch(
            pixels=_pixels(adapter, firsts),
            prefix=list(first.prefix),
            questions=[list(prompt.question) for prompt in prompts],
            image=torch.tensor(images, device=device),
            image_seeds=image_seeds,
            question_seeds=question_seeds,
            text_embeds=text_embeds,
            question_words=own_words(adapter.tokenizer, (p.text for p in prompts)) if "text_features" in needs else None,
        )
        request = EngineRequest(batch, steps, self.method.positions, shared, blind=not first.spans)
        out = Engine(adapter, limit, ends=ends).run(request)
        return [
            PromptAnswer([*tokens, *([] if end is None else [end])], (prompt.visual_tokens, int(present)), logits)
            for prompt, tokens, end, present, logits in zip(
                prompts, out.tokens, out.ended, out.present.tolist(), out.first_logits, strict=True
            )
        ]


@dataclass
class _EncodedPictures:
    """What the tower makes of some pictures, all of them in one go where it is first asked for."""

    adapter: Adapter
    prompts: Sequence[SplitPrompt]
    steps: tuple[Step, ...]
    pictures: list[int] = field(default_factory=list)  # each by the first prompt that has it

    @cached_property
    def _whole(self) -> SharedPrefill:
        pixels = _pixels(self.adapter, [self.prompts[picture] for picture in self.pictures])
        return SharedPrefill(self.adapter, Engine(self.adapter).encode_images(pixels, self.steps))

    def part(self, pictures: list[int]) -> SharedPrefill:
        """What is known of some of the pictures, in their order."""
        if pictures == self.pictures:
            return self._whole
        return self._whole.part(torch.tensor([self.pictures.index(picture) for picture in pictures]))


def distinct_pictures(prompts: Sequence[SplitPrompt]) -> list[int]:
    """Return, of every prompt, the first prompt that has the same pixels, cut the same way; itself where it has no image.

    Pixels are compared by a digest, and only where several prompts could have the same.
    """
    cuts = Counter(prompt.spans for prompt in prompts)
    first: dict[object, int] = {}
    names: dict[int, str] = {}  # of pixels, by the object that holds them
    found = []
    for place, prompt in enumerate(prompts):
        if prompt.pixels is None or cuts[prompt.spans] == 1:
            found.append(place)
            continue
        name = names.setdefault(id(prompt.pixels), "") or _digest(prompt.pixels)
        names[id(prompt.pixels)] = name
        found.append(first.setdefault((prompt.spans, tuple(prompt.pixels.shape), name), place))
    return found


def _pixels(adapter: Adapter, prompts: Sequence[SplitPrompt]) -> PixelBatch:
    """The pixels of prompts, on the model's device and in its dtype."""
    made = [torch.empty(0) if p.pixels is None else p.pixels.to(adapter.device, adapter.dtype) for p in prompts]
    return PixelBatch(made, [prompt.spans for prompt in prompts])


def _expression(method: str, parameters: dict[str, Any]) -> str:
    """``name[param=value,...]`` of a name and its parameters."""
    if not parameters:
        return method
    if "[" in method or "+" in method:
        raise MethodError(f"method {method!r} holds its parameters already; write {', '.join(parameters)} in there too")
    texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in parameters.items()}
    return f"{method}[{','.join(f'{key}={text}' for key, text in texts.items())}]"


def _digest(pixels: torch.Tensor) -> str:
    """A name of an image that depends on its pixels alone."""
    return hashlib.blake2b(pixels.detach().contiguous().cpu().view(torch.uint8).numpy().data, digest_size=16).hexdigest()
