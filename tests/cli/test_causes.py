"""No crash hides its cause: what is raised inside a look-up, a worker or a chain of errors is what the message says."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import app as cli
from harness.errors import RequestError, unexpected
from harness.run.executors.base import attempt
from harness.tasks import registry
from harness.tasks.base import attribute
from harness.tasks.shapes.task import ShapesTask

ROOT = Path(__file__).parents[2]
BROKEN = "raise AttributeError(\"partially initialized module 'torch' has no attribute 'library'\")"
NAMES = ["from prunescope import prune", "from metrics import coverage", "from methods.lazy import torch; torch.zeros"]


@pytest.mark.parametrize("line", NAMES)
def test_an_import_that_ends_with_an_attribute_error_is_no_missing_name(line, tmp_path):
    """A package that cannot be imported beside another says so; what is looked up is there."""
    (tmp_path / "torch.py").write_text(BROKEN)
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n{line}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert "cannot be imported: AttributeError: partially initialized module 'torch'" in last, done.stderr


class Hasty(ShapesTask):
    """A task whose digest and figures are read from what is not there."""

    @property
    def digest(self):
        return self.files.digest

    @property
    def aggregate(self):
        return self.total


def test_what_a_task_has_and_cannot_give_is_not_taken_for_absent(monkeypatch):
    assert attribute(ShapesTask(), "aggregate") is None
    for name, lost in (("digest", "files"), ("aggregate", "total")):
        with pytest.raises(RequestError, match=f"task Hasty: its '{name}' cannot be read .*no attribute '{lost}'") as caught:
            attribute(Hasty(), name)
        assert isinstance(caught.value.__cause__, AttributeError)
    monkeypatch.setattr(Hasty, "info", property(lambda self: self.facts))
    with pytest.raises(RequestError, match=r"its 'info' cannot be read .*no attribute 'facts'"):
        registry._made("hasty", Hasty, {})


class Picky(Exception):
    """Can be pickled, and not put together again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def chained(kind=RuntimeError, *arguments):
    try:
        try:
            {}["the cause"]
        except KeyError as error:
            raise OSError("in between") from error
    except OSError as error:
        raise kind(*arguments) from error


def met(call) -> Exception:
    with pytest.raises(Exception) as caught:  # of any kind
        call()
    return caught.value


def test_the_first_cause_is_told():
    said = unexpected(met(lambda: chained(RuntimeError, "at the end")))
    assert (
        said.startswith("internal error: RuntimeError at test_causes.py:") and ": at the end (first cause: KeyError at " in said
    )
    assert said.endswith(": 'the cause')") and len(said.splitlines()) == 1
    hidden = ValueError("said already")
    hidden.__suppress_context__, hidden.__context__ = True, KeyError("x")
    assert unexpected(hidden) == "internal error: ValueError: said already"
    circle = ValueError("round")
    circle.__cause__ = other = KeyError("y")
    other.__cause__ = circle
    assert "ValueError: round" in unexpected(circle)


@pytest.mark.parametrize("fault", [(RuntimeError, "at the end"), (Picky, "one", "two"), (type("Local", (Exception,), {}), "z")])
def test_what_a_worker_met_is_told_where_it_is_raised_again(fault):
    """Sent to another process, an error loses its causes and its place, and some cannot be sent."""
    here = attempt(lambda: chained(*fault))
    there = pickle.loads(pickle.dumps(here))
    said = unexpected(met(lambda: (_ for _ in ()).throw(there)))
    assert said.startswith(f"internal error: {fault[0].__name__} at test_causes.py:") and "(first cause: KeyError" in said
    assert any("Traceback (most recent call last)" in note for note in there.__notes__)


def test_the_cause_of_a_refusal_is_shown_where_it_is_asked_for(monkeypatch, capsys):
    def fail():
        raise RequestError("refused") from KeyError("the cause")

    monkeypatch.setattr("harness.cli.doctor.doctor", fail)
    monkeypatch.setenv("PRUNESCOPE_DEBUG", "1")
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "KeyError: 'the cause'" in said and said.strip().endswith("error: refused")
