"""Trying a method out on random signals before it is trusted: what a plug-in must get past."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields, replace
from typing import Any

from methods.expressions import MethodError
from methods.lazy import torch
from methods.registration import Entry
from methods.types import SIGNAL_NAMES, Budget, BudgetError, ModelShape, Selection, Selector, Signals, Step

_SHAPE = ModelShape(
    "random",
    36,
    (6, 6),
    4,
    16,
    2,
    32,
    True,
    8,
    12,
    16,
    2,
    2,
    8,
    32,
    True,
    40,
    joint_width=8,
    joint_text=(1, 16, 32),
)
_BUDGETS = (9, 20, 36)
_LEVEL = 0.01  # of a method whose level is found where it runs: any will do here


def check(entry: Entry) -> None:
    """Run a method at a few budgets on random signals.

    Raises:
        MethodError: with what is wrong, and where.
    """
    required = [f.name for f in fields(entry.factory) if f.default is MISSING]
    if required:
        raise MethodError(f"method {entry.name!r}: parameter {required[0]!r} has no default")
    try:
        method = entry.factory()
        if len(inspect.signature(method.steps).parameters) != 2:
            raise MethodError(f"method {entry.name!r}: steps must take (shape, budget)")
        if method.tuned:
            method = method.calibrated(_LEVEL)
    except MethodError:
        raise
    except (Exception, SystemExit) as error:
        raise _refused(entry, "cannot be made with its defaults", error) from None
    for tokens in _BUDGETS:
        try:
            steps = method.steps(_SHAPE, Budget(tokens))
        except BudgetError:
            continue
        except (Exception, SystemExit) as error:
            raise _refused(entry, f"steps failed at a budget of {tokens}", error) from None
        if not isinstance(steps, tuple) or not all(isinstance(step, Step) for step in steps):
            raise MethodError(f"method {entry.name!r}: steps must return a tuple of Step, not {type(steps).__name__}")
        count, carry = _SHAPE.visual_tokens, None
        rows = 1 if any(step.adaptive for step in steps) else 2  # such a selector is asked about one image at a time
        for step in sorted(steps, key=lambda step: step.site):
            unknown = sorted(step.needs - SIGNAL_NAMES)
            if unknown:
                raise MethodError(f"method {entry.name!r} needs unknown signal {unknown[0]!r}")
            chosen = _try(entry, step, replace(random_signals(rows, count), carry=carry))
            count, carry = chosen.indices.shape[1], chosen.carry


def _refused(entry: Entry, what: str, error: BaseException) -> MethodError:
    text = str(error).splitlines()[0][:160] if str(error) else ""
    return MethodError(f"method {entry.name!r}: {what} ({type(error).__name__}{': ' + text if text else ''})")


def _try(entry: Entry, step: Step, whole: Signals) -> Selection:
    """One step on all rows and on each alone; what it chose."""
    count = whole.count
    parameters = [p for p in _parameters(step.select) if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    if len(parameters) != 2:
        names = ", ".join(p.name for p in parameters)
        raise MethodError(f"method {entry.name!r}: a selector takes (signals, keep), this one takes ({names})")
    try:
        chosen = step.select(whole.only(step.needs), step.keep)
        rows = [step.select(_row(whole, i).only(step.needs), step.keep) for i in range(whole.batch)]
    except (Exception, SystemExit) as error:
        raise _refused(entry, f"its selector at {step.site} failed on random signals", error) from None
    for answer, batch in ((chosen, whole.batch), *((row, 1) for row in rows)):
        problem = wrong(answer, batch, count, None if step.adaptive else step.after)
        if problem:
            raise MethodError(f"method {entry.name!r}: its selector at {step.site} {problem}")
    if not all(torch.equal(chosen.indices[i].sort().values, row.indices[0].sort().values) for i, row in enumerate(rows)):
        raise MethodError(f"method {entry.name!r}: its selector at {step.site} chooses otherwise when the batch is larger")
    return chosen


def _parameters(select: Selector) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(select).parameters.values())
    except (TypeError, ValueError):
        return []


def wrong(answer: object, batch: int, count: int, keep: int | None) -> str | None:
    """Return what is wrong with a selector's answer, or None where it is well-formed.

    Args:
        answer: what it returned.
        batch: rows it was given.
        count: tokens it was given.
        keep: tokens it should return; None where it decides.
    """
    if not isinstance(answer, Selection):
        return f"returned {type(answer).__name__}, not a Selection"
    indices = answer.indices
    if not torch.is_tensor(indices) or indices.dtype != torch.int64:
        return f"returned indices of {getattr(indices, 'dtype', type(indices).__name__)}, not int64"
    if indices.dim() != 2 or indices.shape[0] != batch:
        return f"returned indices of shape {list(indices.shape)}, not [{batch}, {'K' if keep is None else keep}]"
    if keep is not None and indices.shape[1] != keep:
        return f"returned {indices.shape[1]} tokens where {keep} were asked"
    tokens = answer.tokens
    merger = tokens is not None
    if bool((indices >= count).any()) or bool((indices < (-1 if merger else 0)).any()):
        worst = int(indices.max()) if bool((indices >= count).any()) else int(indices.min())
        return f"returned index {worst}, outside 0 to {count - 1}"
    for row in indices.tolist():
        placed = [index for index in row if index >= 0]
        if len(set(placed)) < len(placed):
            twice = next(index for index in placed if placed.count(index) > 1)
            return f"returned index {twice} twice"
    if tokens is not None:
        if tokens.dim() != 3 or tokens.shape[:2] != indices.shape:
            return f"returned tokens of shape {list(tokens.shape)} for {list(indices.shape)} indices"
        if not bool(torch.isfinite(tokens).all()):
            return "returned tokens that are NaN or infinite"
    return None


def random_signals(batch: int, count: int, text: int = 5, seed: int = 0) -> Signals:
    """Return every signal but the optional ones, drawn at random and as narrow as can be.

    Args:
        batch: B, the rows.
        count: N, visual tokens of a row; a full grid where it is a square.
        text: T, instruction tokens of a row.
        seed: of the drawing.
    """
    g = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=g)

    def rows() -> torch.Tensor:
        return draw(batch, 2, text, count + text).softmax(-1)[..., :count]

    side = int(count**0.5)
    grid = (side, side) if side * side == count else None
    lines = (torch.arange(max(side, 1)) + 0.5) / max(side, 1)
    places = (
        torch.stack(torch.meshgrid(lines, lines, indexing="ij"), -1).view(-1, 2) if grid else torch.rand(count, 2, generator=g)
    )
    later: dict[str, Any] = {
        "received_attention_early": draw(batch, 2, count).softmax(-1), "cls_attention_early": draw(batch, 2, count).softmax(-1),
        "cls_attention_first": draw(batch, 2, count).softmax(-1), "cls_attention_last": draw(batch, 2, count).softmax(-1),
        "vision_features_first": draw(batch, count, 16), "cls_feature_first": draw(batch, 16),
        "vision_queries_full": draw(batch, count, 16), "cls_query": draw(batch, 16), "cls_key_full": draw(batch, 16),
        "vision_values_full": draw(batch, count, 16), "cls_value_full": draw(batch, 16), "values_full": draw(batch, count, 16),
        "text_values_full": draw(batch, text, 16), "system_values_full": draw(batch, 3, 16),
        "keys_unrotated": draw(batch, count, 16), "text_queries_unrotated": draw(batch, text, 16),
        "hidden_states_before": draw(batch, count, 16),
    }  # fmt: skip
    return Signals(
        **later, cls_attention_tiles=later["cls_attention_last"][:, None], text_attention_ahead_unrotated=rows(),
        features=draw(batch, count, 16), vision_features=draw(batch, count, 16), vision_keys=draw(batch, count, 8),
        vision_keys_full=draw(batch, count, 16), cls_attention=draw(batch, 2, count).softmax(-1), cls_feature=draw(batch, 16),
        cls_key=draw(batch, 8), received_attention=draw(batch, 2, count).softmax(-1), image_embeds=draw(batch, count, 8),
        text_embeds=draw(batch, 1, 8), text_features=draw(batch, text, 16),
        text_attention=rows(), text_attention_ahead=rows(),
        text_logits=draw(batch, 2, text, count), rope_response=torch.rand(batch, text, count, generator=g) * 0.5 + 0.5,
        keys=draw(batch, count, 16), text_keys=draw(batch, text, 16), hidden_states=draw(batch, count, 16),
        text_hidden=draw(batch, text, 16), positions=places.expand(batch, -1, -1), evidence=draw(batch, count) > 1,
        sizes=torch.ones(batch, count), seeds=torch.arange(batch) + seed * 1000 + 7, count=count, batch=batch, grid=grid,
    )  # fmt: skip


def _row(signals: Signals, row: int) -> Signals:
    """One row of a batch as a batch of its own."""
    parts: dict[str, Any] = {name: value[row : row + 1] for name, value in vars(signals).items() if torch.is_tensor(value)}
    return replace(signals, **parts, batch=1)
