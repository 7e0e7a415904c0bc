"""A Hugging Face hub on this machine: folders are its repositories, and it answers as the real one does, well or badly."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

CODES = {401: "RepoNotFound", 404: "RepoNotFound", 403: "GatedRepo"}
LARGE = (".parquet", ".safetensors")  # files that the hub names after their SHA-256, others after git's SHA-1


@dataclass
class LoopbackHub:
    """A hub, as its clients and its tests see it.

    Repositories are the folders ``datasets/OWNER/NAME`` and ``models/OWNER/NAME`` below ``root``.
    """

    root: Path
    moved: dict[str, str] = field(default_factory=dict)  # an owner that was renamed -> its new name (307)
    refused: dict[str, int] = field(default_factory=dict)  # an owner or a repository -> the status that its answers have
    failing: int | None = None  # the status of every answer
    requests: list[str] = field(default_factory=list)
    address: str = ""

    def folder(self, kind: str, name: str) -> Path | None:
        """The folder of a repository; of an owner's new name, the old one's."""
        owner, _, tail = name.partition("/")
        names = [name, *(f"{old}/{tail}" for old, new in self.moved.items() if new == owner)]
        return next((place for one in names if (place := self.root / f"{kind}s" / one).is_dir()), None)

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of an answer."""
        listing = re.fullmatch(r"/api/(dataset|model)s/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path)
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if self.failing is not None:
            return error(self.failing, CODES.get(self.failing, ""))
        if listing is None and file is None:
            return error(404, "RepoNotFound")
        kind = listing[1] if listing else "dataset" if file and file[1] else "model"
        name = (listing or file)[2]  # type: ignore[index]
        owner = name.partition("/")[0]
        if owner in self.moved:
            return 307, {"Location": path.replace(owner, self.moved[owner], 1)}, b""
        status = self.refused.get(name, self.refused.get(owner))
        folder = self.folder(kind, name)
        if status is not None or folder is None:
            return error(status or 401, CODES.get(status or 401, ""))
        files, commit = contents(folder)
        revision = (listing[4] or "main") if listing else file[3]  # type: ignore[index]
        if revision not in ("main", commit):
            return error(404, "RevisionNotFound")
        if file is not None:
            return served(files, file[4], commit)
        assert listing is not None
        if listing[3] == "tree":
            return tree(files, listing[5] or "", query.get("recursive") in (["true"], ["True"], ["1"]))
        if listing[3] == "paths-info":
            asked = parse_qs(body.decode()).get("paths", []) if b"=" in body else json.loads(body)["paths"]
            return as_json([entry(path, files[path]) for path in asked if path in files])
        return as_json({"id": name, "sha": commit, "private": False, "gated": False, "disabled": False, "downloads": 0,
                        "likes": 0, "tags": [], "siblings": [{"rfilename": path} for path in files]})  # fmt: skip


def contents(folder: Path) -> tuple[dict[str, bytes], str]:
    """The files of a repository by path, and the commit that they make."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    digest = hashlib.sha1("".join(f"{path}{hashlib.sha1(content).hexdigest()}" for path, content in files.items()).encode())
    return files, digest.hexdigest()


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file in a list of files."""
    found = {"type": "file", "path": path, "size": len(content),
             "oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}  # fmt: skip
    if path.endswith(LARGE):
        found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return found


def tree(files: dict[str, bytes], below: str, deep: bool) -> tuple[int, dict[str, str], bytes]:
    """The files and folders below a folder; those in its folders too where it is asked deeply."""
    start = f"{below.strip('/')}/" if below else ""
    inside = {path: content for path, content in files.items() if path.startswith(start)}
    if below and not inside:
        return error(404, "EntryNotFound")
    cuts = {path: [k for k, letter in enumerate(path) if letter == "/" and k >= len(start)] for path in inside}
    folders = dict.fromkeys(path[:k] for path, places in cuts.items() for k in (places if deep else places[:1]))
    own = [entry(path, content) for path, content in inside.items() if deep or not cuts[path]]
    return as_json([{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders] + own)


def served(files: dict[str, bytes], path: str, commit: str) -> tuple[int, dict[str, str], bytes]:
    """The answer that holds a file."""
    if path not in files:
        return error(404, "EntryNotFound")
    content = files[path]
    found = entry(path, content)
    tag = found.get("lfs", found)["oid"]
    head = {"X-Repo-Commit": commit, "ETag": f'"{tag}"', "Content-Type": "application/octet-stream"}
    if "lfs" in found:
        head |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(content))}
    return 200, head, content


def error(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    """An answer that says no."""
    return status, {"X-Error-Code": code, "X-Error-Message": code} if code else {}, b"{}"


def as_json(value: Any) -> tuple[int, dict[str, str], bytes]:
    """An answer that holds a value."""
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@contextmanager
def running(root: Path) -> Iterator[LoopbackHub]:
    """A hub of the repositories below a folder, while the block runs."""
    hub = LoopbackHub(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            place = urlparse(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if place.path != "/api/agent-harnesses":  # which newer libraries fetch once a day, whatever they are asked
                hub.requests.append(f"{self.command} {place.path}")
            status, head, content = hub.answer(self.command, unquote(place.path), parse_qs(place.query), body)
            self.send_response(status)
            for name, value in {**head, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = respond

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def silent() -> Iterator[str]:
    """The address of a machine that takes connections and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
