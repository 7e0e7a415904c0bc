"""``--kernels``: which code selects greedily in a run, what the run folder and its page say of it, and that none are mixed."""

from __future__ import annotations

import html
import json
import shutil

import pytest

from harness.cli.app import main
from harness.errors import RequestError
from harness.run.as_begun import as_begun
from harness.run.comparison import compare
from harness.run.config import read_file, restored
from harness.run.profiling.config import ProfileConfig
from harness.run.profiling.profile import profile
from harness.run.profiling.text import as_text
from harness.run.selection_kernels import kernel_facts, with_loops
from harness.store.runs import RunFolder
from harness.tasks.registry import create
from methods.kernels import LoopRun, triton_version, why_not
from tests.methods import golden
from tests.run.profiling.test_profile import SMALL

REQUEST = {
    "methods": ["divprune", "otprune", "scope"], "keep": [6], "samples": 2, "batch_size": 1, "latency": False, "workers": 1,
    "analyse": 0, "seeds": 1, "self_check": False, "max_new_tokens": 2,
}  # fmt: skip

IN_TRITON = {"loop": "determinantal", "ran": "triton", "tokens": [576, 576], "reason": ""}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return compare(**REQUEST, out=tmp_path_factory.mktemp("kernels") / "run")


@pytest.fixture
def edited(finished, tmp_path):
    """Return what copies the run with another ``kernels`` in its manifest; None leaves it out, as older versions do."""

    def edit(kernels):
        folder = tmp_path / "edited"
        shutil.copytree(finished.folder, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["kernels"], manifest["config"]["kernels"]
        manifest |= {} if kernels is None else {"kernels": kernels}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return edit


def test_a_run_says_what_was_asked_and_what_ran(finished):
    manifest = finished.store.manifest()
    loops = [
        {"loop": loop, "ran": "torch", "tokens": [576, 576], "reason": ""} for loop in ("covering", "determinantal", "max_min")
    ]
    assert manifest["kernels"] == {"asked": "auto", "chosen": "torch", "triton": None, "why": None, "loops": loops}
    assert "--kernels" not in manifest["command"]
    assert "covering among 576 tokens in torch; determinantal among 576 tokens in torch; max_min" in finished.report.read_text()


def test_what_is_asked_for_stands_in_the_command_and_in_a_file_of_options(tmp_path):
    run = compare(**REQUEST | {"methods": ["divprune"], "samples": 1}, kernels="torch", out=tmp_path / "run")
    assert run.store.manifest()["kernels"]["asked"] == "torch" and "--kernels torch" in run.store.manifest()["command"]
    (tmp_path / "options.toml").write_text('kernels = "torch"\n')
    assert read_file(tmp_path / "options.toml") == {"kernels": "torch"}


def test_a_run_goes_on_with_what_auto_meant(finished):
    for kernels in ("auto", "torch"):
        assert compare(**REQUEST, kernels=kernels, out=finished.folder, resume=True).summary == finished.summary


def test_a_run_of_an_older_version_selected_with_torch(edited):
    folder = edited(None)
    assert compare(**REQUEST, kernels="torch", out=folder, resume=True).failures == 0
    run = compare(extend=folder, methods=["fps"], workers=1, self_check=False)
    assert {cell["method"] for cell in run.summary["cells"]} >= {"fps", "divprune"}
    assert "kernels" not in run.store.manifest() and 'id="kernels"' not in run.report.read_text()


def test_runs_of_triton_are_not_gone_on_with_by_torch(edited):
    folder = edited({"asked": "auto", "chosen": "triton", "triton": "3.9.0", "loops": [IN_TRITON]})
    with pytest.raises(RequestError, match="its run selects with triton, not torch; leave --kernels away"):
        compare(**REQUEST, kernels="torch", out=folder, resume=True)
    if why_not("cpu") is None:
        pytest.skip("Triton's interpreter is on")
    with pytest.raises(RequestError, match=r"edited: its run selects with Triton 3\.9\.0, but here Triton .*; go on where"):
        compare(extend=folder, methods=["fps"], workers=1, self_check=False)


def test_a_run_in_which_triton_selected_nothing_goes_on_where_it_is_missing(edited):
    if why_not("cpu") is None:
        pytest.skip("Triton's interpreter is on")
    folder = edited({"asked": "auto", "chosen": "triton", "triton": "3.9.0", "why": None, "loops": []})
    run = compare(extend=folder, methods=["fps"], workers=1, self_check=False)
    kernels = run.store.manifest()["kernels"]
    assert (kernels["chosen"], kernels["triton"], kernels["why"]) == ("torch", None, why_not("cpu"))
    assert kernels["loops"] == [{"loop": "max_min", "ran": "torch", "tokens": [576, 576], "reason": ""}]
    assert f"Not in Triton: {why_not('cpu')}." in html.unescape(run.report.read_text())


def test_loops_of_many_lengths_are_told_in_one_line_each():
    loops = [LoopRun("max_min", count, "triton") for count in (300, 576)]
    loops += [LoopRun("max_min", 2880, "torch", "too many"), LoopRun("max_min", 1500, "torch", "many")]
    kernels = with_loops(with_loops({"asked": "auto"}, loops[1:]), loops[:1])
    assert kernels["loops"] == [
        {"loop": "max_min", "ran": "torch", "tokens": [1500, 2880], "reason": "too many"},
        {"loop": "max_min", "ran": "triton", "tokens": [300, 576], "reason": ""},
    ]
    assert with_loops(kernels, loops) == kernels


@pytest.mark.parametrize("manifest, told", [
    ({"device": "NVIDIA A100", "dtype": "float32"}, True), ({"device": "NVIDIA A100", "dtype": "bfloat16"}, False),
    ({"device": "cpu, 2 threads", "dtype": "float32"}, False),
    ({"device": "cuda:0 A100", "dtype": "float32", "tf32": False}, False),
])  # fmt: skip
def test_that_an_older_version_let_a_gpu_round_to_tf32_is_noted(finished, tmp_path, manifest, told):
    folder = tmp_path / "edited"
    shutil.copytree(finished.folder, folder)
    content = json.loads((folder / "manifest.json").read_text()) | manifest
    (folder / "manifest.json").write_text(json.dumps(content))
    run, task = RunFolder(folder), create("shapes")
    as_begun(run, restored("manifest.json", content["config"]), task)
    assert any("rounded to TF32 when this run began" in note for note in run.manifest()["notes"]) == told


@pytest.mark.parametrize("kernels", [
    3, [], {}, {"asked": "auto", "chosen": "cuda", "loops": []}, {"asked": 1, "chosen": "torch", "loops": []},
    {"asked": "auto", "chosen": "torch"}, {"asked": "auto", "chosen": "torch", "loops": [{**IN_TRITON, "tokens": [3]}]},
], ids=str)  # fmt: skip
def test_a_manifest_that_says_what_none_can_be_is_refused(edited, kernels):
    with pytest.raises(RequestError, match=r"manifest\.json"):
        compare(**REQUEST, out=edited(kernels), resume=True)


def test_runs_of_torch_are_not_gone_on_with_by_triton(finished):
    with pytest.raises(RequestError, match="its run selects with torch, not triton"):
        compare(**REQUEST, kernels="triton", out=finished.folder, resume=True)


def test_triton_is_refused_where_it_cannot_run(capsys, tmp_path):
    if why_not("cpu") is None:
        pytest.skip("Triton's interpreter is on")
    case = str(golden.paths("divprune")[0])
    for words in (
        ["compare", "--kernels", "triton", "--device", "cpu", "--out", str(tmp_path / "run")],
        ["profile", "--kernels", "triton", "--device", "cpu", "--model", "llava-1.5-7b", "--random-weights", "--layers", "1"],
        ["select", "divprune", case, "--keep", "3", "--kernels", "triton", "--out", str(tmp_path / "kept")],
        ["compare", "--kernels", "cuda"],
        ["select", "divprune", case, "--keep", "3", "--kernels", "cuda", "--out", str(tmp_path / "kept")],
    ):
        with pytest.raises(SystemExit) as stop:
            main(words)
        said = capsys.readouterr().err.strip()
        assert stop.value.code == 2 and "--kernels" in said and len(said.splitlines()) == 1
        assert "auto or torch" in said or "auto, torch or triton" in said
    assert not list(tmp_path.iterdir())


def test_a_profile_says_which_code_ran_each_loop(monkeypatch):
    from harness.models import published

    monkeypatch.setitem(published.PUBLISHED, "llava-1.5-7b", SMALL["llava-1.5-7b"])
    asked = ProfileConfig(random_weights=True, methods=("divprune", "otprune", "fastv"), keep=("0.5",), rounds=1, batch_size=(1,))
    found = profile(asked)
    told = [{"loop": loop, "tokens": 16, "ran": "torch", "reason": ""} for loop in ("determinantal", "max_min")]
    assert found["kernels"] == {"asked": "auto", "chosen": "torch", "triton": None, "why": None, "loops": told}
    assert "Greedy selection: determinantal of 16 tokens in torch, max_min of 16 tokens in torch." in as_text(found)
    found["kernels"]["loops"] = []
    assert "none of these methods selects greedily" in as_text(found)


def test_why_a_gpu_has_torch_is_said():
    reason = why_not("cuda")
    if reason is None:
        pytest.skip("Triton runs here")
    assert kernel_facts("auto", "cuda:1") == {"asked": "auto", "chosen": "torch", "triton": None, "why": reason}
    assert kernel_facts("torch", "cuda")["why"] is None and kernel_facts("auto", "cpu")["why"] is None


@pytest.mark.triton
@pytest.mark.needs("triton")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_in_triton_finds_what_one_in_torch_finds(finished, workers, tmp_path):
    run = compare(**REQUEST | {"workers": workers}, kernels="triton", out=tmp_path / "run")
    manifest = run.store.manifest()
    loops = manifest["kernels"].pop("loops")
    assert manifest["kernels"] == {"asked": "triton", "chosen": "triton", "triton": triton_version(), "why": None}
    assert [(loop["loop"], loop["ran"]) for loop in loops] == [
        (name, "triton") for name in ("covering", "determinantal", "max_min")
    ]
    assert manifest["digest"] == finished.store.manifest()["digest"]
    page = run.report.read_text()
    assert f"max_min among 576 tokens in Triton {triton_version()}" in page


@pytest.mark.triton
@pytest.mark.needs("triton")
def test_a_profile_in_triton_names_its_version(monkeypatch):
    from harness.models import published

    monkeypatch.setitem(published.PUBLISHED, "llava-1.5-7b", SMALL["llava-1.5-7b"])
    asked = ProfileConfig(random_weights=True, methods=("divprune",), keep=("0.5",), rounds=1, batch_size=(1,), kernels="triton")
    found = profile(asked)
    assert found["kernels"]["loops"] == [{"loop": "max_min", "tokens": 16, "ran": "triton", "reason": ""}]
    assert f"max_min of 16 tokens in triton {triton_version()}." in as_text(found)


@pytest.mark.triton
@pytest.mark.needs("triton")
def test_auto_on_a_cpu_is_torch_even_where_the_interpreter_is_on():
    assert kernel_facts("auto", "cpu") == {"asked": "auto", "chosen": "torch", "triton": None, "why": None}


@pytest.mark.triton
@pytest.mark.needs("triton")
def test_a_run_that_goes_on_with_another_version_of_triton_says_so(edited):
    folder = edited({"asked": "auto", "chosen": "triton", "triton": "3.0.0", "loops": [IN_TRITON]})
    run = compare(extend=folder, methods=["fps"], workers=1, self_check=False)
    note = f"tokens were selected with Triton 3.0.0, and are with {triton_version()} from here on"
    assert note in run.store.manifest()["notes"] and note in run.report.read_text()
