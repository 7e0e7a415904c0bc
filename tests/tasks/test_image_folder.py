"""Folders of images without answers."""

import math

import pytest

from harness.errors import RequestError
from harness.tasks.base import aggregates
from harness.tasks.image_folder import DEFAULT_PROMPT
from harness.tasks.registry import create
from tests.tasks.conftest import BLUE, RED


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.png").write_bytes(RED)
    (tmp_path / "b.PNG").write_bytes(BLUE)
    (tmp_path / "deep" / "c.png").write_bytes(RED)
    (tmp_path / "notes.md").write_text("no image")
    return tmp_path


def prompts(expression):
    return {sample.image_id: [q.text for q in sample.questions] for sample in create(str(expression)).samples(99, 0)}


def test_every_image_gets_the_default_prompt(photos):
    assert prompts(photos) == {name: [DEFAULT_PROMPT] for name in ("a.png", "b.PNG", "deep/c.png")}
    assert prompts(f"{photos}[prompt=What is odd here?]")["a.png"] == ["What is odd here?"]


def test_prompts_come_from_files(photos):
    (photos / "prompts.txt").write_text("What is it?\n\n Where is it? \n", encoding="utf-8-sig")
    (photos / "a.txt").write_text("Only this?")
    (photos / "deep" / "c.png.txt").write_text("Or that?\n")
    assert prompts(photos) == {"a.png": ["Only this?"], "b.PNG": ["What is it?", "Where is it?"], "deep/c.png": ["Or that?"]}


def test_nothing_is_scored(photos):
    task = create(str(photos))
    assert not task.info.scored and math.isnan(task.score("a cat", "")) and aggregates(task, []) == {}
    (sample, *_), ids = list(task.samples(99, 0)), [q.sample_id for s in task.samples(99, 0) for q in s.questions]
    assert sample.questions[0].answer == "" and len(set(ids)) == len(ids)


def test_samples_are_pure_and_nested(photos):
    names = lambda count, seed: [s.image_id for s in create(str(photos)).samples(count, seed)]
    assert names(2, 1) == names(3, 1)[:2] and sorted(names(9, 2)) == sorted(names(3, 1)) and names(0, 1) == []


def test_the_digest_follows_images_and_prompts(photos):
    before = create(str(photos)).digest
    (photos / "a.txt").write_text("Only this?")
    assert create(str(photos)).digest != before


def test_what_is_wrong_is_named(photos, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RequestError, match=r"holds no \.jsonl, no \.parquet and no image"):
        create(str(empty))
    (photos / "a.txt").write_text(" \n")
    with pytest.raises(RequestError, match=r"a\.txt: holds no prompt"):
        create(str(photos))
    (photos / "a.txt").write_bytes(b"ok \xff")
    with pytest.raises(RequestError, match=r"a\.txt, byte 4: not UTF-8"):
        create(str(photos))
    (photos / "a.txt").unlink()
    (photos / "a.png").write_bytes(b"no")
    with pytest.raises(RequestError, match=r"a.png: not an image"):
        _ = [sample.image for sample in create(str(photos)).samples(99, 0)]
    with pytest.raises(RequestError, match="has no parameter 'metric'"):
        create(f"{photos}[metric=exact]")
