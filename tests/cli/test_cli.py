"""What a user types: results, exit codes, and one clear line for what is wrong."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest

from harness.cli.app import main
from harness.models import hf
from metrics.figures import FIGURES
from tests.small_model import KEEP, small_model


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


WRONG = [
    (["compare", "--methods", "fastvv"], "did you mean 'fastv'"),
    (["compare", "--methods", "fastv[layr=2]"], "did you mean 'layer'"),
    (["compare", "--methods", "sts[ratio=2]"], "ratio=2"),
    (["compare", "--model", "tinyy"], "neither a folder nor a hub id"),
    (["compare", "--task", "shape"], "did you mean 'shapes'"),
    (["compare", "--keep", "0"], "above 0"),
    (["compare", "--keep", "-5"], "above 0"),
    (["compare", "--keep", "577"], "576 visual tokens"),
    (["compare", "--keep", "many"], "not a number"),
    (["compare", "--keep", "nan"], "above 0"),
    (["compare", "--keep", "64.5"], "whole"),
    (["compare", "--keep", ""], "at least one budget"),
    (["compare", "--samples", "0"], "at least 1"),
    (["compare", "--samples", "many"], "valid integer"),
    (["compare", "--budget", "mean"], "average, final or flops"),
    (["compare", "--batch-size", "0"], "at least 1"),
    (["compare", "--device", "tpu9"], "device"),
    (["compare", "--dtype", "float8"], "float32"),
    (["compare", "--kernels", "cuda"], "auto, torch or triton"),
    (["compare", "--sampels", "3"], "--sampel"),
    (["compare", "--out", "/proc/nowhere"], "cannot write"),
    (["compare", "--analyse", "-1"], "0 or more"),
    (["compare", "--seeds", "0"], "at least 1"),
    (["compare", "--margin", "0"], "between 0 and 1"),
    (["compare", "--prompt", "what?"], "{question}"),
    (["compare", "--extend", "/nowhere", "--out", "x", "--methods", "sts"], "--out"),
    (["report", "/nowhere"], "no finished run"),
    (["explain", "/nowhere"], "no finished run"),
    (["list", "method"], "method"),
    (["nothing"], "nothing"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_wrong_requests(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert 1 <= len(err.strip().splitlines()) <= 3 and "Traceback" not in err
    assert out == "" and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run of two methods at one budget."""
    from harness import compare

    folder = tmp_path_factory.mktemp("runs") / "small"
    return compare(
        methods=["fastv", "sts", "sparsevlm", "tome"],
        keep=[64, 16],
        samples=3,
        batch_size=2,
        out=folder,
        max_new_tokens=5,
        time_limit=0,
        decode_tokens=4,
    )


def test_a_run_folder_holds_everything(finished):
    names = {p.name for p in finished.folder.iterdir()}
    assert {"manifest.json", "results.sqlite", "summary.json", "summary.csv", "report.html"} <= names
    cells = {(c["method"], c["keep"]): c for c in finished.summary["cells"]}
    for method in ("fastv", "sts", "sparsevlm"):
        assert cells[f"random[like={method}]", 64]["reference"]
    assert {("none", None), ("blind", None), ("downsample", 64), ("oracle", 64)} <= set(cells)
    fastv = cells["fastv", 64]
    assert fastv["n"] == 27 and fastv["n_images"] == 3
    assert fastv["tokens"]["final"] == 17 and 63 < fastv["tokens"]["average"] <= 64
    assert set(fastv["collapse"]["z"]) == set(FIGURES)
    assert fastv["latency"]["ratio"]["value"] > 0
    assert cells["oracle", 64]["evidence"]["recall"]["value"] == 1
    assert cells["none", None]["loyalty"]["agreement"]["value"] == 1
    assert cells["none", None]["loyalty"]["kl"]["value"] == 0
    tome = cells["tome", 64]
    assert tome["collapse"]["z"] is None and "no subset" in tome["collapse"]["why_no_z"] and tome["evidence"] is None
    assert set(finished.summary["winners"]) == {"64", "16"}
    for cell in finished.summary["cells"]:
        best = cell["method"] == finished.summary["winners"].get(str(cell["keep"]))
        assert (cell["difference_winner"] is None) == (best or cell["reference"] or cell["skipped"] is not None)
        assert cell["mcnemar"] is None  # nine questions an image


