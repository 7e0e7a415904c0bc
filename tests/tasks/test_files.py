"""Tasks from users' own files: what is read, and one clear line for each way a file can be broken."""

import json

import pytest
from PIL import Image

from harness.errors import RequestError
from harness.tasks.registry import create
from harness.tasks.target import Target
from tests.tasks.conftest import BLUE, RED, cell, png, row


def samples(expression, count=99, seed=0):
    return list(create(str(expression)).samples(count, seed))


def pictures(expression):
    return [sample.image for sample in samples(expression)]


def questions(expression):
    return {q.sample_id: q for sample in samples(expression) for q in sample.questions}


def test_questions_of_one_image_come_together(jsonl):
    file = jsonl([row(), row("images/b.png", "where ?", "left"), row("./images/a.png", "how many ?", 3)])
    found = {sample.image_id: sample for sample in samples(file)}
    assert {image: [q.sample_id for q in sample.questions] for image, sample in found.items()} == {
        "images/a.png": ["questions-1", "questions-3"], "images/b.png": ["questions-2"],
    }  # fmt: skip
    assert found["images/b.png"].image.size == (20, 10)
    first, second = found["images/a.png"].questions
    assert (first.text, first.answer, first.family, second.answer) == ("what is it ?", "red", "question", "3")


def test_blank_lines_and_a_byte_order_mark_do_not_matter(tmp_path, jsonl):
    file = jsonl([row(), "", "   ", row(question="and ?")])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert set(questions(file)) == {"questions-1", "questions-4"}


def test_ids_families_and_images_can_be_given(jsonl):
    file = jsonl(
        [row(id=7, image_id="x", family="colour"), row(id="b", image_id="x", category="count", answers=["red", "crimson"])]
    )
    (sample,) = samples(file)
    assert sample.image_id == "x" and [(q.sample_id, q.family) for q in sample.questions] == [("7", "colour"), ("b", "count")]
    assert Target.read(sample.questions[1].answer).answers == ("red", "crimson")
    assert create(str(file)).info.families == ("colour", "count")


def test_samples_are_pure_and_larger_samples_begin_with_smaller(jsonl, tmp_path):
    for i in range(12):
        (tmp_path / "images" / f"{i}.png").write_bytes(png((i, 0, 0)))
    file = jsonl([row(f"images/{i}.png") for i in range(12)])
    names = lambda count, seed: [sample.image_id for sample in samples(file, count, seed)]
    assert names(5, 3) == names(5, 3) == names(12, 3)[:5] and len(set(names(12, 3))) == 12
    assert names(99, 3) == names(12, 3) and sorted(names(12, 4)) == sorted(names(12, 3)) and names(12, 4) != names(12, 3)
    assert names(0, 3) == []
    lines = file.read_text().splitlines()
    file.write_text("\n".join(reversed(lines)))
    assert names(12, 3) == names(99, 3) == [sample.image_id for sample in samples(file, 12, 3)], "whatever the file's order"


def test_images_are_decoded_when_they_are_wanted(jsonl, tmp_path):
    file = jsonl([row(), row("images/b.png")])
    stream = create(str(file)).samples(2, 0)
    first = next(stream)
    assert callable(first.picture) and first.image is not first.image and first.image.size in ((8, 6), (20, 10))
    (tmp_path / "images" / ("a.png" if first.image_id.endswith("b.png") else "b.png")).write_bytes(b"not any more")
    second = next(stream)
    with pytest.raises(RequestError, match="not an image"):
        _ = second.image


@pytest.mark.parametrize("metric", ["exact", "vqa", "anls", "relaxed", "contains"])
def test_metrics(jsonl, metric):
    task = create(f"{jsonl([row(answer='red')])}[metric={metric}]")
    assert task.info.metric == metric and task.score("red", "red") == 1 and task.score("blue", "red") == 0


@pytest.mark.parametrize("answer", ["B", "b", 1, "a dog", ["a dog"]])
def test_choices(jsonl, answer):
    key = "answers" if isinstance(answer, list) else "answer"
    file = jsonl([{"image": "images/a.png", "question": "Which ?", "choices": ["a cat", "a dog"], key: answer}])
    task = create(str(file))
    (question,) = questions(file).values()
    assert task.info.metric == "choice" and Target.read(question.answer) == Target(("B",), ("a cat", "a dog"))
    assert question.text == "Which ?\nA. a cat\nB. a dog\nAnswer with the option's letter from the given choices directly."
    assert task.score("(B)", question.answer) == 1 and task.score("A", question.answer) == 0


