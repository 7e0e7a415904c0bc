"""Choices of selectors, noted on one machine and held against those of another; near ties are told apart from faults.

On the machine that is checked every selector chooses by itself, on what the engine gives it there. Where it chooses as the
reference did, the engine goes on with what it chose; where not, with what the reference chose, so that one exchanged token gives
no later layer other tokens.

A choice that differs is a near tie if every signal that the selector reads is within `rounding.LIMIT` of the reference's, and the
reference's choice is to the machine's own as choices on its own signals with noise are to each other. `rounding.DRAWS` such
draws are made; each signal gets twice as much noise as it is away from the reference's, and at least `rounding.NOISE`. A token
that differs is *firm* if no (other) draw moves it. The reference's choice may have at most twice as many tokens that differ, and
at most twice as many firm ones, as the draw that has the most; nor may the machine's own choice stand alone with more against all
draws. Where every draw moves the same few tokens, as with the best of a
ranking, none may be firm; where one token moves all behind it, as in greedy selection, every draw has firm ones of its own. Where
no draw moves anything, nothing may differ. Everything else is a fault.

What a selector makes of merged tokens is judged likewise: by its distance, which may be at most `rounding.LIMIT`, or twice that
of the draw that is furthest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from harness.run.machine_check.rounding import LIMIT, NOISE, Fingerprint, fingerprints, with_noise
from methods.types import Selection, Signals, Step

Item = tuple[int, int, int]
"""A row, a token that is kept there, and a token that was merged into it; -1 for none."""


@dataclass(frozen=True)
class ReferenceChoice:
    """One call of a selector on the machine of the reference."""

    site: str  # such as ``decoder[2]``
    keep: int  # tokens that it was asked for
    signals: dict[str, Fingerprint]  # what it was given, by name
    made: dict[str, Fingerprint]  # ``tokens``, ``sizes`` and ``carry`` that it handed on, as far as there are
    selection: Selection  # on the host; without what ``made`` has, where that need not be handed on
    whole: bool  # whether the selection holds all that it handed on


@dataclass
class Replay:
    """What came of one question's selectors on this machine."""

    faults: list[str] = field(default_factory=list)  # what differs, in the order in which it was met
    ties: list[str] = field(default_factory=list)
    choices: int = 0  # that were compared
    furthest: float = 0.0  # the largest distance of a signal
    parted: bool = False  # whether the engine had to go on with another choice than the reference's


def noting(steps: Sequence[Step], notes: list[ReferenceChoice], dtype: torch.dtype) -> tuple[Step, ...]:
    """Return steps that choose as they did, and note each choice.

    What a selector hands on beside the tokens' places is noted whole where noise would change its choice, since another machine
    may have to go on with it.

    Args:
        steps: of a method.
        notes: takes one entry a call, in the order of the calls.
        dtype: precision of the model.
    """

    def noted(step: Step) -> Step:
        def select(signals: Signals, keep: int) -> Selection:
            chosen = step.select(signals, keep)
            made, noise = _prints(chosen), dict.fromkeys(step.needs, 2 * NOISE[dtype])
            unsure = made != {} and any(
                _items(chosen) != _items(drawn) or _apart(made, drawn, chosen) > LIMIT[dtype]
                for drawn in _draws(step, signals, keep, noise)
            )
            handed_on = chosen if unsure else replace(chosen, tokens=None, sizes=None, carry=None)
            selection = replace(handed_on, scores=None).to("cpu")
            shown = fingerprints(signals, step.needs)
            notes.append(ReferenceChoice(str(step.site), keep, shown, made, selection, unsure or made == {}))
            return chosen

        return replace(step, select=select)

    return tuple(map(noted, steps))


def replaying(steps: Sequence[Step], notes: Sequence[ReferenceChoice], replay: Replay, dtype: torch.dtype) -> tuple[Step, ...]:
    """Return steps that hold each choice against the reference's and hand that on.

    Args:
        steps: of the same method, for the same question.
        notes: the reference's calls.
        replay: takes what was found.
        dtype: precision of the model.
    """
    calls = iter(notes)

    def replayed(step: Step) -> Step:
        def select(signals: Signals, keep: int) -> Selection:
            own = step.select(signals, keep)
            if replay.parted:
                return own
            note = next(calls, None)
            if note is None or (note.site, note.keep) != (str(step.site), keep):
                there = "none" if note is None else f"{note.keep} tokens at {note.site}"
                replay.faults.append(f"a selector is asked for {keep} tokens at {step.site}, in the reference for {there}")
                replay.parted = True
                return own
            replay.choices += 1
            return _held(note, own, signals, replay, step, keep, dtype)

        return replace(step, select=select)

    return tuple(map(replayed, steps))


