"""PaliGemma: a prompt sees itself both ways, so what an image comes to hangs on the question; Gemma 2 bounds its scores."""

from __future__ import annotations

import pytest
import torch

from harness.bridges.pruned import prune
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.errors import RequestError
from harness.models.probes import install
from methods.types import Selection, Step, decoder
from tests.models.tiny_families import parameters

LIMIT = 5
LAYER = 2


def image_states(family, asked, share: bool = True) -> torch.Tensor:
    """States of all visual tokens before a decoder layer, [R, N, D], by question."""
    found = torch.zeros(len(asked.questions), asked.batch.pixels.counts[0], family.adapter.shape.width)

    def look(signals, keep):
        found[signals.seeds - 70] = signals.hidden_states
        return Selection(torch.arange(signals.count).expand(signals.batch, -1))

    # what reads the text is asked for every question, and is seeded by it
    needs = frozenset({"hidden_states", "text_hidden", "seeds"})
    step = Step(decoder(LAYER), look, 10_000, 10_000, needs)
    Engine(family.adapter, 1).run(EngineRequest(asked.batch, (step,), share_questions=share))
    return found


@torch.inference_mode()
def own_states(family, question, images) -> torch.Tensor:
    """The same by the model's own forward and its own eager attention, [N, D]."""
    inputs = family.inputs(question, images)
    family.adapter.model.set_attn_implementation("eager")
    try:
        states = family.adapter.model(**inputs, output_hidden_states=True).hidden_states[LAYER][0]
    finally:
        install(family.adapter.model)
    return states[inputs["input_ids"][0] == family.adapter.config.image_token_id]


@pytest.mark.parametrize("family", parameters(("llava", "paligemma", "paligemma2")), indirect=True)
def test_what_an_image_comes_to_changes_with_the_question_where_prompts_see_themselves(family, alike):
    states = image_states(family, alike)
    for row, (question, images) in enumerate(zip(alike.questions, alike.images, strict=True)):
        torch.testing.assert_close(states[row], own_states(family, question, images), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(states, image_states(family, alike, share=False), atol=1e-4, rtol=1e-4)
    apart = [float((states[first] - states[second]).abs().max()) for first, second in ((0, 1), (2, 3))]
    assert family.adapter.spec.bidirectional_prompt == family.bare
    if family.bare:
        assert min(apart) > 0.01
    else:
        assert max(apart) < 1e-4


@pytest.mark.parametrize("family", parameters(("paligemma", "paligemma2")), indirect=True)
@torch.inference_mode()
def test_answers_equal_generate_with_eager_attention(family, alike, several):
    """Of two questions to an image in one batch, whose lengths differ."""
    for asked in (alike, several):
        out = Engine(family.adapter, LIMIT).run(EngineRequest(asked.batch))
        assert len({len(question) for question in asked.batch.questions}) > 1
        family.adapter.model.set_attn_implementation("eager")
        try:
            for row, (question, images) in enumerate(zip(asked.questions, asked.images, strict=True)):
                torch.testing.assert_close(out.first_logits[row], family.forward(question, images), atol=2e-4, rtol=1e-4)
                assert out.tokens[row] == family.generated(question, images, LIMIT)
        finally:
            install(family.adapter.model)


@pytest.mark.parametrize("family", parameters(("paligemma2",)), indirect=True)
def test_bounds_of_scores_and_logits_are_reached(family, alike, monkeypatch):
    """Else the tests above would say nothing about them."""
    bounded = Engine(family.adapter, 1).run(EngineRequest(alike.batch)).first_logits
    text = family.adapter.config.get_text_config()
    assert bounded.abs().max() < text.final_logit_softcapping
    assert bounded.abs().max() > 0.5 * text.final_logit_softcapping
    for layer in family.adapter.decoder.layers:
        monkeypatch.setattr(layer.self_attn, "attn_logit_softcapping", 1e6)
    assert (Engine(family.adapter, 1).run(EngineRequest(alike.batch)).first_logits - bounded).abs().max() > 0.01


@pytest.mark.parametrize("family", parameters(("paligemma2",)), indirect=True)
def test_the_start_of_an_answer_is_refused_by_prune(family, alike):
    images = alike.images[0]
    inputs = family.adapter.processor(
        images=[images], text=[family.text(alike.questions[0])], suffix=["left of the dot"], return_tensors="pt"
    )
    with pytest.raises(RequestError, match="token_type_ids mark the start of an answer"):
        prune(family.adapter.model, "none", processor=family.adapter.processor).generate(**inputs, max_new_tokens=2)
