"""The command `open`: a run folder in a browser, for people on a remote machine. It can be looked at and not be changed.

The server listens on the loopback alone, answers nobody without the token in the address, and takes no path from a request:
what it serves is named here. Needs no torch.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import fields
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from harness import interrupts
from harness.errors import RequestError, nearest
from harness.results.browse import OpenRun, SampleFilter, overview, picture, question, samples_page
from harness.results.current_summary import current_summary, outdated
from harness.results.remembered import RecentResults
from harness.results.types import JsonObject
from harness.store.open_runs import reading

LOOPBACK = "127.0.0.1"
NAMES = frozenset({LOOPBACK, "localhost"})
"""What a browser on this machine, or at the other end of a tunnel, calls the server; a page of another site cannot."""
MOST, USUAL = 100, 24  # samples a page
LONGEST = 200  # characters of a text that is searched for
_OWN = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REPORT = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STATIC = {
    "": ("browse.html", "text/html; charset=utf-8"),
    "browse.js": ("browse.js", "text/javascript; charset=utf-8"),
    "draw.js": ("draw.js", "text/javascript; charset=utf-8"),
    "browse.css": ("browse.css", "text/css; charset=utf-8"),
    "report.css": ("report.css", "text/css; charset=utf-8"),
}


class Response(NamedTuple):
    """An answer to a request: its content, or the file that holds it."""

    kind: str  # media type
    body: bytes | Path
    policy: str = _OWN  # Content-Security-Policy


class Server(ThreadingHTTPServer):
    """A web server of one run folder, on the loopback, until it is shut down.

    Args:
        folder: of a run, finished or not.
        port: 0 takes a free one.

    Raises:
        RequestError: where the folder is no run, or the port is taken.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        with reading(folder) as (run,):
            overview(run)
        self.folder, self.token = folder, secrets.token_urlsafe(24)
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "ports go from 0 to 65535"
            raise RequestError(f"--port {port}: cannot listen there ({reason}); leave it away for a free one") from None

    @property
    def address(self) -> str:
        """The address to open in a browser, with the token that nobody else knows."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.token}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Print an error as one line; a browser that has gone away is no error."""
        error = sys.exception()
        if not isinstance(error, (ConnectionError, TimeoutError)):
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds without a request

    def do_GET(self) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body stays unread
        if not self._of_this_machine():
            return self.send_error(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 and localhost alone")
        try:
            asked = urlsplit(self.path)
        except ValueError:
            return self.send_error(HTTPStatus.BAD_REQUEST, "this is no address")
        _, token, *rest = [*asked.path.split("/", 2), ""]
        if not self.path.startswith("/") or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            return self.send_error(HTTPStatus.FORBIDDEN, "the address is not the one that was printed")
        route = ROUTES.get(rest[0]) if asked.path.count("/") > 1 else None
        if route is None:
            return self.send_error(HTTPStatus.NOT_FOUND, "there is no such page")
        run = OpenRun(self.server.folder)
        try:
            answer = route(run, _query(asked.query))
        except _NotFound as error:
            return self.send_error(HTTPStatus.NOT_FOUND, str(error))
        except RequestError as error:
            return self.send_error(HTTPStatus.BAD_REQUEST, str(error))
        except sqlite3.Error as error:
            return self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, f"results.sqlite: cannot be read ({error})")
        finally:
            run.close()
        return self._send(HTTPStatus.OK, answer)

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self.close_connection = True
        self.send_error(HTTPStatus.METHOD_NOT_ALLOWED, "a run can be looked at here and not be changed")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _of_this_machine(self) -> bool:
        """Whether the browser was given an address of this machine: a name that someone else's server answers for is not."""
        hosts = self.headers.get_all("Host", [])
        return len(hosts) == 1 and hosts[0].partition(":")[0].lower() in NAMES

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send one line of plain text, which no browser takes for a page."""
        status = HTTPStatus(code)
        text = " ".join((message or status.phrase).split())[:300] + "\n"
        self._send(status, Response("text/plain; charset=utf-8", text.encode(errors="replace")))

    def _send(self, status: HTTPStatus, answer: Response) -> None:
        try:
            file = answer.body.open("rb") if isinstance(answer.body, Path) else None
        except OSError:
            return self.send_error(HTTPStatus.NOT_FOUND, "the report is gone; write it again with `python -m harness report`")
        content = answer.body if isinstance(answer.body, bytes) else b""
        length = len(content) if file is None else os.fstat(file.fileno()).st_size
        self.send_response(status)
        for name, value in (
            ("Content-Type", answer.kind), ("Content-Length", str(length)), ("Content-Security-Policy", answer.policy),
            ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-store"),
            ("Cross-Origin-Resource-Policy", "same-origin"), ("Cross-Origin-Opener-Policy", "same-origin"),
        ):  # fmt: skip
            self.send_header(name, value)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if file is not None:
            with file:
                if self.command != "HEAD":
                    shutil.copyfileobj(file, self.wfile)
        elif self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """Return the name of the server without versions."""
        return "prunescope"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a log would hold the token."""


