"""Pages of cases: what is foreign stays text, what is mentioned is marked."""

import pandas as pd
import pytest

from r2ec_lib.analysis import mentions, review

TITLES = ["Halden Fern mug, sage", "Norvik Slate tent, navy", "The Blue Whale Atlas", "<script>alert(1)</script> lamp"]


@pytest.fixture
def items():
    return pd.DataFrame({"item_id": [f"i{n}" for n in range(len(TITLES))], "title": TITLES})


def case_of(text, history):
    """A sample, a chain and nothing else."""
    samples = pd.DataFrame({"sample_id": [0], "user_id": "<img src=x onerror=y>", "history": [history], "target": 2})
    return samples, pd.DataFrame({"sample_id": [0], "chain": [text]})


def test_a_case_page_escapes_every_foreign_text_and_marks_mentions(items):
    samples, chains = case_of("<b>They</b> own a mug & <script>evil()</script>", [3, 0])
    table = mentions.mentions(chains, samples, items)
    top = {"with <i>": ([3, 2], [0.5, 0.25], 2.0)}
    page = review.case_html(samples.iloc[0], items, chains["chain"][0], table, top, note="<u>helped</u>")
    assert not any(tag in page for tag in ("<script", "<img", "<b>They", "<i>", "<u>helped"))
    assert "<mark>mug</mark>" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; lamp" in page
    assert "<b>The Blue Whale Atlas (bought next)</b> · 0.25" in page
    assert "the next purchase on place 2" in page


def test_highlighting_leaves_the_text_as_it_was(items):
    text = "Halden Fern mug, sage & a mug; try the Blue Whale Atlas <now>"
    samples, chains = case_of(text, [0])
    marked = review.highlight(text, mentions.mentions(chains, samples, items))
    for tag in ("<mark>", "</mark>", "<u>", "</u>"):
        marked = marked.replace(tag, "")
    assert marked == text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
