"""What ends a command, and how: exit 1 says that a gate failed, and nothing else does."""

from __future__ import annotations

import pytest

from harness.cli import app as cli
from harness.errors import unexpected


@pytest.fixture
def ended(capsys, monkeypatch):
    """Run ``doctor`` with a fault in it."""

    def run(fault: BaseException) -> tuple[int, str, str]:
        def fail():
            raise fault

        monkeypatch.setattr("harness.cli.doctor.doctor", fail)
        with pytest.raises(SystemExit) as end:
            cli.main(["doctor"])
        said = capsys.readouterr()
        return end.value.code, said.out, said.err

    return run


@pytest.mark.parametrize(
    "fault", [TypeError("no\nway"), KeyError("x"), RuntimeError(""), MemoryError(), AssertionError(), RecursionError()]
)
def test_a_fault_of_ours_is_70_in_two_lines(fault, ended, monkeypatch):
    monkeypatch.delenv("PRUNESCOPE_DEBUG", raising=False)
    code, out, err = ended(fault)
    first, second = err.strip().splitlines()
    assert code == 70 and out == "" and first.startswith(f"internal error: {type(fault).__name__}")
    assert "PRUNESCOPE_DEBUG=1" in second and "Traceback" not in err


def test_its_traceback_is_shown_where_it_is_asked_for(ended, monkeypatch):
    monkeypatch.setenv("PRUNESCOPE_DEBUG", "1")
    code, _, err = ended(TypeError("no way"))
    assert code == 70 and "Traceback (most recent call last)" in err and "TypeError: no way" in err


def test_an_interruption_is_130(ended):
    code, out, err = ended(KeyboardInterrupt())
    assert code == 130 and out == "" and err.startswith("interrupted") and len(err.strip().splitlines()) == 1


def test_an_interrupted_comparison_says_how_to_go_on(capsys, monkeypatch, tmp_path):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.run.comparison.execute", interrupted)
    with pytest.raises(SystemExit) as end:
        cli.main(["compare", "--methods", "grid", "--samples", "1", "--out", str(tmp_path / "r")])
    said = capsys.readouterr().err
    assert end.value.code == 130 and f"--out {tmp_path / 'r'} --resume" in said and len(said.strip().splitlines()) == 1


def test_where_an_error_came_from():
    from harness.run.config import CompareConfig

    try:
        CompareConfig(samples="x").checked()
    except TypeError as error:
        said = unexpected(error)
    assert said.startswith("internal error: TypeError at config.py:") and len(said.splitlines()) == 1
