"""FLOPs and KV bytes of a schedule, in the conventions in which papers print them. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from methods import cost

if TYPE_CHECKING:
    from methods.types import ModelShape, Schedule

Convention = Literal["flops", "macs", "paper", "paper-gated", "visual-only"]
CONVENTIONS: tuple[Convention, ...] = ("flops", "macs", "paper", "paper-gated", "visual-only")


@dataclass(frozen=True)
class Flops:
    """The cost of one sample. All but the last in the convention's unit; the last in bytes."""

    vision: float
    projector: float
    selection: float
    llm_prefill: float
    decode_per_token: float
    kv_bytes: float

    @property
    def total(self) -> float:
        """Tower through prefill: what stands before the first answer token."""
        return self.vision + self.projector + self.selection + self.llm_prefill

    def as_dict(self) -> dict[str, float]:
        """Return what ``flops --json`` prints, but for the schedule."""
        return {
            "vision": self.vision,
            "projector": self.projector,
            "selection": self.selection,
            "llm_prefill": self.llm_prefill,
            "decode_per_token": self.decode_per_token,
            "kv_bytes": self.kv_bytes,
        }


def flops(shape: ModelShape, schedule: Schedule, text_tokens: float, convention: str = "flops") -> Flops:
    """Return the cost of a schedule on a model.

    Conventions (n tokens, width d, MLP width m):

    - ``flops``: the matrix products that the modules run, a multiply-add counted as 2. Tower: patch
      embedding, then in each block q, k, v, QK', AV, o and an MLP of two matrices. LLM: the same with
      its own key-value heads, the full n x n products (kernels that skip the masked half do less), the
      MLP gated or not, and the output head on the last token. Of experts, those that run on a token count,
      with the router's scores of all. Biases, norms, softmax are not counted.
    - ``macs``: half of that.
    - ``paper``: 4nd^2 + 2n^2 d + 2ndm a layer (FastV, arXiv:2403.06764, equation 5), n = visual and text
      tokens. LLM alone: papers leave out the tower, the projector and the selection, which are 0 here,
      so that ``total`` is the number they print.
    - ``paper-gated``: 4nd^2 + 2n^2 d + 3ndm. In these formulas m is the width of all experts that run on a token
      where a layer has experts; the router is left out.
    - ``visual-only``: ``paper-gated`` with n = visual tokens alone (PyramidDrop, arXiv:2410.17247).

    Args:
        shape: the model.
        schedule: visual tokens at every block and layer.
        text_tokens: all LLM tokens that are not visual, template included; may be fractional (a mean).
        convention: one of `CONVENTIONS`.

    Returns:
        FLOPs (or multiply-adds) of one sample. ``decode_per_token`` is the first token after the prompt,
        which also attends to itself. ``kv_bytes`` is memory after the prompt, text included, whatever
        the convention. Both are of caches as the method's steps leave them, where they cut any.

    Raises:
        ValueError: an unknown convention, or negative text tokens.
    """
    if convention not in CONVENTIONS:
        near = get_close_matches(convention, CONVENTIONS, 1, 0.0)[0]
        raise ValueError(f"convention {convention!r} is not known; closest is {near!r} of {', '.join(CONVENTIONS)}")
    if text_tokens < 0:
        raise ValueError(f"text_tokens is {text_tokens}; it counts tokens, so 0 or more")
    kv = 2.0 * shape.kv_heads * shape.head_dim * shape.kv_bytes * sum(count + text_tokens for count in schedule.in_cache)
    if convention in ("flops", "macs"):
        unit = 1.0 if convention == "flops" else 0.5
        decode = sum(cost.llm_layer(shape, 1.0, n + text_tokens + 1.0, layer) for layer, n in enumerate(schedule.in_cache))
        return Flops(
            unit * cost.vision(shape, schedule),
            unit * cost.projector(shape, schedule),
            unit * schedule.selection_flops,
            unit * cost.prefill(shape, schedule, text_tokens),
            unit * (decode + cost.head(shape)),
            kv,
        )
    matrices = 2.0 if convention == "paper" else 3.0
    counted = 0.0 if convention == "visual-only" else text_tokens
    lengths = [n + counted for n in schedule.llm]
    prefill = sum(_paper_layer(shape, n, n, matrices, layer) for layer, n in enumerate(lengths))
    cached = [n + counted for n in schedule.in_cache]
    decode = sum(_paper_layer(shape, 1.0, n + 1.0, matrices, layer) for layer, n in enumerate(cached))
    return Flops(0.0, 0.0, 0.0, prefill, decode, kv)


def promised_speed_up(method: Flops, none: Flops) -> float | None:
    """Return FLOPs of `none` over those of the method, tower through prefill: the gain that counting promises.

    Args:
        method: of the pruned model.
        none: of the unpruned one, in the same convention.

    Returns:
        1 for no gain, above 1 for a promise; None where the method costs nothing.
    """
    return none.total / method.total if method.total > 0 else None


def _paper_layer(shape: ModelShape, queries: float, keys: float, matrices: float, layer: int) -> float:
    width, mlp = shape.width, shape.mlp_at(layer)
    return 4.0 * queries * width**2 + 2.0 * queries * keys * width + matrices * queries * width * mlp
