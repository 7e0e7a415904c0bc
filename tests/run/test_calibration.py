"""The level of a tuned method is found on images that are not scored, once, and every process answers with it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.errors import RequestError
from harness.models import hf
from harness.run import calibration
from harness.run.calibration import unscored
from harness.run.comparison import compare
from harness.run.config import CompareConfig, load_plugins
from harness.run.executors import processes
from harness.run.prepare import prepare
from harness.run.profiling.config import ProfileConfig
from harness.run.profiling.profile import profile
from harness.store.arrays import unpacked_counts
from harness.tasks import registry
from methods.check import check
from methods.registry import entry
from tests.small_model import small_model

PLUGIN = "tests.run.counting_methods"
REQUEST = {
    "plugin": PLUGIN, "methods": ("attended",), "keep": ("40", "16"), "samples": 3, "batch_size": 1, "latency": False,
    "analyse": 0, "max_new_tokens": 1, "workers": 1, "self_check": False,
}  # fmt: skip
IMAGES = 5

pytestmark = pytest.mark.usefixtures("one_thread")


class Short:
    """A task of few questions, and of as many images as a test wants."""

    def __init__(self, images: int = 100) -> None:
        self.own, self.images = registry.create("shapes"), images
        self.info = self.own.info

    def samples(self, count: int, seed: int):
        from dataclasses import replace

        for sample in self.own.samples(min(count, self.images), seed):
            yield replace(sample, questions=sample.questions[:2])

    def score(self, prediction: str, answer: str) -> float:
        return self.own.score(prediction, answer)


def quick(patch: pytest.MonkeyPatch, images: int = 100) -> None:
    load_plugins((PLUGIN,))
    task = Short(images)
    patch.setattr(hf, "load", lambda *arguments, **words: small_model())
    patch.setattr(registry, "create", lambda text: task)
    patch.setattr("reports.page.render", lambda view: "")
    patch.setattr(calibration, "IMAGES", IMAGES)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    quick(monkeypatch)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        return compare(**REQUEST, out=tmp_path_factory.mktemp("calibrated") / "run")


def cells_of(run, method: str = "attended") -> dict[str, dict]:
    return {facts["keep_label"]: facts for _, _, facts in run.store.cells() if facts["method"] == method}


def rows_of(run) -> list[tuple]:
    query = (
        "SELECT key, question, prediction, kept, layer_counts FROM samples JOIN cells ON cells.id = cell ORDER BY key, question"
    )
    return run.store.connection.execute(query).fetchall()


def mean_at(level: float, images) -> float:
    """Average tokens of a method whose level is given, on some images, as a run of its own measures them."""
    scored, task = {sample.image_id for sample in images}, Short()

    class Those:
        info = task.info
        score = staticmethod(task.score)

        def samples(self, count: int, seed: int):
            return (sample for sample in task.samples(100, seed) if sample.image_id in scored)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "create", lambda text: Those())
        from tempfile import mkdtemp

        request = {**REQUEST, "methods": (f"attended[level={level!r}]",), "samples": len(scored)}
        run = compare(**request, out=f"{mkdtemp()}/run")
    (ident,) = (ident for ident, _, facts in run.store.cells() if facts["method"].startswith("attended") and facts["keep"] == 40)
    columns = run.store.columns(ident)
    assert len(columns["question"]) == 2 * len(scored)
    return float(np.mean([unpacked_counts(blob) for blob in columns["layer_counts"]]))


def test_the_images_are_the_next_ones_and_none_is_scored():
    config = CompareConfig(methods=("attended",), keep=("40",), plugin=(PLUGIN,), samples=3)
    prepared = prepare(config)
    found = [sample.image_id for sample in unscored(config, prepared)]
    assert found == [sample.image_id for sample in Short().samples(3 + IMAGES, 0)][3:]
    assert not set(found) & {sample.image_id for sample in prepared.samples}


def test_the_level_keeps_what_the_budget_asks_for_and_a_lower_one_keeps_more(run):
    config = CompareConfig(methods=("attended",), keep=("40",), plugin=(PLUGIN,), samples=3)
    images = unscored(config, prepare(config))
    (found,) = [facts["calibration"] for label, facts in cells_of(run).items() if label == "40"]
    assert found["images"] == IMAGES and 39 < found["tokens"] <= 40
    assert mean_at(found["level"], images) == pytest.approx(found["tokens"])
    step = 10 ** (6 / 2**calibration.HALVINGS)
    assert mean_at(found["level"] / step**2, images) > 40


def test_a_run_says_which_level_it_used(run):
    manifest = run.store.manifest()
    facts = cells_of(run)
    assert [(entry["method"], entry["keep"]) for entry in manifest["calibrations"]] == [
        ("attended", label) for label in ("40", "16") if facts[label]["calibration"]
    ]
    told = facts["40"]["calibration"]
    assert {**told, "method": "attended", "keep": "40"} == manifest["calibrations"][0]
    assert any(f"level {told['level']:.4g}" in note and "not scored" in note for note in manifest["notes"])
    assert facts["40"]["params"]["level"] == told["level"]
    counts = facts["40"]["tokens"]["average"]
    assert counts != told["tokens"] and abs(counts - 40) < 8  # measured on other images
    assert cells_of(run, "random[like=attended]")["40"]["tokens"] == facts["40"]["tokens"]


def test_a_level_is_found_once(run, tmp_path, monkeypatch):
    from harness.run.shard_runner import ShardRunner

    own = ShardRunner.answer

    def interrupted(self, shard, ready=None):
        if shard.place == 1:
            raise KeyboardInterrupt
        return own(self, shard, ready)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ShardRunner, "answer", interrupted)
        compare(**REQUEST, out=tmp_path / "run")

    def found_anew(*arguments):
        raise AssertionError("the level is known")

    monkeypatch.setattr(calibration, "CalibrationImages", found_anew)
    again = compare(**REQUEST, out=tmp_path / "run", resume=True)
    assert rows_of(again) == rows_of(run)
    assert [cells_of(again)[label]["calibration"] for label in ("40", "16")] == [
        cells_of(run)[label]["calibration"] for label in ("40", "16")
    ]


def test_two_processes_have_the_level_of_one(run, tmp_path):
    assert rows_of(compare(**{**REQUEST, "workers": 2}, out=tmp_path / "run")) == rows_of(run)


def test_processes_that_load_for_themselves_are_told_the_level(tmp_path, monkeypatch):
    monkeypatch.undo()
    load_plugins((PLUGIN,))
    monkeypatch.setattr("reports.page.render", lambda view: "")
    for name in ("IMAGES", "FEWEST", "HALVINGS"):  # the embedded model takes its time
        monkeypatch.setattr(calibration, name, 1)
    monkeypatch.setattr(processes.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    request = {**REQUEST, "keep": ("192",), "samples": 2}
    one = compare(**request, out=tmp_path / "one")
    assert cells_of(one)["192"]["calibration"] is not None
    assert rows_of(compare(**{**request, "workers": 2}, out=tmp_path / "two")) == rows_of(one)


def test_a_task_without_further_images_has_no_level(tmp_path, monkeypatch):
    quick(monkeypatch, images=6)
    run = compare(**{**REQUEST, "keep": ("40",)}, out=tmp_path / "run")
    reason = "its level is found on 4 images of the task that are not scored; there are 3"
    assert cells_of(run)["40"]["skipped"] == reason
    assert (cells_of(run).keys() == {"40"} and "random[like=attended]" not in {f["method"] for _, _, f in run.store.cells()}) or (
        cells_of(run, "random[like=attended]")["40"]["skipped"] == f"takes the counts of attended, which is skipped: {reason}"
    )
    assert run.store.manifest().get("calibrations", []) == []


def test_budgets_that_no_level_meets_are_skipped(tmp_path):
    run = compare(**{**REQUEST, "keep": ("5",)}, out=tmp_path / "average")
    assert "tokens (average) at the least, on images that are not scored; 5 asked" in cells_of(run)["5"]["skipped"]
    run = compare(**{**REQUEST, "keep": ("40",), "budget": "flops"}, out=tmp_path / "flops")
    assert "--budget average or final" in cells_of(run)["40"]["skipped"]


def test_a_final_count_is_that_of_the_last_layer(tmp_path):
    run = compare(**{**REQUEST, "keep": ("8",), "budget": "final"}, out=tmp_path / "final")
    facts = cells_of(run)["8"]
    assert facts["calibration"]["tokens"] <= 8 < facts["tokens"]["average"]
    assert abs(facts["tokens"]["final"] - 8) < 4


def test_elsewhere_a_level_must_be_said(tmp_path):
    from harness.bridges.prompts import PromptPruner
    from harness.run.cases import select
    from harness.run.flops import count

    told = "needs level= here|needs the counts that attended decides"
    for call in (
        lambda: profile(ProfileConfig(model="tiny", methods=("attended",), plugin=(PLUGIN,))),
        lambda: profile(ProfileConfig(model="tiny", methods=("random[like=attended]",), plugin=(PLUGIN,))),
        lambda: select("attended", [tmp_path / "none.npz"], 9, tmp_path / "out"),
        lambda: count("llava-1.5-7b", "attended", "64", "average", 64.0, "flops"),
        lambda: PromptPruner("attended", 16, "average", 0, {}),
    ):
        with pytest.raises(RequestError, match=told):
            call()
    with pytest.raises(RequestError, match="no formula gives its FLOPs"):  # with a level it runs, and the counts follow
        count("llava-1.5-7b", "attended[level=0.01]", "64", "average", 64.0, "flops")


def test_a_tuned_method_is_tried_out_before_it_is_trusted():
    for name in ("attended", "outstanding", "worded"):
        check(entry(name))


def test_a_manifest_with_a_level_that_is_none_is_refused(run, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(run.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["calibrations"][0]["level"] = "low"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    from harness.store.runs import RunFolder

    with pytest.raises(RequestError, match="'calibrations'"):
        RunFolder(folder).manifest()