class _NotFound(RequestError):
    """What was asked for is not in the run."""


def _query(text: str) -> dict[str, str]:
    try:
        return {name: values[-1] for name, values in parse_qs(text, keep_blank_values=True, max_num_fields=20).items()}
    except ValueError:
        raise RequestError("the address holds too many values") from None


def _static(name: str, kind: str) -> Callable[[OpenRun, dict[str, str]], Response]:
    return lambda run, query: Response(kind, files("reports").joinpath("templates", name).read_bytes())


def _json(content: JsonObject) -> Response:
    return Response("application/json; charset=utf-8", json.dumps(content, allow_nan=False).encode())


_pages: RecentResults[bytes] = RecentResults()  # of runs of older versions, by their folder and the time of their summary


def _report(run: OpenRun, query: dict[str, str]) -> Response:
    """The page that lies in the folder; that of a run of an older version is made by the rules of this one, in memory."""
    found: bytes | Path = run.folder / "report.html"
    if (run.folder / "report.html").is_file() and run.finished and outdated(run):
        from harness.results.report import page

        of = run.folder, (run.folder / "summary.json").stat().st_mtime_ns
        found = _pages.get(of, lambda: page(run, current_summary(run)).encode())
    return Response("text/html; charset=utf-8", found, _REPORT)


def _samples(run: OpenRun, query: dict[str, str]) -> Response:
    known = {field.name for field in fields(SampleFilter)} | {"page", "size"}
    for name in query:
        if name not in known:
            raise RequestError(f"unknown filter {name[:40]!r}; {nearest(name, known)}")
    page, size = _whole(query, "page", 0, 10**9), _whole(query, "size", USUAL, MOST)
    text = query.get("text", "").strip()
    if len(text) > LONGEST:
        raise RequestError(f"text: at most {LONGEST} characters")
    wanted = SampleFilter(
        cell=_whole(query, "cell", None, 2**31),
        wrong=query.get("wrong") == "1",
        rival=_whole(query, "rival", None, 2**31) if query.get("rival") else None,
        lost=query.get("lost") == "1",
        family=query.get("family", ""),
        text=text,
    )
    return _json(samples_page(run, wanted, page, max(1, size)))


def _whole(query: dict[str, str], name: str, default: int | None, most: int) -> int:
    text = query.get(name, "" if default is None else str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= most):
        raise RequestError(f"{name}={text[:20]!r}: must be a whole number from 0 to {most}")
    return int(text)


def _one(read: Callable[[OpenRun, str], Response]) -> Callable[[OpenRun, dict[str, str]], Response]:
    """A route to a question or an image by ``id``."""

    def route(run: OpenRun, query: dict[str, str]) -> Response:
        try:
            return read(run, query.get("id", ""))
        except RequestError as error:
            raise _NotFound(str(error)) from None

    return route


ROUTES: dict[str, Callable[[OpenRun, dict[str, str]], Response]] = {
    **{path: _static(*found) for path, found in _STATIC.items()},
    "report.html": _report,
    "run": lambda run, query: _json(overview(run)),
    "samples": _samples,
    "question": _one(lambda run, ident: _json(question(run, ident))),
    "image": _one(lambda run, ident: Response("image/png", picture(run, ident))),
}
"""What is served, by the path behind the token; each takes the run and the query."""


def serve(folder: Path, port: int = 0) -> None:
    """Print the address and serve a run folder until the process is interrupted.

    Args:
        folder: of a run, finished or not.
        port: on the loopback; 0 takes a free one.

    Raises:
        RequestError: where the folder is no run, or the port is taken.
    """
    with Server(folder, port) as server:
        print(server.address, flush=True)
        tunnel = f"ssh -N -L {server.server_port}:{LOOPBACK}:{server.server_port} THIS_MACHINE"
        print(f"open it in a browser here, or on another machine behind `{tunnel}`; Ctrl-C ends", file=sys.stderr)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            interrupts.expected()
