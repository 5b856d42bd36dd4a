"""Guardrails: planted faults in rules files, reasons and recommendations, and what enforcing does about them."""

import inspect
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from r2ec_lib.analysis import causal, guardrails
from r2ec_lib.analysis.rules import GuardrailError, Guardrails, parse
from r2ec_lib.evaluation.answers import chains_of
from r2ec_lib.model import R2ec
from r2ec_lib.model.claims import Checker
from r2ec_lib.model.prompts import Prompts, PromptStyle
from r2ec_lib.model.sampling import Sampled

CATALOGUE = pd.DataFrame(
    {
        "item_id": ["a1", "a11", "b2", "c3", "d4"],
        "title": [
            "Halden Fern mug",
            "Norvik Slate tent",
            "Pellini Opal candle",
            "Tilney Dune candlestick",
            "Baby rug",
        ],
        "brand": ["Halden", "Norvik", "Pellini", "Tilney", ""],
    }
)


def rules(*entries: str, head: str = "") -> Guardrails:
    return parse(head + "rules:\n" + "".join(f"  - {{name: r{n}, {e}}}\n" for n, e in enumerate(entries)))


def judged(entry: str, text: str, history=(0,), top=None) -> list[str]:
    """What the one rule `entry` finds in a reason about `history`."""
    chains = pd.DataFrame({"sample_id": [7], "chain": [text]}, index=[3])
    if top is not None:
        chains["top_items"] = [top]
    samples = pd.DataFrame({"sample_id": [7], "history": [list(history)]})
    table = guardrails.judge(rules(entry), chains, samples, CATALOGUE)
    assert set(table["row"]) <= {3} and set(table["rule"]) <= {"r0"}
    return table["evidence"].tolist()


# ---- judging -------------------------------------------------------------------------------------------------------


def test_a_forbidden_word_is_found_whole_and_whatever_its_case():
    assert judged("kind: forbid, words: [best price]", "This is the BEST  price ever") == ["BEST  price"]
    assert judged("kind: forbid, words: [cure]", "a secure lid") == []


def test_a_forbidden_pattern_is_found():
    assert judged(r"kind: forbid, patterns: ['\d+ ?% off']", "now 20% off") == ["20% off"]


def test_a_reason_without_grounding_is_found():
    entry = "kind: ground, mentions: 1"
    assert judged(entry, "people like this a lot") == ["0 of 1 mentions"]
    assert judged(entry, "as they own the Halden Fern mug") == []
    assert judged(entry, "as they own the Halden Fern mug", history=[1]) == ["0 of 1 mentions"]


def test_a_title_grounds_a_reason_by_the_words_of_it_that_the_model_is_shown(tiny):
    title = "Halden Fern mug with one oak lid and two very small spoons"
    items = pd.DataFrame({"item_id": ["a", "b"], "title": [title, "Norvik Slate tent"]})
    chains = pd.DataFrame({"sample_id": [0], "chain": ["The last purchase was Halden Fern."]})
    samples = pd.DataFrame({"sample_id": [0], "history": [[0]]})
    for shown, broken in ((2, 0), (20, 1)):
        checker = Checker(items, Prompts(tiny.tokenizer, PromptStyle(instruct=False, max_title_words=shown)))
        keeps = rules("kind: ground, mentions: 1")
        assert len(guardrails.judge(keeps, chains, samples, items, checker)) == broken


def test_attributes_of_the_history_count_as_facts_beside_its_items():
    entry = "kind: ground, facts: 2"
    assert judged(entry, "the Halden Fern mug is liked") == []  # the item, and its brand
    assert judged(entry, "tents by Norvik", history=[0, 1]) == []  # the brand, a distinctive word of the tent
    assert judged(entry, "people like Pellini") == ["0 of 2 facts"]