def test_without_answers_nothing_is_scored(jsonl):
    file = jsonl(
        [{"image": "images/a.png", "question": "what ?"}, {"image": "images/b.png", "question": "where ?", "answer": None}]
    )
    task = create(str(file))
    assert not task.info.scored and task.score("red", "") != task.score("red", "")
    assert {q.answer for q in questions(file).values()} == {""}


def test_parquet_with_bytes_objects_and_paths(tmp_path, parquet, jsonl):
    jsonl([row()])
    for image in (RED, cell(RED), {"bytes": None, "path": "images/a.png"}, "images/a.png"):
        file = parquet(tmp_path / "data.parquet", [row(image), row(image, "and ?"), row(image, "so ?")])
        (sample,) = samples(file)
        assert sample.image.getpixel((0, 0)) == (255, 0, 0) and len(sample.questions) == 3
        assert [q.sample_id for q in sample.questions] == ["data-0", "data-1", "data-2"]
    images = [png((i, 0, 0)) for i in range(7)]
    file = parquet(tmp_path / "many.parquet", [row(cell(image), str(i)) for i, image in enumerate(images)])
    for sample in samples(file):
        assert sample.image.getpixel((0, 0)) == (int(sample.questions[0].text), 0, 0)


def test_a_folder_of_files(tmp_path, parquet, jsonl):
    jsonl([row()], "a.jsonl")
    jsonl([row(question="and ?")], "b.jsonl")
    parquet(tmp_path / "more" / "c.parquet", [row(cell(BLUE))])
    (tmp_path / ".hidden.jsonl").write_text("{")
    assert set(questions(tmp_path)) == {"a-1", "b-1", "more/c-0"}
    assert set(questions(f"{tmp_path}[split=b]")) == {"b-1"}


def test_a_path_may_have_brackets(tmp_path, jsonl):
    file = jsonl([row()], "part[1].jsonl")
    assert len(questions(file)) == 1 and create(f"{file}[metric=anls]").info.metric == "anls"


def test_photographs_are_upright_and_in_rgb(tmp_path, jsonl):
    picture = Image.new("RGB", (8, 6))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(tmp_path / "images.jpg", exif=exif)
    Image.new("LA", (8, 6)).save(tmp_path / "grey.png")
    found = {sample.image_id: sample.image for sample in samples(jsonl([row("images.jpg"), row("grey.png")]))}
    assert found["images.jpg"].size == (6, 8) and found["grey.png"].mode == "RGB"


def test_the_digest_follows_the_content(jsonl, tmp_path, parquet):
    one = create(str(jsonl([row()]))).digest
    assert create(str(jsonl([row()]))).digest == one != create(str(jsonl([row(answer="blue")]))).digest
    a = create(str(parquet(tmp_path / "a.parquet", [row(RED)]))).digest
    assert a != create(str(parquet(tmp_path / "a.parquet", [row(RED, answer="blue")]))).digest


def good():
    return json.dumps(row())


LINES = {
    "no JSON": (['{"image": '], "line 1, character 11: not JSON"),
    "a stray comma": ([good(), '{"image": "images/a.png",}'], "line 2, character"),
    "a list": (["[1, 2]"], "line 1: a JSON object is expected"),
    "a number": (["7"], "line 1: a JSON object is expected"),
    "two objects": ([good() + good()], "line 1, character"),
    "deep nesting": (["[" * 100_000 + "]" * 100_000], "line 1: nested too deeply"),
    "deep nesting inside": (['{"image": ' + '{"a":' * 50_000 + "1" + "}" * 50_001], "line 1: nested too deeply"),
    "NaN": (['{"image": NaN}'], "line 1: not JSON (NaN is no JSON number)"),
    "a number of many digits": (['{"answer": ' + "9" * 5000 + "}"], "line 1: not JSON"),
    "no question": ([json.dumps({"image": "images/a.png", "answer": "x"})], "no column 'question'; there are: image, answer"),
    "a misspelt question": ([json.dumps({"image": "a", "questoin": "x"})], "no column 'question'; did you mean 'questoin'?"),
    "no question in one line": ([good(), json.dumps({"image": "images/a.png", "answer": "x"})], "line 2: no column 'question'"),
    "a number for a question": ([json.dumps(row(question=3))], "line 1, column 'question': is 3, not a text"),
    "a blank question": ([json.dumps(row(question="  "))], "line 1, column 'question': is blank"),
    "null for a question": ([json.dumps(row(question=None))], "line 1, column 'question': is empty"),
    "an object for an answer": ([json.dumps(row(answer={"a": 1}))], "column 'answer': is an object, not a text or a number"),
    "true for an answer": ([json.dumps(row(answer=True))], "line 1, column 'answer': is True, not a text or a number"),
    "a blank answer": ([json.dumps(row(answer=""))], "line 1, column 'answer': is blank"),
    "no answers in the list": ([json.dumps(row(answers=[]))], "line 1, column 'answers': is an empty list"),
    "an object in the list": ([json.dumps(row(answers=["a", {}]))], "line 1, column 'answers': item 1 is null, not a text"),
    "answers in some lines alone": (
        [good(), json.dumps({"image": "images/a.png", "question": "x"})],
        "line 2: no column 'answer'",
    ),
    "a list for an id": ([json.dumps(row(id=[1]))], "line 1, column 'id': is a list of 1, not a text or a number"),
    "one id twice": (
        [json.dumps(row(id="x")), json.dumps(row(id="x"))],
        "line 2, column 'id': 'x' stands at questions.jsonl, line 1",
    ),
    "two images under one id": (
        [json.dumps(row(image_id="x")), json.dumps(row("images/b.png", image_id="x"))],
        "line 2, column 'image': 'images/b.png' is not the image 'images/a.png' that 'x' is at questions.jsonl, line 1",
    ),
    "no such image": ([json.dumps(row("images/c.png"))], "line 1, column 'image': images/c.png: there is no such file"),
    "a folder for an image": ([json.dumps(row("images"))], "line 1, column 'image': images: there is no such file"),
    "an absolute path": ([json.dumps(row("/etc/passwd"))], "column 'image': '/etc/passwd' leaves the file's folder"),
    "a path upwards": ([json.dumps(row("images/../../x.png"))], "leaves the file's folder"),
    "a path upwards with backslashes": ([json.dumps(row("images\\..\\..\\x.png"))], "leaves the file's folder"),
    "a drive": ([json.dumps(row("C:\\x.png"))], "leaves the file's folder"),
    "a zero in a path": ([json.dumps(row("a\0b.png"))], "leaves the file's folder"),
    "a number for an image": ([json.dumps(row(3))], "column 'image': is 3, no image"),
    "null for an image": ([json.dumps(row(None))], "column 'image': is empty"),
    "one choice": ([json.dumps(row(choices=["a"], answer="A"))], "column 'choices': has 1 options; there should be 2 to 26"),
    "many choices": ([json.dumps(row(choices=["a"] * 27, answer="A"))], "has 27 options; there should be 2 to 26"),
    "choices in one line alone": ([json.dumps(row(choices=["red", "blue"])), good()], "line 2: no column 'choices'"),
    "a text for choices": ([json.dumps(row(choices=3, answer="A"))], "column 'choices': is 3, not a list of texts"),
    "a letter too far": ([json.dumps(row(choices=["a", "b"], answer="C"))], "'C' is neither a letter nor one of the choices"),
    "a place too far": ([json.dumps(row(choices=["a", "b"], answer=2))], "is 2, and there are 2 choices"),
    "letters as choices": ([json.dumps(row(choices=["B", "A"], answer="A"))], "'A' is both a letter and another option"),
    "nothing": ([""], "holds no rows"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LINES)
def test_a_broken_file_of_json_lines_is_one_clear_line(jsonl, kind):
    lines, message = LINES[kind]
    with pytest.raises(RequestError) as error:
        samples(jsonl(lines))
    text = str(error.value)
    assert message in text and "questions.jsonl" in text
    assert len(text.splitlines()) == 1 and len(text) < 400


def test_bytes_that_are_no_text(jsonl):
    file = jsonl([row()])
    file.write_bytes(file.read_bytes() + b'{"image": "\xff"}')
    with pytest.raises(RequestError, match=r"questions.jsonl, line 2, byte 12: not UTF-8 text"):
        create(str(file))


def test_a_line_without_end(jsonl, monkeypatch):
    monkeypatch.setattr("harness.tasks.tables.LONGEST_LINE", 2**20)
    with pytest.raises(RequestError, match="line 2: longer than 1 MiB"):
        create(str(jsonl([row(), "x" * 2**21])))


IMAGES = {
    "no image": (b"GIF, honestly", "not an image that can be read"),
    "nothing": (b"", "not an image that can be read"),
    "half an image": (png("red", (400, 400))[:200], "the image cannot be decoded"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_that_cannot_be_read_is_named(jsonl, tmp_path, parquet, kind):
    content, message = IMAGES[kind]
    (tmp_path / "images" / "a.png").write_bytes(content)
    with pytest.raises(RequestError, match=f"line 1, column 'image': images/a.png: {message}"):
        pictures(jsonl([row()]))
    with pytest.raises(RequestError, match=f"data.parquet, row 1, column 'image': {message}"):
        pictures(parquet(tmp_path / "data.parquet", [row(RED), row(content)]))


def test_an_image_of_too_many_pixels_is_named(jsonl, monkeypatch, tmp_path):
    monkeypatch.setattr("harness.tasks.pictures.MOST_PIXELS", 150)
    with pytest.raises(RequestError, match=r"images/b.png: 20 x 10 pixels are too many; at most 150"):
        pictures(jsonl([row(), row("images/b.png")]))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 50)
    with pytest.raises(RequestError, match=r"images/b\.png: too many pixels"):
        pictures(jsonl([row("images/b.png")]))


PARQUET = {
    "a number for a question": ([row(RED, 3)], "data.parquet, row 0, column 'question': is 3, not a text"),
    "null in one row": ([row(RED), row(RED, None)], "data.parquet, row 1, column 'question': is empty"),
    "no image column": ([{"question": "x", "answer": "y"}], "data.parquet: no column 'image'; there are: question, answer"),
    "a number for an image": ([row(4)], "data.parquet, row 0, column 'image': is 4, no image"),
    "a number among images": ([row([4, 5])], "data.parquet, row 0, column 'image': is 4, no image"),
    "an answer that is no number": ([row(RED, answer=float("nan"))] + [row(RED, answer=1.0)], "row 0, column 'answer': is empty"),
    "infinity": ([row(RED, answer=float("inf"))], "row 0, column 'answer': is no finite number"),
    "a path upwards": ([row("../a.png")], "row 0, column 'image': '../a.png' leaves the file's folder"),
}


@pytest.mark.parametrize("kind", PARQUET)
def test_a_broken_row_of_parquet_is_one_clear_line(tmp_path, parquet, kind):
    rows, message = PARQUET[kind]
    with pytest.raises(RequestError) as error:
        samples(parquet(tmp_path / "data.parquet", rows))
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


def test_what_is_no_parquet(tmp_path, parquet):
    for content in (b"", b"PAR1", b"hello" * 100, parquet(tmp_path / "good.parquet", [row(RED)]).read_bytes()[:-20]):
        (tmp_path / "data.parquet").write_bytes(content)
        with pytest.raises(RequestError, match=r"data.parquet: cannot be read as parquet \(") as error:
            create(str(tmp_path / "data.parquet"))
        assert len(str(error.value).splitlines()) == 1


def test_parquet_with_damaged_pages(tmp_path, parquet):
    file = parquet(tmp_path / "data.parquet", [row(png("red", (60, 60)), f"what ? {i}") for i in range(6)])
    content = bytearray(file.read_bytes())
    content[4:200] = b"\xff" * 196
    file.write_bytes(content)
    with pytest.raises(RequestError, match=r"data.parquet"):
        samples(file)


def test_an_empty_parquet_file(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    writer.write_table(arrow.table({"image": [], "question": []}), tmp_path / "data.parquet")
    with pytest.raises(RequestError, match="holds no rows"):
        create(str(tmp_path / "data.parquet"))


def test_without_pyarrow_the_remedy_is_named(tmp_path, monkeypatch):
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(RequestError, match=r'parquet needs pyarrow: pip install "prunescope\[hub\]"'):
        create(str(tmp_path / "data.parquet"))
