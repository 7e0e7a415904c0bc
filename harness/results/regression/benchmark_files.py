"""The command `regress` on two files of pytest-benchmark: medians, divided by that of a floor benchmark where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import RequestError
from harness.files import read_json
from harness.results.regression.judging import VerdictMaker
from harness.results.regression.thresholds import Thresholds, default_thresholds
from harness.store.verdicts import Comparison, Verdict


@dataclass(frozen=True)
class BenchmarkTiming:
    """The timing of one benchmark of one file."""

    median: float  # seconds
    floor: float | None  # seconds: the median of what it cannot be faster than, timed in the same rounds
    rounds: int

    @property
    def ratio(self) -> float | None:
        """The median over its floor; None without a floor."""
        return None if self.floor is None else self.median / self.floor


def regress_benchmarks(baseline: Path, candidate: Path, thresholds: Thresholds | None = None) -> Comparison:
    """Judge whether the benchmarks of a file are slower than those of another, by name.

    One with a floor (``extra_info["floor_ms"]``, milliseconds) compares by its ratio to it, on any machine; the others by
    their medians, on one machine alone.

    Args:
        baseline: a file of ``pytest --benchmark-json``.
        candidate: another.
        thresholds: of which the table ``benchmarks`` decides; the defaults where not given.

    Returns:
        One verdict a benchmark, and ``exit_code`` 1 where any failed.

    Raises:
        RequestError: where a file cannot be read or holds no benchmarks.
    """
    thresholds = thresholds or default_thresholds()
    (before, machine), (after, other) = _read(baseline), _read(candidate)
    verdicts: list[Verdict] = []
    for name in dict.fromkeys((*before, *after)):
        if name not in after:
            verdicts.append(Verdict("vanished", name, thresholds.status("vanished"), "the candidate has no such benchmark"))
        elif name not in before:
            verdicts.append(Verdict("new", name, "noted", "the baseline has no such benchmark"))
        else:
            verdicts.append(_compare(name, before[name], after[name], machine == other, thresholds))
    notes = () if machine == other else (f"The machines differ ({machine} and {other}): medians without a floor are not judged.",)
    facts = (("Benchmarks", str(len(after))), ("Machine", machine if machine == other else f"{machine} → {other}"))
    return Comparison(str(baseline), str(candidate), tuple(verdicts), facts, notes)


def _compare(name: str, before: BenchmarkTiming, after: BenchmarkTiming, same_machine: bool, thresholds: Thresholds) -> Verdict:
    rule = thresholds.benchmarks
    if before.ratio is not None and after.ratio is not None:
        values = before.ratio, after.ratio
        make = VerdictMaker("benchmarks", name, values, "times its floor", "ratio")
        told = f"{values[0]:.2f} → {values[1]:.2f} times its floor"
    else:
        values = before.median * 1e3, after.median * 1e3
        make = VerdictMaker("benchmarks", name, values, "median", "milliseconds")
        told = f"median {values[0]:.4g} → {values[1]:.4g} ms"
        if not same_machine:
            return make("not judged", f"{told}, on different machines and without a floor")
    rounds = min(before.rounds, after.rounds)
    if rounds < rule.min_rounds:
        return make("not judged", f"{told}; {rounds} rounds are fewer than {rule.min_rounds}")
    change = values[1] / values[0] - 1 if values[0] > 0 else 0.0
    if change > rule.tolerance:
        return make(
            thresholds.status("benchmarks"), f"{told}, {100 * change:.0f} % slower; {100 * rule.tolerance:g} % are tolerated"
        )
    return make("passed", told)


def _read(path: Path) -> tuple[dict[str, BenchmarkTiming], str]:
    """Benchmarks by full name, and the machine."""
    try:
        content, found = read_json(path), {}
        for entry in content["benchmarks"]:
            floor, stats = (entry.get("extra_info") or {}).get("floor_ms"), entry["stats"]
            floor = floor / 1e3 if isinstance(floor, (int, float)) and floor > 0 else None
            found[str(entry["fullname"])] = BenchmarkTiming(float(stats["median"]), floor, int(stats["rounds"]))
        machine = content.get("machine_info") or {}
        cpu = machine.get("cpu") or {}
        return found, ", ".join(str(part) for part in (machine.get("node"), cpu.get("brand_raw")) if part) or "unknown"
    except RequestError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise RequestError(f"{path}: is no file of pytest-benchmark; write one with pytest --benchmark-json=FILE") from None
