"""Evidence swap: the same K, the evidence in, random kept tokens out, and nothing else changed."""

from dataclasses import replace

import pytest
import torch

from harness.engine.recorder import Recorder
from harness.engine.request import EngineRequest
from harness.run.batch_run import BatchRun
from harness.run.config import CompareConfig
from harness.run.evidence_swap import exchange, placed, swapped
from harness.run.plan import make_cells
from methods.registry import create
from methods.types import PROJECTOR, Budget, Selection, Step


@pytest.mark.parametrize("seed", range(100))
def test_exchange_against_sets(seed):
    g = torch.Generator().manual_seed(seed)
    draw = lambda low, high: int(torch.randint(low, high, (1,), generator=g))
    count = draw(1, 40)
    keep, recycled, batch = draw(1, count + 1), draw(0, 4), 3
    kept = torch.rand(batch, count, generator=g).argsort(-1)[:, :keep].sort(-1).values
    indices = torch.cat([kept, torch.full((batch, recycled), -1)], 1)
    evidence = torch.rand(batch, count, generator=g) < draw(0, 6) / 10
    seeds = torch.randint(1 << 40, (batch,), generator=g)
    out = exchange(indices, evidence, seeds)
    assert out.shape == indices.shape and (out[:, keep:] == -1).all()
    for row in range(batch):
        old, new, held = set(kept[row].tolist()), out[row, :keep].tolist(), set(evidence[row].nonzero()[:, 0].tolist())
        assert new == sorted(set(new))  # in position order, none twice
        if len(held) <= keep:
            assert held <= set(new) <= old | held
        else:
            assert set(new) <= held and (old & held <= set(new) or len(old & held) > keep)
        assert torch.equal(out[row], exchange(indices[row : row + 1], evidence[row : row + 1], seeds[row : row + 1])[0])
    nothing = exchange(indices, torch.zeros_like(evidence), seeds)
    assert torch.equal(nothing, indices)


def test_what_goes_out_is_uniform():
    """Of ten kept tokens, none of them evidence, each is thrown out equally often."""
    evidence = torch.zeros(4000, 20, dtype=torch.bool)
    evidence[:, 15] = True
    out = exchange(torch.arange(10).expand(4000, -1), evidence, torch.arange(4000))
    gone = 4000 - torch.bincount(out.flatten(), minlength=20)[:10]
    assert gone.sum() == 4000
    assert gone.min() > 320
    assert gone.max() < 480


@pytest.mark.parametrize("expression", ["random", "divprune", "sts", "fastv", "sparsevlm", "pyramiddrop", "divprune+fastv"])
def test_the_swapped_run_keeps_all_evidence_and_as_many_tokens(work, expression):
    method = create(expression)
    steps = method.steps(work.engine.adapter.shape, Budget(200))
    plain, forced = Recorder(), Recorder()
    before = work.engine.run(EngineRequest(work.batch, steps, method.positions, work.shared, recorder=plain))
    after = work.engine.run(
        EngineRequest(work.batch, swapped(steps, before.entered), method.positions, work.shared, recorder=forced)
    )
    assert before.counts == after.counts
    evidence, moved = work.batch.evidence, 0
    for ids, own in zip(forced.ids, plain.ids, strict=True):
        for row in range(len(ids)):
            held, new, old = (set(x.tolist()) for x in (evidence[row].nonzero()[:, 0], ids[row], own[row]))
            assert held <= new if len(held) <= len(new - {-1}) else new - {-1} <= held
            if held <= old and forced.ids[0].shape == ids.shape:
                assert new == old
            moved += len(held - old)
    assert moved > 0


