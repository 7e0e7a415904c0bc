"""What the selections of methods inside the model cost beside their floor, one thread: the least that each rule asks for.

``pytest --benchmark -k inside`` prints the table of ratios at its end.
"""

import pytest
import torch

from methods.registry import create
from methods.types import Budget, ModelShape, Signals

SHAPE = ModelShape(
    "llava-1.5-7b", 576, (24, 24), 23, 1024, 16, 4096, True, 14, 32, 4096, 32, 32, 128, 11008, True, 32064, tower_blocks=24
)
COUNT, HEADS, TOWER_HEADS, TEXT, SYSTEM, BASIS = 576, 32, 16, 40, 35, 10

pytestmark = pytest.mark.usefixtures("one_thread")

_MADE: dict[int, Signals] = {}


def signals(batch: int = 1) -> Signals:
    """Independent tokens of the widths of LLaVA-1.5."""
    if batch not in _MADE:
        _MADE.clear()
        g = torch.Generator().manual_seed(0)
        draw = lambda *size: torch.randn(batch, *size, generator=g)
        rows = lambda *size: torch.rand(batch, *size, generator=g)
        vision = rows(TOWER_HEADS, COUNT)
        _MADE[batch] = Signals(
            features=draw(COUNT, 4096), vision_features=draw(COUNT, 1024), vision_features_first=draw(COUNT, 1024),
            cls_attention=vision, cls_attention_early=rows(TOWER_HEADS, COUNT), cls_attention_last=vision,
            received_attention=vision, received_attention_early=rows(TOWER_HEADS, COUNT), vision_values_full=draw(COUNT, 1024),
            cls_value_full=draw(1024), hidden_states=draw(COUNT, 4096), hidden_states_before=draw(COUNT, 4096),
            text_attention=rows(HEADS, TEXT, COUNT) / COUNT, text_attention_ahead=rows(HEADS, 1, COUNT),
            values_full=draw(COUNT, 4096), text_values_full=draw(TEXT, 4096), system_values_full=draw(SYSTEM, 4096),
            keys_unrotated=draw(COUNT, 4096), text_queries_unrotated=draw(1, 4096), seeds=torch.arange(batch), count=COUNT,
            batch=batch, grid=(24, 24),
        )  # fmt: skip
    return _MADE[batch]


def selection(expression: str, keep: int, batch: int = 1, s: Signals | None = None):
    """The method's first selector on the tensors, keeping ``keep``."""
    step = create(expression).steps(SHAPE, Budget(432, "final"))[0]
    view = (s or signals(batch)).only(step.needs)
    return lambda: step.select(view, keep)


def rank(scores: torch.Tensor) -> torch.Tensor:
    return scores.argsort(dim=-1, descending=True, stable=True)


def apart(tokens: torch.Tensor, keep: int, others: int) -> tuple[torch.Tensor, ...]:
    """Dropped tokens normalised and multiplied with those that others may join, and all added up row by row."""
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    near = (unit[:, keep:] @ unit[:, :others].mT).argmax(-1)
    own = tokens[:, :others].clone()
    place = torch.arange(tokens.shape[1])
    joined = own[0].index_add_(0, near[0], tokens[0, keep:]) / near.shape[1]
    return joined, torch.zeros(1, keep, tokens.shape[1], dtype=torch.bool), place


