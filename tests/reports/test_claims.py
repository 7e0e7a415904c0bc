"""Every sentence has its entry in the table of claims, speaks where its test holds, and claims nothing where it does not."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from reports import findings, headline, losses, regression, several
from reports.cells import strata
from reports.claims import CLAIMS, FAMILY_WISE, OF_TWO_BUILDS, ONE_SIDED, claims_of
from reports.figures import rows as figure_rows
from reports.figures.why import swap
from reports.leading import Unit
from reports.style import looks

ROOT = Path(__file__).parents[2]
_SENTENCE = re.compile(r"\.(?= [A-Z])|\.$")
_TYPES = re.compile(r"\b(Sentence|Finding|Headline|Drawn)\b")


def sentences_in(function: ast.FunctionDef) -> list[str]:
    """Texts of a function that end in a full stop or hold one before a new sentence; docstrings and errors are left out."""
    below = lambda node: {id(inner) for inner in ast.walk(node)}
    left_out = set().union(*(below(node) for node in ast.walk(function) if isinstance(node, ast.Raise)))
    left_out |= set().union(
        *(below(n.format_spec) for n in ast.walk(function) if isinstance(n, ast.FormattedValue) and n.format_spec)
    )
    left_out |= {id(part) for node in ast.walk(function) if isinstance(node, ast.JoinedStr) for part in node.values}
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    found = []
    for node in (inner for statement in body for inner in ast.walk(statement)):
        if isinstance(node, ast.JoinedStr) and id(node) not in left_out:
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out and " " in node.value:
            text = node.value
        else:
            continue
        if _SENTENCE.search(text) and not re.fullmatch(r"[X.]*", text.replace("XX.", "")):
            found.append(text)
    return found


def makers_in(path: Path) -> set[str]:
    """Names of the functions of a module that write sentences, or return what holds some."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            returns = ast.unparse(node.returns) if node.returns else ""
            if _TYPES.search(returns) or sentences_in(node):
                found.add(f"{module}.{node.name}")
    return found


def all_makers() -> set[str]:
    """Functions of `reports`, its templates, and modules of `harness.results` that write sentences."""
    found = {maker for path in (ROOT / "reports").rglob("*.py") for maker in makers_in(path)}
    found |= {f"reports.templates.{path.name}" for path in (ROOT / "reports/templates").glob("*.*") if "html" in path.name}
    for path in (ROOT / "harness/results").rglob("*.py"):
        if makers_in(path):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.add("harness.results.regression" if name.startswith("harness.results.regression.") else name)
    return found


def test_every_maker_of_sentences_is_listed_and_nothing_else():
    assert {claim.maker for claim in CLAIMS} == all_makers()


@pytest.mark.parametrize(
    "source",
    [
        'def f(cell):\n    return f"{cell} is ahead."\n',
        'def f(cell):\n    return "It is ahead. So it wins"\n',
        'def f(cell) -> list[Finding]:\n    return g(cell)\n',
        'def f(cell):\n    said = [f"{cell:.1f} is ahead" + "."]\n    said += ["It wins."]\n    return said\n',
    ],
)  # fmt: skip
def test_a_new_maker_would_be_found(tmp_path, monkeypatch, source):
    monkeypatch.setattr("tests.reports.test_claims.ROOT", tmp_path)
    path = tmp_path / "new.py"
    path.write_text(source)
    assert makers_in(path) == {"new.f"}


@pytest.mark.parametrize(
    "source",
    [
        'def f(x):\n    """It is ahead."""\n    return f"{x:.1f}" + "a.b"\n',
        'def f(x):\n    raise ValueError(f"{x} is no figure.")\n',
    ],
)
def test_docstrings_errors_and_paths_are_no_sentences(tmp_path, monkeypatch, source):
    monkeypatch.setattr("tests.reports.test_claims.ROOT", tmp_path)
    path = tmp_path / "new.py"
    path.write_text(source)
    assert makers_in(path) == set()


def test_what_is_tested_names_its_test_its_family_and_its_rate():
    for claim in CLAIMS:
        tested = claim.kind == "tested"
        assert bool(claim.test) == bool(claim.family) == (claim.level is not None) == tested, claim
        assert claim.level in (None, FAMILY_WISE, ONE_SIDED, OF_TWO_BUILDS) and claim.says
    assert claims_of("reports.headline._ties")[0].level == FAMILY_WISE


