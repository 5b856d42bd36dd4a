"""Rules files: what is read, and each kind of fault with its rule, its key and what was expected."""

import dataclasses
from pathlib import Path

import pytest

from r2ec_lib.analysis.rules import KIND_WORDS, GuardrailError, load, parse

SHIPPED = Path(__file__).parents[2] / "params" / "guardrails" / "example.yaml"
LIMIT = "{name: x, kind: limit, words: 3}"


def one(entry: str) -> str:
    return f"rules: [{{name: x, {entry}}}]"


def test_the_shipped_rules_are_read():
    shipped = load(SHIPPED)
    assert {rule.kind for rule in shipped.rules} == set(KIND_WORDS)
    assert (shipped.retries, shipped.temperature) == (3, 1.0)
    promises, post, flame, shopper, so, short = shipped.rules
    assert promises.words == ["guaranteed", "risk-free", "best price"] and len(promises.patterns) == 2
    assert post.items == {"title": ["matchbox", "lighter"]} and post.when is None
    assert flame.when.history == {"title": ["curtain", "yarn"]} and flame.when.reason is None
    assert (shopper.mentions, shopper.facts, short.words) == (0, 1, 80) and so.name == "says only what is so"


def test_an_item_id_may_begin_as_a_comparison_does():
    [rule] = parse(one("kind: never_recommend, items: {item_id: ['<b>7', '>9']}")).rules
    assert rule.items == {"item_id": ["<b>7", ">9"]}


def test_what_happens_to_a_broken_reason_has_defaults_and_can_be_set():
    assert [getattr(parse(f"rules: [{LIMIT}]"), name) for name in ("retries", "temperature")] == [3, 1.0]
    chosen = parse(f"retries: 0\ntemperature: 2\nrules: [{LIMIT}]")
    assert (chosen.retries, chosen.temperature) == (0, 2.0)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("rules: []", ["rules is empty", "- name: …"]),
        ("rules:", ["rules: Input should be a valid list", "found None"]),
        ("- a", ["expected keys and values"]),
        ("rules: [", ["no valid YAML"]),
        ("rulez: [{name: x}]", ["rulez: Unexpected", "rules: Field required"]),
        (f"retries: -1\nrules: [{LIMIT}]", ["retries: ", "greater than or equal to 0", "found -1"]),
        (f"retries: 1.0\nrules: [{LIMIT}]", ["retries: ", "valid integer", "found 1.0"]),
        (f"temperature: 0\nrules: [{LIMIT}]", ["temperature: ", "greater than 0", "found 0"]),
        (f"temperature: .inf\nrules: [{LIMIT}]", ["temperature: ", "finite", "found inf"]),
        (f"temperature: yes\nrules: [{LIMIT}]", ["temperature: ", "valid number", "found True"]),
        ("rules: [{kind: limit, words: 3}]", ["rule 1: name: Field required"]),
        ("rules: [{name: 3, kind: limit, words: 3}]", ['rule 1 "3": name: expected text, in quotes', "found 3"]),
        ("rules: [a]", ["rule 1: ", "found 'a'"]),
        ("rules: [4]", ["rule 1: ", "found 4"]),
        (one("words: 3"), ['rule 1 "x": ', "'kind'"]),
        (
            one("kind: limt, words: 3"),
            ['rule 1 "x": ', "'limt'", "'forbid', 'never_recommend', 'ground', 'truth', 'limit'"],
        ),
        (one("kind: limit"), ['rule 1 "x": words: Field required']),
        (one("kind: limit, words: true"), ["words: ", "valid integer", "found True"]),
        (one("kind: limit, words: 0"), ["words: ", "greater than or equal to 1"]),
        (one("kind: forbid, word: [a]"), ["word: Unexpected keyword argument", "found ['a']"]),
        (one("kind: forbid"), ["expected words, patterns or both"]),
        (one("kind: forbid, words: [no]"), ["words: expected text, in quotes", "found False"]),
        (one("kind: forbid, words: [' ']"), ["words: ", "at least 1 character", "found ' '"]),
        (one('kind: forbid, words: ["\\u200b"]'), ["words: holds invisible characters alone"]),
        (one("kind: forbid, patterns: ['(a']"), ["patterns: broken regular expression", "found '(a'"]),
        (one("kind: forbid, patterns: [3]"), ["patterns: expected a regular expression in quotes", "found 3"]),
        (one('kind: forbid, patterns: ["\\bgift\\b"]'), ["patterns: holds a control character", "single quotes"]),
        (one('kind: forbid, words: ["\\bgift"]'), ["words: holds a control character", "single quotes"]),
        (one("kind: forbid, patterns: ['a*']"), ["patterns: matches the empty text", "found 'a*'"]),
        (one("kind: ground"), ["expected mentions, facts or both"]),
        (one("kind: ground, facts: 0"), ["facts: ", "greater than or equal to 1"]),
        (one("kind: never_recommend"), ["items: Field required"]),
        (one("kind: never_recommend, items: [a]"), ["items: Input should be a valid dictionary", "found ['a']"]),
        (one("kind: never_recommend, items: {}"), ["items: ", "at least 1 item"]),
        (one("kind: never_recommend, items: {title: a}"), ["items: title: ", "valid list", "found 'a'"]),
        (
            one("kind: never_recommend, items: {price: ['> 50']}"),
            ["items: price: rules compare words", "found {'price': ['> 50']}"],
        ),
        (
            one("kind: never_recommend, items: {title: [a]}, when: {history: {price: [' <=5']}}"),
            ["when: history: price: rules compare words, not numbers", "found {'price': [' <=5']}"],
        ),
        (one("kind: never_recommend, items: {title: []}"), ["items: title: ", "at least 1 item"]),
        (one("kind: never_recommend, items: {title: [a]}, when: {}"), ["when: expected history, reason or both"]),
        (
            one("kind: never_recommend, items: {title: [a]}, when: {histry: {title: [a]}}"),
            ["when: histry: Unexpected keyword argument"],
        ),
        (
            one("kind: never_recommend, items: {title: [a]}, when: {reason: ''}"),
            ["when: reason: matches the empty text"],
        ),
        (f"rules: [{LIMIT}, {LIMIT}]", ['rule 2 "x": rule 1 has the same name']),
        ("rules:\n- name: x\n  kind: limit\n  words: 3\n  words: 5", ['line 5: the key "words" is repeated']),
        ("? [rules]\n: 3", ["found unhashable key"]),
    ],
)
def test_a_fault_in_a_rules_file_is_named_with_its_rule_and_what_was_expected(text, parts):
    with pytest.raises(GuardrailError) as error:
        parse(text, "shop.yaml")
    assert str(error.value).startswith("shop.yaml") and all(part in str(error.value) for part in parts), error.value


