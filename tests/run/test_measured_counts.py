"""Counts that follow from images and questions are measured, layer by layer, and a cell's cost is that of these counts."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.errors import RequestError
from harness.models import hf
from harness.results.regression.regress import regress
from harness.run.batch_run import BatchRun
from harness.run.comparison import compare
from harness.run.config import load_plugins
from harness.store.arrays import packed_counts, unpacked_counts
from harness.store.runs import RunFolder
from harness.tasks.registry import create as create_task
from methods.registry import create
from methods.schedule import schedule
from methods.types import Budget
from metrics.flops import flops
from tests.run.counting_methods import LAYERS, Attended
from tests.small_model import small_model

PLUGIN = "tests.run.counting_methods"
REQUEST = {
    "plugin": PLUGIN, "keep": "16", "samples": 3, "batch_size": 2, "latency": False, "analyse": 1, "max_new_tokens": 1,
    "workers": 1, "self_check": False,
}  # fmt: skip
LEVEL = "attended[level=0.01]"
MERGING = "attended[level=0.01,merging=true]"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small(request, monkeypatch):
    """A small model instead of the embedded one, and no pages."""
    load_plugins((PLUGIN,))
    if "work" not in request.fixturenames:
        monkeypatch.setattr(hf, "load", lambda *arguments, **words: small_model())
    monkeypatch.setattr("reports.page.render", lambda view: "")


def facts_of(run, method: str) -> dict:
    return next(facts for _, _, facts in run.store.cells() if facts["method"] == method)


def columns_of(run, method: str) -> dict:
    return run.store.columns(next(ident for ident, _, facts in run.store.cells() if facts["method"] == method))


def counts_of(run, method: str, name: str = "layer_counts") -> np.ndarray:
    """What is stored of a cell, [questions, layers]."""
    return np.array([unpacked_counts(blob) for blob in columns_of(run, method)[name]])


def transformers_counts(adapter, sample, question, level: float) -> list[int]:
    """The tokens in each layer by transformers' own modules alone, one layer after the other, eager attention."""
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.text}]}]
    text = adapter.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = adapter.processor(images=sample.image, text=text, return_tensors="pt")
    seen = []
    llm = adapter.model.model.language_model
    hooks = [layer.self_attn.register_forward_hook(lambda module, given, out: seen.append(out[1])) for layer in llm.layers]
    adapter.model.set_attn_implementation("eager")
    try:
        whole = adapter.model(**inputs, output_hidden_states=True)
        visual = inputs["input_ids"][0] == adapter.model.config.image_token_id
        hidden, places, counts = whole.hidden_states[0], torch.arange(len(visual)), []
        seen.clear()
        for index, layer in enumerate(llm.layers):
            if index in LAYERS:
                row = seen[-1][0, :, -1].mean(0)
                best = row[visual].max()
                stays = ~visual | (row > LAYERS[index] * level) | (visual & (row == best))
                hidden, places, visual = hidden[:, stays], places[stays], visual[stays]
            counts.append(int(visual.sum()))
            later = torch.full((len(places), len(places)), float("-inf")).triu(1)[None, None]
            rotary = llm.rotary_emb(hidden, places[None])
            out = layer(hidden, attention_mask=later, position_ids=places[None], position_embeddings=rotary)
            hidden = out[0] if isinstance(out, tuple) else out
    finally:
        adapter.model.set_attn_implementation("probed_sdpa")
        for hook in hooks:
            hook.remove()
    return counts


@torch.inference_mode()
def test_counts_in_the_llm_are_those_of_transformers_own_layers(adapter, work):
    method = create("attended[level=0.0005]")
    batch_run = replace(work, samples=[replace(sample, questions=sample.questions[:3]) for sample in work.samples[:2]])
    steps = method.steps(adapter.shape, Budget(64))
    out = work.engine.run(EngineRequest(batch_run.batch, steps, method.positions, batch_run.shared))
    asked = [(sample, question) for sample in batch_run.samples for question in sample.questions]
    expected = [transformers_counts(adapter, sample, question, 0.0005) for sample, question in asked]
    assert out.layer_counts.tolist() == expected
    assert len({tuple(row) for row in expected}) > 3 and all(row[0] == 576 > row[1] for row in expected)
    assert sum(row[1] > row[-1] for row in expected) > 3


