"""The tables of the page of methods say what the registry and the fields of `Signals` say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from methods.loading import BUNDLED
from methods.registry import entries, unverified, year
from methods.signals import OPTIONAL_SIGNALS, SIGNAL_NAMES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
GOLDENS = {path.name.partition("_")[0].partition("-")[0] for path in (ROOT / "tests/data/goldens").glob("*.npz")}


def table(title: str) -> dict[str, list[str]]:
    """The rows of the first table below a title, by the name in their first cell."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in section.splitlines() if line.startswith("| `")]
    found = {row[0].strip("`"): row[1:] for row in rows}
    assert len(found) == len(rows), "a name stands there twice"
    return found


METHODS, SIGNALS = table("The methods, and what proves them"), table("Signals")


@pytest.mark.parametrize("name", list(BUNDLED))
def test_every_method_has_a_row_that_is_right(name):
    entry = entries()[name]
    paper, code, acts, ranks_by, proof, tiles = METHODS[name]
    assert paper == (f"{entry.paper}, {year(entry.paper)}" if year(entry.paper) else entry.paper or "–")
    assert (acts, ranks_by, tiles) == (entry.site, entry.ranks_by, entry.tiles)
    ours = not entry.paper or entry.reference
    assert proof.split()[0].rstrip(":,;") == ("unverified" if "" in entry.unverified else "ours" if ours else "outputs"), proof
    for key, reason in entry.unverified.items():
        if key:
            assert f"`{key}`" in proof and "unverified" in proof, key
            assert ("the default" in proof) == (unverified(name) == reason), key
    proved = proof.startswith("outputs")
    assert "/" in code or not proved, "a method is proved by outputs of a repository"
    assert (code != "–") == (proved or "authors' code" in proof), "what is said of the authors' code has its repository"
    assert not proved or any(stem == name or stem.rstrip("0123456789h").startswith(name) for stem in GOLDENS), (
        "outputs are stored"
    )


def test_every_row_is_a_method():
    assert list(METHODS) == list(BUNDLED)


def test_what_is_left_out_has_its_reason():
    assert "ficocov" in GOLDENS and "ficocov" not in METHODS
    assert re.search(r"FiCoCo-V \(arXiv:2411\.17686\) is left out\. .*never reset", PAGE, re.S)


def test_every_signal_has_its_row_and_its_shape():
    assert list(SIGNALS) == [name for name in re.findall(r"^    (\w+): torch\.Tensor", SOURCE, re.M) if name in SIGNAL_NAMES]
    for name, (shape, where, norm, rotary) in SIGNALS.items():
        told = re.search(rf"^    {name}: torch\.Tensor.*?#\s*(?:\w+ )?(\[.*?\])", SOURCE, re.M)
        assert shape == (told[1] if told and name != "carry" else "any"), name
        assert where and norm and rotary, name
        assert ("may be missing" in where) == (name in OPTIONAL_SIGNALS), name
        assert ("not applied" in rotary) == ("unrotated" in name), name


SOURCE = (ROOT / "methods" / "signals.py").read_text(encoding="utf-8")


def test_exceptions_to_the_code_s_rule_are_those_of_the_table_of_expressions():
    rows = (ROOT / "tests/data/goldens/expressions.tsv").read_text(encoding="utf-8").splitlines()
    other = {re.match(r"\w+", row.split("\t")[1])[0] for row in rows if "rule=code" in row}
    section = PAGE.split("### Whose rule")[1].split("\n## ")[0]
    assert other == {name for name in re.findall(r"`(\w+)`", section) if name in METHODS} == {"holov", "hiprune"}
