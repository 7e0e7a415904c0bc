"""A run's order of methods beside a published table's: retention, which cells stand for which methods, and what is left out."""

import csv

import pytest
from scipy import stats

from harness.errors import RequestError
from harness.literature.tables import COLUMNS, table
from harness.results.rank_agreement import as_text, rank_tables, rank_tables_alike

HEAD = """title = "Made up"
source = "made up"
url = "https://example.org"
read = "written by this test"
[reproduce]
methods = {holov = "holov[rule=code]"}
"""
WHOLE = {"gqa": "60.0", "mme": "1800", "pope": "80.0"}
VALUES = {
    "fastv": ("40.0", "1200", "50.0"), "sparsevlm": ("45.0", "1300", "60.0"), "tome": ("50.0", "1700", "78.0"),
    "divprune": ("55.0", "1500", "70.0"), "holov": ("48.0", "1350", "65.0"), "vispruner": ("52.0", "1600", "unknown"),
}  # fmt: skip
OURS = {"fastv": 0.50, "sparsevlm": 0.70, "tome": 0.65, "divprune": 0.95, "holov[rule=code]": 0.6, "vispruner": 0.9}


@pytest.fixture
def own_table(tmp_path):
    """The path of a table of six methods at 64 tokens over three tasks, one with a gap."""
    path = tmp_path / "made-up.toml"
    path.write_text(HEAD)
    metrics = {"gqa": "accuracy", "mme": "MME total", "pope": "F1"}
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        rows = [("none", "all", list(WHOLE.values())), *((m, "64", list(values)) for m, values in VALUES.items())]
        for method, keep, values in rows:
            for (task, metric), value in zip(metrics.items(), values):
                writer.writerow(
                    [method, "unknown", "some/model", task, metric, "test", "576", keep, "unknown", "LLaVA", value, "x", "rerun"]
                )
    return str(path)


def cell(method, retention, keep=64, skipped=None):
    return {
        "method": method, "keep": keep, "keep_label": str(keep), "budget": "average", "skipped": skipped,
        "retention": None if retention is None else {"value": retention, "lo": None, "hi": None},
    }  # fmt: skip


@pytest.fixture
def cells():
    """A run's cells: every method of the table, two forms of one, and references."""
    usual = [cell(method, retention) for method, retention in OURS.items()]
    return [
        {**cell("none", 1.0), "keep": None, "keep_label": None}, *usual, cell("holov", 0.99), cell("fastv", 0.97, keep=192),
        cell("random", 0.4), cell("sts", 0.8),
    ]  # fmt: skip


def test_retention_and_rho_are_those_of_an_obvious_computation(own_table, cells):
    usual, variant = rank_tables(cells, [own_table])
    published = {
        method: sum(float(v) / float(w) for v, w in zip(values, WHOLE.values())) / 3
        for method, values in VALUES.items() if "unknown" not in values
    }  # fmt: skip
    assert {m.method: m.published for m in usual.methods} == pytest.approx(published)
    assert [m.method for m in usual.methods] == sorted(published, key=published.get, reverse=True)
    ours = {"fastv": 0.50, "sparsevlm": 0.70, "tome": 0.65, "divprune": 0.95, "holov": 0.6}
    assert {m.method: m.ours for m in usual.methods} == ours
    expected = stats.spearmanr([published[m] for m in published], [ours[m] for m in published])
    assert usual.agreement.rho == pytest.approx(expected.statistic)
    assert usual.agreement.n == 5 and usual.keep == "64" and usual.beside == "the run (average)"
    for out, found in usual.without:
        rest = [m for m in published if m != out]
        assert found.rho == pytest.approx(stats.spearmanr([published[m] for m in rest], [ours[m] for m in rest]).statistic)
    assert variant.variant == "holov"
    assert {m.cell for m in variant.methods} == {"fastv", "sparsevlm", "tome", "divprune", "holov"}


