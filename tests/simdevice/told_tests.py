"""A plug-in of pytest for the process with devices: it runs the tests that it is told of, one by one, and tells their reports."""

from __future__ import annotations

import json
import os
from typing import IO

ENDS = [int(end) for end in os.environ["PRUNESCOPE_TOLD_TESTS"].split(",")]
TOLD: IO[str] = os.fdopen(ENDS[1], "w")


def pytest_runtestloop(session) -> bool:
    items = {item.nodeid: item for item in session.items}
    with os.fdopen(ENDS[0]) as asks:
        for line in asks:
            name, then = json.loads(line)
            item = items[name]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=items.get(then))
            print("null", file=TOLD, flush=True)
    return True


def pytest_runtest_logreport(report) -> None:
    data = report._to_json() | {"$report_type": "TestReport"}
    print(json.dumps(data, default=str), file=TOLD, flush=True)
