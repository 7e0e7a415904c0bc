"""Whole runs on pretended devices: the commands find what they find on the CPU, and say where and how they ran."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import traceback
from functools import partial

import numpy as np
import pytest
import torch

from harness.cli.app import app
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.errors import RequestError
from harness.models import hf
from harness.models.devices import names_of
from harness.run.capture import capture
from harness.run.comparison import compare
from harness.run.config import CompareConfig
from harness.run.executors.processes import ProcessExecutor, ProcessWorker
from harness.run.latency_pass import one_question
from harness.run.latency_rounds import TimingPlan, time_cells
from harness.run.memory_pass import run_memory_pass
from harness.run.plan import make_cells
from harness.run.prepare import prepare
from harness.run.profiling.config import ProfileConfig
from harness.run.profiling.profile import profile
from harness.run.prompt_inputs import PromptOnHost
from harness.run.shard_runner import ShardRunnerSource
from harness.tasks.registry import create as task_of
from methods import kernels
from tests.simdevice.placing import placed
from tests.simdevice.pretended import Counted, PretendedCard
from tests.small_model import KEEP, small_model

REQUEST = {
    "methods": ("fastv", "divprune", "tome", "sparsevlm"), "keep": (KEEP,), "samples": 4, "batch_size": 2, "latency": False,
    "analyse": 4, "seeds": 2, "dtype": "float32", "self_check": False,
}  # fmt: skip
EMBEDDED = {**REQUEST, "methods": ("fastv",), "keep": ("64",), "samples": 2, "batch_size": 1, "analyse": 0, "max_new_tokens": 2}
CHEAP = REQUEST | {"methods": ("fastv", "divprune"), "samples": 1, "analyse": 0, "seeds": 1}
SPREAD = pytest.param("spread", marks=pytest.mark.needs("accelerate"))


def made(place: str):
    """The small model at a place, in an adapter of its own."""
    small_model.cache_clear()
    found = small_model()
    small_model.cache_clear()
    return type(found)(placed(found.model, place), found.processor, found.name)


@pytest.fixture
def at(monkeypatch):
    """Lets commands load the small model at a place."""

    def choose(place: str) -> None:
        monkeypatch.setattr(hf, "load", lambda *given, **named: made(place))

    monkeypatch.setattr("reports.page.render", lambda view: "")
    return choose


def tables(run) -> dict[str, list]:
    """All that was stored of answers and analysis; figures are rounded where the CPU adds up in another order."""
    names = ("samples", "analysis", "repeats", "traces", "images", "questions")
    return {name: sorted(run.store.connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.page.render", lambda view: "")
        patch.setattr(hf, "load", lambda *given, **named: made("cpu"))
        return tables(compare(**REQUEST, device="cpu", workers=1, out=tmp_path_factory.mktemp("cpu") / "run"))


@pytest.mark.parametrize("place", ["cuda:1", SPREAD])
def test_a_run_stores_what_it_stores_on_the_cpu(at, on_cpu, tmp_path, place):
    at(place)
    run = compare(**REQUEST, device="cuda", workers=1, memory=True, out=tmp_path / "run")
    assert tables(run) == on_cpu
    manifest = run.store.manifest()
    names = {"cuda:1": [1], "spread": [0, 1]}[place]
    assert manifest["device"] == ", ".join(f"cuda:{index} Pretended {index}" for index in names)
    assert not [note for note in manifest["notes"] if "memory" in note]
    for cell in run.summary["cells"]:
        if cell.get("skipped") is None:
            assert cell["memory"]["peak_bytes"] > cell["memory"]["working_bytes"] > 0, cell["method"]
    facts = [facts["peak"]["by_device"] for _, _, facts in run.store.cells() if facts.get("peak")]
    assert facts and all(list(by_device) == [f"cuda:{index}" for index in names] for by_device in facts)


def test_memory_that_cannot_be_measured_is_said(at, tmp_path, monkeypatch):
    at("cpu")
    monkeypatch.setattr("os.fork", None)
    monkeypatch.delattr("os.fork")
    run = compare(**REQUEST | {"methods": ("fastv",), "samples": 1}, device="cpu", workers=1, memory=True, out=tmp_path / "run")
    said = "--memory: peak memory was not measured: this takes a fork"
    assert any(note.startswith(said) for note in run.store.manifest()["notes"])


def test_a_cell_whose_peak_fails_is_named(at, tmp_path, monkeypatch):
    at("cuda")
    real = Engine.run

    def fails(self, request):
        if any(step.site.stage == 2 for step in request.steps):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, request)

    config = CompareConfig(
        **REQUEST | {"methods": ("fastv", "divprune"), "samples": 1}, device="cuda", workers=1, out=tmp_path / "run"
    )
    run = compare(config)
    monkeypatch.setattr(Engine, "run", fails)
    run_memory_pass(config, run.store, prepare(config), {key: ident for ident, key, _ in run.store.cells()})
    (note,) = [note for note in run.store.manifest()["notes"] if note.startswith("--memory")]
    assert "fastv at 32" in note and "divprune" not in note and "CUDA out of memory" in note


def test_every_cell_without_a_peak_has_a_reason_of_its_own(at, tmp_path, monkeypatch):
    at("cuda")
    real = Engine.run

    def fails(self, request):
        if request.steps:
            raise torch.OutOfMemoryError("too large") if request.steps[0].site.stage == 2 else ValueError("no such index")
        return real(self, request)

    config = CompareConfig(**CHEAP, device="cuda", workers=1, out=tmp_path / "run")
    run = compare(config)
    monkeypatch.setattr(Engine, "run", fails)
    run_memory_pass(config, run.store, prepare(config), {key: ident for ident, key, _ in run.store.cells()})
    notes = [note for note in run.store.manifest()["notes"] if note.startswith("--memory")]
    assert len(notes) == 2 and all(("fastv at" in note) == ("too large" in note) for note in notes)
    assert all(("divprune at" in note) == ("no such index" in note) for note in notes)


def test_every_pass_selects_with_the_code_that_is_asked_for(at, tmp_path, monkeypatch):
    at("cuda")
    asked: list[tuple[str, str]] = []
    real = Engine.run

    def notes(self, request):
        above = {frame.f_code.co_name for frame, _ in traceback.walk_stack(None)}
        place = next((name for name in ("answer", "run_latency_pass", "run_memory_pass") if name in above), "elsewhere")
        asked.append((place, kernels._asked.get()))
        return real(self, request)

    monkeypatch.setattr(Engine, "run", notes)
    request = CHEAP | {"methods": ("divprune",), "latency": True, "rounds": 1, "time_limit": 0.0, "max_new_tokens": 2}
    compare(**request, device="cuda", kernels="torch", workers=1, memory=True, out=tmp_path / "run")
    assert set(asked) == {(place, "torch") for place in ("answer", "run_latency_pass", "run_memory_pass")}


def test_workers_compute_as_the_process_that_began(tmp_path, monkeypatch):
    """Whatever ``auto`` is on a worker's own card."""
    sources = []

    class Executor(ProcessExecutor):
        def __init__(self, source, *given):
            super().__init__(source, *given)
            sources.append(source)
            raise RequestError("far enough")

    monkeypatch.setattr("harness.run.accuracy_pass.ProcessExecutor", Executor)
    with pytest.raises(RequestError, match="far enough"):
        compare(**EMBEDDED | {"dtype": "auto"}, device="cuda", workers=2, out=tmp_path / "run")
    monkeypatch.setattr(PretendedCard, "capability", (7, 5))
    (source,) = (pickle.loads(pickle.dumps(source)) for source in sources)
    assert (source.config.dtype, source.config.kernels) == ("bfloat16", "torch")
    with pytest.raises(RequestError, match="--dtype bfloat16: cuda:1 Pretended 1 has none"):  # not float16 beside bfloat16
        source.make("cuda:1")


