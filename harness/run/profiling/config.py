"""A request for a profile, checked before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import RequestError
from harness.models.load_options import LoadOptions
from harness.run.config import LARGEST_SEED, CompareConfig, check_dtype

_RANGES = {"answer_tokens": (2, 4_096), "rounds": (1, 10_000), "seed": (0, LARGEST_SEED)}
_LISTS = {"batch_size": (1, 65_536, "1,4,16,64"), "text_tokens": (2, 1_000_000, "64,512")}


@dataclass(frozen=True)
class ProfileConfig:
    """A request for a profile: everything `profile` can be told, under the names of the command line."""

    model: str = "llava-1.5-7b"
    random_weights: bool = False
    methods: tuple[str, ...] = ("sts", "fastv", "sparsevlm")
    keep: tuple[str, ...] = ("192", "64")
    budget: str = "average"
    layers: int | None = None
    batch_size: tuple[int, ...] = (1, 4, 16, 64)
    text_tokens: tuple[int, ...] = (64,)
    answer_tokens: int = 16
    rounds: int = 20
    time_limit: float = 300.0  # seconds of all that is measured; loading the model is not in it
    break_even: bool = True
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    device_map: str | None = None
    quantize: int | None = None
    companion: str | None = None
    max_pixels: int | None = None
    image_size: str | None = None
    kernels: str = "auto"  # of greedy selections
    plugin: tuple[str, ...] = ()
    self_check: bool = True

    def checked(self) -> ProfileConfig:
        """Return the request itself, or raise a `RequestError` for the first thing in it that cannot be."""
        for name, (least, most) in _RANGES.items():
            _in_range(f"--{name.replace('_', '-')}", getattr(self, name), least, most)
        for name, (least, most, example) in _LISTS.items():
            option, values = f"--{name.replace('_', '-')}", getattr(self, name)
            if not values:
                raise RequestError(f"{option}: name at least one, such as {example}")
            for value in values:
                _in_range(option, value, least, most, "; one token stands before the image and one after" * (least == 2))
            if len(set(values)) < len(values):
                raise RequestError(f"{option} {','.join(map(str, values))}: names a number twice")
        if not 0 < self.time_limit < float("inf"):
            raise RequestError(f"--time-limit {self.time_limit:g}: must be above 0 seconds, such as 300")
        check_dtype(self.dtype)
        if self.layers is not None and not self.random_weights:
            raise RequestError("--layers: only with --random-weights; a trained model has the layers it has")
        for option in LoadOptions.of(self).checked().given if self.random_weights else ():
            raise RequestError(f"{option}: is about trained weights; leave it or --random-weights away")
        self.asked(self.keep).checked()
        return self

    def asked(self, keep: tuple[str, ...], methods: tuple[str, ...] | None = None) -> CompareConfig:
        """Return the request of cells, as `compare` would have it.

        Args:
            keep: the budgets.
            methods: their expressions; those of the profile where not given.
        """
        return CompareConfig(
            model=self.model, task="profile", methods=self.methods if methods is None else methods, keep=keep, budget=self.budget,
            seed=self.seed, kernels=self.kernels,
        )  # fmt: skip


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Return the whole numbers of a list on the command line, such as ``1,4,16,64``.

    Args:
        option: the option, for messages.
        text: its value.

    Raises:
        RequestError: where a part of it is no whole number.
    """
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not (part.isascii() and part.removeprefix("-").isdigit()) or len(part) > 12:
            raise RequestError(f"{option} {text[:60]!r}: {part[:20]!r} is no whole number; write such as 1,4,16")
    return tuple(map(int, parts))


def _in_range(option: str, value: int, least: int, most: int, why: str = "") -> None:
    if not least <= value <= most:
        raise RequestError(f"{option} {value}: must be {f'at most {most:,}' if value > most else f'at least {least}{why}'}")
