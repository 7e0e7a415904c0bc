"""Engines that do not run a model as its own code does, each in one thing: what a self-check must see."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from transformers import AttentionInterface

from harness.models import probes
from harness.models.adapter import Adapter
from harness.models.rotary import RotaryAngles


def embeddings_multiplied(patch: pytest.MonkeyPatch) -> None:
    """Granite multiplies its embeddings by 12; here the engine does, of a model that does not."""
    right = Adapter.embed
    patch.setattr(Adapter, "embed", lambda self, ids: right(self, ids) * 12)


def logits_divided(patch: pytest.MonkeyPatch) -> None:
    right = Adapter.logits
    patch.setattr(Adapter, "logits", lambda self, hidden: right(self, hidden) / 8)


def no_final_norm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Adapter, "logits", lambda self, hidden: self.model.lm_head(hidden).float())


def fewer_key_heads(patch: pytest.MonkeyPatch) -> None:
    """All query heads read the keys and values of the first head."""

    def wrong(module, query, key, value, *arguments, **words):
        first = lambda table: table[:, :1].expand_as(table)
        return probes.probed_sdpa(module, query, first(key), first(value), *arguments, **words)

    names, functions = (probes.NAME, probes.CAPPED), AttentionInterface._global_mapping

    def install(model) -> None:
        right(model)
        functions.update(dict.fromkeys(names, wrong))

    right = probes.install
    patch.setattr("harness.models.adapter.install", install)
    for name in names:
        patch.setitem(functions, name, wrong)


def another_rope_theta(patch: pytest.MonkeyPatch) -> None:
    """Angles of theta 500,000 where the model has 10,000."""

    def wrong(self, hidden, positions, there, kind):
        rope = self.module
        names = [name for name, _ in rope.named_buffers() if name.endswith("inv_freq") and "original" not in name]
        assert names
        own = {name: getattr(rope, name) for name in names}
        try:
            for name, frequencies in own.items():
                setattr(rope, name, frequencies ** (math.log(5e5) / math.log(1e4)))
            return self.at(hidden, there, kind)
        finally:
            for name, frequencies in own.items():
                setattr(rope, name, frequencies)

    patch.setattr(RotaryAngles, "look_up", wrong)


def a_layer_left_out(patch: pytest.MonkeyPatch) -> None:
    """The third layer fills its cache, and what it adds is dropped."""
    right = Adapter.layer

    def wrong(self, index, hidden, *arguments, **words):
        found = right(self, index, hidden, *arguments, **words)
        return hidden if index == 2 else found

    patch.setattr(Adapter, "layer", wrong)


BROKEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "multiplier of embeddings": embeddings_multiplied,
    "multiplier of logits": logits_divided,
    "norm": no_final_norm,
    "head count": fewer_key_heads,
    "rope theta": another_rope_theta,
    "layer": a_layer_left_out,
}