@torch.inference_mode()
def test_recorded_rows_are_those_of_eager_attention(work):
    """Every layer's row of the last instruction token, mean over heads, for single questions run by the model itself."""
    adapter, recorder = work.engine.adapter, Recorder(attention=True)
    out = work.engine.run(EngineRequest(work.batch, (), shared=work.shared, recorder=recorder))
    silent = work.engine.run(EngineRequest(work.batch, (), shared=work.shared))
    assert out.tokens == silent.tokens and torch.equal(out.first_logits, silent.first_logits)
    features = adapter.project(work.vision.features)
    adapter.model.set_attn_implementation("eager")
    try:
        for row in (0, 10, 26):
            image, prefix = int(work.batch.image[row]), len(work.batch.prefix)
            words = adapter.embed(torch.tensor([work.batch.prefix + work.batch.questions[row]]))
            hidden = torch.cat([words[:, :prefix], features[image][None], words[:, prefix:]], 1)
            found = adapter.decoder(inputs_embeds=hidden, output_attentions=True).attentions
            for layer, attention in enumerate(found):
                mine = recorder.attention_rows[layer][row]
                torch.testing.assert_close(mine, attention[0, :, -1, prefix : prefix + 576].mean(0), atol=1e-5, rtol=1e-3)
                assert torch.equal(recorder.ids[layer][row], torch.arange(576))
    finally:
        adapter.model.set_attn_implementation("probed_sdpa")


@pytest.mark.parametrize("expression", ["fastv", "sparsevlm", "sts", "visionzip", "vispruner"])
def test_recorded_scores_are_those_that_chose(work, expression):
    """What stays of the first attention-ranked step are its highest scores."""
    method = create(expression)
    steps = method.steps(work.engine.adapter.shape, Budget(64))
    recorder = Recorder()
    work.engine.run(EngineRequest(work.batch, steps, method.positions, recorder=recorder))
    scores, ids = recorder.scores, recorder.scored_ids
    assert scores.shape == ids.shape and scores.shape[0] == 27
    layer = next(step.site.layer for step in steps if step.site.stage == 2) if expression in ("fastv", "sparsevlm", "sts") else 0
    kept = recorder.ids[layer]
    for row in range(0, 27, 5):
        alive = set(kept[row].tolist()) - {-1}
        ranked = ids[row][scores[row].argsort(descending=True, stable=True)].tolist()
        certain = {"visionzip": 10, "vispruner": 20}.get(expression, len(alive))
        assert set(ranked[:certain]) <= alive


def test_of_each_question_it_is_told_whether_all_its_tokens_have_a_place():
    entered = torch.tensor([[0, 4, 7], [2, 5, -1], [1, 3, -1]])  # the last has a token of no place, the second only two
    assert placed(entered, torch.tensor([[3, 3], [2, 2], [3, 1]])) == [True, True, False]


def with_mean(signals, keep: int) -> Selection:
    """The first tokens and the mean of the others, which are the LLM's own already."""
    first = torch.arange(keep - 1, device=signals.features.device).expand(signals.batch, -1)
    tokens = torch.cat([signals.features[:, : keep - 1], signals.features[:, keep - 1 :].mean(1, keepdim=True)], 1)
    return Selection(torch.cat([first, first.new_full((signals.batch, 1), -1)], 1), tokens)


def test_nothing_is_swapped_where_a_token_before_the_llm_has_no_place(work):
    """Such a method may say nothing of it in its step; it is analysed all the same, and its answers stand."""
    config = CompareConfig(methods=("divprune",), keep=("64",))
    (cell,) = (c for c in make_cells(config, work.engine.adapter.shape, True) if c.method == "divprune")
    step = Step(PROJECTOR, with_mean, 64, 64, frozenset({"features"}))
    summarising = replace(cell, steps=(step,), plans={})
    for one, swaps in ((cell, True), (summarising, False)):
        run = BatchRun(work.engine, work.task, work.samples[:1], 0, True, one.needs, cells=(one,), analysed=True)
        result = run.run(one)
        assert one.swaps and result.analysis
        assert all(row.kept_count == 64 for row in result.samples)
        assert any(row.swap_score is not None for row in result.samples) == swaps
