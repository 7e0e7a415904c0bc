"""Public benchmarks on small files with their columns: prompts, targets, families, groups of one image, figures."""

import pytest
from PIL import Image

from harness.errors import RequestError
from harness.tasks.base import Answered, aggregates
from harness.tasks.registry import BENCHMARKS, create
from harness.tasks.target import Target
from tests.tasks.conftest import BLUE, RED, cell, png

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."


def pope():
    return [
        {"id": str(i), "question_id": str(i // 3 + 1), "question": f"Is there a {thing} in the image?", "answer": answer,
         "image_source": source, "image": cell(RED if source.endswith("1") else BLUE), "category": kind}
        for i, (thing, answer, source, kind) in enumerate(
            (thing, answer, source, kind)
            for source in ("COCO_val2014_000000000001", "COCO_val2014_000000000002")
            for thing, answer in (("dog", "yes"), ("car", "no"))
            for kind in ("adversarial", "popular", "random")
        )
    ]  # fmt: skip


def mme():
    rows = []
    for kind, name in (("code_reasoning", "code_reasoning/0020.png"), ("OCR", "OCR/0001.jpg")):
        for answer in ("Yes", "No"):
            question = f"Is {answer} right? Please answer yes or no."
            rows.append({"question_id": name, "image": cell(RED), "question": question, "answer": answer, "category": kind})
    return rows


def mmbench():
    shared = {"question": "Which one?", "category": "ocr", "source": "s", "L2-category": "coarse_perception", "comment": "nan",
              "split": "dev", "image": cell(RED)}  # fmt: skip
    return [
        {"index": 241, "hint": "Look.", "answer": "A", "A": "a cat", "B": "a dog", "C": "nan", "D": None, **shared},
        {"index": 1000241, "hint": "Look.", "answer": "B", "A": "a dog", "B": "a cat", "C": "nan", "D": None, **shared},
        {"index": 252, "hint": "nan", "answer": "C", "A": "1", "B": "2", "C": "3", "D": "4", **shared},
    ]


def scienceqa():
    shared = {"image": cell(RED), "task": "closed choice", "grade": "grade2", "subject": "natural science", "topic": "physics",
              "category": "c", "skill": "s", "lecture": "", "solution": ""}  # fmt: skip
    return [
        {"question": "Which is it?", "choices": ["no", "yes"], "answer": 1, "hint": "A hint.", **shared},
        {"question": "And this?", "choices": ["a", "b", "c"], "answer": 0, "hint": "", **shared},
    ]


def seedbench():
    shared = {"choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": "Four", "segment": None}
    return [
        {"answer": "B", "data_id": "454_9", "data_type": "image", "question": "How many?", "question_id": "101669",
         "question_type_id": 5, "image": [cell(RED)], **shared},
        {"answer": "A", "data_id": "v1", "data_type": "video", "question": "What then?", "question_id": "7",
         "question_type_id": 10, "image": [cell(RED), cell(BLUE)], **shared},
    ]  # fmt: skip


def vqav2():
    answers = [{"answer": a, "answer_confidence": "yes", "answer_id": i + 1} for i, a in enumerate(["2"] * 7 + ["3"] * 3)]
    return [
        {"question_type": "how many", "multiple_choice_answer": "2", "answers": answers, "image_id": 262148, "answer_type": kind,
         "question_id": 262148000 + i, "question": "How many dogs?", "image": cell(RED)}
        for i, kind in enumerate(("number", "other"))
    ]  # fmt: skip


def textvqa():
    return [
        {"image_id": "003a8ae2ef43b901", "question_id": 34602, "question": "what IS the brand?", "question_tokens": ["what"],
         "image": cell(RED), "image_width": 8, "image_height": 6, "answers": ["nokia"] * 9 + [""], "image_classes": ["Phone"],
         "set_name": "val", "ocr_tokens": ["NOKIA"]}
    ]  # fmt: skip


def chartqa():
    return [
        {"type": "human_test", "question": "How much?", "answer": "14", "image": cell(RED)},
        {"type": "augmented_test", "question": "Which?", "answer": "Yes", "image": cell(RED)},
        {"type": "augmented_test", "question": "Where?", "answer": "[2, 3]", "image": cell(BLUE)},
    ]


def docvqa():
    shared = {"image": cell(RED), "docId": 14465, "ucsf_document_id": "pybv0228", "ucsf_document_page_no": "81",
              "data_split": "val"}  # fmt: skip
    return [
        {"questionId": "49153", "question": "What is it?", "question_types": ["figure/diagram", "form"],
         "answers": ["0.28", ".28"], **shared},
        {"questionId": "49154", "question": "What else?", "question_types": ["form"], "answers": ["a"], **shared},
    ]  # fmt: skip


def ocrbench():
    formula = "Handwritten Mathematical Expression Recognition"
    return [
        {"dataset": "IIIT5K", "question": "what is written in the image?", "question_type": "Regular Text Recognition",
         "answer": ["CENTRE"], "image": cell(RED)},
        {"dataset": "HME100k", "question": "Please write out the formula.", "question_type": formula,
         "answer": ["x = \\frac { 1 } { 5 }\n"], "image": cell(BLUE)},
    ]  # fmt: skip


def refcoco():
    image = cell(png("green", (100, 50)))
    return [
        {"question_id": "1719310", "image": image, "question": "caption", "answer": ["left man", "man in red"],
         "segmentation": [1.0], "bbox": [10.0, 5.0, 40.0, 20.0], "iscrowd": 0, "file_name": "COCO_train2014_000000581857_16.jpg"},
        {"question_id": "1719311", "image": image, "question": "caption", "answer": ["dog"], "segmentation": [1.0],
         "bbox": [50.0, 25.0, 60.0, 25.0], "iscrowd": 0, "file_name": "COCO_train2014_000000581857_2.jpg"},
    ]  # fmt: skip


def ai2d():
    return [
        {"question": "What is A?", "options": ["leaf", "root"], "answer": "1", "image": cell(RED)},
        {"question": "What eats?", "options": ["leaf", "root", "fox"], "answer": "2", "image": cell(BLUE)},
    ]


def gqa():
    types = {"structural": "verify", "semantic": "obj", "detailed": "existC"}
    return [
        {"id": f"2019580{i}", "imageId": image, "question": "Is it cloudy?", "answer": "yes", "fullAnswer": "Yes, it is.",
         "isBalanced": True, "types": types}
        for i, image in enumerate(("n161313", "n161313", "n161314"))
    ]  # fmt: skip


ROWS = {
    f.__name__: f for f in (pope, mme, mmbench, scienceqa, seedbench, vqav2, textvqa, chartqa, docvqa, ocrbench, refcoco, ai2d)
}


@pytest.fixture
def load(tmp_path, parquet):
    """The task of a benchmark on its small file."""

    def made(name):
        return create(f"{name}[path={parquet(tmp_path / 'data' / 'part.parquet', ROWS[name]())}]")

    return made


def questions(task, count=99, seed=0):
    return {q.sample_id: q for sample in task.samples(count, seed) for q in sample.questions}


@pytest.mark.parametrize("name", ROWS)
def test_all_rows_become_questions(load, name):
    task = load(name)
    samples = list(task.samples(99, 0))
    ids = [q.sample_id for sample in samples for q in sample.questions]
    assert len(ids) == len(set(ids)) and len({sample.image_id for sample in samples}) == len(samples)
    assert all(isinstance(sample.image, Image.Image) and sample.image.mode == "RGB" for sample in samples)
    families = {q.family for sample in samples for q in sample.questions}
    assert families <= set(task.info.families)
    for sample in samples:
        for q in sample.questions:
            right = Target.read(q.answer).answers[0]
            assert task.score(right, q.answer) == 1
            assert task.score("something else", q.answer) == 0
    rows = [Answered(q.sample_id, q.family, s.image_id, q.answer, Target.read(q.answer).answers[0], 1.0)
            for s in samples for q in s.questions]  # fmt: skip
    assert all(isinstance(value, float | int) for value in aggregates(task, rows).values())
    assert task.info.scored and not task.info.knows_evidence and len(task.digest) == 16
    assert [(s.image_id, s.questions) for s in load(name).samples(99, 0)] == [(s.image_id, s.questions) for s in samples]


def test_pope_groups_the_questions_of_an_image(load):
    samples = {sample.image_id: sample for sample in load("pope").samples(5, 0)}
    assert set(samples) == {"COCO_val2014_000000000001", "COCO_val2014_000000000002"}
    first = samples["COCO_val2014_000000000001"]
    assert [q.sample_id for q in first.questions][:3] == ["adversarial-1", "popular-1", "random-1"]
    assert first.questions[0].text == "Is there a dog in the image?" + SHORT and first.questions[0].answer == "yes"
    assert first.image.getpixel((0, 0)) == (255, 0, 0)


def test_mme_takes_the_request_for_yes_or_no_away(load):
    asked = questions(load("mme"))
    assert set(asked) == {"code_reasoning/0020.png", "code_reasoning/0020.png#2", "OCR/0001.jpg", "OCR/0001.jpg#2"}
    assert asked["OCR/0001.jpg"].text == "Is Yes right?" + SHORT and asked["OCR/0001.jpg#2"].answer == "no"


def test_mmbench_keeps_rotations_together(load):
    samples = {sample.image_id: sample for sample in load("mmbench").samples(9, 0)}
    assert {image: len(sample.questions) for image, sample in samples.items()} == {"241": 2, "252": 1}
    first = samples["241"].questions[0]
    assert first.text == "Look. Which one? There are several options:\nA. a cat\nB. a dog\n" + LETTER
    seen = ("A. a cat", "B. a dog", "C. nan")  # as lmms-eval reads the row, where an empty cell is no option
    assert Target.read(first.answer) == Target(("A",), ("a cat", "a dog"), official=seen)
    assert first.family == "coarse_perception"
    assert samples["252"].questions[0].text.startswith("Which one? There are several options:\nA. 1\nB. 2\nC. 3\nD. 4\n\nAnswer")


def test_scienceqa_puts_the_hint_first(load):
    asked = questions(load("scienceqa"))
    assert asked["test-0"].text == "Context: A hint.\nWhich is it?\nA. no\nB. yes" + LETTER
    assert asked["test-1"].text == "And this?\nA. a\nB. b\nC. c" + LETTER
    assert Target.read(asked["test-0"].answer) == Target(("B",), ("no", "yes"))


def test_seedbench_leaves_videos_out(load):
    asked = questions(load("seedbench"))
    assert set(asked) == {"101669"} and asked["101669"].family == "Instances Counting"
    assert asked["101669"].text == "How many?\nA. One\nB. Two\nC. Three\nD. Four" + LETTER


def test_vqa_answers_stay_together(load):
    task = load("vqav2")
    asked = questions(task)
    assert asked["262148000"].family == "number" and asked["262148001"].family == "other"
    answer = asked["262148000"].answer
    assert task.score("Two", answer) == 1 and task.score("3", answer) == pytest.approx(0.9) and task.score("4", answer) == 0


def test_textvqa_capitalises_as_lmms_eval_does(load):
    (question,) = questions(load("textvqa")).values()
    assert question.text == "What is the brand?" + SHORT


def test_chartqa_tells_images_apart_by_their_bytes(load):
    task = load("chartqa")
    assert sorted(len(sample.questions) for sample in task.samples(9, 0)) == [1, 2]
    asked = questions(task)
    assert asked["test-0"].family == "human" and asked["test-1"].family == "augmented"
    assert asked["test-0"].text == "How much?\nAnswer the question with a single word."
    assert task.score("14.5", asked["test-0"].answer) == 1 and task.score("15", asked["test-0"].answer) == 0
    assert task.score("[2, 3]", asked["test-2"].answer) == 1, "an answer that looks like a list is one answer"


def test_docvqa_names_pages(load):
    task = load("docvqa")
    (sample,) = task.samples(9, 0)
    assert sample.image_id == "pybv0228_81" and [q.family for q in sample.questions] == ["figure/diagram", "form"]
    assert task.score(".28", sample.questions[0].answer) == 1


def test_ocrbench_formulas_have_a_rule_of_their_own(load):
    task = load("ocrbench")
    text, formula = (questions(task)[name].answer for name in ("test-0", "test-1"))
    assert task.score("It says centre", text) == 1 and task.score("It says c e n t r e", text) == 0
    assert task.score("x=\\frac{1}{5}", formula) == 1 and task.score("X=\\frac{1}{5}", formula) == 0


def test_refcoco_asks_for_every_expression_in_fractions_of_the_image(load):
    task = load("refcoco")
    (sample,) = task.samples(9, 0)
    assert sample.image_id == "COCO_train2014_000000581857"
    assert [q.sample_id for q in sample.questions] == ["1719310-0", "1719310-1", "1719311-0"]
    assert sample.questions[1].text.endswith("the region this sentence describes: man in red")
    assert Target.read(sample.questions[0].answer).answers == ("[0.100000, 0.100000, 0.500000, 0.500000]",)
    assert Target.read(sample.questions[2].answer).answers == ("[0.500000, 0.500000, 1.000000, 1.000000]",)
    answer = sample.questions[0].answer
    assert task.score("[0.1, 0.1, 0.5, 0.31]", answer) == 1 and task.score("[0.1, 0.1, 0.5, 0.29]", answer) == 0


def test_gqa_joins_questions_and_images(tmp_path, parquet):
    parquet(tmp_path / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet", gqa())
    images = [{"id": "n161314", "image": cell(BLUE)}, {"id": "n161313", "image": cell(RED)}]
    parquet(tmp_path / "testdev_balanced_images" / "testdev-00000-of-00001.parquet", images)
    task = create(f"gqa[path={tmp_path}]")
    samples = {sample.image_id: sample for sample in task.samples(9, 0)}
    assert {image: len(sample.questions) for image, sample in samples.items()} == {"n161313": 2, "n161314": 1}
    assert samples["n161314"].image.getpixel((0, 0)) == (0, 0, 255)
    question = samples["n161313"].questions[0]
    assert (question.sample_id, question.family, question.answer) == ("20195800", "verify", "yes")
    assert question.text == "Is it cloudy?" + SHORT


def test_gqa_in_one_file_needs_no_second(tmp_path, parquet):
    rows = [{**row, "image": cell(RED)} for row in gqa()]
    assert len(list(create(f"gqa[path={parquet(tmp_path / 'gqa.parquet', rows)}]").samples(9, 0))) == 2


def test_gqa_says_which_image_is_missing(tmp_path, parquet):
    parquet(tmp_path / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet", gqa())
    parquet(tmp_path / "testdev_balanced_images" / "testdev-00000-of-00001.parquet", [{"id": "n161313", "image": cell(RED)}])
    with pytest.raises(RequestError, match=r"row 2, column 'imageId': there is no image 'n161314' in testdev_balanced_images"):
        list(create(f"gqa[path={tmp_path}]").samples(9, 0))


def test_a_folder_is_read_by_split_and_configuration(tmp_path, parquet):
    for split, rows in (("dev", mmbench()[:1]), ("test", mmbench()[2:])):
        parquet(tmp_path / "en" / f"{split}-00000-of-00001.parquet", rows)
        parquet(tmp_path / "cn" / f"{split}-00000-of-00001.parquet", mmbench()[:2])
    assert set(questions(create(f"mmbench[path={tmp_path}]"))) == {"241"}
    task = create(f"mmbench[path={tmp_path},split=test]")
    assert set(questions(task)) == {"252"} and task.info.split == "test" and task.info.source == str(tmp_path)
    with pytest.raises(RequestError, match=r"no files of split 'train'; there are: dev, test"):
        create(f"mmbench[path={tmp_path},split=train]")


def test_json_lines_do_as_well(jsonl):
    rows = [{**row, "image": "images/a.png"} for row in pope()]
    assert len(list(create(f"pope[path={jsonl(rows)}]").samples(9, 0))) == 2


def rows_of(scores, family="count", target="yes"):
    return [Answered(f"{i}-{k}", family, str(i), target, "yes" if s else "no", float(s))
            for i, pair in enumerate(scores) for k, s in enumerate(pair)]  # fmt: skip


def test_mme_counts_pairs(load):
    found = load("mme").aggregate(rows_of([(1, 1), (1, 0), (0, 0), (1, 1)]) + rows_of([(1, 1), (0, 1)], "code_reasoning"))
    assert found["count"] == 100 * 5 / 8 + 100 * 2 / 4 and found["code_reasoning"] == 75 + 50
    assert found["perception"] == found["count"] and found["cognition"] == 125 and found["total"] == 125 + found["count"]
    alone = load("mme").aggregate(rows_of([(1,), (1, 1)]))
    assert alone["count"] == 200, "an image with one question is no pair"
    assert load("mme").aggregate([]) == {}


def test_pope_figures(load):
    rows = [Answered(str(i), kind, "x", target, prediction, 0.0) for i, (kind, target, prediction) in enumerate([
        ("random", "yes", "Yes"), ("random", "yes", "no"), ("popular", "no", "yes"), ("popular", "no", "No."),
        ("popular", "yes", "maybe"),
    ])]  # fmt: skip
    ours = load("pope").scored_by("ours")
    found = ours.aggregate(rows)
    assert found["precision"] == 0.5 and found["recall"] == pytest.approx(1 / 3) and found["yes_share"] == 0.4
    assert found["f1"] == pytest.approx(0.4) and found["f1_random"] == pytest.approx(2 / 3) and found["f1_popular"] == 0
    official = load("pope").aggregate(rows)  # "No." says nothing there, and "maybe" misses no yes
    assert official["recall"] == 0.5 and official["precision"] == 0.5 and official["f1"] == 0.5
    silent = ours.aggregate([Answered("1", "random", "x", "no", "no", 1.0)])
    assert silent == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "yes_share": 0.0, "f1_random": 0.0}


def test_mmbench_counts_a_question_once_and_only_if_all_rotations_are_right(load):
    rows = [Answered(index, "x", "x", "A", "A", score) for index, score in
            (("241", 1.0), ("1000241", 1.0), ("2000241", 1.0), ("252", 1.0), ("3000252", 0.0), ("7", 0.0))]  # fmt: skip
    assert load("mmbench").aggregate(rows) == {"circular": pytest.approx(1 / 3), "questions": 3}


def test_ocrbench_totals(load):
    rows = [Answered(str(i), family, "x", "a", "a", score) for i, (family, score) in enumerate([
        ("Regular Text Recognition", 1.0), ("Regular Text Recognition", 0.0), ("Handwriting Recognition", 1.0),
        ("Doc-oriented VQA", 1.0),
    ])]  # fmt: skip
    found = load("ocrbench").aggregate(rows)
    assert (found["total"], found["asked"], found["recognition"]) == (3, 4, 2)
    assert found["Regular Text Recognition"] == 1 and found["Doc-oriented VQA"] == 1


def test_refcoco_figures(load):
    answer = Target(("[0.0, 0.0, 0.5, 0.5]",)).text
    rows = [Answered(str(i), "referring", "x", answer, text, 0.0)
            for i, text in enumerate(("[0, 0, 0.5, 0.5]", "[0, 0, 0.5, 0.4]", "[0.5, 0.5, 1, 1]", "a man"))]  # fmt: skip
    for rule, centre in (("ours", 0.5), ("official", 0.75)):  # no box is four zeros there, and their centre in the right box
        found = load("refcoco").scored_by(rule).aggregate(rows)
        assert found["iou"] == pytest.approx(1.8 / 4) and found["accuracy_0.7"] == 0.5 and found["accuracy_0.9"] == 0.25
        assert found["centre"] == centre and found["no_box"] == 0.25


BROKEN = [
    ("pope", {"answer": "maybe"}, "column 'answer': is 'maybe', neither yes nor no"),
    ("pope", {"image_source": None}, "column 'image_source': is empty"),
    ("mmbench", {"answer": "D"}, "column 'answer': is 'D', and the choices are A to B"),
    ("mmbench", {"B": "nan"}, "column 'B': is empty; a question has two options at least"),
    ("scienceqa", {"answer": 2}, "column 'answer': is 2, and there are 2 choices, counted from 0"),
    ("scienceqa", {"choices": []}, "column 'choices': is an empty list"),
    ("ai2d", {"answer": "two"}, "column 'answer': is two, not a whole number"),
    ("refcoco", {"bbox": [1.0, 2.0]}, "column 'bbox': is a list of 2, not a list of 4 numbers"),
    ("refcoco", {"bbox": [1.0, 2.0, 0.0, 4.0]}, "column 'bbox': a box is [left, top, width, height]"),
    ("textvqa", {"answers": [""]}, "column 'answers': holds only blank texts"),
    ("docvqa", {"question": " "}, "column 'question': is blank"),
    ("chartqa", {"image": None}, "column 'image': is empty"),
]


@pytest.mark.parametrize(("name", "change", "message"), BROKEN, ids=lambda v: v if isinstance(v, str) else "")
def test_a_broken_row_is_named(tmp_path, parquet, name, change, message):
    rows = [{**ROWS[name]()[0], **change}]
    with pytest.raises(RequestError) as error:
        list(create(f"{name}[path={parquet(tmp_path / 'part.parquet', rows)}]").samples(9, 0))
    assert "part.parquet, row 0" in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("name", ROWS)
def test_a_missing_column_is_named(tmp_path, parquet, name):
    rows = ROWS[name]()
    for column in [c for c in rows[0] if c in ("question", "answers", "answer", "image")]:
        less = [{key: value for key, value in row.items() if key != column} for row in rows]
        if column == "question" and name == "refcoco":
            continue
        with pytest.raises(RequestError, match=f"part.parquet: no column '{column}'"):
            create(f"{name}[path={parquet(tmp_path / 'part.parquet', less)}]")


def test_every_benchmark_has_rows_here():
    assert set(BENCHMARKS) == {*ROWS, "gqa"}
