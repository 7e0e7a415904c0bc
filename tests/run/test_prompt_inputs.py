"""A timed prompt is what an accuracy pass makes of the same image and question, with nothing that its cell does not read."""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.models import hf
from harness.models.companion import Companion
from harness.run.batch_run import BatchRun
from harness.run.config import CompareConfig
from harness.run.latency_pass import one_question
from harness.run.latency_rounds import TimingPlan, time_cells
from harness.run.prepare import prepare
from harness.run.prompt_inputs import PromptOnHost
from harness.tasks.registry import create as task_of
from tests.models.tiny_families import make
from tests.run.test_families import Sizes
from tests.small_model import KEEP, small_model

METHODS = ("random", "fastv", "sts", "tome", "divprune", "sparsevlm")


def prepared(monkeypatch, adapter, task, keep: str):
    monkeypatch.setattr(hf, "load", lambda *given, **named: adapter)
    return prepare(CompareConfig(methods=METHODS, keep=(keep,), samples=3), task=task)


@pytest.mark.parametrize("name", ["small", "llava-next", "qwen2.5-vl"])
def test_a_cell_finds_on_it_what_it_finds_in_the_accuracy_pass(name, monkeypatch):
    if name == "small":
        whole = prepared(monkeypatch, small_model(), task_of("shapes"), KEEP)
    else:
        whole = prepared(monkeypatch, make(name).adapter, Sizes(), "9")
    adapter, engine = whole.adapter, Engine(whole.adapter, 3)
    for sample in map(one_question, whole.samples):
        known = BatchRun(engine, whole.task, [sample], 5)
        prompt = PromptOnHost(adapter, sample, known.images[0], 5, evidence=known.evidence)
        for cell in (cell for cell in whole.active if cell.copies is None):
            batch_run = BatchRun(engine, whole.task, [sample], 5, wanted=cell.needs)
            batches = [prompt.batch_for(cell), batch_run.batch_for(cell)]
            ours, theirs = (
                engine.run(EngineRequest(batch, cell.given, cell.object.positions, None, cell.blind)) for batch in batches
            )
            assert ours.tokens == theirs.tokens and torch.equal(ours.first_logits, theirs.first_logits), cell.method
            assert torch.equal(ours.kept, theirs.kept) and torch.equal(ours.layer_counts, theirs.layer_counts), cell.method
            assert len(batches[0].pixels.tensors[0]) == (0 if cell.blind else len(batches[1].pixels.tensors[0]))
            assert (batches[0].evidence is not None) <= ("evidence" in cell.needs)
            assert batches[0].image_of == batches[1].image_of == [0]


def test_nothing_is_made_that_a_cell_does_not_read(monkeypatch):
    whole = prepared(monkeypatch, small_model(), task_of("shapes"), KEEP)
    sample = one_question(whole.samples[0])
    prompt = PromptOnHost(whole.adapter, sample, sample.images, 0)
    for cell in whole.active:
        batch = prompt.batch_for(cell)
        assert (batch.question_words is not None) == ("text_features" in cell.needs)
        assert (batch.text_embeds is not None) == ("text_embeds" in cell.needs)


def test_the_text_encoder_of_a_companion_is_paid_in_the_time_of_those_that_read_it(monkeypatch):
    """An accuracy pass makes its vectors once for all cells; here each cell that reads them pays for its own."""
    adapter = hf.load("tiny", "cpu", "float32")
    monkeypatch.setattr(hf, "load", lambda *given, **named: adapter)
    whole = prepare(
        CompareConfig(methods=("random", "cdpruner"), keep=("64",), samples=1, references=False), task=task_of("shapes")
    )
    cells = [cell for cell in whole.active if cell.method in ("none", "random", "cdpruner")]
    assert [cell.method for cell in cells] == ["none", "random", "cdpruner"] and "text_embeds" in cells[2].needs
    real, slow = Companion.texts_embeds, 1.0

    def slowly(self, questions):
        time.sleep(slow)
        return real(self, questions)

    monkeypatch.setattr(Companion, "texts_embeds", slowly)
    sample = one_question(whole.samples[0])
    prompt = PromptOnHost(adapter, sample, sample.images, 0)
    found = time_cells(adapter, cells, [partial(prompt.batch_for, cell) for cell in cells], TimingPlan(0, 1, 2))
    none, random, cdpruner = (found.medians(place) for place in range(3))
    assert min(cdpruner["preprocess"], cdpruner["ttft"]) > slow > max(none["preprocess"], random["preprocess"])
    assert cdpruner["ttft"] - max(none["ttft"], random["ttft"]) > slow / 2
