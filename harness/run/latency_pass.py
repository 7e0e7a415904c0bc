"""The latency pass: one image, one question, all cells interleaved in shuffled rounds until their times are known."""

from __future__ import annotations

from collections import Counter
from functools import partial
from math import ceil

from harness.engine.engine import Engine
from harness.models.catalogue import EMBEDDED
from harness.progress import progress
from harness.run.batch_run import BatchRun
from harness.run.config import CompareConfig
from harness.run.failures import of_sample, reason
from harness.run.latency_rounds import LatencyRounds, TimingPlan, time_cells
from harness.run.manifest import add_notes
from harness.run.plan import Cell
from harness.run.prepare import PreparedRun
from harness.run.prompt_inputs import PromptOnHost
from harness.run.twins import on_question, original_of, stored_counts
from harness.store.runs import RunFolder
from harness.tasks.base import ImageSample
from metrics.flops import flops

EMBEDDED_TOKENS, TOKENS = 16, 64
"""Answer tokens that are timed where the request does not say: of an embedded model, and of any other."""


def run_latency_pass(config: CompareConfig, run: RunFolder, prepared: PreparedRun, ids: dict[str, int]) -> None:
    """Time the cells that were not timed yet, and `none` beside them; nothing is shared between cells.

    Args:
        config: the request.
        run: the folder that times, caches and peaks go to; it holds the answers already.
        prepared: what the request needs, loaded.
        ids: of the cells in the run, by their keys.
    """
    before = run.timings()
    timed_before = {cell for _, cell in before}
    cells = [cell for cell in prepared.active if cell.method == "none" or ids[cell.key] not in timed_before]
    if before and len(cells) == 1:
        return
    place, cells = _what_to_time(run, prepared, cells, ids)
    if place is None:
        add_notes(run, ["no times: there is no image on which no cell failed"])
        return
    cells = [_as_it_ran(cell, run, prepared, ids, place) for cell in cells]
    prompt, room = _prompt(config, prepared, place)
    plan = _timing_plan(config, room)
    with progress("latency, seconds", ceil(plan.time_limit)) as advance:
        try:
            timed = time_cells(prepared.adapter, cells, [partial(prompt.batch_for, cell) for cell in cells], plan, advance)
        except Exception as error:
            if not of_sample(error):
                raise
            add_notes(run, [f"no times: none failed in the latency pass: {reason(error)}"])
            return
    add_notes(run, [f"no times of {_named(cells[place])}: {why}" for place, why in timed.failed.items()])
    facts: dict[int, dict[str, object]] = {}
    for number, measured in timed.kv_bytes.items():
        cell, shape, predicted = cells[number], prepared.shape_on(place), None
        if cell.schedule is not None and not cell.adaptive:
            planned = cell.plan(shape)[1] if cell.varies else cell.schedule
            predicted = round(flops(shape, planned, timed.text_tokens[number]).kv_bytes)
        facts[ids[cell.key]] = {"kv": {"measured": measured, "predicted": predicted}}
        if number in timed.peak_bytes:
            by_device = timed.peak_bytes[number]
            # GPUs peak at different times: the sum is an upper bound
            facts[ids[cell.key]]["peak"] = {"peak_bytes": sum(by_device.values()), "by_device": by_device}
    latest = max((number for number, _ in before), default=-1)
    rows = ((ids[cells[n].key], repeat, turn, stage, seconds) for n, repeat, turn, stage, seconds in timed.rows)
    run.add_timings(latest + 1, rows, facts)
    _tell(run, plan, timed, len(cells) - 1, _tokens_asked(config))


def _named(cell: Cell) -> str:
    return cell.method if cell.keep is None else f"{cell.method} at {cell.keep}"


def _prompt(config: CompareConfig, prepared: PreparedRun, place: int) -> tuple[PromptOnHost, int | None]:
    """The first question about an image, with what is known of it and lies where it is read before any time is taken.

    Beside it how many tokens the model takes behind it; None where it states no limit.
    """
    sample = one_question(prepared.samples[place])
    batch_run = BatchRun(Engine(prepared.adapter), prepared.task, [sample], config.seed, template=config.prompt)
    for image in batch_run.images:
        for one in image:
            one.load()
    (images,) = batch_run.images
    (room,) = batch_run.prompts.rooms(prepared.adapter, batch_run.pixels.spans)
    return PromptOnHost(prepared.adapter, sample, images, config.seed, config.prompt, batch_run.evidence), room


