"""The golden files of tests/data/goldens: inputs from seeded generators, outputs of the authors' own code, and how we compare.

``expressions.tsv`` there says which expression ``harness select`` must understand for each file, how many tokens it keeps, and by
which rule the result is compared.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from methods.expressions import parse
from methods.registry import entries
from methods.similarity import cosine
from methods.types import Signals
from methods.vispruner import thin

GOLDENS = Path(__file__).parent.parent / "data" / "goldens"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """A row of ``expressions.tsv``.

    Args:
        files: the first part of the names of the files that it speaks of.
        expression: of the method; ``{out_name}`` stands for a number that the file holds.
        keep: ``k``, the count in the file's name; or the name of an output, its value or, of several values, their number.
        rule: by which the result is compared, see `compare`.
    """

    files: str
    expression: str
    keep: str
    rule: str

    def paths(self) -> list[Path]:
        """Return the row's files, by name."""
        return paths(self.files)

    def filled(self, path: Path) -> str:
        """Return the expression with the numbers of a file in it."""
        golden = outputs(path)
        return re.sub(r"\{out_(\w+)\}", lambda found: repr(golden[found[1]].item()), self.expression)

    def count(self, path: Path) -> int:
        """Return how many tokens are asked for on a file."""
        if self.keep == "k":
            return named(path)["k"]
        value = outputs(path)[self.keep.removeprefix("out_")]
        return int(value) if value.ndim == 0 else len(value)


STRICTER = dict.fromkeys(
    (
        "prumerge",
        "prumerge-adaptivep1",
        "prumerge-adaptivep2",
        "trim",
        "trim-adaptive",
        "vscan",
        "vscan-nocls",
        "apet",
        "apet-llm",
    ),
    "rows",
)
"""Files that hold the tokens in the order in which the LLM gets them: these are compared by more than the table asks for."""


def rows() -> list[Row]:
    """Return the rows of ``expressions.tsv``, some of them with a stricter rule."""
    with (GOLDENS / "expressions.tsv").open() as file:
        made = [Row(**row) for row in csv.DictReader(file, delimiter="\t")]
    return [replace(row, rule=STRICTER.get(row.files, row.rule)) for row in made]


def paths(files: str) -> list[Path]:
    """Return the files whose names begin with a method and variant, such as ``visionzip`` or ``hiprune-a1``, by name."""
    return sorted(path for path in GOLDENS.glob(f"{files}_*.npz") if path.stem.split("_")[0] == files)


def named(path: Path) -> dict[str, int]:
    """Return the figures in a file's name: ``n`` tokens, ``k`` kept, ``s`` seed."""
    return {part[0]: int(part[1:]) for part in path.stem.split("_")[2:]}


def outputs(path: Path) -> Arrays:
    """Return what the authors' code gave, by name without ``out_``."""
    with np.load(path) as data:
        return {key.removeprefix("out_"): data[key] for key in data.files if key.startswith("out_")}


def signals(path: Path) -> Signals:
    """Return a file's signals as a batch of one."""
    from harness.run.cases import read

    return read(path).signals


def compare(rule: str, golden: Arrays, got: Arrays) -> None:
    """Hold a selection against the authors'.

    ``sequence``: places in the same order. ``set``: the same places in any order. ``tokens``: the same places, and tokens
    equal to 1e-3 of their size or 1e-4. ``rows``: the same in the same order, as the LLM gets them. ``merged``: the same places,
    and behind them the same new tokens in any order. ``sources``: the same tokens made of the same inputs, in the order of their
    lowest. Index -1 stands for a token of no single place, or for CLS.

    Args:
        rule: one of the six.
        golden: what the authors' code gave, by name without ``out_``.
        got: what `harness select` wrote: ``kept``, and of a merger ``tokens``, ``sizes`` and ``source``.

    Raises:
        AssertionError: where they differ.
    """
    rules = {"sequence": _sequence, "set": _places, "tokens": _tokens, "rows": _rows, "merged": _merged, "sources": _sources}
    rules[rule](golden, got)


def _sequence(golden: Arrays, got: Arrays) -> None:
    assert got["kept"].tolist() == golden["kept"].tolist()


def _places(golden: Arrays, got: Arrays) -> None:
    """As sets. Where the authors' code fills places with zeros for want of tokens, theirs are among ours."""
    theirs, ours = placed(golden.get("kept", golden.get("dominant"))), placed(got["kept"])
    assert len(set(ours)) == len(ours), "a token is kept once"
    if missing := int(golden.get("missing", 0)):
        assert set(theirs) <= set(ours) and len(ours) == len(theirs) + missing
    else:
        assert set(ours) == set(theirs), f"{len(set(ours) & set(theirs))} of {len(theirs)} are the same"


