"""Numbers in free text, as a person reads them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.tasks.reading.numerals import judge_numeric, number_in, numeric, value
from harness.tasks.rules import Judgement
from harness.tasks.target import Target

NUMBERS = [
    ("5", 5), ("5.", 5), ("5.0", 5), ("about 5 apples", 5), ("between 3 and 5", None), ("five", 5), ("Five.", 5),
    ("1,234.5 km", 1234.5), ("-3 °C", -3), ("−3 °C", -3), ("5 %", 5), ("5%", 5), ("$5", 5), ("$1,000", 1000),
    ("5 dollars", 5), ("€5.50", 5.5), ("There are 5 apples.", 5), ("5 (five)", 5), ("five (5)", 5), ("3 or 4", None),
    ("3-5", None), ("3–5", None), ("3 to 5", None), ("5 of 10", None), ("", None), ("none", 0), ("many", None), ("zero", 0),
    ("twenty-five", 25), ("twenty five", 25), ("two hundred and five", 205), ("one thousand two hundred", 1200),
    ("3 million", 3000000), ("1.5 million dollars", 1500000), ("three million", 3000000), ("5k", None), ("5K", None),
    ("$5M", None), ("5 m", 5), ("5m", 5), ("5 kg", 5), ("5kg", 5), ("5 cm²", 5), ("1e3", 1000), ("1.5e3", 1500),
    ("1.5 × 10^3", 1500), ("1.5 x 10³", 1500), ("10^3", None), ("10²", None), ("1/2", 0.5), ("½", 0.5), ("1½", 1.5),
    ("1 1/2", 1.5), ("3/4 cup", 0.75), ("1/2/2020", None), ("3:00", None), ("10:30 am", None), ("1.2.3", None), ("1,5", None),
    ("1.234,5", None), ("12,34", None), ("1,234", 1234), ("1,234,567", 1234567), ("B2", None), ("H2O", None), ("4th", None),
    ("the 2nd one", None), ("room12", None), ("minus 3", -3), ("negative three", -3), ("minus three", -3), ("+5", 5),
    ("not 5", None), ("It is not 5.", None), ("not 3 but 5", 5), ("more than 5", None), ("at least 5", None),
    ("over 5", None), ("5+", None), ("5 or more", None), ("<5", None), (">5", None), ("~5", 5), ("≈ 5", 5),
    ("approximately 5.2", 5.2), ("the one on the left", None), ("one", 1), ("There is one.", 1), ("one dog", 1),
    ("one of them", None), ("no one", None), ("The answer is 8.", 8),
    ("3 on the left and 2 on the right, so the answer is 5", 5), ("There are 3 cats and 2 dogs. Answer: 5", 5),
    ("3 + 2 = 5", None), ("\\boxed{8}", 8), ("3 and 2, so $\\boxed{5}$", 5), ("**5**", 5), ("(5)", 5), ("[5]", 5),
    ("x = 5", 5), ("x=-5", -5), ("-5", -5), ("- 5", -5), ("−5", -5), ("５", 5), ("٥", 5), ("5.5.", 5.5), (".5", 0.5),
    ("0.5", 0.5), ("-.5", -0.5), ("1 000", None), ("5 apples. 5 apples!", 5), ("5 apples, 6 pears", None), ("2019", 2019),
    ("In 2019 there were 5", None), ("two cats and three dogs", None), ("someone", None), ("often", None), ("weight", None),
    ("fifty-five", 55), ("ninety nine", 99), ("one hundred", 100), ("a hundred", 100), ("twelve hundred", 1200), ("5'", 5),
    ('5"', 5), ("5°", 5), ("#5", 5), ("No. 5", 5), ("5!", 5), ("5,", 5), ("5;", 5), ("3.14159", 3.14159), ("1e400", None),
    ("1/0", None), ("100 %", 100), ("5-6", None), ("5x", 5), ("2 x 3", None), ("The number is 5, not 6.", 5),
    ("5 instead of 6", 5), ("three four", None), ("5 - 3", None), ("5\n", 5), ("COVID-19", None), ("iPhone 12", 12), ("0", 0),
    ("-0", 0), ("nan", None), ("inf", None), ("1_000", None), ("up to 5", None), ("5 to 1", None), ("5 km/h", 5),
    ("5 m/s", 5), ("5/min", 5), ("3 °C", 3), ("-3°C", -3), ("4-5", None), ("4x4", None), ("12 dogs (12)", 12),
    ("the temperature is -12.5 degrees", -12.5), ("I count seven.", 7), ("Seven", 7), ("1990s", 1990), ("a 5-door car", 5),
    ("five-door", None), ("5 million", 5000000), ("$-5", -5), ("-$5", -5), ("USD 5", 5), ("Rs. 500", 500),
    ("£1,234.50", 1234.5),
    # fractions, multiples and short forms
    ("half a million", None), ("two thirds", None), ("three quarters", None), ("five point five", None), ("one and a half", None),
    ("5 and a half", None), ("3 dozen", None), ("half of 10", None), ("5 thousandths", None), ("--5", None), ("5 k", None),
    ("5 M", None), ("5 K", None), ("$5 M", None), ("5 bn", None), ("two-thirds", None), ("one half", None), ("one quarter", None),
    ("a third of 9", None), ("a quarter of 8", None), ("a quarter million", None), ("point five", None), ("5 point 5", None),
    ("two and a half", None), ("two and a half million", None), ("5 and a quarter", None), ("five hundred thousandths", None),
    ("5 hundredths", None), ("three fifths", None), ("2 fifths", None), ("two dozen", None), ("half a dozen", None),
    ("twice 5", None), ("double 5", None), ("5 squared", None), ("5 cubed", None), ("the square root of 9", None), ("√9", None),
    ("a few hundred", None), ("several thousand", None), ("a couple of hundred", None), ("half past 5", None),
    ("quarter to 5", None), ("+-5", None), ("- -5", None), ("−−5", None), ("5 hundred thousand", None), ("10% of 50", None),
    ("0,500", None), ("0,5", None), ("00,500", None), ("5 halves", None), ("five halves", None), ("3 and a half dogs", None),
    ("two score", None), ("5 grand", None), ("5 mil", None), ("5mln", None), ("1.5 Mio.", None), ("5 lakh", None),
    ("minus -5", None), ("negative -5", None), ("+/-5", None), ("5 hours and a half", None), ("5 doubled", None),
    ("thrice 5", None), ("hundreds of 5", None), ("3 and two thirds", None), ("zero point five", None), ("5 ± 1", None),
    ("5 miles", 5), ("5½ hours", 5.5), ("5 KB", 5), ("1,500,", 1500), ("5 times", 5), ("5 dogs and a cat", 5),
    ("5 mm", 5), ("5 months", 5), ("5 bananas", 5), ("5 thousand", 5000), ("5 points", 5), ("5 tents", 5), ("5 seconds", 5),
    ("5 dozing cats", 5), ("one thousand", 1000), ("a hundred dogs", 100), ("the first half had 5 goals", 5), ("10,500", 10500),
    ("100,000", 100000), ("5 Megapixels", 5), ("-5 - it is cold", -5), ("the answer is - 5", -5), ("x = -5", -5), ("5-ish", 5),
    ("5 Kelvin", 5), ("5 tens", 5), ("in the second half 5", None), ("There are 5 and a few more", 5), ("5 and one cat", None),
]  # fmt: skip


def test_the_number_of_a_text():
    wrong = [(text, right, number_in(text)) for text, right in NUMBERS if number_in(text) != as_fraction(right)]
    assert not wrong


def as_fraction(number):
    return None if number is None else Fraction(str(number))


NEAR = [
    ("about 5 apples", "5", 1), ("five", "5", 1), ("6", "5", 0), ("105", "100", 1), ("95", "100", 1), ("105.1", "100", 0),
    ("1.05", "1", 1), ("0.95", "1", 1), ("-5", "5", 0), ("0", "0", 1), ("0.0001", "0", 0), ("5 %", "5", 1), ("5", "5%", 1),
    ("between 3 and 5", "5", 0), ("1,234.5 km", "1234.5", 1), ("-3 °C", "-3", 1), ("3 °C", "-3", 0), ("none", "0", 1),
    ("", "5", 0),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "answer", "score"), NEAR)
def test_within_five_percent_of_the_right_number(prediction, answer, score):
    assert numeric(prediction, Target((answer,))) == score


def test_tolerance_and_several_answers():
    assert numeric("110", Target(("100",)), Fraction(1, 10)) == 1 and numeric("110.01", Target(("100",)), Fraction(1, 10)) == 0
    assert numeric("101", Target(("100",)), Fraction(0)) == 0 and numeric("100.0", Target(("100",)), Fraction(0)) == 1
    assert numeric("7", Target(("5", "seven"))) == 1
    assert judge_numeric("about 5 apples", Target(("5",))) == Judgement(1.0, "5")
    assert judge_numeric("3 or 4", Target(("4",))) == Judgement(0.0, None)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.integers(-(10**9), 10**9), st.decimals(-1000, 1000, places=3)))
def test_numbers_survive_being_a_text(number):
    for text in (f"{number}", f"{number:,}", f"It is {number}.", f"about {number} km"):
        assert number_in(text) == Fraction(str(number)), text
    assert value(f"{number:,}") == Fraction(str(number))


def test_whole_texts():
    assert value("5 km") is value("") is value("3:00") is value("1,5") is value("None") is None
    assert value("Twenty-one") == 21 and value(" 1/4 ") == Fraction(1, 4) and value("１２") == 12


def test_an_endless_answer_is_read():
    for piece in ("1", "1,", "1 ", "one ", "two hundred ", "- ", "minus ", "x", "1/", "answer is ", "10^"):
        number_in(piece * 4_000)
