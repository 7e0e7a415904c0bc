"""Selections do not depend on the batch: where two of them first differ, their scores are within rounding of each other.

The same signals are put to every method in a batch of eight, each row alone, and each row alone with noise as large as the
rounding of another batch size in a tower.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.cdpruner import relevance
from methods.check import random_signals
from methods.otprune import even
from methods.registry import create
from methods.similarity import cosine, shared_similarity
from methods.types import Budget, ModelShape, Signals

COUNT, WIDTH = 144, 48
SHAPE = ModelShape(
    "b", COUNT, (12, 12), 4, WIDTH, 2, 32, True, 8, 12, WIDTH, 2, 2, 8, 32, True, 40, joint_width=8,
    joint_text=(1, 16, 32),
)  # fmt: skip
RULE = 1e-4  # relative, of two scores that change places
WITHOUT_SCORES = (
    "random", "holov", "dart", "grid", "fps[space=grid]", "oracle", "sparsevlm", "sparsevlm[version=2]", "visionzip",
    "visionzip[score=received]", "prumerge", "pool", "hiprune", "fastervlm", "hired", "scope", "prunesid", "trim",
)  # fmt: skip
"""Their scores lie apart in what is drawn here, or are of places alone: no noise of rounding changes them."""


def alike(seed: int) -> Signals:
    """Eight rows of tokens as a projector gives them: a few strong directions, many weak ones, and one that all share."""
    g = torch.Generator().manual_seed(seed)
    drawn = random_signals(8, COUNT, seed=seed)

    def tokens() -> torch.Tensor:
        strength = 10 ** torch.linspace(0, -3, WIDTH)
        return torch.randn(8, COUNT, WIDTH, generator=g) * strength + 0.5 * torch.randn(WIDTH, generator=g)

    own = {"features": tokens(), "vision_features": tokens(), "text_features": tokens()[:, :5], "cls_feature": tokens()[:, 0]}
    return Signals(**{**vars(drawn), **own})


def row(given: Signals, place: int, noise: float = 0.0, seed: int = 0) -> Signals:
    """One row alone; ``noise`` is relative."""
    g, parts = torch.Generator().manual_seed(seed), {}
    for name, value in vars(given).items():
        if torch.is_tensor(value):
            value = value[place : place + 1]
            if noise and value.is_floating_point() and name not in ("positions", "sizes"):
                value = value * (1 + noise * torch.randn(value.shape, generator=g))
        parts[name] = value
    return Signals(**{**parts, "batch": 1})


def wide(given: Signals) -> Signals:
    cast = lambda value: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
    return Signals(**{name: cast(value) for name, value in vars(given).items()})


def step_of(expression: str):
    return create(expression).steps(SHAPE, Budget(108))[0]


def chosen(expression: str, given: Signals, keep: int) -> list[list[int]]:
    step = step_of(expression)
    return step.select(given.only(step.needs), keep).indices.tolist()


def determinant_gain(kernel: torch.Tensor, kept: list[int]) -> torch.Tensor:
    """What each token would multiply the determinant of the kept by: [N]."""
    if not kept:
        return kernel.diagonal()
    across = kernel[kept]
    gain = kernel.diagonal() - (across * torch.linalg.lstsq(kernel[kept][:, kept], across).solution).sum(0)
    return torch.where(gain > 1e-10 * kernel.diagonal(), gain, 0.0)


def fps_score(given: Signals, kept: list[int]) -> torch.Tensor:
    similarity = cosine(given.features)[0]
    return -similarity[kept].amax(0) if kept else similarity.sum(0)


def divprune_score(given: Signals, kept: list[int]) -> torch.Tensor:
    similarity = cosine(given.features)[0]
    return fps_score(given, kept) if kept else -(similarity - 2 * torch.eye(COUNT)).amax(0)


def repulsion_score(given: Signals, kept: list[int]) -> torch.Tensor:
    distance = step_of("sts[stages=structure]").select.distance(given)[0]
    floor = distance.max() * 1e-3
    energy = (distance.clamp_min(floor) / floor) ** -4.0
    energy.fill_diagonal_(0)
    return -(energy[kept] if kept else energy).sum(0)


def cdpruner_score(given: Signals, kept: list[int]) -> torch.Tensor:
    quality = relevance(given.image_embeds, given.text_embeds)[0]
    return determinant_gain(cosine(given.features)[0], kept) * quality.square()


def otprune_score(given: Signals, kept: list[int]) -> torch.Tensor:
    tokens = even(given.features)[0]
    alike = tokens @ tokens.T
    return determinant_gain(torch.eye(COUNT) + 0.01 * alike @ alike, kept)


SCORES = {
    "divprune": divprune_score,
    "fps": fps_score,
    "sts[stages=structure]": repulsion_score,
    "cdpruner": cdpruner_score,
    "otprune": otprune_score,
    "fastv": lambda given, kept: given.text_attention[0, :, -1].mean(0),
    "pyramiddrop": lambda given, kept: given.text_attention_ahead[0, :, -1].mean(0),
    "sts[stages=semantics]": lambda given, kept: given.text_attention[0].mean((0, 1)),
}
"""What each method maximises in its next choice after ``kept``, in float64: [N]."""


def within_rule(expression: str, given: Signals, first: list[int], second: list[int]) -> None:
    """Whether two selections are equal up to a place where the two tokens' scores are within the rule."""
    place = next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), None)
    if place is not None:
        score = SCORES[expression](wide(given), first[:place])
        a, b = float(score[first[place]]), float(score[second[place]])
        assert abs(a - b) <= RULE * max(abs(a), abs(b)), f"{expression}: at place {place} scores are {a} and {b}"


