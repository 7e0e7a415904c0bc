"""Right answers as one text: what a question stores, what a scorer reads, what a page shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """The right answers of a question, and the little that its scorer needs beside them.

    Its text is the answer itself where there is one and nothing else; a JSON list for several answers; a JSON object
    where there are choices or a rule. An answer that looks like JSON is written as a list of one.
    """

    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()  # the options' texts, in the order of their letters
    compact: bool = False  # whether white space is left out and case matters: handwritten formulas of OCRBench
    official: tuple[str, ...] = ()  # what lmms-eval's own rule reads in place of answers or choices, where that differs

    @property
    def text(self) -> str:
        """The text that is stored as the question's answer.

        >>> Target(("yes",)).text
        'yes'
        >>> Target(("red", "dark red")).text
        '["red", "dark red"]'
        """
        if self.choices or self.compact or self.official:
            facts: dict[str, object] = {"answers": list(self.answers)}
            if self.choices:
                facts["choices"] = list(self.choices)
            if self.compact:
                facts["compact"] = True
            if self.official:
                facts["official"] = list(self.official)
            return json.dumps(facts, ensure_ascii=False)
        if len(self.answers) == 1 and self.answers[0][:1] not in ("[", "{"):
            return self.answers[0]
        return json.dumps(list(self.answers), ensure_ascii=False)

    @classmethod
    def read(cls, text: str) -> Target:
        """Return the target that a text stands for; a text that `text` does not write is one answer."""
        if text[:1] in ("[", "{"):
            try:
                facts = json.loads(text)
            except (ValueError, RecursionError):
                return cls((text,))
            if isinstance(facts, list):
                facts = {"answers": facts}
            answers, choices, official = facts.get("answers"), facts.get("choices", []), facts.get("official", [])
            if _texts(answers) and _texts(choices) and _texts(official):
                return cls(tuple(answers), tuple(choices), facts.get("compact") is True, tuple(official))
        return cls((text,))

    @property
    def shown(self) -> str:
        """The first answer as readers see it; a letter comes with its option.

        >>> Target(("B",), ("a cat", "a dog")).shown
        'B. a dog'
        """
        first = self.answers[0] if self.answers else ""
        place = ord(first) - ord("A") if len(first) == 1 else -1
        return f"{first}. {self.choices[place]}" if 0 <= place < len(self.choices) else first


Scorer = Callable[[str, Target], float]
"""Gives the score in [0, 1] of a prediction, by the right answers of its question."""


def shown(answer: str) -> str:
    """Return what a page shows of a stored answer: `Target.shown`."""
    return Target.read(answer).shown


def _texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
