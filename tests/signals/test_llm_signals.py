"""The language model's signals, for every family, against what transformers itself computes; mutants of each are told apart."""

from __future__ import annotations

import ast
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.models.probes import install
from harness.models.prompt import NEWLINE, VISUAL
from methods.types import Selection, Signals, Step, decoder
from tests.models.tiny_families import PARAMS, ask, make, picture
from tests.signals import reference_llm

LAYER = 2
NAMES = (
    "text_attention", "text_attention_ahead", "text_attention_ahead_unrotated", "text_logits", "rope_response", "rotary_mean",
    "keys", "text_keys", "keys_unrotated", "text_queries_unrotated", "values_full", "text_values_full", "system_values_full",
    "hidden_states", "text_hidden", "hidden_states_before",
)  # fmt: skip
_OF_TEXT_ROWS = {"text_attention": 1, "text_attention_ahead": 1, "text_attention_ahead_unrotated": 1, "text_logits": 1,
                 "text_queries_unrotated": 0}  # fmt: skip
"""Signals of which a step may want the last row alone, and the axis of their rows."""


def looked_at(family, asked, layer: int, names, rows: int = 0) -> list[dict[str, torch.Tensor]]:
    """What a step before a decoder layer sees, by question."""
    seen: list[dict[str, torch.Tensor]] = [{} for _ in asked.questions]

    def look(signals: Signals, keep: int) -> Selection:
        for place, seed in enumerate(signals.seeds.tolist()):
            row = asked.batch.question_seeds.tolist().index(seed)
            seen[row] = {name: getattr(signals, name)[place] for name in names}
        return Selection(torch.arange(signals.count).expand(signals.batch, -1))

    step = Step(decoder(layer), look, 10_000, 10_000, frozenset(names) | {"seeds", "text_keys"}, rows=rows)
    Engine(family.adapter, 1).run(EngineRequest(asked.batch, (step,)))
    return seen


def expected(family, asked, row: int, layer: int = LAYER) -> dict[str, torch.Tensor]:
    found, visual, text = computed(family, asked, row)
    return reference_llm.signals(found, layer, visual, text)


def computed(family, asked, row: int):
    """What transformers computes for one question, and the columns of its visual tokens and its instruction."""
    adapter = family.adapter
    inputs = dict(family.inputs(asked.questions[row], asked.images[row]))
    ids = inputs["input_ids"][0]
    spans = asked.batch.pixels.spans[int(asked.batch.image[row])]
    held = torch.tensor([token for span in spans for token in span.ids if token in (VISUAL, NEWLINE)])
    visual = (ids == adapter.config.image_token_id).nonzero()[:, 0][held == VISUAL]
    text = torch.arange(len(ids) - len(asked.batch.questions[row]), len(ids))
    adapter.model.set_attn_implementation("eager")
    try:
        return reference_llm.layers(adapter.model, inputs), visual, text
    finally:
        install(adapter.model)


