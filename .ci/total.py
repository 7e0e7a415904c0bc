"""Print what the closing lines of pytest's logs sum up to, alone on a line; fail where a log has none or tells of a failure."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

CLOSING = re.compile(r"^=+ (?P<counts>.*(?:passed|failed|error|skipped|no tests ran).*) in [\d.]+s.* =+$", re.MULTILINE)
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


def counts(log: str) -> dict[str, int] | None:
    """Return how many tests passed, failed (errors among them) and were skipped; None where pytest did not come to its end."""
    lines = [found["counts"] for found in CLOSING.finditer(re.sub(r"\x1b\[[\d;]*m", "", log))]
    if not lines:
        return None
    told = {"passed": 0, "failed": 0, "skipped": 0}
    for number, what in COUNT.findall(lines[-1]):
        told["failed" if what.startswith("error") else what] += int(number)
    return told


def main(paths: Iterable[str]) -> int:
    """Print the sum over logs and return the exit code."""
    told = [counts(Path(path).read_text(errors="replace")) if Path(path).exists() else None for path in paths]
    whole = {name: sum(one[name] for one in told if one) for name in ("passed", "failed", "skipped")}
    whole["failed"] += sum(one is None for one in told)  # a stage that broke off is a failure
    print(f"{whole['passed']} passed, {whole['failed']} failed, {whole['skipped']} skipped")
    return int(whole["failed"] > 0 or not whole["passed"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