def test_a_run_in_bfloat16_does_not_go_on_on_a_card_without(tmp_path, monkeypatch):
    monkeypatch.setattr("reports.page.render", lambda view: "")
    request = EMBEDDED | {"samples": 1, "dtype": "auto", "out": tmp_path / "run", "workers": 1}
    compare(**request, device="auto")
    (tmp_path / "run" / "summary.json").rename(tmp_path / "summary.json")
    monkeypatch.setattr(PretendedCard, "capability", (7, 5))
    said = "its run was computed in bfloat16, which this card lacks; go on where there is one, or on the CPU, with CUDA_VIS"
    with pytest.raises(RequestError, match=said):
        compare(**request, device="auto", resume=True)
    (tmp_path / "summary.json").rename(tmp_path / "run" / "summary.json")
    with pytest.raises(RequestError, match=said):
        compare(methods=("random",), extend=tmp_path / "run", self_check=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # as that variable has it
    compare(methods=("random",), extend=tmp_path / "run", self_check=False)


def test_auto_is_the_precision_that_a_run_began_with(tmp_path, monkeypatch):
    """Of a GPU, though it goes on on a CPU; and of the levels that are added."""
    monkeypatch.setattr("reports.page.render", lambda view: "")
    asked: list[str] = []
    real = hf.load
    asks = lambda name, device, dtype, **named: (asked.append(dtype), real(name, device, dtype, **named))[1]
    monkeypatch.setattr(hf, "load", asks)
    request = EMBEDDED | {"dtype": "auto", "device": "auto", "out": tmp_path / "run", "workers": 1}
    run = compare(**request)
    assert run.store.manifest()["dtype"] == "bfloat16" and asked == ["auto"]
    run.store.connection.execute("DELETE FROM done")
    run.store.connection.commit()
    (tmp_path / "run" / "summary.json").unlink()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    compare(**request, resume=True)
    compare(methods=("random",), extend=tmp_path / "run", self_check=False)
    assert asked == ["auto", "bfloat16", "bfloat16"]


class Telling(ShardRunnerSource):
    """Loads the model, and ends with the devices that it lies on."""

    def make(self, device=None):
        raise RequestError(names_of(super().make(device).prepared.adapter.devices))


def test_workers_share_the_devices():
    every = [("cuda", 1), ("cuda:1", 0)]  # the device that is asked for, and the number of the worker
    workers = [
        ProcessExecutor(Telling(CompareConfig(**EMBEDDED, device=device)), 2, 1, device).start(number) for device, number in every
    ]
    told = [str(worker.take()) for worker in workers]
    for worker in workers:
        assert isinstance(worker.process, multiprocessing.context.SpawnProcess)
        worker.stop()
    assert told == [f"cuda:{card} Pretended {card}" for card in (1, 1)]


def test_workers_on_devices_find_what_one_process_finds_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr("reports.page.render", lambda view: "")
    alone = compare(**EMBEDDED, device="cpu", workers=1, out=tmp_path / "one")
    both = compare(**EMBEDDED, device="cuda", workers=2, out=tmp_path / "two")
    assert tables(both) == tables(alone)
    manifest = both.store.manifest()
    assert manifest["tf32"] is False and manifest["device"] == "cuda:0 Pretended 0"
    assert set(manifest["answered_on"]) <= {"cuda:0 Pretended 0", "cuda:1 Pretended 1"} and manifest["answered_on"]


def test_no_worker_is_forked_once_cuda_has_begun(monkeypatch):
    """Not even where the model lies on the CPU."""
    for begun, kind in ((True, "SpawnProcess"), (False, "ForkProcess")):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda begun=begun: begun)
        worker = ProcessWorker(0, Never(), 1, "cpu")
        assert type(worker.process).__name__ == kind
        worker.stop()


