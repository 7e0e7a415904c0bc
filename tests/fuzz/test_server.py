"""What anybody may send to `open`: an answer in HTTP, no page without the token, no fault of ours, no file changed."""

from __future__ import annotations

import socket
import threading

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.results.serve import ROUTES, Server
from tests.fuzz.inputs import snapshot

FILTERS = ("cell", "wrong", "rival", "lost", "family", "text", "page", "size", "id", "what")
text = st.text(st.characters(codec="utf-8"), max_size=30)
odd = st.sampled_from(
    ["1", "0", "-1", "1e3", "9" * 40, "%00", "%", "%zz", "%ff%fe", "../../etc/passwd", "..%2f..%2fmanifest.json", "' OR 1=1 --",
     "a%0d%0aSet-Cookie:x", "<script>alert(1)</script>", "%F0%9F%A6%86", "*", "%25", "NaN", "١"]
)  # fmt: skip
values = st.one_of(text, odd)
queries = st.lists(st.tuples(st.sampled_from(FILTERS), values), max_size=24).map(lambda p: "&".join(f"{k}={v}" for k, v in p))
routes = st.one_of(st.sampled_from([*ROUTES, "results.sqlite", "manifest.json", "./run", "run/../report.html"]), values)
methods = st.one_of(st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "get", "LOCK"]), text)


@pytest.fixture(scope="module")
def server(finished_run):
    with Server(finished_run) as made:
        made.faults = []
        made.handle_error = lambda request, address: made.faults.append(request)
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


def ask(server: Server, line: str, host: str = "localhost", rest: bytes = b"") -> tuple[int, bytes]:
    """Status and body of a raw request; 0 where it was not even HTTP."""
    with socket.create_connection(server.server_address, timeout=10) as connection:
        head = f"{line}\r\nHost: {host}\r\nConnection: close\r\n".encode(errors="surrogatepass")
        connection.sendall(head + rest + b"\r\n")
        connection.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: connection.recv(65536), b""))
    start, _, body = got.partition(b"\r\n\r\n")
    return (int(start.split()[1]) if start.startswith(b"HTTP/1.") else 0), body


ALWAYS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@ALWAYS
@given(route=routes, query=queries)
@example(route="samples", query="cell=1&text=%00")
@example(route="image", query="id=%ED%A0%80")
@example(route="samples", query="cell=" + "9" * 11)
def test_whoever_has_the_token_gets_an_answer(server, finished_run, route, query):
    before = snapshot(finished_run)
    status, body = ask(server, f"GET /{server.token}/{route}?{query} HTTP/1.1".replace("\n", "").replace("\r", ""))
    assert status in (0, 200, 400, 404, 414, 505), body[:200]
    assert status != 200 or route.split("?")[0].split("#")[0] in ROUTES
    assert b"Traceback" not in body and not server.faults
    assert snapshot(finished_run) == before


@ALWAYS
@given(method=methods, token=values, route=routes, host=st.one_of(st.just("localhost"), values), rest=st.binary(max_size=80))
def test_nobody_else_gets_a_page(server, finished_run, method, token, route, host, rest):
    before = snapshot(finished_run)
    status, body = ask(server, f"{method} /{token}/{route} HTTP/1.1", host, rest)
    assert status in (0, 400, 403, 404, 405, 408, 414, 431, 501, 505), (status, body[:200])
    assert server.token.encode() not in body and not server.faults
    assert snapshot(finished_run) == before


@pytest.mark.parametrize("target", ["http://[::1/run", "//[::1/run", "http://localhost:99999999999/run", "//]/"])
def test_an_address_that_is_none_gets_an_answer_too(server, target):
    status, _ = ask(server, f"GET {target} HTTP/1.1")
    assert status in (400, 403) and not server.faults
