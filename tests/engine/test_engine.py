"""The engine against slow obvious versions: generate, masked recompute without a cache, eager attention."""

from dataclasses import replace

import pytest
import torch

from harness.bridges.prompts import PromptPruner, SplitPrompt
from harness.engine.decoder_input import enter_decoder
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest, UniformPass
from harness.engine.sharing import CellPath
from harness.engine.stopwatch import Stopwatch
from harness.models.probes import AttentionProbe, record_rows_of
from harness.run.batch_run import BatchRun
from harness.run.cell_facts import measured_schedule
from harness.store.arrays import packed_counts
from harness.tasks.registry import create as create_task
from methods.merging import bipartite
from methods.random import at_random
from methods.registry import create
from methods.schedule import cached, schedule
from methods.types import SIGNAL_NAMES, Budget, Signals
from metrics.flops import CONVENTIONS, flops
from tests.determinism.first_difference import gap, listening, told, watched

ALL = [
    "none", "random", "sts", "fastv", "sparsevlm", "tome", "oracle", "random[like=sts]", "sparsevlm[version=2]", "visionzip",
    "visionzip[score=received]", "prumerge", "prumerge[adaptive=true]", "pyramiddrop", "divprune", "cdpruner", "vispruner",
    "dart", "holov", "otprune", "vtw", "grid", "pool", "fps", "divprune+fastv", "visionzip+sparsevlm", "tome+dart",
    "random[like=divprune+dart]",
]  # fmt: skip


def steps_of(work, expression, keep=64):
    return create(expression).steps(work.engine.adapter.shape, Budget(200 if "pyramiddrop" in expression else keep))


def run(work, expression, keep=64, **options):
    steps = steps_of(work, expression, keep)
    return steps, work.engine.run(EngineRequest(work.batch, steps, create(expression).positions, **options))


def generated(work, row):
    """The row's answer by ``model.generate`` through the processor."""
    adapter = work.engine.adapter
    questions = [(s.image, q) for s in work.samples for q in s.questions]
    image, question = questions[row]
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}]
    text = adapter.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = adapter.processor(images=image, text=text, return_tensors="pt")
    out = adapter.model.generate(**inputs, max_new_tokens=work.engine.max_new_tokens, do_sample=False)
    ids = out[0, inputs["input_ids"].shape[1] :].tolist()
    return ids[: ids.index(2)] if 2 in ids else ids


def test_none_equals_generate(work):
    _, out = run(work, "none")
    assert [generated(work, row) for row in range(0, 27, 3)] == out.tokens[::3]


@pytest.mark.slow
def test_none_equals_generate_on_200_samples(adapter):
    task = create_task("shapes")
    many = BatchRun(Engine(adapter, 6), task, list(task.samples(23, seed=11)), seed=0)
    out = many.engine.run(EngineRequest(many.batch))
    assert [generated(many, row) for row in range(200)] == out.tokens[:200]


def masked_recompute(work, row, kept_at, positions, limit, visual=None):
    """Greedy answer without a cache: all tokens run through all layers, and from layer k on the dropped are masked.

    ``kept_at`` maps a layer to the visual tokens that may still be seen there.
    """
    adapter, batch = work.engine.adapter, work.batch
    features = work.projected[batch.image[row]] if visual is None else visual
    count, prefix = len(features), len(batch.prefix)
    answer = []
    while len(answer) < limit:
        text = adapter.embed(torch.tensor(batch.questions[row] + answer))
        hidden = torch.cat([adapter.embed(torch.tensor(batch.prefix)), features, text])[None]
        length = hidden.shape[1]
        place = torch.arange(length)[None]
        seen = torch.ones(length, dtype=torch.bool)
        for layer in range(adapter.shape.layers):
            if layer in kept_at:
                seen = torch.ones(length, dtype=torch.bool)
                seen[prefix : prefix + count] = False
                seen[prefix + kept_at[layer]] = True
            if positions == "contiguous":
                place = (seen.long().cumsum(0) - 1).clamp_min(0)[None]
            mask = torch.ones(length, length, dtype=torch.bool).tril() & seen
            mask = (mask | torch.eye(length, dtype=torch.bool))[None, None]
            hidden = adapter.layer(layer, hidden, mask, place, adapter.rotary(hidden, place), None)
        token = int(adapter.logits(hidden[0, -1]).argmax())
        if token in adapter.end_ids:
            break
        answer.append(token)
    return answer