def test_a_word_of_the_cards_is_a_fact_where_the_history_holds_it_and_not_most_items_do():
    cards = ["A rustic mug for the cafe.", *["A deco thing for the house."] * 7]
    items = pd.DataFrame({"item_id": list("abcdefgh"), "title": [f"t{n}" for n in range(8)], "description": cards})
    keeps = rules("kind: ground, facts: 1")
    for text, history, grounded in (
        ("the style is rustic", [0], True),  # one card in eight
        ("the style is rustic", [1], False),  # not of this shopper's items
        ("the style is deco", [1], False),  # nearly all cards
        ("the for a", [0], False),
    ):
        chains = pd.DataFrame({"sample_id": [0], "chain": [text]})
        broken = guardrails.judge(keeps, chains, pd.DataFrame({"sample_id": [0], "history": [history]}), items)
        assert broken.empty == grounded, text


def test_a_long_reason_is_found_and_one_of_the_allowed_length_is_not():
    assert judged("kind: limit, words: 3", "one two three four") == ["4 words"]
    assert judged("kind: limit, words: 3", "one two three") == []


def test_statements_that_do_not_hold_are_found_and_a_reason_without_one_keeps_the_rule(tiny):
    checker = Checker(tiny.catalogue, tiny.prompts)
    last, earlier = tiny.titles[3], tiny.titles[8]
    texts = [f"The last purchase was {last}.", f"The last purchase was {earlier}. An earlier purchase was {last}."]
    texts += ["Something red.", "The shopper trusts Zeno. The last purchase was " + last]
    chains = pd.DataFrame({"sample_id": 7, "chain": texts})
    samples = pd.DataFrame({"sample_id": [7], "history": [[8, 3]]})
    broken = guardrails.judge(rules("kind: truth"), chains, samples, tiny.catalogue, checker)
    assert broken["row"].tolist() == [1, 3]
    assert broken["evidence"].tolist() == [texts[1], "The shopper trusts Zeno."]
    with pytest.raises(GuardrailError, match=r'rule "r0".*give a checker'):
        guardrails.judge(rules("kind: truth"), chains, samples, tiny.catalogue)


def test_a_reason_that_says_what_is_not_so_is_written_again(speaking, samples, items):
    history = samples["history"].iloc[0]
    true, false = (
        f"The last purchase was {items['title'][item]}." for item in (history[-1], samples["target"].iloc[0])
    )
    answer = recommended(speaking(false, false, true), samples, ["kind: truth"])
    assert answer.reasoning == true and answer.actions == (guardrails.Action("r0", "reason re-sampled", false),)
    answer = recommended(speaking(false, false), samples, ["kind: truth"])
    assert answer.reasoning == "" and answer.actions[0].action == "reason dropped"


def test_no_reason_breaks_no_rule_about_reasons():
    assert judged("kind: ground, mentions: 1", " ") == []


def test_an_item_that_must_not_be_recommended_is_found_by_whole_words_or_its_very_id():
    assert judged("kind: never_recommend, items: {title: [candle]}", "x", top=[1, 2, 3]) == ["b2"]
    assert judged("kind: never_recommend, items: {item_id: [a1]}", "x", top=[0, 1]) == ["a1"]
    assert judged("kind: never_recommend, items: {title: [candle], brand: [Norvik]}", "x", top=[1, 2]) == []


@pytest.mark.parametrize("title", ["Ｆｅｕｅｒｚｅｕｇ", "Feuer\u00adzeug blau", "das FEUERZEUG"])
def test_a_barred_word_is_found_in_near_spellings_of_a_title(title):
    items = pd.DataFrame({"item_id": ["a", "b"], "title": [title, "Kinder’s cre\u0300me"]})
    both = rules(
        "kind: never_recommend, items: {title: [Feuerzeug]}",
        'kind: never_recommend, items: {title: ["kinder\'s crème"]}',
    )
    assert guardrails.blocked(both, [[0]], [""], items).tolist() == [[True, True]]


