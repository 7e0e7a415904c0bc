"""The words of a question that say what it is about: without sentences on the form of the answer, and without stop words."""

from __future__ import annotations

import re

ANSWER_FORMATS = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
)
"""Sentences that benchmarks put behind a question to say how it is to be answered."""
STOP_WORDS = frozenset(
    {
        "a", "an", "the",
        "is", "are", "was", "were", "be", "been", "being", "am",
        "have", "has", "had",
        "do", "does", "did",
        "this", "that", "these", "those",
        "what", "which", "who", "whom", "whose", "where", "when", "why", "how",
        "and", "or", "but", "so", "if", "then",
        "question", "answer",
        "to", "for", "with", "by", "from", "at", "into", "onto", "upon",
    }
)  # fmt: skip
"""Words that say nothing of what a question is about, one group a line."""
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def question_words(text: str) -> str:
    """Return the words of a question that say what it is about, with one space between two.

    MMTok (arXiv:2508.18264, Ironieser/MMTok d1522cd) takes its text vectors from these alone. Its code leaves out two fixed
    sentences on the form of the answer and 47 stop words: articles, forms of be, have and do, pronouns, question words, and
    the words named in the last three lines of `STOP_WORDS`. Ours: which 21 words stand for the groups that are only named
    (the list has 47 too), and that marks of punctuation are left out.

    Args:
        text: what is asked, as the user wrote it; no chat template.

    Returns:
        The words in their order; the text as it is where none is left.

    >>> question_words("What is the color of the dot? Answer the question using a single word or phrase.")
    'color of dot'
    >>> question_words("Who are these?")
    'Who are these?'
    """
    question = text
    for sentence in ANSWER_FORMATS:
        question = question.replace(sentence, " ")
    words = [word for word in _WORD.findall(question) if word.lower() not in STOP_WORDS]
    return " ".join(words) or text
