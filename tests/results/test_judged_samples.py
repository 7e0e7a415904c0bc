"""How single answers were scored stands beside them: in `samples`, in the gallery and in the browser."""

from __future__ import annotations

import io
import json

import pytest

from harness.results.browse import OpenRun, SampleFilter, overview, question, samples_page
from harness.results.report import gallery
from harness.results.samples import FIELDS, print_table, samples, write_csv, write_jsonl
from reports.gallery import payload

RULES = {"ours": "harness.tasks.choice.judge", "official": "lmms_eval.x.y"}
RULED = ("read", "undecided", "ours", "official")


@pytest.fixture
def judged(make_run):
    """Returns a run that tells how it was scored: "i0-0" is read as B and parts the rules, "i0-1" could not be decided."""
    run = make_run(images=range(4))
    run.write_json("manifest.json", run.manifest() | {
        "scoring": {"rule": "official", "rules": RULES, "undecided": "draws a letter at random",
                    "figure": {"kind": "mean", "name": "accuracy", "scale": 100.0, "options": {}}},
        "whole": None,
    })  # fmt: skip
    with run.connection as connection:
        connection.execute("UPDATE samples SET official = score, ours = score, read = prediction")
        connection.execute("UPDATE samples SET read = 'B', ours = 1, official = 0, score = 0 WHERE question = 'i0-0'")
        connection.execute("UPDATE samples SET read = NULL, undecided = 1 WHERE question = 'i0-1'")
    return run


def test_samples_tell_what_was_read_and_every_rule_s_score(judged):
    found = list(samples(judged, method="fastv", keep=64))
    assert all(tuple(row) == (*FIELDS, *RULED) for row in found)
    first, second, third = found[:3]
    assert [first[name] for name in RULED] == ["B", None, 1.0, 0.0]
    assert (second["read"], second["undecided"]) == (None, 1)
    assert (third["read"], third["ours"], third["official"]) == (third["prediction"], third["score"], third["score"])
    table, lines, sheet = io.StringIO(), io.StringIO(), io.StringIO()
    print_table(iter(found), 2, table)
    assert table.getvalue().split("\n")[0].split()[-4:] == ["prediction", "read", "score", "recall"]
    write_jsonl(iter(found), lines)
    assert [json.loads(line) for line in lines.getvalue().splitlines()] == found
    write_csv(iter(found), sheet)
    assert sheet.getvalue().splitlines()[0] == ",".join((*FIELDS, *RULED))


def test_a_task_with_one_rule_has_no_column_a_rule(judged):
    manifest = judged.manifest()
    manifest["scoring"] |= {"rule": "ours", "rules": {"ours": "f"}}
    judged.write_json("manifest.json", manifest)
    assert tuple(next(samples(judged))) == (*FIELDS, "read", "undecided")


def test_a_run_of_an_older_version_is_shown_as_it_was(judged):
    manifest = judged.manifest()
    del manifest["scoring"]
    judged.write_json("manifest.json", manifest)
    assert tuple(next(samples(judged))) == FIELDS
    answers = [answer for image in gallery(judged, 4) for asked in image.questions for answer in asked.answers]
    assert answers and all(answer.ruling is None for answer in answers)
    table = io.StringIO()
    print_table(samples(judged), 1, table)
    assert "read" not in table.getvalue().split("\n")[0].split()


def test_without_columns_of_rules_a_run_is_read_too(judged):
    with judged.connection as connection:
        for name in (*RULED, "authors"):
            connection.execute(f"ALTER TABLE samples DROP COLUMN {name}")
    assert tuple(next(samples(judged))) == FIELDS
    assert gallery(judged, 1)[0].questions[0].answers[0].ruling is None


def test_the_gallery_marks_answers_about_which_rules_disagree(judged):
    shown = {
        asked["id"]: asked["answers"][0] for image in json.loads(payload(gallery(judged, 4)).json) for asked in image["questions"]
    }
    assert (shown["i0-0"]["read"], shown["i0-0"]["rules"]) == ("B", {"our rule": 1.0, "the official rule": 0.0})
    assert shown["i0-1"]["undecided"] is True and "read" not in shown["i0-1"] and "rules" not in shown["i0-1"]
    assert "rules" not in shown["i0-2"] and shown["i0-2"]["read"] == shown["i0-2"]["prediction"]


def test_the_browser_is_told_the_same(judged):
    cell = next(ident for ident, _, facts in judged.cells() if (facts["method"], facts["keep"]) == ("fastv", 24))
    judged.close()
    seen = OpenRun(judged.folder)
    assert overview(seen)["scored"] == "Scored by the official rule (lmms_eval.x.y)."
    rows = {row["id"]: row for row in samples_page(seen, SampleFilter(cell), 0, 100)["rows"]}
    asked = question(seen, "i0-0")["answers"]
    for answer in (rows["i0-0"], *asked):
        assert (answer["read"], answer["rules"]) == ("B", {"our rule": 1.0, "the official rule": 0.0})
    assert rows["i0-1"]["undecided"] is True and "rules" not in rows["i0-2"]
    seen.close()
