"""A run behind a real server: who gets in, what is served, and that nothing is written."""

import base64
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.cli import app as cli
from harness.errors import RequestError
from harness.results import remembered, serve
from harness.results.browse import OpenRun, SampleFilter, samples_page
from harness.results.samples import samples
from harness.results.serve import MOST, Server
from harness.store.arrays import pack, unpack

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">\u2028'&%_\\ "


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(out, "PNG")
    return out.getvalue()


class Client:
    """Requests to a server, as a browser at its address makes them unless told otherwise."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def ask(self, path="", method="GET", token=None, host=None, headers=(), raw=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=60)
        target = raw if raw is not None else f"/{self.server.token if token is None else token}/{path}"
        connection.putrequest(method, target, skip_host=True)
        for name, value in (("Host", host or f"127.0.0.1:{self.server.server_port}"), *headers):
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, answer.headers, body

    def json(self, path):
        status, _, body = self.ask(path)
        assert status == 200, body
        return json.loads(body)


@pytest.fixture
def stored(make_run):
    """A run with pictures, evidence, a failure and text that would like to be a script."""
    run = make_run(images=range(5), skipped={("sts", 64): "no CLS"})
    evidence = np.zeros((12, 12), bool)
    evidence[3:6, 4:9] = True
    with run.connection as connection:
        connection.execute("UPDATE images SET png = ?", (picture(),))
        connection.execute("UPDATE questions SET evidence = ? WHERE place = 1", (pack(evidence),))
        connection.execute("UPDATE questions SET question = ? WHERE id = 'i3-2'", (HOSTILE,))
        connection.execute("UPDATE samples SET prediction = ? WHERE question = 'i3-2'", (HOSTILE,))
        connection.execute("UPDATE samples SET failed = 'out of memory', score = NULL WHERE question = 'i2-1'")
        tome = next(i for i, _, f in run.cells() if (f["method"], f["keep"]) == ("tome", 24))
        scores, source = np.arange(144, dtype="<f2"), np.arange(144, dtype="<i2") // 6
        connection.execute("INSERT INTO traces VALUES (?, 'i1-1', ?, ?)", (tome, scores.tobytes(), source.tobytes()))
    (run.folder / "report.html").write_text("<!doctype html><title>the report</title>", encoding="utf-8")
    run.close()
    return run


@pytest.fixture
def client(stored):
    with Server(stored.folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Client(server)
        server.shutdown()
        thread.join()


def cell_of(client, method, keep):
    return next(c["id"] for c in client.json("run")["cells"] if (c["method"], c["keep"]) == (method, keep))


def test_the_pages(client):
    for path, kind in (
        ("", "text/html"),
        ("browse.js", "text/javascript"),
        ("draw.js", "text/javascript"),
        ("browse.css", "text/css"),
        ("report.css", "text/css"),
    ):
        status, headers, body = client.ask(path)
        assert status == 200 and headers["Content-Type"].startswith(kind) and int(headers["Content-Length"]) == len(body) > 100
        assert (
            "'unsafe-inline'" not in headers["Content-Security-Policy"]
            and "script-src 'self'" in headers["Content-Security-Policy"]
        )
    status, headers, body = client.ask("report.html")
    assert status == 200 and b"the report" in body
    assert "connect-src" not in headers["Content-Security-Policy"] and "default-src 'none'" in headers["Content-Security-Policy"]
    status, headers, body = client.ask("image?id=i3")
    assert status == 200 and headers["Content-Type"] == "image/png" and body == picture()


def test_every_answer_is_guarded(client):
    for answer in (client.ask(), client.ask("nothing"), client.ask(token="x"), client.ask(method="PUT"), client.ask("run")):
        headers = answer[1]
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store" and "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and "Access-Control-Allow-Origin" not in headers
        assert "Python" not in headers["Server"]


@pytest.mark.parametrize("token", ["", "x", "../", "%2e%2e", "%c3%a9"])
def test_another_token_is_refused(client, token):
    for path in ("", "run", "report.html", "image?id=i0"):
        status, _, body = client.ask(raw=f"/{token}/{path}")
        assert status == 403 and b"i0" not in body
    wrong = client.server.token[:-1] + ("A" if client.server.token[-1] != "A" else "B")
    assert client.ask(token=wrong)[0] == client.ask(token=client.server.token + "A")[0] == 403


def test_the_address_alone_is_refused(client):
    for raw in ("/", "/favicon.ico", f"/{client.server.token[:8]}", f"http://127.0.0.1/{client.server.token}/"):
        assert client.ask(raw=raw)[0] == 403
    assert client.ask(raw=f"/{client.server.token}")[0] == 404  # without its last slash


def test_only_hosts_of_this_machine(client):
    port = client.server.server_port
    for host in ("localhost", "LOCALHOST:80", f"localhost:{port}", "127.0.0.1", "127.0.0.1:9999"):  # a tunnel has its own port
        assert client.ask("run", host=host)[0] == 200, host
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "@127.0.0.1",
        "[::1]:80",
    ):
        assert client.ask("run", host=host)[0] == 403, host
    assert client.ask("run", headers=[("Host", "evil.example")])[0] == 403  # two of them
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(f"GET /{client.server.token}/run HTTP/1.0\r\n\r\n".encode())
        assert b" 403 " in plain.recv(100)


@pytest.mark.parametrize(
    "path",
    [
        "../manifest.json", "..%2fmanifest.json", "%2e%2e/manifest.json", "../../etc/passwd", "//etc/passwd", "manifest.json",
        "results.sqlite", "report.html/../manifest.json", "report.html%00.css", "browse.js/", "..\\manifest.json",
    ],
)  # fmt: skip
def test_no_path_leads_elsewhere(client, path):
    status, _, body = client.ask(path)
    assert status == 404 and b"no such page" in body and b"schema_version" not in body


def test_nothing_can_be_written(client, stored):
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in stored.folder.iterdir()}
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        status, headers, _ = client.ask("run", method=method, headers=[("Content-Length", "0")])
        assert status == 405 and headers["Allow"] == "GET, HEAD"
    assert client.ask("run", method="BREW")[0] == 501
    client.json("run"), client.json("samples?cell=1"), client.json("question?id=i0-0"), client.ask("report.html")
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in stored.folder.iterdir()} == before
    run = OpenRun(stored.folder)
    with pytest.raises(Exception, match="readonly"):
        run.connection.execute("DELETE FROM samples")
    run.close()


def test_a_run_that_is_being_written_is_read_as_far_as_it_is(client, stored):
    before = client.json("samples?cell=1")["total"]
    stored.connection.execute("BEGIN IMMEDIATE")
    stored.connection.execute("DELETE FROM samples WHERE cell = 1 AND question = 'i0-0'")
    assert client.json("samples?cell=1")["total"] == before
    stored.connection.execute("COMMIT")
    assert client.json("samples?cell=1")["total"] == before - 1


def test_head_has_no_body(client):
    for path in ("", "run", "report.html", "image?id=i0", "nothing"):
        whole, head = client.ask(path), client.ask(path, method="HEAD")
        assert head[0] == whole[0] and head[2] == b"" and head[1]["Content-Length"] == str(len(whole[2]))


def test_pages_make_up_the_whole(client, stored):
    cell = cell_of(client, "fastv", 24)
    every = [row for row in samples(stored) if (row["method"], row["keep"]) == ("fastv", 24)]
    found = []
    for page in range(5):
        answer = client.json(f"samples?cell={cell}&page={page}&size=7")
        assert answer["total"] == len(every) == 30 and len(answer["rows"]) == (7 if page < 4 else 2)
        found += answer["rows"]
    assert [row["id"] for row in found] == [row["id"] for row in every]
    assert [row["prediction"] for row in found] == [row["prediction"] for row in every]
    assert client.json(f"samples?cell={cell}&page=99")["rows"] == []
    assert client.json(f"samples?cell={cell_of(client, 'sts', 64)}")["total"] == 0  # skipped


def test_filters_are_those_of_the_command(client, stored):
    cell, rival = cell_of(client, "fastv", 24), cell_of(client, "none", None)
    ids = lambda query: [row["id"] for row in client.json(f"samples?cell={cell}&size={MOST}&{query}")["rows"]]
    command = lambda **options: [row["id"] for row in samples(stored, method="fastv", keep=24, **options)]
    assert ids("wrong=1") == command(wrong=True) and "i2-1" in ids("wrong=1")
    assert ids("lost=1") == command(evidence_lost=True) != []
    assert ids("family=colour&wrong=1") == command(family="colour", wrong=True)
    right = {row["id"] for row in samples(stored, method="none") if row["score"] == 1}
    assert ids(f"wrong=1&rival={rival}") == [ident for ident in command(wrong=True) if ident in right] != []
    assert ids("text=IN+3") == [f"i3-{q}" for q in range(6) if q != 2]  # case aside, in the question
    assert ids("text=%25_") == ids("text=onerror") == ["i3-2"]  # signs of LIKE are text
    assert ids("text=nowhere") == []


def test_masks_are_those_that_are_stored(client, stored):
    found = client.json("question?id=i1-1")
    cells = {c["id"]: c for c in client.json("run")["cells"]}
    assert len(found["answers"]) == 15 and found["whole"] == [12, 12]
    kept = {(cells[a["cell"]]["method"], cells[a["cell"]]["keep"]): a for a in found["answers"]}
    for method, keep in (("fastv", 24), ("sts", 24), ("none", None)):
        columns = stored.columns(next(i for i, c in cells.items() if (c["method"], c["keep"]) == (method, keep)))
        bits = columns["kept"][list(columns["question"]).index("i1-1")]
        answer = kept[method, keep]
        assert base64.b64decode(answer["kept"]) == bits and answer["grid"] == [12, 12]
        assert unpack(bits, (12, 12)).sum() == answer["kept_count"] or method == "fastv"
    assert unpack(base64.b64decode(found["evidence"]), (12, 12))[3:6, 4:9].all()
    assert kept["blind", None]["kept"] is None and kept["fastv", 24]["ranks"] is kept["fastv", 24]["source"] is None
    assert np.array_equal(np.frombuffer(base64.b64decode(kept["tome", 24]["source"]), "<i2"), np.arange(144) // 6)
    ranks = base64.b64decode(kept["tome", 24]["ranks"])
    assert (ranks[0], ranks[-1], len(ranks)) == (1, 255, 144) and sorted(ranks) == list(ranks)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("samples", 400, "cell="), ("samples?cell=x", 400, "whole number"), ("samples?cell=99", 400, "cell=99: not in"),
        ("samples?cell=1&page=-1", 400, "page"), ("samples?cell=1&page=1e9", 400, "page"),
        ("samples?cell=1&size=101", 400, "size"),
        ("samples?cell=1&page=99999999999999999999999", 400, "page"), ("samples?cell=1&rival=77", 400, "rival=77"),
        ("samples?cell=1&wrnog=1", 400, "did you mean 'wrong'"), ("samples?cell=1&text=" + "x" * 201, 400, "at most 200"),
        ("samples?cell=%C2%B2", 400, "whole number"), ("samples?" + "a=1&" * 30, 400, "too many"),
        ("question?id=nowhere", 404, "not in"), ("question", 404, "not in"), ("image?id=../i0", 404, "no picture"),
        ("samples?cell=1%20OR%201=1", 400, "whole number"),
    ],
)  # fmt: skip
def test_wrong_questions_get_one_line(client, path, status, message):
    found, headers, body = client.ask(path)
    assert found == status and message in body.decode() and len(body.decode().splitlines()) == 1
    assert headers["Content-Type"].startswith("text/plain")


def test_hostile_text_is_data(client):
    status, headers, body = client.ask("question?id=i3-2")
    assert status == 200 and headers["Content-Type"].startswith("application/json")
    assert json.loads(body)["question"] == HOSTILE
    status, headers, body = client.ask("samples?cell=<script>alert(1)</script>".replace("<", "%3C").replace(">", "%3E"))
    assert status == 400 and headers["Content-Type"].startswith("text/plain")


def test_a_broken_database_is_said_in_one_line(client, stored):
    (stored.folder / "results.sqlite").write_bytes(b"SQLite format 3\x00" + bytes(range(256)) * 20)
    status, _, body = client.ask("samples?cell=1")
    assert status == 500 and b"results.sqlite: cannot be read" in body
    (stored.folder / "report.html").unlink()
    assert client.ask("report.html")[0] == 404


def test_wrong_requests(capsys, stored, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for words, message in (
            ([tmp_path / "nowhere"], "no finished run"),
            ([stored.folder, "--port", taken.getsockname()[1]], "--port"),
            ([stored.folder, "--port", "70000"], "0 to 65535"),
            ([stored.folder, "--port", "-1"], "0 to 65535"),
        ):
            with pytest.raises(SystemExit) as stop:
                cli.main(["open", *map(str, words)])
            captured = capsys.readouterr()
            assert stop.value.code == 2 and message in captured.err and len(captured.err.splitlines()) <= 3 and not captured.out
    (stored.folder / "results.sqlite").write_bytes(b"not a database")
    with pytest.raises(RequestError, match=r"no SQLite database|damaged"):
        Server(stored.folder)


def test_the_command(stored):
    """Prints the address alone, needs no torch, answers on the loopback alone, and ends with Ctrl-C."""
    script = (
        "import sys\nfrom harness.cli.app import main\ntry:\n    main(['open', sys.argv[1]])\n"
        "finally:\n    print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(stored.folder)], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        address = process.stdout.readline().strip()
        host, port, path = address.removeprefix("http://").partition("/")[0].partition(":")[::2] + (address.split("/", 3)[3],)
        assert host == "127.0.0.1" and len(path) > 30
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.request("GET", f"/{path}run")
        assert json.loads(connection.getresponse().read())["questions"] == 30
        connection.close()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0 and out == "[]\n" and "ssh -N -L" in err and "Traceback" not in err


def test_sixty_thousand_samples_stay_quick(make_run):
    """A page of the largest cells takes what its rows take, not what the run holds, but for the count."""
    from time import process_time

    run = make_run(images=range(40), analysed=0, latency=False)
    with run.connection as connection:
        for copy in range(1, 16):
            connection.execute(
                "INSERT INTO images SELECT id || ?, place + 40 * ?, png, 1, 1, NULL FROM images WHERE place < 40",
                (f"c{copy}", copy),
            )
            connection.execute(
                "INSERT INTO questions SELECT id || ?1, image || ?1, place, family, question, target, evidence FROM questions "
                "WHERE id NOT LIKE '%c%'", (f"c{copy}",))  # fmt: skip
            connection.execute(
                "INSERT INTO samples SELECT cell, question || ?1, prediction, score, agree, kl, kept, kept_count, recall, "
                "recall_before, swap_score, failed, read, undecided, ours, official, authors, layer_counts, tower_counts "
                "FROM samples WHERE question NOT LIKE '%c%'", (f"c{copy}",))  # fmt: skip
    start = process_time()
    found = samples_page(run, SampleFilter(cell=run.cells()[-1][0], wrong=True, text="in"), 3, 24)
    assert found["total"] > 500 and len(found["rows"]) == 24 and process_time() - start < 2


@pytest.mark.slow
def test_in_a_browser(client):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-quic"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        trouble, elsewhere = [], []
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request", lambda request: request.url.startswith((client.server.address, "data:")) or elsewhere.append(request.url)
        )
        page.goto(client.server.address)
        where, expect = page.locator("#where"), playwright.expect
        expect(where).to_have_text("1 to 24 of 30 samples")
        page.click("#after")
        expect(where).to_have_text(re.compile("^25 to 30 "))
        page.fill("input[name=text]", "onerror")
        expect(where).to_have_text(re.compile("^1 to 1 of 1 "))
        assert HOSTILE.strip() in page.text_content("#list .ask")
        page.keyboard.press("Tab")
        page.click("#list .ask")
        page.wait_for_selector("dialog[open] .card")
        assert page.locator("dialog .card").count() == 8 and page.locator("dialog svg").count() >= 6
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0
        page.fill("input[name=text]", "about 1 in 1")
        expect(page.locator("#list .ask")).to_have_text("what about 1 in 1?")
        page.click("#list .ask")
        page.select_option("#budget", "24")
        assert page.locator("dialog .group").count() == 24 and page.locator("dialog .heat").count() == 0
        page.select_option("#look", "scores")
        assert page.locator("dialog .heat").count() == 1
        page.keyboard.press("Escape")
        page.fill("input[name=text]", "")
        page.check("input[name=wrong]")
        expect(page).to_have_url(re.compile("wrong=1"))
        page.go_back()
        expect(where).to_have_text(re.compile("^1 to 1 of 1 "))
        assert page.text_content("#list .ask") == "what about 1 in 1?"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.title().startswith("Samples of") and trouble == [] and elsewhere == []
        browser.close()


def test_the_page_of_a_run_of_an_older_version_is_made_by_the_rules_of_this_one(stored, client):
    for name in ("manifest.json", "summary.json"):
        content = json.loads((stored.folder / name).read_text())
        stored.write_json(name, content | {"schema_version": 4})
    before = {path.name: path.read_bytes() for path in stored.folder.iterdir()}
    status, headers, body = client.ask("report.html")
    assert status == 200 and b"the report" not in body and len(body) > 10_000
    assert "'unsafe-inline'" in headers["Content-Security-Policy"] and client.ask("report.html")[2] == body
    assert {path.name: path.read_bytes() for path in stored.folder.iterdir()} == before
    for later in range(1, 12):
        os.utime(stored.folder / "summary.json", (later, later))
        assert client.ask("report.html")[2] == body
    assert len(serve._pages) <= remembered.MOST
    (stored.folder / "summary.json").write_text("{")
    assert client.ask("report.html")[0] == 400
