"""A seeded grammar of what vision-language models answer, right and wrong: letters, words, numbers, boxes, yes and no.

Each maker draws one answer to one question. `FIELD_CHOICES` and `FIELD_EXACT` are what users reported as misread; there, A to D
are the question's options.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from random import Random

FIELD_CHOICES = [
    "The answer is B. Option A is incorrect because it ignores the sign.", "Ｂ", "Not A, but B", "not a cat", "答案是B", "选B",
    "The correct answer is B. Option A is wrong, option C is wrong, and option D is wrong.", "A is the correct answer.",
    "B because the cat is small", "B\n\nExplanation: it is not a cat", "A is correct", "A or B", "A and B", "A, B",
    "A. one\nB. two\nC. three\nD. four", "A. a cat\nB. a dog\nC. a bird\nD. a fish", "The answer is not A.",
    "Choice A is wrong, it is B", "The correct answer is b because it barks", "Answer - B. A, C and D do not fit.",
]  # fmt: skip
FIELD_EXACT = ["1.5", "-5", "3:00", "caf\u00e9", "cafe\u0301", "红色。", "it\u2019s", "15", "5", "300", "红色", "it's"]
OPENINGS = [
    "I think", "Sure!", "Looking at the image,", "Based on the picture, I would say", "Let me see:", "Well,", "In my opinion",
    "图中", "画像では", "이미지에서", "Therefore,", "<think>It might be C.</think>",
]  # fmt: skip
REASONS = [
    "because it is small", "since A dog is near it", "as one can see.", "\n\nExplanation: the others do not fit.", "in the image",
    "and nothing else", "。", "です。", "입니다.", "which is why I do not take D", "(see the left side)", "...",
    "the vitamin C shop",
]  # fmt: skip
REFUSALS = [
    "I cannot tell.", "Sorry, I can't help with that.", "There is not enough information.", "As an AI, I do not see images.",
    "Failed to obtain answer via API", "无法确定", "わかりません", "모르겠습니다", "None of the above", "N/A", "unanswerable",
]  # fmt: skip
EMPTY = ["", " ", "\n", "\t \n", "\u3000", "\u00a0", ".", "...", "!?", "\u200b", "- -", "\0"]
BESIDE = ["{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{})."]
AROUND = [*BESIDE, "[{}]", "**{}**", "{}!", '"{}"', "{};", "<{}>", "（{}）", "\\boxed{{{}}}"]
SAYINGS = [
    "The answer is", "the correct answer is", "Best answer is", "Correct option is", "the best option is", "The choice is",
    "I choose", "I select", "I pick", "my answer is", "My choice is", "정답은", "답은", "답:", "옵션", "答案是", "答案为",
    "选", "答えは",
]  # fmt: skip
INSIDE = [
    "go{}. then", "pick{}:then", "at{}:it", "x{})y", "y{})x", "z({})y", "as({})so", "no{}.so", "vitamin{} is", "x{}y z",
    "DVD{}x", "see/{}/here",
    "_{}_ it",
    "the{}", "{}-like",
]  # fmt: skip
ODD_CHOICES = [
    "EFG H",
    "because",
    "Apple",
    "\u212a. x",
    "Ｃ",
    "E",
    "It is E",
    "banana",
    "a banana",
    "nan",
    "bananas, I think",
    "Nan",
]
YES_NO = [
    "It is not.", "Not at all", "There is no dog", "nothing", "know", "unclear", "eyes", "No, not that one. Yes.", "はい",
    "いいえ", "네",
    "没有", "ＹＥＳ", "Yes and no", "isn't", "nope", "yeah", "Yep", "yes\0", "maybe", "x", "?", "1", "否", "是",
]  # fmt: skip
YES_NO_IN = [
    "{}.", "{}, there is.", "{}!", "{}, it is not.", "{} .", ".{}", "{}\nBecause of that", "The answer is {}", "**{}**",
    "y.e.s {}",
    "I say {}", "so {}", "N.o {}", "{} and no",
]  # fmt: skip
BOXES = [
    "[{}]", "[{}]", "[{}]", "[ {} ]", "({})", "{}", "[[{}]]", "[{}", "<box>[{}]</box>", "[{}, 0.5]", "[0.1, {}]",
    "[{}] [0, 0, 1, 1]",
    "[0, 1] [{}]", "［{}］", "bbox_2d: [\n{}\n]",
]  # fmt: skip
MARKS = ";/[]\"{}()=+\\_-><@`,?!.':%$&*#~^|"
WORDS = [
    "a", "an", "the", "dog", "dogs", "two", "ten", "none", "dont", "wouldve", "its", "it's", "red", "blue-green", "10",
    "1,000", "3.5",
    "U.S.A.", "no,", "yes", "what's", "whos", "left/right",
]  # fmt: skip
FILLER = "The picture shows a street with cars, two people and A dog. It is 3.5 m wide, isn't it? "
WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {0x20: 0x3000}
ARABIC = {ord("0") + digit: 0x660 + digit for digit in range(10)}


class Answers:
    """Draws answers; the same seed draws the same ones."""

    def __init__(self, seed: str) -> None:
        self.random = Random(f"answers {seed}")

    def some(self, texts: Sequence[str]) -> str:
        """One of several texts."""
        return self.random.choice(texts)

    def likely(self, share: float) -> bool:
        """True in a share of the cases."""
        return self.random.random() < share

    def longer(self, text: str) -> str:
        """The text within thousands of characters, or beside many full stops."""
        filler = FILLER * self.random.randint(10, 40)
        return self.some(
            [filler + text, f"{text} {filler}", text + " ." * 40 + " a.", ". " * 35 + text, f"{text}\n{'word. ' * 300}"]
        )

    def beside(self, text: str) -> str:
        """The text with words before or behind it."""
        before = f"{self.some(OPENINGS)} " if self.likely(0.6) else ""
        behind = f" {self.some(REASONS)}" if self.likely(0.6) else ""
        frame = self.some(["{}{}{}", "{}{}{}", "{}it is {}{}", "{}it is not {}{}", "{}{} or something else{}"])
        return frame.format(before, text, behind)

    def any_text(self) -> str:
        """An answer to whatever question."""
        kind = self.random.randrange(8)
        if kind < 5:
            return self.some([EMPTY, EMPTY, REFUSALS, FIELD_CHOICES, FIELD_EXACT][kind])
        if kind == 5:
            return " ".join(self.some(WORDS) for _ in range(self.random.randint(1, 8)))
        if kind == 6:
            return self.longer(self.some(WORDS))
        marks = [self.some(MARKS) + self.some(["", " "]) + self.some(MARKS + " ") for _ in range(self.random.randint(1, 5))]
        return "".join(self.some(WORDS) + mark for mark in marks)

    def choice(self, options: Sequence[str], right: int) -> str:
        """An answer to multiple choice; half of them name the right option first, and some one that is not there."""
        place = right if self.likely(0.6) else self.random.randrange(len(options) + 1)
        letter, text = chr(ord("A") + place), options[place] if place < len(options) else "another"
        second = self.random.randrange(len(options))
        other, rival = chr(ord("A") + second), options[second]
        makers = [
            *[self._letter] * 4, *[self._letter_in_words] * 2, *[self._letter_and_mark] * 3, *[self._saying] * 2, self._option,
            self._field,
            self._several, *[self._inside] * 3, self._article, self._long_choice, *[self._odd_choice] * 3, self._nothing,
        ]  # fmt: skip
        return self.random.choice(makers)(letter, text, other, rival)

    def _letter(self, letter: str, text: str, other: str, rival: str) -> str:
        return self.some(
            [letter, letter, letter, letter.lower(), f" {letter}\n", f"{letter}. {text}", f"{letter}) {text}", f"{letter} {text}"]
        )

    def _letter_in_words(self, letter: str, text: str, other: str, rival: str) -> str:
        marked = self.some(AROUND).format(letter)
        return self.some(
            [self.beside(marked), self.beside(marked), marked + self.some(["", f" {text}", f" {self.some(REASONS)}"])]
        )

    def _letter_and_mark(self, letter: str, text: str, other: str, rival: str) -> str:
        before, behind = self.some(["", "It is ", "Maybe "]), self.some(["", " maybe", " it is"])
        return before + self.some(BESIDE).format(letter) + behind

    def _saying(self, letter: str, text: str, other: str, rival: str) -> str:
        between = self.some([" ", " ", "", " option ", ": "])
        before = self.some(["", "", "", f"As for x{other})y, "])
        behind = self.some([".", "", "。", "x", f" because {other}", f" not {other}", "!", f", not {other}, {letter} it is"])
        return before + self.some(SAYINGS) + between + letter + behind

    def _option(self, letter: str, text: str, other: str, rival: str) -> str:
        return self.beside(
            self.some([text, text.upper(), f"not {text}", f"{text} and {rival}", f"{text}, not {rival}", f"the {text}"])
        )

    def _field(self, letter: str, text: str, other: str, rival: str) -> str:
        """What users reported; half of it with its letters turned."""
        turn = self.random.randrange(4)
        turned = {"ABCD"[k]: "ABCD"[(k + turn) % 4] for k in range(4)}
        pattern = self.some(FIELD_CHOICES)
        return pattern if self.likely(0.5) else "".join(turned.get(character, character) for character in pattern)

    def _several(self, letter: str, text: str, other: str, rival: str) -> str:
        over = f"I choose {letter} over {other}, {self.some(REASONS)}"
        place = self.random.randrange(len(BESIDE) - 1)  # the order in which marks are tried is told by neighbours
        two = f"{BESIDE[place].format(letter)} {BESIDE[place + 1].format(other)}"
        return self.some(
            [f"{letter} or {other}", f"{letter}, {other}", f"not {other}, but {letter}", two, two, f"{letter}/{other}", over]
        )

    def _inside(self, letter: str, text: str, other: str, rival: str) -> str:
        return self.some(INSIDE).format(letter) + self.some(["", "", f" {self.some(INSIDE).format(other)}"])

    def _article(self, letter: str, text: str, other: str, rival: str) -> str:
        thing, where = self.some(["dog", "cat", "photo"]), self.some(["here", "there", "in view"])
        return f"A {thing} is {where} {self.some(['', letter, text])}".strip()

    def _long_choice(self, letter: str, text: str, other: str, rival: str) -> str:
        return self.longer(self.some([letter, f"({letter})", text, f"The answer is {letter}"]))

    def _odd_choice(self, letter: str, text: str, other: str, rival: str) -> str:
        small = self.some(
            [f"{letter.lower()}. {text}", f"{letter.lower()}.", f"{letter.lower()})", f"{letter}{letter}", f"{letter}?"]
        )
        failed = f"Failed to obtain answer via API {self.some([letter, '', text])}"
        return self.some([small, small, failed, *[self.some(ODD_CHOICES)] * 4])

    def _nothing(self, letter: str, text: str, other: str, rival: str) -> str:
        return self.some([self.some(EMPTY), self.any_text()])

    def yes_or_no(self, right: str) -> str:
        """An answer to a question of yes or no."""
        word = right if self.likely(0.6) else self.some(["yes", "no"])
        kind = self.random.randrange(12)
        if kind < 5:
            return self.some([word, word.capitalize(), word.upper(), f" {word}", f"{word}\n", f"\t{word.capitalize()} ", word])
        if kind < 8:
            return self.some(YES_NO_IN).format(word.capitalize())
        if kind == 8:
            return self.some([word[0], word[0].upper(), f"{word[0]}.", word[0], f" {word[0].upper()}. ", self.some(YES_NO)])
        return self.some(YES_NO) if kind == 9 else self.longer(word) if kind == 10 else self.any_text()

    def short(self, answers: Sequence[str]) -> str:
        """A short answer; most are one of the right ones in another form."""
        if self.likely(0.12):
            return self.any_text()
        text = self.some(answers) if self.likely(0.85) else self.some(WORDS)
        for _ in range(self.random.choice([0, 1, 1, 1, 2])):
            text = self.form(text)
        return self.longer(text) if self.likely(0.04) else text

    def form(self, text: str) -> str:
        """The same text as somebody else would write it, or nearly."""
        place = self.random.randrange(len(text) + 1)
        start, rest, mark, word = text[:place], text[place:], self.some(MARKS), self.some(WORDS)
        forms = [
            text.upper(), text.capitalize(), text.swapcase(), f"{text}.", f"{text}!", f" {text}\n", f"the {text}", f"a {text}",
            f"({text})", f'"{text}"', text.replace(" ", "  "), text.replace(" ", "\u3000"), text.replace(" ", " \n "),
            text.replace(" ", "\n"), text.upper().replace(" ", "\n"), "It says\n" + text.replace(" ", "\n"), text.replace(" ",
            "\t"),
            text.replace(" ", "-"), f"It is {text}.", text.replace("'", "\u2019"), text.replace("'", ""), f"{text}\u0345\u0130",
            unicodedata.normalize("NFD", text), unicodedata.normalize("NFKC", text), text.translate(WIDE), text.replace("i",
            "\u0130"),
            text + "\0", start + rest[1:], start + mark + rest, f"{start}e{rest}", f"{text}/{word}", f"not {text}", f"{text}?",
            f"{text}'s", f"{text}, {word}", f"{text},000", text * 2, text.replace("2", "two").replace("10", "ten"),
            text.replace(",", ""), f". {text}", f"答案是{text}。", f"{text} {text}",
        ]  # fmt: skip
        return self.random.choice(forms)

    def number(self, text: str) -> str:
        """A number near the right one, in some form; of a right text, a text."""
        if self.likely(0.12):
            return self.any_text()
        try:
            value = float(text.rstrip("%"))
        except ValueError:
            return self.some([self.short([text]), self.short([text]), text.upper(), text.lower(), text.swapcase()])
        value *= self.random.choice([1, 1, 1, 1, 1.05, 0.95, 1.04, 1.06, 0.9500001, -1, 100, 0.01, 1.0499999])
        plain, whole = f"{value:g}", f"{value:,.0f}"
        forms = [
            plain, plain, repr(value), f"{value:.2f}", whole, whole.replace(",", "_"), re.sub(r"(\d)(\d)", r"\1_\2", plain),
            whole.replace(",", " "), f"{plain}%", f"{plain} %", f"{value / 100:g}", f"{value * 100:g}%", f"+{plain}",
            f" {plain}\n",
            f"{value:e}", f"${plain}", f"{plain} km", f"about {plain}", f"{plain}.", "nan", "inf", "-inf", "Infinity", "NaN%",
            text,
            text.upper(), text.lower(), f"{text}%%", plain.translate(WIDE), plain.translate(ARABIC), f"{plain}e", "0", "0.0",
            "-0",
            "0%", "%", "1__0", "9" * 400, "٫5", f"1e{self.random.randint(300, 320)}",
        ]  # fmt: skip
        return self.random.choice(forms)

    def box(self, right: Sequence[float]) -> str:
        """A box near the right one, in some form; one in ten is the right one to the last digit, halved or turned round."""
        if self.likely(0.08):
            return self.any_text()
        left, top, end, foot = right
        if self.likely(0.1):
            exact = [(end, top, left, foot), (left, top, end, (top + foot) / 2), (left, top, (left + end) / 2, foot)]
            numbers = list(map(repr, self.random.choice(exact)))
            if self.likely(0.25):
                numbers[self.random.randrange(4)] = self.some(["9" * 400, "-" + "9" * 400])
            return f"[{', '.join(numbers)}]"
        shift = self.random.choice([0.0, 0.0, 0.02, 0.1, 0.3])
        left, top, end, foot = (value + self.random.uniform(-shift, shift) for value in right)
        corners = self.random.choice([
            *[(left, top, end, foot)] * 4, (left, top, end, (top + foot) / 2), (left, top, (left + end) / 2, foot), (0, 0, 1, 1),
            (end, foot, left, top), (end, top, left, foot), (left, top, left, foot), (0, 0, 0, 0), (-1, -1, 2, 2),
            (left, top, end - left, foot - top), (left, foot, end, 2 * foot - top),
        ])  # fmt: skip
        digits = self.random.choice([0, 2, 3, 6, 17])
        numbers = [str(round(1000 * value)) if self.likely(0.02) else f"{value:.{digits}f}" for value in corners]
        if self.likely(0.12):
            numbers = [str(round(1000 * value)) for value in corners]
        if self.likely(0.05):
            numbers[self.random.randrange(4)] = self.some(["1e3", ".5", "٠.٥", "1.", "-0", "nan", "+1", "－1"])
        joined = self.some([", ", ", ", ", ", ",", ",  ", " ", " ,", ",\n", "，"]).join(numbers)
        return self.some(["{}", "{}", "The box is {}.", "It is at {}, I think"]).format(self.some(BOXES).format(joined))
