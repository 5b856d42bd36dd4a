"""Where sentences end, and what a phrase matches."""

import re

import pytest

from r2ec_lib.analysis.words import context, phrase, plain


@pytest.mark.parametrize(
    ("text", "stretch", "expected"),
    [
        ("One. They own X now. Two.", "X", " They own   now."),
        ("They own X", "X", "They own  "),
        ("Is it? X; yes", "X", "  ;"),
        ("first\nX\nlast", "X", " \n"),
        ("No. 3.5 X inch", "X", " 3.5   inch"),  # a full stop inside a number ends nothing
        ("A. Mr. X. Y is B. C.", "X. Y", "   is B."),
    ],
)
def test_the_context_of_a_stretch_is_the_rest_of_its_sentences(text, stretch, expected):
    start = text.index(stretch)
    assert context(text, start, start + len(stretch)) == expected


@pytest.mark.parametrize(
    ("wanted", "text", "matches"),
    [
        ("best price", "the best\n price", True),
        ("best price", "the best-price", True),
        ("best price", "best, price", True),
        ("best price", "_best_price_", True),
        ("best price", "bestprice", False),
        ("risk-free", "risk free", True),
        ("risk-free", "risk‑free", True),  # the hyphen that breaks no line
        ("-5 degrees", "5 degrees", False),
        ("cure", "secure", False),
        ("cure", "cured", False),
        ("a+b", "a+b", True),
        ("a+b", "aab", False),
        ("100%", "100% sure", True),
        ("%", "20% off", True),
        ("€", "only €20 today", True),
        ("!", "great choice!", True),
        ("c++", "cc++", False),
        ("癌", "この茶は癌に効く", True),
        ("格安", "激安と格安！", True),
        ("รักษามะเร็ง", "ชานี้รักษามะเร็งได้", True),
        ("best", "最高のbestです", True),
        ("best", "最高のbestseller", False),
        ("癌 治療", "癌の治療", False),
        ("치료", "완치료", False),  # Korean has spaces
        ("कम", "लाल कमी", False),  # the vowel belongs to the word
        ("कमी", "लाल कमी है", True),
        ("नीली", "नीलीमा", False),
    ],
)
def test_a_phrase_matches_whole_words_literally(wanted, text, matches):
    assert bool(re.search(phrase(wanted), text)) == matches


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ｂｅｓｔ　ｐｒｉｃｅ", "best price"),
        ("be\u200bst pri\u00adce", "best price"),
        ("don’t bu\u034fy\ufe0f", "don't buy"),
        ("a\nb\tc", "a\nb\tc"),
        ("a\x00", "a"),
    ],
)
def test_a_plain_text_has_compatible_characters_none_invisible_and_its_white_space(text, expected):
    assert plain(text) == expected
