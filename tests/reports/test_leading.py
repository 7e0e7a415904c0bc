"""A benchmark's own figure leads the page, in its own unit; partial figures bear their mark; the rule that scored is told."""

from __future__ import annotations

import re
from functools import cache

import pytest

from reports import headline, markdown
from reports.cells import in_order, leading, leading_share, measured, method, number, strata
from reports.findings import findings
from reports.leading import Unit, unit_of
from reports.losses import losses
from reports.page import render
from reports.scoring import scoring
from reports.table import table
from reports.view import RunView

FIGURES = {
    "mme": ("mme", "MME total", 2800.0),
    "mmbench": ("circular", "circular accuracy", 100.0),
    "pope": ("f1", "F1", 100.0),
    "ocrbench": ("mean", "OCRBench total", 1000.0),
}
OFFICIAL = "lmms_eval.tasks.x.utils.x_process_results, lmms-eval 0.7.3"


def span(value: float, half: float, **more) -> dict:
    return {"value": value, "lo": value - half, "hi": value + half, **more}


def cell(name: str, share: float, accuracy: float, task: str = "mme", k: int | None = 64, partial: bool = False, **more) -> dict:
    _, figure, scale = FIGURES[task]
    score = span(scale * share, 0.01 * scale, name=figure, scale=scale, partial=partial)
    return {"model": "m", "task": task, "method": name, "keep": k, "n": 500, "n_images": 250, "accuracy": span(accuracy, 0.02),
            "score": score, "tokens": {"average": k or 576, "final": k or 576}, **more}  # fmt: skip


def run_of(task: str = "mme", partial: bool = False, rule: str = "official", whole: int | None = None) -> RunView:
    """A run in which the own figure and accuracy rank the methods the other way round."""
    counts = lambda differ, undecided: {"rule": rule, "n": 500, "differ": {"ours": differ}, "undecided": undecided}
    gap = span(-0.02, 0.01, p=0.01, p_adjusted=0.02)
    rival = span(-0.05, 0.01, p=0.001, p_adjusted=0.002)
    cells = [
        cell("none", 0.66517, 0.8, task, None, partial, scoring=counts(12, 0)),
        cell("blind", 0.4, 0.5, task, None, partial, scoring=counts(0, 0)),
        cell("a", 0.61, 0.6, task, partial=partial, difference_none=gap, scoring=counts(31, 3), pareto={"flops": {"on": True}},
             non_inferior={"margin": 0.02, "holds": False, "p": 0.4, "p_best": 0.8}, flops={"total": 1e9}, difference_like=gap),
        cell("b", 0.56, 0.7, task, partial=partial, difference_none=span(-0.1, 0.01, p=0.0001, p_adjusted=0.001),
             flops={"total": 2e9}, difference_winner=rival, scoring=counts(5, 1),
             seeds={"seeds": 3, "sd": 0.01, "lowest": 0.55, "highest": 0.58},
             families={"colour": {"value": 0.5}}),
        cell("downsample", 0.5, 0.55, task, partial=partial, reference=True, scoring=counts(5, 0)),
    ]  # fmt: skip
    cells[0]["families"] = {"colour": {"value": 0.75}}
    kind, name, scale = FIGURES[task]
    told = {"rule": rule, "rules": {"ours": "harness.tasks.choice.judge", "official": OFFICIAL}, "undecided": "draws a letter",
            "figure": {"kind": kind, "name": name, "scale": scale, "options": {}}}  # fmt: skip
    manifest = {"model": "m", "task": task, "scoring": told, "whole": whole and {"images": None, "questions": whole}}
    return RunView(manifest, cells)


@cache
def page_of(task: str = "mme", partial: bool = False) -> str:
    """The page of `run_of`, drawn once for all tests."""
    return render(run_of(task, partial, whole=2374))