def test_a_condition_on_the_reason_is_found_in_near_spellings():
    gift = rules("kind: never_recommend, items: {title: [candle]}, when: {reason: gift}")
    texts = ["a gift", "a gi\u00adft", "a ｇｉｆｔ", "a lift"]
    assert guardrails.blocked(gift, [[0]] * 4, texts, CATALOGUE)[:, 2].tolist() == [True, True, True, False]


def test_a_condition_on_history_or_reason_decides_whether_an_item_is_barred():
    about = "kind: never_recommend, items: {title: [candle]}, when: "
    assert judged(about + "{history: {title: [baby]}}", "x", history=[4], top=[2]) == ["b2"]
    assert judged(about + "{history: {title: [baby]}}", "x", history=[0], top=[2]) == []
    assert judged(about + "{reason: nursery}", "for the Nursery", top=[2]) == ["b2"]
    assert judged(about + "{reason: nursery}", "for the den", top=[2]) == []


def test_barred_items_are_those_of_every_rule_that_applies():
    both = rules(
        "kind: never_recommend, items: {title: [candle]}",
        "kind: never_recommend, items: {brand: [Tilney]}, when: {history: {item_id: [d4]}}",
    )
    barred = guardrails.blocked(both, [[0], [0, 4]], ["", ""], CATALOGUE)
    assert barred.tolist() == [[False, False, True, False, False], [False, False, True, True, False]]


def test_each_catalogue_is_asked_about_its_own_texts_and_only_once(monkeypatch):
    rails, read = rules("kind: never_recommend, items: {title: [candle, rug]}"), []
    clean = guardrails.plain
    monkeypatch.setattr(guardrails, "plain", lambda text: read.append(text) or clean(text))
    other = CATALOGUE.assign(title=CATALOGUE["title"].iloc[::-1].to_numpy())
    for _ in range(3):
        for table in (CATALOGUE.copy(), other):
            expected = [bool({"candle", "rug"} & set(title.split())) for title in table["title"]]
            assert guardrails.blocked(rails, [[0]], [""], table)[0].tolist() == expected
    assert read.count("Norvik Slate tent") == 3 + 1  # three copies of the one, the other is the same table


def test_a_column_that_the_catalogue_lacks_is_named_with_the_rule():
    with pytest.raises(GuardrailError, match=r'rule "r0".*no column "category".*item_id, title, brand'):
        judged("kind: never_recommend, items: {category: [x]}", "x", top=[0])


def test_the_summary_counts_samples_not_violations():
    keeps = rules("kind: never_recommend, items: {brand: [Halden, Norvik]}", "kind: limit, words: 9")
    chains = pd.DataFrame({"sample_id": [0, 1], "chain": ["x", "x"], "top_items": [[0, 1], [3]]})
    samples = pd.DataFrame({"sample_id": [0, 1], "history": [[4], [4]]})
    broken = guardrails.judge(keeps, chains, samples, CATALOGUE)
    table = guardrails.summarise(keeps, {"before": broken, "after": broken.iloc[:0]}, 2)
    assert len(broken) == 2
    assert table["before"].tolist() == [1 / 2, 0] and table["after"].tolist() == [0, 0]


# ---- enforcing -----------------------------------------------------------------------------------------------------


@pytest.fixture
def speaking(tiny, monkeypatch):
    """A model that gives scripted reasons: `first` greedily, then one of `later` per try."""

    def script(first: str, *later: str):
        def sample(prompt_ids, max_new_tokens, temperature=0.0):
            texts = [later[n % len(later)] if temperature else first for n in range(len(prompt_ids))]
            chains = [
                chain if text else tiny.prompts.answer.ids
                for text, chain in zip(texts, chains_of(tiny, texts), strict=True)
            ]
            rows = [[*prompt, *chain] for prompt, chain in zip(prompt_ids, chains, strict=True)]
            states = tiny.encode(rows, [len(prompt) for prompt in prompt_ids])
            return Sampled(chains, [True] * len(chains), states)

        monkeypatch.setattr(tiny, "sample", sample)
        return tiny

    return script


