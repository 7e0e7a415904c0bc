"""What a run of so many images cannot show is said before it answers anything."""

from __future__ import annotations

import pytest

import harness.run.accuracy_pass as accuracy_pass
from harness.results.same_cells import same_cells
from harness.run.comparison import compare
from harness.run.needed_images import known_correlation, too_few
from metrics.non_inferiority import images_needed

MARGIN, QUESTIONS = 0.02, 9
SMALL = {
    "methods": ["random", "sts"],
    "keep": [64],
    "samples": 2,
    "latency": False,
    "analyse": 0,
    "seeds": 1,
    "max_new_tokens": 1,
}


def ends(methods: int) -> list[int]:
    return [images_needed(MARGIN, QUESTIONS, rho, methods) for rho in (0.0, 1.0)]


@pytest.mark.parametrize("methods", [1, 6, 20])
def test_nothing_is_said_where_the_images_suffice_whatever_the_correlation(methods):
    enough = ends(methods)[1]
    assert too_few(enough, QUESTIONS, MARGIN, None, methods) is None
    assert too_few(enough - 1, QUESTIONS, MARGIN, None, methods) is not None
    for rho in (0.0, 0.12, 1.0):
        enough = images_needed(MARGIN, QUESTIONS, rho, methods)
        assert too_few(enough, QUESTIONS, MARGIN, rho, methods) is None
        assert f"at the correlation of {rho:.2f}" in (too_few(enough - 1, QUESTIONS, MARGIN, rho, methods) or "")


def test_it_says_what_can_be_shown_and_how_many_images_the_rest_takes():
    (alone, together), (best_alone, best_together) = ends(1), ends(20)
    assert alone < best_alone < together < best_together
    counts = f"{alone} images where answers of an image fail alone, {together} where all fail together"
    counts += f". As the best of 20 methods: {best_alone} to {best_together}"
    none = too_few(alone - 1, QUESTIONS, MARGIN, None, 20) or ""
    some = too_few(alone, QUESTIONS, MARGIN, None, 20) or ""
    named = too_few(together, QUESTIONS, MARGIN, None, 20) or ""
    assert all(said.endswith(f": that takes {counts}") and "\n" not in said for said in (none, some, named))
    unchanged = "a method that changes no answer"
    assert none.startswith(f"{unchanged} cannot be shown non-inferior on {alone - 1} images of 9 questions: that")
    assert len(none) < 220 and some.startswith(unchanged) and named.startswith(unchanged), "one that gains answers may be"
    assert f"shown non-inferior on {alone} images of 9 questions only where few answers of an image fail together" in some
    assert "if it was named beforehand, but as the best of 20 only where few answers" in named
    assert "if it was named beforehand, but not as the best of 20: that takes" in (too_few(130, QUESTIONS, MARGIN, 0.5, 20) or "")
    assert "best of" not in (too_few(alone, QUESTIONS, MARGIN, None, 1) or "")


def test_of_one_question_an_image_nothing_can_fail_together():
    said = too_few(100, 1.0, MARGIN, None, 1) or ""
    assert said.endswith("cannot be shown non-inferior on 100 images of 1 question: that takes 195 images")
    assert too_few(195, 1.0, MARGIN, None, 1) is None
    assert " on 1 image of 4.5 questions" in (too_few(1, 4.5, MARGIN, None, 1) or "")


def test_a_run_says_so_before_it_answers_and_an_extension_by_what_the_run_found(tmp_path, capsys, monkeypatch):
    said, right = [], accuracy_pass.run_accuracy_pass
    monkeypatch.setattr(accuracy_pass, "run_accuracy_pass", lambda *words: (said.append(capsys.readouterr().err), right(*words)))
    run = compare(out=tmp_path / "run", workers=1, **SMALL)
    (line,) = said[0].splitlines()
    assert line.startswith("note: --margin 0.02: a method that changes no answer cannot be shown non-inferior on 2 images of 9")
    assert "best of" not in line.lower(), "random tokens do not compete"
    assert run.store.manifest()["notes"] == [], "the page has it from the summary"
    rho = run.summary["checks"]["correlation"]["rho"]
    assert known_correlation(run.store) in (rho, None)
    compare(extend=run.folder, methods=["fps"], workers=1)
    (line,) = said[1].splitlines()
    assert "As the best of 2 methods: " in line
    assert (f"at the correlation of {rho:.2f} that this run has found" in line) == (known_correlation(run.store) is not None)


def test_an_extension_counts_cells_that_were_found_to_be_the_same_once(tmp_path, capsys):
    run = compare(out=tmp_path / "run", workers=1, **SMALL | {"methods": ["fastervlm", "hired"], "samples": 1})
    assert "As the best of 2 methods: " in capsys.readouterr().err, "before it answers nobody knows"
    assert len(same_cells(run.store)) == 1
    compare(extend=run.folder, methods=["fps"], workers=1)
    assert "As the best of 2 methods: " in capsys.readouterr().err


def test_where_no_method_competes_nothing_is_said(tmp_path, capsys):
    compare(out=tmp_path / "run", workers=1, **SMALL | {"methods": ["random"], "samples": 1})
    assert "--margin" not in capsys.readouterr().err
