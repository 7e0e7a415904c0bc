"""The hub from outside: the real `hf` and our command line, each a process of its own, with nothing but the environment set."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import huggingface_hub
import pytest

from harness.tasks.hub import command
from harness.tasks.registry import BENCHMARKS, _spec
from tests.hub.conftest import NOBODY
from tests.hub.loopback import contents, silent
from tests.needs import STRICT

pytestmark = pytest.mark.hub
ROOT = Path(__file__).parents[2]
LOAD_ALL = """
import json, sys
from harness.errors import RequestError
from harness.tasks.registry import create
for name in sys.argv[1:]:
    try:
        task = create(name)
        print(json.dumps([name, task.digest, task.origin.facts(), sum(len(s.questions) for s in task.samples(99, 0))]))
    except RequestError as error:
        print(json.dumps([name, str(error), None, 0]))
"""
RUN_ALL = """
import sys
from harness.cli.app import main
out, *tasks = sys.argv[1:]
for task in tasks:
    try:
        main(["compare", "--model", "some-org/tiny", "--task", task, "--samples", "2", "--keep", "16", "--methods", "sts",
              "--no-latency", "--analyse", "0", "--max-new-tokens", "2", "--out", f"{out}/{task}"])
    except SystemExit as left:
        if left.code:
            raise