def recommended(model, samples, entries, retries=2, k=5):
    keeps = rules(*entries, head=f"retries: {retries}\n")
    row = samples.iloc[0]
    history = [model.head.item_ids[item] for item in row["history"]]
    return guardrails.recommend(
        model, history, keeps, k, row["history_hours"], row["history_ratings"], max_new_tokens=8
    )


NO_LAMP = "kind: forbid, words: [lamp]"


def test_a_recommendation_that_keeps_the_rules_is_that_of_the_model(speaking, samples):
    model = speaking("a red mug")
    given = recommended(model, samples, [NO_LAMP])
    scores = model.head.scores(model.user_states(samples.iloc[[0]], chains_of(model, ["a red mug"])))[0]
    scores[list(samples["history"].iloc[0])] = -np.inf
    assert given.actions == () and given.reasoning == "a red mug"
    assert given.item_ids == [model.head.item_ids[row] for row in scores.topk(5).indices]
    assert given.scores == pytest.approx(sorted(scores.tolist(), reverse=True)[:5])


def test_a_reason_with_a_forbidden_word_is_written_anew(speaking, samples):
    given = recommended(speaking("a red lamp", "a blue lamp", "a red mug"), samples, [NO_LAMP])
    assert given.reasoning == "a red mug"
    assert given.actions == (("r0", "reason re-sampled", "lamp"),)


@pytest.mark.parametrize("later", ["a blue lamp", ""])
def test_without_a_good_try_the_recommendation_comes_without_a_reason(speaking, samples, later):
    model = speaking("a red lamp", later)
    given = recommended(model, samples, [NO_LAMP])
    assert given.reasoning == "" and given.actions == (("r0", "reason dropped", "lamp"),)
    plain = model.head.scores(model.user_states(samples.iloc[[0]]))[0]
    plain[list(samples["history"].iloc[0])] = -np.inf
    assert given.scores == pytest.approx(plain.topk(5).values.tolist())


def test_no_retries_drop_the_reason_at_once(speaking, samples):
    given = recommended(speaking("a red lamp", "a red mug"), samples, [NO_LAMP], retries=0)
    assert given.reasoning == ""


def test_a_barred_item_is_masked_and_the_rule_that_did_it_named(speaking, samples):
    model = speaking("a red mug")
    first = recommended(model, samples, [NO_LAMP], k=3).item_ids
    given = recommended(model, samples, [f"kind: never_recommend, items: {{item_id: [{first[0]}]}}"], k=3)
    assert given.item_ids[:2] == first[1:] and len(given.item_ids) == 3
    assert given.actions == (("r0", "item masked", first[0]),)


def test_recommend_keeps_the_rules_it_is_given(tiny):
    history = list(tiny.head.item_ids[:2])
    free = tiny.recommend(history, k=3, max_new_tokens=4)
    kept = rules(f"kind: never_recommend, items: {{item_id: [{free.item_ids[0]}]}}")
    held = guardrails.recommend(tiny, history, kept, k=3, max_new_tokens=4)
    assert free.item_ids[0] not in held.item_ids and held.item_ids[:2] == free.item_ids[1:]
    assert held.actions == (("r0", "item masked", free.item_ids[0]),)
    assert guardrails.recommend(tiny, history, kept, k=1, max_new_tokens=4).item_ids == held.item_ids[:1]


