"""Two builds on a benchmark with a figure of its own: what is planted is found in that figure's unit, under one rule."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score

from harness.cli import app as cli
from harness.errors import RequestError
from harness.results.regression.regress import regress
from harness.results.regression.thresholds import read_thresholds
from tests.made_up_runs import CELLS

FEW = frozenset(CELLS) - {("none", None), ("sts", 64), ("sts", 24), ("random", 64)}
"""Cells that builds here do without, so that they are quick."""
SMALL = {"questions": 2, "analysed": 0, "latency": False, "without": FEW}
WORSE = {("sts", 64): 0.8}


def scoring(kind: str, name: str, scale: float = 100.0, rule: str = "ours", rules=("ours", "official"), **options) -> dict:
    """The entry of a manifest."""
    return {
        "rule": rule, "rules": {name: f"{name} function" for name in rules}, "undecided": "",
        "figure": {"kind": kind, "name": name, "scale": scale, "options": options},
    }  # fmt: skip


F1 = scoring("f1", "F1")
MME = scoring("mme", "MME total", 2800.0)
CIRCULAR = scoring("circular", "circular accuracy")
OCR = scoring("mean", "OCRBench total", 1000.0)


def accuracy(found, cell: str):
    return next(v for v in found.verdicts if (v.rule, v.cell) == ("accuracy", cell))


def answers(run, method: str, keep: int | None) -> list[tuple[str, str, str, str]]:
    """Image, family, target and answer of every sample of a cell."""
    ident = next(i for i, _, f in run.cells() if (f["method"], f["keep"]) == (method, keep))
    query = "SELECT image, family, target, prediction FROM samples JOIN questions ON id = samples.question WHERE cell = ?"
    return run.connection.execute(query, (ident,)).fetchall()


def made(kind: str, rows: list[tuple[str, str, str, str]]) -> float:
    """A figure in its own unit, made without the code that is tried."""
    by_image: dict[str, list[bool]] = {}
    for image, _, target, said in rows:
        by_image.setdefault(image, []).append(said == target)
    if kind == "f1":
        return 100 * f1_score([t == "yes" for _, _, t, _ in rows], [s == "yes" for *_, s in rows])
    if kind == "circular":
        return 100 * float(np.mean([all(right) for right in by_image.values()]))
    if kind == "mean":
        return 1000 * float(np.mean([said == target for _, _, target, said in rows]))
    totals = []
    for family in {family for _, family, *_ in rows}:
        rights = [by_image[image] for image in {image for image, own, *_ in rows if own == family}]
        totals.append(100 * np.mean([np.mean(right) for right in rights]) + 100 * np.mean([all(right) for right in rights]))
    return 14 * float(np.mean(totals))


@pytest.mark.parametrize("own", [F1, MME, CIRCULAR, OCR], ids=lambda own: own["figure"]["kind"])
@pytest.mark.parametrize("other", [False, True], ids=["the same images", "other images"])
def test_a_worse_cell_is_found_in_the_figure_of_the_benchmark(stored_run, own, other):
    build = dict(scoring=own, **SMALL)
    start = 500 if other else 0
    one = stored_run(images=range(60), **build)
    worse = stored_run(images=range(start, start + 60), worse=WORSE, machine=1, **build)
    found = regress(one, worse)
    assert {(v.rule, v.cell) for v in found.failed} == {("accuracy", "sts at 64")}
    kind, scale = own["figure"]["kind"], own["figure"]["scale"]
    verdict, times = accuracy(found, "sts at 64"), 100 if scale == 100 else 1
    known = [made(kind, answers(run, "sts", 64)) for run in (one, worse)]
    assert [times * verdict.baseline, times * verdict.candidate] == pytest.approx(known)
    assert verdict.figure == own["figure"]["name"] and verdict.unit == ("share" if scale == 100 else "points")
    unit = "points" if scale == 100 else f"points of {scale:,g}"
    assert f"{own['figure']['name']} {known[0]:,.1f} → {known[1]:,.1f}, {known[1] - known[0]:+,.1f} {unit} [" in verdict.text
    assert f"; {0.02 * scale:g} points are tolerated" in verdict.text and dict(found.facts)["Figure"].startswith(verdict.figure)
    better = regress(worse, one)
    assert not better.failed and accuracy(better, "sts at 64").status == "passed"


def test_the_tolerance_is_a_share_of_the_scale(stored_run, tmp_path):
    file = tmp_path / "mine.toml"
    build = dict(scoring=MME, **SMALL, images=range(60))
    one, worse = stored_run(**build), stored_run(worse=WORSE, machine=1, **build)
    verdict = accuracy(regress(one, worse), "sts at 64")
    loss = (verdict.baseline - verdict.candidate) / 2800
    for tolerance, failed in ((loss * 0.99, True), (loss * 1.01, False)):
        file.write_text(f"[accuracy]\ntolerance = {tolerance}\n")
        assert bool(regress(one, worse, read_thresholds(file)).failed) == failed


def test_the_command_prints_points_of_the_scale(stored_run, tmp_path, capsys):
    build = dict(scoring=MME, **SMALL, images=range(60), whole=2374)
    one, worse = stored_run(**build), stored_run(worse=WORSE, machine=1, **build)
    file = tmp_path / "found.md"
    outputs = ["--markdown", file, "--html", tmp_path / "p.html", "--junit", tmp_path / "j.xml"]
    with pytest.raises(SystemExit) as stop:
        cli.main(list(map(str, ["regress", one.folder, worse.folder, *outputs])))
    assert stop.value.code == 1 and not capsys.readouterr().err
    verdict = accuracy(regress(one, worse), "sts at 64")
    told = f"MME total (partial) {verdict.baseline:,.1f} → {verdict.candidate:,.1f}, "
    for output in ("found.md", "p.html", "j.xml"):
        text = (tmp_path / output).read_text().replace("\\", "")
        assert told in text and "points of 2,800" in text and "56 points are tolerated" in text
    assert "MME total of 2,800, partial: 120 of 2,374 questions" in (tmp_path / "p.html").read_text()
    moved = [line for line in file.read_text().splitlines() if "MME total (partial) |" in line]
    assert moved and all("%" not in line for line in moved)


@pytest.mark.parametrize(
    ("whole", "partial"),
    [(dict(questions=60, images=None), None), (dict(questions=60, images=30), None), (None, None),
     (dict(questions=61, images=30), "60 of 61 questions and 30 of 30 images"),
     (dict(questions=61, images=None), "60 of 61 questions"),
     (dict(questions=None, images=30), "60 questions; how many the whole benchmark has is not known"),
     (dict(questions=None, images=None), "60 questions; how many the whole benchmark has is not known")],
)  # fmt: skip
def test_what_makes_a_figure_partial(make_run, whole, partial):
    """A whole of which nothing is said is endless; one that is not counted may have more questions than were asked."""
    run = make_run(scoring=CIRCULAR, **SMALL, images=range(30))
    run.write_json("manifest.json", {**run.manifest(), "whole": whole})
    found = regress(run, run)
    assert (accuracy(found, "none").figure == "circular accuracy (partial)") == (partial is not None)
    assert dict(found.facts)["Figure"] == "circular accuracy" + ("" if partial is None else f", partial: {partial}")


@pytest.mark.parametrize(
    ("wholes", "partial"),
    [((60, 61), True), ((61, 60), True), ((60, 60), False), ((None, 60), True), ((60, None), True), (("nothing", 60), False),
     ((61, "nothing"), True)],
)  # fmt: skip
def test_a_figure_is_partial_by_what_either_run_tells_of_the_whole(make_run, wholes, partial):
    pair = [make_run(scoring=CIRCULAR, **SMALL, images=range(30)) for _ in wholes]
    for run, count in zip(pair, wholes):
        whole = None if count == "nothing" else {"questions": count, "images": None}
        run.write_json("manifest.json", {**run.manifest(), "whole": whole})
    found = regress(*pair)
    assert ("(partial)" in accuracy(found, "none").figure) == ("partial" in dict(found.facts)["Figure"]) == partial


def test_runs_on_other_categories_are_told(make_run):
    """Category by category, a total is the mean over those that a run has."""
    build = dict(scoring=MME, **SMALL)
    one, other = make_run(images=range(0, 120, 4), **build), make_run(images=range(501, 621, 4), **build)
    assert any("different categories" in note for note in regress(one, other).notes)
    both = make_run(images=range(30), **build), make_run(images=range(500, 530), **build)
    assert not any("different categories" in note for note in regress(*both).notes)


def test_too_few_images_are_told_by_the_figures_name(stored_run):
    build = dict(scoring=F1, **SMALL, images=range(6))
    found = regress(stored_run(**build), stored_run(worse=WORSE, **build))
    assert not found.failed and any("6 images are too few for any drop of F1" in note for note in found.notes)


def collapse(one, other, images: range, wrong) -> None:
    """Write into two runs that one method read everything right and then, of some images, what ``wrong`` says of a target."""
    ident = next(i for i, _, f in other.cells() if (f["method"], f["keep"]) == ("sts", 64))
    with one.connection as first, other.connection as second:
        first.execute(
            "UPDATE samples SET score = 1, read = (SELECT target FROM questions WHERE id = samples.question), "
            "prediction = (SELECT target FROM questions WHERE id = samples.question) WHERE cell = ?",
            (ident,),
        )
        rows = first.execute("SELECT question, read FROM samples WHERE cell = ?", (ident,)).fetchall()
        for question, target in rows:
            said = wrong(target) if int(question[1:].split("-")[0]) in images else target
            second.execute(
                "UPDATE samples SET score = ?, read = ?, prediction = ? WHERE cell = ? AND question = ?",
                (float(said == target), said, said, ident, question),
            )


@pytest.mark.parametrize("own", [F1, MME, CIRCULAR, OCR, {}], ids=lambda own: own["figure"]["kind"] if own else "older")
@pytest.mark.parametrize(("count", "judged"), [(10, False), (18, True)])
def test_a_drop_on_few_images_that_differ_is_not_called_chance(make_run, own, count, judged):
    """Of twenty images, those whose answers are the same in both runs tell no drop from chance, however large it is."""
    pair = [make_run(images=range(20), scoring=own, **SMALL) for _ in range(2)]
    collapse(*pair, range(count), lambda target: {"yes": "no", "no": "yes"}.get(target))
    found = regress(*pair)
    verdict = accuracy(found, "sts at 64")
    assert verdict.status == ("failed" if judged else "not judged")
    told = f"; {count} of 20 images count differently in the two runs, too few to tell that from chance"
    assert (told in verdict.text) != judged
    name = own["figure"]["name"] if own else "accuracy"
    assert any(note.startswith(f"In one cell, {name} fell by more than is tolerated") for note in found.notes) != judged
    assert accuracy(found, "none").status == "passed"  # which lost nothing


def test_a_drop_to_nothing_that_could_be_chance_is_not_passed(make_run):
    """Other images, and few of them with anything to lose: F1 of nothing is no change within the thresholds."""
    build = dict(scoring=F1, **SMALL)
    one, other = make_run(images=range(8), **build), make_run(images=range(500, 508), **build)
    spare = make_run(images=range(500, 508), **build)
    collapse(one, make_run(images=range(8), **build), range(0), str)
    collapse(spare, other, range(500, 508), lambda target: "no")
    with one.connection as connection:  # it said no of all images but two, so that most of them have nothing to lose
        connection.execute("UPDATE samples SET read = 'no', score = 0.5 WHERE substr(question, 1, 3) NOT IN ('i0-', 'i1-')")
    verdict = accuracy(regress(one, other), "sts at 64")
    assert verdict.candidate == 0 < verdict.baseline and verdict.status == "not judged"
    assert "a loss of all that there was could not be told from chance on 8 such images" in verdict.text


def test_samples_that_failed_on_one_side_do_not_count(make_run):
    """Of an image of MME of which one answer failed, neither run's figure knows anything."""
    build = dict(scoring=MME, **SMALL, images=range(30))
    one, other = make_run(**build), make_run(**build)
    with other.connection as connection:
        connection.execute("UPDATE samples SET failed = 'memory', score = NULL, read = NULL WHERE question = 'i3-1'")
    verdict = accuracy(regress(one, other), "sts at 64")
    rest = [row for row in answers(one, "sts", 64) if row[0] != "i3"]
    assert verdict.baseline == verdict.candidate == pytest.approx(made("mme", rest))


