"""Real runs of the embedded model, and tables of figures made up around what they answered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

from PIL import Image

from harness.literature.figures import PublishedFigure
from harness.literature.tables import COLUMNS, table
from harness.models.catalogue import TINY
from harness.run.comparison import compare
from harness.store.runs import RunFolder
from tests.tasks import made_up_rows

FIELDS = {
    "version": "unknown", "model": "tiny", "task": "shapes", "metric": "accuracy", "split": "test", "tokens": "576",
    "counts": "average", "prompt": "prunescope", "source": "a table of tests", "origin": "rerun",
}  # fmt: skip
QUIET = {"latency": False, "analyse": 0, "self_check": False, "seeds": 1}


def run_of_shapes(folder: Path) -> RunFolder:
    """Three images of the bundled task, methods that prune before the LLM and inside it, one of them in two variants."""
    methods = ("none", "fastv", "fastv[layer=3]", "tome")
    compare(methods=methods, keep=("64",), samples=3, out=folder, **QUIET)
    return RunFolder(folder)


def run_of(benchmark: str, folder: Path, rows: int, **options: object) -> RunFolder:
    """A benchmark of made-up rows in local files, answered by a copy of the model in a folder that is named after another."""
    data, model = folder / benchmark, folder / "models" / "llava-1.5-7b-hf"
    data.mkdir(parents=True)
    if not model.exists():
        shutil.copytree(TINY, model)
    found = []
    for number, row in enumerate(getattr(made_up_rows, benchmark)(rows, Random(3))):
        name = (
            str(row.get("image_source") or row.get("question_id") or row.get("index", number) % 1_000_000)
            .replace("/", "_")
            .removesuffix(".png")
            + ".png"
        )
        if not (data / name).exists():
            Image.new("RGB", (48, 48), tuple(Random(name).randrange(256) for _ in range(3))).save(data / name)
        found.append({**row, "image": name})
    (data / "test.jsonl").write_text("\n".join(map(json.dumps, found)))
    out, split = folder / f"run-{benchmark}", options.pop("split", "")
    task = f"{benchmark}[path={data / 'test.jsonl'}{split}]"
    asked = {"methods": ("none", "fastv"), "keep": ("64",), "samples": 100, **options}
    compare(model=str(model), task=task, out=out, **asked, **QUIET)
    return RunFolder(out)


def written(folder: Path, *rows: dict[str, str], name: str = "made-up") -> tuple[PublishedFigure, ...]:
    """The figures of a table that is written and read as a user's own is."""
    head = {key: "of tests" for key in ("title", "source", "url", "read")}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text("\n".join(f'{key} = "{text}"' for key, text in head.items()))
    lines = [",".join(f'"{({**FIELDS, **row})[column]}"' for column in COLUMNS) for row in rows]
    (folder / f"{name}.csv").write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return table(str(folder / f"{name}.toml")).figures
