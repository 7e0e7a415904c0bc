"""Two files of pytest-benchmark: ratios to a floor on any machine, medians on one machine alone."""

import json
from pathlib import Path

import pytest

from harness.cli import app as cli


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def benchmarks(path: Path, medians: dict, floor: float | None = None, rounds: int = 25, node: str = "here") -> Path:
    extra = {} if floor is None else {"floor_ms": floor * 1e3}
    listed = [{"fullname": n, "stats": {"median": m, "rounds": rounds}, "extra_info": extra} for n, m in medians.items()]
    path.write_text(json.dumps({"machine_info": {"node": node, "cpu": {"brand_raw": "a cpu"}}, "benchmarks": listed}))
    return path


def test_files_of_benchmarks(capsys, tmp_path):
    base = benchmarks(tmp_path / "a.json", {"x": 0.010, "y": 0.020, "gone": 1.0}, 0.005)
    slow = benchmarks(tmp_path / "b.json", {"x": 0.030, "y": 0.040, "fresh": 1.0}, 0.010, node="there")
    code, out, _ = run(capsys, "regress", base, slow, "--json")
    found = {(v["rule"], v["cell"]): v for v in json.loads(out)["verdicts"]}
    assert code == 1 and found["benchmarks", "x"]["status"] == "failed"  # 2 times its floor, now 3
    assert found["benchmarks", "y"]["status"] == "passed"  # a slower machine: 4 times its floor, and 4
    assert found["vanished", "gone"]["status"] == "failed" and found["new", "fresh"]["status"] == "noted"
    bare = [benchmarks(tmp_path / f"{i}.json", {"x": m}, node=node) for i, (m, node) in enumerate([(1, "a"), (2, "a"), (2, "b")])]
    assert run(capsys, "regress", bare[0], bare[1])[0] == 1
    code, out, _ = run(capsys, "regress", bare[0], bare[2])
    assert code == 0 and "different machines" in out
    code, out, _ = run(capsys, "regress", bare[0], benchmarks(tmp_path / "few.json", {"x": 2}, rounds=3, node="a"))
    assert code == 0 and "3 rounds are fewer than 5" in out
    (tmp_path / "wrong.json").write_text('{"benchmarks": [{}]}')
    for name, message in (("wrong.json", "no file of pytest-benchmark"), ("none.json", "cannot be read")):
        code, _, err = run(capsys, "regress", base, tmp_path / name)
        assert code == 2 and message in err
