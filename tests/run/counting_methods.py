"""A plug-in of methods that decide from the image, or from the question, how many tokens stay."""

from dataclasses import dataclass, replace

import torch

from methods import Selection, Signals, register
from methods.types import PROJECTOR, Budget, Method, ModelShape, Step, decoder, vision

ROW = frozenset({"text_attention"})
LAYERS = {1: 1.0, 3: 20.0}
"""Layers before which tokens leave, and how many times the level a token needs there."""


@register("attended", paper="an example", site="decoder", needs=ROW)
@dataclass(frozen=True)
class Attended(Method):
    """Twice in the LLM, tokens stay whose attention from the last text token, mean over heads, is above a level."""

    level: float | None = None
    merging: bool = False

    @property
    def tuned(self) -> bool:
        return self.level is None

    def calibrated(self, level: float) -> Method:
        return replace(self, level=level)

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        count = shape.visual_tokens
        steps = tuple(
            Step(decoder(layer), Above(None if self.level is None else times * self.level), count, count, ROW, 1e6, adaptive=True)
            for layer, times in LAYERS.items()
        )
        if not self.merging:
            return steps
        needs = frozenset({"vision_features_first"})
        return (Step(vision(0), alike, count, count, needs, behind=True, merges=True, adaptive=True), *steps)


@dataclass(frozen=True)
class Above:
    """At least the token that is attended to most."""

    level: float | None

    def __call__(self, signals: Signals, keep: int) -> Selection:
        assert self.level is not None, "found before it runs"
        row = signals.text_attention[:, :, -1].mean(1)
        (one,) = (row > self.level) | (row == row.max())
        return Selection(one.nonzero()[:, 0][None])


def alike(signals: Signals, keep: int) -> Selection:
    """Neighbours in a pair become one token where their cosine is above 0.9, and all tokens stay in their order."""
    (states,) = signals.vision_features_first.float()
    first, second = states[0 : len(states) - 1 : 2], states[1::2]
    (joined,) = (torch.nn.functional.cosine_similarity(first, second) > 0.9).nonzero(as_tuple=True)
    stays = torch.ones(len(states), dtype=torch.bool)
    stays[2 * joined + 1] = False
    source = torch.eye(len(states), dtype=torch.bool)
    source[2 * joined, 2 * joined + 1] = True
    source = source[stays]
    tokens = source.float() @ states / source.sum(1, keepdim=True)
    places = stays.nonzero()[:, 0]
    return Selection(places[None], tokens[None], source.sum(1)[None], source[None], space="tower")


@register("outstanding", paper="an example", needs={"cls_attention"})
@dataclass(frozen=True)
class Outstanding(Method):
    """Tokens stay that CLS attends to more than to a token on average."""

    @property
    def budgeted(self) -> bool:
        return False

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        return (Step(PROJECTOR, above_average, 9, 9, frozenset({"cls_attention"}), adaptive=True),)


def above_average(signals: Signals, keep: int) -> Selection:
    """Of one image."""
    (row,) = signals.cls_attention.mean(1)
    return Selection((row > row.mean()).nonzero()[:, 0][None])


@register("worded", paper="an example", needs={"features", "text_features"})
@dataclass(frozen=True)
class Worded(Method):
    """As many tokens stay as the question has, and two: a count that differs between the questions of an image."""

    @property
    def budgeted(self) -> bool:
        return False

    def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
        return (Step(PROJECTOR, as_many_as_words, 9, 9, frozenset({"features", "text_features"}), adaptive=True),)


def as_many_as_words(signals: Signals, keep: int) -> Selection:
    """The first of them."""
    return Selection(torch.arange(signals.text_features.shape[1] + 2)[None])
