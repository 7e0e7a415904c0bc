"""A whole comparison on every kind of family, on images that differ in their number of visual tokens."""

from __future__ import annotations

import numpy as np
import pytest

from harness.engine.engine import Engine
from harness.errors import RequestError
from harness.models import hf
from harness.models.random_families.words import QUESTIONS
from harness.results import report
from harness.run.batch_run import BatchRun
from harness.run.comparison import compare
from harness.run.executors.local import one_ahead
from harness.run.token_masks import fitted
from harness.store.arrays import unpack
from harness.tasks import registry
from harness.tasks.base import ImageSample, Question, TaskInfo
from reports.markdown import table
from tests.models.tiny_families import make, picture

FAMILIES = ("llava-next", "qwen2.5-vl", "internvl", "smolvlm", "gemma3")
LATER = [
    pytest.param(name, marks=[pytest.mark.families, pytest.mark.needs("torchvision")]) for name in ("mistral3", "paligemma2")
]
FIXED = ("gemma3", "paligemma2")  # families whose images all have the same tokens
METHODS = ("random", "divprune", "fastv", "sts", "visionzip")
SIZES = ((32, 32), (60, 30), (30, 90), (32, 32), (60, 60))  # (height, width)


class Sizes:
    """Images of several sizes with two questions each; the evidence is known on a grid of 4 x 4, whatever the model's."""

    def __init__(self, knows: bool = True, sizes=SIZES) -> None:
        self.sizes = sizes
        self.info = TaskInfo("sizes", "", "", "", "exact match", "test", ("a", "b"), knows, answer_tokens=3)

    def samples(self, count: int, seed: int):
        mask = np.zeros((4, 4), bool)
        mask[0, :2] = True
        for i, (height, width) in enumerate(self.sizes[:count]):
            asked = tuple(
                Question(
                    f"{i}-{q}", "ab"[q], QUESTIONS[(i + q) % 4], "how", mask if self.info.knows_evidence and q == 0 else None
                )
                for q in range(2)
            )
            yield ImageSample(f"i{i}", picture(height, width, i), asked)

    def score(self, prediction: str, answer: str) -> float:
        return float(answer in prediction)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Compares on a family's tiny model."""

    def start(family: str, task: Sizes | None = None, name: str = "run", page: bool = False, **options):
        adapter = make(family).adapter
        monkeypatch.setattr(hf, "load", lambda *args, **words: adapter)
        monkeypatch.setattr(registry, "create", lambda text: task or Sizes())
        given = {
            "methods": METHODS,
            "keep": ["9", "0.5"],
            "samples": 5,
            "batch_size": 3,
            "analyse": 3,
            "seeds": 2,
            "latency": False,
        }
        if not page:
            monkeypatch.setattr(report, "write_report", lambda found: found.folder)
        return compare(model=family, task="sizes", out=tmp_path / name, **{**given, **options})

    return start


def rows(found) -> dict:
    query = "SELECT key, question, prediction, kept, kept_count, kl FROM samples JOIN cells ON cells.id = cell"
    return {row[:2]: row[2:] for row in found.store.connection.execute(query)}


