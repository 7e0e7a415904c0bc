"""What fails once and not again, at any stage: the run goes on by itself, to the figures of one in which nothing failed."""

from __future__ import annotations

import pkgutil

import pytest

from harness.run.comparison import compare
from harness.run.shard_runner import ShardRunner
from tests.faults.conftest import REQUEST, same

STAGES = {
    "the tower": ("harness.engine.engine", "encode_images", "OutOfMemory"),
    "entry into the LLM": ("harness.engine.engine", "enter_decoder", "ZeroDivisionError"),
    "a selection": ("harness.engine.engine", "prune_between_layers", "RuntimeError"),
    "decoding": ("harness.engine.engine", "decode", "MemoryError"),
    "scoring": ("harness.tasks.shapes.task.ShapesTask", "score", "IndexError"),
    "the analysis": ("harness.run.analysis.TokenAnalysis", "run", "LinAlgError"),
    "the evidence swap": ("harness.run.batch_run.BatchRun", "_swap", "ValueError"),
    "another seed": ("harness.run.batch_run.BatchRun", "_again", "KeyError"),
    "thumbnails": ("harness.run.batch_run.BatchRun", "image_rows", "OSError"),
    "rows of questions": ("harness.run.batch_run.BatchRun", "questions", "AttributeError"),
}
"""What is made to fail at its first call on an image."""
ANALYSED = ("the analysis", "the evidence swap")
GROUPS = (
    (*ANALYSED, "the tower", "entry into the LLM"), ("scoring", "thumbnails", "decoding", "a selection"),
    ("rows of questions", "another seed"),
)  # fmt: skip


@pytest.mark.parametrize("stages", GROUPS, ids=" ".join)
def test_one_failure_at_every_stage(tmp_path, undisturbed, monkeypatch, stages):
    """Each on an image of its own, while it is answered the first time."""
    failed: list[str] = []
    measure, now = ShardRunner._measure, []

    def measured(self, batch_run, place, cells, result):
        now[:] = [stages[place]] if place < len(stages) else []
        try:
            measure(self, batch_run, place, cells, result)
        finally:
            now.clear()

    monkeypatch.setattr(ShardRunner, "_measure", measured)
    for stage in stages:
        owner, name, kind = STAGES[stage]
        owner = pkgutil.resolve_name(owner)
        monkeypatch.setattr(owner, name, _once(getattr(owner, name), stage, kind, now, failed))
    run = compare(**REQUEST, out=tmp_path / "run")
    assert sorted(failed) == sorted(stages)
    assert run.failures == 0
    assert same(tmp_path / "run", undisturbed)


def _once(call, stage: str, kind: str, now: list[str], failed: list[str]):
    error = type(kind, (RuntimeError,), {})(f"{stage} failed" + (", not enough memory" if kind == "OutOfMemory" else ""))

    def failing(*arguments, **words):
        if now == [stage] and stage not in failed:
            failed.append(stage)
            raise error
        return call(*arguments, **words)

    return failing


@pytest.mark.parametrize(
    "name",
    [
        "harness.results.summary.write", "harness.results.report.write_report", "harness.store.runs.RunFolder.add_batch",
        "harness.store.runs.RunFolder.write_json",
    ],
)  # fmt: skip
def test_an_error_outside_of_samples_ends_the_run_and_it_resumes(tmp_path, undisturbed, monkeypatch, name):
    """Not a sample's failure but ours: it is raised, and what is stored stays."""
    with monkeypatch.context() as patch:
        patch.setattr(name, _raise)
        with pytest.raises(ZeroDivisionError):
            compare(**REQUEST, out=tmp_path / "run")
    compare(**REQUEST, out=tmp_path / "run", resume=True)
    assert same(tmp_path / "run", undisturbed)


def _raise(*arguments, **words):
    raise ZeroDivisionError("ours")
