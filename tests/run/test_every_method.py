"""Every bundled method answers in a comparison on the embedded model, is analysed, and fails on no question."""

from __future__ import annotations

import pytest

from harness.run.comparison import compare
from methods.loading import BUNDLED
from methods.registry import create

GIVEN = {"mustdrop": "mustdrop[total=0.002,single=0.003]"}  # no level is looked for
ADAPTIVE = ("trim[adaptive=true]", "prumerge[adaptive=true]")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    methods = [*(GIVEN.get(name, name) for name in BUNDLED), *ADAPTIVE]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.page.render", lambda view: "")
        return compare(
            methods=methods, keep=("192", "24"), samples=1, batch_size=1, latency=False, analyse=1, max_new_tokens=2, workers=1,
            self_check=False, out=tmp_path_factory.mktemp("every") / "run",
        )  # fmt: skip


def facts_of(run) -> list[dict]:
    return [facts for _, _, facts in run.store.cells()]


def test_no_question_fails(run):
    query = "SELECT json_extract(facts, '$.method'), failed FROM samples JOIN cells ON cells.id = cell WHERE failed IS NOT NULL"
    assert run.store.connection.execute(query).fetchall() == []


def test_every_method_has_answered_where_it_can_keep_192(run):
    skipped = {facts["method"]: facts["skipped"] for facts in facts_of(run) if facts["skipped"] and facts["keep"] != 24}
    assert skipped == {}
    asked = {GIVEN.get(name, name) for name in BUNDLED} | set(ADAPTIVE)
    answered = {facts["method"] for facts in facts_of(run) if facts["keep"] != 24}
    assert not {name for name in asked if create(name).budgeted} - answered


def test_every_cell_that_is_planned_is_analysed(run):
    query = "SELECT DISTINCT json_extract(facts, '$.method') FROM analysis JOIN cells ON cells.id = cell"
    analysed = {method for (method,) in run.store.connection.execute(query)}
    planned = {facts["method"] for facts in facts_of(run) if not (facts["skipped"] or facts["adaptive"])}
    assert planned - analysed <= {"blind", "vtw"}


def test_the_evidence_is_swapped_where_every_token_has_a_place(run):
    query = (
        "SELECT DISTINCT json_extract(facts, '$.method') FROM samples JOIN cells ON cells.id = cell WHERE swap_score IS NOT NULL"
    )
    swapped = {method for (method,) in run.store.connection.execute(query)}
    assert {"fastervlm", "hiprune", "scope", "mmtok", "hired", "fastv", "divprune", "sparsevlm"} <= swapped
    assert not {"trim", "prunesid", "trim[adaptive=true]", "prumerge", "visionzip", "tome", "none"} & swapped


def test_without_a_budget_there_is_one_cell_and_its_twin_has_the_same_tokens(run):
    cells = facts_of(run)
    without = [name for name in (*(GIVEN.get(name, name) for name in BUNDLED), *ADAPTIVE) if not create(name).budgeted]
    assert {"ivcprune", "feather", GIVEN["mustdrop"], *ADAPTIVE} <= set(without)
    for name in {*without} - {"none", "blind"}:
        (own,) = [facts for facts in cells if facts["method"] == name]
        assert own["keep"] is None and own["skipped"] is None
        twins = [facts for facts in cells if facts["method"] == f"random[like={name}]"]
        assert len(twins) == (own["like"] is not None)
        for twin in twins:
            assert twin["keep"] is None and twin["tokens"] == own["tokens"] and twin["schedule"] == own["schedule"]
