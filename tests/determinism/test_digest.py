"""Who answers, in which order and how many at a time: the same answers and kept tokens, but for ties."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from harness.engine.engine import Engine
from harness.models import hf
from harness.run.comparison import compare
from harness.run.config import CompareConfig
from harness.run.prepare import prepare
from tests.determinism.first_difference import Account, Choice, accounts, batches, gap

REQUEST = {
    "methods": ("random", "fastv", "sts", "sparsevlm"), "keep": ("64",), "samples": 8, "batch_size": 3, "latency": False,
    "analyse": 0, "seeds": 1, "workers": 1, "max_new_tokens": 4,
}  # fmt: skip
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
FEW_DIFFER = {"float32": 0.01, "bfloat16": 0.1}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs by what differs in their request; figures are not drawn. The model is loaded once for each precision."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    with pytest.MonkeyPatch.context() as patch:
        load, loaded = hf.load, {}

        def once(name, device, dtype="auto", **words):
            return loaded.setdefault(dtype, load(name, device, dtype, **words)) if dtype not in loaded else loaded[dtype]

        patch.setattr(hf, "load", once)
        patch.setattr("reports.page.render", lambda view: "")

        def run(**options) -> Path:
            name = repr(options)
            if name not in made:
                made[name] = compare(**REQUEST | options, out=folder / f"run{len(made)}").folder
            return made[name]

        yield run


def digest(folder: Path) -> str:
    found = json.loads((folder / "manifest.json").read_text())["digest"]
    assert len(found) == 16
    return found


def found(folder: Path) -> dict[tuple[str, str], tuple]:
    """By cell and question the answer and the kept tokens."""
    query = "SELECT key, question, prediction, kept FROM samples JOIN cells ON cells.id = cell"
    with closing(sqlite3.connect(folder / "results.sqlite")) as connection:
        return {row[:2]: row[2:] for row in connection.execute(query)}


ORDERS = [{"workers": 2}, {"workers": 3}, {"methods": ("sparsevlm", "sts", "fastv", "random")}]


@pytest.mark.parametrize("options", ORDERS, ids=str)
def test_one_digest_for_any_number_of_processes_and_order_of_cells(runs, options):
    assert digest(runs(**options)) == digest(runs())
    assert found(runs(**options)) == found(runs())


def test_the_digest_is_of_answers_and_kept_tokens(runs, tmp_path):
    import shutil

    from harness.run.manifest import digest_of
    from harness.store.runs import RunFolder

    known = set()
    for change in (
        "UPDATE samples SET kl = 0.5, score = 0.25",  # the same run, scored otherwise
        "UPDATE samples SET prediction = prediction || 'x' WHERE cell = 5 AND question = (SELECT min(id) FROM questions)",
        "UPDATE samples SET kept = zeroblob(72) WHERE cell = 5 AND question = (SELECT min(id) FROM questions)",
        "UPDATE samples SET failed = 'no' WHERE cell = 5 AND question = (SELECT min(id) FROM questions)",
        "DELETE FROM samples WHERE cell = 5 AND question = (SELECT min(id) FROM questions)",
        """UPDATE cells SET facts = json_set(facts, '$.seed', 9)""",
    ):
        folder = Path(shutil.copytree(runs(), tmp_path / str(len(known))))
        with closing(sqlite3.connect(folder / "results.sqlite")) as connection, connection:
            assert connection.execute(change).rowcount
        run = RunFolder(folder)
        known.add(digest_of(run))
        run.close()
    assert digest(runs()) in known and len(known) == 6


def explained(runs, base: dict, options: dict) -> list[float]:
    """The gaps at the first differences between a run and one in other batches or without shared work."""
    mine, theirs = found(runs(**base)), found(runs(**base, **options))
    assert mine.keys() == theirs.keys()
    config = CompareConfig(**{**REQUEST, **base})
    prepared = prepare(config)
    engine = Engine(prepared.adapter, config.max_new_tokens)

    @cache
    def told(one: CompareConfig, key: str, place: int) -> dict[str, Account]:
        batch = batches(prepared.samples, one.batch_size)[place]
        return accounts(engine, prepared.task, batch, prepared.active, key, one.sharing)

    places = {q.sample_id: place for place, sample in enumerate(prepared.samples) for q in sample.questions}
    gaps = []
    for key, question in (names for names in mine if mine[names] != theirs[names]):
        pair = []
        for changes, stored in (({}, mine), (options, theirs)):
            one = replace(config, **changes)
            pair.append(told(one, key, places[question] // one.batch_size)[question])
            answer = [token for token in pair[-1].answer if token not in prepared.adapter.end_ids]
            assert prepared.adapter.decode(answer) == stored[key, question][0]
        apart = gap(*pair)
        assert apart is not None, (key, question)
        gaps.append(apart)
    return gaps


FEW = {"samples": 2}  # one by one, nine questions of an image take nine times as long
SLOW = {"samples": 4, "dtype": "bfloat16"}  # a processor without instructions for it takes several times as long
OTHERS = [
    ({"dtype": "float32"}, {"batch_size": 1}),
    ({"dtype": "float32"}, {"batch_size": 8}),
    (FEW | {"dtype": "float32"}, {"sharing": False}),
    (SLOW, {"batch_size": 1}),
    (SLOW, {"batch_size": 8}),
    pytest.param({"dtype": "bfloat16"}, {"batch_size": 1}, marks=pytest.mark.slow),
    pytest.param({"dtype": "bfloat16"}, {"batch_size": 8}, marks=pytest.mark.slow),
    pytest.param(FEW | {"dtype": "bfloat16"}, {"sharing": False}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("base", "options"), OTHERS, ids=str)
def test_batches_and_sharing_change_nothing_but_ties(runs, base, options):
    dtype = base["dtype"]
    gaps = explained(runs, base, options)
    print(f"{len(gaps)} of {len(found(runs(**base)))} differ, the widest gap {max(gaps, default=0):.2g}")
    assert all(apart <= TOLERANCE[dtype] for apart in gaps), gaps
    assert len(gaps) <= FEW_DIFFER[dtype] * len(found(runs(**base)))


@torch.inference_mode()
def test_what_is_cut_out_of_a_table_is_projected_like_a_copy_of_it():
    adapter = hf.load("tiny", torch.device("cpu"), "bfloat16")
    states = torch.randn(3, 577, adapter.shape.vision_width, generator=torch.Generator().manual_seed(1)).bfloat16()
    assert torch.equal(adapter.project(states[:, 1:]), adapter.project(states[:, 1:].contiguous()))


def test_a_difference_that_is_no_tie_is_noticed():
    scores = torch.tensor([0.5, 0.3, 0.30001, 0.1]).double()
    choice = lambda *kept, scores=scores: Choice(torch.tensor(kept), scores)
    logits = lambda *values: [torch.tensor(values).double()]
    plain = Account([1], [choice(0, 1)], logits(0.0, 1.0, 0.99999))
    assert gap(plain, plain) is None
    assert gap(plain, replace(plain, choices=[choice(0, 2)])) < 1e-4
    assert gap(plain, replace(plain, choices=[choice(0, 3)])) > 0.5
    assert gap(replace(plain, choices=[choice(0, 1, scores=None)]), plain) is None
    assert gap(replace(plain, choices=[choice(0, 1, scores=None)]), replace(plain, choices=[choice(0, 2)])) == torch.inf
    assert gap(plain, replace(plain, answer=[2])) < 1e-4
    assert gap(plain, replace(plain, answer=[0])) == 1
