"""A student answers in its teacher's item space, at once; reasons stay the teacher's."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from r2ec_lib.data.schema import DataError
from r2ec_lib.evaluation.answers import chains_of
from r2ec_lib.evaluation.baselines.networks import SASRec
from r2ec_lib.model.collaborative import ItemMap, ItemWeights
from r2ec_lib.serving import student as students
from r2ec_lib.serving.student import FastR2ec, Student
from r2ec_lib.workflow.recipes import RANGES

DAYS = {"hours": [72.0, 48.0, 2.0], "ratings": [5.0, None, 1.0]}


@pytest.fixture
def student(tiny) -> Student:
    torch.manual_seed(3)
    made = Student(16, 20, width=8, layers=2, heads=2)
    made.fit_scales(tiny.head.table.float(), tiny.head.table.float())
    tiny.head.table = tiny.head.table.float()
    return made


@pytest.fixture
def pair(tiny, student) -> FastR2ec:
    return FastR2ec(tiny, student)


@pytest.mark.parametrize("part", [1, 3])
def test_every_width_that_a_recipe_takes_can_be_shared_by_the_heads(part):
    for key in ("student_width", "hidden_size"):  # a student may have the width of its teacher
        assert Student(16, 20, width=part * RANGES[key].step, layers=1)
    assert SASRec(30, 20, width=part * RANGES["baseline_width"].step)


def test_a_history_has_the_state_that_it_has_alone_beside_longer_ones(tiny, student, samples, monkeypatch):
    together = student.states(tiny, samples)
    monkeypatch.setattr("r2ec_lib.serving.student.BATCH", 5)
    torch.testing.assert_close(student.states(tiny, samples), together)
    alone = torch.cat([student.states(tiny, samples.iloc[[row]]) for row in range(len(samples))])
    assert samples["history"].map(len).nunique() > 2
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_a_layer_is_that_of_sasrec_whose_blocks_read_what_is_normalised_before_them(tiny, student, samples):
    """x + g(LayerNorm(x)) for attention and feed-forward (1808.09781, section 3.2), here in plain tensors."""
    row = samples[samples["history"].map(len) > 2].iloc[[0]]
    ids, facts = student.inputs(row)
    vectors = (tiny.head.table[ids[0]] - student.centre) / student.spread
    places = student.items(vectors) + student.facts(facts[0]) + student.positions[: len(vectors)]
    x = torch.cat([student.query[None], places])  # (1 + T, 8)
    for layer in student.blocks.layers:
        attention, normed = layer.self_attn, layer.norm1(x)
        parts = (normed @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=1)
        query, key, value = (part.unflatten(1, (2, 4)).transpose(0, 1) for part in parts)  # (heads, 1 + T, 4)
        weights = (query @ key.transpose(1, 2) / 4**0.5).softmax(dim=2)
        x = x + attention.out_proj((weights @ value).transpose(0, 1).flatten(1))
        x = x + layer.linear2(torch.nn.functional.gelu(layer.linear1(layer.norm2(x))))
    torch.testing.assert_close(student.states(tiny, row)[0], student.out(student.blocks.norm(x)[0]))


@pytest.mark.parametrize("column", ["history", "history_hours", "history_ratings"])
def test_items_times_and_ratings_all_count(tiny, student, samples, column):
    row = samples[samples["history"].map(len) > 1].iloc[[0]]
    values = list(row[column].iloc[0])
    values[0] = {"history": (values[0] + 1) % 30, "history_hours": values[0] * 3, "history_ratings": 2.0}[column]
    changed = row.assign(**{column: [values]})
    assert (student.states(tiny, row) - student.states(tiny, changed)).abs().max() > 1e-4


def test_the_facts_of_a_purchase_are_its_age_the_gap_to_the_next_one_and_its_rating(student):
    rows = pd.DataFrame({"history": [[3, 4], [5]], "history_hours": [[30.0, 6.0], [1.0]]})
    rows["history_ratings"] = [[4.0, float("nan")], [float("nan")]]
    ids, facts = student.inputs(rows)
    assert ids.tolist() == [[3, 4], [5, students.PADDING]]
    ages = np.log1p([[30.0, 6.0], [1.0, 0.0]]) / students.LOG_HOURS
    gaps = np.log1p([[24.0, 6.0], [1.0, 0.0]]) / students.LOG_HOURS
    expected = np.stack([ages, gaps, [[0.8, 0.0], [0.0, 0.0]]], axis=2)
    torch.testing.assert_close(facts, torch.tensor(expected, dtype=torch.float32))


def test_a_saved_student_gives_the_same_states(tiny, student, samples, tmp_path):
    student.save(tmp_path / "student")
    again = Student.load(tmp_path / "student")
    assert torch.equal(again.states(tiny, samples), student.states(tiny, samples))


def test_a_folder_without_a_student_says_what_to_run(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=r"model/student holds no student .* Run 09_student\.ipynb"):
            FastR2ec.load(tmp_path / "model")
        (tmp_path / "model" / students.FOLDER).mkdir(exist_ok=True)


def test_scores_of_a_student_hold_what_its_teacher_adds_to_them(tiny, student, samples, bought_alone):
    tiny.collaborative = bought_alone(ItemWeights(torch.arange(30)[:, None].roll(1, 0), torch.full((30, 1), 5.0)))
    states = student.states(tiny, samples)
    torch.testing.assert_close(student.scores(tiny, samples), tiny.scores(states, samples["history"].to_list()))
    assert (student.scores(tiny, samples) - tiny.head.scores(states)).abs().max() > 1


def test_an_r2ec_with_its_student_is_loaded_from_one_folder(tiny, student, tmp_path):
    tiny.save(tmp_path / "model")
    student.save(tmp_path / "model" / students.FOLDER)
    loaded = FastR2ec.load(tmp_path / "model")
    assert (
        loaded.recommend(["i3", "i4", "i9"], fast=True).item_ids
        == FastR2ec(tiny, student).recommend(["i3", "i4", "i9"], fast=True).item_ids
    )


def test_a_fast_list_is_the_students_and_holds_nothing_of_the_history(pair):
    fast = pair.recommend(["i3", "i4", "i9"], 30, **DAYS, fast=True)
    rows = pair.teacher.purchases([["i3", "i4", "i9"]], [DAYS["hours"]], [DAYS["ratings"]])
    scores = pair.teacher.scores(pair.student.states(pair.teacher, rows), [[3, 4, 9]])[0]
    order = [f"i{item}" for item in scores.argsort(descending=True).tolist() if item not in (3, 4, 9)]
    assert fast.item_ids == order and len(order) == 27 and fast.reasoning == ""
    assert fast.scores == sorted(fast.scores, reverse=True)


def test_many_histories_get_the_lists_that_each_gets_alone(pair):
    many = [["i3", "i4", "i9"], ["i1"], ["i2", "i8"]]
    together = pair.recommend(many, 5, fast=True)
    assert [one.item_ids for one in together] == [pair.recommend(one, 5, fast=True).item_ids for one in many]


def test_without_fast_the_teacher_answers(pair):
    asked = {"k": 5, "max_new_tokens": 4, **DAYS}
    assert pair.recommend(["i3", "i4", "i9"], **asked) == pair.teacher.recommend(["i3", "i4", "i9"], **asked)


def test_an_item_that_came_in_later_is_read_and_recommended_without_training(pair):
    pair.teacher.add_items(pd.DataFrame({"item_id": ["new"], "title": ["pink kettle"], "brand": ["Acme"]}))
    everything = pair.recommend(["i3", "new"], 40, fast=True).item_ids
    assert len(everything) == 29 and "new" not in everything
    assert "new" in pair.recommend(["i3"], 40, fast=True).item_ids


@pytest.mark.parametrize("fault", [{"history": ["i99"]}, {"history": []}, {"k": 0}])
def test_what_the_teacher_refuses_is_refused_at_once_too(pair, fault):
    with pytest.raises(DataError):
        pair.recommend(**{"history": ["i3"], "fast": True} | fault)


def test_a_reason_tells_where_the_item_stands_with_the_text_and_without_it_and_what_each_sentence_does(
    pair, monkeypatch
):
    model = pair.teacher
    words = "the red mug. a blue lamp likes the chair. kettle."
    [chain] = chains_of(model, [words])
    monkeypatch.setattr(model, "sample", lambda prompts, longest: model.read(prompts, [chain][: longest == 9]))
    past = {"hours": [72.0, 2.0], "ratings": [5.0, 1.0]}
    why = pair.explain(["i3", "i4"], "i7", **past, max_new_tokens=9)
    assert (why.item_id, why.title, why.reasoning) == ("i7", "blue mug", words)
    rows = model.purchases([["i3", "i4"]], *([values] for values in past.values()))
    candidates = [item for item in range(30) if item not in (3, 4)]

    def log_p(text):
        chains = None if text is None else chains_of(model, [text])
        scores = model.scores(model.user_states(rows, chains), [[3, 4]])[0, candidates]
        place = candidates.index(7)
        return 1 + int((scores > scores[place]).sum()), scores.log_softmax(dim=0)[place].item()

    rank, full = log_p(words)
    assert (why.rank, why.rank_without) == (rank, log_p(None)[0])
    left = [
        "a blue lamp likes the chair. kettle.",
        "the red mug. kettle.",
        "the red mug. a blue lamp likes the chair.",
    ]
    assert why.sentences["sentence"].tolist() == ["the red mug.", "a blue lamp likes the chair.", "kettle."]
    assert why.sentences["effect"].tolist() == pytest.approx([full - log_p(text)[1] for text in left], abs=1e-4)


def test_the_parts_of_an_explanation_add_up_to_the_score_in_the_list(pair, bought_alone):
    model = pair.teacher
    asked = {**DAYS, "max_new_tokens": 4}
    alone = model.recommend(["i3", "i4", "i9"], 30, **asked)
    listed = dict(zip(alone.item_ids, alone.scores, strict=True))
    [only] = pair.explain(["i3", "i4", "i9"], "i7", **asked).parts.to_dict("records")
    assert only["part"] == "reasoning" and only["score"] == pytest.approx(listed["i7"], abs=1e-4)
    after, width = torch.arange(30)[:, None].roll(1, 0), model.head.table.shape[1]  # i9 speaks for i8, i3 for i2
    term = bought_alone(ItemWeights(after, torch.full((30, 1), 2.0), decay=0.5))
    words = ItemWeights(after.roll(1, 0), torch.ones(30, 1), decay=1.0)  # i9 for i7
    follows = ItemMap(torch.randn(width, width), torch.zeros(width), scale=3.0)
    model.collaborative = replace(term, worded=words, follows=follows)
    answer = model.recommend(["i3", "i4", "i9"], 30, **asked)
    for item, bought, worded in (("i7", 0.0, 1.0), ("i8", 2.0, 0.0), ("i2", 0.5, 1.0)):
        parts = pair.explain(["i3", "i4", "i9"], item, **asked).parts.set_index("part")
        score = answer.scores[answer.item_ids.index(item)]
        assert parts["score"].sum() == pytest.approx(score, abs=1e-4)
        assert parts["score"]["reasoning"] == pytest.approx(listed[item], abs=1e-4)
        assert parts["score"][["bought together", "shared words"]].tolist() == [bought, worded]
        assert parts["mean"]["bought together"] == pytest.approx((2.0 + 1.0 + 0.5) / 30)


def test_an_unknown_item_has_no_reason(pair):
    with pytest.raises(DataError, match=r"'i99', which is not in the catalogue"):
        pair.explain(["i3"], "i99")


def test_a_student_starts_from_the_middle_and_the_spread_of_its_teachers_vectors(student):
    """A column that never varies is no division by zero."""
    generator = torch.Generator().manual_seed(0)
    table, states = (torch.randn(50, 16, generator=generator) for _ in range(2))
    table[:, 3], weight = 2.0, student.out.weight.clone()
    student.fit_scales(table, 5 * states + 1)
    torch.testing.assert_close(student.centre, table.mean(dim=0))
    torch.testing.assert_close(student.out.bias, 5 * states.mean(dim=0) + 1)
    torch.testing.assert_close(student.out.weight, weight * 5 * states.std(dim=0)[:, None])
    ids, facts = torch.tensor([[0, 4]]), torch.zeros(1, 2, 3)
    state = student(table, ids, facts)
    scaled = student.out.weight.clone()
    student.fit_scales(3 * table + 7, 5 * states + 1)  # another middle and spread, which change nothing
    student.out.weight.data = scaled
    torch.testing.assert_close(student(3 * table + 7, ids, facts), state, rtol=1e-3, atol=1e-3)


def test_ratings_are_shares_of_the_highest_one_also_of_a_saved_student(tiny, samples, tmp_path):
    rows = pd.DataFrame({"history": [[3]], "history_hours": [[0.0]], "history_ratings": [[8.0]]})
    torch.manual_seed(0)
    made = Student(16, 20, width=8, layers=1, rating_max=10.0)
    assert made.inputs(rows)[1][0, 0, 2] == pytest.approx(0.8)
    made.save(tmp_path / "student")
    assert Student.load(tmp_path / "student").inputs(rows)[1][0, 0, 2] == pytest.approx(0.8)


def test_a_list_of_one_history_gets_a_list_of_one_answer(pair):
    [answer] = pair.recommend([["i3", "i4"]], 5, fast=True)
    assert answer.item_ids == pair.recommend(["i3", "i4"], 5, fast=True).item_ids


@pytest.mark.parametrize("end", [".", "!", "?", ";"])
def test_an_effect_is_measured_at_the_temperature_of_the_model_whatever_ends_a_sentence(pair, monkeypatch, end):
    model = pair.teacher
    model.head.temperature = 4.0
    texts = [f"the red mug{end} a blue lamp{end}", f"a blue lamp{end}", f"the red mug{end}"]
    chains = chains_of(model, texts)
    monkeypatch.setattr(model, "sample", lambda prompts, longest: model.read(prompts, chains[:1]))
    rows = model.purchases([["i3", "i4"]])
    candidates = [item for item in range(30) if item not in (3, 4)]
    scores = [model.scores(model.user_states(rows, [chain]), [[3, 4]])[0, candidates] / 4 for chain in chains]
    full, *left = (one.log_softmax(dim=0)[candidates.index(7)].item() for one in scores)
    effects = pair.explain(["i3", "i4"], "i7").sentences["effect"].tolist()
    assert effects == pytest.approx([full - one for one in left], abs=1e-4)


@pytest.mark.parametrize(
    ("file", "content"),
    [("student.safetensors", b"cut"), ("student.safetensors", None), ("student.json", b'{"dims": 3}')],
)
def test_a_broken_student_is_named(student, tmp_path, file, content):
    student.save(tmp_path / "student")
    (tmp_path / "student" / file).unlink() if content is None else (tmp_path / "student" / file).write_bytes(content)
    with pytest.raises(DataError, match="student: the student cannot be read"):
        Student.load(tmp_path / "student")


def test_an_explanation_ranks_among_what_is_recommended_however_long_the_history_is(pair):
    pair.teacher.prompts.style = replace(pair.teacher.prompts.style, max_history=1)
    first = pair.teacher.recommend(["i4"], k=1, max_new_tokens=4).item_ids[0]  # owned, in what follows, and not read
    best = pair.teacher.recommend([first, "i4"], k=1, max_new_tokens=4).item_ids[0]
    assert best != first and pair.explain([first, "i4"], best, max_new_tokens=4).rank == 1
    assert pair.explain(["i4"], best, max_new_tokens=4).rank == 2


def test_an_explanation_takes_an_id_as_a_number_and_one_history_alone(pair, items):
    pair.teacher._replace(items.assign(item_id=[str(number) for number in range(30)]), pair.teacher.head.table)
    assert pair.explain([3, 4], 7, max_new_tokens=2).item_id == "7"
    with pytest.raises(DataError, match="takes one history"):
        pair.explain([[3, 4], [5]], 7)