def refusal(one, other) -> str:
    with pytest.raises(RequestError) as error:
        regress(one, other)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_runs_under_different_rules_are_refused(stored_run):
    build = dict(**SMALL, images=range(8))
    ours, official = (stored_run(scoring=scoring("mean", "accuracy", rule=rule), **build) for rule in ("ours", "official"))
    alone = stored_run(scoring=scoring("mean", "accuracy", rules=("ours",)), **build)
    authors = stored_run(scoring=scoring("mean", "accuracy", rule="authors", rules=("authors",)), **build)
    told = f"the candidate {official.folder} is scored by the rule official, the baseline {ours.folder} by ours; "
    assert told + "measure the candidate again with --scoring ours" in refusal(ours, official)
    assert "measure the candidate again with --scoring official" in refusal(official, ours)
    assert "measure the baseline again with --scoring ours" in refusal(official, alone)
    assert "they have no rule in common" in refusal(authors, alone)
    assert not regress(ours, alone).failed


def test_different_figures_are_refused(stored_run):
    build = dict(**SMALL, images=range(8))
    one = stored_run(scoring=F1, **build)
    for own in (scoring("f1", "F1", unread_missed=False), scoring("f1", "F1", 1000.0), scoring("mean", "accuracy")):
        assert "the figure of" in refusal(one, stored_run(scoring=own, **build))
    told = refusal(one, stored_run(scoring=scoring("f1", "F1", unread_missed=False), **build))
    assert "F1 of 100 (unread_missed False)" in told and "measure the baseline again" in told


