"""A folder of images and prompts without answers: methods are ranked by their loyalty to the unpruned model alone.

The prompts of an image are the lines of a text file beside it (``cat.txt`` or ``cat.jpg.txt`` of ``cat.jpg``); else
those of ``prompts.txt`` in the folder; else one prompt for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from unicodedata import category

from harness.errors import RequestError
from harness.tasks.base import ImageSample, Question, TaskInfo
from harness.tasks.files import visible
from harness.tasks.pictures import SUFFIXES, Picture

DEFAULT_PROMPT = "Describe the image in one sentence."
PROMPTS = "prompts.txt"
LONGEST_TEXT = 2**20  # bytes of a file of prompts


class ImageFolderTask:
    """The images of a folder and of the folders below it.

    Args:
        name: the task's name: the expression that the user wrote.
        folder: the folder with the images.
        prompt: what is asked on images that no file has prompts for.

    Raises:
        RequestError: where there is no image, or a file of prompts cannot be read.
    """

    def __init__(self, name: str, folder: Path, prompt: str | None = None) -> None:
        self._folder, self._images = folder, visible(folder, SUFFIXES)
        if not self._images:
            endings = ", ".join(SUFFIXES)
            raise RequestError(
                f"task {name!r}: {folder} holds no .jsonl, no .parquet and no image ({endings}), nor a .tsv or .csv"
            )
        for image in self._images:
            if any(category(character) in ("Cc", "Cs") for character in self._name(image)):
                raise RequestError(f"task {name!r}: {str(image)!r}: its name is not text that can be shown; rename it")
        shared = folder / PROMPTS
        common = _lines(shared, folder) if shared.is_file() and prompt is None else [prompt or DEFAULT_PROMPT]
        self._prompts = {image: self._own(image) or common for image in self._images}
        self.info = TaskInfo(
            name=name,
            summary="images and prompts without answers",
            source=str(folder),
            licence="the user's own",
            metric="none: there are no answers",
            split="all",
            families=("prompt",),
            knows_evidence=False,
            scored=False,
            answer_tokens=32,
        )

    def _own(self, image: Path) -> list[str]:
        """The prompts of one image, from a text file beside it."""
        for path in (image.with_suffix(".txt"), image.with_name(f"{image.name}.txt")):
            if path.is_file() and path.name != PROMPTS:
                return _lines(path, self._folder)
        return []

    @property
    def digest(self) -> str:
        """A fingerprint of the images' names, sizes and prompts, as hexadecimal digits."""
        total = hashlib.blake2b(digest_size=8)
        for image, prompts in self._prompts.items():
            total.update(f"{self._name(image)}|{image.stat().st_size}|{prompts}\n".encode())
        return total.hexdigest()

    def _name(self, image: Path) -> str:
        return image.relative_to(self._folder).as_posix()

    def samples(self, count: int, seed: int) -> Iterator[ImageSample]:
        """Yield a sample of the images without replacement, in the order of `harness.tasks.tabular.TabularTask.samples`."""
        rank = lambda image: hashlib.blake2b(f"{seed}|{self._name(image)}".encode(), digest_size=16).digest()
        for image in sorted(self._images, key=rank)[: max(count, 0)]:
            name = self._name(image)
            load = Picture(image, str(image), name)
            asked = enumerate(self._prompts[image])
            yield ImageSample(name, load, tuple(Question(f"{name}-{place}", "prompt", text, "") for place, text in asked))

    def score(self, prediction: str, answer: str) -> float:
        """Return nan: there is no answer to compare with."""
        return float("nan")


def _lines(path: Path, folder: Path) -> list[str]:
    """The lines of a file that are not blank; none is an error."""
    place = path.relative_to(folder).as_posix()
    try:
        if path.stat().st_size > LONGEST_TEXT:
            raise RequestError(f"{place}: larger than {LONGEST_TEXT // 2**20} MiB; write one prompt a line")
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise RequestError(f"{place}, byte {error.start + 1}: not UTF-8 text") from None
    except OSError as error:
        raise RequestError(f"{place}: cannot be read ({error.strerror or error})") from None
    if not any(lines):
        raise RequestError(f"{place}: holds no prompt; write one a line, or remove the file")
    return [line for line in lines if line]
