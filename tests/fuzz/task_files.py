"""Wrong tasks: names, parameters, and files of questions in every way that one can be broken."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

from tests.fuzz.inputs import Wrong, png, wrong


def row(**more) -> dict:
    return {"image": "images/a.png", "question": "what is it ?", "answer": "red", **more}


def line(**more) -> str:
    return json.dumps(row(**more))


NAMES = (
    "", " ", "[", "]", "[]", "shape", "SHAPES", "shapes[", "shapes]", "shapes[x]", "shapes[x=1]", "shapes[=1]", "shapes[x=]",
    "popee", "pop", "gqaa", "vqa", "mmbenchh", "nothing", "shapes,pope", "pope[split]", "pope[pth=x]", "pope[path=nowhere]",
    "pope[path=images]", "pope[path=good.npz]", "mme[path=nowhere.jsonl]", "nowhere.jsonl", "nowhere/", "./nowhere", "good.npz",
    "images[prompts=x]", "images[metric=exact]", "images[prompt=]", "run", "run/results.sqlite", "run/manifest.json", "/dev/null",
    "../../nowhere.jsonl", "~/nowhere.jsonl", "a\x00b", "x" * 5000, "a/" + "x" * 300, "C:\\nowhere.jsonl", "nowhere.parquet",
    "shapes" + "[x=1]" * 40, "[" * 3000, "]" * 3000, "shapes[" + "a=b," * 2000 + "]", "<script>.jsonl", "a\nb", "\u202epope",
)  # fmt: skip

WRONG_VALUES = (None, True, [], {}, [1], {"a": 1}, 1.5, "")
"""No text."""

LINES: tuple[str | bytes, ...] = (
    "", "\n\n", "{", "}", "[]", "[1, 2]", "7", '"text"', "null", "true", "{}", '{"image": ', "{'image': 'a'}", line() + line(),
    line() + ",", "[" * 50_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000, '{"image": NaN}',
    '{"answer": Infinity}', '{"answer": ' + "9" * 5000 + "}", '{"answer": 1e}', '{"image": "\\ud800"', '{"a": "\x01"}', "\x00",
    "\x1f\x8b\x08\x00", "PK\x03\x04", "SQLite format 3\x00", "<html></html>", "image,question\na,b", "---\nimage: a",
    "\ufeff\ufeff{}",
    b"\xff\xfe" + line().encode("utf-16-le"), line().encode("utf-16"), line().encode("utf-32"), b"\x80abc", b'{"image": "\xff"}',
    line() + "\n{", line() + "\n" + "[" * 50_000, '{"image": "images/a.png"}', '{"question": "x"}',
    '{"Image": "a", "Question": "b"}',
    json.dumps({"image": "images/a.png", "questoin": "x", "answer": "y"}), line() + "\n" + json.dumps({"image": "images/a.png"}),
    line() + "\n" + json.dumps({"image": "images/a.png", "question": "x"}), line(id="x") + "\n" + line(id="x"),
    *(line(question=value) for value in (*WRONG_VALUES, 3, "   ")),
    *(line(answer=value) for value in (True, [], {}, [1], {"a": 1}, "", "  ")),
    *(line(answers=value) for value in (3, True, {}, [], [""], [None], [[1]], [{}], [True], {"a": 1}, "")),
    *(line(id=value) for value in (True, [], {}, [1], "", " ")),
    *(line(image_id=value) for value in (True, [], {}, [1], "")),
    *(line(family=value) for value in (True, [], {}, [1])),
    *(line(choices=value, answer="A") for value in (3, True, {}, [], ["a"], ["a"] * 27, [None, "a"], [[], []], ["", ""], "ab")),
    *(line(choices=["a", "b"], answer=value) for value in ("C", 2, -1, "c d", True, [], 10**30, "AB", "")),
    line(choices=["B", "A"], answer="A"), line(choices=["red", "red"]), line(choices=["red", "blue"]) + "\n" + line(),
    line(image_id="x") + "\n" + json.dumps({**row(image_id="x"), "image": "./good.npz"}),
)  # fmt: skip

IMAGES = (
    None, True, 3, 1.5, "", [], {}, [1, 2], {"path": None}, {"bytes": None}, {"path": 3}, ["a", "b"], "images", "images/", ".",
    "..",
    "/", "/etc/passwd", "../a.png", "images/../../a.png", "images\\..\\..\\a.png", "..\\..\\a.png", "C:\\a.png", "C:a.png",
    "c:/a.png",
    "\\\\host\\share\\a.png", "//host/share/a.png", "a\x00.png", "images/a.png\x00.jpg", "x" * 300, "x/" * 3000 + "a.png", "CON",
    "images/nul", "LPT1.png", "images/none.png", "file:///etc/passwd", "http://127.0.0.1/a.png", "https://127.0.0.1/a.png",
    "data:image/png;base64,AAAA", "~/a.png", "$HOME/a.png", "images/a.png;ls", "images/a.PNG", "images/*", "images/a.png ",
    "\ud800",
    "images/\u202egnp.a", "🖼", "run/results.sqlite", "good.npz", "questions.jsonl",
)  # fmt: skip


def task_files() -> Iterator[Wrong]:
    """Tasks that are refused before a model is loaded."""
    for name in NAMES:
        yield wrong("compare --task", name)
    for text in LINES:
        yield wrong("compare --task questions.jsonl", questions__jsonl=text)
    for value in IMAGES:
        yield wrong("compare --task questions.jsonl", questions__jsonl=json.dumps(row(image=value)))
    for option in ("metric=bleu", "metric=choice", "metric=", "metrics=exact", "split=a,b=c", "metric=EXACT", "prompt=x", "x"):
        yield wrong("compare --task", f"questions.jsonl[{option}]", questions__jsonl=line())
    for name in ("questions.json", "questions.csv", "questions.txt", "questions", "questions.jsonl.gz", "questions.PARQUETT"):
        yield Wrong(("compare", "--task", name), {name: line().encode()})
    for text in (b"", b"\xff\xfe", b"\n\n", b" ", b"x" * (2**20 + 1), b"\x80"):
        yield Wrong(("compare", "--task", "photos"), {"photos/a.png": png(), "photos/a.txt": text})
        yield Wrong(("compare", "--task", "photos"), {"photos/a.png": png(), "photos/prompts.txt": text})
    yield Wrong(("compare", "--task", "photos"), {"photos/readme.md": b"x"})
    yield Wrong(("compare", "--task", "photos"), {"photos/.a.png": png()})
    for columns in ({"question": "x"}, {"image": "images/a.png", "question": "x", "answer": "y"}, {"question_id": 1}):
        for benchmark in ("pope", "gqa", "mme", "mmbench", "scienceqa", "seedbench", "refcoco", "docvqa", "ocrbench"):
            yield wrong("compare --task", f"{benchmark}[path=q.jsonl]", q__jsonl=json.dumps(columns))


def parquet_rows() -> dict[str, list[dict]]:
    """Rows of parquet files that are no questions."""
    image = {"bytes": png(), "path": None}
    return {
        "a number for a question": [row(image=image, question=3)], "null for a question": [row(image=image, question=None)],
        "no image": [{"question": "x", "answer": "y"}], "null for an image": [row(image=None)],
        "a number for an image": [row(image=4)],
        "bytes that are text": [row(image=image, question=b"x")], "a list for an image": [row(image=[png(), png()])],
        "infinity": [row(image=image, answer=float("inf"))], "an upward path": [row(image="../a.png")],
        "an absolute path": [row(image="/a")],
        "one id twice": [row(image=image, id="a"), row(image=image, id="a")], "no columns of ours": [{"a": 1}],
        "an object for an answer": [row(image=image, answer={"a": 1})], "a list of bytes": [row(image=image, answers=[b"a"])],
        "a date for an id": [row(image=image, id=[1])], "blank": [row(image=image, question=" ")],
    }  # fmt: skip


def parquet_files() -> Iterator[Wrong]:
    """Parquet files that are damaged, or hold no questions."""
    import pyarrow
    from pyarrow import parquet

    def written(rows: list[dict]) -> bytes:
        out = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows), out)
        return out.getvalue()

    for name, rows in parquet_rows().items():
        yield Wrong(("compare", "--task", "data.parquet"), {"data.parquet": written(rows)}, what=name)
    good = written([row(image={"bytes": png(), "path": None})])
    for cut in (0, 1, 4, 12, len(good) // 2, len(good) - 1, len(good) - 8):
        yield Wrong(("compare", "--task", "data.parquet"), {"data.parquet": good[:cut]})
    for size in (b"\xff\xff\xff\x7f", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x01\x00\x00\x00"):  # of the footer
        yield Wrong(("compare", "--task", "data.parquet"), {"data.parquet": good[:-8] + size + good[-4:]})
    for name in ("text", "PAR1", "PAR1" * 50):
        yield Wrong(("compare", "--task", "data.parquet"), {"data.parquet": name.encode()})
