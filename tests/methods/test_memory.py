"""A selection never holds more than four N x N similarities beside its input."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from methods.check import random_signals
from methods.registry import create
from methods.types import Budget, ModelShape

COUNT = 576
SHAPE = ModelShape("m", COUNT, (24, 24), 8, 16, 2, 32, False, 8, 32, 16, 2, 2, 8, 32, True, 40, joint_width=8)


class Held(TorchDispatchMode):
    """Bytes of the storages that operations made and that are still alive, and the most of them at any time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = {id(a.untyped_storage()._cdata) for a in args if torch.is_tensor(a)}
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if torch.is_tensor(tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.known and key not in given:
                    self.known.add(key)
                    size = storage.nbytes()
                    self.now += size
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._freed, key, size)
        return out

    def _freed(self, key: int, size: int) -> None:
        if key in self.known:
            self.known.discard(key)
            self.now -= size


@pytest.mark.parametrize("keep", [64, 320])
@pytest.mark.parametrize(
    "expression",
    ["divprune", "sts[stages=structure]", "fps", "cdpruner", "otprune", "vispruner", "holov", "visionzip", "prumerge", "dart",
     "fastv", "sparsevlm", "pyramiddrop", "tome", "grid", "random"],
)  # fmt: skip
def test_a_selection_holds_at_most_four_similarities(expression, keep):
    step = create(expression).steps(SHAPE, Budget(432))[0]
    view = random_signals(1, COUNT).only(step.needs)
    with Held() as held:
        step.select(view, keep)
    assert 0 < held.most <= 4 * COUNT * COUNT * 4


def test_the_meter_counts_what_lives():
    with Held() as held:
        first = torch.randn(100, 100)
        kept = [first + i for i in range(3)]
        for _ in range(5):
            first = first + 1
    assert held.most == 4 * (len(kept) + 2) * 100 * 100
