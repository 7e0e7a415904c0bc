"""What the pages say of how far the embedded model ranks methods as a published table does follows from stored retentions."""

import json
import re
from pathlib import Path

import pytest

from harness.literature.tables import printed, table
from harness.results.rank_agreement import TableRanks, rank_tables, rank_tables_alike

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "tiny_ranks"
RESTORE = "restore-llava-1.5-7b"


def ranks(mode: str, keep: str, variant: str = "") -> TableRanks:
    """What a stored run of 96 images says beside RESTORE's table."""
    cells = json.loads((DATA / f"{mode}.json").read_text())["cells"]
    (found,) = [one for one in rank_tables(cells, [RESTORE]) if one.keep == keep and one.variant == variant]
    return found


def told(found) -> str:
    """An agreement as the pages print it, without its n."""
    return f"{found.rho:.2f} (p = {found.p:.2g}" if found.p < 0.1 else f"{found.rho:.2f} (p = {found.p:.2f}"


@pytest.fixture(scope="module")
def rows():
    """The table of docs/limits.md by the first cell of each row: what it says at 192 and at 64 tokens."""
    section = (ROOT / "docs" / "limits.md").read_text().split("**`tiny` has not been shown")[1].split("\n**")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")]
    return {name: dict(zip(("192", "64"), rest)) for name, *rest in cells}


@pytest.mark.parametrize("keep", ["192", "64"])
def test_rho_p_and_n_are_those_of_the_stored_runs(rows, keep):
    usual = ranks("average", keep).agreement
    assert rows["as the rule says, `average`"][keep] == f"{told(usual)}, n = {usual.n})"
    other = ranks("average", keep, "sparsevlm[version=2]").agreement
    assert rows["`sparsevlm[version=2]` in its place"][keep] == f"{told(other)}, n = {other.n})"
    final = ranks("final", keep).agreement
    assert rows["beside it, at `final`"][keep] == f"{told(final)}, n = {final.n})"


@pytest.mark.parametrize("keep", ["192", "64"])
def test_the_extremes_are_the_lowest_and_highest_without_one_method(rows, keep):
    without = sorted(ranks("average", keep).without, key=lambda entry: entry[1].rho)
    for name, (_, extreme) in (("lowest", without[0]), ("highest", without[-1])):
        said = rows[f"without one method, {name}"][keep]
        figures, method = re.fullmatch(r"(.*)\) without `(.*)`", said).groups()
        assert figures == told(extreme)
        assert method in {own for own, found in without if found.rho == pytest.approx(extreme.rho)}


@pytest.mark.parametrize("keep", ["192", "64"])
def test_other_papers_are_told_as_they_rank(rows, keep):
    (name,) = [name for name in rows if "other papers" in name]
    model = table(RESTORE).figures[0].model
    others = [other for other in printed() if other != RESTORE and table(other).figures[0].model == model]
    found = [one.agreement for other in others for one in rank_tables_alike(RESTORE, other) if one.keep == keep]
    low, high = (f"{round(extreme(one.rho for one in found), 2) + 0.0:.2f}" for extreme in (min, max))
    assert rows[name][keep] == f"{low} to {high} in {len(found)} tables"
    assert {one.n for one in found} == {4, 5}


def test_the_words_around_the_table_hold():
    """`pyramiddrop` cannot meet 64 tokens, published retentions at 192 lie close, and the README says the same."""
    assert any(reason.startswith("pyramiddrop: keeps 144.8 tokens") for reason in ranks("average", "64").left_out)
    published = [method.published for method in ranks("average", "192").methods]
    assert 100 * (max(published) - min(published)) == pytest.approx(2.1, abs=0.05)
    first = ranks("average", "192").methods[0]
    assert first.method == "sparsevlm" and first.ours == min(m.ours for m in ranks("average", "192").methods)
    ranked = [method.method for method in ranks("average", "64").methods]
    ours = sorted(ranks("average", "64").methods, key=lambda method: -method.ours)
    assert ranked.index("visionzip") == 1 and [method.method for method in ours].index("visionzip") == 4
    assert [method.method for method in ours].index("tome") == 2
    readme = " ".join((ROOT / "README.md").read_text().split())
    a, b = ranks("average", "192").agreement, ranks("average", "64").agreement
    assert f"ρ {a.rho:.2f} at 192 tokens, p = {a.p:.2f}, n = {a.n}; {b.rho:.2f} at 64, p = {b.p:.2f}, n = {b.n}" in readme