@torch.inference_mode()
def test_counts_at_the_projector_are_those_of_transformers_own_attention(adapter, work):
    method = create("outstanding")
    steps = method.steps(adapter.shape, Budget(64))
    out = work.engine.run(EngineRequest(work.batch, steps, method.positions, work.shared))
    adapter.model.set_attn_implementation("eager")
    try:
        seen = adapter.tower(work.batch.pixels.stack(), output_attentions=True).attentions[-2]
    finally:
        adapter.model.set_attn_implementation("probed_sdpa")
    rows = seen.mean(1)[:, 0, 1:].double().numpy()
    expected = [(row > row.mean()).sum() for row in rows]
    assert len(set(expected)) > 1
    assert out.layer_counts[:, 0].tolist() == [expected[image] for image in work.batch.image.tolist()]
    assert (out.layer_counts == out.layer_counts[:, :1]).all()


def test_a_question_counts_alike_whoever_is_asked_beside_it():
    adapter, task = small_model(), create_task("shapes")
    batch_run = BatchRun(Engine(adapter, 1), task, list(task.samples(2, 3)), 0, wanted=create_needs("attended", "worded"))
    for expression in (LEVEL, "attended[level=0.01,merging=true]", "worded", "outstanding"):
        steps = create(expression).steps(adapter.shape, Budget(16))
        together = batch_run.engine.run(EngineRequest(batch_run.batch, steps))
        for row in range(0, len(batch_run.batch.questions), 5):
            alone = batch_run.engine.run(EngineRequest(batch_run.batch.rows([row])[0], steps))
            assert torch.equal(alone.layer_counts[0], together.layer_counts[row])
            assert torch.equal(alone.block_counts[0], together.block_counts[row])
            kept = together.kept[row]
            assert torch.equal(alone.kept[0], kept[: len(alone.kept[0])]) and (kept[len(alone.kept[0]) :] == -1).all()
    words = [len(question) for question in batch_run.batch.questions]
    out = batch_run.engine.run(EngineRequest(batch_run.batch, create("worded").steps(adapter.shape, Budget(16))))
    assert out.layer_counts[:, 0].tolist() == [count + 2 for count in words] and len(set(words)) > 1


def create_needs(*names: str) -> frozenset[str]:
    adapter = small_model()
    methods = [create(name) if name != "attended" else Attended(level=0.1) for name in names]
    return frozenset[str]().union(*(step.needs for m in methods for step in m.steps(adapter.shape, Budget(16))))


def test_tokens_flops_and_schedule_are_means_of_the_counts_of_all_answers(tmp_path):
    merging = "attended[level=0.01,merging=true]"
    run = compare(**REQUEST, methods=(LEVEL, merging, "outstanding"), out=tmp_path / "run")
    adapter, text = small_model(), None
    for method in (LEVEL, merging, "outstanding"):
        facts, counts = facts_of(run, method), counts_of(run, method)
        assert counts.shape == (27, 6) and len(np.unique(counts, axis=0)) > 1
        assert facts["adaptive"] and facts["tokens"] == pytest.approx({"final": counts[:, -1].mean(), "average": counts.mean()})
        assert facts["schedule"] == pytest.approx(counts.mean(0))
        planned = create(method).steps(adapter.shape, Budget(16))
        text = text if text is not None else _text_tokens(run)
        blocks = counts_of(run, method, "tower_counts") if method == merging else None
        assert (columns_of(run, method)["tower_counts"][0] is None) == (method != merging)
        costs = []
        for place, row in enumerate(counts.tolist()):
            one = replace(schedule(adapter.shape, planned), llm=tuple(row))
            if blocks is not None:
                half = blocks.shape[1] // 2
                seen = blocks[place].tolist()
                one = replace(one, vision_attention=tuple(seen[:half]), vision_mlp=tuple(seen[half:]), projector=seen[-1] - 1)
            costs.append(flops(adapter.shape, one, text).as_dict())
        mean = {name: np.mean([cost[name] for cost in costs]) for name in costs[0]}
        assert {name: facts["flops"][name] for name in mean} == pytest.approx(mean)
    blocks = counts_of(run, merging, "tower_counts")
    assert (blocks[:, 0] == 65).all() and (blocks[:, 1] < 65).any()  # behind the first block some are merged
    assert (blocks[:, -1] - 1 == counts_of(run, merging)[:, 0]).all()
    assert facts_of(run, merging)["tower"] == pytest.approx(blocks.mean(0))


