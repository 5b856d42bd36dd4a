"""GRU4Rec, Caser and SASRec against second implementations that share nothing but the weights.

GRU4Rec is computed gate by gate in NumPy, Caser window by window with plain loops, and SASRec's one causal pass is
compared with a pass over each prefix on its own and with attention written out in NumPy.
"""

import math

import numpy as np
import pytest
import torch

from r2ec_lib.evaluation.baselines.networks import Caser, GRU4Rec, SASRec, pad

ITEMS, WIDTH, LENGTH = 12, 8, 7


def network(build, **sizes):
    torch.manual_seed(3)
    made = build(ITEMS, LENGTH, width=WIDTH, **sizes).double().eval()
    for weight in made.parameters():  # normalisation away from its neutral start
        torch.nn.init.normal_(weight, std=0.4)
    return made


def weights(module):
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def layer_norm(x, scale, shift):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + shift


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


HISTORY = [3, 11, 0, 3, 7, 5]


def test_gru4rec_is_the_gated_unit_written_out():
    made = network(GRU4Rec)
    w, state, found = weights(made), np.zeros(WIDTH), []
    for item in HISTORY:
        inner = w["gru.weight_ih_l0"] @ w["items.weight"][item] + w["gru.bias_ih_l0"]
        carried = w["gru.weight_hh_l0"] @ state + w["gru.bias_hh_l0"]
        (r_in, z_in, n_in), (r_old, z_old, n_old) = np.split(inner, 3), np.split(carried, 3)
        reset, update = sigmoid(r_in + r_old), sigmoid(z_in + z_old)
        state = (1 - update) * np.tanh(n_in + reset * n_old) + update * state
        found.append(layer_norm(w["out.weight"] @ state + w["out.bias"], w["norm.weight"], w["norm.bias"]))
    np.testing.assert_allclose(made(torch.tensor([HISTORY]))[0].detach().numpy(), found, rtol=1e-9, atol=1e-12)


def test_caser_is_its_windows_one_by_one():
    made = network(Caser, window=3, filters=2)
    w = weights(made)
    table = w["items.weight"]
    for position in range(len(HISTORY)):
        window = np.zeros((3, WIDTH))
        seen = HISTORY[max(0, position - 2) : position + 1]
        window[3 - len(seen) :] = table[seen]
        parts = []
        for height in (1, 2, 3):
            kernel, bias = w[f"horizontal.{height - 1}.weight"], w[f"horizontal.{height - 1}.bias"]  # (F, d, height)
            for number in range(2):
                slides = [
                    sum(kernel[number, :, row] @ window[top + row] for row in range(height)) + bias[number]
                    for top in range(3 - height + 1)
                ]
                parts.append(max(0.0, *slides))
        for number in range(4):  # vertical filters weigh the rows of the window
            parts += list(w["vertical.weight"][number] @ window + w["vertical.bias"][number])
        expected = layer_norm(w["out.weight"] @ np.array(parts) + w["out.bias"], w["norm.weight"], w["norm.bias"])
        found = made(torch.tensor([HISTORY]))[0, position].detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_sasrec_is_attention_written_out():
    made = network(SASRec, layers=2, heads=2)
    w = weights(made)
    x = math.sqrt(WIDTH) * (w["items.weight"][HISTORY] + w["positions"][: len(HISTORY)])  # (T, d)
    size = WIDTH // 2
    for layer in range(2):
        own = {name.removeprefix(f"blocks.layers.{layer}."): value for name, value in w.items()}
        y = layer_norm(x, own["norm1.weight"], own["norm1.bias"])
        q, k, v = np.split(y @ own["self_attn.in_proj_weight"].T + own["self_attn.in_proj_bias"], 3, axis=1)
        heads = []
        for head in range(2):
            part = slice(head * size, (head + 1) * size)
            scores = q[:, part] @ k[:, part].T / math.sqrt(size)
            scores = np.where(np.tril(np.ones_like(scores)), scores, -np.inf)
            shares = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(shares / shares.sum(1, keepdims=True) @ v[:, part])
        x = x + np.hstack(heads) @ own["self_attn.out_proj.weight"].T + own["self_attn.out_proj.bias"]
        y = layer_norm(x, own["norm2.weight"], own["norm2.bias"]) @ own["linear1.weight"].T + own["linear1.bias"]
        bell = np.array([[0.5 * (1 + math.erf(value / math.sqrt(2))) for value in row] for row in y])
        x = x + (y * bell) @ own["linear2.weight"].T + own["linear2.bias"]
    expected = layer_norm(x, w["norm.weight"], w["norm.bias"])
    np.testing.assert_allclose(made(torch.tensor([HISTORY]))[0].detach().numpy(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("build", [GRU4Rec, Caser, SASRec])
def test_one_causal_pass_gives_the_state_of_every_prefix_passed_alone(build):
    made = network(build)
    together = made(torch.tensor([HISTORY]))[0]
    alone = [made(torch.tensor([HISTORY[: end + 1]]))[0, -1] for end in range(len(HISTORY))]
    torch.testing.assert_close(together, torch.stack(alone))


def test_rows_are_filled_on_the_right():
    assert pad([[1, 2, 3], [4]], 9).tolist() == [[1, 2, 3], [4, 9, 9]]
