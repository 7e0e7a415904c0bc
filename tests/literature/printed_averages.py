"""Averages that the sources of our tables print, read from the same texts: what their figures must give again."""

from collections.abc import Iterator
from dataclasses import dataclass

TEXT = {
    "restore-llava-1.5-7b": """
        192 fastv 96.0 pyramiddrop 96.8 sparsevlm 98.1 tome 96.9 visionzip 96.8 divprune 96.9 vispruner 97.5 holov 96.5
        128 fastv 91.8 pyramiddrop 84.5 sparsevlm 97.2 tome 95.1 visionzip 95.6 divprune 96.3 vispruner 96.3 holov 95.5
        64 fastv 75.2 pyramiddrop 80.9 sparsevlm 90.6 tome 91.6 visionzip 93.0 divprune 93.8 vispruner 92.8 holov 92.2""",
    "eadp-llava-1.5-7b": """
        all none 64.9
        128 fastv 59.1 pyramiddrop 61.0 sparsevlm 62.1 prumerge 61.8 trim 61.7 visionzip 62.5 dart 62.0 divprune 62.5
        128 cdpruner 63.2 hiprune 61.9
        64 fastv 47.3 pyramiddrop 47.0 sparsevlm 55.8 prumerge 58.7 trim 59.9 visionzip 60.3 dart 59.2 divprune 60.9
        64 cdpruner 61.9 hiprune 57.9
        32 prumerge 54.5 trim 56.0 visionzip 56.0 dart 56.7 divprune 58.4 cdpruner 60.4""",
    "coreprune-llava-1.5-7b": """
        128 fastv 94.7 sparsevlm 95.8 visionzip 97.9 dart 97.2 divprune 97.3 cdpruner 97.9 prunesid 96.5 mmtok 97.9
        64 fastv 87.4 sparsevlm 90.5 visionzip 94.9 dart 93.0 divprune 94.8 cdpruner 96.0 prunesid 94.2 mmtok 95.7
        32 fastv 74.5 visionzip 88.5 dart 87.0 divprune 91.4 cdpruner 93.9 prunesid 91.1 mmtok 93.4""",
    "v2drop-llava-1.5-7b": """
        192 tome 88.8 fastv 88.2 hired 93.6 prumerge 90.3 sparsevlm 95.9 pyramiddrop 96.0 v2drop 97.6
        128 tome 80.4 fastv 81.7 hired 91.6 prumerge 87.9 sparsevlm 93.2 pyramiddrop 93.6 v2drop 94.0
        64 tome 69.7 fastv 71.3 prumerge 86.5 sparsevlm 86.5 pyramiddrop 70.1 v2drop 86.9""",
    "dart-llava-1.5-7b": "192 fastv 91.2 hired 91.5 sparsevlm 96.3",
    "pio-fvlm-llava-1.5-7b": """
        192 fastv 89.0 pyramiddrop 96.2 sparsevlm 97.2 dart 98.3 visionzip 97.8 holov 98.7~98.8 scope 98.3~98.4
        128 fastv 83.2 pyramiddrop 94.0 sparsevlm 95.6 dart 97.0~97.1 visionzip 96.4 holov 97.2 scope 97.5~97.6
        64 fastv 74.0~73.6 pyramiddrop 74.4 sparsevlm 90.6 dart 92.8 visionzip 93.0~93.1 holov 94.4 scope 95.4~95.5""",
    "sparsevlm-llava-1.5-7b": """
        192 tome 88.9 fastv 87.9 pyramiddrop 95.9 sparsevlm 99.1
        128 tome 81.9~81.8 fastv 82.4 pyramiddrop 94.3~94.2 sparsevlm 96.7~96.6
        64 tome 71.1 fastv 72.0 pyramiddrop 73.4 sparsevlm 89.3""",
    "holov-llava-1.5-7b": """
        192 fastv 90.5 mustdrop 97.2 prumerge 91.4 pyramiddrop 96.7~96.9 hired 94.6 visionzip 98.1~98.7 sparsevlm 96.1
        192 dart 98.5 holov 99.2~99.1
        128 fastv 85.4 mustdrop 95.7 prumerge 89.4 pyramiddrop 94.9 hired 93.1 visionzip 97.2~97.7 sparsevlm 93.8
        128 dart 97.5~97.6 holov 98.0~97.9
        64 fastv 76.7 mustdrop 90.1 prumerge 87.7~87.8 pyramiddrop 77.5~77.4 hired 89.4 visionzip 94.5 sparsevlm 87.3
        64 dart 93.9~94.0 holov 95.8~95.7""",
    "mmtok-llava-1.5-7b": """
        192 fastv 89.6 sparsevlm 95.5 visionzip 97.9 divprune 98.0 mmtok 98.7
        128 fastv 84.4~84.5 sparsevlm 92.9~93.0 visionzip 96.8 divprune 96.9 mmtok 97.8
        64 fastv 75.6~75.5 sparsevlm 86.9~87.0 visionzip 93.2~93.1 divprune 94.8 mmtok 96.6""",
    "flowcut-llava-1.5-7b": """
        192 tome 88.7 fastv 89.4 sparsevlm 96.6 pyramiddrop 96.7 visionzip 98.5 flowcut 100.2
        128 tome 81.8 fastv 85.9 sparsevlm 93.8~93.7 pyramiddrop 95.1 visionzip 97.2 flowcut 98.5
        64 tome 71.4 fastv 77.5 sparsevlm 84.6~86.0 pyramiddrop 86.1 visionzip 94.4 flowcut 96.0""",
    "nuwa-llava-1.5-7b": """
        192 fastv 89.53 pyramiddrop 95.7~95.9 visionzip 98.26
        128 fastv 85.04
        64 fastv 79.36~77.64 pyramiddrop 71.56""",
}
"""By table: a budget, then methods and their averages; ``printed~given`` where the source's own figures give another."""


@dataclass(frozen=True)
class Average:
    """A printed average of a table's row, and what the row's figures give."""

    table: str
    method: str
    keep: str
    printed: str
    given: str


def averages() -> Iterator[Average]:
    """Yield all averages of `TEXT`, in its order."""
    for table, text in TEXT.items():
        for line in text.strip().splitlines():
            keep, *words = line.split()
            for method, value in zip(words[::2], words[1::2], strict=True):
                printed, _, given = value.partition("~")
                yield Average(table, method, keep, printed, given or printed)
