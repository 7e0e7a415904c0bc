"""Places, positions and masks of sequences against versions that a reader can check by eye."""

from __future__ import annotations

import pytest
import torch

from harness.engine.layout import LANES, TokenPositions, build_layout
from harness.models.prompt import NEWLINE, VISUAL, Area, ImageSpan, PromptPrefix, grid_span

ROWS = ImageSpan((5, VISUAL, VISUAL, NEWLINE, VISUAL, VISUAL, NEWLINE, 6), (Area(2, 2),))
PREFIXES = {
    "one": PromptPrefix.of([1, 2], (grid_span(2, 3),)),
    "rows": PromptPrefix.of([1], (ROWS,)),
    "two": PromptPrefix.of([1, VISUAL, 3, 4], (ROWS, grid_span(1, 2))),
    "axes": PromptPrefix.of([1, 2], (grid_span(2, 3),), 3),
    "two, axes": PromptPrefix.of([1, VISUAL, 3, 4], (grid_span(3, 2), grid_span(1, 4)), 3),
}


def test_prefixes_lay_out_what_their_spans_put_in():
    two = PREFIXES["two"]
    assert two.ids == (1, *ROWS.ids, 3, 4, VISUAL, VISUAL)
    assert two.text.tolist() == [1, 5, NEWLINE, NEWLINE, 6, 3, 4]
    assert two.visual_before.tolist() == [0, 0, 2, 4, 4, 4, 4]
    assert two.image.tolist() == [0, 0, 0, 0, 1, 1]
    assert two.positions.tolist() == list(range(13))
    axes = PREFIXES["two, axes"]
    assert axes.positions[:, axes.is_visual].tolist() == [
        [1] * 6 + [6] * 4,
        [1, 1, 2, 2, 3, 3, 6, 6, 6, 6],
        [1, 2, 1, 2, 1, 2, 6, 7, 8, 9],
    ]
    assert axes.positions[:, ~axes.is_visual].tolist() == [[0, 4, 5]] * 3
    assert axes.question_start == 10


@pytest.mark.parametrize("name", PREFIXES)
@pytest.mark.parametrize("seed", range(8))
def test_kept_tokens_stand_in_their_old_order(name, seed):
    """Also in two steps: what is kept of what was kept."""
    prefix, g = PREFIXES[name], torch.Generator().manual_seed(seed)
    first = torch.stack([torch.randperm(prefix.count, generator=g)[: prefix.count - 1].sort().values for _ in range(3)])
    keep = int(torch.randint(0, prefix.count, (1,), generator=g))
    group = torch.tensor([2, 0, 0, 1])
    second = torch.stack([torch.randperm(prefix.count - 1, generator=g)[:keep].sort().values for _ in range(4)])
    once = TokenPositions.of(prefix, first)
    positions = once.keep(group, second)
    left = first[group].gather(1, second)
    text, visual = positions.columns()
    where = prefix.is_visual.nonzero()[:, 0]
    for row in range(4):
        old = sorted([*(~prefix.is_visual).nonzero()[:, 0].tolist(), *where[left[row]].tolist()])
        order = {int(c): place for place, c in enumerate(old)}
        assert text[row].tolist() == [order[int(c)] for c in (~prefix.is_visual).nonzero()[:, 0]]
        assert visual[row].tolist() == [order[int(c)] for c in where[left[row]]]
        assert torch.equal(positions.visual[..., row, :], prefix.positions[..., where[left[row]]])
    assert (positions.question_start == prefix.question_start).all()
    if prefix.axes == 1:
        numbered = positions.contiguous()
        assert torch.equal(numbered.visual, visual)
        assert torch.equal(numbered.text, text)
        assert (numbered.question_start == len(prefix.text) + keep).all()


