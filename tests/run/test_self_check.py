"""The self-check of a run: what is wrong ends it before anything is answered, what is right is checked once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harness import interrupts
from harness.cli.app import main
from harness.engine import self_check as engine_check
from harness.errors import RequestError
from harness.models import catalogue, hf, published
from harness.models.adapter import Adapter
from harness.run import self_check as module
from harness.run.comparison import compare
from harness.run.self_check import run_self_check
from harness.store.self_checks import FOLDER, cache_folder, store, stored
from tests.broken_engines import BROKEN
from tests.models import tiny_families as families

SMALL = ["--samples", "1", "--methods", "random", "--keep", "8", "--no-latency", "--analyse", "0", "--seeds", "1"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    """No test finds what another one has checked."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(module, "PATIENCE", 600.0)  # however slow this machine is
    return tmp_path / "cache"


@pytest.fixture
def loaded(monkeypatch):
    """Models by name are tiny random ones of their families, in the precision that is asked for."""

    def load(name: str, device: str = "cpu", dtype: str = "auto", **words) -> Adapter:
        config, processor = families.FAMILIES[name]
        kind = torch.float32 if dtype == "auto" else getattr(torch, dtype)
        return Adapter(families.build(config()).to(kind), processor(), name)

    monkeypatch.setattr(hf, "load", load)
    return load


@pytest.fixture
def no_page(monkeypatch) -> None:
    """What a run's page says is not looked at, and it is not drawn."""
    monkeypatch.setattr("reports.page.render", lambda view: "")


@pytest.fixture
def count(monkeypatch) -> list[str]:
    """The models that are checked, not looked up."""
    checked, right = [], engine_check.check_model
    monkeypatch.setattr(engine_check, "check_model", lambda adapter: checked.append(adapter.name) or right(adapter))
    return checked


def command(capsys, *words: object) -> SimpleNamespace:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    said = capsys.readouterr()
    lines = said.err.splitlines(keepends=True)  # that so few images show no method non-inferior is said of every run here
    err = "".join(line for line in lines if not line.startswith("note: --margin "))
    return SimpleNamespace(code=stop.value.code, out=said.out, err=err)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("thing", BROKEN)
def test_an_engine_that_runs_a_model_wrong_ends_the_command(thing, dtype, loaded, capsys, tmp_path, monkeypatch):
    BROKEN[thing](monkeypatch)
    done = command(capsys, "compare", "--model", "llava", *SMALL, "--dtype", dtype, "--out", tmp_path / "run")
    assert done.code == 2 and done.out == ""
    assert len(done.err.strip().splitlines()) == 1, done.err
    assert "model 'llava': without pruning the engine differs from generate of transformers: " in done.err
    assert "%" in done.err and "may be rounding" in done.err and "--no-self-check" in done.err
    assert not (tmp_path / "run").exists(), "nothing is begun"


@pytest.mark.slow
def test_the_embedded_model_too(capsys, tmp_path, monkeypatch):
    BROKEN["layer"](monkeypatch)
    done = command(capsys, "compare", *SMALL, "--out", tmp_path / "run")
    assert done.code == 2 and "model 'tiny': without pruning the engine differs" in done.err
    assert "logits of the first answer token differ by" in done.err


PLUGIN = """
from methods import Selection, register
from harness.models.adapter import Adapter

@register("first", paper="none", site="projector", needs={"features"})
def first(signals, keep):
    return Selection(signals.features.new_zeros(signals.batch, keep).long() + 0)

right = Adapter.embed
Adapter.embed = lambda self, ids: right(self, ids) * 12
"""


@pytest.mark.slow
def test_in_a_process_of_its_own_what_a_plugin_breaks_is_seen_though_the_model_was_checked_before(tmp_path):
    (tmp_path / "breaks.py").write_text(
        PLUGIN.replace("new_zeros(signals.batch, keep).long() + 0", "[..., :keep, 0].argsort(-1)")
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}

    def run(*words: str):
        line = [sys.executable, "-m", "harness", "compare", *SMALL, *words]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert run("--out", "right").returncode == 0
    done = run("--out", "wrong", "--plugin", "breaks")
    assert done.returncode == 2 and "differs from generate" in done.stderr
    assert run("--out", "asked", "--plugin", "breaks", "--no-self-check").returncode == 0


