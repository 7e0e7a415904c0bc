"""Tables and lists of other programs, against pandas, numpy and VLMEvalKit's own way of reading them."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from harness.errors import RequestError
from harness.tasks.columns import unread_columns
from harness.tasks.listed import listed
from harness.tasks.registry import create
from harness.tasks.target import Target
from tests.tasks.conftest import BLUE, RED, cell, row
from tests.tasks.test_files import questions, samples

ODD = ["plain", 'a "quoted" word', "a, comma", "two\nlines", "tab\there", "'single'", "é 红 ①", "NA", "None", "0.10", " spaced "]


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "marked"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_what_pandas_writes_is_read_as_it_was(jsonl, tmp_path, ending, separator, mark, end):
    pandas = pytest.importorskip("pandas")
    jsonl([row()])
    frame = pandas.DataFrame({"image": "images/a.png", "question": [f"q {text}" for text in ODD], "answer": ODD})
    file = tmp_path / f"odd.{ending}"
    file.write_bytes((mark + frame.to_csv(sep=separator, index=False, lineterminator=end)).encode())
    found = questions(file)
    assert [(q.text, q.answer) for q in found.values()] == [(f"q {text}", text) for text in ODD]
    again = pandas.read_csv(file, sep=separator, keep_default_na=False, dtype=str)
    assert [q.text for q in found.values()] == list(again["question"])


def test_a_column_of_numbers_that_pandas_leaves_is_named(jsonl, tmp_path, capsys):
    pandas = pytest.importorskip("pandas")
    jsonl([row()])
    pandas.DataFrame([row()]).to_csv(tmp_path / "odd.csv")
    assert len(questions(tmp_path / "odd.csv")) == 1
    assert capsys.readouterr().err == "note: odd.csv: nothing reads column 'Unnamed: 0'\n"


BROKEN = {
    "a field too many": ("image,question\nimages/a.png,what,now\n", "line 2: has 3 fields, and the first row 2"),
    "a field too few": ("image,question,answer\nimages/a.png,what\n", "line 2: has 2 fields, and the first row 3"),
    "a quote without end": (
        'image,question\nimages/a.png,"what\n',
        "line 2: cannot be read (a field in double quotes has no end)",
    ),
    "a column twice": ("image,question,question\na,b,c\n", "line 1: column 'question' stands twice"),
    "an index that is not there": ("index,image,question\n1,2,what\n", "line 2, column 'image': is 2, and no row has that index"),
    "an index in a circle": ("index,image,question\n1,2,what\n2,1,what\n", "of a row that has no image of its own"),
    "nothing": ("image,question\n", "odd.csv: holds no rows"),
    "no UTF-8": (b"image,question\na,\xff\n", "not UTF-8 text"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_table_is_one_clear_line(tmp_path, kind):
    content, message = BROKEN[kind]
    (tmp_path / "odd.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError) as error:
        samples(tmp_path / "odd.csv")
    assert message in str(error.value) and "odd.csv" in str(error.value) and len(str(error.value).splitlines()) == 1


def test_images_of_a_table_are_those_that_vlmevalkit_takes(tmp_path):
    """Its rule: text of at most 64 characters is the index of the row that has the image; lists stand as text."""
    held = {"1": base64.b64encode(RED).decode(), "2": "1", "3": base64.b64encode(BLUE).decode()}
    held["4"] = str([held["1"], held["3"]])
    lines = ["index\timage\tquestion", *(f"{index}\t{image}\twhat {index} ?" for index, image in held.items())]
    (tmp_path / "bench.tsv").write_text("\n".join(lines))
    found = {q.sample_id: [image.size for image in sample.images] for sample in samples(tmp_path / "bench.tsv")
             for q in sample.questions}  # fmt: skip
    assert found == {"1": [(8, 6)], "2": [(8, 6)], "3": [(20, 10)], "4": [(8, 6), (20, 10)]}


@pytest.mark.parametrize("texts", [["a", "b"], ["it's", 'say "x"'], ["one word", "två\nrader"], ["", "b"]])
def test_lists_written_as_text(texts):
    for written in (json.dumps(texts), repr(texts), str(tuple(texts)), str(np.array(texts, object)), repr(np.array(texts))):
        if written.startswith("("):
            assert listed(written) is None, "a text in round brackets is no list"
            continue
        assert listed(written) == texts, written


@pytest.mark.parametrize("text", ["[a, b]", "['a', b]", "['a' 'b', 'c']", "[1, 2", "{'a'}", "[" * 5000, "x", "__import__('os')"])
def test_what_is_no_list(text):
    assert listed(text) is None


OPTIONS = {
    "a list": {"options": ["a cat", "a dog"]},
    "a list as text": {"choices": "['a cat' 'a dog']"},
    "an object": {"options": {"A": "a cat", "B": "a dog"}},
    "an object as text": {"options": "{'A': 'a cat', 'B': 'a dog'}"},
    "letters": {"A": "a cat", "B": "a dog", "C": None, "D": "nan"},
    "option_a": {"option_a": "a cat", "option_b": "a dog"},
    "choice_A": {"choice_A": "a cat", "choice_B": "a dog"},
}


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("answer", ["B", "(b)", 1, "1", "a dog", ["B"]], ids=repr)
def test_options_in_whatever_form(jsonl, kind, answer):
    file = jsonl([{"image": "images/a.png", "question": "Which ?", **OPTIONS[kind], "answer": answer}])
    (question,) = questions(file).values()
    assert Target.read(question.answer) == Target(("B",), ("a cat", "a dog"))
    assert question.text == "Which ?\nA. a cat\nB. a dog\nAnswer with the option's letter from the given choices directly."
    assert create(str(file)).info.metric == "choice"


def test_answers_written_as_text(jsonl):
    for given, expected in (
        ("['red', 'blue']", ("red", "blue")),
        ("['1', 2]", ("1", "2")),
        ("[0.1, 0.2]", ("[0.1, 0.2]",)),
        (["red"], ("red",)),
    ):
        (question,) = questions(jsonl_again := jsonl_once(jsonl, row(answer=given))).values()
        assert Target.read(question.answer).answers == expected, jsonl_again


def jsonl_once(jsonl, one):
    """The file of one row; the images beside it are made once."""
    if not hasattr(jsonl, "made"):
        jsonl.made = jsonl([one])
    jsonl.made.write_text(json.dumps(one))
    return jsonl.made


def test_columns_of_public_data_sets_are_not_taken_for_others():
    """What beside the known columns VQAv2, TextVQA, MMBench, MMMU and GQA have is named, and nothing is refused."""
    beside = ["question_type", "answer_type", "question_id", "image_source", "image_width", "L2-category", "split", "source",
              "topic_difficulty", "explanation", "img_type", "multiple_choice_answer", "flickr_original_url"]  # fmt: skip
    assert set(unread_columns("t", ["image", "question", "answer", *beside])) == set(beside) - {"L2-category"}


def test_a_key_twice_and_a_comma_too_many(tmp_path):
    for content, message in (
        ('{"image": "a", "question": "x", "question": "y"}', "line 1: key 'question' stands twice in one object"),
        ('{"image": "a", "question": "x",}', "a comma stands before the end of an object or a list"),
    ):
        (tmp_path / "odd.jsonl").write_text(content)
        with pytest.raises(RequestError) as error:
            samples(tmp_path / "odd.jsonl")
        assert message in str(error.value)


CONVERSATIONS = {
    "two questions": ([("human", "a"), ("human", "b")], "turn 1 is of 'human', where an answer is expected"),
    "a system": ([("system", "be brief"), ("human", "b")], "turn 0 is of 'system', where a question is expected"),
    "a late image": ([("human", "a"), ("gpt", "b"), ("human", "<image> c"), ("gpt", "d")], "turn 2 has an image mark"),
    "no text": ([("human", "")], "turn 0 has no text"),
    "no answer": ([("human", "a"), ("gpt", "b"), ("human", "c")], "its last question has no answer, and others have"),
}


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_a_broken_conversation_is_one_clear_line(jsonl, kind):
    said, message = CONVERSATIONS[kind]
    talk = [{"from": who, "value": text} for who, text in said]
    with pytest.raises(RequestError, match="line 1") as error:
        samples(jsonl([{"image": "images/a.png", "conversations": talk}]))
    assert message in str(error.value)


def test_messages_with_parts(jsonl):
    parts = [{"type": "text", "text": "Is "}, {"type": "image"}, {"type": "text", "text": " red ?"}]
    said = [{"role": "user", "content": parts}, {"role": "assistant", "content": "yes"}]
    (question,) = questions(jsonl([{"images": ["images/a.png"], "messages": said}])).values()
    assert (question.text, question.answer) == ("Is <image> red ?", "yes")


def test_numbered_columns_of_images_are_all_images_of_a_question(jsonl, parquet, tmp_path):
    """In a file of paths and in one of bytes; a cell that is empty holds no image."""
    a, b = "images/a.png", "images/b.png"
    rows = [{"image_1": a, "image_2": b}, {"image_1": b, "image_2": None}, {"image": a, "image2": b}, {"image": a, "image_1": a}]
    file = jsonl([{"question": f"q{place}", "answer": "x", **one} for place, one in enumerate(rows)])
    found = {q.text: [image.size for image in sample.images] for sample in samples(file) for q in sample.questions}
    small, wide = (8, 6), (20, 10)
    assert found == {"q0": [small, wide], "q1": [wide], "q2": [small, wide], "q3": [small]}
    held = [{"image_1": cell(RED), "image_2": cell(BLUE), "question": "q0"}, {"image_1": cell(RED), "question": "q1"}]
    found = samples(parquet(tmp_path / "two" / "t.parquet", held))
    assert {one.questions[0].text: [image.size for image in one.images] for one in found} == {"q0": [small, wide], "q1": [small]}


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"image": "images/a.png", "image_1": "images/b.png"}, "column 'image_1': holds an image, and so does 'image'"),
        ({"image": "images/a.png", "images": ["images/b.png"]}, "column 'image': holds an image, and so does 'images'"),
        ({"image": {"url": "images/a.png"}}, "column 'image': is an object, no image"),
    ],
    ids=["two firsts", "a list and one", "an object of another form"],
)
def test_images_that_could_be_left_out_are_refused(jsonl, images, message):
    with pytest.raises(RequestError, match=message):
        samples(jsonl([row(), {"question": "which ?", "answer": "x", **images}]))


@pytest.mark.parametrize("name", ["ans", "answer_index", "correct_option", "expected_answer", "gold_answers", "reference"])
def test_other_names_of_the_answer_are_refused_where_there_is_none(name):
    with pytest.raises(RequestError, match=f"nothing reads column '{name}'; did you mean 'answer'"):
        unread_columns("t", ["image", "question", name])
    assert unread_columns("t", ["image", "question", "answer", name]) == [name]
