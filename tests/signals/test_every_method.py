"""Every method, from pixels to kept tokens, on models as deep as those of the papers: layers and blocks are the papers' numbers.

What each method reads, and where, stands in `READS` as the papers' code has it. The reference modules compute it from what
transformers itself hands over; the engine must show the method the same, and keep what the method keeps of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
import transformers

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.models.adapter import Adapter
from harness.models.companion import Companion
from harness.models.probes import install
from harness.models.random_families import configurations, processors
from harness.models.random_families.words import VOCABULARY
from methods.loading import BUNDLED
from methods.registry import create, entry, parse
from methods.schedule import plan
from methods.types import OPTIONAL_SIGNALS, Budget, BudgetError, Selection, Signals, Step
from tests.models.tiny_families import Family, build, picture
from tests.signals import reference_llm, reference_tower

QUESTION, OWN_WORDS = "is the square left of the dot ?", ["square", "left", "of", "dot", "?"]
ROOM = {"positions", "evidence", "sizes", "seeds"} | OPTIONAL_SIGNALS
"""What tells no layer: places, streams, and what the step before handed on; rotary means and the norm have tests of their own."""

READ, LAST = 22, 23  # of CLIP's 24 blocks: LLaVA reads the output of the last but one
_STATES = {"features": "projected", "vision_features": READ}
READS: dict[str, tuple[str, dict[str, Any]]] = {
    # before the LLM: tower blocks from 0; ("joined", block) is one softmax over all heads joined
    "sts[stages=structure]": ("projector", {"features": "projected"}),
    "visionzip": ("projector", {"vision_features": READ, "vision_keys": READ, "cls_attention": READ, "cls_feature": READ}),
    "visionzip[score=received]": ("projector", {"vision_features": READ, "vision_keys": READ, "received_attention": READ}),
    "prumerge": ("projector", {"vision_features": READ, "vision_keys_full": LAST, "cls_attention": ("joined", LAST)}),
    "divprune": ("projector", {"features": "projected"}),
    "cdpruner": ("projector", {"features": "projected", "image_embeds": "joint", "text_embeds": "joint"}),
    "vispruner": ("projector", {"vision_features": READ, "cls_attention": READ}),
    "holov": ("projector", {"vision_features": READ, "cls_attention": READ}),
    "holov[rule=code]": ("projector", {"cls_attention": READ}),
    "otprune": ("projector", {"features": "projected"}),
    "hiprune": ("projector", {"received_attention": READ, "received_attention_early": 8}),
    "trim": ("projector", {"vision_features": READ, "image_embeds": "joint", "text_embeds": "joint"}),
    "fastervlm": ("projector", {"cls_attention": READ}),
    "hired": ("projector", {"cls_attention": READ}),
    "scope": ("projector", {"vision_features": READ, "cls_attention": READ}),
    "prunesid": ("projector", {"vision_features": READ, "cls_feature": READ, "cls_attention": READ}),
    "mmtok": ("projector", {**_STATES, "text_features": "own words"}),
    "vscan": ("projector", {"features": "projected", "cls_attention": READ, "cls_attention_early": 5}),
    "apet": ("projector", {"vision_features": READ}),
    "pool": ("projector", {"vision_features": READ}),
    "fps": ("projector", {"features": "projected"}),
    # inside the tower
    "tome": ("vision[0]", {"vision_features": "between", "vision_keys": 0}),
    "flowcut": ("vision[0]", {"cls_attention": 0, "vision_values_full": 0, "cls_value_full": 0}),
    "mustdrop[total=0.05,single=0.05]": ("vision[0]", {"vision_features_first": 0}),
    # inside the LLM: the site names the layer k; signals are of k - 1, those ahead and states of k
    "fastv": ("decoder[2]", {"text_attention": "llm"}),
    "sparsevlm": (
        "decoder[3]",
        {"text_attention": "llm", "hidden_states": "llm", "features": "projected", "text_features": "all"},
    ),
    "sparsevlm[version=2]": (
        "decoder[3]",
        {"text_attention": "llm", "rope_response": "llm", "features": "projected", "text_features": "all"},
    ),
    "pyramiddrop": ("decoder[8]", {"text_attention_ahead": "llm"}),
    "dart": ("decoder[2]", {"keys": "llm", "text_keys": "llm", "hidden_states": "llm", "text_hidden": "llm"}),
    "sts[stages=semantics]": ("decoder[16]", {"text_attention": "llm"}),
    "v2drop": ("decoder[3]", {"hidden_states": "llm", "hidden_states_before": "llm"}),
    "ivcprune": ("decoder[16]", {"values_full": "llm", "text_values_full": "llm", "system_values_full": "llm"}),
    "feather": ("decoder[8]", {"keys_unrotated": "llm", "text_queries_unrotated": "llm"}),
    "vscan[stages=llm]": ("decoder[16]", {"text_attention_ahead": "llm"}),
    "apet[stages=llm]": ("decoder[16]", {"hidden_states": "llm"}),
    "mustdrop[stages=llm,total=0.05,single=0.05]": ("decoder[3]", {"text_attention": "llm", "cls_attention_last": LAST}),
    "flowcut[stages=llm]": ("decoder[2]", {"text_attention": "llm", "values_full": "llm", "text_values_full": "llm"}),
}  # fmt: skip
READS_QWEN: dict[str, tuple[str, dict[str, Any]]] = {
    # a tower of 32 blocks without CLS, whose blocks 7, 15, 23 and 31 attend to the whole image, and an LLM of 28 layers
    "hiprune": ("projector", {"received_attention": 31, "received_attention_early": 15}),
    "visionzip[score=received]": None,
    "vscan[score=received]": ("projector", {"features": "projected", "received_attention": 31, "received_attention_early": 7}),
    "vscan[stages=llm,score=received]": ("decoder[14]", {"text_attention_ahead_unrotated": "llm"}),
    "divprune": ("projector", {"features": "projected"}),
    "mmtok": ("projector", {"features": "projected", "vision_features": 31, "text_features": "own words"}),
    "fastv": ("decoder[2]", {"text_attention": "llm"}),
    "dart": ("decoder[2]", {"keys": "llm", "text_keys": "llm", "hidden_states": "llm", "text_hidden": "llm"}),
    "pyramiddrop": ("decoder[8]", {"text_attention_ahead": "llm"}),
    "ivcprune": ("decoder[16]", {"values_full": "llm", "text_values_full": "llm", "system_values_full": "llm"}),
    "v2drop": ("decoder[3]", {"hidden_states": "llm", "hidden_states_before": "llm"}),
    "feather": ("decoder[8]", {"keys_unrotated": "llm", "text_queries_unrotated": "llm"}),
    "fastervlm": None,
    "prumerge": None,
    "scope": None,
    "trim": None,
    "cdpruner": None,
}  # fmt: skip
"""None: the model cannot run it, and says so."""
READS_NOTHING = {"none", "blind", "random", "vtw", "grid", "downsample", "oracle"}
"""Methods that look at no tensor of the model."""


def deep_llava() -> tuple[Family, Companion]:
    """LLaVA of 24 tower blocks and 32 layers, 6 x 6 tokens, with a CLIP text encoder beside it."""
    config = configurations.llava()
    config.vision_config.num_hidden_layers, config.vision_config.image_size = 24, 48
    config.text_config.num_hidden_layers, config.text_config.initializer_range = 32, 0.1
    processor = processors.llava()
    processor.image_processor.size = {"height": 48, "width": 48}
    torch.manual_seed(5)
    text = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            vocab_size=200, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, projection_dim=12,
            bos_token_id=1, eos_token_id=2,
        )
    ).eval()  # fmt: skip
    words = processor.tokenizer
    joint = Companion(
        text, torch.nn.Linear(32, 12, bias=False), lambda asked: [1, *words(asked, add_special_tokens=False).input_ids, 2]
    )
    return Family("llava", Adapter(build(config, 3), processor, "deep llava", joint)), joint


def deep_qwen() -> Family:
    """Qwen2.5-VL of 32 tower blocks and 28 layers."""
    config = configurations.qwen25()
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = 32, [7, 15, 23, 31]
    config.vision_config.window_size, config.vision_config.initializer_range = 32, 0.1
    config.text_config.num_hidden_layers, config.text_config.initializer_range = 28, 0.1
    config.text_config.layer_types = ["full_attention"] * 28
    return Family("qwen2.5-vl", Adapter(build(config, 4), processors.qwen("Qwen2_5_VLProcessor"), "deep qwen"))


@dataclass
class Whole:
    """A model with one image and one question in front of it, run by transformers alone and recorded."""

    family: Family
    batch: Any
    records: list[reference_tower.BlockRecord]
    between: torch.Tensor | None  # states of block 0 between its attention and its MLP
    layers: list[reference_llm.Layer]
    visual: torch.Tensor
    text: torch.Tensor
    embeds: dict[str, torch.Tensor]  # in the joint space

    @property
    def adapter(self) -> Adapter:
        return self.family.adapter

    def reference(self, signal: str, where: Any, site: str) -> torch.Tensor:
        """One signal of one prompt, [1, ...], from where a method's code reads it."""
        if where == "llm":
            return reference_llm.signals(self.layers, int(site[8:-1]), self.visual, self.text)[signal][None]
        if where == "projected":
            return self.layers[0].states[self.visual][None]
        if where == "joint":
            return self.embeds[signal]
        if where in ("all", "own words"):
            ids = [VOCABULARY[word] for word in OWN_WORDS] if where == "own words" else self.batch.questions[0]
            return self.adapter.model.get_input_embeddings()(torch.tensor(ids))[None]
        if where == "between":
            return self.between[:, 1:]
        joined, block = where if isinstance(where, tuple) else (None, where)
        table, first = reference_tower.of_block(self.records[block], signal, joined == "joined")
        if first:
            return table[:, 0]
        table = self.arranged(table)
        return table.transpose(1, 2) if "attention" in signal else table

    def arranged(self, table: torch.Tensor) -> torch.Tensor:
        """Values of a tower's tokens as those of the visual tokens, [1, N, C]."""
        if self.family.name == "llava":
            return table[:, 1:]
        grid = torch.tensor([self.batch.pixels.spans[0][0].cut])
        return table[0][reference_tower.window_order(self.adapter.tower, grid)].unflatten(0, (-1, 4)).mean(1)[None]


