"""lmms-eval's own evaluator on a small local task, answered by our engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("lmms_eval")

from harness.bridges import lmms_eval as bridge
from harness.bridges import manifest
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.run.asked_prompts import AskedPrompts
from harness.tasks.base import ImageSample, Question
from methods.registry import create
from methods.schedule import plan
from methods.types import Budget

pytestmark = pytest.mark.differential
YAML = """\
task: local_shapes
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/test.jsonl
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: question
doc_to_target: answer
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: 4
  temperature: 0
  do_sample: false
  num_beams: 1
  until: ["\\n"]
metric_list:
  - metric: accuracy
    aggregation: mean
    higher_is_better: true
"""
UTILS = """\
from PIL import Image


def doc_to_visual(doc):
    return [Image.open(doc["image"])]


def process_results(doc, results):
    return {"accuracy": float(results[0].split() == doc["answer"].split())}
"""
NAME = "local_shapes"


@dataclass
class LocalTask:
    """Eight questions about two pictures, in a folder as lmms-eval wants it."""

    folder: Path
    images: list
    questions: list[str]
    answers: list[str]


@pytest.fixture(scope="module")
def task(samples, tmp_path_factory) -> LocalTask:
    folder = tmp_path_factory.mktemp("task")
    chosen = [(sample, question) for sample in samples for question in sample.questions[1:8:2]]
    lines = []
    for sample, question in chosen:
        file = folder / f"{sample.image_id}.png"
        sample.image.save(file)
        lines.append(json.dumps({"image": str(file), "question": question.text, "answer": question.answer}))
    (folder / "test.jsonl").write_text("\n".join(lines))
    (folder / "local_shapes.yaml").write_text(YAML.replace("{folder}", str(folder)))
    (folder / "utils.py").write_text(UTILS)
    return LocalTask(folder, [s.image for s, _ in chosen], [q.text for _, q in chosen], [q.answer for _, q in chosen])


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def ours(adapter, task: LocalTask, method: str, keep: int, budget: str) -> list[str]:
    """What the engine answers to the same questions, in one batch."""
    from harness.engine.batch import Batch

    prompts = [adapter.prompt(question) for question in task.questions]
    count = torch.arange(len(prompts))
    made = create(method)
    steps, _ = plan(made, adapter.shape, Budget(keep, budget))
    batch = Batch(adapter.pixels(task.images), prompts[0][0], [after for _, after in prompts], count, count, count)
    return [adapter.decode(tokens) for tokens in Engine(adapter, 4).run(EngineRequest(batch, steps, made.positions)).tokens]


@pytest.mark.parametrize(("method", "keep", "budget"), [("sts", 64, "average"), ("fastv", 96, "average"), ("tome", 100, "final")])
def test_the_evaluator_scores_what_the_engine_answers(adapter, task, offline, method, keep, budget):
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    bridge.register()
    results = simple_evaluate(
        model="prunescope", model_args=f"pretrained=tiny,method={method},keep={keep},budget={budget},device=cpu,dtype=float32",
        tasks=[NAME], task_manager=TaskManager("ERROR", include_path=str(task.folder), include_defaults=False), batch_size=3,
        bootstrap_iters=0,
    )  # fmt: skip
    expected = ours(adapter, task, method, keep, budget)
    found = {sample["doc_id"]: sample["filtered_resps"][0] for sample in results["samples"][NAME]}
    assert [found[place] for place in range(len(expected))] == expected
    right = [answer == wanted for answer, wanted in zip(expected, task.answers, strict=True)]
    assert results["results"][NAME]["accuracy,none"] == sum(right) / len(right)
    assert len(set(expected)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("module", ["lmms_eval", "harness.bridges.lmms_eval"])
def test_the_command_line_finds_it(adapter, task, tmp_path, module):
    """As a user types it: by the entry point of an installed package, or by our own module in its place."""
    if module == "lmms_eval":
        pytest.importorskip("lmms_eval.models.registry_v2", reason="entry points came with 0.6")
    facts = tmp_path / "prunescope_bridge-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: prunescope-bridge\nVersion: 1\n")
    if module == "lmms_eval":
        (facts / "entry_points.txt").write_text("[lmms_eval.models]\nprunescope = harness.bridges:manifest\n")
    here = Path(__file__).parents[2]
    paths = os.pathsep.join([str(tmp_path), str(here), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable, "-m", module, "--model", "prunescope", "--batch_size", "4",
        "--model_args", "pretrained=tiny,method=fastv,keep=96,layer=2,budget=average,device=cpu,dtype=float32",
        "--tasks", NAME, "--include_path", str(task.folder), "--output_path", str(tmp_path / "out"), "--log_samples",
    ]  # fmt: skip
    own = {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | own, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout)
    (file,) = (tmp_path / "out").rglob("*_results.json")
    expected = ours(adapter, task, "fastv", 96, "average")
    right = [answer == wanted for answer, wanted in zip(expected, task.answers, strict=True)]
    assert json.loads(file.read_text())["results"][NAME]["accuracy,none"] == sum(right) / len(right)


@pytest.fixture(scope="module")
def model():
    return bridge.Prunescope("tiny", "sts", 64, device="cpu", batch_size=2)


def request(model, text: str, visuals, **options):
    """A request as lmms-eval makes it."""
    model.task_dict = {"t": {"test": [visuals]}}
    return SimpleNamespace(args=(text, options, lambda doc: doc, 0, "t", "test"))


def test_prompts_are_the_harnesss(model, adapter, task):
    image, question = task.images[0], task.questions[0]
    before, after = adapter.prompt(question)
    prompt = model._prompts([request(model, question, [image])])[0]
    assert (list(prompt.prefix), list(prompt.question), prompt.visual_tokens) == (before, after, 576)
    assert model._prompts([request(model, f"<image>{question}", [image])])[0].question == prompt.question
    for marked in (f"<image>{question}", f"<image>\n{question}"):
        asked = AskedPrompts.of(adapter, [ImageSample("one", image, (Question("q", "colour", marked, "red"),))], "{question}")
        assert [model._prompts([request(model, marked, [image])])[0].text] == asked.texts == [question]
    two = model._prompts([request(model, question, [image, image])])[0]
    assert (two.visual_tokens, len(two.spans)) == (1152, 2)
    for nothing in (None, []):
        blind = model._prompts([request(model, question, nothing)])[0]
        assert (blind.spans, list(blind.question)) == (
            (),
            [*adapter.prompt(question, False)[0], *adapter.prompt(question, False)[1]],
        )


def test_until_ends_an_answer(model, task):
    image, question = task.images[0], task.questions[0]
    (whole,) = model.generate_until([request(model, question, [image], max_new_tokens=3)])
    assert whole == task.answers[0]
    (cut,) = model.generate_until([request(model, question, [image], max_new_tokens=3, until=["", whole[1:]])])
    assert cut == whole[0]


def test_reference_methods_act_on_the_image(task):
    blind = bridge.Prunescope("tiny", "blind", device="cpu")
    assert blind._prompts([request(blind, task.questions[0], [task.images[0]])])[0].spans == ()
    small = bridge.Prunescope("tiny", "downsample", 64, device="cpu")
    assert small._prompts([request(small, task.questions[0], [task.images[0]])])[0].visual_tokens == 64
    with pytest.raises(ValueError, match="shrinks one image, task 't' gives 2"):
        small._prompts([request(small, task.questions[0], task.images[:2])])[0]


def test_what_cannot_be_honoured_is_said(model, task):
    for options in ({"do_sample": True}, {"num_beams": 3}, {"temperature": 0.7}):
        with pytest.raises(ValueError, match="decodes greedily; the task asks for"):
            model.generate_until([request(model, "what ?", [task.images[0]], **options)])
    model.generate_until(
        [request(model, "what ?", [task.images[0]], do_sample=False, temperature=0.7, top_p=None, max_new_tokens=1)]
    )
    with pytest.raises(ValueError, match="'t' gives a str"):
        model.generate_until([request(model, "what ?", ["video.mp4"])])
    with pytest.raises(NotImplementedError, match="likelihood"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="several rounds"):
        model.generate_until_multi_round([])
    with pytest.raises(ValueError, match="batch_size=auto"):
        bridge.Prunescope("tiny", batch_size="auto")
    assert bridge.Prunescope("tiny", "'fastv[layer=3]'", 96, device="cpu").pruner.expression == "fastv[layer=3]"
    with pytest.raises(ValueError, match="no parameter 'layers'"):
        bridge.Prunescope("tiny", "fastv", layers=2)


def test_the_manifest_names_our_class():
    pytest.importorskip("lmms_eval.models.registry_v2", reason="entry points came with 0.6")
    made = manifest()
    assert (made.model_id, made.simple_class_path) == ("prunescope", "harness.bridges.lmms_eval.Prunescope")


@pytest.mark.parametrize(("method", "keep"), [("none", 1.0), ("fastv", 192), ("cdpruner", 64), ("feather", 192)])
def test_a_chunk_is_answered_as_each_request_alone(samples, method, keep):
    """Requests by turns about pictures that are equal, in objects of their own: one is made ready and encoded once."""
    together, alone = (bridge.Prunescope("tiny", method, keep, device="cpu", batch_size=size) for size in (5, 1))
    one, two = (sample.image for sample in samples)
    visuals = [[one], [two.copy()], [one.copy()], [one, two], None, [two], [one.copy(), two.copy()]]
    texts = [question.text for question in samples[0].questions[: len(visuals)]]

    def asked(model) -> list:
        model.task_dict = {"t": {"test": visuals}}
        options = {"max_new_tokens": 4}
        return [SimpleNamespace(args=(text, options, lambda doc: doc, i, "t", "test")) for i, text in enumerate(texts)]

    prompts = together._prompts(asked(together))
    assert prompts[0].pixels is prompts[2].pixels
    assert prompts[1].pixels is prompts[5].pixels
    assert prompts[3].pixels is prompts[6].pixels
    found = together.generate_until(asked(together))
    assert found == alone.generate_until(asked(alone))
    assert len(set(found)) > 2
