"""What every supported family must do, on a tiny random model of it, against what transformers itself computes.

The slow reference runs the model's own forward on the processor's own inputs, without a cache, for every answer token anew;
hooks on its decoder layers hide the tokens that have left, and renumber where that is asked for.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.recorder import Recorder
from harness.engine.request import EngineRequest
from harness.models.probes import install
from harness.models.prompt import NEWLINE, VISUAL
from harness.run.evidence_swap import swapped
from methods.types import PROJECTOR, Selection, Step, decoder

LIMIT = 5


def run(family, asked, steps=(), positions="original", **options):
    return Engine(family.adapter, LIMIT).run(EngineRequest(asked.batch, steps, positions, **options))


def chosen(seed: int):
    """A selector that keeps random tokens, by the row's own stream."""

    def select(signals, keep: int) -> Selection:
        rows = [torch.randperm(signals.count, generator=torch.Generator().manual_seed(seed + int(s))) for s in signals.seeds]
        return Selection(torch.stack(rows)[:, :keep])

    return select


def at(site, keep: int) -> Step:
    needs = {"seeds"} if site.stage == 1 else {"seeds", "hidden_states"}
    return Step(site, chosen(site.stage * 10 + site.layer), keep, keep, frozenset(needs))


STEPS = {
    "before": (at(PROJECTOR, 3),),
    "inside": (at(decoder(1), 9), at(decoder(3), 2)),
    "both": (at(PROJECTOR, 7), at(decoder(2), 3)),
    "gone": (at(decoder(2), 0),),
}


def same_answers(family, asked, first, second, steps=(), positions="original") -> None:
    """Answers of one computation in two batches: where two first differ, the logits are within 1e-4 of each other.

    The logits there are those behind a question that goes on with what both said; ``steps`` must not read the question.
    """
    for row, (one, other) in enumerate(zip(first, second, strict=True)):
        place = next((i for i in range(LIMIT) if one[i : i + 1] != other[i : i + 1]), None)
        if place is None:
            continue
        single, _ = asked.batch.rows([row])
        longer = replace(single, questions=[[*single.questions[0], *one[:place]]])
        logits = Engine(family.adapter, 1).run(EngineRequest(longer, steps, positions)).first_logits[0]
        at_end = [int(end) for end in family.adapter.end_ids]
        a, b = (float(logits[answer[place] if place < len(answer) else at_end].max()) for answer in (one, other))
        assert abs(a - b) <= 1e-4 * max(abs(a), abs(b)), f"row {row}, answer token {place}: logits are {a} and {b}"


def same_as_generate(family, asked, out):
    for row, (question, images) in enumerate(zip(asked.questions, asked.images, strict=True)):
        torch.testing.assert_close(out.first_logits[row], family.forward(question, images), atol=2e-4, rtol=1e-4)
        assert out.tokens[row] == family.generated(question, images, LIMIT)


def test_keeping_all_equals_generate(family, alike):
    out = run(family, alike)
    same_as_generate(family, alike, out)
    assert len({tuple(answer) for answer in out.tokens}) > 1


def test_unequal_images_in_a_batch_equal_generate(family, unequal):
    out = run(family, unequal)
    same_as_generate(family, unequal, out)
    counts = unequal.batch.pixels.counts
    assert out.present.tolist() == counts
    if not family.adapter.tiler.fixed:
        assert len(set(counts)) > 1


def test_several_images_in_a_prompt_equal_generate(family, several):
    same_as_generate(family, several, run(family, several))


def test_no_image_equals_generate(family, alike):
    prompts = [family.adapter.prompt(question, False) for question in alike.questions]
    batch = replace(alike.batch, prefix=prompts[0][0], questions=[after for _, after in prompts])
    out = Engine(family.adapter, LIMIT).run(EngineRequest(batch, blind=True))
    assert out.counts == (0,) * 4
    for row, question in enumerate(alike.questions):
        assert out.tokens[row] == family.generated(question, [], LIMIT)


