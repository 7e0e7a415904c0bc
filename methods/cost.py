"""FLOPs by formula, a multiply-add counted as 2: of the model's modules, and of selections.

The same formulas serve the solver of budgets, schedules and reports.
"""

from __future__ import annotations

from math import ceil, log2
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from methods.types import ModelShape, Schedule


PANEL = 96
"""Columns of a matrix of all pairs that are computed at once: narrow enough to skip most of its upper half."""


def vision(shape: ModelShape, schedule: Schedule) -> float:
    """Return the FLOPs of patch embedding and tower blocks; 0 where there is no image."""
    if not schedule.vision_attention:
        return 0.0
    patches = schedule.vision_attention[0] - int(shape.has_cls)
    cost = 2.0 * patches * shape.channels * shape.patch**2 * shape.vision_width
    for index, (attended, fed) in enumerate(zip(schedule.vision_attention, schedule.vision_mlp, strict=True)):
        cost += vision_block(shape, attended, fed, index)
    return cost * shape.tiles


def vision_block(shape: ModelShape, attended: float, fed: float, index: int = 0) -> float:
    """Return the FLOPs of one tower block on one tile: q, k, v, QK', AV, o on ``attended`` tokens and the MLP on ``fed``."""
    width, seen = shape.vision_width, attended
    if shape.window and index not in shape.global_blocks:
        seen = min(attended, shape.window)
    mlp = (6.0 if shape.vision_gated else 4.0) * fed * width * shape.vision_mlp
    return 8.0 * attended * width**2 + 4.0 * attended * seen * width + mlp


def projector(shape: ModelShape, schedule: Schedule) -> float:
    """Return the FLOPs of the projector's linear maps on the tokens that it is given."""
    return 2.0 * schedule.projector * sum(inner * outer for inner, outer in shape.projector_layers)


def llm_layer(shape: ModelShape, queries: float, keys: float, layer: int = 0) -> float:
    """Return the FLOPs of one LLM layer on ``queries`` new tokens that attend to ``keys`` tokens, themselves included.

    Where the layer has experts, the router's scores of all of them count, and the MLPs of those that run on a token
    (Switch Transformers, arXiv:2101.03961, section 2: a sparse layer costs what its active parameters do).
    """
    inner, shared = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    projections = 4.0 * queries * shape.width * (inner + shared)
    attention = 4.0 * queries * keys * inner
    mlp = 2.0 * queries * shape.width * shape.mlp_at(layer) * (3.0 if shape.gated else 2.0)
    return projections + attention + mlp + 2.0 * queries * shape.width * shape.routes_at(layer)


def head(shape: ModelShape) -> float:
    """Return the FLOPs of the output head on one token."""
    return 2.0 * shape.width * shape.vocabulary


def prefill(shape: ModelShape, schedule: Schedule, text_tokens: float) -> float:
    """Return the FLOPs of all LLM layers on visual and text tokens, and of the head on the last token."""
    layers = sum(llm_layer(shape, n + text_tokens, n + text_tokens, layer) for layer, n in enumerate(schedule.llm))
    return layers + head(shape)


def total(shape: ModelShape, schedule: Schedule, text_tokens: float) -> float:
    """Return the FLOPs of tower through prefill, selection included: what stands before the first answer token."""
    before = vision(shape, schedule) + projector(shape, schedule) + schedule.selection_flops
    return before + prefill(shape, schedule, text_tokens)


def similarity(tokens: float, width: int, others: float) -> float:
    """Return the FLOPs of normalising N tokens of width D and all products with M others: 2NMD + 3ND."""
    return 2.0 * tokens * others * width + 3.0 * tokens * width


def pairs(tokens: float, width: int) -> float:
    """Return the FLOPs of all products of N tokens of width D with each other, the lower half in panels: about N^2 D + 3ND."""
    panels = sum((tokens - start) * min(PANEL, tokens - start) for start in range(0, ceil(tokens), PANEL))
    return 2.0 * panels * width + 3.0 * tokens * width


