"""Every golden file through `harness select`: each of our selections against the output of the authors' own code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.run.cases import select
from tests.methods import golden
from tests.methods.golden import GOLDENS, Row

CASES = [pytest.param(row, path, id=path.stem) for row in golden.rows() for path in row.paths()]
ELSEWHERE = {
    "hired-tiles": "test_projector_methods.py",
    "mmtok-padding": "test_projector_methods.py",
    "flowcut-l": "test_inside_methods.py",
    "feather": "test_inside_methods.py",
    "mustdrop-merge": "test_inside_methods.py",
}
"""Files that hold one decision of many, or settings that no expression has: the tests that call the part itself."""
LEFT_OUT = {"ficocov": "its released steps depend on state that is never reset, and of the paper's rule there is no output"}
"""Files of what this suite does not have, and why."""


@pytest.mark.parametrize(("row", "path"), CASES)
def test_select_gives_what_the_authors_code_gives(row: Row, path: Path, tmp_path: Path) -> None:
    golden.held_golden(row, path, tmp_path)


PLUS = [path for row in golden.rows() for path in row.paths() if "plus_kept" in golden.outputs(path)]


@pytest.mark.parametrize("path", PLUS, ids=lambda path: path.stem)
def test_prumerge_plus_gives_what_the_authors_code_gives(path: Path, tmp_path: Path) -> None:
    """Its outputs stand beside those of the adaptive variant, in the same files."""
    (written,) = select("prumerge[plus=true]", [path], 1, tmp_path)
    expected = golden.outputs(path)
    golden.compare("rows", {"kept": expected["plus_kept"], "tokens": expected["plus_tokens"]}, dict(np.load(written)))


def test_every_row_has_files() -> None:
    assert [row.files for row in golden.rows() if not row.paths()] == []


def test_every_file_is_held_by_a_row_or_by_a_test_that_names_it() -> None:
    spoken = {path for row in golden.rows() for path in row.paths()}
    rest = {path.stem.split("_")[0] for path in GOLDENS.glob("*.npz") if path not in spoken}
    assert [name for name in sorted(rest) if not name.startswith((*ELSEWHERE, *LEFT_OUT))] == []
    for prefix, file in ELSEWHERE.items():
        tests = Path(__file__).parent / file
        assert tests.exists() and prefix in tests.read_text(), f"{file} runs no file {prefix}*"
