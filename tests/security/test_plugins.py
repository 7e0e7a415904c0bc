"""Plug-ins: what lies in the working folder or beside the data runs only where the user names it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

EVIL = 'open("ran", "w")\n'


@pytest.mark.parametrize(
    "words",
    [("list", "tasks"), ("list", "methods"), ("flops", "--shape", "llava-1.5-7b"), ("compare", "--task", "photos/x.jsonl")],
)
def test_modules_that_lie_about_are_not_imported(words, tmp_path):
    for name in ("plugin.py", "methods_extra.py", "my_module.py", "photos/task.py", "photos/conftest.py", "prunescope_plugin.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(EVIL)
    (tmp_path / "photos" / "x.jsonl").write_text("{")
    subprocess.run(
        [sys.executable, "-m", "harness", *words],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", ["../plugin", "plugin.py", "/tmp/plugin", "plugin;import os", "http://127.0.0.1/plugin", "plugin\n", ""]
)
def test_a_plugin_is_the_name_of_a_module(name, quiet_folder, refused):
    from harness.run.config import load_plugins

    (quiet_folder / "plugin.py").write_text(EVIL)
    refused(load_plugins, [name])


def test_a_run_folder_names_no_plugin_that_runs_by_itself(quiet_folder, tmp_path):
    """Reading a run does not import the plug-ins that its manifest tells of."""
    import json

    from harness.cli.app import main
    from tests.made_up_runs import Build, write_run

    (quiet_folder / "evil.py").write_text(EVIL)
    write_run(quiet_folder / "run", Build(images=range(2), questions=1, analysed=1)).connection.close()
    manifest = json.loads((quiet_folder / "run" / "manifest.json").read_text())
    manifest["config"]["plugin"] = ["evil"]
    (quiet_folder / "run" / "manifest.json").write_text(json.dumps(manifest))
    for words in (["samples", "run", "--jsonl"], ["regress", "run", "run"], ["report", "run"], ["explain", "run"]):
        with pytest.raises(SystemExit):
            main(words)
