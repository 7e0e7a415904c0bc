"""Which kernels attention takes on a device, and whether layers that are plainly causal run without a mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.run.machine_check.against_cpu import batch_for
from harness.run.machine_check.findings import PartFindings
from harness.run.machine_check.reference_cases import ReferenceQuestions

_OP = "aten._scaled_dot_product_"
_ATTENTION = torch.nn.functional.scaled_dot_product_attention
_TOKENS = 2  # of an answer: one by the prefill, one decoded


@dataclass(frozen=True)
class AttentionCall:
    """One kind of call of `scaled_dot_product_attention`."""

    causal: bool
    mask: str | None  # type of the mask; None where there is none
    queries: int
    keys: int
    dtype: str

    @property
    def kind(self) -> str:
        """What such a call is, for a reader."""
        where = "one new token" if self.queries == 1 else "a prompt" if self.causal or self.mask else "an image"
        return f"{where}, {'causal, ' if self.causal else ''}{f'mask of {self.mask}' if self.mask else 'no mask'}"


class HeardAttention(TorchFunctionMode):
    """Notes how `scaled_dot_product_attention` is called inside a block, and which kernel the first call of a kind takes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[AttentionCall] = []
        self.kernels: dict[AttentionCall, str] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, and note it where it is attention."""
        given = dict(kwargs or {})
        if func is not _ATTENTION:
            return func(*args, **given)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        told = dict(zip(names, args)) | given
        mask, query = told.get("attn_mask"), told["query"]
        call = AttentionCall(
            bool(told.get("is_causal", False)), None if mask is None else _plain(mask.dtype), query.shape[-2],
            told["key"].shape[-2], _plain(query.dtype),
        )  # fmt: skip
        self.calls.append(call)
        if call in self.kernels:
            return func(*args, **given)
        with _HeardOps() as heard:
            output = func(*args, **given)
        chosen = [name.removeprefix(_OP).removeprefix("attention_") for name in heard.names if name.startswith(_OP)]
        self.kernels[call] = ", ".join(dict.fromkeys(chosen)) or "math"
        return output


class _HeardOps(TorchDispatchMode):
    """Notes the names of the operators that torch runs inside a block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        self.names.append(str(func.overloadpacket))
        given = dict(kwargs or {})
        with self:  # outside of autograd an operator that is made of others comes whole
            output = func.decompose(*args, **given)
        return func(*args, **given) if output is NotImplemented else output


def check_attention(questions: ReferenceQuestions) -> PartFindings:
    """Tell the kernels of attention on a device, and hold plain prompts to run without a mask.

    Args:
        questions: the embedded model on the device.
    """
    adapter, dtype = questions.adapter, _plain(questions.adapter.dtype)
    found = PartFindings(f"attention in {dtype}", "what layers are to be given")
    batch, layers = questions.runs[0].batch, adapter.shape.layers
    plain, packed = HeardAttention(), HeardAttention()
    engine = Engine(adapter, _TOKENS, ends=frozenset())
    with plain:
        engine.run(EngineRequest(batch))
    with packed:
        engine.run(EngineRequest(batch_for(adapter)))
    masked = [call for call in plain.calls if call.mask is not None]
    causal = sum(call.causal and call.queries > 1 for call in plain.calls)
    if masked:
        found.differences.append(f"{len(masked)} layers of a prompt without padding are given a mask ({masked[0].kind})")
    if causal != layers:
        found.differences.append(f"{causal} of {layers} layers of a prompt without padding are run as plainly causal")
    kinds = plain.kernels | packed.kernels
    found.figures = {
        "enabled": _enabled(),
        "kernels": [{"call": call.kind, **vars(call), "kernel": kernel} for call, kernel in kinds.items()],
        "calls_of_a_plain_prompt": len(plain.calls), "masked": len(masked), "causal": causal,
    }  # fmt: skip
    if not masked and causal == layers:
        found.said.append(f"all {layers} layers of a prompt without padding are causal and have no mask")
    by_kind: dict[str, Counter[str]] = {}
    for call, kernel in kinds.items():
        by_kind.setdefault(call.kind, Counter())[kernel] += 1
    found.said += [f"{kind}: {', '.join(kernels)}" for kind, kernels in by_kind.items()]
    return found


def _enabled() -> dict[str, bool]:
    """The kernels that torch may choose among."""
    backends = torch.backends.cuda
    return {
        "flash": backends.flash_sdp_enabled(), "memory_efficient": backends.mem_efficient_sdp_enabled(),
        "math": backends.math_sdp_enabled(), "cudnn": backends.cudnn_sdp_enabled(),
    }  # fmt: skip


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
