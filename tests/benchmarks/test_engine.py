"""What the engine costs and what pruning brings, at LLM shapes of 1024 hidden units: ratios within one run.

``pytest --benchmark -k engine`` prints the table at its end.
"""

from statistics import median

import pytest
import torch

from harness.engine.batch import Batch
from harness.engine.decoder_input import enter_decoder
from harness.engine.engine import Engine
from harness.engine.request import EngineRequest, UniformPass
from harness.engine.sharing import CellPath
from harness.engine.stopwatch import Stopwatch
from harness.models.adapter import Adapter
from harness.models.probes import AttentionProbe
from harness.models.published import ImageOnlyProcessor, llava
from methods.registry import create
from methods.schedule import plan
from methods.types import Budget
from metrics.flops import flops

TEXT = 64


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def engine():
    """A LLaVA with a small tower and eight decoder layers of 1024 units, random weights."""
    from transformers import LlavaForConditionalGeneration

    config = llava((128, 256, 3, 4, 336, 14), (1024, 2752, 8, 16, 16, 2000))
    torch.manual_seed(0)
    return Engine(Adapter(LlavaForConditionalGeneration(config), ImageOnlyProcessor(config), "random"), 1)


@pytest.fixture(scope="module")
def batch(engine):
    from PIL import Image

    words = torch.arange(3, 3 + TEXT).tolist()
    seeds = torch.tensor([1])
    pixels = engine.adapter.pixels([Image.new("RGB", (336, 336), "gray")])
    return Batch(pixels, words[:35], [words[35:]], torch.zeros(1, dtype=torch.int64), seeds, seeds)


def prefill(engine, batch, steps=(), positions="original") -> float:
    watch = Stopwatch("cpu")
    engine.run(EngineRequest(batch, steps, positions, stopwatch=watch))
    return watch.seconds["prefill"] + watch.seconds["selection"]


@pytest.mark.benchmark(group="engine")
def test_engine_attention_probe_of_one_layer(engine, batch, against_floor):
    """A prefill with the last row of one layer probed, beside the same prefill without; bound: 1.05."""
    adapter = engine.adapter
    with torch.inference_mode():
        vision, path = engine.encode_images(batch.pixels), CellPath((), "original")
        state = enter_decoder(adapter, UniformPass(batch, path, vision, None, True, Stopwatch(), None)).state
    rotary, mask = adapter.rotary(state.hidden, state.layout.positions), state.layout.mask()

    @torch.inference_mode()
    def layers(probed: bool) -> None:
        hidden = state.hidden
        for index in range(adapter.shape.layers):
            probe = AttentionProbe(state.layout.last[:, None], state.layout.group) if probed and index == 1 else None
            hidden = adapter.layer(index, hidden, mask, state.layout.positions, rotary, None, probe)

    against_floor(lambda: layers(True), lambda: layers(False), 1.05, rounds=15)


@pytest.mark.benchmark(group="engine")
@pytest.mark.parametrize(("expression", "keep"), [("fastv[layer=8]", 192), ("random[like=fastv[layer=8]]", 192), ("random", 64)])
def test_engine_realises_the_promise(engine, batch, benchmark, ratios, expression, keep):
    """Measured prefill speed-up, selection included, over the one that FLOPs promise; asked: at least 0.85 from layer 2 on."""
    shape = engine.adapter.shape
    method = create(expression)
    steps, planned = plan(method, shape, Budget(keep, "final", TEXT))
    whole = plan(create("none"), shape, Budget(576))[1]
    promise = flops(shape, whole, TEXT).llm_prefill / flops(shape, planned, TEXT).llm_prefill
    floors: list[float] = []
    took: list[float] = []

    def before() -> None:
        floors.append(prefill(engine, batch))

    run = lambda: took.append(prefill(engine, batch, steps, method.positions))
    benchmark.pedantic(run, setup=before, rounds=12, warmup_rounds=2)
    gain = median(floors[2:]) / median(took[2:])
    benchmark.extra_info |= {"promise": promise, "speed_up": gain, "realised": gain / promise}
    name = f"{expression} at {keep}: realised {gain / promise:.2f} of {promise:.2f}"
    ratios.append((name, 1e3 * median(took[2:]), 1e3 * median(floors[2:]), 1 / gain, 1 / (0.85 * promise)))
