"""The language: sentences read back as the claims that they were written from."""

import numpy as np
import pytest

from r2ec_lib.bazaar import language as text
from r2ec_lib.bazaar.language import Claim


def test_every_sentence_reads_back_as_the_claim_it_was_written_from():
    for kind in text.FACETS:
        for value in text.VALUES[kind]:
            sentence = text.sentence(Claim(kind, value))
            assert text.claims(sentence) == [Claim(kind, value)] and text.well_formed(sentence)


@pytest.mark.parametrize(
    "chain",
    [
        "",
        ".",
        "rug rug.",
        "the style is deco",
        "the style is deco. the style is deco.",
        "Hm. The style is deco.",
        "The style is deco. Next",
    ],
)
def test_broken_repeated_or_unfinished_chains_are_not_well_formed(chain):
    assert not text.well_formed(chain)


def test_reading_ignores_case_and_spacing_and_skips_what_is_no_sentence():
    chain = "THE  style\nis deco . Prices are rug. Next comes the rug.Prices are luxury"
    assert text.claims(chain) == [Claim("style", "deco"), Claim("next", "rug")]


def test_every_facet_has_values_and_sentences_of_different_facets_differ():
    assert set(text.VALUES) == set(text.FACETS)
    sentences = [text.sentence(Claim(kind, value)) for kind in text.FACETS for value in text.VALUES[kind]]
    assert len(set(sentences)) == len(sentences)
    assert set(text.SUNDRIES) == set(text.VALUES["owns"]) - set(text.VALUES["next"]) == set(text.VALUES["side"])
    assert text.VALUES["latest"] == text.VALUES["owns"] and len(text.VALUES["owns"]) == 72
    assert text.VALUES["accent"] == text.VALUES["style"] == tuple(text.MATERIALS)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (text.title("Halden", "Fern", "mug", "sage"), "Halden Fern mug, sage"),
        (text.card("mug", "nordic", "everyday", []), "A nordic mug in birch at an everyday price, handy every day."),
        (text.card("jar", "deco", "luxury", ["cafe"]), "A deco jar in brass at a luxury price, made for the cafe."),
        (
            text.card("rug", "industrial", "premium", ["den", "balcony"]),
            "An industrial rug in steel at a premium price, made for the den or the balcony.",
        ),
    ],
)
def test_titles_and_cards_read_as_english(written, expected):
    assert written == expected


def test_kits_share_pieces_in_different_orders():
    members = {}
    for kit, listing in text.KITS.items():
        pieces = listing.split()
        assert len(set(pieces)) == 6
        for place, piece in enumerate(pieces):
            members.setdefault(piece, []).append((kit, place))
    assert len(text.KITS) == 48 and len(members) == 64
    assert all(len(uses) >= 2 for uses in members.values())
    assert np.mean([len({place for _, place in uses}) for uses in members.values()]) > 2.5
    assert len(set(map(frozenset, map(str.split, text.KITS.values())))) == 48