@pytest.mark.parametrize("family", [*FAMILIES, *LATER])
def test_a_whole_comparison(family, run):
    found = run(family, page=True)
    cells = {(c["method"], c["keep"]): c for c in found.summary["cells"]}
    layouts, adapter = found.store.layouts(), make(family).adapter
    answered = {facts["method"]: found.store.columns(i) for i, _, facts in found.store.cells() if facts["skipped"] is None}
    counts = answered["none"]["kept_count"]
    assert found.report.stat().st_size > 10_000
    assert len(set(counts)) == (1 if family in FIXED else len({layout.tokens for layout in layouts.values()}))
    assert bool(layouts) == (family not in FIXED)
    for (method, keep), cell in cells.items():
        if cell["skipped"] is not None:
            assert len(cell["skipped"]) > 10
            assert cell["n"] == 0
            continue
        assert cell["n"] == 10
        columns = next(found.store.columns(i) for i, _, f in found.store.cells() if (f["method"], f["keep"]) == (method, keep))
        assert cell["tokens"]["final"] == pytest.approx(columns["kept_count"].mean())
        assert len(cell["schedule"]) == adapter.shape.layers
        if method in ("random", "divprune") and keep in (9, 16):
            assert columns["kept_count"].tolist() == np.minimum(counts, keep).tolist()
        if method in ("random", "divprune") and keep == 0.5:
            assert columns["kept_count"].tolist() == [round(0.5 * count) for count in counts]
        for image, bits, present in zip(columns["image"], columns["kept"], columns["kept_count"]):
            tokens = layouts[image].tokens if image in layouts else adapter.shape.visual_tokens
            if method in ("random", "divprune", "fastv", "sts"):
                assert len(bits) == -(-tokens // 8)
                assert unpack(bits, (1, tokens)).sum() == present
    tiny, asked = make(family), QUESTIONS[0]
    longer = [
        len(tiny.inputs(asked, [sample.image])["input_ids"][0]) - len(tiny.inputs(asked, [])["input_ids"][0])
        for sample in Sizes().samples(5, 0)
    ]  # what the family's own processor puts into a prompt for an image; of two families the template adds two marks of its own
    template = 2 if family in ("gemma3", "qwen2.5-vl") else 0
    marks = np.mean(longer) - np.mean(counts) - template
    assert cells["none", None]["tokens"].get("marks", 0.0) == pytest.approx(marks)
    bare = family in ("qwen2.5-vl", "paligemma2")  # visual tokens alone are put into their prompts for an image
    assert ("marks" in cells["none", None]["tokens"]) == (not bare)
    assert "marks" not in cells["blind", None]["tokens"]
    page, printed = found.report.read_text(), table(found.summary["cells"])
    assert ("marks, which always stay" in page) == ("newline and mark tokens an image" in printed) == (not bare)
    assert "50 % of the tokens" in page and "| 50 % |" in printed
    skipped = {method for (method, _), cell in cells.items() if cell["skipped"] is not None}
    assert ("visionzip" in skipped) == (not adapter.shape.has_cls or adapter.shape.merge > 1)
    assert ("downsample" in skipped) == (family not in ("qwen2.5-vl", "mistral3", "paligemma2"))
    alone = run(family, name="alone", sharing=False, analyse=0, seeds=1)
    mine, other = rows(found), rows(alone)
    assert mine.keys() == other.keys()
    for key, (prediction, kept, count, kl) in mine.items():
        assert (prediction, kept, count) == other[key][:3], key
        assert kl == pytest.approx(other[key][3], abs=1e-3)


@pytest.mark.parametrize("family", ["llava-next", "internvl", "smolvlm"])
def test_the_gallery_knows_where_the_tokens_of_tiles_lie(family, run):
    """Overview and tiles: each kept token is drawn over the part of the image that it is of."""
    found = run(family, methods=["random", "fastv"], keep=["9"])
    images = report.gallery(found.store, 5)
    tiled = [image for image in images if image.areas]
    adapter, sizes = make(family).adapter, dict(zip((f"i{i}" for i in range(5)), SIZES))
    assert tiled
    for image in images:
        height, width = sizes[image.image_id]
        (block,) = adapter.prompt_spans([(width, height)])
        assert image.areas == (block.areas if len(block.areas) > 1 else ())
        for question in image.questions:
            for answer in question.answers:
                if image.areas and answer.method != "downsample":
                    assert answer.kept.shape == (block.count,) and answer.note == ""
                    assert answer.kept.sum() == (block.count if answer.method == "none" else present(found, answer, question))


def present(found, answer, question) -> int:
    """Visual tokens of an answer in the last layer, as stored."""
    cell = next(ident for ident, _, facts in found.store.cells() if facts["method"] == answer.method)
    query = "SELECT kept_count FROM samples WHERE question = ? AND cell = ?"
    return found.store.connection.execute(query, (question.sample_id, cell)).fetchone()[0]


def test_flops_are_means_over_what_was_asked(run):
    from methods.schedule import schedule
    from metrics.flops import flops

    found = run("qwen2.5-vl", methods=["random"], keep=["9"])
    adapter = make("qwen2.5-vl").adapter
    none = next(c for c in found.summary["cells"] if c["method"] == "none")
    samples, lengths = list(Sizes().samples(5, 0)), []
    for sample in samples:
        for question in sample.questions:
            before, after = adapter.prompt(question.text)
            lengths.append(len(before) + len(after))
    shapes = [adapter.shape_for(adapter.prompt_spans([sample.image.size])) for sample in samples]
    expected = [flops(shape, schedule(shape, ()), np.mean(lengths)).total for shape in shapes]
    assert none["flops"]["total"] == pytest.approx(np.mean(expected))
    notes = found.store.manifest()["notes"]
    assert any("have fewer than 9 visual tokens" in note for note in notes)


def test_evidence_follows_each_images_own_tokens(run):
    adapter, task = make("qwen2.5-vl").adapter, Sizes()
    batch_run = BatchRun(Engine(adapter, 2), task, list(task.samples(3, 0)), 0)
    assert batch_run.batch.evidence.shape == (6, max(batch_run.pixels.counts))
    for row, (mask, image) in enumerate(zip(batch_run.masks, batch_run.batch.image.tolist())):
        count = batch_run.pixels.counts[image]
        assert (mask is None) == (row % 2 == 1)
        assert not batch_run.batch.evidence[row, count:].any()
        assert int(batch_run.batch.evidence[row].sum()) == (0 if mask is None else mask.sum())
        if mask is not None:
            height, width = batch_run.pixels.spans[image][0].grid
            top, left = -(-height // 4), -(-width // 2)  # the upper quarter of the left half
            assert mask[:top, :left].all()
            assert mask.sum() == top * left
    found = run("qwen2.5-vl", seeds=1)
    apart = run("qwen2.5-vl", name="apart", sharing=False, seeds=1)
    swapped = [dict(one.store.connection.execute("SELECT cell || question, swap_score FROM samples")) for one in (found, apart)]
    assert swapped[0] == swapped[1]
    assert sum(score is not None for score in swapped[0].values()) > 20
    oracle = next(c for c in found.summary["cells"] if c["method"] == "oracle")
    assert oracle["evidence"]["recall"]["value"] == 1.0
    random = next(c for c in found.summary["cells"] if (c["method"], c["keep"]) == ("random", 0.5))
    assert 0 < random["evidence"]["recall"]["value"] < 1
    tiled = run("internvl", name="tiled", methods=["random"], keep=["9"], seeds=1)
    assert not [c for c in tiled.summary["cells"] if c["method"] == "oracle"]
    assert any("no one full grid" in note for note in tiled.store.manifest()["notes"])


@pytest.mark.parametrize("old", [(4, 4), (3, 5), (1, 7), (24, 24)])
@pytest.mark.parametrize("new", [(4, 4), (2, 2), (6, 3), (24, 10)])
def test_a_mask_on_another_grid_overlaps_the_first(old, new):
    mask = np.random.default_rng(0).random(old) < 0.3
    expected = np.zeros(new, bool)
    for r, c in np.ndindex(*new):
        for i, j in np.argwhere(mask):
            down = min((r + 1) / new[0], (i + 1) / old[0]) - max(r / new[0], i / old[0])
            across = min((c + 1) / new[1], (j + 1) / old[1]) - max(c / new[1], j / old[1])
            expected[r, c] |= down > 1e-9 and across > 1e-9
    assert (fitted(mask, new) == expected).all()


def test_a_budget_above_all_images_is_refused(run):
    with pytest.raises(RequestError, match="these images yield 16 visual tokens at the most"):
        run("qwen2.5-vl", keep=["500"])


def test_a_batch_that_does_not_fit_is_halved(run, monkeypatch):
    whole = run("llava-next", methods=["random", "fastv"], batch_size=4)
    own, sizes = BatchRun.run, []

    def scarce(self, cell, *rest):
        if len(self.samples) > 1 and cell.method == "fastv":
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes")
        sizes.append(len(self.samples))
        return own(self, cell, *rest)

    monkeypatch.setattr(BatchRun, "run", scarce)
    halved = run("llava-next", name="halved", methods=["random", "fastv"], batch_size=4)
    assert halved.store.manifest()["batch_size_used"] == 1
    assert whole.store.manifest()["batch_size_used"] == 4
    assert sizes[-1] == 1
    mine, other = rows(whole), rows(halved)
    assert {key: row[:3] for key, row in mine.items()} == {key: row[:3] for key, row in other.items()}
    both = [{i: run_.store.analysis(i) for i, _, f in run_.store.cells() if f["method"] == "fastv"} for run_ in (whole, halved)]
    for first, second in zip(both[0].values(), both[1].values(), strict=True):
        assert first["question"].tolist() == second["question"].tolist()
        np.testing.assert_allclose(first["z_effective_rank"], second["z_effective_rank"], rtol=1e-5, atol=1e-5)


def test_what_is_made_ahead_is_the_same_and_so_are_its_errors():
    made = []

    def made_of(item: int) -> int:
        made.append(item)
        if item == 3:
            raise ValueError("three")
        return 10 * item

    found = one_ahead(made_of, range(5))
    assert next(found) == 0
    assert next(found) == 10
    assert set(made) <= {0, 1, 2}  # one ahead, no more
    assert next(found) == 20
    with pytest.raises(ValueError, match="three"):
        next(found)


@pytest.mark.parametrize("family", ["gemma3", "qwen2.5-vl"])
def test_an_image_that_cannot_be_read_is_left_out(run, family):
    class Broken(Sizes):
        def samples(self, count, seed):
            def broken():
                raise OSError("no such page")

            for i, sample in enumerate(super().samples(count, seed)):
                yield sample if i else ImageSample(sample.image_id, broken, sample.questions)

    methods = ["random", "prumerge[adaptive=true]"]
    whole, found = run(family, methods=methods), run(family, Broken(), name="broken", methods=methods, latency=True)
    mine, other = rows(found), rows(whole)
    lost = {key for key in mine if key[1].startswith("0-")}
    assert mine.keys() == other.keys()
    assert {key: mine[key][:3] for key in mine if key not in lost} == {key: other[key][:3] for key in mine if key not in lost}
    assert {mine[key] for key in lost} == {("", None, None, None)}
    assert found.failures == len(lost) == len(found.store.failed())
    assert {why for _, _, why in found.store.failed()} == {next(iter(found.store.failed()))[2]}
    assert "no such page" in found.store.failed()[0][2]
    for cell in found.summary["cells"]:
        assert cell["skipped"] or (cell["n"], cell["n_images"]) == (8, 4)
        assert cell["skipped"] or cell["latency"] is not None


def test_pooling_needs_one_grid_and_says_so(run):
    found = run("llava-next", methods=["pool", "random"], keep=["9"])
    cells = {c["method"]: c for c in found.summary["cells"]}
    assert cells["pool"]["skipped"] == "pool needs tokens that are a full grid"
    assert cells["pool"]["n"] == 0
    assert cells["random"]["n"] == 10


def test_adaptive_counts_are_measured(run):
    found = run("llava-next", methods=["prumerge[adaptive=true]", "random"], keep=["9"])
    cell = next(c for c in found.summary["cells"] if c["method"].startswith("prumerge"))
    assert cell["skipped"] is None, cell["skipped"]
    ident = next(i for i, _, f in found.store.cells() if f["method"].startswith("prumerge"))
    assert cell["tokens"]["final"] == pytest.approx(found.store.columns(ident)["kept_count"].mean())


def test_latency_is_taken_on_the_first_image(run):
    found = run("qwen2.5-vl", methods=["fastv"], keep=["0.5"], samples=2, latency=True)
    cells = {c["method"]: c for c in found.summary["cells"]}
    for name in ("none", "fastv", "downsample"):
        assert cells[name]["latency"] is not None
        memory = cells[name]["memory"]
        assert memory["kv_measured"] == memory["kv_predicted"] > 0


@pytest.mark.parametrize("family", ["llava-next", "gemma3"])
def test_a_run_says_how_budgets_count_where_images_are_in_tiles(family, run):
    found = run(family, methods=["sts", "divprune"], keep=["9"], samples=2, analyse=0, seeds=1, page=True)
    tiled = family == "llava-next"
    for cell in found.summary["cells"]:
        assert cell["tiles"] == ("all" if tiled and cell["keep"] is not None else None)
        assert bool(cell["unverified"]) == (cell["method"] == "sts")
        assert cell["same_as"] is None
    page = found.report.read_text()
    assert page.count("a budget counts the tokens of all tiles together") == (2 if tiled else 0)
