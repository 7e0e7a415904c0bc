"""The page as a whole: complete, self-contained, inert to hostile text, and calm about what was not measured."""

from __future__ import annotations

import base64
import copy
import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from reports.cells import strata
from reports.figures import tokens
from reports.gallery import most_telling, payload
from reports.page import render
from reports.style import looks
from reports.view import GalleryAnswer, GalleryImage, GalleryQuestion, RunView

VOID = {"meta", "br", "img", "input", "link", "hr", "col"}
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "{{ 7*7 }}",
    "$\\frac{1}$",
    "_x'\"&",
    "a\x00b\u2028c",
    "\ud800",
)


class Reader(HTMLParser):
    """Collects elements and the text of scripts; fails where tags do not close in order."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.scripts: list[tuple[dict, str]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"stray </{tag}> at {self.getpos()}"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)


@pytest.fixture(scope="module")
def read(page: str) -> Reader:
    return Reader(page)


def test_page_holds_every_part(page: str, read: Reader):
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids)), "ids of figures must not collide"
    kinds = {"tokens", "ttft", "families", "collapse", "evidence", "stages"}
    assert {f"figure-s0-{k}" for k in kinds} <= set(ids)
    assert {"cells", "gallery", "measurement", "table"} <= set(ids)
    figures = [a for tag, a in read.elements if tag == "figure"]
    assert len(figures) >= 10 and sum(tag == "figcaption" for tag, _ in read.elements) == len(figures)
    assert "the tower has no CLS token" in page
    assert "2 samples failed" in page and "timings taken while another process ran" in page
    local = {v[1:] for _, a in read.elements for k, v in a.items() if k in ("href", "xlink:href") and v.startswith("#")}
    assert local <= set(ids), "every link inside the page has its target"
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_page_loads_nothing(page: str, read: Reader):
    for tag, attrs in read.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"} or attrs.get("id") == "filters"
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert attrs.get(name, "#").startswith(("#", "data:image/")), (tag, attrs)
        assert not any(name.startswith("on") for name in attrs), "handlers are set by the script, never in markup"
    style = "".join(re.findall(r"<style[^>]*>(.*?)</style>", page, re.S))
    assert "url(" not in style and "@import" not in style
    code = "".join(text for attrs, text in read.scripts if "type" not in attrs)
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(|sendBeacon|innerHTML|eval\(", code)
    assert set(re.findall(r"https?://[^\"'\s<)]+", page)) <= {"http://www.w3.org/2000/svg"}


def test_policy_allows_this_script_only(read: Reader):
    policy = next(a["content"] for _, a in read.elements if a.get("http-equiv") == "Content-Security-Policy")
    (code,) = [text for attrs, text in read.scripts if "type" not in attrs]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy
    assert "http" not in policy and "connect-src" not in policy


def test_figure_text_is_text(page: str):
    figure = page[page.index('id="figure-s0-tokens"') : page.index('id="figure-s0-ttft"')]
    texts = re.findall(r">([^<]+)</text>", figure)
    assert any("fastv" in text for text in texts) and any("accuracy, %" in text for text in texts)
    assert "<metadata" not in page and "xmlns" not in page


def test_gallery_data_survives_the_journey(run: RunView, read: Reader):
    (data,) = [json.loads(text) for attrs, text in read.scripts if attrs.get("type") == "application/json"]
    assert [i["id"] for i in data] == [i.image_id for i in run.gallery]
    asked, shown = run.gallery[2].questions[1], data[2]["questions"][1]
    for answer, found in zip(asked.answers, shown["answers"], strict=True):
        unpacked = np.unpackbits(np.frombuffer(base64.b64decode(found["kept"]), np.uint8))
        assert (unpacked[: answer.kept.size].reshape(found["grid"]).astype(bool) == answer.kept).all()
        assert (found["method"], found["keep"], found["prediction"]) == (answer.method, answer.keep, answer.prediction)
        assert ("source" in found, "ranks" in found) == (answer.source is not None, answer.scores is not None)
        if answer.source is not None:
            assert (np.frombuffer(base64.b64decode(found["source"]), "<i2") == answer.source).all()
    assert base64.b64decode(data[2]["png"]) == run.gallery[2].png


def test_a_gallery_too_heavy_for_a_page_is_cut(run: RunView):
    whole = payload(run.gallery)
    assert whole.images == len(run.gallery) and len(json.loads(whole.json)) == whole.images
    cut = payload(run.gallery, heaviest=len(whole.json) // 2)
    assert 0 < cut.images < whole.images and len(cut.json) <= len(whole.json) // 2
    assert [i["id"] for i in json.loads(cut.json)] == [i.image_id for i in run.gallery[: cut.images]]
    assert payload(run.gallery, heaviest=1).images == 1


def test_images_that_part_the_methods_come_first():
    answers = [("same", "q", 64, 1.0), ("same", "q", 64, 1.0), ("split", "q", 64, 1.0), ("split", "q", 64, 0.0)]
    answers += [("third", "q", 64, s) for s in (1.0, 1.0, 0.0)] + [
        ("none", "q", 64, None),
        ("one", "q", 64, 1.0),
        ("one", "q", 32, 0.0),
    ]
    assert most_telling(answers, 9) == ["split", "third", "same", "none", "one"], "budgets are not held against each other"
    assert most_telling(answers, 2, frozenset({"same"})) == ["same", "split"]


def test_scores_and_groups_that_do_not_fit_their_grid_are_refused(run: RunView):
    for name in ("scores", "source"):
        answer = dataclasses.replace(run.gallery[0].questions[0].answers[0], **{name: np.zeros(5)})
        question = dataclasses.replace(run.gallery[0].questions[0], answers=[answer])
        with pytest.raises(ValueError, match=f"{name} of none at 576 has 5 values for 576 tokens"):
            payload([GalleryImage("i", b"", [question])])


def test_hostile_text_is_inert(run: RunView):
    cells = [dict(c) for c in run.cells if c["keep"] in (None, 64)]
    for cell, text in zip(cells[2:], HOSTILE, strict=False):
        cell |= {"method": text, "families": {text: {"value": 0.5, "lo": 0.4, "hi": 0.6}}}
    cells[0]["families"] = {text: {"value": 0.7, "lo": 0.6, "hi": 0.8} for text in HOSTILE}
    cells += [{"method": text, "keep": 64, "skipped": text} for text in HOSTILE]
    grid = np.ones((2, 2), bool)
    gallery = [
        GalleryImage(text, b"png", [GalleryQuestion(text, text, text, text, grid, [answer])])
        for text in HOSTILE
        for answer in [GalleryAnswer(text, 64, text, 0.5, grid, (2, 2), text)]
    ]
    every = " ".join(HOSTILE)
    data = {"repository": every, "revision": every, "files": {every: every}}
    manifest = {**run.manifest, "model": every, "command": every, "notes": HOSTILE, "versions": {every: every},
                "hub": {"data": data, every: data}}  # fmt: skip
    page = render(RunView(manifest, cells, gallery))
    page.encode("utf-8")
    read = Reader(page)
    assert len(read.scripts) == 2
    assert not any(name.startswith("on") for _, attrs in read.elements for name in attrs)
    (data,) = [json.loads(t) for attrs, t in read.scripts if "type" in attrs]
    assert [i["questions"][0]["answers"][0]["note"] for i in data] == list(HOSTILE)
    assert "alert" not in next(t for attrs, t in read.scripts if "type" not in attrs)
    assert not any(tag == "img" for tag, _ in read.elements), "images are made by the script alone"
    assert any(a.get("data-value") == HOSTILE[1] for _, a in read.elements), "the name is there, as text"


def test_where_data_and_model_are_from_is_told(run: RunView):
    commit, digest = "c0ffee" * 7, "5a" * 32
    data = {"repository": "lmms-lab/POPE", "revision": commit, "files": {"data/test-00000-of-00001.parquet": digest}}
    model = {"repository": "some-org/tiny", "revision": commit}
    page = render(RunView({**run.manifest, "hub": {"model": model, "data": data}}, run.cells))
    assert f"<dt>Data</dt><dd>lmms-lab/POPE, commit {commit[:12]}</dd>" in page
    for role, name in (("Data", "lmms-lab/POPE"), ("Model", "some-org/tiny")):
        assert f'<dt>{role} on the hub</dt><dd class="name">{name}, commit {commit[:40]}</dd>' in page
    assert f'<dt>data/test-00000-of-00001.parquet</dt><dd class="name">{digest}</dd>' in page
    assert "on the hub" not in render(run)


@pytest.mark.parametrize("manifest, told", [
    ({"device": "cuda:0 A100", "dtype": "float32", "tf32": False}, "TF32 was off."),
    ({"device": "A100", "dtype": "float32"}, "Convolutions may have been rounded to TF32"),
    ({"device": "cuda:0 A100", "dtype": "bfloat16", "tf32": False}, None),
    ({"device": "cpu, 2 threads", "dtype": "float32"}, None),
])  # fmt: skip
def test_whether_a_gpu_rounded_float32_is_told(run: RunView, manifest, told):
    page = render(dataclasses.replace(run, manifest={**{k: v for k, v in run.manifest.items() if k != "tf32"}, **manifest}))
    assert ('id="rounding"' in page) == (told is not None) and (told is None or told in page)


@pytest.mark.parametrize("kernels, told", [
    ({"loops": [{"loop": "max_min", "ran": "torch", "tokens": [900, 2880], "reason": "2,880 are more"}], "triton": "3.9.0"},
     "max_min among 900 to 2,880 tokens in torch (2,880 are more)."),
    ({"loops": [], "triton": "3.9.0", "chosen": "triton"}, "No method of this run selected greedily."),
])  # fmt: skip
def test_what_ran_greedy_selections_is_told_and_not_what_was_chosen(run: RunView, kernels, told):
    page = render(dataclasses.replace(run, manifest={**run.manifest, "kernels": kernels}))
    assert told in page and "Triton 3.9.0" not in page


def test_cells_of_nulls(run: RunView):
    nulls = [dict.fromkeys(c) | {k: c[k] for k in ("model", "task", "method", "keep")} for c in run.cells]
    read = Reader(render(RunView({}, nulls)))
    assert not any(tag == "figure" for tag, _ in read.elements)
    nan = float("nan")
    hurt = {**run.cells[3], "accuracy": {"value": nan, "lo": None, "hi": nan}, "families": {"digit": None}, "flops": {}}
    assert "nan" not in render(RunView({}, [run.cells[0], hurt])).split("<figure")[0].lower()


def test_a_method_without_a_budget_alone(run: RunView):
    """Counts decided from the image: one cell, no budget."""
    adaptive = {**run.cells[2], "method": "prumerge[adaptive=true]", "keep": None}
    for cells in ([run.cells[0], adaptive], [run.cells[0], adaptive, run.cells[3]]):
        assert "prumerge[adaptive=true]" in render(RunView({}, cells))


@pytest.mark.parametrize("which", [slice(0, 1), slice(1, 2), slice(3, 4), slice(-1, None), slice(0, 0)])
def test_few_cells(run: RunView, which: slice):
    read = Reader(render(RunView(run.manifest, run.cells[which])))
    assert not any(a.get("id") == "gallery-data" for _, a in read.elements)


def test_few_images_are_said_to_be_few_and_are_counted(run: RunView):
    few = [{**c, "n": 6, "n_images": 3} for c in run.cells]
    page = render(RunView({**run.manifest, "samples": 24}, few))
    assert "3 images are too few for any difference of accuracy to be significant" in page
    assert "<dt>Images</dt><dd>3</dd>" in re.sub(r"\s+", "", page)
    assert "too few" not in render(RunView(run.manifest, run.cells))


def test_a_run_of_an_older_version_says_by_whose_rules_it_is_summarised(run: RunView):
    said, gone = "This run was begun by schema version 4 and is summarised by the rules of this one", "not stored fit for a test"
    page = render(dataclasses.replace(run, made_by=4))
    assert f"{said}." in page and f"– was not measured, or {gone}." in page and "were not stored" not in page
    for made in (None, 5):
        page = render(dataclasses.replace(run, made_by=made, cells=run.cells[:3]))
        assert "summarised by the rules" not in page and gone not in page


def test_of_an_older_run_no_figure_is_drawn_against_chance_whose_ranks_were_not_stored(run: RunView):
    cells = copy.deepcopy(run.cells)
    for cell in cells:
        if cell["collapse"]:
            cell["collapse"]["z"]["cells"] |= dict.fromkeys(("percentile", "share_below_chance", "p", "p_adjusted"))
    page = render(dataclasses.replace(run, cells=cells, made_by=4))
    assert "; its ranks of coverage, clusters and rank99 were not stored fit for a test, so no p stands there." in page
    figure = page[page.index('id="figure-s0-collapse"') :].partition("</figure>")[0]
    assert "Of cells hit this run stored no ranks fit for a test: not drawn." in figure
    (group,) = strata(cells)
    drawn = tokens.collapse(group, looks(group.methods))
    assert [axes.get_title() for axes in drawn.drawing.axes if axes.get_title()] == ["effective rank", "mean cosine"]
    (group,) = strata(run.cells)
    drawn = tokens.collapse(group, looks(group.methods))
    assert len([axes for axes in drawn.drawing.axes if axes.get_title()]) == 3 and "not drawn" not in drawn.caption


@pytest.mark.parametrize(("rounds", "within"), [(2, "the same 2 rounds"), (1, "one round")])
def test_of_few_rounds_the_check_of_the_machine_claims_nothing(run: RunView, rounds, within):
    aa = {"value": 0.969, "lo": None, "hi": None, "rounds": rounds, "cv": 0.1}
    page = render(dataclasses.replace(run, cells=run.cells[:3], gallery=[], checks={"aa": aa}))
    assert (
        f"A/A check: none against itself in {within} is 0.969 times as fast; so few rounds have no interval, so no speed-up can "
        "be judged."
    ) in page
    assert "which this interval leaves out" not in page
    page = render(dataclasses.replace(run, cells=run.cells[:3], gallery=[], checks={"aa": {**aa, "lo": 0.95, "hi": 0.99}}))
    assert "0.969 times as fast [0.950 to 0.990]. It should be 1, which this interval leaves out" in page


def test_one_image_has_no_interval_and_says_so_once(run: RunView):
    cell = {**run.cells[2], "accuracy": {"value": 0.5, "lo": None, "hi": None}}
    seen = " ".join(render(dataclasses.replace(run, cells=[run.cells[0], cell], gallery=[])).split())
    assert "accuracy, no interval; the only method" in seen and "interval no interval" not in seen


def test_how_many_images_the_margin_would_take_is_told_where_there_are_fewer(run: RunView):
    def told(images: int, needed: dict | None, rho: float | None = 0.1, kind: str = "mean") -> str:
        some = [{**c, "n_images": images} for c in run.cells[:4]]
        checks = {"needed_images": needed, "correlation": {"rho": rho}}
        told_of = {**run.manifest, "scoring": {"figure": {"kind": kind, "name": "F1"}}}
        if kind == "f1":
            some = [{**c, "score": {"value": 50.0, "name": "F1", "scale": 100.0}} for c in some]
        page = render(dataclasses.replace(run, manifest=told_of, cells=some, gallery=[], checks=checks))
        return next(iter(re.findall(r"This run has [^<]*", page)), "")

    needed = {"one": 310, "best": 480, "methods": 4}
    assert told(200, needed) == (
        "This run has 200 images. To show a method that loses nothing non-inferior at 2 points takes some 480 images like these "
        "as the best of 4 methods, 310 where it was named beforehand."
    )
    assert told(200, needed, None).endswith("some 480 images as the best of 4 methods, 310 where it was named beforehand.")
    assert told(200, needed, kind="f1").endswith("where it was named beforehand (counted for answers; F1 takes more).")
    assert told(1, needed).startswith("This run has one image. To show")
    assert told(479, needed) and not told(480, needed)
    assert told(200, {"one": 310, "best": 310, "methods": 1}).endswith("some 310 images like these as the only method.")
    assert not told(200, {"one": None, "best": None}) and not told(200, None)


def test_the_table_against_chance_tells_corrected_and_raw_p(page: str):
    above, _, table = page[page.index('id="s0-chance-said"') :].partition("</table>")[0].partition('<div class="scroll"')
    assert "K-centre radius" in table and "corrected by Holm over the competing cells" in above
    caption = re.search(r'<table[^>]* aria-describedby="s0-chance-said">\s*<caption class="unseen">([^<]*)</caption>', table)
    assert caption.group(1) == "Each cell against chance, in %: shapes on tiny", "a long one would be as wide as the table"
    corrected, raw = "p\u00a0=\u00a00.007, corrected", "raw p\u00a0=\u00a00.50, one of 108"
    assert corrected in table and raw in table
    assert "Distance to what was dropped, against chance" in page


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"outcome": "equal", "said": "it gives <what> generate gives"}, "It gives &lt;what&gt; generate gives.</p>"),
        ({"outcome": "off", "said": "the engine was not checked, as asked"}, "The engine was not checked, as asked.</p>"),
        (None, None), ({}, None), ({"said": None}, None), ("text", None), ([1], None),
    ],
)  # fmt: skip
def test_what_the_self_check_came_to_is_said(run: RunView, stored, said):
    page = render(RunView({**run.manifest, "self_check": stored}, run.cells[:2]))
    assert ("Self-check." in page) == (said is not None)
    assert said is None or f"<b>Self-check.</b> {said}" in page.split('id="measurement"')[1]


def test_two_tasks_and_two_budget_modes_stay_apart(run: RunView):
    small = [c for c in run.cells if c["keep"] in (None, 64, 128) and c["method"] in ("none", "blind", "fastv", "random")]
    other = [{**c, "task": "pope"} for c in small] + [{**c, "budget": "final"} for c in small if c["keep"]]
    page = render(RunView(run.manifest, small + other))
    read = Reader(page)
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {"s0-head", "s1-head", "s2-head"} <= set(ids) and "s3-head" not in ids
    assert ">Model</button>" in page and ">pope</td>" in page


def test_mask_that_does_not_fit_its_grid_is_refused(run: RunView):
    answer = dataclasses.replace(run.gallery[0].questions[0].answers[0], grid=(12, 12))
    question = dataclasses.replace(run.gallery[0].questions[0], answers=[answer])
    with pytest.raises(ValueError, match=r"none at 576.*\(24, 24\).*\(12, 12\)"):
        render(RunView({}, [], [GalleryImage("i", b"", [question])]))


def test_no_torch_and_lazy_imports():
    code = (
        "import sys, reports.page, reports.markdown; print([m for m in ('torch', 'seaborn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
