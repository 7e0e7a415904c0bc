"""Runs of older versions: whoever reads their summary reads one by the rules of this version, and their folder stays as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.cli.app import main
from harness.results import current_summary as current
from harness.results.current_summary import current_summary, made_by, renewed_summary
from harness.results.regression.regress import regress
from harness.results.several import side_by_side
from harness.results.summary import plain, summarise
from harness.run.comparison import Run, compare
from harness.store.open_runs import reading
from harness.store.runs import RunFolder
from harness.store.schema import READ_VERSIONS, SCHEMA_VERSION

OLDER = Path(__file__).parents[1] / "data" / "older_run"
CHOSEN = {"methods": ["random", "fastv"], "latency": False, "workers": 1, "analyse": 0, "seeds": 1}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit(folder: Path, name: str, **content: object) -> None:
    known = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(known | content))


@pytest.fixture
def older(tmp_path) -> Path:
    """A run that schema version 2 made."""
    return Path(shutil.copytree(OLDER, tmp_path / "older"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """A run of this version, with analysed images and times."""
    out = tmp_path_factory.mktemp("fresh") / "run"
    options = {"samples": 2, "analyse": 2, "seeds": 1, "rounds": 2, "workers": 1, "max_new_tokens": 2}
    return compare(methods=["fastv"], keep=[64], out=out, **options).folder


def run_main(capsys, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, words)))
    told = capsys.readouterr()
    return stop.value.code, told.out, told.err


def test_it_is_summarised_by_the_rules_of_this_version_and_stays_as_it_is(older, capsys):
    before = files(older)
    for path in older.iterdir():
        path.chmod(0o444)
    older.chmod(0o555)
    with reading(older) as (run,):
        found = current_summary(run)
        assert found == plain(summarise(run)) and found["schema_version"] == SCHEMA_VERSION
        assert run.summary()["schema_version"] == 2 and made_by(run.manifest()) == 2
        assert current_summary(run) is found, "made once"
    assert files(older) == before
    told = f"was made by schema version 2 and is summarised by the rules of schema version {SCHEMA_VERSION}"
    assert capsys.readouterr().err == f"note: {older}: {told}\n"


@pytest.mark.parametrize("version", READ_VERSIONS[:-1])
def test_figures_are_those_of_a_new_summary(version, fresh, tmp_path):
    whole = RunFolder(fresh).summary()
    folder = Path(shutil.copytree(fresh, tmp_path / "run"))
    for name in ("manifest.json", "summary.json"):
        edit(folder, name, schema_version=version)
    for cell in (told := json.loads((folder / "summary.json").read_text()))["cells"]:
        cell |= {"retention": 0.123, "accuracy": None}
    (folder / "summary.json").write_text(json.dumps(told))
    found = current_summary(RunFolder(folder, read_only=True))
    assert found.pop("run_schema_version", version) == version
    whole.pop("run_schema_version", None)
    assert found == whole


def test_a_run_of_this_version_is_read_and_not_made_again(fresh, monkeypatch, capsys):
    monkeypatch.setattr(current, "as_json", None)
    run = RunFolder(fresh, read_only=True)
    assert current_summary(run) == renewed_summary(run) == run.summary() and made_by(run.manifest()) is None
    assert not capsys.readouterr().err


def test_cells_that_an_interrupted_extension_began_are_left_out(older):
    run = RunFolder(older)
    (ident, key, facts) = next(cell for cell in run.cells() if cell[2]["method"] == "fastv")
    whole = current_summary(RunFolder(older, read_only=True))
    run.add_cells([(key.replace("fastv", "fastv[layer=3]"), facts | {"method": "fastv[layer=3]"})])
    with run.connection as connection:
        connection.execute(
            "INSERT INTO samples SELECT (SELECT max(id) FROM cells), question, prediction, score, agree, kl, kept, kept_count, "
            "recall, recall_before, swap_score, failed, read, undecided, ours, official, authors, layer_counts, tower_counts "
            "FROM samples WHERE cell = ? LIMIT 3",
            (ident,),
        )
    run.close()
    found = current_summary(RunFolder(older, read_only=True))
    assert len(RunFolder(older, read_only=True).cells()) == len(whole["cells"]) + 1 and found == whole


def test_report_writes_page_and_summary_and_with_out_neither(older, tmp_path, capsys):
    before = files(older)
    code, out, err = run_main(capsys, "report", older, "--out", tmp_path / "page.html")
    assert code == 0 and out.strip() == str(tmp_path / "page.html") and files(older) == before
    assert err.count("was made by schema version 2") == 1 and len(err.splitlines()) == 1 and "anew" not in err
    code, out, err = run_main(capsys, "report", older, "--json")
    assert code == 0 and len(err.splitlines()) == 1 and "was made by schema version 2" in err
    assert err.endswith(", and its summary.json and summary.csv are written anew\n")
    after = files(older)
    assert after.keys() - before.keys() == {"report.html", "summary.csv"}
    assert all(after[name] == before[name] for name in ("manifest.json", "results.sqlite"))
    summary = json.loads(after["summary.json"])
    assert summary["schema_version"] == SCHEMA_VERSION and len(summary["cells"]) == 16
    assert after["report.html"] == (tmp_path / "page.html").read_bytes()
    code, _, err = run_main(capsys, "report", older)
    assert code == 0 and not err and files(older) == after, "by now the summary is of this version"


@pytest.mark.parametrize("name", ["summary.csv", "report.html"])
def test_where_the_folder_cannot_be_written_out_is_named(older, tmp_path, capsys, name):
    (older / name).mkdir()
    code, out, err = run_main(capsys, "report", older)
    assert code == 2 and not out and f"{older / name}: cannot be written" in err
    assert err.strip().endswith("; --out PAGE writes the page elsewhere and leaves the folder as it is")
    code, out, _ = run_main(capsys, "report", older, "--out", tmp_path / "page.html")
    assert code == 0 and out.strip() == str(tmp_path / "page.html")


def test_what_compares_it_with_another_says_so(older, fresh, tmp_path):
    again = RunFolder(Path(shutil.copytree(older, tmp_path / "again")), read_only=True)
    said = "was begun by schema version 2 and is summarised by the rules of this one."
    notes = regress(RunFolder(older, read_only=True), again).notes
    assert notes[:2] == (f"The baseline {said}", f"The candidate {said}")
    new = RunFolder(fresh, read_only=True)
    assert side_by_side([new, again]).notes[-1] == f"again {said}"
    assert not any("summarised" in note for note in (*regress(new, new).notes, *side_by_side([new, again]).notes[:-1]))


def test_explain_says_by_whose_rules(fresh, tmp_path, capsys):
    folder = Path(shutil.copytree(fresh, tmp_path / "run"))
    edit(folder, "summary.json", schema_version=4)
    _, whole, err = run_main(capsys, "explain", fresh, "--json")
    assert not err
    code, out, err = run_main(capsys, "explain", folder, "--json")
    assert code == 0 and out == whole and "was made by schema version 4" in err and len(err.splitlines()) == 1


def test_in_python_it_is_read_as_every_other(older, capsys):
    run = Run(RunFolder(older))
    assert run.summary["schema_version"] == SCHEMA_VERSION and len(run.frame()) == 16
    again = compare(keep=["34%", 64, 1], samples=1, out=older, resume=True, **CHOSEN)
    assert again.summary == run.summary and (older / "report.html").exists()
    assert capsys.readouterr().err.count("is summarised by the rules of") == 2, "read, and with its page written anew"
    assert json.loads((older / "summary.json").read_text())["schema_version"] == SCHEMA_VERSION


def test_one_that_is_not_finished_goes_on(older):
    (older / "summary.json").unlink()
    run = RunFolder(older)
    with run.connection as connection:
        lost = next(ident for ident, _, facts in run.cells() if facts["method"] == "fastv")
        for table in ("samples", "done"):
            connection.execute(f"DELETE FROM {table} WHERE cell = ?", (lost,))
    run.close()
    found = compare(keep=["34%", 64, 1], samples=1, out=older, resume=True, **CHOSEN)
    assert found.summary["schema_version"] == SCHEMA_VERSION and made_by(found.store.manifest()) == 2
    assert {cell["n"] for cell in found.summary["cells"] if cell["skipped"] is None} == {9}


def test_an_extended_run_says_which_version_began_it(older):
    grown = compare(extend=older, methods=["fps"], keep=[64], workers=1)
    manifest = grown.store.manifest()
    assert (manifest["schema_version"], manifest["begun_by"], made_by(manifest)) == (SCHEMA_VERSION, 2, 2)
    assert grown.summary["run_schema_version"] == 2 and grown.summary["schema_version"] == SCHEMA_VERSION
    assert "fps" in {cell["method"] for cell in grown.summary["cells"]}
    assert "This run was begun by schema version 2" in (older / "report.html").read_text()
    again = compare(extend=older, methods=["grid"], keep=[64], workers=1)
    assert again.store.manifest()["begun_by"] == 2 and again.summary["run_schema_version"] == 2


def test_of_an_extended_run_the_ranks_that_are_missing_have_a_reason(fresh, tmp_path):
    folder = Path(shutil.copytree(fresh, tmp_path / "run"))
    assert all(cell["collapse"]["why_no_rank"] is None for cell in RunFolder(folder).summary()["cells"] if cell["collapse"])
    edit(folder, "summary.json", schema_version=4)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"schema_version": 4}
    del manifest["chance"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    grown = compare(extend=folder, methods=["fps", "tome"], keep=[64], workers=1)
    assert grown.summary["run_schema_version"] == made_by(grown.store.manifest()) == 4
    analysed = {cell["method"]: cell["collapse"] for cell in grown.summary["cells"] if cell["collapse"]}
    for name in ("fastv", "fps"):
        tied = analysed[name]["z"]["cells"]
        assert tied["percentile"] is tied["p"] is tied["p_adjusted"] is None and "ties half" in analysed[name]["why_no_rank"]
        assert analysed[name]["z"]["effective_rank"]["percentile"] is not None
    assert analysed["tome"]["why_no_rank"] is None and "no subset" in analysed["tome"]["why_no_z"]
    assert f"has no rank: {analysed['fps']['why_no_rank']}." in (folder / "report.html").read_text()


@pytest.mark.parametrize("margin", [None, 0, 7, "0.02", "missing"])
def test_a_manifest_without_a_margin_is_refused(margin, older, capsys):
    config = json.loads((older / "manifest.json").read_text())["config"] | {"margin": margin}
    edit(older, "manifest.json", config={name: value for name, value in config.items() if value != "missing"})
    code, _, err = run_main(capsys, "report", older)
    assert code == 2 and "manifest.json: " in err and len(err.splitlines()) == 1
    assert not (older / "report.html").exists() and not (older / "summary.csv").exists()


@pytest.mark.parametrize("fault", ["score = 'right'", "prediction = CAST(x'ff' AS TEXT)", "score = 9e999"])
def test_damaged_answers_are_refused_in_one_line(fault, older, tmp_path, capsys):
    run = RunFolder(older)
    with run.connection as connection:
        connection.execute(f"UPDATE samples SET {fault} WHERE cell = 3")
    run.close()
    for words in ([], ["--out", tmp_path / "page.html"]):
        code, out, err = run_main(capsys, "report", older, *words)
        assert code == 2 and not out and "results.sqlite: " in err and len(err.splitlines()) == 1
    assert json.loads((older / "summary.json").read_text())["schema_version"] == 2


NONSENSE = {
    "retention": ("high", [1], {"value": "x"}, {"value": 1, "lo": "x"}, True),
    "retention_adjusted": ({"value": []},),
    "difference_downsample": (3, {"value": "x"}, {"value": 0.1, "p_adjusted": "small"}, {"value": 0.1, "p_holm": [1]}),
    "non_inferior": (3, {"holds": "yes"}, {"margin": "x"}, {"p_best": "x"}, {"smallest_detectable": {}}),
    "evidence": (3, {"swap_share": "x"}, {"swap_share": {"value": "x"}}, {"recall_over_control": 3}, {"swap_gain": {"p": "x"}}),
    "collapse": (3, {"z": 3}, {"z": {"hull": "x"}}, {"z": {"hull": {"percentile": 3}}}, {"tests": -1}, {"why_no_rank": 3}),
    "bias": ({"lower_half": 3}, {"lower_half": {"p": "x"}}),
    "latency": (
        {"rounds": 1.5},
        {"ratio": {"p": "x"}},
        {"realised_gain": 3},
        {"wide": 1},
        {"stage_rounds": -1},
        {"sum_gap": "x"},
    ),
}
WHOLE_NONSENSE = {
    "checks": (3, {"correlation": 3}, {"correlation": {"rho": "x"}}, {"families": {"difference_none": 3}}, {"needed_images": 3},
               {"families": {"difference_none": {"tests": "x"}}}, {"needed_images": {"one": "x"}}),
    "run_schema_version": ("2", -1), "explained": (3,),
}  # fmt: skip


@pytest.mark.parametrize("key", [*NONSENSE, *WHOLE_NONSENSE])
def test_nonsense_is_refused_in_one_line(key, make_run, capsys):
    run = make_run(images=range(2))
    whole = json.loads((run.folder / "summary.json").read_text())
    for value in (*NONSENSE.get(key, ()), *WHOLE_NONSENSE.get(key, ())):
        if key in NONSENSE:
            cells = [cell | {key: value} if place == 3 else cell for place, cell in enumerate(whole["cells"])]
            run.write_json("summary.json", whole | {"cells": cells})
        else:
            run.write_json("summary.json", whole | {key: value})
        code, _, err = run_main(capsys, "report", run.folder)
        assert code == 2 and f"{key!r} is" in err and len(err.splitlines()) == 1, value


@pytest.mark.parametrize("timing", [3, {"used": "x"}, {"known": 0.5}, {"before": 3}, {"before": [3]}])
def test_what_a_manifest_tells_of_its_latency_pass_is_a_table(timing, make_run, capsys):
    run = make_run(images=range(2))
    edit(run.folder, "manifest.json", timing=timing)
    code, _, err = run_main(capsys, "report", run.folder)
    assert code == 2 and "'timing' is" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("shape", [0.9, {"value": 0.9, "lo": None, "hi": None}, None], ids=["number", "interval", "none"])
def test_a_ratio_may_have_either_shape(shape, make_run):
    run = make_run(images=range(2))
    whole = json.loads((run.folder / "summary.json").read_text())
    cells = [cell | {"retention": shape, "evidence": {"swap_share": shape}} for cell in whole["cells"]]
    run.write_json("summary.json", whole | {"cells": cells})
    assert run.summary()["cells"][3]["retention"] == shape
