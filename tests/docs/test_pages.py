"""What the pages say is so: figures, names, links, and the table of results."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_the_two_commands_are_those_that_are_run_on_every_change():
    """`.ci/run` types what the README says, but for pip's silence and the size of the run."""
    first, second = re.findall(r"^(pip install .*?)\s*#", README, re.M)
    run = (ROOT / ".ci" / "run").read_text()
    assert second == 'pip install -e ".[test]" && pytest' and second.replace("install", "install -q") in run
    assert first == "pip install -e . && python -m harness compare" and "python -m harness compare --samples" in run


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))], ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("https://"):
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file else path
            assert there.exists(), target
            if anchor:
                heads = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.M)
                assert anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads], target


@pytest.mark.parametrize("path", [ROOT / "CONTRIBUTING.md", DOCS / "house.md"], ids=lambda p: p.name)
def test_a_class_is_where_newcomers_are_sent_for_it(path):
    sent = re.findall(r"[Cc]olumn`? in `(\w+/[\w/]+\.py)`|`(\w+)` of `(\w+/[\w/]+\.py)`", path.read_text(encoding="utf-8"))
    assert [file for file, _, _ in sent if file], "columns of the page have a place"
    for file, name, other in sent:
        wanted = rf"^(?:class |def )?{name or 'Column'}\b"
        assert re.search(wanted, (ROOT / (file or other)).read_text(encoding="utf-8"), re.M), (name or "Column", file or other)


def test_the_picture_is_small_enough_to_load():
    for target in set(re.findall(r"!\[[^\]]+\]\((.*?)\)", README)):
        assert (ROOT / target).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and (ROOT / target).stat().st_size < 300_000


def test_every_family_is_in_the_list_of_what_runs():
    from harness.models.families import FAMILIES

    part = page("families.md").partition("## What runs")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", part, re.M)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == {"model_type", *FAMILIES}


def leaves(value, prefix=""):
    """Dotted names of the figures in an entry of summary.json; a figure with its interval is one."""
    if isinstance(value, dict) and not {"value", "lo", "hi"} <= set(value):
        for name, inner in value.items():
            yield from leaves(inner, f"{prefix}{name}.")
    else:
        yield prefix.removesuffix(".")


def test_every_figure_of_a_summary_is_explained(small_run):
    text = page("figures.md")
    known = set(re.findall(r"`\.?([a-z][\w.]*)`", text))
    last, groups = {name.rpartition(".")[2] for name in known}, {name.partition(".")[0] for name in known}
    summary = json.loads((small_run / "runs" / "first" / "summary.json").read_text())
    found: set[str] = set()
    for cell in summary["cells"]:
        found |= set(leaves({k: v for k, v in cell.items() if k not in ("params", "families", "task_figures")}))
    assert len(found) > 60
    assert [name for name in sorted(found) if name.rpartition(".")[2] not in last | groups] == []
    assert {"difference_none", "difference_like", "difference_winner", "evidence.swap_share", "latency.realised_gain"} <= known


def test_every_name_in_the_page_of_figures_is_one():
    """No figure is explained that there is not."""
    from metrics.figures import BIAS, COVERAGE, DIVERSITY, LAYERS

    text = page("figures.md")
    tables = {
        "Diversity": set(DIVERSITY),
        "Spatial coverage": set(COVERAGE),
        "Layer by layer": set(LAYERS),
        "Pull to a place": {*BIAS, "overlap", "row_z"},
    }
    for title, names in tables.items():
        section = text.split(f"## {title}\n")[1].split("\n## ")[0]
        assert {n for row in re.findall(r"^\| (`.*?) \|", section, re.M) for n in re.findall(r"`(\w+)`", row)} == names, title


def test_constants_in_the_pages_are_those_of_the_code():
    from harness.run.analysis import MATCHED_SUBSETS
    from harness.run.config import CompareConfig
    from metrics.collapse import SUBSETS
    from metrics.evidence import KEPT
    from metrics.paired_ratio import KNOWN

    text = page("figures.md")
    numbers = (f"{SUBSETS} random subsets", f"{MATCHED_SUBSETS} random subsets")
    for said in (*numbers, f"known to {100 * KNOWN:g} %", f"recall is at least {KEPT}"):
        assert said in text, said
    assert f"{CompareConfig.analyse} unless you" in page("limits.md") and CompareConfig.margin == 0.02


def test_the_table_of_tasks_has_every_benchmark_with_its_data_set():
    from harness.tasks.registry import BENCHMARKS, infos

    manual = page("tasks.md")
    for info in infos():
        if info.name in BENCHMARKS:
            assert re.search(rf"^\| `{info.name}` \| {re.escape(info.source)} \|", manual, re.MULTILINE), info.name
            closing = info.prompt.rstrip("\n").rpartition("\n")[2]
            assert closing in manual or info.name in ("ocrbench", "refcoco"), closing


