"""Files that would run code where they were loaded, and images that claim more than they are."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin


class Canary:
    """Unpickled, it would write a file into the working folder."""

    def __reduce__(self):
        return open, ("ran", "w")


@pytest.fixture
def quiet_folder(tmp_path, monkeypatch) -> Path:
    """A working folder in which a canary that ran would show."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "ran").exists()


def claimed(width: int, height: int) -> bytes:
    """A PNG file of a few bytes whose header claims a size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def saved(kind: str, size: tuple[int, int] = (40, 30), **options) -> bytes:
    """The bytes of a red image."""
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, kind, **options)
    return out.getvalue()


def with_text(size: int) -> bytes:
    """An image with a compressed comment that unpacks to so many bytes."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * size, zip=True)
    return saved("PNG", pnginfo=info)


@pytest.fixture
def refused() -> Callable[..., str]:
    """That a call is refused in one line of bounded length, which is given back."""
    from harness.errors import RequestError

    def check(call: Callable, *arguments) -> str:
        with pytest.raises(RequestError) as caught:
            call(*arguments)
        said = str(caught.value)
        assert len(said.splitlines()) == 1 and len(said) < 1000, said
        return said

    return check
