"""What `select` keeps on files of `capture --method` is what the engine keeps there, or it is refused with a reason."""

import json
from pathlib import Path

import numpy as np
import pytest

from harness.cli.app import main
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.run.batch_run import BatchRun
from harness.run.signal_origin import SignalOrigin, first_step
from harness.tasks import registry
from methods.registry import BUNDLED, create

REFUSED = {
    "none": "makes no selection", "blind": "makes no selection", "downsample": "makes no selection",
    "vtw": "0 tokens in the last layer", "mustdrop": "needs total= and single= here", "tome": "inside the tower, at vision",
    "flowcut": "inside the tower, at vision", "mustdrop[total=0.01,single=0.01]": "inside the tower, at vision",
}  # fmt: skip
VARIANTS = (
    "vscan[stages=vision,score=received]", "vscan[stages=llm]", "prumerge[adaptive=true]", "trim[adaptive=true]",
    "hiprune[rule=code]", "holov[rule=code]", "apet[stages=vision]", "apet[stages=llm]", "visionzip+fastv",
    "mustdrop[total=0.01,single=0.01]", "mustdrop[stages=llm,total=0.01,single=0.01]",
)  # fmt: skip


def run(capsys, *words):
    """The exit code of a command, and its stdout or stderr."""
    with pytest.raises(SystemExit) as stop:
        main([*map(str, words)])
    said = capsys.readouterr()
    return stop.value.code, said.out if stop.value.code == 0 else said.err


def captured(capsys, folder, *more):
    words = ("capture", "--task", "shapes", "--samples", 1, "--no-self-check", "--json", "--out", folder)
    code, said = run(capsys, *words, *more)
    return code, [Path(name) for name in json.loads(said)["files"]] if code == 0 else said


@pytest.fixture(scope="module")
def asked(adapter):
    task = registry.create("shapes")
    return BatchRun(Engine(adapter, 1), task, list(task.samples(1, 0)), 0, wanted=adapter.gives)


@pytest.mark.parametrize("expression", [*BUNDLED, *VARIANTS])
def test_a_method_keeps_on_its_files_what_the_engine_keeps(expression, adapter, asked, tmp_path, capsys):
    code, paths = captured(capsys, tmp_path / "files", "--method", expression)
    if expression in REFUSED:
        assert code == 2 and REFUSED[expression] in paths and len(paths.splitlines()) == 1
        return
    assert code == 0, paths
    method = create(expression)
    step = first_step(method, adapter.shape)
    out = asked.engine.run(EngineRequest(asked.batch, (step,), method.positions))
    code, said = run(
        capsys, "select", expression, *paths[:2], "--keep", step.keep, "--out", tmp_path / "kept", "--json"
    )  # fmt: skip
    assert code == 0, said
    for row, name in enumerate(json.loads(said)["files"]):
        of = out.entered if step.site.stage == 1 else out.kept
        assert sorted(np.load(name)["kept"].tolist()) == sorted(of[row, : int(out.present[row])].tolist())


@pytest.fixture(scope="module")
def by_default(tmp_path_factory):
    with pytest.raises(SystemExit):
        main(["capture", "--samples", "1", "--no-self-check", "--out", str(tmp_path_factory.mktemp("default"))])
    return sorted(tmp_path_factory.getbasetemp().glob("default*/*.npz"))[0]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("mmtok", "reads text_features@question; the file was captured with text_features@instruction"),
        (
            "prumerge",
            "reads cls_attention@-1,joined, vision_keys_full@-1; the file was captured with cls_attention, vision_keys_full",
        ),
        ("vscan[stages=vision,score=received]", "reads received_attention_early@"),
        ("flowcut", "acts inside the tower"),
        ("tome", "acts inside the tower"),
        ("feather", "reads decoder[3]; the file was captured with decoder[1]"),
    ],
)
def test_a_step_that_reads_elsewhere_is_refused(expression, message, by_default, tmp_path, capsys):
    code, said = run(capsys, "select", expression, by_default, "--keep", 64, "--out", tmp_path / "out")
    assert code == 2 and message in said and len(said.splitlines()) == 1
    assert ("capture --method" in said) == ("inside the tower" not in said) and not list(tmp_path.glob("out/*"))


def test_layer_and_method_contradict_each_other(tmp_path, capsys):
    code, said = captured(capsys, tmp_path / "files", "--method", "fastv", "--layer", 2)
    assert code == 2 and "leave one of them away" in said
    code, said = captured(capsys, tmp_path / "files", "--method", "fastvv")
    assert code == 2 and "did you mean 'fastv'" in said and not (tmp_path / "files").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reads": np.array([1.0])}, "reads must be a list of strings"),
        ({"model": np.array(3)}, "model must be one string"),
        ({"model": np.array("[" * 5000)}, "does not hold the figures"),
        ({"model": np.array("{}")}, "does not hold the figures"),
        ({"layers": "many"}, "layers cannot be"),
        ({"layers": 0}, "does not hold the figures"),
        ({"grid": [24]}, "does not hold the figures"),
        ({"projector_layers": [["a", 1]]}, "projector_layers cannot be"),
        ({"visual_tokens": 9}, "differ in their number"),
        ({"tile_places": np.array([[0, 576]])}, "tile_places must be whole numbers"),
    ],
)
def test_a_file_that_tells_nonsense_of_its_origin_is_refused(changed, message, by_default, tmp_path, capsys):
    arrays = dict(np.load(by_default))
    figures = json.loads(str(arrays["model"]))
    arrays |= {key: value for key, value in changed.items() if key not in figures}
    if set(changed) & set(figures):
        arrays["model"] = np.array(json.dumps(figures | changed))
    np.savez(tmp_path / "bad.npz", **arrays)
    code, said = run(capsys, "select", "divprune", tmp_path / "bad.npz", "--keep", 64, "--out", tmp_path / "out")
    assert code == 2 and message in said and len(said.splitlines()) == 1


def test_an_origin_survives_its_file(by_default, adapter):
    origin = SignalOrigin.taken_from(dict(np.load(by_default)))
    assert origin is not None and origin.shape == adapter.shape
    assert {"cls_attention", "text_features@instruction", "decoder[1]"} <= origin.reads
    assert SignalOrigin.taken_from(origin.as_arrays()) == origin
