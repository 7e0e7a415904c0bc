"""Which published figures contradict each other: the rule on made-up figures, and known contradictions of the tables."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from itertools import combinations
from time import process_time

import pytest

from harness.literature.contradictions import TELLING, contradict, contradictions, different_values, spreads
from harness.literature.figures import UNKNOWN, PublishedFigure
from harness.literature.tables import published

FIGURE = PublishedFigure(
    "fastv",
    "2",
    "llava-hf/llava-1.5-7b-hf",
    "pope",
    "F1",
    "test",
    "576",
    "64",
    "final",
    "LLaVA",
    "48.0",
    "paper A",
    "rerun",
    "a",
    2,
)
"""A figure of which everything is known."""
OTHER = replace(FIGURE, value="59.6", source="paper B", table="b", line=7)
DIFFERENT = {"version": "1", "metric": "accuracy", "split": "dev", "tokens": "1296", "counts": "average", "prompt": "lmms-eval"}


def test_what_is_tried_here_is_all_that_tells():
    assert set(DIFFERENT) == set(TELLING)


def test_the_same_measurement_with_two_values_is_a_contradiction():
    assert contradict(FIGURE, OTHER) and contradict(OTHER, FIGURE)
    assert contradictions([FIGURE, OTHER]) == {FIGURE: (OTHER,), OTHER: (FIGURE,)}


@pytest.mark.parametrize("field", TELLING)
def test_a_field_that_is_known_of_both_and_differs_sets_two_figures_apart(field):
    known = replace(OTHER, **{field: DIFFERENT[field]})
    assert not contradict(FIGURE, known) and not contradict(known, FIGURE)


@pytest.mark.parametrize("field", TELLING)
def test_a_field_that_is_unknown_in_one_or_both_sets_nothing_apart(field):
    unknown = replace(OTHER, **{field: UNKNOWN})
    assert contradict(FIGURE, unknown) and contradict(unknown, FIGURE)
    assert contradict(replace(FIGURE, **{field: UNKNOWN}), unknown)


@pytest.mark.parametrize(
    ("field", "value"),
    [("method", "sts"), ("model", "tiny"), ("task", "gqa"), ("keep", "128"), ("keep", "11.1%"), ("keep", "64%"), ("keep", "all")],
)
def test_figures_of_two_cells_do_not_contradict(field, value):
    assert contradictions([FIGURE, replace(OTHER, **{field: value})]) == {}


@pytest.mark.parametrize("field", ["method", "model", "task", "keep", "value"])
def test_what_is_not_known_to_be_the_same_cell_or_has_no_value_contradicts_nothing(field):
    both = [replace(figure, **{field: UNKNOWN}) for figure in (FIGURE, OTHER)]
    assert contradictions(both) == contradictions([FIGURE, both[1]]) == {}


def test_a_share_is_one_however_it_is_written():
    assert contradict(replace(FIGURE, keep="0.25"), replace(OTHER, keep="25%"))


@pytest.mark.parametrize("field", ["origin", "source", "table", "line"])
def test_where_a_value_comes_from_sets_nothing_apart(field):
    same = {"origin": "copied", "source": FIGURE.source, "table": FIGURE.table, "line": 3}
    assert contradict(FIGURE, replace(OTHER, **{field: same[field]}))


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ("48.0", "48.1", False),  # both may be 48.05
        ("48.0", "48.2", True),
        ("57.1", "57.2", False),  # whose difference as binary numbers is above 0.1
        ("1862", "1861.73", False),
        ("1862", "1861.4", True),
        ("1761.7", "1761", True),  # 0.7 is more than 0.55
        ("48", "48.5", False),
        ("48.00", "48.01", False),
        ("48.00", "48.02", True),
        ("48.0", "48", False),
    ],
)
def test_values_contradict_where_they_differ_by_more_than_both_were_rounded(one, other, apart):
    pair = replace(FIGURE, value=one), replace(OTHER, value=other)
    assert contradict(*pair) is apart and contradict(*pair[::-1]) is apart


def test_two_versions_both_contradict_a_figure_that_does_not_tell_its_own():
    first, second = replace(FIGURE, version="1"), replace(OTHER, version="2")
    untold = replace(OTHER, version=UNKNOWN, value="52.0", source="paper C", line=9)
    alone = replace(FIGURE, task="gqa")
    found = contradictions([first, second, untold, alone])
    assert found == {first: (untold,), second: (untold,), untold: (first, second)}
    (spread,) = spreads(found)
    assert (spread.low, spread.high) == (untold, second), "48.0 and 59.6 are of two versions, and no spread"
    assert spread.between == (untold, second)


def test_as_many_tokens_in_every_layer_are_as_many_on_average_and_in_the_last():
    for counts in ("average", "final", UNKNOWN):
        every = replace(OTHER, counts="every")
        assert contradict(replace(FIGURE, counts=counts), every) and contradict(every, replace(FIGURE, counts=counts))


def test_a_spread_has_what_lies_between_and_the_widest_comes_first():
    of_gqa = [replace(FIGURE, task="gqa", value=value, line=line) for line, value in enumerate(("50.0", "55.0"))]
    zero = [replace(FIGURE, task="mme", value=value, line=line) for line, value in enumerate(("3.0", "0.0"))]
    middle = replace(FIGURE, value="50.0", line=5)
    found = spreads(contradictions([*of_gqa, OTHER, *zero, middle, FIGURE]))
    assert [one.between for one in found] == [tuple(zero[::-1]), (FIGURE, middle, OTHER), tuple(of_gqa)]
    assert [one.ratio for one in found] == [float("inf"), pytest.approx(59.6 / 48), pytest.approx(1.1)]


@pytest.mark.parametrize(
    ("method", "keep", "task", "values"),
    [
        ("fastv", "192", "gqa", ("52.7", "57.1")),
        ("fastv", "64", "pope", ("36.1", "37.2", "48.0", "59.6")),
        ("pyramiddrop", "128", "mme", ("1403", "1644", "1664")),
        ("pyramiddrop", "128", "gqa", ("51.6", "56.0")),
        ("holov", "64", "mmbench", ("60.0", "63.3")),
        ("holov", "64", "mmbench", ("60.2", "63.3")),
        ("dart", "192", "gqa", ("58.9", "60.0")),
        ("sparsevlm", "192", "gqa", ("57.6", "59.5")),
        ("cdpruner", "32", "mme", ("1353.0", "1373.0")),
        ("fastv", "192", "pope", ("64.8", "67.3", "75.8")),
    ],
)
def test_known_contradictions_of_the_tables_are_found(method, keep, task, values):
    """Each printed value is contradicted by each of the others, in some table that prints them."""
    cell = (method, "llava-hf/llava-1.5-7b-hf", task, keep)
    found = {figure: others for figure, others in contradictions(published()).items() if _cell(figure) == cell}
    for value in values:
        contradicted = {other.value for figure, others in found.items() if figure.value == value for other in others}
        assert set(values) - {value} <= contradicted, value


def _cell(figure: PublishedFigure) -> tuple[str, ...]:
    return (figure.method, figure.model, figure.task, figure.keep)


def test_what_is_known_to_differ_is_no_contradiction_in_the_tables():
    """MME's total and its perception score stand for one method, budget and model, and neither contradicts the other."""
    found = contradictions(published())
    for figure, others in found.items():
        for other in others:
            assert _cell(figure) == _cell(other) and figure in found[other]
            assert {figure.metric, other.metric} != {"MME total", "MME perception"}


