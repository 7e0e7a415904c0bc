"""What the parts of a machine's check found, as the command prints it and as JSON holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any


@dataclass
class PartFindings:
    """What one part of the check found."""

    name: str
    compared_with: str  # what this machine was held against, for a reader
    differences: list[str] = field(default_factory=list)  # one line each; any of them is a fault
    ties: list[str] = field(default_factory=list)  # near ties that rounding decided otherwise
    said: list[str] = field(default_factory=list)  # what else a reader should know
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class MachineFindings:
    """What all parts of the check found, and on what."""

    device: str
    machine: dict[str, Any]
    reference: dict[str, Any]  # the log of the stored results
    parts: list[PartFindings]
    seconds: float

    @property
    def differences(self) -> list[str]:
        """All differences, each with the part that found it."""
        return [f"{part.name}: {line}" for part in self.parts for line in part.differences]

    @property
    def ties(self) -> int:
        """How many choices and answers were near ties that rounding decided otherwise."""
        return sum(len(part.ties) for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON holds it; a number that is not finite is None."""
        outcome = "different" if self.differences else "equal"
        whole: dict[str, Any] = _finite(asdict(self))
        return {"outcome": outcome, "differences": self.differences, "ties": self.ties, **whole}

    def as_text(self) -> str:
        """Return what a terminal shows: every part with its lines, and at the end the outcome."""
        lines = [f"device     {self.device}", *(f"{name:<10} {value}" for name, value in self.machine.items())]
        log = self.reference
        lines.append(f"reference  {log['date']}, {log['processor']}, {log['device']}, torch {log['versions']['torch']}")
        for part in self.parts:
            state = f"{len(part.differences)} differ" if part.differences else "equal" if part.compared_with else "told"
            against = f" with {part.compared_with}" if part.compared_with else ""
            tied = f", {_count(len(part.ties), 'near tie')}" if part.ties else ""
            lines.append(f"\n{part.name}: {state}{against}{tied} ({part.seconds:.1f} s)")
            lines += [f"  different: {line}" for line in part.differences]
            lines += [f"  near tie: {line}" for line in part.ties[:_SHOWN]]
            if len(part.ties) > _SHOWN:
                lines.append(f"  and {len(part.ties) - _SHOWN} near ties more (--json lists them)")
            lines += [f"  {line}" for line in part.said]
        count, tied = len(self.differences), _count(self.ties, "near tie")
        said = f"different: {_count(count, 'line')} above, beside {tied}" if count else f"equal, {tied}"
        return "\n".join([*lines, "", f"{said} ({self.seconds:.0f} s)"])


_SHOWN = 5


def _finite(value: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON has not; the line of a difference tells of them."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