def test_what_it_came_to_is_kept_with_the_run(loaded, no_page, capsys, tmp_path, monkeypatch, count):
    run = tmp_path / "run"
    done = command(capsys, "compare", "--model", "llava", *SMALL, "--out", run)
    assert (done.code, done.err) == (0, "")
    manifest = json.loads((run / "manifest.json").read_text())
    checked = manifest["self_check"]
    assert checked["outcome"] == "equal" and checked["logits"] < 1e-5 and checked["tokens"] > 2 and not checked["cached"]
    assert manifest["config"]["self_check"] is True and manifest["notes"] == [] and "self-check" not in manifest["command"]
    extended = command(capsys, "compare", "--extend", run, "--methods", "grid")
    assert (extended.code, extended.err) == (0, "") and count == ["llava"]
    assert json.loads((run / "manifest.json").read_text())["self_check"] == checked | {"cached": True}

    BROKEN["norm"](monkeypatch)
    done = command(capsys, "compare", "--model", "llava", *SMALL, "--out", tmp_path / "other", "--no-self-check")
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    assert (done.code, done.err) == (0, "") and manifest["self_check"]["outcome"] == "off"
    assert manifest["command"].endswith("--no-self-check")
    again = command(capsys, "compare", "--extend", run, "--methods", "pool", "--no-self-check")
    assert again.code == 0 and json.loads((run / "manifest.json").read_text())["self_check"]["outcome"] == "equal"


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_or_without_it(loaded, no_page, tmp_path, monkeypatch, count):
    request = {
        "model": "llava", "samples": 2, "batch_size": 1, "methods": ["random"], "keep": ["8"], "latency": False, "analyse": 0,
        "seeds": 1, "workers": 1, "out": tmp_path / "run",
    }  # fmt: skip
    from harness.run.shard_runner import ShardRunner

    right = ShardRunner.answer

    def once(self, shard, ready=None):
        if shard.place:
            raise KeyboardInterrupt
        return right(self, shard, ready)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ShardRunner, "answer", once)
        compare(**request)
    interrupts.expected()
    run = compare(**request, self_check=False, resume=True)
    assert run.store.manifest()["self_check"]["outcome"] == "equal" and count == ["llava"]
    monkeypatch.setenv(FOLDER, str(tmp_path / "another"))
    (run.folder / "summary.json").unlink()
    assert compare(**request, resume=True).store.manifest()["self_check"]["outcome"] == "equal"


@pytest.mark.slow
def test_options_by_file_and_from_python(loaded, no_page, tmp_path, monkeypatch, capsys):
    (tmp_path / "options.toml").write_text("self-check = false\n")
    BROKEN["norm"](monkeypatch)
    request = {"model": "llava", "samples": 1, "methods": ["random"], "keep": ["8"], "latency": False, "analyse": 0}
    with pytest.raises(RequestError, match="without pruning the engine differs"):
        compare(**request, out=tmp_path / "a")
    assert compare(**request, out=tmp_path / "a", self_check=False).store.manifest()["self_check"]["outcome"] == "off"
    done = command(capsys, "compare", "--model", "llava", *SMALL, "--out", tmp_path / "b", "--config", tmp_path / "options.toml")
    assert done.code == 0 and json.loads((tmp_path / "b" / "manifest.json").read_text())["config"]["self_check"] is False
    (tmp_path / "options.toml").write_text("self_check = 0\n")
    done = command(capsys, "compare", "--config", tmp_path / "options.toml", "--out", tmp_path / "c")
    assert done.code == 2 and "self_check = 0 must be true or false" in done.err


