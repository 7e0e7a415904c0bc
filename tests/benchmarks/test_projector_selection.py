"""What the selections of seven methods before the LLM cost beside their floors, one thread: see `floors` for each.

``pytest --benchmark -k projector_selection`` prints the table of ratios at its end.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from methods.registry import create
from methods.types import Budget, Signals
from tests.benchmarks.test_selection import SHAPES, alike, rank, signals, similarity

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = ("hiprune", "trim", "fastervlm", "hired", "scope", "prunesid", "mmtok")


def inputs(count: int, batch: int = 1) -> Signals:
    made = signals(count, batch)
    return replace(made, received_attention_early=made.received_attention.flip(-1))


def rounds(rows: torch.Tensor, keep: int) -> None:
    """Greedy coverage at the least: all rows once; then each round the best of N, its column, and the rows whose best grows.

    Of values in no particular order, the t-th is the greatest so far in one row of t.
    """
    adds = rows.to(torch.float64, copy=True).clamp_min_(0)
    gain = adds.sum(1)
    for turn in range(1, keep + 1):
        pick = int(gain.argmax(-1))
        adds[0, :, pick].nonzero()
        part = adds[0, : -(-adds.shape[1] // turn)]
        torch.minimum(part, gain[:, :1]).sum(0)


def returned(s: Signals, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a step in the tower's space hands over: tokens and what each is made of."""
    index = torch.arange(keep)
    return torch.cat([s.vision_features[:, :keep], s.vision_features[:, :1]], 1), index[:, None] == torch.arange(s.count)


def floors(s: Signals, keep: int) -> dict[str, Callable[[], object]]:
    """The least that each method has to do, by name."""
    chosen = lambda scores: rank(scores.mean(1))[:, :keep].sort(-1)
    return {
        # the row of CLS read once and sorted, the kept in order of position
        "fastervlm": lambda: chosen(s.cls_attention),
        "hired": lambda: chosen(s.cls_attention),
        # the same of two blocks, a mask of anchors and neighbours, and the deep block's order behind it
        "hiprune": lambda: (
            chosen(s.received_attention_early), chosen(s.received_attention), torch.zeros(s.batch, s.count),
            rank(s.received_attention[:, 0]).gather(1, rank(s.received_attention[:, 1])),
        ),
        # products with the text, softmax, sort; the mean of the dropped as one product; what is returned
        "trim": lambda: (
            rank((s.image_embeds * s.text_embeds).sum(-1).softmax(-1))[:, :keep].sort(-1),
            torch.zeros(s.batch, 1, s.count) @ s.vision_features, returned(s, keep),
        ),
        # cosines of all pairs, attention, rounds of coverage
        "scope": lambda: (s.cls_attention.mean(1), rounds(similarity(s.vision_features), keep)),
        # cosines of all pairs and with the words, two softmaxes, rounds of coverage
        "mmtok": lambda: rounds(
            torch.cat([(alike(s.text_features, s.features) / 0.02).softmax(-1),
                       (similarity(s.vision_features) / 0.2).softmax(-1)], 1), keep,
        ),
        # sigmoid; products of all pairs in float64 and their eigenvectors; cosines of all pairs held to a threshold; sorts; what
        # is returned
        "prunesid": lambda: (
            torch.linalg.eigh(similarity(s.vision_features.sigmoid().double())), similarity(s.vision_features) > 0.5,
            rank(s.cls_attention.mean(1)), rank(s.cls_attention[:, 0]), returned(s, keep),
        ),
    }  # fmt: skip


@pytest.mark.benchmark(group="selection before the LLM")
@pytest.mark.parametrize("keep", [64, 192])
@pytest.mark.parametrize("expression", METHODS)
def test_projector_selection_beside_its_own_floor(against_floor, expression, keep):
    """Dispatch counts: under 0.1 ms it is most of what is measured."""
    made = inputs(576)
    (step,) = create(expression).steps(SHAPES[576], Budget(keep))
    view = made.only(step.needs)
    against_floor(lambda: step.select(view, keep), floors(made, keep)[expression], 1.5, 25)


@pytest.mark.benchmark(group="selection before the LLM, eight images")
@pytest.mark.parametrize("expression", METHODS)
def test_projector_selection_of_eight_images(against_floor, expression):
    """Floor: the same images one after another, each read from memory as in a batch: a batch must not cost more."""
    (step,) = create(expression).steps(SHAPES[576], Budget(64))
    whole = inputs(576, 8)
    eight = whole.only(step.needs)
    alone = [
        Signals(**{n: v[i : i + 1].clone() if torch.is_tensor(v) else v for n, v in vars(whole).items()} | {"batch": 1}).only(
            step.needs
        )
        for i in range(8)
    ]
    against_floor(lambda: step.select(eight, 64), lambda: [step.select(one, 64) for one in alone], 1.2, 9)
