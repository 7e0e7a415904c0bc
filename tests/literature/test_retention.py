"""What a method retains by a published table: each value over the unpruned model's that was measured alike."""

from dataclasses import replace

import pytest

from harness.literature.figures import OPEN_METRICS, UNKNOWN, PublishedFigure, metrics_apart
from harness.literature.retention import published_retention
from harness.literature.tables import names, table
from methods.keep import Keep

NONE = PublishedFigure(
    "none", UNKNOWN, "owner/model", "vizwiz", "VQA accuracy", "test", "576", "all", "every", "LLaVA", "50.0", "a paper", "rerun"
)
VALIDATION = replace(NONE, split="val", value="60.0")
FASTV = replace(NONE, method="fastv", keep="64", counts="final", value="45.0")
KEEP = Keep.parse("64")


def test_a_value_is_divided_by_that_of_its_own_split():
    other = replace(FASTV, method="tome", split="val")
    for whole in ((NONE, VALIDATION), (VALIDATION, NONE)):
        found = published_retention((*whole, FASTV, other), KEEP)
        assert found.of == {"fastv": pytest.approx(0.9), "tome": pytest.approx(0.75)} and found.left_out == ()


@pytest.mark.parametrize(
    ("field", "value"), [("split", "dev"), ("metric", "accuracy"), ("prompt", "lmms-eval"), ("tokens", "2880")]
)
def test_a_value_with_no_like_of_the_unpruned_model_leaves_its_method_out(field, value):
    found = published_retention((NONE, replace(FASTV, **{field: value}), replace(FASTV, method="tome")), KEEP)
    assert found.of == {"tome": pytest.approx(0.9)}
    assert found.left_out == (f"fastv: vizwiz has no value of the unpruned model of {field} {value}",)


@pytest.mark.parametrize("field", ["split", "metric", "prompt", "tokens"])
def test_what_is_unknown_matches_where_there_is_one_value_alone(field):
    for whole, one in ((replace(NONE, **{field: UNKNOWN}), FASTV), (NONE, replace(FASTV, **{field: UNKNOWN}))):
        assert published_retention((whole, one), KEEP).of == {"fastv": pytest.approx(0.9)}


def test_what_is_unknown_matches_none_of_several():
    found = published_retention((NONE, VALIDATION, replace(FASTV, split=UNKNOWN), replace(FASTV, method="tome")), KEEP)
    assert list(found.of) == ["tome"]
    assert found.left_out == ("fastv: vizwiz may be held against 2 values of the unpruned model, and which of them is not known",)
    assert published_retention((replace(NONE, split=UNKNOWN), VALIDATION, FASTV), KEEP).of == {"fastv": pytest.approx(0.9)}


def test_a_value_of_the_same_split_goes_before_one_of_an_unknown_one():
    whole = (replace(VALIDATION, split=UNKNOWN), NONE)
    assert published_retention((*whole, FASTV), KEEP).of == {"fastv": pytest.approx(0.9)}


def test_an_f1_left_open_may_be_divided_by_either_kind_but_not_where_both_stand():
    (open_metric, kinds), *_ = OPEN_METRICS.items()
    assert not any(metrics_apart(open_metric, kind) for kind in kinds) and metrics_apart(*kinds)
    whole = [replace(NONE, metric=kind, value=value) for kind, value in zip(kinds, ("50.0", "60.0"))]
    fastv = replace(FASTV, metric=open_metric)
    assert published_retention((whole[1], fastv), KEEP).of == {"fastv": pytest.approx(0.75)}
    assert published_retention((*whole, fastv), KEEP).of == {}


def test_no_value_of_a_table_of_the_package_is_divided_by_another_split():
    """EADP prints VizWiz of test for some methods and of validation for others, and of the unpruned model both."""
    figures = table("eadp-llava-1.5-7b").figures
    whole = {f.split: f.number for f in figures if (f.method, f.task) == ("none", "vizwiz")}
    assert whole == {"test": 50.1, "val": 55.6}
    of = published_retention(figures, Keep.parse("128"), ["vizwiz"]).of
    for method in ("cdpruner", "divprune", "hiprune", "fastv"):
        (one,) = (f for f in figures if (f.method, f.task, f.keep) == (method, "vizwiz", "128"))
        assert of[method] == pytest.approx(one.number / whole[one.split])
    assert {f.split for f in figures if f.method in ("cdpruner", "fastv") and f.task == "vizwiz"} == {"test", "val"}


def test_tables_of_the_package_leave_out_no_method_for_want_of_a_like_value():
    for name in names():
        figures = table(name).figures
        for keep in {str(f.budget): f.budget for f in figures if f.budget is not None}.values():
            assert not [reason for reason in published_retention(figures, keep).left_out if "unpruned" in reason], name
