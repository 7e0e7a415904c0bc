"""Questions with short free answers: GQA, VQAv2, TextVQA, ChartQA, DocVQA and OCRBench."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from harness.tasks.base import Answered, TaskInfo
from harness.tasks.benchmarks.yes_no import SHORT
from harness.tasks.row_images import ImageTable
from harness.tasks.rows import Row
from harness.tasks.scoring import anls, contains, exact, relaxed
from harness.tasks.tabular import Asked, Benchmark
from harness.tasks.target import Target
from harness.tasks.vqa import textvqa, vqa

WORD = "\nAnswer the question with a single word."


def _gqa(row: Row) -> Iterator[Asked]:
    types = row.values.get("types")
    kind = types.get("structural") if isinstance(types, dict) else None
    yield Asked(str(kind or "question"), row.text("question") + SHORT, Target((row.text("answer"),)), row.short("id"))


GQA = Benchmark(
    TaskInfo(
        name="gqa",
        summary="compositional questions on scene graphs: balanced test-dev, about 32 questions an image",
        source="lmms-lab/GQA",
        licence="CC BY 4.0",
        metric="exact match, case and punctuation aside",
        split="testdev",
        families=("choose", "compare", "logical", "query", "verify"),
        knows_evidence=False,
        prompt="{question}" + SHORT,
    ),
    columns=("id", "imageId", "question", "answer"),
    optional=("types",),
    ask=_gqa,
    metric=exact,
    image_id=lambda row: row.short("imageId"),
    images=ImageTable("imageId", "id", "testdev_balanced_images"),
    repositories=("lmms-lab/GQA", "lmms-lab-encoder/GQA"),
    config="testdev_balanced_instructions",
)


def _vqav2(row: Row) -> Iterator[Asked]:
    kind = row.either("answer_type", "question")
    yield Asked(kind, row.text("question") + SHORT, Target(row.texts("answers")), row.short("question_id"))


VQAV2 = Benchmark(
    TaskInfo(
        name="vqav2",
        summary="open questions on COCO images, ten people's answers each",
        source="lmms-lab/VQAv2",
        licence="CC BY 4.0 (questions and answers; images under Flickr's terms)",
        metric="VQA soft accuracy",
        split="validation",
        families=("yes/no", "number", "other"),
        knows_evidence=False,
        prompt="{question}" + SHORT,
    ),
    columns=("question_id", "image_id", "question", "answers"),
    optional=("answer_type",),
    ask=_vqav2,
    metric=vqa,
    image_id=lambda row: row.short("image_id"),
    repositories=("lmms-lab/VQAv2", "lmms-lab-encoder/VQAv2"),
)


def _textvqa(row: Row) -> Iterator[Asked]:
    question = row.text("question").capitalize()
    yield Asked("reading", question + SHORT, Target(row.texts("answers")), row.short("question_id"))


TEXTVQA = Benchmark(
    TaskInfo(
        name="textvqa",
        summary="questions that need the text in a photograph read, ten people's answers each",
        source="lmms-lab/textvqa",
        licence="CC BY 4.0 (questions and answers), CC BY 2.0 (Open Images)",
        metric="VQA soft accuracy",
        split="validation",
        families=("reading",),
        knows_evidence=False,
        prompt="{question}" + SHORT,
    ),
    columns=("question_id", "image_id", "question", "answers"),
    ask=_textvqa,
    metric=textvqa,
    image_id=lambda row: row.short("image_id"),
    repositories=("lmms-lab/textvqa", "lmms-lab-encoder/textvqa"),
)


def _chartqa(row: Row) -> Iterator[Asked]:
    kind = row.either("type", "question").removesuffix("_test")
    yield Asked(kind, row.text("question") + WORD, Target((row.short("answer"),)))


CHARTQA = Benchmark(
    TaskInfo(
        name="chartqa",
        summary="questions on charts, written by people and generated from summaries",
        source="lmms-lab/ChartQA",
        licence="GPL-3.0",
        metric="relaxed accuracy (5 %)",
        split="test",
        families=("human", "augmented"),
        knows_evidence=False,
        prompt="{question}" + WORD,
    ),
    columns=("question", "answer"),
    optional=("type",),
    ask=_chartqa,
    metric=relaxed,
    repositories=("lmms-lab/ChartQA", "lmms-lab-encoder/ChartQA"),
)


def _docvqa(row: Row) -> Iterator[Asked]:
    kind = row.texts("question_types")[0] if row.has("question_types") and row.values["question_types"] else "question"
    yield Asked(kind, row.text("question") + SHORT, Target(row.texts("answers")), row.short("questionId"))


def _page(row: Row) -> str | None:
    if row.has("ucsf_document_id") and row.has("ucsf_document_page_no"):
        return f"{row.short('ucsf_document_id')}_{row.short('ucsf_document_page_no')}"
    return None


DOCVQA = Benchmark(
    TaskInfo(
        name="docvqa",
        summary="questions on scanned pages; a question's family is the first of its types",
        source="lmms-lab/DocVQA",
        licence="terms of the Robust Reading Competition (UCSF Industry Documents Library)",
        metric="ANLS (threshold 0.5)",
        split="validation",
        families=(
            "handwritten", "form", "layout", "table/list", "free_text", "Image/Photo", "figure/diagram", "Yes/No", "others",
        ),
        knows_evidence=False,
        prompt="{question}" + SHORT,
        answer_tokens=32,
    ),
    columns=("questionId", "question", "answers"),
    optional=("question_types", "ucsf_document_id", "ucsf_document_page_no"),
    ask=_docvqa,
    metric=anls,
    image_id=_page,
    repositories=("lmms-lab/DocVQA", "lmms-lab-encoder/DocVQA"),
    config="DocVQA",
)  # fmt: skip

FORMULAS = "Handwritten Mathematical Expression Recognition"
RECOGNITION = (
    "Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition", "Handwriting Recognition",
    "Digit String Recognition", "Non-Semantic Text Recognition",
)  # fmt: skip


def _ocrbench(row: Row) -> Iterator[Asked]:
    kind = row.text("question_type")
    compact = row.either("dataset", "") == "HME100k" or kind == FORMULAS
    yield Asked(kind, row.text("question").strip(), Target(row.texts("answer"), compact=compact))


def ocrbench_figures(rows: Sequence[Answered]) -> dict[str, float]:
    """Return OCRBench's totals: right answers in all, in recognition, and of each type; out of 1000 only on all questions.

    OCRBench (arXiv:2305.07895), table 3. ``asked`` says out of how many.
    """
    right: Counter[str] = Counter()
    for row in rows:
        right[row.family] += row.score == 1
    recognition = sum(right[kind] for kind in RECOGNITION)
    return {
        "total": float(sum(right.values())), "asked": float(len(rows)), "recognition": float(recognition),
        **{kind: float(count) for kind, count in right.items()},
    }  # fmt: skip


OCRBENCH = Benchmark(
    TaskInfo(
        name="ocrbench",
        summary="a thousand questions on text in images: recognition, scenes, documents, key information, formulas",
        source="echo840/OCRBench",
        licence="terms of the data sets it is drawn from",
        metric="containment; total of right answers",
        split="test",
        families=(
            *RECOGNITION, "Scene Text-centric VQA", "Doc-oriented VQA", "Key Information Extraction", FORMULAS,
        ),
        knows_evidence=False,
        prompt="{question}",
        answer_tokens=128,
    ),
    columns=("question", "answer", "question_type"),
    optional=("dataset",),
    ask=_ocrbench,
    metric=contains,
    total=ocrbench_figures,
    repositories=("echo840/OCRBench",),
)  # fmt: skip
