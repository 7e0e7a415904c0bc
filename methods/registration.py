"""Registering a method: its entry in the table, and the decorator that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args

from methods.expressions import MethodError, nearest
from methods.types import PROJECTOR, SIGNAL_NAMES, Budget, Method, ModelShape, Selector, Step

Counting = Literal["all", "each"]
"""How a budget counts where an image is in several tiles: the tokens of all tiles together, or int(K / tiles) of each tile on its
own."""
FAMILIES = ("attention", "diversity", "coverage", "change", "both", "merging", "place", "chance", "evidence", "none")
"""What a method may rank tokens by. ``coverage``: how well the kept stand for all tokens; ``change``: what a layer, or leaving a
token out, changes; ``both``: attention and diversity, or a composition of unlike methods; ``none``: it chooses no tokens."""
_ATTENTION = frozenset(
    {
        "text_attention", "text_attention_ahead", "text_attention_ahead_unrotated", "text_logits", "cls_attention",
        "cls_attention_first", "cls_attention_early", "cls_attention_last", "cls_attention_tiles", "received_attention",
        "received_attention_early",
    }
)  # fmt: skip
_CHANGE = frozenset({"hidden_states_before"})
_DIVERSITY = frozenset({"features", "vision_features", "vision_features_first", "keys", "hidden_states", "image_embeds"})
_USUAL = (("attention", _ATTENTION), ("change", _CHANGE), ("diversity", _DIVERSITY))
"""What a method ranks by where it does not say so: the first of these of which it needs a signal, else chance."""


class NothingRegistered(MethodError):
    """A plug-in module without a method."""


@dataclass(frozen=True)
class Entry:
    """What the registry knows of a method, for ``list methods`` and for reports."""

    name: str
    paper: str
    site: str
    needs: frozenset[str]
    factory: type[Method]
    cannot: str
    reference: bool
    ranks_by: str = "chance"  # one of FAMILIES
    variants: Mapping[str, str] = field(default_factory=dict)  # ``param=value`` -> what that variant ranks by
    unverified: Mapping[str, str] = field(default_factory=dict)  # ``param=value,...``, or an empty text -> why
    tiles: Counting = "all"

    @property
    def parameters(self) -> dict[str, object]:
        """Parameter names and defaults."""
        return {f.name: f.default for f in fields(self.factory)}

    @property
    def summary(self) -> str:
        """The first line of the method's docstring."""
        return (self.factory.__doc__ or "").strip().splitlines()[0]


REGISTERED: dict[str, Entry] = {}
"""All methods registered so far, by name; `methods.loading.entries` fills it first and hands it out in order."""

Target = TypeVar("Target", bound="type[Method] | Selector")


def register(
    name: str,
    *,
    paper: str = "",
    site: str = "projector",
    needs: set[str] | frozenset[str] = frozenset(),
    cannot: str = "",
    reference: bool = False,
    ranks_by: str = "",
    variants: Mapping[str, str] | None = None,
    unverified: Mapping[str, str] | None = None,
    tiles: Counting = "all",
) -> Callable[[Target], Target]:
    """Register a method class, or a selector function for a pruner before the LLM.

    Args:
        name: what users type.
        paper: any string, an arXiv number by custom.
        site: where it acts, in words.
        needs: signals that its selectors read.
        cannot: what the method cannot do, for the lists.
        reference: whether it is a yardstick rather than a competitor.
        ranks_by: one of `FAMILIES`, for studies of families; by default attention where a signal it needs is
            attention, else change where one is of states before a layer, else diversity where one is of features, else chance.
        variants: ``param=value`` -> one of `FAMILIES`, for variants that rank by something else.
        unverified: ``param=value`` -> why nothing but our own slow version proves that variant's rule, defaults included; of
            several with commas between them all must match, and an empty text stands for the method whatever its parameters. The
            first that matches tells, so name variants first.
        tiles: how a budget counts where an image is in several tiles, as the method's authors count: ``all`` for the tokens of
            all tiles together, ``each`` for int(K / tiles) of each tile on its own.

    Returns:
        A decorator that returns its argument unchanged.

    Raises:
        MethodError: for a name already taken, an unknown signal, an unknown family or an unknown way to count tiles.
    """
    unknown = sorted(set(needs) - SIGNAL_NAMES)
    if unknown:
        raise MethodError(f"method {name!r} needs unknown signal {unknown[0]!r}{nearest(unknown[0], SIGNAL_NAMES)}")
    ranks_by = ranks_by or next((family for family, signals in _USUAL if signals & set(needs)), "chance")
    for word in (ranks_by, *(variants or {}).values()):
        if word not in FAMILIES:
            raise MethodError(f"method {name!r} ranks by unknown {word!r}{nearest(word, FAMILIES)}")
    if tiles not in get_args(Counting):
        raise MethodError(f"method {name!r} counts tiles by unknown {tiles!r}; choose one of {', '.join(get_args(Counting))}")

    def decorate(target: Target) -> Target:
        if name in REGISTERED and REGISTERED[name].factory.__module__ != target.__module__:
            raise MethodError(f"method {name!r} is already registered by {REGISTERED[name].factory.__module__}")
        factory: type[Any] = target if isinstance(target, type) else _from_function(target, frozenset(needs))
        if not (is_dataclass(factory) and issubclass(factory, Method)):
            raise MethodError(f"method {name!r} must be a function (signals, keep) or a frozen dataclass derived from Method")
        REGISTERED[name] = Entry(
            name, paper, site, frozenset(needs), factory, cannot, reference, ranks_by, variants or {}, unverified or {}, tiles
        )
        return target

    return decorate


def _from_function(function: Selector, needs: frozenset[str]) -> type[Method]:
    """A method without parameters whose one step is the function, before the LLM."""

    @dataclass(frozen=True)
    class Pruner(Method):
        def steps(self, shape: ModelShape, budget: Budget) -> tuple[Step, ...]:
            return (Step(PROJECTOR, function, budget.tokens, budget.tokens, needs),)

    Pruner.__doc__, Pruner.__module__, Pruner.__qualname__ = function.__doc__, function.__module__, function.__name__
    return Pruner
