"""`select`, `capture` and plug-ins, as users type them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.engine.request import EngineRequest
from harness.errors import RequestError
from harness.run.capture import capture
from harness.run.cases import select
from methods.registry import MethodError, entries, load_plugin
from methods.registry import create as create_method

ROOT = Path(__file__).parent.parent.parent
GOLDENS = ROOT / "tests" / "data" / "goldens"


def harness(*words, cwd=None):
    return subprocess.run([sys.executable, "-m", "harness", *map(str, words)], capture_output=True, text=True, cwd=cwd)


def count_of(data: dict, method: str) -> int:
    if method == "tome":
        return int(np.prod(data["grid"])) - int(data["out_r"])
    return len(data["out_tokens"] if method in ("visionzip", "prumerge") else data["out_kept"])


@pytest.mark.parametrize("method", ["cdpruner", "divprune", "fastv", "prumerge", "sparsevlm", "tome", "visionzip", "vispruner"])
def test_select_gives_the_goldens(method, tmp_path):
    paths = sorted(GOLDENS.glob(f"{method}_*.npz"))
    by_keep: dict[int, list[Path]] = {}
    for path in paths:
        by_keep.setdefault(count_of(dict(np.load(path)), method), []).append(path)
    for keep, group in by_keep.items():
        written = select(method, group, keep, tmp_path)
        assert [path.name for path in written] == [path.name for path in group]
        for path in group:
            got, golden = dict(np.load(tmp_path / path.name)), dict(np.load(path))
            if method == "divprune":
                assert got["kept"].tolist() == golden["out_kept"].tolist()
            elif method in ("cdpruner", "fastv"):
                assert set(got["kept"]) == set(golden["out_kept"])
            elif method == "sparsevlm":
                assert got["kept"][:keep].tolist() == sorted(golden["out_kept"]) and (got["kept"][keep:] == -1).all()
                order = lambda rows: rows[np.lexsort(rows.round(4).T)]
                np.testing.assert_allclose(order(got["tokens"][keep:]), order(golden["out_merged"]), atol=1e-5)
            elif method == "tome":
                order = np.argsort(golden["out_source"].argmax(1))
                assert np.array_equal(got["source"], golden["out_source"][order].astype(bool))
                np.testing.assert_allclose(got["tokens"], golden["out_tokens"][order], atol=1e-5)
            elif method == "visionzip":
                np.testing.assert_allclose(got["tokens"], golden["out_tokens"], atol=1e-5)
            elif method == "prumerge":
                assert set(got["kept"][:-1]) == set(golden["out_kept"])
            else:
                assert len(set(got["kept"])) == keep  # exactly equal attention: see the parity tests


def test_cases_of_different_widths_in_one_process(tmp_path):
    g = np.random.default_rng(0)
    for i, (count, width) in enumerate([(16, 4), (36, 8), (9, 12)]):
        np.savez(tmp_path / f"case{i}.npz", features=g.normal(size=(count, width)).astype(np.float32))
    done = harness("select", "divprune", *sorted(tmp_path.glob("*.npz")), "--keep", 12, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)["files"]
    assert [len(np.load(file)["kept"]) for file in files] == [12, 12, 9]


def test_select_writes_one_file_where_one_is_named(tmp_path):
    source = GOLDENS / "fastv_gauss_n36_k9_s0.npz"
    assert select("fastv", [source], 9, tmp_path / "one.npz") == [tmp_path / "one.npz"]
    assert set(np.load(tmp_path / "one.npz")["kept"]) == set(np.load(source)["out_kept"])


@pytest.mark.parametrize("expression", ["sts", "sts[stages=structure]", "fps[space=grid]", "grid", "random", "otprune"])
def test_methods_without_goldens_run_on_files(expression, tmp_path):
    g = np.random.default_rng(1)
    np.savez(tmp_path / "a.npz", features=g.normal(size=(36, 8)).astype(np.float32), grid=np.array([6, 6]))
    select(expression, [tmp_path / "a.npz"], 7, tmp_path / "b.npz")
    assert len(set(np.load(tmp_path / "b.npz")["kept"].tolist())) == 7


def bad_files(folder):
    g = np.random.default_rng(0)
    good = g.normal(size=(16, 4)).astype(np.float32)
    (folder / "text.npz").write_text("no archive")
    np.savez(folder / "nan.npz", features=np.where(good > 1, np.nan, good))
    np.savez(folder / "unknown.npz", featurs=good)
    np.savez(folder / "axes.npz", features=good[None])
    np.savez(folder / "differ.npz", features=good, vision_features=good[:9])
    np.savez(folder / "grid.npz", features=good, grid=np.array([3, 4]))
    np.savez(folder / "lacking.npz", vision_features=good)
    np.savez(folder / "objects.npz", features=np.array([{}], dtype=object))
    np.savez(folder / "empty.npz", features=good[:0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "no such file"), ("text", "cannot be read"), ("nan", "NaN"), ("unknown", "did you mean 'features'"),
        ("axes", "3 axes, 2 are needed"), ("differ", "differ in their number"), ("grid", "differ in their number"),
        ("lacking", "needs features"), ("objects", "cannot be read"), ("empty", "no visual token"),
    ],
)  # fmt: skip
def test_wrong_files_are_named_with_what_is_wrong(name, message, tmp_path):
    bad_files(tmp_path)
    with pytest.raises(RequestError, match=message) as raised:
        select("divprune", [tmp_path / f"{name}.npz"], 4, tmp_path / "out")
    assert f"{name}.npz" in str(raised.value) and len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("method", "keep", "message"),
    [
        ("divprun", 4, "did you mean 'divprune'"),
        ("divprune", 0, "at least 1"),
        ("vtw", 4, "no selection"),
        ("none", 4, "no selection"),
    ],
)
def test_wrong_requests_to_select(method, keep, message, tmp_path):
    with pytest.raises(RequestError, match=message):
        select(method, [GOLDENS / "divprune_gauss_n36_k9_s0.npz"], keep, tmp_path / "out")


def test_what_is_written_before_a_bad_file_stays(tmp_path):
    bad_files(tmp_path)
    good = GOLDENS / "divprune_gauss_n36_k9_s0.npz"
    done = harness("select", "divprune", good, tmp_path / "nan.npz", "--keep", 9, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and (tmp_path / "out" / good.name).exists()


def test_captured_files_select_what_the_engine_keeps(tmp_path, adapter):
    from harness.engine.engine import Engine
    from harness.run.batch_run import BatchRun
    from harness.tasks.registry import create
    from methods.types import SIGNAL_NAMES, Budget

    paths = capture("tiny", "shapes", 1, tmp_path / "captured", layer=1, seed=3)
    task = create("shapes")
    batch_run = BatchRun(Engine(adapter, 1), task, list(task.samples(1, seed=3)), 3, wanted=SIGNAL_NAMES)
    assert len(paths) == len(batch_run.samples[0].questions)
    for expression in ("divprune", "cdpruner", "vispruner", "holov", "visionzip", "fastv", "dart"):
        method = create_method(expression)
        steps = method.steps(adapter.shape, Budget(64, "final"))
        out = batch_run.engine.run(EngineRequest(batch_run.batch, steps, method.positions))
        select(expression, paths, steps[0].keep, tmp_path / expression)
        for row, path in enumerate(paths):
            kept = np.load(tmp_path / expression / path.name)["kept"]
            assert sorted(kept.tolist()) == sorted(out.kept[row].tolist()), expression


PLUGIN = "import torch\nfrom methods import *\n"
BAD_PLUGINS = {
    "signature": (
        PLUGIN + "@register('p_signature', needs={'features'})\ndef f(signals):\n    '''F.'''\n    return Selection(None)\n",
        "takes (signals, keep), this one takes (signals)",
    ),
    "need": (PLUGIN + "@register('p_need', needs={'featurs'})\ndef f(signals, keep):\n    '''F.'''\n", "did you mean 'features'"),
    "undeclared": (
        PLUGIN + "@register('p_undeclared', needs={'features'})\ndef f(signals, keep):\n    '''F.'''\n"
        "    return Selection(signals.keys.norm(dim=-1).topk(keep).indices)\n",
        "'keys' was read but is not declared",
    ),
    "fails": (PLUGIN + "@register('p_fails')\ndef f(signals, keep):\n    '''F.'''\n    return 1 / 0\n", "ZeroDivisionError"),
    "duplicates": (
        PLUGIN + "@register('p_duplicates')\ndef f(signals, keep):\n    '''F.'''\n"
        "    return Selection(torch.zeros(signals.batch, keep, dtype=torch.int64))\n",
        "returned index 0 twice",
    ),
    "count": (
        PLUGIN + "@register('p_count')\ndef f(signals, keep):\n    '''F.'''\n"
        "    return Selection(torch.arange(keep - 1).expand(signals.batch, -1))\n",
        "returned 8 tokens where 9 were asked",
    ),
    "range": (
        PLUGIN + "@register('p_range')\ndef f(signals, keep):\n    '''F.'''\n"
        "    return Selection((torch.arange(keep) + signals.count).expand(signals.batch, -1))\n",
        "outside 0 to 35",
    ),
    "nan": (
        PLUGIN + "@register('p_nan', needs={'features'})\ndef f(signals, keep):\n    '''F.'''\n"
        "    return Selection(torch.arange(keep).expand(signals.batch, -1), signals.features[:, :keep] * float('nan'))\n",
        "NaN",
    ),
    "floats": (
        PLUGIN + "@register('p_floats')\ndef f(signals, keep):\n    '''F.'''\n"
        "    return Selection(torch.rand(signals.batch, keep))\n",
        "not int64",
    ),
    "batch": (
        PLUGIN + "@register('p_batch')\ndef f(signals, keep):\n    '''F.'''\n"
        "    return Selection((torch.arange(keep) + (signals.batch > 1) * (signals.count - keep)).expand(signals.batch, -1))\n",
        "chooses otherwise when the batch is larger",
    ),
    "nothing": ("x = 1\n", "registers no method"),
    "syntax": ("def f(:\n", "SyntaxError"),
    "taken": (PLUGIN + "@register('fastv')\ndef f(signals, keep):\n    '''F.'''\n", "already registered"),
    "kind": (PLUGIN + "@register('p_kind')\nclass F:\n    pass\n", "frozen dataclass derived from Method"),
}


@pytest.mark.parametrize("name", BAD_PLUGINS)
def test_bad_plug_ins_are_refused_with_the_reason(name, tmp_path, monkeypatch):
    source, message = BAD_PLUGINS[name]
    module = f"bad_plugin_{name}"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(entries())
    with pytest.raises(MethodError) as raised:
        load_plugin(module)
    assert message in str(raised.value) and len(str(raised.value).splitlines()) == 1
    assert set(entries()) == before


def test_a_missing_plug_in_says_so(tmp_path):
    done = harness("list", "methods", "--plugin", "no_such_module", cwd=tmp_path)
    assert done.returncode == 2 and "no_such_module" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_the_example_plug_in_runs_end_to_end(tmp_path):
    """docs/example_plugin.py, as its docstring says, on two images."""
    listed = harness("list", "methods", "--plugin", "example_plugin", "--json", cwd=ROOT / "docs")
    assert next(row for row in json.loads(listed.stdout) if row["name"] == "edges")["paper"] == "an example"
    done = harness(
        "compare", "--plugin", "example_plugin", "--methods", "edges", "--keep", "64", "--samples", "2", "--no-latency",
        "--analyse", "0", "--seeds", "1", "--max-new-tokens", "2", "--out", tmp_path / "run", "--json", cwd=ROOT / "docs",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cell = next(cell for cell in json.loads(done.stdout)["cells"] if cell["method"] == "edges")
    assert cell["accuracy"] is not None and cell["tokens"] == {"final": 64, "average": 64.0}
    assert len((ROOT / "docs" / "example_plugin.py").read_text().splitlines()) <= 21
