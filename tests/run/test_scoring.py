"""By which rule the answers of a run are scored: what is stored, what is refused, and what a run that goes on does."""

import io
import json
import shutil
import sqlite3

import numpy as np
import pytest

from harness.errors import RequestError
from harness.run.comparison import compare
from harness.store.later_columns import has_rulings
from harness.store.runs import RunFolder
from harness.store.schema import COUNTS, SCHEMA_VERSION
from harness.tasks.registry import create
from tests.tasks.conftest import cell as image

QUICK = {
    "methods": ["fastv"], "keep": [64], "latency": False, "workers": 1, "analyse": 0, "seeds": 1, "batch_size": 1,
}  # fmt: skip
ADDED = ("read", "undecided", "ours", "official", "authors", *COUNTS)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """ScienceQA on a small file: the embedded model answers with an option's word, and not with its letter."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows, options = [], ["no", "left", "yellow", "green"]
    for sample in create("shapes").samples(5, 0):
        text = next(question.text for question in sample.questions if question.family == "colour")
        buffer = io.BytesIO()
        sample.image.save(buffer, "PNG")
        rows.append({"image": image(buffer.getvalue()), "question": text, "choices": options, "answer": 0})
    path = tmp_path_factory.mktemp("scienceqa") / "part.parquet"
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    return f"scienceqa[path={path}]"


@pytest.fixture(scope="module")
def run(task, tmp_path_factory):
    return compare(task=task, samples=5, out=tmp_path_factory.mktemp("scoring") / "run", **QUICK)


def columns(run):
    return {cell["method"]: run.store.columns(ident) for ident, _, cell in run.store.cells()}


def test_every_rule_scores_every_answer(run):
    manifest = run.store.manifest()
    assert manifest["scoring"]["rule"] == "official" and set(manifest["scoring"]["rules"]) == {"ours", "official", "authors"}
    assert manifest["scoring"]["figure"] == {"kind": "mean", "name": "accuracy", "scale": 100.0, "options": {}}
    assert manifest["whole"] == {"images": None, "questions": 2017} and manifest["schema_version"] == SCHEMA_VERSION
    for stored in columns(run).values():
        assert np.array_equal(stored["score"], stored["official"]) and not stored["official"].any()
        assert np.isfinite(stored["ours"]).all() and not stored["authors"].any() and set(stored["read"]) == {None}
    right, none = int(columns(run)["none"]["ours"].sum()), run.summary["cells"][0]
    assert right > 0, "a reader takes the option's text"
    told = {"rule": "official", "n": 5, "differ": {"ours": right, "authors": 0}, "undecided": 0}
    assert none["score"]["partial"] and none["scoring"] == told


def test_another_rule_leads_where_it_is_asked_for(task, run, tmp_path):
    led = compare(task=task, samples=5, scoring="authors", out=tmp_path / "authors", **QUICK)
    assert led.store.manifest()["scoring"]["rule"] == "authors" and "--scoring authors" in led.store.manifest()["command"]
    for method, stored in columns(led).items():
        assert np.array_equal(stored["score"], stored["authors"]) and stored["undecided"].all(), "a letter is drawn at random"
        assert np.array_equal(stored["ours"], columns(run)[method]["ours"])
    assert led.summary["cells"][0]["scoring"]["undecided"] == 5
    with pytest.raises(RequestError, match=r"its run had another configuration \(--scoring differs\)"):
        compare(task=task, samples=5, scoring="ours", out=tmp_path / "authors", resume=True, **QUICK)


def test_a_rule_that_is_none_or_that_the_task_lacks_is_refused_before_a_model_is_loaded(task, tmp_path):
    with pytest.raises(RequestError, match="--scoring 'lmms': choose ours, official or authors"):
        compare(task=task, scoring="lmms", model="nowhere", out=tmp_path / "run")
    with pytest.raises(RequestError, match="--scoring official: task 'shapes' has no such rule; choose ours"):
        compare(scoring="official", model="nowhere", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def older(run, tmp_path):
    """The run as schema version 3 wrote it."""
    folder = shutil.copytree(run.folder, tmp_path / "older")
    with sqlite3.connect(folder / "results.sqlite") as database:
        for name in ADDED:
            database.execute(f"ALTER TABLE samples DROP COLUMN {name}")
    database.close()
    for name in ("manifest.json", "summary.json"):
        content = json.loads((folder / name).read_text()) | {"schema_version": 3}
        if "task_info" in content:
            content["task_info"]["answer_tokens"] = 2
        for key in ("scoring", "whole"):
            content.pop(key, None)
        for cell in content.get("cells", []):
            for key in ("score", "scoring"):
                cell.pop(key, None)
        (folder / name).write_text(json.dumps(content))
    return folder


def test_a_run_of_an_older_version_is_read_and_extended_by_our_rule(older):
    before = RunFolder(older)
    assert not has_rulings(before.connection)
    ident = before.cells()[0][0]
    assert set(before.columns(ident)["read"]) == {None} and np.isnan(before.columns(ident)["ours"]).all()
    before.close()
    grown = compare(extend=older, methods=["sts"], workers=2)  # all processes go on as it began
    assert grown.store.manifest()["schema_version"] == SCHEMA_VERSION and "scoring" not in grown.store.manifest()
    assert any("by the rule of an older version" in note for note in grown.store.manifest()["notes"])
    assert any("answers end at 2 tokens" in note for note in grown.store.manifest()["notes"])
    found = {cell["method"]: grown.store.columns(ident) for ident, _, cell in grown.store.cells()}
    assert np.isnan(found["fastv"]["ours"]).all() and np.array_equal(found["sts"]["score"], found["sts"]["ours"])
    assert set(found["sts"]["read"]) & set("ABCD"), "words of options are read by ours alone"
    assert grown.summary["cells"][0]["score"]["name"] == "accuracy" and grown.summary["cells"][0]["scoring"] is None
