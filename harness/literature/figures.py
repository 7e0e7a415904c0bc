"""A published figure: a method's value on a model and a task, and everything one must know to hold a run against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from methods.keep import Keep

UNKNOWN = "unknown"
"""What a field holds where the source does not say. It is shown as it is, and nothing takes its place."""
ORIGINS = ("rerun", "copied", UNKNOWN)
"""Where a value comes from: whoever prints it ran the code, or took the value from another paper."""
COUNTS = ("every", "average", "final", UNKNOWN)
"""What a budget counts: the tokens of every LLM layer alike (a method that prunes before the LLM), the mean over its layers, or
its last layer."""
PROMPTS = ("LLaVA", "LLaVA, OCR tokens", "lmms-eval", "lmms-eval, OCR tokens", "VLMEvalKit", "prunescope", UNKNOWN)
"""Whose evaluation put the questions: that of LLaVA's repository or lmms-eval (of TextVQA with the tokens of an OCR in the prompt
or without), VLMEvalKit, or ours."""
METRICS: Mapping[str, float] = {
    "accuracy": 100.0, "F1": 100.0, "F1 by category": 100.0, "F1 pooled or by category": 100.0,
    "MME total": 2800.0, "MME perception": 2000.0, "MME cognition": 800.0,
    "circular accuracy": 100.0, "VQA accuracy": 100.0, "relaxed accuracy": 100.0, "ANLS": 100.0, "OCRBench total": 1000.0,
    "accuracy at IoU 0.5": 100.0, "judged score": 100.0,
}  # fmt: skip
"""What a perfect model reaches, by the metric's name: the names that our tasks give their own figures, and others of papers. F1
is that of all questions together, as lmms-eval has it; F1 by category is the mean of the F1 of POPE's three categories."""
OPEN_METRICS: Mapping[str, tuple[str, ...]] = {"F1 pooled or by category": ("F1", "F1 by category")}
"""Names of metrics of which the source leaves open which one it is -> those that it may be."""


def metrics_apart(one: str, other: str) -> bool:
    """Tell whether two metrics are known to differ: a name of `OPEN_METRICS` differs from none of those that it may be.

    >>> metrics_apart("F1", "accuracy"), metrics_apart("F1", "F1 by category"), metrics_apart("F1", "unknown")
    (True, True, False)
    >>> metrics_apart("F1", "F1 pooled or by category"), metrics_apart("accuracy", "F1 pooled or by category")
    (False, True)
    """
    may_be = [set(OPEN_METRICS.get(metric, (metric,))) for metric in (one, other)]
    return UNKNOWN not in (one, other) and not may_be[0] & may_be[1]


@dataclass(frozen=True)
class PublishedFigure:
    """One printed value, with what its source says of how it was measured; any field may be ``unknown``."""

    method: str  # our name where we have the method, else the paper's in small letters; "none" is the unpruned model
    version: str  # of the method, as the source tells it: "2", "code at 1a2b3c4", "rule=code,alpha=0.5"
    model: str  # hub id in the form that transformers loads, such as llava-hf/llava-1.5-7b-hf
    task: str  # our name where we have the task, else the benchmark's in small letters
    metric: str  # a name of `METRICS`
    split: str  # of the data, as the hub calls it where it is there
    tokens: str  # visual tokens of an image before pruning: 576; a source that sets no size of images leaves them unknown
    keep: str  # as --keep takes it, "192" or "33.3%"; "all" of the unpruned model
    counts: str  # one of `COUNTS`: what the budget counts
    prompt: str  # one of `PROMPTS`: whose evaluation put the questions
    value: str  # as printed, so that its digits say how it was rounded; percent, or points of a metric of another scale
    source: str  # where it is printed: "arXiv:2606.01711 table 1"
    origin: str  # one of `ORIGINS`
    table: str = ""  # the name of the table that holds it, which the file's name gives
    line: int = 0  # of the table's file
    expression: str = ""  # with which `reproduce` repeats the method, where its table settles more than the name

    @property
    def number(self) -> float | None:
        """The value as a number; None where it is unknown."""
        return None if self.value == UNKNOWN else float(self.value)

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit: the exact value lies that far from the printed one at the most."""
        exponent = Decimal(self.value).as_tuple().exponent if self.value != UNKNOWN else 0
        return 0.5 * 10.0 ** int(exponent)

    @property
    def budget(self) -> Keep | None:
        """The budget as a request takes it; None of the unpruned model, and where it is unknown."""
        return None if self.keep in ("all", UNKNOWN) else Keep.parse(self.keep)

    @property
    def scale(self) -> float | None:
        """What a perfect model reaches; None where the metric is unknown."""
        return METRICS.get(self.metric)
