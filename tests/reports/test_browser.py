"""The page in a browser: what a reader can do on it with mouse and keyboard, at 400 and 1280 pixels, without a network."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from reports.page import render
from reports.view import Area, GalleryAnswer, GalleryImage, GalleryQuestion, RunView
from tests.reports.test_leading import run_of

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium on this machine", allow_module_level=True)

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
HOSTILE = (
    "<script>window.hit=1</script>", '"><img src=x onerror="window.hit=1">', "</script><script>window.hit=1</script>",
    "<!--<script>", "<svg onload=window.hit=1>", "javascript:window.hit=1", "' onfocus='window.hit=1' autofocus='", "]]><b>",
    "=1+1", "a|b&c_d%e#f$g~h^i\\j{k}", "\u202eright to left", "a\x00b\u2028c", "\ud800", "x" * 3000,
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture
def visit(browser) -> Iterator:
    """Opens a page and, after the test, fails on any console message, error or request but for the file itself."""
    contexts, faults = [], []

    def open_page(path: Path, width: int = 1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, accept_downloads=True, **options)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        shown = context.new_page()
        shown.set_default_timeout(30_000)
        shown.on("console", lambda message: faults.append(f"console {message.type}: {message.text}"))
        shown.on("pageerror", lambda error: faults.append(f"error: {error}"))
        shown.on("request", lambda asked: faults.append(asked.url) if asked.url[:5] not in ("data:", "blob:") else None)
        shown.goto(path.as_uri())
        assert faults == [path.as_uri()]
        faults.clear()
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def shown(visit, file: Path):
    return visit(file)


def names(shown) -> list[str]:
    return shown.locator("#table tbody tr:visible th .name").all_inner_texts()


def column(shown, path: str) -> list[str]:
    cells = shown.locator(f'#table tbody tr:visible td[data-column="{path}"]')
    return cells.evaluate_all("cells => cells.map((cell) => cell.dataset.value)")


def copied(shown, format: str, table: str = "table") -> str:
    shown.locator(f'[data-copy="{table}"] [data-as={format}]').click()
    sync_api.expect(shown.locator("#said")).to_contain_text("Copied", timeout=30_000)
    return shown.evaluate("navigator.clipboard.readText()")


def test_heads_sort_and_say_so(shown):
    head = shown.locator("#table thead th", has_text="To random").first
    for wanted in ("descending", "ascending"):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == wanted
        found = column(shown, "difference_like")
        known = [float(v) for v in found if v]
        assert known == sorted(known, reverse=wanted == "descending") and len(known) == 9
        assert set(found[len(known) :]) == {""}, "what was not measured stays last"
    assert shown.locator("#table [aria-sort]").count() == 1


def test_filters_by_budget_text_role_and_columns(shown):
    shown.locator("#filter-budget").select_option("64")
    shown.locator("#filter-text").fill("FASTV")
    assert set(names(shown)) == {"fastv", "random[like=fastv]"}
    shown.locator("#filter-reference").uncheck()
    assert names(shown) == ["fastv"]
    assert shown.locator("#filter-count").inner_text() == "1 of 32 cells"
    assert shown.locator('[data-column="diversity.mean_cosine"]:visible').count() == 0
    shown.locator('[data-columns="Kept tokens"]').check()
    shown.locator('[data-columns="Cost"]').uncheck()
    assert shown.locator('[data-column="diversity.mean_cosine"]:visible').count() == 1
    assert shown.locator("#table thead th:visible", has_text="TTFT").count() == 0


def test_a_table_is_copied_as_shown(shown):
    shown.locator("#filter-budget").select_option("64")
    shown.locator("#filter-text").fill("like=")
    rows = list(csv.DictReader(io.StringIO(copied(shown, "csv"))))
    assert [row["method"] for row in rows] == names(shown) and len(rows) == 3
    assert [row["accuracy"] for row in rows] == column(shown, "accuracy")
    assert all(float(row["accuracy.lo"]) < float(row["accuracy"]) < float(row["accuracy.hi"]) for row in rows)
    lines = copied(shown, "markdown").splitlines()
    assert len(lines) == 5 and len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert lines[2].startswith("| random\\[like=")
    text = copied(shown, "latex")
    body = text[text.index("\\midrule") : text.index("\\bottomrule")]
    spec = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text).group(1)
    assert {line.count("&") for line in body.splitlines() if "&" in line} == {len(spec) - 1}
    assert "random{[}like=" in body and "$-$" in body and "Accuracy \\%" in text and "p = " in body.replace("p $<$ ", "p = ")
    assert text.count("\\midrule") == 1, "rules part budgets, and this is one"
    shown.locator("#filter-budget").select_option("")
    assert copied(shown, "latex").count("\\midrule") == 3


def test_every_table_can_be_copied(shown):
    tables = shown.locator("table").evaluate_all("tables => tables.map((table) => table.id)")
    assert len(tables) >= 5 and all(tables)
    for ident in tables:
        shown.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert copied(shown, "latex", ident).count("\\toprule") == 1


def test_numbers_are_copied_under_their_own_names(visit, tmp_path):
    """Where a total leads, what the page shows in points is copied as CSV as the share that it is, with the scale beside it."""
    view = run_of("mme", partial=True)
    path = tmp_path / "own.html"
    path.write_text(render(view), encoding="utf-8")
    shown = visit(path)
    stored = {cell["method"]: cell for cell in view.cells}
    rows = list(csv.DictReader(io.StringIO(copied(shown, "csv"))))
    assert len(rows) == len(view.cells)
    for row in rows:
        score = stored[row["method"]]["score"]
        assert [float(row[f"score{end}"]) for end in ("", ".lo", ".hi", ".scale")] == [
            score[k] for k in ("value", "lo", "hi", "scale")
        ]
        assert (row["score.name"], row["score.partial"]) == ("MME total", "partial")
    lost = list(csv.DictReader(io.StringIO(copied(shown, "csv", "s0-losses-64"))))
    assert list(lost[0]) == [
        "method",
        "difference_none",
        "evidence.recall",
        "evidence.swap_gain",
        "difference_like",
        "latency.ttft",
    ]
    assert {row["method"]: float(row["difference_none"]) for row in lost} == {
        name: stored[name]["difference_none"]["value"] for name in ("a", "b")
    }
    assert "−56.0" in copied(shown, "markdown", "s0-losses-64") and "points of 2,800" in copied(shown, "latex", "s0-losses-64")


def test_a_figure_is_saved_as_a_file_of_its_own(shown):
    with shown.expect_download() as waited:
        shown.locator('[data-save="s0-tokens"]').click()
    assert waited.value.suggested_filename == "s0-tokens.svg"
    root = ElementTree.fromstring(Path(waited.value.path()).read_text("utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "accuracy, %" in "".join(root.itertext())


def answers(run: RunView) -> dict[tuple[str, str, int], GalleryAnswer]:
    return {(q.sample_id, a.method, a.keep): a for image in run.gallery for q in image.questions for a in q.answers}


def test_the_slider_moves_through_the_budgets(shown, run: RunView):
    slider, cards = shown.locator("#gallery-keep"), shown.locator("#gallery-cards .card")
    assert cards.locator("h3").all_inner_texts() == ["sts", "fastv", "none"], "the best and the worst at the least budget"
    for budget in (64, 128, 192):
        assert shown.locator("#gallery-budget").inner_text() == f"{budget} tokens" == slider.get_attribute("aria-valuetext")
        assert f"{budget} of 576 tokens" in cards.nth(0).inner_text() and "576 of 576" in cards.nth(2).inner_text()
        slider.press("ArrowRight")
    shown.locator("#gallery-every").check()
    assert set(cards.locator("h3").all_inner_texts()) == {method for _, method, _ in answers(run)}


def test_wrong_here_and_right_there(shown, run: RunView):
    methods = shown.locator("[data-method]")
    methods.nth(0).select_option("tome")
    methods.nth(1).select_option("sparsevlm")
    shown.locator("#gallery-which").select_option(label="sparsevlm wrong, tome right")
    known = answers(run)
    wanted = [q for q in {q for q, _, _ in known} if known[q, "tome", 64].score == 1 and known[q, "sparsevlm", 64].score == 0]
    assert 0 < len(wanted) < 18
    assert shown.locator("#gallery-count").inner_text() == f"{len(wanted)} of 18 questions"
    for step in range(len(wanted)):
        assert shown.locator("#gallery-at").inner_text() == f"{step + 1} of {len(wanted)}"
        verdicts = shown.locator("#gallery-cards .verdict").all_inner_texts()
        assert verdicts[:2] == ["✓ right", "✗ wrong"]
        if step < len(wanted) - 1:
            shown.locator("#gallery-on").click()
    assert shown.locator("#gallery-on").is_disabled()
    shown.locator("#gallery-family").select_option("existence")
    families = {q.family for image in run.gallery for q in image.questions if q.sample_id in wanted}
    assert (shown.locator("#gallery-cards .card").count() > 0) == ("existence" in families)


def test_scores_and_merged_groups_are_drawn(shown, run: RunView):
    methods = shown.locator("[data-method]")
    methods.nth(0).select_option("fastv")
    methods.nth(1).select_option("tome")
    shown.locator("#gallery-thumbs button").nth(2).click()
    question = run.gallery[2].questions[0].sample_id
    known = answers(run)
    shown.locator("#gallery-view").select_option("scores")
    cards = shown.locator("#gallery-cards .card")
    pixels = cards.nth(0).locator("canvas").evaluate(
        "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )  # fmt: skip
    pixels, scores = np.array(pixels).reshape(-1, 4), known[question, "fastv", 64].scores.astype(float)
    assert ((pixels[:, 3] == 0) == np.isnan(scores)).all(), "tokens that were gone stay clear"
    order = np.argsort(scores[np.isfinite(scores)])
    bright = pixels[np.isfinite(scores)].sum(1)[order]
    assert bright[:20].mean() < bright[-20:].mean() - 200
    assert "no scores recorded" in cards.nth(1).inner_text()
    shown.locator("#gallery-view").select_option("merged")
    sizes = np.unique(known[question, "tome", 64].source, return_counts=True)
    groups = int(((sizes[1] > 1) & (sizes[0] >= 0)).sum())
    assert cards.nth(1).locator("g.group").count() == groups
    assert f"{groups} groups, the largest of {sizes[1][sizes[0] >= 0].max()}" in cards.nth(1).inner_text()
    titles = cards.nth(1).locator("g.group title").all_text_contents()
    assert sorted(int(t.split()[0]) for t in titles) == sorted(sizes[1][(sizes[1] > 1) & (sizes[0] >= 0)].tolist())


def test_tiles_of_an_image_carry_their_own_tokens(visit, run: RunView, tmp_path):
    areas = (Area(2, 2), Area(2, 2, 0.0, 0.0, 1.0, 0.5), Area(2, 2, 0.0, 0.5, 1.0, 1.0))
    kept = np.array([1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0], bool)
    given = [
        GalleryAnswer("a", 64, "yes", 1.0, kept, (1, 1), scores=np.arange(12.0)),
        GalleryAnswer("b", 64, "no", 0.0, None, (1, 1), "no grid"),
    ]
    asked = GalleryQuestion("q", "f", "text", "yes", kept, given)
    path = tmp_path / "tiles.html"
    path.write_text(render(RunView({}, [], [GalleryImage("i", run.gallery[0].png, [asked], areas)])), "utf-8")
    shown = visit(path)
    cards = shown.locator("#gallery-cards .card")
    assert cards.nth(0).locator(".frame").count() == 2, "the overview, and the tiles beside each other"
    assert cards.nth(0).locator(".gone").evaluate_all("p => p.map((x) => x.getAttribute('d'))") == [
        "M1 0h1v1h-1zM0 1h2v1h-2z", "", "M0 0h2v1h-2zM0 1h2v1h-2z",
    ]  # fmt: skip
    assert "5 of 12 tokens; evidence 5 of 5" in cards.nth(0).inner_text()
    assert cards.nth(1).locator(".gone").count() == 0 and "no grid" in cards.nth(1).inner_text()
    shown.locator("#gallery-view").select_option("scores")
    assert cards.nth(0).locator("canvas").count() == 3


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_page_follows_the_system_and_its_button(visit, file, system):
    shown = visit(file, color_scheme=system)
    ground = lambda: shown.evaluate("getComputedStyle(document.body).backgroundColor")
    other = {"light": "dark", "dark": "light"}[system]
    colours = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}
    assert ground() == colours[system]
    assert shown.locator("#theme").inner_text() == f"{other.title()} page"
    shown.locator("#theme").click()
    assert ground() == colours[other]
    shown.emulate_media(media="print", color_scheme=system)
    assert ground() == colours["light"], "paper is white"
    assert not shown.locator("nav").is_visible() and shown.locator("#gallery-cards .card").first.is_visible()


def test_the_whole_page_can_be_used_from_the_keyboard(shown):
    shown.keyboard.press("Tab")
    assert shown.locator(":focus").inner_text() == "Skip to the results"
    for _ in range(400):
        if shown.evaluate("document.activeElement === document.body"):
            break
        on = shown.evaluate("(document.activeElement.dataset.reached = 'yes', document.activeElement.textContent.trim())")
        if on == "Accuracy %":
            shown.keyboard.press("Enter")
            assert shown.locator("#table [aria-sort]").get_attribute("aria-sort") == "descending"
        shown.keyboard.press("Tab")
    controls = shown.locator("button:visible:enabled, select:visible, input:visible, a:visible, summary:visible, .scroll:visible")
    missed = controls.evaluate_all("parts => parts.filter((part) => !part.dataset.reached).map((part) => part.outerHTML)")
    assert controls.count() > 70 and missed == []
    shown.locator("#gallery-thumbs button").first.focus()
    shown.keyboard.press("ArrowRight")
    assert shown.locator("#gallery-thumbs button").nth(1).get_attribute("aria-pressed") == "true"
    assert shown.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the reader sees where he is"


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1280, "dark")])
def test_no_fault_that_shuts_readers_out(visit, file, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    shown = visit(file, width, color_scheme=scheme)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width, "the page itself never scrolls sideways"
    shown.locator("#gallery-view").select_option("scores")
    shown.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    found = axe.Axe().run(shown, options={"resultTypes": ["violations"]}).response["violations"]
    grave = [
        (f["id"], f["impact"], [n["html"][:120] for n in f["nodes"][:3]]) for f in found if f["impact"] in ("serious", "critical")
    ]
    assert grave == []


@pytest.mark.parametrize("width", [1280, 1920])
def test_a_table_that_goes_on_says_so(visit, file, width):
    shown = visit(file, width)
    box = shown.locator("#cells div.scroll")
    place = box.bounding_box()
    assert place["x"] >= 0 and place["x"] + place["width"] <= width and place["width"] > 0.9 * width
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    fade = sync_api.expect(box)  # asks again until it is so
    fade.not_to_have_css("mask-image", "none")
    box.evaluate("box => box.scrollTo({left: box.scrollWidth, behavior: 'instant'})")
    fade.to_have_css("mask-image", "none")
    box.evaluate("box => box.scrollTo({left: 0, behavior: 'instant'})")
    fade.not_to_have_css("mask-image", "none")
    shown.keyboard.press("Tab")
    box.focus()
    fade.to_have_css("mask-image", "none")  # the ring of the focus is seen whole
    box.blur()
    fade.not_to_have_css("mask-image", "none")
    shown.locator('[data-columns="Cost"]').uncheck()
    shown.locator('[data-columns="Accuracy"]').uncheck()
    fade.to_have_css("mask-image", "none")  # what is left of it fits


def test_without_a_script_the_results_stand(visit, file):
    shown = visit(file, java_script_enabled=False)
    assert shown.locator("#table tbody tr").first.is_visible() and shown.locator(".headline").first.is_visible()
    assert shown.locator("noscript p").is_visible() and not shown.locator("[data-copy]").first.is_visible()


def test_hostile_text_neither_runs_nor_breaks_the_page(visit, run: RunView, tmp_path):
    cells = [dict(c) for c in run.cells if c["keep"] in (None, 64) and not c["skipped"]]
    for cell, text in zip(cells[2:], HOSTILE):
        cell |= {"method": text, "families": {text: {"value": 0.5, "lo": 0.4, "hi": 0.6}}}
    cells += [{**cells[2], "method": text, "model": text, "task": text} for text in (HOSTILE[0], HOSTILE[-1])]
    cells += [{"method": text, "keep": 64, "skipped": text} for text in HOSTILE]
    mask = np.ones((2, 2), bool)
    gallery = [
        GalleryImage(text, run.gallery[0].png, [GalleryQuestion(text, text, text, text, mask, [
            GalleryAnswer(other, 64, text, 0.5, mask, (2, 2), text) for other in HOSTILE
        ])])
        for text in HOSTILE
    ]  # fmt: skip
    every = " ".join(HOSTILE)
    manifest = {**run.manifest, "model": every, "task": every, "command": every, "notes": HOSTILE, "versions": {every: every},
                "fingerprints": {every: every}, "config": {every: every}, "created": every}  # fmt: skip
    path = tmp_path / "hostile.html"
    path.write_text(render(RunView(manifest, cells, gallery)), encoding="utf-8")
    shown = visit(path, 400)
    shown.locator("#gallery-every").check()
    assert shown.locator("#gallery-cards .card").count() == len(HOSTILE)
    shown.locator("#gallery-on").click()
    text = copied(shown, "latex")
    assert "a$|$b\\&c\\_d\\%e\\#f\\$g\\textasciitilde{}h\\textasciicircum{}i\\textbackslash{}j\\{k\\}" in text
    assert "'=1+1" in [row["method"] for row in csv.DictReader(io.StringIO(copied(shown, "csv")))], "no formula for a spreadsheet"
    assert "<script" not in copied(shown, "markdown").replace("\\<script", "")
    assert shown.evaluate("window.hit") is None
    assert shown.locator("img[src=x], svg[onload], [onfocus], [autofocus]").count() == 0
    assert shown.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.slow
def test_a_real_run_is_shown_as_it_is_stored(visit, tmp_path):
    """Two images through the engine: the gallery's masks, scores and groups are those of the run folder."""
    from harness import compare

    run = compare(
        model="tiny", methods=["sts", "fastv", "tome"], keep=[64], samples=2, analyse=2, latency=False, out=tmp_path / "run"
    )
    shown = visit(tmp_path / "run" / "report.html")
    assert shown.locator("#table tbody tr").count() == len([c for c in run.summary["cells"] if not c["skipped"]])
    data = json.loads(shown.locator("#gallery-data").text_content())
    found = {a["method"]: a for a in data[0]["questions"][0]["answers"]}
    kept = np.unpackbits(np.frombuffer(base64.b64decode(found["fastv"]["kept"]), np.uint8))[:576].astype(bool)
    ranks = np.frombuffer(base64.b64decode(found["fastv"]["ranks"]), np.uint8)
    assert ranks[kept].min() >= ranks[~kept].max(), "FastV keeps what it ranks highest"
    source = np.frombuffer(base64.b64decode(found["tome"]["source"]), "<i2")
    assert len(source) == 576 and len(set(source.tolist())) == 64
    shown.locator("[data-method]").nth(1).select_option("tome")
    shown.locator("#gallery-view").select_option("merged")
    assert shown.locator("#gallery-cards .card").nth(1).locator("g.group").count() == int((np.bincount(source) > 1).sum())
