"""Results that are dear to make and stay in memory for the next who asks, the latest few alone. Needs no torch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

MOST = 8
"""Results that are remembered of a kind."""
Made = TypeVar("Made")


class RecentResults(Generic[Made]):
    """The latest results of one kind, each made once, also where several threads ask for it at a time."""

    def __init__(self) -> None:
        self._made: OrderedDict[Hashable, Made] = OrderedDict()  # the latest last
        self._making = Lock()

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return the result of a key: the one that is remembered, else a new one, for which the oldest of over `MOST` goes.

        Args:
            key: what the result is of; that of another key is another result.
            make: makes the result. What it raises is passed on, and then nothing is remembered.
        """
        with self._making:
            if key not in self._made:
                self._made[key] = make()
                while len(self._made) > MOST:
                    self._made.popitem(last=False)
            return self._made[key]
