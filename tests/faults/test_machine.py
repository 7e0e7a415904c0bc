"""Any chain of kills, full disks, busy databases and errors: what is stored is part of an undisturbed run, and ends as one.

A state machine (hypothesis) draws the chains and shrinks one that fails to its shortest.
"""

from __future__ import annotations

import pkgutil
import shutil
import signal
import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from harness.run.comparison import compare
from tests.faults.conftest import REQUEST, STORED, Clock, changed, compare_until, forked, same, tables
from tests.faults.test_transient import STAGES

OURS = (
    "harness.store.runs.RunFolder.add_batch", "harness.store.runs.RunFolder.write_json",
    "harness.results.summary.write", "harness.results.report.write_report",
)  # fmt: skip
"""Where an error is no sample's: it ends the run."""
TICKS = 1500  # of a run of the request there are some more; a number beyond what is left disturbs nothing


class Faults(RuleBasedStateMachine):
    """A run that goes on after whatever happened to it."""

    undisturbed: Path
    happened: set[str]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="faults-")) / "run"

    @rule(tick=st.integers(1, TICKS), workers=st.integers(1, 2))
    def killed(self, tick: int, workers: int) -> None:
        """With -9, at any statement, file, cell or row."""
        self.ended(compare_until(self.folder, _nth(tick), workers=workers), {0, -signal.SIGKILL})

    @rule(pages=st.integers(1, 120))
    def full_disk(self, pages: int) -> None:
        """SQLITE_FULL, once the database has so many pages."""
        self.ended(self.go_on(lambda made: made.execute(f"PRAGMA max_page_count = {pages}")), {0, 2})

    @rule(tick=st.integers(1, TICKS))
    def busy(self, tick: int) -> None:
        """SQLITE_BUSY: from some moment on another connection holds the database."""
        others, at = [], _nth(tick)

        def watch(kind: str) -> None:
            if at(kind):
                with suppress(sqlite3.OperationalError):  # the run is writing, so that the other is the one who has to wait
                    others.append(connect(self.folder / "results.sqlite", timeout=0))
                    others[-1].execute("BEGIN IMMEDIATE")

        connect = sqlite3.connect
        self.ended(self.go_on(lambda made: made.execute("PRAGMA busy_timeout = 20"), watch), {0, 2})

    @rule(stage=st.sampled_from(sorted(STAGES)), call=st.integers(1, 12))
    def failing_sample(self, stage: str, call: int) -> None:
        """An exception from a stage of the engine, once: the run goes on by itself."""
        name, attribute, kind = STAGES[stage]
        self.ended(self.raising(pkgutil.resolve_name(name), attribute, call, type(kind, (RuntimeError,), {})), {0})

    @rule(name=st.sampled_from(OURS), call=st.integers(1, 6))
    def failing_run(self, name: str, call: int) -> None:
        """An exception that is not a sample's."""
        owner, _, attribute = name.rpartition(".")
        self.ended(self.raising(pkgutil.resolve_name(owner), attribute, call, ZeroDivisionError), {0, 1})

    def raising(self, owner, attribute: str, call: int, kind: type[Exception]) -> int:
        """Go on in a process in which the nth call of a function raises."""
        own, left = getattr(owner, attribute), _nth(call)

        def failing(*arguments, **words):
            if left(""):
                raise kind("on purpose")
            return own(*arguments, **words)

        def run() -> None:
            setattr(owner, attribute, failing)
            compare(**REQUEST, out=self.folder, resume=True)

        return forked(run)

    def go_on(self, change, watch=lambda kind: None) -> int:
        """Go on in a process whose connections are changed first."""

        def run() -> None:
            Clock(watch).install()
            sqlite3.connect = changed(sqlite3.connect, change)
            compare(**REQUEST, out=self.folder, resume=True)

        return forked(run)

    def ended(self, code: int, expected: set[int]) -> None:
        assert code in expected
        self.happened.add(f"{code}")

    @invariant()
    def what_is_stored_is_right(self) -> None:
        """Rows of the undisturbed run, each once."""
        if not (self.folder / "results.sqlite").exists():
            return  # and looking would make one
        with suppress(sqlite3.OperationalError):  # killed before there were tables
            found, whole = tables(self.folder, STORED), tables(self.undisturbed, STORED)
            for name, rows in found.items():
                assert len(set(map(repr, rows))) == len(rows), name
                assert set(map(repr, rows)) <= set(map(repr, whole[name])), name

    def teardown(self) -> None:
        try:
            assert compare_until(self.folder, lambda kind: False) == 0
            assert same(self.folder, self.undisturbed)
        finally:
            shutil.rmtree(self.folder.parent)


def _nth(number: int):
    """True at the nth call alone."""
    left = [number]

    def at(kind: str) -> bool:
        left[0] -= 1
        return left[0] == 0

    return at


@pytest.mark.parametrize("examples", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_any_chain_of_faults_ends_as_an_undisturbed_run(undisturbed, examples):
    machine = type("Faults", (Faults,), {"undisturbed": undisturbed, "happened": set()})
    by_hand = machine()  # what is drawn hangs on the modules that are loaded, whose constants hypothesis tries too
    by_hand.killed(tick=200, workers=2)
    by_hand.full_disk(pages=30)
    by_hand.what_is_stored_is_right()
    by_hand.teardown()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=6, deadline=None, suppress_health_check=list(HealthCheck), database=None
        ),
    )
    assert len(machine.happened) >= 3, "it was killed, refused and done"
