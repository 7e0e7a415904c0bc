"""What is handed on to a step inside the LLM: a step's carry, the tower's signals, the words of a question, own rows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.engine.sharing import CellPath, SharedPrefill
from methods.question_words import STOP_WORDS, question_words
from methods.types import PROJECTOR, BudgetError, Selection, Signals, Step, TowerRead, decoder
from tests.models.tiny_families import ask, make, picture

LIMIT = 3


@pytest.fixture(scope="module")
def family():
    return make("llava")


@pytest.fixture(scope="module")
def asked(family):
    return ask(family, [[picture(40, 40, 1)], [picture(40, 40, 2)]])


def run(family, batch, steps, **options):
    return Engine(family.adapter, LIMIT).run(EngineRequest(batch, steps, **options))


def places(signals: Signals, keep: int) -> torch.Tensor:
    """Random places by each row's own stream, rising."""
    rows = [torch.randperm(signals.count, generator=torch.Generator().manual_seed(int(s)))[:keep] for s in signals.seeds]
    return torch.stack(rows).sort(-1).values


CARRIES = {
    "one number a row": lambda signals, kept: signals.seeds.clone(),
    "the text's rows": lambda signals, kept: signals.text_hidden[..., 0].clone(),
    "the kept tokens": lambda signals, kept: kept * 7 + signals.seeds[:, None],
    "vectors of tokens": lambda signals, kept: torch.stack([kept, signals.seeds[:, None] + kept], -1),
    "the kept tokens, counted by the text": lambda signals, kept: kept[:, : signals.text_hidden.shape[1]],
}


@pytest.mark.parametrize("kind", CARRIES)
def test_a_carry_arrives_as_it_was_returned(family, asked, kind):
    """Questions of different lengths, so that rows are selected in groups; a row is known by its stream."""
    assert len({len(question) for question in asked.batch.questions}) > 1
    given: dict[int, torch.Tensor] = {}
    arrived: dict[int, torch.Tensor] = {}

    def give(signals: Signals, keep: int) -> Selection:
        kept = places(signals, keep)
        carry = CARRIES[kind](signals, kept)
        given.update(zip(signals.seeds.tolist(), carry, strict=True))
        return Selection(kept, carry=carry)

    def take(signals: Signals, keep: int) -> Selection:
        arrived.update(zip(signals.seeds.tolist(), signals.carry, strict=True))
        return Selection(places(signals, keep))

    needs = frozenset({"seeds", "text_hidden", "carry"})
    run(family, asked.batch, (Step(decoder(1), give, 8, 8, needs), Step(decoder(2), take, 3, 3, needs)))
    assert len(given) == len(arrived) == len(asked.questions)
    for seed, carry in given.items():
        assert torch.equal(arrived[seed], carry)


@pytest.mark.parametrize("before", ["nothing", "projector", "merged"])
def test_the_first_step_in_the_decoder_sees_the_tower(family, asked, before):
    """Of the tokens that are there, in their order; also from a checkpoint of a cell that reads none of it."""
    wanted = frozenset({"vision_features", "cls_attention", "cls_feature", "vision_keys"})
    whole = Engine(family.adapter).encode_images(asked.batch.pixels, wanted=frozenset(map(TowerRead.default, wanted)))
    seen: dict[int, Signals] = {}

    def few(signals: Signals, keep: int) -> Selection:
        kept = places(signals, keep)
        if before == "projector":
            return Selection(kept)
        source = torch.zeros(signals.batch, keep, signals.count, dtype=torch.bool).scatter(2, kept[..., None], True)
        source[:, 0, kept[:, 1]] = source[:, 0, kept[:, 1]] | torch.eye(signals.batch, dtype=torch.bool)
        tokens = source.float() @ signals.features / source.sum(-1, keepdim=True)
        return Selection(kept, tokens, source.sum(-1), source)

    def look(signals: Signals, keep: int) -> Selection:
        for place, seed in enumerate(signals.seeds.tolist()):
            row = {name: getattr(signals, name)[place] for name in wanted}
            seen[asked.batch.image_seeds.tolist().index(seed)] = Signals(**row)
        return Selection(places(signals, keep))

    first = () if before == "nothing" else (Step(PROJECTOR, few, 6, 6, frozenset({"features", "seeds"})),)
    steps = (*first, Step(decoder(1), look, 3, 3, wanted | {"seeds"}))
    blank = (*first, Step(decoder(1), lambda s, keep: Selection(places(s, keep)), 3, 3, frozenset({"seeds", "hidden_states"})))
    paths = [CellPath(blank, "original"), CellPath(steps, "original")]
    shared = SharedPrefill(family.adapter, whole, lambda shape: paths)
    entered = run(family, asked.batch, blank, shared=shared).entered
    for options in ({}, {"shared": shared}):
        seen.clear()
        run(family, asked.batch, steps, **options)
        for image, found in seen.items():
            kept = entered[asked.batch.image.tolist().index(image)]
            sources = torch.zeros(len(kept), whole.features.shape[1]).scatter(1, kept[:, None], 1.0)
            if before == "merged":
                sources[0, kept[1]] = 1.0
            sources = sources / sources.sum(-1, keepdim=True)
            torch.testing.assert_close(found.vision_features, sources @ whole.features[image])
            torch.testing.assert_close(found.vision_keys, sources @ whole.signals["vision_keys"][image])
            torch.testing.assert_close(found.cls_attention, whole.signals["cls_attention"][image] @ sources.T)
            torch.testing.assert_close(found.cls_feature, whole.signals["cls_feature"][image])


