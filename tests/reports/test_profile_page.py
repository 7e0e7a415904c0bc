"""The page of a profile: what it says and draws, without a script and without a request."""

from __future__ import annotations

import copy
import re
import shutil
from math import exp

import pytest

from harness.run.profiling.break_even import BreakEvenSearch
from metrics.paired_ratio import ratio_interval
from reports.profile_page import figures, render

HOSTILE = "<script>window.hit=1</script>\"' & \u202e x"


def even(method: str, batch: int, text: int, crossing: float) -> dict:
    """The break-even of a made-up method whose speed-up falls in a straight line."""
    search = BreakEvenSearch(9, 575, 16, lambda keep: True, ratio_interval, 6)
    while (keep := search.next()) is not None:
        search.add(keep, exp(0.002 * (crossing - keep)))
    return {"method": method, "batch_size": batch, "text_tokens": text, **search.result().as_dict()}


def row(method: str, batch: int, text: int, **more) -> dict:
    times = {"p50": 12.5, "p95": 30.0, "times": 6}
    ratio = {"value": 1.5, "lo": 1.25, "hi": 1.75, "rounds": 6}
    return {
        "method": method, "keep": None, "keep_label": "192" if method not in ("none", "blind") else None, "budget": "average",
        "reference": method in ("none", "blind"), "batch_size": batch, "text_tokens": text, "skipped": None, "left_out": None,
        "tokens": {"final": 192, "average": 192.5}, "flops": {"total": 1.453e12},
        "rounds": 6, "stage_rounds": 3, "ttft": times, "answer": times,
        "token": times,
        "throughput": {"answers_per_second": 3.25, "tokens_per_second": 52.0, "decoded_per_second": 60.0},
        "ratio": {"ttft": ratio, "answer": {"value": 1.1, "lo": None, "hi": None, "rounds": 2}}, "stages": {"prefill": 9.0},
        "memory": {"kind": "resident", "peak_bytes": 4_000_000_000, "working_bytes": 1, "kv_measured": 21_000_000,
                   "kv_predicted": 1},
        "failed": None, "operation_us": 8.5,
        "bounds": [{"stage": "prefill", "measured_ms": 9.0, "flops": 1.0, "bytes": 1.0, "operations": 1_234, "arithmetic_ms": 6.5,
                    "bandwidth_ms": 1.0, "launches_ms": 0.5, "bound": "arithmetic", "explained": 0.72},
                   {"stage": "layout", "measured_ms": 1.0, "flops": 0.0, "bytes": 0.0, "operations": 3, "arithmetic_ms": 0.0,
                    "bandwidth_ms": 0.0, "launches_ms": 0.1, "bound": None, "explained": 0.1}],
        **more,
    }  # fmt: skip


@pytest.fixture
def found() -> dict:
    batches, texts = [1, 4], [64, 256]
    cells = [row(method, batch, text) for batch in batches for text in texts for method in ("none", "blind", "sts", "fastv")]
    cells[2] = row("sts", 1, 64, skipped="layer=1 is past the last of 1 layers")
    cells[3] = {**row("fastv", 1, 64), "left_out": "no time was left within the time limit"}
    evens = [even("sts", batch, text, 300 + batch) for batch in batches for text in texts]
    evens += [even("fastv", 1, 64, 5000), even("fastv", 4, 64, -5000)]
    evens += [
        {
            **even("tome", 1, 64, 300),
            "outcome": "unknown",
            "tokens": None,
            "trials": [],
            "why": "nothing was timed",
            "cut": "cut short by the limit",
        }
    ]
    return {
        "schema": 1, "model": "llava-1.5-7b", "weights": "random", "device": "cpu, 1 threads", "devices": ["cpu"],
        "dtype": "float32", "layers": 4, "image": 576, "batch_size": batches, "text_tokens": texts, "answer_tokens": 16,
        "methods": ["sts", "fastv"], "budget": "average", "seed": 0, "time_limit": 300.0, "used": 271.5,
        "rates": {"flops": 1.3e11, "bytes": 9e9, "launch": 4e-6, "dtype": "float32", "size": 1024, "device": "cpu"},
        "calibrations": [{"flops": 1.3e11, "bytes": 8e9, "launch": 5e-6}, {"flops": 1.1e11, "bytes": 9e9, "launch": 4e-6}],
        "cells": cells, "break_even": evens, "left_out": ["batch 16 with 64 tokens of text: the time limit was reached"],
        "largest_batch": [{"method": "none", "keep": None, "keep_label": None, "text_tokens": 64, "batch": 1_054,
                           "how": "predicted", "said": "a straight line"},
                          {"method": "sts", "keep": 192, "keep_label": "192", "text_tokens": 64, "batch": None,
                           "how": "unknown", "said": "memory was not measured here"}],
        "sharing": {}, "kernels": {"asked": "auto", "chosen": "torch", "triton": None, "why": None, "loops": []},
        "checks": [{"batch_size": 1, "text_tokens": 64, "aa": {"value": 1.003, "lo": 0.99, "hi": 1.02, "rounds": 6}}],
        "self_check": {"outcome": "equal", "said": "equal to generate of transformers"}, "finished": True,
    }  # fmt: skip


