"""The same parsers under atheris, which looks for inputs that reach new branches. Needs atheris; runs in a process each."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, tempfile
from pathlib import Path
import atheris
with atheris.instrument_imports(include=["methods", "harness"], enable_loader_override=False):
    from tests.fuzz import test_parsers
name = sys.argv.pop(1)
folder = Path(tempfile.mkdtemp(dir=sys.argv.pop(1)))
(folder / "a.png").write_bytes(test_parsers.png())
def one(data):
    if name in test_parsers.TEXTS:
        test_parsers.TEXTS[name][0](data.decode("utf-8", "replace"))
    else:
        test_parsers.FILES[name][0](data, folder)
atheris.Setup(sys.argv, one)
atheris.Fuzz()
"""
SEEDS = {
    "methods": b"random[like=fastv[layer=2]]", "tasks": b"shapes[side=3]", "budgets": b"0.33",
    "lines": b'{"image": "a.png", "question": "x"}',
    "options": b"samples = 3\nmethods = ['sts']", "thresholds": b"[accuracy]\ntolerance = 0.1",
    "benchmarks": b'{"benchmarks": [{"fullname": "a", "stats": {"median": 1, "rounds": 9}}]}',
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed (it has wheels for some Pythons alone)")
@pytest.mark.parametrize("name", SEEDS)
def test_no_input_raises_anything_else(name, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "seed").write_bytes(SEEDS[name])
    words = [sys.executable, "-c", SCRIPT, name, str(tmp_path), str(corpus), "-max_total_time=15", "-max_len=400", "-seed=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr
