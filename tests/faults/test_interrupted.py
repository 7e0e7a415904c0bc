"""Ctrl-C and SIGTERM end a run at once, and what the last line says goes on with it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from harness.cli.app import main
from harness.run.comparison import compare
from tests.faults.conftest import REQUEST, Clock, forked, same
from tests.small_model import KEEP

WORDS = (
    f"--methods random,fastv --keep {KEEP} --samples 4 --batch-size 1 --no-latency --analyse 2 --seeds 2 "
    "--max-new-tokens 1 --workers 1"
)


def command(words: list[str], log: Path, until: str = "", number: int = 0, nth: int = 1) -> tuple[int, str]:
    """Run a command line in a process of its own that gets a signal at the nth tick of a kind; exit code and stderr."""

    def run() -> None:
        with log.open("w", buffering=1) as sys.stderr, open(os.devnull, "w") as sys.stdout:
            left = [nth]

            def tick(kind: str) -> None:
                left[0] -= kind == until
                if kind == until and not left[0]:
                    os.kill(os.getpid(), number)

            Clock(tick).install()
            try:
                main(words)
            except SystemExit as end:
                os._exit(end.code or 0)

    code = forked(run)
    lines = log.read_text().splitlines(keepends=True)
    return code, "".join(line for line in lines if not line.startswith("note: --margin "))  # which so few images always bring


MOMENTS = {
    "between answers": (signal.SIGTERM, "run fastv", 2),
    "while answers are stored": (signal.SIGINT, "values", 100),
    "when the summary is written": (signal.SIGTERM, "opened summary.json.partial", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_last_line_goes_on_with_it(tmp_path, undisturbed, moment):
    number, until, nth = MOMENTS[moment]
    folder = tmp_path / "a run"
    code, said = command(["compare", *shlex.split(WORDS), "--out", str(folder)], tmp_path / "log", until, number, nth)
    assert code == 130, said
    last = [line for line in said.splitlines() if line.strip()]
    assert len(last) == 1 and last[0].startswith(
        "interrupted; what is stored stays; this goes on with it: python -m harness compare"
    )
    assert not (folder / "run.lock").exists() and not (folder / "summary.json").exists()
    words = shlex.split(last[0].partition("python -m harness ")[2])
    assert words[-3:] == ["--out", str(folder), "--resume"]
    assert command(words, tmp_path / "log") == (0, "")
    assert same(folder, undisturbed)


def test_an_extension_is_interrupted_too(tmp_path, undisturbed):
    import shutil

    one, other = (Path(shutil.copytree(undisturbed, tmp_path / name)) for name in ("one", "other"))
    compare(extend=one, methods=["grid"], workers=1)
    words = ["compare", "--extend", str(other), "--methods", "grid", "--workers", "1"]
    code, said = command(words, tmp_path / "log", "run grid", signal.SIGTERM, 3)
    assert code == 130 and f"compare --extend {other} --methods grid" in said
    assert command(words, tmp_path / "log") == (0, "")
    assert same(one, other)


def test_before_there_is_anything(tmp_path, monkeypatch):
    def interrupted(*arguments, **words):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("harness.models.hf.load", interrupted)
    code, said = command(["compare", *shlex.split(WORDS), "--out", str(tmp_path / "run")], tmp_path / "log")
    assert code == 130 and said.strip() == "interrupted; repeat the command"
    assert not (tmp_path / "run").exists()


SECONDS, SIGNALS = (0.5, 0.9, 1.3, 1.7, 2.1, 2.5), (signal.SIGINT, signal.SIGTERM)
IN_TURN = [(seconds, SIGNALS[place % 2]) for place, seconds in enumerate(SECONDS)]
OTHERS = [pytest.param(seconds, SIGNALS[place % 2 - 1], marks=pytest.mark.slow) for place, seconds in enumerate(SECONDS)]


@pytest.mark.parametrize(("seconds", "number"), [*IN_TURN, *OTHERS])
def test_while_libraries_are_imported(number, seconds, tmp_path):
    """Wherever a process is by then: none goes on, none dies of it, and none makes another error of it."""
    command = [sys.executable, "-m", "harness", "compare", *shlex.split(WORDS), "--out", str(tmp_path / "run")]
    heeding = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # also where this one ignores it
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeding) as process:
        time.sleep(seconds)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, (process.returncode, said)
    assert said.startswith("interrupted; ") and len(said.splitlines()) == 1


def test_between_the_stages(tmp_path, monkeypatch, undisturbed):
    """After the answers, in the latency pass, after it, and while the report is written; times apart, figures are the same."""
    request = REQUEST | {"latency": True, "time_limit": 0.0}
    folder = tmp_path / "run"
    for owner, name in (
        ("harness.run.latency_pass", "run_latency_pass"), ("harness.run.latency_pass", "time_cells"),
        ("harness.run.comparison", "finish"),
        ("harness.run.manifest", "digest_of"), ("harness.results.summary", "write"), ("harness.results.report", "write_report"),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr("harness.run.comparison.digest_of" if name == "digest_of" else f"{owner}.{name}", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                compare(**request, out=folder, resume=True)
        assert (folder / "report.html").exists() is False, name
    assert (folder / "summary.json").exists()
    run = compare(**request, out=folder, resume=True)
    assert (folder / "report.html").exists()
    for cell in run.summary["cells"]:
        if cell["skipped"] is None:
            assert cell["latency"]["ttft"]["value"] > 0
            assert cell["memory"]["kv_measured"] == cell["memory"]["kv_predicted"] > 0
    assert {number for number, _ in run.store.timings()} == {0}
    assert run.store.manifest()["digest"] == compare(**REQUEST, out=undisturbed, resume=True).store.manifest()["digest"]


def _interrupt(*arguments, **words):
    raise KeyboardInterrupt
