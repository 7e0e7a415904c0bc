"""Several processes answer what one does, whoever of them dies."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from harness.errors import RequestError
from harness.models import hf
from harness.run.comparison import compare
from harness.run.executors import processes
from harness.run.executors.local import threads
from harness.run.shard_runner import ShardRunner
from tests.small_model import KEEP, small_model

REQUEST = {
    "methods": ("random", "fastv"), "keep": (KEEP,), "samples": 4, "batch_size": 1, "latency": False, "analyse": 2, "seeds": 2,
}  # fmt: skip
EMBEDDED = REQUEST | {"keep": ("64",), "samples": 2, "analyse": 1, "max_new_tokens": 2}
"""For processes that load the model for themselves: there is no other in all of them."""


pytestmark = pytest.mark.usefixtures("one_thread")


def tables(run):
    names = ("samples", "analysis", "repeats", "traces", "images", "questions", "done")
    return {name: sorted(run.store.connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}


@pytest.fixture(scope="module", autouse=True)
def no_page():
    """What a run's page shows is tested elsewhere, and it is not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.page.render", lambda view: "")
        yield


@pytest.fixture
def small(monkeypatch):
    """A small model instead of the embedded one; processes that are forked have it."""
    monkeypatch.setattr(hf, "load", lambda *arguments, **words: small_model())


@pytest.fixture(scope="module")
def one_alone(no_page, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, threads(1):
        patch.setattr(hf, "load", lambda *arguments, **words: small_model())
        return tables(compare(**REQUEST, workers=1, out=tmp_path_factory.mktemp("alone") / "run"))


@pytest.fixture
def alone(small, one_alone):
    """What one process stores; the others of the test have the small model too."""
    return one_alone


def test_two_processes_store_what_one_does(tmp_path, alone):
    assert tables(compare(**REQUEST, workers=2, out=tmp_path / "run")) == alone


def once(path) -> bool:
    """True for the first process that asks."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_killed_process_was_at_is_given_to_another(tmp_path, alone, monkeypatch, when):
    own = ShardRunner.answer

    def deadly(self, shard, ready=None):
        found = own(self, shard, ready) if when == "after" else None
        if shard.place == 1 and once(tmp_path / "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        return found or own(self, shard, ready)

    monkeypatch.setattr(ShardRunner, "answer", deadly)
    assert tables(compare(**REQUEST, workers=2, out=tmp_path / "run")) == alone
    assert (tmp_path / "killed").exists()


def test_images_that_kill_every_process_are_named_and_the_rest_is_stored(tmp_path, alone, monkeypatch):
    own = ShardRunner.answer

    def deadly(self, shard, ready=None):
        if shard.place == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return own(self, shard, ready)

    with monkeypatch.context() as patch:
        patch.setattr(ShardRunner, "answer", deadly)
        with pytest.raises(RequestError, match="3 workers died on the batch of images that begins at 3"):
            compare(**REQUEST, workers=2, out=tmp_path / "run")
    assert tables(compare(**REQUEST, workers=2, out=tmp_path / "run", resume=True)) == alone


def test_an_error_in_a_process_is_raised_here_with_its_place(tmp_path, monkeypatch, small):
    def wrong(self, shard, ready=None):
        raise ZeroDivisionError("here")

    monkeypatch.setattr(ShardRunner, "answer", wrong)
    with pytest.raises(ZeroDivisionError, match="here") as caught:
        compare(**REQUEST, workers=2, out=tmp_path / "run")
    assert "in a worker" in caught.value.__notes__[0]
    assert "test_executors" in caught.value.__notes__[0]


def test_processes_that_load_for_themselves(tmp_path, monkeypatch):
    """As on a GPU, or where each has several threads."""
    alone = tables(compare(**EMBEDDED, workers=1, out=tmp_path / "alone"))
    monkeypatch.setattr(processes.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert tables(compare(**EMBEDDED, workers=2, out=tmp_path / "run")) == alone


def test_workers_are_no_part_of_what_a_run_is():
    from harness.run.config import CompareConfig
    from harness.run.manifest import identity

    assert identity(asdict(CompareConfig(workers=3))) == identity(asdict(CompareConfig(workers=1)))


def children(pid) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


BUSY = """
import sys, time
from harness.run.executors import processes
from harness.run.executors.local import threads
from harness.run.shard_runner import ShardRunner
from harness.run.comparison import compare

def busy(self, shard, ready=None):
    print("at", shard.place, flush=True)
    time.sleep(60)

ShardRunner.answer = busy
if {spawn}:
    processes.multiprocessing.get_all_start_methods = lambda: ["spawn"]
if __name__ == "__main__":
    compare(methods=["random"], keep=["64"], samples=4, batch_size=1, latency=False, analyse=0, workers=2, out=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("spawn", [False, True])
def test_workers_end_with_their_parent(tmp_path, spawn):
    """In the middle of a shard, where they hear nothing of it."""
    script = tmp_path / "busy.py"
    script.write_text(BUSY.format(spawn=spawn))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, script, tmp_path / "run"], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        for _ in range(2):
            assert parent.stdout.readline().startswith("at")
        workers = children(parent.pid)
        assert len(workers) >= 2 and all(map(runs, workers))
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 3
    while any(map(runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in workers if runs(pid)] == []
