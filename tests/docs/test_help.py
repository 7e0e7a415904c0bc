"""Help, examples and completion of the command line; they load nothing heavy."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from harness.cli import completion
from harness.cli.app import app, main

ROOT = Path(__file__).parents[2]
GROUP = typer.main.get_command(app)


@pytest.mark.parametrize("name", list(GROUP.commands))
def test_every_command_explains_itself_with_an_example(capsys, name):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    examples = text.split("Example:\n")[1].strip().splitlines()
    assert len(examples) == 1
    words = shlex.split(examples[0])
    assert words[:4] == ["python", "-m", "harness", name]
    assert GROUP.commands[name].make_context(name, words[4:]).params
    assert len(text.split("Options:")[0].split()) > 12, "says what it does"
    for parameter in GROUP.commands[name].params:
        assert parameter.help or parameter.name == "help", parameter.name


def test_exit_codes_are_the_same_everywhere():
    """The help of the whole, what `main` says of itself, and the pages name the same codes."""
    codes = lambda text: set(re.findall(r"\b(\d+)(?= (?:a|done|the|wrong|interrupted)\b)", text.split("Exit codes: ")[-1][:400]))
    known = codes(app.info.epilog)
    assert {"0", "1", "2", "130"} <= known == codes(main.__doc__)
    for page in ("README.md", "docs/start.md"):
        assert codes((ROOT / page).read_text(encoding="utf-8")) == known, page


def test_help_is_quick():
    """Under half a second of a processor's time: what a machine that does nothing else takes."""
    script = "import resource; print(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]))"
    command = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-m', 'harness', 'compare', '--help'], stdout=-3); {script}"
    )
    taken = min(
        float(subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    )
    assert taken < 0.5


def test_names_are_those_of_the_registries():
    from harness.models.hf import EMBEDDED
    from harness.models.shapes import PUBLIC
    from harness.tasks.registry import names
    from methods.registry import BUNDLED

    assert completion.methods("") == [*BUNDLED, "all"] and completion.method("") == list(BUNDLED)
    assert set(completion.shapes("")) == set(PUBLIC)
    assert set(EMBEDDED) <= set(completion.models("")) and completion.tasks("") == names()


def test_runs_are_found_and_other_folders_lead_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "manifest.json").touch()
    assert completion.runs("ru") == ["runs/"] and completion.runs("runs/") == ["runs/first"] == completion.runs("runs/f")
    assert completion.runs("nowhere/x") == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("compare --methods sts,fa", ["sts,fastv"]),
        ("compare --methods ", ["none", "blind", "random", "sts"]),
        ("compare --task poc", []),
        ("compare --task po", ["pope"]),
        ("flops --shape llava-n", ["llava-next-7b"]),
        ("select divp", ["divprune"]),
        ("comp", ["compare"]),
        ("regress --mark", ["--markdown"]),
        ("published --method none,fas", ["none,fastv"]),
        ("published --source arXiv:2606.01", ["arXiv:2606.01711"]),
    ],
)
def test_a_shell_is_offered_names(typed, offered):
    """As bash asks: by the variable of typer's own script, under the installed name. Neither torch nor numpy is loaded."""
    script = (
        "import sys\nsys.argv[0] = 'prunescope'\nfrom harness.cli.app import main\ntry:\n    main()\nfinally:\n"
        "    print([n for n in ('torch', 'numpy') if n in sys.modules], file=sys.stderr)\n"
    )
    words = f"prunescope {typed}"
    asked = {"_PRUNESCOPE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.stdout.split()[: len(offered) or None] == offered and done.stderr.strip() == "[]"


def test_the_script_for_a_shell():
    done = subprocess.run(
        [sys.executable, "-m", "harness", "--show-completion", "bash"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "complete -o default -F" in done.stdout and "_PRUNESCOPE_COMPLETE=complete_bash" in done.stdout
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "0.99"),
        (
            "import torch\n@torch.library.register_fake('torchvision::nms')\ndef nms(*boxes): ...",
            "0.99, built for another torch: ",
        ),
    ],
    ids=["usable", "of another torch"],  # a broken one is tried in tests/cli/test_doctor.py
)
def test_doctor_says_what_becomes_of_torchvision(tmp_path, source, said):
    for place, text in {"torchvision/__init__.py": source, "torchvision-0.99.dist-info/METADATA": "Version: 0.99\n"}.items():
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_text(text, encoding="utf-8")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from harness.cli import doctor
from harness.cli.app import main
doctor._requirements = lambda: ({{}}, {{}})  # the other packages are tried elsewhere
main(["doctor", "--json"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["torchvision"].startswith(said)


@pytest.mark.parametrize("kind", ["methods", "models", "tasks", "metrics"])
def test_lists_are_json_with_one_set_of_keys(capsys, kind):
    with pytest.raises(SystemExit):
        main(["list", kind, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert len({tuple(row) for row in rows}) == 1 and all(row["name"] for row in rows)


def test_doctor_says_what_is_usable_and_how_to_mend_the_rest(monkeypatch, capsys):
    from harness.cli import doctor as module

    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert stop.value.code == 0 and found["model tiny"] == "usable" and found["family llava"] == "usable" and found["device"]
    assert {"torch", "transformers", "scikit-learn", "typer", "jinja2", "pillow"} <= set(found)
    assert not {"extra lint", "extra docs"} & set(found) and "extra hub" in found
    for name, value in found.items():
        if value.startswith("missing"):
            assert "pip install" in value, name
    monkeypatch.setattr(module, "faults_of", lambda modules: {})  # they have been tried
    monkeypatch.setattr(module, "SEEN_TRANSFORMERS", (4, 0))
    assert "newer than 4.0, the newest tested" in module.doctor()["transformers"]
    monkeypatch.setattr(
        module, "_requirements", lambda: ({"torch": ">=99", "transformers": "", "no-such-package": ">=1"}, {"x": {"y-z": ""}})
    )
    found = module.doctor()
    assert ">=99 is wanted" in found["torch"] and found["no-such-package"] == "missing: pip install 'no-such-package>=1'"
    assert found["extra x"] == "missing y-z: pip install 'prunescope[x]'"
