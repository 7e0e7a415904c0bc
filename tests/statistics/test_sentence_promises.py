"""How often sentences claim something in runs in which there is nothing to claim, over all methods and budgets of a run.

20 methods at 3 budgets, with a control each, answer 9 questions about each of 24 or 48 images. All cells are drawn alike, so
every lead, loss and worth that a sentence claims is false. For non-inferiority the unpruned model is better by just the
margin; for the reasons of a loss it is much better, and no reason is true. Each sentence is rendered by the code of the page
from a summary that the code of `harness.results` made. ``pytest -m simulation`` ends with the table of what was measured.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from harness.results.answer_figures import answer_figures, best_methods
from harness.results.difference_families import DifferenceFamilies
from harness.results.summary import plain
from methods.keep import Keep
from reports import headline
from reports.cells import strata
from reports.claims import ONE_SIDED, claims_of
from reports.findings import findings
from reports.losses import losses
from tests.statistics.sentence_worlds import (
    BUDGETS,
    FLIPS,
    MARGIN,
    Design,
    against_none,
    answered,
    facts_of,
    knowing,
    stored,
    summarised,
    with_chance,
    with_evidence,
    with_speed,
)

pytestmark = pytest.mark.simulation

WORLDS = 300
DESIGNS = {
    "24 images": Design(24, 9, together=0.4, alone=0.25),
    "48 images": Design(48, 9, together=0.25, alone=0.3),
}
HEADS = {
    "More accurate": "_against_none", "Less accurate": "_against_none", "Its ranking beats": "_against_random",
    "Its ranking does worse": "_against_random", "Above downsample": "_against_downsample",
    "Below downsample": "_against_downsample", "Ahead of every other": "_ties",
}  # fmt: skip
"""What the sentences about the best begin with where they claim something, and their maker."""
KINDS = {"winner": "_winner", "ranking": "_ranking", "collapse": "_collapse", "diversity": "_diversity", "swap": "_swap",
         "speed": "_speed", "non-inferior": "_non_inferior"}  # fmt: skip
REASONS = {"evidence thrown away": "_evidence_back", "of the evidence than random": "_evidence_held",
           "does worse than random": "_ranked", "than random ones of the same number": "_bent",
           "of its tokens lie": "_leaning"}  # fmt: skip


def claimed(cells: list[dict]) -> set[str]:
    """The makers that claim something of the cells of a run, but for non-inferiority and the reasons of a loss."""
    (group,) = strata(cells)
    said = [sentence for head in headline.headlines(group) for sentence in head.sentences]
    found = {f"reports.headline.{maker}" for s in said for start, maker in HEADS.items() if s.text.startswith(start)}
    found |= {f"reports.findings.{KINDS[finding.kind]}" for finding in findings(group)}
    worth = headline.image_worth(group)
    return found | ({"reports.headline.image_worth"} if "is worth" in worth or "answers worse" in worth else set())


def reasons(cells: list[dict]) -> set[str]:
    """The makers of reasons of a loss that claim something."""
    (group,) = strata(cells)
    told = [reason for table in losses(group) for row in table.rows for reason in row.why]
    return {f"reports.losses.{maker}" for reason in told for words, maker in REASONS.items() if words in reason}


def non_inferior(cells: list[dict], at: int) -> set[str]:
    """What calls a cell non-inferior: the list of all cells, and the headline of one budget."""
    (group,) = strata(cells)
    found = {"reports.findings._non_inferior"} if any(f.kind == "non-inferior" for f in findings(group)) else set()
    (head,) = (head for head in headline.headlines(group) if head.keep.value == at)
    return found | ({"reports.headline._against_none"} if head.sentences[0].text.startswith("Non-inferior") else set())


@cache
def counted(name: str) -> dict[str, Counter]:
    """In how many worlds of a design each maker claims something: of equal cells, and of cells that lose the margin, or much."""
    design, found = DESIGNS[name], {"alike": Counter(), "margin": Counter(), "reasons": Counter()}
    margin, much = (replace(design, shift={"none": better}) for better in (MARGIN, 0.25))
    for world in range(WORLDS):
        draw = lambda drawn, world=world: drawn.scores(np.random.default_rng([0, design.images, world]))  # only none differs
        rng = np.random.default_rng([1, design.images, world])
        cells = answered(design, draw(design), world)
        with_evidence(design, cells, rng, world)
        with_chance(design, cells, rng)
        with_speed(design, cells, rng)
        cells = summarised(cells)
        found["alike"].update(claimed(cells))
        found["margin"].update(non_inferior(summarised(against_none(margin, draw(margin), world)), BUDGETS[-1]))
        lost = {(c["method"], c["keep"]): c.get("difference_none") for c in summarised(against_none(much, draw(much), world))}
        told = [c | {"difference_none": lost[c["method"], c["keep"]]} for c in cells if (c["method"], c["keep"]) in lost]
        assert "No loss could be shown." not in losses(strata(told)[0])[0].rows[0].why
        found["reasons"].update(reasons(told))
    return found


def promised(maker: str) -> float:
    """The rate that the table of claims promises for two-sided claims."""
    (level,) = {claim.level for claim in claims_of(maker) if claim.kind == "tested" and claim.level != ONE_SIDED}
    return level


ALIKE = sorted({f"reports.headline.{maker}" for maker in (*HEADS.values(), "image_worth")}
               | {f"reports.findings.{maker}" for kind, maker in KINDS.items() if kind != "non-inferior"})  # fmt: skip


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("maker", ALIKE)
def test_where_all_cells_are_alike_nothing_is_claimed_oftener_than_promised(promise, name, maker):
    promise(f"{maker} where all are alike", name, counted(name)["alike"][maker], WORLDS, at_most=promised(maker))


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("maker", sorted(f"reports.losses.{maker}" for maker in REASONS.values()))
def test_where_a_loss_has_no_reason_none_is_given_oftener_than_promised(promise, name, maker):
    promise(f"{maker} of a loss without it", name, counted(name)["reasons"][maker], WORLDS, at_most=promised(maker))


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("maker", ["reports.findings._non_inferior", "reports.headline._against_none"])
def test_where_all_lose_the_margin_none_is_called_non_inferior_oftener_than_promised(promise, name, maker):
    """The size at the margin is at most .03, as the answers of few images are not normal."""
    promise(f"{maker}, non-inferior, at the margin", name, counted(name)["margin"][maker], WORLDS, at_most=0.03)


def test_made_up_runs_are_summarised_as_real_ones():
    design = Design(24, 9, methods=3)
    scores = design.scores(np.random.default_rng(0))
    own = stored(design, scores)
    ordered = [(ident, facts_of(*key), cell) for ident, (key, cell) in enumerate(own.items())]
    by_name = {(facts["method"], Keep.stored(facts)): cell for _, facts, cell in ordered}
    leading = knowing(own)
    families, winners = DifferenceFamilies(leading, 0, FLIPS), best_methods(ordered, leading)
    real = [facts | answer_figures(cell, by_name, winners, facts, families, leading) for _, facts, cell in ordered]
    families.test()
    for mine, theirs in zip(summarised(answered(design, scores, 0)), plain(real), strict=True):
        assert mine["accuracy"] == theirs["accuracy"]
        if mine["method"] in design.competitors:
            for figure in ("difference_like", "difference_winner", "difference_downsample"):
                assert mine.get(figure) == theirs[figure], (mine["method"], figure)
            for end in ("value", "lo", "hi"):
                assert mine["difference_none"][end] == theirs["difference_none"][end]
            p = theirs["difference_none"]["p_adjusted"]  # on other flips, as the controls' differences are drawn with them
            assert mine["difference_none"]["p_adjusted"] == pytest.approx(p, abs=0.08)
            assert mine["non_inferior"]["p_best"] == theirs["non_inferior"]["p_best"]


def test_where_there_is_something_to_claim_it_is_claimed():
    """A sentence that never speaks would keep every promise."""
    design = Design(48, 9, shift={"m00": 0.25, "blind": -0.4, "downsample": -0.2, "random[like=m00]": -0.1})
    cells = answered(design, design.scores(np.random.default_rng(0)), 0)
    found = claimed(summarised(cells))
    wanted = {"_against_none", "_against_random", "_against_downsample", "_ties", "image_worth"}
    assert {f"reports.headline.{maker}" for maker in wanted} <= found
    assert {"reports.findings._winner", "reports.findings._ranking"} <= found
