"""The stored results that a machine is held against: one compressed file of tensors, and a log that says how it was made."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.errors import RequestError
from harness.files import read_json, whole
from harness.run.machine_check.choices import ReferenceChoice
from harness.run.machine_check.rounding import Fingerprint
from methods.types import Selection

FOLDER = Path(__file__).parent / "reference"
RESULTS, LOG = "results.safetensors.xz", "log.json"
REGENERATE = "python -m harness.run.machine_check.regenerate"
_DIGITS = 9  # of a fingerprint's numbers


@dataclass(frozen=True)
class ReferenceAnswer:
    """One question under one method on the machine of the reference."""

    dtype: str
    method: str
    question: int
    choices: list[ReferenceChoice]
    tokens: list[int]  # of the answer, with the end token where there is one
    logits: torch.Tensor  # float32 [T, vocabulary], by which each of the answer's T tokens was chosen
    kept: torch.Tensor  # int64 [1, K] original tokens present in the last layer


@dataclass(frozen=True)
class ReferenceResults:
    """All that is stored."""

    weights: dict[str, str]  # digest of the embedded model, by precision
    prompts: list[list[int]]  # token ids behind the image, by question
    pixels: list[Fingerprint]  # what the vision tower takes, by question
    answers: list[ReferenceAnswer]

    def of(self, dtype: str) -> list[ReferenceAnswer]:
        """Return the answers in one precision."""
        return [answer for answer in self.answers if answer.dtype == dtype]


def write(results: ReferenceResults, log: Mapping[str, Any], folder: Path) -> None:
    """Write results and log, each whole or not at all.

    Args:
        results: what was computed.
        log: on what, when and how.
        folder: is made where it is not there.

    Raises:
        RequestError: where nothing can be written there.
    """
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    described = [_described(answer, f"{place}", tensors) for place, answer in enumerate(results.answers)]
    content = {
        "weights": results.weights, "prompts": results.prompts, "pixels": list(map(_plain, results.pixels)), "answers": described,
    }  # fmt: skip
    packed = lzma.compress(save(tensors, {"results": json.dumps(content, separators=(",", ":"))}), preset=9)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in ((RESULTS, packed), (LOG, f"{json.dumps(log, indent=2)}\n".encode())):
            with whole(folder / name) as file:
                file.write(data)
    except OSError as error:
        raise RequestError(f"{folder}: the results cannot be written there ({error.strerror or error})") from None


def read(folder: Path = FOLDER) -> tuple[ReferenceResults, dict[str, Any]]:
    """Return the stored results and their log.

    Args:
        folder: that of the package, or another one that was written into.

    Raises:
        RequestError: where they are not there, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        raw = lzma.decompress((folder / RESULTS).read_bytes())
        length = int.from_bytes(raw[:8], "little")
        content = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["results"])
        tensors = load(raw)
        answers = [_answer(one, f"{place}", tensors) for place, one in enumerate(content["answers"])]
        found = ReferenceResults(content["weights"], content["prompts"], [_print(one) for one in content["pixels"]], answers)
    except (OSError, lzma.LZMAError, SafetensorError, KeyError, TypeError, ValueError) as error:
        said = f"the stored results at {folder / RESULTS} cannot be read ({type(error).__name__})"
        raise RequestError(f"{said}; {REGENERATE} makes them anew on a machine that you trust") from None
    log = read_json(folder / LOG)
    if not isinstance(log, dict):
        raise RequestError(f"{folder / LOG}: is no log of stored results; {REGENERATE} writes one")
    return found, log


def _described(answer: ReferenceAnswer, key: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """An answer as JSON; its tensors are put beside it under names that begin with the key."""
    tensors[f"{key}/logits"] = answer.logits.float().contiguous()
    tensors[f"{key}/kept"] = answer.kept.to(torch.int16).contiguous()
    choices = []
    for place, choice in enumerate(answer.choices):
        own, selection = f"{key}/{place}", choice.selection
        tensors[f"{own}/indices"] = selection.indices.to(torch.int16).contiguous()
        if selection.source is not None:
            tensors[f"{own}/source"] = torch.from_numpy(np.packbits(selection.source.numpy()))
        for name in ("tokens", "sizes", "carry"):
            if (table := getattr(selection, name)) is not None:
                tensors[f"{own}/{name}"] = table.contiguous()
        choices.append(
            {
                "site": choice.site, "keep": choice.keep, "whole": choice.whole, "space": selection.space,
                "source": None if selection.source is None else list(selection.source.shape),
                "signals": {name: _plain(print) for name, print in choice.signals.items()},
                "made": {name: _plain(print) for name, print in choice.made.items()},
            }
        )  # fmt: skip
    return {
        "dtype": answer.dtype, "method": answer.method, "question": answer.question, "tokens": answer.tokens, "choices": choices,
    }  # fmt: skip


def _answer(told: dict[str, Any], key: str, tensors: dict[str, torch.Tensor]) -> ReferenceAnswer:
    choices = []
    for place, one in enumerate(told["choices"]):
        own, source = f"{key}/{place}", None
        if (shape := one["source"]) is not None:
            bits = np.unpackbits(tensors[f"{own}/source"].numpy())[: int(np.prod(shape))]
            source = torch.from_numpy(bits.astype(bool).reshape(shape))
        tables = {name: tensors.get(f"{own}/{name}") for name in ("tokens", "sizes", "carry")}
        selection = Selection(tensors[f"{own}/indices"].long(), source=source, space=one["space"], **tables)
        given, made = ({name: _print(print) for name, print in one[kind].items()} for kind in ("signals", "made"))
        choices.append(ReferenceChoice(one["site"], one["keep"], given, made, selection, one["whole"]))
    logits, kept = tensors[f"{key}/logits"], tensors[f"{key}/kept"].long()
    return ReferenceAnswer(told["dtype"], told["method"], told["question"], choices, told["tokens"], logits, kept)


def _plain(print: Fingerprint) -> list[Any]:
    return [list(print.shape), [float(f"{number:.{_DIGITS}g}") for number in print.numbers()]]


def _print(told: list[Any]) -> Fingerprint:
    return Fingerprint.stored(*told)