def test_no_rule_of_two_builds_is_laxer_than_what_is_promised():
    rules = tomllib.loads((ROOT / "harness/results/regression/thresholds.toml").read_text("utf-8"))
    levels = [rule["level"] for rule in rules.values() if "level" in rule]
    assert levels and max(levels) <= OF_TWO_BUILDS


# Where a test holds and where it does not: intervals lie apart from 0 in both.

HOLDS, FAILS = 0.01, 0.2


def span(value: float, half: float = 0.01, **more) -> dict:
    return {"value": value, "lo": value - half, "hi": value + half, **more}


def gap(value: float, adjusted: float | None) -> dict:
    """A figure whose interval leaves out 0 and whose raw p is small, whatever its corrected one."""
    return span(value, p=0.0005, p_adjusted=adjusted)


def cell(name: str, accuracy: float, k: int | None = 64, **more) -> dict:
    return {"model": "m", "task": "t", "method": name, "keep": k, "accuracy": span(accuracy), **more}


def chance(rank: float, adjusted: float | None) -> dict:
    return {**span(-5.0, 0.5), "percentile": span(rank), "share_below_chance": 0.95, "p": 0.0005, "p_adjusted": adjusted}


WHOLE = cell("none", 0.8, None, families={})


def first(*cells: dict) -> str:
    """The sentences about the best of the only budget."""
    (group,) = strata([WHOLE, *cells])
    (head,) = headline.headlines(group)
    return " ".join(f"({s.verdict}) {s.text}" for s in head.sentences)


def found(explained: dict | None = None, *cells: dict) -> str:
    (group,) = strata([WHOLE, *cells])
    return " ".join(f.text for f in findings.findings(group, explained))


def why(p: float | None, **more) -> str:
    """The reasons of a loss that is shown, with the figure of one reason tested by p."""
    (group,) = strata([WHOLE, cell("a", 0.5, difference_none=gap(-0.3, 0.001), **more)])
    return " ".join(losses.losses(group)[0].rows[0].why)


def two_runs(p: float | None) -> str:
    shown = several.Shown(None, cell("a", 0.5))
    difference = several.Difference(-0.2, -0.21, -0.19, p)
    row = several.Aligned("a", None, "average", "", (shown, shown), (difference,), "")
    return " ".join(several._said(several.Several(("first", "other"), ({}, {}), (row,), (), ()), Unit()))


def filled(p: float | None) -> str:
    """Whether the mark of the figure is filled: its face is the colour of its edge."""
    (group,) = strata([WHOLE, cell("a", 0.5, difference_like=gap(0.1, p))])
    drawn = figure_rows.ranking(group, looks(group.methods))
    (mark,) = [line for line in drawn.drawing.axes[0].lines if line.get_marker() == "o"]
    return "hollow" if mark.get_markerfacecolor() == "white" else "filled"


def explained_by(p: float | None, p_methods: float | None = None) -> str:
    row = {"figure": "recall", "value": 0.3, "lo": 0.2, "hi": 0.4, "p_adjusted": p, "p_methods_adjusted": p_methods}
    one = {"keep": 64, "value": 0.1, "lo": 0.08, "hi": 0.12, "p_adjusted": p}
    told = {"correlations": {"across_methods": {"rows": [row]}}, "complexity": {"interactions": [one]}}
    return found(told, cell("a", 0.5))


def regressed(p: float | None) -> str:
    from harness.store.verdicts import Comparison, Verdict

    status = "failed" if p is not None and p < FAMILY_WISE else "passed"
    return regression.headline(Comparison("a", "b", (Verdict("accuracy", "a at 64", status, "down"),)))


def held(p: float | None) -> dict:
    return {"evidence": {"recall_over_control": gap(-0.4, p), "recall": span(0.2)}}


def margin(adjusted: float | None) -> dict:
    return {"margin": 0.02, "holds": True, "p": 0.0005, "p_best": adjusted, "p_adjusted": adjusted}


