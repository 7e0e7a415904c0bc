"""The Python of the page on bridges runs as it stands there, on the embedded model."""

from __future__ import annotations

import re
from pathlib import Path

from harness.models.hf import TINY

PAGE = Path(__file__).parents[2] / "docs" / "bridges.md"


def test_snippets_run(samples, tmp_path, monkeypatch, capsys):
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) == 2
    samples[0].image.save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet.replace("llava-hf/llava-1.5-7b-hf", str(TINY)), names)
    ((before, last),) = names["model"].visual_tokens
    assert before == 576 and last < 192
    assert f"[({before}, {last})]" in capsys.readouterr().out


def test_the_figures_of_the_page(tmp_path):
    """FastV at 192 of 576 tokens on the 32 layers of LLaVA-1.5 7B."""
    from harness.models.shapes import shape_of
    from methods.registry import create
    from methods.schedule import plan
    from methods.types import Budget

    _, schedule = plan(create("fastv"), shape_of("llava-1.5-7b"), Budget(192))
    assert (schedule.llm[:3], schedule.final) == ((576, 576, 166), 166)
    assert "[(576, 166)]" in PAGE.read_text()