def test_only_what_is_the_same_is_not_checked_again(loaded, count, monkeypatch):
    adapter = loaded("llava")
    checked = lambda made=None, *given: (
        before := len(count),
        run_self_check("llava", made or adapter, *given),
        len(count) - before,
    )[2]
    assert checked() == 1 and checked() == 0 and checked(loaded("llava")) == 0
    assert run_self_check("llava", adapter).cached
    assert checked(loaded("llava", dtype="bfloat16")) == 1 and checked(loaded("llava-siglip")) == 1
    other = loaded("llava")
    with torch.no_grad():
        other.model.lm_head.weight[3, 4] += 1
    assert checked(other) == 1
    other = loaded("llava")
    other.config.text_config.rms_norm_eps = 1e-3
    assert checked(other) == 1
    other = loaded("llava")
    other.processor.chat_template = other.processor.chat_template.replace("USER: ", "USER: what ")
    assert checked(other) == 1
    other = loaded("llava")
    other.processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    assert checked(other) == 1
    with monkeypatch.context() as patch:
        patch.setattr(module, "code_digest", lambda plugins: "other")
        assert checked() == 1
    with monkeypatch.context() as patch:
        patch.setattr(module, "version", lambda package: "5.99" if package == "transformers" else "2")
        assert checked() == 1
    assert checked(None, True, ("json",)) == 1, "a plug-in may change what runs"
    for thing in BROKEN.values():
        with monkeypatch.context() as patch, pytest.raises(RequestError, match="without pruning the engine differs"):
            thing(patch)
            checked()
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "embed", lambda ids, right=adapter.embed: right(ids))
        assert checked() == 1, "a script may change what runs"
    typed = {"__name__": "__main__", "right": adapter.embed}
    exec("def embed(ids):\n    return right(ids)", typed)  # as with `python -c`
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "embed", typed["embed"])
        assert checked() == 1
    assert checked() == 0


def test_what_cannot_be_read_is_checked_again(loaded, count, own_cache):
    adapter = loaded("llava")
    first = run_self_check("llava", adapter)
    (file,) = (own_cache / "self-checks").iterdir()
    kept = json.loads(file.read_text())
    for wrong in ("", "[]", {"outcome": "different"}, {"outcome": [3]}, {"said": 3}):
        file.write_text(wrong if isinstance(wrong, str) else json.dumps(kept | wrong))
        found = run_self_check("llava", adapter)
        assert (found.logits, found.cached) == (first.logits, False)
        assert json.loads(file.read_text()).keys() == kept.keys(), "it is stored anew"
    assert run_self_check("llava", adapter).cached and len(count) == 6