def many(count: int) -> list[PublishedFigure]:
    """Figures of which many are of one cell, with unknown fields here and there."""
    draw = random.Random(0)
    values = {field: (value, DIFFERENT[field], UNKNOWN) for field, value in ((f, getattr(FIGURE, f)) for f in TELLING)}
    return [
        replace(
            FIGURE, task=draw.choice("abcdefgh"), keep=draw.choice(("64", "128", "192", "33.3%")), method=draw.choice("klmnop"),
            value=draw.choice(("48.0", "48.1", "48.15", "49")), line=line, **{f: draw.choice(v) for f, v in values.items()},
        )
        for line in range(count)
    ]  # fmt: skip


def test_every_pair_is_found_in_both_directions():
    """Against all pairs, one by one, by the exact values that a printed one may stand for."""
    figures = many(600)
    span = lambda text: (Decimal(text) - unit(text) / 2, Decimal(text) + unit(text) / 2)
    unit = lambda text: Decimal(1).scaleb(Decimal(text).as_tuple().exponent)
    expected = {}
    for one, other in combinations(figures, 2):
        same = all(getattr(one, field) == getattr(other, field) for field in ("method", "model", "task", "keep"))
        settings = [{getattr(one, field), getattr(other, field)} - {UNKNOWN} for field in TELLING]
        (low, high), (least, most) = span(one.value), span(other.value)
        apart = [known for field, known in zip(TELLING, settings) if len(known - {"every"} if field == "counts" else known) > 1]
        if same and not apart and (high < least or most < low):
            expected.setdefault(one, set()).add(other)
            expected.setdefault(other, set()).add(one)
    found = contradictions(figures)
    assert len(expected) > 100
    assert {figure: set(others) for figure, others in found.items()} == expected
    assert list(found) == [figure for figure in figures if figure in found]
    for one in spreads(found):
        assert one.high in found[one.low] and {one.low, one.high} <= set(one.between) <= set(found)
        assert all(_cell(figure) == _cell(one.low) for figure in one.between)


