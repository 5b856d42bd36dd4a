"""Which optimiser moves which weights, and what one step leaves behind."""

import pytest
import torch

from r2ec_lib.model.muon import stepper


@pytest.mark.parametrize("matrix_rate", [0.02, 0.0])
def test_muon_moves_matrices_that_are_no_tables_and_adamw_all_else(monkeypatch, matrix_rate):
    moved = {"Muon": [], "AdamW": []}
    for name in moved:
        made = getattr(torch.optim, name)
        monkeypatch.setattr(
            torch.optim,
            name,
            lambda weights, made=made, name=name, **how: moved[name].extend(map(id, weights)) or made(weights, **how),
        )
    table, layer, frozen = torch.nn.Embedding(3, 2), torch.nn.Linear(2, 4), torch.nn.Linear(2, 4).requires_grad_(False)
    module = torch.nn.Sequential(table, layer, frozen)
    step, before = stepper(module, 10, 0, 0.1, matrix_rate), [weight.clone() for weight in module.parameters()]
    assert moved["Muon"] == ([id(layer.weight)] if matrix_rate else [])
    assert sorted(moved["AdamW"] + moved["Muon"]) == sorted(map(id, (table.weight, layer.weight, layer.bias)))
    sum(100 * weight.sum() for weight in (table.weight, layer.weight, layer.bias)).backward()
    step()
    changed = [not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True)]
    assert changed == [True, True, True, False, False] and layer.weight.grad is None


def test_a_module_that_learns_in_matrices_alone_needs_no_adamw():
    """As a model with adapters does."""
    layer = torch.nn.Linear(2, 4, bias=False)
    step, before = stepper(layer, 10, 0, 0.1), layer.weight.clone()
    layer.weight.square().sum().backward()
    step()
    assert not torch.equal(layer.weight, before)
