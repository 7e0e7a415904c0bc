"""From images to what left the vision tower: block by block where possible, so that tokens may merge inside it."""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.engine.signals import GroupedVisionOutput, VisionOutput
from harness.engine.stopwatch import Stopwatch
from harness.engine.tower_signals import BlockReads, TokenPlaces, block_signals, reads_of, whole_tower_signals
from harness.engine.tower_steps import TokensInside, probe_inside, steps_by_block
from harness.models.adapter import Adapter
from harness.models.prompt import PixelBatch
from harness.models.tile_places import tile_grids, tile_places
from harness.models.towers import BlockwiseTower
from methods.types import Step, TowerRead


def encode_images(
    adapter: Adapter, pixels: PixelBatch, steps: tuple[Step, ...], stopwatch: Stopwatch, wanted: frozenset[TowerRead]
) -> VisionOutput | GroupedVisionOutput:
    """Run the vision tower, tokens leaving inside its blocks where the steps say so.

    Args:
        adapter: the model.
        pixels: images of B prompts.
        steps: of a method; what those behind the tower read in it is gathered too.
        stopwatch: takes the time of each stage.
        wanted: further signals to gather.

    Returns:
        The output for all prompts, or one for each group of them where they differ in their visual tokens.
    """
    if pixels.uniform:
        return _encode_uniform(adapter, pixels, steps, stopwatch, wanted)
    groups = pixels.groups()
    outputs = (_encode_uniform(adapter, pixels[group], steps, stopwatch, wanted) for group in groups)
    return GroupedVisionOutput(tuple(outputs), tuple(groups))


def _encode_uniform(
    adapter: Adapter, pixels: PixelBatch, steps: tuple[Step, ...], stopwatch: Stopwatch, wanted: frozenset[TowerRead]
) -> VisionOutput:
    """The output for prompts that are alike."""
    reads = BlockReads.of(wanted | reads_of(steps), adapter.shape)
    if adapter.blockwise_tower is None:
        return _run_whole_tower(adapter, pixels, stopwatch, reads)
    return _run_blockwise_tower(adapter, adapter.blockwise_tower, pixels, steps_by_block(steps), stopwatch, reads)


def _run_blockwise_tower(
    adapter: Adapter,
    tower: BlockwiseTower,
    pixels: PixelBatch,
    inside: dict[tuple[int, bool], Step],
    stopwatch: Stopwatch,
    reads: BlockReads,
) -> VisionOutput:
    """Run a tower block by block; ``inside`` holds the steps by their block, and whether they act behind it."""
    probes, found = reads.probes, dict[str, torch.Tensor]()
    spans, cls = pixels.spans[0], int(adapter.shape.has_cls)
    places, attended, fed = TokenPlaces(cls, adapter.tiler, spans), list[int](), list[int]()

    def gather(block: int, hidden: torch.Tensor) -> None:
        with stopwatch.stage("selection"):
            signals = block_signals(adapter, reads.at(block), hidden, probes.get(block), places)
            found.update({key: table.to(adapter.device) for key, table in signals.items()})

    with stopwatch.stage("vision"):
        present = TokensInside(tower.enter(pixels.stack()), cls, spans[0].grid if len(spans) == 1 else None)
        behind = {0: present.hidden.to(adapter.device)} if 0 in tower.joined else {}
        for index, block in enumerate(tower.blocks):
            step, last = inside.get((index, False)), inside.get((index, True))
            own = probe_inside(step, last) if step or last else probes.get(index)
            present.move(block.device)
            attended.append(present.hidden.shape[1])
            present.hidden = block.attend(present.hidden, present.bias, own)
            if step is not None:
                with stopwatch.stage("selection"):
                    present.apply(adapter, step, own)
            fed.append(present.hidden.shape[1])
            present.hidden = block.transform(present.hidden)
            if last is not None:
                with stopwatch.stage("selection"):
                    present.apply(adapter, last, own)
            if index + 1 in tower.joined:
                behind[index + 1] = present.hidden.to(adapter.device)
            if reads.at(index):
                gather(index, present.hidden)
        states = tower.leave(present.hidden)[:, cls:].to(adapter.device)
        if deeper := [block for block in reads.by_block if block >= len(tower.blocks)]:
            with stopwatch.stage("selection"):
                shown = tower.look_behind(
                    present.hidden, present.bias, {block: probes[block] for block in deeper if block in probes},
                    reads.behind & frozenset(deeper),
                )  # fmt: skip
            for index in deeper:
                gather(index, shown.get(index, present.hidden))
    counts = (*map(float, attended), *map(float, fed))
    if tower.joined:
        several = torch.cat([behind[layer] for layer in tower.joined], -1)[:, cls:]
        return replace(_arranged(adapter, pixels, states, found), tile_states=several, tower_counts=counts)
    if not inside:
        return replace(_arranged(adapter, pixels, states, found), tower_counts=counts)
    present.move(adapter.device)
    grid = spans[0].grid
    assert grid is not None, "where tokens leave inside the tower, an image is one grid"
    return VisionOutput(
        states, present.source, present.lowest, present.merged, None, grid, found, spans, carry=present.carry, tower_counts=counts
    )


def _run_whole_tower(adapter: Adapter, pixels: PixelBatch, stopwatch: Stopwatch, reads: BlockReads) -> VisionOutput:
    """Run a tower that is not taken apart; it projects too."""
    with stopwatch.stage("vision"):
        probes = reads.probes
        output = adapter.whole_tower.run(pixels, stopwatch, probes, reads.behind)
        with stopwatch.stage("selection"):
            found = whole_tower_signals(adapter, reads, output, probes, pixels.spans[0])
        found = {key: table.to(adapter.device) for key, table in found.items()}
        arranged = _arranged(adapter, pixels, output.states.to(adapter.device), found)
    counts = (float(len(output.states) // len(pixels)),) * (2 * adapter.whole_tower.blocks)
    return replace(
        arranged,
        tile_states=None,
        projected=_by_prompt(output.projected.to(adapter.device), len(pixels)),
        deepstack=tuple(_by_prompt(table.to(adapter.device), len(pixels)) for table in output.deepstack),
        tower_counts=counts,
    )


def _by_prompt(table: torch.Tensor, prompts: int) -> torch.Tensor:
    """[B * N, D] as [B, N, D]."""
    return table.view(prompts, -1, table.shape[-1])


def _arranged(adapter: Adapter, pixels: PixelBatch, states: torch.Tensor, signals: dict[str, torch.Tensor]) -> VisionOutput:
    """The output of a tower in which no token left."""
    spans, tiler = pixels.spans[0], adapter.tiler
    as_it_is = tiler.one_to_one and len(spans) == 1
    features = states if as_it_is else tiler.arrange(states, spans)
    count = features.shape[1]
    every = torch.arange(count, device=states.device).expand(len(pixels), -1)
    prefix, places = adapter.prompt_prefix([], spans), tile_places(tiler, spans)
    return VisionOutput(
        features=features,
        source=every,
        lowest=every,
        merged=False,
        grid=prefix.grid,
        full_grid=prefix.grid or (1, count),
        signals=signals,
        spans=spans,
        coordinates=None if prefix.grid is not None else prefix.coordinates,
        tile_states=None if as_it_is else states,
        tile_places=None if places is None else places.to(states.device),
        tile_grids=None if places is None else tile_grids(tiler, spans, places),
        complete=True,
    )
