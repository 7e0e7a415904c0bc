"""Attention rows beside SDPA: only the rows that a method reads are computed, never an L x L matrix."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch

NAME = "probed_sdpa"
"""Name of `probed_sdpa` among the attention functions of transformers."""
CAPPED = "probed_with_softcap"
"""Its name on models whose scores are bounded: transformers lets nothing that is named after SDPA near them."""
PROBE = "_probe"
"""Attribute of an attention module that `probing` sets."""
Rotary = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of the rotary angles, [G, L, head_dim] each."""


@dataclass
class AttentionProbe:
    """A request to one attention layer for some of its rows, or its keys, and what the layer recorded.

    Args:
        query_rows: int64 [R, T] columns whose attention rows are wanted, or None for none.
        group: int64 [R] the sequence of the batch that each belongs to.
        keys: whether the keys are wanted too.
        scores: whether the rows before their softmax are wanted too.
        received: whether the mean attention that each key receives is wanted too.
        values: whether the values are wanted too.
        unrotated_keys: whether the keys before the rotary embedding are wanted too; recorded within `before_rotation`.
        unrotated_rows: int64 [R, T] columns whose queries before the rotary embedding are wanted, or None for none; likewise.
        row_per_sequence: whether rows and sequences are the same, in the same order.
        turn: int64 [R] the how-manieth of its sequence's rows each is; worked out from ``group`` where it is not given.
        most_rows: rows of the sequence that has the most, where ``turn`` is given.
        at_end: whether all query rows are the last column there is, behind which no key stands.
    """

    query_rows: torch.Tensor | None = None
    group: torch.Tensor | None = None
    keys: bool = False
    scores: bool = False
    received: bool = False
    values: bool = False
    unrotated_keys: bool = False
    unrotated_rows: torch.Tensor | None = None
    row_per_sequence: bool = False
    turn: torch.Tensor | None = None
    most_rows: int = 1
    at_end: bool = False
    attention: torch.Tensor | None = field(default=None, init=False)  # [R, H, T, keys], float32
    logits: torch.Tensor | None = field(default=None, init=False)  # [R, H, T, keys], float32, masked ones minus infinity
    mean_received: torch.Tensor | None = field(default=None, init=False)  # [B, H, keys], float32
    key_states: torch.Tensor | None = field(default=None, init=False)  # [B, Hkv, keys, head_dim]
    value_states: torch.Tensor | None = field(default=None, init=False)  # [B, Hkv, keys, head_dim]
    plain_keys: torch.Tensor | None = field(default=None, init=False)  # [B, L, Dkv], not rotated, heads joined
    plain_queries: torch.Tensor | None = field(default=None, init=False)  # [R, T, Dq], not rotated, heads joined

    def select(self, rows: list[int]) -> AttentionProbe:
        """Return what was recorded of some of the R rows."""
        some = copy(self)
        for name in ("query_rows", "group", "attention", "logits", "unrotated_rows", "plain_queries"):
            table: torch.Tensor | None = getattr(self, name)
            setattr(some, name, None if table is None else table[rows])
        some.row_per_sequence, some.turn = False, None
        return some

    def on(self, device: torch.device) -> AttentionProbe:
        """Return the same probe, and what it recorded, on a device; of a method ``to`` accelerate would make use unasked."""
        moved = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(moved, name, value.to(device))
        return moved

    @contextmanager
    def before_rotation(self, layer: Any) -> Iterator[None]:
        """Record what is asked of a decoder layer's queries and keys before the rotary embedding, while the layer runs.

        They are taken from the layer's own projections and normed as the layer norms them.

        Args:
            layer: of transformers, its parts differ by family; it runs inside the context. Nothing is hooked unasked.
        """
        attention, rows, group = layer.self_attn, self.unrotated_rows, self.group

        def normed(states: torch.Tensor, name: str) -> torch.Tensor:
            if not hasattr(attention, name):
                return states
            heads: torch.Tensor = getattr(attention, name)(states.unflatten(-1, (-1, attention.head_dim)))
            return heads.flatten(-2)

        def keys(module: torch.nn.Module, inputs: Any, states: torch.Tensor) -> None:
            self.plain_keys = normed(states, "k_norm")

        def queries(module: torch.nn.Module, inputs: Any, states: torch.Tensor) -> None:
            assert rows is not None and group is not None, "rows have a group"
            if self.row_per_sequence:
                picked = states.gather(1, rows[..., None].expand(-1, -1, states.shape[-1]))
            else:
                picked = states[group[:, None], rows]
            self.plain_queries = normed(picked, "q_norm")

        hooks = [attention.k_proj.register_forward_hook(keys)] if self.unrotated_keys else []
        hooks += [attention.q_proj.register_forward_hook(queries)] if rows is not None else []
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def record(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        causal: bool,
        softcap: float | None = None,
        value: torch.Tensor | None = None,
    ) -> None:
        """Record what the probe asks for, from what an attention layer hands to its attention function.

        Args:
            module: the layer.
            query: [B, H, L, head_dim].
            key: [B, Hkv, keys, head_dim].
            mask: [B, 1 or H, L, keys], bool or added to the scores; None for none.
            scaling: of the scores.
            causal: whether rows see no later keys where there is no mask.
            softcap: bound of the scores; None for none.
            value: [B, Hkv, keys, head_dim]; None where only rows are recorded.
        """
        if self.keys:
            self.key_states = key
        if self.values and value is not None:
            self.value_states = value
        if self.received:
            wide = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            weights = (query.float() @ wide.float().transpose(2, 3) * scaling).softmax(-1)
            self.mean_received = weights.mean(2)
        if self.query_rows is None:
            return
        assert self.group is not None, "rows have a group"
        asked = self.query_rows
        if not self.row_per_sequence:
            turn, most = (self.turn, self.most_rows) if self.turn is not None else turns(self.group)
            asked = torch.zeros(len(query), most, asked.shape[1], dtype=torch.int64, device=asked.device)
            asked[self.group, turn] = self.query_rows
            asked = asked.flatten(1)
        scores = _scores(asked, query, key, mask, scaling, causal and not self.at_end, softcap)
        if not self.row_per_sequence:
            scores = scores.unflatten(2, (most, -1))[self.group, :, turn]
        if self.scores:
            self.logits = scores
        self.attention = scores.softmax(-1)