class Reference:
    """The model's own forward with tokens hidden from some layers on."""

    def __init__(self, family, question, images, spans, kept: dict[int, torch.Tensor], positions: str) -> None:
        self.adapter, self.kept, self.positions = family.adapter, kept, positions
        self.inputs = dict(family.inputs(question, images))
        ids = self.inputs["input_ids"][0]
        places = (ids == self.adapter.config.image_token_id).nonzero()[:, 0]
        held = [token for span in spans for token in span.ids if token in (VISUAL, NEWLINE)]
        self.columns = places[torch.tensor(held) == VISUAL]
        self.image = torch.full((len(ids) + LIMIT,), -1)
        for number, own in enumerate(self.columns.split([span.count for span in spans])):
            self.image[own] = number

    @torch.inference_mode()
    def answer(self) -> list[int]:
        tokens: list[int] = []
        layers = self.adapter.decoder.layers
        hooks = [layer.register_forward_pre_hook(self.hide(i), with_kwargs=True) for i, layer in enumerate(layers)]
        try:
            while len(tokens) < LIMIT:
                token = int(self.adapter.model(**self.extended(tokens), use_cache=False).logits[0, -1].argmax())
                if token in self.adapter.end_ids:
                    break
                tokens.append(token)
        finally:
            for hook in hooks:
                hook.remove()
        return tokens

    def extended(self, tokens: list[int]) -> dict:
        """The prompt with the answer so far."""
        fill = {"input_ids": tokens, "attention_mask": [1] * len(tokens)}
        words = lambda name: torch.tensor([fill.get(name, [0] * len(tokens))], dtype=torch.int64)
        by_token = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
        return {n: torch.cat([v, words(n)], 1) if n in by_token and tokens else v for n, v in self.inputs.items()}

    def hide(self, index: int):
        def hook(layer, arguments, words):
            hidden = arguments[0] if arguments else words["hidden_states"]
            length, layers = hidden.shape[1], [k for k in self.kept if k <= index]
            seen = torch.ones(length, dtype=torch.bool)
            if layers:
                seen[self.columns] = False
                seen[self.columns[self.kept[max(layers)]]] = True
            kind, place = self.adapter.kind(index), seen.long().cumsum(0) - 1
            allowed = torch.ones(length, length, dtype=torch.bool).tril()
            image = self.image[:length]
            if kind.bidirectional_images:
                allowed |= (image[:, None] == image) & (image >= 0)
            if kind.window is not None:  # counts what is there
                allowed &= place > place[:, None] - kind.window
            if kind.bidirectional_prompt:
                prompt = torch.arange(length) < self.inputs["input_ids"].shape[1]
                allowed |= prompt[:, None] & prompt
            words["attention_mask"] = ((allowed & seen) | torch.eye(length, dtype=torch.bool))[None, None]
            if self.positions == "contiguous":
                words["position_ids"] = self.renumbered(seen, image)
                words["position_embeddings"] = self.adapter.rotary(hidden, words["position_ids"], kind.name)
            return arguments, words

        return hook

    def renumbered(self, seen: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Positions of the tokens that are left, told slowly."""
        length = len(seen)
        if self.adapter.spec.position_axes == 1:
            return (seen.long().cumsum(0) - 1).clamp_min(0)[None]
        ids = torch.cat([self.inputs["input_ids"][0], torch.zeros(length, dtype=torch.int64)])[:length]
        types = (ids == self.adapter.config.image_token_id).int()
        grid = self.inputs["image_grid_thw"]
        old, _ = self.adapter.inner.get_rope_index(ids[None], mm_token_type_ids=types[None], image_grid_thw=grid)
        new, start, column = torch.zeros_like(old), 0, 0
        while column < length:
            if image[column] < 0:
                new[:, 0, column] = start
                column, start = column + 1, start + 1
                continue
            left = [c for c in range(length) if image[c] == image[column] and seen[c]]
            extent = 0
            for axis in range(3):
                values = sorted({int(old[axis, 0, c]) for c in left})
                for c in left:
                    new[axis, 0, c] = start + values.index(int(old[axis, 0, c]))
                extent = max(extent, len(values))
            start += extent
            column += int((image == image[column]).sum())
        return new


@pytest.mark.parametrize("positions", ["original", "contiguous"])
@pytest.mark.parametrize("steps", STEPS)
def test_pruned_decode_equals_the_masked_recompute(family, alike, several, steps, positions):
    full = run(family, alike)
    for asked in (alike, several):
        outs = [run(family, asked, STEPS[steps][: i + 1], positions) for i in range(len(STEPS[steps]))]
        out = outs[-1]
        for row in range(0, len(asked.questions), 3):
            spans = asked.batch.pixels.spans[int(asked.batch.image[row])]
            kept = {}
            for step, held in zip(STEPS[steps], (one.kept[row] for one in outs), strict=True):
                kept[step.site.layer] = held[held >= 0]
            expected = Reference(family, asked.questions[row], asked.images[row], spans, kept, positions).answer()
            assert out.tokens[row] == expected
        if asked is alike:
            assert not torch.allclose(full.first_logits, out.first_logits, atol=1e-3)


def test_results_do_not_depend_on_batch_or_sharing(family, unequal):
    for positions in ("original", "contiguous"):
        out = run(family, unequal, STEPS["both"], positions)
        alone = run(family, unequal, STEPS["both"], positions, share_questions=False)
        same_answers(family, unequal, out.tokens, alone.tokens, STEPS["both"], positions)
        assert torch.equal(out.kept, alone.kept)  # by the rows' own streams: no score decides
        for row in range(len(unequal.questions)):
            single, _ = unequal.batch.rows([row])
            one = Engine(family.adapter, LIMIT).run(EngineRequest(single, STEPS["both"], positions))
            same_answers(family, replace(unequal, batch=single), one.tokens, out.tokens[row : row + 1], STEPS["both"], positions)
            torch.testing.assert_close(one.first_logits[0], out.first_logits[row], atol=1e-4, rtol=1e-4)
            assert one.kept[0].tolist() == [token for token in out.kept[row].tolist() if token >= 0]


@pytest.mark.parametrize("family", ["llava"], indirect=True)
def test_another_answer_is_no_rounding(family, alike):
    asked, steps = replace(alike, batch=alike.batch.rows([0])[0]), STEPS["both"]
    own = run(family, asked, steps).tokens
    assert len(own[0]) > 1
    for place in range(min(map(len, own))):
        other = [[*answer[:place], answer[place] + 1, *answer[place + 1 :]] for answer in own]
        with pytest.raises(AssertionError, match=f"row 0, answer token {place}"):
            same_answers(family, asked, own, other, steps)
    with pytest.raises(AssertionError, match="answer token 1"):
        same_answers(family, asked, own, [answer[:1] for answer in own], steps)


def test_an_image_with_fewer_tokens_than_the_budget_keeps_all(family, unequal):
    counts = unequal.batch.pixels.counts
    keep = max(counts)
    full = run(family, unequal)
    for step in (at(PROJECTOR, keep), at(decoder(2), keep)):
        out = run(family, unequal, (step,))
        same_answers(family, unequal, out.tokens, full.tokens)
        assert out.present.tolist() == counts
    half = run(family, unequal, lambda shape: (at(PROJECTOR, shape.visual_tokens // 2),))
    assert half.present.tolist() == [count // 2 for count in counts]


def test_probed_rows_equal_eager_attention(family, alike, several):
    """Every layer's row of the last instruction token at the visual tokens, mean over heads."""
    adapter = family.adapter
    for asked in (alike, several):
        recorder = Recorder(attention=True)
        out = run(family, asked, recorder=recorder)
        assert torch.equal(out.first_logits, run(family, asked).first_logits)
        adapter.model.set_attn_implementation("eager")
        try:
            for row in (0, len(asked.questions) - 1):
                images = asked.images[row]
                spans = asked.batch.pixels.spans[int(asked.batch.image[row])]
                columns = Reference(family, asked.questions[row], images, spans, {}, "original").columns
                with torch.inference_mode():
                    words = family.inputs(asked.questions[row], images)
                    found = adapter.model(**words, output_attentions=True).attentions
                for layer, attention in enumerate(found):
                    expected = attention[0, :, -1, columns].mean(0)
                    mine = recorder.attention_rows[layer][row, : len(columns)]
                    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-3)
                    assert (recorder.ids[layer][row, len(columns) :] == -1).all()
        finally:
            install(adapter.model)


