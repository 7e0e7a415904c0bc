"""``score`` and ``scoring`` of summary.json: the benchmark's own figure of stored answers, and what else is told by it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from harness.errors import RequestError
from harness.results.leading_figure import LeadingFigure, partial
from harness.results.rulings import Rulings
from harness.results.sample_columns import RunQuestions
from harness.results.summary import write
from harness.store.runs import RunFolder
from harness.tasks.leading_figure import OwnFigure
from metrics.design_effect import IntraclassCorrelation
from metrics.differences import mean_difference
from metrics.intervals import proportion
from metrics.non_inferiority import images_needed, no_loss_p
from metrics.resampling import sign_flip
from metrics.step_down import DRAWS
from tests.made_up_runs import stream

F1 = OwnFigure("f1", "F1", options=(("unread_missed", False),))
MME = OwnFigure("mme", "MME total", 2800.0)
CIRCULAR = OwnFigure("circular", "circular accuracy")
OCR = OwnFigure("mean", "OCRBench total", 1000.0)
LEFT_OUT = ("downsample", "oracle", "tome", "random[like=fastv]")
SMALL = {"questions": 2, "analysed": 0, "without": frozenset((name, keep) for name in LEFT_OUT for keep in (64, 24))}
UNREAD = {"yes": "no", "no": "other"}  # what a wrong answer says
TASK_FIGURES = {"f1": F1, "mme": MME, "circular": CIRCULAR, "mean": OCR}


def ruled(run: RunFolder, figure: OwnFigure | None, whole: dict | None = None, plan: dict | None = None) -> dict:
    """Say by which rule the answers of a made-up run were scored, and summarise it anew.

    Args:
        run: of two questions an image, the right answers of which become yes and no.
        figure: that leads; None for a run of an older version.
        whole: of the manifest.
        plan: what each method says to the two questions of image i, instead of what it said.
    """
    manifest = json.loads((run.folder / "manifest.json").read_text())
    manifest["config"]["margin"] = 0.02
    if figure is not None:
        manifest["scoring"] = {"rule": "official", "rules": {"ours": "a", "official": "b"}, "undecided": "draws a letter",
                               "figure": figure.stored()}  # fmt: skip
        manifest["whole"] = whole
    run.write_json("manifest.json", manifest)
    with run.connection as base:
        base.execute("UPDATE questions SET target = CASE place WHEN 0 THEN 'yes' ELSE 'no' END")
        third = "CAST(substr(image, 2) AS INTEGER) % 3 = 0"
        base.execute(f"UPDATE questions SET family = CASE WHEN {third} THEN 'OCR' ELSE 'count' END")
        if figure is not None:
            for cell, _, facts in run.cells():
                rows = base.execute(
                    "SELECT questions.id, target, place, image, score FROM samples "
                    "JOIN questions ON questions.id = samples.question WHERE cell = ?", (cell,)
                ).fetchall()  # fmt: skip
                for name, target, place, image, score in rows:
                    read = target if score else UNREAD[target]
                    if plan and facts["method"] in plan:
                        read = plan[facts["method"]](int(image[1:]), place)
                    official = float(read == target)
                    base.execute(
                        "UPDATE samples SET read = ?, score = ?, official = ?, ours = ?, undecided = ? "
                        "WHERE cell = ? AND question = ?",
                        (None if read == "other" else read, official, official, official if read != "other" else 1.0,
                         1 if read == "other" else None, cell, name),
                    )  # fmt: skip
    return write(run)


def stored(run: RunFolder, method: str, keep: int | None = None) -> dict[str, np.ndarray]:
    """The samples of a cell, with what is right."""
    cell = next(i for i, _, facts in run.cells() if (facts["method"], facts["keep"]) == (method, keep))
    columns = run.columns(cell)
    right = dict(run.connection.execute("SELECT id, target FROM questions"))
    return {**columns, "target": np.array([right[name] for name in columns["question"]], object)}


def cell_of(summary: dict, method: str, keep: int | None = None) -> dict:
    return next(cell for cell in summary["cells"] if (cell["method"], cell["keep"]) == (method, keep))


def by_hand(figure: OwnFigure, run: RunFolder, method: str, keep: int | None = None) -> float:
    """The figure of a cell as a plain loop makes it, in its own unit."""
    s = stored(run, method, keep)
    images = {image: s["score"][s["image"] == image] for image in s["image"]}
    if figure is CIRCULAR:
        return 100 * float(np.mean([(scores == 1).all() for scores in images.values()]))
    if figure is MME:
        kinds = {image: s["family"][s["image"] == image][0] for image in images}
        of = {k: [100 * (v.mean() + (v.sum() == 2)) for i, v in images.items() if kinds[i] == k] for k in set(kinds.values())}
        return 14 * float(np.mean([np.mean(scores) for scores in of.values()]))
    if figure is F1:
        read = [(t, r) for t, r in zip(s["target"], s["read"]) if not (t == "yes" and r not in ("yes", "no"))]
        return 100 * f1_score([t == "yes" for t, _ in read], [r == "yes" for _, r in read])
    return 1000 * float(s["score"].mean())


@pytest.mark.parametrize("figure", TASK_FIGURES.values(), ids=TASK_FIGURES)
def test_every_cell_has_its_own_figure(figure, make_run):
    run = make_run(**SMALL)
    summary = ruled(run, figure)
    for cell in summary["cells"]:
        score = cell["score"]
        assert (score["name"], score["scale"], score["partial"]) == (figure.name, figure.scale, False)
        assert score["value"] == pytest.approx(by_hand(figure, run, cell["method"], cell["keep"]))
        assert score["lo"] < score["value"] < score["hi"]
        assert cell["accuracy"]["value"] == pytest.approx(stored(run, cell["method"], cell["keep"])["score"].mean())
    none, cell = cell_of(summary, "none"), cell_of(summary, "fastv", 24)
    gap = cell["difference_none"]
    assert gap["value"] * figure.scale == pytest.approx(cell["score"]["value"] - none["score"]["value"])
    assert gap["lo"] < gap["value"] < gap["hi"] and gap["p"] < 0.05
    assert cell["retention"]["value"] == pytest.approx(cell["score"]["value"] / none["score"]["value"])
    blind = cell_of(summary, "blind")["score"]["value"]
    adjusted = cell["retention_adjusted"]
    assert adjusted["value"] == pytest.approx((cell["score"]["value"] - blind) / (none["score"]["value"] - blind))
    for share in (cell["retention"], adjusted):
        assert share["lo"] < share["value"] < share["hi"] < 1
    assert not cell["non_inferior"]["holds"] and cell["non_inferior"]["smallest_detectable"] > 0
    for keep in (64, 24):
        rivals = [c for c in summary["cells"] if c["keep"] == keep and c["method"] in ("sts", "fastv")]
        assert summary["winners"][str(keep)] == max(rivals, key=lambda c: c["score"]["value"])["method"]
    with (run.folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score.value"]) for row in rows] == [c["score"]["value"] for c in summary["cells"]]
    assert {row["score.name"] for row in rows} == {figure.name} and "scoring.differ.ours" in rows[0]


def scored_cells(run: RunFolder) -> dict[tuple[str, int | None], dict[str, np.ndarray]]:
    return {(facts["method"], facts["keep"]): stored(run, facts["method"], facts["keep"]) for _, _, facts in run.cells()}


@pytest.mark.parametrize("figure", [None, OwnFigure("mean", "accuracy"), OCR], ids=["older", "accuracy", "of 1000"])
def test_of_a_mean_every_number_is_that_of_means(figure, make_run):
    run = make_run(**SMALL)
    summary, scale, cells = ruled(run, figure), 1000.0 if figure is OCR else 100.0, scored_cells(run)
    none, of_scores, of_changes = cells["none", None], IntraclassCorrelation(), IntraclassCorrelation()
    for (method, _), s in cells.items():
        if method != "blind":
            of_scores.add(s["score"], s["image"])
            if method != "none":
                of_changes.add(s["score"] - none["score"], s["image"])
    assert summary["checks"]["correlation"] == {
        "rho": pytest.approx(of_changes.rho),
        "cells": of_changes.cells,
        "questions_an_image": 2,
    }
    assert 0 < of_scores.rho < 1
    for cell in summary["cells"]:
        s = cells[cell["method"], cell["keep"]]
        known = proportion(s["score"], s["image"], of_scores.rho)
        assert cell["accuracy"] == pytest.approx(known.as_dict())
        assert [cell["score"][name] for name in ("value", "lo", "hi")] == pytest.approx(
            [n * scale for n in known.as_dict().values()]
        )
        if cell["method"] == "none":
            assert cell["difference_none"] is None
            continue
        gap = mean_difference(s["score"], none["score"], s["image"], of_changes.rho, 0.02)
        assert [cell["difference_none"][n] for n in ("value", "lo", "hi")] == pytest.approx([gap.value, gap.lo, gap.hi])
        p = sign_flip(np.bincount(np.unique(s["image"], return_inverse=True)[1], s["score"] - none["score"]), 0, DRAWS)
        assert cell["difference_none"]["p"] == pytest.approx(
            p, abs=4 * (p * (1 - p) / DRAWS) ** 0.5 + 2 / DRAWS
        )  # of other draws
        claim = no_loss_p(gap, 0.02)
        assert cell["non_inferior"]["p"] == pytest.approx(claim)
    assert all((cell["scoring"] is None) == (figure is None) for cell in summary["cells"])


def test_the_winner_is_that_of_the_figure_and_not_of_accuracy(make_run):
    """One method answers each image's first question alone, the other both of every third: fewer right, but whole images."""
    run = make_run(**SMALL)
    half = lambda image, place: ("yes", "yes")[place]
    whole = lambda image, place: ("yes", "no")[place] if image % 3 == 0 else ("other", "other")[place]
    summary = ruled(run, CIRCULAR, plan={"fastv": half, "sts": whole, "random": lambda image, place: "other"})
    fastv, sts = (cell_of(summary, name, 24) for name in ("fastv", "sts"))
    assert fastv["accuracy"]["value"] > sts["accuracy"]["value"] and fastv["score"]["value"] == 0
    assert summary["winners"] == {"64": "sts", "24": "sts"} and sts["score"]["value"] == pytest.approx(100 / 3)
    assert fastv["difference_winner"]["value"] == pytest.approx(-1 / 3) and sts["difference_winner"] is None
    assert sts["pareto"]["flops"]["on"] and not fastv["pareto"]["flops"]["on"]


