"""Reads the arguments of ``generate`` for greedy decoding: length and end tokens; all others are refused by name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import RequestError
from harness.models.token_ids import token_ids

if TYPE_CHECKING:
    from transformers import GenerationConfig

_NEUTRAL = {
    "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "repetition_penalty": 1.0, "min_new_tokens": 0,
    "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "min_length": 0,
    "diversity_penalty": 0.0, "guidance_scale": 1,
}  # fmt: skip
"""Values that leave greedy decoding as it is; None and False do too."""
_WITHOUT_EFFECT = frozenset(
    {
        "max_length", "max_new_tokens", "eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id",
        "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",  # of sampling
        "early_stopping", "length_penalty",  # of beams
        "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind",
        "target_lookbehind", "max_matching_ngram_size", "is_assistant", "assistant_ensemble_weight",  # of an assistant
        "use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile",
        "prefill_chunk_size", "continuous_batching_config", "low_memory", "transformers_version",  # of how, not of what
    }
)  # fmt: skip
"""Options that are honoured, or that change nothing in greedy decoding."""
_WORDS = frozenset({"tokenizer", "assistant_tokenizer"})
"""Arguments that serve other options, and that no signature names."""


@dataclass(frozen=True)
class GreedyOptions:
    """Greedy decoding as ``generate`` was asked for it."""

    limit: int  # new tokens at most
    ends: tuple[int, ...]
    pad: int


def greedy(
    model: Any,  # of transformers
    length: int,
    generation_config: GenerationConfig | None,
    options: Mapping[str, Any],  # keyword arguments of ``generate``
) -> GreedyOptions:
    """Return what a call asks for, by the rules of ``generate``: options, then ``generation_config``, then the model's own.

    Args:
        model: a Hugging Face model.
        length: columns of ``input_ids``.
        generation_config: as given, or None.
        options: keyword arguments that are no inputs of the model.

    Raises:
        RequestError: for the options that cannot be honoured; those at their default values are let through.
    """
    from transformers import GenerationConfig

    if generation_config is not None and not isinstance(generation_config, GenerationConfig):
        kind = type(generation_config).__name__
        raise RequestError(f"generate: generation_config is a {kind}; give a GenerationConfig, or its options by name")
    given = options.get("max_length") is not None or (generation_config is not None and generation_config.max_length is not None)
    merged = copy.deepcopy(generation_config) if generation_config is not None else GenerationConfig()
    try:
        merged.update(**model.generation_config.to_dict(), defaults_only=True, allow_custom_entries=True)
        rest = merged.update(**options)
        ends, pads = token_ids(merged.eos_token_id), token_ids(merged.pad_token_id)
        longest, limit = _count("max_length", merged.max_length), _count("max_new_tokens", merged.max_new_tokens)
    except (ValueError, TypeError, RuntimeError) as error:  # what transformers itself refuses, or trips over
        said = str(error).strip().partition("\n")[0][:300] or type(error).__name__
        raise RequestError(f"generate: its options cannot be read: {said}") from error
    own_words = {*inspect.signature(model.generate).parameters, *_WORDS, "trust_remote_code"}
    unknown = {name for name, value in rest.items() if value is not None and not (name in own_words and _empty(value))} - _WORDS
    if unknown:
        raise RequestError(f"generate: {', '.join(sorted(unknown))} cannot be honoured by a pruned model")
    refused = beyond_greedy(merged)
    if merged.cache_implementation == "paged":
        refused["cache_implementation"] = "paged"
    if refused:
        what = ", ".join(f"{name}={value!r}" for name, value in refused.items())
        own = [f"{name}={_neutral(name)}" for name in refused if name not in options]
        hint = f"; generation_config asks for it: pass {', '.join(own)}" if own else ""
        raise RequestError(f"generate: {what} cannot be honoured by a pruned model, which decodes greedily{hint}")
    if len(pads) > 1:
        raise RequestError(f"generate: pad_token_id={merged.pad_token_id!r}: one token pads, {len(pads)} are given")
    pad = pads[0] if pads else ends[0] if ends else 0
    if limit is None:  # a length that nobody gave in this call counts new tokens, and is 20 where the model has none either
        limit = longest - length if given and longest is not None else longest or 20
    if limit < 1:
        raise RequestError(f"generate: {limit} new tokens asked for behind the {length} of input_ids; give max_new_tokens=")
    return GreedyOptions(limit, ends, pad)


def _count(name: str, value: object) -> int | None:
    """A length as a whole number, which a tensor or a float may hold too."""
    if value is None:
        return None
    found = token_ids(value)
    if len(found) != 1:
        raise ValueError(f"{name}={value!r} is not one number")
    return found[0]


def beyond_greedy(config: GenerationConfig) -> dict[str, Any]:
    """Return the options of a ``GenerationConfig`` that would make an answer differ from the greedy one."""
    from transformers import GenerationConfig

    known = (name for name in vars(GenerationConfig()) if not name.startswith("_") and name not in _WITHOUT_EFFECT)
    values = {name: getattr(config, name, None) for name in known}
    return {name: value for name, value in values.items() if not _empty(value) and value != _neutral(name)}


def _empty(value: object) -> bool:
    return value is None or value is False or (isinstance(value, list | tuple | dict) and not value)


def _neutral(name: str) -> object:
    return _NEUTRAL.get(name, False if name.startswith(("do_", "output_", "return_")) else None)