def test_another_version_of_a_rule_is_told(stored_run):
    build = dict(**SMALL, images=range(8))
    other = {**F1, "rules": {"ours": "another function"}}
    found = regress(stored_run(scoring=F1, **build), stored_run(scoring=other, **build))
    assert not found.failed and "The rule that scores answers differs (ours function → another function)" in found.notes[0]


@pytest.mark.parametrize("rule", ["official", "authors"])
def test_a_run_of_an_older_version_and_one_that_another_rule_leads_are_refused(stored_run, rule):
    build = dict(**SMALL, images=range(8))
    old, new = stored_run(**build), stored_run(scoring=scoring("f1", "F1", rule=rule, rules=("ours", rule)), **build)
    told = refusal(old, new)
    assert f"the candidate {new.folder} is scored by the rule {rule} ({rule} function), and the baseline {old.folder}" in told
    assert "is of an older version that scored by our own; measure the baseline again, or the candidate" in told
    assert "measure the candidate again, or the baseline with --scoring ours" in refusal(new, old)


def test_a_figure_that_cannot_be_made_is_refused(make_run):
    build = dict(**SMALL, images=range(8), scoring=F1)
    one, other = make_run(**build), make_run(**build)
    with other.connection as connection:
        connection.execute("ALTER TABLE samples DROP COLUMN read")
    told = f"{other.folder / 'results.sqlite'}: the samples lack what was read in the answers, of which F1 is made"
    assert refusal(one, other) == told and refusal(other, one) == told
    other.write_json("manifest.json", {**other.manifest(), "scoring": scoring("median", "median")})
    assert refusal(one, other).startswith(f"{other.folder}: manifest.json: scoring.figure is {{'kind': 'median'")