def test_rows_ahead_are_those_that_the_layer_then_computes(family, alike):
    seen = []

    def look(signals, keep):
        seen.append((signals.text_attention_ahead, signals.seeds))
        return Selection(torch.arange(signals.count).expand(signals.batch, -1))

    for layer in (1, 2):  # for Gemma, a layer of either kind
        seen.clear()
        count, recorder = 10_000, Recorder(attention=True)
        step = Step(decoder(layer), look, count, count, frozenset({"text_attention_ahead", "seeds"}))
        run(family, alike, (step,), recorder=recorder)
        for ahead, seeds in seen:
            for row, seed in zip(ahead, seeds.tolist(), strict=True):
                place = alike.batch.question_seeds.tolist().index(seed)
                torch.testing.assert_close(row[:, -1].mean(0), recorder.attention_rows[layer][place], atol=1e-5, rtol=1e-3)


def test_rope_response_is_what_vectors_of_ones_would_score(family, alike):
    adapter = family.adapter
    rotate = sys.modules[type(adapter.decoder.layers[0].self_attn).__module__].apply_rotary_pos_emb
    prefix = adapter.prompt_prefix(alike.batch.prefix, alike.batch.pixels.spans[0])
    where = prefix.positions.unsqueeze(-2)
    ones = torch.ones(1, 1, len(prefix.ids), adapter.shape.head_dim)
    for layer in (0, 1):
        kind = adapter.kind(layer).name
        query, key = rotate(ones, ones, *adapter.rotary(torch.zeros(1), where, kind))
        expected = (query @ key.transpose(2, 3))[0, 0] / adapter.shape.head_dim
        found = adapter.rope_response(where, where, kind)[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_prompts_are_those_of_the_familys_own_processor(family, unequal, several):
    """Marks, separators and line ends around and inside images included."""
    for asked in (unequal, several):
        for row, (question, images) in enumerate(zip(asked.questions, asked.images, strict=True)):
            prefix = family.adapter.prompt_prefix(asked.batch.prefix, asked.batch.pixels.spans[int(asked.batch.image[row])])
            place = family.adapter.config.image_token_id
            ids = [place if token in (VISUAL, NEWLINE) else token for token in prefix.ids] + asked.batch.questions[row]
            assert ids == family.inputs(question, images)["input_ids"][0].tolist()


def test_evidence_swap_on_unequal_images(family, unequal):
    """What each image's row kept is given back to it, and its own evidence is forced in."""
    counts = unequal.batch.pixels.counts
    evidence = torch.zeros(len(counts), max(counts), dtype=torch.bool)
    evidence[:, 1] = True
    asked = replace(unequal, batch=replace(unequal.batch, evidence=evidence))
    steps = (at(PROJECTOR, 3),)
    before = run(family, asked, steps)
    after = run(family, asked, swapped(steps, before.entered))
    for old, new in zip(before.kept.tolist(), after.kept.tolist(), strict=True):
        assert 1 in new
        assert len(set(old) - set(new)) == (1 not in old)
