"""Data sets of the hub, asked in this process: both names, any order of loading, what is missing, and what the hub refuses."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import socket
import time
from pathlib import Path

import pytest

from harness.errors import RequestError
from harness.tasks import hub as data_sets
from harness.tasks import registry
from harness.tasks.registry import BENCHMARKS, create
from tests.hub.conftest import point_to
from tests.hub.loopback import contents, silent
from tests.hub.made_up_data import layout

SPLITS = {
    "pope": ("pope", "pope[split=adversarial]", "pope[split=random]"),
    "docvqa": ("docvqa", "docvqa[split=test]"),
    "mmbench": ("mmbench[split=test]", "mmbench"),
    "refcoco": ("refcoco", "refcoco[split=testA]", "refcoco[split=test]"),
    "gqa": ("gqa",),
}
"""Expressions that read different files of one data set."""


def seen(task):
    """What a task asks, and where it is from."""
    return task.digest, task.origin.facts(), [(s.image_id, s.questions, s.image.tobytes()) for s in task.samples(99, 0)]


@pytest.fixture
def no_network(monkeypatch):
    """A function that takes the network away from this process."""
    from huggingface_hub import constants

    return lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def at_hub_again(hub) -> None:
    """Give the network back to this process."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = False  # what the fixture set, and will set back
    assert hub.address == constants.ENDPOINT


def cache(name="lmms-lab/POPE") -> Path:
    """Where the cache keeps a data set."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"


def failure(expression) -> str:
    with pytest.raises(RequestError) as error:
        create(expression)
    text = str(error.value)
    assert len(text.splitlines()) == 1 and len(text) < 600
    return text


QUICK = ("pope", "gqa")  # in the default run; the others with -m hub


def some_quick(names):
    """All names as parameters, of which few are in the default run."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.hub) for name in names]


@pytest.mark.parametrize("name", some_quick(BENCHMARKS))
def test_the_rows_are_those_of_the_files(at_hub, no_network, served, name):
    """Held against the same files read from a folder, and against their own digests."""
    task = create(name)
    repository = registry._spec(name).repositories[0]
    folder = served / "datasets" / repository
    local = create(f"{name}[path={folder}]")
    assert task.digest == local.digest and seen(task)[2] == [
        (s.image_id, s.questions, s.image.tobytes()) for s in local.samples(99, 0)
    ]
    facts = task.origin.facts()
    assert facts["repository"] == task.info.source == repository and facts["revision"] == contents(folder)[1]
    assert facts["files"] == {path: hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in facts["files"]}
    fetched = {request.partition("/resolve/")[2].partition("/")[2] for request in at_hub.requests if "GET" in request} - {""}
    assert fetched == set(facts["files"]), "nothing else was downloaded"
    no_network()
    at_hub.requests.clear()
    assert seen(create(name)) == seen(task) and not at_hub.requests


@pytest.mark.hub
@pytest.mark.parametrize("name", SPLITS)
def test_the_order_of_loading_changes_nothing(at_hub, monkeypatch, tmp_path, name):
    from huggingface_hub import constants

    alone = {}
    for number, expression in enumerate(SPLITS[name]):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / f"alone{number}"))
        alone[expression] = seen(create(expression))
    for number, order in enumerate(itertools.permutations(SPLITS[name])):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / f"order{number}"))
        for offline in (False, True):
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
            assert {expression: seen(create(expression)) for expression in order} == alone
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.hub
def test_what_is_whole_in_the_cache_is_not_fetched_again(at_hub):
    create("pope")
    at_hub.requests.clear()
    create("pope")
    assert at_hub.requests == ["GET /api/datasets/lmms-lab/POPE/revision/main"]


def test_a_second_split_is_loaded_after_the_first(at_hub, no_network):
    """The others' orders: `test_the_order_of_loading_changes_nothing`."""
    found = [seen(create(expression)) for expression in ("pope", "pope[split=adversarial]")]
    no_network()
    assert [seen(create(expression)) for expression in ("pope", "pope[split=adversarial]")] == found


@pytest.mark.parametrize("asked", some_quick(["pope", "lmms-lab/POPE", "pope[hub=lmms-lab/POPE]"]))
@pytest.mark.parametrize("how", ["moved", "gone"])
def test_both_names_of_lmms_labs_data_sets_are_looked_for(at_hub, no_network, served, tmp_path, monkeypatch, asked, how):
    if how == "moved":
        at_hub.moved = {"lmms-lab": "lmms-lab-encoder"}
    else:
        at_hub.root = tmp_path / "hub"
        shutil.copytree(served / "datasets" / "lmms-lab" / "POPE", at_hub.root / "datasets" / "lmms-lab-encoder" / "POPE")
        at_hub.refused = {"lmms-lab": 401}
    task = create(asked)
    assert task.info.source == task.origin.repository == "lmms-lab-encoder/POPE"
    no_network()
    assert seen(create(asked)) == seen(task)


