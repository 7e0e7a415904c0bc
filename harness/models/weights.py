"""Which files of a model are read as weights: safetensors alone, also where an index names them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from harness.errors import RequestError
from harness.files import read_json

_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")


def check_index(name: str, source: str | Path, **common: Any) -> None:
    """Check that the index of a model's weights, where it has one, names safetensors beside it and nothing else.

    Args:
        name: of the model, for messages.
        source: a folder or a hub id.
        common: what ``from_pretrained`` is given: ``local_files_only`` and ``revision``.

    Raises:
        RequestError: where the index leads to other files.
    """
    from transformers.utils.hub import cached_file

    found = cached_file(str(source), _INDEX, _raise_exceptions_for_missing_entries=False, **common)
    if found is None:
        return
    content = read_json(Path(found))
    shards = content.get("weight_map") if isinstance(content, dict) else None
    wrong = [shard for shard in shards.values() if not _SHARD.fullmatch(str(shard))] if isinstance(shards, dict) else [shards]
    if wrong:
        raise RequestError(f"model {name!r}: {_INDEX} names {str(wrong[0])[:80]!r}; only .safetensors files beside it are loaded")
