"""What the page and the Markdown table say equals what the cells hold, and no more than the tests allow."""

from __future__ import annotations

import re

import pytest

from reports import headline, markdown, svg, wording
from reports.cells import dig, imitated, keep, measured, method, number, role, strata
from reports.figures.tokens import chance_table
from reports.gallery import bits
from reports.page import render
from reports.style import looks
from reports.table import columns, table
from reports.view import RunView


def test_table_equals_the_cells(run, page):
    body = page[page.index('<table id="table">') :]
    body = body[: body.index("</table>")]
    rows = re.findall(r"<tr class=.*?</tr>", body[body.index("<tbody>") :], re.S)
    shown = measured(run.cells)
    assert len(rows) == len(shown) == len([c for c in run.cells if not c["skipped"]])
    for row, cell in zip(rows, shown, strict=True):
        assert f'data-value="{method(cell)}"' in row
        for path, raw in re.findall(r'data-column="([^"]+)" data-value="([^"]*)"', row):
            found = dig(cell, path)
            found = found["value"] if isinstance(found, dict) else found
            assert raw == ("" if found is None else str(found)), path


def test_rounded_text_belongs_to_its_number(run):
    made = table(run.cells, strata(run.cells))
    at = [c.path for c in made.columns].index("accuracy")
    for row, cell in zip(made.rows, measured(run.cells), strict=True):
        assert row.entries[at].text == f"{100 * cell['accuracy']['value']:.1f}"
        assert row.entries[at].detail.startswith(f"{100 * cell['accuracy']['lo']:.1f} to {100 * cell['accuracy']['hi']:.1f}")
        assert row.entries[at].detail.endswith("; 5 seeds 69.0 to 72.0") == (cell["method"] == "random")
    unit = next(c.unit for c in made.columns if c.path == "flops.total")
    assert unit == "GFLOPs"
    assert {c.path for c in columns((1.0, "FLOPs"))} - {c.path for c in made.columns} == {"memory.working_bytes"}
    wide = next(row for row, c in zip(made.rows, measured(run.cells), strict=True) if (c["latency"] or {}).get("wide"))
    paths = [c.path for c in made.columns]
    ttft, ratio = (wide.entries[paths.index(f"latency.{name}")] for name in ("ttft", "ratio"))
    assert float(ttft.text) and " to " in ttft.detail and not ttft.mark
    assert ttft.note == "24 rounds, which vary by 3 %" and ttft.detail.endswith("; none\u00a0118")
    assert float(ratio.text) and ratio.mark == "wide" and ratio.note == "wide: the truth may be 18 % off"
    assert wide.entries[paths.index("latency.sum_gap")].text == "+5.0"
    assert not [row for row in made.rows if row is not wide and row.entries[paths.index("latency.ratio")].mark]


def cell(name: str, accuracy: float, k: int | None = 64, **more) -> dict:
    value = {"value": accuracy, "lo": accuracy - 0.02, "hi": accuracy + 0.02}
    return {"model": "m", "task": "t", "method": name, "keep": k, "accuracy": value, **more}


def gap(value: float, p: float, adjusted: float | None = None) -> dict:
    return {"value": value, "lo": value - 0.02, "hi": value + 0.02, "p": p, "p_adjusted": adjusted}


def said(*cells: dict) -> str:
    (group,) = strata(list(cells))
    (head,) = headline.headlines(group)
    return f"{head.best}: " + " ".join(f"({s.verdict}) {s.text}" for s in head.sentences)


def test_references_never_win():
    text = said(
        cell("oracle", 0.9),
        cell("random", 0.7),
        cell("downsample", 0.72, reference=True),
        cell("a", 0.6),
        cell("b", 0.5),
    )
    assert text.startswith("a: ")
    assert "(open) It was not tested against downsample, a smaller image at the same budget (72.0 %)." in text
    assert "(open) random reaches 70.0 % [68.0 to 72.0]: the method is below it, which is no test" in text
    assert "(bad)" not in text and "(good)" not in text, "intervals that lie apart are no test"


