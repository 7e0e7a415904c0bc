"""Workers on a Ray cluster: actors that load the model once and answer shards. Ray is imported once it is asked for."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import torch

from harness.answers import Answerer, Shard, Stored
from harness.config import CompareConfig
from harness.distributed import READY, attempt, cores, keep_memory, loaded, small
from harness.errors import RequestError
from harness.manifest import code_digest

if TYPE_CHECKING:
    from harness.comparison import Prepared

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
    """`RequestError` where ray is not installed or no cluster answers at the address, before anything heavy is loaded.

    A process of its own tries, since connecting to nothing takes Ray minutes and ends the process that tried.
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
def cluster(config: CompareConfig, ready: Prepared, shards: int) -> Iterator[Actors]:
    """A cluster while its workers are needed.

    Args:
        config: the request, with ``ray``.
        ready: what it needs, loaded.
        shards: that are to be answered.
    """
    import ray

    connected = ray.is_initialized()
    if not connected:
        local = {"include_dashboard": False, "num_cpus": cores(), "object_store_memory": _STORE} if config.ray == "local" else {}
        if local:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(config.ray, log_to_driver=False, logging_level="ERROR", **local)
        except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RequestError(f"--ray {config.ray}: cannot be used ({said[:200]})") from None
        with contextlib.suppress(ValueError):  # not the main thread, where Ray leaves it alone too
            signal.signal(signal.SIGTERM, before)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where Ray tells of nodes that died
            yield Actors(config, ready, shards)
    finally:
        if not connected:
            ray.shutdown()


class Actors:
    """Workers on a cluster: on a GPU as many GPUs each as the model lies on here, on CPUs one each.

    A model too large for a copy a core gets one worker a node, with that node's CPUs.

    Args:
        config: the request.
        ready: what it needs, loaded.
        shards: that are to be answered; no more workers than these.
    """

    def __init__(self, config: CompareConfig, ready: Prepared, shards: int) -> None:
        import ray

        self.option = f"--ray {config.ray}"
        self.advice = "a smaller --batch-size takes less memory"
        adapter = ready.adapter
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.gpus = len({weight.device for weight in adapter.model.parameters() if weight.device.type == "cuda"})
        if self.gpus:
            room = sum(int(node.get("GPU", 0) // self.gpus) for node in nodes)
            self.cpus = 1
        else:
            free = [int(node.get("CPU", 0)) for node in nodes]
            room = sum(free) if small(ready) else sum(cpus > 0 for cpus in free)
            self.cpus = most_each(free, config.workers or room)
        if not room:
            raise RequestError(
                f"{self.option}: no node of the cluster has {self.gpus} GPUs"
                if self.gpus
                else f"{self.option}: no node of the cluster has a CPU to spare"
            )
        self.count = min(config.workers or room, shards)
        kind, dtype = adapter.device.type, str(adapter.dtype).removeprefix("torch.")
        self.config = replace(config, device=kind, dtype=dtype, out=None, extend=None, resume=False, ray=None)
        self.facts = facts(config, ready)
        self.actor = ray.remote(Remote).options(
            num_cpus=self.cpus, num_gpus=self.gpus, scheduling_strategy="SPREAD", max_restarts=0, max_task_retries=0
        )
        self.told = False

    def start(self, number: int) -> RayWorker:
        return RayWorker(self.actor.remote(self.config, self.facts, self.cpus, os.getcwd()), self.option)

    def heard(self, workers: Sequence[RayWorker]) -> Sequence[RayWorker]:
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
    """The most CPUs that each of some workers may ask for, so that all find room on nodes with these CPUs; at least 1.

    >>> most_each([8, 8], 4), most_each([8, 4], 3), most_each([2, 2], 9)
    (4, 4, 1)
    """
    return next((cpus for cpus in range(max(free, default=1), 1, -1) if sum(n // cpus for n in free) >= workers), 1)


class RayWorker:
    """An actor, seen from here."""

    def __init__(self, actor, option: str) -> None:
        self.actor, self.option = actor, option
        self.shard: Shard | None = None
        self.awaited = actor.load.remote()

    def give(self, shard: Shard) -> None:
        self.shard = shard
        self.awaited = self.actor.answer.remote(shard)

    def take(self) -> Stored | Exception | str | None:
        import ray

        try:
            return ray.get(self.awaited)
        except ray.exceptions.RayTaskError as error:
            return error
        except ray.exceptions.RayError as error:  # of a worker, a node or a result that is gone
            if not getattr(error, "actor_init_failed", False):
                return None
            said = str(error).strip().splitlines()[-1]
            return RequestError(f"{self.option}: a worker cannot begin ({said[:200]}); every node needs this prunescope")

    def stop(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self.actor)


class Remote:
    """An actor's life: the model is loaded once, shards are answered in turn.

    Args:
        config: the request, with device and dtype as where it was made.
        wanted: `facts` there.
        threads: of this worker.
        folder: that relative paths are from.
    """

    def __init__(self, config: CompareConfig, wanted: dict[str, str], threads: int, folder: str) -> None:
        self.config, self.wanted = config, wanted
        torch.set_num_threads(threads)
        keep_memory()
        with contextlib.suppress(OSError):  # where there is no such folder, relative paths fail by name
            os.chdir(folder)

    def load(self) -> str | Exception:
        """`READY`, or the error where the model or the data are missing here or are others."""
        return attempt(self._load)

    def _load(self) -> str:
        here = f"--ray: node {socket.gethostname()}"
        try:
            ready = loaded(self.config)
        except RequestError as error:
            raise RequestError(f"{here}: {error}") from None
        for name, found in facts(self.config, ready).items():
            if found != self.wanted[name]:
                raise RequestError(f"{here}: has other {name} ({found}) than where the run began ({self.wanted[name]})")
        self.answerer = Answerer(self.config, ready)
        return READY

    def answer(self, shard: Shard) -> Stored | Exception:
        return attempt(lambda: self.answerer.answer(shard))


def facts(config: CompareConfig, ready: Prepared) -> dict[str, str]:
    """What must agree between machines for their answers to be of one run, each by what a message calls it."""
    asked = hashlib.sha256()
    for sample in ready.samples:
        asked.update(repr((sample.image_id, [(q.sample_id, q.text, q.answer) for q in sample.questions])).encode())
    return {
        "code of prunescope or a plug-in": code_digest(config.plugin),
        "weights": str(ready.adapter.digest),
        "data": str(getattr(ready.task, "digest", None)),
        "questions": asked.hexdigest()[:16],
        "versions": f"torch {version('torch').partition('+')[0]}, transformers {version('transformers')}",
    }