def test_many_histories_get_the_answers_within_the_rules_that_each_gets_alone(speaking, samples):
    model = speaking("a red lamp", "a blue lamp", "a red mug")
    few = samples.head(5)
    histories = [[model.head.item_ids[item] for item in history] for history in few["history"]]
    first = model.recommend(histories[0], k=1).item_ids[0]
    when = f"{{history: {{item_id: [{histories[0][0]}]}}}}"
    barring = f"kind: never_recommend, items: {{item_id: [{first}]}}, when: {when}"
    keeps = rules(NO_LAMP, barring, head="retries: 2\n")
    together = guardrails.recommend(model, histories, keeps, k=4)
    for answer, given in zip(together, histories, strict=True):
        alone = guardrails.recommend(model, given, keeps, k=4)
        assert (answer.item_ids, answer.reasoning, answer.actions) == (alone.item_ids, "a red mug", alone.actions)
        assert answer.scores == pytest.approx(alone.scores)
    assert [action.action for action in together[0].actions] == ["reason re-sampled", "item masked"]
    assert first not in together[0].item_ids


def test_an_item_of_the_history_is_not_called_masked_by_a_rule(speaking, samples, items):
    owned = items["item_id"][samples["history"].iloc[0][0]]
    given = recommended(speaking("x"), samples, [f"kind: never_recommend, items: {{item_id: [{owned}]}}"], k=30)
    assert given.actions == () and len(given.item_ids) == len(items) - len(set(samples["history"].iloc[0]))


def test_a_condition_looks_at_purchases_that_are_older_than_the_history_read(tiny):
    free = tiny.recommend(["i2"], k=30, max_new_tokens=4)
    first, older = free.item_ids[0], free.item_ids[-1]
    when = f"when: {{history: {{item_id: [{older}]}}}}"
    keeps = rules(f"kind: never_recommend, items: {{item_id: [{first}]}}, {when}")
    tiny.prompts.style = replace(tiny.prompts.style, max_history=1)
    held = guardrails.recommend(tiny, [older, "i2"], keeps, k=30, max_new_tokens=4)
    assert held.item_ids == free.item_ids[1:-1] and held.actions == (("r0", "item masked", first),)
    apart = guardrails.recommend(tiny, ["i2"], keeps, k=30, max_new_tokens=4)
    assert apart.item_ids == free.item_ids and apart.actions == ()


def test_recommend_takes_what_the_model_takes():
    free, ruled = (inspect.signature(f).parameters for f in (R2ec.recommend, guardrails.recommend))
    other = {"self", "reasonings", "temperature"}  # the reason that is judged is the only one behind the list
    assert all(ruled[name].default == free[name].default for name in free if name not in other)


def test_a_rule_that_leaves_fewer_items_than_asked_gives_fewer(speaking, samples, items):
    barred = ", ".join(items["item_id"][:25])
    given = recommended(speaking("x"), samples, [f"kind: never_recommend, items: {{item_id: [{barred}]}}"], k=20)
    assert set(given.item_ids).isdisjoint(items["item_id"][:25]) and 0 < len(given.item_ids) <= 5
    assert np.isfinite(given.scores).all()


def test_enforcing_many_ranks_only_what_is_allowed_and_leaves_other_samples_alone(speaking, samples, items):
    model, few = speaking("a red lamp", "a red mug"), samples.iloc[:12]
    barred = items["item_id"][int(few["target"].iloc[0])]
    keeps = rules(NO_LAMP, f"kind: never_recommend, items: {{item_id: [{barred}]}}")
    chains = chains_of(model, ["a red lamp", "a red mug"] * 6)
    result = guardrails.enforce(model, few, chains, keeps, max_new_tokens=8, k=30)
    assert result.actions["row"].tolist() == [0, 2, 4, 6, 8, 10]
    assert set(result.actions["tries"]) == {1} and set(result.after["chain"]) == {"a red mug"}
    assert not any(few["target"].iloc[0] in top for top in result.after["top_items"])
    own = len(set(few["history"].iloc[0]))
    assert result.after["rank"].iloc[0] == len(items) - own  # behind every allowed item
    broken = guardrails.judge(keeps, result.after, few, model.catalogue)
    assert broken.empty
    others = [row for row in range(1, 12, 2) if few["target"].iloc[row] != few["target"].iloc[0]]
    change = result.before["rank"].iloc[others] - result.after["rank"].iloc[others]
    assert change.isin([0, 1]).all()  # one item less can stand before the target


