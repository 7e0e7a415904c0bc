"""The section *Against what was published*: its sentences, its table, and the page that has none."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest

from harness.literature.comparison import HeldAgainst
from harness.literature.figures import PublishedFigure
from harness.results.against_published import held_against
from harness.results.current_summary import current_summary
from harness.results.report import page
from reports.against_published import as_text, section
from tests.published_runs import run_of_shapes, written


def figure(**fields: str) -> PublishedFigure:
    known = {
        "method": "fastv", "version": "unknown", "model": "m", "task": "pope", "metric": "F1", "split": "test", "tokens": "576",
        "keep": "64", "counts": "average", "prompt": "LLaVA", "value": "80.0", "source": "a paper", "origin": "rerun",
    }  # fmt: skip
    return PublishedFigure(**{**known, **fields})


def held(verdict: str | None = "inside", **fields) -> HeldAgainst:
    one = HeldAgainst(
        method="fastv", keep="64", mode="average", figure=figure(), value=80.0, lo=70.0, hi=85.0, verdict=verdict, why_none="",
        differs=(), unknown=(), contradicted_by=0, images=10, questions=180, whole=9000, others=0, others_inside=0, matched="",
    )  # fmt: skip
    return replace(one, **fields)


def said(*found: HeldAgainst) -> str:
    told = section(found)
    assert told is not None
    return " ".join(told.said)


def test_sentences_count_what_has_no_known_difference_alone():
    text = said(held(), held("above"), held("below"), held("inside", differs=("split: a here, b there",)))
    assert text.startswith("4 published figures stand beside 1 cell of this run, on 10 images with 180 questions of the ")
    assert "benchmark’s 9,000." in text
    assert (
        "3 of them can be judged without a known difference in how they were measured: 1 inside our 95 % interval, 1 with "
        in text
    )


def test_inside_tells_its_width_and_the_values_of_others_in_it():
    text = said(held(others=7, others_inside=5), held(lo=60.0, others=7, others_inside=0))
    assert (
        "Inside proves little where an interval is wide: these are 15.0 to 25.0 points wide, and hold a value of 5 of the "
        "14 other methods printed beside, row by row." in text
    )
    assert said(held()).endswith("this one is 15.0 points wide.")
    assert said(held(others=7)).endswith("15.0 points wide, and holds no value of the 7 other methods printed beside.")
    total = held(figure=figure(metric="MME total", value="1300"), value=1300.0, lo=1200.0, hi=1480.0)
    assert said(held(), total).endswith("these are 10.0 to 15.0 % of their scale wide."), "widths of two scales are no range"
    assert "wide" not in said(held("above")), "an interval that does not hold the value proves nothing by its width"


def test_where_all_differ_or_nothing_is_judged_nothing_is_claimed():
    apart = said(held(differs=("split",)), held("above", differs=("split",)))
    assert "none of them speaks for an agreement or against one" in apart and "inside our" not in apart
    assert said(held(None, why_none="our figure has no interval")).endswith("None of them can be judged; the table says why.")


def test_no_sentence_calls_anything_reproduced():
    told = section([held(others=7), held("above", contradicted_by=2, matched="matched by the name of its folder, x, alone")])
    assert told is not None
    text = " ".join((*told.said, *told.common, *told.fine)).lower()
    assert not re.search("reproduc|confirm|agree with|correct(?!ed for how many)", text)
    assert "the model: matched by the name of its folder, x, alone." in text and "--contradictions" in text


def test_the_small_print_promises_no_share_of_verdicts_and_says_what_is_in_no_interval():
    told = section([held("above")] * 13 + [held(None, why_none="our figure has no interval")])
    assert told is not None
    text = " ".join(told.fine)
    assert "would lie outside" not in text and not re.search(r"about \d", text)
    for part in ("Intervals are of our images alone", "source’s own sampling is in no interval", "is corrected",
                 "how many questions it asked is in no table: unknown", "images were brought to its size: unknown"):  # fmt: skip
        assert part in text
    assert "pads images" not in text
    llava = section([held(figure=figure(model="llava-hf/llava-1.5-7b-hf"), partial=True)])
    assert llava is not None and "LLaVA’s own evaluation pads images to a square" in " ".join(llava.fine)
    assert "Partial: our value is an estimate" in " ".join(llava.fine) and "partial" in llava.rows[0].span


def test_rows_of_a_cell_that_cannot_be_judged_are_one_with_every_value_in_it():
    unknown = [held(None, figure=figure(metric="unknown", value=f"{80 + i}.0", source=f"paper {i}"), value=None, lo=None, hi=None,
                    why_none="metric unknown", unknown=("metric", "prompt")) for i in range(4)]  # fmt: skip
    accuracy = held(None, figure=figure(metric="accuracy", value="79.5"), value=None, lo=None, hi=None, unknown=("prompt",),
                    why_none="this run reports F1", differs=("metric: F1 here, accuracy there",))  # fmt: skip
    judged, alone = held(unknown=("prompt",)), replace(unknown[0], method="tome")
    told = section([judged, *unknown, accuracy, alone])
    assert told is not None and [len(row.folded) for row in told.rows] == [0, 5, 0]
    folded = told.rows[1]
    assert folded.remark == "5 figures: metric unknown (4), this run reports F1 (1)" and folded.published_text == "5 values"
    assert (folded.ours, folded.span, folded.counts) == (None, (), False)
    for i in range(4):
        assert f"8{i}.0 (paper {i}, re-run); metric unknown" in folded.folded
    assert "79.5 (a paper, re-run); accuracy, %; differs: metric: F1 here, accuracy there" in folded.folded
    alike = section([judged, *unknown])
    assert alike is not None and alike.rows[1].remark == "4 figures: metric unknown"
    assert alike.rows[1].metric == "metric unknown" and alike.unit == "F1, %"


def test_a_value_of_an_unknown_metric_is_said_to_be_that_and_nothing_is_said_of_ours():
    one = held(None, figure=figure(metric="unknown"), value=None, lo=None, hi=None, why_none="metric unknown", partial=True)
    told = section([held(), one])
    assert told is not None
    row = told.rows[1]
    assert (row.ours_text, row.span, row.metric) == ("–", (), "metric unknown") and told.rows[0].metric == ""
    text = as_text([held(), one])
    assert "no verdict (metric unknown); metric unknown, published 80.0 (a paper, re-run)" in text and "no interval)" not in text


@pytest.mark.parametrize(("by", "values", "text"), [
    (0, 0, ""), (1, 1, "contradicted by 1 figure"), (9, 2, "contradicted by 9 figures, 2 values"),
    (8, 1, "contradicted by 8 figures, 1 value"),
])  # fmt: skip
def test_contradictions_count_figures_and_values(by, values, text):
    told = section([held(contradicted_by=by, contradicting_values=values)])
    assert told is not None and told.rows[0].contradicted == text


def test_what_is_the_same_in_all_rows_stands_once_above_them():
    pruned = [held(unknown=("version", "prompt")), held(method="tome", unknown=("prompt",))]
    whole = held(method="none", keep="all", unknown=("prompt",))
    told = section([whole, *pruned])
    assert told is not None and told.common == ("Unknown of every pruned cell: prompt.",)
    assert [row.unknown for row in told.rows] == [("prompt",), ("version",), ()]
    assert [row.order for row in told.rows] == [1, 0, 0] and told.unit == "F1, %"


def test_rows_of_several_metrics_name_theirs():
    assert section([held()]).rows[0].metric == ""
    told = section([held(), held(figure=figure(metric="MME total", value="1284"), value=1300.0, lo=1200.0, hi=1400.0)])
    assert told is not None and told.unit == ""
    assert [row.metric for row in told.rows] == ["F1, %", "MME total of 2,800"] and told.rows[1].ours_text == "1,300.0"


def test_lines_for_a_terminal_say_the_same():
    text = as_text([held(unknown=("prompt",), contradicted_by=1), held(None, why_none="no interval here", lo=None, hi=None)])
    assert "at 64: inside; F1 80.0 [70.0 to 85.0, 15.0 wide], published 80.0 (a paper, re-run; contradicted by 1 figure)" in text
    assert "unknown: prompt" in text and "no verdict (no interval here); F1 80.0 (no interval), published 80.0" in text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of_shapes(tmp_path_factory.mktemp("shapes") / "run")


@pytest.fixture(scope="module")
def figures(run, tmp_path_factory):
    score = next(cell["score"] for cell in current_summary(run)["cells"] if cell["method"] == "fastv")
    middle, high = f"{score['value']:.1f}", f"{score['hi'] + 1:.1f}"
    return written(
        tmp_path_factory.mktemp("table"),
        {"method": "none", "keep": "all", "value": middle}, {"method": "fastv", "keep": "64", "value": middle},
        {"method": "fastv", "keep": "64", "value": high, "source": "<b>x</b> =1+1", "origin": "copied", "version": "layer=2"},
        {"method": "tome", "keep": "64", "value": middle, "split": "val", "prompt": "unknown"},
        *({"method": "tome", "keep": "64", "value": value, "metric": "unknown"} for value in ("12.25", "98.75")),
    )  # fmt: skip


def test_a_page_without_anything_published_has_no_trace_of_the_section(run):
    summary = current_summary(run)
    traces = ("#against", 'id="against', "Against what was published", "against-table")
    assert not [trace for trace in traces if trace in page(run, summary, 1, ())]
    assert page(run, summary, 1, ()) == page(run, summary, 1, written_elsewhere())


def written_elsewhere() -> tuple[PublishedFigure, ...]:
    return (figure(model="llava-hf/llava-1.5-7b-hf"),)


def test_the_section_is_found_from_the_navigation_and_escapes_what_it_shows(run, figures):
    html = page(run, current_summary(run), 1, figures)
    assert html.count('<a href="#against">Against what was published</a>') == 1 and html.count('<section id="against"') == 1
    assert "&lt;b&gt;x&lt;/b&gt; =1+1, copied" in html and "<b>x</b>" not in html
    apart = [one for one in held_against(run, current_summary(run), figures) if not one.counts]
    assert html.count('class="apart"') == sum(one.verdict is not None for one in apart) + 1 > 1
    assert html.count("<summary>2 values, one by one</summary>") == 1 and "<li>12.25 (a table of tests, re-run)" in html


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1280, "dark"), (1280, "light")])
def test_the_section_in_a_browser(run, figures, tmp_path, width, scheme):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    from tests.reports.test_browser import CHROMIUM, FLAGS

    path = tmp_path / "report.html"
    path.write_text(page(run, current_summary(run), 1, figures), encoding="utf-8")
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        shown = context.new_page()
        shown.goto(path.as_uri())
        shown.locator('nav a[href="#against"]').click()
        assert shown.locator("#against h2").is_visible()
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        verdicts = shown.locator("#against-table td.verdict")
        assert verdicts.count() == 7 and verdicts.first.bounding_box()["x"] + 40 < width, "a verdict is seen without scrolling"
        folded = shown.locator("#against-table details")
        assert not folded.locator("li").first.is_visible()
        folded.locator("summary").click()
        lines = folded.locator("li").all_inner_texts()
        assert [line.partition(" (a table of tests, re-run)")[0] for line in lines] == ["12.25", "98.75"]
        found = axe.Axe().run(shown, options={"resultTypes": ["violations"]}).response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
        copies = {}
        for kind in ("csv", "markdown", "latex"):
            shown.locator(f'[data-copy="against-table"] [data-as={kind}]').click()
            sync_api.expect(shown.locator("#said")).to_contain_text("Copied", timeout=30_000)
            copies[kind] = shown.evaluate("navigator.clipboard.readText()")
        browser.close()
    rows = list(csv.DictReader(io.StringIO(copies["csv"])))
    held_here = [one for one in held_against(run, current_summary(run), figures) if one.verdict is not None]
    last = rows.pop()
    assert (last["method"], last["published"], last["ours"]) == ("tome", "", "") and "98.75" in last["printed in"]
    assert [(row["method"], float(row["published"])) for row in rows] == [(one.method, one.figure.number) for one in held_here]
    assert [float(row["ours.lo"]) for row in rows] == [one.lo for one in held_here]
    assert "ours below" in copies["markdown"] and "\\toprule" in copies["latex"]
