"""Tests on a pretended GPU: each runs in a process that has one, whichever process collects it.

The process that a test run begins in sees no GPU, and must not: the other tests, and xdist's workers, go on in it. It starts
one that does, hands it every test of this folder by its name, and takes its reports over.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from tempfile import TemporaryFile
from threading import Timer

import pytest

from tests.needs import installed, need_program
from tests.simdevice.pretended import DEVICES, HERE, built, environment

LONGEST = 600
"""Seconds that a test may take in the process with devices, whose end the other would otherwise wait for without end."""
INSIDE = DEVICES in os.environ
"""Whether this process is the one with devices."""


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.simdevice)


class DeviceProcess:
    """A process of pytest with devices, which runs the tests that it is told by name."""

    def __init__(self, config) -> None:
        self.config = config
        self.log = TemporaryFile("w+")  # noqa: SIM115  # as long as the process lives
        asks, told = os.pipe(), os.pipe()
        command = [sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "tests.simdevice.told_tests", "-p", "no:cacheprovider"]
        command += ["-n", "0"] if installed("xdist") else []
        command += ["--rootdir", str(config.rootpath), "-c", str(config.inipath), str(HERE)]
        given = environment() | {"PRUNESCOPE_TOLD_TESTS": f"{asks[0]},{told[1]}"}
        for name in [name for name in given if name.startswith("PYTEST_")]:  # of xdist's workers
            del given[name]
        self.process = subprocess.Popen(
            command, env=given, cwd=config.rootpath, stdout=self.log, stderr=subprocess.STDOUT, pass_fds=(asks[0], told[1])
        )
        os.close(asks[0])
        os.close(told[1])
        self.asks, self.told = os.fdopen(asks[1], "w"), os.fdopen(told[0])

    def run(self, item, then) -> list:
        """Return the reports of a test; ``then`` is the one that follows it there, if any."""
        with suppress(BrokenPipeError):
            print(json.dumps([item.nodeid, then and then.nodeid]), file=self.asks, flush=True)
        reports, ending = [], Timer(LONGEST, self.process.kill)
        ending.start()
        try:
            for line in self.told:
                told = json.loads(line)
                if told is None:
                    return reports
                reports.append(self.config.hook.pytest_report_from_serializable(config=self.config, data=told))
        finally:
            ending.cancel()
        self.process.wait()
        self.log.seek(0)
        ended = f"ended ({self.process.returncode}), at the latest {LONGEST} s after the test began"
        said = f"the process with pretended devices {ended}:\n{self.log.read()[-4000:]}"
        return [pytest.TestReport(item.nodeid, item.location, {}, "failed", said, "call")]

    def close(self) -> None:
        """Tell the process that there is no more."""
        with suppress(BrokenPipeError):
            self.asks.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.told.close()
        self.log.close()


KEPT: dict[str, DeviceProcess] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem) -> bool | None:
    if INSIDE or HERE not in item.path.parents or not _usable(item):
        return None
    if "one" not in KEPT or KEPT["one"].process.poll() is not None:
        KEPT["one"] = DeviceProcess(item.config)
    then = nextitem if nextitem is not None and HERE in nextitem.path.parents else None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in KEPT["one"].run(item, then):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _usable(item) -> bool:
    """Whether devices can be had; where not, the test begins as any other, and its setup says why it does not run."""
    try:
        need_program("g++")
        built()
    except (pytest.skip.Exception, pytest.fail.Exception, RuntimeError) as trouble:
        item.stash[_TROUBLE] = trouble
    return _TROUBLE not in item.stash


_TROUBLE = pytest.StashKey[BaseException]()


def pytest_runtest_setup(item) -> None:
    if _TROUBLE in item.stash:
        raise item.stash[_TROUBLE]


def pytest_sessionfinish() -> None:
    for process in KEPT.values():
        process.close()
    KEPT.clear()
