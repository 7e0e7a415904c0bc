"""Notices: said once on stderr, kept in the manifest, shown on the page."""

from __future__ import annotations

from harness import notices
from harness.run.comparison import compare
from harness.run.prepare import prepare


def test_a_notice_is_on_stderr_in_the_manifest_and_on_the_page(tmp_path, monkeypatch, capsys):
    """Whatever room gives it: here the task while it is read, and a plan's own note."""
    from harness.tasks import registry

    made = registry.create

    def noisy(name):
        for _ in range(2):
            notices.notice("3 rows have no <image> & are left out")
        return made(name)

    monkeypatch.setattr(registry, "create", noisy)
    run = compare(samples=2, methods="none", keep="64", out=tmp_path / "run", latency=False, analyse=0, seeds=1)
    said = capsys.readouterr().err.splitlines()
    assert said.count("note: 3 rows have no <image> & are left out") == 1
    assert run.store.manifest()["notes"] == ["3 rows have no <image> & are left out"]
    assert "3 rows have no &lt;image&gt; &amp; are left out" in run.report.read_text(encoding="utf-8")


def test_collections_are_apart_and_end(capsys):
    with notices.collecting() as outer:
        notices.notice("one")
        with notices.collecting(silent=True) as inner:
            notices.notice("two")
        assert notices.collected() == outer == ["one"] and inner == ["two"]
    notices.notice("three\x1b[1m")
    assert notices.collected() == []
    assert capsys.readouterr().err.splitlines() == ["note: one", "note: three\ufffd[1m"]


def test_what_a_plan_notes_is_said_too(tmp_path, monkeypatch, capsys):
    """Those that existed before there was a channel, too."""
    from dataclasses import replace

    import harness.run.comparison as comparison

    monkeypatch.setattr(comparison, "prepare", lambda *a, **k: replace(prepare(*a, **k), notes=["images differ"]))
    run = compare(samples=1, methods="none", keep="64", out=tmp_path / "run", latency=False, analyse=0, seeds=1)
    assert "note: images differ" in capsys.readouterr().err.splitlines()
    assert run.store.manifest()["notes"] == ["images differ"]