def test_a_cache_that_cannot_be_written_is_no_error(loaded, count, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    adapter = loaded("llava")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere"), tmp_path / ("x" * 300)):
        monkeypatch.setenv(FOLDER, str(place))
        assert run_self_check("llava", adapter).outcome == "equal"
    assert len(count) == 4


def test_where_results_are_kept(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv(FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "prunescope"
    for relative in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache_folder() == tmp_path / ".cache" / "prunescope"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder() is None and stored("key") is None
    store("key", {"a": 1})


@pytest.mark.slow
def test_what_is_not_compared_is_said_on_stderr_in_the_manifest_and_on_the_page(loaded, tmp_path, monkeypatch, capsys, count):
    from importlib.metadata import EntryPoint

    def page(*words: str) -> tuple[str, dict, str]:
        out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        done = command(capsys, "compare", "--model", "llava", *SMALL, "--out", out, *words)
        assert done.code == 0, done.err
        return done.err, json.loads((out / "manifest.json").read_text()), (out / "report.html").read_text()

    with monkeypatch.context() as patch:
        patch.setattr("transformers.LlavaForConditionalGeneration.generate", lambda self, **words: 1 / 0)
        err, manifest, html = page()
    said = "generate of transformers failed (ZeroDivisionError: division by zero), so the engine was not checked against it"
    assert err == f"note: {said}\n" and manifest["notes"] == [said] and manifest["self_check"]["outcome"] == "failed"
    assert html.count(said) >= 2 or html.count(said[1:]) >= 2
    page()
    assert len(count) == 2, "a failure is not kept"

    monkeypatch.setattr(catalogue, "plugged", lambda: {"llava": EntryPoint("llava", "their_package:llava", "prunescope.models")})
    err, manifest, html = page()
    assert "model 'llava' was not checked against generate of transformers: their_package:llava makes it" in err
    assert manifest["self_check"]["outcome"] == "skipped" and err.removeprefix("note: ").strip() == manifest["notes"][0]


@pytest.mark.slow
def test_a_profile_says_what_it_rests_on(loaded, monkeypatch, capsys):
    from tests.run.profiling.test_profile import SMALL as SHAPES

    words = ["profile", "--methods", "random", "--keep", "8", "--rounds", "2", "--text-tokens", "8", "--batch-size", "1"]
    monkeypatch.setitem(published.PUBLISHED, "llava-1.5-7b", SHAPES["llava-1.5-7b"])
    for more in ([], ["--layers", "2"]):
        done = command(capsys, *words, "--model", "llava-1.5-7b", "--random-weights", *more)
        assert done.code == 0 and "Self-check: with random weights the engine is not checked" in done.out
    done = command(capsys, *words, "--model", "llava", "--json")
    assert json.loads(done.out)["self_check"]["outcome"] == "equal"
    BROKEN["norm"](monkeypatch)
    monkeypatch.setattr(module, "stored", lambda key: None)
    done = command(capsys, *words, "--model", "llava")
    assert done.code == 2 and "differs from generate" in done.err
    done = command(capsys, *words, "--model", "llava", "--no-self-check")
    assert done.code == 0 and "as asked (--no-self-check)" in done.out


@pytest.mark.slow
def test_captured_signals_are_of_a_model_that_is_run_right(loaded, monkeypatch, capsys, tmp_path):
    words = ["capture", "--model", "llava", "--samples", "1", "--layer", "1", "--out", tmp_path / "cases"]
    BROKEN["norm"](monkeypatch)
    done = command(capsys, *words)
    assert done.code == 2 and "differs from generate" in done.err and not list((tmp_path / "cases").iterdir())
    assert command(capsys, *words, "--no-self-check").code == 0


def test_a_model_without_a_processor_is_not_checked(monkeypatch, capsys):
    from tests.run.profiling.test_profile import SMALL as SHAPES

    monkeypatch.setitem(published.PUBLISHED, "llava-1.5-7b", SHAPES["llava-1.5-7b"])
    made = published.random_model("llava-1.5-7b", "cpu", torch.float32)
    found = run_self_check("llava-1.5-7b", made)
    assert found.outcome == "skipped" and found.said in capsys.readouterr().err


def test_a_check_that_takes_long_says_so(loaded, monkeypatch, capsys):
    run_self_check("llava", loaded("llava"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    run_self_check("llava", loaded("llava", dtype="bfloat16"))
    err = capsys.readouterr().err
    assert err == "self-check: model 'llava' without pruning against generate of transformers; --no-self-check leaves it out\n"
    run_self_check("llava", loaded("llava", dtype="bfloat16"))
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_experts_in_half_precision_warn_on_every_run(loaded, no_page, monkeypatch, capsys, tmp_path):
    right = hf.load

    def load(*given, **words) -> Adapter:
        made = right(*given, **words)
        made.config.text_config.num_local_experts = 8
        return made

    monkeypatch.setattr(hf, "load", load)
    BROKEN["norm"](monkeypatch)
    for number in range(2):
        done = command(capsys, "compare", "--model", "llava", *SMALL, "--dtype", "bfloat16", "--out", tmp_path / str(number))
        manifest = json.loads((tmp_path / str(number) / "manifest.json").read_text())
        assert done.code == 0 and "note: without pruning the engine differs" in done.err
        assert manifest["self_check"]["outcome"] == "doubtful" and manifest["self_check"]["cached"] == bool(number)
        assert manifest["notes"] == [manifest["self_check"]["said"]]


@pytest.mark.slow
def test_it_computes_in_one_thread_where_processes_are_forked(loaded, no_page, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        engine_check, "check_model", lambda adapter: seen.append(torch.get_num_threads()) or engine_check.SelfCheck("equal", "x")
    )
    monkeypatch.setattr("harness.run.accuracy_pass.cores", lambda: 4)
    torch.set_num_threads(3)
    try:
        request = {"model": "llava", "samples": 1, "methods": ["random"], "keep": ["8"], "latency": False, "analyse": 0}
        compare(**request, out=tmp_path / "a")
        monkeypatch.setattr(module, "stored", lambda key: None)
        compare(**request, out=tmp_path / "b", workers=1)
        assert seen == [1, 3] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
