"""Which files of a model are read as weights, and whether the weights are whole: none missing, left over or of another shape.

transformers puts random numbers where a checkpoint lacks a weight, and leaves out what it has no place for; both go on as if
nothing had happened. Here both are errors.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import torch

from harness.errors import RequestError
from harness.files import read_json

_INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")
_MOST = 3  # names that a message gives
_PACKED = 32  # at least as many weights as quantised files pack into one number
_UNREAD = re.compile(r"(^|\.)vision_(tower|model)(\.vision_model)?\.head\.|(^|\.)(position_ids|inv_freq)$")
"""Weights that no computation reads: SigLIP's pooling head, which some published towers carry and some configurations ask for;
and tables that older versions stored and newer ones compute."""


def check_index(what: str, source: str | Path, **common: Any) -> None:
    """Check that the index of a model's weights, where it has one, names safetensors beside it and nothing else.

    Args:
        what: what messages call it, such as ``model 'tiny'``.
        source: a folder or a hub id.
        common: what ``from_pretrained`` is given: ``local_files_only`` and ``revision``.

    Raises:
        RequestError: where the index leads to other files, or to one that a folder lacks.
    """
    from transformers.utils.hub import cached_file

    found = cached_file(str(source), _INDEX, _raise_exceptions_for_missing_entries=False, **common)
    if found is None:
        return
    content = read_json(Path(found))
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not shards:
        raise RequestError(f"{what} is not whole: {_INDEX} has no weight_map that names its weights")
    wrong = [shard for shard in shards.values() if not _SHARD.fullmatch(str(shard))] if isinstance(shards, dict) else [shards]
    if wrong:
        raise RequestError(f"{what}: {_INDEX} names {str(wrong[0])[:80]!r}; only .safetensors files beside it are loaded")
    assert isinstance(shards, dict)
    if Path(source).is_dir() and (gone := sorted({s for s in shards.values() if not (Path(source) / s).is_file()})):
        lost = sum(shard in gone for shard in shards.values())
        raise RequestError(f"{what} is not whole: the folder lacks {_listed(gone)}, with {_count(lost)} of {_INDEX}")


def load_whole(
    model_class: Any,  # of transformers
    what: str,
    source: str | Path,
    **options: Any,  # of ``from_pretrained``
) -> Any:
    """Load a model from safetensors, and check that its checkpoint holds its weights, all of them and no others.

    Args:
        model_class: class of transformers.
        what: what messages call it, such as ``model 'tiny'``.
        source: a folder or a hub id.
        options: further options of ``from_pretrained``.

    Raises:
        RequestError: where weights are missing, left over, of another shape, or no numbers.
    """
    if Path(source).is_dir():
        _check_size(what, model_class, Path(source))
    model, found = model_class.from_pretrained(
        source, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )  # nosec B615  # the user names the revision
    wrong = {key: (tuple(stored), tuple(asked)) for key, stored, asked in found["mismatched_keys"]}
    _refuse(what, set(found["missing_keys"]) - set(wrong), set(found["unexpected_keys"]), wrong)
    _check_index_names(what, str(source), options.get("revision"))
    check_finite(what, model)
    return model


def _check_size(what: str, model_class: Any, folder: Path) -> None:
    """Raise a `RequestError` where a configuration asks for far more weights than there are, before memory is taken for them."""
    from safetensors import SafetensorError, safe_open

    held = 0
    for file in folder.glob("model*.safetensors"):
        with suppress(SafetensorError), safe_open(file, framework="pt") as content:  # loading says what is wrong with a file
            held += sum(prod(content.get_slice(key).get_shape()) for key in content.keys())  # noqa: SIM118  # no mapping
    if not held:
        return
    with torch.device("meta"):
        asked = sum(weight.numel() for weight in model_class(model_class.config_class.from_pretrained(folder)).parameters())
    if asked > _PACKED * held:
        raise RequestError(f"{what} is not whole: its configuration asks for {asked:,} numbers, its files hold {held:,}")


def _check_index_names(what: str, source: str, revision: str | None) -> None:
    """Raise a `RequestError` where shards hold weights that their index does not name: they are of two checkpoints, or cut."""
    from safetensors import safe_open

    index, shards = _files(source, revision)
    if not index:
        return
    held: set[str] = set()
    for shard in shards:
        with safe_open(shard, framework="pt") as content:
            held |= set(content.keys())
    if unnamed := sorted(held - index, key=_natural):
        lost = f"{_count(len(unnamed))} of its shards ({_listed(unnamed)})"
        raise RequestError(f"{what} is not whole: {_INDEX} does not name {lost}")


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the first 16 digits of the SHA-256 of weights, names included."""
    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        total.update(name.encode())
        total.update(tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu().numpy().data)
    return total.hexdigest()[:16]


def check_finite(what: str, model: torch.nn.Module) -> None:
    """Check that all weights are there and are finite.

    Raises:
        RequestError: where some hold NaN or infinity, or lie on no device.
    """
    absent, broken = [], []
    for key, weight in model.named_parameters():
        if weight.is_meta:
            absent.append(key)
        elif weight.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            total = weight.detach().sum(dtype=torch.float32 if weight.dtype != torch.float64 else None)
            if not bool(total.isfinite()) and not bool(weight.isfinite().all()):  # the sum alone may overflow
                broken.append(key)
    if absent:
        lost = f"{_count(len(absent), 'on no device')} ({_listed(absent)})"
        raise RequestError(f"{what}: {lost}; load it into memory whole")
    if broken:
        raise RequestError(f"{what}: {_count(len(broken), 'NaN or infinite')} ({_listed(broken)})")


