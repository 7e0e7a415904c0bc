"""Every signal of a vision tower, from what transformers' own modules hand over while they run; nothing of ours is imported.

The tower runs as transformers runs it, with eager attention, whose arguments and weights are noted layer by layer. A signal
is then what its description says, told slowly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class BlockRecord:
    """What one block of a tower worked on: of T tiles with m tokens each, CLS included where there is one."""

    states: torch.Tensor | None = None  # [T, m, D] behind the block
    calls: list[tuple[torch.Tensor, ...]] = field(default_factory=list)  # query, key, value [T, H, n, d] and weights, by call

    def heads(self, part: int) -> torch.Tensor:
        """Queries (0), keys (1) or values (2) of all calls, token behind token: [T, m, H, d]."""
        return torch.cat([call[part] for call in self.calls], 2).transpose(1, 2)

    def full(self, part: int) -> torch.Tensor:
        """The same with all heads joined, [T, m, H * d]."""
        return self.heads(part).flatten(2)

    def received(self) -> torch.Tensor:
        """The mean attention that each token receives, [T, m, H]: over the rows of its window or image."""
        return torch.cat([call[3].mean(2) for call in self.calls], 2).transpose(1, 2)

    def from_first(self) -> torch.Tensor:
        """Attention from the first token, [T, m, H]."""
        return self.calls[0][3][:, :, 0].transpose(1, 2)

    def from_first_joined(self) -> torch.Tensor:
        """The same with all heads joined into one before the softmax, scores over the root of the whole width: [T, m, 1]."""
        queries, keys = self.full(0), self.full(1)
        scores = torch.einsum("td,tmd->tm", queries[:, 0], keys) / keys.shape[-1] ** 0.5
        return torch.softmax(scores, -1)[..., None]


@contextmanager
def recorded(model: Any, blocks: list[torch.nn.Module], attentions: list[torch.nn.Module]):
    """Record blocks of a tower while it runs inside the ``with`` block; yields a record of each.

    Args:
        model: of transformers; its attention is set to eager.
        blocks: of the tower.
        attentions: the attention layer of each.
    """
    records = [BlockRecord() for _ in blocks]
    owner = {id(layer): record for layer, record in zip(attentions, records, strict=True)}
    code = sys.modules[type(attentions[0]).__module__]
    eager: Callable = code.eager_attention_forward

    def noting(module, query, key, value, *arguments, **options):
        out, weights = eager(module, query, key, value, *arguments, **options)
        if id(module) in owner:
            owner[id(module)].calls.append((query, key, value, weights))
        return out, weights

    def behind(record):
        def note(_, __, out):
            states = out[0] if isinstance(out, tuple) else out
            record.states = states if states.dim() == 3 else states[None]  # Qwen's have all patches in one row

        return note

    hooks = [block.register_forward_hook(behind(record)) for block, record in zip(blocks, records, strict=True)]
    model.set_attn_implementation("eager")
    code.eager_attention_forward = noting
    try:
        yield records
    finally:
        code.eager_attention_forward = eager
        for hook in hooks:
            hook.remove()


def window_order(tower: Any, grid: torch.Tensor) -> torch.Tensor:
    """Where each patch stands in Qwen2.5-VL's tower, which takes the patches window by window: int64 [patches]."""
    from transformers.vision_utils import get_vision_window_index

    fold = tower.config.spatial_merge_size
    index, _ = get_vision_window_index(grid, fold, tower.config.window_size, tower.config.patch_size)
    where = {int(unit): place for place, unit in enumerate(index)}
    return torch.tensor([where[unit] * fold**2 + i for unit in range(len(index)) for i in range(fold**2)])


def folded(table: torch.Tensor, rows: int, columns: int, fold: int) -> torch.Tensor:
    """Means over fold x fold neighbours of a grid of tokens, [rows * columns, C] in reading order."""
    means = []
    for row in range(0, rows, fold):
        for column in range(0, columns, fold):
            places = [(row + i) * columns + column + j for i in range(fold) for j in range(fold)]
            means.append(table[places].mean(0))
    return torch.stack(means)


def of_block(record: BlockRecord, signal: str, joined: bool = False) -> tuple[torch.Tensor, bool]:
    """One signal of a block before its tokens are arranged.

    Returns:
        A table [T, m, C] of all tokens, and whether only the first one's row, that of CLS, is the signal.
    """
    if signal in ("vision_features", "vision_features_first"):
        return record.states, False
    if signal in ("cls_feature", "cls_feature_first"):
        return record.states, True
    if signal in ("vision_keys", "cls_key"):
        return record.heads(1).mean(2), signal == "cls_key"
    if signal.startswith("received_attention"):
        return record.received(), False
    if signal.startswith("cls_attention"):
        return record.from_first_joined() if joined else record.from_first(), False
    parts = {
        "vision_queries_full": 0, "cls_query": 0, "vision_keys_full": 1, "cls_key_full": 1, "vision_values_full": 2,
        "cls_value_full": 2,
    }  # fmt: skip
    return record.full(parts[signal]), signal.startswith("cls_")
