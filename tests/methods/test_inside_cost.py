"""What the methods inside the model multiply: no more than their rules written down naively, and what their steps say."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from methods import cost, mustdrop
from methods.registry import create
from methods.types import PROJECTOR, Budget, ModelShape, Signals

COUNT, WIDTH, HEADS, TOWER, TEXT, SYSTEM, BASIS = 144, 64, 4, 48, 26, 22, 10
SHAPE = ModelShape(
    "c", COUNT, (12, 12), 23, TOWER, HEADS, 96, True, 8, 32, WIDTH, HEADS, HEADS, WIDTH // HEADS, 128, True, 40, tower_blocks=24
)


def signals() -> Signals:
    g = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(1, *size, generator=g)
    rows = lambda *size: draw(*size).softmax(-1)
    return Signals(
        features=draw(COUNT, WIDTH), vision_features=draw(COUNT, TOWER), vision_features_first=draw(COUNT, TOWER),
        cls_attention=rows(HEADS, COUNT), cls_attention_early=rows(HEADS, COUNT), cls_attention_last=rows(HEADS, COUNT),
        received_attention=rows(HEADS, COUNT), received_attention_early=rows(HEADS, COUNT),
        vision_values_full=draw(COUNT, TOWER), cls_value_full=draw(TOWER), hidden_states=draw(COUNT, WIDTH),
        hidden_states_before=draw(COUNT, WIDTH), text_attention=rows(HEADS, TEXT, COUNT),
        text_attention_ahead=rows(HEADS, 1, COUNT),
        values_full=draw(COUNT, WIDTH), text_values_full=draw(TEXT, WIDTH), system_values_full=draw(SYSTEM, WIDTH),
        keys_unrotated=draw(COUNT, WIDTH), text_queries_unrotated=draw(1, WIDTH), seeds=torch.tensor([7]), count=COUNT,
        grid=(12, 12),
    )  # fmt: skip


def by_head(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.unflatten(-1, (HEADS, -1)).transpose(-2, -3)


def joining(tokens: torch.Tensor, kept: int) -> torch.Tensor:
    """Cosines of all dropped with all kept, and the means as a product with who joined whom."""
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    nearest = (unit[:, kept:] @ unit[:, :kept].mT).argmax(-1)
    joins = torch.nn.functional.one_hot(nearest, kept).to(tokens.dtype)
    return joins.mT @ tokens[:, kept:]


def reconstruction(tokens: torch.Tensor, keep: int) -> None:
    """Sampling by distances to each sampled token, then products with the basis, weights, reconstructions, and the joining."""
    for pick in range(BASIS):
        torch.bmm(tokens, tokens[:, pick : pick + 1].mT)
    own = tokens[:, :BASIS]
    weights = torch.linalg.solve(own @ own.mT + torch.eye(BASIS), own @ tokens.mT)
    torch.linalg.vector_norm(tokens - weights.mT @ own, dim=-1)
    joining(tokens[:, BASIS:], keep - BASIS)


def windows(tokens: torch.Tensor) -> torch.Tensor:
    """All cosines inside each window of nine."""
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    grid = unit.view(4, 3, 4, 3, -1).permute(0, 2, 1, 3, 4).flatten(2, 3)
    return grid @ grid.mT


def all_values(s: Signals) -> torch.Tensor:
    """Softmax of the values of all tokens with those of all."""
    values = by_head(torch.cat([s.system_values_full, s.values_full, s.text_values_full], 1))
    return (values @ values.mT).softmax(-1).mean(1)


def naive(s: Signals, keep: int):
    """Every rule written down step by step: what it multiplies."""
    return {
        "vscan[stages=vision]": lambda: joining(s.features, keep),
        "vscan[stages=vision,score=received]": lambda: joining(s.features, keep),
        "vscan[stages=llm]": lambda: None,
        "apet[stages=vision]": lambda: reconstruction(s.vision_features, keep),
        "apet[stages=llm]": lambda: reconstruction(s.hidden_states, keep),
        "flowcut": lambda: (
            by_head(s.cls_value_full[:, None]) @ by_head(torch.cat([s.cls_value_full[:, None], s.vision_values_full], 1)).mT
        ),
        "flowcut[stages=llm]": lambda: by_head(s.text_values_full[:, -1:]) @ by_head(s.values_full).mT,
        "v2drop": lambda: None,
        "mustdrop": lambda: windows(s.vision_features_first),
        "mustdrop[stages=llm,total=0.01,single=0.02]": lambda: None,
        "ivcprune": lambda: all_values(s),
        "feather": lambda: by_head(s.text_queries_unrotated) @ by_head(s.keys_unrotated).mT,
    }


def multiplied(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def own(expression: str, keep: int, s: Signals):
    """The method's first step at a budget, and a call of its selector."""
    step = create(expression).steps(SHAPE, Budget(keep, "final"))[0]
    return step, lambda: step.select(s.only(step.needs), step.keep)