def check_loaded(what: str, model: Any) -> None:
    """Check a model that was loaded elsewhere, as far as it shows.

    ``from_pretrained`` marks the weights that it has loaded. Where a model has marks, those without one that its checkpoint
    lacks too are random. What the checkpoint holds beside them is looked up where the model came from, without a network. A
    model whose weights bear no marks was made in another way (``from_config``, ``copy.deepcopy``): nothing can be said of it.

    Args:
        what: what messages call it, such as ``model 'tiny'``.
        model: of transformers.

    Raises:
        RequestError: where weights are missing, left over, of another shape, or no numbers.
    """
    check_finite(what, model)
    weights = {key: weight for key, weight in model.named_parameters() if type(weight) is torch.nn.Parameter}
    fresh = [key for key, weight in weights.items() if not getattr(weight, "_is_hf_initialized", False)]
    if len(fresh) == len(weights):
        return
    stored = _stored_shapes(model)
    if stored is not None:
        _check_index_names(what, str(model.name_or_path), getattr(model.config, "_commit_hash", None))
    if fresh:  # what was added to the architecture, such as a LoRA, is no part of the checkpoint
        with torch.device("meta"):
            own = set(type(model)(model.config).state_dict())
        fresh = [key for key in fresh if key in own]
    # a vocabulary may have been resized since: embeddings are then new, and of another shape
    resized = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module}
    fixed = [key for key in fresh if id(weights[key]) not in resized]
    held = stored or {}
    shapes = {key: tuple(weights[key].shape) for key in fixed}
    wrong = {key: (held[key], shape) for key, shape in shapes.items() if held.get(key, shape) != shape}
    modules = {path for path, _ in model.named_modules()}
    foreign = {key for key in held if key.rpartition(".")[0] not in modules}
    _refuse(what, {key for key in (fixed if stored is None else fresh) if key not in held}, foreign, wrong)


def _stored_shapes(model: Any) -> dict[str, tuple[int, ...]] | None:
    """Shapes of the weights in the safetensors that a model came from, by the names of the model; None where out of reach.

    Those that are converted and not only renamed, as several experts into one weight are, are left out.
    """
    from safetensors import safe_open
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    source = str(getattr(model, "name_or_path", ""))
    _, files = _files(source, getattr(model.config, "_commit_hash", None)) if source else (set(), [])
    if not files or getattr(model, "hf_quantizer", None) is not None:
        return None
    transforms = get_model_conversion_mapping(model)
    renamings = [part for part in transforms if isinstance(part, WeightRenaming)]
    converters = [part for part in transforms if isinstance(part, WeightConverter)]
    own = model.state_dict()
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="pt") as content:
            for key in content.keys():  # noqa: SIM118  # no mapping
                renamed, converted = rename_source_key(key, renamings, converters, model.base_model_prefix, own)
                if renamed not in own and key in own:
                    renamed = key
                if converted is None and not _ignored(model, renamed):
                    found[renamed] = tuple(content.get_slice(key).get_shape())
    return found


def _ignored(model: Any, key: str) -> bool:
    """Whether transformers leaves out such a weight of a checkpoint without a word: those of old versions."""
    patterns = [r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$", *(model._keys_to_ignore_on_load_unexpected or ())]
    return any(re.search(pattern, key) for pattern in patterns)


def _files(source: str, revision: str | None) -> tuple[set[str], list[Path]]:
    """The names in the index, where there is one, and the safetensors of a folder or of a hub id in the local cache."""
    from transformers.utils.hub import cached_file

    options: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_gated_repo": False}
    options |= {"_raise_exceptions_for_connection_errors": False, "local_files_only": True, "revision": revision}
    try:
        whole = cached_file(source, "model.safetensors", **options)
        if whole is not None:
            return set(), [Path(whole)]
        index = cached_file(source, _INDEX, **options)
        shards = read_json(Path(index))["weight_map"] if index is not None else {}
        files = [Path(str(index)).parent / shard for shard in sorted(set(shards.values())) if _SHARD.fullmatch(str(shard))]
        return (set(shards), files) if all(file.is_file() for file in files) else (set(), [])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a folder may hold anything
        return set(), []


def _refuse(
    what: str, missing: Iterable[str], unexpected: Iterable[str], wrong: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    """Raise a `RequestError` with how many weights are missing, left over or of another shape, and the first names."""
    gone = sorted((key for key in missing if not _UNREAD.search(key)), key=_natural)
    over = sorted((key for key in unexpected if not _UNREAD.search(key)), key=_natural)
    odd = sorted((key for key in wrong if not _UNREAD.search(key)), key=_natural)
    said = []
    if gone:
        said.append(f"{_count(len(gone), 'missing')} ({_listed(gone)})")
    if odd:
        stored, asked = (" x ".join(map(str, shape)) or "one number" for shape in wrong[odd[0]])
        said.append(f"{_count(len(odd), 'of another shape than its configuration asks for')} ({odd[0]}: {stored}, not {asked}"
                    f"{'' if len(odd) == 1 else ' ...'})")  # fmt: skip
    if over:
        said.append(f"{_count(len(over), 'not of this architecture or size')} ({_listed(over)})")
    if not said:
        return
    both = "; were they saved by another program than transformers, they must be converted first" if gone and over else ""
    raise RequestError(f"{what} is not whole: {', '.join(said)}{both}")


def _count(number: int, said: str = "") -> str:
    """So many weights, and what is said of them."""
    verb = "" if not said else f" is {said}" if number == 1 else f" are {said}"
    return ("1 weight" if number == 1 else f"{number:,} weights") + verb


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST:,} more" if len(names) > _MOST else "")


def _natural(key: str) -> list[tuple[int, str]]:
    """The order in which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]