@pytest.mark.hub
def test_other_data_sets_of_lmms_lab_have_two_names_too(at_hub, no_network, served, tmp_path):
    at_hub.root = tmp_path / "hub"
    shutil.copytree(served / "datasets" / "lmms-lab" / "RefCOCO", at_hub.root / "datasets" / "lmms-lab-encoder" / "RefCOCOg")
    assert create("refcoco[hub=lmms-lab/RefCOCOg]").info.source == "lmms-lab-encoder/RefCOCOg"
    no_network()
    assert create("refcoco[hub=lmms-lab/RefCOCOg]").info.source == "lmms-lab-encoder/RefCOCOg"


@pytest.mark.hub
def test_after_a_move_what_was_downloaded_is_used(at_hub):
    create("pope")
    at_hub.moved = {"lmms-lab": "lmms-lab-encoder"}
    at_hub.requests.clear()
    assert create("pope").info.source == "lmms-lab-encoder/POPE"
    assert not any("/resolve/" in request for request in at_hub.requests)


def test_a_missing_split_names_those_that_are_there(at_hub, no_network):
    assert "lmms-lab/POPE has no split 'nope'; there are: adversarial, popular, random, test" in failure("pope[split=nope]")
    assert "lmms-lab/MMBench has no split 'nope'; there are: dev, test" in failure("mmbench[split=nope]")
    assert "lmms-lab/GQA has no split 'train'; there are: testdev" in failure("gqa[split=train]")
    assert "no configuration 'ScienceQA-IMG'; there are: cn, en" in failure("scienceqa[hub=lmms-lab/MMBench]")
    create("pope")
    no_network()
    assert "lmms-lab/POPE has no split 'nope'; there are: adversarial, popular, random, test" in failure("pope[split=nope]")
    assert "lacks 1 of 1 files (Full/popular-00000-of-00001.parquet)" in failure("pope[split=popular]")


@pytest.mark.hub
def test_a_split_in_several_folders_is_not_mixed(at_hub, served, tmp_path):
    at_hub.root = tmp_path / "hub"
    for folder in ("first", "second"):
        place = at_hub.root / "datasets" / "me" / "mine" / folder
        place.mkdir(parents=True)
        shutil.copy(served / "datasets/lmms-lab/ai2d/data/test-00000-of-00001.parquet", place)
    assert "has split 'test' in several folders (first, second)" in failure("ai2d[hub=me/mine]")


REFUSALS = {
    401: "the hub has none of this name, or it is private and wants `hf auth login` (401)",
    403: "it is gated: accept its terms on its page, then log in with `hf auth login`",
    404: "the hub has none of this name, or it is private and wants `hf auth login` (404)",
    429: "the hub was asked too often (429)",
    500: "the hub fails (500)",
    503: "the hub fails (503)",
}


@pytest.mark.parametrize(
    "status", [status if status < 403 else pytest.param(status, marks=pytest.mark.hub) for status in REFUSALS]
)
def test_what_the_hub_refuses_is_one_line(at_hub, status):
    at_hub.failing = status
    start = time.perf_counter()
    text = failure("pope")
    assert REFUSALS[status] in text and time.perf_counter() - start < 3
    assert text.endswith(data_sets.command("lmms-lab/POPE", (None,), "test")) and "lmms-lab-encoder/POPE" in text
    assert len(at_hub.requests) == (2 if status in (401, 403, 404, 429) else 1), "each name once, and no retries"


@pytest.mark.hub
@pytest.mark.parametrize("status", [401, 503])
def test_where_the_hub_fails_the_cache_is_used_and_that_is_said(at_hub, status, capsys):
    found = seen(create("pope"))
    at_hub.failing = status
    assert seen(create("pope")) == found
    told = capsys.readouterr().err
    assert f"data of lmms-lab/POPE are from the local cache, commit {found[1]['revision'][:12]}, since the hub" in told


@pytest.mark.hub
def test_files_that_the_hub_does_not_give_are_one_line(at_hub, monkeypatch):
    answer = at_hub.answer
    monkeypatch.setattr(at_hub, "answer", lambda method, path, *rest: (
        (403, {"X-Error-Code": "GatedRepo"}, b"{}") if "/resolve/" in path else answer(method, path, *rest)
    ))  # fmt: skip
    assert "lmms-lab/POPE cannot be downloaded: it is gated: accept its terms" in failure("pope")