def older(run) -> None:
    """Make a run one of version 3, which knew no rules: neither in its manifest nor in its table of samples."""
    for name in ("manifest.json", "summary.json"):
        content = {**json.loads((run.folder / name).read_text()), "schema_version": 3}
        run.write_json(name, {key: value for key, value in content.items() if key not in ("scoring", "whole")})
    with run.connection as connection:
        for column in ("read", "undecided", "ours", "official", "authors"):
            connection.execute(f"ALTER TABLE samples DROP COLUMN {column}")


@pytest.mark.parametrize("own", [F1, MME, scoring("mean", "accuracy")], ids=lambda own: own["figure"]["kind"])
def test_a_run_of_an_older_version_compares_by_accuracy_with_one_under_our_rule(make_run, own):
    build = dict(**SMALL, images=range(40), scoring=own)
    old, new = make_run(**build), make_run(worse=WORSE, machine=1, **build)
    older(old)
    for first, second, named in ((old, new, "baseline"), (new, old, "candidate")):
        found = regress(first, second)
        assert bool(found.failed) == (named == "baseline")
        verdict = accuracy(found, "sts at 64")
        assert verdict.figure == "accuracy" and verdict.unit == "share" and "points [" in verdict.text
        (note,) = [note for note in found.notes if "older version" in note]
        assert note.startswith(f"The {named} is of an older version, whose rule that scores answers may differ")
        assert ("accuracy is compared" in note) == (own["figure"]["kind"] != "mean")
        facts = dict(found.facts)
        assert facts["Figure"] == "accuracy" and facts["Scored by"] == f"ours (ours function); the {named} does not tell its rule"
    *versions, note = regress(old, old).notes  # of the version of both, and of how little so few images see
    assert [said.partition(" was begun by schema version 3")[0] for said in versions] == ["The baseline", "The candidate"]
    assert "may be missed" in note and not {"Figure", "Scored by"} & set(dict(regress(old, old).facts))


