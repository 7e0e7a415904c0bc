"""Two builds: what is planted is found by its own rule alone, equal builds stay silent, and wrong requests say so."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from harness.cli import app as cli
from harness.errors import RequestError
from harness.results.regression.pairing import mean_jaccard
from harness.results.regression.regress import regress
from harness.results.regression.thresholds import DEFAULTS, read_thresholds
from harness.results.several import side_by_side
from harness.store.arrays import pack

ROOT = Path(__file__).parents[2]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def failed(found) -> set[tuple[str, str]]:
    return {(v.rule, v.cell) for v in found.failed}


def verdict(found, rule: str, cell: str):
    return next(v for v in found.verdicts if (v.rule, v.cell) == (rule, cell))


PLANTED = [
    ("accuracy", dict(worse={("sts", 64): 0.5})),
    ("accuracy", dict(worse={("none", None): 0.5})),
    ("schedule", dict(schedule={("sts", 64): 4})),
    ("drift", dict(drift={("fastv", 24): 0.25})),
    ("latency", dict(slower={("fastv", 64): 1.35})),
    ("diversity", dict(poorer={("sts", 24): 0.75})),
    ("flops", dict(dearer={("sts", 64): 3.0})),
    ("vanished", dict(without=frozenset({("tome", 64)}))),
    ("skipped", dict(skipped={("sts", 64): "the tower has no CLS token"})),
]


@pytest.mark.parametrize(("rule", "planted"), PLANTED, ids=lambda v: v if isinstance(v, str) else "")
def test_what_is_planted_is_found_by_its_own_rule_alone(stored_run, rule, planted):
    (cells,) = planted.values()
    ((method, keep),) = cells
    found = regress(stored_run(), stored_run(machine=1, **planted))
    assert failed(found) == {(rule, method if keep is None else f"{method} at {keep}")} and found.exit_code == 1
    if rule not in ("accuracy", "drift"):  # the same on other questions; too few to see the first, none to see the second
        assert {r for r, _ in failed(regress(stored_run(), stored_run(images=range(100, 124), machine=1, **planted)))} <= {rule}
    better = regress(stored_run(**planted), stored_run(machine=1))
    assert {r for r, _ in failed(better)} == ({rule} if rule in ("schedule", "drift", "flops") else set())


def test_a_drop_between_different_images(stored_run):
    before, after = (
        stored_run(images=range(60), analysed=0),
        stored_run(images=range(100, 160), worse={("sts", 64): 0.6}, analysed=0),
    )
    found = regress(before, after)
    assert failed(found) == {("accuracy", "sts at 64")}
    assert "60 and 60 different images" in verdict(found, "accuracy", "sts at 64").text
    assert verdict(found, "drift", "sts at 64").status == "not judged"
    assert verdict(found, "flops", "sts at 64").status == verdict(found, "kv_bytes", "sts at 64").status == "passed"
    assert any("share too few questions" in note for note in found.notes)
    dearer = regress(before, stored_run(images=range(100, 160), dearer={("sts", 64): 20.0}, analysed=0))
    assert failed(dearer) == {("flops", "sts at 64")}


def equal_pairs(make_run, count: int, first: int = 0, **build) -> list[set]:
    """What fails in pairs of equal builds: on other images and machines, then on the same with another seed of random."""
    alarms = []
    images = build.pop("images")
    for place in range(first, first + count):
        at = lambda start: range(10_000 * place + start, 10_000 * place + start + images)
        base = make_run(images=at(0), machine=2 * place, seed=2 * place, **build)
        other = make_run(images=at(500), machine=2 * place + 1, seed=2 * place, **build)
        lucky = make_run(images=at(0), machine=2 * place + 1, seed=2 * place + 1, **build)
        alarms += [failed(regress(base, other)), failed(regress(base, lucky))]
        for stored in (base, other, lucky):
            stored.connection.close()
    return alarms


def test_equal_builds_stay_silent(make_run):
    assert sum(map(bool, equal_pairs(make_run, 10, images=16, questions=4, analysed=8))) == 0


@pytest.mark.slow
def test_a_hundred_equal_builds_of_each_kind_raise_one_false_alarm_at_most(make_run):
    alarms = equal_pairs(make_run, 100, images=24)
    assert sum(map(bool, alarms[::2])) <= 1 and sum(map(bool, alarms[1::2])) <= 1


def test_identical_runs(stored_run):
    one = stored_run()
    found = regress(one, one)
    assert not found.failed and found.exit_code == 0
    (note,) = found.notes  # that nothing changed does not show that anything could have been seen
    assert re.fullmatch(
        r"In half of the cells, a drop of accuracy under [56]\d\.\d points may be missed more than one time in five; "
        r"to see a drop of 2 points takes about [78]\d0 images\.", note,
    ), note  # fmt: skip
    assert all(v.candidate == 1 for v in found.verdicts if v.rule in ("drift", "agreement"))
    assert {v.rule for v in found.of("not judged")} == {"drift"}  # of mergers


def test_choices_by_luck_drift_only_under_one_seed(stored_run):
    other = regress(stored_run(seed=1), stored_run(seed=2))
    for cell in ("random at 64", "random[like=fastv] at 24", "oracle at 64"):
        assert verdict(other, "drift", cell).status == "not judged" and "seeds differ" in verdict(other, "drift", cell).text
    assert verdict(other, "drift", "sts at 64").status == "passed" and not other.failed
    same = regress(stored_run(), stored_run(drift={("random", 64): 0.5}))
    assert failed(same) == {("drift", "random at 64")}


def test_what_follows_from_another_schedule_is_not_judged_twice(stored_run):
    found = regress(stored_run(), stored_run(schedule={("sts", 64): 8}))
    for rule in ("flops", "kv_bytes", "drift", "diversity"):
        assert (
            verdict(found, rule, "sts at 64").status == "not judged"
            and "schedule differs" in verdict(found, rule, "sts at 64").text
        )
    assert "LLM layer 0: 64 → 56; 4 of 4 differ" in verdict(found, "schedule", "sts at 64").text


def test_tokens_of_the_tower(make_run, edit_facts):
    one, other, silent = make_run(), make_run(), make_run()
    for stored, counts in ((one, [145, 129, 113]), (other, [145, 129, 97])):
        edit_facts(stored, "tome", 64, tower=counts)
    found = regress(one, other)
    assert failed(found) == {("schedule", "tome at 64")}
    assert verdict(found, "schedule", "tome at 64").text == "tokens at tower block 2: 113 → 97; 1 of 3 differ"
    assert {v.status for v in regress(silent, one).verdicts if (v.rule, v.cell) == ("flops", "tome at 64")} == {"passed"}


def test_a_schedule_that_was_planned_alike_and_not_kept(make_run, edit_facts):
    one, other = make_run(), make_run(schedule={("sts", 64): 4})
    facts = next(f for _, _, f in one.cells() if (f["method"], f["keep"]) == ("sts", 64))
    edit_facts(other, "sts", 64, schedule=facts["schedule"], flops=facts["flops"])
    found = regress(one, other)
    assert failed(found) == {("schedule", "sts at 64")} and "144 of 144" in verdict(found, "schedule", "sts at 64").text


def test_kv_bytes(make_run, edit_facts):
    one, other, timed = make_run(), make_run(), make_run()
    flops = next(f for _, _, f in one.cells() if f["method"] == "tome")["flops"]
    edit_facts(other, "tome", 64, flops={**flops, "kv_bytes": 2 * flops["kv_bytes"]})
    assert failed(regress(one, other)) == {("kv_bytes", "tome at 64")}
    edit_facts(one, "sts", 64, kv={"measured": 1000, "predicted": 1000})
    edit_facts(timed, "sts", 64, kv={"measured": 1200, "predicted": 1000})
    assert failed(regress(one, timed)) == {("kv_bytes", "sts at 64")}


def test_counts_that_follow_from_the_images(make_run, edit_facts):
    one, near, far = make_run(), make_run(), make_run()
    base = next(f for _, _, f in one.cells() if f["method"] == "tome" and f["keep"] == 64)
    for stored, factor in ((one, 1.0), (near, 1.01), (far, 1.2)):
        tokens = {"final": 64 * factor, "average": 64 * factor}
        flops = {name: value * factor for name, value in base["flops"].items()}
        edit_facts(stored, "tome", 64, adaptive=True, tokens=tokens, schedule=[64 * factor] * 4, flops=flops)
    assert not regress(one, near).failed
    assert failed(regress(one, far)) == {(rule, "tome at 64") for rule in ("schedule", "flops", "kv_bytes")}
    other = make_run(images=range(100, 124))
    edit_facts(other, "tome", 64, adaptive=True)
    found = regress(one, other)
    assert all(verdict(found, rule, "tome at 64").status == "not judged" for rule in ("schedule", "flops", "kv_bytes"))


def test_times_that_spread_and_missing_times_are_not_judged(stored_run):
    slow = {("fastv", 64): 1.5}
    found = regress(stored_run(), stored_run(spread=0.3, slower=slow))
    assert verdict(found, "latency", "fastv at 64").status == "not judged" and not found.failed
    found = regress(stored_run(), stored_run(latency=False))
    assert verdict(found, "latency", "fastv at 64").text == "the candidate has no times" and not found.failed
    assert not any(v.rule == "latency" for v in regress(stored_run(latency=False), stored_run(latency=False)).verdicts)


@pytest.mark.parametrize("rounds", [1, 2])
def test_too_few_rounds_are_not_judged(make_run, rounds):
    found = regress(make_run(), make_run(rounds=rounds, slower={("fastv", 64): 3.0}))
    said = verdict(found, "latency", "fastv at 64")
    many = "one round" if rounds == 1 else "2 rounds"
    assert said.status == "not judged" and not found.failed and said.candidate < said.baseline
    assert said.text == f"the candidate was timed in {many}, too few to tell a loss from chance; use 3 or more"


def test_a_loss_of_speed_that_few_rounds_do_not_tell_from_chance_is_not_passed(make_run):
    found = regress(make_run(rounds=3), make_run(rounds=3, machine=1, slower={("fastv", 64): 1.3}))
    said = verdict(found, "latency", "fastv at 64")
    assert said.status == "not judged" and not found.failed
    assert "that chance gives in some cell with p = " in said.text and said.text.endswith("; more rounds would tell")


def test_noise_hides_no_loss_that_is_larger_than_it(make_run):
    """Times that spread too far to pass do not spread too far to fail."""
    found = regress(make_run(), make_run(spread=0.3, rounds=40, machine=1, slower={("fastv", 64): 4.0}))
    said = verdict(found, "latency", "fastv at 64")
    assert failed(found) == {("latency", "fastv at 64")} and "over all cells; a loss of 15.0 % is tolerated" in said.text


@pytest.mark.parametrize("older", ["baseline", "candidate"])
def test_a_sum_of_stages_is_not_held_against_a_time_in_one_piece(stored_run, older):
    """A loss as large as any is not judged, and the report says why; two runs of one sort are."""
    slow = {("fastv", 64): 4.0}
    runs = [stored_run(in_one_piece=older != "baseline"), stored_run(in_one_piece=older != "candidate", slower=slow)]
    found = regress(*runs)
    told = [v for v in found.verdicts if v.rule == "latency"]
    assert not found.failed and told and {v.status for v in told} == {"not judged"}
    (text,) = {v.text for v in told}
    assert text.startswith(f"the {older} sums its time to first token from stages") and "they are not comparable" in text
    assert {(v.baseline, v.candidate) for v in told} == {(None, None)}, "no two numbers side by side that do not compare"
    assert sum(f"Times to first token of the {older} are summed from stages" in note for note in found.notes) == 1
    summed = regress(stored_run(in_one_piece=False), stored_run(in_one_piece=False, slower=slow))
    assert failed(summed) == {("latency", "fastv at 64")} and not any("one piece" in note for note in summed.notes)
    notes = side_by_side(runs).notes
    assert sum("is summed from stages, as older versions did" in note for note in notes) == 1


@pytest.mark.parametrize("place", [0, 1])
def test_of_a_run_that_grew_under_a_later_version_it_is_said_that_its_times_are_of_two_sorts(place, make_run):
    """It is not said of the other run, whose times were summed too, that they were taken in one piece."""
    runs = [make_run(in_one_piece=False), make_run(in_one_piece=False)]
    assert not any("one piece" in note for note in regress(*runs).notes)
    times = [(ident, 0, turn, "ttft", 1.0 + turn) for ident, _, _ in runs[place].cells()[:2] for turn in range(3)]
    runs[place].add_timings(1, times)
    (said,) = (note for note in regress(*runs).notes if "one piece" in note)
    mixed = ("baseline", "candidate")[place]
    assert (
        said.startswith(f"Times to first token of some cells of the {mixed} are summed from stages") and "other run" not in said
    )


def test_beside_other_runs_one_that_grew_under_a_later_version_is_summed_in_some_cells(make_run):
    old, grown = make_run(in_one_piece=False), make_run(in_one_piece=False)
    with grown.connection as connection:  # of one cell the times are those of a later pass, in which they were taken in one piece
        connection.execute("DELETE FROM timings WHERE cell = (SELECT max(cell) FROM timings)")
    none, last = grown.cells()[0][0], grown.cells()[-1][0]
    grown.add_timings(1, [(ident, 0, turn, "ttft", 1.0 + turn) for ident in (none, last) for turn in range(3)])
    edited = json.loads((grown.folder / "summary.json").read_text()) | {"schema_version": 7}
    grown.write_json("summary.json", edited)
    (said,) = (note for note in side_by_side([old, grown]).notes if "one piece" in note)
    names = [run.folder.name for run in (old, grown)]
    assert said.startswith(f"Time to first token of {names[0]} and some cells of {names[1]} is summed from stages")


def test_cells_that_were_known_early_compare_on_the_rounds_that_they_have(stored_run):
    """Rounds that a cell was left out of are no rounds of it; what is left tells of a loss as it would alone."""
    early = {("fastv", 64): 7, ("sts", 24): 2}
    found = regress(stored_run(known=early), stored_run(known=early, machine=1, slower={("fastv", 64): 2.0}))
    assert failed(found) == {("latency", "fastv at 64")}
    assert verdict(found, "latency", "sts at 24").text.startswith("the baseline was timed in 2 rounds, too few")
    assert verdict(found, "latency", "sts at 64").status == "passed"


def test_times_alike_in_every_round_tell_of_no_chance(make_run):
    one, other = make_run(), make_run()
    for run in (one, other):
        with run.connection as connection:
            connection.execute("UPDATE timings SET seconds = 0.25")
    found = regress(one, other)
    assert {v.text for v in found.verdicts if v.rule == "latency"} == {
        "the times are the same in every round, so that chance is not known"
    }


def test_speed_is_tested_over_all_cells(stored_run, tmp_path):
    """A loss that one cell alone would show is chance among many; the level says how often."""
    file, slow = tmp_path / "mine.toml", stored_run(machine=1, slower={("fastv", 64): 1.35})
    file.write_text("[latency]\nlevel = 1e-15\n")
    assert failed(regress(stored_run(), slow)) == {("latency", "fastv at 64")}
    assert not regress(stored_run(), slow, read_thresholds(file)).failed


def test_a_machine_that_favours_one_of_two_equal_runs_widens_the_tolerance(make_run):
    one, slow = make_run(), make_run(slower={("fastv", 64): 1.35})
    summary = slow.summary()
    slow.write_json("summary.json", {**summary, "checks": {"aa": {"value": 1.4, "lo": 1.3, "hi": 1.5}}})
    assert not regress(one, slow).failed


def test_too_few_images_to_tell(stored_run):
    found = regress(stored_run(images=range(6)), stored_run(images=range(6), worse={("sts", 64): 0.8}))
    assert not found.failed and verdict(found, "accuracy", "sts at 64").status == "not judged"
    assert "6 images are too few" in verdict(found, "accuracy", "sts at 64").text
    (note,) = found.notes
    assert re.fullmatch(
        r"6 images are too few for any drop of accuracy to be significant; to see a drop of 2 points takes about [\d,]+ images\.",
        note,
    )


def test_one_image_does_not_say_how_many_it_takes(stored_run):
    one = stored_run(images=range(1))
    assert regress(one, one).notes == ("1 images are too few for any drop of accuracy to be significant; use more.",)


def test_a_drop_to_nothing_may_be_missed(stored_run):
    one = stored_run(images=range(13))
    (note,) = regress(one, one).notes
    assert note.startswith("On 13 images, even a drop of accuracy to nothing may be missed more than one time in five; to see a ")


def test_runs_that_share_some_questions(stored_run):
    most = regress(stored_run(images=range(24)), stored_run(images=range(8, 40), machine=1, worse={("sts", 64): 0.8}))
    assert failed(most) == {("accuracy", "sts at 64")} and "96 questions of 16 images" in dict(most.facts)["Samples"]
    few = regress(stored_run(images=range(24)), stored_run(images=range(20, 44)))
    assert "20 and 20 different images" in verdict(few, "accuracy", "sts at 64").text and not few.failed


def test_questions_that_share_no_more_than_their_names_are_not_paired(make_run):
    one, other = make_run(), make_run()
    with other.connection as connection:
        connection.execute("UPDATE questions SET question = question || ' now'")
    assert dict(regress(one, other).facts)["Samples"].startswith("unpaired")


def test_samples_that_fail(make_run):
    one, other = make_run(), make_run()
    with other.connection as connection:
        connection.execute("UPDATE samples SET failed = 'out of memory' WHERE question LIKE 'i3-%' AND cell = 3")
    (found,) = regress(one, other).failed
    assert found.rule == "failures" and "0.0 % → 4.2 %" in found.text


def test_new_cells_and_cells_measured_at_last(stored_run):
    found = regress(stored_run(without=frozenset({("tome", 64)}), skipped={("sts", 64): "no CLS"}), stored_run())
    assert {(v.cell, v.text) for v in found.verdicts if v.rule == "new"} == {
        ("tome at 64", "the baseline has no such cell"), ("sts at 64", "measured now, skipped before: no CLS")
    }  # fmt: skip
    assert not found.failed


def test_notes(make_run, edit_facts):
    one, other = make_run(), make_run()
    manifest = other.manifest()
    changed = {"fingerprints": {"code": "beef", "weights": "abcd"}, "dtype": "bfloat16"}
    other.write_json("manifest.json", {**manifest, **changed, "config": {**manifest["config"], "max_new_tokens": 3}})
    found = regress(one, other)
    assert "different weights" in found.notes[0] and "max_new_tokens None → 3, dtype float32 → bfloat16" in found.notes[1]
    assert dict(found.facts)["Code"] == "c0de → beef"


def test_other_code_of_greedy_selections_is_told_and_another_wish_for_the_same_is_not(make_run):
    one, other, third, fourth = make_run(), make_run(), make_run(), make_run()
    config = one.manifest()["config"]
    for run, asked, ran, loops in (
        (other, "auto", "triton", ["triton"]), (third, "torch", "torch", ["torch"]), (fourth, "auto", "triton", [])
    ):  # fmt: skip
        kernels = {
            "asked": asked, "chosen": ran, "triton": "3.9.0" if ran == "triton" else None, "why": None,
            "loops": [{"loop": "max_min", "ran": code, "tokens": [36, 36], "reason": ""} for code in loops],
        }  # fmt: skip
        run.write_json("manifest.json", {**run.manifest(), "kernels": kernels, "config": {**config, "kernels": asked}})
    assert "Settings differ: kernels torch → triton." in regress(one, other).notes
    assert "Settings differ: kernels triton → torch." in regress(other, third).notes
    assert not any("kernels" in note for note in regress(one, third).notes)
    assert not any("kernels" in note for note in regress(third, fourth).notes), "what nothing in a run uses makes no difference"


def test_float32_that_a_gpu_may_have_rounded_is_told(make_run):
    one, other = make_run(), make_run()
    for run, tf32 in ((one, {}), (other, {"tf32": False})):
        run.write_json("manifest.json", {**run.manifest(), "device": "cuda:0 A100", "dtype": "float32", **tf32})
    assert "Settings differ: float32 on the GPU TF32 possible → whole." in regress(one, other).notes
    assert not any("TF32" in note for note in regress(other, other).notes)
    assert any(note.startswith("float32 on the GPU is whole in ") for note in side_by_side([one, other]).notes)


def test_a_task_that_allows_longer_answers_by_now_is_told(make_run):
    one, other = make_run(), make_run()
    for run, length in ((one, 16), (other, 128)):
        run.write_json("manifest.json", {**run.manifest(), "task_info": {"answer_tokens": length}})
    assert "Settings differ: max_new_tokens 16 → 128." in regress(one, other).notes


def test_rules_that_do_not_judge(stored_run, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[drift]\njudge = false\n\n[accuracy]\ntolerance = 1\n")
    limits = read_thresholds(file)
    assert limits.latency == read_thresholds().latency and limits.accuracy.level == read_thresholds().accuracy.level
    planted = stored_run(drift={("fastv", 24): 0.5}, worse={("sts", 64): 0.9})
    found = regress(stored_run(), planted, limits)
    assert not found.failed and verdict(found, "drift", "fastv at 24").status == "noted"
    strict = replace(read_thresholds(), drift=replace(limits.drift, judge=True, jaccard=1.0))
    assert "drift" in {v.rule for v in regress(stored_run(), stored_run(machine=1), strict).failed}


def test_every_default_is_explained():
    for line in DEFAULTS.read_text().splitlines():
        assert not line or line.startswith("#") or line.startswith("judge = true") or "#" in line or line.startswith("["), line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[acuracy]\ntolerance = 0.1", "did you mean 'accuracy'"),
        ("[accuracy]\ntolerence = 0.1", "did you mean 'tolerance'"),
        ("[accuracy]\ntolerance = 'much'", "must be a number"),
        ("[accuracy]\ntolerance = -1", "0 or more"),
        ("[accuracy]\ntolerance = true", "must be a number"),
        ("[accuracy]\nlevel = 1", "between 0 and 1"),
        ("[drift]\njudge = 1", "true or false"),
        ("[drift]\njaccard = 90", "between 0 and 1"),
        ("[diversity]\nfigures = 'vendi'", "a list of names"),
        ("[diversity]\nfigures = ['vendy']", "did you mean 'vendi'"),
        ("[benchmarks]\nmin_rounds = 2.5", "a whole number"),
        ("accuracy = 3", "must be a table"),
        ("[accuracy", "is no TOML"),
    ],
)
def test_wrong_thresholds(capsys, stored_run, tmp_path, text, message):
    file, one = tmp_path / "mine.toml", stored_run(images=range(2))
    file.write_text(text)
    code, out, err = run(capsys, "regress", one.folder, one.folder, "--thresholds", file)
    assert code == 2 and message in err and len(err.splitlines()) == 1 and not out
    code, _, err = run(capsys, "regress", one.folder, one.folder, "--thresholds", tmp_path / "none.toml")
    assert code == 2 and "cannot be read" in err


def test_the_command(capsys, stored_run, tmp_path):
    one, planted = stored_run(), stored_run(machine=1, worse={("sts", 64): 0.5}, without=frozenset({("tome", 64)}))
    outputs = {kind: tmp_path / "out" / f"found.{kind}" for kind in ("markdown", "junit", "html")}
    options = [text for kind, path in outputs.items() for text in (f"--{kind}", path)]
    code, out, err = run(capsys, "regress", one.folder, planted.folder, *options)
    assert code == 1 and not err and out == outputs["markdown"].read_text()
    assert out.startswith("**Regression: accuracy and vanished.** 2 of ")
    suites = ElementTree.parse(outputs["junit"]).getroot()
    assert suites.get("failures") == "2" and "<h1>Regression: accuracy and vanished.</h1>" in outputs["html"].read_text()
    code, out, _ = run(capsys, "regress", one.folder, planted.folder, "--json")
    found = json.loads(out)
    assert (
        code == 1
        and found["failed"]
        and {v["rule"] for v in found["verdicts"] if v["status"] == "failed"} == {"accuracy", "vanished"}
    )
    code, out, _ = run(capsys, "regress", one.folder, "--against", one.folder)
    assert code == 0 and out.startswith("**No regression.** 0 of ")
    code, _, err = run(capsys, "regress", one.folder, one.folder, "--junit", one.folder)
    assert code == 2 and "--junit" in err and "cannot write" in err


def test_wrong_requests(capsys, make_run, tmp_path):
    one, other = make_run(images=range(2)), make_run(images=range(2), prompt="look: {question}")
    code, _, err = run(capsys, "regress", one.folder, tmp_path / "nowhere")
    assert code == 2 and "no finished run there" in err and not (tmp_path / "nowhere").exists()
    code, _, err = run(capsys, "regress", one.folder, other.folder)
    assert code == 2 and "no cell in common" in err
    code, _, err = run(capsys, "regress", one.folder)
    assert code == 2 and "BASELINE and CANDIDATE" in err
    code, _, err = run(capsys, "regress", one.folder, one.folder, "--against", one.folder)
    assert code == 2 and "--against" in err
    (tmp_path / "b.json").write_text("{}")
    code, _, err = run(capsys, "regress", one.folder, tmp_path / "b.json")
    assert code == 2 and "two kinds" in err
    other.write_json("manifest.json", {**json.loads((other.folder / "manifest.json").read_text()), "schema_version": 1})
    code, _, err = run(capsys, "regress", one.folder, other.folder)
    assert code == 2 and "schema version 1" in err and len(err.splitlines()) == 1
    (other.folder / "results.sqlite").unlink()
    other.write_json("manifest.json", {**json.loads((other.folder / "manifest.json").read_text()), "schema_version": 2})
    code, _, err = run(capsys, "regress", one.folder, other.folder)
    assert code == 2 and "results.sqlite: is missing" in err and not (other.folder / "results.sqlite").exists()
    (other.folder / "results.sqlite").write_bytes(b"no database, but long enough to be asked about" * 100)
    for file in ("results.sqlite-wal", "results.sqlite-shm"):
        (other.folder / file).unlink(missing_ok=True)
    code, _, err = run(capsys, "regress", one.folder, other.folder)
    assert code == 2 and "is no SQLite database" in err


def test_against_a_run_that_git_holds(capsys, make_run, tmp_path, monkeypatch):
    one, drifted = make_run(images=range(12)), make_run(images=range(12), drift={("sts", 64): 0.5})
    one.connection.close()
    repository = tmp_path / "repository"
    (repository / "runs").mkdir(parents=True)
    one.folder.rename(repository / "runs" / "base")
    git = lambda *words: subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=repository, check=True, capture_output=True
    )
    git("init", "-q", "-b", "main")
    git("add", "-f", ".")
    git("commit", "-q", "-m", "a run")
    (repository / "runs" / "pointer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    git("add", "-f", ".")
    git("commit", "-q", "-m", "a pointer")
    monkeypatch.chdir(repository / "runs")
    code, out, err = run(capsys, "regress", drifted.folder, "--against", "main:runs/base")
    assert code == 1 and not err and "drift" in out.splitlines()[0] and "`main:runs/base`" in out
    code, out, _ = run(capsys, "regress", "HEAD~1:./base", "main:runs/base")
    assert code == 0
    for name, message in (
        ("main:runs/none", "git has no such file"), ("nothing:runs/base", "git has no such file"),
        ("--output=x:y", "No such option"), ("main:", "neither a folder nor REF:PATH"), ("main:runs/pointer.json", "Git LFS"),
    ):  # fmt: skip
        code, _, err = run(capsys, "regress", name, drifted.folder)
        assert code == 2 and message in err, name
    assert subprocess.run(["git", "status", "--porcelain"], cwd=repository, capture_output=True, text=True).stdout == ""


def test_jaccard():
    one, other = np.zeros((2, 12, 12), bool)
    one[0, :4], other[0, 2:6] = True, True
    masks = lambda *values: np.array(values, dtype=object)
    assert mean_jaccard(masks(pack(one)), masks(pack(other))) == pytest.approx(2 / 6)
    empty = pack(np.zeros((3, 3), bool))
    assert mean_jaccard(masks(pack(one), empty, None), masks(pack(one), empty, empty)) == 1.0
    assert mean_jaccard(masks(None), masks(empty)) is None and mean_jaccard(masks(pack(one)), masks(empty)) is None


def test_neither_torch_nor_anything_heavy(stored_run):
    one = stored_run(images=range(3))
    blocked = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "matplotlib", "pandas", "seaborn"):
            raise ImportError(name)
sys.meta_path.insert(0, NoTorch())
import harness.cli.stored_runs, harness.bridges.pytest_plugin
assert "numpy" not in sys.modules
from harness.cli import app as cli
cli.main(sys.argv[1:])
"""
    for words in (("regress", one.folder, one.folder, "--html", one.folder / "r.html"), ("samples", one.folder, "--jsonl")):
        done = subprocess.run([sys.executable, "-c", blocked, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_runs_in_python(stored_run):
    one = stored_run(images=range(3))
    assert not regress(one.folder, str(one.folder)).failed
    with pytest.raises(RequestError, match="no finished run"):
        regress(one.folder, one.folder / "nowhere")


def test_who_answers_is_no_setting_that_differs(make_run):
    """Workers and a cluster change no answer; the budget does."""
    before, after = make_run(), make_run()
    manifest = after.manifest()
    manifest["config"] |= {"workers": 7, "ray": "auto"}
    after.write_json("manifest.json", manifest)
    assert not [note for note in regress(before, after).notes if note.startswith("Settings differ")]
    manifest["config"] |= {"max_new_tokens": 7}
    after.write_json("manifest.json", manifest)
    assert [note for note in regress(before, after).notes if note.startswith("Settings differ: max_new_tokens")]
