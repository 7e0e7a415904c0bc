"""Where an answer in free text names options: by their letters, and by their texts.

A text is read in three steps: marks of layout go (`plain`), the options' texts are marked, then their letters. What comes out is
the same text with one character for each mention, so that whoever reads sentences needs to know nothing of letters and texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from harness.tasks.reading.folding import folded, spoken

_LETTER, _TEXT = 0xE000, 0xE040  # private use: the first letter's mark, the first text's
MARK = "[\ue000-\ue07f]"
"""A mention, as a class of a regular expression."""
_ANY_PRIVATE = re.compile("[\ue000-\uf8ff]")
_ALPHABET = "0-9A-Za-z_\u00aa-\u052f"  # what a Latin letter would be a part of a word with; not Chinese, Japanese or Korean

AND_ELSEWHERE = (
    r"(?:und|oder|en|of|et|ou|y|o|e|и|или|lub|albo|czy|i|atau|dan|veya|ve|hoặc|và|och|eller|og|vagy|sau|nebo|ή|أو|و|या|หรือ|และ)"
)
"""The words for "and" and "or" of other languages, some of which are letters."""
_BRACKETS = str.maketrans("「」『』【】〔〕《》〈〉{}", "()()()()()()  ")
_STRUCK = re.compile(r"~~[^~\n]+~~|<(del|strike)>[^<\n]*</\1>", re.IGNORECASE)  # crossed out: no part of the answer
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*|</?(?:answer|ans|final)>", re.IGNORECASE)
_LATEX = re.compile(r"\\(?:text\w*|math[a-z]+|rm|bf|left|right|displaystyle|quad|,)(?![A-Za-z])\s*|\\[()\[\]]|\$(?!\s*\d)")
_TAG = re.compile(r"</?(?:b|i|u|p|em|strong|br|span|div|code|sub|sup|think\w*|reasoning|response|output|option|choice) ?/?>")
_LAYOUT = re.compile(
    r"""(?<!\w)\*+|\*+(?!\w)|(?<![^\W_])_+|_+(?![^\W_])|[`"]|~~|(?<!\w)'|'(?!\w)|(?m:^[ \t]*(?:\#{1,3}|>|[-•])[ \t]+)"""
)


def plain(text: str) -> str:
    """Return a text without Markdown, LaTeX, tags, quotation marks and a model's thoughts (``<think>``), in folded Unicode.

    A boxed answer stands on a line of its own behind ``####``, as GSM8K writes answers. Lines stay apart.

    >>> plain("The answer is **B**: $\\\\boxed{\\\\text{B}}$")
    'The answer is B:\\n#### B'
    """
    text = _ANY_PRIVATE.sub("", folded(spoken(text)))
    text = _STRUCK.sub("", text)
    text = _LATEX.sub("", _BOXED.sub("\n#### ", text)).translate(_BRACKETS)
    text = _LAYOUT.sub("", _TAG.sub("", text))
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line and line != "####")


def option(text: str) -> str:
    """Return an option's text as it is looked for: plain, on one line, without a full stop at its end."""
    return " ".join(plain(text).split()).rstrip(".。")


def mark(place: int) -> str:
    """Return the mark of a mention by letter."""
    return chr(_LETTER + place)


def place_of(mark: str) -> int:
    """Return the option that a mark stands for, counted from 0."""
    return ord(mark) - (_TEXT if ord(mark) >= _TEXT else _LETTER)


def marked(text: str, options: Sequence[str]) -> str:
    """Return a text with one character for each mention of an option.

    Args:
        text: as `plain` returns it.
        options: as `option` returns them; none where any letter may be one.
    """
    return _merged(_letters(_CONTRACTED.sub(r"\1 is ", _texts(text, options)), options), options)


# --- by text

_WORDS_OF_ALL_SENTENCES = """yes no not is are was were be been am do does did has have had can could will would may might must
shall should in on at to of for by with from as into over under it its this that these those he she they we you his her their who
which what and or but if so as than then there here very only also"""
_EVERYWHERE = frozenset(_WORDS_OF_ALL_SENTENCES.split())
"""Options that stand in every text: such a word counts where it stands alone, or at the end of an answer."""
_ARTICLE = re.compile(r"(?:an?|the)\s+", re.IGNORECASE)
_POINTED_AT = re.compile(
    r"\b(?:the|this|that|which|correct|right|only|wrong|another|each|every|any|no|some|best|other|first|second|last)\s+$",
    re.IGNORECASE,
)
_ANSWERED_BEFORE = re.compile(r"(?:^|[.,:;!?(\n]|\b(?:is|answer|say|choose|so|therefore))\s*$", re.IGNORECASE)
_ANSWERED_BEHIND = re.compile(r"\s*(?:$|[.,:;!)\n])")


def _texts(text: str, options: Sequence[str]) -> str:
    """Mark the options' texts: of options inside one another the longest, articles aside, whole words alone."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(options):
        if name and not (len(name) == 1 and name.upper() in ascii_uppercase[: len(options)]):
            places.setdefault(_core(name, options).lower(), []).append(place)
    found = [(name, there) for name, there in places.items() if name not in ("a", "an", "the", "i")]
    if not found:
        return text
    found.sort(key=lambda item: -len(item[0]))
    pattern = re.compile("|".join(f"({_as_words(name, options[there[0]])})" for name, there in found), re.IGNORECASE)

    def as_mark(match: re.Match[str]) -> str:
        name, there = found[(match.lastindex or 1) - 1]
        before, behind = text[max(0, match.start() - 16) : match.start()], text[match.end() : match.end() + 16]
        if name in _EVERYWHERE and not (_ANSWERED_BEFORE.search(before) and _ANSWERED_BEHIND.match(behind)):
            return match[0]
        if name == "one" and (
            _POINTED_AT.search(f"{before}{match[0][:-3]}") or re.match(r"\s+(?:of|that|who|which|is|with)\b", behind)
        ):
            return match[0]
        return "/".join(chr(_TEXT + place) for place in there)

    return pattern.sub(as_mark, text)


def _core(name: str, options: Sequence[str]) -> str:
    """The text without its article, unless that is all that sets it apart."""
    core = _ARTICLE.sub("", name, count=1) if _ARTICLE.match(name) else name
    twins = sum(_ARTICLE.sub("", other, count=1).lower() == core.lower() for other in options if _ARTICLE.match(f"{other} "))
    return core if core and twins < 2 else name


def _as_words(core: str, name: str) -> str:
    words = r"\s+".join(map(re.escape, core.split()))
    if 1 < len(name) < 4 and name.isalpha() and name.isupper():
        words = f"(?-i:{re.escape(name)})"  # US is not "us"
    first, last = core[0], core[-1]
    article = "" if first.isdigit() else r"(?:(?:an?|the)\s+)?"
    left = rf"(?<![{_ALPHABET}])(?<![{_ALPHABET}][-'])" if re.match(f"[{_ALPHABET}]", first) else ""
    left += r"(?<![-+.])(?<!\d[,:/])" if first.isdigit() else ""
    right = rf"(?!['-]?[{_ALPHABET}])" if re.match(f"[{_ALPHABET}]", last) else ""
    right += r"(?![.,:/]\d)" if last.isdigit() else ""
    return f"{left}{article}{words}{right}"


# --- by letter

_CANDIDATE = re.compile(
    rf"[(\[<]\s*([A-Za-z])\s*[)\]>]|(?<![{_ALPHABET}'°])([A-Za-z])(?![{_ALPHABET}']|-[{_ALPHABET}]{{2}}|-[{_ALPHABET}](?<![A-Z])|#|\+(?![A-Z](?![{_ALPHABET}])))\)?"
)
_NAMES = (
    r"(?:answers?|options?|choices?|letter|label|选项|選項|答案|选择|選擇|选|選|答えは?|正解は?|정답은?|답은?|ответ|respuesta|réponse"
    r"|antwort)"
)
_CALLED = re.compile(
    rf"(?:{_NAMES}(?:\s+(?:is|are|was|would|must|should|be|not|therefore|clearly|option|choice|letter))*"
    r"|\b(?:choose|chose|select|pick|say|go\s+with|with|it\s+is|it's|it\s+must\s+be|not|\#{4}))\s*[:=-]?\s*$",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?:\b(?:option|choice|letter|label)|选项|選項)\s*$", re.IGNORECASE)
_OTHER_THING = re.compile(
    r"(?:\b(?:vitamin|hepatitis|plan|type|class|grade|team|group|point|line|angle|vertex|figure|fig\.|appendix|gate)|\d)\s+$",
    re.IGNORECASE,
)
_JOINED = re.compile(r"\s*(?:,|/|&|\+|\b(?:and|or|nor|vs\.?|but|not|over|than|of)\b|\s)*\s*", re.IGNORECASE)
_NO_NOUN = re.compile(
    rf"\s*(?:$|{MARK}|[^\w\s]|\n|(?-i:[A-Z])(?![{_ALPHABET}'])|[\u0600-\u06ff\u3040-\uffdc]"
    r"|(?:is|isn't|was|wasn't|are|aren't|has|had|have|does|doesn't|did|didn't|do|don't|cannot|can't|could|couldn't|would|wouldn't"
    r"|should|shouldn't|might|because|since|as|for|and|or|but|nor|not|if|that|which|who|it|the|this|these|he|she|they|we|you|there"
    r"|in|on|at|by|with|from|to|then|than|rather|instead|seems|appears|looks|fits|matches|shows|describes|depicts|represents|makes"
    r"|says|contains|correctly|also|both|either|due|can(?=\s+be|\s+not)|will(?=\s+be|\s+not)|may(?=\s+be|\s+not)|must(?=\s+be|\s+not)"
    r"|best(?=\s+\w+s\b)|works|applies|remains|describing|unlike|over|fails|lacks|contradicts|ignores|ist|est|es|noch|ni|plus|versus|vs|along|together|alongside|sowie|ainsi|maupun|followed|against|through|thru|oder|ou|und|et|y)"
    rf"(?![{_ALPHABET}'-])|\d+[.):]|{AND_ELSEWHERE}\s+\(?(?-i:[A-Z])(?![{_ALPHABET}']))",
    re.IGNORECASE,
)
_CONTRACTED = re.compile(
    rf"(?<![{_ALPHABET}'])([A-Z])'s\s+(?=(?:(?:not|clearly|definitely|obviously|probably|likely)\s+)*"
    r"(?:correct|right|wrong|incorrect|false|true|best|better|(?:the|my)\s+(?:best|correct|right|wrong|only|final|answer|one)\b))"
)
_SET_OFF = re.compile(r"\s*(?:$|[.,:;)!?\n]|(?:is|because|since)\b)")
_VARIABLE = re.compile(
    rf"\s*=(?!>|\s*(?:{MARK}|[A-Z](?![{_ALPHABET}])|(?:correct|right|wrong|incorrect|false|true)\b))|\.[A-Za-z](?![{_ALPHABET}])"
)


def _letters(text: str, options: Sequence[str]) -> str:
    """Mark the letters that stand for options; those behind the last option too, which name none."""
    last_end = -1

    def as_mark(match: re.Match[str]) -> str:
        nonlocal last_end
        name = match[1] or match[2]
        before, behind = text[max(0, match.start() - 48) : match.start()], text[match.end() : match.end() + 24]
        follows = last_end >= 0 and _JOINED.fullmatch(text[max(last_end, match.start() - 24) : match.start()]) is not None
        if match[1]:
            named = re.search(f"[{_ALPHABET}]\\Z", before) is None
        else:
            beyond = bool(options) and ord(name.upper()) - ord("A") >= len(options)
            named = not (beyond and name.islower() and not _CALLED.search(before)) and _bare(
                name, match[0], before, behind, match.start() == 0, follows
            )
        if not named:
            return match[0]
        last_end = match.end()
        return mark(ord(name.upper()) - ord("A"))

    return _CANDIDATE.sub(as_mark, text)


def _bare(name: str, whole: str, before: str, behind: str, first: bool, follows: bool) -> bool:
    """Whether a letter without brackets stands for an option."""
    hyphened = re.search(rf"[{_ALPHABET}][-.]\Z", before) and not re.search(
        rf"(?:(?i:answer|option|choice|ans)[-.]|(?<![{_ALPHABET}])[A-Z]-)\Z", before
    )
    if hyphened or _VARIABLE.match(behind) or _OTHER_THING.search(before):
        return False
    starts = first or before.endswith("\n")
    if name in "Ii":
        return (
            (name == "I" or _CALLED.search(before) is not None)
            and _SET_OFF.match(behind) is not None
            and (starts or follows or _CALLED.search(before) is not None)
        )
    if name in "Aa" and not whole.endswith(")") and not _NO_NOUN.match(behind) and not _LABEL.search(before):
        return False
    if name.isupper():
        return True
    label = starts and (whole.endswith(")") or re.match(r"\.(?:\s|$)|\.?" + MARK, behind) is not None)
    opens = first and _NO_NOUN.match(behind) is not None
    in_script = re.search(r"[\u3040-\u9fff\uac00-\ud7af]\s*$", before) is not None
    return label or opens or in_script or follows or _CALLED.search(before) is not None


_OWN = re.compile(rf"({MARK})\s*[.:(),;-]?\s*({MARK})")
_OWN_BEHIND = re.compile(rf"({MARK})\s*[(,]?\s*(?:option|choice|letter|answer)?\s*({MARK})", re.IGNORECASE)
_AT_LINE = re.compile(
    rf"(?m)^((?:\#{{4}} )?{MARK})\s*\.(?=\s)(?![^.!\n]*\?)"
    r"(?!\s*(?:wait|hold\s+on|actually|oops|hmm)\b|\s*(?:wrong|incorrect|false|not\s+correct)\s*:)",
    re.IGNORECASE,
)


def _merged(text: str, options: Sequence[str]) -> str:
    """Make one mention of a letter and its own text, and a colon of the full stop behind a letter at the start of a line."""

    def own(match: re.Match[str]) -> str:
        one, other = place_of(match[1]), place_of(match[2])
        by_letter = ord(match[1]) < _TEXT
        as_text = ord(match[2]) >= _TEXT and one == other
        letter_for_text = ord(match[2]) < _TEXT and one < len(options) and options[one] == ascii_uppercase[other % 26]
        return match[1] if by_letter and (as_text or letter_for_text) and "," not in match[0] * letter_for_text else match[0]

    def own_behind(match: re.Match[str]) -> str:
        same = ord(match[1]) >= _TEXT > ord(match[2]) and place_of(match[1]) == place_of(match[2])
        return match[2] if same else match[0]

    return _AT_LINE.sub(r"\1:", _OWN_BEHIND.sub(own_behind, _OWN.sub(own, text)))
