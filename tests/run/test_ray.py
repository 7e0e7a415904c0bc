"""Actors of a Ray cluster answer what one process does, whichever of them or of their nodes dies."""

import os
import random
import socket
import time
from collections import Counter
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from harness.errors import RequestError
from harness.run.accuracy_pass import model_needs, source_for_cluster
from harness.run.comparison import compare
from harness.run.config import CompareConfig
from harness.run.executors import ray as ray_executor
from harness.run.executors.base import READY, run_with
from harness.run.manifest import command, identity
from harness.run.prepare import prepare
from harness.run.shard_runner import ShardRunnerSource, fingerprints
from harness.run.shards import Shard, ShardResult

REQUEST = {
    "methods": ("random", "fastv"), "keep": ("64",), "samples": 6, "batch_size": 1, "latency": False, "analyse": 2, "seeds": 2,
}  # fmt: skip


def tables(run):
    names = ("samples", "analysis", "repeats", "traces", "images", "questions", "done")
    return {name: sorted(run.store.connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}


class MortalExecutor:
    """Starts workers that die as random numbers have it: twice at most on a shard, and before they have the model."""

    def __init__(self, count, rate, seed, starts=True):
        self.count, self.option, self.advice = count, "--workers", "stop"
        self.random, self.rate, self.starts, self.deaths = random.Random(seed), rate, starts, Counter()

    def start(self, number):
        return Scripted(self, number, alive=self.starts or number > 0)

    def kills(self, what):
        if self.random.random() < self.rate and (self.rate == 1 or self.deaths[what] < 2):
            self.deaths[what] += 1
            return True
        return False

    def heard(self, workers):
        assert workers, "waits for nobody"
        able = [worker for worker in workers if worker.alive]
        return self.random.sample(able, self.random.randint(1, len(able)))


class Scripted:
    def __init__(self, executor, number, alive):
        self.executor, self.number, self.alive, self.shard, self.loaded, self.stopped = (
            executor,
            number,
            alive,
            None,
            False,
            False,
        )

    def give(self, shard):
        assert self.shard is None and self.loaded and not self.stopped
        self.shard = shard

    def take(self):
        assert not self.stopped
        if self.executor.kills(self.number if self.shard is None else self.shard):
            return None
        if not self.loaded:
            self.loaded = True
            return READY
        return ShardResult(size=self.shard.place)

    def stop(self):
        self.stopped = True


@pytest.mark.parametrize("seed", range(20))
def test_every_shard_comes_once_however_workers_die(seed):
    shards = [Shard(place, ("none",)) for place in range(50)]
    executor = MortalExecutor(count=1 + seed % 7, rate=0.2, seed=seed)
    found = list(run_with(executor, shards, lambda images: None))
    assert sorted(shard.place for shard, _ in found) == list(range(50))
    assert all(result.size == shard.place for shard, result in found)
    assert executor.deaths.total() > 2


def test_a_worker_that_never_starts_holds_nobody_up():
    shards = [Shard(place, ()) for place in range(9)]
    assert len(list(run_with(MortalExecutor(3, 0, 0, starts=False), shards, lambda images: None))) == 9


def test_workers_that_always_die_are_given_up():
    with pytest.raises(RequestError, match="3 workers died while they loaded the model; stop"):
        list(run_with(MortalExecutor(2, 1.0, 0), [Shard(0, ())], lambda images: None))


def test_the_cluster_is_no_part_of_what_a_run_is():
    asked = CompareConfig(ray="auto")
    assert identity(asdict(asked)) == identity(asdict(CompareConfig()))
    assert "--ray" not in command(asked)


@pytest.mark.parametrize("address", ["", "auto ", "here", "http://host:1", "host:", "host:port", "ray://host", "--ray"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(RequestError, match=r"HOST:PORT or ray://HOST:PORT"):
        CompareConfig(ray=address).checked()


def test_without_ray_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setattr(ray_executor, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"^--ray auto: ray is not installed; pip install 'prunescope\[ray\]'$"):
        compare(**REQUEST, ray="auto")


@pytest.mark.ray
@pytest.mark.needs("ray")
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nothing_listens_no_cluster_answers(scheme):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RequestError, match=f"^--ray {address}: no Ray cluster answers there"):
            compare(**REQUEST, ray=address)


@pytest.mark.ray
@pytest.mark.needs("ray")
@pytest.mark.slow
def test_what_listens_and_says_nothing_is_given_up_in_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        with pytest.raises(RequestError, match="no Ray cluster answers there within 20 s"):
            compare(**REQUEST, ray=f"127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - start < 30


@pytest.mark.parametrize("cpus, workers, each", [([8, 8], 2, 8), ([8, 8], 4, 4), ([8, 4], 3, 4), ([2, 2], 9, 1), ([], 1, 1)])
def test_workers_share_the_cpus_of_nodes(cpus, workers, each):
    assert ray_executor.most_each(cpus, workers) == each


def test_a_node_with_other_data_is_refused_by_name(tmp_path):
    config = CompareConfig(**REQUEST)
    facts = fingerprints(config, prepare(config))
    source = lambda asked, wanted: ShardRunnerSource(asked, expected=wanted)
    remote = lambda asked, wanted: ray_executor.ShardActor(source(asked, wanted), torch.get_num_threads(), os.getcwd())
    assert remote(config, facts).load() == READY
    others = {"weights": {**facts, "weights": "0"}, "questions": facts}
    for name, wanted in others.items():
        error = remote(config if name == "weights" else replace(config, seed=5), wanted).load()
        assert isinstance(error, RequestError)
        assert str(error).startswith(f"--ray: node {socket.gethostname()}: has other {name} (")
    error = remote(replace(config, model=str(tmp_path / "gone")), facts).load()
    assert isinstance(error, RequestError) and str(error).startswith(f"--ray: node {socket.gethostname()}: ")


@pytest.mark.ray
@pytest.mark.needs("ray")
@pytest.mark.parametrize("gpus, shards, workers", [([8, 8, 4], 100, 20), ([8, 8, 4], 3, 3), ([0, 0], 9, None)])
def test_a_model_on_a_gpu_gets_one_worker_a_gpu(monkeypatch, gpus, shards, workers):
    import ray

    nodes = [{"Alive": True, "Resources": {"CPU": 16.0, "GPU": float(count)}} for count in gpus]
    monkeypatch.setattr(ray, "nodes", lambda: nodes + [{"Alive": False, "Resources": {"CPU": 16.0, "GPU": 8.0}}])
    weight = SimpleNamespace(device=torch.device("cuda", 0), numel=lambda: 1, element_size=lambda: 2)
    model = SimpleNamespace(parameters=lambda: [weight], state_dict=lambda: {"weight": weight})
    beside = {"companion": None, "processor": None}
    adapter = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, digest="0", model=model, **beside)
    prepared = SimpleNamespace(adapter=adapter, samples=[], task=None, active=[])
    source, needs = source_for_cluster(CompareConfig(ray="auto"), prepared), model_needs(prepared)
    assert (source.config.device, source.config.dtype, source.config.ray) == ("cuda", "bfloat16", None)
    if workers is None:
        with pytest.raises(RequestError, match="no node of the cluster has 1 GPU"):
            ray_executor.RayExecutor("auto", source, needs, None, shards)
        return
    executor = ray_executor.RayExecutor("auto", source, needs, None, shards)
    assert (executor.count, executor.gpus, executor.cpus) == (workers, 1, 1)


DEADLY = '''
"""A plug-in whose workers kill themselves, or their node, once."""

import os
import signal
import time
from pathlib import Path

import torch

from harness.run.shard_runner import ShardRunner
from methods import Selection, register

HERE = Path(__file__).parent
RAYLET = int((HERE / "raylet").read_text())
own = ShardRunner.answer


@register("{name}", paper="none", needs={{"vision_features"}})
def first(signals, keep):
    """Keep the first tokens."""
    return Selection(torch.arange(keep).expand(len(signals.vision_features), keep))


def once():
    try:
        os.close(os.open(HERE / "killed", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def deadly(self, shard, ready=None):
    import ray

    node = ray.get_runtime_context().get_node_id()
    with open(HERE / "calls", "a") as file:
        file.write(f"{{shard.place}} {{node}}\\n")
    if node == (HERE / "victim").read_text() and once():
        os.kill({whom}, signal.SIGKILL)
        time.sleep(600)
    return own(self, shard, ready)


ShardRunner.answer = deadly
'''


@pytest.fixture(scope="module")
def alone(tmp_path_factory, one_thread):
    return tables(compare(**REQUEST, workers=1, out=tmp_path_factory.mktemp("alone") / "run"))


@pytest.fixture(scope="module")
def nodes():
    """A cluster of two nodes, each of one CPU; the second is the one that dies."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        each = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 10}
        cluster = Cluster(initialize_head=True, head_node_args={**each, "_system_config": quick})
        try:
            second = cluster.add_node(**each)
            cluster.wait_for_nodes()
            yield cluster, second
        finally:
            cluster.shutdown()


@pytest.mark.ray
@pytest.mark.needs("ray")
@pytest.mark.slow
@pytest.mark.parametrize("name, whom", [("worker", "os.getpid()"), ("node", "RAYLET")])
def test_what_dies_is_replaced_and_nothing_is_lost_or_twice(tmp_path, alone, nodes, monkeypatch, capfd, name, whom):
    cluster, second = nodes
    module = f"deadly_{name}"
    (tmp_path / f"{module}.py").write_text(DEADLY.format(name=module, whom=whom))
    (tmp_path / "victim").write_text(second.node_id)
    (tmp_path / "raylet").write_text(str(second.all_processes["raylet"][0].process.pid))
    monkeypatch.chdir(tmp_path)  # where workers go as well, and look for plug-ins
    assert len(cluster.list_all_nodes()) == 2 and second.any_processes_alive()
    run = compare(**REQUEST, plugin=(module,), workers=2, ray=cluster.address, out=tmp_path / "run")
    calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
    assert (tmp_path / "killed").exists()
    assert {node for _, node in calls} >= {second.node_id, cluster.head_node.node_id}
    assert len(calls) == REQUEST["samples"] + 1  # one was answered again
    assert tables(run) == alone
    assert second.any_processes_alive() == (name == "worker")
    assert capfd.readouterr().out == ""