def placed(kept: np.ndarray) -> list[int]:
    """Return the kept tokens that have a place, in the order kept."""
    return [place for place in kept.tolist() if place >= 0]


def same_start(order: np.ndarray, golden: Arrays) -> None:
    """Assert that a greedy selection goes the authors' way as long as their gains differ by more than rounding."""
    until = int(golden["same_order_until"])
    assert order[:until].tolist() == golden.get("order", golden["kept"])[:until].tolist()


def _tokens(golden: Arrays, got: Arrays) -> None:
    """Tokens by their places, then those of no place in the order given; VisionZip's as they stand, CLS first."""
    _places(golden, got)
    theirs, ours = golden["tokens"], got["tokens"]
    if "dominant" not in golden:
        order = np.argsort(golden["kept"], kind="stable")
        theirs = np.concatenate([theirs[: len(order)][order], theirs[len(order) :]])
        ours = ours[np.argsort(np.where(got["kept"] < 0, np.iinfo(np.int64).max, got["kept"]), kind="stable")]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def _rows(golden: Arrays, got: Arrays) -> None:
    """Places and tokens as they stand; tokens of no single place stand behind the others."""
    count = len(golden["kept"])
    assert got["kept"][:count].tolist() == golden["kept"].tolist() and (got["kept"][count:] == -1).all()
    np.testing.assert_allclose(got["tokens"], golden["tokens"], rtol=1e-3, atol=1e-4)


def _merged(golden: Arrays, got: Arrays) -> None:
    count = len(golden["kept"])
    _places(golden, {"kept": got["kept"][:count]})
    assert (got["kept"][count:] == -1).all()
    order = lambda tokens: tokens[np.lexsort(tokens.round(4).T)]
    np.testing.assert_allclose(order(got["tokens"][count:]), order(golden["merged"]), rtol=1e-3, atol=1e-4)


def _sources(golden: Arrays, got: Arrays) -> None:
    order = np.argsort(golden["source"].argmax(1))
    np.testing.assert_array_equal(got["source"], golden["source"][order].astype(bool))
    np.testing.assert_allclose(got["sizes"], golden["sizes"][order].ravel())
    np.testing.assert_allclose(got["tokens"], golden["tokens"][order], rtol=1e-3, atol=1e-4)


def same_but_for_equal_attention(given: Signals, golden: Arrays, got: Arrays) -> None:
    """Hold VisPruner's selection against the authors', whose plain sort leaves exactly equal attention to the processor.

    The order of attention decides how the rest is split. Where a file has equal attention, ours are the lower index first, and
    the authors' places must be those of one of the other orders, through our thinning.
    """
    keep, share, theirs = len(golden["kept"]), float(golden["important_ratio"]), set(golden["kept"].tolist())
    if set(got["kept"].tolist()) == theirs:
        return
    attention, first = given.cls_attention[0].mean(0), int(keep * share)
    order = attention.argsort(descending=True, stable=True)
    tied = (attention[order].diff() == 0).nonzero()[:, 0].tolist()
    assert 0 < len(tied) < 4, "without equal attention there is one order"
    found = []
    for swaps in product((False, True), repeat=len(tied)):
        trial = order.clone()
        for place, swap in zip(tied, swaps):
            if swap:
                trial[place : place + 2] = order[place : place + 2].flip(0)
        rest = thin(cosine(given.vision_features), trial[None, first:], keep - first)
        found.append({*trial[:first].tolist(), *rest[0].tolist()})
    assert theirs in found


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the Jaccard overlap of two kept sets: 1 where they are the same, 0 where they share nothing."""
    first, second = set(one.flatten().tolist()), set(other.flatten().tolist())
    return len(first & second) / len(first | second)


def held_golden(row: Row, path: Path, out: Path, device: str = "cpu") -> None:
    """Hold what `harness select` keeps of a golden file against the output of the authors' code.

    Args:
        row: of ``expressions.tsv``.
        path: the golden file.
        out: a folder to write to.
        device: where the selection runs.
    """
    from harness.errors import RequestError
    from harness.run.cases import select

    expression = row.filled(path)
    name = parse(expression)[0]
    if name not in entries():
        pytest.fail(f"expressions.tsv names {expression}, and no method {name} is registered")
    try:
        (written,) = select(expression, [path], row.count(path), out, device=device)
    except RequestError as error:
        pytest.fail(str(error))
    got, expected = dict(np.load(written)), outputs(path)
    if name == "vispruner":
        same_but_for_equal_attention(signals(path), expected, got)
        return
    compare(row.rule, expected, got)
    if "same_order_until" in expected and "order" not in expected:
        same_start(got["kept"], expected)