def test_a_later_step_in_the_decoder_cannot_see_the_tower(family, asked):
    keep = lambda signals, keep: Selection(places(signals, keep))
    steps = (
        Step(decoder(1), keep, 8, 8, frozenset({"seeds"})),
        Step(decoder(2), keep, 3, 3, frozenset({"seeds", "vision_features"})),
    )
    with pytest.raises(BudgetError, match="the first step inside it alone"):
        run(family, asked.batch, steps)


def test_rows_that_keep_different_counts_run_one_after_another(family, asked):
    """A step that reads the question and decides its count: as many tokens as the row's stream says."""

    def some(signals: Signals, keep: int) -> Selection:
        assert signals.batch == 1
        return Selection(places(signals, 2 + int(signals.seeds[0]) % 5))

    steps = (Step(decoder(2), some, 16, 16, frozenset({"seeds", "text_hidden"}), adaptive=True),)
    out = run(family, asked.batch, steps)
    assert out.present.tolist() == [2 + int(seed) % 5 for seed in asked.batch.question_seeds]
    assert len(set(out.present.tolist())) > 1
    for row, count in enumerate(out.present.tolist()):
        single, _ = asked.batch.rows([row])
        alone = run(family, single, steps)
        assert alone.kept[0].tolist() == out.kept[row, :count].tolist()
        assert alone.tokens == out.tokens[row : row + 1]


@pytest.mark.parametrize("site", [PROJECTOR, decoder(1)], ids=str)
def test_text_features_may_be_of_the_questions_own_words(family, asked, site):
    """The embeddings of as many words as each question has; what a row keeps does not depend on its neighbours."""
    words = [[5, 6, 7], [30], [40, 41, 42], [50, 51]]
    batch, table = replace(asked.batch, question_words=words), family.adapter.inner.get_input_embeddings().weight
    seen: dict[int, torch.Tensor] = {}

    def look(signals: Signals, keep: int) -> Selection:
        seen.update(zip(signals.seeds.tolist(), signals.text_features, strict=True))
        of_words = (signals.features @ signals.text_features.transpose(1, 2)).sum(-1)
        return Selection(of_words.argsort(dim=-1, descending=True, stable=True)[:, :keep])

    steps = (Step(site, look, 4, 4, frozenset({"seeds", "text_features", "features"}), words="question"),)
    out = run(family, batch, steps)
    for row, seed in enumerate(batch.question_seeds.tolist()):
        assert torch.equal(seen[seed], table[words[row]])
        single, _ = batch.rows([row])
        assert run(family, single, steps).kept[0].tolist() == out.kept[row].tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What is the color of the dot?\nAnswer the question using a single word or phrase.", "color of dot"),
        ("Which shirt?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly.", "shirt red B blue"),
        ("Is this a question to answer?", "Is this a question to answer?"),
        ("?", "?"),
        ("Where's the man's dog-house", "Where's man's dog-house"),
        ("图片里有什么", "图片里有什么"),
    ],
)
def test_the_words_of_a_question(text, words):
    assert question_words(text) == words


