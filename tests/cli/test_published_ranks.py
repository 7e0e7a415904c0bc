"""`published --ranks`: a run's or a table's order of methods beside published tables, from the command line."""

import json

import pytest
from typer.testing import CliRunner

from harness.cli.app import app

RESTORE = "restore-llava-1.5-7b"


def run(*words):
    """What the command prints, and its exit code; a wrong request is raised."""
    return CliRunner().invoke(app, ["published", *words], catch_exceptions=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A real run of five methods on two images."""
    from harness import compare

    out = tmp_path_factory.mktemp("ranks") / "run"
    methods = ["fastv", "tome", "divprune", "vispruner", "visionzip"]
    compare(methods=methods, keep=[64], samples=2, latency=False, analyse=0, out=out, self_check=False)
    return out


def test_a_run_is_ranked_beside_a_table(folder):
    done = run("--ranks", str(folder), "--table", RESTORE, "--json")
    assert done.exit_code == 0, done.output
    (entry,) = json.loads(done.stdout)
    summary = json.loads((folder / "summary.json").read_text())
    ours = {
        cell["method"]: cell["retention"]["value"] for cell in summary["cells"] if cell["keep"] == 64 and not cell["reference"]
    }
    assert {m["cell"]: m["ours"] for m in entry["methods"]} == ours
    assert entry["agreement"]["n"] == 5 and len(entry["without"]) == 5 and len(entry["columns"]) == 8
    text = run("--ranks", str(folder), "--table", RESTORE).stdout
    assert "5 methods: Spearman's rho" in text and "of all 120 orders" in text
    assert "at 64 tokens; beside it tiny on shapes, 2 images (average)" in text


def test_a_table_is_ranked_beside_another():
    done = run("--ranks", RESTORE, "--table", RESTORE, "--json")
    found = json.loads(done.stdout)
    assert [entry["keep"] for entry in found] == ["192", "128", "64"]
    assert all(entry["agreement"]["rho"] == 1.0 and entry["agreement"]["n"] == 8 for entry in found)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--ranks", "restore-llava-1.5-7c"], "no run folder and no table; did you mean 'restore-llava-1.5-7b'?"),
        (["--ranks", RESTORE, "--table", "pace-qwen2.5-vl-7b"], "has no budget at which four methods of pace-qwen2.5-vl-7b"),
        (["--ranks", RESTORE, "--method", "fastv"], "--method: --ranks takes --table and --json alone"),
        (["--ranks", RESTORE, "--contradictions"], "--contradictions: --ranks takes --table and --json alone"),
        (["--ranks", RESTORE, "--table", "restore-llava-1.5-8b"], "did you mean 'restore-llava-1.5-7b'"),
    ],
)
def test_a_wrong_request_is_told(words, said):
    done = run(*words)
    assert done.exit_code != 0 and said in str(done.exception)
