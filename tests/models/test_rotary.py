"""Rotary angles that are looked up are those that the model's own module computes, to the last bit."""

from __future__ import annotations

import pytest
import torch

from harness.models.rotary import RotaryAngles, first_of_run
from tests.models.tiny_families import PARAMS, make

POSITIONS = {
    "a run": torch.arange(3, 8).expand(2, -1),
    "a token": torch.tensor([[17]]),
    "tokens left": torch.tensor([[0, 1, 4, 9, 10], [0, 2, 3, 9, 10]]),
    "unlike rows": torch.tensor([[4], [7], [5]]),
    "far ones": torch.tensor([[1, 3000, 3001]]),
}


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_looked_up_is_what_the_module_computes(name, dtype):
    adapter, hidden = make(name).adapter, torch.zeros(1, dtype=dtype)
    for kind in {adapter.kind(layer).name for layer in range(adapter.shape.layers)}:
        for where, positions in POSITIONS.items():
            found = adapter.angles.look_up(hidden, positions, positions, kind)
            for one, other in zip(found, adapter.rotary(hidden, positions, kind), strict=True):
                assert one.dtype == dtype and torch.equal(one, other), where


def test_angles_that_depend_on_the_longest_prompt_are_computed_anew():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    def of(**rope) -> RotaryAngles:
        config = LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=64)
        config.rope_parameters = {"rope_theta": 1e4, **rope}
        return RotaryAngles(LlamaRotaryEmbedding(config), 1, 0)

    usual, growing = of(rope_type="default"), of(rope_type="dynamic", factor=2.0)
    assert usual.fixed and not growing.fixed
    hidden, positions = torch.zeros(1), torch.arange(200)[None]
    near, far = growing.look_up(hidden, positions[:, :9], positions[:, :9], ""), growing.look_up(hidden, positions, positions, "")
    assert not torch.equal(near[0], far[0][:, :9]) and torch.equal(far[0], growing.at(hidden, positions)[0])


def test_a_run_counts_on_in_every_row():
    assert first_of_run(torch.tensor([[4, 5, 6]])) == 4 and first_of_run(torch.tensor([[4], [4]])) == 4
    assert first_of_run(torch.tensor([[4, 6]])) is None and first_of_run(torch.tensor([[4], [5]])) is None