class Never:
    """A source of runners that no worker asks twice."""

    def make(self, device=None):
        raise RequestError("nothing is run here")


def _timed_cells(place: str):
    """The small model at a place, `none` and `fastv` on it, and what makes their batches."""
    adapter = made(place)
    task = task_of("shapes")
    cells = make_cells(CompareConfig(**REQUEST), adapter.shape, True, adapter.gives, 20.0, adapter.cannot, None)
    cells = [cell for cell in cells if cell.skipped is None and cell.method in ("none", "fastv")]
    sample = one_question(next(iter(task.samples(1, 0))))
    prompt = PromptOnHost(adapter, sample, sample.images, 0)
    return adapter, cells, [partial(prompt.batch_for, cell) for cell in cells]


@pytest.mark.parametrize("place", ["cuda:1", SPREAD])
def test_times_are_taken_with_every_device_synchronised(place):
    adapter, cells, prepares = _timed_cells(place)
    with Counted() as counted:
        timed = time_cells(adapter, cells, prepares, TimingPlan(0, 1, 3))
    assert counted.calls % len(adapter.devices) == 0 and counted.calls >= 20 * len(adapter.devices)
    assert all(list(peak) == [str(device) for device in adapter.devices] for peak in timed.peak_bytes.values())
    assert set(timed.peak_bytes) == set(range(len(cells))) and all(min(peak.values()) > 0 for peak in timed.peak_bytes.values())


