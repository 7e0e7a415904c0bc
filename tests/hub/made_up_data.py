"""Made-up rows of all benchmarks, in the files and with the column types that the hub's data sets have."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from harness.models.catalogue import TINY
from tests.tasks import test_benchmarks as rows
from tests.tasks.conftest import BLUE, RED, cell

IMAGE = "struct<bytes: binary, path: string>"
TYPES = {
    "POPE": f"id string, question_id string, question string, answer string, image_source string, image {IMAGE}, category string",
    "MME": f"question_id string, image {IMAGE}, question string, answer string, category string",
    "GQA": "id string, imageId string, question string, answer string, fullAnswer string, isBalanced bool, "
    "types struct<structural: string, semantic: string, detailed: string>",
    "GQA images": f"id string, image {IMAGE}",
    "VQAv2": "question_type string, multiple_choice_answer string, "
    "answers list<struct<answer: string, answer_confidence: string, answer_id: int64>>, image_id int64, answer_type string, "
    f"question_id int64, question string, image {IMAGE}",
    "textvqa": f"image_id string, question_id int32, question string, question_tokens list<string>, image {IMAGE}, "
    "image_width int32, image_height int32, answers list<string>, image_classes list<string>, set_name string, "
    "ocr_tokens list<string>",
    "ChartQA": f"type string, question string, answer string, image {IMAGE}",
    "DocVQA": f"questionId string, question string, question_types list<string>, image {IMAGE}, docId int64, "
    "ucsf_document_id string, ucsf_document_page_no string, answers list<string>, data_split string",
    "OCRBench": f"dataset string, question string, question_type string, answer list<string>, image {IMAGE}",
    "RefCOCO": f"question_id string, image {IMAGE}, question string, answer list<string>, segmentation list<float>, "
    "bbox list<float>, iscrowd int8, file_name string",
    "MMBench": "index int64, question string, hint string, answer string, A string, B string, C string, D string, "
    f"category string, image {IMAGE}, source string, L2-category string, comment string, split string",
    "ScienceQA": f"image {IMAGE}, question string, choices list<string>, answer int8, hint string, task string, grade string, "
    "subject string, topic string, category string, skill string, lecture string, solution string",
    "SEED-Bench": "answer string, choice_a string, choice_b string, choice_c string, choice_d string, data_id string, "
    f"data_type string, question string, question_id string, question_type_id int16, image list<{IMAGE}>, segment list<int64>",
    "ai2d": f"question string, options list<string>, answer string, image {IMAGE}",
}
"""The columns of each data set, in order, each with its Arrow type."""


def arrow_type(text: str) -> Any:
    """The Arrow type of a text such as ``list<struct<a: string>>``."""
    import pyarrow

    if match := re.fullmatch(r"list<(.*)>", text):
        return pyarrow.list_(arrow_type(match[1]))
    if match := re.fullmatch(r"struct<(.*)>", text):
        return pyarrow.struct([(name, arrow_type(kind)) for name, kind in (part.split(": ") for part in match[1].split(", "))])
    return getattr(pyarrow, {"bool": "bool_", "float": "float32"}.get(text, text))()


def columns(name: str) -> dict[str, str]:
    """The columns of a data set with their types as texts."""
    return dict(part.split(" ", 1) for part in re.split(r", (?![^<]*>)", TYPES[name]))


def write(path: Path, name: str, content: list[dict[str, Any]]) -> None:
    """Write rows into a parquet file with the columns of a data set; what a row lacks is null."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(column, arrow_type(kind)) for column, kind in columns(name).items()])
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist([{column: row.get(column) for column in schema.names} for row in content], schema)
    parquet.write_table(table, path, row_group_size=2)


def layout() -> dict[str, dict[str, tuple[str, list[dict[str, Any]]]]]:
    """The files of each repository, each with the columns' name and its rows; other splits and configurations among them."""
    pope, mme = rows.pope(), rows.mme()
    images = [{"id": "n161314", "image": cell(BLUE)}, {"id": "n161313", "image": cell(RED)}]
    one = "-00000-of-00001"
    found: dict[str, dict[str, tuple[str, list[dict[str, Any]]]]] = {
        "lmms-lab/POPE": {
            **{f"data/test-0000{k}-of-00003.parquet": ("POPE", pope[k::3]) for k in range(3)},
            **{f"Full/{kind}{one}.parquet": ("POPE", [row for row in pope if row["category"] == kind])
               for kind in ("adversarial", "popular", "random")},
        },
        "lmms-lab/MME": {
            "data/test-00000-of-00002-a25dbe3b44c4fda6.parquet": ("MME", mme[:2]),
            "data/test-00001-of-00002-7d22c7f1aba6fca4.parquet": ("MME", mme[2:]),
        },
        "lmms-lab/GQA": {
            f"testdev_{which}_{kind}/testdev{one}.parquet": content
            for which in ("all", "balanced")
            for kind, content in (("images", ("GQA images", images)), ("instructions", ("GQA", rows.gqa())))
        },
        "lmms-lab/DocVQA": {
            f"{config}/{split}{one}.parquet": ("DocVQA", rows.docvqa()[: 1 + (config == "DocVQA")])
            for config, split in (("DocVQA", "validation"), ("DocVQA", "test"), ("InfographicVQA", "validation"))
        },
        "lmms-lab/MMBench": {
            f"{config}/{split}{one}.parquet": ("MMBench", rows.mmbench()[: 3 - (split == "test")])
            for config, split in (("en", "dev"), ("en", "test"), ("cn", "dev"))
        },
        "lmms-lab/ScienceQA": {
            f"ScienceQA-{config}/{split}{one}.parquet": ("ScienceQA", rows.scienceqa()[: 1 + (config == "IMG")])
            for config, split in (("FULL", "test"), ("IMG", "test"), ("IMG", "validation"))
        },
    }  # fmt: skip
    for repository, splits, content in (
        ("lmms-lab/VQAv2", ("validation", "test", "testdev"), rows.vqav2()),
        ("lmms-lab/textvqa", ("train", "validation", "test"), rows.textvqa()),
        ("lmms-lab/RefCOCO", ("val", "test", "testA", "testB"), rows.refcoco()),
        ("lmms-lab/SEED-Bench", ("test",), rows.seedbench()),
        ("lmms-lab/ai2d", ("test",), rows.ai2d()),
        ("lmms-lab/ChartQA", ("test",), rows.chartqa()),
        ("echo840/OCRBench", ("test",), rows.ocrbench()),
    ):
        name = repository.partition("/")[2]
        found[repository] = {f"data/{split}{one}.parquet": (name, content) for split in splits}
    return found


def write_hub(root: Path) -> Path:
    """Write all data sets, and the embedded model as ``some-org/tiny``, as the folders of a hub; returns the folder."""
    for repository, files in layout().items():
        folder = root / "datasets" / repository
        for path, (name, content) in files.items():
            write(folder / path, name, content)
        (folder / "README.md").write_text(f"# {repository}\n")
        (folder / ".gitattributes").write_text("*.parquet filter=lfs diff=lfs merge=lfs -text\n")
    shutil.copytree(TINY, root / "models" / "some-org" / "tiny")
    return root