@torch.inference_mode()
@pytest.mark.parametrize(
    "expression",
    [
        "random", "oracle", "fastv", "random[like=sts]", "random[like=sparsevlm]", "sparsevlm[version=2]", "pyramiddrop",
        "divprune", "cdpruner", "dart", "vtw", "divprune+fastv[positions=contiguous]", "random+dart",
    ],
)  # fmt: skip
def test_pruned_decode_equals_masked_recompute(work, expression):
    method = create(expression)
    steps, out = run(work, expression)
    layers = [step.site.layer if step.site.stage == 2 else 0 for step in steps]
    # the kept sets [R, K] at each step, by stopping the engine's steps there
    kept = [work.engine.run(EngineRequest(work.batch, steps[: i + 1], method.positions)).kept for i in range(len(steps) - 1)]
    for row in (0, 7, 13, 25):
        partial = {layer: ids[row] for layer, ids in zip(layers, [*kept, out.kept], strict=True)}
        expected = masked_recompute(work, row, partial, method.positions, work.engine.max_new_tokens)
        assert out.tokens[row] == expected


@torch.inference_mode()
def test_merging_in_the_tower_equals_a_slow_version(work):
    adapter = work.engine.adapter
    steps, out = run(work, "tome")
    by_block = {step.site.layer: step.after for step in steps}
    hidden = adapter.blockwise_tower.enter(work.batch.pixels[:1].stack())
    sizes, sources = torch.ones(1, hidden.shape[1]), [[i] for i in range(hidden.shape[1] - 1)]
    for i, block in enumerate(adapter.blocks):
        attention = block.module.self_attn
        normed = block.module.layer_norm1(hidden)
        split = lambda x: x.view(1, x.shape[1], attention.num_heads, -1).transpose(1, 2)
        q, k, v = (split(p(normed)) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        weights = (q @ k.transpose(2, 3) * attention.scale + sizes.log()[:, None, None]).softmax(-1)
        hidden = hidden + attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
        if i in by_block:
            target = bipartite(k.mean(1)[:, 1:], hidden.shape[1] - 1 - by_block[i], 1)[0].tolist()
            groups: dict[int, list[int]] = {}
            for token, goal in enumerate(target):
                groups.setdefault(goal, []).append(token)
            merged = sorted(groups.values(), key=min)
            weigh = lambda group: sum(hidden[0, 1 + t] * sizes[0, 1 + t] for t in group) / sum(sizes[0, 1 + t] for t in group)
            hidden = torch.cat([hidden[:, :1], torch.stack([weigh(g) for g in merged])[None]], 1)
            sizes = torch.tensor([[1.0] + [float(sum(sizes[0, 1 + t] for t in g)) for g in merged]])
            sources = [sorted(s for t in g for s in sources[t]) for g in merged]
        hidden = block.transform(hidden)
    tower = work.engine.encode_images(work.batch.pixels, steps)
    assert torch.allclose(tower.features[0], hidden[0, 1:], atol=1e-4)
    assert tower.lowest[0].tolist() == [min(s) for s in sources]
    for token, members in enumerate(sources):
        assert (tower.source[0, members] == token).all()
    features = adapter.project(hidden[:, 1:])[0]
    assert masked_recompute(work, 0, {}, "contiguous", 6, features) == out.tokens[0]


@torch.inference_mode()
@pytest.mark.parametrize("expression", ["visionzip", "prumerge", "prumerge[adaptive=true]", "pool"])
def test_merging_at_the_projector_equals_a_slow_version(work, expression):
    """The selector's own tokens, projected, through all layers."""
    steps, out = run(work, expression)
    (step,) = steps
    found = work.engine.encode_images(work.batch.pixels, wanted=frozenset(step.tower_reads))
    for row, image in ((0, 0), (20, 2)):
        signals = {read.signal: found.signals[read.key] for read in step.tower_reads if read.key in found.signals}
        signals["vision_features"] = found.features
        given = Signals(**{n: v[image : image + 1] for n, v in signals.items()}, count=576, grid=(24, 24))
        chosen = step.select(given.only(step.needs), step.keep)
        features = work.engine.adapter.project(chosen.tokens)[0]
        assert int(out.present[row]) == len(features)
        assert masked_recompute(work, row, {}, "contiguous", work.engine.max_new_tokens, features) == out.tokens[row]


@torch.inference_mode()
def test_tower_signals_equal_transformers_own(work):
    adapter, pixels = work.engine.adapter, work.batch.pixels.stack()
    tower, found = adapter.tower, work.vision.signals
    adapter.model.set_attn_implementation("eager")
    try:
        out = tower(pixels, output_hidden_states=True, output_attentions=True)
    finally:
        adapter.model.set_attn_implementation("probed_sdpa")
    hidden, attention = out.hidden_states[-2], out.attentions[-2]
    torch.testing.assert_close(work.vision.features, hidden[:, 1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["cls_feature"], hidden[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["cls_attention"], attention[:, :, 0, 1:], atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(found["received_attention"], attention.mean(2)[:, :, 1:], atol=1e-5, rtol=1e-3)
    layer = tower.encoder.layers[-2]
    keys = layer.self_attn.k_proj(layer.layer_norm1(out.hidden_states[-3]))
    torch.testing.assert_close(found["vision_keys_full"], keys[:, 1:], atol=1e-3, rtol=1e-3)
    heads = keys.view(*keys.shape[:2], adapter.shape.vision_heads, -1).mean(2)
    torch.testing.assert_close(found["vision_keys"], heads[:, 1:], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found["cls_key"], heads[:, 0], atol=1e-3, rtol=1e-3)
    joint = adapter.companion.visual_projection(tower.post_layernorm(hidden[:, 1:]))  # as CDPruner's own code takes them
    torch.testing.assert_close(found["image_embeds"], joint, atol=1e-3, rtol=1e-3)
    assert work.batch.text_embeds.shape == (27, 1, adapter.shape.joint_width)


def test_text_of_the_joint_space_is_what_is_asked(adapter):
    """With the template of ``--prompt`` around the question, as the model and the words of a question have it."""
    task, template = create_task("shapes"), "Look closely. {question} Answer in one word."
    (sample,) = task.samples(1, seed=7)
    wanted = frozenset({"text_embeds", "text_features"})
    made = BatchRun(Engine(adapter, 1), task, [sample], seed=0, wanted=wanted, template=template).batch
    asked = [template.replace("{question}", question.text) for question in sample.questions]
    assert torch.equal(made.text_embeds, adapter.companion.texts_embeds(asked))
    assert not torch.equal(made.text_embeds, adapter.companion.texts_embeds(question.text for question in sample.questions))
    bridged = PromptPruner("trim", 64, "final", 0, {})
    prompts = [
        SplitPrompt(*map(tuple, adapter.prompt(text, 1)), (span,), pixels, text)
        for text in asked
        for span, pixels in [(one.spans[0][0], one.tensors[0]) for one in [adapter.prompt_pixels([[sample.image]])]]
    ]
    answers = bridged.answers(adapter, prompts, 1, adapter.end_ids)
    cell = create("trim")
    out = Engine(adapter, 1).run(EngineRequest(made, cell.steps(adapter.shape, Budget(64, "final")), cell.positions))
    torch.testing.assert_close(torch.stack([answer.first_logits for answer in answers]), out.first_logits, atol=1e-3, rtol=1e-3)


@torch.inference_mode()
def test_rows_ahead_are_those_that_the_layer_then_computes(work):
    adapter = work.engine.adapter
    state = _entered(work)
    layout, hidden = state.layout, state.hidden
    rotary, mask = adapter.rotary(hidden, layout.positions), layout.mask()
    ahead, then = AttentionProbe(layout.text, layout.group), AttentionProbe(layout.text, layout.group, True)
    record_rows_of(adapter.decoder.layers[3], hidden, mask, rotary, ahead)
    adapter.layer(3, hidden, mask, layout.positions, rotary, None, then)
    torch.testing.assert_close(ahead.attention, then.attention, atol=1e-6, rtol=1e-4)


def test_rope_response_is_what_vectors_of_ones_would_score(work):
    adapter = work.engine.adapter
    ones = torch.ones(1, 1, 40, adapter.shape.head_dim)
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    cos, sin = adapter.rotary(torch.zeros(1, 40, 8), torch.arange(40)[None])
    q, k = apply_rotary_pos_emb(ones, ones, cos, sin)
    expected = (q @ k.transpose(2, 3))[0, 0] / adapter.shape.head_dim
    found = adapter.rope_response(torch.arange(30, 40)[None], torch.arange(30)[None])[0]
    torch.testing.assert_close(found, expected[30:, :30], atol=1e-5, rtol=1e-4)


def close(a, b):
    """Equal up to the rounding of matrix products."""
    return torch.allclose(a, b, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def singles(work):
    """Each image of the batch in a batch of its own."""
    task = create_task("shapes")
    return [BatchRun(work.engine, task, [sample], seed=0, wanted=SIGNAL_NAMES) for sample in work.samples]


@pytest.fixture(scope="module")
def one_question(work):
    """The first question of the batch alone."""
    sample = replace(work.samples[0], questions=work.samples[0].questions[:1])
    return BatchRun(work.engine, create_task("shapes"), [sample], 0, wanted=SIGNAL_NAMES)


@pytest.mark.parametrize("expression", ALL)
def test_results_do_not_depend_on_batch_size_or_sharing(work, singles, expression):
    """Or where they do, in some row, the first figures that decide otherwise are a tie: within 1e-4 of each other."""
    _, whole = run(work, expression)
    _, alone = run(work, expression, share_questions=False)
    gaps = [
        gap(traced(work, expression, row), traced(work, expression, row, share_questions=False))
        for row in range(27) if differ(whole, row, alone, row)
    ]  # fmt: skip
    first = 0
    for single in singles:
        _, one = run(single, expression)
        for row in range(len(one.tokens)):
            if differ(one, row, whole, first + row):
                gaps.append(gap(traced(single, expression, row), traced(work, expression, first + row)))
        first += len(one.tokens)
    assert len(gaps) <= 2 and all(found is not None and found <= 1e-4 for found in gaps), gaps


def differ(one, row, other, place) -> bool:
    """Whether a question's kept tokens, answer, or logits beyond rounding are not the same."""
    kept = [[token for token in output.kept[at].tolist() if token >= 0] for output, at in ((one, row), (other, place))]
    same = kept[0] == kept[1] and one.tokens[row] == other.tokens[place]
    return not same or not close(one.first_logits[row], other.first_logits[place])


def traced(work, expression, row, **options):
    """How one question was answered."""
    watch, decoded = [], []
    steps = watched(steps_of(work, expression), watch)
    with listening(decoded):
        work.engine.run(EngineRequest(work.batch, steps, create(expression).positions, **options))
    return told(work, watch, decoded, row)


@pytest.mark.parametrize("expression", ALL[1:])
def test_tokens_are_physically_removed(work, one_question, expression):
    method = create(expression)
    from methods.schedule import plan

    steps, schedule = plan(method, work.engine.adapter.shape, Budget(200))
    if any(step.adaptive for step in steps):
        pytest.skip("counts are decided from the image")
    rows = [0, 9, 18]  # one of each image
    out = work.engine.run(EngineRequest(work.batch, steps, method.positions, share_questions=False, rows=rows))
    assert out.counts == schedule.llm
    text = len(one_question.batch.prefix) + len(one_question.batch.questions[0])
    cache = one_question.engine.run(EngineRequest(one_question.batch, steps, method.positions)).kv_bytes
    shape = work.engine.adapter.shape
    assert cache == sum(n + text for n in schedule.llm) * 2 * shape.kv_heads * shape.head_dim * 4


CUTS = ["ivcprune", "mustdrop[stages=llm,total=0.001,single=0.001]", "mustdrop[total=0.0012,single=0.001]"]
"""Methods that cut the caches of layers before them."""


@pytest.mark.parametrize("expression", CUTS)
@pytest.mark.parametrize("random", [False, True])
def test_caches_that_steps_cut_are_counted_as_they_are(one_question, expression, random):
    """To the byte: from the counts that are measured on a question, and where a twin's steps know them, as planned."""
    method, engine, batch = create(expression), one_question.engine, one_question.batch
    shape = engine.adapter.shape
    steps = method.steps(shape, Budget(64))
    out = engine.run(EngineRequest(batch, steps, method.positions))
    counts = out.layer_counts[0].tolist()
    if random:
        steps = at_random(steps, counts)
        out = engine.run(EngineRequest(batch, steps, method.positions))
        assert out.layer_counts[0].tolist() == counts
    text = len(batch.prefix) + len(batch.questions[0])
    measured = replace(schedule(shape, steps), llm=tuple(counts), cached=cached(counts, steps))
    assert measured_schedule(steps, shape, counts[-1], packed_counts(counts), None).cached == measured.cached
    assert round(flops(shape, measured, text).kv_bytes) == out.kv_bytes
    assert out.kv_bytes < sum(n + text for n in counts) * 2 * shape.kv_heads * shape.head_dim * 4, "something was cut"
    if random:
        known = schedule(shape, steps)
        assert known.cached == measured.cached and round(flops(shape, known, text).kv_bytes) == out.kv_bytes
    uncut = replace(measured, cached=None)
    for convention in CONVENTIONS:
        decoded = [flops(shape, one, text, convention).decode_per_token for one in (measured, uncut)]
        assert decoded[0] < decoded[1]


@torch.inference_mode()
def test_probed_rows_equal_eager_attention(work):
    adapter = work.engine.adapter
    state = _entered(work)
    layout, hidden = state.layout, state.hidden
    probe = AttentionProbe(layout.text, layout.group)
    rotary = adapter.rotary(hidden, layout.positions)
    adapter.layer(0, hidden, layout.mask(), layout.positions, rotary, None, probe)
    attention = adapter.decoder.layers[0].self_attn
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    normed = adapter.decoder.layers[0].input_layernorm(hidden)
    split = lambda x: x.view(*x.shape[:2], -1, attention.head_dim).transpose(1, 2)
    q, k = apply_rotary_pos_emb(split(attention.q_proj(normed)), split(attention.k_proj(normed)), *rotary)
    weights = (q @ k.transpose(2, 3) * attention.scaling).masked_fill(~layout.mask(), -torch.inf).softmax(-1)
    for row in (0, 5, 20):
        expected = weights[layout.group[row], :, layout.text[row]]
        assert torch.allclose(probe.attention[row], expected, atol=1e-6)


def _entered(work):
    """The batch before the first decoder layer, with all its visual tokens."""
    made = UniformPass(work.batch, CellPath((), "original"), work.vision, None, True, Stopwatch(), None)
    return enter_decoder(work.engine.adapter, made).state


def test_stopwatch_takes_inner_stages_out_of_outer_ones():
    import time

    watch = Stopwatch("cpu")
    with watch.stage("prefill"):
        time.sleep(0.01)
        with watch.stage("selection"):
            time.sleep(0.05)
    assert 0.04 < watch.seconds["selection"] < 0.5
    assert watch.seconds["prefill"] < watch.seconds["selection"]


def test_blind_sees_no_image(adapter):
    task = create_task("shapes")
    a, b = list(task.samples(2, seed=3))
    swapped = replace(b, questions=a.questions)
    outputs = []
    for sample in (a, swapped):
        w = BatchRun(Engine(adapter, 4), task, [sample], 0)
        batch = w.make_batch((0, 0))
        outputs.append(w.engine.run(EngineRequest(batch, (), blind=True)))
    assert outputs[0].tokens == outputs[1].tokens and outputs[0].counts == (0,) * 12
    assert torch.equal(outputs[0].first_logits, outputs[1].first_logits)
