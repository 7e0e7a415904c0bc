"""What all executors share: how shards are handed out to workers, and what happens when a worker dies.

A shard depends on the request alone, so its result does not depend on the worker. A worker that dies is replaced, and the
shard that it was at is given to another: a shard is stored once, whole, when its answers arrive. A worker gets a shard only
once it has the model, and its next one only after its last result was taken, so results never pile up.

Executors know nothing of models or methods. What their workers run is handed in as a `RunnerSource`.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import os
import pickle
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from harness.errors import RequestError, describe_here
from harness.run.shards import Shard, ShardResult

READY: Final = "ready"
"""What a worker says once it has the model."""
_TRIES = 3  # of a shard whose workers die, and of a worker that dies before it has the model

Result = TypeVar("Result")


class Runner(Protocol):
    """Answers shards in the process that made it."""

    def answer(self, shard: Shard) -> ShardResult:
        """Answer one shard."""


class RunnerSource(Protocol):
    """Makes a `Runner` wherever shards are answered; it can be pickled, and is sent to other processes and machines."""

    def make(self, device: str | None = None) -> Runner:
        """Load what a runner needs in this process.

        Args:
            device: the device to load the model on, such as ``cuda:1``; the request's own where not given.

        Raises:
            RequestError: where the model or the data are missing here, or are not those of the run.
        """


@dataclass(frozen=True)
class ModelNeeds:
    """What one copy of the model asks of a machine."""

    device: str  # the kind of device it lies on: cpu or cuda
    gpus: int  # GPUs that it lies on
    small: bool  # whether every core may have a copy of the weights


class Worker(Protocol):
    """A process that answers shards, one at a time, as seen from the process that stores the results."""

    shard: Shard | None  # that it is at

    def give(self, shard: Shard) -> None:
        """Hand over a shard to answer, and set ``shard`` to it."""

    def take(self) -> ShardResult | Exception | str | None:
        """Return what the worker gave, the error that it met, `READY` where it has the model, or None where it is dead.

        `READY` comes once, before the first shard.
        """

    def stop(self) -> None:
        """End the worker."""


WorkerT = TypeVar("WorkerT", bound=Worker)


class Executor(Protocol[WorkerT]):
    """Starts workers and waits for them."""

    count: int  # workers
    option: str  # the option of the command line that asked for this executor, for messages
    advice: str  # what a user can do where workers keep dying

    def start(self, number: int) -> WorkerT:
        """Start the worker with this number, from 0 on."""

    def heard(self, workers: Sequence[WorkerT]) -> Sequence[WorkerT]:
        """Wait until some of the workers have something to take, and return those."""


def run_with(
    executor: Executor[WorkerT], shards: Sequence[Shard], advance: Callable[[int], None]
) -> Iterator[tuple[Shard, ShardResult]]:
    """Answer shards with the workers of an executor; yield each shard once, with its result, as results arrive.

    Args:
        executor: starts the workers; all of them are stopped at the end.
        shards: the shards to answer.
        advance: is told how many images were answered, times cells.

    Raises:
        RequestError: where three workers die in turn on one shard, or one dies three times before it has the model.
    """
    waiting, left = deque(shards), len(shards)
    deaths: Counter[Shard | int] = Counter()
    workers = [executor.start(number) for number in range(executor.count)]
    idle: list[WorkerT] = []
    try:
        while left:
            for worker in executor.heard([worker for worker in workers if worker not in idle]):
                taken, shard = worker.take(), worker.shard
                worker.shard = None
                if isinstance(taken, Exception):
                    raise taken
                number = workers.index(worker)
                if taken is not None:
                    deaths[number] = 0
                    idle.append(worker)
                else:
                    if shard is not None:
                        waiting.appendleft(shard)
                    died_on = number if shard is None else shard
                    deaths[died_on] += 1
                    if deaths[died_on] == _TRIES:
                        at = (
                            "while they loaded the model"
                            if shard is None
                            else f"on the batch of images that begins at {shard.place}"
                        )
                        raise RequestError(f"{executor.option}: {_TRIES} workers died {at}; {executor.advice}")
                    worker.stop()
                    workers[number] = executor.start(number)
                while waiting and idle:
                    idle.pop().give(waiting.popleft())
                if isinstance(taken, ShardResult) and shard is not None:
                    left -= 1
                    advance(len(taken.images) * len(taken.cell_results))
                    yield shard, taken
    finally:
        for worker in workers:
            worker.stop()


def attempt(call: Callable[[], Result]) -> Result | Exception:
    """Return what a call gives, or the error that it ends with, made fit to be sent and with a note of its place."""
    try:
        return call()
    except RequestError as error:
        return error
    except Exception as error:
        note = "in a worker:\n" + "".join(traceback.format_exception(error))
        describe_here(error, error)
        error.add_note(note)
        try:
            pickle.dumps(error)
            copy.copy(error)  # goes the way of pickle: some errors can be taken apart and not put together again
        except Exception:
            substitute = RuntimeError(str(error))
            describe_here(substitute, error)
            substitute.add_note(note)
            return substitute
        return error


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Let glibc keep what is freed, so that activations of the next cell need no fresh pages; elsewhere do nothing."""
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
