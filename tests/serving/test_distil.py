"""Distillation: which histories count, what the losses are, and that students come to answer as the teacher does."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from r2ec_lib.model import R2ec
from r2ec_lib.serving import distil
from r2ec_lib.serving.student import Student

START = pd.Timestamp("2024-01-01", tz="UTC")


def purchases(rows: list[tuple[str, int, float]]) -> pd.DataFrame:
    """From (user, item, hours since the start)."""
    users, items, hours = zip(*rows, strict=True)
    times = START + pd.to_timedelta(hours, unit="h")
    ratings = [float(item % 5) for item in items]
    return pd.DataFrame({"user_id": users, "item": items, "timestamp": times, "rating": ratings})


LOG = [("b", 9, 1), ("a", 1, 2), ("a", 2, 2), ("a", 3, 10), ("b", 8, 11), ("a", 4, 30), ("c", 5, 50)]


def test_each_history_stands_as_it_was_when_its_shopper_came_back_and_the_last_as_at_the_end():
    found = distil.histories(purchases(LOG), max_history=3)
    rows = [(row.user_id, row.history.tolist(), row.history_hours.tolist()) for row in found.itertuples()]
    assert rows == [
        ("a", [1, 2], [8, 8]),  # one order of two items is no history of one
        ("a", [1, 2, 3], [28, 28, 20]),
        ("a", [2, 3, 4], [48, 40, 20]),  # the latest three
        ("b", [9], [10]),
        ("b", [9, 8], [49, 39]),
        ("c", [5], [0]),
    ]
    assert found["history_ratings"][1].tolist() == [1, 2, 3]


def test_no_more_histories_are_kept_than_asked_for_the_same_for_a_seed():
    few = [distil.histories(purchases(LOG), 3, at_most=4, seed=seed)["history"].map(tuple).tolist() for seed in (1, 1)]
    assert few[0] == few[1] and len(set(few[0])) == 4
    assert [len(distil.histories(purchases(LOG), 3, at_most=most)) for most in (5, 6, 40)] == [5, 6, 6]


@pytest.fixture
def states(samples) -> torch.Tensor:
    return torch.randn(len(samples), 16, generator=torch.Generator().manual_seed(0))


def test_the_soft_loss_is_the_cross_entropy_of_both_softmaxes_outside_the_history(tiny, samples, states):
    tiny.head.temperature, tiny.head.table = 2.0, tiny.head.table.float()
    rows = np.array([5, 2])
    other = states.flip(0)
    total = 0.0
    for place, row in enumerate(rows):
        left = [item for item in range(30) if item not in samples["history"][row]]
        p, q = ((one @ tiny.head.table[left].T / 2).softmax(dim=0).tolist() for one in (states[row], other[place]))
        total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True))
    loss = distil.soft_targets(tiny, samples, states)
    assert loss(other[:2], rows).item() == pytest.approx(total / 2, rel=1e-5)
    assert loss(states[rows], rows) < loss(states[rows] + 0.1, rows) and loss(states[rows], rows) < loss(
        other[:2], rows
    )


def test_the_label_loss_is_the_surprise_at_the_next_purchase(tiny, samples, states):
    tiny.head.temperature, tiny.head.table = 2.0, tiny.head.table.float()
    row, target = 3, int(samples["target"][3])
    left = [item for item in range(30) if item not in samples["history"][row]]
    expected = -(states[row] @ tiny.head.table[left].T / 2).log_softmax(dim=0)[left.index(target)]
    found = distil.next_purchase(tiny, samples)(states[[row]], np.array([row]))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_items_of_the_history_are_candidates_where_they_are_not_masked(tiny, samples, states):
    again = samples.assign(target=samples["history"].str[0])
    logits = states[[3]] @ tiny.head.table.float().T / tiny.head.temperature
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(again["target"][[3]].to_numpy(int)))
    found = distil.next_purchase(tiny, again, mask_seen=False)(states[[3]], np.array([3]))
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    other = states.flip(0)[[3]]
    whole = (other @ tiny.head.table.float().T / tiny.head.temperature).log_softmax(dim=1)
    soft = distil.soft_targets(tiny, again, states, mask_seen=False)(other, np.array([3]))
    assert soft.item() == pytest.approx(-(logits.softmax(dim=1) * whole).sum().item(), rel=1e-4)


@pytest.fixture
def folder(tiny, tmp_path):
    """A saved teacher."""
    tiny.lm.float()
    tiny.head.table, tiny.head.temperature = tiny.head.table.float(), 4.0
    tiny.save(tmp_path / "model")
    return tmp_path / "model"


def top(model, states, rows) -> np.ndarray:
    return model.scores(states, rows["history"].to_list()).argmax(dim=1).numpy()


def test_the_teacher_answers_after_its_reasoning(folder, samples):
    teacher = R2ec.load(folder)
    chains = teacher.sample(teacher.prompts.user_ids(samples, teacher.titles), 4).chains
    assert max(map(len, chains)) > 1
    expected = teacher.user_states(samples, chains).numpy()
    np.testing.assert_allclose(distil.teach(folder, samples, 4), expected, atol=1e-4)


def test_a_student_comes_to_recommend_what_the_teacher_does_without_a_label(folder, samples, tmp_path):
    teacher, rows = R2ec.load(folder), samples.head(24)
    # what this teacher writes hardly depends on the history; a shopper's last item stands for its answer
    targets = 3 * teacher.head.table[[history[-1] for history in rows["history"]]].numpy()
    wanted = top(teacher, torch.tensor(targets), rows)
    how = {"epochs": 60, "batch_size": 6, "learning_rate": 1e-2, "layers": 1, "valid": rows.assign(target=wanted)}
    log = distil.fit_student(folder, tmp_path / "a", rows.drop(columns="target"), targets, **how)
    student = Student.load(tmp_path / "a")
    assert (top(teacher, student.states(teacher, rows), rows) == wanted).mean() > 0.5
    assert log["loss"].iloc[-1] < log["loss"].iloc[0] and len(log) == 60
    assert student.sizes["layers"] == 1 and student.sizes["width"] == 16


def test_equal_seeds_give_equal_students_and_others_do_not(folder, samples, tmp_path):
    targets = np.random.default_rng(0).normal(size=(48, 16)).astype(np.float32)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        distil.fit_student(folder, tmp_path / name, samples, targets, samples.head(8), epochs=1, layers=1, seed=seed)
    a, b, c = (Student.load(tmp_path / name).state_dict() for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["items.weight"], c["items.weight"])


def test_what_remains_is_the_epoch_with_the_best_validation(folder, samples, tmp_path):
    how = {"epochs": 6, "batch_size": 16, "learning_rate": 3e-2, "layers": 1}
    log = distil.fit_student(folder, tmp_path / "a", samples.head(24), None, samples.tail(24), **how)
    teacher, valid = R2ec.load(folder), samples.tail(24)
    left = distil.ndcg(distil.ranks_of(teacher, valid, Student.load(tmp_path / "a").states(teacher, valid)), 10)
    assert left.mean().item() == pytest.approx(log["valid_ndcg@10"].max(), abs=1e-6)


def test_labels_alone_teach_a_student_too(folder, samples, tmp_path):
    few = samples.head(12)
    how = {"epochs": 40, "batch_size": 12, "learning_rate": 1e-2, "layers": 1}
    log = distil.fit_student(folder, tmp_path / "a", few, None, few, **how)
    assert log["valid_ndcg@10"].max() > log["valid_ndcg@10"].iloc[0] + 0.1


@pytest.mark.parametrize("matrix_rate", [0.0, 0.01])
def test_the_backbone_learns_to_answer_at_once_and_keeps_its_items(folder, samples, tmp_path, matrix_rate):
    teacher = R2ec.load(folder)
    targets = 2 * teacher.head.table[samples["target"].tolist()].numpy()
    how = {"epochs": 6, "batch_size": 8, "learning_rate": 1e-2, "matrix_rate": matrix_rate}
    log = distil.fit_backbone(folder, tmp_path / "end", samples, targets, samples.head(8), **how)
    trained = R2ec.load(tmp_path / "end")
    loss = distil.soft_targets(teacher, samples, torch.tensor(targets))
    before, after = (loss(model.user_states(samples), np.arange(48)) for model in (teacher, trained))
    assert after < before and log["loss"].iloc[-1] < log["loss"].iloc[0]
    assert torch.equal(trained.head.table, teacher.head.table)


@pytest.fixture
def taught(monkeypatch):
    """What `fit_student` hands to `descend`, which then trains nothing."""
    given = {}

    def noting(module, states, loss, lengths, ranks, **how):
        given.update(module=module, states=states, loss=loss, lengths=lengths, ranks=ranks, how=how)
        return pd.DataFrame()

    monkeypatch.setattr(distil, "descend", noting)
    return given


def test_a_student_is_trained_on_the_states_that_it_gives_later_and_on_the_scale_of_its_teacher(
    tiny, folder, samples, tmp_path, taught
):
    tiny.prompts.style = replace(tiny.prompts.style, rating_max=10.0)
    tiny.save(folder)
    teacher, targets = R2ec.load(folder), np.random.default_rng(0).normal(size=(48, 16)).astype(np.float32)
    distil.fit_student(folder, tmp_path / "a", samples, targets, samples.head(8), width=8, layers=1, epochs=3)
    student, rows = Student.load(tmp_path / "a"), np.array([5, 2, 30, 11])
    assert samples["history"].iloc[rows].map(len).nunique() > 1
    expected = student.states(teacher, samples.iloc[rows])
    torch.testing.assert_close(taught["states"](rows), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(student.centre, teacher.head.table.mean(dim=0))
    torch.testing.assert_close(student.out.bias, torch.tensor(targets.mean(axis=0)))
    assert student.sizes["width"] == 8 and student.sizes["rating_max"] == 10 and taught["how"]["epochs"] == 3
    assert taught["lengths"].tolist() == samples["history"].map(len).tolist()
    assert len(taught["ranks"]()) == 8
    distil.fit_backbone(folder, tmp_path / "b", samples, targets, samples.head(5))
    assert len(taught["ranks"]()) == 5  # of validation


def test_each_loss_reads_the_rows_that_are_asked_for(tiny, samples, states):
    tiny.head.table = tiny.head.table.float()
    other = states.flip(0)
    for loss in (distil.soft_targets(tiny, samples, states), distil.next_purchase(tiny, samples)):
        together = loss(other[:4], np.array([9, 3, 40, 7])).item()
        alone = [loss(other[[place]], np.array([row])).item() for place, row in enumerate((9, 3, 40, 7))]
        assert together == pytest.approx(np.mean(alone), rel=1e-5) and len(set(alone)) == 4


class Table(torch.nn.Module):
    """An embedding, a matrix and a vector, whose gradients are 1."""

    def __init__(self):
        super().__init__()
        self.table, self.matrix = torch.nn.Embedding(3, 2), torch.nn.Linear(2, 4)

    def forward(self, rows):
        return sum(weight.sum() for weight in self.parameters()) * torch.ones(len(rows), 1)


def test_rates_rise_and_fall_over_all_epochs_and_gradients_are_those_of_their_own_batch(monkeypatch):
    rates, gradients, moved, module = [], [], [], Table()
    step, clip, muon = torch.optim.AdamW.step, torch.nn.utils.clip_grad_norm_, torch.optim.Muon

    def clipped(weights, most):
        gradients.append({float(part) for weight in weights for part in weight.grad.flatten()})
        return clip(weights, most)

    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    monkeypatch.setattr(torch.optim, "Muon", lambda weights, **how: moved.extend(weights) or muon(weights, **how))
    signs = iter([1.0, -1.0] * 20)
    values = []

    def loss(states, rows):
        values.append(states.mean() * next(signs))
        return values[-1]

    lengths, ranks = np.full(9, 3), lambda: torch.tensor([1.0])
    log = distil.descend(module, module, loss, lengths, ranks, epochs=10, batch_size=5, learning_rate=0.8)
    assert [id(weight) for weight in moved] == [id(module.matrix.weight)]
    assert gradients == [{1.0}, {-1.0}] * 10 and log["epoch"].tolist() == list(range(1, 11))
    pairs = zip(values[::2], values[1::2], strict=True)
    assert log["loss"].tolist() == pytest.approx([(first + second).item() / 2 for first, second in pairs])
    rise = [0.0, 0.4]
    fall = [0.4 * (1 + math.cos(math.pi * place / 18)) for place in range(18)]
    assert rates == pytest.approx(rise + fall)