def _held(
    note: ReferenceChoice, own: Selection, signals: Signals, replay: Replay, step: Step, keep: int, dtype: torch.dtype
) -> Selection:
    """Hold a choice against the reference's, and return what the engine goes on with."""
    given = fingerprints(signals, step.needs)
    both = given.keys() & note.signals.keys()
    far = {name: given[name].distance(note.signals[name]) if name in both else float("inf") for name in given | note.signals}
    replay.furthest = max([replay.furthest, *far.values()])
    reason: str | None = None
    wrong = {name: apart for name, apart in far.items() if apart > LIMIT[dtype]}
    for name, apart in wrong.items():
        replay.faults.append(f"{name} at {step.site} differs by {share(apart)}, {share(LIMIT[dtype])} may be rounding")
    found, wanted = _items(own), _items(note.selection)
    noise = {name: max(NOISE[dtype], 2 * apart) for name, apart in far.items()}
    if found == wanted:
        own = _in_order(own, note.selection)
        apart = _apart(note.made, own, own)
        if apart <= LIMIT[dtype]:
            return own
        said = f"tokens that are merged at {step.site} differ by {share(apart)}"
        if not wrong:
            most = max(_apart(_prints(own), drawn, own) for drawn in _draws(step, signals, keep, noise))
            reason = None if apart <= 2 * most else f"{share(max(LIMIT[dtype], 2 * most))} may be rounding"
    else:
        differ = found ^ wanted
        said = f"at {step.site} {_tokens(found - wanted, 'chosen')} and {_tokens(wanted - found, 'not chosen')}"
        if not wrong:
            reason = _why_no_tie(found, differ, [_items(drawn) for drawn in _draws(step, signals, keep, noise)])
    if wrong:
        replay.faults.append(f"{said}; its signals differ")
    elif reason is None:
        replay.ties.append(f"{said}; noise of {share(max(noise.values(), default=0))} moves as much")
    else:
        replay.faults.append(f"{said}; {reason}")
    if not note.whole:
        replay.parted = True
        return own
    return replace(note.selection.to(signals.device), space=own.space)


def _why_no_tie(own: frozenset[Item], differ: frozenset[Item], draws: list[frozenset[Item]]) -> str | None:
    """Why a choice that differs is no near tie; None where it is one."""
    moved = Counter(item for drawn in draws for item in own ^ drawn)  # in how many draws each is moved
    most = max(len(own ^ drawn) for drawn in draws)
    if len(differ) > 2 * most:
        return f"noise as rounding brings it moves {most} at the most"
    firm = sum(item not in moved for item in differ)
    usual = max(sum(moved[item] == 1 for item in own ^ drawn) for drawn in draws)
    alone = sum(times == len(draws) for times in moved.values())
    if alone > 2 * usual:
        return f"the choice on its own signals stands alone with {alone} of them, whatever the noise"
    if firm > 2 * usual:
        return f"{firm} of them never move under noise as rounding brings it"
    return None


def _apart(made: dict[str, Fingerprint], other: Selection, like: Selection) -> float:
    """The largest distance of what another selection hands on, brought into the order of one that it may be compared in."""
    found = _prints(_in_order(other, like)) if _items(other) == _items(like) else _prints(other)
    return max([0.0, *(print.distance(found[name]) if name in found else float("inf") for name, print in made.items())])


_TABLES = ("tokens", "sizes", "carry")


def _handed_on(chosen: Selection) -> dict[str, torch.Tensor]:
    tables = {name: getattr(chosen, name) for name in _TABLES}
    return {name: table for name, table in tables.items() if table is not None}


def _prints(chosen: Selection) -> dict[str, Fingerprint]:
    return {name: Fingerprint.of(table) for name, table in _handed_on(chosen).items()}


def _draws(step: Step, signals: Signals, keep: int, noise: Mapping[str, float]) -> Iterator[Selection]:
    """The choices on signals with noise, so much by signal."""
    return (step.select(noisy, keep) for noisy in with_noise(signals, step.needs, noise))


def _items(chosen: Selection) -> frozenset[Item]:
    """What a selection keeps, and where it is known of what each kept token is made."""
    rows = chosen.indices.tolist()
    if chosen.source is None:
        return frozenset((row, token, -1) for row, tokens in enumerate(rows) for token in tokens)
    made = chosen.source.nonzero().tolist()
    return frozenset((row, rows[row][place], member) for row, place, member in made)


def _in_order(own: Selection, wanted: Selection) -> Selection:
    """The same selection in the order of the reference's, which fingerprints and later layers go by."""
    if own.tokens is None or torch.equal(own.indices.cpu(), wanted.indices.cpu()):
        return own
    order = own.indices.argsort(dim=-1, stable=True)
    place = wanted.indices.to(order.device).argsort(dim=-1, stable=True).argsort(-1)
    take = order.gather(-1, place)

    def turned(table: torch.Tensor | None) -> torch.Tensor | None:
        if table is None:
            return None
        return table.gather(1, take.view(*take.shape, *[1] * (table.dim() - 2)).expand(-1, -1, *table.shape[2:]))

    return replace(
        own, indices=own.indices.gather(-1, take), tokens=turned(own.tokens), sizes=turned(own.sizes), source=turned(own.source)
    )


def _tokens(items: frozenset[Item], verb: str) -> str:
    named = sorted({member if member >= 0 else token for _, token, member in items})
    first = ", ".join(map(str, named[:4])) + (", ..." if len(named) > 4 else "")
    return f"{len(named)} token{'s are' if len(named) != 1 else ' is'} {verb}" + (f" ({first})" if named else "")


def share(value: float) -> str:
    """Return a relative distance as text, with two digits."""
    return f"{value:.1e}"
