"""Yes and no: what an answer in free text says to a question that asks whether something is so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from harness.tasks.reading.affirmation_phrases import (
    ADDRESSED,
    AGREES,
    ASKED,
    BOTH,
    DENIES,
    EMPHASIS,
    FALSE_WORDS,
    HELPFUL,
    IF,
    IT_IS,
    MISTAKEN,
    NEGATED,
    NO_DOUBT,
    NO_WORDS,
    OF_ANOTHER,
    OPEN,
    OPENERS,
    REPORTED,
    TAKEN_BACK,
    TRUE_WORDS,
    YES_WORDS,
)
from harness.tasks.reading.folding import folded, spoken
from harness.tasks.reading.option_phrases import phrases
from harness.tasks.rules import Judgement
from harness.tasks.target import Target

YES, NO, OTHER = "yes", "no", "other"


class Weight(IntEnum):
    """How firmly a part of an answer says yes or no."""

    STATED = 1  # "There is no dog", "No dogs are visible", "It is"
    EMPHASIS = 2  # "Certainly", with nothing behind it
    ANSWER = 3  # "Yes", "No, ...", "Certainly not"
    CONCLUSION = 4  # "The answer is no", "So no"


@dataclass(frozen=True)
class Vote:
    """What a part of an answer says: `YES` or `NO`, or `OTHER` where it is left open."""

    said: str
    weight: Weight


_CONCLUDED = phrases(
    r"""(?:\b(?:answer|response)(?: to (?:the|this|your) question)?\s*(?:is|would be|must be|should be|[:=])
    |\bfinal answer\b[\s:]*|\b(?:so|therefore|thus
    |hence)[\s,]|\#{4}|答案[是为:])
    [\s,:"']*(?:the answer is )?(?:(?P<yes>yes|true|correct|是)|(?P<no>no|false|incorrect|否|不是))(?!\w)(?!\s+\w)"""
)
_NUMBER = re.compile(r"\bno\.\s*(?=\d)", re.IGNORECASE)
_SUBORDINATE = re.compile(r"because|since|although|though|while|which", re.IGNORECASE)
_DENIED_BEFORE = phrases(r"\bnot\b|n't\b|\bdoubt\b|\bwrong\b|\bfalse\b|\bnever\b")
_NOT_THOUGHT = phrases(r"\b(?:don't|do not) (?:think|believe)(?: that)?(?: the)?\s*$")
_WORD_MEANT = re.compile(r"\b(?:yes|no)$|^(?:yes|no)\s+(?:is|would)\b|^not\s+a\s+(?:yes|no|doubt|question)\b", re.IGNORECASE)
_STRUCK = re.compile(r"~~[^~\n]*~~")
_MARKS = re.compile(
    r"```|[*_`\"]|\\(?:boxed|text\w*|fbox)\s*|</?(?:answer|ans|final|s)>|<\|[^|<>\s]*\|>|\\[()\[\]]|[${}]", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"(?<![.!?;。！…])([.!?;。！…]+)(?=\s|$|[^\x00-\x7f])|\n")
_CLAUSE_END = phrases(
    r"""[,;:=،()\[\]、]+|\s-+\s|\s-+$|\b(?:(?<!anything\s)but|because|since|although|though|while|which|however|and|or|yet
    |rather than|instead of|aber|mais|pero|но|y|et|und|и)\b"""
)
_ANSWERS = phrases(rf"(?:(?P<yes>{YES_WORDS})|(?P<no>{NO_WORDS}))(?=\s|$)")
_TRUTH = phrases(rf"(?:(?P<yes>{TRUE_WORDS})|(?P<no>{FALSE_WORDS}))")
_GOES_ON = phrases(
    r"""(?:(?P<yes>yes|yeah|yep|yup)|(?P<no>no|nope|nah))(?! (?:is|are|was|would be) (?:wrong|incorrect|false|not)\b) (?:there
    |it|its|it's|they|he|she|this|that|that's|i|we|you|the|a|an
    |not|as|is|are|in|on|at|actually|all|only)\b(?!-)"""
)
"""Begins a clause in which the word is an answer, and no part of what follows: "Yes I can see it"."""
_ADVERBS = phrases(r" (?:certainly|definitely|absolutely|indeed|surely|obviously|clearly|exactly|really|totally|most)\b")
_EXISTS = phrases(r"(?:there|it|they) (?:is|are)\b|(?:is|are|does|do|has|have|can|was|were)$")
_ALONE = {"y": YES, "n": NO, "t": YES, "f": NO}


def yes_no(prediction: str, target: Target) -> float:
    """Return 1.0 where prediction and answer both say yes or both say no, as `said` reads the prediction, else 0.0.

    >>> yes_no("Yes, there is.", Target(("yes",)))
    1.0
    """
    return judge_yes_no(prediction, target).score


def judge_yes_no(prediction: str, target: Target) -> Judgement:
    """Return the score of `yes_no`, and what was read: yes, no or nothing.

    >>> judge_yes_no("There is no dog.", Target(("no",)))
    Judgement(score=1.0, read='no', decided=True)
    """
    read = said(prediction)
    score = float(read in {answer.strip().lower() for answer in target.answers})
    return Judgement(score, None if read == OTHER else read)


def said(prediction: str) -> str:
    """Read an answer as ``yes``, ``no`` or ``other``, as a person does who has not seen the question.

    An answer is read sentence by sentence, and these clause by clause; each may say yes or no, more or less firmly. The firmest
    counts: a conclusion ("the answer is yes", of which the last); then a word that is an answer ("Yes, ...", "Not at all",
    "Of course not", 是的, いいえ); then "certainly" and its like, which say yes with nothing behind them and never say it
    before a negation; then a statement, which says no with one negation ("It is not", "There isn't a dog") and yes where
    nothing but "it is" or "they do" stands. Yes and no of one firmness, two negations, what leaves it open ("maybe", "I cannot
    tell", "no information") and questions say neither; what is taken back ("Yes. Wait, ...") does not count. A whole sentence
    without either word, such as "There is a dog", says nothing: it may be another thing than was asked for.

    >>> said("Not at all"), said("It is not"), said("Yes and no"), said("There is a dog"), said("Of course not")
    ('no', 'no', 'other', 'other', 'no')
    """
    text = folded(spoken(prediction).replace("—", ", ").replace("\\boxed", "\n#### "))
    text = _NUMBER.sub("number ", _MARKS.sub(" ", _STRUCK.sub(" ", text))).strip()
    bare = re.sub(r"[\s.()\[\]!'#<>,]", "", text).lower()
    if bare in _ALONE or bare in (YES, NO):
        return _ALONE.get(bare, bare)
    text = NO_DOUBT.sub(" no_doubt ", MISTAKEN.sub(" ", ASKED.sub(", ", text, count=1)))
    ends = [match.end() for match in TAKEN_BACK.finditer(text)]
    if ends and text[ends[-1] :].strip():
        text = text[ends[-1] :]
    if BOTH.search(text[:200]):
        return OTHER
    sentences = list(_sentences(text))
    votes = [vote for number in range(len(sentences)) for vote in _votes(sentences, number)]
    concluded = [vote.said for vote in votes if vote.weight is Weight.CONCLUSION]
    if concluded:
        return concluded[-1]
    firmest = max((vote.weight for vote in votes), default=None)
    if firmest is Weight.EMPHASIS and any(vote.weight is Weight.STATED and vote.said != YES for vote in votes):
        firmest = Weight.STATED  # "No dog. Certainly."
    if firmest is not Weight.ANSWER and OPEN.search(text[:400]):
        return OTHER
    found = {vote.said for vote in votes if vote.weight is firmest}
    return found.pop() if len(found) == 1 else OTHER


def _sentences(text: str) -> Iterator[str]:
    """The sentences of a text that are no questions."""
    parts = _SENTENCE_END.split(text)
    for part, end in zip(parts[::2], [*parts[1::2], ""], strict=False):
        if part.strip() and "?" not in (end or ""):
            yield part.strip()


def _votes(sentences: list[str], number: int) -> Iterator[Vote]:
    """What one sentence says, clause by clause."""
    sentence = sentences[number]
    for match in _CONCLUDED.finditer(sentence):
        before = sentence[max(0, match.start() - 60) : match.start()]
        if match["yes"] and _NOT_THOUGHT.search(before):
            yield Vote(NO, Weight.CONCLUSION)
        elif not _DENIED_BEFORE.search(before) and not IF.search(before):
            yield Vote(YES if match["yes"] else NO, Weight.CONCLUSION)
    begin, first, emphasis = 0, True, False
    condition = IF.search(sentence)
    for end in (*_CLAUSE_END.finditer(sentence), None):
        clause = sentence[begin : end.start() if end else len(sentence)].strip()
        before, start, begin = sentence[max(0, begin - 60) : begin].rstrip(" ,:-("), begin, end.end() if end else 0
        if end and not clause and _SUBORDINATE.match(end[0]):
            first = False
        if not clause or (condition is not None and condition.start() <= start + 3):
            continue
        rest, emphatic = _opened(clause)
        if not rest and emphatic and (first or not emphasis):
            yield from _emphatic(sentences, number, sentence[begin:] if end else "")
            emphasis, first = True, False
            continue
        if not rest:
            continue
        said = None if REPORTED.search(before) else _answer(rest, first, sentence[begin:] if end else "")
        if said is not None:
            yield Vote(said, Weight.ANSWER)
        elif (first and number == 0) or emphatic or emphasis:
            stated = _stated(rest, emphatic or emphasis)
            if stated is not None:
                yield Vote(stated, Weight.ANSWER if emphatic or emphasis else Weight.STATED)
        first, emphasis = False, False


def _opened(clause: str) -> tuple[str, bool]:
    """A clause without what stands before an answer, and whether that was an emphasis."""
    emphatic = False
    clause = ADDRESSED.sub("", clause)
    plain = " ".join(_ADVERBS.sub(" ", clause).rstrip(" .!").split())
    if AGREES.fullmatch(plain) or IT_IS.fullmatch(plain):
        return plain, False
    for _ in range(8):
        emphasis = EMPHASIS.match(clause)
        opener = emphasis or OPENERS.match(clause)
        if opener is None or opener.end() == 0:
            break
        emphatic = emphatic or emphasis is not None
        clause = clause[opener.end() :].strip(" .✅❌✔✗")
    return clause.rstrip(" .!✅❌✔✗"), emphatic


def _answer(clause: str, first: bool, behind: str) -> str | None:
    """Yes or no, where the clause is nothing but a word for it, or begins with one that stands apart; both of them: neither."""
    if AGREES.fullmatch(clause):
        return YES
    found, place = set(), 0
    if clause.lower() == "not no":
        return None
    while (word := _ANSWERS.match(clause, place)) is not None:
        found.add(YES if word["yes"] else NO)
        place = word.end() + (word.end() < len(clause))
    if found and place >= len(clause):
        return found.pop() if len(found) == 1 else OTHER
    if first:
        truth = _TRUTH.fullmatch(clause)
        if truth is not None:
            return OTHER if truth["yes"] and NEGATED.search(behind) else YES if truth["yes"] else NO
        goes_on = _GOES_ON.match(clause)
        if goes_on is not None:
            return YES if goes_on["yes"] else NO
    return None


def _emphatic(sentences: list[str], number: int, behind: str) -> Iterator[Vote]:
    """What "certainly" says alone: yes, unless what stands behind denies it, or is no answer."""
    if behind.strip():
        return
    following = sentences[number + 1 : number + 4]
    for part in following:
        stated = _stated(_CLAUSE_END.split(part)[0].strip(), False)
        if stated is not None:
            yield Vote(stated if DENIES.match(part) else OTHER, Weight.EMPHASIS)
            return
    yield Vote(OTHER if any(HELPFUL.search(part) for part in following) else YES, Weight.EMPHASIS)


def _stated(clause: str, emphatic: bool) -> str | None:
    """What a statement says: no with one negation, neither with two, yes where it is nothing but "it is"."""
    if REPORTED.search(re.sub(r"\W*\w+$", "", clause)) or OPEN.search(clause) or IF.search(clause) or _WORD_MEANT.search(clause):
        return OTHER
    negations = len(NEGATED.findall(clause))
    if negations:
        return NO if negations == 1 and not OF_ANOTHER.search(clause) else OTHER
    if IT_IS.fullmatch(clause) or (emphatic and _EXISTS.match(clause)):
        return YES
    return None
