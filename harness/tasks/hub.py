"""Data sets of the Hugging Face hub: the parquet files of one split, else the ``datasets`` library.

Which files a split has is read from the list of all files of a data set, the hub's or the one its cache keeps beside a
download, and never from what happens to lie on the disk: so what was loaded before changes nothing.

``datasets`` downloads all splits of a data set to give one, training images included, and writes them a second time; it
is used where a repository has no parquet files, and for what its cache holds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from glob import escape

from harness.errors import RequestError, first_line
from harness.huggingface import OFFLINE, HubError, Snapshot, ask, cached, reason
from harness.notices import notice
from harness.progress import progress
from harness.tasks.files import shards_missing, split_of
from harness.tasks.hub_tables import HubFiles, HubTable, datasets_offline
from harness.tasks.tables import Parquet, Table, require_pyarrow

DEFAULT = "data"  # the folder of a data set's only configuration
_NAMED = 3  # files of a message
_OWNERS = ("lmms-lab", "lmms-lab-encoder")  # the owner of most of these data sets, which was renamed

Parts = list[list[Table]]
"""Tables of each configuration that was asked for."""


def load(task: str, repositories: Sequence[str], configs: Sequence[str | None], split: str) -> tuple[Parts, HubFiles]:
    """Return the tables of a split, and where they are from: the first of these data sets that can be had.

    Args:
        task: the task's name, for messages.
        repositories: hub ids that hold the same data.
        configs: the configurations to load, None of a data set that has one.
        split: the split.

    Raises:
        RequestError: where nothing is found: at once, without retries, with the command that fetches it.
    """
    require_pyarrow(f"task {task!r}")
    reasons: dict[str, str] = {}
    for asked in repositories:
        try:
            found = ask("dataset", asked)
        except HubError as error:
            reasons[asked] = str(error)
            if error.answered:
                continue
            break
        parts = _chosen(task, found.name, found.files, configs, split)
        if parts is None:
            return [_through_datasets(task, found.name, config, split) for config in configs], HubFiles(found.name, found.commit)
        home = found.name if found.name in repositories else asked  # where it is looked for without a network
        files = [name for part in parts for name in part]
        kept = (cached("dataset", name, found.commit) for name in dict.fromkeys((asked, home)))
        whole = next((one for one in kept if one and not one.missing(files) and not one.damaged(files)), None)
        snapshot = whole or _downloaded(task, home, files)
        return _opened(snapshot, parts, ""), HubFiles.of(found.name, snapshot, files)
    return _from_cache(task, repositories, configs, split, reasons)


def both_names(repository: str) -> tuple[str, ...]:
    """Return the hub ids of a data set: its own, and where it is one of lmms-lab's, the one under that owner's other name.

    >>> both_names("lmms-lab/RefCOCOg"), both_names("me/mine")
    (('lmms-lab/RefCOCOg', 'lmms-lab-encoder/RefCOCOg'), ('me/mine',))
    """
    owner, _, name = repository.partition("/")
    others = [f"{other}/{name}" for other in _OWNERS if other != owner] if owner in _OWNERS else []
    return (repository, *others)


def command(repository: str, configs: Sequence[str | None], split: str) -> str:
    """Return the command that fetches a split into the hub's cache, as one types it.

    Args:
        repository: hub id.
        configs: the configurations, None of a data set that has one.
        split: the split.
    """
    patterns = [f"*{split}-*.parquet" if config is None else f"*{config}/{split}-*.parquet" for config in configs]
    return f"hf download {repository} --repo-type dataset " + " ".join(f'--include "{pattern}"' for pattern in patterns)


def _from_cache(
    task: str, repositories: Sequence[str], configs: Sequence[str | None], split: str, reasons: dict[str, str]
) -> tuple[Parts, HubFiles]:
    """The tables of the first data set that the cache of the hub, or of ``datasets``, holds whole."""
    wrong: RequestError | None = None
    for repository in repositories:
        snapshot = cached("dataset", repository)
        if snapshot is None:
            continue
        try:
            parts = _chosen(task, repository, snapshot.files, configs, split, snapshot.sizes is not None) or []
            if not all(parts) or not parts:
                continue
            files = [name for part in parts for name in part]
            _check(task, repository, snapshot, files, command(repository, configs, split))
            again = f"fetch it again: {command(repository, configs, split)} --force-download"
            if failed := [why for why in reasons.values() if why != OFFLINE]:
                notice(f"data of {repository} are from the local cache, commit {snapshot.commit[:12]}, since {failed[0]}")
            return _opened(snapshot, parts, again), HubFiles.of(repository, snapshot, files)
        except RequestError as error:
            wrong = wrong or error
    if wrong is not None:
        raise wrong
    for repository in repositories:
        try:
            with datasets_offline():
                return [_through_datasets(task, repository, config, split) for config in configs], HubFiles(repository, None)
        except RequestError:
            continue
    first, *others = repositories
    why = "; ".join(f"{', '.join(names)}: {why}" for why, names in _grouped(reasons).items())
    elsewhere = f" (should {first} be gone there: {', '.join(others)})" if others else ""
    raise RequestError(
        f"task {task!r}: split {split!r} of {first} is not in the local cache, and cannot be fetched ({why}); "
        f"where there is a network{elsewhere}: {command(first, configs, split)}"
    )


def _grouped(reasons: dict[str, str]) -> dict[str, list[str]]:
    """Names by the reason that they share."""
    return {why: [name for name, own in reasons.items() if own == why] for why in reasons.values()}


def _chosen(
    task: str, repository: str, names: Iterable[str], configs: Sequence[str | None], split: str, whole: bool = True
) -> list[list[str]] | None:
    """The parquet files of a split, by configuration: below a folder named after it, or ``data``.

    None of a data set without parquet files that are named after splits. ``whole`` says whether the names are all that the
    data set has: else a split may be missing because it was not fetched, and its part is empty.
    """
    splits = {name: found for name in sorted(names) if (found := split_of(name, split)) is not None}
    folders = sorted({name.rpartition("/")[0] for name in splits})
    if not splits:
        return None
    parts = []
    for config in configs:
        below = {name: found for name, found in splits.items() if (config or DEFAULT) in name.split("/")[:-1]}
        if config is not None and not below and len(folders) > 1 and whole:
            raise RequestError(f"task {task!r}: {repository} has no configuration {config!r}; there are: {', '.join(folders)}")
        named = below or (splits if len(folders) == 1 else {})
        seen = splits if config is None else named
        part = [name for name in (named if split in named.values() else seen) if splits[name] == split]
        if not part and whole:
            known = ", ".join(sorted(set(seen.values())))
            raise RequestError(f"task {task!r}: {repository} has no split {split!r}; there are: {known}")
        places = sorted({name.rpartition("/")[0] for name in part})
        if len(places) > 1:
            raise RequestError(
                f"task {task!r}: {repository} has split {split!r} in several folders ({', '.join(places)}); fetch one of them "
                f"with `hf download ... --local-dir FOLDER`, and name it: {task}[path=FOLDER]"
            )
        parts.append(part)
    return parts


def _check(task: str, repository: str, snapshot: Snapshot, files: list[str], again: str) -> None:
    """Raise a `RequestError` where files are missing in the cache or are shorter or longer than the hub's."""
    start = f"task {task!r}: {repository}, as it was downloaded,"
    missing, damaged = snapshot.missing(files), snapshot.damaged(files)
    if missing:
        raise RequestError(f"{start} lacks {len(missing)} of {len(files)} files ({_listed(missing)}); fetch them: {again}")
    if damaged:
        count = f"{len(damaged)} of {len(files)} files"
        raise RequestError(f"{start} has {count} that are not whole ({_listed(damaged)}); fetch them: {again} --force-download")
    if lacking := shards_missing(files):
        raise RequestError(f"{start} lacks {lacking}; fetch the others: {again}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _downloaded(task: str, repository: str, files: list[str]) -> Snapshot:
    """The hub's cache with these files, downloaded where they are not there yet, or not whole."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # documented, and in no __all__

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        with progress(f"download {repository}", len(files)) as advance:
            for name in files:  # one by one, and each by the function that also keeps the list of all files
                snapshot_download(repository, repo_type="dataset", allow_patterns=[escape(name)])  # nosec B615
                advance(1)
        snapshot = cached("dataset", repository)
        assert snapshot is not None, "what was downloaded is in the cache"
        for name in snapshot.damaged(files):
            hf_hub_download(repository, name, repo_type="dataset", revision=snapshot.commit, force_download=True)  # nosec B615
    except Exception as error:  # of the network, of the hub, of the disk: many kinds, one line
        raise RequestError(f"task {task!r}: {repository} cannot be downloaded: {reason(error)}") from None
    _check(task, repository, snapshot, files, f"hf download {repository} --repo-type dataset")
    return snapshot


def _opened(snapshot: Snapshot, parts: list[list[str]], again: str) -> Parts:
    try:
        return [[Parquet(snapshot.folder / name, name) for name in part] for part in parts]
    except RequestError as error:
        raise RequestError(f"{error}; {again}" if again else str(error)) from None


def _through_datasets(task: str, repository: str, config: str | None, split: str) -> list[Table]:
    """The table of a split, however the repository holds it, by the ``datasets`` library."""
    try:
        import datasets
    except ImportError:
        raise RequestError(f'task {task!r} needs datasets for {repository}: pip install "prunescope[hub]"') from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        data = datasets.load_dataset(repository, config, split=split)  # nosec B615
    except Exception as error:
        first = first_line(error)
        raise RequestError(f"task {task!r}: split {split!r} of {repository} cannot be loaded: {first}") from None
    return [HubTable(data, f"{repository} {split}")]
