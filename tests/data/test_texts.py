"""Markup goes, everything else stays as it stands in the file."""

import time

import numpy as np
import pandas as pd
import pytest

from r2ec_lib.data.texts import plain_text, words


@pytest.mark.parametrize(
    ("raw", "readable"),
    [
        ("Soft<br>and&nbsp;light &amp; small", "Soft and light & small"),
        (" <!-- .h {color:#000;} ul {margin:0} --> Pens", "Pens"),
        ("Pens <!-- torn off", "Pens"),
        ("<style>p {x: y}</style>A<script>alert('<b>')</script>B", "A B"),
        ("&lt;p class=&quot;x&quot;&gt;Twice escaped&lt;/p&gt;", "Twice escaped"),
        (".sup {font-size: 11px;} hr.dashed {height:1px} Text", "Text"),
        ("red <b>and</b> <B>blue</b> <br", "red and blue"),
        ("<STYLE>\np {x: y}\n</style>A <!--\n--> B", "A B"),
        ("R&amp;amp;D &amp;amp;amp;", "R&D &amp;"),
        ("see <a href='x.html'>more</a> <img src=x alt=\"y > z\"/> </p", "see more"),
        ("<!DOCTYPE html><p>One<p>Two", "One Two"),
        ("Nice .sup {font-size: 11px;} text", "Nice text"),
        ("p, ul li {margin:0; color: red} text", "text"),
        ("1 < 2 and 3 > 2, {so it is}", "1 < 2 and 3 > 2, {so it is}"),
        (["One.", None, "", "Two."], "One. Two."),
        ({"Size": "A4", "Dimensions": {"Height": "3 cm"}, "Gone": None}, "Size: A4; Dimensions: Height: 3 cm"),
        (12.5, "12.5"),
        (float("nan"), ""),
        (1991.0, "1991"),
        (2**62 + 1, "4611686018427387905"),
        (float("inf"), "inf"),
        (True, "True"),
        (pd.NaT, ""),
        (pd.NA, ""),
        (pd.Timestamp("2020-01-02"), "2020-01-02"),
        (pd.Timestamp("2020-01-02 03:04:05"), "2020-01-02 03:04:05"),
        (np.array([1.0, np.nan, 2.5]), "1 2.5"),
    ],
)
def test_texts_become_readable(raw, readable):
    assert plain_text(raw) == readable


@pytest.mark.parametrize(
    "text",
    [
        "Size <M or L>",
        "Size <S>, <small>",
        "<unknown>",
        "plan b > plan a",
        "red b> blue",
        "a < b and c > d",
        "if a <b",
        "<3",
        "x --> y",
        "the <script> of life",
        "C++ & {key: value}",
        "vue.js {name: value}",
        "Type A {colour: red}",
        "R&D, AT&T;, &copy, salt&notpepper;",
        "nan",
        "None",
        "0",
        "日本語の説明文",
        "👩\u200d👩\u200d👧",
        "https://example.org/" + "x" * 5000,
    ],
)
def test_what_is_no_markup_stays(text):
    assert plain_text(text) == text


def test_what_might_be_the_selectors_of_a_rule_is_read_once():
    text, begin = " .a" * 4000 + " {", time.process_time()
    assert plain_text(text) == text.strip()
    assert time.process_time() - begin < 3  # from every place to the end took 14 s


def test_escaped_angle_brackets_are_what_they_stand_for():
    assert plain_text("a &lt;b&gt; c &#60;3 &#x3C;3") == "a <b> c <3 <3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't, Don’t!", ["don't", "don’t"]),
        ("high-end 2.5", ["high", "end", "2", "5"]),
        ("snake_case 'quoted'", ["snake", "case", "quoted"]),
        ("Café Ä", ["café", "ä"]),
        (" \n…", []),
    ],
)
def test_words_are_runs_of_letters_and_digits_with_their_apostrophes(text, expected):
    assert words(text) == expected
