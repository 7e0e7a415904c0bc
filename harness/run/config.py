"""A request for a comparison, checked before anything heavy is loaded."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.errors import RequestError, nearest
from harness.files import read_toml
from harness.models.load_options import LoadOptions
from harness.store.budgets import read_keep
from harness.store.schema import HANDLING_OPTIONS
from harness.tasks.rule_names import RULES
from methods.keep import Keep
from methods.kernels import CHOICES

DEFAULT_METHODS = ("none", "random", "sts", "fastv", "sparsevlm", "tome")
DEFAULT_KEEP = ("192", "64")


LARGEST_SEED = 2**63 - 1
_RANGES = {
    "samples": (1, 10_000_000, " images"), "batch_size": (1, 65_536, " images"), "max_new_tokens": (1, 65_536, " tokens"),
    "analyse": (0, 10_000_000, " images"), "seeds": (1, 1_000, " seeds"), "seed": (0, LARGEST_SEED, ""),
    "workers": (1, 1_024, " processes"), "rounds": (1, 10_000, " rounds"), "decode_tokens": (2, 65_536, " tokens"),
    "time_limit": (0, 86_400, " seconds"),
}  # fmt: skip
"""Options that count: the least, the most and of what. More would not end, or not fit any memory."""


@dataclass(frozen=True)
class CompareConfig:
    """A request for a comparison: everything `compare` can be told, under the names of the command line."""

    model: str = "tiny"
    task: str = "shapes"
    methods: tuple[str, ...] = DEFAULT_METHODS
    keep: tuple[str, ...] = DEFAULT_KEEP
    budget: str = "average"
    samples: int = 24
    out: Path | None = None
    resume: bool = False
    retry_failed: bool = False  # with `resume`: batches with samples that failed are answered again
    extend: Path | None = None
    seed: int = 0
    batch_size: int = 6
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None  # of a hub id: branch, tag or commit
    device_map: str | None = None  # as accelerate understands it
    quantize: int | None = None  # bits a weight of the LLM: 4 or 8
    chat_template: str | None = None  # file of the chat template that takes the place of the checkpoint's
    companion: str | None = None  # folder or hub id of the CLIP that takes the place of the one that is known
    max_pixels: int | None = None  # of an image; one of more is shrunk
    image_size: str | None = None  # longer side of every image, or width x height
    latency: bool = True
    sharing: bool = True
    memory: bool = False
    kernels: str = "auto"  # of greedy selections: torch or triton; Triton where it can be on a GPU
    workers: int | None = None  # processes; on a CPU with a small model one a core, else one
    ray: str | None = None  # address of a cluster, whose actors are then the workers
    analyse: int = 12
    seeds: int = 5
    rounds: int = 3  # of stages and of decoding, in the latency pass
    time_limit: float = 15.0  # seconds of the latency pass
    decode_tokens: int | None = None  # timed in each of those rounds; 16 on an embedded model, else 64
    margin: float = 0.02
    max_new_tokens: int | None = None  # as the task says
    prompt: str = "{question}"
    scoring: str | None = None  # the rule that leads: the official one where the task has one, else ours
    plugin: tuple[str, ...] = ()
    self_check: bool = True  # the model is held against `generate` first
    references: bool = True  # False leaves out the reference cells that were not asked for, all but `none`

    @property
    def loading(self) -> LoadOptions:
        """How the model is to be loaded."""
        return LoadOptions.of(self)

    def checked(self) -> CompareConfig:
        """Return the request itself, or raise a `RequestError` for the first thing in it that cannot be."""
        if self.retry_failed and not self.resume:
            raise RequestError("--retry-failed: goes with --resume and the --out of a run, whose failed samples it answers again")
        if self.extend is not None and (self.out is not None or self.resume):
            raise RequestError("--extend: adds to the run it names; leave --out and --resume away, and repeat it to go on")
        for name, (least, most, what) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                option = f"--{name.replace('_', '-')}"
                bound = f"at most {most:,}" if value > most else f"at least {least}" if least else "0 or more"
                raise RequestError(f"{option} {value}: must be {bound}{what}")
        if "{question}" not in self.prompt:
            raise RequestError(f"--prompt {self.prompt!r}: must hold {{question}}, which stands for the question")
        self.loading.checked()
        if self.ray is not None and not re.fullmatch(r"auto|local|(ray://)?[\w.:\[\]-]+:\d{1,5}", self.ray):
            raise RequestError(f"--ray {self.ray!r}: write auto, local, HOST:PORT or ray://HOST:PORT")
        if not 0 < self.margin < 1:
            raise RequestError(f"--margin {self.margin:g}: a loss of accuracy between 0 and 1, such as 0.02 for two points")
        if self.budget not in ("average", "final", "flops"):
            raise RequestError(f"--budget {self.budget!r}: choose average, final or flops")
        check_kernels(self.kernels)
        if self.scoring is not None and self.scoring not in RULES:
            raise RequestError(f"--scoring {self.scoring!r}: choose {', '.join(RULES[:-1])} or {RULES[-1]}")
        for name in ("model", "task", "prompt"):
            if any("\ud800" <= character <= "\udfff" for character in getattr(self, name)):
                raise RequestError(f"--{name} {getattr(self, name)!r}: holds bytes that are not UTF-8 text")
        if not self.methods:
            raise RequestError("--methods: name at least one, such as sts,fastv; `list methods` shows them all")
        if not self.keep:
            raise RequestError("--keep: name at least one budget, such as 192,64")
        for text in self.keep:
            read_keep(text)
        return self


def read_file(path: Path) -> dict[str, Any]:
    """Read the options in a TOML file, under the names of `CompareConfig` (hyphens allowed), as it takes them.

    Raises:
        RequestError: where the file cannot be read, or holds an unknown name or a value of another type.
    """
    content = read_toml(f"--config {path}", path)
    known = {f.name: f.default for f in fields(CompareConfig) if f.name != "extend"}
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in known:
            raise RequestError(f"--config {path}: unknown option {key!r}; {nearest(name, known)}")
        found[name] = _of_type(f"--config {path}", key, value, known[name])
    return found


def restored(where: str, stored: Mapping[str, Any]) -> CompareConfig:
    """Return the request that a manifest holds, without the folder.

    Args:
        where: what a message begins with.
        stored: options by name, as JSON holds them.

    Raises:
        RequestError: for an unknown name or a value of another type.
    """
    known = {f.name: f.default for f in fields(CompareConfig) if f.name not in HANDLING_OPTIONS}
    found = {}
    for name, value in stored.items():
        if name not in known and name not in HANDLING_OPTIONS:
            raise RequestError(f"{where}: unknown option {name!r} in its config; was it made by another version?")
        if name in known and (value is not None or known[name] is not None):
            found[name] = _of_type(where, name, value, known[name])
    return CompareConfig(**found)


_OPTIONAL = {
    "workers": int, "ray": str, "max_new_tokens": int, "decode_tokens": int, "revision": str, "device_map": str, "quantize": int,
    "chat_template": str, "companion": str, "max_pixels": int, "image_size": str, "scoring": str,
}  # fmt: skip
"""Options that may be left open, and what they hold where they are not."""


def _of_type(where: str, key: str, value: Any, default: Any) -> Any:
    """A value of a file as an option of this default takes it."""
    if isinstance(default, tuple):
        from methods.registry import split

        values = split(value) if isinstance(value, str) else value if isinstance(value, list) else [value]
        if not all(isinstance(v, (str, int, float)) and not isinstance(v, bool) for v in values):
            raise RequestError(f"{where}: {key} must be a list of texts or numbers")
        return tuple(map(str, values))
    name = key.replace("-", "_")
    if name in _OPTIONAL:
        if name == "image_size" and type(value) is int:
            return str(value)
        if type(value) is _OPTIONAL[name]:
            return value
        wanted = "a text" if _OPTIONAL[name] is str else "a whole number"
        raise RequestError(f"{where}: {key} = {value!r} must be {wanted}")
    if default is None and isinstance(value, str):
        return Path(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise RequestError(f"{where}: {key} = {value!r} must be {kinds.get(type(default), 'a text')}")
    return value


def check_dtype(dtype: str) -> None:
    """Raise a `RequestError` where ``--dtype`` is none in which models are loaded."""
    known = ("auto", "float32", "bfloat16", "float16")
    if dtype not in known:
        raise RequestError(f"--dtype {dtype!r}: {nearest(dtype, known)}")


def tokens_of(keep: Keep, available: int) -> int:
    """Return a budget in tokens.

    Args:
        keep: the budget.
        available: visual tokens that the model yields.

    Raises:
        RequestError: where it asks for more tokens than there are.
    """
    if not keep.share and keep.value > available:
        raise RequestError(f"--keep {keep}: the model yields {available} visual tokens at the most")
    return keep.tokens(available)


def check_kernels(asked: str) -> None:
    """Raise a `RequestError` for what ``--kernels`` cannot be.

    Args:
        asked: its value.
    """
    if asked not in CHOICES:
        raise RequestError(f"--kernels {asked!r}: choose {', '.join(CHOICES[:-1])} or {CHOICES[-1]}")


def load_plugins(modules: Iterable[str]) -> None:
    """Load the modules of ``--plugin``, which register methods, tasks or both.

    Raises:
        RequestError: with what is wrong with a module.
    """
    from harness.tasks.registry import registered
    from methods.registry import MethodError, NothingRegistered, load_plugin

    for module in modules:
        tasks = registered()
        try:
            load_plugin(module)
        except NothingRegistered as error:
            if registered() == tasks:
                raise RequestError(str(error)) from None
        except MethodError as error:
            raise RequestError(str(error)) from None


def writable_folder(path: Path) -> Path:
    """Create a folder where it is missing, and return it.

    Raises:
        RequestError: where it cannot be created or written into.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:  # of a name that no file can have
        said = getattr(error, "strerror", None) or error
        raise RequestError(f"--out {str(path)!r}: cannot write there ({said}); choose another folder") from None
    return path