@pytest.mark.parametrize("expression", SCORES)
@pytest.mark.parametrize("seed", range(3))
def test_the_first_difference_is_of_equal_scores(expression, seed):
    given, keep = alike(seed), 60  # more than the tokens' rank
    together = chosen(expression, given, keep)
    for place in range(8):
        alone = row(given, place)
        within_rule(expression, alone, together[place], chosen(expression, alone, keep)[0])
        within_rule(expression, alone, together[place], chosen(expression, row(given, place, 6e-8, seed), keep)[0])


@pytest.mark.parametrize("expression", SCORES)
def test_the_rule_sees_another_choice(expression):
    given = row(alike(0), 0)
    kept = chosen(expression, given, 12)[0]
    with pytest.raises(AssertionError, match="at place 5"):
        within_rule(expression, given, kept, kept[:5] + kept[6:])


@pytest.mark.parametrize(
    "expression", ("cdpruner", "divprune", "fps", "sts[stages=structure]", "otprune", "vispruner", "scope", "prunesid")
)
def test_rows_alone_choose_the_same_tokens_to_the_last(expression):
    """What depends on products of all pairs of tokens: they are multiplied row by row."""
    given = alike(4)
    together = chosen(expression, given, 60)
    assert together == [chosen(expression, row(given, place), 60)[0] for place in range(8)]


@pytest.mark.parametrize("expression", WITHOUT_SCORES)
def test_methods_without_close_scores_do_not_change(expression):
    given = alike(5)
    together = chosen(expression, given, 60)
    for place in range(8):
        for noise in (0.0, 6e-8):
            assert chosen(expression, row(given, place, noise), 60)[0] == together[place]


def test_noise_changes_vispruner_only_where_attention_or_similarity_is_close():
    """The order by attention decides how the rest is split, so two close scores anywhere in it may change the whole choice."""
    given = alike(6)
    together = chosen("vispruner", given, 60)
    for place in range(8):
        alone, noisy = row(given, place), row(given, place, 6e-8, 6)
        orders = [one.cls_attention[0].mean(0).argsort(descending=True).tolist() for one in (alone, noisy)]
        differ = next((i for i, (a, b) in enumerate(zip(*orders)) if a != b), None)
        if differ is not None:
            a, b = (float(alone.cls_attention[0].double().mean(0)[order[differ]]) for order in orders)
            assert abs(a - b) <= RULE * max(a, b)
        elif chosen("vispruner", noisy, 60)[0] != together[place]:
            assert closest_round(cosine(wide(alone).vision_features)[0].numpy(), orders[0][30:], 30) <= RULE


def closest_round(similarity: np.ndarray, order: list[int], keep: int) -> float:
    """Least relative gap, over all rounds of thinning, between neighbours in the order of the first half."""
    gap = np.inf
    while len(order) > keep:
        left, right = order[::2], order[1::2]
        best = np.array([similarity[a, right].max() for a in left])
        ranked = np.argsort(-best, kind="stable")
        gap = min(gap, float(np.min(-np.diff(best[ranked]) / np.abs(best[ranked][:-1]))))
        leave = min(8, len(order) - keep, len(left))
        order = [left[i] for i in ranked[leave:]] + right
    return gap


