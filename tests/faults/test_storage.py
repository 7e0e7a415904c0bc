"""Disks that are full, files that may not be written or are not ours: one clear line, and nothing that was stored is lost."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from harness import files
from harness.errors import RequestError
from harness.run.comparison import compare
from harness.store.runs import RunFolder
from harness.store.schema import SCHEMA_VERSION
from tests.faults.conftest import REQUEST, changed, forked, same, tables


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.lock"}


@pytest.fixture
def connecting(monkeypatch):
    """Changes every connection to a database that is made from here on."""
    connect = sqlite3.connect

    def change(how) -> None:
        monkeypatch.setattr(sqlite3, "connect", changed(connect, how))

    yield change
    monkeypatch.setattr(sqlite3, "connect", connect)


def test_a_disk_that_fills_up_again_and_again(tmp_path, undisturbed, connecting):
    """SQLite is given a few more pages each time, and says itself that they are full."""
    pages, refused = 12, 0
    while True:
        connecting(lambda made, pages=pages: made.execute(f"PRAGMA max_page_count = {pages}"))
        try:
            compare(**REQUEST, out=tmp_path / "run", resume=True)
            break
        except RequestError as error:
            refused += 1
            assert "results.sqlite: the disk is full; make room, and the same command with --resume goes on" in str(error)
            assert len(str(error).splitlines()) == 1
            assert not (tmp_path / "run" / "summary.json").exists()
        pages = int(pages * 1.5)
    assert refused >= 4
    connecting(lambda made: None)
    assert same(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("name", ["manifest.json", "summary.csv", "summary.json", "report.html"])
def test_a_disk_that_is_full_when_a_file_is_written(tmp_path, undisturbed, finished_copy, monkeypatch, name):
    """Of a run whose answers are all stored; the files that stand there stay as they are."""
    folder = finished_copy()
    for made in ("summary.json", "summary.csv", "report.html"):
        (folder / made).unlink()
    before, opened = contents(folder), files.opened

    class Full(io.FileIO):
        def write(self, data):
            super().write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(path):
        return Full(path, "x") if path.name == f"{name}.partial" else opened(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "opened", full)
        with pytest.raises(RequestError, match=f"{name}: cannot be written \\(No space left on device\\)") as caught:
            compare(**REQUEST, out=folder, resume=True)
    assert len(str(caught.value).splitlines()) == 1
    after = contents(folder)
    assert {key: after[key] for key in before if key != "manifest.json"} == {
        key: value for key, value in before.items() if key != "manifest.json"
    }
    assert json.loads(after["manifest.json"])["config"] == json.loads(before["manifest.json"])["config"]
    assert f"{name}.partial" not in after
    compare(**REQUEST, out=folder, resume=True)
    assert same(folder, undisturbed)


@pytest.fixture
def finished_copy(tmp_path, undisturbed):
    """Copies of the undisturbed run."""

    def copy(name: str = "copy") -> Path:
        return shutil.copytree(undisturbed, tmp_path / name)

    return copy


@pytest.fixture
def half_copy(finished_copy):
    """Copies of it as if it had been stopped after two images."""

    def copy(name: str = "half") -> Path:
        folder = finished_copy(name)
        with closing(sqlite3.connect(folder / "results.sqlite")) as connection, connection:
            late = "SELECT questions.id FROM questions JOIN images ON images.id = image WHERE images.place > 1"
            for table in ("samples", "analysis", "traces", "repeats"):
                connection.execute(f"DELETE FROM {table} WHERE question IN ({late})")
            connection.execute(f"DELETE FROM questions WHERE id IN ({late})")
            connection.execute("DELETE FROM images WHERE place > 1")
            connection.execute("DELETE FROM done WHERE place > 1")
        for made in ("summary.json", "summary.csv", "report.html"):
            (folder / made).unlink()
        return folder

    return copy


def test_a_database_that_another_process_writes(half_copy, undisturbed, connecting):
    folder = half_copy()
    with closing(sqlite3.connect(folder / "results.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        connecting(lambda made: made.execute("PRAGMA busy_timeout = 50"))
        with pytest.raises(RequestError, match=r"another process is writing it") as caught:
            compare(**REQUEST, out=folder, resume=True)
        assert len(str(caught.value).splitlines()) == 1
    connecting(lambda made: None)
    compare(**REQUEST, out=folder, resume=True)
    assert same(folder, undisturbed)


WRONG = {
    "no database": (lambda folder: (folder / "results.sqlite").write_bytes(b"a text\n" * 300), "is no SQLite database"),
    "a database of another program": (lambda folder: _foreign(folder), "has no table 'cells'"),
    "a truncated database": (lambda folder: _cut(folder / "results.sqlite"), "is truncated"),
    "a damaged database": (lambda folder: _noise(folder / "results.sqlite"), "sqlite.* (is damaged|cannot be read|holds)"),
    "a newer schema": (
        lambda folder: _manifest(folder, schema_version=SCHEMA_VERSION + 1),
        f"schema version {SCHEMA_VERSION + 1}, this prunescope reads 2",
    ),
    "another configuration": (lambda folder: _config(folder, seed=1), "its run had another configuration"),
    "other weights": (lambda folder: _fingerprint(folder, weights="0" * 16), "its run had other weights of 'tiny'"),
    "other data": (lambda folder: _fingerprint(folder, data="0" * 16), "its run had other data of 'shapes'"),
    "no JSON": (lambda folder: (folder / "manifest.json").write_text('{"schema_version": 2,'), "is not JSON"),
}  # fmt: skip


def _foreign(folder: Path) -> None:
    (folder / "results.sqlite").unlink()
    with closing(sqlite3.connect(folder / "results.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20000])


def _noise(path: Path) -> None:
    found = bytearray(path.read_bytes())
    for start in range(4096, len(found), 4096):
        found[start : start + 16] = b"\xa5" * 16
    path.write_bytes(found)


def _manifest(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _config(folder: Path, **changes) -> None:
    _manifest(folder, config=json.loads((folder / "manifest.json").read_text())["config"] | changes)


def _fingerprint(folder: Path, **changes) -> None:
    _manifest(folder, fingerprints=json.loads((folder / "manifest.json").read_text())["fingerprints"] | changes)


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_the_run_that_was_begun_is_refused(half_copy, what):
    change, message = WRONG[what]
    folder = half_copy()
    change(folder)
    before = contents(folder)
    with pytest.raises(RequestError, match=message) as caught:
        compare(**REQUEST, out=folder, resume=True)
    assert len(str(caught.value).splitlines()) == 1
    assert contents(folder) == before


def test_what_is_not_ours_is_not_extended(finished_copy):
    folder = finished_copy()
    _fingerprint(folder, weights="0" * 16)
    before = contents(folder)
    with pytest.raises(RequestError, match=r"--extend .* other weights"):
        compare(extend=folder, methods=["grid"], workers=1)
    assert contents(folder) == before


def test_a_folder_that_may_not_be_written(half_copy):
    """As another user where this one may do everything."""
    if os.getuid() == 0 and not all(place.stat().st_mode & 0o001 for place in (Path(sys.prefix), *Path(sys.prefix).parents)):
        pytest.skip("this environment can be read by its owner alone")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(shutil.copytree(half_copy(), Path(parent) / "run"))
        before = contents(folder)
        for path in (*folder.iterdir(), folder, Path(parent)):
            path.chmod(0o555 if path.is_dir() else 0o444)

        def run() -> None:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            for options in ({"out": folder, "resume": True}, {"out": folder / "new"}):
                with pytest.raises(RequestError, match=r"cannot write there \(Permission denied\)") as caught:
                    compare(**REQUEST, **options)
                assert len(str(caught.value).splitlines()) == 1

        assert forked(run) == 0
        assert contents(folder) == before
        for path in (folder, Path(parent)):
            path.chmod(0o755)


def test_results_without_a_manifest_are_left_alone(finished_copy):
    folder = finished_copy()
    (folder / "manifest.json").unlink()
    before = contents(folder)
    with pytest.raises(RequestError, match=r"stands there without a manifest\.json"):
        compare(**REQUEST, out=folder, resume=True)
    assert contents(folder) == before


def test_a_database_cut_short_under_its_log_is_whole(half_copy, undisturbed):
    """A process that is killed while SQLite moves its log into the file leaves a file that says it is longer than it is."""
    folder = half_copy()
    path = folder / "results.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA journal_mode = WAL")
        with connection:
            connection.execute("CREATE TABLE filler (content BLOB)")
            connection.execute("INSERT INTO filler VALUES (zeroblob(200000))")
            connection.execute("DROP TABLE filler")
        log, short = path.with_name(f"{path.name}-wal").read_bytes(), path.read_bytes()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        header = path.read_bytes()[:4096]
    assert int.from_bytes(header[28:32], "big") * 4096 > len(short)
    path.write_bytes(header + short[4096:])
    path.with_name(f"{path.name}-wal").write_bytes(log)
    run = RunFolder(folder)
    run.check()
    run.close()
    compare(**REQUEST, out=folder, resume=True)
    assert same(folder, undisturbed) and tables(folder) == tables(undisturbed)