def test_three_thousand_figures_take_no_time():
    figures = many(3000)
    start = process_time()
    assert spreads(contradictions(figures))
    assert process_time() - start < 2


def test_thousands_of_values_of_one_cell_take_no_time():
    """They are all held against each other, and every one contradicts nearly all others."""
    figures = [replace(FIGURE, value=f"{10 + n / 100:.2f}", source=f"paper {n}", line=n) for n in range(2000)]
    start = process_time()
    found = contradictions(figures)
    (spread,) = spreads(found)
    assert process_time() - start < 6
    assert found[figures[7]] == tuple(figures[:6] + figures[9:])
    assert (spread.low, spread.high, len(spread.between)) == (figures[0], figures[-1], 2000)


def test_a_figure_that_is_given_twice_is_one():
    again = replace(OTHER)
    found = contradictions([FIGURE, OTHER, again])
    assert list(found) == [FIGURE, OTHER] and [spread.high for spread in spreads(found)] == [OTHER]


def test_copies_of_a_value_are_one_value():
    figures = [replace(FIGURE, value=value, line=line) for line, value in enumerate(("48.0", "48", "59.6", UNKNOWN, "59.6"))]
    assert different_values(figures) == 2 and different_values([]) == 0


def test_an_f1_of_which_it_is_not_known_over_what_it_is_contradicts_both_kinds():
    pooled, by_category, untold = (
        replace(FIGURE, metric=metric, value=value)
        for metric, value in (("F1", "48.0"), ("F1 by category", "59.6"), ("F1 pooled or by category", "52.0"))
    )
    assert contradictions([pooled, by_category]) == {}
    assert contradictions([pooled, by_category, untold]) == {
        pooled: (untold,), by_category: (untold,), untold: (pooled, by_category),
    }  # fmt: skip
    assert contradictions([replace(untold, metric="accuracy"), untold]) == {}


@pytest.mark.parametrize("name", ["liuhaotian/llava-v1.5-7b", "liuhaotian/LLaVA-v1.5-7B"])
def test_the_authors_own_id_is_the_same_model(name):
    theirs = replace(OTHER, model=name)
    assert contradict(FIGURE, theirs) and contradictions([FIGURE, theirs]) == {FIGURE: (theirs,), theirs: (FIGURE,)}
    assert theirs.model == name and not contradict(FIGURE, replace(OTHER, model="liuhaotian/llava-v1.5-13b"))