@pytest.mark.parametrize(
    ("difference", "phrase"),
    [
        (
            gap(-0.05, 0.0001, 0.0004),
            "(bad) Less accurate than the unpruned model: −5.0 points [−7.0 to −3.0], p < 0.001, corrected",
        ),
        (gap(-0.05, 0.01, 0.07), "(open) No difference from the unpruned model could be shown"),
        (gap(-0.01, 0.4, 0.9), "a loss of up to 3.0 points fits these data"),
        (
            gap(0.04, 0.004, 0.01),
            "(good) More accurate than the unpruned model: +4.0 points [+2.0 to +6.0], p = 0.010, corrected.",
        ),
        (
            gap(0.04, 0.004),
            "(open) Against the unpruned model, without a corrected test: +4.0 points [+2.0 to +6.0], raw p = 0.004.",
        ),
    ],
)
def test_difference_to_none_is_phrased_by_its_test(difference, phrase):
    assert phrase in said(cell("a", 0.6, difference_none=difference))


@pytest.mark.parametrize(
    ("difference", "phrase"),
    [
        (gap(0.05, 0.001, 0.002), "(good) Its ranking beats random tokens on the same schedule"),
        (gap(0.01, 0.2, 0.6), "(open) Its ranking could not be told from random tokens on the same schedule"),
        (gap(-0.05, 0.001, 0.01), "(bad) Its ranking does worse than random tokens"),
        (gap(-0.05, 0.001), "(open) Against random tokens on the same schedule, without a corrected test"),
    ],
)
def test_worth_of_the_ranking_is_phrased_by_its_test(difference, phrase):
    assert phrase in said(cell("a", 0.6, difference_like=difference))


def test_ties_and_missing_controls_are_said():
    text = said(cell("a", 0.60), cell("b", 0.59), cell("c", 0.5))
    assert "First place is not settled: within its interval lies b (59.0 %)." in text
    assert "No random control at this budget" in text
    overlap = said(cell("a", 0.6), cell("random", 0.59))
    assert "(open) random reaches 59.0 % [57.0 to 61.0]: the method is above it, which is no test" in overlap


def test_markdown_has_every_cell_and_reason(run):
    text = markdown.table(run.cells)
    lines = text.splitlines()
    assert len({line.count("|") for line in lines[: 2 + len(measured(run.cells))]}) == 1
    for shown, line in zip(measured(run.cells), lines[2:], strict=False):
        assert line.startswith(f"| `{method(shown)}` | {keep(shown) or '–'} | {100 * shown['accuracy']['value']:.1f} [")
    assert lines[-3] == "- `visionzip` at 64: the tower has no CLS token; use visionzip\\[score=received\\]"
    assert lines[-2:] == ["", "A speed-up marked wide is known less closely than to 5 %: read its interval."]


def test_markdown_marks_what_is_uncorrected_wide_or_without_interval():
    latency = {"ttft": {"value": 5.0, "lo": 4.0, "hi": 8.0}, "ratio": {"value": 2.0, "lo": 1, "hi": 3}}
    rows = [
        cell("fastv", 0.5, difference_none=gap(-0.1, 0.0002, 0.0006), latency={**latency, "wide": True}),
        cell("random", 0.5, difference_none=gap(-0.1, 0.0002), latency={**latency, "wide": False}),
        {**cell("none", 0.5, None), "accuracy": {"value": 0.5, "lo": None, "hi": None}},
        cell("sts", 0.4, latency={"ttft": {"value": 5.0, "lo": None, "hi": None}, "wide": True}),
    ]
    none, method, control, few = markdown.table(rows).splitlines()[2:6]
    assert "| 5.00 [no interval] |" in few
    assert "| −10.0 (p < 0.001) |" in method and "| 5.00 (2.00× [1.00 to 3.00], wide) |" in method
    assert "| −10.0 (raw p < 0.001) |" in control and "| 5.00 (2.00× [1.00 to 3.00]) |" in control
    assert "| 50.0 [no interval] |" in none