def test_all_faults_of_a_file_are_told_at_once():
    with pytest.raises(GuardrailError) as error:
        parse("rules:\n- {name: a, kind: limit}\n- {name: b, kind: ground, facts: x}", "shop.yaml")
    assert str(error.value).count("shop.yaml") == 2
    assert 'rule 1 "a": words' in str(error.value) and 'rule 2 "b": facts' in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_rules_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "shop.yaml"
    if content:
        path.write_bytes(content)
    with pytest.raises(GuardrailError, match=r"shop\.yaml: cannot be read"):
        load(path)


def test_the_file_is_named_in_its_faults(tmp_path):
    (tmp_path / "shop.yaml").write_text(one("kind: limit"), encoding="utf-8")
    with pytest.raises(GuardrailError, match=r'shop\.yaml, rule 1 "x": words'):
        load(tmp_path / "shop.yaml")


def test_rules_cannot_be_changed_after_reading_but_some_of_them_taken():
    guardrails = parse(f"retries: 7\nrules: [{LIMIT}, {{name: y, kind: ground, facts: 1}}]")
    shipped = load(SHIPPED)
    for part in (shipped, *shipped.rules, shipped.rules[2].when):
        with pytest.raises(AttributeError):
            setattr(part, dataclasses.fields(part)[0].name, "other")
    grounding = [rule for rule in guardrails.rules if rule.kind == "ground"]
    assert dataclasses.replace(guardrails, rules=grounding) == parse(
        "retries: 7\nrules: [{name: y, kind: ground, facts: 1}]"
    )
    assert dataclasses.replace(guardrails, rules=()).rules == []  # no rule of some kind is no fault


def test_a_forbidden_phrase_is_reported_before_a_pattern_and_as_written():
    (rule,) = parse(one(r"kind: forbid, words: [best price], patterns: ['\d+% off']")).rules
    assert rule.evidence("20% off, the BEST  price") == "BEST  price"
    assert rule.evidence("20% OFF") == "20% OFF" and rule.evidence("the best pricey") is None


@pytest.mark.parametrize(
    "text",
    ["best-price", "Best, price", "ｂｅｓｔ ｐｒｉｃｅ", "be\u200bst price", "best pri\u00adce", "best\ufe0f price"],
)
def test_a_forbidden_phrase_is_found_in_near_spellings(text):
    (rule,) = parse(one("kind: forbid, words: [best price]")).rules
    assert rule.evidence(f"at the {text} of all")


def test_a_forbidden_pattern_is_found_in_the_text_as_written_and_in_its_plain_form():
    (rule,) = parse(one(r"kind: forbid, patterns: ['\d+% off', '™']")).rules
    assert rule.evidence("２０％ off") == "20% off" and rule.evidence("Acme™") == "™"


def test_the_rules_about_items_are_those_that_bar_some():
    guardrails = parse(f"retries: 7\nrules: [{LIMIT}, {{name: y, kind: never_recommend, items: {{title: [a]}}}}]")
    assert guardrails.about_items() == dataclasses.replace(guardrails, rules=guardrails.rules[1:])


@pytest.mark.parametrize(
    "entry",
    [
        "kind: forbid, words: [a]",
        "kind: never_recommend, items: {title: [a]}",
        "kind: ground, facts: 1",
        "kind: limit, words: 3",
    ],
)
def test_no_kind_of_rule_takes_an_unknown_key(entry):
    with pytest.raises(GuardrailError, match='rule 1 "x": severity: Unexpected keyword argument'):
        parse(one(f"{entry}, severity: high"))


def test_a_text_is_too_long_from_one_word_more_than_the_limit():
    (rule,) = parse(one("kind: limit, words: 3")).rules
    assert rule.evidence("it doesn't fade") is None and rule.evidence("it's high-end, too") == "4 words"
