"""Cells held against published figures: what matches, what the verdict is, and what is said to differ or to be unknown."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.literature.comparison import verdict_of
from harness.results.against_published import as_rows, held_against
from harness.results.current_summary import current_summary
from harness.results.published_match import RunFacts
from tests.published_runs import QUIET, run_of, run_of_shapes, written


def slow_verdict(value: str, rounding: Fraction, lo: Fraction, hi: Fraction) -> str:
    """Where our interval lies, with exact numbers: two ranges touch where one of their ends lies within the other."""
    low, high = Fraction(value) - rounding, Fraction(value) + rounding
    if any(low <= end <= high for end in (lo, hi)) or any(lo <= end <= hi for end in (low, high)):
        return "inside"
    return "above" if lo > high else "below"


cents = st.integers(0, 10_000).map(lambda n: Fraction(n, 100))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=st.integers(0, 1000), ends=st.tuples(cents, cents).map(sorted))
def test_a_verdict_is_that_of_exact_numbers(value, ends):
    printed = f"{value / 10:.1f}"
    assert verdict_of(float(printed), 0.05, *map(float, ends)) == slow_verdict(printed, Fraction(1, 20), *ends)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of_shapes(tmp_path_factory.mktemp("shapes") / "run")


@pytest.fixture(scope="module")
def summary(run):
    return current_summary(run)


def score_of(summary, method: str) -> dict:
    return next(cell["score"] for cell in summary["cells"] if cell["method"] == method)


def around(score: dict) -> dict[str, str]:
    """Values as papers print them, by what their verdict must be."""
    edge = next(f"{n / 10:.1f}" for n in range(1001) if n / 10 + 0.05 >= score["lo"])
    return {f"{score['value']:.1f}": "inside", edge: "inside", f"{score['lo'] - 0.2:.1f}": "above",
            f"{score['hi'] + 0.2:.1f}": "below"}  # fmt: skip


def test_every_value_has_the_verdict_of_a_slow_version(run, summary, tmp_path):
    wanted = {}
    for method, keep in (("none", "all"), ("tome", "64"), ("fastv", "64")):
        wanted |= {(method, keep, value): verdict for value, verdict in around(score_of(summary, method)).items()
                   if 0 <= float(value) <= 100}  # fmt: skip
    assert {"inside", "above", "below"} <= set(wanted.values())
    figures = written(tmp_path, *({"method": m, "keep": k, "value": v} for m, k, v in wanted))
    found = [one for one in held_against(run, summary, figures) if one.method != "fastv[layer=3]"]
    assert {(one.method, one.keep, one.figure.value): one.verdict for one in found} == wanted
    for one in found:
        score = score_of(summary, one.method)
        assert (one.value, one.lo, one.hi) == (score["value"], score["lo"], score["hi"])
        exact = (Fraction(score["lo"]), Fraction(score["hi"]))
        assert one.verdict == slow_verdict(one.figure.value, Fraction(1, 20), *exact)
        assert (one.images, one.questions, one.whole, one.matched) == (3, 27, None, "")


def test_only_the_same_model_task_method_and_budget_match(run, summary, tmp_path):
    same = {"method": "tome", "keep": "64", "value": "50"}
    others = ({"model": "llava-hf/llava-1.5-7b-hf"}, {"task": "pope"}, {"method": "sts"}, {"keep": "192"}, {"keep": "11.1%"},
              {"keep": "unknown"}, {"method": "none", "keep": "all", "task": "gqa"}, {"method": "random"})  # fmt: skip
    figures = written(tmp_path, same, *({**same, **other} for other in others))
    assert [(one.method, one.figure.line) for one in held_against(run, summary, figures)] == [("tome", 2)]
    assert held_against(run, summary, figures[1:]) == [] and held_against(run, summary, ()) == []


def held_one(run, summary, folder, cell="fastv", **fields):
    figures = written(folder, {"method": "fastv", "keep": "64", "value": "50", **fields})
    (found,) = [one for one in held_against(run, summary, figures) if one.method == cell]
    return found


@pytest.mark.parametrize(
    ("fields", "differs", "unknown"),
    [
        ({"version": "layer=2"}, (), ()),
        ({"version": "layer=3"}, ("layer: 2 here, 3 there",), ()),
        ({}, (), ("version of the method",)),
        ({"version": "code at 1a2b3c4"}, (), ("whether ours is its version, code at 1a2b3c4",)),
        ({"version": "layer=2", "split": "unknown"}, (), ("split of the data",)),
        ({"version": "layer=2", "split": "val"}, ("split: test here, val there",), ()),
        ({"version": "layer=2", "counts": "unknown"}, (), ("what the budget counts",)),
        ({"version": "layer=2", "counts": "final"},
         ("budget counts the mean over the LLM’s layers here, the LLM’s last layer there",), ()),
        ({"version": "layer=2", "prompt": "unknown"}, (), ("prompt",)),
        ({"version": "layer=2", "tokens": "unknown"}, (), ("tokens of an image before pruning",)),
        ({"version": "layer=2", "tokens": "2880"}, ("an image has 576 tokens before pruning here, 2,880 there",), ()),
        ({"version": "layer=2", "prompt": "lmms-eval"}, ("prompt: prunescope’s here, lmms-eval’s there",), ()),
    ],
)  # fmt: skip
def test_what_differs_and_what_is_unknown(run, summary, tmp_path, fields, differs, unknown):
    found = held_one(run, summary, tmp_path, **fields)
    assert (found.differs, found.unknown) == (differs, unknown)
    assert found.counts == (not differs) and found.verdict is not None


def test_parameters_that_are_not_default_differ(run, summary, tmp_path):
    found = held_one(run, summary, tmp_path, "fastv[layer=3]")
    assert found.differs == ("parameters that are not default here: layer=3",) and not found.counts
    assert held_one(run, summary, tmp_path / "told", "fastv[layer=3]", version="layer=3").differs == ()


def test_of_a_method_with_the_same_tokens_in_every_layer_all_ways_to_count_are_one(run, summary, tmp_path):
    for counts in ("every", "average", "final"):
        found = held_one(run, summary, tmp_path / counts, "tome", method="tome", counts=counts)
        assert found.differs == ()
    assert held_one(run, summary, tmp_path / "inside", counts="every").differs == (
        "budget counts the mean over the LLM’s layers here, every LLM layer alike there",
    )


def test_what_has_no_verdict_says_why(run, summary, tmp_path):
    none = held_one(run, summary, tmp_path, metric="unknown")
    assert (none.verdict, none.why_none, none.value) == (None, "metric unknown", None) and "metric" in none.unknown
    other = held_one(run, summary, tmp_path / "other", metric="F1")
    assert (other.verdict, other.why_none) == (None, "this run reports accuracy")
    assert other.differs == ("metric: accuracy here, F1 there",)
    lacking = held_one(run, summary, tmp_path / "lacking", value="unknown")
    assert (lacking.verdict, lacking.why_none) == (None, "the source’s value is unknown") and lacking.value is not None


@pytest.fixture
def by_compute(run, summary):
    """The same run as if its budgets had been a share of compute, with the cells that it really has."""
    cells = [{**cell, "budget": "flops" if cell["method"] != "none" else cell["budget"]} for cell in summary["cells"]]
    return {**summary, "cells": cells}


@pytest.mark.parametrize("counts", ["every", "average", "final", "unknown"])
def test_a_budget_of_compute_always_differs_from_one_of_tokens(run, by_compute, tmp_path, counts):
    found = held_one(run, by_compute, tmp_path, "tome", method="tome", counts=counts)
    (clause,) = found.differs
    assert clause.startswith("budget counts compute here, tokens there") and not found.counts and found.verdict is not None
    assert "what the budget counts" not in found.unknown
    (whole,) = held_against(run, by_compute, written(tmp_path / "w", {"method": "none", "keep": "all", "value": "50"}))
    assert whole.differs == () and whole.counts


def test_a_real_run_of_compute_differs(tmp_path):
    from harness.run.comparison import compare
    from harness.store.runs import RunFolder

    compare(methods=("none", "tome"), keep=("33.3%",), budget="flops", samples=2, out=tmp_path / "run", **QUIET)
    run = RunFolder(tmp_path / "run")
    figures = written(tmp_path / "table", {"method": "tome", "keep": "33.3%", "value": "50", "counts": "every"})
    (found,) = held_against(run, current_summary(run), figures)
    assert found.differs == ("budget counts compute here, tokens there (every LLM layer alike)",)


@pytest.mark.parametrize(
    ("method", "version", "differs", "unknown"),
    [
        ("mmtok", "text_temperature=0.02,image_temperature=0.2,alpha=0.5", [], []),
        ("mmtok", "text_temperature=0.020,alpha=0.50", [], []),
        ("mmtok", "text_temperature=0.01,image_temperature=0.2,alpha=1",
         ["text_temperature: 0.02 here, 0.01 there", "alpha: 0.5 here, 1 there"], []),
        ("mmtok[alpha=1]", "text_temperature=0.02,alpha=1", [], []),
        ("mmtok[alpha=1]", "text_temperature=0.02", ["parameters that are not default here: alpha=1"], []),
        ("mmtok", "alpha=0.5,depth=3", [], ["whether ours is its version, alpha=0.5,depth=3"]),
        ("mmtok", "alpha=much", ["alpha: 0.5 here, much there"], []),
        ("mmtok", "code at 1a2b3c4", [], ["whether ours is its version, code at 1a2b3c4"]),
        ("mmtok", "code of A=B, second release", [], ["whether ours is its version, code of A=B, second release"]),
        ("fastv", "K=2", [], ["whether ours is its version, K=2"]),
        ("fastv[layer=3]", "layer=3", [], []),
    ],
)  # fmt: skip
def test_a_version_sets_any_number_of_parameters(method, version, differs, unknown):
    from harness.literature.figures import PublishedFigure
    from harness.results.published_match import apart

    figure = PublishedFigure(
        method.partition("[")[0], version, LLAVA, "gqa", "accuracy", "s", "576", "64", "every", "lmms-eval", "50", "s", "rerun"
    )
    manifest = {"model": LLAVA, "task": "gqa", "task_info": {"name": "gqa", "split": "s"}, "config": {}, "hub": {}}
    facts = RunFacts.of(manifest, [{"method": "none", "tokens": {"average": 576.0}}])
    found = apart(figure, {"method": method, "budget": "average", "schedule": [64] * 4}, facts)
    assert (list(found.differs), list(found.unknown)) == (differs, unknown)


def test_methods_are_counted_once_however_often_a_table_prints_them(run, summary, tmp_path):
    inside = f"{score_of(summary, 'fastv')['value']:.1f}"
    copies = [{"method": "tome", "keep": "64", "value": inside, "version": version} for version in ("unknown", "1", "2")]
    figures = written(tmp_path, {"method": "fastv", "keep": "64", "value": inside}, *copies)
    found = next(one for one in held_against(run, summary, figures) if one.method == "fastv")
    assert (found.others, found.others_inside) == (1, 1)


def test_copies_of_one_value_are_told_from_several_values(run, summary, tmp_path):
    values = ["50.0", *["70.0"] * 8, "71.5"]
    figures = written(tmp_path, *({"method": "tome", "keep": "64", "value": v, "source": f"p{i}"} for i, v in enumerate(values)))
    first = next(one for one in held_against(run, summary, figures) if one.figure.value == "50.0")
    assert (first.contradicted_by, first.contradicting_values) == (9, 2)
    assert as_rows([first])[0]["contradicting_values"] == 2


def test_contradictions_and_the_values_of_other_methods_are_counted(run, summary, tmp_path):
    score = score_of(summary, "fastv")
    inside, far = f"{score['value']:.1f}", f"{score['hi'] + 1:.1f}"
    figures = written(
        tmp_path, {"method": "fastv", "keep": "64", "value": inside}, {"method": "tome", "keep": "64", "value": inside},
        {"method": "sts", "keep": "64", "value": far}, {"method": "none", "keep": "all", "value": inside},
        {"method": "fastv", "keep": "64", "value": far, "source": "another paper", "origin": "copied"},
    )  # fmt: skip
    first, second = [one for one in held_against(run, summary, figures) if one.method == "fastv"]
    assert (first.contradicted_by, first.others, first.others_inside) == (1, 2, 1)
    assert (second.contradicted_by, second.others) == (1, 0), "the other paper prints no other method"


def test_of_a_cell_what_counts_comes_first(run, summary, tmp_path):
    fields = ({"metric": "unknown"}, {"split": "val"}, {"value": "60.0"}, {"prompt": "unknown", "split": "val"})
    figures = written(tmp_path, *({"method": "tome", "keep": "64", "value": "50.0", **one} for one in fields))
    found = held_against(run, summary, figures)
    assert [one.figure.line for one in found] == [4, 3, 5, 2] and [one.counts for one in found] == [True, False, False, False]


def test_rows_are_what_json_holds(run, summary, tmp_path):
    figures = written(tmp_path, {"method": "tome", "keep": "64", "value": "50"})
    found = held_against(run, summary, figures)
    (row,) = json.loads(json.dumps(as_rows(found)))
    assert row["method"] == "tome" and row["published"] == "50" and row["verdict"] == found[0].verdict
    assert row["width"] == pytest.approx(row["hi"] - row["lo"]) and row["table"] == "made-up" and row["line"] == 2


LLAVA = "llava-hf/llava-1.5-7b-hf"


@pytest.mark.parametrize(
    ("model", "hub", "how"),
    [
        (LLAVA, {"model": {"repository": LLAVA}}, ""),
        ("liuhaotian/llava-v1.5-7b", {"model": {}}, f"liuhaotian/llava-v1.5-7b has the weights of {LLAVA}"),
        ("/data/llava-1.5-7b-hf/", {}, "matched by the name of its folder, llava-1.5-7b-hf, alone"),
        ("C:\\models\\llava-v1.5-7b", {}, "matched by the name of its folder, llava-v1.5-7b, alone"),
        ("/c/hub/models--llava-hf--llava-1.5-7b-hf/snapshots/8c85e9", {}, f"its folder is that of {LLAVA} in the hub’s cache"),
        ("/c/hub/models--me--llava-1.5-7b-hf/snapshots/8c85e9", {}, None),
        ("me/llava-1.5-7b-hf", {"model": {"repository": "me/llava-1.5-7b-hf"}}, None),
        ("me/llava-1.5-7b-hf", None, None),
        ("/data/llava-1.5-13b-hf", {}, None),
        ("tiny", {}, None),
    ],
)
def test_how_a_model_is_matched(model, hub, how):
    assert RunFacts.of({"model": model, "task": "pope", "hub": hub}).matched(LLAVA) == how


def test_a_folder_is_never_the_embedded_model():
    assert RunFacts.of({"model": "/data/tiny", "task": "shapes", "hub": {}}).matched("tiny") is None


@pytest.mark.parametrize(
    ("task", "config", "prompt", "differs", "unknown"),
    [
        ("textvqa[ocr=true]", {}, "LLaVA, OCR tokens", [], ["whether lmms-eval’s prompt, which is ours, reads like LLaVA’s"]),
        ("textvqa", {}, "LLaVA, OCR tokens", ["OCR tokens not in the prompt here, but there"],
         ["whether lmms-eval’s prompt, which is ours, reads like LLaVA’s"]),
        ("textvqa[ocr=true]", {}, "lmms-eval", ["OCR tokens in the prompt here, not there"], []),
        ("gqa", {}, "LLaVA", [], []),
        ("gqa", {"prompt": "Look. {question}"}, "LLaVA", ["the prompt is changed here (--prompt)"], []),
        ("gqa", {}, "VLMEvalKit", ["prompt: lmms-eval’s here, VLMEvalKit’s there"], []),
        ("gqa", {"chat_template": "t.jinja", "quantize": 4}, "lmms-eval",
         ["weights of 4 bits in the LLM here", "another chat template here"], []),
        ("gqa[hub=me/mine]", {}, "lmms-eval", ["data: me/mine here"], []),
        ("gqa[hub=lmms-lab-encoder/GQA]", {}, "lmms-eval", [], []),
    ],
)  # fmt: skip
def test_prompts_and_requests_that_differ(task, config, prompt, differs, unknown):
    from harness.literature.figures import PublishedFigure
    from harness.results.published_match import apart

    name = task.partition("[")[0]
    figure = PublishedFigure(
        "none", "unknown", LLAVA, name, "accuracy", "s", "576", "all", "every", prompt, "50", "source", "rerun"
    )
    manifest = {"model": LLAVA, "task": task, "task_info": {"name": name, "split": "s"}, "config": config, "hub": {}}
    whole = {"method": "none", "tokens": {"average": 576.0, "final": 576}}
    found = apart(figure, {"method": "none", "budget": "average"}, RunFacts.of(manifest, [whole]))
    assert (list(found.differs), list(found.unknown)) == (differs, unknown)


def of_llava(task: str, metric: str, value: str, **fields: str) -> dict[str, str]:
    return {"method": "fastv", "keep": "64", "model": LLAVA, "task": task, "metric": metric, "value": value,
            "prompt": "LLaVA", **fields}  # fmt: skip


def test_pope_of_local_files_by_f1_and_by_accuracy(tmp_path):
    run = run_of("pope", tmp_path, 36, scoring="authors")
    summary = current_summary(run)
    cell = next(cell for cell in summary["cells"] if cell["method"] == "fastv")
    figures = written(
        tmp_path / "table", of_llava("pope", "F1", f"{cell['score']['value']:.1f}"), of_llava("pope", "F1", "0.0"),
        of_llava("pope", "accuracy", f"{100 * cell['accuracy']['value']:.1f}"), of_llava("pope", "MME total", "50"),
    )  # fmt: skip
    f1, none, accuracy, other = held_against(run, summary, figures)
    assert [one.verdict for one in (f1, none, accuracy, other)] == ["inside", "above", "inside", None]
    assert f1.value == cell["score"]["value"] != accuracy.value == 100 * cell["accuracy"]["value"]
    assert (f1.images, f1.questions, f1.whole) == (2, 36, 9000)
    assert f1.matched == "matched by the name of its folder, llava-1.5-7b-hf, alone"
    assert f1.unknown == ("version of the method", "split of our local files") and f1.differs == () and f1.partial
    assert other.differs == ("metric: F1 here, MME total there",)


def test_the_f1_of_pope_is_of_all_questions_or_the_mean_of_its_categories(tmp_path):
    run = run_of("pope", tmp_path, 36, scoring="authors")
    summary = current_summary(run)
    cell = next(cell for cell in summary["cells"] if cell["method"] == "fastv")
    figures = written(
        tmp_path / "table", of_llava("pope", "F1", "50"), of_llava("pope", "F1 pooled or by category", "50"),
        of_llava("pope", "F1 by category", "50"),
    )  # fmt: skip
    pooled, open_one, by_category = held_against(run, summary, figures)
    clause = "whether it is F1, as ours, or F1 by category"
    assert (clause in pooled.unknown, clause in open_one.unknown, clause in by_category.unknown) == (False, True, False)
    assert open_one.verdict == pooled.verdict is not None and open_one.value == pooled.value and open_one.counts
    kinds = [cell["task_figures"][f"f1_{kind}"] for kind in ("adversarial", "popular", "random")]
    assert by_category.value == pytest.approx(100 * sum(kinds) / 3) and by_category.differs == ()
    assert (by_category.verdict, by_category.lo, by_category.why_none) == (None, None, "our figure has no interval")


def test_pope_of_a_part_of_its_categories_is_no_figure_of_pope(tmp_path):
    run = run_of("pope", tmp_path, 12, scoring="official")
    summary = current_summary(run)
    for cell in summary["cells"]:
        if cell["task_figures"]:
            del cell["task_figures"]["f1_random"]
    for metric in ("F1", "F1 by category", "F1 pooled or by category", "accuracy"):
        (found,) = held_against(run, summary, written(tmp_path / metric.replace(" ", ""), of_llava("pope", metric, "50")))
        assert (found.verdict, found.value) == (None, None)
        assert found.why_none == "2 of the 3 categories were asked here, and it is made of all"


def test_the_total_of_a_part_of_mme_has_no_verdict(tmp_path):
    run = run_of("mme", tmp_path, 12, scoring="official")
    summary = current_summary(run)
    figures = written(
        tmp_path / "table", of_llava("mme", "MME total", "1500"), of_llava("mme", "MME perception", "1400.5"),
        of_llava("mme", "MME cognition", "300"), of_llava("mme", "accuracy", "60"),
    )  # fmt: skip
    assert all(cell["score"]["partial"] for cell in summary["cells"] if cell["score"])
    found = {one.figure.metric: one for one in held_against(run, summary, figures)}
    asked = {
        "MME total": "6 of the 14",
        "MME perception": "6 of the 10",
        "MME cognition": "0 of the 4",
        "accuracy": "6 of the 14",
    }
    for metric, clause in asked.items():
        one = found[metric]
        assert (one.value, one.lo, one.verdict, one.counts) == (None, None, None, False)
        assert one.why_none == f"{clause} categories were asked here, and it is made of all" and one.differs == ()


def test_ocrbench_and_circular_accuracy_are_means_of_which_a_part_is_an_estimate(tmp_path):
    run = run_of("ocrbench", tmp_path, 20, scoring="official", split=",split=test")
    figures = written(tmp_path / "table", of_llava("ocrbench", "OCRBench total", "1000"), of_llava("ocrbench", "accuracy", "100"))
    total, accuracy = held_against(run, current_summary(run), figures)
    assert total.partial and total.verdict == accuracy.verdict == "below" and accuracy.differs == ()
    assert (total.value, total.lo, total.hi) == tuple(
        pytest.approx(10 * getattr(accuracy, name)) for name in ("value", "lo", "hi")
    )
    mmbench = run_of("mmbench", tmp_path, 8, scoring="official")
    (circular,) = held_against(mmbench, current_summary(mmbench), written(
        tmp_path / "m", of_llava("mmbench", "circular accuracy", "100")))  # fmt: skip
    assert circular.partial and circular.verdict is not None and circular.value is not None


def test_mme_by_its_total_and_by_perception(tmp_path):
    run = run_of("mme", tmp_path, 28, split=",split=test", scoring="ours")
    summary = current_summary(run)
    figures = written(
        tmp_path / "table", of_llava("mme", "MME total", "2800"), of_llava("mme", "MME perception", "1400.5"),
        of_llava("mme", "accuracy", "100"),
    )  # fmt: skip
    total, accuracy, perception = held_against(run, summary, figures)
    cell = next(cell for cell in summary["cells"] if cell["method"] == "fastv")
    assert total.value == cell["score"]["value"] and total.verdict == "below" and accuracy.verdict == "below"
    assert total.hi < 2800 and total.figure.rounding == 0.5
    assert perception.value == cell["task_figures"]["perception"]
    assert (perception.verdict, perception.why_none) == (None, "our figure has no interval")
    assert total.unknown == ("version of the method",) and total.differs == ("scored by our own rule here",)
    for one in summary["cells"]:
        if one["task_figures"]:
            del one["task_figures"]["scene"]
    (lacking,) = [one for one in held_against(run, summary, figures) if one.figure.metric == "MME perception"]
    assert (lacking.value, lacking.differs) == (None, total.differs)
    assert lacking.why_none == "9 of the 10 categories were asked here, and it is made of all"
