"""R²ec: reading out states, closing chains, recommending, changing the catalogue."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import MambaConfig, MambaForCausalLM

from r2ec_lib.data.schema import DataError
from r2ec_lib.model import R2ec, r2ec, scoring
from r2ec_lib.model.encoding import forward_states
from r2ec_lib.model.head import RecHead
from r2ec_lib.model.prompts import Prompts, PromptStyle
from r2ec_lib.model.r2ec import ranks_of
from r2ec_lib.model.tiny import build_tiny


def test_padding_and_batching_leave_states_unchanged(tiny, samples):
    prompts = [[*ids, *tiny.prompts.answer.ids] for ids in tiny.prompts.user_ids(samples, tiny.titles)]
    alone = torch.cat([forward_states(tiny.lm, tiny.lm, [ids]) for ids in prompts])
    assert torch.allclose(tiny.encode(prompts).double(), alone, atol=1e-5)


@pytest.mark.parametrize("readout", ["last", "max", "token", "alone"])
def test_the_state_read_while_sampling_is_the_state_of_the_chain(tiny_with_token, samples, readout):
    tiny = tiny_with_token
    tiny.head.readout = readout
    found = tiny.sample(tiny.prompts.user_ids(samples, tiny.titles), 8, temperature=1.0)
    assert torch.allclose(found.states, tiny.user_states(samples, found.chains), atol=1e-4)
    turned = [tiny.tokenizer.eos_token_id]
    assert found.written == [len(chain) <= 8 and chain[-2:-1] != turned for chain in found.chains]


def test_a_reasoning_that_is_read_alone_ranks_in_the_same_way_whatever_the_history(tiny, samples):
    """Without one, `<answer>` follows the prompt and the state is that of the history, as in any model."""
    first, second = samples[samples["history"].map(len) > 1].drop_duplicates("user_id").head(2).index
    pair, chain = samples.loc[[first, second]], [40, 41, *tiny.prompts.answer.ids]
    direct, own = tiny.user_states(pair), tiny.user_states(pair, [chain] * 2)
    tiny.head.readout = "alone"
    one, other = tiny.user_states(pair, [chain] * 2)
    [bare] = tiny.prompts.tokenize([tiny.prompts.user_text([], [], [])])
    assert torch.equal(one, other) and not torch.allclose(*own, atol=1e-3)
    torch.testing.assert_close(one, tiny.encode([[*bare, *chain]])[0])
    torch.testing.assert_close(tiny.user_states(pair), direct)
    torch.testing.assert_close(tiny.sample(tiny.prompts.user_ids(pair, tiny.titles), 0).states, direct)


def test_sampling_follows_the_seed_and_greedy_needs_none(tiny, samples):
    prompts = tiny.prompts.user_ids(samples.head(6), tiny.titles)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(tiny.sample(prompts, 8, temperature=1.0).chains)
    assert draws[0] == draws[1] != draws[2]
    assert tiny.sample(prompts, 8).chains == tiny.sample(prompts, 8).chains


def test_reasonings_of_another_writer_are_closed_and_their_states_read(tiny, samples):
    prompts, asked = tiny.prompts.user_ids(samples.head(3), tiny.titles), []

    def writer(*given):
        asked.append(given)
        return [[40, 41, 2], [42, 43], []]

    tiny.writer = writer
    found = tiny.sample(prompts, 8, temperature=0.7, top_k=5)
    assert asked == [(prompts, 8, 0.7, 5)]
    assert found.chains == [[40, 41, 2], [42, 43, 2], [2]] and found.written == [True, False, False]
    assert torch.allclose(found.states, tiny.user_states(samples.head(3), found.chains), atol=1e-5)
    answers = tiny.recommend([["i1"], ["i2", "i3"], ["i4"]], max_new_tokens=8)
    assert [answer.reasoning for answer in answers] == [tiny.decode([40, 41]), tiny.decode([42, 43]), ""]
    assert tiny.sample(prompts, 0).chains == [[2]] * 3 and len(asked) == 2


def test_recommendations_are_the_best_unseen_items(tiny, samples):
    history = [tiny.head.item_ids[item] for item in samples["history"].iloc[1]]
    found = tiny.recommend(history, k=5, max_new_tokens=4)
    assert not set(found.item_ids) & set(history)
    assert found.scores == sorted(found.scores, reverse=True)
    everything = tiny.recommend(history, k=1000, max_new_tokens=4)
    assert len(everything.item_ids) == len(tiny.head.item_ids) - len(history)
    assert everything.item_ids[:5] == found.item_ids


def test_of_several_reasonings_the_probabilities_are_averaged(tiny, samples):
    """Read plainly: Σ_g exp(s_g / τ) / Σ_v exp(s_g(v) / τ), over the items that the history does not hold."""
    rows, num_items = samples.head(3), len(tiny.catalogue)
    states = torch.randn(3, 4, tiny.head.table.shape[1], generator=torch.Generator().manual_seed(0))
    histories, tau = rows["history"].to_list(), tiny.head.temperature
    mixed = tiny.scores(states, histories)
    for row, history in enumerate(histories):
        free = [item for item in range(num_items) if item not in history]
        shares = np.zeros(num_items)
        for state in states[row]:
            weights = np.exp((tiny.head.scores(state[None])[0].double() / tau).numpy())
            shares += weights / weights[free].sum() / 4
        np.testing.assert_allclose(mixed[row].numpy(), tau * np.log(shares), rtol=1e-4, atol=1e-5)
    alike = tiny.scores(states[:, :1].expand(-1, 4, -1), histories)
    one = tiny.scores(states[:, 0], histories)
    assert (alike.argsort(1) == one.argsort(1)).all()


def test_a_list_of_several_reasonings_shows_the_one_that_speaks_most_for_its_first_item(tiny, samples):
    rows = samples.head(4)
    asked = [[tiny.head.item_ids[item] for item in history] for history in rows["history"]]
    torch.manual_seed(0)
    answers = tiny.recommend(asked, k=3, reasonings=5, temperature=1.5)
    torch.manual_seed(0)
    again = tiny.recommend(asked, k=3, reasonings=5, temperature=1.5)
    assert answers == again
    torch.manual_seed(0)
    table = tiny.purchases(asked)
    prompts = [prompt for prompt in tiny.prompts.user_ids(table, tiny.titles) for _ in range(5)]
    drawn = tiny.sample(prompts, tiny.max_new_tokens, 1.5)
    states = drawn.states.unflatten(0, (4, 5))
    for row, (answer, history) in enumerate(zip(answers, table["history"], strict=True)):
        [best] = tiny.best_items(states[row : row + 1], [history], 3)
        assert (answer.item_ids, answer.titles) == best[:2] and answer.scores == pytest.approx(best[2])
        free = [item for item in range(len(tiny.catalogue)) if item not in history]
        told = (tiny.head.scores(states[row]) / tiny.head.temperature)[:, free].log_softmax(1)
        speaks = told[:, free.index(tiny.head.index[answer.item_ids[0]])].argmax()
        assert answer.reasoning == tiny.decode(drawn.chains[5 * row + int(speaks)])
    assert tiny.recommend(asked, k=3, reasonings=1) == tiny.recommend(asked, k=3)
    with pytest.raises(DataError, match="reasonings is 0"):
        tiny.recommend(asked, reasonings=0)


def test_many_histories_get_the_answers_that_each_gets_alone(tiny, samples):
    histories = [[tiny.head.item_ids[item] for item in history] for history in samples["history"].head(7)]
    together = tiny.recommend(histories, k=5, max_new_tokens=6)
    assert len({len(history) for history in histories}) > 1  # so there is padding
    for history, answer in zip(histories, together, strict=True):
        alone = tiny.recommend(history, k=5, max_new_tokens=6)
        assert (answer.item_ids, answer.titles, answer.reasoning) == (alone.item_ids, alone.titles, alone.reasoning)
        assert answer.scores == pytest.approx(alone.scores, abs=1e-5)


def test_a_table_of_interactions_is_the_histories_of_its_shoppers(tiny):
    times = pd.to_datetime(["2024-01-03", "2024-01-01", "2024-01-02", "2024-01-03"], utc=True)
    rows = {"user_id": ["b", "a", "a", "a"], "item_id": ["i5", "i1", "i2", "i3"], "timestamp": times.as_unit("ms")}
    table = pd.DataFrame({**rows, "rating": [None, 5, None, 1]})
    hours, ratings = [[0], [48, 24, 0]], [[None], [5, None, 1]]
    assert tiny.recommend(table, k=5, max_new_tokens=6) == tiny.recommend(
        [["i5"], ["i1", "i2", "i3"]], 5, hours, ratings, max_new_tokens=6
    )
    with pytest.raises(DataError, match="leave out hours"):
        tiny.recommend(table, hours=hours)


def test_without_tokens_to_write_the_answer_follows_the_prompt(tiny, samples):
    rows = samples.head(3)
    histories = [[tiny.head.item_ids[item] for item in history] for history in rows["history"]]
    answers = tiny.recommend(histories, 3, rows["history_hours"], rows["history_ratings"], max_new_tokens=0)
    scores = tiny.scores(tiny.user_states(rows), rows["history"].to_list())
    for answer, row, history in zip(answers, scores, rows["history"], strict=True):
        row[history] = -torch.inf
        assert answer.reasoning == "" and answer.scores == pytest.approx(row.topk(3).values.tolist(), abs=1e-5)


def test_of_items_with_equal_scores_the_first_of_the_catalogue_is_recommended(tiny):
    tiny.head.table[:] = 0
    assert tiny.recommend(["i1"], k=3, max_new_tokens=2).item_ids == ["i0", "i2", "i3"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"history": []}, "history 1 is empty"),
        ({"history": ["nope"]}, "'nope'.*add_items"),
        ({"history": "i1"}, "found 'i1'"),
        ({"history": ["i1", "i2"], "hours": [3.0]}, "1 values for 2 purchases"),
        ({"history": ["i1"], "hours": [float("nan")]}, "hours of history 1"),
        ({"history": ["i1"], "ratings": [9]}, "expected 1…5"),
        ({"history": ["i1"], "k": 0}, "k is 0"),
        ({"history": ["i1"], "k": "10"}, "k is '10'"),
        ({"history": ["i1"], "max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"history": ["i1"], "latest": 2}, "latest: found 2; expected one number per history"),
        ({"history": [["i1"], ["i2"]], "latest": [1]}, "latest: 1 numbers for 2 histories"),
        ({"history": [["i1"], ["i2"]], "latest": [1, "2"]}, "latest is '2'"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(tiny, given, message):
    with pytest.raises(DataError, match=message):
        tiny.recommend(**given)


@pytest.mark.parametrize("ids", [[17, 4], [17.0, 4.0], np.array([17, 4]), pd.Series([17, 4]), ("17", "4")])
def test_ids_may_be_numbers_in_any_kind_of_list(tiny, items, ids):
    named = items.assign(item_id=[str(number) for number in range(len(items))])
    model = R2ec(tiny.lm, tiny.prompts, named)
    model.refresh()
    expected = model.recommend(["17", "4"], k=3, max_new_tokens=4)
    assert model.recommend(ids, k=3, max_new_tokens=4) == expected
    model.remove_items(ids)
    assert len(model.titles) == 28


def test_a_model_keeps_the_scale_and_the_length_of_its_histories(tiny, tmp_path):
    style = replace(tiny.prompts.style, rating_min=0.0, rating_max=10.0, max_history=2)
    R2ec(tiny.lm, Prompts(tiny.tokenizer, style), tiny.catalogue, tiny.head).save(tmp_path / "model")
    model = R2ec.load(tmp_path / "model")
    rows = model.purchases([["i1", "i2", "i3"]], ratings=[[0, 9.5, None]])
    assert rows["history"][0].tolist() == [model.head.index["i2"], model.head.index["i3"]]
    with pytest.raises(DataError, match="expected 0…10"):
        model.recommend(["i1"], ratings=[11])


def test_a_purchase_older_than_the_history_read_is_not_recommended_again(tiny):
    free = tiny.recommend(["i1", "i2"], k=30, hours=[5, 3], max_new_tokens=4)
    older = free.item_ids[0]
    given = {"k": 30, "hours": [[9, 5, 3]], "max_new_tokens": 4}
    [whole] = tiny.recommend([[older, "i1", "i2"]], **given)
    [fewer] = tiny.recommend([[older, "i1", "i2"]], **given, latest=[2])
    tiny.prompts.style = replace(tiny.prompts.style, max_history=2)
    for cut in ([fewer], tiny.recommend([[older, "i1", "i2"]], **given, latest=[3])):
        assert cut[0].item_ids == free.item_ids[1:] and cut[0].scores == pytest.approx(free.scores[1:], abs=1e-5)
    assert whole.scores != pytest.approx(fewer.scores, abs=1e-5)
    with pytest.raises(DataError, match="latest is 0"):
        tiny.recommend([["i1"]], latest=[0])


def test_added_items_are_read_as_the_first_ones_were(tiny):
    rows = {"item_id": [99], "title": ["<b>gold</b> harp"], "brand": [47], "price": [3.5], "average_rating": [4.1]}
    tiny.add_items(pd.DataFrame(rows))
    card = tiny.prompts.item_text(tiny.catalogue.iloc[-1].to_dict())
    assert "title: gold harp" in card and "brand: 47" in card
    assert "price" not in card and "rating" not in card
    for wrong in ({"item_id": ["x"], "title": [""]}, {"item_id": ["x", "x"], "title": ["a", "b"]}, {"title": ["a"]}):
        before = tiny.head.item_ids.copy()
        with pytest.raises(DataError):
            tiny.add_items(pd.DataFrame(wrong))
        assert tiny.head.item_ids == before


def test_an_added_item_has_the_vector_that_a_refresh_would_give_it_whatever_the_order_of_its_columns(tiny, items):
    wide = items.assign(brand="Acme", colour="red")
    model = R2ec(tiny.lm, tiny.prompts, wide)
    model.refresh()
    again = wide[["colour", "title", "brand", "item_id"]].tail(2)
    model.add_items(again)
    added = model.head.table[-2:].clone()
    model.refresh()
    assert torch.allclose(added, model.head.table[-2:], atol=1e-5)


def test_added_items_have_the_columns_of_the_catalogue_and_keep_the_texts_that_are_not_given(tiny, items):
    model = R2ec(tiny.lm, tiny.prompts, items.assign(colour="red"))
    model.refresh()
    rows = {"colour": ["", "pink"], "weight": ["1 kg", "2 kg"], "title": ["gold flute", "gold harp"]}
    model.add_items(pd.DataFrame({**rows, "item_id": ["i3", "new"]}))
    expected = {"item_id": ["i3", "new"], "title": ["gold flute", "gold harp"]}
    expected |= {"brand": ["Globex", ""], "colour": ["", "pink"]}
    assert model.catalogue.tail(2).to_dict("list") == expected
    assert list(model.catalogue) == ["item_id", "title", "brand", "colour"]
    assert model.catalogue.head(3).equals(items.assign(colour="red").head(3))
    added = model.head.table[-2:].clone()
    model.refresh()
    assert torch.allclose(added, model.head.table[-2:], atol=1e-5)


def test_no_list_is_made_of_scores_that_are_not_numbers(tiny, samples, monkeypatch):
    states, histories = tiny.user_states(samples.head(6)), samples["history"].head(6).to_list()
    monkeypatch.setattr(r2ec, "BLOCK", 1)
    monkeypatch.setattr(r2ec, "FEW", 4)  # two blocks
    barred = torch.zeros(6, len(tiny.catalogue), dtype=torch.bool)
    broken = states.clone()
    broken[4] = float("nan")
    for bar in (None, barred):
        assert len(tiny.best_items(states, histories, 3, bar)) == 6
        with pytest.raises(DataError, match="history 5: its scores are NaN"):
            tiny.best_items(broken, histories, 3, bar)
    tiny.head.table[7] = float("nan")
    with pytest.raises(DataError, match="history 1: its scores are NaN"):
        tiny.recommend(["i1"], max_new_tokens=0)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_an_item_without_a_vector_of_numbers_is_not_added(tiny, items, monkeypatch, wrong):
    vectors = torch.zeros(2, 16)
    vectors[1, 3] = wrong
    monkeypatch.setattr(tiny, "encode_items", lambda _: vectors)
    with pytest.raises(DataError, match="1 of 2 items, such as 'i3', have vectors that are NaN or infinite"):
        tiny.add_items(pd.DataFrame({"item_id": ["new", "i3"], "title": ["gold harp", "gold flute"]}))
    assert tiny.head.item_ids == items["item_id"].tolist() and tiny.catalogue.equals(items)


def test_items_come_and_go_without_training(tiny, items):
    before = tiny.head.table.clone()
    tiny.add_items(pd.DataFrame({"item_id": ["new", "i3"], "title": ["gold harp", "gold flute"]}))
    assert tiny.head.item_ids[-2:] == ["new", "i3"] and len(tiny.head.item_ids) == len(items) + 1
    assert torch.equal(tiny.head.table[:3], before[:3])
    assert not torch.equal(tiny.head.table[tiny.head.index["i3"]], before[3])
    tiny.remove_items(["new", "i0"])
    assert "i0" not in tiny.head.index and len(tiny.catalogue) == len(items) - 1
    for wrong, message in (
        (["i0"], "'i0', which is not in"),
        ("i1", "found 'i1'"),
        (tiny.head.item_ids, "leaves none"),
    ):
        with pytest.raises(DataError, match=message):
            tiny.remove_items(wrong)


def test_lists_and_ranks_are_the_same_however_few_scores_are_held_at_a_time(tiny, samples, monkeypatch):
    states, histories = tiny.user_states(samples), samples["history"].to_list()
    lists, ranks = tiny.best_items(states, histories, 5), ranks_of(tiny, samples, states)
    for module in (scoring, r2ec):
        monkeypatch.setattr(module, "SCORES_HELD", 3 * len(tiny.catalogue))
    monkeypatch.setattr(r2ec, "BLOCK", 1)
    assert len(scoring.row_blocks(len(samples), len(tiny.catalogue))) == -(-len(samples) // 3)
    assert torch.equal(ranks_of(tiny, samples, states), ranks)
    for one, other in zip(tiny.best_items(states, histories, 5), lists, strict=True):
        assert one[:2] == other[:2] and one[2] == pytest.approx(other[2])


@pytest.mark.parametrize("barred", [None, torch.zeros(0, 30, dtype=torch.bool)])
def test_no_rows_have_no_lists(tiny, barred):
    assert tiny.best_items(torch.empty(0, 16), [], 5, barred) == []


def test_the_table_and_the_catalogue_must_agree(tiny, items):
    with pytest.raises(ValueError, match="same item ids"):
        R2ec(tiny.lm, tiny.prompts, items.iloc[::-1], tiny.head)


def test_ranks_mask_the_history(tiny, samples):
    scores = tiny.head.scores(tiny.user_states(samples))
    ranks = ranks_of(tiny, samples, tiny.user_states(samples))
    for row, (history, target) in enumerate(zip(samples["history"], samples["target"], strict=True)):
        others = [s for v, s in enumerate(scores[row].tolist()) if v not in set(history) and v != target]
        assert ranks[row] == 1 + sum(s > scores[row, target] for s in others)


def test_a_token_of_its_own_speaks_for_users_and_items_and_is_never_written(tiny_with_token, samples, items, tmp_path):
    model, read = tiny_with_token, tiny_with_token.prompts.recommend_id
    rows = [[*ids, read] for ids in model.prompts.item_ids(items)]
    assert torch.allclose(model.head.table.double(), forward_states(model.lm, model.lm, rows), atol=1e-5)
    with torch.no_grad():
        model.lm.get_input_embeddings().weight[read] *= 50  # tied: it would be the likeliest token by far
    found = model.sample(model.prompts.user_ids(samples, model.titles), 6, temperature=1.0)
    assert not any(read in chain for chain in found.chains)
    model.save(tmp_path / "model")
    again = R2ec.load(tmp_path / "model")
    assert (again.head.readout, again.read_id) == ("token", read)
    assert torch.allclose(again.user_states(samples, found.chains), found.states, atol=1e-4)


def test_a_read_out_by_a_token_that_the_tokenizer_lacks_is_refused(tiny, items):
    head = RecHead(tiny.head.item_ids, tiny.head.table, readout="token")
    with pytest.raises(ValueError, match="add_recommend_token"):
        R2ec(tiny.lm, tiny.prompts, items, head)


def test_texts_beyond_the_positions_of_the_model_are_refused(tokenizer, items, samples):
    lm = build_tiny(tokenizer, hidden_size=16, num_layers=1, num_heads=2, max_positions=120)
    further = [f"text{n}" for n in range(9)]
    model = R2ec(lm, Prompts(tokenizer, PromptStyle(instruct=False)), items.assign(**dict.fromkeys(further, "")))
    model.refresh()
    prompts = model.prompts.user_ids(samples.head(4), model.titles)
    room = 120 - max(map(len, prompts)) - 1
    assert len(model.sample(prompts, room).chains) == 4
    with pytest.raises(DataError, match=r"121 tokens, reasoning included, exceeds the 120 positions"):
        model.sample(prompts, room + 1)
    with pytest.raises(DataError, match="max_item_tokens"):
        model.add_items(
            pd.DataFrame({"item_id": ["long"], "title": ["x " * 20], **dict.fromkeys(further, "mug " * 20)})
        )


def test_the_token_that_is_read_behind_a_reasoning_takes_a_position_too(tiny_with_token, samples):
    model = tiny_with_token
    prompts = model.prompts.user_ids(samples.head(4), model.titles)
    longest = max(map(len, prompts)) + 3 + 1 + 1  # the reasoning, `<answer>` and the token
    model.lm.config.max_position_embeddings = longest
    assert len(model.sample(prompts, 3).chains) == 4
    with pytest.raises(DataError, match=f"{longest + 1} tokens, reasoning included, exceeds"):
        model.sample(prompts, 4)
    chains = [[5, 6, 7, 8, *model.prompts.answer.ids]] * 4
    with pytest.raises(DataError, match=f"{longest + 1} tokens, reasoning included, exceeds"):
        model.user_states(samples.head(4), chains)


def test_sampling_defaults_that_a_checkpoint_brings_along_are_not_followed(tiny, samples):
    """Instruct checkpoints come with a repetition penalty or a top_p, which would change what is trained and asked."""
    prompts = tiny.prompts.user_ids(samples.head(6), tiny.titles)
    greedy = tiny.sample(prompts, 12).chains
    torch.manual_seed(0)
    drawn = tiny.sample(prompts, 12, temperature=1.0).chains
    defaults = {"do_sample": True, "repetition_penalty": 3.0, "top_p": 0.1, "top_k": 1, "temperature": 0.2}
    tiny.lm.generation_config.update(**defaults)
    assert tiny.sample(prompts, 12).chains == greedy
    torch.manual_seed(0)
    assert tiny.sample(prompts, 12, temperature=1.0).chains == drawn


@pytest.mark.parametrize("name", ["colour", "item_id"])
def test_a_column_that_the_items_lack_is_named_and_so_are_ids_which_no_prompt_shows(tiny, items, name):
    prompts = Prompts(tiny.tokenizer, PromptStyle(item_columns=["title", name]))
    with pytest.raises(DataError, match=f"'{name}', but the items have: title, brand"):
        R2ec(tiny.lm, prompts, items)


@pytest.mark.parametrize("adapted", [False, True])
def test_a_model_that_keeps_no_keys_and_values_of_its_prompt_is_refused(tiny, items, adapted):
    lm = MambaForCausalLM(MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=400, state_size=4))
    lm = get_peft_model(lm, LoraConfig(target_modules=["x_proj"], task_type="CAUSAL_LM")) if adapted else lm
    with pytest.raises(DataError, match="MambaForCausalLM takes no past_key_values"):
        R2ec(lm, tiny.prompts, items)


def test_a_wrapper_that_hands_on_all_that_it_is_given_is_no_such_model(tiny, items, monkeypatch):
    forward = tiny.lm.forward
    monkeypatch.setattr(tiny.lm, "forward", lambda *args, **kwargs: forward(*args, **kwargs))
    assert R2ec(tiny.lm, tiny.prompts, items, tiny.head).recommend(["i1"], max_new_tokens=2).item_ids


def test_a_model_writes_as_much_as_it_was_trained_to_where_no_length_is_asked_for(tiny, tmp_path):
    tiny.max_new_tokens = 3
    tiny.save(tmp_path / "model")
    model = R2ec.load(tmp_path / "model", device="cpu")
    assert model.max_new_tokens == 3
    assert (
        model.recommend(["i1"])
        == model.recommend(["i1"], max_new_tokens=3)
        != model.recommend(["i1"], max_new_tokens=0)
    )
    model.max_new_tokens = 0
    assert model.recommend(["i1"]).reasoning == ""
    with pytest.raises(DataError, match="max_new_tokens"):
        model.recommend(["i1"], max_new_tokens=-1)


def test_learned_vectors_are_neither_encoded_anew_nor_joined_by_encoded_ones(tiny, tmp_path):
    tiny.head.learned = True
    tiny.save(tmp_path / "model")
    model = R2ec.load(tmp_path / "model", device="cpu")
    with pytest.raises(DataError, match="learned one by one"):
        model.add_items(pd.DataFrame({"item_id": ["new"], "title": ["gold harp"]}))
    with pytest.raises(DataError, match="learned one by one"):
        model.refresh()
    model.remove_items(["i0"])
    assert model.head.learned and "i0" not in model.head.index
