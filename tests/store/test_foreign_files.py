"""Files from elsewhere: no command writes through a link in them, waits at a pipe, or shows what steers a terminal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from harness.cli.app import main
from harness.errors import RequestError
from harness.files import named, whole
from harness.run.cases import select
from harness.store.lock import locked


@contextmanager
def at_most(seconds: int):
    """A wait that takes longer fails."""

    def late(number, frame):
        raise AssertionError("still waiting")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(capsys, *words) -> str:
    """What a command line says that ends with exit code 2."""
    with at_most(60), pytest.raises(SystemExit) as end:
        main(list(map(str, words)))
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: ") and len(said.splitlines()) <= 3, said
    return said


def test_a_file_is_written_whole_and_through_no_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "new.partial").symlink_to(victim)
    with whole(tmp_path / "new") as file:
        file.write(b"text")
    assert victim.read_text() == "precious" and (tmp_path / "new").read_text() == "text"
    with pytest.raises(ZeroDivisionError), whole(tmp_path / "new") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert (tmp_path / "new").read_text() == "text"
    (tmp_path / "link").symlink_to(victim)
    with whole(tmp_path / "link") as file:
        file.write(b"text")
    assert victim.read_text() == "precious" and not (tmp_path / "link").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    with at_most(5), pytest.raises(OSError, match="no regular file"), whole(tmp_path / "pipe"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"victim", "new", "link", "pipe"}


@pytest.mark.parametrize("link", ["report.html.partial", "manifest.json.partial", "summary.json.partial"])
def test_a_run_from_elsewhere_leads_nowhere(link, make_run, tmp_path):
    folder, victim = make_run().folder, tmp_path / "victim"
    victim.write_text("precious")
    (folder / link).symlink_to(victim)
    with pytest.raises(SystemExit) as end:
        main(["report", str(folder)])
    assert end.value.code == 0 and (folder / "report.html").stat().st_size > 10_000
    assert victim.read_text() == "precious"


def test_a_lock_is_no_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.lock").symlink_to(victim)
    with pytest.raises(RequestError, match="cannot write there"), locked(tmp_path / "run", "--out"):
        pass
    (tmp_path / "run" / "run.lock").unlink()
    os.mkfifo(tmp_path / "run" / "run.lock")
    with at_most(5), pytest.raises(RequestError, match="no regular file"), locked(tmp_path / "run", "--out"):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["manifest.json", "summary.json", "results.sqlite"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_no_file_of_a_run_is_a_pipe_or_a_device(name, kind, make_run, capsys):
    folder = make_run().folder
    (folder / name).unlink()
    os.mkfifo(folder / name) if kind == "pipe" else (folder / name).symlink_to("/dev/zero")
    for words in (["report", folder], ["regress", folder, folder], ["samples", folder]):
        if name != "summary.json" or words[0] != "samples":
            assert "no regular file" in refused(capsys, *words)


def test_nor_is_any_other_input(tmp_path, make_run, capsys):
    pipe, device, folder = tmp_path / "in.npz", Path("/dev/zero"), make_run().folder
    os.mkfifo(pipe)
    for source in (pipe, device):
        assert "no regular file" in refused(capsys, "compare", "--config", source)
        assert "no regular file" in refused(capsys, "regress", folder, folder, "--thresholds", source)
        assert "no regular file" in refused(capsys, "select", "fastv", source, "--keep", "4", "--out", tmp_path / "kept")
    (tmp_path / "large.toml").write_text("# " + "x" * 2**21)
    assert "larger than 1 MiB" in refused(capsys, "compare", "--config", tmp_path / "large.toml")


def test_results_never_take_the_place_of_what_they_are_made_from(tmp_path, make_run, capsys):
    case = tmp_path / "cases" / "a.npz"
    case.parent.mkdir()
    np.savez(case, features=np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
    before = case.read_bytes()
    (tmp_path / "same").symlink_to(case.parent)
    for out in (case.parent, case, tmp_path / "same"):
        with pytest.raises(RequestError, match="would overwrite the case"):
            select("divprune", [case], 4, out)
    assert case.read_bytes() == before
    assert select("divprune", [case], 4, tmp_path / "kept")
    folder = make_run().folder
    kept = {name: (folder / name).read_bytes() for name in ("summary.json", "results.sqlite")}
    assert "of the run itself" in refused(capsys, "regress", folder, folder, "--junit", folder / "summary.json")
    for name in ("results.sqlite", "report.html"):
        assert "of the run itself" in refused(capsys, "report", folder, make_run().folder, "--out", folder / name)
    assert kept == {name: (folder / name).read_bytes() for name in kept}


@pytest.mark.parametrize("part", ["code", "weights"])
def test_a_manifest_may_lack_fingerprints(part, make_run, capsys):
    one, other = make_run().folder, make_run().folder
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["fingerprints"].pop(part, None)
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SystemExit) as end:
        main(["regress", str(one), str(other)])
    assert end.value.code in (0, 1) and "internal error" not in capsys.readouterr().err


@pytest.mark.parametrize("hub", [[], {"data": 3}, {"data": {"revision": "x"}}, {"data": {"repository": "a", "files": {"f": 1}}}])
def test_repositories_that_cannot_be_are_refused(hub, make_run, capsys):
    folder = make_run().folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"hub": hub}))
    assert "'hub' is" in refused(capsys, "report", folder)


def test_no_text_of_a_run_steers_the_terminal(tmp_path, make_run, capsys):
    one, other = make_run().folder, make_run().folder
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["device"] = "\x1b[31m\x07\u202edevice"
    (other / "manifest.json").write_text(json.dumps(manifest))
    strange = shutil.move(other, other.with_name("run\x1b]0;title"))
    with pytest.raises(SystemExit):
        main(["regress", str(one), str(strange), "--markdown", str(tmp_path / "found.md")])
    shown = capsys.readouterr().out + (tmp_path / "found.md").read_text()
    assert "\ufffd" in shown and not set(shown) & set("\x1b\x07\u202e")


@pytest.mark.parametrize(
    "words, told",
    [
        (["compare", "--device", "meta"], "nothing was tested on a device of this kind; use auto, cpu or cuda"),
        (["compare", "--methods", "fastv[layer=1,layer=2]"], "gives layer twice"),
        (["compare", "--task", "shapes[a=1,a=2]"], "gives a twice"),
        (["flops", "--shape", "llava-1.5-7b", "--text-tokens", "1e308", "--json"], "counts tokens"),
        (["flops", "--shape", "llava-1.5-7b", "--keep", "64"], "name it with --method"),
        (["samples", "RUN", "--limit", "9223372036854775808"], "at most 1,000,000,000"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused(words, told, make_run, capsys):
    words = [make_run().folder if word == "RUN" else word for word in words]
    assert told in refused(capsys, *words)


def test_a_run_is_known_by_every_way_that_leads_to_it(tmp_path, make_run, capsys):
    folder, other = make_run().folder, make_run().folder
    (tmp_path / "link").symlink_to(folder)
    kept = {name: (folder / name).read_bytes() for name in ("manifest.json", "results.sqlite", "summary.json")}
    ways = [folder, tmp_path / "link", tmp_path / "missing" / ".." / "link", folder / ".." / folder.name, folder / "new" / ".."]
    for way in ways:
        for name in ("results.sqlite", "results.sqlite-journal", "manifest.json", "summary.json.partial"):
            assert "of the run itself" in refused(capsys, "report", folder, other, "--out", way / name)
    before = tmp_path / "told.md"
    refused(capsys, "regress", folder, other, "--markdown", before, "--html", ways[2] / "report.html")
    assert not before.exists(), "nothing is written where something is refused"
    assert "File name too long" in refused(capsys, "report", folder, other, "--out", tmp_path / ("a" * 300) / "page.html")
    assert kept == {name: (folder / name).read_bytes() for name in kept}
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text("{}")  # of a web page
    assert named("--html", site / "report.html") == site / "report.html"


def test_a_pipe_without_a_reader_is_not_waited_at(tmp_path, make_run, capsys):
    os.mkfifo(tmp_path / "pipe")
    folder, other = make_run().folder, make_run().folder
    assert "cannot write there" in refused(capsys, "report", folder, other, "--out", tmp_path / "pipe")


def test_standard_output_is_written_to_wherever_it_goes(tmp_path):
    """A link such as /dev/stdout leads to a file where the output goes to one: the link stays."""
    link, out = tmp_path / "stdout", tmp_path / "out"
    link.symlink_to("/proc/self/fd/1")
    code = (
        "from pathlib import Path\n"
        "from harness.files import write_named\n"
        f"write_named('--markdown', Path({str(link)!r}), 'told\\n')\n"
        "print('then')"
    )
    with out.open("w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True, cwd=Path(__file__).parents[2])
    assert link.is_symlink() and out.read_text() == "told\nthen\n"