def test_there_are_as_many_stop_words_as_in_the_authors_code():
    assert len(STOP_WORDS) == 47
    assert all(word == word.lower() for word in STOP_WORDS)


def test_what_a_selector_writes_into_is_its_own(family):
    """Cells that share layers: some overwrite all that their selectors are given; others see what they see alone."""
    asked = ask(family, [[picture(40, 40, 1)]], 1).batch
    llm = {
        "features", "seeds", "carry", "norm_scale", "hidden_states", "hidden_states_before", "text_hidden", "text_features",
        "keys", "text_keys", "values_full", "keys_unrotated", "text_queries_unrotated", "text_attention", "text_logits",
        "text_attention_ahead",
    }  # fmt: skip
    needs = {1: frozenset(llm - {"carry"}) | {"vision_features", "cls_attention"}, 2: frozenset(llm - {"features"})}
    seen: list[dict[str, torch.Tensor]] = []

    def look(layer: int, signals: Signals, keep: int) -> Selection:
        seen.append({name: getattr(signals, name).clone() for name in needs[layer]})
        return Selection(torch.arange(keep)[None], carry=torch.arange(3.0)[None] + layer)

    def spoil(layer: int, signals: Signals, keep: int) -> Selection:
        chosen = look(layer, signals, keep)
        for name in needs[layer]:
            getattr(signals, name).fill_(77)
        return chosen

    def step(layer: int, select) -> Step:
        return Step(decoder(layer), partial(select, layer), 6 - layer, 6 - layer, needs[layer])

    first, second = step(1, look), step(2, look)
    cells = ((step(1, spoil), second), (first, step(2, spoil)), (first, second))
    alone = run(family, asked, (first, second))
    expected, seeds = list(seen), (asked.image_seeds.clone(), asked.question_seeds.clone())
    wanted = frozenset().union(*(one.tower_reads for one in (first, second)))
    vision = Engine(family.adapter).encode_images(asked.pixels, wanted=wanted)
    shared = SharedPrefill(family.adapter, vision, lambda shape: [CellPath(cell, "original") for cell in cells])
    for cell in cells:
        seen.clear()
        out = run(family, asked, cell, shared=shared)
        for got, want in zip(seen, expected[-len(seen) :], strict=True) if cell is not cells[0] else ():
            assert all(torch.equal(got[name], want[name]) for name in want)
    assert len(shared.checkpoints) == 2, "the cells part before either step"
    assert out.tokens == alone.tokens and torch.equal(out.first_logits, alone.first_logits)
    assert torch.equal(asked.image_seeds, seeds[0]) and torch.equal(asked.question_seeds, seeds[1])


def test_a_row_that_does_not_read_the_text_has_its_images_stream(family):
    """Each question with a sequence of its own: two questions of an image have one stream."""
    asked = ask(family, [[picture(40, 40, 1)], [picture(40, 40, 2)]], 2).batch
    seen: list[torch.Tensor] = []

    def note(signals: Signals, keep: int) -> Selection:
        seen.append(signals.seeds.clone())
        chosen = places(signals, keep)
        signals.seeds.add_(1)  # which is no one else's
        return Selection(chosen)

    for rows in (range(4), (1, 2), (3,)):
        seen.clear()
        batch = asked.rows(list(rows))[0]
        run(family, batch, (Step(decoder(1), note, 5, 5, frozenset({"seeds", "hidden_states"})),), share_questions=False)
        found, expected = torch.cat(seen), asked.image_seeds[asked.image[list(rows)]]
        assert torch.equal(batch.image_seeds[batch.image], expected)
        assert len(found) == len(rows) and sorted(found.tolist()) == sorted(expected.tolist())


def test_batches_of_some_rows_say_whose_they_are(family):
    """A batch of none too, and without reading it from where the tables lie."""
    asked = ask(family, [[picture(40, 40, 1)], [picture(40, 40, 2)]], 2).batch
    for rows in ([], [0], [2, 3], [1, 2]):
        some = asked.rows(rows)[0]
        assert some.image.dtype == torch.int64 and "image_of" in vars(some)
        assert some.image_of == some.image.tolist()
    moved = asked.to(torch.device("meta"))
    assert moved.image.device.type == "meta" and moved.image_of == asked.image.tolist()
