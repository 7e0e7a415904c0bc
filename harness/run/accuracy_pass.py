"""The accuracy pass: all cells answer all questions, whichever process runs them; this process alone stores the answers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace

from harness.progress import progress
from harness.run.config import CompareConfig
from harness.run.executors.base import ModelNeeds, cores, run_with
from harness.run.executors.local import run_here
from harness.run.executors.processes import ProcessExecutor
from harness.run.manifest import add_notes
from harness.run.prepare import PreparedRun, levels_of
from harness.run.selection_kernels import note_loops, resolved
from harness.run.shard_runner import ShardRunner, ShardRunnerSource, fingerprints
from harness.run.shards import Shard, ShardResult
from harness.run.twins import MeasuredCounts, original_of, stored_counts
from harness.store.cell_results import joined
from harness.store.runs import RunFolder

_SMALL = 2**30  # bytes of weights below which several processes gain more than threads inside one


def run_accuracy_pass(config: CompareConfig, run: RunFolder, prepared: PreparedRun, ids: dict[str, int]) -> None:
    """Answer all questions that have no answer yet, and note in the manifest the batch size that fitted into memory.

    Args:
        config: the request.
        run: the folder that results go to.
        prepared: what the request needs, loaded. Cells that turn out to be impossible on an image become skipped ones.
        ids: of the cells in the run, by their keys.
    """
    _refuse({key: facts["skipped"] for _, key, facts in run.cells() if facts["skipped"] is not None}, run, prepared, ids)
    samples, done = prepared.samples, run.done()
    with progress("answers", len(samples) * len(prepared.active)) as advance:
        shards: list[Shard] = []
        for place in range(0, len(samples), config.batch_size):
            todo = [cell.key for cell in prepared.active if (ids[cell.key], place) not in done]
            images = min(config.batch_size, len(samples) - place)
            advance(images * (len(prepared.active) - len(todo)))
            if todo:
                measured = _known_counts(run, prepared, ids, place, config.batch_size, todo)
                shards.append(Shard(place, tuple(todo), first=not shards and not done, measured=measured))
        size, shortened, devices = config.batch_size, set[str](), set[str]()
        with closing(run_shards(config, prepared, shards, advance)) as answered:
            for shard, result in answered:
                refused = {cell.key for cell in prepared.cells if cell.skipped is not None}
                results = {ids[key]: joined(parts) for key, parts in result.cell_results.items() if key not in refused}
                note_loops(run, result.loops)  # first: a run that ends in between must not hold answers of a code that it lacks
                run.add_batch(shard.place, result.images, result.questions, results, result.layouts)
                _refuse(result.refused, run, prepared, ids)
                size, shortened = min(size, result.size), shortened | result.shortened
                devices |= {result.devices} - {""}
        if shortened:
            what = "answer to 1 question ends" if len(shortened) == 1 else f"answers to {len(shortened)} questions end"
            most = f"the model takes {prepared.adapter.longest:,} tokens, prompt and answer together"
            add_notes(run, [f"the {what} where {most}"])
    if shards:
        manifest = run.manifest()
        manifest["batch_size_used"] = min(size, manifest.get("batch_size_used", size))
        if devices:  # which may be others than that of the times, where several workers answered or the run went on elsewhere
            manifest["answered_on"] = sorted(devices | set(manifest.get("answered_on", ())))
        run.write_json("manifest.json", manifest)


def _known_counts(
    run: RunFolder, prepared: PreparedRun, ids: dict[str, int], place: int, size: int, todo: Sequence[str]
) -> MeasuredCounts:
    """The counts of cells that are stored for a batch, and that cells which are still to answer take."""
    copying = [cell for cell in prepared.active if cell.copies is not None and cell.key in todo]
    originals = {original_of(cell, prepared.active).key for cell in copying} - set(todo)
    asked = [q.sample_id for sample in prepared.samples[place : place + size] for q in sample.questions]
    return {key: stored_counts(run, ids[key], asked) for key in originals}


def _refuse(reasons: dict[str, str], run: RunFolder, prepared: PreparedRun, ids: dict[str, int]) -> None:
    """Skip cells that turned out to be impossible on one of the images; what they have answered goes."""
    for place, cell in enumerate(prepared.cells):
        if cell.key in reasons and cell.skipped is None:
            run.drop(ids[cell.key], reasons[cell.key])
            prepared.cells[place] = replace(cell, steps=(), schedule=None, skipped=reasons[cell.key])


def run_shards(
    config: CompareConfig, prepared: PreparedRun, shards: Sequence[Shard], advance: Callable[[int], None]
) -> Generator[tuple[Shard, ShardResult]]:
    """Choose the executor that a request asks for, and yield shards with their results as they arrive.

    Args:
        config: the request.
        prepared: what the request needs, loaded.
        shards: the shards to answer.
        advance: is told how many images a cell has answered.

    Raises:
        RequestError: where a shard cannot be answered.
    """
    needs = model_needs(prepared)
    if config.ray is not None and shards:
        from harness.run.executors.ray import cluster

        with cluster(config.ray, source_for_cluster(config, prepared), needs, config.workers, len(shards)) as on_cluster:
            yield from run_with(on_cluster, shards, advance)
        return
    asked = workers_for(config, needs)
    worth = len(shards) if config.workers is not None else len(shards) // 2  # one shard does not pay for a process
    if min(asked, worth) > 1:
        source = ShardRunnerSource(_as_here(config, prepared), prepared, levels=levels_of(prepared))
        device = config.device if config.device.startswith("cuda:") else needs.device
        executor = ProcessExecutor(source, min(asked, worth), threads_of(asked), device)
        yield from run_with(executor, shards, advance)
        return
    yield from run_here(ShardRunner(config, prepared, advance), shards, threads_here(config, prepared))


def threads_here(config: CompareConfig, prepared: PreparedRun) -> int | None:
    """Return how many threads this process computes with where it answers itself; None for as many as torch has.

    Where processes are forked, it is one: a pool of threads does not survive a fork.
    """
    asked = workers_for(config, model_needs(prepared))
    return threads_of(asked) if asked > 1 else None


def source_for_cluster(config: CompareConfig, prepared: PreparedRun) -> ShardRunnerSource:
    """Return what the machines of a cluster run: the request with device, precision and kernels fixed, and what must agree."""
    kind = prepared.adapter.device.type
    sent = replace(_as_here(config, prepared), device=kind, out=None, extend=None, resume=False, ray=None)
    return ShardRunnerSource(sent, expected=fingerprints(config, prepared), levels=levels_of(prepared))


def _as_here(config: CompareConfig, prepared: PreparedRun) -> CompareConfig:
    """The request with the precision and the kernels of the model that is loaded here: ``auto`` may be others on another card."""
    adapter = prepared.adapter
    dtype = str(adapter.dtype).removeprefix("torch.")
    return replace(config, dtype=dtype, kernels=resolved(config.kernels, adapter.device.type))


def model_needs(prepared: PreparedRun) -> ModelNeeds:
    """Return what one copy of a prepared model asks of a machine."""
    model = prepared.adapter.model
    gpus = {weight.device for weight in model.parameters() if weight.device.type == "cuda"}
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return ModelNeeds(prepared.adapter.device.type, len(gpus), size < _SMALL)


def threads_of(workers: int) -> int:
    """Return how many threads each of several processes computes with.

    The number does not depend on how many of the processes have shards to answer: what is left of a run is then rounded alike.
    """
    return max(1, cores() // workers)


def workers_for(config: CompareConfig, needs: ModelNeeds) -> int:
    """Return how many processes answer: as many as the request says, else one a core for a small model on a CPU, else one."""
    if config.workers is not None:
        return config.workers
    return cores() if needs.device == "cpu" and needs.small else 1
