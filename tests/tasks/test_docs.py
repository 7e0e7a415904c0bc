"""The manual says what is so, and its example runs."""

import re
from pathlib import Path

from harness.tasks import registry
from harness.tasks.base import Answered, aggregates
from harness.tasks.registry import BENCHMARKS, create, infos

MANUAL = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")


def test_the_table_has_every_benchmark_with_its_data_set():
    for info in infos():
        if info.name in BENCHMARKS:
            assert re.search(rf"^\| `{info.name}` \| {re.escape(info.source)} \|", MANUAL, re.MULTILINE), info.name
            closing = info.prompt.rstrip("\n").rpartition("\n")[2]
            assert closing in MANUAL or info.name in ("ocrbench", "refcoco"), closing


def test_the_example_runs(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    monkeypatch.setattr(registry, "_points", lambda: ())
    (code,) = re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL)
    exec(compile(code, "docs/tasks.md", "exec"), {"__name__": "example"})
    task = create("plain[side=32]")
    first, *rest = task.samples(4, 1)
    assert len(rest) == 3 and first.image.size == (32, 32)
    question = first.questions[0]
    assert task.score(" Green ", question.answer) == 1 and "plain" in {info.name for info in infos()}
    row = Answered(question.sample_id, question.family, first.image_id, question.answer, "red", 0.0)
    assert aggregates(task, [row]) == {"red": 1.0}