def test_the_table_of_methods_has_all_of_them():
    from methods.registry import BUNDLED

    section = README.split("## The methods\n")[1].split("\n\n## ")[0].split("\n\nEach is")[0]
    assert set(re.findall(r"`(\w+)`", section)) == set(BUNDLED)


def test_families_and_tilers_are_those_there_are():
    from dataclasses import fields

    from harness.models import tiling
    from harness.models.families import FamilySpec

    text = page("families.md")
    for tiler in re.findall(r"\(`(\w+)`\)", text):
        assert issubclass(getattr(tiling, tiler), tiling.ImageTiler)
    asked = re.findall(r"^\| `(\w+)` \|", text.split("| field | ask |")[1].split("\n\n")[0], re.M)
    assert set(asked) <= {field.name for field in fields(FamilySpec)}
    for file in re.findall(r"^\| `(\w+\.py)` \|", text, re.M):
        assert (ROOT / "harness" / "models" / file).exists(), file


def test_fastv_at_192_tokens_on_llava_is_what_the_page_of_bridges_says():
    from harness.models.shapes import shape_of
    from methods.registry import create
    from methods.schedule import plan
    from methods.types import Budget

    _, schedule = plan(create("fastv"), shape_of("llava-1.5-7b"), Budget(192))
    assert (schedule.llm[:3], schedule.final) == ((576, 576, 166), 166)
    assert "[(576, 166)]" in page("bridges.md")


def test_the_values_of_one_method_that_the_page_of_published_figures_names_are_printed_and_contradict_each_other():
    from harness.literature.contradictions import contradictions
    from harness.literature.tables import published

    said = re.search(r"FastV at 64\s+tokens of LLaVA-1.5-7B has a POPE of ([\d.]+), ([\d.]+) and ([\d.]+),", page("published.md"))
    cell = ("fastv", "llava-hf/llava-1.5-7b-hf", "pope", "64")
    found = {f: others for f, others in contradictions(published()).items() if (f.method, f.model, f.task, f.keep) == cell}
    for value in said.groups():
        contradicted = {other.value for f, others in found.items() if f.value == value for other in others}
        assert {*said.groups()} - {value} <= contradicted, value


def test_the_page_of_published_figures_has_every_column_every_filter_and_what_tells_two_figures_apart():
    from harness.literature.contradictions import TELLING
    from harness.literature.figures import COUNTS, ORIGINS, PROMPTS
    from harness.literature.selection import FILTERS
    from harness.literature.tables import COLUMNS

    text = page("published.md")
    section = text.split("## What a row says\n")[1].split("\n## ")[0]
    columns = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\| (`.*?) \|", section, re.M)))
    assert sorted(columns) == sorted((*COLUMNS, "table"))
    assert set(re.findall(r"`--(\w+)`", text.split("| option |")[1].split("\n\n")[0])) == {*FILTERS, "contradictions"}
    for word in (*COUNTS, *ORIGINS, *(prompt.partition(",")[0] for prompt in PROMPTS)):
        assert f"`{word}`" in section, word
    rule = text.split("## Contradictions\n")[1].split("3. ")[0].split("2. ")[1].split(" is known")[0]
    assert re.findall(r"`(\w+)`", rule) == list(TELLING)
    assert f"\n{','.join(COLUMNS)}\n" in text, "the example of a table has its columns"


def rows(text: str) -> dict[str, list[str]]:
    """Rows of a Markdown table by their first column, for methods at a budget or none."""
    found = re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, re.M)
    return {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in found}


def test_the_readmes_table_is_that_of_the_results():
    short, whole = rows(README.split("## One result\n")[1].split("\n## ")[0]), rows(page("results.md"))
    assert len(short) > 5
    for name, (accuracy, to_none, to_random, evidence, flops) in short.items():
        row = [cell.replace("&lt;", "<") for cell in whole[name]]
        assert [accuracy, to_none, to_random, evidence, flops] == [row[1], row[3], row[4], row[6], row[8]], name


@pytest.mark.slow
def test_the_command_gives_the_table(tmp_path):
    """All accuracies within three of 432 answers, which is what rounding may change, and all costs to the digit."""
    command = "compare --methods all --keep 64 --samples 48 --no-latency --analyse 0"
    assert f"python -m harness {command}\n" in README and f"python -m harness {command}\n" in page("results.md")
    done = subprocess.run(
        [sys.executable, "-m", "harness", *command.split(), "--out", str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found, said = rows(done.stdout), rows(page("results.md"))
    assert set(found) == set(said)
    for name, row in said.items():
        mine = found[name]
        assert abs(float(mine[1].split()[0]) - float(row[1].split()[0])) < 0.8, name
        assert mine[7:9] == row[7:9], name
