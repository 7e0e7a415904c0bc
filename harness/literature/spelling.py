"""Names of methods and benchmarks as tables write them: ours where we have one, else those of papers in small letters."""

from __future__ import annotations

import re
from functools import cache

from harness.tasks.registry import BENCHMARKS
from methods.registry import BUNDLED

METHODS = {
    "pdrop": "pyramiddrop", "llavaprumerge": "prumerge", "prumergeplus": "prumerge", "sparsellava": "sparsevlm",
    "vanilla": "none", "upperbound": "none", "dense": "none",
}  # fmt: skip
"""What papers call a method, in letters and digits alone -> our name."""
TASKS = {
    "sqa": "scienceqa", "sqaimg": "scienceqa", "mmb": "mmbench", "mmbenchen": "mmbench", "seed": "seedbench",
    "vqatext": "textvqa", "vqav2testdev": "vqav2", "ocrb": "ocrbench",
}  # fmt: skip
"""What papers call a benchmark, in letters and digits alone -> our name."""


@cache
def our_method(name: str) -> str:
    """Return the name under which a table holds a method, for any spelling of it.

    >>> our_method("FastV"), our_method("PDrop"), our_method("Brand-New"), our_method("sts")
    ('fastv', 'pyramiddrop', 'brand-new', 'sts')
    """
    return ({_letters(one): one for one in BUNDLED} | METHODS).get(_letters(name), name.lower())


@cache
def our_task(name: str) -> str:
    """Return the name under which a table holds a benchmark, for any spelling of it; files keep their names.

    >>> our_task("POPE"), our_task("SQA-IMG"), our_task("MM-Vet"), our_task("Mine.jsonl")
    ('pope', 'scienceqa', 'mm-vet', 'Mine.jsonl')
    """
    if set(name) & set("./["):
        return name
    return ({_letters(one): one for one in BENCHMARKS} | TASKS).get(_letters(name), name.lower())


def _letters(name: str) -> str:
    """A name in small letters and digits alone, by which spellings of one name are told."""
    return re.sub("[^a-z0-9]", "", name.lower())
