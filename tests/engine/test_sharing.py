"""Cells that share layers give what each gives alone, with fewer layers run and no more caches held than forks are open."""

from collections import Counter
from dataclasses import replace
from weakref import ref

import pytest
import torch

from harness.engine import engine
from harness.engine.recorder import Recorder
from harness.engine.request import EngineRequest
from harness.engine.sharing import CellPath, PrefixTree, SharedPrefill, prefix_key
from harness.models.shapes import PUBLIC
from harness.run.batch_run import BatchRun
from harness.run.config import CompareConfig
from harness.run.plan import make_cells
from methods.registry import create
from methods.types import SIGNAL_NAMES, Budget

EXPRESSIONS = (
    "none", "fastv", "fastv[layer=5]", "sparsevlm", "pyramiddrop", "vtw", "sts", "divprune+fastv", "divprune+dart",
    "random[like=dart]", "random[like=sparsevlm]", "visionzip",
)  # fmt: skip


@pytest.fixture(scope="module")
def cells(adapter):
    config = CompareConfig(methods=EXPRESSIONS, keep=("300",), budget="average")
    found = make_cells(config, adapter.shape, True)
    return [cell for cell in found if cell.skipped is None and not cell.blind and cell.grid is None]


@pytest.fixture(scope="module")
def layers_run(adapter):
    """Calls of decoder layers: (layer, columns) of each."""
    calls: list[tuple[int, int]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda module, args, i=i: calls.append((i, args[0].shape[1])))
        for i, layer in enumerate(adapter.decoder.layers)
    ]
    yield calls
    for hook in hooks:
        hook.remove()


def prompts(calls):
    """Calls on prompts: one on a new token has a column a question."""
    return [call for call in calls if call[1] > 12]


def sweep(work, cells, watch=lambda shared, place: None):
    """Every cell through one batch: outputs and recorders."""
    made = []
    for place, cell in enumerate(cells):
        recorder = Recorder(attention=True)
        made.append(
            (
                work.engine.run(EngineRequest(work.batch, cell.steps, cell.object.positions, work.shared, recorder=recorder)),
                recorder,
            )
        )
        work.shared.release(place)
        watch(work.shared, place)
    return made


def test_a_sweep_gives_what_each_cell_gives_alone(work, cells, layers_run):
    two = [replace(sample, questions=sample.questions[:4]) for sample in work.samples[:2]]
    work = BatchRun(work.engine, work.task, two, 0, wanted=SIGNAL_NAMES)
    many = BatchRun(work.engine, work.task, two, 0, True, SIGNAL_NAMES, cells=tuple(cells), analysed=True)
    held = []
    found = sweep(many, cells, lambda shared, place: held.append(set(shared.checkpoints)))
    longest = max(columns for _, columns in layers_run)
    assert Counter(layer for layer, columns in layers_run if columns == longest) == Counter(
        range(work.engine.adapter.shape.layers)
    )
    for cell, (out, notes) in zip(cells, found, strict=True):
        recorder = Recorder(attention=True)
        alone = work.engine.run(EngineRequest(work.batch, cell.steps, cell.object.positions, work.shared, recorder=recorder))
        assert out.tokens == alone.tokens, cell.key
        assert torch.equal(out.kept, alone.kept), cell.key
        assert torch.equal(out.entered, alone.entered), cell.key
        assert (out.kv_bytes, out.counts) == (alone.kv_bytes, alone.counts)
        torch.testing.assert_close(out.first_logits, alone.first_logits, atol=1e-4, rtol=1e-4)
        for own, other in zip(notes.ids, recorder.ids, strict=True):
            assert torch.equal(own, other)
        for own, other in zip(notes.attention_rows, recorder.attention_rows, strict=True):
            torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)
        assert (notes.scores is None) == (recorder.scores is None)
    tree = many.shared.tree
    assert held[-1] == set()
    for place, keys in enumerate(held):
        assert keys <= {key for key, last in tree.last_path.items() if last > place}
    assert max(map(len, held)) < len(cells) / 3


def test_equal_paths_share_all_layers(work, layers_run):
    method = create("random[like=fastv]")
    steps = method.steps(work.engine.adapter.shape, Budget(64))
    config = CompareConfig(methods=("random[like=fastv]",), keep=("64",))
    cell = next(c for c in make_cells(config, work.engine.adapter.shape, True) if c.method == "random[like=fastv]")
    twins = (replace(cell, method="a"), replace(cell, method="b"))
    many = BatchRun(work.engine, work.task, work.samples, 0, True, cells=twins)
    first = many.engine.run(EngineRequest(many.batch, steps, method.positions, many.shared))
    once = prompts(layers_run)
    second = many.engine.run(EngineRequest(many.batch, steps, method.positions, many.shared))
    assert prompts(layers_run) == once
    assert first.tokens == second.tokens
    assert torch.equal(first.kept, second.kept)