def test_one_image_supports_no_sentence_about_loss():
    alone = {"value": -0.5, "lo": None, "hi": None, "p": 1.0, "p_adjusted": 1.0}
    text = said(cell("a", 0.4, difference_none=alone))
    assert "Nothing can be said against the unpruned model: −50.0 points [no interval]" in text
    assert "fits these data" not in text


def test_few_images_that_answer_alike_are_no_proof():
    holds = {"margin": 0.02, "p_best": 1.0, "holds": False, "smallest_detectable": None}
    same = {"value": 0.0, "lo": 0.0, "hi": 0.0, "p": 1.0, "p_adjusted": 1.0}
    text = said(cell("a", 0.4, difference_none=same, non_inferior=holds))
    assert "So few images do not show it to be non-inferior at 2 points" in text


def test_without_answers_cells_are_ranked_by_agreement():
    agree = lambda name, share: {"method": name, "keep": 64, "accuracy": None, "loyalty": {"agreement": {"value": share}}}
    made = table([agree("a", 0.5), agree("b", 0.9)], [])
    assert [row.method for row in made.rows] == ["b", "a"]
    assert "Accuracy" not in {c.group for c in made.columns} and "Loyalty" in made.first


def test_the_table_says_before_which_layers_tokens_leave():
    def final(schedule: list | None) -> str:
        made = table([cell("a", 0.5, schedule=schedule)], [])
        return made.rows[0].entries[[c.path for c in made.columns].index("tokens.final")].detail

    assert final([576, 300, 300, 110]) == "before layers 1 and 3"
    assert final([576, 17, 17, 17]) == "before layer 1" and final([64] * 4) == "" and final(None) == ""


def test_markdown_escapes():
    text = markdown.table([{"method": "a|b`c"}, {"method": "x", "skipped": "<img src=x> | [y](z)"}, {"method": "q", "task": "t"}])
    assert "`a\\|b'c`" in text and "<img" not in text and "\\[y\\]" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({re.sub(r"\\\|", "", row).count("|") for row in rows}) == 1
    assert "| `d/\\|e` |" in markdown.table([{"method": "d\\|e"}])  # a backslash would free the bar


def test_roles():
    assert [role(cell(n, 0.5)) for n in ("none", "random[like=a]", "random+fastv", "oracle", "downsample", "sts")] == [
        "whole", "control", "method", "bound", "reference", "method",
    ]  # fmt: skip
    assert imitated("random[like=fastv[layer=2]]") == "fastv[layer=2]"
    assert number({"a": {"value": float("nan")}}, "a") is None and number({"a": True}, "a") is None


def test_looks_differ_without_colour():
    names = [f"m{i}" for i in range(12)]
    found = looks(names)
    assert len({(v.marker, v.line) for v in found.values()}) == 12
    like = looks(["a", "random[like=a]"])
    assert like["random[like=a]"].hollow and like["random[like=a]"].colour == like["a"].colour


def test_numbers_as_text():
    assert [wording.milliseconds(v) for v in (0.4821, 4.821, 48.21, 482.1)] == ["0.482", "4.82", "48.2", "482"]
    assert wording.points(-0.0001) == "0.0" and wording.points(0.012) == "+1.2" and wording.percent(None) == "–"
    assert wording.flops_unit([]) == (1.0, "FLOPs")
    assert svg.label("_x\x00").startswith("\u200a") and len(svg.label("x" * 99)) == 44
    assert bits(None) is None


def test_control_is_found_whatever_its_other_parameters():
    name = "random[positions=contiguous,like=a[layer=2,x=1]]"
    assert imitated(name) == "a[layer=2,x=1]" and imitated("random[seed=1]") is None
    (group,) = strata([cell("a[layer=2,x=1]", 0.6), cell("random", 0.2), cell(name, 0.5), cell("b", 0.4)])
    assert method(group.control(group.cells[0])) == name
    assert method(group.control(group.only("b", 64))) == "random"
    assert group.methods == ["a[layer=2,x=1]", name, "b", "random"]


