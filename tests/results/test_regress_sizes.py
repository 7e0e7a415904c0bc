"""Runs on images of several sizes: schedules and FLOPs are means over them, and compare only where the images do."""

from __future__ import annotations

import pytest

from harness.results.regression.regress import regress

CELL = "sts at 64"


@pytest.fixture
def sized(make_run, edit_facts):
    """Makes runs whose first ``large`` images have 144 tokens, the rest 36; their means are over all of them."""

    def make(images, large, **build):
        run, share = make_run(images=images, **build), large / len(images)
        small = [f"i{i}" for i in images[large:]]
        with run.connection:
            layouts = [(0, f"i{i}", *((144, 12, 12) if place < large else (36, 6, 6))) for place, i in enumerate(images)]
            run.connection.executemany("INSERT INTO layouts VALUES (?, ?, ?, ?, ?)", layouts)
            run.connection.executemany(
                "UPDATE samples SET kept_count = min(kept_count, 36) "
                "WHERE question IN (SELECT id FROM questions WHERE image = ?)", [(image,) for image in small]
            )  # fmt: skip
        mean = lambda of_large, of_small: share * of_large + (1 - share) * of_small
        for _, _, facts in run.cells():
            if facts["schedule"]:
                planned = [mean(n, min(n, 36)) for n in facts["schedule"]]
                flops = {name: value * mean(1, 0.2) for name, value in facts["flops"].items()}
                edit_facts(run, facts["method"], facts["keep"], schedule=planned, flops=flops)
        return run

    return make


def failed(found) -> set[tuple[str, str]]:
    return {(v.rule, v.cell) for v in found.failed}


def of_cell(found) -> dict:
    return {v.rule: v for v in found.verdicts if v.cell == CELL}


def test_other_images_compare_size_by_size(sized):
    one, other = sized(range(24), 6), sized(range(100, 124), 18)
    found = regress(one, other)
    assert not found.failed
    told = of_cell(found)
    assert told["schedule"].status == "passed"
    assert "images of equal size (2 sizes)" in told["schedule"].text
    assert {told[rule].status for rule in ("flops", "kv_bytes")} == {"not judged"}
    assert "other images" in told["flops"].text
    planted = regress(one, sized(range(100, 124), 18, schedule={("sts", 64): 4}))
    assert failed(planted) == {("schedule", CELL)}
    assert "of 1 of the 2 sizes" in of_cell(planted)["schedule"].text


def test_the_same_images_compare_to_the_last_digit(sized):
    one = sized(range(24), 6)
    assert not regress(one, sized(range(24), 6, machine=1)).failed
    assert failed(regress(one, sized(range(24), 6, schedule={("sts", 64): 4}))) == {("schedule", CELL)}


def test_images_without_a_size_in_common_do_not_compare(sized):
    found = regress(sized(range(24), 24), sized(range(100, 124), 0))
    assert not found.failed
    told = of_cell(found)
    assert {told[rule].status for rule in ("schedule", "flops", "kv_bytes", "latency")} == {"not judged"}
    assert "images of different sizes" in told["latency"].text


def test_images_all_of_one_size_compare_whichever_they_are(sized):
    found = regress(sized(range(24), 24), sized(range(100, 124), 24, schedule={("sts", 64): 4}))
    assert failed(found) == {("schedule", CELL)}
    assert "LLM layer 0: 64 → 60" in of_cell(found)["schedule"].text