@pytest.mark.parametrize("expression", [name for name in SCORES if name != "sts[stages=structure]"])
@pytest.mark.parametrize("batch", [1, 8])
def test_equal_tokens_go_by_rising_index(expression, batch):
    """In any batch. The numbers are such that products and sums are exact; repulsion tells copies apart, by their places."""
    g, copies = torch.Generator().manual_seed(7), {100: 3, 17: 90, 140: 60}  # each a copy of the other
    signs = lambda width: torch.randint(0, 2, (8, COUNT, width), generator=g).float() * 2 - 1
    rows = lambda: torch.randint(1, 64, (8, 2, 4, COUNT), generator=g) / 1024
    given = {"features": signs(64), "image_embeds": signs(16), "text_attention": rows(), "text_attention_ahead": rows()}
    for name, value in given.items():
        for copy, origin in copies.items():
            value.select(3 if "attention" in name else 1, copy).copy_(value.select(3 if "attention" in name else 1, origin))
    given = Signals(**given, text_embeds=torch.eye(16)[3].expand(8, 1, -1), count=COUNT, batch=8, grid=(12, 12))
    for kept in chosen(expression, given if batch == 8 else row(given, 0), COUNT - 1):
        for pair in copies.items():
            low, high = sorted(pair)
            assert kept.index(low) < (kept.index(high) if high in kept else COUNT)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 5, 96, 97, 200])
def test_cosines_are_symmetric_and_independent_of_the_batch(count, dtype):
    tokens = torch.randn(3, count, 40, generator=torch.Generator().manual_seed(count))
    tokens[1, 0] = 0
    found = cosine(tokens, dtype=dtype)
    unit = torch.nn.functional.normalize(tokens.double(), dim=-1)
    assert found.dtype == dtype or (dtype is None and found.dtype == torch.float32)
    torch.testing.assert_close(found.double(), unit @ unit.mT, atol=2e-6, rtol=0)
    assert torch.equal(found, found.mT)
    assert (found[1, 0] == 0).all()
    if count > 96:
        assert all(torch.equal(found[place], cosine(tokens[place : place + 1], dtype=dtype)[0]) for place in range(3))
    halves = cosine(tokens.bfloat16(), dtype=dtype)
    torch.testing.assert_close(halves.double(), found.double(), atol=2e-2, rtol=0)


def test_a_similarity_is_computed_once_inside_the_context_and_forgotten_behind_it():
    tokens, others = torch.randn(2, 2, 100, 8).unbind(0)
    assert cosine(tokens) is not cosine(tokens)
    with shared_similarity():
        first = cosine(tokens)
        assert cosine(tokens) is first
        assert cosine(tokens.clone()) is not first  # equal, but another object
        assert cosine(others) is not first
        assert cosine(tokens, dtype=torch.float64) is cosine(tokens, dtype=torch.float64)
        assert cosine(tokens, others) is not cosine(tokens, others)
        with shared_similarity():
            assert cosine(tokens) is not first
        assert cosine(tokens) is first
    assert cosine(tokens) is not first
    assert torch.equal(cosine(tokens), first)


def test_few_similarities_are_held_and_none_longer_than_its_tokens():
    import gc
    import weakref

    with shared_similarity():
        tokens = [torch.randn(1, 100, 8) for _ in range(6)]
        held = [weakref.ref(cosine(one)) for one in tokens]
        assert [one() is not None for one in held] == [False, False, True, True, True, True]
        tokens.clear()
        cosine(torch.randn(1, 100, 8))
        gc.collect()
        assert all(one() is None for one in held)
        kept = torch.randn(1, 100, 8)
        last = weakref.ref(cosine(kept))
        assert last() is not None
    assert last() is None


def test_a_thread_shares_nothing_with_the_one_that_started_it():
    from concurrent.futures import ThreadPoolExecutor

    tokens = torch.randn(1, 100, 8)
    with shared_similarity(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(cosine, tokens).result() is not cosine(tokens)


@pytest.mark.parametrize(
    "expression", ["divprune", "fps", "sts", "cdpruner", "otprune", "vispruner", "holov", "scope", "mmtok", "prunesid"]
)
def test_methods_leave_a_shared_similarity_as_it_is(expression):
    """Under sharing each chooses what it chooses alone, and so does the next."""
    given, step = alike(8), step_of(expression)
    view = given.only(step.needs)
    alone = step.select(view, 40).indices
    with shared_similarity():
        before = {dtype: cosine(given.features, dtype=dtype).clone() for dtype in (torch.float32, torch.float64)}
        seen = cosine(given.vision_features).clone()
        assert torch.equal(step.select(view, 40).indices, alone)
        assert all(torch.equal(cosine(given.features, dtype=dtype), matrix) for dtype, matrix in before.items())
        assert torch.equal(cosine(given.vision_features), seen)
