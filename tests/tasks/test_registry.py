"""Task expressions, the list of tasks, tasks of others, and data sets of the hub."""

import json
import subprocess
import sys
import time
import types
from importlib.metadata import EntryPoint

import pytest

from harness.errors import RequestError
from harness.tasks import registry
from harness.tasks.base import ImageSample, Question, TaskInfo, aggregates
from harness.tasks.hub_tables import HubTable
from harness.tasks.registry import BENCHMARKS, create, infos, parse
from tests.hub.conftest import point_to
from tests.hub.loopback import running
from tests.tasks.conftest import BLUE, RED, cell, row
from tests.tasks.test_benchmarks import gqa, pope

WRONG = [
    ("popee", "unknown task 'popee'; did you mean 'pope'?"),
    ("shape", "did you mean 'shapes'?"),
    ("zzz", "choose from"),
    ("", "name a task or a file"),
    ("pope[", "unknown task"),
    ("pope]", "cannot read task"),
    ("pope[path]", "cannot read 'path' in task 'pope[path]'; write param=value"),
    ("[path=x]", "cannot read task"),
    ("pope[pat=x]", "task 'pope' has no parameter 'pat'; did you mean 'path'?"),
    ("pope[metric=exact]", "has no parameter 'metric'; choose from hub, path, split"),
    ("shapes[seed=3]", "task 'shapes' takes no parameters"),
    ("pope[path=nowhere.parquet]", "task 'pope': no such file or folder: nowhere.parquet"),
    ("data/none.jsonl", "no such file or folder: data/none.jsonl"),
    ("question.jsonl", "did you mean 'questions.jsonl'?"),
    ("questions.jsonl[metric=vqaa]", "unknown metric 'vqaa'; did you mean 'vqa'?"),
    ("questions.jsonl[metric=choice]", "metric 'choice' needs a column 'choices'"),
    ("questions.jsonl[prompt=x]", "has no parameter 'prompt'"),
    ("notes.json", "notes.json: holds no rows"),
    ("notes.md", "notes.md is none of .jsonl, .parquet, .tsv, .csv, .json"),
    ("a\0b.jsonl", "no such file or folder"),
    ("x" * 5000 + ".jsonl", "no such file or folder"),
]


@pytest.mark.parametrize(("expression", "message"), WRONG, ids=lambda v: v[:30].replace("\0", "0"))
def test_wrong_expressions(jsonl, tmp_path, monkeypatch, expression, message):
    jsonl([row()])
    (tmp_path / "notes.json").write_text("[]")
    (tmp_path / "notes.md").write_text("[]")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as error:
        create(expression)
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


def test_expressions():
    assert parse("pope") == ("pope", {}) and parse(" pope[path=a/b.parquet, split=test] ") == (
        "pope", {"path": "a/b.parquet", "split": "test"},
    )  # fmt: skip
    assert parse("x.jsonl[metric=anls]") == ("x.jsonl", {"metric": "anls"})
    assert parse("x[1].jsonl[metric=anls]") == ("x[1].jsonl", {"metric": "anls"})
    assert parse("pope[path=x[1].jsonl,split=a]") == ("pope", {"path": "x[1].jsonl", "split": "a"})


def test_all_tasks_are_listed_without_their_data():
    found = {info.name: info for info in infos()}
    assert {"shapes", *BENCHMARKS} <= set(found)
    assert all(info.source and info.licence and info.metric and info.split and info.summary for info in found.values())
    for name in BENCHMARKS:
        assert found[name].name == name and found[name].families and not found[name].knows_evidence
        assert len(set(found[name].families)) == len(found[name].families)
    json.dumps([info.__dict__ for info in found.values()])


def test_listing_is_cheap():
    code = (
        "import sys; from harness.tasks.registry import infos; infos(); "
        "heavy = {'torch', 'numpy', 'PIL', 'datasets', 'pyarrow', 'transformers', 'huggingface_hub'}; "
        "assert not heavy & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Mine:
    """A task of somebody else's."""

    info = TaskInfo("mine", "one image", "here", "CC0", "exact", "test", ("a",), False)

    def __init__(self, level: str = "1") -> None:
        self.level = level

    def samples(self, count, seed):
        yield ImageSample("x", None, (Question("x-1", "a", "what ?", self.level),))

    def score(self, prediction, answer):
        return float(prediction == answer)


@pytest.fixture
def nothing_registered(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    monkeypatch.setattr(registry, "_points", lambda: ())


def test_a_registered_task(nothing_registered):
    assert registry.register("mine")(Mine) is Mine and registry.registered() == ("mine",)
    assert create("mine[level=4]").level == "4" and aggregates(create("mine"), [1]) == {}
    assert "mine" in {info.name for info in infos()}
    with pytest.raises(RequestError, match="has no parameter 'levl'; did you mean 'level'"):
        create("mine[levl=4]")
    with pytest.raises(RequestError, match="did you mean 'mine'"):
        create("mina")
    with pytest.raises(RequestError, match="'pope' is already registered"):
        registry.register("pope")(Mine)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: types.SimpleNamespace(info=None), "its `info` is no TaskInfo"),
        (lambda: types.SimpleNamespace(info=Mine.info), "has no method 'samples'"),
        (lambda path: Mine(), "needs parameter 'path': other\\[path=...\\]"),
    ],
)
def test_what_is_no_task_is_refused(nothing_registered, factory, message):
    registry.register("other")(factory)
    with pytest.raises(RequestError, match=message):
        create("other")


