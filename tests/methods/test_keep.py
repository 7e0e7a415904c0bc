"""Budgets: a count or a share by how it is written, one spelling for each, and one clear line for what is neither."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import RequestError
from harness.run.config import CompareConfig, read_file
from harness.store.budgets import read_keep
from methods.keep import Keep

COUNTS = st.integers(1, 10**18 - 1)
SHARES = st.floats(0, 1, exclude_min=True, allow_subnormal=True)
KEEPS = st.one_of(st.builds(Keep, st.just(False), COUNTS), st.builds(Keep, st.just(True), SHARES))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("1", "1"), ("1.0", "100%"), ("1.", "100%"), ("100%", "100%"), ("100.0 %", "100%"), ("0.34", "34%"), (".34", "34%"),
        ("34%", "34%"), ("34 %", "34%"), (" 34% ", "34%"), ("33.3%", "33.3%"), ("0.333", "33.3%"), ("192", "192"), ("064", "64"),
        ("0.0001", "0.01%"), ("1%", "1%"),
    ],
)  # fmt: skip
def test_what_is_written_with_a_point_or_a_percent_sign_is_a_share(text, label):
    assert str(Keep.parse(text)) == label and Keep.parse(label) == Keep.parse(text)


WRONG = {
    "0": "at least 1", "0.0": "0.34 or 34%", "0%": "at least 1", "-1": "above 0", "-0.5": "above 0", "1.5": "1 or 2", "5.": ": 5",
    "192.0": ": 192", "150%": "without %: 150", "100.5%": "100% is all", "1e2": "write 100", "1e-2": "write 0.01",
    "1/2": "write 0.5", "3/2": "such as 0.34", "nan": "above 0", "inf": "not a number", "": "not a number",
    "many": "not a number", "1,5": "not a number", "50%%": "not a number", "%": "not a number", "+5": "write 5",
    "1_000": "write 1000", "９": "write 9", "9" * 400: "than any model",
    "0." + "0" * 400 + "1": "above 0", "1e999999999": "such as 192", "1/" + "0" * 99: "not a number", "2" * 5000 + "%": "100%",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_budget_is_refused_in_one_line_with_what_would_be_right(text):
    with pytest.raises(RequestError) as caught:
        read_keep(text)
    message = str(caught.value)
    assert WRONG[text] in message and message.startswith("--keep '") and "\n" not in message and len(message) < 240


@given(KEEPS)
def test_the_label_is_one_spelling_that_reads_back(keep):
    assert Keep.parse(str(keep)) == keep and Keep.parse(keep.shown) == keep and str(Keep.parse(str(keep))) == str(keep)


@given(KEEPS)
def test_json_holds_a_budget_whatever_becomes_of_the_point(keep):
    """JavaScript and spreadsheets write 1.0 as 1: the label tells the kind."""
    facts = json.loads(json.dumps(keep.facts()))
    assert Keep.stored(facts) == keep
    if keep.value == 1:
        assert Keep.stored({**facts, "keep": 1}) == keep == Keep.stored({**facts, "keep": 1.0})


@given(KEEPS, st.integers(1, 10**5))
def test_tokens_are_between_one_and_all(keep, available):
    tokens = keep.tokens(available)
    assert 1 <= tokens <= available
    if keep.share:
        assert abs(tokens - max(1.0, keep.value * available)) <= 0.5 or tokens == 1
    else:
        assert tokens == min(keep.value, available)


@given(SHARES, st.integers(1, 10**4))
def test_in_python_the_type_tells_the_kind(share, count):
    assert Keep.asked(share) == Keep(True, share) and Keep.asked(count) == Keep(False, count) == count
    assert Keep.asked(np.float64(share)) == Keep(True, share) and Keep.asked(np.int32(count)) == count
    assert Keep(True, share) != share and hash(Keep(False, count)) == hash(count)


def test_one_token_is_not_all_tokens():
    assert Keep.asked(1) != Keep.asked(1.0) and len({Keep.asked(1), Keep.asked(1.0), Keep.asked("100%")}) == 2
    assert (Keep.asked(1).tokens(576), Keep.asked(1.0).tokens(576)) == (1, 576)


def test_shares_stand_before_counts_and_fall():
    texts = ("1", "34%", "192", "100%", "26%", "64")
    assert [str(keep) for keep in sorted(map(Keep.parse, texts), reverse=True)] == ["100%", "34%", "26%", "192", "64", "1"]


@pytest.mark.parametrize("value", [True, None, [], {}, 1.5, 0, 0.0, -1, float("nan"), float("inf"), 192.0, 10**30])
def test_other_values_of_python_are_refused(value):
    with pytest.raises(ValueError, match=r"(must|write|written|more) "):
        Keep.asked(value)


def test_numbers_in_toml_keep_their_kind(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('keep = [192, 0.34, 1.0, "34%", 1, "1.0"]\n')
    assert tomllib.loads(path.read_text())["keep"][2] == 1.0
    found = CompareConfig(**read_file(path)).checked()
    assert [str(read_keep(keep)) for keep in found.keep] == ["192", "34%", "100%", "34%", "1", "100%"]


def test_a_request_made_in_python_may_hold_numbers():
    assert CompareConfig(keep=(192, 0.34, 1.0, "34%")).checked()
    with pytest.raises(RequestError, match="192"):
        CompareConfig(keep=(192.0,)).checked()


@pytest.mark.parametrize(
    ("facts", "label"),
    [
        ({"keep": 1.0}, "1"), ({"keep": 192.0}, "192"), ({"keep": 192}, "192"), ({"keep": 0.34}, "34%"),
        ({"keep": 1.0, "keep_label": "100%"}, "100%"), ({"keep": 1, "keep_label": "100%"}, "100%"),
        ({"keep": 1, "keep_label": "1"}, "1"),
    ],
)  # fmt: skip
def test_a_cell_without_a_label_is_of_an_older_version_and_from_one_on_a_count(facts, label):
    assert str(Keep.stored(facts)) == label


@pytest.mark.parametrize("facts", [{"keep": 0}, {"keep": 1.5}, {"keep": 5, "keep_label": "34%"}, {"keep": 5, "keep_label": "x"}])
def test_a_stored_budget_that_cannot_be_is_refused(facts):
    with pytest.raises(ValueError, match=r"(is no|is not|not a number)"):
        Keep.stored(facts)
