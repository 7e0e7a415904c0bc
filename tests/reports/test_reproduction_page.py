"""The page of a reproduction: counts, verdicts, what differs and what was settled, without a script and without a request."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from harness.literature.comparison import ABOVE, BELOW, INSIDE, HeldAgainst
from harness.literature.figures import PublishedFigure
from harness.literature.tables import table
from reports.reproduction import MeanRetention, ReproducedTask, ReproductionPage, as_dict, as_text, line_of, render, sentences


def figure(method: str, keep: str, value: str) -> PublishedFigure:
    return PublishedFigure(
        method, "unknown", "tiny", "shapes", "accuracy", "test", "576", keep, "average", "prunescope", value, "a test", "rerun"
    )


def held(method: str, keep: str, published: str, ours: float | None, verdict: str | None, **words) -> HeldAgainst:
    known = {
        "lo": None if ours is None else ours - 3, "hi": None if ours is None else ours + 3, "why_none": "", "differs": (),
        "unknown": ("version of the method",), "contradicted_by": 0, "images": 24, "questions": 216, "whole": None, "others": 0,
        "others_inside": 0, "matched": "",
    }  # fmt: skip
    return HeldAgainst(method, keep, "average", figure(method, keep, published), ours, verdict=verdict, **{**known, **words})


@pytest.fixture
def page() -> ReproductionPage:
    rows = (
        held("none", "all", "92.1", 92.0, INSIDE),
        held("fastv", "64", "49.1", 60.0, ABOVE),
        held("sts", "64", "89.8", 80.0, BELOW),
        held("tome", "64", "84.3", 84.0, INSIDE, differs=("split: test here, test-dev there",)),
        held("pyramiddrop", "64", "50.0", None, None, why_none="skipped: <keeps 144.8 tokens>", unknown=()),
    )
    return ReproductionPage(
        table("prunescope-tiny"), "tiny",
        (ReproducedTask("shapes", "shapes", "average", rows, True, 24, 216, "cpu, float32", "shapes"),
         ReproducedTask("pope", "pope", "average", (), False)),
        (MeanRetention("fastv", "fastv", "64", "average", 0.652, 0.533, ("shapes",)),),
        ("What was settled is said.",), ("What is left out is said.",),
    )  # fmt: skip


def test_verdicts_are_counted_where_nothing_is_known_to_differ(page):
    assert page.counts == {INSIDE: 1, ABOVE: 1, BELOW: 1, "differ": 1, "without": 1}
    said = " ".join(sentences(page))
    assert "5 figures have a finished run beside them. On 3 nothing is known to differ" in said
    assert "1 more are known to be measured otherwise" in said and "Not run yet, or not finished: pope." in said
    assert as_dict(page)["counts"] == page.counts


def test_the_page_shows_every_row_and_loads_nothing(page):
    made = render(page)
    assert "default-src &#39;none&#39;" in made and "<script" not in made and not re.search(r'(src|href)="https?:', made)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", made.partition("</style>")[2]))
    for row in ("fastv 64 49.1 60.0 57.0 to 63.0 above", "sts 64 89.8 80.0 77.0 to 83.0 below", "What was settled is said."):
        assert row in text
    assert "split: test here, test-dev there" in text and "version of the method" in text
    assert "skipped: &lt;keeps 144.8 tokens&gt;" in made, "texts are escaped"
    assert 'href="shapes/report.html"' in made and 'href="pope/report.html"' not in made
    assert "64 tokens: retention, %" in text and "What is left out is said." in text
    assert "fastv average 53.3 65.2 1" in text, "retention with the number of its tasks"


def test_only_a_verdict_that_counts_stands_out(page):
    assert [line_of(row).apart for row in page.tasks[0].held] == [False, True, True, False, False]
    muted = held("fastv", "64", "49.1", 60.0, ABOVE, differs=("split",))
    assert line_of(muted).muted and not line_of(muted).apart
    assert 'tr class="muted"' in render(page)


def test_the_terminal_shows_the_same(page):
    said = as_text(page)
    assert re.search(r"fastv +64 +49\.1 +60\.0 +57\.0 to 63\.0 +above", said) and "fastv         64" in said
    assert "pope (" not in said, "what was not run has no table"
    assert "- What was settled is said." in said and "- What is left out is said." in said
    told = as_dict(page)
    assert (told["notes"], told["left_out"]) == (["What was settled is said."], ["What is left out is said."])


def test_weights_taken_at_the_users_word_are_said_in_the_terminal_too(page):
    said = "taken for these weights because --model says so"
    task = replace(page.tasks[0], held=tuple(replace(one, matched=said) for one in page.tasks[0].held))
    taken = replace(page, tasks=(task,))
    assert as_text(taken).count(said) == 1 and said in render(taken)


def test_names_are_told_by_which_the_table_has_a_method_and_heads_and_links_are_whole(page):
    late = replace(held("fastv-late", "33.3%", "49.1", 60.0, ABOVE), method="fastv[layer=4]")
    task = replace(page.tasks[0], held=(late,), folder="a b#c", task="forms")
    retention = tuple(
        MeanRetention("fastv-late", "fastv[layer=4]", "33.3%", mode, share, 0.5, ("forms",))
        for mode, share in (("average", 0.6), ("final", 0.7))
    )
    made = replace(page, tasks=(task,), retention=retention)
    assert line_of(late).method == "fastv[layer=4]" and "in the table: fastv-late" in line_of(late).marks
    shown = render(made)
    assert 'href="a%20b%23c/report.html"' in shown and "33.3 % of the tokens: retention, %" in shown
    said = as_text(made)
    assert "forms (run as shapes, a b#c, average)" in said
    for mode, share in (("average", "60.0"), ("final", "70.0")):
        assert re.search(rf"fastv\[layer=4\] \(fastv-late\) +33.3% +{mode} +50.0 +{share}", said), "each mode has its own row"


def test_nothing_run_says_so(page):
    empty = replace(page, tasks=(page.tasks[1],), retention=())
    assert sentences(empty) == ["No run is finished yet, so nothing is held against the table."]
    assert "Not run yet" in render(empty)


def test_a_row_says_how_many_values_contradict_it_and_that_ours_is_of_a_part():
    line = line_of(held("fastv", "64", "49.1", 60.0, ABOVE, contradicted_by=9, contradicting_values=2, partial=True))
    assert line.marks == "contradicted by 9 figures, 2 values; partial"
