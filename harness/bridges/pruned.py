"""A Hugging Face model with visual tokens removed on the way: one line in an existing script.

model = prunescope.prune(model, method="fastv", keep=192)
"""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from harness.bridges.arguments import check_ids, check_pixels, checked_mask
from harness.bridges.checking import check_prompts
from harness.bridges.inputs import IMAGE_INPUTS, read
from harness.bridges.options import GreedyOptions, greedy
from harness.bridges.prompts import PromptPruner
from harness.engine.self_check import SelfCheck
from harness.errors import RequestError, first_line
from harness.models import companion as companions
from harness.models.adapter import Adapter
from harness.models.configuration import read_shape, tower_kind
from harness.models.devices import devices_of
from harness.models.families import spec_of
from harness.models.torchvision_ops import declare_torchvision_ops
from harness.models.weights import check_loaded

if TYPE_CHECKING:
    from transformers import GenerationConfig

_DERIVED = ("token_type_ids", "mm_token_type_ids")
"""Inputs that follow from ``input_ids``."""
_UNREAD = (*_DERIVED, "labels")
"""What processors give and the engine does not read."""
_OWN = frozenset({"plain", "processor", "pruner", "visual_tokens", "self_check", "_adapter", "_companion", "_checks"})
"""Attributes of a `PrunedModel` that are not those of the model within."""


def prune(
    model: Any,  # of transformers
    method: str = "sts",
    keep: float | str = 64,
    budget: str = "average",
    processor: Any = None,  # of transformers
    seed: int = 0,
    self_check: bool = True,
    **method_parameters: Any,  # numbers, texts or booleans, by the method
) -> PrunedModel:
    """Wrap a loaded vision-language model, so that its ``generate`` runs with fewer visual tokens.

    Args:
        model: of a supported family (`harness.models.families`), as ``from_pretrained`` gives it. It is not copied; its
            attention is set to SDPA.
        method: name or expression, as in ``python -m harness list methods``.
        keep: visual tokens of a prompt, all its images together: a whole number is a count, a number with a point, or a
            text such as ``"34%"``, a share; ``1.0`` is all of them. A prompt of fewer keeps all.
        budget: how they are counted: their mean over the LLM's layers (``average``), in the last layer (``final``), or
            by FLOPs (``flops``).
        processor: the model's. Needed by SmolVLM and Idefics3, and by methods that read the question in a joint space
            or by its own words; where it is not given, those look for it where the model came from, without a network.
        seed: of methods that draw random numbers. What they draw for a prompt depends on seed, pixels and text alone.
        self_check: whether the first ``generate`` with an image holds the engine, without pruning, against the model's own
            ``generate`` on the prompts it is given; once for a model in this process, device and precision.
        method_parameters: of the method, as ``layer=2``.

    Raises:
        ValueError: for an unknown method, parameter, budget or architecture, and where the model does not give a signal
            that the method needs.

    Example:
        >>> from transformers import AutoModelForImageTextToText
        >>> from harness.models.hf import TINY
        >>> model = prune(AutoModelForImageTextToText.from_pretrained(TINY), method="fastv", keep=192)
        >>> model
        PrunedModel(LlavaForConditionalGeneration, method='fastv', keep=192, budget='average')
    """
    plain = model.plain if isinstance(model, PrunedModel) else model
    return PrunedModel(plain, PromptPruner(method, keep, budget, seed, method_parameters), processor, self_check)


