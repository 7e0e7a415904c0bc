"""What a captured file tells of its signals beside them: the model's figures, and where in the model each was read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import numpy as np

from methods.types import VISION_SIGNALS, Budget, BudgetError, Method, ModelShape, Step, TowerRead

READS, MODEL = "reads", "model"
"""Keys of a file that hold this: strings that say where signals were read, and the model's figures as JSON."""

LAYER_SIGNALS = frozenset(
    {
        "text_attention", "text_attention_ahead", "text_attention_ahead_unrotated", "text_logits", "keys", "text_keys",
        "hidden_states", "hidden_states_before", "text_hidden", "values_full", "text_values_full", "system_values_full",
        "keys_unrotated", "text_queries_unrotated",
    }
)  # fmt: skip
"""Signals that differ from one LLM layer to the next."""
_LARGEST = 10**9


@dataclass(frozen=True)
class SignalOrigin:
    """Where the signals of a captured file come from.

    Args:
        reads: keys of the reads in the tower, ``text_features@`` with the words that they are of, and ``decoder[k]`` with the
            LLM layer before which signals were taken.
        shape: of the model, on this image; None where the file does not say.
    """

    reads: frozenset[str]
    shape: ModelShape | None = None

    @classmethod
    def of(cls, tower: Iterable[TowerRead], words: str, layer: int, shape: ModelShape) -> SignalOrigin:
        """Return the origin of signals that were read so.

        Args:
            tower: reads in the vision tower.
            words: what ``text_features`` are of, as `Step` has it.
            layer: the LLM layer before which signals inside the LLM were taken.
            shape: of the model, on this image.
        """
        return cls(frozenset({read.key for read in tower} | {f"text_features@{words}", f"decoder[{layer}]"}), shape)

    @classmethod
    def taken_from(cls, arrays: dict[str, np.ndarray]) -> SignalOrigin | None:
        """Take what a file tells of its origin out of its arrays; None where it tells nothing.

        Raises:
            ValueError: with what is wrong with it.
        """
        reads, model = arrays.pop(READS, None), arrays.pop(MODEL, None)
        if reads is None and model is None:
            return None
        if reads is None or reads.ndim != 1 or reads.dtype.kind != "U":
            raise ValueError(f"{READS} must be a list of strings, as capture writes it")
        if model is not None and (model.ndim != 0 or model.dtype.kind != "U"):
            raise ValueError(f"{MODEL} must be one string, as capture writes it")
        return cls(frozenset(map(str, reads)), None if model is None else _shape(str(model)))

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that tell it in a file."""
        arrays = {READS: np.array(sorted(self.reads))}
        return arrays if self.shape is None else arrays | {MODEL: np.array(json.dumps(asdict(self.shape)))}

    def differs(self, step: Step) -> str | None:
        """Return what a step reads otherwise than the file has it, as one clause; None where it can be run on the file."""
        if step.site.stage == 0:
            return f"acts inside the tower, at {step.site}, and capture reads behind it"
        wanted = [read.key for read in step.tower_reads]
        if "text_features" in step.needs:
            wanted.append(f"text_features@{step.words}")
        if step.site.stage == 2 and step.needs & LAYER_SIGNALS:
            wanted.append(str(step.site))
        other = [key for key in wanted if key not in self.reads]
        if not other:
            return None
        names = {key.partition("@")[0].partition("[")[0] for key in other}
        held = [key for key in sorted(self.reads) if key.partition("@")[0].partition("[")[0] in names]
        return f"reads {', '.join(other)}; the file was captured with {', '.join(held) or 'none of it'}"


def first_step(method: Method, shape: ModelShape, count: int | None = None, share: float | None = None) -> Step:
    """Return a method's first step on an image: of several budgets, where it acts earliest.

    At some budgets a method with several steps leaves its first ones out, such as one that would keep all tokens.

    Args:
        method: it may decide its steps by the budget.
        shape: of the model, on the image.
        count: what the step shall be asked to keep; steps that are planned to keep so many go first.
        share: of the image's tokens, where a share was asked for.

    Raises:
        BudgetError: where it has none, with the reason.
    """
    whole, found, reason = shape.visual_tokens, [], "it makes no selection"
    parts = [] if count is None else [count // part for part in (1, 2, 3, 4)]
    for tokens in dict.fromkeys(max(1, tokens) for tokens in (*parts, *(whole // part for part in (2, 3, 4, 8, 16, 1)))):
        try:
            steps = method.steps(shape, Budget(tokens, "final", share=share))
        except BudgetError as error:
            reason = str(error)
            continue
        found += sorted(steps, key=lambda step: step.site)[:1]
    if not found:
        raise BudgetError(reason)
    return min(found, key=lambda step: (step.site.stage, step.keep != count))


def recorded_reads(step: Step, defaults: Iterable[TowerRead]) -> tuple[TowerRead, ...]:
    """Return where in the tower signals are read for a step: where it says so, the others by default.

    Args:
        step: of a method.
        defaults: reads of all signals that are wanted.
    """
    own = {read.signal: read for read in step.tower_reads}
    return tuple(sorted(own.get(read.signal, read) for read in defaults if read.signal in VISION_SIGNALS))


def _shape(text: str) -> ModelShape:
    """A model's figures from JSON.

    Raises:
        ValueError: where they are none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    known = {field.name: field for field in fields(ModelShape)}
    needed = {name for name, field in known.items() if field.default is MISSING}
    if not isinstance(found, dict) or not needed <= set(found) <= set(known):
        raise ValueError(f"{MODEL} does not hold the figures of a model, as capture writes them")
    values: dict[str, Any] = {}
    for name, value in found.items():
        kind = str(known[name].type)
        if kind.startswith("tuple"):
            value = tuple(tuple(part) if isinstance(part, list) else part for part in value) if isinstance(value, list) else None
            good = value is not None and all(_is_figure(one) for part in value for one in _parts(part))
        elif kind == "str":
            good = isinstance(value, str)
        elif kind == "bool":
            good = isinstance(value, bool)
        else:
            good = _is_figure(value)
        if not good:
            raise ValueError(f"{MODEL}: {name} cannot be {json.dumps(found[name])[:80]}")
        values[name] = value
    shape = ModelShape(**values)
    if len(shape.grid) != 2 or min(shape.visual_tokens, shape.vision_layers, shape.layers, shape.heads, *shape.grid) < 1:
        raise ValueError(f"{MODEL} does not hold the figures of a model, as capture writes them")
    return shape


def _parts(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _is_figure(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST
