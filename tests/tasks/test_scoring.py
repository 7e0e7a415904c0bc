"""Every scorer on examples worked by hand, and properties that hold whatever the texts."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tasks import choice as choice_module
from harness.tasks import scoring
from harness.tasks import target as target_module
from harness.tasks import vqa as vqa_module
from harness.tasks.choice import choice, letter
from harness.tasks.reading import affirmation, folding, numerals, option_mentions
from harness.tasks.target import Target
from harness.tasks.vqa import CONTRACTIONS, normalised, textvqa, tokenised, vqa


def one(text):
    return Target((text,))


EXACT = [
    ("yes", "yes", 1), ("Yes.", "yes", 1), ("  YES ", "yes", 1), ("no", "yes", 0), ("t-shirt", "tshirt", 1),
    ("light  blue", "light blue", 1), ("blue", "light blue", 0), ("", "yes", 0), ("the dog", "dog", 0),
    ("+", "+", 1), ("-", "+", 0), ("É", "é", 1),
    # numbers compare as numbers
    ("1.5", "15", 0), ("-5", "5", 0), ("3:00", "300", 0), ("1,000", "1000", 1), ("1,000,000.50", "1000000.5", 1),
    ("5.0", "5", 1),
    (".5", "0.5", 1), ("-.5", "-0.5", 1), ("-.5", ".5", 0), ("+5", "5", 1), ("-0", "0", 1), ("05", "5", 1), ("1e3", "1000", 1),
    ("1e-3", "0.001", 1), ("1e3", "13", 0), ("1e999999", "1", 0), ("12345678901234567890", "12345678901234567891", 0),
    ("5.", "5", 1),
    ("10,000.", "10000", 1), ("(5)", "5", 1), ("5 apples", "5.0 apples", 1), ("room 1.5", "room 15", 0), ("No. 5", "no 5", 1),
    # what changes a number stays
    ("1/2", "12", 0), ("2-3", "23", 0), ("1:2", "12", 0), ("1.2.3", "123", 0), ("5^2", "52", 0), ("5*2", "52", 0),
    ("1,5", "15", 0),
    ("1,00", "100", 0), ("- 5", "5", 0), ("(-5)", "5", 0), ("x=-5", "x=5", 0), ("5+", "5", 0), ("<5", "5", 0), ("50%", "50", 0),
    ("50 %", "50%", 1), ("1 000", "1000", 0), ("5°", "5", 0), ("5!", "5", 1), ("#5", "5", 1), ("x-5", "x5", 0),
    ("5 m/s", "5 ms", 1),
    # a currency on one side alone is a unit
    ("$5", "5", 1), ("5 €", "5", 1), ("$5", "€5", 0), ("$5", "$5.00", 1), ("5€", "€5", 1), ("-$5", "5", 0), ("-$5", "-5", 1),
    # Unicode
    ("红色。", "红色", 1), ("cafe\u0301", "café", 1), ("it’s", "it's", 1), ("“red”", "red", 1), ("ＲＥＤ", "red", 1),
    ("１５", "15", 1),
    ("−5", "-5", 1), ("−5", "5", 0), ("–5", "5", 0), ("10²", "102", 0), ("10²", "10^2", 1), ("½", "1/2", 1), ("1½", "11/2", 0),
    ("٥", "5", 1), ("H₂O", "h2o", 1), ("¿Sí?", "sí", 1), ("ß", "ss", 1), ("re\u00add", "red", 1), ("😀", "😀", 1),
    ("「犬」", "犬", 1),
    # a group of thousands does not begin with zero
    ("0,500", "500", 0), ("0,500", "0.5", 0), ("00,500", "500", 0), ("10,500", "10500", 1), ("0,500", "0,500", 1),
    ("0,000", "0", 0), ("100,000", "100000", 1),
    # raised and lowered digits, operators beside letters, inches
    ("²", "2", 0), ("5₂", "52", 0), ("x²", "x2", 0), ("x²", "x^2", 1), ("2^x", "2x", 0), ("2ˣ", "2^x", 1), ("2ⁿ", "2n", 0),
    ("x⁻¹", "x1", 0), ("-x", "x", 0), ("-∞", "∞", 0), ("1/x", "1x", 0), ("x/2", "x2", 0), ("x+5", "x5", 0), ("x-y", "xy", 0),
    ("5-x", "5x", 0), ("x=5", "x5", 0), ("x=-5", "-5", 0), ("x=-5", "x-5", 0), ("x<5", "x5", 0), ("x>-5", "x-5", 0),
    ("θ-5", "θ5", 0), ("-π", "π", 0), ('5"', "5", 0), ("5'", "5", 0), ('5″', '5"', 1), ('"5"', "5", 1), ("'5'", "5", 1),
    ('"1.5"', "1.5", 1), ("(-x)", "x", 0), ("< 5", "5", 0), ("< 5", "<5", 1), (">= 5", "5", 0), (">=5", "≥ 5", 1),
    (">=5", ">5", 0), ("<-5", "-5", 0), ("!=5", "5", 0), ("± 5", "±5", 1), ("± 5", "5", 0), ("√ 9", "9", 0), ("H₂O", "h2o", 1),
    ("x-ray", "xray", 1), ("covid-19", "covid19", 1), ("5-door", "5door", 1), ("红-蓝", "红蓝", 1), ("- yes", "yes", 1),
    ("a-yes", "ayes", 1), ("and/or", "andor", 1), ("the '90s", "the 90s", 1), ("1990's", "1990s", 1),
    # white space around operators and before units
    ("5 - 3", "5-3", 1), ("5 : 3", "5:3", 1), ("1, 2, 3", "1,2,3", 1), ("3:00pm", "3:00 pm", 1), ("3:00 p.m.", "3:00pm", 1),
    ("5 kg", "5kg", 1), ("x - 5", "x-5", 1), ("x = 5", "x=5", 1), ("1 / 2", "1/2", 1), ("5 + 3", "5+3", 1), ("a < 5", "a<5", 1),
    ("2x+3", "2x3", 0), ("2x-3", "2x3", 0), ("2x - 3", "2x-3", 1), ("x * 5", "x*5", 1), ("x*5", "x5", 0), ("2 × 3", "2x3", 1),
    ("y = -x", "y=-x", 1), ("y = -x", "y=x", 0), ("3:00 PM", "3:00pm", 1), ("5 km/h", "5km/h", 1), ("5'", "5′", 1),
    ("6'2\"", "62", 0), ("(x+1)", "x1", 0), ("10⁻³", "10-3", 0), ("1₀", "10", 0), ("CO₂", "co2", 1),
    ("1990–2000", "1990 - 2000", 1),
    ("1, 200", "1,200", 0), ("1, 200", "1200", 0), ("1, 2", "12", 0), ("5 - 3", "53", 0), ("5 -3", "53", 0), ("5 3", "53", 0),
    ("1 2", "1,2", 0), ("5 e3", "5000", 0), ("5.0 kg", "5kg", 1), ("100, 200", "100,200", 0), ("3 : 00", "300", 0),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "answer", "score"), EXACT)
def test_exact(prediction, answer, score):
    assert scoring.exact(prediction, one(answer)) == scoring.exact(answer, one(prediction)) == score


CONTAINS = [
    ("It says COFFEE.", "coffee", 1), ("cof fee", "coffee", 0), ("CAFÉ", "café", 1), ("total: ２６.５８", "26.58", 1),
    ("26.5", "26.58", 0), ("two\nlines", "two lines", 1), ("", "x", 0), ("anything", "   ", 0), ("ＡＢＣ", "abc", 1),
    ("15", "5", 0), ("11.5", "1.5", 0), ("1.55", "1.5", 0), ("1,500", "500", 0), ("-5", "5", 0), ("it is 5.", "5", 1),
    ("5,", "5", 1),
    ("No.5", "5", 1), ("A5", "5", 1), ("15 and 5", "5", 1), ("3-5", "5", 1), ("−5", "-5", 1), ("cafe\u0301", "café", 1),
    ("5kg", "5", 1),
    ("it’s", "it's", 1), (".5", "5", 0),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "answer", "score"), CONTAINS)
def test_contains(prediction, answer, score):
    assert scoring.contains(prediction, one(answer)) == score


def test_formulas_are_compared_without_white_space_and_with_case():
    formula = Target(("x = \\frac { 1 } { 5 }\n",), compact=True)
    assert scoring.contains("It is x=\\frac{1}{5} .", formula) == 1
    assert scoring.contains("It is X=\\frac{1}{5} .", formula) == 0
    assert scoring.contains("x = \\frac { 1 } { 5 }", Target(("x=\\frac{1}{5}",))) == 0


ANLS = [
    ("1978", ["1978"], 1.0), ("1987", ["1978"], 0.5), ("19", ["1978"], 0.5), ("1", ["1978"], 0.0), ("ABC", ["abc"], 1.0),
    ("Straße", ["STRASSE"], 5 / 7), ("café", ["cafe"], 0.75), ("", ["abcd"], 0.0), ("a  b", ["a b"], 1.0),
    ("university of california", ["UC", "University of California"], 1.0), ("kitten", ["sitting"], 1 - 3 / 7), ("", [""], 1.0),
    ("données", ["DONNÉES"], 1.0), ("donne\u0301es", ["données"], 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "answers", "score"), ANLS)
def test_anls(prediction, answers, score):
    assert scoring.anls(prediction, Target(tuple(answers))) == pytest.approx(score)


RELAXED = [
    ("100", "100", 1), ("105", "100", 1), ("95", "100", 1), ("105.1", "100", 0), ("94.9", "100", 0), ("5%", "0.05", 1),
    ("5%", "5", 0), ("52%", "50%", 1), ("1,040", "1000", 1), ("1,000", "1000", 1), ("10,00", "1000", 0), ("12,34", "12,34", 1),
    ("Yes", "yes", 1), ("Yes.", "yes", 0), ("0", "0", 1), ("0.01", "0", 0), ("0.0", "0", 1), ("-5", "5", 0), ("-5.1", "-5", 1),
    ("nan", "nan", 1), ("inf", "5", 0), ("1e3", "1000", 1), (" 2015 ", "2015", 1), ("", "5", 0), ("blue", "red", 0),
    ("1,234,567", "1234567", 1), ("%", "%", 1), (".5", "0.5", 1),
    ("−5", "-5", 1), ("−5", "5", 0), ("１００", "100", 1), ("cafe\u0301", "café", 1), ("1e999", "1e999", 1), ("5％", "0.05", 1),
    ("0,500", "500", 0), ("0,500", "0.5", 0), ("0,500", "0,500", 1), ("10,500", "10500", 1),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "answer", "score"), RELAXED)
def test_relaxed(prediction, answer, score):
    assert scoring.relaxed(prediction, one(answer)) == score


SAID = [
    ("yes", "yes"), ("Yes.", "yes"), ("YES, there is a dog", "yes"), ("no", "no"), ("No, there is not", "no"), ("y", "yes"),
    ("N", "no"), ("x", "other"), ("", "other"), ("there is", "other"), ("not at all", "no"), ("It is. Yes", "yes"),
    ("  no  ", "no"), ("n.o", "no"),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "meant"), SAID)
def test_yes_and_no(prediction, meant):
    assert scoring.said(prediction) == meant
    assert scoring.yes_no(prediction, one("Yes")) == (meant == "yes")


BOXES = [
    ("[0.1, 0.2, 0.5, 0.6]", (0.1, 0.2, 0.5, 0.6)), ("The box is [0.1,0.2,0.5,0.6].", (0.1, 0.2, 0.5, 0.6)),
    ("(0.1, 0.2, 0.5, 0.6)", (0.1, 0.2, 0.5, 0.6)), ("(100,200),(500,600)", (0.1, 0.2, 0.5, 0.6)),
    ("0.1 0.2 0.5 0.6", (0.1, 0.2, 0.5, 0.6)), ("[100, 200, 500, 600]", (0.1, 0.2, 0.5, 0.6)),
    ("[0, 0, 1, 1]", (0, 0, 1, 1)), ("[0.1, 0.2, 0.5]", None), ("none", None), ("", None), ("1 2 3 4 5", None),
    ("[-0.1, .2, 0.5, 1.0]", (-0.1, 0.2, 0.5, 1.0)), ("person [0.1, 0.2, 0.5, 0.6] and [0, 0, 1, 1]", (0.1, 0.2, 0.5, 0.6)),
    ('{"bbox_2d": [100, 200, 500, 600]}', (0.1, 0.2, 0.5, 0.6)),
]  # fmt: skip


@pytest.mark.parametrize(("text", "found"), BOXES)
def test_boxes_are_read(text, found):
    assert scoring.read_box(text) == (None if found is None else pytest.approx(found))


def test_overlap():
    assert scoring.overlap("[0, 0, 0.5, 1]", "[0, 0, 1, 1]") == pytest.approx(0.5)
    assert scoring.overlap("[0, 0, 0.5, 0.5]", "[0.5, 0.5, 1, 1]") == 0
    assert scoring.overlap("[0.5, 0.5, 0, 0]", "[0, 0, 1, 1]") == 0, "a box turned round has no area"
    assert scoring.overlap("[0, 0, 0, 0]", "[0, 0, 0, 0]") == 0
    assert scoring.overlap("[0, 0.25, 1, 0.75]", "[0.25, 0, 0.75, 1]") == pytest.approx(1 / 3)
    assert scoring.box("[0, 0, 0.5, 1]", one("[0, 0, 1, 1]")) == 1 and scoring.box("[0, 0, 0.49, 1]", one("[0, 0, 1, 1]")) == 0


NORMALISED = [
    ("The dog", "dog"), ("a an the", ""), ("two", "2"), ("None", "0"), ("ten eleven", "10 eleven"), ("dont", "don't"),
    ("isnt it", "isn't it"), ("couldnt've", "couldn't've"), ("somebody'd", "somebodyd"), ("1,000", "1000"),
    ("blue/green", "blue green"), ("blue / green", "blue green"), ("yes!", "yes"), ("yes! no", "yes no"),
    ("t-shirt", "t shirt"), ("st. louis", "st louis"), ("3.5", "3.5"), ("3.5.", "3.5"), ("(left)", "left"), ("p.m.", "pm"),
    ("what?", "what"), ("tab\there", "tab here"), ("YALL", "y'all"), ("1,000/2", "10002"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "out"), NORMALISED)
def test_vqa_normalisation(text, out):
    assert normalised(text) == out


def test_textvqa_splits_possessives_and_drops_commas_first():
    assert tokenised("Macy's, New York?") == "macy 's new york"
    assert tokenised("1,000") == normalised("1,000") == "1000"


def test_contractions_are_complete():
    assert len(CONTRACTIONS) == 114
    assert CONTRACTIONS["shouldnt've"] == CONTRACTIONS["shouldn'tve"] == "shouldn't've"
    assert "its" not in CONTRACTIONS and "well" not in CONTRACTIONS and "hell" not in CONTRACTIONS


SOFT = [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]


@pytest.mark.parametrize(("agreeing", "score"), SOFT)
@pytest.mark.parametrize("scorer", [vqa, textvqa])
def test_soft_accuracy_leaves_each_person_out(scorer, agreeing, score):
    answers = tuple(["Two"] * agreeing + [f"other {i}" for i in range(10 - agreeing)])
    assert scorer("2", Target(answers)) == pytest.approx(score)


def test_the_minus_of_a_number_and_unicode_count_in_vqa():
    assert vqa("-5", one("5")) == textvqa("−5", one("5")) == 0 and vqa("−5", one("-5")) == 1
    assert vqa("don’t", one("dont")) == 1 and vqa("cafe\u0301", one("café")) == 1 and vqa("t-shirt", one("t shirt")) == 1


def test_few_answers_agree_or_do_not():
    assert vqa("the red one", Target(("red 1",))) == 1 and vqa("blue", Target(("red", "green"))) == 0
    assert vqa("red", Target(("red", "green", "blue"))) == 1


CHOICES = ["a cat", "a dog", "two cats", "dark red"]
LETTERS = [
    ("B", "B"), ("b", "B"), ("B.", "B"), ("(B)", "B"), ("[B]", "B"), ("B)", "B"), ("B: a dog", "B"), ("B. a dog", "B"),
    ("(b) a dog", "B"), ("b) a dog", "B"), ("The answer is B", "B"), ("The answer is (B).", "B"),
    ("the correct answer is b.", "B"),
    ("Answer: B", "B"), ("Option B", "B"), ("It is not A. The answer is B.", "B"), ("I think it is B", "B"), ("a dog", "B"),
    ("A dog", "B"), ("A dog.", "B"), ("It is a dog", "B"), ("two cats", "C"), ("There are two cats", "C"), ("Dark Red", "D"),
    ("a cat and a dog", None), ("B or C", None), ("Because it is so", None), ("A bird", None), ("E", None), ("", None),
    ("A", "A"), ("I", None), ("The answer is a dog", "B"), ("B.a dog", "B"), ("\n B \n", "B"), ("Answer: **B**", "B"),
    ("none", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name"), LETTERS)
def test_letters(text, name):
    assert letter(text, CHOICES) == name
    assert choice(text, Target(("B",), tuple(CHOICES))) == (name == "B")


def test_letters_without_options():
    assert letter("(G)") == "G" and letter("A dog") is None and letter("I see it") is None and letter("It must be F") == "F"


def test_an_option_inside_another_does_not_count():
    assert letter("it is dark red", ["red", "dark red"]) == "B"
    assert letter("it is red", ["red", "dark red"]) == "A"
    assert letter("scared", ["red", "car"]) is None


@given(st.text(max_size=20), st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_scores_are_shares_and_right_answers_are_right(prediction, answers):
    target = Target(tuple(answers))
    for scorer in (
        scoring.exact,
        scoring.contains,
        scoring.anls,
        scoring.relaxed,
        scoring.yes_no,
        scoring.box,
        vqa,
        textvqa,
        choice,
    ):
        assert 0 <= scorer(prediction, target) <= 1
    for scorer in (scoring.exact, scoring.anls, scoring.relaxed):
        assert scorer(answers[-1], target) == 1


@given(st.text(max_size=12), st.text(max_size=12))
def test_edit_distance_is_a_distance(a, b):
    distance = scoring.levenshtein(a, b)
    assert distance == scoring.levenshtein(b, a) and (distance == 0) == (a == b)
    assert abs(len(a) - len(b)) <= distance <= max(len(a), len(b))


@given(
    st.lists(st.text(max_size=8), min_size=1, max_size=4),
    st.lists(st.text(max_size=8), max_size=3),
    st.booleans(),
)
def test_targets_survive_being_a_text(answers, choices, compact):
    target = Target(tuple(answers), tuple(choices), compact)
    assert Target.read(target.text) == target


def test_a_text_of_no_target_is_one_answer():
    for text in ("[1, 2]", "{", "[", '{"a": 1}', "[" * 5000, "yes", ""):
        assert Target.read(text) == Target((text,))
    assert Target(("[0.1, 0.2]",)).text == '["[0.1, 0.2]"]' and Target(("[0.1, 0.2]",)).shown == "[0.1, 0.2]"
    assert Target(("B",), ("a cat", "a dog")).shown == "B. a dog" and Target(()).shown == ""


@pytest.mark.parametrize(
    "module", [scoring, choice_module, target_module, vqa_module, affirmation, folding, numerals, option_mentions]
)
def test_examples_in_docstrings(module):
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0