"""
_SCRIPTS = Path(huggingface_hub.__file__).parents[4] / "bin"
"""Where the installed `hf` is."""
FEW = ("--task", "shapes", "--samples", "1", "--keep", "16", "--methods", "sts", "--no-latency", "--analyse", "0")


@dataclass
class Machine:
    """A machine with an empty cache, as a shell has it: programs run with an environment and nothing else."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    first: tuple[Path, ...] = ()  # folders with packages that go before the installed ones

    def ran(self, *words: str, code: int = 0, **more: str) -> str:
        """What a program prints."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTEST_"))}
        paths = {
            "PYTHONPATH": os.pathsep.join(map(str, (*self.first, ROOT))),
            "PATH": os.pathsep.join([*(f"{place}/bin" for place in self.first), str(_SCRIPTS), keep["PATH"]]),
        }
        environment = keep | paths | {"HF_HOME": str(self.home)} | self.environment | more
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def loaded(self, *tasks: str, **more: str) -> dict[str, list]:
        """What `create` gives for each task: digest or message, where it is from, and the number of questions."""
        lines = self.ran(sys.executable, "-c", LOAD_ALL, *tasks, **more).splitlines()
        return {name: found for name, *found in (json.loads(line) for line in lines if line.startswith("["))}

    def shell(self, line: str, **more: str) -> str:
        """What a line prints that is typed as it stands."""
        return self.ran("bash", "-c", line, **more)


OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": NOBODY}  # where nobody answers, should somebody ask all the same


@pytest.fixture
def machine(tmp_path, hub):
    return Machine(tmp_path / "home", {"HF_ENDPOINT": hub.address})


@pytest.fixture(scope="module")
def lowest(tmp_path_factory):
    """The lowest version of huggingface_hub that is allowed, in a folder of its own."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (version,) = (re.search(r">=([\d.]+)", one)[1] for one in needed if one.startswith("huggingface-hub"))
    place = tmp_path_factory.mktemp("lowest")
    install = [sys.executable, "-m", "pip", "install", "-q", "--target", str(place), f"huggingface_hub=={version}.0"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        (pytest.fail if STRICT else pytest.skip)(f"huggingface_hub {version} cannot be installed: {done.stderr[-200:]}")
    return place


def expected(served):
    """The commit and the digests of the data sets as they lie in the hub's folder."""
    found = {}
    for name in BENCHMARKS:
        folder = served / "datasets" / _spec(name).repositories[0]
        files, commit = contents(folder)
        found[name] = commit, {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    return found


@pytest.mark.parametrize("version", ["lowest", "installed"])
def test_all_benchmarks_after_the_printed_command(machine, served, version, request):
    """The command is taken from the message, typed into a shell, and then the network is gone."""
    if version == "lowest":
        machine.first = (request.getfixturevalue("lowest"),)
    told = machine.loaded(*BENCHMARKS, **OFFLINE)
    lines = {name: re.search(r"hf download .*$", found[0])[0] for name, found in told.items()}
    specs = {name: _spec(name) for name in BENCHMARKS}
    assert lines == {name: command(s.repositories[0], s.configs, s.info.split) for name, s in specs.items()}
    for line in lines.values():
        machine.shell(line)
    whole = expected(served)
    for name, (digest, facts, questions) in machine.loaded(*BENCHMARKS, **OFFLINE).items():
        assert facts, digest
        assert facts["repository"] == specs[name].repositories[0] and facts["revision"] == whole[name][0] and questions
        assert facts["files"] and facts["files"].items() <= whole[name][1].items()


@pytest.mark.parametrize("how", ["plain", "moved"])
def test_all_benchmarks_online_and_then_offline(machine, hub, how):
    hub.moved = {"lmms-lab": "lmms-lab-encoder"} if how == "moved" else {}
    online = machine.loaded(*BENCHMARKS)
    for name, (digest, facts, _) in online.items():
        assert facts, digest
        owner = "lmms-lab-encoder" if how == "moved" else "lmms-lab"
        assert facts["repository"].partition("/")[0] == ("echo840" if name == "ocrbench" else owner)
    assert machine.loaded(*BENCHMARKS, **OFFLINE) == online


@pytest.fixture(scope="module")
def all_runs(served, tmp_path_factory):
    """All benchmarks on a model of the hub without a network, after the printed commands; their manifests."""
    from tests.hub.loopback import running

    place = tmp_path_factory.mktemp("runs")
    with running(served) as hub:
        machine = Machine(place / "home", {"HF_ENDPOINT": hub.address})
        commands = [command(s.repositories[0], s.configs, s.info.split) for s in map(_spec, BENCHMARKS)]
        machine.shell(" && ".join([*commands, "hf download some-org/tiny"]))
    machine.ran(sys.executable, "-c", RUN_ALL, str(place), *BENCHMARKS, **OFFLINE)
    return {name: json.loads((place / name / "manifest.json").read_text()) for name in BENCHMARKS}, place


def test_all_benchmarks_run_offline_on_a_model_of_the_hub(all_runs, served):
    manifests, place = all_runs
    whole, model = expected(served), contents(served / "models" / "some-org" / "tiny")[1]
    for name, manifest in manifests.items():
        assert manifest["hub"]["model"] == {"repository": "some-org/tiny", "revision": model}
        assert manifest["hub"]["data"]["revision"] == whole[name][0]
        assert manifest["task_info"]["source"] == manifest["hub"]["data"]["repository"] == _spec(name).repositories[0]
        page = (place / name / "report.html").read_text()
        assert (
            whole[name][0] in page
            and model in page
            and all(digest in page for digest in manifest["hub"]["data"]["files"].values())
        )


def compare(machine, *words, code=0, **more):
    out = machine.home.parent / f"run{time.monotonic_ns()}"
    told = machine.ran(sys.executable, "-m", "harness", "compare", *FEW, "--out", str(out), *words, code=code, **more)
    return told if code else json.loads((out / "manifest.json").read_text())


def test_a_model_of_the_hub_online_and_then_offline(machine, hub, served):
    commit = contents(served / "models" / "some-org" / "tiny")[1]
    online = compare(machine, "--model", "some-org/tiny", "--revision", commit)
    hub.requests.clear()
    offline = compare(machine, "--model", "some-org/tiny", "--revision", commit, **OFFLINE)
    assert online["hub"] == offline["hub"] == {"model": {"repository": "some-org/tiny", "revision": commit}} and not hub.requests
    embedded = compare(machine, "--model", "tiny", **OFFLINE)
    assert embedded["hub"] == {} and embedded["digest"] == online["digest"] == offline["digest"]


def test_a_hub_that_fails_is_asked_once_for_a_model_of_the_cache(machine, hub):
    machine.shell("hf download some-org/tiny")
    hub.requests.clear()
    hub.failing = 503
    manifest = compare(machine, "--model", "some-org/tiny")
    assert manifest["hub"]["model"]["repository"] == "some-org/tiny"
    assert "model 'some-org/tiny' is from the local cache, since the hub fails (503)" in manifest["notes"]
    assert hub.requests == ["GET /api/models/some-org/tiny/revision/main"]


@pytest.mark.parametrize(
    "words", [("--model", "some-org/tiny"), ("--task", "pope"), ("--task", "gqa", "--model", "some-org/tiny")]
)
def test_nobody_there_is_told_within_seconds(machine, words):
    start = time.perf_counter()
    told = compare(machine, *words, code=2, HF_ENDPOINT=NOBODY)
    assert f"{NOBODY} cannot be reached" in told and "hf download" in told and told.count("error:") == 1
    assert time.perf_counter() - start < 30
    with silent() as address:
        start = time.perf_counter()
        told = compare(machine, *words, code=2, HF_ENDPOINT=address)
        assert f"{address} does not answer" in told and "hf download" in told and time.perf_counter() - start < 30


def test_what_the_hub_says_of_a_model_is_one_line(machine, hub):
    assert "the hub has none of this name" in compare(machine, "--model", "some-org/none", code=2)
    told = compare(machine, "--model", "some-org/tiny", "--revision", "v9", code=2)
    assert "the hub has no such revision of it" in told and "hf download some-org/tiny --revision v9" in told
    hub.refused = {"some-org/tiny": 403}
    assert "it is gated: accept its terms on its page" in compare(machine, "--model", "some-org/tiny", code=2)


def test_the_cache_may_lie_elsewhere(machine, tmp_path):
    place = {"HF_HUB_CACHE": str(tmp_path / "elsewhere")}
    machine.shell(command("lmms-lab/POPE", (None,), "test"), **place)
    assert machine.loaded("pope", **OFFLINE, **place)["pope"][1]["repository"] == "lmms-lab/POPE"
    assert machine.loaded("pope", **OFFLINE)["pope"][1] is None


def test_a_proxy_is_used(machine, hub):
    """The hub on this machine is asked as a proxy for a host that does not exist."""
    proxied = {
        "HF_ENDPOINT": "http://hub.invalid",
        "HTTP_PROXY": hub.address,
        "http_proxy": hub.address,
        "NO_PROXY": "",
        "no_proxy": "",
    }
    assert machine.loaded("mme", **proxied)["mme"][1]["repository"] == "lmms-lab/MME"
    nobody = {**proxied, "HTTP_PROXY": NOBODY, "http_proxy": NOBODY}
    assert "http://hub.invalid cannot be reached" in machine.loaded("ai2d", **nobody)["ai2d"][0]
