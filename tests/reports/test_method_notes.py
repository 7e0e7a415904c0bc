"""What stands beside the names of methods: unverified with its reason, how budgets count on tiles, what is the same."""

from __future__ import annotations

from dataclasses import replace

from reports.cells import strata
from reports.headline import headlines
from reports.markdown import table as markdown
from reports.method_notes import counted_on_tiles, doubles, races, same_notes, tiles_note, unverified_methods, unverified_note
from reports.page import render
from reports.table import table
from reports.view import RunView

WHY = "no code of the authors is public <yet>"


def told(run: RunView, **facts: dict) -> RunView:
    """A run whose cells know more, by method."""
    return replace(run, cells=[{**cell, **facts.get(cell["method"], {})} for cell in run.cells])


def test_an_unverified_method_has_its_mark_and_reason_beside_its_name(run):
    html = render(told(run, sts={"unverified": WHY}))
    rows = [row for row in html.split("<tr ")[1:] if '<span class="name">sts</span>' in row.split("</th>")[0]]
    escaped = "no code of the authors is public &lt;yet&gt;"
    assert len(rows) == 3
    assert all(f">unverified</span><small>{escaped}</small></th>" in row for row in rows)
    assert f'<dt><span class="name">sts</span>, unverified</dt><dd>{escaped}</dd>' in html
    assert "held to a slow version of our own alone" in html
    assert "unverified" not in render(run)


def test_the_same_stands_below_a_table_in_markdown(run):
    text = markdown(told(run, sts={"unverified": "why"}).cells)
    assert "Unverified, with no output of the authors’ code to hold them against: sts (why)." in text
    assert "Unverified" not in markdown(run.cells)


def test_each_method_says_how_its_budget_counts_on_tiles(run):
    tiled = told(run, sts={"tiles": "all"}, fastv={"tiles": "each"}, random={"tiles": "all"})
    assert [name for name, _ in counted_on_tiles(tiled.cells)] == ["sts", "fastv"]
    html = render(tiled)
    assert (
        '<dt>Keep on tiles, <span class="name">sts</span></dt><dd>a budget counts the tokens of all tiles together</dd>' in html
    )
    assert 'class="name">fastv</span></dt><dd>a budget is divided by the number of tiles and counts on each' in html
    assert "on tiles" not in render(run) and "on images in tiles" not in render(run)


def test_what_is_kept_on_tiles_is_what_was_measured(run):
    """One method rounds down on each tile, one fills up in the LLM what it rounded: neither is said to do what it did not."""
    less = {"tiles": "each", "tokens": {"average": 8.0, "final": 7.0}}
    cells = [
        {**cell, "keep": 9, "keep_label": "9", **less} if cell["method"] == "fastv" and cell["keep"] == 64
        else {**cell, "tiles": "each", "tokens": {"average": float(cell["keep"]), "final": 1.0}} if cell["method"] == "sts"
        else {**cell, "tiles": "all"}
        for cell in run.cells if cell["method"] != "fastv" or cell["keep"] == 64
    ]  # fmt: skip
    said = "Budgets are not equal on images in tiles, where a method counts on each tile on its own: fastv keeps "
    assert tiles_note(cells) == f"{said}8.0 tokens of 9 asked."
    told = dict(counted_on_tiles(cells))
    assert told["fastv"].endswith("no output of theirs is there to hold this division against. Tokens kept: 8.0 at 9")
    assert told["sts"].endswith("Tokens kept: 192.0 at 192, 128.0 at 128 and 64.0 at 64")
    assert tiles_note([{**cell, "budget": "final"} for cell in cells]).startswith(f"{said.removesuffix('fastv keeps ')}sts keeps")
    assert "fastv keeps 7.0 tokens of 9" in tiles_note([{**cell, "budget": "final"} for cell in cells])
    assert tiles_note([{**cell, "budget": "flops"} for cell in cells]) == "", "no count of tokens was asked for"
    assert tiles_note(cells) in render(replace(run, cells=cells)) and tiles_note(cells) in markdown(cells)
    assert tiles_note(run.cells) == ""


def test_a_cell_of_an_older_summary_is_like_no_other_and_not_marked(run):
    assert same_notes(run.cells) == unverified_methods(run.cells) == counted_on_tiles(run.cells) == []
    assert unverified_note(run.cells) == ""
    assert all(row.same_as == row.unverified == "" for row in table(run.cells, strata(run.cells)).rows)


def test_the_same_at_some_budgets_is_out_of_the_race_at_these(run):
    cells = [{**c, "same_as": "fastv"} if c["method"] == "sts" and c["keep"] != 64 else c for c in run.cells]
    assert [c["keep"] for c in cells if c["method"] == "sts" and races(c)] == [64]
    (group,) = strata(cells)
    fastv = next(c for c in cells if c["method"] == "fastv" and c["keep"] == 192)
    assert doubles(fastv, cells) == ("sts",)
    heads = {head.keep.value: head for head in headlines(group)}
    assert {keep: head.of for keep, head in heads.items()} == {192: heads[64].of - 1, 128: heads[64].of - 1, 64: heads[64].of}
    (note,) = same_notes(cells)
    assert note.startswith("sts at 192 and 128 is the same as fastv:") or note.startswith("sts at 128 and 192")
    rows = {row.keep.value: row.same_as for row in table(cells, [group]).rows if row.method == "sts"}
    assert rows == {192: "fastv", 128: "fastv", 64: ""}