def turns(group: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return the how-manieth of its sequence's rows each is, int64 [R], and the most rows of a sequence.

    Args:
        group: int64 [R] sequence of each row, at least one.
    """
    count = torch.bincount(group)
    order = group.argsort(stable=True)
    turn = torch.empty_like(group)
    turn[order] = torch.arange(len(group), device=group.device) - (count.cumsum(0) - count)[group[order]]
    return turn, int(count.max())


def _scores(
    asked: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    causal: bool,
    softcap: float | None,
) -> torch.Tensor:
    """Scaled and masked scores of the asked rows of every sequence, int64 [G, T]: [G, H, T, keys].

    In float32 as in SDPA's own kernels: in bfloat16 a score near 8 would be off by up to 0.03, its probability by 3 %.
    """
    batch, heads, length, width = query.shape
    queries = query.gather(2, asked[:, None, :, None].expand(-1, heads, -1, width))
    shared = queries.reshape(batch, key.shape[1], -1, width)  # heads of one key head stand together
    scores = (shared.float() @ key.float().transpose(2, 3)).mul_(scaling).view(batch, heads, asked.shape[1], -1)
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    if mask is not None:
        seen = mask.expand(batch, -1, length, -1)
        seen = seen.gather(2, asked[:, None, :, None].expand(-1, seen.shape[1], -1, seen.shape[3]))
        return scores.masked_fill(~seen, -torch.inf) if seen.dtype == torch.bool else scores + seen
    if causal:
        keys = key.shape[2]
        own = asked if keys == length else asked + (keys - length)
        scores.masked_fill_(torch.arange(keys, device=asked.device) > own[:, None, :, None], -torch.inf)
    return scores


def probed_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    probe: AttentionProbe | None = None,
    softcap: float | None = None,
    **kwargs: Any,  # what transformers hands to every attention function
) -> tuple[torch.Tensor, None]:
    """Run the stock SDPA, and record beside it what a probe asks for.

    Scores that are bounded are none that SDPA computes: such a layer runs the eager attention of its own modelling file.

    Args:
        module: the attention layer; `probing` may have set a probe on it.
        query: [B, H, L, head_dim].
        key: [B, Hkv, keys, head_dim].
        value: [B, Hkv, keys, head_dim].
        attention_mask: [B, 1 or H, L, keys]; None for none.
        scaling: of the scores; one over the root of head_dim where not given.
        probe: handed through by the model's layers.
        softcap: bound of the scores, as Gemma 2 has it; None for none.
        kwargs: for SDPA.

    Returns:
        The output of SDPA, [B, L, H, head_dim], and None where other attention functions return weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if softcap is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    else:
        output = _capped_attention(module, query, key, value, attention_mask, scaling, softcap)
    probe = probe or getattr(module, PROBE, None)
    if probe is not None:
        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        probe.record(module, query, key, attention_mask, scale, getattr(module, "is_causal", True), softcap, value)
    return output, None


def _capped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """What the eager attention of a layer's modelling file gives, [B, L, H, head_dim], with a mask as SDPA takes it."""
    length, keys = query.shape[2], key.shape[2]
    if mask is None and length > 1 and getattr(module, "is_causal", True):
        mask = torch.ones(length, keys, dtype=torch.bool, device=query.device).tril(keys - length)[None, None]
    if mask is not None and mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=mask.device).masked_fill_(~mask, lowest)
    eager = sys.modules[type(module).__module__].eager_attention_forward
    output: torch.Tensor = eager(module, query, key, value, mask, scaling=scaling, softcap=softcap)[0]
    return output


