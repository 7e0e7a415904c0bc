"""Data sets of the Hugging Face hub: the parquet files of one split, else the ``datasets`` library.

``datasets`` downloads all splits of a data set to give one, training images included, and writes them a second time; it
is used where a repository has no parquet files named after the split, and for what its cache holds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import RequestError
from harness.progress import progress
from harness.tasks.files import tables
from harness.tasks.rows import Row
from harness.tasks.tables import Table, require_pyarrow

PATIENCE = 5.0  # seconds for the one request that asks whether the hub answers
DEFAULT = "data"  # the folder of a data set's only configuration


class HubTable:
    """A split of a data set as ``datasets`` maps it into memory; images stay encoded.

    Args:
        data: the ``datasets.Dataset``.
        name: for messages.
    """

    root: Path | None = None

    def __init__(self, data: Any, name: str) -> None:
        self.name, self.columns = name, tuple(data.column_names)
        self._data = data.with_format("arrow")
        self._only = lru_cache(maxsize=4)(lambda columns: self._data.select_columns(list(columns)))
        self.digest = str(getattr(data, "_fingerprint", ""))

    def __len__(self) -> int:
        return len(self._data)

    def holds_text(self, column: str) -> bool:
        """Return False: a data set of the hub holds its images as bytes."""
        return False

    def _there(self, columns: Sequence[str]) -> tuple[str, ...]:
        return tuple(column for column in columns if column in self.columns)

    def _row(self, values: dict[str, Any], index: int) -> Row:
        return Row(values, f"{self.name}, row {index}", str(index))

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield all rows in order, with those of the named columns that there are."""
        start = 0
        for table in self._only(self._there(columns)).iter(batch_size=2048):
            for index, values in enumerate(table.to_pylist(), start):
                yield self._row(values, index)
            start += len(table)

    def row(self, index: int, columns: Sequence[str]) -> Row:
        """Return one row, counted from 0."""
        return self._row(self._only(self._there(columns))[index].to_pylist()[0], index)

    def cell(self, index: int, column: str) -> Any:
        """Return the content of one cell."""
        return self._only((column,))[index][column][0].as_py()

    def cells(self, column: str) -> Iterator[Any]:
        """Yield all cells of a column in order."""
        for table in self._only((column,)).iter(batch_size=64):
            yield from table[column].to_pylist()


def load(task: str, repositories: Sequence[str], config: str | None, split: str, fetch: str = "") -> list[Table]:
    """Return the tables of a split of the first of these data sets that can be had.

    Args:
        task: the task's name, for messages.
        repositories: hub ids that hold the same data.
        config: the configuration, where the data set has several.
        split: the split.
        fetch: the pattern of the files to fetch, for messages; by default of this configuration and split.

    Raises:
        RequestError: where nothing is found: at once, without retries.
    """
    answers = _answering(repositories)
    if answers is not None:
        files = _files(task, answers, config, split)
        return (
            tables(_fetched(task, answers, files), task, split, config or DEFAULT)
            if files
            else _load(task, answers, config, split)
        )
    for repository in repositories:
        folder = downloaded(repository, config, split)
        if folder is not None:
            return tables(folder, task, split, config or DEFAULT)
    for repository in repositories:
        try:
            with _offline():
                return _load(task, repository, config, split)
        except RequestError:
            continue
    pattern = fetch or (f"*{config}*{split}-*" if config else f"*{split}-*")
    raise RequestError(
        f"task {task!r}: {repositories[0]} is not in the local cache and the hub does not answer for it; "
        f'where there is a network: hf download {repositories[0]} --repo-type dataset --include "{pattern}"'
    )


def _files(task: str, repository: str, config: str | None, split: str) -> list[str]:
    """The parquet files of a split: ``data/test-00000-of-00002.parquet``, or below a folder named after the configuration."""
    from huggingface_hub import HfApi

    try:
        names = HfApi().list_repo_files(repository, repo_type="dataset")
    except Exception as error:
        raise RequestError(f"task {task!r}: the files of {repository} cannot be listed: {_first(error)}") from None
    found = [name for name in names if fnmatch(name.rpartition("/")[2], f"{split}-*.parquet")]
    below = [name for name in found if (config or DEFAULT) in name.split("/")[:-1]]
    return below if config is not None else below or found


def _fetched(task: str, repository: str, files: Sequence[str]) -> Path:
    """The folder of the hub's cache with these files, downloaded where they are not there yet."""
    from huggingface_hub import constants, hf_hub_download

    require_pyarrow(f"task {task!r}")
    place = ""
    try:
        with progress(f"download {repository}", len(files)) as advance:
            for name in files:
                place = hf_hub_download(repository, name, repo_type="dataset", cache_dir=constants.HF_HUB_CACHE)  # nosec B615
                advance(1)
    except Exception as error:  # of the network, of the hub, of the disk: many kinds, one line
        raise RequestError(f"task {task!r}: {repository} cannot be downloaded: {_first(error)}") from None
    return Path(place).parents[files[-1].count("/")]


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _load(task: str, repository: str, config: str | None, split: str) -> list[Table]:
    try:
        import datasets
    except ImportError:
        raise RequestError(f'task {task!r} needs datasets for {repository}: pip install "prunescope[hub]"') from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        data = datasets.load_dataset(repository, config, split=split)  # nosec B615
    except Exception as error:
        raise RequestError(f"task {task!r}: split {split!r} of {repository} cannot be loaded: {_first(error)}") from None
    return [HubTable(data, f"{repository} {split}")]


def downloaded(repository: str, config: str | None, split: str) -> Path | None:
    """Return the folder of a data set of which ``hf download`` has fetched this split, or None."""
    from huggingface_hub import constants, snapshot_download

    try:
        cache = constants.HF_HUB_CACHE
        folder = Path(snapshot_download(repository, repo_type="dataset", local_files_only=True, cache_dir=cache))  # nosec B615
    except Exception:  # not there, in whatever way
        return None
    found = (path.relative_to(folder) for path in folder.rglob(f"{split}-*.parquet"))
    return folder if any(config is None or config in path.parts for path in found) else None


def _answering(repositories: Sequence[str]) -> str | None:
    """The first data set that the hub has; one request each, none after one that fails."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]  # it exports by __getattr__

    if constants.HF_HUB_OFFLINE:
        return None
    for repository in repositories:
        address = f"{constants.ENDPOINT}/datasets/{repository}/resolve/main/README.md"
        try:
            found = get_session().head(address, headers=build_hf_headers(), timeout=PATIENCE, follow_redirects=True)
            if found.status_code < 400:
                return repository
        except Exception:  # any failure of the network means the same here: use what is on this disk
            return None
    return None


@contextmanager
def _offline() -> Iterator[None]:
    """Let ``datasets`` look into its cache alone; else it tries five times and waits in between."""
    from huggingface_hub import constants

    try:
        import datasets
    except ImportError:
        yield
        return
    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
