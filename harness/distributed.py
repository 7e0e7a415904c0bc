"""Who answers the shards of a run: this process, several beside it, or a Ray cluster. One process alone writes what they find.

A shard depends on the request alone, so whoever answers it finds the same. One that dies is replaced, and what it was at
is given to another: a shard is stored once, whole, when its answers arrive. A worker gets a shard only once it has the
model, and its next one only with its last result taken, so results never pile up.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Final, Protocol

from harness.answers import Answerer, Shard, Stored, one_ahead
from harness.config import CompareConfig, load_plugins
from harness.errors import RequestError

if TYPE_CHECKING:
    from harness.comparison import Prepared

READY: Final = "ready"
_SMALL = 2**30  # bytes of weights below which several processes gain more than threads inside one
_TRIES = 3  # of a shard whose workers die, and of a worker that dies before it has the model


class Worker(Protocol):
    """Somebody who answers shards, one at a time."""

    shard: Shard | None  # that it is at

    def give(self, shard: Shard) -> None: ...

    def take(self) -> Stored | Exception | str | None:
        """What it found, what went wrong, `READY` where it has the model, or None where it is dead."""

    def stop(self) -> None: ...


class Team(Protocol):
    """Where workers come from."""

    count: int
    option: str  # that asked for it, as messages name it
    advice: str  # where workers keep dying

    def start(self, number: int) -> Worker: ...

    def heard(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Those with something to take; waits until there is one."""


def crew(
    config: CompareConfig, ready: Prepared, shards: Sequence[Shard], advance: Callable[[int], None]
) -> Generator[tuple[Shard, Stored]]:
    """Shards with what they gave, as they come.

    Args:
        config: the request.
        ready: what it needs, loaded.
        shards: to answer.
        advance: told how many images a cell has answered.

    Raises:
        RequestError: where a shard cannot be answered.
    """
    if config.ray is not None and shards:
        from harness.ray_crew import cluster

        with cluster(config, ready, len(shards)) as team:
            yield from together(team, shards, advance)
        return
    asked = workers_for(config, ready)
    worth = len(shards) if config.workers is not None else len(shards) // 2  # one shard does not pay for a process
    if min(asked, worth) > 1:
        yield from together(Processes(config, ready, min(asked, worth), threads_of(asked)), shards, advance)
        return
    answerer = Answerer(config, ready, advance)
    with threads(threads_of(asked) if asked > 1 else None):
        made = one_ahead(answerer.work, shards)
        for shard, work in zip(shards, made, strict=True):
            yield shard, answerer.answer(shard, work)


