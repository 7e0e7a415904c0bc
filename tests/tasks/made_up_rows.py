"""Made-up rows with the columns of each benchmark's data set, in the types that it has on the hub; images left out."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

Rows = list[dict[str, Any]]

NAMES = [
    "a cat", "a dog", "a bird", "a fish", "one", "two", "three", "four", "left", "right", "The USA", "China", "blue", "dark blue",
    "H2O", "vitamin C", "yes", "no", "a banana split", "Banff", "an apple", "plan B", "E. coli", "红色", "it's", "Café", "cat",
]  # fmt: skip
ANSWERS = [
    "2", "10", "two", "none", "red", "the dog", "a dog", "dog's", "nokia", "coca-cola", "1,000", "1000", "3.5", "U.S.A.", "don't",
    "wont", "what's that?", "left/right", "yes", "no", "tennis racket", "light blue", "10:30", "$5.00", "5%", "café", "15",
    "5", "300",
    "红色", "it's", "Dr. Who", "[stop]", "new york", "i", "kiwi", "", "1.", "3.00", "straße", "stop sign;", "dvd, cd",
    "100 mg / ml",
    "ＳＡＬＥ",
]  # fmt: skip
NUMBERS = [
    "14", "14.5", "0", "0.0", "1000", "2016", "5%", "12.7%", "0.57", "-3", "Yes", "No", "Blue", "light blue", "1,234",
    "[2, 3]", "100",
    "nan", "inf", "Dec 2015", "1e3", "0.00", "88%", "Germany", " 7", "3.0", "٣", "1_0", "50 %",
]  # fmt: skip
PERCEPTION = ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"]
COGNITION = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]
OCR_TYPES = [
    "Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition", "Handwriting Recognition",
    "Digit String Recognition", "Non-Semantic Text Recognition", "Scene Text-centric VQA", "Doc-oriented VQA",
    "Key Information Extraction",
]  # fmt: skip
FORMULAS = ["x = \\frac { 1 } { 5 }\n", "a ^ { 2 } + b ^ { 2 }", "\\sqrt { X }", " y\t= 2 ", "\\alpha"]
SIZES = [(640, 427), (500, 375), (427, 640), (100, 50)]


def pope(count: int, random: Random) -> Rows:
    """Eighteen questions an image, six of each kind."""
    return [
        {"id": str(i), "question_id": str(i), "question": "Is there a dog in the image?", "answer": random.choice(["yes", "no"]),
         "image_source": f"COCO_val2014_{i // 18:012d}", "category": ("adversarial", "popular", "random")[i % 3]}
        for i in range(count)
    ]  # fmt: skip


def mme(count: int, random: Random) -> Rows:
    """Two questions an image, one whose answer is yes and one whose answer is no."""
    kinds = PERCEPTION + COGNITION
    return [
        {"question_id": f"{kinds[i // 2 % 14]}/{i // 2:06d}.png", "question": "Is it so? Please answer yes or no.",
         "answer": ("Yes", "No")[i % 2], "category": kinds[i // 2 % 14]}
        for i in range(count)
    ]  # fmt: skip


def mmbench(count: int, random: Random, most: int = 4, question: int = 0) -> Rows:
    """Questions of two to ``most`` options under each rotation; options that are not there are "nan", or empty.

    ``question`` is the number after which questions are counted.
    """
    rows: Rows = []
    while len(rows) < count:
        question += 1
        texts = random.sample(NAMES, random.choice([2, 3, 3, 3, most, most]))
        missing = random.choice(["nan", "nan", None])
        right = random.randrange(len(texts))
        for turn in range(len(texts)):
            turned = [texts[(place + turn) % len(texts)] for place in range(len(texts))]
            cells = dict(zip("ABCD", [*turned, missing, missing][:4]))
            rows.append({
                "index": question + turn * 1_000_000, "question": "Which one?", "hint": random.choice(["nan", "Look."]),
                "answer": "ABCD"[(right - turn) % len(texts)], **cells, "category": "ocr", "source": "s",
                "L2-category": random.choice(["coarse_perception", "logic_reasoning"]), "comment": "nan", "split": "dev",
            })  # fmt: skip
    return rows[:count]


def scienceqa(count: int, random: Random) -> Rows:
    """Two to five choices, and the place of the right one."""
    rows: Rows = []
    for _ in range(count):
        choices = random.sample(NAMES, random.randint(2, 5))
        rows.append({"question": "Which is it?", "choices": choices, "answer": random.randrange(len(choices)), "hint": "",
                     "subject": "natural science"})  # fmt: skip
    return rows


def seedbench(count: int, random: Random) -> Rows:
    """Four choices, each in a column."""
    return [
        {**{f"choice_{name}": text for name, text in zip("abcd", random.sample(NAMES, 4))}, "answer": random.choice("ABCD"),
         "question": "What is it?", "question_id": str(i), "question_type_id": i % 9 + 1, "data_type": "image",
         "data_id": f"{i}_0"}
        for i in range(count)
    ]  # fmt: skip


def ai2d(count: int, random: Random) -> Rows:
    """Four options, and the place of the right one as a text."""
    return [
        {"question": "What eats?", "options": random.sample(NAMES, 4), "answer": str(random.randrange(4))} for _ in range(count)
    ]


def gqa(count: int, random: Random) -> Rows:
    """One answer of one or two words."""
    kinds = ["verify", "query", "choose"]
    return [
        {"id": str(i), "imageId": f"n{i // 32}", "question": "Is it?",
        "answer": random.choice([text for text in ANSWERS if text]),
         "types": {"structural": random.choice(kinds), "semantic": "obj", "detailed": "existC"}}
        for i in range(count)
    ]  # fmt: skip


def _people(random: Random) -> list[str]:
    """Ten people's answers, of few kinds; at times fewer people."""
    kinds = random.sample(ANSWERS, random.randint(1, 4))
    answers = [random.choice(kinds) for _ in range(random.choice([10, 10, 10, 10, 3, 1]))]
    return answers if any(answers) else ["red", *answers]


