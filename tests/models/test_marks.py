"""Several images of a question where its text says they stand, and questions without any, against ``model.generate``."""

from __future__ import annotations

import pytest
import torch

from harness.engine.engine import Engine
from harness.errors import RequestError
from harness.models.chat import chat_text
from harness.models.random_families.words import QUESTIONS
from harness.run.batch_run import BatchRun
from harness.run.config import CompareConfig
from harness.run.plan import make_cells
from harness.tasks.base import ImageSample, Question, TaskInfo
from tests.models.tiny_families import make, picture

LIMIT = 5
spelled = lambda ids: " ".join(map(str, ids))  # most tokens of a tiny vocabulary have no word
QUICK = ("llava", "qwen2.5-vl")
OTHERS = ("internvl", "gemma3", "llava-siglip", "llava-next", "llava-onevision", "qwen2-vl", "qwen3-vl", "smolvlm", "idefics3")
LATER = (pytest.mark.families, pytest.mark.needs("torchvision"))  # where CI has the families' extras
ALL = [*QUICK, *(pytest.param(name, marks=LATER) for name in OTHERS)]


class Marked:
    """Questions on two images of different sizes, whose marks stand in different places, and one without images."""

    info = TaskInfo("marked", "", "", "", "exact", "test", ("a",), False, answer_tokens=LIMIT)

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def samples(self, count, seed):
        images = picture(40, 40, 1), picture(60, 30, 2)
        asked = tuple(Question(f"q{i}", "a", text, "how") for i, text in enumerate(self.texts))
        yield ImageSample("two", images, asked)
        yield ImageSample("none", (), (Question("alone", "a", QUESTIONS[1], "how"),))

    def score(self, prediction, answer):
        return float(answer in prediction)


def reference(family, texts, images):
    """The greedy answer to a prompt whose text holds what the template writes for an image where the images stand."""
    without, one = (family.text("HERE", count).partition("HERE")[0] for count in (0, 1))
    word = one.removeprefix(without).strip()
    text = family.text("HERE", 0).replace("HERE", word.join(texts))
    nested = [images] if family.name in ("smolvlm", "idefics3", "gemma3", "llava-onevision") else images
    inputs = family.adapter.processor(images=nested, text=[text], return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        out = family.adapter.model.generate(**inputs, max_new_tokens=LIMIT, do_sample=False)
    ids = out[0, inputs["input_ids"].shape[1] :].tolist()
    return ids[: ids.index(2)] if 2 in ids else ids


def answers(family, task, methods=("none",), keep="3"):
    """What cells answer to a task's first sample, by their methods."""
    adapter = family.adapter
    (sample, _) = task.samples(2, 0)
    config = CompareConfig(model="tiny", task="shapes", methods=methods, keep=(keep,))
    shapes = {adapter.shape_for(adapter.prompt_spans([image.size for image in sample.images])): 1}
    cells = [
        cell for cell in make_cells(config, adapter.shape, False, adapter.gives, 20.0, adapter.cannot, shapes) if not cell.skipped
    ]
    run = BatchRun(
        Engine(adapter, LIMIT), task, [sample], 0, cells=tuple(cells), wanted=frozenset().union(*(c.needs for c in cells))
    )
    return {cell.method: [row.prediction for row in run.run(cell).samples] for cell in cells}, run


@pytest.fixture(params=ALL)
def family(request, monkeypatch):
    found = make(request.param)
    monkeypatch.setattr(found.adapter, "decode", spelled)
    return found


def test_images_stand_where_their_marks_are(family):
    a, b, *_ = QUESTIONS
    task = Marked(
        f"{a} <image> {b} <image> {a}", f"<image>\n{a} <image> {b}", f"{b} <image><image> {a}", f"<image><image>\n{a}", a
    )
    found, run = answers(family, task)
    images = [picture(40, 40, 1), picture(60, 30, 2)]
    wanted = [(f"{a} ", f" {b} ", f" {a}"), ("", f"{a} ", f" {b}"), (f"{b} ", "", f" {a}"), ("", "", a), ("", "", a)]
    expected = [spelled(reference(family, texts, images)) for texts in wanted]
    assert found["none"] == expected and len(set(expected)) > 1, "several answers differ, so that places can matter"
    assert len(run.prompts.sample) == 4 and run.prompts.image == [0, 1, 2, 3, 3], "questions share what stands before them"


def test_methods_run_on_several_marked_images(family):
    a, b, *_ = QUESTIONS
    task = Marked(f"{a} <image> {b} <image> {a}", a, b)
    found, run = answers(family, task, ("random", "divprune", "sts"))
    assert set(found) >= {"none", "blind", "random", "divprune"} and all(len(rows) == 3 for rows in found.values())
    apart = BatchRun(run.engine, task, run.samples, 0, sharing=False, cells=run.cells, wanted=run.wanted)
    for cell in run.cells:
        assert [row.prediction for row in apart.run(cell).samples] == found[cell.method], f"{cell.method}: shared or not"


def test_without_an_image_all_cells_answer_as_generate_does(family):
    task = Marked(QUESTIONS[0])
    _, run = answers(family, task, ("random", "divprune"))
    (_, alone) = task.samples(2, 0)
    text = BatchRun(run.engine, task, [alone], 0, cells=run.cells, wanted=run.wanted)
    expected = spelled(family.generated(QUESTIONS[1], [], LIMIT))
    for cell in run.cells:
        (row,) = text.run(cell).samples
        assert (row.prediction, row.kept, row.agree) == (expected, None, None)
    assert text.image_rows(0) == [("none", 0, None, None, None, None)] and text.layouts()[0].tokens == 0


FIRST = """{% for m in messages %}USER: {% for c in m['content'] if c['type'] == 'image' %}<image>
{% endfor %}{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }} {% endfor %}{% endfor %}ASSISTANT:"""


def test_a_template_that_puts_images_first_is_given_their_tokens_in_the_text(llava):
    """The form of llava-hf/llava-1.5-7b-hf's own template."""
    processor = llava.adapter.processor
    own = processor.chat_template
    try:
        processor.chat_template = FIRST
        assert chat_text("m", processor, ("", "what ?")) == "USER: <image>\nwhat ? ASSISTANT:"
        assert chat_text("m", processor, ("Is ", " like ", " ?")) == "USER: Is <image> like <image> ? ASSISTANT:"
        processor.chat_template = "{{ messages[0]['content'] | length }}"
        with pytest.raises(RequestError, match="does not let images stand inside a question"):
            chat_text("m", processor, ("Is ", " ?"))
    finally:
        processor.chat_template = own
