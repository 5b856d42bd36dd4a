"""The collaborative term against plain readings of its formulas, and its life beside a catalogue that changes."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from r2ec_lib.data.purchases import actions
from r2ec_lib.data.schema import DataError
from r2ec_lib.model import R2ec
from r2ec_lib.model import collaborative as module
from r2ec_lib.model.collaborative import Collaborative, ItemMap, ItemWeights, item_weights

BASKETS = [[0, 1], [0, 1, 2], [1, 2], [3, 4], [3, 4, 0], [2, 0, 1]]


def test_weights_are_the_least_squares_fit_of_each_item_by_the_others(samples_of):
    matrix = np.array([[float(item in basket) for item in range(6)] for basket in BASKETS])
    train = samples_of({f"u{number}": basket for number, basket in enumerate(BASKETS)})
    items, weights = item_weights(actions(train), 6, penalty=0.7)
    for target in range(6):
        others = [item for item in range(6) if item != target]
        gram = matrix[:, others].T @ matrix[:, others] + 0.7 * np.eye(5)
        fit = np.linalg.solve(gram, matrix[:, others].T @ matrix[:, target])
        expected = {item: value for item, value in zip(others, fit, strict=True) if value > 1e-6}
        pairs = [(row, weights[row][items[row] == target].sum().item()) for row in range(6)]
        assert {row: value for row, value in pairs if value > 1e-6} == pytest.approx(expected, rel=1e-4)


def test_an_item_that_nobody_bought_neither_speaks_nor_is_spoken_for(samples_of):
    items, weights = item_weights(actions(samples_of({"a": [0, 1, 2], "b": [1, 2]})), 5, penalty=1.0)
    term = ItemWeights(items, weights)
    assert not weights[3:].any()
    assert not term.scores([[0, 1]])[0, 3:].any() and not term.scores([[3, 4]]).any()


def test_the_rarest_items_are_left_out_where_a_catalogue_is_too_large(samples_of, monkeypatch):
    train = samples_of({"a": [1, 3, 2], "b": [1, 3], "c": [1, 3, 0]})
    monkeypatch.setattr(module, "MOST", 2)
    few = ItemWeights(*item_weights(actions(train), 4, penalty=1.0)).scores([[1], [2]])
    assert few[0].nonzero().flatten().tolist() == [3] and not few[1].any()


def test_the_heaviest_weights_of_an_item_are_kept(samples_of, monkeypatch):
    train = samples_of({f"u{number}": basket for number, basket in enumerate(BASKETS)})
    items, weights = item_weights(actions(train), 6, penalty=0.7)
    monkeypatch.setattr(module, "KEPT", 2)
    fewer, lighter = item_weights(actions(train), 6, penalty=0.7)
    assert torch.equal(fewer, items[:, :2]) and torch.equal(lighter, weights[:, :2])


def test_a_history_is_read_with_its_latest_purchase_first():
    items = torch.tensor([[1, 2], [3, 0], [0, 0], [0, 0]])
    term = ItemWeights(items, torch.tensor([[0.5, 0.25], [1.0, 0], [0, 0], [0, 0]]), decay=0.5, scale=10.0)
    scores = term.scores([[0, 1], [1, 0], [0, 2, 0]])
    assert scores[0].tolist() == pytest.approx([0, 10 * 0.5 * 0.5, 10 * 0.5 * 0.25, 10 * 1.0])
    assert scores[1].tolist() == pytest.approx([0, 10 * 0.5, 10 * 0.25, 10 * 0.5])
    assert scores[2].tolist() == pytest.approx([0, 10 * 0.5 * 1.25, 10 * 0.25 * 1.25, 0])


def random_weights(rows: int, generator: torch.Generator, *numbers: float) -> ItemWeights:
    items = torch.stack([torch.randperm(rows, generator=generator)[:4] for _ in range(rows)])
    return ItemWeights(items, torch.rand(rows, 4, generator=generator), *numbers)


def with_term(model: R2ec) -> R2ec:
    generator = torch.Generator().manual_seed(1)
    rows, width = model.head.table.shape
    follows = ItemMap(
        torch.randn(width, width, generator=generator), torch.randn(width, generator=generator), 0.6, 2.0
    )
    parts = random_weights(rows, generator, 0.8, 3.0), random_weights(rows, generator, 0.7, 0.4)
    model.collaborative = Collaborative(*parts, follows)
    return model


def test_a_map_reads_directions_from_the_centre_with_the_latest_purchase_first():
    """A plain reading of the formula, item by item."""
    generator = torch.Generator().manual_seed(0)
    table, centre = torch.randn(6, 4, generator=generator), torch.randn(4, generator=generator)
    matrix, histories = torch.randn(4, 4, generator=generator), [[0, 3], [5], [1, 2, 1]]
    scores = ItemMap(matrix, centre, decay=0.5, scale=3.0).scores(histories, table)

    def unit(vector: np.ndarray) -> np.ndarray:
        return vector / np.sqrt((vector**2).sum())

    directions = [unit(row - centre.numpy()) for row in table.numpy()]
    for row, history in zip(scores, histories, strict=True):
        read = unit(sum(0.5**back * directions[item] for back, item in enumerate(reversed(history))))
        expected = [3.0 * read @ matrix.numpy() @ direction for direction in directions]
        assert row.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert ItemMap(matrix, centre).scores([], table).shape == (0, 6)


def test_a_model_adds_the_term_to_its_scores_and_keeps_it_on_disk(tiny, samples, tmp_path):
    tiny.refresh()
    states, histories = tiny.user_states(samples), samples["history"].to_list()
    alone = tiny.scores(states, histories)
    both = with_term(tiny).scores(states, histories)
    term = tiny.collaborative
    counted = term.bought.scores(histories) + term.worded.scores(histories)
    follows = term.follows.scores(histories, tiny.head.table)
    assert min(part.abs().max() for part in (counted, follows)) > 0.1
    torch.testing.assert_close(both, alone + counted + follows, atol=1e-4, rtol=1e-5)
    tiny.save(tmp_path / "model")
    torch.testing.assert_close(R2ec.load(tmp_path / "model").scores(states, histories), both)
    tiny.collaborative = None
    tiny.save(tmp_path / "model")
    assert R2ec.load(tmp_path / "model").collaborative is None


def test_a_saved_term_of_which_a_part_is_missing_is_told(tiny, tmp_path):
    with_term(tiny).save(tmp_path / "model")
    file = tmp_path / "model" / "collaborative.safetensors"
    tensors = load_file(file)
    del tensors["follows.centre"]
    save_file(tensors, file)
    with pytest.raises(DataError, match=r"follows\.centre.*Copy or save it again"):
        R2ec.load(tmp_path / "model")


def test_the_term_follows_its_items_when_the_catalogue_changes(tiny, samples):
    tiny.refresh()
    term = with_term(tiny).collaborative
    expected = dict(zip(tiny.head.item_ids, term.scores([[0, 7]], tiny.head.table)[0].tolist(), strict=True))
    counted = dict(zip(tiny.head.item_ids, term.bought.scores([[0, 7]])[0].tolist(), strict=True))
    kept = [name for row, name in enumerate(tiny.head.item_ids) if row not in (2, 3)]
    tiny.remove_items([tiny.head.item_ids[2], tiny.head.item_ids[3]])
    tiny.add_items(pd.DataFrame({"item_id": ["new", "i9"], "title": ["white kettle", "renamed lamp"]}))
    index = tiny.head.index
    term = tiny.collaborative
    history = [[index["i0"], index["i7"]]]
    after, still = term.scores(history, tiny.head.table)[0], term.bought.scores(history)[0]
    assert [still[index[name]].item() for name in kept] == pytest.approx([counted[name] for name in kept])
    same = [name for name in kept if name != "i9"]  # whose text, and so whose vector, is another
    assert [after[index[name]].item() for name in same] == pytest.approx([expected[name] for name in same], rel=1e-4)
    for part in (term.bought, term.worded):
        assert part.scores([[0]])[0, index["new"]] == 0 and not part.scores([[index["new"]]]).any()
    assert after[index["new"]] != 0 and term.scores([[index["new"]]], tiny.head.table).all()  # found by its vector


def test_an_item_with_another_text_shares_no_words_and_is_bought_with_what_it_was(tiny):
    before = with_term(tiny).collaborative
    same = tiny.catalogue[tiny.catalogue["item_id"] == "i4"]
    other = tiny.catalogue[tiny.catalogue["item_id"] == "i9"].assign(title="renamed lamp")
    histories = [[row] for row in range(len(tiny.catalogue))]
    tiny.add_items(pd.concat([same, other]).assign(colour=["", "red"]))  # to the end of the catalogue
    order = [row for row in range(len(histories)) if row not in (4, 9)] + [4, 9]
    expected = before.bought.scores(histories)[order][:, order]
    assert before.worded.scores(histories)[9].any() and before.worded.scores(histories)[:, 9].any()
    torch.testing.assert_close(tiny.collaborative.bought.scores(histories), expected)
    expected = before.worded.scores(histories)[order][:, order]
    expected[-1] = expected[:, -1] = 0
    torch.testing.assert_close(tiny.collaborative.worded.scores(histories), expected)


def test_what_a_shopper_buys_again_counts_once(samples_of):
    once, again = samples_of({"a": [0, 1], "b": [1, 2]}), samples_of({"a": [0, 1, 0, 1], "b": [1, 2]})
    for first, second in zip(
        item_weights(actions(once), 3, penalty=1.0), item_weights(actions(again), 3, penalty=1.0), strict=True
    ):
        torch.testing.assert_close(first, second)