def _text_tokens(run) -> float:
    from harness.run.config import CompareConfig
    from harness.run.prepare import prepare

    manifest = run.store.manifest()["config"]
    return prepare(CompareConfig(plugin=(PLUGIN,), samples=manifest["samples"], methods=("random",), keep=("16",))).text_tokens


def test_a_resumed_run_has_the_figures_of_one_that_was_not_interrupted(tmp_path, monkeypatch):
    from harness.run.shard_runner import ShardRunner

    request = {**REQUEST, "methods": (LEVEL, "outstanding"), "batch_size": 1}
    whole = compare(**request, out=tmp_path / "whole")
    own = ShardRunner.answer

    def interrupted(self, shard, ready=None):
        if shard.place == 2:
            raise KeyboardInterrupt
        return own(self, shard, ready)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ShardRunner, "answer", interrupted)
        compare(**request, out=tmp_path / "run")
    again = compare(**request, out=tmp_path / "run", resume=True)
    for method in (LEVEL, f"random[like={LEVEL}]", "outstanding", "random[like=outstanding]"):
        assert facts_of(again, method) == facts_of(whole, method)
        assert np.array_equal(counts_of(again, method), counts_of(whole, method))
    assert again.store.manifest()["digest"] == whole.store.manifest()["digest"]
    assert not regress(whole.store, again.store).failed


def test_what_cannot_be_counts_is_found(tmp_path):
    run = compare(**REQUEST, methods=("outstanding",), out=tmp_path / "run")
    store = run.store
    with store.connection as connection:
        connection.execute("UPDATE samples SET layer_counts = x'0102' WHERE layer_counts IS NOT NULL")
    store.close()
    with pytest.raises(RequestError, match=r"holds 2 bytes in samples\.layer_counts of cell"):
        store.columns(1)


DAMAGE = {
    "one layer": ("layer_counts", lambda blob: blob[:4], r"holds 4 bytes in samples\.layer_counts of cell \d+, where"),
    "no layer": ("layer_counts", lambda blob: b"", r"holds 0 bytes in samples\.layer_counts"),
    "a byte too few": ("layer_counts", lambda blob: blob[:-1], r"samples\.layer_counts"),
    "a layer too many": ("layer_counts", lambda blob: blob + blob[:4], r"samples\.layer_counts"),
    "negative": ("layer_counts", lambda blob: packed_counts([-3] * (len(blob) // 4)), "counts in samples.layer_counts of"),
    "too many": ("layer_counts", lambda blob: packed_counts([2**30] * (len(blob) // 4)), "counts in samples.layer_counts of"),
    "one block": ("tower_counts", lambda blob: blob[:8], r"holds 8 bytes in samples\.tower_counts"),
    "negative in a block": ("tower_counts", lambda blob: packed_counts([-3] * (len(blob) // 4)), "counts in samples.tower"),
}  # fmt: skip


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    load_plugins((PLUGIN,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf, "load", lambda *arguments, **words: small_model())
        patch.setattr("reports.page.render", lambda view: "")
        run = compare(**{**REQUEST, "methods": (MERGING,), "analyse": 0}, out=tmp_path_factory.mktemp("counted") / "run")
        run.store.close()
        return run.folder


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_counts_are_refused_in_one_line(damage, counted, tmp_path):
    column, change, told = DAMAGE[damage]
    folder = shutil.copytree(counted, tmp_path / "run")
    with sqlite3.connect(folder / "results.sqlite") as connection:
        where = f"cell, question, {column} FROM samples WHERE {column} IS NOT NULL ORDER BY cell, question LIMIT 1"
        cell, question, blob = connection.execute(f"SELECT {where}").fetchone()
        place = (change(blob), cell, question)
        connection.execute(f"UPDATE samples SET {column} = ? WHERE cell = ? AND question = ?", place)
    connection.close()
    for name in ("summary.json", "report.html"):
        (folder / name).unlink()  # as of a run that was interrupted before the last files
    for command in (
        lambda: compare(**{**REQUEST, "methods": (MERGING,), "analyse": 0}, out=folder, resume=True),
        lambda: RunFolder(folder, read_only=True).cells(),
    ):
        with pytest.raises(RequestError, match=told) as refused:
            command()
        assert len(str(refused.value).splitlines()) == 1 and "results.sqlite: " in str(refused.value)
    assert not (folder / "summary.json").exists()
