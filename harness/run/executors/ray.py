"""Shards answered on a Ray cluster by actors, each of which loads the model once. Ray is imported when it is first needed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import torch

from harness.errors import RequestError
from harness.run.executors.base import READY, ModelNeeds, Runner, RunnerSource, attempt, cores, keep_memory
from harness.run.shards import Shard, ShardResult

_ANSWER_WITHIN = 20.0  # seconds, of a cluster that is there
_NOTICE = 60.0  # seconds without a worker before the terminal is told
_STORE = 2**28  # bytes of a local cluster's object store: there is one result a worker at the most
_PROBE = """
import sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
except Exception as error:
    sys.exit("".join(str(error).strip().splitlines()[:1]) or type(error).__name__)
"""


def check(address: str) -> None:
    """Raise a `RequestError` where ray is not installed or no cluster answers, before anything heavy is loaded.

    A process of its own tries, since connecting to nothing takes Ray minutes and ends the process that tried.

    Args:
        address: as ``--ray`` takes it: auto, local, HOST:PORT or ray://HOST:PORT.
    """
    if find_spec("ray") is None:
        raise RequestError(f"--ray {address}: ray is not installed; pip install 'prunescope[ray]'")
    if address == "local":
        return
    where = f"--ray {address}: no Ray cluster answers there"
    if address != "auto":
        try:
            place = urlsplit(address if "//" in address else f"//{address}")
            socket.create_connection((place.hostname, place.port), timeout=_ANSWER_WITHIN / 2).close()
        except (OSError, ValueError) as error:
            raise RequestError(
                f"{where} ({getattr(error, 'strerror', None) or error}); `ray status` shows one that runs"
            ) from None
    command = [sys.executable, "-c", _PROBE, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_WITHIN, check=False)  # nosec B603
    except subprocess.TimeoutExpired:
        raise RequestError(
            f"{where} within {_ANSWER_WITHIN:.0f} s; one that asks for tokens needs RAY_AUTH_MODE=token here"
        ) from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise RequestError(f"{where} ({said[:200]})")


@contextmanager
def cluster(address: str, source: RunnerSource, needs: ModelNeeds, workers: int | None, shards: int) -> Iterator[RayExecutor]:
    """Hold a connection to a cluster while its workers are needed.

    Args:
        address: as ``--ray`` takes it: auto, local, HOST:PORT or ray://HOST:PORT.
        source: what the workers run.
        needs: of one copy of the model.
        workers: actors; as many as the cluster has room for where not given.
        shards: shards that are to be answered; no more workers than these.

    Raises:
        RequestError: where the cluster cannot be used, or has no room for one worker.
    """
    import ray

    connected = ray.is_initialized()
    if not connected:
        local = {"include_dashboard": False, "num_cpus": cores(), "object_store_memory": _STORE} if address == "local" else {}
        if local:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR", **local)
        except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RequestError(f"--ray {address}: cannot be used ({said[:200]})") from None
        with contextlib.suppress(ValueError):  # not the main thread, where Ray leaves it alone too
            signal.signal(signal.SIGTERM, before)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where Ray tells of nodes that died
            yield RayExecutor(address, source, needs, workers, shards)
    finally:
        if not connected:
            ray.shutdown()


class RayExecutor:
    """Starts workers on a cluster: on a GPU as many GPUs each as the model lies on here, on CPUs one each.

    A model too large for a copy a core gets one worker a node, with that node's CPUs.

    Args:
        address: of the cluster, for messages.
        source: what the workers run.
        needs: of one copy of the model.
        workers: actors; as many as there is room for where not given.
        shards: shards that are to be answered; no more workers than these.

    Raises:
        RequestError: where no node has room for one worker.
    """

    def __init__(self, address: str, source: RunnerSource, needs: ModelNeeds, workers: int | None, shards: int) -> None:
        import ray

        self.option = f"--ray {address}"
        self.advice = "a smaller --batch-size takes less memory"
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.gpus = needs.gpus
        if self.gpus:
            room = sum(int(node.get("GPU", 0) // self.gpus) for node in nodes)
            self.cpus = 1
        else:
            free = [int(node.get("CPU", 0)) for node in nodes]
            room = sum(free) if needs.small else sum(cpus > 0 for cpus in free)
            self.cpus = most_each(free, workers or room)
        if not room:
            raise RequestError(
                f"{self.option}: no node of the cluster has {self.gpus} GPUs"
                if self.gpus
                else f"{self.option}: no node of the cluster has a CPU to spare"
            )
        self.source, self.count = source, min(workers or room, shards)
        self.actor = ray.remote(ShardActor).options(
            num_cpus=self.cpus, num_gpus=self.gpus, scheduling_strategy="SPREAD", max_restarts=0, max_task_retries=0
        )
        self.told = False

    def start(self, number: int) -> RayWorker:
        """Start an actor; where it runs is the cluster's choice."""
        return RayWorker(self.actor.remote(self.source, self.cpus, os.getcwd()), self.option)

    def heard(self, workers: Sequence[RayWorker]) -> Sequence[RayWorker]:
        """Wait until some of the actors have something to take; tell the terminal once where none starts for a minute."""
        import ray

        awaited = [worker.awaited for worker in workers]
        while not ray.wait(awaited, num_returns=1, timeout=_NOTICE)[0]:
            if not self.told and all(worker.shard is None for worker in workers):
                needs = f"{self.gpus} GPUs" if self.gpus else f"{self.cpus} CPUs"
                print(f"{self.option}: waiting for a worker; each asks for {needs}, and loads the model first", file=sys.stderr)
                self.told = True
        spoken, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0)
        return [worker for worker in workers if worker.awaited in spoken]


