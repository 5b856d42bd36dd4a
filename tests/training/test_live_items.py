"""The item table in training: what is encoded when, and what gradient comes back from it."""

import pytest
import torch
from training.helpers import ADVANTAGES, BEST, gradients, live_items, rows_of

from r2ec_lib.model import encoding
from r2ec_lib.model.encoding import captured_states
from r2ec_lib.training.live_items import LearnedItems


@pytest.fixture
def whole_texts(monkeypatch):
    """No forward of its own for what item texts begin with, so that forwards can be counted."""
    monkeypatch.setattr(encoding, "SHARED_TOKENS", 999)


def test_targets_are_encoded_once_for_table_and_loss_and_again_after_an_update(make_trainer):
    trainer = make_trainer()
    inputs = {**rows_of(trainer), "advantages": ADVANTAGES, "best": BEST}
    trainer.items.update(trainer.model, inputs["candidates"][0], 0)
    with captured_states(trainer.r2ec.lm) as hidden:
        trainer.compute_loss(trainer.model, inputs).backward()
        assert len(hidden) == 2  # prompts and chains: the items came from the pass that wrote the table
    trainer.items.update(trainer.model, inputs["candidates"][0], 0)
    before = live_items(trainer, inputs)
    with torch.no_grad():
        next(trainer.model.parameters()).mul_(1.5)
    assert live_items(trainer, inputs) is not before
    plain = trainer.r2ec.encode([trainer.items.texts[item] for item in inputs["candidates"][0]])
    assert torch.allclose(live_items(trainer, inputs).states.float(), plain, atol=1e-5)


@pytest.mark.parametrize("candidates", [[0, 7, 29], [3], list(range(30))])
def test_a_refresh_encodes_each_item_once(make_trainer, whole_texts, candidates):
    trainer, candidates = make_trainer(), torch.tensor(candidates)
    trainer.r2ec.head.table.zero_()
    with captured_states(trainer.r2ec.lm) as hidden:
        trainer.items.update(trainer.model, candidates, 0)
        assert sum(len(states) for states in hidden) == len(trainer.items.texts)
    assert torch.allclose(trainer.r2ec.head.table, trainer.r2ec.encode(trainer.items.texts), atol=1e-5)


@pytest.mark.parametrize("item_weight", [1.0, 3.0])
def test_micro_batches_share_one_encoding_of_the_targets(make_trainer, whole_texts, item_weight):
    trainer = make_trainer(item_weight=item_weight)
    inputs = {**rows_of(trainer), "advantages": ADVANTAGES, "best": BEST}
    whole = gradients(trainer, inputs)
    trainer.current_gradient_accumulation_steps = 2
    trainer.model.zero_grad()
    with captured_states(trainer.r2ec.lm) as hidden:
        for half, last in (([0, 2], False), ([1, 3], True)):
            trainer.accelerator.gradient_state._set_sync_gradients(last)
            part = {k: v[half] if v.dim() else v for k, v in inputs.items()}
            trainer.compute_loss(trainer.model, part).backward()
    assert len(hidden) == 2 + 1 + 2
    for name, weight in trainer.model.named_parameters():
        assert torch.allclose(weight.grad, whole[name], atol=1e-5), name


def test_learned_vectors_are_wide_enough_for_small_steps(tiny):
    tiny.lm.bfloat16()
    assert LearnedItems(tiny, seed=0).vectors.dtype == torch.float32


def test_the_catalogue_is_encoded_anew_after_exactly_so_many_steps(make_trainer):
    items = make_trainer(refresh_steps=3).items
    targets = torch.tensor([4, 7])
    encoded = []
    for step in range(7):
        items.update(items.r2ec.lm, targets, step)
        encoded.append(items.refreshed_at)
    assert encoded == [0, 0, 0, 3, 3, 3, 6]


def test_a_refresh_is_not_made_twice_in_one_step(make_trainer, whole_texts):
    items = make_trainer().items
    items.refresh(5)
    with captured_states(items.r2ec.lm) as hidden:
        items.refresh(5)
        assert not hidden
        items.refresh(6)
        assert hidden


def test_other_targets_at_the_same_step_are_encoded(make_trainer):
    items = make_trainer().items
    first = items.live(items.r2ec.lm, torch.tensor([4, 7]), 0)
    assert items.live(items.r2ec.lm, torch.tensor([4, 7]), 0) is first
    other = items.live(items.r2ec.lm, torch.tensor([4, 8]), 0)
    assert torch.allclose(other.states.float(), items.r2ec.encode([items.texts[4], items.texts[8]]), atol=1e-5)
    assert items.live(items.r2ec.lm, torch.tensor([4, 8]), 1) is not other
    assert other.states.requires_grad and other.carried.dtype == torch.float64 and not other.carried.any()


def test_learned_vectors_begin_as_wide_as_encoded_ones_and_end_as_the_best_checkpoint_had_them(tiny, monkeypatch):
    """As wide as these spread about their mean, however far from zero its dimensions lie."""
    encoded = tiny.head.table = 3 * tiny.head.table + 10 * torch.arange(16)
    monkeypatch.setattr(tiny, "refresh", lambda: None)
    items = LearnedItems(tiny, seed=0)
    spread, expected = ((vectors - encoded.mean(dim=0)).std() for vectors in (items.vectors, encoded))
    assert spread.item() == pytest.approx(expected.item(), rel=0.1)
    assert (items.vectors.mean(dim=0) - encoded.mean(dim=0)).abs().max() < 5 * expected / len(encoded) ** 0.5
    last, best = items.vectors.detach().clone(), torch.ones_like(encoded)
    items.finish(None)
    assert torch.equal(tiny.head.table, last.float())
    items.finish(best)
    assert torch.equal(tiny.head.table, best) and torch.equal(items.vectors.float(), best)


def test_a_table_of_other_weights_is_encoded_anew_at_the_same_step(make_trainer):
    """The best weights of a training take the place of the last ones without a further step."""
    items = make_trainer().items
    items.refresh(4)
    kept = items.r2ec.head.table
    items.refresh(4)
    assert items.r2ec.head.table is kept
    with torch.no_grad():
        next(items.r2ec.lm.parameters()).mul_(1.5)
    items.refresh(4)
    assert torch.allclose(items.r2ec.head.table, items.r2ec.encode(items.texts), atol=1e-5)
    items.restore(kept)  # a checkpoint's table stays: it may be older than its weights
    items.refresh(4)
    assert torch.equal(items.r2ec.head.table, kept)