def test_a_failed_sample_counts_in_no_pair(make_run):
    run = make_run(**SMALL)
    ruled(run, MME)
    cell = next(i for i, _, facts in run.cells() if (facts["method"], facts["keep"]) == ("sts", 64))
    with run.connection as base:
        base.execute("UPDATE samples SET failed = 'why', score = NULL, read = NULL WHERE cell = ? AND question = 'i4-0'", (cell,))
    found = cell_of(write(run), "sts", 64)
    s = stored(run, "sts", 64)
    keep = s["image"] != "i4"
    by_image = {i: s["score"][s["image"] == i] for i in s["image"][keep]}
    ocr = {i: int(i[1:]) % 3 == 0 for i in by_image}
    shares = {k: [v.mean() / 2 + (v.sum() == 2) / 2 for i, v in by_image.items() if ocr[i] == k] for k in (True, False)}
    assert found["score"]["value"] == pytest.approx(2800 * np.mean([np.mean(v) for v in shares.values()]))
    assert found["scoring"]["n"] == len(s["score"]) - 1 == found["n"]


def test_a_subset_is_partial(make_run):
    run = make_run(**SMALL)
    assert {cell["score"]["partial"] for cell in ruled(run, MME, {"images": None, "questions": 2374})["cells"]} == {True}
    ident = run.cells()[0][0]
    whole = [None, {"images": 24, "questions": 48}, {"images": None, "questions": 48}]
    assert [partial(run, ident, known) for known in whole] == [False] * 3
    more = [{"images": None, "questions": 49}, {"images": 25, "questions": 50}, {"images": 1187, "questions": 2374}]
    unknown = [{"images": None, "questions": None}, {"images": 24, "questions": None}, {}]
    assert [partial(run, ident, known) for known in more + unknown] == [True] * 6


