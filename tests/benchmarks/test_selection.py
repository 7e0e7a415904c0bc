"""What a selection costs beside its floor, one normalised N x N similarity of the same tokens (576 tokens, width 4096)."""

import pytest
import torch

from methods.merging import bipartite, join
from methods.registry import create
from methods.similarity import cosine
from methods.types import Budget, ModelShape, Signals

SHAPE = ModelShape("llava-1.5-7b", 576, (24, 24), 23, 1024, 16, 4096, True, 14, 32, 4096, 32, 32, 128, 11008, True, 32064)


@pytest.fixture(scope="module")
def signals():
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(*size, generator=g)
    lines = (torch.arange(24) + 0.5) / 24
    return Signals(
        features=draw(1, 576, 4096), text_features=draw(1, 40, 4096), text_attention=draw(1, 32, 40, 576).softmax(-1),
        hidden_states=draw(1, 576, 4096), vision_features=draw(1, 576, 1024), vision_keys=draw(1, 576, 64),
        positions=torch.stack(torch.meshgrid(lines, lines, indexing="ij"), -1).view(1, 576, 2), sizes=torch.ones(1, 576),
        evidence=draw(1, 576) > 1, seeds=torch.zeros(1, dtype=torch.int64), count=576, grid=(24, 24),
    )  # fmt: skip


@pytest.mark.benchmark(group="floor")
def test_similarity_floor(benchmark, signals):
    """The floor of all diversity methods."""
    benchmark(lambda: cosine(signals.features))


@pytest.mark.benchmark(group="selection")
@pytest.mark.parametrize("keep", [64, 192])
@pytest.mark.parametrize(
    "expression", ["random", "sts[stages=structure]", "sts[stages=semantics]", "fastv", "sparsevlm", "oracle", "tome"]
)
def test_selection(benchmark, signals, expression, keep):
    step = create(expression).steps(SHAPE, Budget(max(keep, 64) if expression != "sts[stages=semantics]" else 320))[0]
    view = signals.only(step.needs)
    benchmark(lambda: step.select(view, keep if step.site.stage else max(keep, 288)))


@pytest.mark.benchmark(group="selection")
def test_tome_matching_alone(benchmark, signals):
    benchmark(lambda: join(signals.vision_features, signals.sizes, bipartite(signals.vision_keys, 100, 1)))