def sampled(tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Ten rounds, each a product with all tokens, nearest distances kept and the farthest found; all residuals' lengths."""
    squares = tokens.square().sum(-1)
    nearest, products = squares.clone(), []
    for i in range(BASIS):
        products.append(torch.bmm(tokens[:, i : i + 1], tokens.mT))
        torch.minimum(nearest, squares - 2 * products[-1][:, 0], out=nearest).argmax(-1)
    weights = torch.cat(products, 1).mT
    return nearest, torch.linalg.vector_norm(torch.baddbmm(tokens, weights, tokens[:, :BASIS]), dim=-1)


def flow(values: torch.Tensor, heads: int, one: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Products of one token's values with all, head by head, softmax; the values averaged over heads, and their lengths."""
    split, own = values.unflatten(-1, (heads, -1)), one.unflatten(-1, (heads, -1))
    return torch.einsum("bnhd,bhd->bnh", split, own).softmax(1).mean(-1), split.mean(2).abs().sum(-1)


def floors(s: Signals, keep: int):
    """The least that each method's first selector has to do, by expression."""
    early, deep = lambda: rank(s.cls_attention_early.mean(1)), lambda: rank(s.cls_attention.mean(1))
    values = lambda: torch.cat([s.values_full, s.system_values_full, s.text_values_full], 1).unflatten(-1, (HEADS, -1))
    rows, one = TEXT - 2 + 6, s.text_queries_unrotated[:, -1]
    unit = lambda: torch.nn.functional.normalize(s.vision_features_first, dim=-1)
    return {
        # both attentions averaged and sorted, the early one once more by window; dropped tokens against the kept, and their sums
        "vscan[stages=vision]": lambda: (early(), deep(), early(), apart(s.features, keep, keep)),
        "vscan[stages=vision,score=received]": lambda: (early(), deep(), early(), apart(s.features, keep, keep)),
        # the last row of every head read once, then sorted
        "vscan[stages=llm]": lambda: rank(s.text_attention_ahead[:, :, -1].mean(1)),
        # ten rounds of products with all tokens, residuals, a sort; dropped tokens against those that are not overwritten
        "apet[stages=vision,start=3]": lambda: (
            sampled(s.vision_features), rank(s.cls_attention[:, 0]), apart(s.vision_features, keep, keep - BASIS),
        ),
        "apet[stages=llm,start=3]": lambda: (
            sampled(s.hidden_states), rank(s.cls_attention[:, 0]), apart(s.hidden_states, keep, keep - BASIS),
        ),
        # attention averaged, values of CLS against all, entropy, a sort
        "flowcut": lambda: (
            torch.special.entr(s.cls_attention.mean(1).double()).sum(-1), rank(s.cls_attention[:, 0]),
            flow(s.vision_values_full, TOWER_HEADS, s.cls_value_full),
        ),
        "flowcut[stages=llm]": lambda: (
            rank((s.text_attention[:, :, -1] / s.text_attention[:, :, -1].sum(-1, keepdim=True)).mean(1)),
            flow(s.values_full, HEADS, s.text_values_full[:, -1]),
        ),
        # one pass over both states, a sort
        "v2drop": lambda: rank((s.hidden_states - s.hidden_states_before).norm(dim=-1)),
        # tokens normalised, summed window by window twice, and what stays copied
        "mustdrop": lambda: (
            unit().view(1, 8, 3, 8, 3, -1).sum((2, 4)).square().sum(-1), unit().square().sum(-1), s.vision_features_first.clone(),
            torch.zeros(1, COUNT, COUNT, dtype=torch.bool),
        ),
        # all rows of all heads read once, their sums and largest compared; the last block's attention sorted, its top marked
        "mustdrop[stages=llm,total=0.002,single=0.02]": lambda: (
            ((mean := s.text_attention.mean(1)).sum(1) < 1) & (mean.amax(1) < 1), torch.zeros(1, COUNT, dtype=torch.bool)
            .scatter_(1, rank(s.cls_attention_last.mean(1))[:, :47], True).nonzero(),
        ),
        # values of the text rows and seeds against all, softmax, head means; four sorts
        "ivcprune": lambda: (
            (values()[:, :rows].transpose(1, 2) @ values().permute(0, 2, 3, 1)).softmax(-1)[..., :COUNT].mean(1),
            [rank(s.cls_attention[:, i]) for i in range(4)], torch.rand(COUNT, 64).cos(), torch.rand(COUNT, 64).sin(),
        ),
        # one query of every head against all keys, softmax, head means, a sort
        "feather": lambda: rank(
            torch.einsum("bnhd,bhd->bhn", *(part.unflatten(-1, (HEADS, -1)) for part in (s.keys_unrotated, one)))
            .softmax(-1).mean(1)
        ),
    }  # fmt: skip


FIXED = [
    "vscan[stages=vision]", "vscan[stages=vision,score=received]", "vscan[stages=llm]", "apet[stages=vision,start=3]",
    "apet[stages=llm,start=3]", "flowcut[stages=llm]", "v2drop",
]  # fmt: skip
ADAPTIVE = ["flowcut", "mustdrop", "mustdrop[stages=llm,total=0.002,single=0.02]", "ivcprune", "feather"]


@pytest.mark.benchmark(group="selection, inside")
@pytest.mark.parametrize("keep", [64, 192])
@pytest.mark.parametrize("expression", FIXED + ADAPTIVE)
def test_inside_selection_beside_its_floor(against_floor, expression, keep):
    """Floors: see `floors`, one line of derivation each. Dispatch counts: under 0.1 ms it is most of what is measured."""
    against_floor(selection(expression, keep), floors(signals(), keep)[expression], 1.5, 40)


@pytest.mark.benchmark(group="selection, inside, eight images")
@pytest.mark.parametrize("expression", FIXED)
def test_inside_selection_of_eight_images(against_floor, expression):
    """Floor: the eight images one after another."""
    whole = signals(8)
    rows = [
        Signals(**{n: v[i : i + 1] if torch.is_tensor(v) else v for n, v in vars(whole).items()} | {"batch": 1}) for i in range(8)
    ]
    alone = [selection(expression, 64, s=row) for row in rows]
    against_floor(selection(expression, 64, 8), lambda: [one() for one in alone], 1.2, 9)
