"""Files as people have them: what is read, what is said, and what is refused, through the real command line."""

from __future__ import annotations

import base64
import csv
import json
import sqlite3
from contextlib import closing

import pytest
from PIL import Image

from harness.models.random_families.words import QUESTIONS
from tests.field.conftest import DATA, command
from tests.models.test_loading import saved
from tests.models.tiny_families import make, picture

ROW = {"image": "rgb.png", "question": "what color is the dot ?", "answer": "yellow"}


def jsonl(folder, rows, name="rows.jsonl"):
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder / name


def named(**columns):
    """The usual row with some columns under other names; None leaves one out."""
    return {key: value for key, value in {**ROW, **columns}.items() if value is not None}


REFUSED = {
    "Answer": (named(answer=None, Answer="yellow"), "nothing reads column 'Answer'; did you mean 'answer'?"),
    "anwser": (named(answer=None, anwser="yellow"), "nothing reads column 'anwser'; did you mean 'answer'?"),
    "label": (named(answer=None, label="yellow"), "nothing reads column 'label'; did you mean 'answer'?"),
    "answer_list": (named(answer=None, answer_list=["yellow"]), "nothing reads column 'answer_list'; did you mean 'answer'?"),
    "Question": (named(question=None, Question="what ?"), "no column 'question'; did you mean 'Question'?"),
    "img": (named(image=None, img="rgb.png"), "no column 'image'; did you mean 'img'?"),
    "image_file": (named(image=None, image_file="rgb.png"), "no column 'image'; did you mean 'image_file'?"),
    "choises": (named(choises=["red", "blue"]), "nothing reads column 'choises'; did you mean 'choices'?"),
    "a and b": (named(a="red", b="blue"), "nothing reads column 'a'; did you mean 'A'?"),
    "two marks": (
        named(question="<image> <image> what ?"),
        "line 1, column 'question': holds 2 image marks where 1 image is given",
    ),
    "one mark of two": (
        named(image=["rgb.png", "gray8.png"], question="<image> what ?"),
        "line 1, column 'question': holds 1 image mark where 2 images are given",
    ),
    "a mark without image": (named(images=[], image=None, question="<image> what ?"), "column 'question': holds 1 image mark"),
    "a number twice": (
        named(images=["rgb.png", "gray8.png"], question="<image 1> or <image 1> ?"),
        "column 'question': holds 2 image marks where 2 images are given; write each of <image 1> to <image 2> once",
    ),
    "no image at all": (named(image=None, images=[]), "line 1, column 'images': is empty, and no other row has an image"),
    "an option left out": (named(A="red", B="blue", D="green", answer="D"), "column 'C': is empty"),
    "a list that is none": (named(answer=None, answers="['red', blue]"), "is ['red', blue], which looks like a list"),
    "two ways to read it": (
        named(choices=["1", "2", "3"], answer=1),
        "column 'answer': '1' is both a place and another option; write its letter",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_row_that_could_be_read_wrongly_is_refused(field, compared, kind):
    row, message = REFUSED[kind]
    ran = compared(jsonl(field, [row]), expect=2)
    assert message in ran.err and "rows.jsonl" in ran.err and len(ran.err.strip().splitlines()) == 1
    assert not ran.folder.exists()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny models of two families as folders."""
    found = {}
    for name in ("llava", "llava-next"):
        found[name] = tmp_path_factory.mktemp(name)
        saved(make(name), found[name])
    return found


def test_the_inputs_of_the_field_that_are_refused(field, compared, folders):
    assert "did you mean 'answer'?" in compared(field / "misspelled_answer.jsonl", expect=2).err
    said = compared(field / "image_id_clash.parquet", model=folders["llava"], keep="8", expect=2).err
    assert "image_id_clash.parquet, row" in said and said.count("row ") == 2 and "image_id" in said


def test_an_image_id_that_starts_anew_in_every_file_is_refused(field, compared):
    folder = field / "shards"
    folder.mkdir()
    for number, name in enumerate(("rgb.png", "gray8.png")):
        held = base64.b64encode((field / name).read_bytes()).decode()
        jsonl(folder, [{"image": held, "question": "what ?", "answer": "x", "image_id": 0}], f"part{number}.jsonl")
    said = compared(folder, expect=2).err
    assert "part0.jsonl, line 1" in said and "part1.jsonl, line 1" in said


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A run on rows of many kinds."""
    import shutil

    base = tmp_path_factory.mktemp("mixed")
    shutil.copytree(DATA, base / "field")
    long = json.loads((DATA / "long_question.jsonl").read_text().splitlines()[0])
    rows = [
        {**ROW, "id": "plain"},
        {**ROW, "id": "marked", "question": "<image>\nwhat color is the dot ?"},
        {**ROW, "id": "listed", "answer": None, "answers": "['yellow', 'gold']"},
        {**ROW, "id": "alone", "image": None},
        {**ROW, "id": "eight", "image": "gray8.png"},
        {**ROW, "id": "sixteen", "image": "gray16.png"},
        {**ROW, "id": "clear", "image": "black_on_transparent.png"},
        {**long, "id": "long"},
        {**ROW, "id": "source", "source": "the field", "image": "s3.png"},
    ]
    file = jsonl(base / "field", rows)
    words = ["--workers", "1", "--no-latency", "--seeds", "1", "--analyse", "2", "--methods", "sts,divprune", "--keep", "64"]
    code, out, err = command("compare", "--model", "tiny", "--task", str(file), "--out", str(base / "run"), *words)
    assert code == 3, err  # done, but the long question failed
    from tests.field.conftest import Ran

    return Ran(code, out, err, base / "run")


METHODS = ("none", "divprune", "downsample")


def test_a_mark_at_the_start_is_what_no_mark_means(mixed):
    rows = mixed.rows
    for method in METHODS:
        assert rows[method, "marked"]["prediction"] == rows[method, "plain"]["prediction"]
    assert rows["none", "plain"]["score"] == rows["none", "marked"]["score"] == rows["none", "listed"]["score"] == 1


def test_an_image_of_16_bits_is_the_picture_of_8(mixed):
    rows = mixed.rows
    for method in METHODS:
        assert rows[method, "eight"]["prediction"] == rows[method, "sixteen"]["prediction"]
        assert rows[method, "eight"]["kept_count"] == rows[method, "sixteen"]["kept_count"]
    with closing(sqlite3.connect(mixed.folder / "results.sqlite")) as connection:
        pictures = dict(connection.execute("SELECT id, png FROM images"))
    assert pictures["gray8.png"] == pictures["gray16.png"]
    assert pictures["black_on_transparent.png"] != pictures["gray8.png"]


def test_a_question_without_image_is_answered_alike_by_all_and_counts_nowhere(mixed):
    rows = mixed.rows
    said = {rows[method, "alone"]["prediction"] for method in METHODS}
    assert len(said) == 1 and rows["none", "alone"]["prediction"] == rows["blind", "plain"]["prediction"]
    summary = json.loads((mixed.folder / "summary.json").read_text())
    (none,) = [cell for cell in summary["cells"] if cell["method"] == "none"]
    assert none["n"] == 7, "of nine rows one has no image and one is too long"
    note = "1 of 9 questions have no image"
    assert note in mixed.err and any(note in said for said in mixed.manifest["notes"]) and note in mixed.page


def test_a_run_with_questions_without_image_is_readable_by_every_command(mixed, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(mixed.folder, copy)
    for words in (
        ("explain", str(copy)),
        ("report", str(copy)),
        ("report", str(mixed.folder), str(copy), "--out", str(tmp_path / "both.html")),
        ("regress", str(mixed.folder), str(copy)),
    ):
        code, _, err = command(*words)
        assert code == 0, f"{words}: {err}"


def test_a_question_past_the_models_maximum_fails_with_its_reason(mixed):
    for method in METHODS:
        row = mixed.rows[method, "long"]
        assert row["score"] is None and row["failed"].startswith("prompt of ") and row["failed"].endswith("the model takes 1,024")


def test_a_column_that_nothing_reads_is_named_once(mixed):
    note = "rows.jsonl: nothing reads column 'source'"
    assert mixed.err.count(note) == 1 and mixed.manifest["notes"].count(note) == 1 and "nothing reads column" in mixed.page


def test_a_table_of_vlmevalkit(field, compared, folders):
    """Images as base64, one as the index of the row that has it; options in columns of their own."""
    held = [base64.b64encode((field / name).read_bytes()).decode() for name in ("rgb.png", "s3.png")]
    header = ["index", "image", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "split"]
    rows = [
        ["7", held[0], "what color is the dot ?", "", "red", "yellow", "blue", "green", "B", "color", "fine", "dev"],
        ["8", "7", 'is there a "red" triangle ?', "look well", "yes", "no", "", "", "A", "exists", "fine", "dev"],
        ["9", held[1], "what color is the dot ?", "", "red", "None", "", "", "B", "color", "fine", "dev"],
    ]
    with (field / "bench.tsv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, "excel-tab").writerows([header, *rows])
    ran = compared(field / "bench.tsv", model=folders["llava"], keep="8")
    found = ran.rows
    assert {row["id"] for row in found.values()} == {"7", "8", "9"}
    first, second, third = (found["none", name] for name in "789")
    assert first["image"] == second["image"] != third["image"] and first["family"] == "color"
    letter = "\nAnswer with the option's letter from the given choices directly."
    assert first["question"] == f"what color is the dot ?\nA. red\nB. yellow\nC. blue\nD. green{letter}"
    assert second["question"] == f'look well\nis there a "red" triangle ?\nA. yes\nB. no{letter}'
    assert json.loads(third["target"]) == {"answers": ["B"], "choices": ["red", "None"]}
    assert "nothing reads column 'split'" in ran.err
    assert ran.manifest["task_info"]["metric"] == "choice"


def test_conversations_of_llava(field, compared):
    """Every question of a person is asked alone, and that is said."""
    talk = [
        {"from": "human", "value": "<image>\nwhat color is the dot ?"}, {"from": "gpt", "value": "yellow"},
        {"from": "human", "value": "is there a red triangle ?"}, {"from": "gpt", "value": "yes"},
    ]  # fmt: skip
    (field / "talk.json").write_text(json.dumps([{"id": "t", "image": "rgb.png", "conversations": talk}]))
    ran = compared(field / "talk.json")
    rows = ran.rows
    assert [rows["none", name]["target"] for name in ("t-0", "t-1")] == ["yellow", "yes"]
    assert [rows["none", name]["score"] for name in ("t-0", "t-1")] == [1, 1]
    note = "1 later questions of conversations are asked alone, without the turns before them"
    assert note in ran.err and any(note in said for said in ran.manifest["notes"])


def test_several_images_a_question_are_answered_as_generate_does(field, compared, folders):
    first, second = QUESTIONS[:2]
    pictures = [picture(40, 40, 1), picture(60, 30, 2)]
    for number, image in enumerate(pictures):
        image.save(field / f"p{number}.png")
    rows = [
        {"id": "ahead", "images": ["p0.png", "p1.png"], "question": first, "answer": "x"},
        {"id": "inside", "images": ["p0.png", "p1.png"], "question": f"{first} <image> {second} <image> {first}", "answer": "x"},
        {
            "id": "numbered",
            "images": ["p1.png", "p0.png"],
            "question": f"{first} <image 2> {second} <image 1> {first}",
            "answer": "x",
        },
        {"id": "single", "image": "p0.png", "question": first, "answer": "x"},
    ]
    ran = compared(jsonl(field, rows), "--max-new-tokens", "5", model=folders["llava"], methods="divprune,fastv", keep="8")
    family, found = make("llava"), ran.rows
    expected = family.adapter.decode(family.generated(first, pictures, 5))
    assert found["none", "ahead"]["prediction"] == expected
    assert found["none", "single"]["prediction"] == family.adapter.decode(family.generated(first, pictures[:1], 5))
    assert found["none", "inside"]["prediction"] == found["none", "numbered"]["prediction"]
    assert found["none", "numbered"]["question"] == rows[1]["question"], "shown as the images stand"
    assert found["none", "ahead"]["image"] == "p0.png + p1.png"
    assert (found["none", "ahead"]["kept_count"], found["none", "single"]["kept_count"]) == (32, 16)
    assert found["divprune", "ahead"]["kept_count"] == 8
    with closing(sqlite3.connect(ran.folder / "results.sqlite")) as connection:
        areas = connection.execute("SELECT rows, columns, left, right FROM areas WHERE image = 'p0.png + p1.png'").fetchall()
    assert [area[:2] for area in areas] == [(4, 4), (4, 4)] and areas[0][3] < areas[1][2], "side by side on the picture"


def test_a_run_on_images_that_unpadding_leaves_nothing_of_is_readable(field, compared, folders):
    """500 x 40 pixels on LLaVA-NeXT: a row of areas without rows would be in its folder."""
    ran = compared(field / "wide12.jsonl", model=folders["llava-next"], methods="divprune", keep="8", analyse=2)
    rows = ran.rows
    assert rows["none", "wide12-1"]["failed"] is None and rows["none", "wide12-1"]["kept_count"] == 16
    for words in (("report",), ("samples",), ("explain",)):
        code, _, err = command(*words, str(ran.folder))
        assert code == 0, err
    code, _, err = command("regress", str(ran.folder), str(ran.folder))
    assert code in (0, 1), err
    with closing(sqlite3.connect(ran.folder / "results.sqlite")) as connection, connection:
        assert not connection.execute("SELECT 1 FROM areas WHERE rows = 0").fetchone()
        connection.execute("INSERT INTO areas SELECT id, 9, 0, 8, 0.0, 0.0, 1.0, 1.0 FROM images LIMIT 1")
    for words in (("report",), ("samples",)):
        code, _, err = command(*words, str(ran.folder))
        assert code == 0, f"a folder that was written before: {err}"


def test_pictures_that_cannot_be_read_are_one_line_each(field, compared, folders):
    Image.new("F", (8, 8)).save(field / "float.tiff")
    Image.new("I", (8, 8)).save(field / "integer.tiff")
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(field / "moving.gif", save_all=True, append_images=frames[1:])
    (field / "half.png").write_bytes((field / "rgb.png").read_bytes()[:900])
    names = ("float.tiff", "integer.tiff", "moving.gif", "half.png")
    rows = [{**ROW, "id": "good"}, *({**ROW, "id": name, "image": name} for name in names)]
    ran = compared(jsonl(field, rows), model=folders["llava"], keep="8", expect=3)
    found = {name: ran.rows["none", name]["failed"] for name in names}
    assert "32-bit floating-point numbers" in found["float.tiff"] and "32-bit integers" in found["integer.tiff"]
    assert "holds 2 pictures" in found["moving.gif"] and "cannot be decoded" in found["half.png"]
    assert all(name in said and "\n" not in said for name, said in found.items()) and ran.rows["none", "good"]["failed"] is None
