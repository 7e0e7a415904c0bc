"""What a wrong input is, and the working folder that it is tried in."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

FEATURES = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)


def npz(**arrays) -> bytes:
    """The bytes of an ``.npz`` file."""
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def png(size: tuple[int, int] = (8, 6)) -> bytes:
    """The bytes of a red image."""
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True)
class Wrong:
    """One wrong input: a command line, the files it names, and what was done to the run folder ``run``."""

    words: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict, compare=False)
    change: Callable[[Path], None] | None = field(default=None, compare=False)
    what: str = ""  # the change, in words that no other change has

    @property
    def identity(self) -> str:
        """Two inputs that differ in anything differ in this."""
        content = {name: hashlib.blake2b(data, digest_size=16).hexdigest() for name, data in self.files.items()}
        return json.dumps([self.words, content, self.what])

    def lay_out(self, folder: Path) -> None:
        """Write the files, and change the run."""
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if self.change is not None:
            self.change(folder)


def wrong(line: str, *more: str, **files: bytes | str) -> Wrong:
    """A wrong command line of plain words, then words as they are; files by name, ``__`` for a dot."""
    encoded = {
        name.replace("__", "."): data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        for name, data in files.items()
    }
    return Wrong((*line.split(), *more), encoded)


def snapshot(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder, by its name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name != "run.lock"
    }


def workspace(folder: Path, run: Path) -> Path:
    """A folder with a finished run twice, ``run`` and ``good``, a good case and an image in it."""
    shutil.copytree(run, folder / "run")
    shutil.copytree(run, folder / "good")
    (folder / "good.npz").write_bytes(npz(features=FEATURES))
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(png())
    return folder
