"""Caches of earlier layers lose what a later step dropped: answers against transformers' own modules with explicit masks."""

from __future__ import annotations

import pytest
import torch

from harness.engine.engine import Engine
from harness.engine.request import EngineRequest
from harness.engine.sharing import CellPath, SharedPrefill
from harness.models.prompt import NEWLINE, VISUAL
from methods.types import Selection, Step, decoder
from tests.models.tiny_families import ask, make, picture

LIMIT = 6


def kept_by(seed: int):
    """A selector that keeps random tokens, by the row's own stream."""

    def select(signals, keep: int) -> Selection:
        rows = [torch.randperm(signals.count, generator=torch.Generator().manual_seed(seed + int(s))) for s in signals.seeds]
        return Selection(torch.stack(rows)[:, :keep])

    return select


def step(layer: int, keep: int, first: int | None, text: bool = True) -> Step:
    needs = frozenset({"seeds"} | ({"text_hidden"} if text else {"hidden_states"}))
    return Step(decoder(layer), kept_by(layer), keep, keep, needs, cuts_cache_from=first)


STEPS = {
    "all earlier layers": (step(2, 5, 0),),
    "from layer 1 on": (step(3, 4, 1),),
    "each question": (step(1, 11, None), step(3, 4, 1)),
    "each image": (step(1, 11, None, text=False), step(2, 4, 0, text=False)),
    "nothing before": (step(2, 0, 0),),
    "two cuts": (step(1, 9, 0), step(3, 3, 2)),
}


@pytest.fixture(scope="module", params=["llava", "qwen2.5-vl", "gemma3"])
def family(request):
    return make(request.param)


@pytest.fixture(scope="module")
def asked(family):
    return ask(family, [[picture(40, 40, 1)], [picture(40, 40, 2)]])


def run(family, asked, steps, **options):
    return Engine(family.adapter, LIMIT).run(EngineRequest(asked.batch, steps, **options))


@torch.inference_mode()
def recomputed(family, asked, row: int, kept: dict[int, torch.Tensor], steps) -> list[int]:
    """The greedy answer by the model's own forward, token for token anew.

    The prompt's own rows see what was there when they were computed; rows of answer tokens see of each layer what its cache
    holds by then.
    """
    adapter, prompt = family.adapter, dict(family.inputs(asked.questions[row], asked.images[row]))
    ids = prompt["input_ids"][0]
    spans = asked.batch.pixels.spans[int(asked.batch.image[row])]
    held = torch.tensor([token for span in spans for token in span.ids if token in (VISUAL, NEWLINE)])
    columns = (ids == adapter.config.image_token_id).nonzero()[:, 0][held == VISUAL]
    cuts = {s.site.layer: s.cuts_cache_from for s in steps if s.cuts_cache_from is not None}

    def hide(index: int):
        def hook(layer, arguments, words):
            hidden = arguments[0] if arguments else words["hidden_states"]
            length = hidden.shape[1]

            def there(by: int | None) -> torch.Tensor:
                seen = torch.ones(length, dtype=torch.bool)
                if by is not None:
                    seen[columns] = False
                    seen[columns[kept[by]]] = True
                return seen

            then = there(max((k for k in kept if k <= index), default=None))
            cutting = [k for k, first in cuts.items() if first <= index < k]
            later = there(max(cutting)) if cutting else then
            kind = adapter.kind(index)
            allowed = torch.ones(length, length, dtype=torch.bool).tril()
            visual = torch.zeros(length, dtype=torch.bool)
            visual[columns] = True
            if kind.bidirectional_images:
                allowed |= visual[:, None] & visual
            rows = []
            for seen in (then, later):
                place, own = seen.long().cumsum(0) - 1, allowed & seen
                if kind.window is not None:  # counts what is there
                    own = own & (place > place[:, None] - kind.window)
                rows.append(own)
            answer = torch.arange(length) >= len(ids)
            mask = torch.where(answer[:, None], rows[1], rows[0])
            words["attention_mask"] = (mask | torch.eye(length, dtype=torch.bool))[None, None]
            return arguments, words

        return hook

    def longer(tokens: list[int]) -> dict:
        fill = {"input_ids": tokens, "attention_mask": [1] * len(tokens)}
        by_token = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
        more = lambda name: torch.tensor([fill.get(name, [0] * len(tokens))], dtype=torch.int64)
        return {name: torch.cat([v, more(name)], 1) if name in by_token and tokens else v for name, v in prompt.items()}

    tokens: list[int] = []
    hooks = [layer.register_forward_pre_hook(hide(i), with_kwargs=True) for i, layer in enumerate(adapter.decoder.layers)]
    try:
        while len(tokens) < LIMIT:
            token = int(adapter.model(**longer(tokens), use_cache=False).logits[0, -1].argmax())
            if token in adapter.end_ids:
                break
            tokens.append(token)
    finally:
        for hook in hooks:
            hook.remove()
    return tokens


@pytest.mark.parametrize("name", STEPS)
def test_answers_are_those_of_the_masked_recompute(family, asked, name):
    steps = STEPS[name]
    outs = [run(family, asked, steps[: i + 1]) for i in range(len(steps))]
    for row in range(len(asked.questions)):
        kept = {s.site.layer: out.kept[row] for s, out in zip(steps, outs, strict=True)}
        assert outs[-1].tokens[row] == recomputed(family, asked, row, kept, steps)


def test_a_cut_changes_answers_and_frees_memory(family, asked):
    """Else the tests above could not fail; where nothing is cut, they are those of the uncut steps."""
    cut, uncut = (run(family, asked, (step(3, 2, first),)) for first in (0, None))
    assert torch.equal(cut.first_logits, uncut.first_logits)
    assert cut.tokens != uncut.tokens
    alone = asked.batch.rows([0])[0]
    whole, less = (Engine(family.adapter, 1).run(EngineRequest(alone, (step(3, 2, first),))).kv_bytes for first in (None, 0))
    shape = family.adapter.shape
    dropped = alone.pixels.counts[0] - 2
    assert whole - less == 3 * dropped * 2 * shape.kv_heads * shape.head_dim * 4


def test_caches_shared_with_other_cells_stay_whole(family, asked):
    """The cell that cuts runs first, from a checkpoint that the others go on from."""
    cells = [(step(3, 2, 0),), (step(3, 2, None),), (step(3, 5, 1),), (step(3, 2, 0),)]
    paths = [CellPath(steps, "original") for steps in cells]
    engine = Engine(family.adapter, LIMIT)
    shared = SharedPrefill(family.adapter, engine.encode_images(asked.batch.pixels), lambda shape: paths)
    for place, steps in enumerate(cells):
        out = engine.run(EngineRequest(asked.batch, steps, shared=shared))
        own = run(family, asked, steps)
        assert out.tokens == own.tokens
        assert out.kv_bytes == own.kv_bytes
        shared.release(place)


def test_results_do_not_depend_on_the_batch(family, asked):
    steps = STEPS["each question"]
    whole = run(family, asked, steps)
    for row in range(len(asked.questions)):
        single, _ = asked.batch.rows([row])
        assert Engine(family.adapter, LIMIT).run(EngineRequest(single, steps)).tokens == whole.tokens[row : row + 1]
    some = Engine(family.adapter, LIMIT).run(EngineRequest(asked.batch, steps, rows=[1, 3]))
    assert some.tokens == [whole.tokens[1], whole.tokens[3]]
