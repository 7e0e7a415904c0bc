"""What a block of a vision tower shows beside its attention: rows, states of queries, keys and values; only what is asked."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from harness.models.probes import AttentionProbe


@dataclass
class TowerProbe(AttentionProbe):
    """A probe of one tower block, whose attention layer may be called once for every window or image: it records all in turn.

    Args:
        from_first: whether attention from the first token, CLS, is wanted.
        joined: whether that is wanted of all heads joined into one, scores divided by the root of the whole width.
        queries: whether the queries, not scaled, are wanted.
    """

    from_first: bool = False
    joined: bool = False
    queries: bool = False
    chunks: list[tuple[torch.Tensor | None, ...]] = field(default_factory=list, init=False)
    query_states: torch.Tensor | None = field(default=None, init=False)  # [B, H, n, head_dim]
    joined_attention: torch.Tensor | None = field(default=None, init=False)  # [B, 1, 1, n], float32

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
        """Record what is asked of one call of the layer; see `AttentionProbe.record`."""
        if self.from_first:
            self.query_rows = torch.zeros(len(query), 1, dtype=torch.int64, device=query.device)
            self.group = torch.arange(len(query), device=query.device)
        super().record(module, query, key, mask, scaling, causal, softcap, value)
        self.query_states = query if self.queries else None
        if self.joined:
            first, all_keys = query[:, :, 0].flatten(1), key.transpose(1, 2).flatten(2)  # [B, Dv], [B, n, Dv]
            scores = (all_keys.float() @ first.float()[..., None])[..., 0] * first.shape[-1] ** -0.5
            if mask is not None:  # biases are the same for all heads
                scores = scores + mask[:, 0, 0]
            self.joined_attention = scores.softmax(-1)[:, None, None]
        self.chunks.append((self.query_states, self.key_states, self.value_states, self.mean_received))

    def join(self) -> None:
        """Put the states of all calls together, token behind token."""
        if len(self.chunks) > 1:
            whole = [None if parts[0] is None else torch.cat(parts, 2) for parts in zip(*self.chunks, strict=True)]
            self.query_states, self.key_states, self.value_states, self.mean_received = whole
        self.chunks = []
