"""Blocks of the vision tower that papers name by number, on towers of other depths."""

from __future__ import annotations

from methods.types import LAST_BLOCK, READ_LAYER, ModelShape, TowerRead


def depth(shape: ModelShape) -> int:
    """Return how many blocks the tower has, those that the model does not read included."""
    return shape.tower_blocks or shape.vision_layers


def block_of(read: TowerRead, shape: ModelShape) -> int:
    """Return the index of the tower block, from 0, at which something is read."""
    return {READ_LAYER: shape.vision_layers - 1, LAST_BLOCK: depth(shape) - 1}.get(read.block, read.block)


def block_at(shape: ModelShape, block: int, of: int) -> int:
    """Return the tower block that stands for a paper's ``block`` of ``of``, both counted from 0.

    The number itself on towers of that depth or deeper, the same fraction below.

    >>> from types import SimpleNamespace
    >>> [block_at(SimpleNamespace(tower_blocks=blocks, vision_layers=0), 8, 24) for blocks in (27, 24, 6)]
    [8, 8, 2]
    """
    blocks = depth(shape)
    return block if blocks >= of else min(round(block / of * blocks), blocks - 1)


def middle_block(shape: ModelShape) -> int:
    """Return the middle block whose attention HiPrune reads (arXiv:2508.00553; Danielement321/HiPrune 6e83a12).

    Block 8 of 24. Where most blocks attend in windows, the block that attends to the whole image nearest to 15 of 32.
    """
    if not shape.global_blocks:
        return block_at(shape, 8, 24)
    aim = 15 / 32 * depth(shape)
    return min(shape.global_blocks, key=lambda block: (abs(block - aim), block))


def first_global_block(shape: ModelShape) -> int:
    """Return the first block that attends to the whole image, of a tower without CLS (VScan, arXiv:2505.22654).

    Block 7 of 32 in Qwen2.5-VL, whose blocks before it attend in windows. Where no block does, the same fraction.
    """
    return min(shape.global_blocks) if shape.global_blocks else block_at(shape, 7, 32)
