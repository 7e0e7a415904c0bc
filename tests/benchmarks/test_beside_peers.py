"""`none` beside lmms-eval's ``llava_hf`` and beside ``generate``: the same questions, weights and precision, in one run.

``pytest --benchmark -k peers`` prints the table at its end: CPU seconds of this process, of one thread, or those of the clock
where there is a GPU. Sides take turns, and a ratio is the median of the ratios of all rounds.

What a test can hold without a clock is counted. On a CPU time is the arithmetic of the tower and of the prefill, at one question
an image nearly the same for everybody; where kernels are short, as on a GPU, it is the launches.
"""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.benchmarks.peers import BATCH, Side, Sides, ratio, time_by_turns

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.differential]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """lmms-eval and what it asks for are there, and draw no bars."""
    pytest.importorskip("lmms_eval")
    pytest.importorskip("decord", reason="lmms-eval's llava_hf imports it")
    monkeypatch.setenv("TQDM_DISABLE", "1")


class Launches(TorchDispatchMode):
    """Counts what torch is asked to compute: kernels, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a call, and make it."""
        self.total += not function.is_view
        return function(*args, **(kwargs or {}))


def counted(side: Side) -> tuple[list[str], Counter[str]]:
    """What a side answers, and its kernels and tokens: those that blocks of the tower see, and layers of the decoder."""
    from transformers.models.clip.modeling_clip import CLIPMLP
    from transformers.models.llama.modeling_llama import LlamaMLP

    found: Counter[str] = Counter()

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, CLIPMLP | LlamaMLP):
            found["tower" if isinstance(module, CLIPMLP) else "decoder"] += inputs[0].shape[:-1].numel()

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        with Launches() as launches:
            answers = side()
    finally:
        hook.remove()
    found["kernels"] = launches.total
    return answers, found


@pytest.mark.parametrize("questions", [1, 9])
def test_none_asks_less_of_a_machine_than_peers_do(questions):
    """Beside ``llava_hf`` and ``generate``, answers are equal, and tokens and kernels by the factors that are counted here.

    At one question an image tokens differ by the tower's last block alone, which nobody reads and we do not run; kernels by a
    factor of 8 beside prompts one by one, and of 1.3 beside ``generate`` in equal batches. At nine questions about an image its
    tower and its tokens run once for all of them, in the bridge once a chunk.
    """
    sides = Sides(BATCH if questions == 1 else 1, questions)
    peers = [counted(sides.llava_hf()), counted(sides.generate)]
    ours, bridge, one_by_one = counted(sides.accuracy_pass), counted(sides.bridge(BATCH)), counted(sides.bridge(1))
    assert all(answers == ours[0] for answers, _ in (bridge, one_by_one, *peers))
    assert len(set(ours[0])) > 1
    for own, shared in ((ours[1], questions), (bridge[1], questions / 2)):
        for _, theirs in peers:
            assert theirs["tower"] >= 1.2 * shared * own["tower"]
            assert theirs["decoder"] >= (1 if questions == 1 else 0.8 * shared) * own["decoder"]
        assert peers[0][1]["kernels"] >= 1.3 * own["kernels"]
    assert one_by_one[1]["kernels"] >= (6 if questions == 1 else 2) * bridge[1]["kernels"]
    if questions == 1:
        assert peers[1][1]["kernels"] >= 1.25 * bridge[1]["kernels"]


def test_a_sweep_answers_as_its_cells_do_one_by_one():
    """Twelve cells that share what they can, beside each of them from the pixels on: a twelfth of the tower."""
    sides = Sides(1, 1)
    (together, shared), (alone, apart) = (counted(lambda mode=mode: sides.sweep(mode)) for mode in (True, False))
    assert together == alone
    assert apart["tower"] > 11 * shared["tower"]  # the text encoder of one cell's joint space has blocks of the same kind
    assert apart["decoder"] > 1.1 * shared["decoder"]


@pytest.mark.benchmark(group="peers")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("questions", [1, 9])
def test_peers(benchmark, ratios, questions, dtype):
    """`none` of our accuracy pass and of our bridge beside peers; the table marks what is not 1.3 times as fast as they are."""
    sides = Sides(2 * BATCH if questions == 1 else 2, questions, dtype)
    peers = {"llava_hf": sides.llava_hf(), f"generate, batch {BATCH}": sides.generate}
    ours = {
        "accuracy pass": sides.accuracy_pass,
        f"bridge, batch {BATCH}": sides.bridge(BATCH),
        "bridge, batch 1": sides.bridge(1),
    }
    if questions > 1:
        ours[f"bridge, batch {questions}"] = sides.bridge(questions)
    took: list[list[float]] = []
    benchmark.pedantic(lambda: took.extend(time_by_turns([*peers.values(), *ours.values()], 4)), rounds=1)
    by_name = dict(zip([*peers, *ours], took, strict=True))
    for own in (*ours, f"generate, batch {BATCH}"):
        for peer in peers:
            if own != peer:
                bound = 1 / 1.3 if own in ours else None
                _put(ratios, f"{questions} q, {dtype}: {own} / {peer}", by_name[own], by_name[peer], len(sides.asked), bound)


@pytest.mark.benchmark(group="peers")
@pytest.mark.parametrize("questions", [1, 9])
def test_peers_sweep(benchmark, ratios, questions):
    """Twelve cells together beside cell by cell."""
    sides = Sides(2, questions)
    took: list[list[float]] = []
    benchmark.pedantic(lambda: took.extend(time_by_turns([lambda: sides.sweep(True), lambda: sides.sweep(False)], 3)), rounds=1)
    _put(ratios, f"{questions} q: 12 cells together / one by one", *took, 12 * len(sides.asked), None)


def _put(ratios: list[Any], name: str, own: list[float], peer: list[float], answers: int, bound: float | None) -> None:
    """Put a row into the table: milliseconds an answer, and how many times as fast, with the least and the largest."""
    times, least, most = ratio(peer, own)
    text = f"{name}: {times:.2f}x [{least:.2f}, {most:.2f}]"
    ratios.append((text, 1e3 * median(own) / answers, 1e3 * median(peer) / answers, median(own) / median(peer), bound))