def test_entry_points(nothing_registered, monkeypatch):
    module = types.ModuleType("somebody")
    module.Mine = Mine
    monkeypatch.setitem(sys.modules, "somebody", module)
    points = (
        EntryPoint("mine", "somebody:Mine", registry.GROUP),
        EntryPoint("broken", "nobody_at_all:Mine", registry.GROUP),
    )
    monkeypatch.setattr(registry, "_points", lambda: points)
    assert create("mine").info.name == "mine"
    with pytest.raises(RequestError, match="task 'broken': its entry point cannot be imported \\(ModuleNotFoundError"):
        create("broken")
    monkeypatch.setattr(registry, "_points", lambda: points[:1])
    assert infos()[-4].name == "mine"


class FakeData:
    """What `HubTable` uses of a ``datasets.Dataset``."""

    _fingerprint = "f00d"

    def __init__(self, rows):
        import pyarrow

        self._table = pyarrow.Table.from_pylist(rows)
        self.column_names = self._table.column_names
        self.features = types.SimpleNamespace(arrow_schema=self._table.schema)

    def with_format(self, kind):
        assert kind == "arrow"
        return self

    def select_columns(self, columns):
        out = FakeData.__new__(FakeData)
        out._table, out.column_names = self._table.select(columns), columns
        return out

    def iter(self, batch_size):
        for start in range(0, len(self), batch_size):
            yield self._table.slice(start, batch_size)

    def __len__(self):
        return len(self._table)

    def __getitem__(self, index):
        return self._table.slice(index, 1)


@pytest.fixture
def library(monkeypatch, tmp_path):
    """A stand-in for ``datasets``, which records what it was asked, beside a hub on this machine that this process asks."""
    from huggingface_hub import constants

    calls = []
    module = types.ModuleType("datasets")
    module.config = types.SimpleNamespace(HF_HUB_OFFLINE=False)
    module.disable_progress_bars = lambda: None
    module.content = {}

    def load_dataset(path, name=None, split=None):
        calls.append((path, name, split, module.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE))
        if (path, name, split) not in module.content:
            raise FileNotFoundError(f"Couldn't find {path}\nand more")
        return FakeData(module.content[path, name, split])

    module.load_dataset, module.calls = load_dataset, calls
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with running(tmp_path / "hub") as module.hub:
        point_to(module.hub.address, monkeypatch)
        yield module


def repository(library, name):
    """Make a data set of the hub that holds no data yet; returns its folder."""
    folder = library.hub.root / "datasets" / name
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# A data set\n")
    return folder


def test_the_files_of_one_split_are_fetched(library, parquet):
    rows, folder = pope(), repository(library, "lmms-lab/POPE")
    for place in (0, 1):
        parquet(folder / "data" / f"test-0000{place}-of-00002.parquet", rows[6 * place : 6 * place + 6])
    for other in ("data/train-00000-of-00001.parquet", "Full/test-00000-of-00001.parquet"):
        parquet(folder / other, rows[:2])
    task = create("pope")
    fetched = [request.rpartition("/")[2] for request in library.hub.requests if request.startswith("GET /datasets/")]
    assert sorted(fetched) == ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"] and not library.calls
    assert [len(sample.questions) for sample in task.samples(9, 0)] == [6, 6] and task.info.source == "lmms-lab/POPE"


def test_gqa_is_fetched_in_two_parts(library, parquet):
    folder = repository(library, "lmms-lab/GQA")
    images = [{"id": "n161314", "image": cell(BLUE)}, {"id": "n161313", "image": cell(RED)}]
    for kind, content in (("images", images), ("instructions", gqa())):
        parquet(folder / f"testdev_balanced_{kind}" / "testdev-00000-of-00001.parquet", content)
    assert len(list(create("gqa").samples(9, 0))) == 2