class PrunedModel:
    """A model whose ``generate`` prunes visual tokens; all else is that of the model within, ``plain``.

    ``visual_tokens`` holds, for every row of the last ``generate``, how many visual tokens the prompt had and how many were
    there in the last layer; ``self_check`` what holding the engine against the model's own ``generate`` came to, None before.

    Args:
        plain: the model within, of transformers.
        pruner: method and budget.
        processor: the model's, of transformers; None where it is not needed, or is to be looked for.
        checks: whether the first ``generate`` checks the engine against that of the model.

    Raises:
        ValueError: where the model's architecture is not supported, or the method cannot run on it.
    """

    def __init__(self, plain: Any, pruner: PromptPruner, processor: Any = None, checks: bool = True) -> None:
        name = str(getattr(plain, "name_or_path", "")) or type(plain).__name__
        kind = getattr(getattr(plain, "config", None), "model_type", type(plain).__name__)
        spec = spec_of(name, kind, tower_kind(getattr(plain, "config", None)))
        if spec.model_class not in (kind.__name__ for kind in type(plain).__mro__):
            raise RequestError(f"prune: a {type(plain).__name__} has no generate for images; load it as {spec.model_class}")
        check_loaded(f"model {name!r}", plain)
        self.plain, self.pruner = plain, pruner
        self.visual_tokens: list[tuple[int, int]] = []
        self.self_check: SelfCheck | None = None
        self._checks = checks
        self._adapter: Adapter | None = None
        reads_words = pruner.reads_words(read_shape(plain.config, name))
        if processor is None and (pruner.joint or reads_words or kind in ("smolvlm", "idefics3")):
            processor = _processor(name)
        self.processor = processor
        self._companion = None
        if pruner.joint and processor is None:
            raise RequestError(f"method {pruner.expression!r} reads what is asked in a joint image-text space: pass processor=")
        if reads_words and processor is None:
            raise RequestError(f"method {pruner.expression!r} reads the question's own words by the tokenizer: pass processor=")
        if processor is not None and not hasattr(processor, "tokenizer"):
            raise RequestError(f"prune: processor is a {type(processor).__name__}; give what AutoProcessor makes")
        if pruner.joint:
            self._companion = _joint_space(name, processor, getattr(plain.config, "vision_config", None))
        pruner.check(self.adapter)
        if pruner.shrinks(self.adapter.shape):
            raise RequestError(f"method {pruner.expression!r} acts on the image itself: change what the processor is given")

    @property
    def adapter(self) -> Adapter:
        """The model as the engine sees it; made anew where the model has moved to another device or dtype."""
        weight, where = next(self.plain.parameters()), devices_of(self.plain)
        if self._adapter is None or (self._adapter.devices, self._adapter.dtype) != (where, weight.dtype):
            if self._companion is not None:
                home = self.plain.get_input_embeddings().weight.device
                self._companion.text.to(home, weight.dtype)
                self._companion.visual_projection.to(home, weight.dtype)
            parts = self.processor or SimpleNamespace(tokenizer=None, image_token=None)
            self._adapter = Adapter(self.plain, parts, str(self.plain.name_or_path), self._companion)
        return self._adapter

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        texts: str | list[str] | None = None,
        **kwargs: Any,  # as ``generate`` of transformers takes them
    ) -> torch.Tensor:
        """Return greedy answers, as ``model.generate`` gives them.

        Args:
            inputs: ``input_ids``, by another name.
            generation_config: as in ``generate``.
            texts: what every prompt asks, a string or one a row, for methods that read it in a joint image-text space; by
                default the text behind the last image.
            kwargs: what the processor made (``input_ids``, ``attention_mask``, ``pixel_values``, ...), and options of
                greedy decoding. Rows are padded on the left.

        Returns:
            int64 [B, L + T]: ``input_ids``, then the answers with their end token, padded on the right. Prompts without
            an image are those of the model within.

        Raises:
            ValueError: for an option that cannot be honoured, other than at its default value; for text or images that
                do not belong together; where the method cannot meet the budget on a prompt; and where the engine, without
                pruning, does not answer as the model within does.
        """
        ids = kwargs.pop("input_ids", None)
        if ids is not None and inputs is not None:
            raise RequestError("generate: inputs and input_ids are two names of one thing; give one of them")
        ids = inputs if ids is None else ids
        if ids is None:
            raise RequestError("generate: give input_ids, as the processor makes them; inputs_embeds do not say where images are")
        check_ids(ids, self.plain.get_input_embeddings().num_embeddings, self.config.image_token_id)
        video = sorted(name for name, value in kwargs.items() if "video" in name and value is not None)
        if video:
            raise RequestError(f"generate: {', '.join(video)}: videos are not pruned; give images, or call .plain.generate")
        pixels = kwargs.get("pixel_values")
        holds = (ids == self.config.image_token_id).any(1)
        if not bool(holds.any()) and pixels is None:
            self.visual_tokens = [(0, 0)] * len(ids)
            unpruned: torch.Tensor = self.plain.generate(input_ids=ids, generation_config=generation_config, **kwargs)
            return unpruned
        images = {name: kwargs.pop(name, None) for name in IMAGE_INPUTS}
        if pixels is not None:
            check_pixels(pixels)
        mask = kwargs.pop("attention_mask", None)
        kinds = kwargs.get("token_type_ids")
        if self.adapter.spec.bidirectional_prompt and kinds is not None and bool((kinds != 0).any()):
            raise RequestError(
                "generate: token_type_ids mark the start of an answer (suffix=), which is for training: give prompts"
            )
        options = {name: value for name, value in kwargs.items() if name not in _UNREAD}
        asked = greedy(self.plain, ids.shape[1], generation_config, options)
        mask = checked_mask(ids, mask, asked.pad, asked.ends)
        texts = [texts] * len(ids) if isinstance(texts, str) else texts
        if texts is not None and not isinstance(texts, list | tuple):
            raise RequestError(f"generate: texts is a {type(texts).__name__}; give a string, or a list of one a prompt")
        if texts is not None and len(texts) != len(ids):
            raise RequestError(f"generate: {len(texts)} texts for {len(ids)} prompts")
        rows = [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
        prompts = read(self.adapter, rows, images, texts)
        seen, blind = [place for place, prompt in enumerate(prompts) if prompt.spans], (~holds).nonzero()[:, 0].tolist()
        if self._checks:
            derived = {name: value for name, value in kwargs.items() if name in _DERIVED}
            given = {"input_ids": ids, "attention_mask": mask.long(), **images, **derived}
            self.self_check = check_prompts(self.adapter, prompts, given)
        found = self.pruner.answers(self.adapter, [prompts[place] for place in seen], asked.limit, frozenset(asked.ends))
        answers = {place: answer.tokens for place, answer in zip(seen, found, strict=True)}
        counts = {place: answer.visual_tokens for place, answer in zip(seen, found, strict=True)}
        if blind:
            derived = {name: kwargs[name][blind] for name in _DERIVED if kwargs.get(name) is not None}
            answers |= dict(
                zip(blind, self._plain_answers(ids[blind], mask[blind], asked, generation_config, options | derived), strict=True)
            )
        self.visual_tokens = [counts.get(place, (0, 0)) for place in range(len(rows))]
        width = max(map(len, answers.values()))
        padded = [answers[place] + [asked.pad] * (width - len(answers[place])) for place in range(len(rows))]
        return torch.cat([ids, torch.tensor(padded, dtype=ids.dtype, device=ids.device)], 1)

    def _plain_answers(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        asked: GreedyOptions,
        generation_config: GenerationConfig | None,
        options: dict[str, Any],
    ) -> list[list[int]]:
        """Answers of the model within to prompts without an image, their end token included."""
        options = {name: value for name, value in options.items() if name != "max_length"} | {"max_new_tokens": asked.limit}
        out = self.plain.generate(input_ids=ids, attention_mask=mask.long(), generation_config=generation_config, **options)
        rows = out[:, ids.shape[1] :].tolist()
        stops = [next((place for place, token in enumerate(row) if token in asked.ends), len(row)) for row in rows]
        return [row[: stop + 1] for row, stop in zip(rows, stops)]

    def __getattr__(self, name: str) -> Any:  # of the model within
        if name in _OWN:
            raise AttributeError(name)
        own = inspect.getattr_static(type(self), name, None)
        if isinstance(own, property):  # one of ours met an AttributeError on its way: it is raised again, with its own message
            return own.__get__(self)
        value = getattr(self.plain, name)
        if not inspect.ismethod(value):
            return value

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:  # as a method of the model within
            result = value(*args, **kwargs)
            return self if result is self.plain else result  # `to`, `eval` and others hand the model back

        return call

    def __getattribute__(self, name: str) -> Any:
        """Be of the class of the model within to those who ask: pipelines of transformers go by it."""
        found = object.__getattribute__(self, name)
        return type(self.plain) if name == "__class__" and "plain" in object.__getattribute__(self, "__dict__") else found

    def __reduce__(self) -> tuple[type[PrunedModel], tuple[Any, PromptPruner, Any]]:
        return PrunedModel, (self.plain, self.pruner, self.processor)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.plain, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("a pruned model has generate() alone; .plain is the model within, whose forward removes nothing")

    def __repr__(self) -> str:
        pruner, inner = self.pruner, type(self.plain).__name__
        return f"PrunedModel({inner}, method={pruner.expression!r}, keep={pruner.keep}, budget={pruner.mode!r})"


def _processor(name: str) -> Any:  # of transformers
    """The processor of where a model came from, without a network; None where there is none."""
    from transformers import AutoProcessor

    declare_torchvision_ops()
    try:
        return AutoProcessor.from_pretrained(name, local_files_only=True)  # nosec B615
    except (OSError, ValueError, ImportError):
        return None


def _joint_space(name: str, processor: Any, vision: Any) -> companions.Companion | None:  # of transformers; so is ``vision``
    """The companion of a model whose tower has this configuration; `RequestError` where it is there and cannot be loaded."""
    try:
        return companions.load(name, _folder(name), processor.tokenizer, "cpu", torch.float32, False, vision)
    except RequestError:
        raise
    except Exception as error:  # a folder may hold anything
        first = first_line(error)
        raise RequestError(f"prune: the companion of model {name!r} cannot be loaded: {first}") from error


def _folder(name: str) -> Path | None:
    """The folder of a local model; None for a hub id."""
    return Path(name) if Path(name).is_dir() else None