def words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<(style|svg).*?</\1>|<[^>]+>", " ", page, flags=re.S))


def test_the_page_says_what_the_profile_holds(found):
    text = words(render(found))
    for said in (
        "Left out: batch 16 with 64 tokens of text: the time limit was reached.", "Profile of llava-1.5-7b", "0.13 TFLOP/s",
        "skipped: layer=1 is past the last of 1 layers", "left out: no time was left within the time limit",
        "never", "always", "unknown", "cut short by the limit", "2 rounds, no interval", "1.25 to 1.75",
        "1,054", "predicted: a straight line", "memory was not measured here", "none of them", "72 % of the time", "1,234",
        "A/A check: none against itself 1.003, 0.99 to 1.02", "8.5 us at batch 1, 8.5 us at batch 4",
        "Peak memory: what was resident of this process on the CPU", "Equal to generate of transformers.",
        "blind, which has no image, takes 100 % of the time of none", "4 min 32 s of 5 min",
        "1.45", "the best of each of 0.13 TFLOP/s, 8 GB/s, 5 us before all else and 0.11 TFLOP/s, 9 GB/s, 4 us behind it",
        "operations counted, FLOPs and bytes computed", "Took 272 s of the time limit of 300 s, loading apart.",
    ):  # fmt: skip
        assert said in text, said
    assert "not finished" not in text and "not finished" in words(render({**found, "finished": False}))


def test_a_stage_that_was_faster_than_its_bound_is_told_and_not_cut_off(found):
    assert "Above 100 %" not in words(render(found))
    found["cells"][0]["bounds"][0] |= {"explained": 1.37}
    text = words(render(found))
    assert "137 % of the time" in text and "Above 100 % (1 stage, at most 137 %, prefill)" in text


def test_what_passed_its_limit_says_so(found):
    assert "what is begun runs to the end" not in words(render(found))
    text = words(render(found | {"used": 400.0, "calibrations": found["calibrations"][:1]}))
    assert "400 s of the time limit of 300 s, loading apart; what is begun runs to the end of its round" in text
    assert "before all else; not yet again behind it" in text


def texts_of(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)<", svg)


def test_figures_draw_every_method_and_batch(found):
    drawn = {figure.name: figure for figure in figures(found)}
    assert list(drawn) == ["speed-64", "speed-256", "break-even"]
    for figure in drawn.values():
        texts = texts_of(figure.svg)
        assert "sts" in texts and ("batch 1" in texts and "batch 4" in texts) == figure.name.startswith("speed")
    assert "tome" not in drawn["break-even"].svg and "fastv" in drawn["speed-64"].svg
    assert "fastv" not in texts_of(drawn["speed-256"].svg)


def test_without_break_even_there_is_no_figure_and_no_section(found):
    bare = {**found, "break_even": []}
    assert not figures(bare) and "Break-even" not in words(render(bare))


def test_of_one_batch_there_is_no_figure_by_batch(found):
    one = [entry for entry in found["break_even"] if entry["batch_size"] == 1]
    assert [figure.name for figure in figures({**found, "break_even": one})] == ["speed-64", "speed-256"]


def test_the_page_runs_nothing_and_asks_for_nothing(found):
    hostile = copy.deepcopy(found)
    hostile |= {"model": HOSTILE, "left_out": [HOSTILE], "device": HOSTILE}
    for entry in hostile["cells"] + hostile["break_even"] + hostile["largest_batch"]:
        entry["method"] = HOSTILE if entry["method"] == "sts" else entry["method"]
    hostile["cells"][2]["skipped"] = HOSTILE
    page = render(hostile)
    assert "<script" not in page and "window.hit" in page
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1].replace("&#39;", "'")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    assert not re.search(r"""(src|href)=["'](?!#)""", page)


GROUND = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (1280, "light"), (1280, "dark")])
def test_a_browser_shows_it_to_all_readers_without_a_message_or_a_request(found, tmp_path, width, scheme):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    path = tmp_path / "profile.html"
    path.write_text(render(found), encoding="utf-8")
    seen: list[str] = []
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("console", lambda message: seen.append(message.text))
        page.on("request", lambda request: seen.append(request.url))
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("figure svg").count() == 3 and page.locator("#break-even tbody tr").count() == 7
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == GROUND[scheme]
        assert seen == [path.as_uri()]
        faults = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        browser.close()
    assert [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in faults] == []
