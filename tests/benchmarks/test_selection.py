"""What a selection costs beside its floor, one thread: the least arithmetic that its rule asks for, in torch's own kernels.

``pytest --benchmark -k selection`` prints the table of ratios at its end.
"""

import pytest
import torch

from methods.check import random_signals
from methods.downsample import grid_within
from methods.merging import bipartite
from methods.random import mix
from methods.registry import create
from methods.sparsevlm import candidates, clusters
from methods.types import Budget, ModelShape, Signals

SHAPES = {
    576: ModelShape("llava-1.5-7b", 576, (24, 24), 23, 1024, 16, 4096, True, 14, 32, 4096, 32, 32, 128, 11008, True, 32064),
    2880: ModelShape("llava-next-7b", 2880, (48, 60), 23, 1024, 16, 4096, True, 14, 32, 4096, 32, 32, 128, 11008, True, 32064),
}
HEADS, TEXT = 32, 40


pytestmark = pytest.mark.usefixtures("one_thread")


_MADE: dict[tuple[int, int], Signals] = {}


def signals(count: int, batch: int = 1) -> Signals:
    """Independent tokens of the widths of LLaVA-1.5."""
    if (count, batch) not in _MADE:
        _MADE.clear()
        g = torch.Generator().manual_seed(0)
        draw = lambda *size: torch.randn(batch, *size, generator=g)
        h, w = SHAPES[count].grid
        places = torch.stack(torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij"), -1)
        rows = torch.rand(batch, HEADS, TEXT, count, generator=g)
        small = random_signals(batch, count)
        _MADE[count, batch] = Signals(
            features=draw(count, 4096), vision_features=draw(count, 1024), vision_keys=draw(count, 64),
            vision_keys_full=draw(count, 1024), cls_attention=torch.rand(batch, 16, count, generator=g), cls_feature=draw(1024),
            received_attention=torch.rand(batch, 16, count, generator=g), image_embeds=draw(count, 768), text_embeds=draw(1, 768),
            text_features=draw(TEXT, 4096), text_attention=rows, text_attention_ahead=rows, text_logits=rows,
            rope_response=small.rope_response[:, :1].expand(-1, TEXT, -1), keys=draw(count, 4096), text_keys=draw(TEXT, 4096),
            hidden_states=draw(count, 4096), text_hidden=draw(TEXT, 4096), positions=places.view(1, -1, 2).expand(batch, -1, -1),
            evidence=draw(count) > 1, sizes=torch.ones(batch, count), seeds=torch.arange(batch), count=count, batch=batch,
            grid=(h, w),
        )  # fmt: skip
    return _MADE[count, batch]


def similarity(tokens: torch.Tensor) -> torch.Tensor:
    """One normalised N x N similarity."""
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    return unit @ unit.transpose(1, 2)


def products(tokens: torch.Tensor) -> torch.Tensor:
    """All products of tokens with each other."""
    return tokens @ tokens.transpose(1, 2)


def alike(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Normalising both sides and their products."""
    return torch.nn.functional.normalize(left, dim=-1) @ torch.nn.functional.normalize(right, dim=-1).transpose(1, 2)


def rank(scores: torch.Tensor) -> torch.Tensor:
    return scores.argsort(dim=-1, descending=True, stable=True)


def most_attended_by_crop(attention: torch.Tensor, keep: int) -> torch.Tensor:
    """Shares of sixteen crops rounded down, crops sorted for what is left, tokens sorted in crops, the first put in order."""
    crops = attention.double().unflatten(1, (16, -1))
    share = crops.sum(-1) / attention.double().sum(-1, keepdim=True)
    counts = (share * keep).long()
    left = keep - counts.sum(-1, keepdim=True)
    counts = counts.scatter_add(1, rank(share), (torch.arange(16) < left).long())
    tokens = rank(crops) + torch.arange(0, attention.shape[1], crops.shape[2])[:, None]
    return tokens[torch.arange(crops.shape[2]) < counts[..., None]].view(len(attention), -1).sort(-1).values


def selection(expression: str, count: int, keep: int, batch: int = 1):
    """The method's first selector on the tensors, keeping ``keep``."""
    step = create(expression).steps(SHAPES[count], Budget(3 * count // 4))[0]
    view = signals(count, batch).only(step.needs)
    return lambda: step.select(view, keep)


DIVERSE = [("divprune", 1.3), ("sts[stages=structure]", 1.3), ("fps", 1.3), ("cdpruner", None)]


@pytest.mark.benchmark(group="selection, D = 4096")
@pytest.mark.parametrize(("count", "keep"), [(576, 64), (576, 192), (2880, 320)])
@pytest.mark.parametrize(("expression", "bound"), DIVERSE)
def test_selection_by_diversity(against_floor, expression, bound, count, keep):
    """Floor: one normalised N x N similarity of the projected tokens, of `cdpruner` in float64, which its late gains ask for."""
    bound = bound or (1.5 if keep == 192 else 1.3)
    features = signals(count).features.to(torch.float64 if expression == "cdpruner" else torch.float32)
    against_floor(selection(expression, count, keep), lambda: similarity(features), bound, 25 if count == 576 else 5)


@pytest.mark.benchmark(group="selection, D = 1024")
@pytest.mark.parametrize(("count", "keep"), [(576, 64), (576, 192), (2880, 320)])
def test_selection_by_vispruner(against_floor, count, keep):
    """Floor: one normalised N x N similarity of the tower's tokens."""
    features = signals(count).vision_features
    against_floor(selection("vispruner", count, keep), lambda: similarity(features), 2.0, 25 if count == 576 else 5)


def floors(s: Signals, keep: int):
    """The least that each of the other methods has to do, by name."""
    near = min(32, s.count - 1)
    dropped = s.count - keep
    some = candidates(dropped)
    crops = s.vision_features[:, : s.count // 16 * 16].unflatten(1, (16, -1)).flatten(0, 1)
    vision_means = max(1, round(keep * 10 / 64))
    index = rank(s.seeds[:, None] * 31 + torch.arange(s.count) * 7919 % 1009)
    small, place = grid_within(keep, s.grid), torch.arange(s.count)
    last, cls = lambda rows: rows[:, :, -1].mean(1), lambda: s.cls_attention.mean(1)
    many = s.hidden_states[:, :some]
    return {
        # the last row of every head read once, then sorted
        "fastv": lambda: rank(last(s.text_attention)),
        "pyramiddrop": lambda: rank(last(s.text_attention_ahead)),
        # all rows of all heads read once, then sorted
        "sts[stages=semantics]": lambda: rank(s.text_attention.mean((1, 2))),
        # raters (one product of all tokens with all words), head means, a sort, distances of the recycled, their means, the kept
        "sparsevlm": lambda: (
            (s.features @ s.text_features.transpose(1, 2)).softmax(-1).mean(1), rank(s.text_attention.mean(1).mean(1)),
            torch.cdist(many, many).topk(clusters(some), dim=-1, largest=False), s.hidden_states[:, :keep].clone(),
            torch.zeros(s.batch, clusters(some), some) @ many, many.clone(),
        ),
        # raters, one division of all probabilities, their sums over the rows, the heads' mass, a sort
        "sparsevlm[version=2]": lambda: (
            (s.features @ s.text_features.transpose(1, 2)).softmax(-1).mean(1),
            [(rows.sum(-1), rank(rows[:, :14].mean(1))) for rows in [(s.text_attention / s.rope_response[:, None]).sum(2)]],
        ),
        # a sort, both parts put in position order; keys of the rest against the contextual targets; the means'
        # product; the kept; what is returned
        "visionzip": lambda: (
            rank(cls()), (index < keep).nonzero(), (index >= keep).nonzero(),
            alike(s.vision_keys[:, :dropped], s.vision_keys[:, :vision_means]).argmax(-1),
            torch.zeros(s.batch, vision_means, dropped) @ s.vision_features[:, :dropped], s.vision_features[:, :keep].clone(),
            torch.cat([s.vision_features[:, :keep], s.vision_features[:, :1]], 1), (index[:, :keep, None] == place).sum(-1),
        ),
        # a sort; keys of the kept against all; the 32 nearest; the weighted sums' product
        "prumerge": lambda: (
            rank(cls()), alike(s.vision_keys_full[:, :keep], s.vision_keys_full).topk(near, dim=-1),
            torch.zeros(s.batch, keep, s.count) @ s.vision_features,
        ),
        # L1 norms of all keys; states normalised and multiplied with eight pivots; eight sorts
        "dart": lambda: (
            s.keys.abs().sum(-1), s.text_keys.abs().sum(-1),
            [rank(column) for column in alike(s.hidden_states, s.hidden_states[:, :8]).unbind(-1)],
        ),
        # similarity inside sixteen crops and its variance, attention means, a sort
        "holov": lambda: (similarity(crops).double().var(-1), rank(cls())),
        # attention means, and see `most_attended_by_crop`
        "holov[rule=code]": lambda: most_attended_by_crop(cls(), keep),
        # products of tokens whose dimensions are normalised, and their square: every entry of the kernel counts
        "otprune": lambda: torch.bmm(*[products(s.features / s.features.square().sum(1, keepdim=True).sqrt())] * 2),
        # N numbers mixed with their row's and sorted, and the kept put in order
        "random": lambda: rank(mix(s.seeds[:, None] + mix(place)))[:, :keep].sort(-1),
        "oracle": lambda: rank(mix(s.seeds[:, None] + mix(place)).double() + s.evidence.double()),
        # the pooling itself
        "pool": lambda: torch.nn.functional.adaptive_avg_pool2d(s.vision_features.transpose(1, 2).unflatten(2, s.grid), small),
        # cosines of one half of the keys with the other, their maxima, a sort, one pass that adds all tokens
        "tome": lambda: (
            rank(alike(s.vision_keys[:, ::2], s.vision_keys[:, 1::2]).max(-1).values),
            torch.zeros_like(s.vision_features).scatter_add_(1, index[..., None].expand(-1, -1, 1024), s.vision_features),
        ),
    }  # fmt: skip


OTHERS = [
    "fastv", "pyramiddrop", "sts[stages=semantics]", "sparsevlm", "sparsevlm[version=2]", "visionzip", "prumerge", "dart",
    "holov", "holov[rule=code]", "otprune", "random", "oracle", "pool", "tome",
]  # fmt: skip


@pytest.mark.benchmark(group="selection, others")
@pytest.mark.parametrize("keep", [64, 192])
@pytest.mark.parametrize("expression", OTHERS)
def test_selection_beside_its_own_floor(against_floor, expression, keep):
    """Floors: see `floors`, one line of derivation each. Dispatch counts: under 0.1 ms it is most of what is measured."""
    keep = max(keep, 288) if expression == "tome" else keep
    against_floor(selection(expression, 576, keep), floors(signals(576), keep)[expression], 1.5, 40)


@pytest.mark.benchmark(group="selection, eight images")
@pytest.mark.parametrize("expression", [name for name, _ in DIVERSE] + ["vispruner"] + OTHERS)
def test_selection_of_eight_images(against_floor, expression):
    """Floor: one image. The bound is eight of them."""
    keep = 288 if expression == "tome" else 64
    eight, one = selection(expression, 576, keep, 8), None
    step = create(expression).steps(SHAPES[576], Budget(432))[0]
    whole = signals(576, 8)
    single = Signals(**{n: v[:1].clone() if torch.is_tensor(v) else v for n, v in vars(whole).items()} | {"batch": 1})
    one = single.only(step.needs)
    against_floor(eight, lambda: step.select(one, keep), 8.0, 9)


@pytest.mark.benchmark(group="selection, parts")
def test_bipartite_matching_alone(benchmark):
    keys = signals(576).vision_keys
    benchmark(lambda: bipartite(keys, 100, 1))