def test_what_is_not_ranked_has_its_reason(own_table, cells):
    skipped = [
        cell("sparsevlm", None, skipped="keeps 100 tokens at the least") if c["method"] == "sparsevlm" else c for c in cells
    ]
    without = [c for c in skipped if c["method"] != "holov[rule=code]"]
    (found, *_) = rank_tables(skipped, [own_table])
    assert found.agreement.n == 4
    assert set(found.left_out) == {
        "vispruner: the table has no value for pope", "sparsevlm: keeps 100 tokens at the least",
    }  # fmt: skip
    (only,) = rank_tables(without, [own_table])
    assert only.variant == "holov"
    assert "sparsevlm: keeps 100 tokens at the least" in only.left_out
    assert not any(reason.startswith("holov") for reason in only.left_out)


def test_under_four_methods_nothing_is_said(own_table, cells):
    few = [c for c in cells if c["method"] in ("fastv", "tome", "divprune")]
    with pytest.raises(RequestError, match=r"4 methods of .*made-up.toml have a retention; its budgets are 192, 64"):
        rank_tables(few, [own_table])
    assert rank_tables(few) == []
    assert "no published table has 4 methods" in as_text([])


def test_a_budget_of_another_kind_is_another_budget(own_table, cells):
    shares = [{**c, "keep": 0.64, "keep_label": "64%"} for c in cells if c["keep"] == 64]
    with pytest.raises(RequestError, match="have a retention"):
        rank_tables(shares, [own_table])


def test_the_text_says_n_and_what_one_method_does_to_it(own_table, cells):
    text = as_text(rank_tables(cells, [own_table])[:1])
    assert "5 methods: Spearman's rho 0.50, p = 0.45 (of all 120 orders); agreement in rank is not shown" in text
    assert "not ranked: vispruner: the table has no value for pope" in text
    assert "without one method: " in text


def test_equal_retentions_share_their_rank(own_table, cells):
    tied = [{**c, "retention": {"value": 0.95}} if c["method"] == "tome" else c for c in cells]
    lines = {line.split()[0]: line.split() for line in as_text(rank_tables(tied, [own_table])[:1]).splitlines()}
    assert lines["tome"][4] == lines["divprune"][4] == "1.5"


def written(path, values, tasks):
    """The path of a table of the tests' model: methods at 64 tokens, over tasks whose unpruned value is 50."""
    path.write_text(HEAD.partition("[reproduce]")[0])
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for method, row in {"none": ["50"] * len(tasks), **values}.items():
            for task, value in zip(tasks, row, strict=True):
                keep = "all" if method == "none" else "64"
                facts = [method, "unknown", "some/model", task, "accuracy", "unknown", "576", keep, "unknown", "unknown", value]
                writer.writerow([*facts, "here", "copied"])
    return str(path)


def test_two_tables_are_ranked_over_what_both_have(tmp_path):
    """The task that one table alone has would turn its order round; it does not count."""
    one = written(tmp_path / "one.toml", {m: [v, w] for m, v, w in zip("abcde", "12345", "12345")}, ["gqa", "seedbench"])
    other = written(
        tmp_path / "other.toml", {m: [v, w] for m, v, w in zip("abcdf", "12435", ["40", "30", "20", "10", "5"])}, ["gqa", "pope"]
    )
    (found,) = rank_tables_alike(one, other)
    assert found.columns == ("gqa",)
    assert [m.method for m in found.methods] == ["d", "c", "b", "a"]
    assert [m.ours for m in found.methods] == pytest.approx([0.06, 0.08, 0.04, 0.02])
    assert found.agreement.rho == pytest.approx(0.8) and found.beside == "table other"


def test_a_method_of_two_versions_in_a_table_is_left_out(tmp_path, cells):
    path = tmp_path / "twice.toml"
    name = written(path, {m: [v] for m, v in zip(("fastv", "sparsevlm", "tome", "divprune", "vispruner"), "12345")}, ["gqa"])
    (found,) = rank_tables(cells, [name])
    assert found.agreement.n == 5
    with path.with_suffix(".csv").open("a", newline="") as file:
        csv.writer(file).writerow(
            ["tome", "2", "some/model", "gqa", "accuracy", "unknown", "576", "64", "unknown", "unknown", "4", "here", "rerun"]
        )
    table.cache_clear()
    (found,) = rank_tables(cells, [name])
    assert found.agreement.n == 4 and "tome: the table has several values of it, of other versions or settings" in found.left_out


