"""From images to what left the vision tower: block by block where it is open, so that tokens may merge inside it."""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.engine.signals import GroupedVisionOutput, VisionOutput, of_tower, of_whole_tower, tower_probe, wanted_of_tower
from harness.engine.stopwatch import Stopwatch
from harness.models.adapter import Adapter
from harness.models.probes import AttentionProbe
from harness.models.prompt import PixelBatch
from methods.types import Signals, Step


def encode_images(
    adapter: Adapter, pixels: PixelBatch, steps: tuple[Step, ...], watch: Stopwatch, wanted: frozenset[str]
) -> VisionOutput | GroupedVisionOutput:
    """Run the tower, merging in its blocks where the steps say so.

    Args:
        adapter: the model.
        pixels: images.
        steps: of a method; the signals that its projector step needs are gathered too.
        watch: takes the time of each stage.
        wanted: further signals to gather.
    """
    if not pixels.even:
        groups = pixels.groups()
        return GroupedVisionOutput(
            tuple(encode_images(adapter, pixels[group], steps, watch, wanted) for group in groups), tuple(groups)
        )
    wanted = wanted | wanted_of_tower(step for step in steps if step.site.stage == 1)
    if adapter.blockwise_tower is None:
        return _see_whole(adapter, pixels, watch, wanted)
    inside = {step.site.layer: step for step in steps if step.site.stage == 0}
    with watch.stage("vision"):
        hidden = adapter.enter_tower(pixels.stack())
        cls, count = int(adapter.shape.has_cls), hidden.shape[1] - int(adapter.shape.has_cls)
        source = torch.arange(count, device=hidden.device).expand(len(hidden), -1)
        lowest, sizes, bias = source, torch.ones(source.shape, dtype=hidden.dtype, device=hidden.device), None
        for index, block in enumerate(adapter.blocks):
            step = inside.get(index)
            probe = AttentionProbe(keys=True) if step is not None else None
            if index == len(adapter.blocks) - 1 and step is None:
                probe = tower_probe(wanted, len(hidden), hidden.device)
            hidden = block.attend(hidden, bias, probe)
            if step is not None:
                with watch.stage("selection"):
                    keys = probe.key_states.mean(1)[:, cls:]
                    signals = Signals(
                        vision_features=hidden[:, cls:], vision_keys=keys, sizes=sizes, count=keys.shape[1],
                        batch=len(keys), device=keys.device,
                    )  # fmt: skip
                    chosen = step.select(signals.only(step.needs), min(step.keep, keys.shape[1]))
                assert chosen.tokens is not None, "a step inside the tower must merge"
                hidden = torch.cat([hidden[:, :cls], chosen.tokens], dim=1)
                sizes = chosen.sizes
                source = chosen.source.long().argmax(1).gather(1, source)
                lowest = lowest.gather(1, chosen.indices)
                padded = torch.cat([sizes.new_ones(len(sizes), cls), sizes], dim=1)
                bias = padded.log()[:, None, None, :].expand(-1, 1, hidden.shape[1], -1)
            hidden = block.transform(hidden)
        states = adapter.blockwise_tower.leave(hidden)[:, cls:]
        with watch.stage("selection"):
            found = of_tower(adapter, wanted, hidden, probe, pixels.blocks[0])
    if inside:
        grid = pixels.blocks[0][0].grid
        return VisionOutput(states, source, lowest, True, None, grid, found, pixels.blocks[0])
    return _arranged(adapter, pixels, states, found)


def _see_whole(adapter: Adapter, pixels: PixelBatch, watch: Stopwatch, wanted: frozenset[str]) -> VisionOutput:
    """Run a tower that is not taken apart; it projects too."""
    blocks = pixels.blocks[0]
    with watch.stage("vision"):
        keys = bool(wanted & {"vision_keys", "vision_keys_full"})
        seen = adapter.whole_tower.see(pixels, pixels.stack(), watch, keys, "received_attention" in wanted)
        with watch.stage("selection"):
            found = of_whole_tower(adapter, wanted, seen, blocks)
        split = lambda table: table.unflatten(0, (len(pixels), -1))
        made = _arranged(adapter, pixels, seen.states, found)
    return replace(made, states=None, projected=split(seen.projected), deep=tuple(map(split, seen.deep)))


def _arranged(adapter: Adapter, pixels: PixelBatch, states: torch.Tensor, signals: dict[str, torch.Tensor]) -> VisionOutput:
    """What left a tower in which nothing merged."""
    blocks, tiler = pixels.blocks[0], adapter.tiler
    alone = tiler.whole and len(blocks) == 1
    features = states if alone else tiler.arrange(states, blocks)
    count = features.shape[1]
    every = torch.arange(count, device=states.device).expand(len(pixels), -1)
    frame = adapter.prompt_prefix([], blocks)
    return VisionOutput(
        features, every, every, False, frame.grid, frame.grid or (1, count), signals, blocks,
        None if frame.grid is not None else frame.points, None if alone else states,
    )  # fmt: skip
