"""Known vulnerabilities of the installed packages, by pip-audit; where its service gives no answers, that is said as exit 3.

Run as ``python tests/security/audit.py``, with what pip-audit takes. A mirror of PyPI that knows no vulnerabilities makes
pip-audit leave every package out and report that none is vulnerable; here that counts as no answer.
"""

from __future__ import annotations

import json
import subprocess
import sys

UNANSWERED = 3
LEAST = 0.5  # of the packages from an index, that must have been looked up


def audit(words: list[str], command: tuple[str, ...] = (sys.executable, "-m", "pip_audit")) -> int:
    """The exit code: 0 nothing is known, 1 something is, 2 pip-audit was called wrongly, 3 nothing could be asked."""
    given = ["--format", "json", "--progress-spinner", "off", "--timeout", "10", "--skip-editable", *words]
    done = subprocess.run([*command, *given], capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:160]
        usage = done.stderr.startswith("usage:")
        print(f"audit: {last}" if usage else f"audit: nothing was checked, the service gave no answer ({last})", file=sys.stderr)
        return 2 if usage else UNANSWERED
    asked = [one for one in packages if "skip_reason" not in one]
    found = [(one, hole) for one in asked for hole in one["vulns"]]
    for one, hole in found:
        fixed = ", ".join(hole.get("fix_versions") or ["no version"])
        print(f"{one['name']} {one['version']}: {hole['id']}, fixed in {fixed}")
    print(f"{len(found)} known vulnerabilities in {len(asked)} packages; {len(packages) - len(asked)} could not be looked up")
    if found:
        return 1
    if len(asked) < LEAST * len(packages):
        print("audit: too few packages could be looked up to call this an answer", file=sys.stderr)
        return UNANSWERED
    return 0


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1:]))
