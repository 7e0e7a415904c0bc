"""Wrong model folders: weights that are pickled, damaged or lacking, and configurations of nothing that can be loaded."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.models.hf import TINY
from tests.fuzz.cases import Canary
from tests.fuzz.inputs import Wrong
from tests.fuzz.run_folders import DEEP, put


def folder_with(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """The embedded model as the folder ``model``, with a change."""

    def apply(folder: Path) -> None:
        for source in TINY.rglob("*"):
            target = folder / "model" / source.relative_to(TINY)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".safetensors":
                os.link(source, target)  # replaced, never written
            elif source.is_file():
                target.write_bytes(source.read_bytes())
        change(folder / "model")

    return apply


def replaced(name: str, content: bytes) -> Callable[[Path], None]:
    def apply(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).write_bytes(content)

    return apply


def configured(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(model: Path) -> None:
        found = json.loads((model / name).read_text())
        change(found)
        (model / name).write_text(json.dumps(found))

    return apply


def cut(name: str, share: float) -> Callable[[Path], None]:
    return lambda model: replaced(name, (model / name).read_bytes()[: int(share * (model / name).stat().st_size)])(model)


def pickled(name: str) -> Callable[[Path], None]:
    """Weights as a pickle alone, which would write a file where it were loaded."""

    def apply(model: Path) -> None:
        (model / "model.safetensors").unlink()
        (model / name).write_bytes(pickle.dumps({"weight": Canary()}))

    return apply


def safetensors(header: object, data: bytes = b"") -> bytes:
    """A file with a header as it is."""
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + data


def changes() -> dict[str, Callable[[Path], object]]:
    claim = {"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}}
    weights = "model.safetensors"
    return {
        **{f"weights in {name}": pickled(name) for name in ("pytorch_model.bin", "model.pt", "model.pth", "consolidated.00.pth",
        "tf_model.h5")},
        "no weights": lambda model: (model / weights).unlink(),
        "no configuration": lambda model: (model / "config.json").unlink(),
        "nothing": lambda model: [path.unlink() for path in model.iterdir() if path.is_file()],
        **{f"weights cut at {share}": cut(weights, share) for share in (0.0, 0.001, 0.1, 0.5, 0.99)},
        "weights that are text": replaced(weights, b"hello" * 100), "weights that are zeros": replaced(weights, bytes(1000)),
        "weights that are a pickle": replaced(weights, pickle.dumps({"a": Canary()})),
        "weights that claim": replaced(weights, safetensors(claim)), "weights with a giant header": replaced(weights,
        struct.pack("<Q", 2**62)),
        "weights with a broken header": replaced(weights, safetensors(b"{")), "weights that are an archive": replaced(weights,
        b"PK\x03\x04" + bytes(100)),
        "companion cut": cut("companion/model.safetensors", 0.5),
        "companion projection cut": cut("companion/visual_projection.safetensors", 0.5),
        "companion without weights": lambda model: (model / "companion" / weights).unlink(),
        "companion in a pickle": lambda model: ((model / "companion" / weights).rename(model / "x"),
        (model / "companion" / "pytorch_model.bin").write_bytes(pickle.dumps(Canary()))),
        "companion without configuration": lambda model: (model / "companion" / "config.json").unlink(),
        "no tokenizer": lambda model: [(model / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "a broken tokenizer": replaced("tokenizer.json", b"{"), "an empty tokenizer": replaced("tokenizer.json", b"{}"),
        "no processor": lambda model: (model / "processor_config.json").unlink(),
        "a broken processor": replaced("processor_config.json", b"["),
        **{f"configuration {text[:12]!r}": replaced("config.json", text.encode()) for text in ("", "{", "[]", "null", "3", '"x"',
        "{}", DEEP, "\x00", "\ufeff")},
        "configuration that is no text": replaced("config.json", b"\xff\xfe"),
        **{f"model_type {value!r}": configured("config.json", put("model_type", value=value)) for value in (None, 3, [], "",
        "lava", "bert", "gpt2", "../llava", "llava\x00")},
        "an unknown architecture with code": configured("config.json", lambda found: found.update(model_type="evil",
        auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})),
        "text_config 3": configured("config.json", put("text_config", value=3)), "vision_config 3": configured("config.json",
        put("vision_config", value=3)),
        "text_config of another": configured("config.json", put("text_config", "model_type", value="nothing")),
        **{f"hidden_size {value!r}": configured("config.json", put("text_config", "hidden_size",
        value=value)) for value in (None, "x", -1, 7, 64)},
        **{f"patch_size {value!r}": configured("config.json", put("vision_config", "patch_size", value=value)) for value in ("x",
        0, -14, 10**9)},
        **{f"num_hidden_layers {value!r}": configured("config.json", put("text_config", "num_hidden_layers",
        value=value)) for value in ("x", -1)},
    }  # fmt: skip


def model_folders() -> Iterator[Wrong]:
    """Models that are refused."""
    for what, change in changes().items():
        yield Wrong(("compare", "--model", "model", "--samples", "1"), change=folder_with(change), what=what)
