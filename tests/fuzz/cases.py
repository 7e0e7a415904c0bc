"""Wrong cases for `select`: archives that are none, that lie about their size, and arrays that are no signals."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator

import numpy as np

from tests.fuzz.inputs import FEATURES, Wrong, npz


class Canary:
    """Unpickled, it would write a file."""

    def __reduce__(self):
        return open, ("unpickled", "w")


def archive(**members: bytes) -> bytes:
    """A zip file of members as they are."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name if "." in name else f"{name}.npy", data)
    return out.getvalue()


def header(text: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A ``.npy`` member with a header as it is."""
    encoded = text.encode("latin-1").ljust(118) + b"\n"
    return b"\x93NUMPY" + version + len(encoded).to_bytes(2 if version[0] == 1 else 4, "little") + encoded + data


def shaped(shape: str, kind: str = "<f4", data: bytes = b"\0" * 64) -> bytes:
    return header(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}", data)


def arrays() -> dict[str, dict]:
    """Arrays that are no signals."""
    good = FEATURES
    return {
        "nothing": {}, "nan": {"features": good * np.nan}, "infinity": {"features": np.full_like(good, np.inf)},
        "one axis": {"features": good[0]}, "three axes": {"features": good[None]}, "a number": {"features": np.float32(3)},
        "no tokens": {"features": good[:0]}, "no width": {"features": good[:, :0]}, "texts": {"features": good.astype(str)},
        "bytes": {"features": good.astype("S4")}, "complex": {"features": good.astype(complex)}, "misspelt": {"featurs": good},
        "dates": {"features": np.zeros((16, 4), "M8[s]")}, "a structure": {"features": np.zeros((16, 4), [("a", "f4"), ("b",
        "i4")])},
        "differ": {"features": good, "vision_features": good[:9]}, "no visual signal": {"text_features": good},
        "half a grid": {"features": good, "grid": np.array([3, 4])}, "no grid": {"features": good, "grid": np.array([0, 16])},
        "a negative grid": {"features": good, "grid": np.array([-4, -4])}, "a long grid": {"features": good, "grid": np.array([4,
        4, 1])},
        "a grid of fractions": {"features": good, "grid": np.array([4.0, 4.0])}, "a grid alone": {"grid": np.array([4, 4])},
        "a giant grid": {"features": good, "grid": np.array([10**9, 10**9])}, "a grid of texts": {"features": good,
        "grid": np.array(["4", "4"])},
        "an unknown one": {"features": good, "foo": good}, "the count": {"features": good, "count": np.array(16)},
        "batch": {"features": good, "batch": np.array(1)}, "empty name": {"features": good, "": good},
        "evidence of texts": {"features": good, "evidence": np.array(["a"] * 16)}, "positions of one axis": {"features": good,
        "positions": np.zeros(16)},
        "seeds of two axes": {"features": good, "seeds": np.zeros((1, 1), np.int64)},
        "double infinity": {"features": np.full((16, 4), -np.inf)},
        "an attention of two axes": {"features": good, "text_attention": good}, "sizes of a wrong count": {"features": good,
        "sizes": np.ones(3)},
        "only keys": {"vision_keys": good}, "only cls": {"cls_attention": np.ones((2, 16), np.float32)},
        "only positions": {"positions": np.zeros((16, 2))},
        "NaN in half precision": {"features": np.full((16, 4), np.nan, np.float16)}, "an upward name": {"features": good,
        "../x": good},
    }  # fmt: skip


def cases() -> Iterator[Wrong]:
    """Files that `select` refuses."""
    line = ("select", "divprune", "case.npz", "--keep", "4", "--out", "chosen")
    for name, content in arrays().items():
        try:
            data = npz(**content)
        except TypeError:
            continue
        yield Wrong(line, {"case.npz": data}, what=name)
    good = npz(features=FEATURES)
    for cut in (0, 1, 4, 20, 60, len(good) // 2, len(good) - 1, len(good) - 22):
        yield Wrong(line, {"case.npz": good[:cut]})
    for place in (0, 30, 64, 70, 100, 180, len(good) - 20, len(good) - 10, len(good) - 60):
        damaged = bytearray(good)
        damaged[place] ^= 0xFF
        yield Wrong(line, {"case.npz": bytes(damaged)})
    npy = io.BytesIO()
    np.save(npy, FEATURES)
    objects = io.BytesIO()
    np.save(objects, np.array([Canary()], dtype=object), allow_pickle=True)
    for name, content in {
        "npy": npy.getvalue(), "a pickle": pickle.dumps(Canary()), "text": b"features", "gzip": b"\x1f\x8b\x08" + bytes(40),
        "pickled objects": archive(features=objects.getvalue()), "a pickle inside": archive(features=pickle.dumps(Canary())),
        "text inside": archive(features=b"hello"), "nothing inside": archive(features=b""), "a zip of nothing": archive(),
        "other members": archive(**{"a.txt": b"x"}), "zip in zip": archive(features=good),
        "an npz inside": archive(**{"a.npz": good}),
        "a giant claim": archive(features=shaped("(1000000000, 4)")),
        "a larger one": archive(features=shaped("(1000000000000, 1000000)")),
        "a claim beyond counting": archive(features=shaped("(99999999999999999999, 4)")),
        "a negative one": archive(features=shaped("(-1, 4)")),
        "too little": archive(features=shaped("(16, 4)", data=b"\0" * 8)), "a text for a shape": archive(features=shaped("'x'")),
        "code for a shape": archive(features=shaped("(__import__('os').system('touch ran'),)")),
        "no shape": archive(features=shaped("None")),
        "deep brackets": archive(features=header("(" * 5000, version=b"\x02\x00")),
        "a broken header": archive(features=header("{'descr'")),
        "an unknown version": archive(features=header("{}", version=b"\x09\x00")),
        "an unknown type": archive(features=shaped("(16, 4)", "<q9")),
        "objects": archive(features=shaped("(16, 4)", "|O")), "an endless type": archive(features=shaped("(16, 4)", "<f999999")),
        "a bomb": archive(features=shaped("(16384, 32768)", data=bytes(2**26))),
        "a bomb beside": archive(features=npy.getvalue(), keys=shaped("(16, 33554432)", data=bytes(2**26))),
        "giant texts": archive(features=shaped("(16, 4)", "<U100000000")), "void": archive(features=shaped("(16, 4)",
        "|V1000000000")),
    }.items():  # fmt: skip
        yield Wrong(line, {"case.npz": content}, what=name)
    case = {"case.npz": good}
    for words in (
        "select fastv case.npz --keep 4 --out chosen", "select cdpruner case.npz --keep 4 --out chosen",
        "select divprune case.npz case.npz --keep 4 --out chosen", "select divprune case.npz good.npz --keep 4 --out one.npz",
        "select divprune nowhere.npz --keep 4 --out chosen", "select divprune images --keep 4 --out chosen",
        "select divprune case.npz --keep 4 --out good.npz/x", "select none case.npz --keep 4 --out chosen",
        "select blind case.npz --keep 4 --out chosen", "select downsample case.npz --keep 4 --out chosen",
        "select tome case.npz --keep 4 --out chosen", "select visionzip case.npz --keep 4 --out chosen",
        "select oracle case.npz --keep 4 --out chosen", "select divprune . --keep 4 --out chosen",
        "select divprune case.npz --keep 4 --out images/a.png/b",
    ):  # fmt: skip
        yield Wrong(tuple(words.split()), case)
