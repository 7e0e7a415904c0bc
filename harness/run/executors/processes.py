"""Shards answered by several processes on this machine, which end with the process that started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

from harness.run.executors.base import READY, RunnerSource, attempt, keep_memory
from harness.run.shards import Shard, ShardResult

if TYPE_CHECKING:
    from multiprocessing.context import ForkContext, SpawnContext


class ProcessExecutor:
    """Starts workers as processes on this machine.

    Args:
        source: what the workers run.
        count: processes.
        threads: threads of each process.
        device: that the model lies on. On a CPU processes of one thread each are forked and share the weights, unless this
            process has begun to use CUDA, which does not survive a fork; else each loads the model for itself: on all GPUs in
            turn for ``cuda``, on one for ``cuda:1``.
    """

    def __init__(self, source: RunnerSource, count: int, threads: int, device: str) -> None:
        self.source, self.count, self.threads, self.device = source, count, threads, device
        self.option = f"--workers {count}"
        self.advice = "with --workers 1, or a smaller --batch-size, there is more memory for each"

    def start(self, number: int) -> ProcessWorker:
        """Start a process; one on a GPU takes the GPU that its number falls on."""
        return ProcessWorker(number, self.source, self.threads, self.device)

    def heard(self, workers: Sequence[ProcessWorker]) -> Sequence[ProcessWorker]:
        """Wait until some of the processes have said something or have ended."""
        spoken = wait([worker.connection for worker in workers])
        return [worker for worker in workers if worker.connection in spoken]


class ProcessWorker:
    """A process that answers shards, as seen from the process that stores the results.

    Args:
        number: of the worker, from 0 on; it says which GPU a worker takes.
        source: what the worker runs.
        threads: that it computes with.
        device: that the model lies on.
    """

    def __init__(self, number: int, source: RunnerSource, threads: int, device: str) -> None:
        import torch

        forks = threads == 1 and device == "cpu" and not torch.cuda.is_initialized()
        forks = forks and "fork" in multiprocessing.get_all_start_methods()
        context: ForkContext | SpawnContext = (
            multiprocessing.get_context("fork") if forks else multiprocessing.get_context("spawn")
        )
        own = None
        if not forks and device == "cuda":
            own = f"cuda:{number % torch.cuda.device_count()}"
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, self.connection if forks else None, source, own, threads), daemon=True
        )
        self.process.start()
        theirs.close()
        self.shard: Shard | None = None

    def give(self, shard: Shard) -> None:
        """Send a shard; where the process is dead already, `take` will say so."""
        self.shard = shard
        with contextlib.suppress(OSError):
            self.connection.send(shard)

    def take(self) -> ShardResult | Exception | str | None:
        """Return what the process sent, or None where it has ended."""
        try:
            said: ShardResult | Exception | str = self.connection.recv()
            return said
        except (EOFError, OSError):
            return None

    def stop(self) -> None:
        """Kill the process."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def _serve(connection: Connection, other_end: Connection | None, source: RunnerSource, device: str | None, threads: int) -> None:
    """Answer shards until the parent ends: a worker's life."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a process of its own"
    threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()
    if other_end is not None:
        other_end.close()
    torch.set_num_threads(threads)
    keep_memory()
    try:
        runner = attempt(lambda: source.make(device))
        if isinstance(runner, Exception):
            connection.send(runner)
            connection.recv()  # nothing follows: the parent raises it and ends this process
            return
        connection.send(READY)
        while True:
            shard = connection.recv()
            connection.send(attempt(lambda: runner.answer(shard)))
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)


def _end_with(parent: int) -> None:
    """End this process within a second of its parent, whatever it is at."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)
