"""Whatever text or bytes come in, the parsers answer or refuse in one line; nothing else is raised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import RequestError, readable
from harness.results.regression.benchmark_files import regress_benchmarks
from harness.results.regression.thresholds import read_thresholds
from harness.run.config import read_file, read_keep
from harness.store.archives import read_arrays
from harness.tasks.registry import create as create_task
from harness.tasks.registry import parse as parse_task
from harness.tasks.target import Target
from methods.registry import MethodError, canonical
from tests.fuzz.inputs import FEATURES, npz, png

WORDS = st.sampled_from(
    [
        "fastv",
        "sts",
        "random",
        "divprune",
        "tome",
        "[",
        "]",
        "=",
        ",",
        "+",
        "layer",
        "like",
        "2",
        "-1",
        "1e999",
        "nan",
        " ",
        "all",
        "\x00",
    ]
)
EXPRESSIONS = st.one_of(st.lists(WORDS, max_size=14).map("".join), st.text(max_size=60))
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
FEW = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(FEW, max_examples=2000)


def refuses_or_answers(call, *arguments):
    """The answer, or None where there is a refusal in one clear line."""
    try:
        return call(*arguments)
    except (RequestError, MethodError) as error:
        said = readable(str(error))
        assert said and len(said.splitlines()) <= 3
        return None


def method_expressions(text):
    found = refuses_or_answers(canonical, text)
    assert found is None or canonical(found) == found


def budgets(text):
    found = refuses_or_answers(read_keep, text)
    assert found is None or (1 <= found.tokens(576) <= 576 and read_keep(str(found)) == found)


def task_expressions(text):
    refuses_or_answers(parse_task, text)


def targets(text):
    assert Target.read(text) is not None


def in_file(name: str, call):
    def check(content: bytes, folder: Path):
        (folder / name).write_bytes(content)
        refuses_or_answers(call, folder / name)

    return check


def rows(path: Path):
    """A file of questions, to its last image."""
    task = create_task(str(path))
    for sample in task.samples(99, 0):
        refuses_or_answers(lambda one: one.images, sample)
        assert all(isinstance(question.text, str) and question.sample_id for question in sample.questions)


TEXTS = {"methods": (method_expressions, EXPRESSIONS), "budgets": (budgets, st.one_of(st.text(max_size=12),
st.floats().map(str))),
         "tasks": (task_expressions, EXPRESSIONS), "targets": (targets, st.one_of(st.text(), JSONS.map(json.dumps)))}  # fmt: skip


def objects(**fixed):
    """One JSON object a line, columns of ours with any value."""
    columns = st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("image", "question", "answer", "answers", "id", "family", "choices"), JSONS)
    )
    return st.lists(columns.map(lambda row: json.dumps({**fixed, **row})), max_size=4).map(
        lambda lines: "\n".join(lines).encode()
    )


TOML = st.one_of(st.binary(max_size=80), st.lists(st.sampled_from(
    [*"[]={}'\"\n.,#", "samples", "methods", "accuracy", "tolerance", "3", "true", "nan", "inf", "1e999", "2020-01-01", " "]),
    max_size=16
).map(lambda parts: "".join(parts).encode()))  # fmt: skip
GOOD = npz(features=FEATURES, grid=np.array([4, 4]))


@st.composite
def damaged(draw, good: bytes) -> bytes:
    """Good bytes with some overwritten, cut out or put in."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        place, length = draw(st.integers(0, len(data))), draw(st.integers(0, 12))
        data[place : place + length] = draw(st.binary(max_size=12))
    return bytes(data)


FILES = {
    "lines": (in_file("q.jsonl", rows), st.one_of(st.binary(max_size=200), objects(), objects(image="a.png", question="x"))),
    "options": (in_file("o.toml", read_file), TOML), "thresholds": (in_file("t.toml", read_thresholds), TOML),
    "benchmarks": (in_file("b.json", lambda path: regress_benchmarks(path, path)), st.one_of(st.binary(max_size=60),
    JSONS.map(lambda v: json.dumps(v).encode()),
                   JSONS.map(lambda v: json.dumps({"benchmarks": [{"fullname": "a", "stats": v}]}).encode()))),
    "arrays": (in_file("a.npz", read_arrays), damaged(GOOD)),
    "images": (in_file("a.png", lambda path: rows(path.parent)), damaged(png((20, 20)))),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_texts(name):
    check, given_texts = TEXTS[name]
    FEW(given(given_texts)(check))()


@pytest.mark.parametrize("name", FILES)
def test_files(name, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    check, contents = FILES[name]
    FEW(given(contents)(lambda content: check(content, tmp_path)))()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TEXTS, *FILES])
def test_many(name, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    check, contents = TEXTS.get(name) or FILES[name]
    MANY(given(contents)(check if name in TEXTS else lambda content: check(content, tmp_path)))()