CASES: dict[tuple[str, int], tuple[Callable[[float | None], str], str]] = {
    ("reports.headline._against_none", 0): (
        lambda p: first(cell("a", 0.5, difference_none=gap(-0.3, p))), "(bad) Less accurate than the unpruned model"
    ),
    ("reports.headline._against_none", 1): (
        lambda p: first(cell("a", 0.8, difference_none=span(0.0, p=1.0, p_adjusted=1.0), non_inferior=margin(p))),
        "(good) Non-inferior to the unpruned model",
    ),
    ("reports.headline._against_random", 0): (
        lambda p: first(cell("a", 0.5, difference_like=gap(0.2, p)), cell("random", 0.3)), "(good) Its ranking beats random"
    ),
    ("reports.headline._against_downsample", 0): (
        lambda p: first(cell("a", 0.5, difference_downsample=gap(0.2, p)), cell("downsample", 0.3, reference=True)),
        "(good) Above downsample",
    ),
    ("reports.headline._ties", 0): (
        lambda p: first(cell("a", 0.5), cell("b", 0.3, difference_winner=gap(-0.2, p))), "(good) Ahead of every other method"
    ),
    ("reports.headline.image_worth", 0): (
        lambda p: str(headline.image_worth(strata([WHOLE, cell("blind", 0.4, None, difference_none=span(-0.4, p=p))])[0])),
        "The image is worth 40 points",
    ),
    ("reports.findings._winner", 0): (
        lambda p: found(None, cell("a", 0.5), cell("b", 0.3, difference_winner=gap(-0.2, p))), "a is the most accurate"
    ),
    ("reports.findings._non_inferior", 0): (
        lambda p: found(None, cell("a", 0.8, difference_none=span(0.0, p=1.0, p_adjusted=1.0), non_inferior=margin(p))),
        "No more than 2 points below the unpruned model: a at 64",
    ),
    ("reports.findings._ranking", 0): (
        lambda p: found(None, cell("a", 0.5, difference_like=gap(0.2, p))), "Its ranking is worth more than its schedule"
    ),
    ("reports.findings._diversity", 0): (
        lambda p: found(None, cell("a", 0.5, collapse={"z": {"effective_rank": chance(0.05, p)}})), "Less diverse than random"
    ),
    ("reports.findings._collapse", 0): (
        lambda p: found(None, cell("a", 0.5, collapse={"z": {"effective_rank": chance(0.05, 0.001)}}, **held(p))), "Collapsed"
    ),
    ("reports.findings._swap", 0): (
        lambda p: found(None, cell("a", 0.5, evidence={"swap_gain": gap(0.2, p)})), "Accuracy comes back"
    ),
    ("reports.findings._speed", 0): (
        lambda p: found(None, cell("a", 0.5, latency={"realised_gain": gap(0.5, p)})), "Prefill gains less"
    ),
    ("reports.findings._explained", 0): (explained_by, "What goes with right answers across methods"),
    ("reports.findings._for_others", 0): (lambda p: explained_by(0.001, p), "Other methods would show the same of evidence"),
    ("reports.losses._why", 0): (
        lambda p: " ".join(losses.losses(strata([WHOLE, cell("a", 0.5, difference_none=gap(-0.3, p))])[0])[0].rows[0].why),
        "This run does not show why.",
    ),
    ("reports.losses._evidence_back", 0): (
        lambda p: why(p, evidence={"swap_gain": gap(0.2, p), "swap_share": span(0.7)}), "is evidence thrown away"
    ),
    ("reports.losses._evidence_held", 0): (lambda p: why(p, **held(p)), "It holds less of the evidence"),
    ("reports.losses._ranked", 0): (lambda p: why(p, difference_like=gap(-0.2, p)), "does worse than random tokens"),
    ("reports.losses._bent", 0): (
        lambda p: why(p, collapse={"z": {"effective_rank": chance(0.05, p), "cells": chance(0.05, p)}}), "are more alike"
    ),
    ("reports.losses._leaning", 0): (lambda p: why(p, bias={"lower_half": gap(0.9, p)}), "tokens lie in the lower half"),
    ("reports.several._said", 0): (two_runs, "other is less accurate than first in 1 of 1 cells"),
    ("reports.figures.rows.ranking", 0): (filled, "filled"),
    ("reports.regression.headline", 0): (regressed, "Regression: accuracy."),
}  # fmt: skip
"""How a maker speaks of a figure by its corrected p, and what it claims where that is small."""


def test_every_tested_claim_has_its_case():
    listed = {
        (claim.maker, claims_of(claim.maker).index(claim)) for claim in CLAIMS
        if claim.kind == "tested" and claim.maker.startswith("reports.")
    }  # fmt: skip
    assert set(CASES) == listed


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].removeprefix('reports.')}-{case[1]}")
def test_it_speaks_where_its_test_holds_alone(case):
    say, claimed = CASES[case]
    assert claimed in say(HOLDS)
    assert claimed not in say(FAILS), "the intervals lie apart, and that is no test"
    assert claimed not in say(None), "where the test is missing, as in an older summary, nothing is claimed"


def test_collapse_needs_both_tests():
    less = cell("a", 0.5, collapse={"z": {"effective_rank": chance(0.05, 0.2)}}, **held(0.001))
    assert "Collapsed" not in found(None, less)


def test_what_prefill_gains_is_told_by_its_own_test_also_where_the_speed_up_is_wide():
    for p in (0.001, 0.2):
        timed = {"realised_gain": gap(0.5, p), "wide": True}
        assert ("Prefill" in found(None, cell("a", 0.5, latency=timed))) == (p < 0.05)


def without(value: float, **more) -> dict:
    """A figure of too few rounds or images for an interval."""
    return {"value": value, "lo": None, "hi": None, **more}


def test_where_no_interval_is_known_none_is_told():
    slow = cell("a", 0.5, latency={"realised_gain": without(0.25, p=0.001, p_adjusted=0.001)})
    assert "share of the promised speed-up that was measured: a at 64 (25 % [no interval])" in found(None, slow)
    lead = cell("b", 0.4, difference_winner=without(-0.1, p=0.001, p_adjusted=0.001))
    assert "ahead of the next, b, by 10 points [no interval], p = 0.001, corrected." in found(None, cell("a", 0.5), lead)
    assert "of the next, b, by 10 points [no interval]" in first(cell("a", 0.5), lead)
    less = {**chance(0.05, 0.001), "lo": None, "hi": None}
    assert "a at 64 (-5.0 [no interval]".replace("-", "−") in found(
        None, cell("a", 0.5, collapse={"z": {"effective_rank": less}})
    )
    back = cell("a", 0.5, evidence={"swap_gain": without(0.2, p=0.001, p_adjusted=0.001), "swap_share": without(0.7)})
    assert "a at 64 (+20.0 points [no interval], 70 % of the loss)" in found(None, back)


def test_a_share_of_the_loss_without_an_interval_is_drawn_without():
    back = cell("a", 0.5, evidence={"swap_gain": span(0.2), "swap_loss": span(0.3), "swap_share": without(0.7)})
    (group,) = strata([WHOLE, back])
    drawn = swap(group, looks(["a"]))
    assert "70 % [no interval]" in [text.get_text() for text in drawn.drawing.axes[0].texts]


def older(p: float) -> dict:
    """Figures as summaries of version 4 have them: nothing but the three differences is corrected."""
    return cell(
        "a", 0.6,
        difference_none=span(-0.1, p=p, p_holm=p), difference_like=span(-0.1, p=p, p_holm=p),
        retention=0.75, retention_adjusted=0.6, non_inferior={"margin": 0.02, "holds": True, "p": 0.001},
        evidence={"recall": span(0.1), "swap_gain": span(0.2), "swap_share": span(0.7)},
        collapse={"z": {"effective_rank": {**span(-5.0), "share_below_chance": 0.95, "p": 0.0005}}},
        bias={"lower_half": span(0.9)}, latency={"realised_gain": span(0.5)},
    )  # fmt: skip


def test_of_an_older_summary_only_what_it_corrected_is_claimed():
    others = cell("random[like=a]", 0.9, evidence={"recall": span(0.9)}), cell("downsample", 0.9, reference=True)
    text = f"{first(older(0.01), *others)} {found(None, older(0.01), *others)}"
    assert "(bad) Less accurate than the unpruned model" in text and "(bad) Its ranking does worse" in text
    assert "Non-inferiority at 2 points was not tested" in text and "(open) It was not tested against downsample" in text
    for claimed in ("Less diverse", "Collapsed", "Accuracy comes back", "Prefill gains", "No more than 2 points"):
        assert claimed not in text
    (group,) = strata([WHOLE, older(0.01), *others])
    assert losses.losses(group)[0].rows[0].why == ("Its ranking does worse than random tokens on the same schedule.",)