def test_evidence_swap_layers_seeds_and_memory(finished):
    cells = {(c["method"], c["keep"]): c for c in finished.summary["cells"]}
    fastv, none = cells["fastv", 64], cells["none", None]
    swap = fastv["evidence"]
    assert swap["swap_gain"]["value"] > 0 and swap["swap_loss"]["value"] > 0
    assert swap["swap_loss"]["lo"] < 0 and swap["swap_share"] is None  # three images do not make a loss certain
    assert cells["random[like=fastv]", 64]["evidence"]["swap_gain"] is None  # a yardstick, not a method
    assert len(none["layers"]["mass"]) == 12 and {f["value"] for f in none["layers"]["recall"]} == {1.0}
    recall = [f["value"] for f in fastv["layers"]["recall"]]
    assert recall[0] == 1 and recall[-1] == pytest.approx(swap["recall"]["value"], abs=1e-6)
    assert fastv["scores"]["entropy"]["value"] < 1 and none["scores"] is None
    assert 0 <= fastv["bias"]["overlap"]["value"] <= 1 and fastv["bias"]["overlap"]["chance"] == pytest.approx(17 / 576)
    for cell in cells.values():
        if cell["latency"] is not None:
            assert cell["memory"]["kv_measured"] == cell["memory"]["kv_predicted"] > 0
    assert finished.summary["checks"]["aa"]["rounds"] == 3 and finished.summary["checks"]["analysed_images"] == 3


def test_random_is_drawn_under_several_seeds(tmp_path):
    from harness import compare

    run = compare(methods=["random"], keep=[64], samples=2, latency=False, seeds=3, analyse=0, out=tmp_path / "r")
    cell = next(c for c in run.summary["cells"] if c["method"] == "random")
    assert cell["seeds"]["seeds"] == 3 and cell["seeds"]["lowest"] <= cell["seeds"]["mean"] <= cell["seeds"]["highest"]
    assert cell["diversity"] is None and cell["evidence"]["swap_gain"] is None and run.summary["checks"]["analysed_images"] == 0
    assert run.summary["winners"] == {} and cell["difference_none"]["p_adjusted"] is None  # a control, in no race
    assert cell["non_inferior"]["smallest_detectable"] is None and not cell["non_inferior"]["holds"]  # of two images


@pytest.fixture
def small(monkeypatch):
    """A small model instead of the embedded one, where any will do; its pages are not drawn."""
    monkeypatch.setattr(hf, "load", lambda *arguments, **words: small_model())
    monkeypatch.setattr("reports.page.render", lambda view: "")


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_as_many_images_are_analysed_as_asked_for_whatever_the_batch(batch_size, tmp_path, small):
    from harness import compare

    run = compare(
        methods=["divprune"], keep=[KEEP], samples=3, latency=False, analyse=1, seeds=1, batch_size=batch_size,
        out=tmp_path / "r", max_new_tokens=2,
    )  # fmt: skip
    stored = sqlite3.connect(tmp_path / "r" / "results.sqlite")
    (images,) = stored.execute(
        "SELECT group_concat(DISTINCT images.place) FROM analysis JOIN questions ON questions.id = analysis.question "
        "JOIN images ON images.id = questions.image"
    ).fetchone()
    stored.close()
    assert images == "0" and run.summary["checks"]["analysed_images"] == 1


def test_peak_memory_by_one_process_a_cell(tmp_path):
    from harness import compare

    run = compare(methods=["random"], keep=[64], samples=1, latency=False, analyse=0, seeds=1, memory=True, out=tmp_path / "r")
    memory = {c["method"]: c["memory"] for c in run.summary["cells"]}
    assert all(m["peak_bytes"] > m["working_bytes"] > 0 for m in memory.values())
    assert memory["none"]["working_bytes"] > memory["blind"]["working_bytes"]


def test_explain(capsys, finished, tmp_path):
    code, out, _ = run(capsys, "explain", finished.folder)
    assert code == 0 and "within question and budget" in out and "By image complexity" in out
    code, out, _ = run(capsys, "explain", finished.folder, "--json")
    found = json.loads(out)
    assert code == 0 and found["n_images"] == 3 and found["correlations"]["across_methods"]["rows"]
    code, out, err = run(capsys, "explain", tmp_path / "nowhere")
    assert code == 2 and "no finished run" in err and not (tmp_path / "nowhere").exists()