def words(page: str) -> str:
    """What a reader sees before the figures, in one line, with spaces of one kind."""
    seen = re.sub(r"<script>.*?</script>|<style>.*?</style>|<svg.*?</svg>", "", page, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", seen).replace("&nbsp;", " ").replace("\u00a0", " ").split())


@pytest.mark.parametrize("task", ["mme", "mmbench"])
def test_the_own_figure_leads_everywhere_in_its_unit(task):
    view = run_of(task)
    _, name, scale = FIGURES[task]
    sign = "%" if scale == 100 else f"of {scale:,.0f}"
    page = page_of(task)
    seen = words(page)
    assert f"a {name} {0.61 * scale:,.1f} {sign} by the official rule, 95 % interval" in seen
    assert f"Unpruned: {name} {0.66517 * scale:,.1f} {sign} [" in seen
    points = "points" if scale == 100 else f"points {sign}"
    assert f"Lower {name} than the unpruned model: −{0.02 * scale:.1f} {points}" in seen
    assert f"at a margin of {0.02 * scale:.0f} {points} is not shown" in seen
    assert f"At 64 tokens a has the highest {name}: ahead of the next, b, by {0.05 * scale:.0f} {points}" in seen
    axis = f"{name}, %" if scale == 100 else f"{name} ({sign})"
    assert axis in page[page.index('id="figure-s0-flops"') :]
    assert f"{name} against FLOPs".lower() in seen.lower() and "Accuracy against" not in seen
    title = name[:1].upper() + name[1:]
    assert markdown.table(view.cells).splitlines()[0].startswith(f"| Method | Keep | {title} {sign} | Retention % |")


@pytest.mark.parametrize("task", ["mme", "mmbench"])
def test_every_digit_of_the_own_figure_is_that_of_the_summary(task):
    view, page = run_of(task), page_of(task)
    body = page[page.index('<table id="table">') :]
    rows = re.findall(r"<tr class=.*?</tr>", body[body.index("<tbody>") :], re.S)
    ranked = measured(view.cells)
    assert len(rows) == len(ranked)
    for row, line, one in zip(rows, markdown.table(view.cells).splitlines()[2:], ranked, strict=True):
        score = one["score"]
        raw, lo, hi, text = re.search(
            r'data-column="score" data-value="([^"]+)" data-lo="([^"]+)" data-hi="([^"]+)">([^<]+)', row
        ).groups()
        assert (float(raw), float(lo), float(hi)) == (score["value"], score["lo"], score["hi"])
        assert text == f"{score['value']:,.1f}"
        assert line.split(" | ")[2] == f"{score['value']:,.1f} [{score['lo']:,.1f} to {score['hi']:,.1f}]"
    at = [c.path for c in table(view.cells, []).columns].index("difference_none")
    for made in table(view.cells, []).rows:
        if made.method in "ab":
            change = next(c for c in view.cells if method(c) == made.method)["difference_none"]["value"]
            assert made.entries[at].text == f"{FIGURES[task][2] * change:+,.1f}".replace("-", "−")


def test_dividing_by_the_scale_changes_no_digit():
    for value in (6.25, 12.05, 1862.25, 2799.95, 33.35, 85.85):
        for scale in (100.0, 1000.0, 2800.0):
            one = {"score": {"name": "x", "value": value, "lo": value, "hi": value, "scale": scale, "partial": False}}
            assert unit_of(one).digits(leading_share(one)) == f"{value:,.1f}"


def test_cells_are_ranked_by_the_own_figure():
    view = run_of()
    assert [method(c) for c in in_order(view.cells)] == ["none", "blind", "a", "b", "downsample"]
    (group,) = strata(view.cells)
    (head,) = headline.headlines(group)
    assert head.best == "a" and head.value == "1,708.0" and head.sign == "of 2,800"
    (told,) = [f for f in findings(group) if f.kind == "winner"]
    assert told.figures == ("score", "difference_winner")
    by_accuracy = [{k: v for k, v in c.items() if k != "score"} for c in view.cells]
    assert headline.headlines(strata(by_accuracy)[0])[0].best == "b", "an older run is ranked by accuracy"


def test_what_is_lost_is_told_in_points_of_the_scale_and_single_answers_in_points_of_accuracy():
    view = run_of()
    (lost,) = losses(strata(view.cells)[0])
    assert [row.lost.text for row in lost.rows] == ["−56.0", "−280.0"] and lost.rows[1].where == "colour −25.0"
    seen = words(page_of())
    assert "b −280.0 points of 2,800 , most in colour −25.0 (points of accuracy)" in seen
    assert "Lost: MME total minus the unpruned model" in seen


@pytest.mark.parametrize("task", ["mme", "pope"])
def test_a_partial_figure_bears_its_mark_wherever_it_stands(task):
    view = run_of(task, partial=True, whole=2374)
    _, name, scale = FIGURES[task]
    sign = "%" if scale == 100 else f"of {scale:,.0f}"
    page = page_of(task, partial=True)
    seen = words(page)
    values = {f"{c['score']['value']:,.1f} {sign}" for c in view.cells}
    for value in values:
        for found in re.finditer(rf"(?<![\d,.−+]){re.escape(value)}", seen):
            assert re.match(r"(?: \[[^\]]*\])?,? partial\b", seen[found.end() :]), seen[found.start() - 40 : found.end() + 40]
    assert f"{0.61 * scale:,.1f} {sign} partial" in seen
    assert page.count('data-partial="partial"') == len(view.cells)
    assert seen.count(f"Partial: {name} is of 500 of 2,374 questions") == 1
    text = markdown.table(view.cells, view.manifest)
    assert text.count("] partial |") == len(view.cells) and f"Partial: {name} is of 500 of 2,374 questions" in text
    axis = f"{name}, % (partial)" if scale == 100 else f"{name} ({sign}, partial)"
    assert axis in page
    assert "partial" not in words(page_of("mme")).lower()


def test_plain_accuracy_of_a_subset_is_marked_too():
    score = {"name": "accuracy", "scale": 100.0, "partial": True}
    cells = [
        {**c, "score": {**score, **{end: 100 * c["accuracy"][end] for end in ("value", "lo", "hi")}}} for c in run_of().cells
    ]
    (head,) = headline.headlines(strata(cells)[0])
    assert (head.best, head.value, head.partial, head.named) == ("b", "70.0", True, False)
    assert headline.image_worth(strata(cells)[0]).startswith("Unpruned: 80.0 % [78.0 to 82.0], partial.")
    assert table(cells, []).rows[0].entries[0].detail == "78.0 to 82.0; partial"
    said = ["Partial: accuracy is of 500 of 12,578 questions, and is no figure to set beside published ones."]
    assert scoring({"whole": {"questions": 12578}}, cells) == said


def test_a_summary_with_plain_accuracy_reads_as_one_of_an_older_version():
    """The page of a task that reports accuracy is what it was, to the byte."""
    older = [{name: value for name, value in c.items() if name not in ("score", "scoring")} for c in run_of().cells]
    plain = {"name": "accuracy", "scale": 100.0, "partial": False}
    newer = [{**c, "score": {**plain, **{end: 100 * c["accuracy"][end] for end in ("value", "lo", "hi")}}} for c in older]
    page = render(RunView({}, older))
    assert render(RunView({}, newer)) == page and markdown.table(newer) == markdown.table(older)
    assert "b 70.0 % accuracy, 95 % interval 68.0 to 72.0;" in words(page)
    assert "Scored by" not in page and "partial" not in words(page)


def test_a_cell_without_its_figure_is_not_read_as_accuracy():
    assert leading({"accuracy": span(0.5, 0.1), "score": None}) is None
    assert unit_of({"accuracy": span(0.5, 0.1), "score": None}, None) == Unit()


def test_the_page_says_which_rule_leads_and_how_often_others_differ():
    view = run_of()
    said = scoring(view.manifest, view.cells)
    assert said == [
        f"Scored by the official rule ({OFFICIAL}).",
        "Our rule (harness.tasks.choice.judge) gives another score to 12 of 500 answers of none, at most 31 of 500 (a at 64).",
        "Where the official rule cannot decide, its own code draws a letter; here such an answer counts as wrong: "
        "0 of 500 answers of none, at most 3 of 500 (a at 64).",
    ]
    seen, text = words(page_of()), markdown.table(view.cells, view.manifest)
    for sentence in said:
        assert sentence in seen and sentence in text
    made = table(view.cells, [])
    differ, undecided = ([c.path for c in made.columns].index(p) for p in ("scoring.differ.ours", "scoring.undecided"))
    assert [row.entries[differ].raw for row in made.rows] == [12, 0, 31, 5, 5]
    assert (made.rows[2].entries[undecided].text, made.rows[2].entries[undecided].detail) == ("3", "of 500")


def test_rules_that_agree_and_a_task_with_one_rule_are_told_shortly():
    view = run_of()
    cells = [{**c, "scoring": {"rule": "official", "n": 500, "differ": {"ours": 0}, "undecided": 0}} for c in view.cells]
    assert scoring(view.manifest, cells)[1:] == ["Our rule (harness.tasks.choice.judge) agrees about every answer."]
    alone = {"scoring": {"rule": "ours", "rules": {"ours": "f"}, "undecided": "", "figure": {}}}
    assert scoring(alone, [{"method": "none", "scoring": {"rule": "ours", "n": 5, "differ": {}, "undecided": 0}}]) == [
        "Scored by our rule (f)."
    ]
    assert scoring({}, view.cells) == []


def test_tasks_of_several_scales_on_one_page_say_their_own():
    view = run_of()
    other = run_of("pope", partial=True).cells
    page = words(render(RunView(view.manifest, view.cells + other)))
    made = table(view.cells + other, [])
    assert made.columns[0].title == "Score" and made.columns[0].path == "score"
    assert {row.entries[0].text for row in made.rows} >= {"1,708.0 of 2,800", "61.0 %"}
    assert "a F1 61.0 % partial" in page and "a MME total 1,708.0 of 2,800 by" in page
    assert "| 1,708.0 of 2,800 [" in markdown.table(view.cells + other)


def cells_of(page: str, start: str) -> list[dict[str, str]]:
    """The cells of a table of the page, each with its attributes that a copy reads."""
    body = page[page.index(start) :]
    found = re.findall(r"<td([^>]*)>", body[: body.index("</table>")])
    return [dict(re.findall(r'data-([a-z]+)="([^"]*)"', text)) for text in found]


@pytest.mark.parametrize("task", ["mme", "pope"])
def test_what_is_lost_is_copied_under_the_names_of_its_numbers(task):
    """The heads tell points of the scale, the numbers behind them are shares: a copy names them as summary.json does."""
    view, page = run_of(task), page_of(task)
    (group,) = strata(view.cells)
    found = cells_of(page, 'id="s0-losses-64"')
    rows = losses(group)[0].rows
    assert len(found) == 5 * len(rows)
    for i, row in enumerate(rows):
        one = next(c for c in view.cells if method(c) == row.method)
        for cell_ in found[5 * i : 5 * i + 5]:
            raw = number(one, cell_["column"])
            assert cell_["value"] == ("" if raw is None else str(raw)), cell_
    assert [cell_["column"] for cell_ in found[:5]] == [
        "difference_none", "evidence.recall", "evidence.swap_gain", "difference_like", "latency.ttft"
    ]  # fmt: skip


def test_a_copy_tells_in_what_the_figure_is_counted():
    view = run_of()
    told = [one for one in cells_of(page_of(), '<table id="table">') if one.get("column") == "score"]
    assert [(one["name"], one["scale"]) for one in told] == [("MME total", "2800.0")] * len(view.cells)
    mixed = table(view.cells + run_of("pope", partial=True).cells, [])
    assert {(row.entries[0].name, row.entries[0].scale, row.entries[0].partial) for row in mixed.rows} == {
        ("MME total", 2800.0, False), ("F1", 100.0, True)
    }  # fmt: skip
    plain = [{name: value for name, value in c.items() if name != "score"} for c in view.cells]
    assert all(entry.scale is None for row in table(plain, []).rows for entry in row.entries)


def test_accuracy_beside_another_figure_bears_its_mark_in_a_copy():
    score = {"name": "accuracy", "scale": 100.0, "partial": True, "value": 70.0, "lo": 68.0, "hi": 72.0}
    cells = [run_of().cells[2], {**run_of("pope").cells[3], "score": score, "accuracy": span(0.7, 0.02)}]
    made = table(cells, [])
    at = {row.method: row.entries[0] for row in made.rows}
    assert made.columns[0].path == "score" and (at["b"].partial, at["b"].name, at["b"].scale) == (True, "accuracy", 100.0)
    assert not at["a"].partial


@pytest.mark.parametrize(
    ("task", "defined"),
    [("pope", "harmonic mean of precision and recall of the answer yes, over all questions"),
     ("ocrbench", "right answers of 1,000: the mean score of the questions, scaled to 1,000"),
     ("mmbench", "share of the questions that are answered right in all rotations of their options")],
)  # fmt: skip
def test_the_page_defines_the_figure_as_it_is_made(task, defined):
    assert f"{defined}, with its 95 % interval" in words(page_of(task))
    assert "questions whose right answer is yes" not in words(page_of(task))


def test_the_word_retention_is_kept_for_the_figure_that_leads():
    """The heat map of families is of accuracy: beside a column of retention of F1 its own share needs another name."""
    page = words(page_of("pope"))
    assert "Accuracy kept by question family at 64 tokens" in page and "Retention by question family" not in page
    assert "Accuracy (the mean score of single answers, under “all” too, not F1) at 64 tokens as a percentage" in page
    mean = [{**c, "accuracy": {end: c["score"][end] / 1000 for end in ("value", "lo", "hi")}} for c in run_of("ocrbench").cells]
    page = words(render(RunView({}, mean)))
    assert "Accuracy (the mean score of single answers) at 64 tokens" in page, "a total of answers is no other number"
    plain = [{name: value for name, value in c.items() if name not in ("score", "scoring")} for c in run_of().cells]
    page = words(render(RunView({}, plain)))
    assert "Retention by question family at 64 tokens" in page and "Accuracy at 64 tokens as a percentage" in page


def test_captions_of_partial_accuracy_bear_the_mark():
    assert Unit(partial=True).defined == "Share of questions answered right, partial"
    assert Unit().defined == "Share of questions answered right"


@pytest.mark.parametrize(
    ("task", "tail"), [("mme", "It is scaled to the whole, and is no figure to set"), ("pope", "It is no figure to set")]
)
def test_a_benchmark_of_unknown_size_is_told(task, tail):
    view = run_of(task, partial=True)
    view.manifest["whole"] = {"images": 250, "questions": None}
    said = f"{FIGURES[task][1]} is of 500 questions; how many the whole benchmark has is not known here. {tail} beside"
    for text in (words(render(view)), markdown.table(view.cells, view.manifest), " ".join(scoring(view.manifest, view.cells))):
        assert f"Partial: {said}" in text and " of 500 of " not in text
    less = [{name: value for name, value in c.items() if name != "n"} for c in view.cells]
    assert "Partial: how many questions the whole benchmark has is not known here." in " ".join(scoring(view.manifest, less))
