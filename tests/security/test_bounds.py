"""Claims of size are checked before memory is asked for, and ids become no paths."""

from __future__ import annotations

import json
import os
import re
import tracemalloc
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness.errors import RequestError
from harness.store.archives import LARGEST, file_name, read_arrays
from harness.tasks.pictures import Picture
from harness.tasks.registry import create
from harness.tasks.rows import LONGEST_TEXT
from tests.security.conftest import claimed, saved, with_text

MIB = 2**20


@contextmanager
def within(mebibytes: int):
    """Python and numpy ask for no more than so much memory inside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * MIB
    finally:
        tracemalloc.stop()


JPEG = saved("JPEG")
NO_IMAGES = {
    "empty": b"", "text": b"hello", "html": b"<html><img src=x></html>", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "head": saved("PNG")[:20], "half": saved("PNG")[:-45], "zeros": bytes(200), "jpeg half": JPEG[: len(JPEG) // 2],
    "gif": b"GIF89a",
    "riff": b"RIFF\xff\xff\xff\xffWEBPVP8 ", "tiff": b"II*\x00\xff\xff\xff\xff", "bmp": b"BM" + b"\xff" * 60,
    "pdf": b"%PDF-1.4\n",
    "postscript": saved("EPS"), "icon": saved("ICO"), "tga": saved("TGA"), "pcx": saved("PCX"), "wide": claimed(2**31 - 1, 1),
    "bomb": claimed(60_000, 60_000), "largest": claimed(2**31 - 1, 2**31 - 1), "just too many": claimed(9460, 9460),
    "no pixels": claimed(0, 0), "a text that unpacks": with_text(80 * MIB), "pickle": b"\x80\x04\x95\x05.",
    "archive": b"PK\x03\x04",
}  # fmt: skip


@pytest.mark.parametrize("name", NO_IMAGES)
def test_images_that_are_none_or_too_large(name, tmp_path, refused):
    (tmp_path / "x.png").write_bytes(NO_IMAGES[name])
    with within(70):
        for source in (NO_IMAGES[name], tmp_path / "x.png"):
            assert refused(Picture(source, "x.png, here")).startswith("x.png, here: ")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_formats_that_are_read(kind):
    assert Picture(saved(kind), "x")().size == (40, 30)


def test_an_image_as_large_as_may_be(tmp_path):
    Image.MAX_IMAGE_PIXELS  # Pillow's own guard stands  # noqa: B018
    assert Image.MAX_IMAGE_PIXELS is not None
    assert Picture(saved("PNG", (3000, 2000)), "x")().size == (3000, 2000)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("a.png", "/dev/zero"),
        ("a.png", "/dev/stdin"),
        ("a.png", "nowhere.png"),
        ("a.png", "a.png"),
        ("a.png", "."),
        ("a.png", "pipe"),
    ],
)
def test_links_to_what_is_no_file_are_left_out(name, target, tmp_path, refused):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / name).symlink_to(target)
    assert "no image" in refused(create, str(tmp_path))
    (tmp_path / "q.jsonl").write_text(json.dumps({"image": name, "question": "x", "answer": "y"}))
    assert "there is no such file" in refused(create, str(tmp_path / "q.jsonl"))


def test_a_loop_of_folders_ends(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").symlink_to(tmp_path)
    (tmp_path / "a" / "x.png").write_bytes(saved("PNG"))
    found = [sample.image_id for sample in create(str(tmp_path)).samples(9, 0)]
    assert found == ["a/x.png"]


def test_a_link_to_a_file_of_secrets_shows_nothing_of_it(tmp_path, refused):
    secret = tmp_path / "secret"
    secret.write_text("password")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").symlink_to(secret)
    (sample,) = create(str(tmp_path / "photos")).samples(1, 0)
    assert "password" not in refused(lambda: sample.image)


@pytest.mark.parametrize("name", [b"a\xff.png", b"a\x1b[31m.png", b"a\n.png"])
def test_names_that_cannot_be_shown(name, tmp_path, refused):
    Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(saved("PNG"))
    assert "rename it" in refused(create, str(tmp_path))


@pytest.mark.parametrize("column", ["question", "answer", "id", "image_id", "family"])
@pytest.mark.parametrize("text", ["x" * (LONGEST_TEXT + 1), "\ud800", "a\udfffb"])
def test_texts_that_cannot_be_stored_or_asked(column, text, tmp_path, refused):
    (tmp_path / "a.png").write_bytes(saved("PNG"))
    row = {"image": "a.png", "question": "x", "answer": "y", column: text}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    assert f"q.jsonl, line 1, column {column!r}: " in refused(create, str(tmp_path / "q.jsonl"))


def test_ids_may_be_anything_that_is_text(tmp_path):
    """They are stored and shown, not used as paths."""
    (tmp_path / "a.png").write_bytes(saved("PNG"))
    ids = ["../../x", "/etc/passwd", "CON", "a\0b", "<script>", "x" * 5000, "..", "' OR 1=1 --", "\u202e"]
    rows = [{"image": "a.png", "question": "x", "answer": "y", "id": name} for name in ids]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (sample,) = create(str(tmp_path / "q.jsonl")).samples(1, 0)
    assert [question.sample_id for question in sample.questions] == ids


@given(st.text())
def test_an_id_becomes_the_name_of_a_file_in_its_folder(ident):
    name = f"{file_name(ident)}.npz"
    path = (Path("/folder") / name).resolve()
    assert path.parent == Path("/folder") and len(name.encode()) < 200 and name.isprintable() and not name.startswith(".")
    assert not re.match(r"(con|prn|aux|nul|com\d|lpt\d)\.", name, re.IGNORECASE)


@given(st.text(), st.text())
def test_ids_that_differ_have_files_that_differ(first, second):
    assert (file_name(first) == file_name(second)) == (first == second)


@pytest.mark.parametrize("first", ["../x", "a/b", "a\\b", "", ".", "..", "a\0", "x" * 400, "CON", "nul.png", "é", "C:x"])
def test_names_of_files_do_not_meet(first):
    assert (
        len({file_name(first), file_name(first.replace("/", "_")), file_name(first + "_"), file_name(first.lower() + "-")}) >= 3
    )


def test_an_archive_that_unpacks_to_more_than_may_be(tmp_path, refused):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in range(3):
            with archive.open(f"f{part}.npy", "w") as file:
                for _ in range(LARGEST // MIB // 2 // 16):
                    file.write(bytes(16 * MIB))
    assert path.stat().st_size < 4 * MIB
    with within(8):
        assert "MiB unpacked" in refused(read_arrays, path)


def test_an_array_that_claims_more_than_it_has(tmp_path, refused):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000, 1000), }".ljust(118) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("features.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))
    with within(8):
        assert "claims 800,000,000,000 bytes" in refused(read_arrays, tmp_path / "a.npz")


def test_pickled_arrays_are_not_loaded(quiet_folder, refused):
    from tests.security.conftest import Canary

    np.savez("a.npz", features=np.array([Canary()], dtype=object))
    np.savez("b.npz", grid=np.array([Canary()], dtype=object), features=np.ones((4, 4)))
    for name in ("a.npz", "b.npz"):
        assert "pickled objects" in refused(read_arrays, Path(name))


@pytest.mark.parametrize("text", ["1e9", "1000000000", "1e308"])
def test_budgets_of_a_billion_tokens(text):
    from harness.run.config import tokens_of
    from harness.store.budgets import read_keep

    with within(1), pytest.raises(RequestError, match=r"576 visual tokens at the most|count|not a number"):
        tokens_of(read_keep(text), 576)


def test_a_billion_tokens_on_a_file_keep_what_there_is(tmp_path):
    from harness.run.cases import select

    np.savez(tmp_path / "a.npz", features=np.eye(16, dtype=np.float32))
    with within(50):
        (path,) = select("divprune", [tmp_path / "a.npz"], 10**9, tmp_path / "out")
    assert len(read_arrays(path)["kept"]) == 16


@pytest.mark.parametrize("name", ["samples", "batch_size", "max_new_tokens", "analyse", "seeds", "seed"])
def test_counts_without_end(name, refused):
    from harness.run.config import CompareConfig

    assert f"--{name.replace('_', '-')} {10**30}: must be" in refused(CompareConfig(**{name: 10**30}).checked)


def test_messages_are_short_and_do_not_steer_a_terminal():
    from harness.errors import readable

    said = readable("a\x1b[2Jb\r\nc" + "x" * 10**6 + "\n" * 5 + "\x07d\ne\nf")
    assert len(said.splitlines()) == 3 and len(said) < 2000 and "\x1b" not in said and "\x07" not in said
