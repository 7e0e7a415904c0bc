"""The command `report` of one run: its page lies in the run's folder, or where --out says."""

import json

import pytest

from harness.cli.app import main


def report(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["report", *map(str, words)])
    told = capsys.readouterr()
    return stop.value.code, told.out, told.err


def test_out_of_one_run_says_where_its_page_goes(make_run, tmp_path, capsys):
    run, page = make_run(images=range(2)), tmp_path / "new" / "page.html"
    code, out, err = report(capsys, run.folder, "--out", page)
    assert (code, out.strip(), err) == (0, str(page), "") and not (run.folder / "report.html").exists()
    code, out, _ = report(capsys, run.folder, "--json")
    assert code == 0 and json.loads(out) == {"reports": [str(run.folder / "report.html")]}
    assert (run.folder / "report.html").read_bytes() == page.read_bytes()


@pytest.mark.parametrize("name", ["summary.json", "report.html"])
def test_out_of_one_run_is_none_of_a_runs_own_files(name, make_run, capsys):
    run, other = make_run(images=range(2)), make_run(images=range(2))
    kept = (other.folder / "summary.json").read_bytes()
    code, out, err = report(capsys, run.folder, "--out", other.folder / name)
    assert code == 2 and "of the run itself" in err and len(err.splitlines()) == 1 and not out
    assert (other.folder / "summary.json").read_bytes() == kept and not (other.folder / "report.html").exists()


def test_several_runs_without_out(make_run, tmp_path, monkeypatch, capsys):
    one, other = make_run(images=range(2)), make_run(images=range(2))
    monkeypatch.chdir(tmp_path)
    code, out, _ = report(capsys, one.folder, other.folder)
    assert code == 0 and out.strip() == "runs.html" and (tmp_path / "runs.html").stat().st_size > 5_000