@pytest.mark.parametrize("own", [F1, scoring("mean", "accuracy")], ids=lambda own: own["figure"]["kind"])
def test_beside_a_run_of_an_older_version_a_part_of_the_benchmark_is_marked(make_run, own):
    build = dict(**SMALL, images=range(12), scoring=own, whole=2374)
    old, new = make_run(**build), make_run(**build)
    older(old)
    for first, second in ((old, new), (new, old)):
        found = regress(first, second)
        assert {v.figure for v in found.verdicts if v.rule == "accuracy"} == {"accuracy (partial)"}
        assert dict(found.facts)["Figure"] == "accuracy, partial: 24 of 2,374 questions"
    assert accuracy(regress(old, old), "none").figure == "accuracy"


def test_which_rule_was_asked_for_is_no_setting_that_differs(make_run):
    build = dict(**SMALL, images=range(8), scoring=F1)
    one, other = make_run(**build), make_run(**build)
    manifest = other.manifest()
    other.write_json("manifest.json", {**manifest, "config": {**manifest["config"], "scoring": "ours"}})
    assert not [note for note in regress(one, other).notes if note.startswith("Settings differ")]


@pytest.mark.slow
@pytest.mark.parametrize("own", [F1, MME], ids=lambda own: own["figure"]["kind"])
def test_a_hundred_equal_builds_of_each_kind_raise_one_false_alarm_at_most(make_run, own):
    alarms = []
    for place in range(100):
        build = dict(scoring=own, questions=2, analysed=0, latency=False)
        at = lambda start: range(10_000 * place + start, 10_000 * place + start + 40)
        base = make_run(images=at(0), machine=2 * place, seed=2 * place, **build)
        other = make_run(images=at(500), machine=2 * place + 1, seed=2 * place, **build)
        lucky = make_run(images=at(0), machine=2 * place + 1, seed=2 * place + 1, **build)
        alarms += [bool(regress(base, other).failed), bool(regress(base, lucky).failed)]
        for run in (base, other, lucky):
            run.connection.close()
    print(f"{own['figure']['name']}: {sum(alarms[::2])} and {sum(alarms[1::2])} false alarms in 100 pairs of equal builds each")
    assert sum(alarms[::2]) <= 1 and sum(alarms[1::2]) <= 1


def test_a_task_without_answers_is_no_run_of_an_older_version(make_run, stored_run):
    build = dict(**SMALL, images=range(8))
    scored, blank = stored_run(scoring=scoring("mean", "accuracy"), **build), make_run(**build)
    blank.write_json("manifest.json", {**blank.manifest(), "scoring": None, "whole": None})
    told = f"the task of the candidate {blank.folder} has no right answers, and the other run's answers are scored"
    assert told in refusal(scored, blank) and "older version" not in refusal(scored, blank)
    assert f"the task of the baseline {blank.folder} has" in refusal(blank, scored)