def test_axes_lose_the_rows_and_columns_that_hold_nothing():
    prefix = PREFIXES["two, axes"]  # text 0, image rows 1..3 columns 1..2, text 4 5, image row 6 columns 6..9
    kept = TokenPositions.of(prefix, torch.tensor([[0, 5, 7, 9], [2, 4, 6, 9]])).contiguous()
    assert kept.visual[:, 0].tolist() == [[1, 1, 5, 5], [1, 2, 5, 5], [1, 2, 5, 6]]
    assert kept.text[:, 0].tolist() == [[0, 3, 4]] * 3
    assert kept.visual[:, 1].tolist() == [[1, 1, 5, 5], [1, 2, 5, 5], [1, 1, 5, 6]]
    assert kept.question_start.tolist() == [7, 7]
    none = TokenPositions.of(prefix, torch.zeros(1, 0, dtype=torch.int64)).contiguous()
    assert none.text[:, 0].tolist() == [[0, 1, 2]] * 3
    assert none.question_start.tolist() == [3]


def test_a_token_of_no_single_place_stands_behind_the_one_before_it():
    positions = TokenPositions.of(PREFIXES["rows"], torch.arange(4)[None]).keep(torch.tensor([0]), torch.tensor([[0, 2, -1]]))
    text, visual = positions.columns()
    assert visual.tolist() == [[2, 4, 5]]
    assert text.tolist() == [[0, 1, 3, 6, 7]]
    assert positions.visual.tolist() == [[2, 5, 8]]  # numbered like the last place before the question


@pytest.mark.parametrize("window", [None, 1, 3, 5, 100])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", ["one", "two"])
def test_masks_against_a_version_that_asks_for_every_pair(name, together, window):
    prefix = PREFIXES[name]
    indices = torch.tensor([[0, 2, 3, 5], [1, 2, 3, 4]])
    layout = build_layout(TokenPositions.of(prefix, indices), [[2, 3], [4]])
    mask = layout.mask(window, together)[:, 0]
    for g in range(2):
        for q in range(mask.shape[1]):
            for k in range(mask.shape[1]):
                own, other = int(layout.segments[g, q]), int(layout.segments[g, k])
                image = int(layout.image[g, q])
                later = k > q and not (together and image >= 0 and image == int(layout.image[g, k]))
                seen = [c for c in range(q + 1) if layout.segments[g, c] in (0, own)]  # what q's question sees, q included
                near = window is None or k > q or k in seen[-window:]
                allowed = other in (0, own) and other >= 0 and not later and near and own >= 0
                assert bool(mask[g, q, k]) == (allowed or q == k), (g, q, k)


def test_causality_alone_needs_no_mask():
    layout = build_layout(TokenPositions.of(PREFIXES["one"], torch.arange(6)[None]), [[3]])
    assert layout.mask() is None
    assert layout.mask(window=11) is None
    assert layout.mask(window=10) is not None
    assert layout.mask(bidirectional_images=True) is not None


@pytest.mark.parametrize("name", PREFIXES)
def test_where_a_sequence_stands_does_not_depend_on_the_others(name):
    """Alone or beside longer ones, its columns are the same; wider than it is, the width is whole lanes."""
    prefix = PREFIXES[name]
    indices = torch.arange(prefix.count).expand(3, -1)
    own = [[4, 2], [3], [1, 6, 2]]
    batch = build_layout(TokenPositions.of(prefix, indices), own)
    width = batch.segments.shape[1]
    assert width % LANES == 0 and width - LANES < len(prefix.ids) + 9 <= width
    row = 0
    for sequence, questions in enumerate(own):
        alone = build_layout(TokenPositions.of(prefix, indices[:1]), [questions])
        inside = int((alone.segments[0] >= 0).sum())
        for table in ("segments", "slots", "image", "positions"):
            mine, beside = (getattr(one, table)[..., place, :inside] for one, place in ((alone, 0), (batch, sequence)))
            assert torch.equal(mine, beside), table
        assert (batch.segments[sequence, inside:] == -1).all()
        for number in range(len(questions)):
            assert alone.text[number].unique().tolist() == batch.text[row].unique().tolist()
            row += 1
    for lengths, plain, padded in (
        ([[3], [3], [3]], True, True),
        ([[3], [1], [2]], False, True),
        ([[3], [1, 2], [2]], False, False),
    ):
        made = build_layout(TokenPositions.of(prefix, indices), lengths)
        assert (made.causal_only, made.causal_prefill, made.mask() is None) == (plain, padded, padded)
