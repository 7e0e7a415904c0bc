"""Attention rows beside SDPA: only the rows that a method reads are computed, never an L x L matrix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field

import torch

NAME = "probed_sdpa"


@dataclass
class AttentionProbe:
    """Asks one attention layer for some of its rows, or its keys, and holds the answer.

    Args:
        query_rows: int64 [R, T] columns whose attention rows are wanted, or None for none.
        group: int64 [R] the batch row that each belongs to.
        keys: whether the keys are wanted too.
        scores: whether the rows before their softmax are wanted too.
        received: whether the mean attention that each key receives is wanted too.
    """

    query_rows: torch.Tensor | None = None
    group: torch.Tensor | None = None
    keys: bool = False
    scores: bool = False
    received: bool = False
    attention: torch.Tensor | None = field(default=None, init=False)  # [R, H, T, keys], float32
    logits: torch.Tensor | None = field(default=None, init=False)  # [R, H, T, keys], float32, masked ones minus infinity
    mean_received: torch.Tensor | None = field(default=None, init=False)  # [B, H, keys], float32
    key_states: torch.Tensor | None = field(default=None, init=False)  # [B, Hkv, keys, head_dim]

    def rows(self, places: list[int]) -> AttentionProbe:
        """What was recorded of some of the rows."""
        some = copy(self)
        some.query_rows, some.group, some.attention, some.logits = (
            None if table is None else table[places] for table in (self.query_rows, self.group, self.attention, self.logits)
        )
        return some

    def record(self, module: torch.nn.Module, query, key, mask, scaling: float, causal: bool) -> None:
        if self.keys:
            self.key_states = key
        if self.received:
            wide = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            weights = (query.float() @ wide.float().transpose(2, 3) * scaling).softmax(-1)
            self.mean_received = weights.mean(2)
        if self.query_rows is None:
            return
        scores = self._scores(query, key, mask, scaling, causal)
        if self.scores:
            self.logits = scores
        self.attention = scores.softmax(-1)

    def _scores(self, query, key, mask, scaling: float, causal: bool) -> torch.Tensor:
        """Scaled and masked scores of the asked rows, [R, H, T, keys]; a sequence's keys are read once for all its rows.

        In float32 as in SDPA's own kernels: in bfloat16 a score near 8 would be off by up to 0.03, its probability by 3 %.
        """
        rows, group = self.query_rows, self.group
        batch, heads, length, width = query.shape
        count = torch.bincount(group, minlength=batch)
        slots = int(count.max())
        order = group.argsort(stable=True)
        slot = torch.empty_like(group)
        slot[order] = torch.arange(len(group), device=group.device) - (count.cumsum(0) - count)[group[order]]
        asked = torch.zeros(batch, slots, rows.shape[1], dtype=torch.int64, device=rows.device)
        asked[group, slot] = rows
        asked = asked.flatten(1)  # [G, slots * T]
        queries = query.gather(2, asked[:, None, :, None].expand(-1, heads, -1, width))
        shared = queries.reshape(batch, key.shape[1], -1, width)  # heads of one key head stand together
        scores = (shared.float() @ key.float().transpose(2, 3) * scaling).view(batch, heads, asked.shape[1], -1)
        if mask is not None:
            seen = mask.expand(batch, -1, length, -1)
            seen = seen.gather(2, asked[:, None, :, None].expand(-1, seen.shape[1], -1, seen.shape[3]))
            scores = scores.masked_fill(~seen, -torch.inf) if seen.dtype == torch.bool else scores + seen
        elif causal:
            keys = key.shape[2]
            ahead = torch.arange(keys, device=rows.device) > asked[:, None, :, None] + (keys - length)
            scores = scores.masked_fill(ahead, -torch.inf)
        return scores.unflatten(2, (slots, -1))[group, :, slot]


def probed_sdpa(module, query, key, value, attention_mask, scaling=None, probe: AttentionProbe | None = None, **kwargs):
    """The stock SDPA, and beside it what the probe asks for: one handed through, or one that `probing` set on the module."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    output = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    probe = probe or getattr(module, "_probe", None)
    if probe is not None:
        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        probe.record(module, query, key, attention_mask, scale, getattr(module, "is_causal", True))
    return output


@contextmanager
def probing(module: torch.nn.Module, probe: AttentionProbe | None) -> Iterator[None]:
    """Let an attention module be probed: not all towers hand keywords through to their attention function."""
    module._probe = probe
    try:
        yield
    finally:
        module._probe = None


def install(model: torch.nn.Module) -> None:
    """Let every attention layer of a Hugging Face model go through ``probed_sdpa``."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, probed_sdpa)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