@pytest.mark.parametrize("place", ["cuda:1", SPREAD])
def test_a_time_to_first_token_waits_for_the_devices_at_either_end_and_no_oftener(place):
    """Beyond what making the batch and the engine wait for anyway."""
    adapter, cells, prepares = _timed_cells(place)
    taken = []
    for least in (1, 3, 5):  # in the first, what is made once for a model is made
        with Counted() as counted:
            time_cells(adapter, cells, prepares, TimingPlan(0, 1, 3, least=least))
        taken.append(counted)
    with Counted() as bare:
        for cell, prepare_one in [*zip(cells, prepares, strict=True), (cells[0], prepares[0])]:  # `none` runs twice a round
            Engine(adapter, 1).run(EngineRequest(prepare_one(), cell.given, cell.object.positions, None, False, False))
    _, three, five = taken
    two_rounds, slots = five.calls - three.calls, len(cells) + 1
    assert bare.calls == 0 and two_rounds == 2 * slots * 2 * len(adapter.devices)
    assert five.synchronisations - three.synchronisations == 2 * bare.synchronisations > 0
    assert five.launches - three.launches == 2 * bare.launches > 0


def test_captured_signals_are_those_of_the_cpu_in_the_precision_that_is_asked_for(tmp_path, monkeypatch):
    """In one process as on the command line."""
    from typer.testing import CliRunner

    loaded: list[torch.dtype] = []
    real = hf.load

    def load(*given, **named):
        adapter = real(*given, **named)
        loaded.append(adapter.dtype)
        return adapter

    monkeypatch.setattr(hf, "load", load)
    files = [
        capture("tiny", "shapes", 1, tmp_path / device[:3], device=device, dtype="float32", self_check=False)
        for device in ("cpu", "cuda:1")
    ]
    words = ["capture", "--samples", "1", "--out", str(tmp_path / "half"), "--dtype", "float16", "--no-self-check", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and json.loads(done.stdout), done.output
    assert loaded == [torch.float32, torch.float32, torch.float16]
    for one, other in zip(*files, strict=True):
        a, b, c = (np.load(file) for file in (one, other, tmp_path / "half" / one.name))
        assert set(a.files) == set(b.files) == set(c.files)
        assert all(np.array_equal(a[name], b[name]) for name in a.files)
        assert not np.array_equal(a["features"], c["features"]) and c["features"].dtype == np.float32
        assert np.allclose(a["features"], c["features"], atol=0.1 * np.abs(a["features"]).max())


SHORT_PROFILE = {
    "methods": ("fastv",),
    "keep": ("64",),
    "rounds": 1,
    "batch_size": (1, 2),
    "answer_tokens": 2,
    "break_even": False,
}


def test_profile_names_its_device_and_its_memory():
    found = profile(ProfileConfig(model="tiny", self_check=False, device="cuda:1", **SHORT_PROFILE))
    assert found["device"] == "cuda:1 Pretended 1" and found["dtype"] == "bfloat16" and found["devices"] == ["cuda:1"]
    rows = [row for row in found["cells"] if row["skipped"] is None]
    assert all(row["memory"]["peak_bytes"] > 0 and row["memory"]["kind"] == "allocated" for row in rows)
    assert {one["how"] for one in found["largest_batch"]} <= {"predicted", "unknown"}


@pytest.mark.needs("accelerate")
def test_profile_waits_for_all_devices_of_a_map(monkeypatch):
    """Stages and whole answers both: every device is synchronised where a clock is read."""
    waited = []
    real = torch.cuda.synchronize
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: (waited.append(str(device)), real(device))[1])
    found = profile(ProfileConfig(model="tiny", self_check=False, device_map="auto", **SHORT_PROFILE))
    assert len(found["devices"]) > 1 and set(found["devices"]) <= set(waited)
    assert len({waited.count(device) for device in found["devices"][1:]}) == 1