@cache
def whole(name: str) -> Whole:
    from harness.engine.batch import Batch

    family, joint = deep_llava() if name == "llava" else (deep_qwen(), None)
    adapter, image = family.adapter, picture(64, 64, 3)
    before, after = adapter.prompt(QUESTION)
    words = [[VOCABULARY[word] for word in OWN_WORDS]]
    texts = joint.texts_embeds([QUESTION]) if joint else None
    pixels = adapter.prompt_pixels([[image]])
    batch = Batch(
        pixels, before, [after], torch.tensor([0]), torch.tensor([7]), torch.tensor([70]), text_embeds=texts, question_words=words
    )
    inputs = dict(family.inputs(QUESTION, [image]))
    ids = inputs["input_ids"][0]
    visual = (ids == adapter.config.image_token_id).nonzero()[:, 0]
    text = torch.arange(len(ids) - len(after), len(ids))
    tower = adapter.tower
    blocks = list(tower.blocks if name != "llava" else tower.encoder.layers)
    attentions = [block.attn if name != "llava" else block.self_attn for block in blocks]
    between: list[torch.Tensor] = []
    hooks = []
    if name == "llava":
        hooks.append(blocks[0].layer_norm2.register_forward_pre_hook(lambda _, given: between.append(given[0])))
    try:
        with torch.inference_mode(), reference_tower.recorded(adapter.model, blocks, attentions) as records:
            layers = reference_llm.layers(adapter.model, inputs)
            embeds = {}
            if joint:
                states = tower.post_layernorm(records[READ].states[:, 1:])
                embeds = {"image_embeds": joint.visual_projection(states)}
                ends = [1, *adapter.tokenizer(QUESTION, add_special_tokens=False).input_ids, 2]
                embeds["text_embeds"] = joint.text(input_ids=torch.tensor([ends])).text_embeds[None]
    finally:
        install(adapter.model)
        for hook in hooks:
            hook.remove()
    return Whole(family, batch, records, between[0] if between else None, layers, visual, text, embeds)