def differs(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape != other.shape or not torch.allclose(one, other, atol=1e-4, rtol=1e-3)


@cache
def case(name: str, several: bool = False):
    family = make(name)
    prompts = [[picture(32, 32, 1), picture(60, 30, 2)]] if several else [[picture(40, 40, 1)], [picture(40, 40, 2)]]
    return family, ask(family, prompts)


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
@pytest.mark.parametrize("name", PARAMS)
def test_signals_are_those_of_transformers(name, several):
    family, asked = case(name, several)
    found = looked_at(family, asked, LAYER, NAMES)
    assert set(NAMES) <= family.adapter.gives
    for row in (0, len(asked.questions) - 1):
        for signal, tensor in expected(family, asked, row).items():
            assert not differs(found[row][signal], tensor), f"{signal} of question {row}"


@pytest.mark.parametrize("signal", _OF_TEXT_ROWS)
@pytest.mark.parametrize("name", ["llava", "qwen2.5-vl", "qwen3-vl"])
def test_a_step_may_want_the_last_row_alone(name, signal):
    family, asked = case(name)
    axis = _OF_TEXT_ROWS[signal]
    for row, found in enumerate(looked_at(family, asked, LAYER, (signal,), rows=1)):
        whole = expected(family, asked, row)[signal]
        assert not differs(found[signal], whole.narrow(axis, whole.shape[axis] - 1, 1))


def another_layer(found, visual, text):
    return reference_llm.signals(found, LAYER + 1, visual, text)


def no_norm(found, visual, text):
    """Queries and keys before their norm, and states behind one."""
    plain = [replace(layer, queries=layer.plain["queries"], keys=layer.plain["keys"]) for layer in found]
    unit = lambda states: states / states.square().mean(-1, keepdim=True).sqrt()
    made = reference_llm.signals(plain, LAYER, visual, text)
    return made | {name: unit(made[name]) for name in ("hidden_states", "text_hidden", "hidden_states_before")}


def other_rotation(found, visual, text):
    """What is rotated without the rotary embedding, and the other way round."""
    before = found[LAYER - 1]
    made = reference_llm.signals(found, LAYER, visual, text)
    rows = lambda table: table[:, text][:, :, visual]
    return {
        "keys": before.keys[visual],
        "text_keys": before.keys[text],
        "keys_unrotated": made["keys"],
        "text_queries_unrotated": before.rotated(before.queries).transpose(0, 1).flatten(1)[text],
        "text_attention": rows(before.scores(rotate=False).softmax(-1)),
        "text_attention_ahead": made["text_attention_ahead_unrotated"],
        "text_attention_ahead_unrotated": made["text_attention_ahead"],
        "text_logits": rows(before.scores(rotate=False)),
    }


def other_angles(found, visual, text):
    """The rotary angles of places one further on, and sines for cosines."""
    made = reference_llm.signals(found, LAYER, visual, text)
    return {"rope_response": made["rope_response"].roll(1, -1), "rotary_mean": made["rotary_mean"].flip(-1)}


_ALL = ("llava", "qwen2.5-vl", "qwen3-vl")
_FROM_POSITIONS = ("rope_response", "rotary_mean")
_MUTANTS = [
    *((another_layer, name, signal) for name in _ALL for signal in NAMES if signal not in _FROM_POSITIONS),
    *((other_rotation, name, signal) for name in _ALL for signal in NAMES if signal.removesuffix("_unrotated") in
      ("keys", "text_keys", "text_queries", "text_attention", "text_attention_ahead", "text_logits")),
    *((no_norm, "qwen3-vl", signal) for signal in ("text_logits", "keys", "text_keys", "keys_unrotated", "text_queries_unrotated",
                                                   "text_attention_ahead_unrotated")),
    *((no_norm, name, signal) for name in _ALL for signal in ("hidden_states", "text_hidden", "hidden_states_before")),
    *((other_angles, name, signal) for name in _ALL for signal in _FROM_POSITIONS),
    *((another_layer, "gemma3", signal) for signal in _FROM_POSITIONS),
]  # fmt: skip


@pytest.mark.parametrize(("mutant", "name", "signal"), _MUTANTS, ids=lambda part: getattr(part, "__name__", str(part)))
def test_a_mutant_is_told_apart(mutant, name, signal):
    found = _looked(name)[0][signal]
    wrong = mutant(*_computed(name))[signal]
    assert not differs(found, expected_of(name)[signal])
    assert differs(found, wrong), f"{signal} of {mutant.__name__}"


@cache
def _looked(name: str):
    return looked_at(*case(name), LAYER, NAMES)


@cache
def _computed(name: str):
    return computed(*case(name), 0)


def expected_of(name: str) -> dict[str, torch.Tensor]:
    found, visual, text = _computed(name)
    return reference_llm.signals(found, LAYER, visual, text)


def test_the_reference_knows_nothing_of_the_suite():
    source = Path(reference_llm.__file__).read_text(encoding="utf-8")
    names = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in getattr(node, "names", ())]
                     if isinstance(node, ast.Import) else [])
    }  # fmt: skip
    assert names - set(sys.stdlib_module_names) == {"torch", "transformers"}