def test_the_reason_that_was_kept_decides_what_a_rule_about_reasons_bars(speaking, samples, items):
    model, few = speaking("unused", "a red mug"), samples.iloc[:4]
    free = causal.rank_chains(
        lambda rows, chains: model.head.scores(model.user_states(rows, chains)),
        few,
        chains_of(model, ["a red mug"] * 4),
    )
    first, second = (items["item_id"][int(free["top_items"][0][place])] for place in (0, 1))
    about = "kind: never_recommend, items: {item_id: [%s]}, when: {reason: %s}"
    keeps = rules(NO_LAMP, about % (first, "mug"), about % (second, "lamp"), head="retries: 1\n")
    result = guardrails.enforce(model, few, chains_of(model, ["a red lamp"] * 4), keeps, max_new_tokens=8, k=30)
    assert set(result.before["chain"]) == {"a red lamp"} and set(result.after["chain"]) == {"a red mug"}
    listed = [set(items["item_id"].to_numpy()[top]) for top in result.after["top_items"]]
    assert first not in listed[0] and second in listed[0]  # by the reason kept; the first one would bar the other


def test_a_reason_kept_or_written_anew_is_ranked_by_its_own_state(speaking, samples):
    model, few = speaking("unused", "a blue lamp", "a red mug"), samples.iloc[:3]
    chains = chains_of(model, ["a green rug", "a red lamp", "a white desk"])
    given = guardrails.enforce(model, few, chains, rules(NO_LAMP, head="retries: 2\n"), max_new_tokens=8)
    final = chains_of(model, ["a green rug", "a red mug", "a white desk"])

    def score(rows, chains):
        return model.head.scores(model.user_states(rows, chains))

    for table, expected in ((given.before, chains), (given.after, final)):
        reference = causal.rank_chains(score, few, expected)
        assert table["rank"].tolist() == reference["rank"].tolist()
        assert [list(top) for top in table["top_items"]] == [list(top) for top in reference["top_items"]]
    assert given.actions.loc[0, ["row", "action", "evidence", "tries"]].tolist() == [1, "reason re-sampled", "lamp", 2]


def test_a_first_reason_that_keeps_the_rules_is_read_only_once(tiny, samples, monkeypatch):
    history = [tiny.head.item_ids[item] for item in samples["history"].iloc[0]]
    free = tiny.recommend(history, k=3, max_new_tokens=4)
    monkeypatch.setattr(tiny, "user_states", lambda rows, chains=None: tiny.encode([]) if rows.empty else 1 / 0)
    given = guardrails.recommend(tiny, history, rules("kind: forbid, words: [never said]"), k=3, max_new_tokens=4)
    assert given.item_ids == free.item_ids and given.scores == pytest.approx(free.scores)


def test_the_same_seed_tries_the_same_reasons(tiny, samples):
    keeps = rules("kind: ground, mentions: 1", head="retries: 4\n")
    few = samples.iloc[:3]
    chains = chains_of(tiny, ["nothing"] * 3)
    states = tiny.user_states(few, chains)
    once, again = (guardrails.keep_reasons(tiny, few, chains, states, keeps, 6, seed=5) for _ in range(2))
    other = guardrails.keep_reasons(tiny, few, chains, states, rules(NO_LAMP), 6, seed=5)
    assert once.chains == again.chains and (once.states == again.states).all()
    assert other.chains == chains and (other.states == states).all() and other.actions.empty


