"""Chat templates: where one comes from, and what is wrong with one that cannot be used."""

from __future__ import annotations

import json
import traceback
from hashlib import sha256
from pathlib import Path
from typing import Any

from harness.errors import RequestError, first_line
from harness.files import parse_json, regular
from harness.models.chat import rendered
from harness.notices import notice

_LARGEST = 2**20  # bytes of a file
_TOKENIZERS = "its tokenizer's chat template"
_QUESTION = "What is written on the sign?"  # that a template is tried with


def read_template(path: Path) -> str:
    """Return the chat template in a file: Jinja, or JSON that holds it as ``chat_template``.

    Raises:
        RequestError: where the file cannot be read, or holds none.
    """
    where = f"--chat-template {path}"
    try:
        if regular(path).is_dir():
            raise RequestError(f'{where}: is a folder; name a file of Jinja, or of JSON that holds "chat_template"')
        if path.stat().st_size > _LARGEST:
            raise RequestError(f"{where}: larger than {_LARGEST // 2**20} MiB")
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{where}: cannot be read (byte {error.start + 1} is not UTF-8 text)") from None
    except (OSError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if path.suffix.lower() == ".json" or _is_json(text):
        text = _in_json(where, text)
    if not text.strip():
        raise RequestError(f"{where}: holds no template")
    return text


def _is_json(text: str) -> bool:
    try:
        return text.lstrip().startswith("{") and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _in_json(where: str, text: str) -> str:
    """The template that a JSON text holds: the one alone, or of several the one named ``default``."""
    try:
        content = parse_json(text)
    except json.JSONDecodeError as error:
        raise RequestError(f"{where}, line {error.lineno}: is not JSON ({error.msg})") from None
    except (ValueError, RecursionError):
        raise RequestError(f"{where}: is not JSON that can be read") from None
    held = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(held, list) and all(isinstance(part, dict) for part in held):  # as tokenizer_config.json may have it
        held = {part.get("name"): part.get("template") for part in held}
    if isinstance(held, dict):
        held = held.get("default", next(iter(held.values())) if len(held) == 1 else None)
    if not isinstance(held, str):
        raise RequestError(f'{where}: holds no "chat_template" that is a text, nor one named default')
    return held


def choose_template(processor: Any, path: str | None) -> str:
    """Give a processor the chat template that it is to render with, and return what messages call it.

    Args:
        processor: of transformers.
        path: the file that was asked for; None for the checkpoint's own: the processor's, or else its tokenizer's.

    Raises:
        RequestError: where the file holds none.
    """
    if path is not None:
        processor.chat_template = read_template(Path(path))
        return f"--chat-template {path}"
    if getattr(processor, "chat_template", None) is None and (own := getattr(processor.tokenizer, "chat_template", None)):
        processor.chat_template = own
        return _TOKENIZERS
    return "its chat template"


def template_digest(processor: Any) -> str | None:
    """Return the first 16 digits of the SHA-256 of a processor's chat template; None where it has none."""
    held = getattr(processor, "chat_template", None)
    return None if held is None else sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:16]


def check_template(name: str, processor: Any, source: str, marks: Any) -> None:
    """Check that a processor's chat template writes what is asked, with an image and without.

    Args:
        name: of the model, for messages.
        processor: of transformers.
        source: what messages call the template.
        marks: a function that counts the marks of images in a rendered prompt.

    Raises:
        RequestError: where there is no template, it cannot be rendered, or leaves out the question or the image.
    """
    if getattr(processor, "chat_template", None) is None:
        raise RequestError(f"model {name!r}: has no chat template, so no question can be put to it; name one with "
                           "--chat-template FILE (Jinja, or JSON that holds \"chat_template\")")  # fmt: skip
    where = source if source.startswith("--") else f"model {name!r}: {source}"
    other = "" if source.startswith("--") else "; name another with --chat-template FILE"
    for images in (1, 0):
        asked = "a question about an image" if images else "a question without an image"
        try:
            text = rendered(processor, [{"type": "image"}] * images + [{"type": "text", "text": _QUESTION}])
        except Exception as error:  # a template is a program
            line = getattr(error, "lineno", None) or _line(error)
            said = first_line(error, 160)
            at = "" if line is None else f", line {line}"
            raise RequestError(f"{where}{at}: cannot write {asked} ({said}){other}") from None
        if _QUESTION not in text:
            raise RequestError(f"{where}: leaves out the text of {asked}{other}")
        if (found := marks(text)) != images:
            mark = getattr(processor, "image_token", None)
            hint = f"; the mark of an image is {mark!r}" if mark else ""
            raise RequestError(f"{where}: puts {found} marks of an image into {asked}{hint}{other}")
    if source == _TOKENIZERS:
        notice(f"model {name!r} has no chat template of its own; its tokenizer's is used")


def _line(error: BaseException) -> int | None:
    """The line of a template that raised an error while it was rendered."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
    return lines[-1] if lines else None
