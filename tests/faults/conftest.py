"""A small request, a run of it that nothing disturbed, and processes that end where a test wants them to."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from harness.errors import RequestError
from harness.models import hf
from harness.run.comparison import compare
from harness.run.executors.local import threads
from tests.small_model import KEEP, small_model

REQUEST = {
    "methods": ("random", "fastv"), "keep": (KEEP,), "samples": 4, "batch_size": 1, "latency": False, "analyse": 2, "seeds": 2,
    "max_new_tokens": 1, "workers": 1,
}  # fmt: skip
STORED = ("samples", "analysis", "repeats", "traces", "images", "questions", "done")
WHOLE = ("cells", *STORED)


def tables(folder: Path, names: tuple[str, ...] = WHOLE) -> dict[str, list[tuple]]:
    """All rows of a run."""
    with closing(sqlite3.connect(folder / "results.sqlite")) as connection:
        return {name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}


def figures(folder: Path) -> dict:
    """What ``summary.json`` says, without what a clock measured."""
    found = json.loads((folder / "summary.json").read_text())
    found["checks"]["aa"] = None
    for cell in found["cells"]:
        cell["latency"] = cell["pareto"]["latency"] = None
    return found


def digest(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text())["digest"]


def same(folder: Path, other: Path) -> bool:
    """Whether two runs hold the same results and say the same."""
    names = [{path.name for path in one.iterdir()} - {"run.lock"} for one in (folder, other)]
    assert names[0] == names[1]
    assert tables(folder) == tables(other)
    assert figures(folder) == figures(other)
    return digest(folder) == digest(other)


@pytest.fixture(scope="session")
def adapter():
    """A small model instead of the embedded one: these tests are about what surrounds it."""
    return small_model()


def made_quick(patch: pytest.MonkeyPatch, adapter) -> None:
    """The model is made once, and figures are not drawn: what a page shows is tested elsewhere."""
    patch.setattr(hf, "load", lambda *arguments, **words: adapter)
    patch.setattr("reports.page.render", lambda view: f"a page of {len(view.cells)} cells")


@pytest.fixture(autouse=True)
def quick(monkeypatch, adapter, one_thread):
    made_quick(monkeypatch, adapter)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, adapter) -> Path:
    """The folder of a run of the request."""
    with pytest.MonkeyPatch.context() as patch, threads(1):
        made_quick(patch, adapter)
        compare(**REQUEST, out=(folder := tmp_path_factory.mktemp("undisturbed") / "run"))
    return folder


def changed(connect: Callable[..., sqlite3.Connection], how: Callable[[sqlite3.Connection], object]):
    """``sqlite3.connect``, with something done to every connection that it makes."""

    def connected(*arguments, **words):
        made = connect(*arguments, **words)
        how(made)
        return made

    return connected


class Clock:
    """Calls back at every statement of SQL, file that is written, cell that is run and row on its way to its table."""

    def __init__(self, tick: Callable[[str], None]) -> None:
        self.tick = tick

    def install(self) -> None:
        """Into this process, for good."""
        from harness import files
        from harness.run.batch_run import BatchRun
        from harness.store.cell_results import SampleRow

        sqlite3.connect = changed(sqlite3.connect, lambda made: made.set_trace_callback(lambda text: self.tick(_kind(text))))
        for owner, name in ((files, "opened"), (Path, "replace"), (Path, "unlink"), (BatchRun, "run"), (SampleRow, "values")):
            setattr(owner, name, self._ticking(getattr(owner, name), name))

    def _ticking(self, call: Callable, name: str) -> Callable:
        def ticking(first, *arguments, **words):
            what = first.name if isinstance(first, Path) else arguments[0].method if arguments else ""
            self.tick(f"{name} {re.sub('[0-9]+', 'N', what)}".strip())
            return call(first, *arguments, **words)

        return ticking


def _kind(statement: str) -> str:
    """The first words of a statement, numbers aside: statements that do the same are one kind."""
    return " ".join(re.sub("[0-9]+", "N", statement).split()[:5])


def forked(call: Callable[[], None]) -> int:
    """Run a function in a forked process; gives its exit code, -9 where it was killed."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    code = 1
    try:
        call()
        code = 0
    except RequestError as error:
        print(error)
        code = 2
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def compare_until(folder: Path, at: Callable[[str], bool], **options) -> int:
    """Go on with the run in a process of its own, which is killed with -9 at the first tick of which ``at`` says so."""

    def run() -> None:
        main = os.getpid()  # its workers count for themselves; three that die at one batch would end the run

        def tick(kind: str) -> None:
            if os.getpid() == main and at(kind):
                os.kill(main, signal.SIGKILL)

        Clock(tick).install()
        compare(**{**REQUEST, **options}, out=folder, resume=True)

    return forked(run)
