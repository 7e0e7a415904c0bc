"""Where all fails for one reason, a run stops after its first batch and says so; what fails for some samples ends no run."""

from __future__ import annotations

import pytest

from harness.cli.app import main
from harness.errors import RequestError
from harness.run.batch_run import BatchRun
from harness.run.comparison import compare
from harness.run.shard_runner import ShardRunner
from harness.tasks.shapes.task import ShapesTask
from tests.faults.conftest import REQUEST, tables
from tests.small_model import KEEP

SMALL = {"methods": ("none",), "samples": 3, "analyse": 0, "max_new_tokens": 1}


def fail(patch, error, images: set[str] | None = None) -> list[str]:
    """Let every cell fail, or every cell on some images; gives the images that were tried, as they are tried."""
    run, tried = BatchRun.run, []

    def failing(self, cell, seeds=()):
        tried.extend(sample.image_id for sample in self.samples)
        if images is None or images & {sample.image_id for sample in self.samples}:
            raise error(len(tried))
        return run(self, cell, seeds)

    patch.setattr(BatchRun, "run", failing)
    return tried


def test_a_run_in_which_all_fails_for_one_reason_stops_and_can_be_resumed(tmp_path, monkeypatch):
    folder, apart = tmp_path / "run", []
    with monkeypatch.context() as patch:
        tried = fail(patch, lambda call: RuntimeError(f"no kernel for {call} bytes"))
        patch.setattr(ShardRunner, "_apart", lambda *arguments: apart.append(arguments))
        with pytest.raises(RequestError) as caught:
            compare(**REQUEST | SMALL, out=folder)
    first, second = str(caught.value).splitlines()
    assert first.startswith("no method can be measured: the unpruned model fails on all 27 questions of the first 1 images ")
    assert "and of 2 images further on, each alone, for one reason: RuntimeError at " in first
    assert "no kernel for 3 bytes" in first and "--resume" in second
    assert not apart and set(tried) == {sample.image_id for sample in ShapesTask().samples(3, 0)}
    assert not tables(folder)["samples"]
    run = compare(**REQUEST | SMALL, out=folder, resume=True)
    assert run.failures == 0 and {cell["n_images"] for cell in run.summary["cells"]} == {3}


def test_it_is_exit_2_on_the_command_line(tmp_path, monkeypatch, capsys):
    fail(monkeypatch, lambda call: MemoryError(f"{call} bytes"))
    words = ["--methods", "random", "--keep", KEEP, "--samples", "1", "--no-latency", "--workers", "1", "--max-new-tokens", "2"]
    with pytest.raises(SystemExit) as stop:
        main(["compare", *words, "--out", str(tmp_path / "run")])
    said = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(said) == 2 and "out of memory" in said[0]


def test_where_another_image_can_be_answered_the_run_goes_on(tmp_path, monkeypatch):
    """All questions of the first image fail for one reason, which is then of that image."""
    first, second = ShapesTask().samples(2, 0)
    fail(monkeypatch, lambda call: RuntimeError("no such thing"), {first.image_id})
    run = compare(**REQUEST | SMALL | {"samples": 2}, out=tmp_path / "run")
    assert {cell["n"] for cell in run.summary["cells"]} == {len(second.questions)}
    assert run.failures == len(first.questions) * len(run.summary["cells"])
