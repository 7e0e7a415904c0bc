"""Small files with the columns of the real data sets."""

import io
import json

import pytest
from PIL import Image


def png(colour, size=(8, 6)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


RED, BLUE = png("red"), png("blue", (20, 10))


def cell(content):
    """An image as the hub's parquet files hold one."""
    return {"bytes": content, "path": None}


@pytest.fixture
def parquet():
    """Write rows into a parquet file, in row groups of two."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    def write(path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.write_table(arrow.Table.from_pylist(rows), path, row_group_size=2)
        return path

    return write


@pytest.fixture
def jsonl(tmp_path):
    """Write rows, or lines as they are, beside two images; returns the file."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(RED)
    (tmp_path / "images" / "b.png").write_bytes(BLUE)

    def write(rows, name="questions.jsonl"):
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return write


def row(image="images/a.png", question="what is it ?", answer="red", **more):
    return {"image": image, "question": question, "answer": answer, **more}