def test_no_network_is_one_line_at_once(at_hub, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    point_to(f"http://127.0.0.1:{port}", monkeypatch)
    start = time.perf_counter()
    assert f"http://127.0.0.1:{port} cannot be reached" in failure("gqa") and time.perf_counter() - start < 3


@pytest.mark.hub
def test_a_hub_that_never_answers_is_given_up(monkeypatch, at_hub):
    monkeypatch.setattr("harness.huggingface.PATIENCE", 0.3)
    with silent() as address:
        point_to(address, monkeypatch)
        start = time.perf_counter()
        assert f"{address} does not answer" in failure("mme") and time.perf_counter() - start < 3


@pytest.mark.parametrize("name", some_quick(BENCHMARKS))
def test_offline_and_not_there_says_what_to_type(at_hub, no_network, name):
    no_network()
    spec = registry._spec(name)
    text = failure(name)
    assert "HF_HUB_OFFLINE is set" in text and text.endswith(
        data_sets.command(spec.repositories[0], spec.configs, spec.info.split)
    )
    assert not at_hub.requests


FILE = "data/test-00001-of-00003.parquet"


def test_a_file_that_was_not_downloaded_is_named(at_hub, no_network):
    create("pope")
    link = next(cache().rglob(FILE))
    link.resolve().unlink()
    no_network()
    text = failure("pope")
    assert f"lmms-lab/POPE, as it was downloaded, lacks 1 of 3 files ({FILE}); fetch them: hf download lmms-lab/POPE" in text
    link.unlink()
    assert failure("pope") == text


@pytest.mark.hub
@pytest.mark.parametrize("online", [False, True])
def test_a_file_that_is_not_whole_is_named_or_fetched_again(at_hub, no_network, online):
    found = seen(create("pope"))
    (blob,) = (path.resolve() for path in cache().rglob(FILE))
    blob.write_bytes(blob.read_bytes()[:-100])
    if online:
        assert seen(create("pope")) == found
        return
    no_network()
    text = failure("pope")
    assert f"has 1 of 3 files that are not whole ({FILE}); fetch them: hf download" in text and text.endswith(" --force-download")


@pytest.mark.hub
def test_a_file_whose_content_is_another_is_refused(at_hub):
    task = create("pope")
    (blob,) = (path.resolve() for path in cache().rglob(FILE))
    content = bytearray(blob.read_bytes())
    content[100] ^= 1
    blob.write_bytes(content)
    with pytest.raises(RequestError, match=rf"{FILE} is damaged: its SHA-256 is not the hub's; fetch it again: hf download"):
        task.origin.facts()


@pytest.mark.hub
def test_a_cache_without_a_list_of_files_is_read_too(at_hub, no_network):
    """As ``hf_hub_download`` alone leaves it, and older versions of the library."""
    from huggingface_hub import hf_hub_download

    for shard in range(3):
        if shard:
            no_network()
            assert f"lacks data has {shard} of the 3 files of 'test'; fetch the others: hf download" in failure("pope")
        at_hub_again(at_hub)
        hf_hub_download("lmms-lab/POPE", f"data/test-0000{shard}-of-00003.parquet", repo_type="dataset")
    no_network()
    found = seen(create("pope"))
    assert "split 'random' of lmms-lab/POPE is not in the local cache" in failure("pope[split=random]")
    at_hub_again(at_hub)
    assert seen(create("pope")) == found and not (cache() / "trees").exists()


@pytest.mark.hub
def test_a_data_set_that_changed_at_the_hub_is_fetched_anew(at_hub, no_network, served, tmp_path):
    before = create("ai2d")
    at_hub.root = tmp_path / "hub"
    place = shutil.copytree(served / "datasets" / "lmms-lab" / "ai2d", at_hub.root / "datasets" / "lmms-lab" / "ai2d")
    (place / "README.md").write_text("A word more.\n")
    after = create("ai2d")
    assert after.origin.commit != before.origin.commit and seen(after)[2] == seen(before)[2]
    no_network()
    assert create("ai2d").origin.commit == after.origin.commit


def test_the_layout_is_that_of_the_benchmarks():
    repositories = {registry._spec(name).repositories[0] for name in BENCHMARKS}
    assert repositories == set(layout()) and len(BENCHMARKS) == 13


def test_the_docs_have_every_command():
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8").replace("\\\n  ", "")
    specs = map(registry._spec, BENCHMARKS)
    commands = [data_sets.command(spec.repositories[0], spec.configs, spec.info.split) for spec in specs]
    assert "\n".join(commands) in text