def test_some_rows_go_on_from_a_stop_of_all(work):
    """As the evidence swap does: rows of a shared cache, though others stand between them."""
    cell = next(
        c for c in make_cells(CompareConfig(methods=("fastv",), keep=("64",)), work.engine.adapter.shape, True)
        if c.method == "fastv"
    )  # fmt: skip
    many = BatchRun(work.engine, work.task, work.samples, 0, True, SIGNAL_NAMES, cells=(cell,), analysed=True)
    whole = many.engine.run(EngineRequest(many.batch, cell.steps, cell.object.positions, many.shared))
    assert list(many.shared.checkpoints) == [prefix_key("original", ())]
    for rows in ([0], [3, 4, 20], [26], list(range(0, 27, 2))):
        some = many.engine.run(EngineRequest(many.batch, cell.steps, cell.object.positions, many.shared, rows=rows))
        fresh = many.engine.run(EngineRequest(many.batch, cell.steps, cell.object.positions, None, rows=rows))
        for out in (some, fresh):
            assert out.tokens == [whole.tokens[row] for row in rows]
            assert torch.equal(out.kept, whole.kept[rows])
            torch.testing.assert_close(out.first_logits, whole.first_logits[rows], atol=1e-4, rtol=1e-4)


def test_controls_and_text_free_steps_keep_the_questions_of_an_image_together(work):
    """`random[like=]` draws once an image, and what reads no text chooses once an image."""
    for expression in ("random[like=fastv]", "random[like=sparsevlm]", "vtw"):
        method = create(expression)
        steps = method.steps(work.engine.adapter.shape, Budget(300))
        out = work.engine.run(EngineRequest(work.batch, steps, method.positions))
        apart = work.engine.run(EngineRequest(work.batch, steps, method.positions, share_questions=False))
        assert out.tokens == apart.tokens
        assert torch.equal(out.kept, apart.kept), expression
        for image in range(3):
            kept = out.kept[work.batch.image == image]
            assert (kept == kept[0]).all()


def test_methods_share_one_similarity_of_a_batch(work, adapter, monkeypatch):
    from methods import similarity

    made, own = [], similarity._cosine
    monkeypatch.setattr(similarity, "_cosine", lambda tokens, dtype: made.append(tokens) or own(tokens, dtype))
    config = CompareConfig(methods=("divprune", "fps", "sts[stages=structure]"), keep=("64", "32"))
    cells = [c for c in make_cells(config, adapter.shape, True) if c.method in config.methods]
    many = BatchRun(work.engine, work.task, work.samples, 0, True, SIGNAL_NAMES, cells=tuple(cells))
    with similarity.shared_similarity():
        for cell in cells:
            many.run(cell)
    assert len(cells) == 6
    assert len(made) == 1 and made[0] is many.projected


def test_checkpoints_are_where_two_paths_meet():
    step = lambda layer, keep: replace(create("fastv").steps(PUBLIC["llava-1.5-7b"], Budget(64, "final"))[0], keep=keep)
    paths = [CellPath((), "original"), CellPath((step(1, 9),), "original"), CellPath((step(1, 7),), "original")]
    found = PrefixTree(paths, 8)
    assert Counter(map(len, (steps for _, steps in found.requests))) == {0: 1}
    assert found.last_path[prefix_key("original", ())] == 2
    assert not PrefixTree(paths[:1], 8).requests
    assert PrefixTree([replace(paths[1], swaps=True)], 8).requests


@pytest.mark.parametrize("listed", ["none", "fastv"])
def test_a_cell_that_was_not_listed_is_given_what_it_reads(work, listed):
    """A method that reads the tower elsewhere than by default answers as it does where the batch was told of it."""
    config = CompareConfig(methods=("prumerge", "fastv"), keep=("64",))
    cells = {cell.method: cell for cell in make_cells(config, work.engine.adapter.shape, True)}
    some = work.samples[:1]
    told = BatchRun(work.engine, work.task, some, 0, True, cells["prumerge"].needs, cells=(cells["prumerge"],))
    other = BatchRun(work.engine, work.task, some, 0, True, cells[listed].needs, cells=(cells[listed],))
    answers = [[(row.prediction, row.kept) for row in run.run(cells["prumerge"]).samples] for run in (told, other)]
    assert answers[0] == answers[1]
    assert [row.prediction for row in other.run(cells[listed]).samples]


def test_no_mask_is_held_while_answers_are_decoded(adapter, work, monkeypatch):
    """Questions that share a sequence need masks; decoding makes its own. Checkpoints inside a span keep theirs."""
    made, held, right = [], [], engine.decode

    def starting(*given):
        span = start(*given)
        made.extend(ref(mask) for mask in span.masks.values() if mask is not None)
        return span

    def decode(*given, **named):
        held.append(sum(mask() is not None for mask in made))
        return right(*given, **named)

    start = engine.LayerSpan.starting
    monkeypatch.setattr(engine.LayerSpan, "starting", starting)
    monkeypatch.setattr(engine, "decode", decode)
    cells = [create(name).steps(adapter.shape, Budget(64)) for name in ("none", "vtw", "fastv")]
    for steps in cells:
        work.engine.run(EngineRequest(work.batch, steps))
    assert made and held == [0] * len(cells)
    held.clear()
    paths = [CellPath(steps, "original") for steps in cells]
    shared = SharedPrefill(adapter, work.engine.encode_images(work.batch.pixels), lambda shape: paths)
    for place, steps in enumerate(cells):
        work.engine.run(EngineRequest(work.batch, steps, shared=shared))
        shared.release(place)
    assert held[0] > 0 and held[-1] <= held[0] and not shared.checkpoints
    assert not any(mask() for mask in made)