@pytest.mark.parametrize("keep", [24, 64, 120])
@pytest.mark.parametrize("expression", naive(signals(), 1))
def test_no_more_is_multiplied_than_by_the_rule_written_naively(expression, keep):
    s = signals()
    step, call = own(expression, keep, s)
    asked = keep if step.adaptive else step.after
    assert multiplied(call) <= multiplied(naive(s, asked)[expression])


@pytest.mark.parametrize("keep", [24, 64, 120])
@pytest.mark.parametrize("expression", naive(signals(), 1))
def test_a_step_says_what_its_products_cost(expression, keep):
    """FLOPs of a step are its selector's products, the probes that the engine runs for it, and passes over the tokens."""
    s = signals()
    step, call = own(expression, keep, s)
    found, tower = multiplied(call), step.site == PROJECTOR
    width = TOWER if tower else WIDTH
    expected = {
        "vscan[stages=vision]": 2.0 * (COUNT - step.after) * step.after * WIDTH,
        "vscan[stages=vision,score=received]": 2.0 * (COUNT - step.after) * step.after * WIDTH,
        "apet[stages=vision]": 4.0 * BASIS * COUNT * width + 2.0 * (COUNT - keep) * (keep - BASIS) * width,
        "apet[stages=llm]": 4.0 * BASIS * COUNT * width + 2.0 * (COUNT - keep) * (keep - BASIS) * width,
        "flowcut": 2.0 * COUNT * TOWER,
        "flowcut[stages=llm]": 2.0 * COUNT * WIDTH,
        "ivcprune": 2.0 * (TEXT - 2 + 1) * (COUNT + TEXT + SYSTEM) * WIDTH,
        "feather": 2.0 * COUNT * WIDTH,
    }.get(expression, 0.0)
    small = 2.0 * BASIS**2 * width if "apet" in expression else 0.0  # products of the basis with itself
    assert found == pytest.approx(expected + small)
    # the last block, which the model does not run: its norm, the keys of all tokens, and the query and the row of CLS
    made = 2.0 * (COUNT + 1) * TOWER**2 + 2.0 * TOWER**2
    seen = made + 4.0 * (COUNT + 1) * TOWER + cost.attention_rows(HEADS, 1, COUNT + 1, TOWER // HEADS)
    probes = {
        "vscan[stages=vision]": 2 * cost.cls_row(SHAPE, COUNT),
        "vscan[stages=vision,score=received]": 2 * cost.attention_rows(HEADS, COUNT + 1, COUNT + 1, TOWER // HEADS),
        "vscan[stages=llm]": cost.attention_ahead(SHAPE, 1, COUNT),
        "flowcut": cost.cls_row(SHAPE, COUNT),
        "flowcut[stages=llm]": cost.attention_rows(HEADS, 1, COUNT, WIDTH // HEADS),
        "mustdrop[stages=llm,total=0.01,single=0.02]": cost.attention_rows(HEADS, 12, COUNT, WIDTH // HEADS) + seen,
    }.get(expression, 0.0)
    passes = 60.0 * COUNT * WIDTH
    assert expected + probes <= step.flops <= expected + probes + passes


def test_a_window_is_told_by_the_sum_of_its_tokens_without_a_product():
    s = signals()
    assert multiplied(lambda: mustdrop.merge(s, COUNT)) == 0
