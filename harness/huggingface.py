"""The Hugging Face hub: what it says of a repository, asked once and within seconds, and what its cache on this disk holds.

Everything goes through the documented functions of ``huggingface_hub``, which heed ``HF_ENDPOINT``, ``HF_HOME``,
``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``, tokens and proxies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import first_line

PATIENCE = 7.0  # seconds of silence; a run that asks for a task and a model ends well within 30
MAIN = "main"
OFFLINE = "HF_HUB_OFFLINE is set"  # the reason that is the user's own wish

Kind = Literal["model", "dataset"]


class HubError(Exception):
    """The hub gives nothing: the message is the reason, in one line.

    Args:
        reason: why, for the user.
        answered: whether the hub did answer, so that another name is worth a try.
    """

    def __init__(self, reason: str, answered: bool) -> None:
        super().__init__(reason)
        self.answered = answered


@dataclass(frozen=True)
class HubRepository:
    """A repository as the hub has it: the name it answers under, the commit of a revision, and the paths of its files."""

    name: str
    commit: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Snapshot:
    """What the cache holds of a repository at one commit.

    ``sizes`` are the bytes of all files that the repository has, by path, or None where the cache does not know them: it
    then lists no more than what was downloaded.
    """

    folder: Path
    commit: str
    sizes: dict[str, int] | None

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of the files that the repository has, as far as the cache knows."""
        if self.sizes is not None:
            return tuple(self.sizes)
        return tuple(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def missing(self, names: list[str]) -> list[str]:
        """Return those of the files that were not downloaded."""
        return [name for name in names if not (self.folder / name).is_file()]

    def damaged(self, names: list[str]) -> list[str]:
        """Return those of the files that are there and not as long as the hub's."""
        sizes = self.sizes or {}
        there = [name for name in names if name in sizes and (self.folder / name).is_file()]
        return [name for name in there if (self.folder / name).stat().st_size != sizes[name]]


def is_hub_id(name: str) -> bool:
    """Return whether a name is one that a repository of the hub may have, ``owner/name``, and not the path of a folder.

    >>> is_hub_id("llava-hf/llava-1.5-7b-hf"), is_hub_id("./mine"), is_hub_id("tiny")
    (True, False, False)
    """
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def ask(kind: Kind, name: str, revision: str | None = None) -> HubRepository:
    """Ask the hub for a repository: one request, no retries, at most 7 seconds of silence.

    Args:
        kind: of the repository.
        name: ``owner/name``.
        revision: branch, tag or commit; main where not given.

    Raises:
        HubError: where the hub cannot be asked, or has none that we may read.
    """
    from huggingface_hub import HfApi, is_offline_mode

    if is_offline_mode():
        raise HubError(OFFLINE, answered=False)
    try:
        api = HfApi()
        call = api.model_info if kind == "model" else api.dataset_info
        found = call(name, revision=revision or MAIN, timeout=PATIENCE)
    except Exception as error:  # of the network, of the hub, of a proxy: many kinds, one line
        raise HubError(reason(error), answered=_status(error) in range(400, 500)) from None
    return HubRepository(found.id, found.sha or "", tuple(file.rfilename for file in found.siblings or ()))


def reason(error: BaseException) -> str:
    """Return in one line why the hub gave nothing, and where there is something to do about it, what."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return reason(error.__cause__)
    status, kind = _status(error), type(error).__name__
    if isinstance(error, errors.GatedRepoError):
        return "it is gated: accept its terms on its page, then log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub has no such revision of it"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return f"the hub has none of this name, or it is private and wants `hf auth login` ({status})"
    if status is not None and status >= 400:
        words = {403: "forbids it: is your token allowed to read it?", 404: "has none of this name", 429: "was asked too often"}
        return f"the hub {words.get(status, 'fails')} ({status})"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OFFLINE
    if "Timeout" in kind:
        return f"{constants.ENDPOINT} does not answer"
    first = first_line(error, 160)
    network = "Connect" in kind or "Proxy" in kind or "Protocol" in kind or kind in ("ReadError", "WriteError")
    return f"{constants.ENDPOINT} cannot be reached ({first})" if network else first


def _status(error: BaseException) -> int | None:
    found = getattr(getattr(error, "response", None), "status_code", None)
    return found if isinstance(found, int) else None


def cached(kind: Kind, name: str, revision: str | None = None) -> Snapshot | None:
    """Return what the cache holds of a repository at a revision; None where it holds none of it.

    Args:
        kind: of the repository.
        name: ``owner/name``.
        revision: branch, tag or commit; main where not given.
    """
    from huggingface_hub import errors, get_cached_repo_tree, snapshot_download

    try:
        tree = get_cached_repo_tree(name, repo_type=kind, revision=revision)
        sizes: dict[str, int] | None = {file.path: file.size for file in tree}
    except errors.CachedRepoTreeNotFoundError:
        sizes = None
    except (OSError, ValueError):  # a name that no repository can have, a cache that cannot be read
        return None
    try:  # of no file: only where the snapshot lies, which is refused for all files where one was not downloaded
        place = snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True, allow_patterns=[])  # nosec B615
    except (OSError, ValueError):
        return None
    return Snapshot(Path(place), Path(place).name, sizes)


@contextmanager
def offline() -> Iterator[None]:
    """Let the hub's libraries look into their caches alone; else some ask five times and wait in between."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
