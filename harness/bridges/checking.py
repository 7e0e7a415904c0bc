"""The self-check of a pruned model: on the prompts of its first call, since a model without its processor makes none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

from harness.bridges.prompts import PromptPruner, SplitPrompt
from harness.engine.self_check import ANSWER_TOKENS, GreedyTrace, SelfCheck, generate_traces, self_check
from harness.errors import RequestError
from harness.models.adapter import Adapter
from harness.notices import notice
from harness.run.self_check import put_in, told_when_long

OPTION = "self_check=False"
"""What leaves the check out."""
Place = tuple[torch.device, torch.dtype, tuple[str, ...]]
_known: WeakKeyDictionary[Any, dict[Place, SelfCheck]] = WeakKeyDictionary()  # by model; to hash its weights would take longer


def check_prompts(adapter: Adapter, prompts: Sequence[SplitPrompt], inputs: dict[str, Any]) -> SelfCheck:
    """Hold the engine, without pruning, against ``generate`` on prompts; once for a model in this process, device and precision.

    Args:
        adapter: the model.
        prompts: of all rows; those without an image are not looked at.
        inputs: what the model's processor made of the same rows, padded on the left.

    Returns:
        What it came to; what a reader must know of it is noticed.

    Raises:
        RequestError: where the engine does not run this model as transformers does.
    """
    known = _known.setdefault(adapter.model, {})
    place = adapter.device, adapter.dtype, tuple(put_in(adapter))
    if place in known:
        return known[place]
    seen = [row for row, prompt in enumerate(prompts) if prompt.spans]
    pruner = PromptPruner("none", 1, "average", 0, {})

    def engine() -> list[GreedyTrace]:
        answers = pruner.answers(adapter, [prompts[row] for row in seen], ANSWER_TOKENS, adapter.end_ids)
        return [GreedyTrace(answer.tokens, answer.first_logits[None].float().cpu()) for answer in answers]

    def reference() -> list[GreedyTrace]:
        given = {name: _moved(value, adapter) for name, value in inputs.items() if value is not None}
        traces = generate_traces(adapter.model, given)
        return [GreedyTrace(traces[row].tokens, traces[row].logits) for row in seen]

    with told_when_long(adapter.name, OPTION):
        found = self_check(adapter, engine, reference)
    if found.outcome == "different":
        raise RequestError(f"prune: {found.said}; prune(..., {OPTION}) prunes it all the same")
    if found.outcome != "equal":
        notice(found.said)
    known[place] = found
    return found


def _moved(value: Any, adapter: Adapter) -> Any:
    """An input where the model is, in its precision, as the engine takes it."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(adapter.device, adapter.dtype if value.is_floating_point() else None)
