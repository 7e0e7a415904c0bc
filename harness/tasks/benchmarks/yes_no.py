"""Questions that are answered with yes or no: POPE and MME."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from harness.tasks.authors import AUTHORS_RULES
from harness.tasks.base import Answered, TaskInfo
from harness.tasks.leading_figure import OwnFigure
from harness.tasks.official import OFFICIAL_RULES
from harness.tasks.reading.affirmation import judge_yes_no
from harness.tasks.rows import Row
from harness.tasks.rules import ScoringRule, ours
from harness.tasks.tabular import Asked, Benchmark
from harness.tasks.target import Target

SHORT = "\nAnswer the question using a single word or phrase."
PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def _right(row: Row) -> Target:
    answer = row.text("answer").strip().lower().replace(".", "")
    if answer not in ("yes", "no"):
        raise row.error("answer", f"is {answer[:40]!r}, neither yes nor no")
    return Target((answer,))


def _pope(row: Row) -> Iterator[Asked]:
    kind = row.short("category")
    yield Asked(kind, row.text("question").strip() + SHORT, _right(row), f"{kind}-{row.short('question_id')}")


def pope_figures(rows: Sequence[Answered], rule: ScoringRule) -> dict[str, float]:
    """Return precision, recall and F1 of "yes", the share of "yes" among the answers, and F1 of each kind of question.

    POPE (arXiv:2305.10355), section 3.3. An answer that says neither counts as no "yes"; whether it misses one is the rule's
    to say. lmms-eval's yes-ratio is of the right answers, always 0.5 on the whole set; ours is of the model's, as in the paper.
    """
    kinds = dict.fromkeys(row.family for row in rows)
    said = [(row.target, rule.judge(row.prediction, Target.read(row.target)).read) for row in rows]
    missed: Collection[str | None] = ("no", None) if dict(rule.figure.options)["unread_missed"] else ("no",)
    by_kind = {f"f1_{kind}": _f1([one for one, row in zip(said, rows) if row.family == kind], missed)["f1"] for kind in kinds}
    return _f1(said, missed) | by_kind


def _f1(said: Sequence[tuple[str, str | None]], missed: Collection[str | None]) -> dict[str, float]:
    """Figures of right answers, each with what was read in the model's."""
    yes = sum(read == "yes" for _, read in said)
    both = sum(read == right == "yes" for right, read in said)
    lost = sum(right == "yes" and read in missed for right, read in said)
    precision = both / yes if yes else 0.0
    recall = both / (both + lost) if both + lost else 0.0
    f1 = 2 * precision * recall / (precision + recall) if both else 0.0
    return {"f1": f1, "precision": precision, "recall": recall, "yes_share": yes / len(said)}


POPE = Benchmark(
    TaskInfo(
        name="pope",
        summary="is an object there: random, popular and adversarial absent ones; 18 questions an image",
        source="lmms-lab/POPE",
        licence="MIT (questions), CC BY 4.0 (COCO annotations; images under Flickr's terms)",
        metric="F1 of yes; accuracy of yes and no",
        split="test",
        families=("adversarial", "popular", "random"),
        knows_evidence=False,
        prompt="{question}" + SHORT,
        answer_tokens=128,
    ),
    columns=("question_id", "question", "answer", "image_source", "category"),
    ask=_pope,
    rules=(
        ours(judge_yes_no, OwnFigure("f1", "F1", options=(("unread_missed", True),))),
        OFFICIAL_RULES["pope"],
        AUTHORS_RULES["pope"],
    ),
    sizes={"test": 9000},
    image_id=lambda row: row.short("image_source"),
    total=pope_figures,
    repositories=("lmms-lab/POPE", "lmms-lab-encoder/POPE"),
)


def _mme(row: Row) -> Iterator[Asked]:
    question = row.text("question").strip().replace(" Please answer yes or no.", "")
    yield Asked(row.text("category"), question + SHORT, _right(row), row.short("question_id"))


def mme_figures(rows: Sequence[Answered], rule: ScoringRule) -> dict[str, float]:
    """Return MME's scores of each category, and their sums.

    A category's score is 100 x accuracy + 100 x the share of images with both questions right: MME (arXiv:2306.13394),
    section 2.2. Images of which not exactly two questions were asked are left out. Sums over categories are of those that
    were asked: ``perception`` is out of 2000 and ``cognition`` out of 800 only on all.
    """
    pairs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        pairs[row.family][row.image].append(row.score)
    out = {}
    for kind, images in pairs.items():
        whole = [scores for scores in images.values() if len(scores) == 2]
        if whole:
            out[kind] = 100 * sum(sum(scores) / 2 + (sum(scores) == 2) for scores in whole) / len(whole)
    sums = {
        "perception": sum(value for kind, value in out.items() if kind not in COGNITION),
        "cognition": sum(value for kind, value in out.items() if kind in COGNITION),
    }
    return {"total": sums["perception"] + sums["cognition"], **sums, **out}


MME = Benchmark(
    TaskInfo(
        name="mme",
        summary="ten categories of perception and four of cognition, two questions an image, one yes and one no",
        source="lmms-lab/MME",
        licence="academic research only",
        metric="MME total (accuracy and accuracy+ by category); accuracy of yes and no",
        split="test",
        families=PERCEPTION + COGNITION,
        knows_evidence=False,
        prompt="{question}" + SHORT,
    ),
    columns=("question_id", "question", "answer", "category"),
    ask=_mme,
    rules=(ours(judge_yes_no, OwnFigure("mme", "MME total", 2800.0)), OFFICIAL_RULES["mme"]),
    sizes={"test": 2374},
    image_id=lambda row: f"{row.text('category')}/{row.short('question_id')}",
    total=mme_figures,
    repositories=("lmms-lab/MME", "lmms-lab-encoder/MME"),
)
