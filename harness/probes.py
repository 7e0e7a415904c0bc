"""Attention rows beside SDPA: only the rows that a method reads are computed, never an L x L matrix."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

NAME = "probed_sdpa"


@dataclass
class Probe:
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

    def record(self, module: torch.nn.Module, query, key, mask, scaling: float, causal: bool) -> None:
        if self.keys:
            self.key_states = key
        if self.received:
            wide = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            weights = ((query @ wide.transpose(2, 3)).float() * scaling).softmax(-1)
            self.mean_received = weights.mean(2)
        if self.query_rows is None:
            return
        rows, group = self.query_rows, self.group
        heads, width = query.shape[1], query.shape[3]
        index = rows[:, None, :, None].expand(-1, heads, -1, width)
        asked = query[group].gather(2, index) if len(query) > 1 or len(rows) > 1 else query.gather(2, index)
        wide = key.repeat_interleave(heads // key.shape[1], dim=1)
        wide = wide[group] if len(wide) > 1 or len(rows) > 1 else wide
        scores = (asked @ wide.transpose(2, 3)).float() * scaling
        count = key.shape[2]
        if mask is not None:
            whole = mask.expand(-1, -1, query.shape[2], -1)[group]  # [R, 1, L, keys]
            seen = whole.gather(2, rows[:, None, :, None].expand(-1, whole.shape[1], -1, whole.shape[3]))
            scores = scores.masked_fill(~seen, -torch.inf) if seen.dtype == torch.bool else scores + seen
        elif causal:
            ahead = torch.arange(count, device=rows.device) > rows[:, None, :, None] + (count - query.shape[2])
            scores = scores.masked_fill(ahead, -torch.inf)
        if self.scores:
            self.logits = scores
        self.attention = scores.softmax(-1)


def probed_sdpa(module, query, key, value, attention_mask, scaling=None, probe: Probe | None = None, **kwargs):
    """The stock SDPA, and beside it what the probe asks for."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    output = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if probe is not None:
        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        probe.record(module, query, key, attention_mask, scale, getattr(module, "is_causal", True))
    return output


def install(model: torch.nn.Module) -> None:
    """Let every attention layer of a Hugging Face model go through ``probed_sdpa``."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, probed_sdpa)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
