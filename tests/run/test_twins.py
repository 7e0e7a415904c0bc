"""Random tokens beside a method that decides its counts: on every question as many as the method left there, in each layer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from harness.models import hf
from harness.models.shapes import PUBLIC
from harness.run.comparison import compare
from harness.run.config import CompareConfig, load_plugins
from harness.run.plan import make_cells
from harness.store.arrays import unpacked_counts
from methods.random import at_random
from methods.registry import MethodError, create
from methods.schedule import plan
from methods.types import Budget, BudgetError, ModelShape
from tests.run.counting_methods import Above
from tests.small_model import small_model

PLUGIN = "tests.run.counting_methods"
LEVEL, MERGING = "attended[level=0.01]", "attended[level=0.01,merging=true]"
REQUEST = {
    "plugin": PLUGIN, "methods": (LEVEL, MERGING, "outstanding", "worded"), "keep": "16", "samples": 3, "batch_size": 2,
    "latency": False, "analyse": 1, "max_new_tokens": 1, "workers": 1, "self_check": False,
}  # fmt: skip
COLUMNS = "question, prediction, kept, kept_count, layer_counts, tower_counts, failed"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    load_plugins((PLUGIN,))
    monkeypatch.setattr(hf, "load", lambda *arguments, **words: small_model())
    monkeypatch.setattr("reports.page.render", lambda view: "")


def ids_of(run) -> dict[str, int]:
    return {facts["method"]: ident for ident, _, facts in run.store.cells()}


def rows_of(run, method: str) -> list[tuple]:
    query = f"SELECT {COLUMNS} FROM samples WHERE cell = ? ORDER BY question"
    return run.store.connection.execute(query, (ids_of(run)[method],)).fetchall()


def counts_of(run, method: str, name: str = "layer_counts") -> list[tuple[int, ...]]:
    return [unpacked_counts(blob) for blob in run.store.columns(ids_of(run)[method])[name]]


def twin(method: str) -> str:
    return f"random[like={method}]"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        load_plugins((PLUGIN,))
        patch.setattr(hf, "load", lambda *arguments, **words: small_model())
        patch.setattr("reports.page.render", lambda view: "")
        return compare(**REQUEST, out=tmp_path_factory.mktemp("twins") / "run")


@pytest.mark.parametrize("method", REQUEST["methods"])
def test_a_twin_has_the_counts_of_its_method_on_every_question(whole, method):
    assert counts_of(whole, twin(method)) == counts_of(whole, method)
    assert len(set(counts_of(whole, method))) > 1
    mine, theirs = rows_of(whole, twin(method)), rows_of(whole, method)
    assert [row[2] for row in mine] != [row[2] for row in theirs]  # but other tokens
    facts = {facts["method"]: facts for _, _, facts in whole.store.cells()}
    assert facts[twin(method)]["tokens"] == facts[method]["tokens"]
    assert facts[twin(method)]["schedule"] == facts[method]["schedule"]
    assert facts[method]["like"] == twin(method) and facts[twin(method)]["like"] is None


def test_what_a_method_merges_in_the_tower_stays_its_own(whole):
    merged = counts_of(whole, MERGING, "tower_counts")
    assert counts_of(whole, twin(MERGING), "tower_counts") == merged and merged[0][0] > merged[0][1]
    facts = {facts["method"]: facts for _, _, facts in whole.store.cells()}
    assert facts[twin(MERGING)]["merges"] and not facts[twin(MERGING)]["prunes"]


def test_questions_of_one_image_that_keep_as_many_keep_the_same_at_the_projector(whole):
    images = whole.store.columns(ids_of(whole)[twin("outstanding")])["image"]
    kept = whole.store.columns(ids_of(whole)[twin("outstanding")])["kept"]
    for image in set(images):
        assert len(set(kept[images == image])) == 1
    assert len(set(kept)) == len(set(images))


def test_a_twin_takes_stored_counts_where_its_method_has_answered_before(whole, tmp_path):
    run = compare(**REQUEST, out=tmp_path / "run")
    names = [twin(LEVEL), twin(MERGING), twin("worded")]
    before = {name: rows_of(run, name) for name in names}
    with run.store.connection as connection:
        for name in names:
            for table in ("samples", "done"):
                connection.execute(f"DELETE FROM {table} WHERE cell = ?", (ids_of(run)[name],))
    run.store.close()
    (tmp_path / "run" / "summary.json").unlink()
    again = compare(**REQUEST, out=tmp_path / "run", resume=True)
    for name in names:
        assert rows_of(again, name) == before[name] == rows_of(whole, name)


def test_two_processes_store_what_one_does(whole, tmp_path):
    run = compare(**{**REQUEST, "workers": 2, "batch_size": 1}, out=tmp_path / "run")
    for method in REQUEST["methods"]:
        assert rows_of(run, method) == rows_of(whole, method)
        assert rows_of(run, twin(method)) == rows_of(whole, twin(method))


def test_nothing_shared_gives_the_same(whole, tmp_path):
    run = compare(**REQUEST, sharing=False, out=tmp_path / "run")
    for method in REQUEST["methods"]:
        assert counts_of(run, twin(method)) == counts_of(whole, twin(method))
        assert [row[2] for row in rows_of(run, twin(method))] == [row[2] for row in rows_of(whole, twin(method))]


def test_where_a_method_fails_on_a_question_so_does_its_twin_and_nothing_else(tmp_path, monkeypatch):
    own, failing = Above.__call__, []

    def sometimes(self, signals, keep):
        if signals.text_attention.shape[2] == failing[0]:
            raise ValueError("on questions of this length")
        return own(self, signals, keep)

    task_lengths = []

    def listening(self, signals, keep):
        task_lengths.append(signals.text_attention.shape[2])
        return own(self, signals, keep)

    monkeypatch.setattr(Above, "__call__", listening)
    compare(**{**REQUEST, "methods": (LEVEL,), "samples": 1}, out=tmp_path / "seen")
    failing.append(max(task_lengths))
    assert len(set(task_lengths)) > 1
    monkeypatch.setattr(Above, "__call__", sometimes)
    run = compare(**{**REQUEST, "methods": (LEVEL,), "samples": 1}, out=tmp_path / "run")
    failed = {row[0] for row in rows_of(run, LEVEL) if row[-1] is not None}
    assert failed and len(failed) < 9
    assert {row[0] for row in rows_of(run, twin(LEVEL)) if row[-1] is not None} == failed
    assert {row[-1] for row in rows_of(run, twin(LEVEL))} - {None} == {
        f"takes the counts of {LEVEL}, which has no answer to this question"
    }


def planned(*methods: str, keep: tuple[str, ...] = ("16",)):
    return make_cells(CompareConfig(methods=methods, keep=keep, plugin=(PLUGIN,)), small_model().shape, False)


def test_a_method_runs_before_its_twin_whichever_was_named_first():
    for asked in ((twin("outstanding"), "outstanding"), ("outstanding", twin("outstanding")), (twin("outstanding"),)):
        names = [cell.method for cell in planned(*asked)]
        assert names.index("outstanding") < names.index(twin("outstanding"))
        assert len(names) == len(set(names)) or names.count("outstanding") == 1


def test_without_a_budget_a_twin_has_none_either():
    cells = {cell.method: cell for cell in planned("outstanding", keep=("16", "9"))}
    assert cells[twin("outstanding")].keep is None and cells[twin("outstanding")].skipped is None
    assert not create(twin("outstanding")).budgeted and create("random[like=fastv]").budgeted and create("random").budgeted


def test_a_method_that_acts_in_the_tower_alone_has_no_twin_of_its_sites():
    with pytest.raises(BudgetError, match="inside the tower alone"):
        plan(create("random[like=tome]"), small_model().shape, Budget(32))
    cells = {cell.method: cell for cell in planned("tome", keep=("32",))}
    assert cells["tome"].like is None and cells["tome"].skipped is None


def test_counts_that_are_planned_are_copied_as_they_are():
    shape = small_model().shape
    steps = create("fastv").steps(shape, Budget(32))
    assert [step.after for step in at_random(steps)] == [step.after for step in steps]
    assert not any(step.adaptive for step in at_random(steps))
    counts = list(range(60, 54, -1))
    (step,) = at_random(steps, counts)
    assert (step.keep, step.after) == (counts[step.site.layer],) * 2


def test_a_level_is_of_a_method_that_stands_alone():
    with pytest.raises(MethodError, match="stands alone"):
        create("divprune+attended")


def test_an_adaptive_twin_is_skipped_with_its_method():
    cells = {cell.method: cell for cell in planned("worded", twin("worded"))}
    assert cells["worded"].skipped is None
    shape = small_model().shape
    lacking = make_cells(
        CompareConfig(methods=(twin("worded"),), keep=("16",), plugin=(PLUGIN,)), shape, False, frozenset({"seeds", "features"})
    )
    found = {cell.method: cell.skipped for cell in lacking}
    assert "gives no text_features" in found["worded"] and "takes the counts of worded" in found[twin("worded")]
    assert found["none"] is None


TILED = replace(PUBLIC["llava-next-7b"], joint_width=768, joint_text=(12, 768, 3072))
EACH = ("hiprune", "fastervlm", "scope", "prunesid", "mmtok")


def on_tiles(*methods: str, keep: tuple[str, ...], shape: ModelShape = TILED, several: bool = False, budget: str = "average"):
    config = CompareConfig(methods=methods, keep=keep, budget=budget)
    shapes = Counter({shape: 3, replace(shape, visual_tokens=1152, grid=(24, 48), tiles=2): 1}) if several else None
    return {(cell.method, str(cell.keep)): cell for cell in make_cells(config, shape, False, shapes=shapes)}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("method", EACH)
def test_a_method_that_rounds_in_tiles_is_held_against_as_many_random_tokens(method, several):
    cells = on_tiles(method, keep=("10", "9"), several=several)
    assert cells[method, "10"].like == like_plain(method)  # 5 tiles and 2 divide it
    own, control = cells[method, "9"], cells[cells[method, "9"].like, "9"]
    assert own.like == f"random[like={method}]" and control.skipped is None and control.reference
    assert control.object.positions == own.object.positions
    for shape in own.plans:
        assert control.plan(shape)[1].llm == own.plan(shape)[1].llm
    assert own.plan(TILED)[1].final == 5


def like_plain(method: str) -> str:
    positions = create(method).positions
    return "random" if positions == "original" else f"random[positions={positions}]"


@pytest.mark.parametrize("budget", ["average", "flops"])
@pytest.mark.parametrize("method", [*EACH, "divprune", "hired", "trim", "vispruner"])
def test_on_one_tile_the_control_is_plain_random_tokens(method, budget):
    one = replace(PUBLIC["llava-1.5-7b"], joint_width=768, joint_text=(12, 768, 3072))
    cells = on_tiles(method, keep=("64", "9"), shape=one, budget=budget)
    assert {cell.like for (name, _), cell in cells.items() if name == method and cell.skipped is None} == {like_plain(method)}
