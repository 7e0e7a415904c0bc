"""Questions with short free answers: GQA, VQAv2, TextVQA, ChartQA, DocVQA and OCRBench."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness.errors import RequestError
from harness.tasks.base import Answered, TaskInfo
from harness.tasks.benchmarks import OPEN_LENGTH
from harness.tasks.benchmarks.yes_no import SHORT
from harness.tasks.leading_figure import OwnFigure
from harness.tasks.official import OFFICIAL_RULES
from harness.tasks.row_images import ImageTable
from harness.tasks.rows import Row
from harness.tasks.rules import ScoringRule, ours
from harness.tasks.scoring import anls, contains, exact, relaxed
from harness.tasks.tabular import Asked, Benchmark
from harness.tasks.target import Target
from harness.tasks.vqa import textvqa, vqa

WORD = "\nAnswer the question with a single word."
OCR = "\nReference OCR token: "


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
    rules=(ours(exact), OFFICIAL_RULES["gqa"]),
    sizes={"testdev": 12578},
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
    rules=(ours(vqa, OwnFigure("mean", "VQA accuracy")), OFFICIAL_RULES["vqav2"]),
    sizes={"validation": 214354},
    image_id=lambda row: row.short("image_id"),
    repositories=("lmms-lab/VQAv2", "lmms-lab-encoder/VQAv2"),
)


def _textvqa(row: Row, reference: str = "") -> Iterator[Asked]:
    question = row.text("question").capitalize()
    yield Asked("reading", question + reference + SHORT, Target(row.texts("answers")), row.short("question_id"))


def _textvqa_with_ocr(row: Row) -> Iterator[Asked]:
    """The same questions with what an OCR system read in the image, as lmms-eval's ``ocr: true`` puts it."""
    tokens = row.texts("ocr_tokens") if row.value("ocr_tokens") not in ([], ()) else ()
    return _textvqa(row, OCR + ", ".join(tokens))


def _ocr(benchmark: Benchmark, value: str) -> Benchmark:
    """TextVQA as ``ocr=VALUE`` asks for it."""
    if value not in ("true", "false"):
        raise RequestError(f"task 'textvqa': ocr is {value[:40]!r}; choose true or false")
    if value == "false":
        return benchmark
    prompt = "{question}" + OCR + "{tokens}" + SHORT
    return replace(
        benchmark, info=replace(benchmark.info, prompt=prompt), columns=(*benchmark.columns, "ocr_tokens"), ask=_textvqa_with_ocr
    )


TEXTVQA = Benchmark(
    TaskInfo(
        name="textvqa",
        summary="questions that need the text in a photograph read, ten people's answers each; also [ocr=true]",
        source="lmms-lab/textvqa",
        licence="CC BY 4.0 (questions and answers), CC BY 2.0 (Open Images)",
        metric="VQA soft accuracy",
        split="validation",
        families=("reading",),
        knows_evidence=False,
        prompt="{question}" + SHORT,
        answer_tokens=OPEN_LENGTH,
    ),
    columns=("question_id", "image_id", "question", "answers"),
    ask=_textvqa,
    rules=(ours(textvqa, OwnFigure("mean", "VQA accuracy")), OFFICIAL_RULES["textvqa"]),
    sizes={"validation": 5000},
    image_id=lambda row: row.short("image_id"),
    repositories=("lmms-lab/textvqa", "lmms-lab-encoder/textvqa"),
    parameters={"ocr": _ocr},
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
    rules=(ours(relaxed, OwnFigure("mean", "relaxed accuracy")), OFFICIAL_RULES["chartqa"]),
    sizes={"test": 2500},
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
    rules=(ours(anls, OwnFigure("mean", "ANLS")), OFFICIAL_RULES["docvqa"]),
    sizes={"validation": 5349},
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
    compact = row.text("dataset") == "HME100k" if row.has("dataset") else kind == FORMULAS
    answer = row.value("answer")  # a text is one answer here, whatever it looks like
    answers = (row.text("answer"),) if isinstance(answer, str) else row.texts("answer")
    yield Asked(kind, row.text("question").strip(), Target(answers, compact=compact))


def ocrbench_figures(rows: Sequence[Answered], rule: ScoringRule) -> dict[str, float]:
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
        metric="OCRBench total; containment",
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
    rules=(ours(contains, OwnFigure("mean", "OCRBench total", 1000.0)), OFFICIAL_RULES["ocrbench"]),
    sizes={"test": 1000},
    total=ocrbench_figures,
    repositories=("echo840/OCRBench",),
)  # fmt: skip