def _timing_plan(config: CompareConfig, room: int | None) -> TimingPlan:
    """How long to time cells, and how many tokens to decode: as many as are asked for, where the model takes so many."""
    tokens = _tokens_asked(config)
    if room is not None:
        tokens = min(tokens, max(2, room))  # the last token is not run through the model: behind one that has room for one, two
    return TimingPlan(config.time_limit, config.rounds, tokens, config.seed)


def _tokens_asked(config: CompareConfig) -> int:
    """How many tokens are to be decoded in a round of stages."""
    return config.decode_tokens or (EMBEDDED_TOKENS if config.model in EMBEDDED else TOKENS)


def _tell(run: RunFolder, plan: TimingPlan, timed: LatencyRounds, of: int, asked: int) -> None:
    """Write into the manifest how the pass went, and note what in it is not as it was asked for.

    Args:
        run: the folder.
        plan: what was timed.
        timed: what came of it.
        of: cells beside `none`.
        asked: tokens that were to be decoded.
    """
    manifest = run.manifest()
    earlier = manifest.get("timing")
    manifest["timing"] = {
        "time_limit": plan.time_limit,
        "used": round(timed.used, 2),
        "decode_tokens": plan.decode_tokens,
        "stage_rounds": timed.rounds("decode"),
        "ttft_rounds": timed.rounds("ttft"),
        "known": len(timed.known),
        "of": of,
        **({} if earlier is None else {"before": [*earlier.pop("before", ()), earlier]}),
    }
    run.write_json("manifest.json", manifest)
    if plan.decode_tokens < asked:
        add_notes(
            run, [f"decoding was timed over {plan.decode_tokens} tokens, not {asked}: the model takes no more behind the prompt"]
        )
    if timed.used > plan.time_limit and timed.rounds("ttft") == plan.least:
        took, allowed = (f"{seconds:.3g} s" for seconds in (timed.used, plan.time_limit))
        least = f"{plan.least} rounds of times to first token and one of stages are taken in any case"
        add_notes(run, [f"the latency pass took {took}, where --time-limit allows {allowed}: {least}"])


def _what_to_time(run: RunFolder, prepared: PreparedRun, cells: list[Cell], ids: dict[str, int]) -> tuple[int | None, list[Cell]]:
    """The image to take times on, by its place, and the cells to time: of both only such as did not fail.

    A cell without any answer is left out; then the first image is taken whose first question all cells answered.
    """
    failed = {(cell, question) for cell, question, _ in run.failed()}
    asked = sum(len(sample.questions) for sample in prepared.samples)
    lost = Counter(cell for cell, _ in failed)
    cells = [cell for cell in cells if lost[ids[cell.key]] < asked]
    there = {ids[cell.key] for cell in cells}
    bad = {question for cell, question in failed if cell in there}
    timed = ((place, sample) for place, sample in enumerate(prepared.samples) if sample.count)  # of text alone no token leaves
    good = (place for place, sample in timed if sample.questions[0].sample_id not in bad)
    return (next(good, None) if cells and cells[0].method == "none" else None), cells


def _as_it_ran(cell: Cell, run: RunFolder, prepared: PreparedRun, ids: dict[str, int], place: int) -> Cell:
    """A cell with the counts that it had on the question that is timed, where it takes another's."""
    if cell.copies is None:
        return cell
    question = prepared.samples[place].questions[0].sample_id
    known = stored_counts(run, ids[original_of(cell, prepared.active).key], [question])
    return on_question(cell, prepared.active, known, question, prepared.shape_on(place))


def one_question(sample: ImageSample) -> ImageSample:
    """Return an image with its first question alone."""
    return ImageSample(sample.image_id, tuple(sample.images), sample.questions[:1])