def test_what_has_no_parquet_files_comes_through_datasets(library):
    pytest.importorskip("pyarrow")
    repository(library, "lmms-lab/POPE")
    library.content["lmms-lab/POPE", None, "test"] = pope()
    task = create("pope")
    assert create("lmms-lab/POPE").info == task.info
    library.calls.clear()
    task = create("pope")
    samples = list(task.samples(9, 0))
    assert [len(sample.questions) for sample in samples] == [6, 6] and samples[0].image.mode == "RGB"
    assert library.calls == [("lmms-lab/POPE", None, "test", False, False)] and task.info.source == "lmms-lab/POPE"
    assert task.origin.facts()["repository"] == "lmms-lab/POPE" and task.origin.facts()["files"] == {}
    with pytest.raises(RequestError, match=r"split 'train' of lmms-lab/POPE cannot be loaded: Couldn't find lmms-lab/POPE$"):
        create("pope[split=train]")
    repository(library, "me/mine")
    library.content["me/mine", None, "test"] = [{**row, "answer": "who knows"} for row in pope()]
    task = create("pope[hub=me/mine]")
    with pytest.raises(RequestError, match="me/mine test, row 0, column 'answer': is 'who knows'"):
        list(task.samples(1, 0))


def test_the_second_name_is_tried_where_the_first_is_gone(library):
    pytest.importorskip("pyarrow")
    repository(library, "lmms-lab-encoder/POPE")
    library.content["lmms-lab-encoder/POPE", None, "test"] = pope()
    assert len(list(create("pope").samples(9, 0))) == 2


def test_gqa_comes_in_two_parts(library):
    pytest.importorskip("pyarrow")
    repository(library, "lmms-lab/GQA")
    library.content["lmms-lab/GQA", "testdev_balanced_instructions", "testdev"] = gqa()
    images = [{"id": "n161314", "image": cell(BLUE)}, {"id": "n161313", "image": cell(RED)}]
    library.content["lmms-lab/GQA", "testdev_balanced_images", "testdev"] = images
    found = {sample.image_id: sample.image.getpixel((0, 0)) for sample in create("gqa").samples(9, 0)}
    assert found == {"n161313": (255, 0, 0), "n161314": (0, 0, 255)}


def test_offline_the_cache_of_datasets_is_used_without_a_request(library):
    pytest.importorskip("pyarrow")
    from huggingface_hub import constants

    library.content["lmms-lab/POPE", None, "test"] = pope()
    library.hub.failing = 503
    assert len(list(create("pope").samples(9, 0))) == 2
    assert library.calls == [("lmms-lab/POPE", None, "test", True, True)]
    assert not library.config.HF_HUB_OFFLINE and not constants.HF_HUB_OFFLINE


def test_offline_what_was_downloaded_is_used(library, tmp_path, parquet):
    parquet(tmp_path / "pope" / "data" / "test-00000-of-00001.parquet", pope())
    place = tmp_path / "cache" / "datasets--lmms-lab--POPE"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("a" * 40)
    (place / "snapshots").mkdir()
    (tmp_path / "pope").rename(place / "snapshots" / ("a" * 40))
    task = create("pope")
    assert len(list(task.samples(9, 0))) == 2 and task.info.source == "lmms-lab/POPE"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_offline_and_not_there_is_one_line_at_once(library, name):
    pytest.importorskip("pyarrow")
    library.hub.failing = 503
    start = time.perf_counter()
    with pytest.raises(RequestError) as error:
        create(name)
    text = str(error.value)
    assert time.perf_counter() - start < 2 and len(text.splitlines()) == 1
    assert f"hf download {registry._spec(name).repositories[0]} --repo-type dataset" in text
    assert len(library.hub.requests) == 1, "one request, no retries"


def test_a_download_that_was_broken_off_is_noticed(library, tmp_path, parquet):
    file = parquet(tmp_path / "pope" / "test-00000-of-00002.parquet", pope())
    with pytest.raises(RequestError, match="has 1 of the 2 files of 'test'; fetch the others"):
        create(f"pope[path={file.parent}]")


def test_without_datasets_the_remedy_is_named(library, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RequestError, match="hf download lmms-lab/POPE"):
        create("pope")
    repository(library, "lmms-lab/POPE")
    with pytest.raises(RequestError, match=r'needs datasets for lmms-lab/POPE: pip install "prunescope\[hub\]"'):
        create("pope")


@pytest.mark.families
@pytest.mark.needs("datasets")
def test_real_datasets(tmp_path, parquet):
    """With the library itself, on a local folder laid out as on the hub."""
    import datasets

    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", pope())
    data = datasets.load_dataset(str(tmp_path), split="test", cache_dir=str(tmp_path / "cache"))
    table = HubTable(data, "POPE test")
    from harness.tasks.tabular import TabularTask

    task, local = TabularTask(registry._spec("pope"), [table]), create(f"pope[path={tmp_path / 'data'}]")
    both = [[(s.image_id, s.questions, s.image.tobytes()) for s in one.samples(9, 0)] for one in (task, local)]
    assert both[0] == both[1] and len(both[0]) == 2