@pytest.mark.parametrize(
    ("difference", "said_of_it"),
    [
        ({"value": -0.01, "lo": -0.04, "hi": 0.02, "p": 0.4, "p_adjusted": None}, "That the image helps could not be shown"),
        ({"value": -0.5, "lo": -0.6, "hi": -0.4, "p": 0.0001, "p_adjusted": None},
         "The image is worth 50 points [40.0 to 60.0], p < 0.001, one test"),
        ({"value": 0.2, "lo": 0.1, "hi": 0.3, "p": 0.001, "p_adjusted": None}, "The model answers worse with the image"),
        (None, "Whether the image helps was not tested."),
    ],
)  # fmt: skip
def test_what_the_image_is_worth_is_told_by_its_test(difference, said_of_it):
    (group,) = strata([cell("none", 0.8, None), cell("blind", 0.3, None, difference_none=difference)])
    assert said_of_it in headline.image_worth(group)


def retained(**more) -> str:
    """The small print of retention, in a run with the blind model."""
    made = table([cell("none", 0.8, None), cell("blind", 0.4, None), cell("a", 0.6, **more)], [])
    return made.rows[-1].entries[[c.path for c in made.columns].index("retention")].detail


def test_retention_stands_with_its_interval():
    share = {"value": 0.75, "lo": 0.7, "hi": 0.8}
    above = {"value": 0.5, "lo": 0.42, "hi": 0.58}
    worth = "of what the image is worth: "
    assert retained(retention=share, retention_adjusted=above) == f"70.0 to 80.0; {worth}50.0 [42.0 to 58.0]"
    assert retained(retention=share, retention_adjusted=None) == "70.0 to 80.0; none is not above blind for sure"
    open_ended = {"value": 0.5, "lo": None, "hi": None}
    vague = f"{worth}not known well enough"
    assert retained(retention={**open_ended, "value": 0.7}, retention_adjusted=open_ended) == vague
    wide = {"value": 1.04, "lo": -0.06, "hi": 11.4}
    assert retained(retention=share, retention_adjusted=wide) == f"70.0 to 80.0; {vague}"
    assert retained(retention=0.75, retention_adjusted=0.5) == f"{worth}50.0", "as older summaries have it"
    assert retained(retention=0.75, retention_adjusted=None) == ""


def small_print(path: str, *cells: dict) -> list[str]:
    made = table(list(cells), [])
    return [row.entries[[c.path for c in made.columns].index(path)].detail for row in made.rows]


def test_of_the_blind_model_nothing_is_said_of_what_the_image_is_worth():
    share = {"value": 0.5, "lo": 0.4, "hi": 0.6}
    blind = cell("blind", 0.4, None, retention=share, retention_adjusted={"value": 0.0, "lo": 0.0, "hi": 0.0})
    assert small_print("retention", cell("none", 0.8, None, retention=share), blind) == ["", "40.0 to 60.0"]


def test_a_raw_p_of_the_table_says_one_of_how_many_it_is():
    raw, corrected = gap(-0.1, 0.02), gap(-0.1, 0.001, 0.01)
    cells = [cell(name, 0.5, difference_none=found) for name, found in (("a", corrected), ("oracle", raw), ("random", raw))]
    assert small_print("difference_none", *cells) == [
        "−12.0 to −8.0; p = 0.010", "−12.0 to −8.0; raw p = 0.020, one of 2", "−12.0 to −8.0; raw p = 0.020, one of 2"
    ]  # fmt: skip
    assert small_print("difference_none", *cells[:2])[1] == "−12.0 to −8.0; raw p = 0.020", "the only one of its kind"


