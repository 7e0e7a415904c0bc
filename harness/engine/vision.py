"""From images to what left the vision tower: block by block where possible, so that tokens may merge inside it."""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.engine.signals import (
    GroupedVisionOutput,
    VisionOutput,
    blockwise_tower_signals,
    tower_probe,
    vision_signal_names,
    whole_tower_signals,
)
from harness.engine.stopwatch import Stopwatch
from harness.models.adapter import Adapter
from harness.models.probes import AttentionProbe
from harness.models.prompt import PixelBatch
from harness.models.towers import BlockwiseTower
from methods.types import Signals, Step


def encode_images(
    adapter: Adapter, pixels: PixelBatch, steps: tuple[Step, ...], stopwatch: Stopwatch, wanted: frozenset[str]
) -> VisionOutput | GroupedVisionOutput:
    """Run the vision tower, merging in its blocks where the steps say so.

    Args:
        adapter: the model.
        pixels: images of B prompts.
        steps: of a method; the signals that its projector step needs are gathered too.
        stopwatch: takes the time of each stage.
        wanted: names of further signals to gather.

    Returns:
        The output for all prompts, or one for each group of them where they differ in their visual tokens.
    """
    if pixels.uniform:
        return _encode_uniform(adapter, pixels, steps, stopwatch, wanted)
    groups = pixels.groups()
    outputs = (_encode_uniform(adapter, pixels[group], steps, stopwatch, wanted) for group in groups)
    return GroupedVisionOutput(tuple(outputs), tuple(groups))


def _encode_uniform(
    adapter: Adapter, pixels: PixelBatch, steps: tuple[Step, ...], stopwatch: Stopwatch, wanted: frozenset[str]
) -> VisionOutput:
    """The output for prompts that are alike."""
    wanted = wanted | vision_signal_names(step for step in steps if step.site.stage == 1)
    if adapter.blockwise_tower is None:
        return _run_whole_tower(adapter, pixels, stopwatch, wanted)
    inside = {step.site.layer: step for step in steps if step.site.stage == 0}
    return _run_blockwise_tower(adapter, adapter.blockwise_tower, pixels, inside, stopwatch, wanted)


def _run_blockwise_tower(
    adapter: Adapter,
    tower: BlockwiseTower,
    pixels: PixelBatch,
    inside: dict[int, Step],
    stopwatch: Stopwatch,
    wanted: frozenset[str],
) -> VisionOutput:
    """Run a tower block by block; ``inside`` holds the steps by the block in whose middle they merge."""
    with stopwatch.stage("vision"):
        hidden = tower.enter(pixels.stack())
        cls, count = int(adapter.shape.has_cls), hidden.shape[1] - int(adapter.shape.has_cls)
        source = torch.arange(count, device=hidden.device).expand(len(hidden), -1)
        lowest, sizes = source, torch.ones(source.shape, dtype=hidden.dtype, device=hidden.device)
        bias: torch.Tensor | None = None
        behind = {0: hidden} if 0 in tower.joined else {}
        for index, block in enumerate(tower.blocks):
            step = inside.get(index)
            probe = AttentionProbe(keys=True) if step is not None else None
            if index == len(tower.blocks) - 1 and step is None:
                probe = tower_probe(wanted, len(hidden), hidden.device)
            hidden = block.attend(hidden, bias, probe)
            if step is not None:
                assert probe is not None and probe.key_states is not None, "the block was asked for its keys"
                with stopwatch.stage("selection"):
                    keys = probe.key_states.mean(1)[:, cls:]
                    signals = Signals(
                        vision_features=hidden[:, cls:], vision_keys=keys, sizes=sizes, count=keys.shape[1],
                        batch=len(keys), device=keys.device,
                    )  # fmt: skip
                    chosen = step.select(signals.only(step.needs), min(step.keep, keys.shape[1]))
                assert chosen.tokens is not None, "a step inside the tower must merge"
                assert chosen.sizes is not None and chosen.source is not None, "a merger says what it made tokens of"
                hidden = torch.cat([hidden[:, :cls], chosen.tokens], dim=1)
                sizes = chosen.sizes
                source = chosen.source.long().argmax(1).gather(1, source)
                lowest = lowest.gather(1, chosen.indices)
                padded = torch.cat([sizes.new_ones(len(sizes), cls), sizes], dim=1)
                bias = padded.log()[:, None, None, :].expand(-1, 1, hidden.shape[1], -1)
            hidden = block.transform(hidden)
            if index + 1 in tower.joined:
                behind[index + 1] = hidden
        states = tower.leave(hidden)[:, cls:]
        with stopwatch.stage("selection"):
            found = blockwise_tower_signals(adapter, wanted, hidden, probe, pixels.spans[0])
    if tower.joined:
        several = torch.cat([behind[layer] for layer in tower.joined], -1)[:, cls:]
        return replace(_arranged(adapter, pixels, states, found), tile_states=several)
    if not inside:
        return _arranged(adapter, pixels, states, found)
    grid = pixels.spans[0][0].grid
    assert grid is not None, "where tokens merge inside the tower, an image is one grid"
    return VisionOutput(states, source, lowest, True, None, grid, found, pixels.spans[0])


def _run_whole_tower(adapter: Adapter, pixels: PixelBatch, stopwatch: Stopwatch, wanted: frozenset[str]) -> VisionOutput:
    """Run a tower that is not taken apart; it projects too."""
    with stopwatch.stage("vision"):
        keys = bool(wanted & {"vision_keys", "vision_keys_full"})
        output = adapter.whole_tower.run(pixels, stopwatch, keys, "received_attention" in wanted)
        with stopwatch.stage("selection"):
            found = whole_tower_signals(adapter, wanted, output, pixels.spans[0])
        arranged = _arranged(adapter, pixels, output.states, found)
    return replace(
        arranged,
        tile_states=None,
        projected=_by_prompt(output.projected, len(pixels)),
        deepstack=tuple(_by_prompt(table, len(pixels)) for table in output.deepstack),
    )


def _by_prompt(table: torch.Tensor, prompts: int) -> torch.Tensor:
    """[B * N, D] as [B, N, D]."""
    return table.view(prompts, -1, table.shape[-1])


def _arranged(adapter: Adapter, pixels: PixelBatch, states: torch.Tensor, signals: dict[str, torch.Tensor]) -> VisionOutput:
    """The output of a tower in which nothing merged."""
    spans, tiler = pixels.spans[0], adapter.tiler
    as_it_is = tiler.one_to_one and len(spans) == 1
    features = states if as_it_is else tiler.arrange(states, spans)
    count = features.shape[1]
    every = torch.arange(count, device=states.device).expand(len(pixels), -1)
    prefix = adapter.prompt_prefix([], spans)
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
    )