def test_a_figure_of_a_benchmark_of_unknown_size_is_partial(make_run):
    """A run of an older version does not tell either, and is left as it was."""
    run = make_run(**SMALL)
    assert {cell["score"]["partial"] for cell in ruled(run, CIRCULAR, {"images": 24, "questions": None})["cells"]} == {True}
    assert {cell["score"]["partial"] for cell in ruled(make_run(**SMALL), None)["cells"]} == {False}


def test_a_cell_with_a_failed_sample_is_partial(make_run):
    run = make_run(**SMALL)
    ruled(run, CIRCULAR, {"images": 24, "questions": 48})
    cell = next(i for i, _, facts in run.cells() if (facts["method"], facts["keep"]) == ("sts", 64))
    with run.connection as base:
        base.execute("UPDATE samples SET failed = 'why', score = NULL WHERE cell = ? AND question = 'i0-1'", (cell,))
    summary = write(run)
    assert [(c["method"], c["keep"]) for c in summary["cells"] if c["score"]["partial"]] == [("sts", 64)]


def test_how_often_rules_differ_is_counted(make_run):
    run = make_run(**SMALL)
    for cell in ruled(run, F1)["cells"]:
        unread = sum(read is None for read in stored(run, cell["method"], cell["keep"])["read"])
        assert cell["scoring"] == {"rule": "official", "n": 48, "differ": {"ours": unread}, "undecided": unread}
    assert unread > 0