def test_one_good_reason_of_another_sample_is_not_taken_for_this_one(speaking, samples):
    model, few = speaking("unused", "a lamp", "a mug", "a lamp", "a lamp"), samples.iloc[:2]
    chains = chains_of(model, ["a red lamp"] * 2)
    kept = guardrails.keep_reasons(
        model, few, chains, model.user_states(few, chains), rules(NO_LAMP, head="retries: 2\n"), 8
    )
    assert [model.decode(chain) for chain in kept.chains] == ["a mug", ""]
    assert kept.actions["action"].tolist() == ["reason re-sampled", "reason dropped"]
    assert kept.actions["tries"].tolist() == [2, 2]
    assert torch.allclose(kept.states[1], model.user_states(few)[1])


def test_words_on_more_than_a_quarter_of_the_cards_and_words_of_titles_are_no_facts():
    cards = ["oak shelf"] * 2 + ["pine shelf"] * 3 + ["steel shelf"] * 3
    items = pd.DataFrame(
        {"item_id": list("abcdefgh"), "title": [f"Nimbus {n}" for n in range(8)], "description": cards}
    )
    samples = pd.DataFrame({"sample_id": [0], "history": [[0, 2]]})
    for text, facts in (("oak", 1), ("shelf", 0), ("pine", 0), ("nimbus", 0), ("oak, OAK and oak", 1)):
        chains = pd.DataFrame({"sample_id": [0], "chain": [text]})
        broken = guardrails.judge(rules("kind: ground, facts: 9"), chains, samples, items)
        assert broken["evidence"].tolist() == [f"{facts} of 9 facts"], text


def test_function_words_and_those_of_the_form_of_an_analysis_are_no_facts():
    filler = "Next may come something that you need. An earlier purchase was the last; the shopper trusts its needs."
    cards = [f"{filler} In rustic oak."] + ["A shelf."] * 7
    items = pd.DataFrame({"item_id": list("abcdefgh"), "title": [f"t{n}" for n in range(8)], "description": cards})
    samples = pd.DataFrame({"sample_id": [0], "history": [[0]]})
    for text, evidence in ((filler, ["0 of 2 facts"]), (f"{filler} Rustic.", ["1 of 2 facts"]), ("rustic oak", [])):
        chains = pd.DataFrame({"sample_id": [0], "chain": [text]})
        broken = guardrails.judge(rules("kind: ground, facts: 2"), chains, samples, items)
        assert broken["evidence"].tolist() == evidence, text


def test_rules_whose_items_or_whose_condition_name_nothing_are_idle():
    candles = "kind: never_recommend, items: {title: [candle]}"
    keeps = rules(
        candles,
        "kind: never_recommend, items: {title: [candel]}, when: {history: {title: [curtian]}}",
        f"{candles}, when: {{history: {{title: [babby]}}}}",
        f"{candles}, when: {{history: {{title: [babby, baby]}}}}",
        f"{candles}, when: {{reason: nursery}}",
        "kind: limit, words: 3",
    )
    told = guardrails.idle(keeps, CATALOGUE)
    assert [text.partition('"')[2].partition('"')[0] for text in told] == ["r1", "r2"]


def test_what_is_lacking_is_counted_for_mentions_and_facts():
    assert judged("kind: ground, mentions: 2, facts: 3", "the Halden Fern mug", history=[0, 1]) == [
        "1 of 2 mentions, 2 of 3 facts"
    ]


def test_violations_stand_in_the_order_of_the_rules_and_name_their_kind():
    keeps = rules("kind: limit, words: 1", "kind: forbid, words: [mug]", "kind: ground, mentions: 1")
    chains = pd.DataFrame({"sample_id": [7, 7], "chain": ["a mug", "a b"], "top_items": [[0], [0]]})
    broken = guardrails.judge(keeps, chains, pd.DataFrame({"sample_id": [7], "history": [[1]]}), CATALOGUE)
    assert broken[["row", "rule", "kind"]].to_numpy().tolist() == [
        [0, "r0", "limit"],
        [1, "r0", "limit"],
        [0, "r1", "forbid"],
        [0, "r2", "ground"],
        [1, "r2", "ground"],
    ]
