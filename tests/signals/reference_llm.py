"""Every signal of a language model, from transformers' own outputs and hooks on its modules; nothing of this suite is imported.

The model runs its own forward, with its own eager attention, on its own processor's inputs: one prompt, nothing pruned.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
import transformers


@dataclass
class Layer:
    """What one decoder layer of transformers computed for one prompt of L tokens, heads joined."""

    scaling: float
    softcap: float | None
    head_dim: int
    states: torch.Tensor  # [L, D] at its input
    cosines: torch.Tensor  # [L, head_dim] of the rotary angles that it was given
    sines: torch.Tensor  # [L, head_dim]
    mask: torch.Tensor | None  # [L, L] added to the scores
    queries: torch.Tensor | None = None  # [L, Dq] after their norm, where the family has one, before the rotary embedding
    keys: torch.Tensor | None = None  # [L, Dkv] likewise
    values: torch.Tensor | None = None  # [L, Dkv]
    plain: dict[str, torch.Tensor] | None = None  # queries and keys before their norm
    attention: torch.Tensor | None = None  # [H, L, L] that the layer itself returned

    def rotated(self, states: torch.Tensor) -> torch.Tensor:
        """Queries or keys behind the rotary embedding, [heads, L, head_dim]."""
        heads = states.unflatten(-1, (-1, self.head_dim)).transpose(0, 1)
        half = self.head_dim // 2
        turned = torch.cat([-heads[..., half:], heads[..., :half]], -1)
        return heads * self.cosines + turned * self.sines

    def scores(self, rotate: bool = True) -> torch.Tensor:
        """Scaled and masked scores before the softmax, [H, L, L]."""
        split = lambda states: states.unflatten(-1, (-1, self.head_dim)).transpose(0, 1)
        queries, keys = (self.rotated(s) if rotate else split(s) for s in (self.queries, self.keys))
        found = queries @ keys.repeat_interleave(len(queries) // len(keys), 0).transpose(1, 2) * self.scaling
        if self.softcap is not None:
            found = self.softcap * (found / self.softcap).tanh()
        if self.mask is None:
            return found.masked_fill(torch.ones_like(found, dtype=torch.bool).triu(1), -torch.inf)
        return found + self.mask


def layers(model: transformers.PreTrainedModel, inputs: dict) -> list[Layer]:
    """Run a model on one prompt, and return what each decoder layer computed.

    Args:
        model: of transformers, with its head; its attention must be ``eager``.
        inputs: what its processor made of one prompt.
    """
    inner = model.model
    decoder = inner.language_model if hasattr(inner, "language_model") else inner.text_model  # of SmolVLM and Idefics3
    found: list[Layer] = []

    def entering(module, arguments, words):
        states = arguments[0] if arguments else words["hidden_states"]
        attention = module.self_attn
        cosines, sines = words["position_embeddings"]
        mask = words.get("attention_mask")
        softcap = getattr(attention, "attn_logit_softcapping", None)
        found.append(
            Layer(
                attention.scaling, softcap, attention.head_dim, states[0], cosines[0], sines[0],
                None if mask is None else mask[0, 0, :, : states.shape[1]], plain={},
            )
        )  # fmt: skip

    def projected(name, norm):
        def hook(module, arguments, states):
            found[-1].plain[name] = states[0]
            heads = states[0].unflatten(-1, (-1, found[-1].head_dim))
            setattr(found[-1], name, states[0] if norm is None else norm(heads).flatten(-2))

        return hook

    with ExitStack() as hooks, torch.inference_mode():
        for layer in decoder.layers:
            attention = layer.self_attn
            hooks.enter_context(_removed(layer.register_forward_pre_hook(entering, with_kwargs=True)))
            for name, part, norm in (("queries", "q_proj", "q_norm"), ("keys", "k_proj", "k_norm"), ("values", "v_proj", "")):
                hook = projected(name, getattr(attention, norm, None) if norm else None)
                hooks.enter_context(_removed(getattr(attention, part).register_forward_hook(hook)))
        out = model(**inputs, use_cache=True, output_attentions=True)
        for layer, attention, cached in zip(found, out.attentions, out.past_key_values.layers, strict=True):
            layer.attention = attention[0]
            keys = layer.rotated(layer.keys)[:, -cached.keys.shape[2] :]  # a sliding window may hold the last ones alone
            torch.testing.assert_close(cached.keys[0], keys, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(layer.scores().softmax(-1), layer.attention, atol=1e-4, rtol=1e-3)
    return found


class _removed:
    """A hook as a context: it is removed at the end."""

    def __init__(self, hook) -> None:
        self.hook = hook

    def __enter__(self):
        return self.hook

    def __exit__(self, *error) -> None:
        self.hook.remove()


def signals(found: list[Layer], layer: int, visual: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the signals of one prompt before a decoder layer.

    Args:
        found: what all layers computed.
        layer: index of the layer k.
        visual: int64 [N] columns of the visual tokens.
        text: int64 [T] columns of the instruction.

    Returns:
        Tensors without an axis for the batch.
    """
    before, own, first = found[layer - 1], found[layer], int(visual.min())
    rows = lambda table: table[:, text][:, :, visual]
    joined = lambda heads: heads.transpose(0, 1).flatten(1)
    turned = joined(before.rotated(before.keys))
    angles = [(table[text], table[visual]) for table in (before.cosines, before.sines)]
    norm = sum(own.square().sum(-1, keepdim=True) for own, _ in angles)
    return {
        "text_attention": rows(before.attention),
        "text_attention_ahead": rows(own.attention),
        "text_attention_ahead_unrotated": rows(own.scores(rotate=False).softmax(-1)),
        "text_logits": rows(before.scores()),
        "rope_response": sum(own @ other.T for own, other in angles) / norm,
        "rotary_mean": torch.stack([before.cosines[visual].mean(-1), before.sines[visual].mean(-1)], -1),
        "keys": turned[visual],
        "text_keys": turned[text],
        "keys_unrotated": before.keys[visual],
        "text_queries_unrotated": before.queries[text],
        "values_full": before.values[visual],
        "text_values_full": before.values[text],
        "system_values_full": before.values[:first],
        "hidden_states": own.states[visual],
        "text_hidden": own.states[text],
        "hidden_states_before": before.states[visual],
    }