def test_further_seeds_are_of_the_figure(make_run):
    run = make_run(**SMALL)
    cell = next(i for i, _, facts in run.cells() if (facts["method"], facts["keep"]) == ("random", 64))
    names, again = stored(run, "random", 64)["question"], stream("again").integers(0, 2, 48).astype(float)
    with run.connection as base:
        right = ["yes" if name.endswith("-0") else "no" for name in names]
        read = [want if score else {"yes": "no", "no": "yes"}[want] for want, score in zip(right, again)]
        rows = [(cell, name, 1, score, said) for name, score, said in zip(names, again, read)]
        base.executemany("INSERT INTO repeats VALUES (?, ?, ?, ?, ?)", rows)
    found = cell_of(ruled(run, CIRCULAR), "random", 64)["seeds"]
    levels = [by_hand(CIRCULAR, run, "random", 64) / 100, again.reshape(24, 2).min(1).mean()]
    assert found["seeds"] == 2 and [found["lowest"], found["highest"]] == pytest.approx(sorted(levels))
    assert cell_of(ruled(run, OCR), "random", 64)["seeds"]["mean"] == pytest.approx(
        (stored(run, "random", 64)["score"].mean() + again.mean()) / 2
    )
    found = cell_of(ruled(run, F1), "random", 64)["seeds"]
    levels = [by_hand(F1, run, "random", 64) / 100, f1_score(right, read, pos_label="yes")]
    assert [found["lowest"], found["highest"]] == pytest.approx(sorted(levels))


def test_a_task_without_answers_has_no_score(make_run):
    run = make_run(**SMALL)
    ruled(run, MME)
    with run.connection as base:
        base.execute("UPDATE samples SET score = NULL, official = NULL, ours = NULL")
    summary = write(run)
    assert {(cell["score"], cell["scoring"], cell["accuracy"]) for cell in summary["cells"]} == {(None, None, None)}
    assert summary["winners"] == {}


@pytest.mark.parametrize(
    "figure",
    [OwnFigure("geometric", "of another version"), OwnFigure("f1", "F1", options=(("beta", 2),)), OwnFigure("mme", "MME", 0)],
)
def test_a_figure_of_an_unknown_kind_is_refused(figure, make_run):
    with pytest.raises(RequestError, match="makes the kinds mean, f1, mme, circular"):
        ruled(make_run(**SMALL), figure)