def most_each(free: Sequence[int], workers: int) -> int:
    """Return the most CPUs that each worker may ask for, so that all find room; at least 1.

    Args:
        free: CPUs of each node.
        workers: that are to find room on the nodes.

    >>> most_each([8, 8], 4), most_each([8, 4], 3), most_each([2, 2], 9)
    (4, 4, 1)
    """
    return next((cpus for cpus in range(max(free, default=1), 1, -1) if sum(n // cpus for n in free) >= workers), 1)


class RayWorker:
    """An actor that answers shards, as seen from the process that stores the results.

    Args:
        actor: ray's handle of a `ShardActor`.
        option: the option of the command line that asked for it, for messages.
    """

    def __init__(self, actor: Any, option: str) -> None:
        self.actor, self.option = actor, option
        self.shard: Shard | None = None
        self.awaited = actor.load.remote()

    def give(self, shard: Shard) -> None:
        """Send a shard to the actor."""
        self.shard = shard
        self.awaited = self.actor.answer.remote(shard)

    def take(self) -> ShardResult | Exception | str | None:
        """Return what the actor answered, the error that it met, or None where it is gone."""
        import ray

        try:
            said: ShardResult | Exception | str = ray.get(self.awaited)
            return said
        except ray.exceptions.RayTaskError as error:
            met: Exception = error.cause if isinstance(error.cause, Exception) else error
            return met
        except ray.exceptions.RayError as error:  # of a worker, a node or a result that is gone
            if not getattr(error, "actor_init_failed", False):
                return None
            said = str(error).strip().splitlines()[-1]
            return RequestError(f"{self.option}: a worker cannot begin ({said[:200]}); every node needs this prunescope")

    def stop(self) -> None:
        """End the actor."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self.actor)


class ShardActor:
    """The class that runs on the cluster: it loads the model once and answers shards in turn.

    Args:
        source: what the actor runs.
        threads: that it computes with.
        folder: the folder from which relative paths count.
    """

    def __init__(self, source: RunnerSource, threads: int, folder: str) -> None:
        self.source = source
        torch.set_num_threads(threads)
        keep_memory()
        with contextlib.suppress(OSError):  # where there is no such folder, relative paths fail by name
            os.chdir(folder)

    def load(self) -> str | Exception:
        """Return `READY`, or the error where the model or the data are missing here or are others."""
        return attempt(self._load)

    def _load(self) -> str:
        try:
            self.runner: Runner = self.source.make()
        except RequestError as error:
            raise RequestError(f"--ray: node {socket.gethostname()}: {error}") from None
        return READY

    def answer(self, shard: Shard) -> ShardResult | Exception:
        """Answer a shard, or return the error that it ended with."""
        return attempt(lambda: self.runner.answer(shard))