@pytest.mark.parametrize("path", ["latency.ratio", "latency.realised_gain"])
def test_of_wide_times_digits_and_intervals_are_printed(path):
    times = {"ttft": {"value": 50.0, "lo": 40.0, "hi": 90.0}, "ratio": {"value": 2.0, "lo": 1.1, "hi": 2.4},
             "realised_gain": {"value": 0.5, "lo": 0.3, "hi": 0.9}, "rounds": 6, "wide": True}  # fmt: skip
    own = {
        **times,
        "wide": None,
        "ratio": {"value": 1.0, "lo": 1.0, "hi": 1.0},
        "realised_gain": {"value": 1.0, "lo": 1.0, "hi": 1.0},
    }
    made = table([cell("none", 0.8, None, latency=own), cell("a", 0.6, latency=times)], [])
    at = [c.path for c in made.columns].index(path)
    none, wide = (row.entries[at] for row in made.rows)
    assert (none.text, none.detail) == ("1.00", ""), "the ratio of the unpruned model to itself needs no rounds"
    own = path == "latency.ratio"
    assert (wide.text, wide.detail, wide.mark) == (("2.00", "1.10 to 2.40", "wide") if own else ("0.50", "0.30 to 0.90", ""))
    assert not none.mark and wide.note == ("wide: the truth may be 82 % off" if own else "")


def test_times_of_few_rounds_say_how_many():
    few = {name: {"value": 2.0, "lo": None, "hi": None} for name in ("ttft", "ratio", "realised_gain")}
    timed = cell("a", 0.6, latency={**few, "rounds": 2, "stage_rounds": 1, "wide": None, "cv": 0.1})
    for path in ("latency.ttft", "latency.ratio"):
        assert small_print(path, timed) == ["2 rounds, no interval"]
    assert small_print("latency.realised_gain", timed) == ["1 round, no interval"], "stages have rounds of their own"
    assert markdown.table([timed]).splitlines()[2].endswith("| 2.00 (2.00× [2 rounds, no interval]) |")
    timed["latency"]["wide"] = True
    assert markdown.table([timed]).splitlines()[2].endswith("| 2.00 (2.00× [2 rounds, no interval], wide) |")


def test_a_raw_p_against_chance_says_one_of_how_many_it_is():
    figure = {"value": -3.0, "lo": -4.0, "hi": -2.0, "percentile": {"value": 0.1, "lo": 0.05, "hi": 0.15},
              "share_below_chance": 0.9, "p": 0.003}  # fmt: skip
    skewed = {**figure, "value": None, "lo": None, "hi": None, "percentile": {"value": 0.8, "lo": 0.75, "hi": 0.85}}
    z = lambda p: {"z": {"effective_rank": {**figure, "p_adjusted": p}, "residual": {**skewed, "p_adjusted": p}}, "tests": 1026}
    (group,) = strata([cell("a", 0.6, collapse=z(0.04)), cell("random", 0.5, collapse=z(None))])
    made = chance_table(group)
    assert made.heads == ("Effective rank", "Mean cosine", "Cells hit", "K-centre radius", "Mean distance to kept", "Residual")
    (name, _, mine), (_, _, control) = made.rows
    assert name == "a" and mine[0] == ("90", "p = 0.040, corrected") and mine[1] == ("–", "")
    assert mine[5] == ("80", "75 to 85; p = 0.040, corrected")
    assert control[0] == ("90", "raw p = 0.003, one of 1,026")
    older = {"z": {"effective_rank": {"value": -3.0, "lo": -4.0, "hi": -2.0, "share_below_chance": 0.9, "p": 0.003}}}
    (group,) = strata([cell("a", 0.6, collapse=older)])
    assert chance_table(group).rows[0][2][0] == ("90", "raw p = 0.003") and chance_table(group).missing == ()


def test_why_a_rank_is_missing_stands_once_below_the_table(run):
    cells = [c | {"collapse": c["collapse"] and c["collapse"] | {"why_no_rank": "ties < were counted half"}} for c in run.cells]
    told = "– has no rank: ties &lt; were counted half."
    assert render(RunView(run.manifest, cells)).count(told) == 1 and "has no rank" not in render(RunView(run.manifest, run.cells))