def test_cells_of_two_runs_are_compared_by_the_figure(make_run):
    """As pages of several runs do: by place of the question, whatever numbers another run gives images and families."""
    runs = [make_run(**SMALL), make_run(**SMALL | {"images": range(3, 24)}, worse={("sts", 64): 0.3})]
    figures = [cell_of(ruled(run, MME), "sts", 64) for run in runs]
    sides = []
    for run in runs:
        questions = RunQuestions.of(run)
        leading = LeadingFigure.of(run.manifest(), questions.families)
        cell = next(i for i, _, facts in run.cells() if (facts["method"], facts["keep"]) == ("sts", 64))
        sides.append((Rulings.of(run, run.manifest(), questions, leading).scores(run, cell, questions), leading))
    first, leading = sides[0]
    assert leading.level(first) * 2800 == pytest.approx(figures[0]["score"]["value"])
    gap = leading.difference(first.at(np.arange(6, 48)), sides[1][0])
    s = [stored(run, "sts", 64) for run in runs]
    later = np.isin(s[0]["image"], s[1]["image"])
    scores = [s[0]["score"][later], s[1]["score"]]
    ocr = np.array([family == "OCR" for family in s[1]["family"]])
    by_image = [score.reshape(-1, 2).mean(1) / 2 + score.reshape(-1, 2).min(1) / 2 for score in scores]
    levels = [np.mean([value[ocr[::2]].mean(), value[~ocr[::2]].mean()]) for value in by_image]
    assert gap.value == pytest.approx(levels[0] - levels[1]) and gap.value != 0


def rounded(part: object) -> object:
    """A part of a summary without the digits that the order of sums decides."""
    if isinstance(part, dict):
        return {name: rounded(value) for name, value in part.items()}
    if isinstance(part, list):
        return [rounded(value) for value in part]
    return float(f"{part:.9e}") if isinstance(part, float) else part


@pytest.mark.parametrize("figure", TASK_FIGURES.values(), ids=TASK_FIGURES)
def test_the_order_of_cells_does_not_matter(figure, make_run, monkeypatch):
    run = make_run(**SMALL)
    first, cells = ruled(run, figure), RunFolder.cells
    monkeypatch.setattr(RunFolder, "cells", lambda self: list(reversed(cells(self))))
    again = write(run)
    assert [c["method"] for c in again["cells"]] == [c["method"] for c in reversed(first["cells"])]
    assert rounded(again["cells"]) == rounded(first["cells"][::-1])
    assert rounded(again["checks"]) == rounded(first["checks"])
    assert again["winners"] == first["winners"]


def pieces_an_image(figure: OwnFigure, run: RunFolder) -> float:
    """Of how many pieces a figure is the mean, an image: answers of a mean, else so many that a piece lost costs one of them."""
    if figure is F1:
        s = stored(run, "none")
        unread = (s["read"] != "no") & (s["read"] != "yes")
        return ((s["read"] == "yes").sum() + ((s["target"] == "yes") & ~unread).sum()) / 24
    if figure is MME:  # eight images of one category and sixteen of the other
        return max(1.0, 2**2 / (1 / 8 + 1 / 16) / 24)
    return 1.0 if figure is CIRCULAR else 2.0


def competitors(summary: dict) -> list[dict]:
    return [cell for cell in summary["cells"] if cell["method"] in ("sts", "fastv")]


