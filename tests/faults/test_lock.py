"""One process at a time on a run folder, and nobody is kept out by one that is gone."""

from __future__ import annotations

import os
import signal
import time

import pytest

from harness.errors import RequestError
from harness.run.comparison import compare
from harness.store.lock import NAME, locked
from tests.faults.conftest import REQUEST, compare_until, forked, same


def holding(folder, then) -> int:
    """A process that holds a folder, does something and stays until it is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        assert os.read(reader, 1) == b"x"
        return child
    try:
        with locked(folder, "--out"):
            then()
            os.write(writer, b"x")
            time.sleep(600)
    finally:
        os._exit(1)


def killed(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def free(folder) -> bool:
    """Whether a process that is no kin of the holder gets the folder."""

    def take() -> None:
        with locked(folder, "--out"):
            pass

    return forked(take) == 0


def test_it_is_taken_once_and_given_back(tmp_path):
    with locked(tmp_path, "--out"):
        assert (tmp_path / NAME).read_text() == f"{os.getpid()}\n"
        assert not free(tmp_path)
        with pytest.raises(RequestError, match=f"process {os.getpid()} is at this run"), locked(tmp_path, "--out"):
            pass
        assert not free(tmp_path), "the refused attempt has not let it go"
    assert free(tmp_path) and not (tmp_path / NAME).exists()


def test_it_dies_with_its_process_whatever_that_leaves_behind(tmp_path):
    workers = []

    def fork_a_worker() -> None:
        worker = os.fork()
        if not worker:
            time.sleep(600)
            os._exit(0)
        (tmp_path / "worker").write_text(str(worker))

    child = holding(tmp_path, fork_a_worker)
    workers.append(int((tmp_path / "worker").read_text()))
    with (
        pytest.raises(RequestError, match=f"--extend {tmp_path}: process {child} is at this run; wait"),
        locked(tmp_path, "--extend"),
    ):
        pass
    killed(child)
    try:
        os.kill(workers[0], 0)  # lives on
        assert (tmp_path / NAME).exists() and free(tmp_path)
    finally:
        os.kill(workers[0], signal.SIGKILL)


def test_many_that_want_it_at_once_get_it_one_after_the_other(tmp_path):
    """Whoever lets go takes the file away, and nobody may hold one that is no longer there."""
    children = []
    for number in range(8):
        child = os.fork()
        if not child:
            code, got = 1, 0
            try:
                end = time.monotonic() + 20
                while got < 25 and time.monotonic() < end:
                    try:
                        with locked(tmp_path, "--out"):
                            os.close(os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL))
                            os.unlink(tmp_path / "inside")
                        got += 1
                    except RequestError:
                        time.sleep(0.001 * number)
                code = 0 if got == 25 else 3
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8


def test_a_second_process_is_refused_and_changes_nothing(tmp_path, undisturbed, capfd):
    run = tmp_path / "run"
    assert compare_until(run, lambda tick: tick == "run oracle") == -signal.SIGKILL
    child = holding(run, lambda: None)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    try:
        assert compare_until(run, lambda tick: False) == 2
        said = capfd.readouterr().out
        assert f"--out {run}: process {child} is at this run" in said and len(said.splitlines()) == 1
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    finally:
        killed(child)
    assert compare_until(run, lambda tick: False) == 0
    assert same(run, undisturbed)
    child = holding(run, lambda: None)
    try:
        with pytest.raises(RequestError, match=f"--extend {run}: process {child} is at this run"):
            compare(extend=run, methods=["grid"])
        assert compare(**REQUEST, out=run, resume=True).failures == 0, "a finished run is only read"
    finally:
        killed(child)


def test_of_two_that_begin_one_run_one_is_refused(tmp_path):
    """At once, on a folder that neither has seen."""
    ready, children = os.pipe(), []
    for _ in range(2):
        child = os.fork()
        if not child:
            os.close(ready[1])
            os.read(ready[0], 1)  # ends for both at once
            os._exit(_begun(tmp_path / "run"))
        children.append(child)
    os.close(ready[0])
    os.close(ready[1])
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0, 2]


def _begun(folder) -> int:
    try:
        compare(**(REQUEST | {"samples": 1, "analyse": 0, "seeds": 1}), out=folder)
    except RequestError:
        return 2
    except BaseException:
        return 1
    return 0
