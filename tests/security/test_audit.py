"""The audit says what it found, and does not take silence for an answer."""

from __future__ import annotations

import json
import sys

import pytest

from tests.security.audit import audit

SOUND = {"name": "a", "version": "1", "vulns": []}
HOLED = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found on PyPI"}


def answering(out: str, err: str = "", code: int = 0) -> tuple[str, ...]:
    return sys.executable, "-c", f"import sys; print({out!r}); print({err!r}, file=sys.stderr); sys.exit({code})"


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([SOUND, SOUND], 0, "0 known vulnerabilities in 2 packages; 0 could"),
        ([SOUND, HOLED], 1, "b 2: CVE-1, fixed in 3"),
        ([SKIPPED, SKIPPED, HOLED], 1, "CVE-1"),
        ([SKIPPED, SKIPPED, SOUND], 3, "2 could not be looked up"),
        ([SKIPPED], 3, "in 0 packages"),
    ],
)
def test_what_it_found(packages, code, said, capsys):
    assert audit([], answering(json.dumps({"dependencies": packages}))) == code
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("err", "code"), [("usage: pip-audit [-h]\nunrecognised", 2), ("requests.exceptions.ConnectionError: refused", 3), ("", 3)]
)
def test_without_an_answer(err, code, capsys):
    assert audit([], answering("", err, 1)) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