def test_the_embedded_table_ranks_as_its_authors_average(cells):
    """RESTORE prints the mean retention of FastV, SparseVLM, VisionZip, DivPrune and HoloV at 192 tokens."""
    printed = {"fastv": 96.0, "sparsevlm": 98.1, "visionzip": 96.8, "divprune": 96.9, "holov": 96.5}
    names = ("fastv", "sparsevlm", "visionzip", "divprune", "holov[rule=code]")
    *_, found = rank_tables([cell(name, 0.5 + i / 10, keep=192) for i, name in enumerate(names)], ["restore-llava-1.5-7b"])
    assert {m.method: round(100 * m.published, 1) for m in found.methods} == printed


def test_a_form_that_the_table_knows_to_be_another_is_not_ranked_as_the_same(tmp_path, cells):
    """PruMerge+ is no PruMerge, and version 2 of SparseVLM is not version 1."""
    rows = {m: [v] for m, v in zip(("prumerge", "sparsevlm", "fastv", "tome", "divprune", "vispruner"), "123456")}
    path = tmp_path / "forms.toml"
    name = written(path, rows, ["gqa"])
    lines = path.with_suffix(".csv").read_text()
    lines = lines.replace("prumerge,unknown", '"prumerge","plus=true"').replace("sparsevlm,unknown", "sparsevlm,2")
    path.with_suffix(".csv").write_text(lines.replace("fastv,unknown", "fastv,code at 1a2b3c4"))
    both = [*cells, cell("prumerge", 0.3)]
    (found,) = rank_tables(both, [name])
    assert {m.method for m in found.methods} == {"fastv", "tome", "divprune", "vispruner"}
    assert "prumerge: plus=true in the table, false here" in found.left_out
    assert "sparsevlm: version=2 in the table, 1 here" in found.left_out
    same, _ = rank_tables([*both, cell("sparsevlm[version=2]", 0.31)], [name])[::-1]
    assert {m.cell for m in same.methods} == {"sparsevlm[version=2]", "fastv", "tome", "divprune", "vispruner"}


def test_another_count_of_tokens_is_told(tmp_path, cells):
    path = tmp_path / "counts.toml"
    name = written(path, {m: [v] for m, v in zip(("fastv", "sparsevlm", "tome", "divprune"), "1234")}, ["gqa"])
    text = path.with_suffix(".csv").read_text()
    path.with_suffix(".csv").write_text(text.replace(",64,unknown,", ",64,final,", 1).replace(",64,unknown,", ",64,every,", 1))
    (found,) = rank_tables(cells, [name])
    assert found.differs == ("fastv: the table counts final, average beside it",)
    assert "known to differ: fastv: the table counts final, average beside it" in as_text([found])


def test_four_methods_cannot_show_agreement_and_that_is_said(own_table, cells):
    few = [c for c in cells if c["method"] in ("fastv", "tome", "divprune", "sparsevlm")]
    (found,) = rank_tables(few, [own_table])
    assert "so few cannot show agreement: p is 0.083 at the least" in as_text([found])


def test_tasks_of_another_metric_do_not_count_between_two_tables(tmp_path):
    rows = {m: [v, w] for m, v, w in zip("abcde", "12345", "54321")}
    one, other = (written(tmp_path / f"{name}.toml", rows, ["gqa", "pope"]) for name in ("one", "other"))
    path = tmp_path / "other.csv"
    path.write_text(path.read_text().replace("pope,accuracy", "pope,F1"))
    (found,) = rank_tables_alike(one, other)
    assert found.columns == ("gqa",)
    path.write_text(path.read_text().replace("pope,F1", "pope,unknown"))
    table.cache_clear()
    (found,) = rank_tables_alike(one, other)
    assert found.columns == ("gqa", "pope")
