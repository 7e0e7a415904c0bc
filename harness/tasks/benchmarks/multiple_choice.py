"""Multiple choice: MMBench, ScienceQA, SEED-Bench and AI2D.

lmms-eval has a rule for each, which leads (`harness.tasks.official`): the first character (SEED-Bench, so that "Because" is B), a
letter before a full stop (ScienceQA, AI2D), and for MMBench a letter or an option's text. Beside them stands one rule of ours
for all four (`harness.tasks.choice`), by which a pruned model's longer answers do not count differently by task.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from string import ascii_uppercase

from harness.tasks.authors import AUTHORS_RULES
from harness.tasks.base import Answered, TaskInfo
from harness.tasks.benchmarks import OPEN_LENGTH
from harness.tasks.choice import judge_choice
from harness.tasks.leading_figure import OwnFigure
from harness.tasks.official import OFFICIAL_RULES
from harness.tasks.rows import Row
from harness.tasks.rules import ScoringRule, ours
from harness.tasks.tabular import Asked, Benchmark
from harness.tasks.target import Target

LETTER = "\nAnswer with the option's letter from the given choices directly."
ROTATION = 1_000_000  # MMBench: the index of a question with its options rotated is the question's plus a multiple of this
SEED_FAMILIES = (
    "Scene Understanding", "Instance Identity", "Instance Attributes", "Instance Location", "Instances Counting",
    "Spatial Relation", "Instance Interaction", "Visual Reasoning", "Text Understanding",
)  # fmt: skip
_LETTERED = "{question}\nA. ...\nB. ..." + LETTER


def options(texts: Iterable[str]) -> str:
    """Return the options as text, one a line, each with its letter."""
    return "\n".join(f"{name}. {text}" for name, text in zip(ascii_uppercase, texts))


def choices_of(row: Row, column: str) -> tuple[str, ...]:
    """Return the options of a row: two at least, and no more than there are letters.

    Raises:
        RequestError: for fewer or more.
    """
    texts = row.texts(column)
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise row.error(column, f"has {len(texts)} options; there should be 2 to {len(ascii_uppercase)}")
    return texts


def _by_place(row: Row, column: str, choices: Sequence[str]) -> Target:
    place = row.whole(column)
    if not 0 <= place < len(choices):
        raise row.error(column, f"is {place}, and there are {len(choices)} choices, counted from 0")
    return Target((ascii_uppercase[place],), tuple(choices))


def _by_letter(row: Row, column: str, choices: Sequence[str]) -> Target:
    answer = row.text(column).strip().upper()
    if answer not in list(ascii_uppercase[: len(choices)]):
        raise row.error(column, f"is {answer[:20]!r}, and the choices are A to {ascii_uppercase[len(choices) - 1]}")
    return Target((answer,), tuple(choices))


def _mmbench(row: Row) -> Iterator[Asked]:
    choices = []
    for name in "ABCDE":
        text = row.either(name, "")
        if not text:
            break
        choices.append(text)
    if len(choices) < 2:
        raise row.error("B" if choices else "A", "is empty; a question has two options at least")
    hint = row.either("hint", "")
    start = f"{hint} " if hint else ""
    prompt = f"{start}{row.text('question')} There are several options:\n{options(choices)}\n{LETTER}"
    kind = row.either("L2-category", "") or row.either("category", "question")
    yield Asked(kind, prompt, replace(_by_letter(row, "answer", choices), official=_seen(row, choices)), row.short("index"))


def _seen(row: Row, choices: Sequence[str]) -> tuple[str, ...]:
    """The options A to D with their letters as lmms-eval has them, where they differ from the choices.

    There, a column that is missing and a cell that says "nan" are an option with the text "nan"; a cell without content is none.
    """
    cells = {name: row.values.get(name, "nan") for name in "ABCD"}
    seen = tuple(f"{name}. {text}" for name, text in cells.items() if name not in row.values or row.has(name))
    return () if seen == tuple(f"{name}. {text}" for name, text in zip("ABCD", choices)) else seen


def mmbench_figures(rows: Sequence[Answered], rule: ScoringRule) -> dict[str, float]:
    """Return circular accuracy: the share of questions right under every rotation of their options that was asked.

    MMBench (arXiv:2307.06281), section 4.2. Rotations share the last six digits of their index.
    """
    by_question: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_question[str(int(row.question) % ROTATION) if row.question.isdecimal() else row.question].append(row.score)
    whole = sum(all(score == 1 for score in scores) for scores in by_question.values())
    return {"circular": whole / len(by_question), "questions": float(len(by_question))}


MMBENCH = Benchmark(
    TaskInfo(
        name="mmbench",
        summary="twenty abilities in multiple choice, every question under each rotation of its options (English, dev)",
        source="lmms-lab/MMBench",
        licence="Apache-2.0",
        metric="circular accuracy; accuracy of the letter",
        split="dev",
        families=(
            "attribute_reasoning", "coarse_perception", "finegrained_perception (cross-instance)",
            "finegrained_perception (instance-level)", "logic_reasoning", "relation_reasoning",
        ),
        knows_evidence=False,
        prompt="{hint} {question} There are several options:\nA. ...\nB. ...\n" + LETTER,
        answer_tokens=OPEN_LENGTH,
    ),
    columns=("index", "question", "answer", "A", "B"),
    optional=("hint", "C", "D", "E", "category", "L2-category"),
    ask=_mmbench,
    rules=(ours(judge_choice, OwnFigure("circular", "circular accuracy")), OFFICIAL_RULES["mmbench"]),
    sizes={"dev": 4329},
    image_id=lambda row: str(row.whole("index") % ROTATION),
    total=mmbench_figures,
    repositories=("lmms-lab/MMBench", "lmms-lab-encoder/MMBench"),
    config="en",
)  # fmt: skip


def _scienceqa(row: Row) -> Iterator[Asked]:
    choices = choices_of(row, "choices")
    hint = row.either("hint", "")
    context = f"Context: {hint}\n" if hint else ""
    prompt = f"{context}{row.text('question')}\n{options(choices)}{LETTER}"
    yield Asked(row.either("subject", "question"), prompt, _by_place(row, "answer", choices))


SCIENCEQA = Benchmark(
    TaskInfo(
        name="scienceqa",
        summary="school science in multiple choice: the questions that come with an image (ScienceQA-IMG)",
        source="lmms-lab/ScienceQA",
        licence="CC BY-NC-SA 4.0",
        metric="accuracy of the letter",
        split="test",
        families=("natural science", "social science", "language science"),
        knows_evidence=False,
        prompt="Context: {hint}\n" + _LETTERED,
    ),
    columns=("question", "choices", "answer"),
    optional=("hint", "subject"),
    ask=_scienceqa,
    rules=(ours(judge_choice), OFFICIAL_RULES["scienceqa"], AUTHORS_RULES["scienceqa"]),
    sizes={"test": 2017},
    repositories=("lmms-lab/ScienceQA", "lmms-lab-encoder/ScienceQA"),
    config="ScienceQA-IMG",
)


def _seedbench(row: Row) -> Iterator[Asked]:
    choices = [row.short(f"choice_{name}") for name in "abcd"]
    kind = row.short("question_type_id") if row.has("question_type_id") else ""
    number = int(kind) if kind.isdecimal() else 0
    family = SEED_FAMILIES[number - 1] if 1 <= number <= len(SEED_FAMILIES) else kind or "question"
    prompt = f"{row.text('question')}\n{options(choices)}{LETTER}"
    yield Asked(family, prompt, _by_letter(row, "answer", choices), row.short("question_id"))


SEEDBENCH = Benchmark(
    TaskInfo(
        name="seedbench",
        summary="nine kinds of questions on images in multiple choice; questions on videos are left out",
        source="lmms-lab/SEED-Bench",
        licence="CC BY-NC 4.0",
        metric="accuracy of the letter",
        split="test",
        families=SEED_FAMILIES,
        knows_evidence=False,
        prompt=_LETTERED,
        answer_tokens=OPEN_LENGTH,
    ),
    columns=("question_id", "question", "choice_a", "choice_b", "choice_c", "choice_d", "answer", "data_id"),
    optional=("question_type_id", "data_type"),
    ask=_seedbench,
    rules=(ours(judge_choice), OFFICIAL_RULES["seedbench"]),
    sizes={"test": 14233},
    image_id=lambda row: row.short("data_id"),
    wanted=lambda row: row.either("data_type", "image") == "image",
    repositories=("lmms-lab/SEED-Bench", "lmms-lab-encoder/SEED-Bench"),
)


def _ai2d(row: Row) -> Iterator[Asked]:
    choices = choices_of(row, "options")
    yield Asked("diagram", f"{row.text('question')}\n{options(choices)}{LETTER}", _by_place(row, "answer", choices))


AI2D = Benchmark(
    TaskInfo(
        name="ai2d",
        summary="school diagrams in multiple choice",
        source="lmms-lab/ai2d",
        licence="terms of the Allen Institute for AI; diagrams from the web",
        metric="accuracy of the letter",
        split="test",
        families=("diagram",),
        knows_evidence=False,
        prompt=_LETTERED,
    ),
    columns=("question", "options", "answer"),
    ask=_ai2d,
    rules=(ours(judge_choice), OFFICIAL_RULES["ai2d"]),
    sizes={"test": 3088},
    repositories=("lmms-lab/ai2d", "lmms-lab-encoder/ai2d"),
)
