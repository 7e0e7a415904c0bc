"""Scenes, questions and evidence are pure functions, and the evidence really holds the answer."""

import numpy as np
import pytest

from harness.tasks.registry import create
from harness.tasks.shapes.families import FAMILIES
from harness.tasks.shapes.questions import ask_all, vocabulary
from harness.tasks.shapes.scene import GRID, PATCH, generator, handwriting, make_scene, paint


def test_samples_are_pure_functions_of_split_seed_and_index():
    a, b = (list(create("shapes").samples(3, seed=5)) for _ in range(2))
    for one, other in zip(a, b):
        assert one.image_id == other.image_id and one.image.tobytes() == other.image.tobytes()
        for q, p in zip(one.questions, other.questions):
            assert (q.text, q.answer) == (p.text, p.answer)
            assert (q.evidence is None) == (p.evidence is None)
            assert q.evidence is None or (q.evidence == p.evidence).all()
    longer = list(create("shapes").samples(5, seed=5))
    assert [s.image.tobytes() for s in longer[:3]] == [s.image.tobytes() for s in a]


def test_splits_and_seeds_differ():
    pictures = [paint(make_scene(split, seed, 0)).tobytes() for split in ("train", "validation", "test") for seed in (0, 1)]
    assert len(set(pictures)) == 6


def test_handwriting_is_disjoint_between_splits():
    _, digits, rows = handwriting()
    sets = {split: set(np.concatenate(list(by_digit.values())).tolist()) for split, by_digit in rows.items()}
    assert sets["train"].isdisjoint(sets["test"]) and sets["train"].isdisjoint(sets["validation"])
    assert sets["validation"].isdisjoint(sets["test"]) and sum(map(len, sets.values())) == len(digits) == 1797
    used = {w for i in range(30) for item in make_scene("test", 0, i).items for w in item.writings}
    assert used <= sets["test"]


@pytest.mark.parametrize("index", range(12))
def test_every_family_is_asked_and_words_are_known(index):
    scene = make_scene("test", 1, index)
    questions = ask_all(scene, generator("test", 1, index, 1))
    assert [q.family for q in questions] == [f for f in FAMILIES if f in {q.family for q in questions}]
    assert len(questions) >= 8
    known = set(vocabulary())
    for q in questions:
        assert set(q.text.split()) | set(q.answer.split()) <= known
        assert (q.evidence is None) == (q.family == "existence" and q.answer == "no")
        if q.evidence is not None:
            assert q.evidence.shape == (GRID, GRID) and 1 <= q.evidence.sum() <= 60


@pytest.mark.parametrize("index", range(8))
def test_evidence_covers_what_changes_when_the_thing_is_painted_out(index):
    """Repaint the scene without the thing asked about: outside the evidence hardly a pixel changes."""
    from dataclasses import replace

    scene = make_scene("test", 2, index)
    for q in ask_all(scene, generator("test", 2, index, 1)):
        if q.family not in ("colour", "shape", "dot"):
            continue
        kind = "dot" if q.family == "dot" else "object"
        asked = [i for i in scene.items if i.kind == kind and (i.tokens() == q.evidence).all()]
        assert len(asked) == 1
        without = replace(scene, items=tuple(i for i in scene.items if i is not asked[0]))
        changed = np.abs(np.asarray(paint(scene), int) - np.asarray(paint(without), int)).sum(-1) > 60
        tokens = changed.reshape(GRID, PATCH, GRID, PATCH).sum((1, 3))
        share = 0.7 if kind == "dot" else 0.85  # a sliver of the dot on a neighbouring token is not evidence
        assert tokens[q.evidence].sum() >= share * tokens.sum() > 0


def test_answers_are_balanced_enough_that_guessing_is_poor():
    answers: dict[str, list[str]] = {}
    for i in range(300):
        for q in ask_all(make_scene("test", 3, i), generator("test", 3, i, 1)):
            answers.setdefault(q.family, []).append(q.answer)
    for family, given in answers.items():
        most = max(given.count(a) for a in set(given)) / len(given)
        limit = {"existence": 0.6, "relation": 0.36, "count": 0.36, "quadrant": 0.36}.get(family, 0.26)
        assert most <= limit, (family, most)


def test_scoring_is_exact():
    task = create("shapes")
    assert task.score("3 1 4", "3 1 4") == 1 and task.score(" red", "red") == 1
    assert task.score("3 1", "3 1 4") == 0 and task.score("", "no") == 0