@pytest.mark.parametrize("figure", TASK_FIGURES.values(), ids=TASK_FIGURES)
def test_tests_of_a_figure_are_those_of_its_family(figure, make_run):
    """Of all images or of a few; p of methods alone are corrected, and claims for the methods of a budget."""
    run = make_run(**SMALL)
    summary = ruled(run, figure)
    families = summary["checks"]["families"]
    assert families["difference_none"]["tests"] == 4 and families["difference_winner"]["tests"] == 2
    assert set(families) == {"difference_none", "difference_winner"}  # neither a control nor a smaller image
    for cell in summary["cells"]:
        claim, gap = cell["non_inferior"], cell["difference_none"]
        if cell["method"] == "none":
            assert gap is None and claim is None
            assert tuple(cell["retention"].values()) == tuple(cell["retention_adjusted"].values()) == (1.0, 1.0, 1.0)
        elif cell in competitors(summary):
            assert gap["p"] <= gap["p_adjusted"] and claim["p_best"] == min(1.0, 2 * claim["p"])
        else:
            assert gap["p_adjusted"] is None and claim["p_best"] is None and claim["p_adjusted"] is None
        if claim is not None and claim["holds"]:
            assert gap["lo"] > -0.02
    needed = summary["checks"]["needed_images"]
    rho, each = summary["checks"]["correlation"]["rho"], pieces_an_image(figure, run)
    assert needed == {"one": images_needed(0.02, each, rho), "best": images_needed(0.02, each, rho, 2), "methods": 2}


@pytest.mark.parametrize("figure", TASK_FIGURES.values(), ids=TASK_FIGURES)
def test_of_one_image_nothing_is_known_but_the_figure(figure, make_run):
    run = make_run(**SMALL | {"images": range(1)})
    summary = ruled(run, figure)
    for cell in summary["cells"]:
        if cell["score"] is not None:
            assert cell["score"]["lo"] is None and cell["accuracy"]["lo"] is None
        if cell["difference_none"] is not None:
            assert cell["difference_none"]["lo"] is None and cell["difference_none"]["p"] == 1.0
            assert not cell["non_inferior"]["holds"] and cell["non_inferior"]["smallest_detectable"] is None
    assert strict((run.folder / "summary.json").read_text()) == summary


@pytest.mark.parametrize("figure", TASK_FIGURES.values(), ids=TASK_FIGURES)
def test_of_equal_answers_everywhere_there_is_no_critical_value(figure, make_run):
    run = make_run(**SMALL)
    ruled(run, figure)
    with run.connection as base:
        none = next(i for i, _, facts in run.cells() if facts["method"] == "none")
        for name in ("score", "read", "official", "ours", "undecided"):
            base.execute(
                f"UPDATE samples SET {name} = "
                f"(SELECT n.{name} FROM samples n WHERE n.cell = ? AND n.question = samples.question)",
                (none,),
            )
    summary = write(run)
    assert strict((run.folder / "summary.json").read_text()) == summary
    assert summary["checks"]["families"]["difference_none"] == {"tests": 4, "critical": None}
    assert summary["checks"]["correlation"]["rho"] is None  # of which nothing is known: all may go together
    assert summary["checks"]["needed_images"]["one"] == images_needed(0.02, pieces_an_image(figure, run), 1.0)
    for cell in competitors(summary):
        gap, claim = cell["difference_none"], cell["non_inferior"]
        assert gap["value"] == 0 and gap["lo"] < 0 < gap["hi"] and gap["p"] == gap["p_adjusted"] == 1
        assert claim["smallest_detectable"] > gap["hi"] and not claim["holds"]
        assert cell["retention"]["lo"] < cell["retention"]["value"] == 1 < cell["retention"]["hi"]
        assert cell["retention_adjusted"] is None  # `blind` sees as much


def strict(text: str) -> dict:
    """Parsed JSON that knows neither NaN nor infinity."""

    def refuse(name: str) -> float:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


def test_a_cell_all_of_whose_answers_failed_is_in_no_family(make_run):
    run = make_run(**SMALL)
    ruled(run, F1)
    cell = next(i for i, _, facts in run.cells() if (facts["method"], facts["keep"]) == ("sts", 64))
    with run.connection as base:
        base.execute("UPDATE samples SET failed = 'why', score = NULL, read = NULL WHERE cell = ?", (cell,))
    summary = write(run)
    found = cell_of(summary, "sts", 64)
    assert found["n"] == 0 and found["score"] is found["difference_none"] is found["retention"] is None
    assert summary["checks"]["families"]["difference_none"]["tests"] == 3
    assert summary["winners"] == {"64": "fastv", "24": summary["winners"]["24"]}
    alone = cell_of(summary, "fastv", 64)["non_inferior"]
    assert alone["p_best"] == alone["p"]
