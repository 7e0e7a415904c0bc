"""The recipe in docs/ci.md works as it stands, and the GitHub files are well-formed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "docs" / "ci.md"
ACTION = ROOT / ".github" / "actions" / "prunescope" / "action.yml"
WORKFLOW = ROOT / ".github" / "workflows" / "prunescope.yml"


def test_the_action():
    action = yaml.safe_load(ACTION.read_text())
    assert action["runs"]["using"] == "composite"
    for step in action["runs"]["steps"]:
        if "run" in step:
            assert step["shell"] == "bash" and "${{" not in step["run"], "inputs come as variables, never as code"
            subprocess.run(["bash", "-n"], input=step["run"], text=True, check=True)
        else:
            assert re.fullmatch(r"actions/[\w/-]+@v\d+", step["uses"])
    used = set(re.findall(r"inputs\.([\w-]+)", ACTION.read_text()))
    assert used == set(action["inputs"]) and all(value["description"] for value in action["inputs"].values())


def test_the_workflow():
    workflow = yaml.safe_load(WORKFLOW.read_text())
    (step,) = [s for s in workflow["jobs"]["regress"]["steps"] if s["uses"].startswith("./")]
    assert (ROOT / step["uses"] / "action.yml").samefile(ACTION)
    assert set(step["with"]) <= set(yaml.safe_load(ACTION.read_text())["inputs"])
    assert workflow["permissions"] == {"contents": "read", "pull-requests": "write"}


def test_the_rules_of_the_recipe_are_those_there_are():
    from dataclasses import fields

    from harness.results.regression.thresholds import Thresholds

    table = RECIPE.read_text().split("| rule |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| ([^|]*) \|", table, re.M)[1:]) and {
        name for row in re.findall(r"^\| (`[^|]*) \|", table, re.M) for name in re.findall(r"`(\w+)`", row)
    } == {field.name for field in fields(Thresholds)} - {"benchmarks"}
    for target in re.findall(r"\]\((\.\.[^)]*)\)", RECIPE.read_text()):
        assert (RECIPE.parent / target).exists(), target


@pytest.mark.slow
def test_every_command_of_the_recipe(tmp_path):
    for path in ROOT.iterdir():
        if path.name not in (".git", "runs") and not path.name.startswith(".pytest"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "runs").mkdir()
    identity = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # a shell that no worker started
    blocks = re.findall(r"^```sh\n(.*?)^```", RECIPE.read_text(), re.M | re.S)
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", "\n".join(blocks)],
        cwd=tmp_path, env={**own, **identity, "PATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("regression.md", "regression.xml", "regression.html", "wrong.jsonl", "samples.csv", "speed.json"):
        assert (tmp_path / name).stat().st_size, name
