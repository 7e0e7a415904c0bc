"""Samples that cannot be measured: stored with the reason, left out of the figures, and no other sample is the worse for it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pytest
import torch

from harness.cli.app import main
from harness.errors import RequestError
from harness.run.comparison import compare
from harness.run.streams import stream
from harness.tasks import registry
from harness.tasks.shapes.task import ShapesTask
from methods.budget import solve
from methods.registration import REGISTERED, register
from methods.similarity import mean_rows, top
from methods.types import Method, Selection, Signals, Step, decoder
from reports.page import render
from tests.faults.conftest import REQUEST, same
from tests.small_model import KEEP

BAD: dict[str, tuple[set[int], Exception]] = {}
"""By method the random streams of questions on which it raises, and what."""


@dataclass(frozen=True)
class Picky:
    """The tokens that the last one attends to, but for some questions."""

    name: str

    def __call__(self, signals: Signals, keep: int) -> Selection:
        seeds, error = BAD.get(self.name, (set(), None))
        if seeds & set(signals.seeds.tolist()):
            raise error
        return Selection(top(mean_rows(signals.text_attention, -1), keep))


def method(name: str):
    @dataclass(frozen=True)
    class Made(Method):
        def steps(self, shape, budget):
            needs = frozenset({"text_attention", "seeds"})
            make = lambda pairs: (Step(decoder(1), Picky(name), pairs[0][1], pairs[0][1], needs, rows=1),)
            return solve(budget, shape, lambda scale: ((1, max(1, round(scale * shape.visual_tokens))),), make)

    Made.__doc__ = "Raises on some questions."
    return Made


class Task(ShapesTask):
    """The bundled task; ``unreadable`` and ``poisoned`` are images by place."""

    unreadable: int | None = None
    poisoned: int | None = None
    unscored: str | None = None  # an answer that cannot be scored

    def samples(self, count, seed):
        for place, sample in enumerate(super().samples(count, seed)):
            picture = sample.image
            if place == self.poisoned:
                picture.info["poisoned"] = True
            yield replace(sample, picture=self._broken if place == self.unreadable else picture)

    @staticmethod
    def _broken():
        raise OSError("image file is truncated\n(2 bytes not processed)")

    def score(self, prediction, answer):
        if answer == self.unscored:
            raise ZeroDivisionError("no such scale")
        return super().score(prediction, answer)


@pytest.fixture
def with_methods():
    for name in ("fussy", "hungry", "never"):
        register(name, site="decoder", needs={"text_attention", "seeds"})(method(name))
    yield
    BAD.clear()
    for name in ("fussy", "hungry", "never"):
        del REGISTERED[name]


def answers(folder) -> dict[tuple[str, str], tuple]:
    from harness.store.runs import RunFolder

    query = "SELECT key, question, prediction, kept, failed, agree, kl, swap_score FROM samples JOIN cells ON cells.id = cell"
    run = RunFolder(folder, read_only=True)
    try:
        return {(key.split("|")[2], question): tuple(rest) for key, question, *rest in run.connection.execute(query)}
    finally:
        run.close()


def test_what_fails_is_told_and_the_rest_is_as_if_it_had_not(tmp_path, monkeypatch, capsys, with_methods, adapter):
    request = REQUEST | {"methods": ("random", "fussy", "hungry", "never"), "batch_size": 2, "seeds": 1, "analyse": 4}
    whole = compare(**request, out=tmp_path / "whole")
    assert whole.failures == 0

    samples = list(ShapesTask().samples(4, 0))
    names = [[q.sample_id for q in sample.questions] for sample in samples]
    seed = lambda *questions: {stream(0, question) for question in questions}
    BAD.update(
        fussy=(seed(names[1][3]), IndexError("no such token")),
        hungry=(seed(*names[2]), MemoryError("99 bytes")),
        never=(seed(*chain(*names)), RuntimeError("not today")),
    )
    task, own = Task(), type(adapter).pixels
    task.unreadable, task.poisoned = 0, 3
    monkeypatch.setattr(registry, "create", lambda text: task)

    def poisoned(self, images, *rest):
        views = own(self, images, *rest)
        for image, tensor in zip(images, views.tensors):
            tensor[:] = torch.nan if image.info.get("poisoned") else tensor
        return views

    monkeypatch.setattr(type(adapter), "pixels", poisoned)
    monkeypatch.setattr("reports.page.render", render)
    words = ["--methods", "random,fussy,hungry,never", "--keep", KEEP, "--samples", "4", "--batch-size", "2", "--seeds", "1"]
    words += ["--analyse", "4", "--max-new-tokens", "1", "--workers", "1", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        main(["compare", *words, "--json"])
    said = capsys.readouterr()
    assert stop.value.code == 3
    notes = [line for line in said.err.splitlines() if not line.startswith("note: --margin ")]
    assert len(notes) == 1 and "--failed says why" in notes[0]

    mine, other = answers(tmp_path / "run"), answers(tmp_path / "whole")
    assert mine.keys() == other.keys()
    why = {
        key: "OSError at test_failed.py" if key[1] in names[0]
        else "RuntimeError at test_failed.py" if key[0] == f"never@{KEEP}"
        else "logits of answer token 1 are not finite" if key[1] in names[3] and key[0] != "blind"
        else "IndexError at test_failed.py" if key == (f"fussy@{KEEP}", names[1][3])
        else "out of memory (99 bytes)" if key[0] == f"hungry@{KEEP}" and key[1] in names[2] else None
        for key in mine
    }  # fmt: skip
    for key, reason in why.items():
        prediction, kept, failed, agree, *_ = mine[key]
        assert (failed is None) == (reason is None), (key, failed)
        if reason is None:
            assert (prediction, kept) == other[key][:2], key
            assert agree == other[key][3] or (key[0] == "blind" and key[1] in names[3] and agree is None)
        else:
            assert reason in failed and "\n" not in failed and (prediction, kept) == ("", None)
    count = sum(reason is not None for reason in why.values())

    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    cells = {c["method"]: c for c in summary["cells"]}
    assert json.loads(said.out)["cells"] == summary["cells"]
    for name, cell in cells.items():
        answered = [key[1] for key, reason in why.items() if reason is None and key[0].partition("@")[0] == name]
        assert cell["n"] == len(answered), name
        assert cell["n_images"] == len({question.rpartition("-")[0] for question in answered})
    assert cells["never"]["accuracy"] is None and cells["never"]["n"] == 0
    assert cells["none"]["n"] == 18 and cells["blind"]["n"] == 27 and cells["hungry"]["n"] == 9 and cells["fussy"]["n"] == 17
    assert cells["never"]["latency"] is None
    assert all(cells[name]["latency"] is not None for name in ("none", "blind", "fussy", "hungry"))

    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["failures"] == count == sum(part["samples"] for part in manifest["failed"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"{count} samples failed" in page and "out of memory (99 bytes)" in page
    with pytest.raises(SystemExit) as stop:
        main(["samples", str(tmp_path / "run"), "--failed", "--jsonl"])
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert stop.value.code == 0 and len(listed) == count and all(row["failed"] and row["score"] is None for row in listed)
    with pytest.raises(SystemExit) as stop:
        main(["compare", *words, "--resume", "--json"])
    assert stop.value.code == 3, "a finished run says it again"

    # figures that pair cells take what both have
    score = lambda folder, name: dict(_scores(folder, name))
    none, fussy = score(tmp_path / "run", "none"), score(tmp_path / "run", f"fussy@{KEEP}")
    both = [q for q in fussy if fussy[q] is not None and none[q] is not None]
    assert cells["fussy"]["difference_none"]["value"] == pytest.approx(np.mean([fussy[q] - none[q] for q in both]))
    assert cells["fussy"]["retention"]["value"] == pytest.approx(
        np.mean([fussy[q] for q in both]) / np.mean([none[q] for q in both])
    )


def _scores(folder, name):
    import sqlite3

    query = "SELECT question, score FROM samples JOIN cells ON cells.id = cell WHERE key LIKE ?"
    with sqlite3.connect(folder / "results.sqlite") as connection:
        yield from connection.execute(query, (f"%|{name}|%",))


def test_a_question_that_cannot_be_scored_fails_in_every_cell(tmp_path, monkeypatch):
    task = Task()
    first = next(iter(ShapesTask().samples(1, 0)))
    task.unscored = first.questions[0].answer
    hit = [q.sample_id for q in first.questions if q.answer == task.unscored]
    monkeypatch.setattr(registry, "create", lambda text: task)
    run = compare(**(REQUEST | {"methods": ("random",), "samples": 1, "analyse": 0}), out=tmp_path / "run")
    failed = run.store.failed()
    cells = {cell for cell, _, facts in run.store.cells() if facts["skipped"] is None}
    assert {(cell, question) for cell, question, _ in failed} == {(cell, question) for cell in cells for question in hit}
    assert all(why.startswith("ZeroDivisionError at test_failed.py") and why.endswith("no such scale") for *_, why in failed)
    assert all(c["n"] == len(first.questions) - len(hit) for c in run.summary["cells"])
    assert run.failures == len(failed)


def test_what_failed_is_answered_again_where_that_is_asked(tmp_path, undisturbed, monkeypatch):
    """A finished run stays as it is until then; and once the cause is gone, nothing tells of it."""
    folder, score, calls = tmp_path / "run", ShapesTask.score, []

    def scarce(self, prediction, answer):
        calls.append(answer)
        if answer == rare:
            raise RuntimeError("no luck")
        return score(self, prediction, answer)

    asked = Counter(question.answer for sample in ShapesTask().samples(4, 0) for question in sample.questions)
    rare = min(asked, key=lambda answer: asked[answer])  # few questions are then run one by one
    with monkeypatch.context() as patch:
        patch.setattr(ShapesTask, "score", scarce)
        assert compare(**REQUEST, out=folder).failures > 0
        again = len(calls)
        assert compare(**REQUEST, out=folder, resume=True).failures > 0 and len(calls) == again
        assert compare(**REQUEST, out=folder, resume=True, retry_failed=True).failures > 0 and len(calls) > again
    assert compare(**REQUEST, out=folder, resume=True, retry_failed=True).failures == 0
    assert same(folder, undisturbed)
    with pytest.raises(RequestError, match="--retry-failed: goes with --resume"):
        compare(**REQUEST, out=folder, retry_failed=True)


def test_an_error_of_the_device_ends_the_run(tmp_path, monkeypatch):
    """After it nothing can be trusted, and a run that went on would store its every sample as failed."""
    from harness.run.batch_run import BatchRun

    def broken(self, *arguments):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(BatchRun, "run", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        compare(**REQUEST, out=tmp_path / "run")
    monkeypatch.undo()


def test_where_no_image_can_be_read_the_request_is_wrong(tmp_path, monkeypatch):
    from harness.errors import RequestError

    task = Task()
    task.unreadable = 0
    monkeypatch.setattr(registry, "create", lambda text: task)
    with pytest.raises(RequestError, match=r"none of its 1 images can be read; the first: OSError.*truncated"):
        compare(**(REQUEST | {"samples": 1}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
