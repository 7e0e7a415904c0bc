"""Shards answered in this process, each batch decoded while the one before it is answered."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from harness.run.shards import Shard, ShardResult

Item = TypeVar("Item")
Made = TypeVar("Made")


class PreparingRunner(Protocol[Made]):
    """A runner that makes the images of a shard ready in a step of its own, which may run ahead."""

    def make_ready(self, shard: Shard) -> Made:
        """Decode the images of a shard and make them ready for the vision tower."""

    def answer(self, shard: Shard, ready: Made | None = None) -> ShardResult:
        """Answer a shard.

        Args:
            shard: the batch and its cells.
            ready: what `make_ready` made of the shard; it is made now where not given.
        """


def run_here(
    runner: PreparingRunner[Made], shards: Sequence[Shard], count: int | None = None
) -> Iterator[tuple[Shard, ShardResult]]:
    """Answer shards in turn in this process; yield each with its result.

    Args:
        runner: answers one shard.
        shards: the shards to answer.
        count: threads that torch computes with meanwhile; None leaves them as they are.
    """
    with threads(count):
        for shard, ready in zip(shards, one_ahead(runner.make_ready, shards), strict=True):
            yield shard, runner.answer(shard, ready)


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch compute with so many threads inside the block; None leaves them as they are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Yield what is made of each item, in turn: a thread makes the next one while the caller has this one.

    An exception is raised where the turn of its item comes.
    """
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