def record_rows_of(
    layer: Any,  # a decoder layer of transformers; its parts differ by family
    hidden: torch.Tensor,
    mask: torch.Tensor | None,
    rotary: Rotary | None,
    probe: AttentionProbe,
    positions: torch.Tensor | None = None,
) -> None:
    """Let a probe record the attention rows that a decoder layer would compute on its input, without running the layer.

    Args:
        layer: the layer.
        hidden: [G, L, D], its input.
        mask: [G, 1, L, columns], bool or added to the scores; None where causality alone is the mask.
        rotary: of the positions; None for scores without the rotary embedding.
        probe: asks for the rows.
        positions: int64 [G, L]; needed where a layer stretches queries by their place.
    """
    attention, count = layer.self_attn, hidden.shape[1]
    inputs = layer.input_layernorm(hidden)

    def split(states: torch.Tensor) -> torch.Tensor:
        return states.view(*states.shape[:2], -1, attention.head_dim).transpose(1, 2)

    rows, group = probe.query_rows, probe.group
    assert rows is not None and group is not None, "the probe asks for rows"

    def of_rows(states: torch.Tensor) -> torch.Tensor:
        return states[group].gather(1, rows[..., None].expand(-1, -1, states.shape[-1]))

    query, key = split(attention.q_proj(of_rows(inputs))), split(attention.k_proj(inputs))
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    code = sys.modules[type(attention).__module__]
    rotate, stretch = code.apply_rotary_pos_emb, getattr(code, "get_llama_4_attn_scale", None)
    if rotary is not None:
        query, key = rotate(query, query, *map(of_rows, rotary))[0], rotate(key, key, *rotary)[1]
    if stretch is not None:  # Ministral 3
        assert positions is not None, "queries are stretched by their place"
        rope = attention.config.rope_parameters
        factor = stretch(positions, rope["llama_4_scaling_beta"], rope["original_max_position_embeddings"])[:, 0]  # [G, L, 1]
        query = query * of_rows(factor)[:, None].to(query.dtype)
    whole = query.new_zeros(len(key), query.shape[1], count, query.shape[3])  # other rows are not looked at
    whole[group[:, None], :, rows] = query.transpose(1, 2)
    if mask is not None:
        mask = mask[..., :count]
    probe.record(attention, whole, key, mask, attention.scaling, True, getattr(attention, "attn_logit_softcapping", None))


def mean_cosine(own: Rotary, others: Rotary) -> torch.Tensor:
    """Return the mean cosine of the rotary angles between positions, float32 [R, T, N].

    Args:
        own: angles of positions, [R, T, head_dim].
        others: those of others, [R, N, head_dim].
    """
    products = [a.float() @ b.float().transpose(1, 2) for a, b in zip(own, others, strict=True)]
    return (products[0] + products[1]) / (own[0].float().square() + own[1].float().square()).sum(-1)[..., None]


def mean_cosine_of_gaps(queries: torch.Tensor, keys: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Return the mean cosine of the rotary angles between positions, float32 [R, T, N], of frequencies alone.

    Args:
        queries: int64 [R, T].
        keys: int64 [R, N].
        frequencies: float32 [F] angles of a gap of one.
    """
    gap = (queries[:, :, None] - keys[:, None, :]).float()
    total = torch.zeros_like(gap)
    for frequency in frequencies:
        total += torch.cos(gap * frequency)
    return total / len(frequencies)


@contextmanager
def probing(module: torch.nn.Module, probe: AttentionProbe | None) -> Iterator[None]:
    """Set a probe on an attention module: not all towers hand keywords through to their attention function."""
    setattr(module, PROBE, probe)
    try:
        yield
    finally:
        setattr(module, PROBE, None)


def install(model: Any) -> None:
    """Let every attention layer of a model go through `probed_sdpa`.

    Args:
        model: a model of transformers; mypy sees no `set_attn_implementation` on a plain module.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    for name in (NAME, CAPPED):
        AttentionInterface.register(name, probed_sdpa)
        AttentionMaskInterface.register(name, sdpa_mask)
    bounded = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    model.set_attn_implementation(CAPPED if bounded else NAME)
