"""Launches and synchronisations of one question on a pretended device, ours beside transformers' own.

``python -m tests.simdevice.counting`` prints the table; with the name of a case, its lines. It needs the environment of
`pretended.environment`, which it takes by itself.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.models.adapter import Adapter
    from tests.simdevice.pretended import Counted

CASES = (
    "transformers: forward", "transformers: generate, first token", "transformers: a decoded token", "none", "fastv", "sparsevlm",
    "divprune", "sts", "tome", "none: a decoded token", "fastv: a decoded token", "sparsevlm: a decoded token",
    "fastv: selection", "sparsevlm: selection",
)  # fmt: skip
LAYERS, KEEP = 12, 64
SELECTING = (
    "pruning", "signals", "decoder_signals", "tower_steps", "tower_signals", "vision", "decoder_input", "entered_tokens",
    "layout", "transfer",
)  # fmt: skip
"""Modules of the engine that gather what selectors read, move what they leave, and lay it out anew."""


@cache
def layers_of_twelve() -> Adapter:
    """The embedded model on a device; it has twelve decoder layers and 576 visual tokens."""
    from harness.models import hf

    found = hf.load("tiny", "cuda", "float32")
    assert found.shape.layers == LAYERS
    return found


def counts_of(adapter: Adapter, case: str) -> Counted:
    """Return what is counted of a case: one question about one image, without padding.

    A decoded token is what four more tokens add, by four, rounded up. Selection, the step of a method, goes by place: what is
    launched from methods and from the modules `SELECTING`, beyond what `none` launches from there. So what a step in the tower or
    at the projector costs outside of methods is its own, as is the copy that brings a new layout to the device.
    """
    what, _, part = case.partition(": ")
    if part == "a decoded token":
        return _fourth(_counted(adapter, what, 5), _counted(adapter, what, 1))
    counted = _counted(adapter, what, 0 if part == "forward" else 1)
    return _of_selection(counted, _counted(adapter, "none", 1)) if part == "selection" else counted


def _counted(adapter: Adapter, what: str, tokens: int) -> Counted:
    import torch

    from harness.engine.engine import Engine
    from harness.engine.request import EngineRequest
    from harness.run.batch_run import BatchRun
    from harness.run.latency_pass import one_question
    from harness.tasks.registry import create as task_of
    from methods.registry import create
    from methods.schedule import plan
    from methods.types import Budget
    from tests.simdevice.pretended import Counted

    task = task_of("shapes")
    sample = one_question(next(iter(task.samples(1, 0))))
    if what == "transformers":
        model, question = adapter.model, sample.questions[0].text
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = adapter.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = adapter.processor(images=sample.images, text=[text], return_tensors="pt", add_special_tokens=False).to("cuda")
        ends, model.generation_config.eos_token_id = model.generation_config.eos_token_id, None
        model.set_attn_implementation("sdpa")

        def run() -> None:
            if tokens:
                model.generate(**inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
            else:
                model(**inputs, logits_to_keep=1)
    else:
        method = create(what)
        budget = Budget(KEEP if method.budgeted else adapter.shape.visual_tokens, "average", 40.0)
        steps = plan(method, adapter.shape, budget)[0]
        engine = Engine(adapter, tokens, ends=frozenset())
        wanted = frozenset().union(*(step.needs for step in steps))
        request = EngineRequest(BatchRun(engine, task, [sample], 0, wanted=wanted).batch, steps, method.positions)

        def run() -> None:
            engine.run(replace(request, batch=replace(request.batch)))  # of a batch that no pass has read yet

    try:
        with torch.inference_mode():
            run()  # what is made once for a model is made by now
            with Counted() as counted:
                run()
    finally:
        if what == "transformers":
            from harness.models.probes import install

            model.generation_config.eos_token_id = ends
            install(model)
    return counted


def _fourth(many: Counted, one: Counted) -> Counted:
    """A quarter of the difference, line by line; never rounded down."""
    for name in ("launches", "synchronisations", "calls"):
        setattr(many, name, -(-(getattr(many, name) - getattr(one, name)) // 4))
    for name in ("lines", "ops", "waits"):
        table, less = getattr(many, name), getattr(one, name)
        rest = {key: count - less[key] for key, count in table.items() if count != less[key]}
        table.clear()
        table.update({key: -(-count // 4) for key, count in rest.items()})
    return many


def _of_selection(counted: Counted, whole: Counted) -> Counted:
    """What of it was launched from methods and `SELECTING`, beyond `none`'s; a line that `none` runs oftener counts nothing."""
    places = ("methods/", *(f"harness/engine/{name}.py" for name in SELECTING))
    for table, also in ((counted.lines, whole.lines), (counted.waits, whole.waits)):
        for key, count in list(table.items()):
            table[key] = max(0, count - also[key])
            if not table[key] or not (key if isinstance(key, str) else key[0]).startswith(places):
                del table[key]
    counted.launches, counted.synchronisations = sum(counted.lines.values()), sum(counted.waits.values())
    return counted


def main(words: list[str]) -> None:
    """Print the table, or the lines of cases."""
    adapter = layers_of_twelve()
    for case in words or CASES:
        found = counts_of(adapter, case)
        print(f"{case:<40}{found.launches:>6} launches{found.synchronisations:>6} synchronisations")
        for line, count in found.lines.most_common() if words else ():
            waits = sum(times for (place, _), times in found.waits.items() if place == line)
            print(f"    {count:>4}{waits:>4}  {line}")


if __name__ == "__main__":
    from tests.simdevice.pretended import DEVICES, environment

    if DEVICES not in os.environ:
        os.execve(sys.executable, [sys.executable, "-m", "tests.simdevice.counting", *sys.argv[1:]], environment(1))
    main(sys.argv[1:])