def threads_of(workers: int) -> int:
    """Threads of each of several processes, however many of them there is work for: what is left of a run is rounded alike."""
    return max(1, cores() // workers)


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Torch computes with so many threads within; None leaves them as they are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def workers_for(config: CompareConfig, ready: Prepared) -> int:
    """How many processes answer, where the request leaves it open: on a CPU with a small model, one a core."""
    if config.workers is not None:
        return config.workers
    return cores() if ready.adapter.device.type == "cpu" and small(ready) else 1


def small(ready: Prepared) -> bool:
    """Whether every core may have a copy of the weights."""
    return sum(tensor.numel() * tensor.element_size() for tensor in ready.adapter.model.state_dict().values()) < _SMALL


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def together(team: Team, shards: Sequence[Shard], advance: Callable[[int], None]) -> Iterator[tuple[Shard, Stored]]:
    """Shards answered by a team, each once."""
    waiting, left = deque(shards), len(shards)
    deaths: Counter[Shard | int] = Counter()
    workers = [team.start(number) for number in range(team.count)]
    idle: list[Worker] = []
    try:
        while left:
            for worker in team.heard([worker for worker in workers if worker not in idle]):
                found, shard = worker.take(), worker.shard
                worker.shard = None
                if isinstance(found, Exception):
                    raise found
                number = workers.index(worker)
                if found is not None:
                    deaths[number] = 0
                    idle.append(worker)
                else:
                    if shard is not None:
                        waiting.appendleft(shard)
                    deaths[number if shard is None else shard] += 1
                    if deaths[number if shard is None else shard] == _TRIES:
                        at = (
                            "while they loaded the model"
                            if shard is None
                            else f"on the batch of images that begins at {shard.place}"
                        )
                        raise RequestError(f"{team.option}: {_TRIES} workers died {at}; {team.advice}")
                    worker.stop()
                    workers[number] = team.start(number)
                while waiting and idle:
                    idle.pop().give(waiting.popleft())
                if isinstance(found, Stored):
                    left -= 1
                    advance(len(found.images) * len(found.findings))
                    yield shard, found
    finally:
        for worker in workers:
            worker.stop()


class Processes:
    """Workers on this machine.

    Args:
        config: the request.
        ready: what it needs, loaded.
        count: processes.
        threads: of each.
    """

    def __init__(self, config: CompareConfig, ready: Prepared, count: int, threads: int) -> None:
        self.config, self.ready, self.count, self.option = config, ready, count, f"--workers {count}"
        self.advice = "with --workers 1, or a smaller --batch-size, there is more memory for each"
        self.threads = threads

    def start(self, number: int) -> LocalWorker:
        return LocalWorker(number, self.config, self.ready, self.threads)

    def heard(self, workers: Sequence[LocalWorker]) -> Sequence[LocalWorker]:
        spoken = wait([worker.connection for worker in workers])
        return [worker for worker in workers if worker.connection in spoken]


class LocalWorker:
    """A process that answers shards."""

    def __init__(self, number: int, config: CompareConfig, ready: Prepared, threads: int) -> None:
        import torch

        forks = threads == 1 and ready.adapter.device.type == "cpu" and "fork" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork" if forks else "spawn")
        if not forks and ready.adapter.device.type == "cuda":
            config = replace(config, device=f"cuda:{number % torch.cuda.device_count()}")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve,
            args=(theirs, self.connection if forks else None, config, ready if forks else None, threads),
            daemon=True,
        )
        self.process.start()
        theirs.close()
        self.shard: Shard | None = None

    def give(self, shard: Shard) -> None:
        self.shard = shard
        with contextlib.suppress(OSError):  # dead already: `take` will say so
            self.connection.send(shard)

    def take(self) -> Stored | Exception | str | None:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def _serve(connection: Connection, other_end: Connection | None, config: CompareConfig, ready: Prepared | None, threads: int):
    """A worker's life: it ends with its parent."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process().pid,), daemon=True).start()
    if other_end is not None:
        other_end.close()
    torch.set_num_threads(threads)
    keep_memory()
    try:
        answerer = attempt(lambda: Answerer(config, ready or loaded(config)))
        connection.send(answerer if isinstance(answerer, Exception) else READY)
        while True:
            shard = connection.recv()
            connection.send(attempt(lambda: answerer.answer(shard)))
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)


def keep_memory() -> None:
    """Let glibc keep what is freed: activations of the next cell then need no fresh pages. Elsewhere it does nothing."""
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _end_with(parent: int) -> None:
    """End this process within a second of its parent, whatever it is at."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


def loaded(config: CompareConfig) -> Prepared:
    """A request's plug-ins, model and samples, for a process that begins with nothing."""
    from harness.prepare import prepare

    load_plugins(config.plugin)
    return prepare(config)


def attempt(work: Callable):
    """What some work gives, or the error that it ends with, as it can be sent, with what is known of its place."""
    try:
        return work()
    except RequestError as error:
        return error
    except Exception as error:
        error.add_note("in a worker:\n" + "".join(traceback.format_exception(error)))
        try:
            pickle.dumps(error)
        except Exception:
            return RuntimeError("".join(traceback.format_exception(error)))
        return error
