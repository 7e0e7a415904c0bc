"""Budgets from the request to the figures: all tokens are `none` bit by bit and compete in nothing, and older runs are read."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pandas
import pytest

from harness.errors import RequestError
from harness.models.shapes import shape_of
from harness.results.explain import explain
from harness.results.regression.regress import regress
from harness.results.report import write_report
from harness.results.samples import samples
from harness.results.several import side_by_side
from harness.run.comparison import Run, compare
from harness.run.config import CompareConfig
from harness.run.plan import make_cells
from harness.store.runs import RunFolder
from methods.keep import Keep
from methods.registry import create
from methods.schedule import plan
from methods.types import Budget
from reports import regression
from reports.markdown import table

OLDER = Path(__file__).parents[1] / "data" / "older_run"
"""A run of schema version 2: `compare --methods random,fastv --keep 0.34,64,1.0 --samples 1`, when 1.0 was one token."""
QUICK = {"samples": 1, "latency": False, "seeds": 1, "workers": 1}
ALL = ["all", "divprune+fastv", "random[like=sts]", "random[positions=contiguous]", "downsample", "oracle"]
BUDGETS = [0.34, 64, 1, "100%"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("shares") / "run"
    return compare(methods=["random", "fastv"], keep=BUDGETS, analyse=1, out=out, **QUICK)


@pytest.fixture
def older(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLDER, tmp_path / "older"))


def cells_of(run: Run) -> dict[tuple[str, str | None], dict]:
    return {(cell["method"], cell["keep_label"]): cell for cell in run.summary["cells"]}


@pytest.mark.parametrize("mode", ["average", "final", "flops"])
def test_a_budget_of_all_tokens_plans_no_step_for_any_method(mode):
    """Mergers, methods that renumber or hand on contextual tokens, pooling and smaller images too; as a share and as a count."""
    shape = shape_of("llava-1.5-7b")
    config = CompareConfig(methods=tuple(ALL), keep=("100%", "576"), budget=mode)
    cells = [cell for cell in make_cells(config, shape, True) if cell.keep is not None]
    assert len(cells) > 40 and {str(cell.keep) for cell in cells} == {"100%", "576"}
    assert all(cell.removes_nothing and not cell.steps and cell.grid is None and not cell.skipped for cell in cells)
    assert all(cell.schedule is not None and cell.schedule.final == 576 for cell in cells)


@pytest.mark.parametrize(
    ("dtype", "mode"),
    [
        pytest.param(dtype, mode, marks=[] if (dtype, mode) == ("float32", "average") else pytest.mark.slow)
        for dtype in ("float32", "bfloat16") for mode in ("average", "final", "flops")
    ],
)  # fmt: skip
def test_at_all_tokens_every_method_answers_as_none_bit_by_bit(dtype, mode, tmp_path):
    found = compare(methods=ALL, keep=[1.0], dtype=dtype, budget=mode, analyse=0, out=tmp_path / "run", **QUICK)
    query = "SELECT prediction, agree, kl FROM samples WHERE cell = ? ORDER BY question"
    answers = {key: found.store.connection.execute(query, (ident,)).fetchall() for ident, key, _ in found.store.cells()}
    whole = [(key, facts) for _, key, facts in found.store.cells() if facts["keep"] is not None]
    none = next(answers[key] for _, key, facts in found.store.cells() if facts["method"] == "none")
    assert len(whole) > 20 and len(none) > 5
    for key, facts in whole:
        assert facts["removes_nothing"] and not facts["skipped"], key
        assert [(said, 1.0, 0.0) for said, _, _ in none] == answers[key], key


def test_a_share_reaches_methods_that_are_defined_by_a_ratio(monkeypatch):
    seen = []
    method = type(create("fastv"))
    steps = method.steps
    monkeypatch.setattr(method, "steps", lambda self, shape, budget: (seen.append(budget), steps(self, shape, budget))[1])
    config = CompareConfig(methods=("fastv",), keep=("34%", "196"))
    make_cells(config, shape_of("llava-1.5-7b"), False)
    assert {(budget.tokens, budget.share) for budget in seen} == {(196, 0.34), (196, None)}


def test_all_tokens_but_one_is_still_a_budget():
    shape = shape_of("llava-1.5-7b")
    steps, planned = plan(create("random"), shape, Budget(575))
    assert len(steps) == 1 and planned.final == 575


def test_what_was_asked_stands_everywhere(run):
    cells = cells_of(run)
    assert {label for _, label in cells if label} == {"34%", "64", "1", "100%"}
    assert cells["fastv", "34%"]["keep"] == 0.34 and cells["random", "64"]["keep"] == 64
    assert cells["random", "1"]["tokens"]["final"] == 1 and cells["random", "100%"]["tokens"]["final"] == 576
    frame = pandas.read_csv(run.folder / "summary.csv")
    assert set(frame.keep_label.dropna()) == {"34%", "64", "1", "100%"} and set(run.frame().keep_label.dropna()) == set(
        frame.keep_label.dropna()
    )
    printed, page = table(run.summary["cells"]), (run.folder / "report.html").read_text()
    assert "| `fastv` | 34 % |" in printed and "| `random` | 1 |" in printed and "| `random` | 100 % |" in printed
    assert "34 % of the tokens" in page and "1 token " in page and "0.3 tokens" not in page and "0.34 tokens" not in page
    told = {row["keep"] for row in samples(run.store)}
    assert told == {None, "34%", 64, 1, "100%"} and all(row["keep"] == "34%" for row in samples(run.store, keep=0.34))
    with pytest.raises(RequestError, match="its budgets are 1, 64, 34%, 100%"):
        list(samples(run.store, "random", keep=63))


def test_what_removes_nothing_competes_in_nothing(run):
    summary, cells = run.summary, cells_of(run)
    whole = [cell for cell in cells.values() if cell["removes_nothing"]]
    assert {(cell["method"], cell["keep_label"]) for cell in whole} == {("random", "100%"), ("fastv", "100%")}
    none = cells["none", None]
    for cell in whole:
        tests = ("difference_none", "difference_like", "difference_winner", "mcnemar", "non_inferior", "difficulty")
        assert all(cell[name] is None for name in tests) and cell["pareto"] == {"latency": None, "flops": None}
        assert cell["accuracy"] == none["accuracy"] and cell["retention"]["value"] == 1.0 and cell["flops"] == none["flops"]
    assert set(summary["winners"]) == {"34%", "64"}
    rows = explain(run.store)["complexity"]["rows"]
    assert {row["keep_label"] for row in rows} == {"34%", "64", "1"}
    page = (run.folder / "report.html").read_text()
    assert "fastv at 100 % and random at 100 % remove nothing" in page and "remove nothing" in table(summary["cells"])
    assert "100 % of the tokens <small>" not in page, "there is no winner at all tokens"


def test_cells_of_an_older_run_are_counts_and_the_shares_that_were_asked_for(older):
    stored = RunFolder(older)
    labels = {(facts["method"], facts["keep_label"]) for _, _, facts in stored.cells()}
    assert labels >= {("none", None), ("fastv", "34%"), ("fastv", "64"), ("random", "1"), ("downsample", "34%")}
    assert {label for _, label in labels} == {None, "34%", "64", "1"}
    assert {cell["keep_label"] for cell in stored.summary()["cells"]} == {None, "34%", "64", "1"}
    page = write_report(stored).read_text()
    assert "34 % of the tokens" in page and "1 token " in page and "196 tokens" not in page


def test_a_baseline_of_before_pairs_with_a_candidate_of_now(older, run):
    found = regress(RunFolder(older), run.store)
    assert not [verdict for verdict in found.verdicts if "vanished" in verdict.rule and verdict.status == "fail"]
    judged = {verdict.cell for verdict in found.verdicts if verdict.rule == "accuracy"}
    assert judged >= {"none", "fastv at 34 %", "fastv at 64", "random at 1", "random[like=fastv] at 34 %"}
    assert found.exit_code == 0
    assert "New: `random at 100 %`, `fastv at 100 %`" in regression.markdown(found) and "fastv at 34 %" in regression.junit(found)
    rows = {(row.method, row.keep) for row in side_by_side([RunFolder(older), run.store]).rows if all(row.cells)}
    assert rows >= {("fastv", Keep(True, 0.34)), ("fastv", Keep(False, 64)), ("random", Keep(False, 1))}


def test_keys_with_a_point_are_counts(older):
    """Of versions before, which wrote ``@1.0`` for one token and ``@192.0`` for as many."""
    with sqlite3.connect(older / "results.sqlite") as database:
        database.execute("UPDATE cells SET key = replace(key, '@1|', '@1.0|'), facts = json_set(facts, '$.keep', 1.0) "
                         "WHERE key LIKE '%@1|%'")  # fmt: skip
    database.close()
    grown = compare(extend=older, methods=["vtw"], workers=1)
    keys = [key for _, key, _ in grown.store.cells()]
    assert "tiny|shapes|random@1|average|original|0" in keys and not [key for key in keys if "@1.0" in key]
    assert {key.split("|")[2] for key in keys if "vtw" in key} == {"vtw@34%", "vtw@64", "vtw@1"}
    assert len(keys) == 19 and json.loads((older / "manifest.json").read_text())["config"]["keep"] == ["34%", "64", "1"]
    assert grown.store.finished and cells_of(grown)["random", "1"]["tokens"]["final"] == 1


def test_an_older_run_is_resumed_by_what_its_budgets_meant(older):
    (older / "summary.json").unlink()
    with sqlite3.connect(older / "results.sqlite") as database:
        lost = [cell for (cell,) in database.execute("SELECT id FROM cells WHERE key LIKE '%|fastv@196|%'")]
        for name in ("samples", "done"):
            database.execute(f"DELETE FROM {name} WHERE cell = ?", lost)
    database.close()
    request = {"methods": ["random", "fastv"], "analyse": 0, "out": older, "resume": True, **QUICK}
    with pytest.raises(
        RequestError, match=r"1\.0 meant 1 token to the version .* is 100 % of the tokens now; write --keep 34%,64,1$"
    ):
        compare(keep=["0.34", "64", "1.0"], **request)
    found = compare(keep=["34%", 64, 1], **request)
    assert len(found.store.cells()) == 16 and found.failures == 0
    assert cells_of(found)["fastv", "34%"]["n"] == cells_of(found)["none", None]["n"] > 0
