"""From how much on a change is a regression: one TOML table a rule, the defaults in ``thresholds.toml`` beside this file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from harness.errors import RequestError, nearest
from harness.files import read_toml
from harness.results.types import JsonObject
from harness.store.verdicts import Status

DEFAULTS = Path(__file__).with_name("thresholds.toml")
"""The file with the default of every threshold, and what each means."""


@dataclass(frozen=True)
class Rule:
    """The thresholds that every rule has."""

    judge: bool  # whether a finding fails the gate, or is reported alone


@dataclass(frozen=True)
class AccuracyRule(Rule):
    """Thresholds for a drop of accuracy."""

    tolerance: float  # share
    level: float  # family-wise, over all cells


@dataclass(frozen=True)
class ScheduleRule(Rule):
    """Thresholds for the number of visual tokens at every layer."""

    adaptive: float  # relative change of the mean, of methods that count by the image


@dataclass(frozen=True)
class FlopsRule(Rule):
    """Thresholds for FLOPs."""

    other_questions: float  # relative change, where the runs asked other questions


@dataclass(frozen=True)
class LatencyRule(Rule):
    """Thresholds for the speed-up of time to first token over `none`."""

    tolerance: float  # relative loss
    level: float  # family-wise, over all cells


@dataclass(frozen=True)
class DiversityRule(Rule):
    """Thresholds for the diversity of the kept tokens."""

    figures: tuple[str, ...]  # names of `metrics.figures.FIGURES`
    tolerance: float  # relative
    level: float  # family-wise, over all cells and figures


@dataclass(frozen=True)
class DriftRule(Rule):
    """Thresholds for the kept tokens on the same questions."""

    jaccard: float  # mean Jaccard index that is asked at least


@dataclass(frozen=True)
class FailuresRule(Rule):
    """Thresholds for the samples that failed."""

    tolerance: float  # share


@dataclass(frozen=True)
class BenchmarksRule(Rule):
    """Thresholds for the medians of pytest-benchmark."""

    tolerance: float  # relative
    min_rounds: int


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of all rules; the names are the tables of the file."""

    accuracy: AccuracyRule
    schedule: ScheduleRule
    flops: FlopsRule
    kv_bytes: Rule
    latency: LatencyRule
    diversity: DiversityRule
    drift: DriftRule
    failures: FailuresRule
    vanished: Rule
    skipped: Rule
    benchmarks: BenchmarksRule

    def judges(self, rule: str) -> bool:
        """Return whether a rule may fail the gate; a name that is no rule may not."""
        known: Rule = getattr(self, rule, Rule(False))
        return known.judge

    def status(self, rule: str) -> Status:
        """Return the status of a finding: ``failed``, or ``noted`` of a rule that does not judge."""
        return "failed" if self.judges(rule) else "noted"


@cache
def default_thresholds() -> Thresholds:
    """Return the thresholds of the file `DEFAULTS`."""
    return _checked(DEFAULTS, tomllib.loads(DEFAULTS.read_text("utf-8")))


def read_thresholds(path: Path | None = None) -> Thresholds:
    """Return the default thresholds, changed by what a file says.

    Args:
        path: a TOML file that holds some of the tables and keys of ``thresholds.toml``; None for the defaults.

    Raises:
        RequestError: where it cannot be read, or holds an unknown name, a wrong type or a value out of range.
    """
    if path is None:
        return default_thresholds()
    content = read_toml(f"--thresholds {path}", path)
    return _checked(path, content, tomllib.loads(DEFAULTS.read_text("utf-8")))


def _checked(path: Path, content: JsonObject, defaults: JsonObject | None = None) -> Thresholds:
    kinds = get_type_hints(Thresholds)
    for table, values in content.items():
        if table not in kinds:
            raise RequestError(f"--thresholds {path}: unknown table [{table}]; {nearest(table, kinds)}")
        if not isinstance(values, dict):
            raise RequestError(f"--thresholds {path}: {table} = {values!r} must be a table, such as [{table}]")
        known = [f.name for f in fields(kinds[table])]
        for key in values:
            if key not in known:
                raise RequestError(f"--thresholds {path}: unknown key {key!r} in [{table}]; {nearest(key, known)}")
    made: JsonObject = {}
    for table, kind in kinds.items():
        given = {**(defaults or {}).get(table, {}), **content.get(table, {})}
        types = get_type_hints(kind)
        made[table] = kind(**{key: _value(path, table, key, value, types[key]) for key, value in given.items()})
    return Thresholds(**made)


def _value(path: Path, table: str, key: str, value: Any, kind: Any) -> Any:
    """A value of the file in the type of its field, or `RequestError`."""
    where = f"--thresholds {path}: {key} = {value!r} in [{table}] must be"
    if kind is bool:
        if not isinstance(value, bool):
            raise RequestError(f"{where} true or false")
        return value
    if key == "figures":
        from metrics.figures import FIGURES

        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise RequestError(f"{where} a list of names, such as ['effective_rank']")
        for name in value:
            if name not in FIGURES:
                raise RequestError(f"--thresholds {path}: unknown figure {name!r} in [{table}]; {nearest(name, FIGURES)}")
        return tuple(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError(f"{where} a number")
    if not 0 <= value < float("inf"):
        raise RequestError(f"{where} 0 or more, and finite")
    if kind is int:
        if value != int(value) or value < 1:
            raise RequestError(f"{where} a whole number, 1 or more")
        return int(value)
    if key == "level" and not 0 < value < 1:
        raise RequestError(f"{where} between 0 and 1, such as 0.0005")
    if key == "jaccard" and not 0 <= value <= 1:
        raise RequestError(f"{where} between 0 and 1, such as 0.9")
    return float(value)