def vqav2(count: int, random: Random) -> Rows:
    """Ten people's answers, with their numbers."""
    return [
        {"question_id": i, "image_id": i // 5, "question": "What?", "answer_type": "other", "question_type": "what",
         "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in enumerate(_people(random), 1)]}
        for i in range(count)
    ]  # fmt: skip


def textvqa(count: int, random: Random) -> Rows:
    """Ten people's answers."""
    return [
        {"question_id": i, "image_id": f"{i // 2:016x}", "question": "what is the brand?", "ocr_tokens": ["NOKIA"],
         "answers": _people(random)}
        for i in range(count)
    ]  # fmt: skip


def chartqa(count: int, random: Random) -> Rows:
    """A number or a text."""
    return [
        {"type": random.choice(["human_test", "augmented_test"]), "question": "How much?", "answer": random.choice(NUMBERS)}
        for _ in range(count)
    ]  # fmt: skip


def docvqa(count: int, random: Random) -> Rows:
    """One to three answers, at times a blank one beside another."""
    rows: Rows = []
    for i in range(count):
        answers = random.sample(ANSWERS, random.choice([1, 1, 2, 3]))
        answers += [""] if i % 8 == 0 and "" not in answers else []
        rows.append({"questionId": str(i), "question": "What is it?", "question_types": ["form"], "docId": i,
                     "answers": answers if any(answers) else [*answers, "total"]})  # fmt: skip
    return rows


def ocrbench(count: int, random: Random) -> Rows:
    """Ten kinds of questions; formulas are of HME100k. At times a list has a blank answer too."""
    rows: Rows = []
    for i in range(count):
        if i % 10 == 9:
            kind, origin, pool = "Handwritten Mathematical Expression Recognition", "HME100k", FORMULAS
        else:
            kind, origin, pool = OCR_TYPES[i % 10], "IIIT5K", [text for text in ANSWERS if text]
        answers = [random.choice(pool)] + random.choice([[], [], [random.choice(pool)], [" "] if i % 5 == 0 else []])
        rows.append({"dataset": origin, "question": "what is written in the image?", "question_type": kind, "answer": answers})
    return rows


def refcoco(count: int, random: Random) -> Rows:
    """Boxes in pixels, two expressions each; one in ten ends beyond the edge of the image, one in ten has whole numbers.

    ``size`` is of the image to make.
    """
    rows: Rows = []
    for i in range(count):
        width, height = size = SIZES[i % len(SIZES)]
        left, top = round(random.uniform(0, width / 2), 2), round(random.uniform(0, height / 2), 2)
        box = [left, top, round(random.uniform(1, width / 2), 2), round(random.uniform(1, height / 2), 2)]
        if i % 10 == 0:
            box = [width / 4 + 0.1, 0.0, width / 4, height + 5.0]
        elif i % 10 == 5:
            box = [width // 10 * 1.0, height // 10 * 1.0, width // 5 * 2.0, height // 5 * 2.0]
        rows.append({"question_id": str(i), "answer": ["left man", "man in red"], "bbox": box, "size": size,
                     "file_name": f"COCO_train2014_{i:012d}_{i}.jpg"})  # fmt: skip
    return rows


ROWS: dict[str, Callable[[int, Random], Rows]] = {
    maker.__name__: maker
    for maker in (pope, mme, mmbench, scienceqa, seedbench, ai2d, gqa, vqav2, textvqa, chartqa, docvqa, ocrbench, refcoco)
}
