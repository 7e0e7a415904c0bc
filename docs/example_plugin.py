"""A plug-in: one selector, registered. Try it with ``--plugin example_plugin --methods edges`` from this folder."""

import torch

from methods import Selection, Signals, register


@register("edges", paper="an example", needs={"vision_features"})
def edges(signals: Signals, keep: int) -> Selection:
    """Keep the tokens that differ most from their right and lower neighbours."""
    features = signals.vision_features  # [B, N, Dv], row-major over the grid
    if signals.grid is None:
        change = (features - features.roll(-1, 1)).norm(dim=-1)
    else:
        square = features.unflatten(1, signals.grid)
        change = sum((square - square.roll(-1, axis)).norm(dim=-1) for axis in (1, 2)).flatten(1)
    order = torch.argsort(change, dim=-1, descending=True, stable=True)
    return Selection(order[:, :keep])