def test_a_cell_that_cannot_be_says_why(finished):
    skipped = {c["method"]: c["skipped"] for c in finished.summary["cells"] if c["keep"] == 16 and c["skipped"]}
    assert "48.9 tokens" in skipped["fastv"] and "random[like=fastv]" not in skipped
    assert "16" in skipped["tome"]


def test_frame(finished):
    frame = finished.frame()
    assert {"method", "keep", "accuracy.value", "accuracy.lo", "tokens.average"} <= set(frame.columns)


def test_a_finished_run_is_not_overwritten(capsys, finished):
    before = (finished.folder / "summary.json").read_bytes()
    code, _, err = run(capsys, "compare", "--out", finished.folder)
    assert code == 2 and "--resume" in err
    code, _, err = run(capsys, "compare", "--out", finished.folder, "--resume")
    assert code == 2 and "configuration" in err
    assert (finished.folder / "summary.json").read_bytes() == before


def test_resume_after_an_interruption_gives_the_same_figures(tmp_path, monkeypatch, small):
    from harness import compare
    from harness.store.runs import RunFolder

    monkeypatch.setattr(hf, "load", lambda *arguments, **words: small_model(8))  # layers, so that `sparsevlm` has three
    methods, words = ["fastv", "sts", "sparsevlm", "tome"], {"samples": 3, "batch_size": 2, "max_new_tokens": 3}
    options = {"methods": methods, "keep": [KEEP, "6"], "latency": False, **words}
    whole = compare(out=tmp_path / "whole", **options)
    real, calls = RunFolder.add_batch, []

    def stop_after_one(self, *arguments):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        real(self, *arguments)

    monkeypatch.setattr(RunFolder, "add_batch", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        compare(out=tmp_path / "r", **options)
    monkeypatch.setattr(RunFolder, "add_batch", real)
    resumed = compare(out=tmp_path / "r", resume=True, **options)
    assert resumed.summary["cells"] == whole.summary["cells"]
    skipped = {(cell["method"], cell["keep"]) for cell in resumed.summary["cells"] if cell["skipped"]}
    assert ("fastv", 6) in skipped and not any((method, int(KEEP)) in skipped for method in methods)


def test_report_is_written_again_without_torch(finished):
    page = (finished.folder / "report.html").read_bytes()
    (finished.folder / "report.html").unlink()
    blocked = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is not installed")
sys.meta_path.insert(0, NoTorch())
from harness.cli.app import main
main(sys.argv[1:])
"""
    subprocess.run([sys.executable, "-c", blocked, "report", str(finished.folder)], check=True, cwd=_root(), capture_output=True)
    assert len((finished.folder / "report.html").read_bytes()) == pytest.approx(len(page), rel=0.05)


def _root():
    from pathlib import Path

    return Path(__file__).parents[2]


@pytest.mark.parametrize("what", ["methods", "models", "tasks", "metrics"])
def test_list(capsys, what):
    code, out, _ = run(capsys, "list", what, "--json")
    assert code == 0 and len(json.loads(out)) >= 1
    code, out, _ = run(capsys, "list", what)
    assert code == 0 and len(out.splitlines()) >= 2


def test_help_loads_nothing_heavy():
    script = """
import sys
from harness.cli.app import main
try:
    main(["compare", "--help"])
finally:
    heavy = ("torch", "transformers", "numpy", "pandas", "matplotlib")
    print([name for name in heavy if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=_root(), env={**os.environ, "COLUMNS": "100"}
    )
    assert done.returncode == 0 and "--methods" in done.stdout
    assert done.stderr.strip() == "[]"


def test_options_from_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sweep.toml"
    file.write_text(
        'methods = ["sts[stages=structure]", "random"]\nkeep = [64]\nsamples = 1\nlatency = false\nanalyse = 0\nseeds = 1\n'
    )
    code, out, err = run(capsys, "compare", "--config", file, "--methods", "random", "--out", tmp_path / "r", "--json")
    assert code == 0, err
    methods = {c["method"] for c in json.loads(out)["cells"]}
    assert "random" in methods and "sts[stages=structure]" not in methods  # the command line goes first
    manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
    assert manifest["samples"] == 1 and manifest["config"]["latency"] is False
    assert "--methods random --keep 64 --samples 1 --no-latency" in manifest["command"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("samples = ", "is no TOML"),
        ("sampels = 3", "did you mean 'samples'"),
        ("samples = 'many'", "must be a whole number"),
        ("samples = true", "must be a whole number"),
        ("latency = 0", "must be true or false"),
        ("margin = 'wide'", "must be a number"),
        ("methods = [true]", "list of texts"),
        ("methods = ['fastvv']", "did you mean 'fastv'"),
        ("model = 3", "must be a text"),
    ],
)
def test_wrong_files_of_options(capsys, tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    code, out, err = run(capsys, "compare", "--config", file)
    assert code == 2 and message in err and len(err.strip().splitlines()) <= 3 and not out
    code, _, err = run(capsys, "compare", "--config", tmp_path / "none.toml")
    assert code == 2 and "cannot be read" in err


def test_cells_are_added_to_a_finished_run(capsys, tmp_path, monkeypatch, small):
    """As if they had been asked for at once; what was there is not run again."""
    from harness import compare
    from harness.run.batch_run import BatchRun

    options = dict(keep=[KEEP], samples=2, seeds=1, max_new_tokens=4)
    whole = compare(methods=["random", "fastv"], latency=False, out=tmp_path / "whole", **options)
    compare(methods=["random"], latency=False, out=tmp_path / "grown", **options)
    real, ran = BatchRun.run, []
    monkeypatch.setattr(BatchRun, "run", lambda self, cell, *rest: ran.append(cell.method) or real(self, cell, *rest))
    grown = compare(extend=str(tmp_path / "grown"), methods=["fastv"])
    assert ran == ["random[like=fastv]", "fastv"] or ran == ["fastv", "random[like=fastv]"]
    mine, theirs = ({(c["method"], c["keep"]): c for c in r.summary["cells"]} for r in (grown, whole))
    assert mine == theirs
    manifest = json.loads((tmp_path / "grown" / "manifest.json").read_text())
    assert manifest["extensions"][0]["methods"] == ["fastv"] and manifest["notes"] == []
    ran.clear()
    compare(extend=tmp_path / "grown", methods=["fastv"])
    assert ran == []
    code, _, err = run(capsys, "compare", "--extend", tmp_path / "grown", "--methods", "sts", "--samples", "3")
    assert code == 2 and "--samples" in err and "the run's own" in err
    code, _, err = run(capsys, "compare", "--extend", tmp_path / "grown")
    assert code == 2 and "name the methods" in err
    code, _, err = run(capsys, "compare", "--extend", tmp_path / "nowhere", "--methods", "sts")
    assert code == 2 and "no finished run" in err


def test_added_cells_are_timed_against_none_in_their_own_rounds(tmp_path, small):
    from harness import compare

    options = dict(keep=[KEEP], samples=1, seeds=1, max_new_tokens=2, analyse=0, time_limit=0)
    first = compare(methods=["random"], out=tmp_path / "r", **options)
    before = next(c for c in first.summary["cells"] if c["method"] == "random")["latency"]
    grown = compare(extend=tmp_path / "r", methods=["grid"])
    cells = {c["method"]: c for c in grown.summary["cells"]}
    assert cells["random"]["latency"] == before and cells["grid"]["latency"]["ratio"]["value"] > 0
    timings = grown.store.timings()
    assert {number for number, _ in timings} == {0, 1} and grown.summary["checks"]["aa"]["rounds"] == 6


def test_the_prompt_is_part_of_what_is_asked(tmp_path):
    from harness import compare

    run = compare(methods=["random"], keep=[64], samples=1, latency=False, analyse=0, seeds=1, out=tmp_path / "a")
    other = compare(
        methods=["random"], keep=[64], samples=1, latency=False, analyse=0, seeds=1, out=tmp_path / "b",
        prompt="what color is the dot ? {question}",
    )  # fmt: skip
    none, asked = (next(c for c in r.summary["cells"] if c["method"] == "none") for r in (run, other))
    assert asked["flops"]["llm_prefill"] > none["flops"]["llm_prefill"]