def first_step(found: Whole, expression: str) -> tuple[tuple[Step, ...], Step]:
    """A method's steps at half of the tokens, or three quarters where it cannot reach that, and the first of them."""
    shape = found.adapter.shape_for(found.batch.pixels.spans[0])
    try:
        steps, _ = plan(create(expression), shape, Budget(shape.visual_tokens // 2))
    except BudgetError:
        steps, _ = plan(create(expression), shape, Budget(shape.visual_tokens * 3 // 4))
    return steps, min(steps, key=lambda step: step.site)


def seen_by(found: Whole, expression: str) -> tuple[Step, Signals, Selection]:
    """What the engine showed to a method's first step, and what that chose."""
    steps, first = first_step(found, expression)
    noted: list[tuple[Signals, Selection]] = []

    def note(signals: Signals, keep: int) -> Selection:
        noted.append((signals, first.select(signals, keep)))
        return noted[-1][1]

    noting = tuple(replace(step, select=note) if step is first else step for step in steps)
    method = create(expression)
    Engine(found.adapter, 1).run(EngineRequest(found.batch, noting, method.positions))
    return first, *noted[0]


def cases() -> list:
    return [
        pytest.param(name, expression, id=f"{name}-{expression}")
        for name, table in (("llava", READS), ("qwen2.5-vl", READS_QWEN))
        for expression in table
    ]


@pytest.mark.parametrize(("name", "expression"), cases())
def test_a_method_sees_what_its_authors_code_reads_and_keeps_what_it_keeps_of_that(name, expression):
    found = whole(name)
    said = (READS if name == "llava" else READS_QWEN)[expression]
    if said is None:
        steps, _ = first_step(found, expression)
        assert found.adapter.cannot(steps)
        return
    site, where = said
    first, signals, chosen = seen_by(found, expression)
    assert str(first.site) == site
    assert first.needs - ROOM == set(where), "the table names every signal that the step reads"
    told: dict[str, Any] = {name: getattr(signals, name) for name in first.needs & ROOM}
    with torch.inference_mode():
        for signal, place in where.items():
            expected = found.reference(signal, place, site)
            got = getattr(signals, signal)
            if first.rows == 1 and signal.startswith(("text_attention", "text_queries")):  # the last row alone is asked for
                axis = -2 if "attention" in signal else 1
                expected = expected.narrow(axis, expected.shape[axis] - 1, 1)
            torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-3, msg=lambda text: f"{signal} ({place}): {text}")
            told[signal] = expected
        facts = {"count": signals.count, "batch": 1, "grid": signals.grid, "device": "cpu"}
        again = first.select(Signals(**told, **facts).only(first.needs), min(first.keep, signals.count))
    assert sorted(chosen.indices[0].tolist()) == sorted(again.indices[0].tolist())
    if chosen.tokens is not None:
        torch.testing.assert_close(chosen.tokens, again.tokens, atol=2e-3, rtol=2e-2)


def test_the_table_names_every_method():
    named = {parse(expression)[0] for expression in READS} | READS_NOTHING
    assert named == set(BUNDLED)
    assert all(not entry(name).needs - ROOM for name in READS_NOTHING)