def attention_rows(heads: int, rows: int, keys: int, head_dim: int) -> float:
    """Return the FLOPs of attention rows probed beside SDPA: QK', their softmax (5 a score), the mean over heads."""
    return heads * rows * keys * (2.0 * head_dim + 5.0 + 1.0)


def attention_ahead(shape: ModelShape, rows: int, keys: int) -> float:
    """Return the FLOPs of attention rows before their layer runs: its norm, keys of all, queries of the rows, then the rows."""
    keys_made = 2.0 * keys * shape.width * shape.kv_heads * shape.head_dim + 4.0 * keys * shape.width
    return (
        keys_made
        + 2.0 * rows * shape.width * shape.heads * shape.head_dim
        + attention_rows(shape.heads, rows, keys, shape.head_dim)
    )


def cls_row(shape: ModelShape, tokens: int) -> float:
    """Return the FLOPs of the attention row of CLS in one tower block, probed beside SDPA."""
    return attention_rows(shape.vision_heads, 1, tokens + 1, shape.vision_width // shape.vision_heads)


def joint_space(shape: ModelShape, tokens: int, words: int) -> float:
    """Return the FLOPs of embeddings in the joint space: the projection of the tower's states, and the text encoder."""
    layers, width, mlp = shape.joint_text
    text = layers * (8.0 * words * width**2 + 4.0 * words**2 * width + 4.0 * words * width * mlp)
    return 2.0 * tokens * shape.vision_width * shape.joint_width + text + 2.0 * width * shape.joint_width


def ranking(tokens: int) -> float:
    """Return the operations of choosing the top of N scores: about N log2 N comparisons."""
    return tokens * log2(max(tokens, 2))


def greedy(tokens: int, keep: int, per_token: float = 2.0) -> float:
    """Return the operations of K rounds that update and compare N candidates."""
    return per_token * tokens * keep


def cholesky(tokens: int, keep: int) -> float:
    """Return the FLOPs of greedy determinant maximisation: round i takes a product of i x N and four passes over N."""
    return float(tokens) * keep * (keep + 4.0)


def merging(left: int, right: int, width: int, merged: int) -> float:
    """Return the FLOPs of bipartite matching of two halves (cosines, maxima) and of the weighted means of the merged."""
    return 2.0 * left * right * width + left * right + 3.0 * (left + right) * width + 3.0 * merged * width


def last_block_row(shape: ModelShape, tokens: int, heads: int) -> float:
    """Return the FLOPs of the attention row of CLS in the tower's last block, and of the keys and the query that it is made of.

    Where the model reads the tower before its last block, what no block of the model computes counts: the blocks between, whole,
    and of the last its norm, the keys of all tokens and the query of CLS.

    Args:
        shape: the model.
        tokens: N, without CLS.
        heads: into which queries and keys are cut.
    """
    width, unread = shape.vision_width, max(0, (shape.tower_blocks or shape.vision_layers) - shape.vision_layers)
    made = 4.0 * (tokens + 1) * width + 2.0 * (tokens + 2) * width**2 if unread else 0.0
    between = max(0, unread - 1) * vision_block(shape, tokens + 1, tokens + 1)
    return between + made + attention_rows(heads, 1, tokens + 1, width // heads)


def covering(rows: int, tokens: int, keep: int) -> float:
    """Return the operations of greedy coverage of R rows by K of N tokens.

    The first gains read every row once. A row is read again when its best value grows, of values in no particular order
    in one round of 1 + 1/2 + .. + 1/K; reading clamps on both sides and adds.
    """
    again = sum(1.0 / turn for turn in range(1, keep + 1))
    return rows * tokens * (2.0 + 3.0 * again) + 2.0 * tokens * keep


def principal(tokens: int, width: int) -> float:
    """Return the FLOPs of the principal components of N tokens: products of all pairs, and N eigenvectors (9 N^3).

    Golub and Van Loan, Matrix Computations, section 8.3, count 9 N^3 for the symmetric QR algorithm with all vectors.
    """
    return pairs(tokens, width) + 9.0 * float(tokens) ** 3
